//! From a model's raw outputs to a label and an alert.
//!
//! Argmax, labels that the model gives itself, thresholds with hysteresis, abstention, n-of-m debounce, rate limit. Its state is small, saved with the
//! instance, and moved only by valid outputs in the order of their windows.

use dunlin_model_package::manifest::{Manifest, OutputKind, OutputSpec};
use dunlin_model_package::model_spec::AlertSpec;
use serde::{Deserialize, Serialize};

use crate::prediction::{AlertChange, QualityFlags};

/// The label of a prediction that the model abstained from.
pub const ABSTAIN: &str = "abstain";

/// The post-processing of one model, compiled.
#[derive(Debug, Clone, PartialEq)]
pub struct PostProcess {
    outputs: Vec<(std::ops::Range<usize>, OutputSpec)>,
    labels: Vec<String>,
    alert: Option<CompiledAlert>,
}

#[derive(Debug, Clone, PartialEq)]
struct CompiledAlert {
    label: u16,
    n: u32,
    m: u32,
    rate_limit_us: i64,
}

/// What post-processing remembers of one instance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PostState {
    /// Bit i: output i is above its threshold.
    above: u64,
    /// The latest debounce decisions, the newest in the lowest bit.
    recent: u64,
    /// Whether the alert's condition holds.
    alert: bool,
    /// Whether that was published: a raise inside the rate limit is not, nor is its end.
    announced: bool,
    /// Event time of the last published raise.
    raised_us: Option<i64>,
}

/// What post-processing says of one prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Position in [`PostProcess::labels`].
    pub label: Option<u16>,
    /// Flags to add.
    pub flags: QualityFlags,
    /// A change to publish.
    pub alert: Option<AlertChange>,
}

impl PostState {
    /// Goes on with what another package's alert announced, since consumers know it by the model's name. What either
    /// made of its own outputs stays its own.
    pub(crate) fn take_announcements(&mut self, former: &Self) {
        self.alert = former.alert;
        self.announced = former.announced;
        self.raised_us = former.raised_us;
    }
}

impl PostProcess {
    /// Compiles the manifest's post-processing and the configured alert.
    ///
    /// *Errors*: the alert names no label of the model, or its debounce is impossible; the text says what to write.
    pub fn compile(manifest: &Manifest, alert: Option<&AlertSpec>) -> Result<Self, String> {
        let mut outputs = Vec::new();
        let mut start = 0;
        for output in &manifest.outputs {
            let end = start + output.values();
            outputs.push((start..end, output.clone()));
            start = end;
        }
        let labels = labels_of(manifest);
        let alert = alert.map(|spec| compile_alert(spec, manifest, &labels)).transpose()?;
        Ok(Self { outputs, labels, alert })
    }

    /// Returns the labels that predictions of the model can have.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Returns the number of output values of one prediction.
    #[must_use]
    pub fn values(&self) -> usize {
        self.outputs.last().map_or(0, |(range, _)| range.end)
    }

    /// Judges one prediction's outputs and moves the state.
    pub fn judge(&self, state: &mut PostState, outputs: &[f32], window_end_us: i64) -> Verdict {
        let mut verdict = Verdict::default();
        let is_wrong = |(range, spec): &(std::ops::Range<usize>, OutputSpec)| {
            spec.is_label() && position_of(outputs[range.start], spec).is_none()
        };
        if outputs.len() != self.values()
            || outputs.iter().any(|value| !value.is_finite())
            || self.outputs.iter().any(is_wrong)
        {
            verdict.flags = QualityFlags::INVALID_OUTPUT;
            return verdict;
        }
        for (index, (range, spec)) in self.outputs.iter().enumerate() {
            let label = self.label_of(state, index, spec, &outputs[range.clone()]);
            if verdict.label.is_none() {
                verdict.label = label;
            }
        }
        if verdict.label.is_some_and(|label| self.labels[usize::from(label)] == ABSTAIN) {
            verdict.flags = QualityFlags::ABSTAINED;
        }
        if let Some(alert) = &self.alert {
            verdict.alert = alert.judge(state, verdict.label == Some(alert.label), window_end_us);
        }
        verdict
    }

    fn label_of(
        &self,
        state: &mut PostState,
        index: usize,
        spec: &OutputSpec,
        values: &[f32],
    ) -> Option<u16> {
        let first = f64::from(*values.first()?);
        if spec.is_label() {
            return self.position(&spec.post.labels[position_of(*values.first()?, spec)?]);
        }
        if spec.kind == OutputKind::Classification {
            let (best, value) = values
                .iter()
                .enumerate()
                .fold((0, f32::NEG_INFINITY), |best, (i, v)| if *v > best.1 { (i, *v) } else { best });
            let sure = spec.post.confidence_min.is_none_or(|least| f64::from(value) >= least);
            return self.position(if sure { &spec.post.labels[best] } else { ABSTAIN });
        }
        let threshold = spec.post.threshold.as_ref();
        if let Some(threshold) = threshold {
            let bit = 1_u64 << (index as u32).min(63);
            let limit = if state.above & bit != 0 {
                threshold.clear.unwrap_or(threshold.above)
            } else {
                threshold.above
            };
            if first >= limit { state.above |= bit } else { state.above &= !bit }
        }
        if spec.post.abstain_band.is_some_and(|[low, high]| (low..=high).contains(&first)) {
            return self.position(ABSTAIN);
        }
        let above = state.above & (1_u64 << (index as u32).min(63)) != 0;
        self.position(if above { &threshold?.label } else { &threshold?.otherwise })
    }

    fn position(&self, label: &str) -> Option<u16> {
        self.labels.iter().position(|known| known == label).and_then(|i| u16::try_from(i).ok())
    }
}

/// Returns the position that a label output's value is.
fn position_of(value: f32, spec: &OutputSpec) -> Option<usize> {
    // A value that is no position of a label is caught by the comparison; the cast saturates.
    let position = value as usize;
    (position < spec.post.labels.len() && position as f32 == value).then_some(position)
}

impl CompiledAlert {
    fn judge(&self, state: &mut PostState, holds: bool, at_us: i64) -> Option<AlertChange> {
        state.recent = (state.recent << 1) | u64::from(holds);
        let mask = if self.m >= 64 { u64::MAX } else { (1_u64 << self.m) - 1 };
        let alert = (state.recent & mask).count_ones() >= self.n;
        if alert == state.alert {
            return None;
        }
        state.alert = alert;
        if !alert {
            return std::mem::take(&mut state.announced).then_some(AlertChange::Cleared);
        }
        if state.raised_us.is_some_and(|raised| at_us.saturating_sub(raised) < self.rate_limit_us) {
            return None;
        }
        state.raised_us = Some(at_us);
        state.announced = true;
        Some(AlertChange::Raised)
    }
}

fn labels_of(manifest: &Manifest) -> Vec<String> {
    let mut labels: Vec<String> = Vec::new();
    let mut add = |label: &str| {
        if !labels.iter().any(|known| known == label) {
            labels.push(label.to_owned());
        }
    };
    for output in &manifest.outputs {
        output.post.labels.iter().for_each(|label| add(label));
        if let Some(threshold) = &output.post.threshold {
            add(&threshold.otherwise);
            add(&threshold.label);
        }
        if output.post.confidence_min.is_some() || output.post.abstain_band.is_some() {
            add(ABSTAIN);
        }
    }
    labels
}

fn compile_alert(spec: &AlertSpec, manifest: &Manifest, labels: &[String]) -> Result<CompiledAlert, String> {
    let threshold_label =
        || manifest.outputs.iter().find_map(|output| output.post.threshold.as_ref().map(|t| t.label.clone()));
    let label = spec
        .label
        .clone()
        .or_else(threshold_label)
        .ok_or("name the `label` that raises the alert: the package has no threshold")?;
    let position = labels.iter().position(|known| *known == label);
    let position = position
        .ok_or_else(|| format!("`{label}` is no label of the model; it has {}", labels.join(", ")))?;
    let (n, m) = spec.debounce.map_or((1, 1), |debounce| (u32::from(debounce.n), u32::from(debounce.m)));
    if n == 0 || n > m || m > 64 {
        return Err("debounce needs 1 <= n <= m <= 64".to_owned());
    }
    let label = u16::try_from(position).map_err(|_| "the model has too many labels".to_owned())?;
    Ok(CompiledAlert { label, n, m, rate_limit_us: spec.rate_limit.map_or(0, |span| span.as_micros()) })
}

#[cfg(test)]
mod tests;
