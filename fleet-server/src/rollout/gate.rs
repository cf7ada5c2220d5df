//! Gates: what must hold of the gateways that have the release already.
//!
//! Each shows a value, its bound and a verdict. A gateway that found the release bad itself counts at the gate that its
//! cause belongs to, so that a halt names what is wrong and not just that something is.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::facts::{Counts, DeviceFacts};
use super::spec::{Bounds, RolloutSpec};
use super::state::{Before, Outcome};

/// Settled gateways before their share of failures says more than a count: fewer are an anecdote.
const SHARE_MIN: usize = 5;
/// Two-sided 95 %.
const Z: f64 = 1.96;

/// What is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateKind {
    /// The release could not be fetched, loaded or admitted, or was not run in time.
    Install,
    /// The worker or the gateway ended again and again.
    Restarts,
    /// Inference takes too long.
    Latency,
    /// Predictions that are not finite, or that failed.
    Invalid,
    /// The model abstains more often than the release before.
    Abstention,
    /// The release decides otherwise than the one before.
    Agreement,
    /// The release's outputs are far from those of the one before.
    OutputChange,
}

/// What a gate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It holds.
    Pass,
    /// There is too little to judge by.
    Wait,
    /// It does not hold: the rollout halts.
    Fail,
}

/// A gate at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// What is judged.
    pub kind: GateKind,
    /// What was found, where there is something.
    pub value: Option<f64>,
    /// The bound.
    pub bound: Option<f64>,
    /// What comes of it.
    pub verdict: Verdict,
    /// Whether it counts gateways that failed, rather than what was measured on those that run the release.
    #[serde(default)]
    pub is_by_failures: bool,
    /// In words, with numbers and units.
    pub words: String,
}

/// Returns the gate that a cause belongs to, by the code that gateways report.
#[must_use]
pub fn gate_of(cause: &str) -> GateKind {
    match cause {
        "selftest:shadow" => GateKind::Agreement,
        "rolled_back:crash" | "rolled_back:restart" => GateKind::Restarts,
        "rolled_back:latency" => GateKind::Latency,
        "rolled_back:invalid_output" | "rolled_back:failed" => GateKind::Invalid,
        _ => GateKind::Install,
    }
}

/// A gateway that was given the release.
#[derive(Debug, Clone, Copy)]
pub struct Judged<'f> {
    /// What it reported; none where it is no member of the fleet any more.
    pub device: Option<&'f DeviceFacts>,
    /// What became of it.
    pub outcome: &'f Outcome,
    /// By model, what it had before.
    pub before: &'f BTreeMap<String, Before>,
    /// Whether somebody saw its failure and went on all the same.
    pub is_borne: bool,
}

/// What the gates look at.
#[derive(Debug, Default)]
struct Seen {
    members: usize,
    settled: usize,
    failures: BTreeMap<GateKind, Vec<String>>,
    counts: Vec<Counts>,
    old: Vec<Counts>,
}

/// Returns all gates. Those that are waived pass whatever is measured; failures of gateways count at them all the same.
#[must_use]
pub fn judge<'f>(
    spec: &RolloutSpec,
    waived: &BTreeSet<GateKind>,
    members: impl Iterator<Item = Judged<'f>>,
) -> Vec<Gate> {
    let mut seen = Seen::default();
    for member in members {
        if matches!(member.outcome, Outcome::Superseded | Outcome::Dropped) {
            continue;
        }
        seen.members += 1;
        if let Outcome::Failed(failure) = member.outcome
            && !member.is_borne
        {
            seen.failures.entry(gate_of(&failure.cause)).or_default().push(failure.cause.clone());
        }
        seen.settled += usize::from(matches!(member.outcome, Outcome::Failed(_) | Outcome::Good));
        let Some(device) = member.device else { continue };
        for release in &spec.releases {
            let Some(model) = device.models.get(&release.model) else { continue };
            let Some(counts) = model.counts.get(&release.digest) else { continue };
            seen.counts.push(*counts);
            seen.old.extend(member.before.get(&release.model).map(|before| before.counts));
        }
    }
    let bounds = &spec.gates;
    let with = |kind: GateKind, measured: Gate| {
        let failures = failures(bounds, &seen, kind);
        // Settings alone are judged by what gateways make of them.
        let has_more = failures.verdict != Verdict::Fail && !spec.releases.is_empty();
        if has_more { waive(waived, measured) } else { failures }
    };
    vec![
        failures(bounds, &seen, GateKind::Install),
        with(GateKind::Restarts, restarts(bounds, &seen)),
        with(GateKind::Latency, latency(bounds, &seen)),
        with(GateKind::Invalid, invalid(bounds, &seen)),
        waive(waived, abstention(bounds, &seen)),
        with(GateKind::Agreement, agreement(bounds, &seen)),
        waive(waived, output_change(bounds, &seen)),
    ]
}

/// Lets a gate pass whose measurement somebody saw and went on all the same.
fn waive(waived: &BTreeSet<GateKind>, gate: Gate) -> Gate {
    if gate.verdict != Verdict::Fail || !waived.contains(&gate.kind) {
        return gate;
    }
    let words = format!("{}; borne, since the rollout was resumed", gate.words);
    Gate { verdict: Verdict::Pass, words, ..gate }
}

/// Judges the gateways that found the release bad.
///
/// One too many fails at once. Of a large phase that bears many, a few that nearly all failed fail it too: the lower end
/// of the confidence interval of their share is above what is borne. *Source*: Wilson (1927).
fn failures(bounds: &Bounds, seen: &Seen, kind: GateKind) -> Gate {
    let causes = seen.failures.get(&kind).map(Vec::as_slice).unwrap_or_default();
    let count = causes.len();
    let borne_share = (seen.members as f64 * bounds.failures_percent / 100.0).floor() as usize;
    let borne = borne_share.max(bounds.failures as usize);
    // Of no failure the interval's end is 0, and as computed sometimes a hair above it.
    let is_share_high = count > 0
        && seen.settled >= SHARE_MIN
        && wilson_low(count, seen.settled) > (borne as f64 / seen.members.max(1) as f64);
    let verdict = if count > borne || is_share_high { Verdict::Fail } else { Verdict::Pass };
    let words = match causes.first() {
        Some(cause) => format!(
            "{count} of {} gateways failed, {borne} are borne; the first with `{cause}`",
            seen.members
        ),
        None => format!("none of {} gateways failed", seen.members),
    };
    let (value, bound) = (Some(count as f64), Some(borne as f64));
    Gate { kind, value, bound, verdict, is_by_failures: true, words }
}

/// Returns the lower end of the interval of a share.
fn wilson_low(count: usize, of: usize) -> f64 {
    let (n, share) = (of as f64, count as f64 / of as f64);
    let middle = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    (middle - half) / (1.0 + Z * Z / n)
}

fn gate(kind: GateKind, value: Option<f64>, bound: Option<f64>, verdict: Verdict, words: String) -> Gate {
    Gate { kind, value, bound, verdict, is_by_failures: false, words }
}

/// Returns a gate by what is highest on one gateway.
fn at_most(kind: GateKind, value: f64, bound: Option<f64>, words: String) -> Gate {
    let is_over = bound.is_some_and(|bound| value > bound);
    gate(kind, Some(value), bound, if is_over { Verdict::Fail } else { Verdict::Pass }, words)
}

/// Judges the gateway whose worker was started again most often. The first start is none too many.
fn restarts(bounds: &Bounds, seen: &Seen) -> Gate {
    let again = seen.counts.iter().map(|counts| counts.starts.saturating_sub(1));
    let most = again.clone().max().unwrap_or(0);
    let words = format!(
        "the worker was started again at most {most} times on one gateway, {} times on all",
        again.sum::<u64>()
    );
    at_most(GateKind::Restarts, most as f64, bounds.restarts.map(f64::from), words)
}

/// Judges the slowest gateway: by the package's budget, and by the release before.
fn latency(bounds: &Bounds, seen: &Seen) -> Gate {
    let kind = GateKind::Latency;
    let ratio = |counts: &Counts| {
        let budget = counts.p99_us_budget.filter(|budget| *budget > 0.0)?;
        Some((counts.p99_us? / budget, counts.p99_us?, budget))
    };
    let slowest = seen.counts.iter().filter_map(ratio).max_by(|a, b| a.0.total_cmp(&b.0));
    if let (Some((value, p99, budget)), Some(bound)) = (slowest, bounds.latency_of_budget)
        && value > bound
    {
        let words = format!("p99 of an inference is {p99:.0} us on one gateway, its budget {budget:.0} us");
        return gate(kind, Some(value), Some(bound), Verdict::Fail, words);
    }
    let worst = |counts: &[Counts]| {
        counts.iter().filter_map(|counts| counts.p99_us).filter(|p99| *p99 > 0.0).max_by(f64::total_cmp)
    };
    match (worst(&seen.counts), worst(&seen.old), bounds.latency_of_old) {
        (Some(new), Some(old), Some(bound)) => {
            let value = new / old;
            let verdict = if value > bound { Verdict::Fail } else { Verdict::Pass };
            let words =
                format!("p99 of an inference is at most {new:.0} us, {old:.0} us with the release before");
            gate(kind, Some(value), Some(bound), verdict, words)
        }
        (Some(new), ..) => {
            gate(kind, None, None, Verdict::Pass, format!("p99 of an inference is at most {new:.0} us"))
        }
        (None, ..) if seen.counts.iter().all(|counts| counts.predictions == 0) => {
            gate(kind, None, None, Verdict::Wait, "no gateway reported a prediction yet".to_owned())
        }
        // It must not wait for ever for what gateways do not measure, or not yet.
        (None, ..) => {
            let words = "no gateway made enough predictions to tell how long an inference takes".to_owned();
            gate(kind, None, None, Verdict::Pass, words)
        }
    }
}

fn invalid(bounds: &Bounds, seen: &Seen) -> Gate {
    let kind = GateKind::Invalid;
    let total: u64 = seen.counts.iter().map(|counts| counts.predictions).sum();
    let invalid: u64 = seen.counts.iter().map(|counts| counts.invalid).sum();
    if total == 0 {
        let words = "no gateway reported a prediction yet".to_owned();
        return gate(kind, None, bounds.invalid_rate, Verdict::Wait, words);
    }
    let value = invalid as f64 / total as f64;
    let is_over = bounds.invalid_rate.is_some_and(|bound| value > bound);
    let verdict = if is_over { Verdict::Fail } else { Verdict::Pass };
    let words = format!("{invalid} of {total} predictions are not finite, or failed");
    gate(kind, Some(value), bounds.invalid_rate, verdict, words)
}

fn agreement(bounds: &Bounds, seen: &Seen) -> Gate {
    let kind = GateKind::Agreement;
    let compared: u64 = seen.counts.iter().map(|counts| counts.compared).sum();
    let agreed: u64 = seen.counts.iter().map(|counts| counts.agreed).sum();
    let Some(bound) = bounds.agreement else {
        return gate(kind, None, None, Verdict::Pass, "agreement is not asked for".to_owned());
    };
    let value = (compared > 0).then(|| agreed as f64 / compared as f64);
    let words = format!("{agreed} of {compared} predictions in shadow agree with the release before");
    let verdict = match value {
        Some(value) if compared >= bounds.compared_min && value < bound => Verdict::Fail,
        // Where nothing ran before there is nothing to compare with: it must not wait for ever.
        _ => Verdict::Pass,
    };
    gate(kind, value, Some(bound), verdict, words)
}

/// Judges how much more often the model abstains than the release before; where there was none, how often.
fn abstention(bounds: &Bounds, seen: &Seen) -> Gate {
    let share = |counts: &[Counts]| {
        let total: u64 = counts.iter().map(|counts| counts.predictions).sum();
        let abstained: u64 = counts.iter().map(|counts| counts.abstained).sum();
        (total > 0).then(|| abstained as f64 / total as f64)
    };
    let kind = GateKind::Abstention;
    let total: u64 = seen.counts.iter().map(|counts| counts.predictions).sum();
    let Some(new) = share(&seen.counts) else {
        let words = "no gateway reported a prediction yet".to_owned();
        return gate(kind, None, bounds.abstention_rise, Verdict::Pass, words);
    };
    let (new_percent, old) = (new * 100.0, share(&seen.old));
    let words = match old {
        Some(old) => {
            let old_percent = old * 100.0;
            format!(
                "the model abstains from {new_percent:.1} % of predictions, the release before from {old_percent:.1} %"
            )
        }
        None => format!(
            "the model abstains from {new_percent:.1} % of predictions; nothing is known of a release before"
        ),
    };
    // Of a new model nobody knows how often is right, and of a handful of predictions nothing follows.
    let bound = bounds.abstention_rise.filter(|_| old.is_some() && total >= bounds.compared_min);
    at_most(kind, new - old.unwrap_or(0.0), bound, words)
}

/// Judges the largest change of an output on any gateway, against the release before on the same windows.
fn output_change(bounds: &Bounds, seen: &Seen) -> Gate {
    let kind = GateKind::OutputChange;
    let compared: u64 = seen.counts.iter().map(|counts| counts.compared).sum();
    let largest = seen.counts.iter().filter(|counts| counts.compared > 0).map(|counts| counts.difference_max);
    let Some(value) = largest.max_by(f64::total_cmp) else {
        // Where nothing ran before there is nothing to compare with: it must not wait for ever.
        let words = "no prediction was compared with the release before".to_owned();
        return gate(kind, None, bounds.output_change, Verdict::Pass, words);
    };
    let words =
        format!("an output changed by at most {value:.3} of its size over {compared} compared predictions");
    at_most(kind, value, bounds.output_change, words)
}
