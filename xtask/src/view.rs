//! What the demo shows: one row a machine, rates and latencies; as a picture that is redrawn, or as plain lines.
//!
//! Holds what was last seen of each machine and draws it. Talks to no program.

use std::collections::{BTreeMap, VecDeque};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Latencies that quantiles are computed of: a few seconds of the demo.
const LATENCIES_KEPT: usize = 2_000;
/// Score at which the bar is full: twice the example's threshold.
const SCORE_FULL: f64 = 0.1;
const BAR_CELLS: usize = 20;

#[derive(Default)]
struct Row {
    temperature_f: f64,
    failing: bool,
    score: Option<f64>,
    label: String,
    predictions: u64,
}

/// What is shown.
pub(crate) struct View {
    started: Instant,
    redraw: bool,
    lines_drawn: usize,
    rows: BTreeMap<String, Row>,
    sent: BTreeMap<(String, u64), Instant>,
    latencies: VecDeque<Duration>,
    readings: u64,
    predictions: u64,
    alerts: u64,
    last_alert: Option<String>,
}

impl View {
    /// Returns an empty view of this terminal.
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            redraw: std::io::stdout().is_terminal(),
            lines_drawn: 0,
            rows: BTreeMap::new(),
            sent: BTreeMap::new(),
            latencies: VecDeque::new(),
            readings: 0,
            predictions: 0,
            alerts: 0,
            last_alert: None,
        }
    }

    /// Returns how often the view is to be drawn.
    pub(crate) fn interval(&self) -> Duration {
        if self.redraw { Duration::from_millis(200) } else { Duration::from_secs(1) }
    }

    /// Notes that a reading is about to be published.
    pub(crate) fn reading(&mut self, machine: &str, at_s: u64, temperature_f: f64, failing: bool) {
        let row = self.rows.entry(machine.to_owned()).or_default();
        row.temperature_f = temperature_f;
        row.failing = failing;
        self.readings += 1;
        self.sent.insert((machine.to_owned(), at_s), Instant::now());
        if self.sent.len() > LATENCIES_KEPT {
            self.sent.pop_first();
        }
    }

    /// Notes a published message of the daemon.
    pub(crate) fn message(&mut self, topic: &str, payload: &str) {
        let Some(machine) = topic.rsplit('/').next().filter(|machine| self.rows.contains_key(*machine))
        else {
            return;
        };
        let value: Value = serde_json::from_str(payload).unwrap_or(Value::Null);
        if topic.contains("/alerts/") {
            self.alerts += 1;
            self.last_alert = Some(format!("{machine} at {}", text_of(&value["window_end"])));
            return;
        }
        let Some(row) = self.rows.get_mut(machine) else { return };
        row.score = first_number(&value["outputs"]);
        row.label = value["label"].as_str().unwrap_or("-").to_owned();
        row.predictions += 1;
        self.predictions += 1;
        let sent =
            seconds_of(&value["window_end"]).and_then(|at| self.sent.remove(&(machine.to_owned(), at)));
        if let Some(sent) = sent {
            self.latencies.push_back(sent.elapsed());
            if self.latencies.len() > LATENCIES_KEPT {
                self.latencies.pop_front();
            }
        }
    }

    /// Draws what is known.
    pub(crate) fn draw(&mut self) {
        let lines = if self.redraw { self.picture() } else { vec![self.line()] };
        let mut out = String::new();
        if self.lines_drawn > 0 {
            out.push_str(&format!("\x1b[{}A", self.lines_drawn));
        }
        for line in &lines {
            out.push_str(line);
            out.push_str(if self.redraw { "\x1b[K\n" } else { "\n" });
        }
        if self.redraw {
            self.lines_drawn = lines.len();
        }
        // A closed terminal ends the demo by itself; there is nobody to tell.
        let _ = std::io::stdout().write_all(out.as_bytes()).and_then(|()| std::io::stdout().flush());
    }

    fn picture(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{:<10} {:>10}  {:<BAR_CELLS$} {:>8}  {:<9} {:>11}",
            "machine", "reading", "score", "", "label", "predictions"
        )];
        for (name, row) in &self.rows {
            let score = row.score.unwrap_or(0.0);
            let filled = ((score / SCORE_FULL).clamp(0.0, 1.0) * BAR_CELLS as f64) as usize;
            let colour = if row.label == "anomaly" { "\x1b[31m" } else { "\x1b[32m" };
            lines.push(format!(
                "{name:<10} {:>7.1} °F  {colour}{:<BAR_CELLS$}\x1b[0m {score:>8.4}  {colour}{:<9}\x1b[0m {:>11}{}",
                row.temperature_f,
                "█".repeat(filled),
                if row.score.is_some() { row.label.as_str() } else { "filling" },
                row.predictions,
                if row.failing { "  (cooling fails)" } else { "" },
            ));
        }
        lines.push(self.totals());
        lines.push(format!("last alert: {}", self.last_alert.as_deref().unwrap_or("none")));
        lines
    }

    fn line(&self) -> String {
        let rows: Vec<String> = self
            .rows
            .iter()
            .map(|(name, row)| match row.score {
                Some(score) => format!("{name} {:.1} °F score {score:.4} {}", row.temperature_f, row.label),
                None => format!("{name} {:.1} °F filling", row.temperature_f),
            })
            .collect();
        format!("{} | {}", rows.join(" | "), self.totals())
    }

    fn totals(&self) -> String {
        let seconds = self.started.elapsed().as_secs_f64().max(1.0);
        let mut sorted: Vec<Duration> = self.latencies.iter().copied().collect();
        sorted.sort();
        let quantile = |q: f64| {
            sorted
                .get(((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1)))
                .map_or_else(|| "-".to_owned(), |latency| format!("{:.1} ms", latency.as_secs_f64() * 1e3))
        };
        format!(
            "{seconds:.0} s: {:.0} readings/s, {:.0} predictions/s, latency p50 {}, p99 {}",
            self.readings as f64 / seconds,
            self.predictions as f64 / seconds,
            quantile(0.5),
            quantile(0.99)
        )
    }

    /// Prints what there was, and returns the number of predictions.
    pub(crate) fn finish(&self) -> u64 {
        println!(
            "\n{} readings published, {} predictions and {} alerts received\n{}",
            self.readings,
            self.predictions,
            self.alerts,
            self.totals()
        );
        self.predictions
    }
}

/// Returns the first number inside a value, however deep.
fn first_number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::Array(values) => values.iter().find_map(first_number),
        Value::Object(values) => values.values().find_map(first_number),
        _ => None,
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Returns the whole seconds since 1970 of a time written as RFC 3339 in UTC, or as a number of s, ms or µs.
fn seconds_of(value: &Value) -> Option<u64> {
    if let Some(number) = value.as_u64() {
        return Some(match number {
            0..100_000_000_000 => number,
            100_000_000_000..100_000_000_000_000 => number / 1_000,
            _ => number / 1_000_000,
        });
    }
    let text = value.as_str()?;
    let part = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (part(0..4)?, part(5..7)?, part(8..10)?);
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    let time = part(11..13)? * 3_600 + part(14..16)? * 60 + part(17..19)?;
    // 719,469 days lie between 0000-02-29 and 1970-01-01.
    Some(days.checked_sub(719_469)? * 86_400 + time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::rfc3339;

    #[test]
    fn window_ends_are_found_in_every_spelling() {
        for seconds in [1_420_437_600_u64, 951_782_400, 1_709_164_800] {
            assert_eq!(seconds_of(&Value::from(rfc3339(seconds))), Some(seconds));
            assert_eq!(seconds_of(&Value::from(seconds)), Some(seconds));
            assert_eq!(seconds_of(&Value::from(seconds * 1_000)), Some(seconds));
            assert_eq!(seconds_of(&Value::from(seconds * 1_000_000)), Some(seconds));
        }
        assert_eq!(seconds_of(&Value::from("yesterday")), None);
    }

    #[test]
    fn scores_are_found_at_any_depth() {
        assert_eq!(first_number(&serde_json::json!({ "score": [0.25] })), Some(0.25));
        assert_eq!(first_number(&serde_json::json!({ "score": 0.5 })), Some(0.5));
        assert_eq!(first_number(&Value::Null), None);
    }

    #[test]
    fn a_prediction_is_matched_with_its_reading() {
        let mut view = View::new();
        view.reading("press-1", 1_420_437_600, 82.0, false);
        let payload =
            r#"{"window_end": "2015-01-05T06:00:00Z", "outputs": {"score": [0.01]}, "label": "normal"}"#;
        view.message("dunlin/g/predictions/machine-temperature/press-1", payload);
        assert_eq!((view.predictions, view.latencies.len()), (1, 1));
    }
}
