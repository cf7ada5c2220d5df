//! Counts what complete steps brought, and releases the windows that are to be reported.
//!
//! Stands where a step leaves for the writer: what is counted and what is stored are the same steps in the same order, so
//! that a replay of the log has the same windows. Releases only what privacy allows; chance is drawn here alone.

use dunlin_drift::bins::Bins;
use dunlin_drift::privacy::Privacy;
use dunlin_drift::summary::Summary;
use dunlin_kit::backoff::random_unit;
use dunlin_model_package::profile_window::{Counted, Shape, write_window};
use dunlin_pipeline::collect::{Predicted, WindowReport};

use super::Stage;
use crate::flow::Step;
use crate::store::outbox_windows::WindowEntry;

impl Stage {
    /// Counts what a complete step brought; the windows that it completed go with it.
    pub(super) fn count_windows(&mut self, step: &mut Step) {
        let observations = std::mem::take(&mut step.observations);
        let predictions = step.predictions.iter().map(Predicted::from);
        let mut reports = std::mem::take(&mut self.reports);
        self.parts.core.collect(&observations, predictions, &mut reports);
        step.windows.extend(reports.drain(..).map(|report| self.release(&report)));
        self.reports = reports;
    }

    /// Returns the windows of instances that run no more.
    pub(super) fn release_left(&mut self) -> Vec<WindowEntry> {
        let left = self.parts.core.left_windows();
        left.iter().map(|report| self.release(report)).collect()
    }

    fn release(&self, report: &WindowReport) -> WindowEntry {
        self.parts.metrics.windows_reported.add(1);
        released(report, &self.parts.privacy, &mut random_unit)
    }
}

/// Returns of a window what may leave the gateway.
pub fn released(report: &WindowReport, privacy: &Privacy, chance: &mut impl FnMut() -> f64) -> WindowEntry {
    let summaries = report.summaries.iter().zip(report.shapes.iter());
    let summaries: Vec<Summary> =
        summaries.map(|(summary, shape)| released_summary(summary, *shape, privacy, chance)).collect();
    WindowEntry {
        instance: report.instance.0,
        profile: report.profile,
        from_us: report.from_us,
        span_us: report.to_us.abs_diff(report.from_us),
        revision: report.revision,
        n: report.n,
        shapes: report.shapes.to_vec(),
        summaries: write_window(&summaries),
    }
}

fn released_summary(
    summary: &Summary,
    shape: Shape,
    privacy: &Privacy,
    chance: &mut impl FnMut() -> f64,
) -> Summary {
    let bins = match shape.of {
        Counted::Numbers => Bins::Edges(Vec::new()),
        Counted::Names => Bins::Names(Vec::new()),
    };
    privacy.released(summary, &bins, chance).unwrap_or_else(|| {
        // Too few values: what was wrong with readings is said all the same, since a dead sensor has no values.
        let few = Summary { flaws: summary.flaws, ..Summary::empty(summary.counts.len()) };
        let of_flaws = Privacy { values_min: 0, ..*privacy };
        of_flaws.released(&few, &bins, chance).unwrap_or(few)
    })
}

#[cfg(test)]
mod killed;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dunlin_drift::moments::Scale;
    use dunlin_drift::summary::Flaw;
    use dunlin_model_package::Digest;
    use dunlin_model_package::profile_window::read_window;
    use dunlin_pipeline::prediction::InstanceId;

    use super::*;

    fn report() -> WindowReport {
        let numbers = Bins::Edges(vec![0.0, 1.0]);
        let mut summary = Summary::empty(3);
        (0..100).for_each(|n| summary.add_number(f64::from(n) / 50.0, &numbers, &Scale::of(1.0, 0.5)));
        let mut names = Summary::empty(3);
        names.counts = vec![40, 3, 2];
        let mut few = Summary::empty(3);
        few.counts = vec![1, 2, 3];
        few.add_flaw(Flaw::Stuck);
        let shape = |of| Shape { bins: 3, of };
        WindowReport {
            instance: InstanceId(4),
            profile: Digest::of(b"p"),
            from_us: 1_000,
            to_us: 4_000,
            revision: 2,
            n: 100,
            summaries: vec![summary, names, few],
            shapes: Arc::from([shape(Counted::Numbers), shape(Counted::Names), shape(Counted::Numbers)]),
        }
    }

    fn read(entry: &WindowEntry) -> Vec<Summary> {
        read_window(&entry.summaries, entry.shapes.iter().copied()).unwrap()
    }

    #[test]
    fn rare_names_and_few_values_stay_and_what_is_wrong_is_said() {
        let report = report();
        let entry = released(&report, &Privacy::default(), &mut || 0.5);
        assert_eq!((entry.instance, entry.from_us, entry.span_us, entry.revision), (4, 1_000, 3_000, 2));
        let summaries = read(&entry);
        assert_eq!(summaries[0], report.summaries[0]);
        assert_eq!(summaries[1].counts, [40, 0, 5]);
        assert_eq!((summaries[2].values(), summaries[2].flawed(Flaw::Stuck)), (0, 1));
    }

    #[test]
    fn with_noise_no_exact_sum_leaves() {
        let mut at = 0_u32;
        let mut chance = || {
            at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(at >> 8) / f64::from(1 << 24)
        };
        let report = report();
        let entry = released(&report, &Privacy { epsilon: Some(0.1), ..Privacy::default() }, &mut chance);
        let summaries = read(&entry);
        assert!(summaries.iter().all(|summary| summary.moments.range.is_none()));
        assert_ne!(summaries[0].counts, report.summaries[0].counts);
        assert_ne!(
            summaries[2].counts, report.summaries[2].counts,
            "what is held back is not told by its zeros"
        );
    }
}
