//! The ring of the last rows of one instance: when it is full and due, it is a window for the model.
//!
//! Knows rows of numbers alone; neither times nor fields. Stands between rows and ready windows.

use dunlin_model_package::manifest::Layout;
use serde::{Deserialize, Serialize};

/// Most values of the windows that one reading may bring after a silence: 16 MB.
const CATCH_UP_VALUES_MAX: usize = 4 * 1024 * 1024;

/// The last rows of an instance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Row-major ring; empty until the first row.
    rows: Vec<f32>,
    /// Row that is written next.
    next: u32,
    /// Rows in the ring.
    filled: u32,
    /// Rows until the window is due.
    due_in: u32,
}

/// How large a window is and how often it is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowShape {
    /// Rows.
    pub length: u32,
    /// Values of a row.
    pub columns: u32,
    /// Rows between two windows.
    pub hop: u32,
}

impl WindowShape {
    /// Returns how many values a window holds.
    #[must_use]
    pub const fn values(self) -> usize {
        (self.length as usize).saturating_mul(self.columns as usize)
    }

    /// Returns how many windows one reading may bring after a silence.
    #[must_use]
    pub(crate) fn catch_up_max(self) -> i64 {
        i64::try_from(CATCH_UP_VALUES_MAX / self.values().max(1)).unwrap_or(i64::MAX).max(1)
    }
}

/// The part of a row that belongs to one model input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputColumns {
    /// Columns of the row.
    pub columns: std::ops::Range<usize>,
    /// Order of the axes in the tensor.
    pub layout: Layout,
}

/// Whether a window is due after a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// The model is to be run on the window.
    Now,
    /// More rows are needed.
    Later,
}

impl Window {
    /// Forgets all rows: the next window needs `length` new ones.
    pub fn restart(&mut self) {
        self.filled = 0;
        self.next = 0;
    }

    /// Tells whether the window holds no rows.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Adds a row of `shape.columns` values and tells whether the window is due.
    pub fn push(&mut self, shape: WindowShape, row: &[f32]) -> Due {
        let columns = shape.columns as usize;
        if self.rows.is_empty() {
            self.rows = vec![0.0; shape.length as usize * columns];
        }
        if self.filled == 0 {
            self.due_in = shape.length;
        }
        let start = self.next as usize * columns;
        self.rows[start..start + columns].copy_from_slice(row);
        self.next = (self.next + 1) % shape.length;
        self.filled = (self.filled + 1).min(shape.length);
        self.due_in -= 1;
        if self.due_in > 0 {
            return Due::Later;
        }
        self.due_in = shape.hop;
        Due::Now
    }

    /// Tells whether the ring is full.
    #[must_use]
    pub const fn is_full(&self, shape: WindowShape) -> bool {
        self.filled == shape.length
    }

    /// Returns the rows, the newest first.
    pub(crate) fn newest_first(&self, shape: WindowShape) -> impl Iterator<Item = &[f32]> {
        let (length, columns) = (shape.length, shape.columns as usize);
        (0..self.filled).map(move |age| {
            let row = (self.next + 2 * length - 1 - age) % length;
            &self.rows[row as usize * columns..][..columns]
        })
    }

    /// Returns the rows as the model takes them: the inputs one after the other, each in its layout.
    #[must_use]
    pub fn values(&self, shape: WindowShape, inputs: &[InputColumns]) -> Vec<f32> {
        let (length, columns) = (shape.length as usize, shape.columns as usize);
        let mut values = Vec::with_capacity(length * columns);
        let oldest = self.next as usize;
        let row_starts = move || (0..length).map(move |i| (oldest + i) % length * columns);
        for input in inputs {
            match input.layout {
                Layout::TimeFeature => {
                    for start in row_starts() {
                        values.extend_from_slice(
                            &self.rows[start + input.columns.start..start + input.columns.end],
                        );
                    }
                }
                Layout::FeatureTime => {
                    for column in input.columns.clone() {
                        values.extend(row_starts().map(|start| self.rows[start + column]));
                    }
                }
            }
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn windows_hold_the_last_rows_every_hop(length in 1..6_u32, hop in 1..5_u32, rows in 0..40_u32, columns in 1..4_u32) {
            let shape = WindowShape { length, columns, hop };
            let input = InputColumns { columns: 0..columns as usize, layout: Layout::TimeFeature };
            let mut window = Window::default();
            for n in 0..rows {
                let row: Vec<f32> = (0..columns).map(|c| (n * 10 + c) as f32).collect();
                let due = window.push(shape, &row);
                let expected = n + 1 >= length && (n + 1 - length) % hop == 0;
                prop_assert_eq!(due == Due::Now, expected);
                if expected {
                    let values = window.values(shape, std::slice::from_ref(&input));
                    let first = n + 1 - length;
                    let all: Vec<f32> = (first..=n).flat_map(|r| (0..columns).map(move |c| (r * 10 + c) as f32)).collect();
                    prop_assert_eq!(values, all);
                }
            }
        }
    }

    #[test]
    fn channels_first_is_the_transpose_and_inputs_are_apart() {
        let shape = WindowShape { length: 2, columns: 3, hop: 1 };
        let mut window = Window::default();
        window.push(shape, &[1.0, 2.0, 3.0]);
        window.push(shape, &[4.0, 5.0, 6.0]);
        let inputs = [
            InputColumns { columns: 0..2, layout: Layout::FeatureTime },
            InputColumns { columns: 2..3, layout: Layout::TimeFeature },
        ];
        assert_eq!(window.values(shape, &inputs), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
