//! One model on one series key: joins the latest values of its fields into rows, and rows into windows.
//!
//! Pure state, saved and restored as a whole. Knows event times only. Stands between ordered readings and the
//! windows that are ready for the model.

use std::collections::VecDeque;

use dunlin_model_package::{Aggregate, MissingPolicy};
use serde::{Deserialize, Serialize};

use crate::compiled_model::{CompiledModel, Trigger};
use crate::grid::GridState;
use crate::history::History;
use crate::postprocess::PostState;
use crate::prediction::QualityFlags;
use crate::reading::TimedBy;
use crate::refusal::Reason;
use crate::series::{arrival_after, is_set_back};
use crate::window::{Due, Window};

/// Most rows that one reading may trigger by `trigger.every`: after a longer silence the window restarts anyway.
const CATCH_UP_ROWS_MAX: i64 = 1_000;

/// The state of an instance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Instance {
    fields: Vec<FieldState>,
    window: Window,
    grid: Option<Box<GridState>>,
    /// Event time of the last accepted row.
    last_row_us: Option<i64>,
    /// Flags of the rows in the window, each with the rows that it stays for; no flag is there twice.
    flagged: Vec<(u32, QualityFlags)>,
    /// State of the post-processing.
    pub(crate) post: PostState,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct FieldState {
    /// The latest value, which may be missing.
    current: f64,
    current_us: i64,
    /// Whether it came after the last row.
    fresh: bool,
    /// Whether its time is that of its arrival.
    by_arrival: bool,
    /// The latest value that was not missing.
    known: f64,
    known_us: i64,
    history: Option<Box<History>>,
    /// Values of the last rows, for lags.
    #[expect(clippy::box_collection, reason = "lags are rare, and 24 bytes a field of every series add up")]
    rows: Option<Box<VecDeque<f64>>>,
}

impl Default for FieldState {
    fn default() -> Self {
        Self {
            current: f64::NAN,
            current_us: i64::MIN,
            fresh: false,
            by_arrival: false,
            known: f64::NAN,
            known_us: i64::MIN,
            history: None,
            rows: None,
        }
    }
}

/// The part of a reading that one instance takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share<'r> {
    /// Event time.
    pub(crate) event_us: i64,
    /// Where it came from.
    pub(crate) timed_by: TimedBy,
    /// The reading's values.
    pub(crate) values: &'r [f64],
    /// Pairs of positions: the reading's value, the model's field.
    pub(crate) fields: &'r [(usize, usize)],
}

/// What a reading led to in one instance.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// Windows that are due: end, flags and values.
    pub(crate) windows: Vec<(i64, QualityFlags, Vec<f32>)>,
    /// Rows that were not made.
    pub(crate) refused: Vec<Reason>,
    /// Values that further windows may have.
    pub(crate) values_left: usize,
    /// What is said of the reading: it stays with each row that it makes, as long as that is in the window.
    pub(crate) row_flags: QualityFlags,
    /// Windows that were due and had more: their rows are taken all the same, so that the next ones are whole.
    pub(crate) windows_left_out: usize,
}

/// What stands in a row for a field, and what that says of its quality.
struct Substitute {
    value: f64,
    flags: QualityFlags,
}

impl Instance {
    /// Takes the share of a reading; readings of one series come in order of event time.
    pub(crate) fn take(&mut self, model: &CompiledModel, share: Share<'_>, outcome: &mut Outcome) {
        if self.fields.is_empty() {
            self.fields = vec![FieldState::default(); model.fields.len()];
        }
        if let Some(grid) = model.grid {
            let mut state = self.grid.take().unwrap_or_default();
            state.take(grid, model.fields.len(), model.lateness_us, share, outcome, |cell, outcome| {
                self.take_cell(model, cell, outcome)
            });
            self.grid = Some(state);
            return;
        }
        if let Trigger::Every(interval_us) = model.trigger {
            self.follow_clock(share);
            self.rows_until(model, share.event_us, interval_us, outcome);
        }
        self.store_values(model, share);
        match model.trigger {
            Trigger::On(field) if self.brings(share, field) => {
                self.row(model, share.event_us, share.timed_by, outcome)
            }
            Trigger::All => self.row_when_all(model, share.timed_by, outcome),
            Trigger::On(_) | Trigger::Every(_) => {}
        }
    }

    fn store_values(&mut self, model: &CompiledModel, share: Share<'_>) {
        for (from, to) in share.fields {
            let (state, field) = (&mut self.fields[*to], &model.fields[*to]);
            let value = share.values[*from];
            state.current = value;
            state.current_us = share.event_us;
            state.by_arrival = share.timed_by == TimedBy::Arrival;
            state.fresh = true;
            if value.is_nan() {
                continue;
            }
            state.known = value;
            state.known_us = share.event_us;
            if field.span_us > 0 {
                state.history.get_or_insert_default().push(share.event_us, value, field.span_us);
            }
        }
    }

    fn brings(&self, share: Share<'_>, field: usize) -> bool {
        share.fields.iter().any(|(from, to)| *to == field && !share.values[*from].is_nan())
    }

    /// Makes a row once every field of the trigger is new: the plain ones, or all where none is plain.
    fn row_when_all(&mut self, model: &CompiledModel, timed_by: TimedBy, outcome: &mut Outcome) {
        let any_plain = model.fields.iter().any(|field| field.plain);
        let mut waited_for = self
            .fields
            .iter()
            .zip(&model.fields)
            .filter(|(_, field)| field.plain || !any_plain)
            .map(|(state, _)| state);
        if !waited_for.clone().all(|state| state.fresh) {
            return;
        }
        let first = waited_for.clone().map(|state| state.current_us).min().unwrap_or(0);
        let last = waited_for.by_ref().map(|state| state.current_us).max().unwrap_or(0);
        if last.saturating_sub(first) > model.skew_max_us {
            outcome.refused.push(Reason::Skew);
            return;
        }
        self.row(model, last, timed_by, outcome);
    }

    /// Starts anew where the gateway's clock was set back: rows would wait until it is where it was.
    fn follow_clock(&mut self, share: Share<'_>) {
        let set_back = self.last_row_us.is_some_and(|last| is_set_back(last, share.event_us));
        if !set_back || share.timed_by == TimedBy::Payload {
            return;
        }
        self.restart();
        self.last_row_us = None;
        for field in &mut self.fields {
            field.current_us = field.current_us.min(share.event_us);
            field.known_us = field.known_us.min(share.event_us);
        }
    }

    fn rows_until(&mut self, model: &CompiledModel, before_us: i64, interval_us: i64, outcome: &mut Outcome) {
        let newest = self.fields.iter().map(|field| field.current_us).max().unwrap_or(i64::MIN);
        if newest == i64::MIN {
            return;
        }
        let after =
            self.last_row_us.map_or(newest.saturating_sub(1), |row| row.max(newest.saturating_sub(1)));
        let first = after.div_euclid(interval_us).saturating_add(1).saturating_mul(interval_us);
        let rows = (before_us.saturating_sub(1))
            .saturating_sub(first)
            .div_euclid(interval_us)
            .saturating_add(1)
            .min(CATCH_UP_ROWS_MAX)
            .min(model.shape.catch_up_max());
        for n in 0..rows.max(0) {
            let row_us = first.saturating_add(n.saturating_mul(interval_us));
            self.row(model, row_us, TimedBy::Payload, outcome);
        }
    }

    /// A closed grid cell: each field's value in it, or missing.
    fn take_cell(&mut self, model: &CompiledModel, cell: crate::grid::ClosedCell<'_>, outcome: &mut Outcome) {
        for (index, value) in cell.values.iter().enumerate() {
            let state = &mut self.fields[index];
            state.current = *value;
            state.current_us = cell.end_us;
            state.fresh = true;
            state.by_arrival = cell.timed_by == TimedBy::Arrival;
            if !value.is_nan() {
                state.known = *value;
                state.known_us = cell.end_us;
                if model.fields[index].span_us > 0 {
                    state.history.get_or_insert_default().push(
                        cell.end_us,
                        *value,
                        model.fields[index].span_us,
                    );
                }
            }
        }
        let width_us = model.grid.map_or(i64::MAX, |grid| grid.cell_us);
        if self.last_row_us.is_some_and(|last| cell.end_us.saturating_sub(last) > width_us) {
            self.restart();
        }
        let refused = outcome.refused.len();
        self.row(model, cell.end_us, cell.timed_by, outcome);
        if outcome.refused.len() > refused {
            self.restart();
        }
    }

    /// Judges the rows in the window by the ranges of this model, whose rows are the same as those so far.
    pub(crate) fn check_ranges(&mut self, model: &CompiledModel) {
        let flag = QualityFlags::OUT_OF_TRAINING_RANGE;
        self.flagged.iter_mut().for_each(|(_, flags)| flags.0 &= !flag.0);
        let outside = |row: &[f32]| {
            let mut columns = row.iter().zip(&model.columns);
            columns.any(|(value, column)| {
                column.range.is_some_and(|[low, high]| f64::from(*value) < low || f64::from(*value) > high)
            })
        };
        let newest = self.window.newest_first(model.shape).position(outside);
        if let Some(left) = newest.and_then(|age| model.shape.length.checked_sub(u32::try_from(age).ok()?)) {
            self.flagged.push((left, flag));
        }
        self.flagged.retain(|(_, flags)| *flags != QualityFlags::default());
    }

    fn restart(&mut self) {
        self.window.restart();
        self.flagged.clear();
        self.fields.iter_mut().for_each(|field| field.rows = None);
    }

    fn row(&mut self, model: &CompiledModel, mut row_us: i64, timed_by: TimedBy, outcome: &mut Outcome) {
        if let Some(last) = self.last_row_us {
            if timed_by == TimedBy::Arrival && model.grid.is_none() {
                row_us = arrival_after(last, row_us);
            }
            if row_us <= last {
                if timed_by == TimedBy::Payload {
                    outcome.refused.push(Reason::Late);
                    return;
                }
                self.restart();
            } else if row_us.saturating_sub(last) > model.gap_max_us {
                self.restart();
            }
        }
        let mut flags = outcome.row_flags;
        let row = match self.columns(model, row_us, &mut flags) {
            Ok(row) => row,
            Err(reason) => {
                outcome.refused.push(reason);
                self.fields.iter_mut().for_each(|field| field.fresh = false);
                return;
            }
        };
        self.last_row_us = Some(row_us);
        self.advance_lags(model, row_us);
        if let Some(row) = row {
            self.push_row(model, row_us, &row, flags, outcome);
        }
    }

    fn push_row(
        &mut self,
        model: &CompiledModel,
        row_us: i64,
        row: &[f32],
        flags: QualityFlags,
        outcome: &mut Outcome,
    ) {
        for (left, older) in &mut self.flagged {
            *left = left.saturating_sub(1);
            older.0 &= !flags.0;
        }
        self.flagged.retain(|(left, older)| *left > 0 && *older != QualityFlags::default());
        if flags != QualityFlags::default() {
            self.flagged.push((model.shape.length, flags));
        }
        let due = match model.grid {
            None => self.window.push(model.shape, row) == Due::Now,
            Some(grid) => {
                self.window.push(model.shape, row);
                self.window.is_full(model.shape) && row_us.rem_euclid(grid.every_us) == 0
            }
        };
        if !due {
            return;
        }
        if let Some(left) = outcome.values_left.checked_sub(model.shape.values()) {
            outcome.values_left = left;
            let mut all = QualityFlags::default();
            self.flagged.iter().for_each(|(_, flags)| all.insert(*flags));
            outcome.windows.push((row_us, all, self.window.values(model.shape, &model.inputs)));
        } else {
            outcome.windows_left_out += 1;
        }
    }

    /// Returns the row, or nothing while a lag has too few rows behind it.
    fn columns(
        &self,
        model: &CompiledModel,
        row_us: i64,
        flags: &mut QualityFlags,
    ) -> Result<Option<Vec<f32>>, Reason> {
        let mut row = Vec::with_capacity(model.columns.len());
        let mut complete = true;
        for column in &model.columns {
            let (state, field) = (&self.fields[column.field], &model.fields[column.field]);
            let found = match column.aggregate {
                Aggregate::Value => state.value_at(row_us, model.skew_max_us),
                Aggregate::Last => (!state.known.is_nan()).then_some(state.known).ok_or(Reason::MissingValue),
                Aggregate::Lag(rows) => {
                    let past = state.rows.as_deref();
                    let value = past.and_then(|past| past.get(past.len().checked_sub(rows as usize)?));
                    complete &= value.is_some();
                    Some(value.copied().unwrap_or(0.0)).filter(|v| !v.is_nan()).ok_or(Reason::MissingValue)
                }
                other => match &state.history {
                    Some(history) => history.aggregate(other, row_us).ok_or(Reason::MissingValue),
                    None if matches!(other, Aggregate::Count(_)) => Ok(0.0),
                    None => Err(Reason::MissingValue),
                },
            };
            let value = match found {
                Ok(value) if !value.is_finite() => return Err(Reason::NotFinite),
                Ok(value) => value,
                Err(reason) => {
                    let substitute = state.substitute(field.missing, row_us).ok_or(reason)?;
                    flags.insert(substitute.flags);
                    substitute.value
                }
            };
            if state.by_arrival {
                flags.insert(QualityFlags::ARRIVAL_TIME);
            }
            let converted = column.conversion.apply(value);
            if column.range.is_some_and(|[low, high]| converted < low || converted > high) {
                flags.insert(QualityFlags::OUT_OF_TRAINING_RANGE);
            }
            let narrowed = converted as f32;
            if narrowed.is_infinite() {
                return Err(Reason::NotFinite);
            }
            row.push(narrowed);
        }
        Ok(complete.then_some(row))
    }

    fn advance_lags(&mut self, model: &CompiledModel, row_us: i64) {
        for (state, field) in self.fields.iter_mut().zip(&model.fields) {
            state.fresh = false;
            if field.lag == 0 {
                continue;
            }
            let value = state.value_at(row_us, model.skew_max_us).ok();
            let value =
                value.or_else(|| state.substitute(field.missing, row_us).map(|substitute| substitute.value));
            let value = value.unwrap_or(state.known);
            let past = state.rows.get_or_insert_default();
            past.push_back(value);
            while past.len() > field.lag as usize {
                past.pop_front();
            }
        }
    }
}

impl FieldState {
    fn value_at(&self, row_us: i64, skew_max_us: i64) -> Result<f64, Reason> {
        if self.current.is_nan() {
            Err(Reason::MissingValue)
        } else if row_us.saturating_sub(self.current_us).saturating_abs() > skew_max_us {
            Err(Reason::Skew)
        } else {
            Ok(self.current)
        }
    }

    fn substitute(&self, policy: MissingPolicy, row_us: i64) -> Option<Substitute> {
        match policy {
            MissingPolicy::Hold(span) => {
                let young = !self.known.is_nan()
                    && row_us.saturating_sub(self.known_us).saturating_abs() <= span.as_micros();
                young.then_some(Substitute { value: self.known, flags: QualityFlags::HELD_VALUE })
            }
            MissingPolicy::Const(value) => Some(Substitute { value, flags: QualityFlags::SUBSTITUTED_VALUE }),
            MissingPolicy::Nan => {
                Some(Substitute { value: f64::NAN, flags: QualityFlags::SUBSTITUTED_VALUE })
            }
            MissingPolicy::Drop => None,
        }
    }
}
