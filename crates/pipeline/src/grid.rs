//! A regular grid of event time: values are gathered into cells, and cells close in order.
//!
//! A cell closes when the newest event time is past its end by the lateness; what comes for it later is refused.
//! Stands before an instance's rows, for time windows only.

use std::collections::BTreeMap;

use dunlin_model_package::model_spec::ResampleMethod;
use serde::{Deserialize, Serialize};

use crate::compiled_model::Grid;
use crate::instance::{Outcome, Share};
use crate::reading::TimedBy;
use crate::refusal::Reason;
use crate::series::is_set_back;

/// Most cells open at once: beyond it the oldest close early, however large the lateness.
const OPEN_CELLS_MAX: usize = 4_096;

/// The open cells of one instance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct GridState {
    open: BTreeMap<i64, Cell>,
    /// Cell that closes next.
    next: Option<i64>,
    newest_us: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Cell {
    fields: Vec<Gathered>,
    timed_by: TimedBy,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Gathered {
    count: u32,
    sum: f64,
    last: f64,
    last_us: i64,
    min: f64,
    max: f64,
}

/// A cell that has closed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClosedCell<'c> {
    /// Its end, which is the time of its row.
    pub(crate) end_us: i64,
    /// One value a field; NaN where none fell into the cell.
    pub(crate) values: &'c [f64],
    /// Where the event times came from.
    pub(crate) timed_by: TimedBy,
}

impl GridState {
    /// Takes a reading's share and hands every cell that it closes to `close`, in order.
    pub(crate) fn take(
        &mut self,
        grid: Grid,
        fields: usize,
        lateness_us: i64,
        share: Share<'_>,
        outcome: &mut Outcome,
        mut close: impl FnMut(ClosedCell<'_>, &mut Outcome),
    ) {
        let mut index = share.event_us.div_euclid(grid.cell_us);
        if self.next.is_none() {
            self.newest_us = share.event_us;
        }
        let start = *self.next.get_or_insert(index);
        if index < start {
            if share.timed_by == TimedBy::Payload {
                outcome.refused.push(Reason::Late);
                return;
            }
            if is_set_back(start.saturating_mul(grid.cell_us), share.event_us) {
                // The gateway's clock was set back: what is open belongs to another time.
                *self = Self { open: BTreeMap::new(), next: Some(index), newest_us: share.event_us };
            } else {
                index = start;
            }
        }
        if index.saturating_sub(start) > grid.silence_cells_max {
            self.close_through(i64::MAX, grid, fields, outcome, &mut close);
            self.next = Some(index);
        }
        let cell = self
            .open
            .entry(index)
            .or_insert_with(|| Cell { fields: vec![Gathered::default(); fields], timed_by: share.timed_by });
        for (from, to) in share.fields {
            cell.fields[*to].add(share.values[*from], share.event_us);
        }
        self.newest_us = self.newest_us.max(share.event_us);
        let settled = self.newest_us.saturating_sub(lateness_us).div_euclid(grid.cell_us);
        let crowded = self
            .open
            .len()
            .checked_sub(OPEN_CELLS_MAX)
            .and_then(|surplus| self.open.keys().nth(surplus).copied());
        self.close_through(settled.max(crowded.unwrap_or(i64::MIN)), grid, fields, outcome, &mut close);
    }

    /// Closes all cells before `end`; at most up to the newest open one.
    fn close_through(
        &mut self,
        end: i64,
        grid: Grid,
        fields: usize,
        outcome: &mut Outcome,
        close: &mut impl FnMut(ClosedCell<'_>, &mut Outcome),
    ) {
        let Some(mut next) = self.next else { return };
        let newest_open = self.open.keys().next_back().map_or(next, |index| index.saturating_add(1));
        while next < end.min(newest_open) {
            let cell = self.open.remove(&next);
            let timed_by = cell.as_ref().map_or(TimedBy::Payload, |cell| cell.timed_by);
            let values: Vec<f64> = match &cell {
                Some(cell) => cell.fields.iter().map(|gathered| gathered.value(grid.method)).collect(),
                None => vec![f64::NAN; fields],
            };
            next = next.saturating_add(1);
            close(
                ClosedCell { end_us: next.saturating_mul(grid.cell_us), values: &values, timed_by },
                outcome,
            );
        }
        self.next = Some(next);
    }
}

impl Gathered {
    fn add(&mut self, value: f64, at_us: i64) {
        if value.is_nan() {
            return;
        }
        if self.count == 0 {
            *self = Self { count: 1, sum: value, last: value, last_us: at_us, min: value, max: value };
            return;
        }
        self.count = self.count.saturating_add(1);
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        if at_us >= self.last_us {
            (self.last, self.last_us) = (value, at_us);
        }
    }

    fn value(&self, method: ResampleMethod) -> f64 {
        match method {
            _ if self.count == 0 => f64::NAN,
            ResampleMethod::Mean => self.sum / f64::from(self.count),
            ResampleMethod::Last => self.last,
            ResampleMethod::Min => self.min,
            ResampleMethod::Max => self.max,
        }
    }
}
