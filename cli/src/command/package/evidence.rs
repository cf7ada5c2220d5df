//! Whether the engine says what the training framework said: every value within a tolerance, every label exactly.
//!
//! Compares rows of numbers; knows nothing of files. What differs is named by output and row, so that it can be looked
//! at in the notebook it came from.

use dunlin_model_package::manifest::FrameworkEvidence;
use dunlin_model_package::{LabelPositions, Manifest, OutputSpec};
use dunlin_pipeline::engine::{Engine, TractEngine};
use dunlin_trust::time::UnixTime;

use super::arrays::{Columns, Rows, TIME_COLUMN};
use super::samples::SampleWindow;
use crate::command::CommandError;

/// Returns the tensors that evidence holds of a model's outputs.
pub(super) fn output_columns(manifest: &Manifest) -> Vec<Columns> {
    manifest
        .outputs
        .iter()
        .map(|output| Columns {
            name: output.name.clone(),
            width: output.values(),
            labels: LabelPositions::of(output),
        })
        .collect()
}

/// Returns the tensors that evidence holds of a model's inputs.
pub(super) fn input_columns(manifest: &Manifest) -> Vec<Columns> {
    let columns = manifest.inputs.iter().map(|input| Columns {
        name: input.name.clone(),
        width: input.values(),
        labels: None,
    });
    columns.collect()
}

/// A comparison of rows with what the engine made of them.
pub(super) struct Comparison<'m> {
    manifest: &'m Manifest,
    tolerance: f64,
    rows: u64,
    worst: f64,
}

impl<'m> Comparison<'m> {
    /// Begins a comparison.
    pub(super) const fn new(manifest: &'m Manifest, tolerance: f64) -> Self {
        Self { manifest, tolerance, rows: 0, worst: 0.0 }
    }

    /// Compares the framework's outputs with those of the windows that the samples made.
    ///
    /// *Errors*: other rows than windows, or the first value that differs: exit code 5.
    pub(super) fn windows(
        mut self,
        expected: &Rows,
        windows: &[SampleWindow],
    ) -> Result<FrameworkEvidence, CommandError> {
        match &expected.times_ms {
            None if expected.values.len() != windows.len() => {
                return Err(CommandError::CheckFailed(format!(
                    "the evidence has {} row(s), the samples make {} window(s); give a row for each in their order, or a column `{TIME_COLUMN}` first",
                    expected.values.len(),
                    windows.len()
                )));
            }
            None => {
                for (expected, window) in expected.values.iter().zip(windows) {
                    self.row(expected, &window.outputs, Some(window.window_end_us))?;
                }
            }
            Some(times) => {
                let mut used = vec![false; windows.len()];
                for (time_ms, expected) in times.iter().zip(&expected.values) {
                    let is_wanted = |(position, window): &(usize, &SampleWindow)| {
                        !used[*position] && window.window_end_us.div_euclid(1_000) == *time_ms
                    };
                    let Some((position, window)) = windows.iter().enumerate().find(is_wanted) else {
                        return Err(CommandError::CheckFailed(format!(
                            "row {} of the evidence is for {TIME_COLUMN} {time_ms}, at which the samples make no (further) window",
                            self.rows + 1
                        )));
                    };
                    used[position] = true;
                    self.row(expected, &window.outputs, Some(window.window_end_us))?;
                }
            }
        }
        self.finish()
    }

    /// Runs the engine on the framework's own inputs and compares the outputs.
    ///
    /// *Errors*: other rows than inputs, the engine fails, or the first value that differs: exit code 5.
    pub(super) fn tensors(
        mut self,
        inputs: &Rows,
        expected: &Rows,
        engine: &mut TractEngine,
    ) -> Result<FrameworkEvidence, CommandError> {
        if inputs.values.len() != expected.values.len() {
            return Err(CommandError::CheckFailed(format!(
                "the evidence has {} row(s) of outputs for {} row(s) of inputs",
                expected.values.len(),
                inputs.values.len()
            )));
        }
        for (input, expected) in inputs.values.iter().zip(&expected.values) {
            let values: Vec<f32> = input.iter().map(|value| *value as f32).collect();
            let outputs = engine.run(1, &values).map_err(|error| {
                CommandError::CheckFailed(format!("row {} of the evidence: {error}", self.rows + 1))
            })?;
            self.row(expected, &outputs, None)?;
        }
        self.finish()
    }

    fn row(
        &mut self,
        expected: &[f64],
        made: &[f32],
        window_end_us: Option<i64>,
    ) -> Result<(), CommandError> {
        self.rows += 1;
        let window = window_end_us.map_or_else(String::new, |us| {
            format!(" (window that ends at {})", UnixTime(us.div_euclid(1_000_000)))
        });
        let mut start = 0;
        for output in &self.manifest.outputs {
            for (position, want) in expected.iter().copied().enumerate().skip(start).take(output.values()) {
                let have = made.get(position).copied().map_or(f64::NAN, f64::from);
                if output.is_label() {
                    if want != have {
                        return Err(self.other_label(output, &window, want, have));
                    }
                    continue;
                }
                let difference = difference(want, have);
                if difference.is_nan() || difference > self.tolerance {
                    return Err(CommandError::CheckFailed(format!(
                        "output `{}`, row {}{window}, value {}: the framework gave {want}, the engine gives {have}; \
                         they differ by {difference:.3e}, tolerance {:.1e}. The model does not mean the same here: export it \
                         another way, or give --tolerance if the difference is one of precision",
                        output.name,
                        self.rows,
                        position - start + 1,
                        self.tolerance
                    )));
                }
                self.worst = self.worst.max(difference);
            }
            start += output.values();
        }
        Ok(())
    }

    fn other_label(&self, output: &OutputSpec, window: &str, want: f64, have: f64) -> CommandError {
        let labels = &output.post.labels;
        let text = |position: f64| labels.get(position as usize).map_or("nothing", String::as_str);
        let have = if have.is_nan() { "nothing" } else { text(have) };
        CommandError::CheckFailed(format!(
            "output `{}`, row {}{window}: the framework said `{}`, the engine says `{have}`. The model does not mean the \
             same here: export it another way",
            output.name,
            self.rows,
            text(want)
        ))
    }

    fn finish(self) -> Result<FrameworkEvidence, CommandError> {
        if self.rows == 0 {
            return Err(CommandError::CheckFailed("the evidence has no rows".to_owned()));
        }
        Ok(FrameworkEvidence { rows: self.rows, worst: self.worst, tolerance: self.tolerance })
    }
}

/// Returns the difference relative to `max(1, |want|)`; two that are not finite agree if they are the same.
fn difference(want: f64, have: f64) -> f64 {
    // Compared in the precision of the outputs: a framework's doubles may be beyond the range of single ones.
    if want.is_nan() && have.is_nan() || want as f32 == have as f32 {
        return 0.0;
    }
    (want - have).abs() / want.abs().max(1.0)
}

#[cfg(test)]
#[path = "evidence/tests.rs"]
mod tests;
