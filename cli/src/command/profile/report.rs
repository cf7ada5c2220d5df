//! What `dunlin profile build` says of the data: how much there was, what was wrong with it, and what is not calibrated.
//!
//! Counts and sentences only; never a value of a reading.

use std::collections::BTreeMap;
use std::path::Path;

use dunlin_drift::reference::SPANS_S;
use dunlin_drift::summary::Flaw;
use dunlin_model_package::profile::Profile;
use dunlin_model_package::profile::making::{BLOCKS_MIN, FieldSeen, Seen};
use dunlin_trust::time::UnixTime;

use crate::print;
use crate::profile::chart::{number, span_text};
use crate::profile::gathering::Gathered;
use crate::profile::run::Predicted;

/// Largest share of faulty readings that nobody is warned of.
const FAULTS_SHARE_MAX: f64 = 0.01;

/// What is told of the data beside the profile.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Told {
    outside: u64,
    repeated: u64,
    invalid: u64,
    refused: BTreeMap<&'static str, u64>,
}

impl Told {
    pub(super) fn of(gathered: &Gathered, predicted: &Predicted) -> Self {
        Self {
            outside: gathered.outside,
            repeated: gathered.repeated,
            invalid: predicted.invalid,
            refused: predicted.refused.clone(),
        }
    }
}

pub(super) fn tell(path: &Path, bytes: usize, profile: &Profile, seen: &Seen, told: &Told) {
    let made_of = &profile.made_of;
    let time = |us: i64| UnixTime(us.div_euclid(1_000_000));
    let days = made_of.to_us.saturating_sub(made_of.from_us) as f64 / 86_400e6;
    print::line(&format!("wrote `{}`, {bytes} bytes", path.display()));
    print::line(&format!(
        "  {} readings of {} series, {} to {} ({days:.1} days)",
        made_of.rows,
        made_of.series,
        time(made_of.from_us),
        time(made_of.to_us)
    ));
    if seen.predictions > 0 {
        print::line(&format!("  {} predictions, {} of them labelled", seen.predictions, seen.labelled));
    }
    if !profile.metrics.is_empty() {
        let metric = |(name, value): (&String, &f64)| format!("{name} {}", number(*value));
        print::line(&format!("  {}", profile.metrics.iter().map(metric).collect::<Vec<_>>().join(", ")));
    }
    if let Some(scores) = &profile.scores {
        print::line(&format!(
            "  estimates of accuracy from `{}` were wrong by {:.1} points on held-back blocks",
            scores.output,
            scores.error * 100.0
        ));
    }
    let width = seen.fields.keys().map(|name| name.chars().count()).max().unwrap_or(0);
    for (name, field) in &seen.fields {
        print::line(&format!("  {name:width$}  {} values, {}", field.values, blocks(field)));
        if !field.flaws.is_empty() {
            let flaw = |(flaw, count): (&Flaw, &u64)| format!("{count} {}", flaw.word());
            let flaws: Vec<String> = field.flaws.iter().map(flaw).collect();
            print::line(&format!("  {:width$}  {}", "", flaws.join(", ")));
        }
    }
    notes(seen, told);
}

fn blocks(field: &FieldSeen) -> String {
    let text = |(span_s, count): (&u64, &usize)| format!("{count} of {}", span_text(*span_s));
    let texts: Vec<String> = field.blocks.iter().map(text).collect();
    format!("blocks: {}", texts.join(", "))
}

/// Warns of fields whose readings look faulty so often that it may be the world, and not the sensor.
fn warn_of_faults(seen: &Seen) {
    for (name, field) in &seen.fields {
        let is_fault = |flaw: &Flaw| !matches!(flaw, Flaw::Missing | Flaw::Gap);
        let faults: u64 = field.flaws.iter().filter(|(flaw, _)| is_fault(flaw)).map(|(_, count)| count).sum();
        let share = faults as f64 / (faults + field.values).max(1) as f64;
        if share > FAULTS_SHARE_MAX {
            print::note(&format!(
                "warning: {:.1} % of the readings of `{name}` look like a fault of the sensor and are left out; look at them, or give other data",
                share * 100.0
            ));
        }
    }
}

fn notes(seen: &Seen, told: &Told) {
    warn_of_faults(seen);
    for span_s in SPANS_S {
        let is_short = |field: &FieldSeen| field.blocks.get(&span_s).is_none_or(|count| *count < BLOCKS_MIN);
        let short: Vec<&str> =
            seen.fields.iter().filter(|(_, field)| is_short(field)).map(|(name, _)| name.as_str()).collect();
        if !short.is_empty() {
            print::note(&format!(
                "note: windows of {} are not calibrated for {}: fewer than {BLOCKS_MIN} blocks with 20 values each",
                span_text(span_s),
                short.join(", ")
            ));
        }
    }
    if told.outside > 0 {
        print::note(&format!("note: {} row(s) are outside of `--since` and `--until`", told.outside));
    }
    if told.repeated > 0 {
        print::note(&format!(
            "note: {} row(s) have a time that their series had already; the first was taken",
            told.repeated
        ));
    }
    if told.invalid > 0 {
        print::note(&format!("warning: {} prediction(s) have outputs that are not finite", told.invalid));
    }
    if !told.refused.is_empty() {
        let refused: Vec<String> =
            told.refused.iter().map(|(reason, count)| format!("{count} × {reason}")).collect();
        print::note(&format!("note: not every reading led to a row of the model: {}", refused.join(", ")));
    }
    seen.notes.iter().for_each(|note| print::note(&format!("note: {note}")));
}
