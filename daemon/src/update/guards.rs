//! When a release has done too much wrong, and when it has done enough right.
//!
//! Pure arithmetic over counts; never knows which release it is about. The machine asks at every observation.
//!
//! One fault at the first prediction proves nothing, three in a row prove much: before a trial has its predictions, a
//! part of faults counts as too large where it would be improbable at the largest part allowed. Once it has them, the
//! part itself decides.

use std::time::Duration;

use super::release::Cause;
use crate::config::settings::UpdateSettings;
use crate::lanes::LaneCounts;

/// How improbable a count of faults must be at the largest part allowed to end a trial early. A healthy release has far
/// fewer faults than are allowed, so that looking after every prediction does not end it by chance.
const IMPROBABLE: f64 = 1.0e-3;

/// What counts say of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Too little is known.
    Wait,
    /// It may go on to the next phase.
    Pass,
    /// It is to leave.
    Fail(Cause),
    /// It differs from the serving model too often.
    Disagrees,
}

/// Judges a release that runs beside the serving one for `elapsed`.
#[must_use]
pub fn judge_shadow(rules: &UpdateSettings, counts: &LaneCounts, elapsed: Duration) -> Verdict {
    if let Some(cause) = faulty(rules, counts, rules.shadow_predictions) {
        return Verdict::Fail(cause);
    }
    if counts.predictions < rules.shadow_predictions && elapsed < rules.shadow_time_max {
        return Verdict::Wait;
    }
    let differing = counts.compared.saturating_sub(counts.agreed);
    let settled = rules.shadow_predictions;
    if exceeds(differing, counts.compared, 1.0 - rules.shadow_agreement_min, settled) {
        Verdict::Disagrees
    } else {
        Verdict::Pass
    }
}

/// Judges a release that has been serving for `elapsed`.
#[must_use]
pub fn judge_trial(rules: &UpdateSettings, counts: &LaneCounts, elapsed: Duration) -> Verdict {
    if let Some(cause) = faulty(rules, counts, rules.trial_predictions) {
        return Verdict::Fail(cause);
    }
    if counts.predictions >= rules.trial_predictions && elapsed >= rules.trial_time {
        Verdict::Pass
    } else {
        Verdict::Wait
    }
}

/// Returns the most frequent fault where all together are too many; `settled` predictions are enough for the part
/// itself to decide.
fn faulty(rules: &UpdateSettings, counts: &LaneCounts, settled: u64) -> Option<Cause> {
    let causes = [
        (counts.slow, Cause::Latency),
        (counts.failed, Cause::Failed),
        (counts.invalid, Cause::InvalidOutput),
    ];
    // A prediction that is late and invalid counts twice: that can only end a trial which was near its limit.
    let faults: u64 = causes.iter().map(|(count, _)| count).sum();
    let predictions = counts.predictions.max(faults);
    if !exceeds(faults, predictions, rules.trial_faults_max, settled) {
        return None;
    }
    causes.into_iter().max_by_key(|(count, _)| *count).map(|(_, cause)| cause)
}

/// Tells whether `found` of `all` is more than the part `allowed`: by the part where there are `settled` of them, else
/// by Chernoff's bound on how probable so many are.
fn exceeds(found: u64, all: u64, allowed: f64, settled: u64) -> bool {
    let part = if all == 0 { 0.0 } else { found as f64 / all as f64 };
    // The sum of two rounded parts may miss the limit by its last digit.
    if part <= allowed + f64::EPSILON {
        return false;
    }
    all >= settled || (-(all as f64) * divergence(part, allowed)).exp() < IMPROBABLE
}

/// Returns the relative entropy of two parts, in nats; infinite where nothing is allowed.
fn divergence(part: f64, allowed: f64) -> f64 {
    let term = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
    term(part, allowed) + term(1.0 - part, 1.0 - allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> UpdateSettings {
        UpdateSettings {
            shadow_predictions: 100,
            shadow_time_max: Duration::from_secs(60),
            shadow_agreement_min: 0.9,
            trial_predictions: 1_000,
            trial_time: Duration::from_secs(60),
            trial_faults_max: 0.01,
        }
    }

    fn faults(predictions: u64, invalid: u64) -> Verdict {
        let counts = LaneCounts { predictions, invalid, ..LaneCounts::default() };
        judge_trial(&rules(), &counts, Duration::from_secs(60))
    }

    #[test]
    fn one_fault_alone_is_borne_and_a_row_of_them_is_not() {
        assert_eq!(faults(1, 1), Verdict::Wait);
        assert_eq!(faults(2, 2), Verdict::Fail(Cause::InvalidOutput));
        assert_eq!(faults(20, 1), Verdict::Wait);
        assert_eq!(faults(20, 4), Verdict::Fail(Cause::InvalidOutput));
    }

    #[test]
    fn with_all_its_predictions_the_part_itself_decides() {
        assert_eq!(faults(1_000, 10), Verdict::Pass);
        assert_eq!(faults(1_000, 11), Verdict::Fail(Cause::InvalidOutput));
        assert_eq!(faults(999, 10), Verdict::Wait);
        assert_eq!(faults(100_000, 1_000), Verdict::Pass);
    }

    #[test]
    fn where_no_fault_is_allowed_the_first_one_ends_the_trial() {
        let none = UpdateSettings { trial_faults_max: 0.0, ..rules() };
        let all = UpdateSettings { trial_faults_max: 1.0, ..rules() };
        let one = LaneCounts { predictions: 1, failed: 1, ..LaneCounts::default() };
        assert_eq!(judge_trial(&none, &one, Duration::ZERO), Verdict::Fail(Cause::Failed));
        let many = LaneCounts { predictions: 5_000, failed: 5_000, ..LaneCounts::default() };
        assert_eq!(judge_trial(&all, &many, Duration::ZERO), Verdict::Wait);
    }

    #[test]
    fn a_trial_needs_its_predictions_and_its_time() {
        let counts = |predictions| LaneCounts { predictions, ..LaneCounts::default() };
        let judge = |predictions, s| judge_trial(&rules(), &counts(predictions), Duration::from_secs(s));
        assert_eq!(
            [judge(1_000, 59), judge(999, 60), judge(1_000, 60)],
            [Verdict::Wait, Verdict::Wait, Verdict::Pass]
        );
    }

    #[test]
    fn a_shadow_passes_by_agreement_or_by_time_without_evidence_against_it() {
        let judge = |predictions, agreed, s| {
            let counts = LaneCounts { predictions, compared: predictions, agreed, ..LaneCounts::default() };
            judge_shadow(&rules(), &counts, Duration::from_secs(s))
        };
        assert_eq!(judge(99, 0, 59), Verdict::Wait);
        assert_eq!(judge(100, 90, 0), Verdict::Pass);
        assert_eq!(judge(100, 89, 0), Verdict::Disagrees);
        assert_eq!(judge(0, 0, 60), Verdict::Pass);
        assert_eq!(judge(1, 0, 60), Verdict::Pass);
        assert_eq!(judge(10, 0, 60), Verdict::Disagrees);
    }

    #[test]
    fn the_cause_is_the_most_frequent_fault() {
        let counts = LaneCounts { predictions: 50, invalid: 2, failed: 3, slow: 20, ..LaneCounts::default() };
        assert_eq!(judge_trial(&rules(), &counts, Duration::ZERO), Verdict::Fail(Cause::Latency));
    }
}
