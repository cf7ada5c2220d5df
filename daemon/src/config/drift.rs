//! The counting of inputs and outputs: windows, and what of them may leave the gateway.
//!
//! Checks what is written; counts nothing.

use dunlin_drift::privacy::Privacy;
use dunlin_model_package::Span;
use dunlin_pipeline::collect::{CollectSettings, Reporting};

use super::file::{DriftTable, DriftWindow};
use super::finding::Findings;
use super::resolve::{number_in, span_in};
use super::settings::DriftSettings;

const COUNT_MAX: u64 = 1_000_000;
const DAY_S: i64 = 86_400;
/// Below it noise hides everything, above it nothing.
const EPSILON_MIN: f64 = 0.001;
const EPSILON_MAX: f64 = 10.0;
const BUDGET_MAX: f64 = 1_000.0;

/// Turns the table into settings, noting everything that is wrong with it.
pub(super) fn resolve(table: &DriftTable, findings: &mut Findings<'_>) -> DriftSettings {
    let window_s = match table.window {
        DriftWindow::Quarter => 900,
        DriftWindow::Hour => 3_600,
        DriftWindow::Day => DAY_S,
    };
    let grace = span_in(findings, "drift.grace", table.grace, Span::default(), Span::from_secs(DAY_S));
    let mut count =
        |key: &str, number: u32| number_in(findings, &format!("drift.{key}"), number.into(), 1, COUNT_MAX);
    let (values_min, name_min) = (count("min_n", table.min_n), count("rare_names", table.rare_names));
    let epsilon = table.noise_epsilon;
    if let Some(epsilon) = epsilon {
        let windows = (DAY_S / window_s).unsigned_abs();
        check_noise(epsilon, table.noise_budget, windows, findings);
    }
    let collect = CollectSettings {
        span_us: Span::from_secs(window_s).as_micros(),
        grace_us: grace.as_micros(),
        values_min,
        reporting: if epsilon.is_some() { Reporting::Once } else { Reporting::AtEnd },
    };
    DriftSettings {
        collect: table.enabled.then_some(collect),
        privacy: Privacy { values_min, name_min, epsilon },
    }
}

fn check_noise(epsilon: f64, budget: f64, windows: u64, findings: &mut Findings<'_>) {
    let in_range = |number: f64, max: f64| (EPSILON_MIN..=max).contains(&number);
    if !in_range(epsilon, EPSILON_MAX) {
        let message = format!("{epsilon} is out of range");
        findings.error("drift.noise_epsilon", message, format!("write {EPSILON_MIN} to {EPSILON_MAX}"));
    } else if !in_range(budget, BUDGET_MAX) {
        let message = format!("{budget} is out of range");
        findings.error("drift.noise_budget", message, format!("write {EPSILON_MIN} to {BUDGET_MAX}"));
    } else if epsilon * windows as f64 > budget {
        let spent = epsilon * windows as f64;
        let message =
            format!("{windows} windows a day at `noise_epsilon = {epsilon}` spend {spent} of {budget}");
        let hint = "take a longer `window`, a smaller `noise_epsilon` or a larger budget";
        findings.error("drift.noise_budget", message, hint);
    }
}
