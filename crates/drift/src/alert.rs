//! When a change is worth a person's attention: evidence that it is there, and a size that matters; not twice, and not for
//! a moment.
//!
//! Pure: what windows said comes in, a state and what it means come out. Knows no device and sends nothing.

use crate::evidence::{Evidence, bet_on};
use crate::reference::Blocks;
use crate::scores::Scores;

/// What makes a change worth an alert.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Fewest values of a window; smaller windows are merged with those before until there are as many.
    pub values_min: u64,
    /// A distance from here on is large, in standard deviations.
    pub shift_sd: f64,
    /// A population stability index is large from so many times that of the reference's blocks on.
    pub psi_times: f64,
    /// A share of missing values is large from so much above that of the reference's blocks on.
    pub missing: f64,
    /// Share of false alerts among alerts that is aimed at: the alarm budget.
    pub budget: f64,
    /// Windows in a row that must be small for an alert to end.
    pub quiet_windows: u32,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            values_min: 200,
            shift_sd: 0.25,
            psi_times: 2.0,
            missing: 0.05,
            budget: 0.05,
            quiet_windows: 3,
        }
    }
}

/// What is large about a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Large {
    /// Values moved.
    Shift,
    /// Values are spread otherwise.
    Shape,
    /// Values are missing.
    Missing,
}

/// How much attention an alert wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// It can wait: the size is just worth mentioning.
    Notice,
    /// Someone should look.
    Warning,
    /// The model sees what it never saw.
    Critical,
}

/// A stream of windows of one feature on one gateway, or in one cohort.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stream {
    /// Evidence of windows that something has changed.
    pub short: Evidence,
    /// Evidence of several windows merged: what moves slowly, or by little.
    pub long: Evidence,
    /// Since which window there is an alert, by the windows' number; none where there is none.
    pub since: Option<u64>,
    /// Windows in a row that were small.
    pub quiet: u32,
    /// Windows so far.
    pub windows: u64,
}

/// What a window did to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// An alert begins.
    Begins,
    /// An alert goes on.
    Goes,
    /// An alert ends.
    Ends,
    /// There is none.
    Quiet,
}

/// Returns what is large about a window, held against the blocks of the reference.
#[must_use]
pub fn large(scores: &Scores, blocks: &Blocks, rule: &Rule) -> Option<Large> {
    let usual = |sorted: &[f32]| high(sorted).map_or(0.0, f64::from);
    if scores.wasserstein_sd >= rule.shift_sd {
        Some(Large::Shift)
    } else if !blocks.psi.is_empty() && scores.psi >= rule.psi_times * usual(&blocks.psi) {
        Some(Large::Shape)
    } else if scores.missing >= usual(&blocks.missing) + rule.missing {
        Some(Large::Missing)
    } else {
        None
    }
}

/// Returns how much attention a window wants that is large. *Source*: sizes of effects by Cohen (1988): 0.5 is medium, 0.8
/// large; what is farther than all of the reference's blocks is new to the model.
#[must_use]
pub fn severity(scores: &Scores, blocks: &Blocks) -> Severity {
    let farthest = blocks.wasserstein_sd.last().copied().map_or(0.0, f64::from);
    if scores.wasserstein_sd >= 2.0 && scores.wasserstein_sd > farthest || scores.missing >= 0.5 {
        Severity::Critical
    } else if scores.wasserstein_sd >= 0.8 || scores.missing >= 0.2 {
        Severity::Warning
    } else {
        Severity::Notice
    }
}

impl Stream {
    /// Takes the evidence of a window; the alert is judged by [`Stream::judge`] once all streams have theirs.
    pub fn take(&mut self, scores: &Scores, blocks: &Blocks) {
        self.short = self.short.after(bet_on(scores, blocks));
        self.windows += 1;
    }

    /// Takes the evidence of several windows merged, held against blocks as long; no window may be merged twice.
    pub fn take_long(&mut self, scores: &Scores, blocks: &Blocks) {
        self.long = self.long.after(bet_on(scores, blocks));
    }

    /// Returns the evidence of windows of both lengths.
    #[must_use]
    pub const fn evidence(&self) -> Evidence {
        self.short.with(self.long)
    }

    /// Judges the last window: `threshold` is the evidence that stands among all streams, none where none stands.
    pub fn judge(&mut self, large: Option<Large>, threshold: Option<f64>) -> Turn {
        let stands = threshold.is_some_and(|threshold| self.evidence().value() >= threshold);
        match (self.since, large) {
            (None, Some(_)) if stands => {
                (self.since, self.quiet) = (Some(self.windows), 0);
                Turn::Begins
            }
            (None, _) => Turn::Quiet,
            (Some(_), Some(_)) => {
                self.quiet = 0;
                Turn::Goes
            }
            (Some(_), None) => {
                self.quiet += 1;
                Turn::Goes
            }
        }
    }

    /// Ends an alert after enough small windows; tells whether it did.
    pub fn settle(&mut self, rule: &Rule) -> Turn {
        if self.since.is_some() && self.quiet >= rule.quiet_windows {
            // What was known of the change is over with it.
            *self = Self { windows: self.windows, ..Self::default() };
            return Turn::Ends;
        }
        Turn::Quiet
    }
}

/// Returns the score that 95 % of the blocks do not exceed.
fn high(sorted: &[f32]) -> Option<f32> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * 0.95).ceil() as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks() -> Blocks {
        let rising = |most: f32| (1..=100).map(|n| most * n as f32 / 100.0).collect();
        Blocks { psi: rising(0.2), ks: rising(0.1), wasserstein_sd: rising(0.4), missing: rising(0.01) }
    }

    fn shifted(by: f64) -> Scores {
        Scores { psi: by * by, ks: by / 4.0, wasserstein_sd: by, mean_shift_sd: by, ..Scores::default() }
    }

    #[test]
    fn a_change_needs_evidence_and_size_and_ends_after_quiet() {
        let (rule, blocks) = (Rule::default(), blocks());
        let mut stream = Stream::default();
        use Turn::{Begins, Ends, Goes, Quiet};
        let mut turns = Vec::new();
        for by in [0.1, 0.1, 1.0, 1.0, 1.0, 1.0, 0.1, 1.0, 0.1, 0.1, 0.1, 0.1] {
            stream.take(&shifted(by), &blocks);
            let turn = stream.judge(large(&shifted(by), &blocks, &rule), Some(100.0));
            turns.push(if stream.settle(&rule) == Ends { Ends } else { turn });
        }
        // The first windows that are far bring the evidence.
        let begins = turns.iter().position(|turn| *turn == Begins).unwrap();
        assert!((2..6).contains(&begins), "{turns:?}");
        assert_eq!(turns[..begins], vec![Quiet; begins]);
        assert_eq!(turns[begins + 1..10], vec![Goes; 9 - begins]);
        assert_eq!(turns[10..], [Ends, Quiet]);
        assert!(stream.evidence().value() < 1.0);
    }

    #[test]
    fn evidence_of_a_small_change_is_no_alert() {
        let (rule, mut blocks) = (Rule::default(), blocks());
        blocks.wasserstein_sd = vec![0.01; 100];
        let mut stream = Stream::default();
        for _ in 0..20 {
            stream.take(&shifted(0.2), &blocks);
            assert_eq!(stream.judge(large(&shifted(0.2), &blocks, &rule), Some(100.0)), Turn::Quiet);
        }
        assert!(stream.evidence().value() > 100.0);
    }

    #[test]
    fn what_is_large_is_named_and_weighed() {
        let (rule, blocks) = (Rule::default(), blocks());
        let missing = Scores { missing: 0.3, ..Scores::default() };
        let shape = Scores { psi: 0.5, ..Scores::default() };
        assert_eq!(large(&shifted(0.3), &blocks, &rule), Some(Large::Shift));
        assert_eq!(large(&shape, &blocks, &rule), Some(Large::Shape));
        assert_eq!(large(&missing, &blocks, &rule), Some(Large::Missing));
        assert_eq!(large(&shifted(0.1), &blocks, &rule), None);
        assert_eq!(
            [shifted(0.3), shifted(0.9), shifted(3.0), missing].map(|scores| severity(&scores, &blocks)),
            [Severity::Notice, Severity::Warning, Severity::Critical, Severity::Warning]
        );
    }
}
