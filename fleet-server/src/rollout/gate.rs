//! Gates: what must hold of the gateways that have the release already.
//!
//! Each shows a value, its bound and a verdict. A gateway that found the release bad itself counts at the gate that its
//! cause belongs to, so that a halt names what is wrong and not just that something is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::facts::{Counts, DeviceFacts, Standing};
use super::spec::{Bounds, RolloutSpec};

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
    /// Predictions that are not finite, failed or were withheld.
    Invalid,
    /// The release answers otherwise than the one before.
    Agreement,
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

/// What the gates look at.
#[derive(Debug, Default)]
struct Seen {
    members: usize,
    settled: usize,
    failures: BTreeMap<GateKind, Vec<String>>,
    counts: Vec<Counts>,
    old: Vec<Counts>,
}

/// Returns all gates. `members` are the gateways that were given the release, with the cause where one counts as failed
/// for not coming to an end, and the release that each had before by model.
#[must_use]
pub fn judge<'f>(
    spec: &RolloutSpec,
    members: impl Iterator<Item = (Option<&'f DeviceFacts>, Option<&'f str>, &'f BTreeMap<String, String>)>,
) -> Vec<Gate> {
    let mut seen = Seen::default();
    for (device, overdue, before) in members {
        seen.members += 1;
        let standing = device.map_or(Standing::Untouched, |device| device.standing_of_all(&spec.releases));
        let cause = match &standing {
            Standing::Bad(cause) => Some(cause.as_str()),
            _ => overdue,
        };
        if let Some(cause) = cause {
            seen.failures.entry(gate_of(cause)).or_default().push(cause.to_owned());
        }
        seen.settled += usize::from(cause.is_some() || standing == Standing::Good);
        let Some(device) = device else { continue };
        for release in &spec.releases {
            let Some(model) = device.models.get(&release.model) else { continue };
            seen.counts.extend(model.counts.get(&release.digest));
            seen.old.extend(before.get(&release.model).and_then(|digest| model.counts.get(digest)));
        }
    }
    let bounds = &spec.gates;
    vec![
        failures(bounds, &seen, GateKind::Install),
        failures(bounds, &seen, GateKind::Restarts),
        worse(failures(bounds, &seen, GateKind::Latency), latency(bounds, &seen)),
        worse(failures(bounds, &seen, GateKind::Invalid), invalid(bounds, &seen)),
        worse(failures(bounds, &seen, GateKind::Agreement), agreement(bounds, &seen)),
    ]
}

/// Returns the one that says more: the failures where they fail, else what was measured.
fn worse(failures: Gate, measured: Gate) -> Gate {
    if failures.verdict == Verdict::Fail { failures } else { measured }
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
    let is_share_high = seen.settled >= SHARE_MIN
        && wilson_low(count, seen.settled) > (borne as f64 / seen.members.max(1) as f64);
    let verdict = if count > borne || is_share_high { Verdict::Fail } else { Verdict::Pass };
    let words = match causes.first() {
        Some(cause) => format!(
            "{count} of {} gateways failed, {borne} are borne; the first with `{cause}`",
            seen.members
        ),
        None => format!("none of {} gateways failed", seen.members),
    };
    Gate { kind, value: Some(count as f64), bound: Some(borne as f64), verdict, words }
}

/// Returns the lower end of the interval of a share.
fn wilson_low(count: usize, of: usize) -> f64 {
    let (n, share) = (of as f64, count as f64 / of as f64);
    let middle = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    (middle - half) / (1.0 + Z * Z / n)
}

fn gate(kind: GateKind, value: Option<f64>, bound: Option<f64>, verdict: Verdict, words: String) -> Gate {
    Gate { kind, value, bound, verdict, words }
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
        (None, ..) => gate(kind, None, None, Verdict::Wait, "no gateway reported a latency yet".to_owned()),
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
    let words = format!("{invalid} of {total} predictions are not finite, failed or were withheld");
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
