//! Predictions in columns.
//!
//! Values of all rows stand one after the other; a prediction that is not valid has none. Never holds a value that is
//! not finite.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::column::{Deltas, Indexes};
use super::instance::Instance;
use super::{Columns, Stream, require_lengths, require_within};
use crate::limits::{INSTANCES_MAX, ROWS_MAX, VALUES_MAX};
use crate::list::{List, TooMany};
use crate::text::{Name, Words};

/// Quality flags of a prediction, bits of [`Predictions::flags`]. Others may follow.
pub mod quality {
    /// A value was held from an earlier reading.
    pub const HELD_VALUE: u32 = 1;
    /// A value is a constant that stands in for a missing one, or NaN.
    pub const SUBSTITUTED_VALUE: u32 = 1 << 1;
    /// A feature lies outside the range seen in training.
    pub const OUT_OF_TRAINING_RANGE: u32 = 1 << 2;
    /// An event time came from the arrival of the message.
    pub const ARRIVAL_TIME: u32 = 1 << 3;
    /// The model abstained.
    pub const ABSTAINED: u32 = 1 << 4;
    /// An output was not finite or not of the declared shape: no valid prediction.
    pub const INVALID_OUTPUT: u32 = 1 << 5;
    /// The model could not be run: no valid prediction.
    pub const INFERENCE_FAILED: u32 = 1 << 6;
    /// The package ran beside the one that serves.
    pub const SHADOW: u32 = 1 << 7;
    /// The sensor of an input was faulty, or its value a jump that nothing explained yet.
    pub const FAULTY_INPUT: u32 = 1 << 8;

    /// Tells whether a prediction with these flags has values.
    #[must_use]
    pub const fn is_valid(flags: u32) -> bool {
        flags & (INVALID_OUTPUT | INFERENCE_FAILED) == 0
    }
}

/// Predictions in columns. *Shape*: all columns but `outputs` have one element a row.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Predictions {
    /// Whose predictions they are.
    pub instances: List<Instance, INSTANCES_MAX>,
    /// Positions in `instances`.
    pub instance: Indexes,
    /// Event time of the window's last row, in microseconds since 1970. The first, then differences.
    pub window_end_us: Deltas,
    /// Quality flags, see [`quality`].
    pub flags: List<u32, ROWS_MAX>,
    /// Positions in the instance's labels; null where there is none.
    pub label: List<Option<u32>, ROWS_MAX>,
    /// Values of the outputs, row after row; none for a row that is not valid.
    pub outputs: List<f32, VALUES_MAX>,
}

/// One prediction of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PredictionRow<'a> {
    /// Position of its instance.
    pub instance: u32,
    /// Event time of the window's last row, in microseconds since 1970.
    pub window_end_us: i64,
    /// Quality flags.
    pub flags: u32,
    /// Position in the instance's labels.
    pub label: Option<u32>,
    /// Values of the outputs; empty where the prediction is not valid.
    pub outputs: &'a [f32],
}

impl Predictions {
    /// Adds an instance; returns its position.
    ///
    /// *Errors*: there are [`INSTANCES_MAX`] already: begin another batch.
    pub fn add_instance(&mut self, instance: Instance) -> Result<u32, TooMany> {
        self.instances.push(instance)?;
        Ok(self.instances.len() as u32 - 1)
    }

    /// Adds a prediction. Whether it fits its instance is checked when the batch is made.
    ///
    /// *Errors*: the batch is full, and unchanged: begin another.
    pub fn push(&mut self, row: &PredictionRow<'_>) -> Result<(), TooMany> {
        if self.instance.len() >= ROWS_MAX {
            return Err(TooMany(ROWS_MAX));
        }
        if self.outputs.len() + row.outputs.len() > VALUES_MAX {
            return Err(TooMany(VALUES_MAX));
        }
        row.outputs.iter().try_for_each(|value| self.outputs.push(*value))?;
        self.instance.push(row.instance)?;
        self.window_end_us.push(row.window_end_us);
        self.flags.push(row.flags)?;
        self.label.push(row.label)
    }

    /// Returns the rows in order; of columns that are sound.
    pub fn iter(&self) -> impl Iterator<Item = PredictionRow<'_>> {
        let mut start = 0;
        (0..self.instance.len()).map_while(move |row| {
            let (instance, flags) = (*self.instance.get(row)?, *self.flags.get(row)?);
            let end = start + self.values_of(instance, flags)?;
            let outputs = self.outputs.get(start..end)?;
            start = end;
            let (window_end_us, label) = (*self.window_end_us.get(row)?, *self.label.get(row)?);
            Some(PredictionRow { instance, window_end_us, flags, label, outputs })
        })
    }

    fn values_of(&self, instance: u32, flags: u32) -> Option<usize> {
        let instance = self.instances.get(instance as usize)?;
        Some(if quality::is_valid(flags) { instance.values() } else { 0 })
    }

    /// Returns the label of a row, where it has one.
    #[must_use]
    pub fn label_of(&self, row: &PredictionRow<'_>) -> Option<&Name> {
        self.instances.get(row.instance as usize)?.labels.get(row.label? as usize)
    }
}

impl Columns for Predictions {
    const STREAM: Stream = Stream::Predictions;

    fn rows(&self) -> usize {
        self.instance.len()
    }

    fn require_sound(&self) -> Result<(), Words> {
        let columns = [
            ("window_end_us", self.window_end_us.len()),
            ("flags", self.flags.len()),
            ("label", self.label.len()),
        ];
        require_lengths(self.rows(), &columns)?;
        require_within("instance", self.instance.iter().copied(), self.instances.len())?;
        self.instances.iter().try_for_each(Instance::require_sound)?;
        let mut values = 0_usize;
        for (row, (instance, flags)) in self.instance.iter().zip(&self.flags).enumerate() {
            values = values.saturating_add(self.values_of(*instance, *flags).unwrap_or_default());
            if let Some(label) = self.label[row] {
                let labels = self.instances[*instance as usize].labels.len();
                require_within("label", [label], labels)?;
            }
        }
        if values != self.outputs.len() {
            let words = format!("`outputs` has {} values where the rows have {values}", self.outputs.len());
            return Err(Words::cut(&words));
        }
        // A number that is too large for 32 bits is read as infinite.
        if self.outputs.iter().any(|value| !value.is_finite()) {
            return Err(Words::cut("`outputs` holds a value that is not finite"));
        }
        Ok(())
    }
}
