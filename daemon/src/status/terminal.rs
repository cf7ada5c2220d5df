//! The status report as text for a terminal of 80 columns.
//!
//! Only lays out: every figure comes from the report. Every text from outside is escaped and cut, so no topic, label or
//! error of a peer can write to the terminal. Ends the flow of `dunlind status` and `dunlind sources`.

use std::collections::BTreeMap;
use std::fmt::Write;

use comfy_table::{ContentArrangement, Table, presets};

use crate::link::link_board::LinkReport;
use crate::status::escape::{shortened, terminal_safe};
use crate::status::report::{SourceReport, SpanRates, StatusReport, StoreReport};
use crate::upload::UploadReport;

/// Columns of the text.
pub const COLUMNS: u16 = 80;
/// Longest error on a line of its own, so that it stays readable when wrapped.
const ERROR_CHARS_MAX: usize = 240;
/// Longest name of a source, model or broker.
const NAME_CHARS_MAX: usize = 40;

/// Returns the report as text, with a line end after the last line.
#[must_use]
pub fn render_status(report: &StatusReport) -> String {
    let mut text = String::new();
    push_head(&mut text, report);
    push_brokers(&mut text, report);
    push_slots(&mut text, report);
    push_sources(&mut text, &report.sources);
    push_drift(&mut text, report);
    push_store(&mut text, &report.store);
    push_errors(&mut text, report);
    text
}

/// Returns the counts by source as text.
#[must_use]
pub fn render_sources(sources: &BTreeMap<String, SourceReport>) -> String {
    let mut text = String::new();
    push_sources(&mut text, sources);
    text
}

/// Returns the refused payloads by source and reason as text.
#[must_use]
pub fn render_source_errors(sources: &BTreeMap<String, SourceReport>) -> String {
    let mut text = String::new();
    for (name, source) in sources {
        for (reason, count) in &source.refused {
            line(&mut text, &format!("{}  {reason}  {}", name_of(name), grouped(*count)));
            if let Some(sample) = source.samples.get(reason) {
                line(&mut text, &format!("  topic    {}", shortened(&sample.topic, ERROR_CHARS_MAX)));
                line(&mut text, &format!("  detail   {}", shortened(&sample.detail, ERROR_CHARS_MAX)));
                line(&mut text, &format!("  payload  {}", shortened(&sample.payload, ERROR_CHARS_MAX)));
            }
        }
    }
    if text.is_empty() {
        text.push_str("No payload was refused.\n");
    }
    text
}

fn push_head(text: &mut String, report: &StatusReport) {
    line(
        text,
        &format!(
            "Gateway {}: dunlind {}, process {}, up {}",
            name_of(&report.gateway),
            terminal_safe(&report.version),
            report.pid,
            duration(report.uptime_seconds)
        ),
    );
    line(text, &format!("State   {}", terminal_safe(&report.state_dir)));
    if report.safe_mode {
        line(text, "Safe mode: only good releases run; see `dunlind models`");
    }
    if let Some(link) = &report.fleet {
        push_link(text, link);
    }
    text.push('\n');
    let mut table = new_table(&["", "total", "a second (10 s)", "a second (5 min)"]);
    for (name, total, rates) in [
        ("messages", report.messages, report.rates.messages),
        ("readings", report.readings, report.rates.readings),
        ("predictions", report.predictions, report.rates.predictions),
    ] {
        let SpanRates { last_10s, last_5m } = rates;
        table.add_row([name.to_owned(), grouped(total), rate(last_10s), rate(last_5m)]);
    }
    push_table(text, &table);
    let queues = &report.queues;
    line(
        text,
        &format!(
            "Predictions: {} invalid; published {}, acknowledged {}, sent again {}",
            grouped(report.predictions_invalid),
            grouped(report.published),
            grouped(report.published_acked),
            grouped(report.republished)
        ),
    );
    line(
        text,
        &format!(
            "Latency: p50 {}, p95 {}, p99 {}",
            seconds(report.latency_seconds.p50),
            seconds(report.latency_seconds.p95),
            seconds(report.latency_seconds.p99)
        ),
    );
    line(
        text,
        &format!(
            "Waiting: {} messages, {} windows, {} steps, {} publications; {} in flight",
            queues.deliveries, queues.windows, queues.steps, queues.publications, report.in_flight
        ),
    );
    line(text, &format!("Series: {}", report.series));
    text.push('\n');
}

fn push_link(text: &mut String, link: &LinkReport) {
    line(text, &format!("Fleet   {}: {}", shortened(&link.url, ERROR_CHARS_MAX), terminal_safe(&link.state)));
    line(text, &format!("        gateway {}", terminal_safe(&link.device)));
    if link.state == "pending" {
        line(text, &format!("        to be accepted by its words: {}", terminal_safe(&link.words)));
    }
    if let Some(settings) = &link.settings {
        let why = settings.detail.as_ref().map(|why| format!(": {}", shortened(why, ERROR_CHARS_MAX)));
        let state = terminal_safe(&settings.state);
        line(text, &format!("        settings {} {state}{}", settings.revision, why.unwrap_or_default()));
    }
    if let Some(error) = &link.last_error {
        line(text, &format!("        {}", shortened(error, ERROR_CHARS_MAX)));
    }
    push_upload(text, &link.upload);
}

fn push_upload(text: &mut String, upload: &UploadReport) {
    let rows: Vec<String> = upload
        .waiting
        .iter()
        .map(|(stream, rows)| format!("{} {}", grouped(*rows), terminal_safe(stream)))
        .collect();
    if !rows.is_empty() {
        line(text, &format!("        to be uploaded: {}", rows.join(", ")));
    }
    if upload.spent_bytes.is_empty() {
        return;
    }
    let spent: u64 = upload.spent_bytes.values().sum();
    let of_budget = match upload.budget_bytes {
        None => String::new(),
        Some(budget) => {
            format!(" of {}; {}", bytes(budget as f64), terminal_safe(&upload.step).replace('_', " "))
        }
    };
    let by_purpose: Vec<String> = upload
        .spent_bytes
        .iter()
        .map(|(purpose, spent)| format!("{} {}", terminal_safe(purpose), bytes(*spent as f64)))
        .collect();
    let month = terminal_safe(&upload.month);
    line(text, &format!("        {month}: {}{of_budget} ({})", bytes(spent as f64), by_purpose.join(", ")));
}

fn push_brokers(text: &mut String, report: &StatusReport) {
    if report.brokers.is_empty() {
        return;
    }
    let mut table = new_table(&["broker", "state", "address", "messages", "in flight", "dropped"]);
    for (name, broker) in &report.brokers {
        table.add_row([
            name_of(name),
            if broker.connected { "connected" } else { "away" }.to_owned(),
            shortened(&broker.url, NAME_CHARS_MAX),
            grouped(broker.messages),
            grouped(broker.in_flight),
            grouped(broker.dropped),
        ]);
    }
    push_table(text, &table);
    text.push('\n');
}

fn push_slots(text: &mut String, report: &StatusReport) {
    if !report.slots.is_empty() {
        push_slot_table(text, report);
    }
    for (name, model) in &report.idle_models {
        let (phase, remedy) = (shortened(&model.phase, 16), shortened(&model.remedy, ERROR_CHARS_MAX));
        line(text, &format!("Model {} predicts nothing ({phase}): {remedy}", name_of(name)));
    }
    if !report.idle_models.is_empty() {
        text.push('\n');
    }
}

fn push_slot_table(text: &mut String, report: &StatusReport) {
    let mut table =
        new_table(&["model", "version", "state", "windows", "failed", "rows refused", "starts", "memory"]);
    for (model, slot) in &report.slots {
        table.add_row([
            name_of(model),
            shortened(&slot.version, 16),
            shortened(&slot.state, 16),
            grouped(slot.windows),
            grouped(slot.failed.values().sum()),
            grouped(slot.rows_refused.values().sum()),
            grouped(slot.starts),
            bytes(slot.resident_bytes as f64),
        ]);
    }
    push_table(text, &table);
    text.push('\n');
}

fn push_sources(text: &mut String, sources: &BTreeMap<String, SourceReport>) {
    if sources.is_empty() {
        return;
    }
    let mut table = new_table(&["source", "messages", "accepted", "refused"]);
    for (name, source) in sources {
        let refused: Vec<String> = source
            .refused
            .iter()
            .map(|(reason, count)| format!("{} {}", terminal_safe(reason), grouped(*count)))
            .collect();
        let refused = if refused.is_empty() { "0".to_owned() } else { refused.join(", ") };
        table.add_row([name_of(name), grouped(source.messages), grouped(source.accepted), refused]);
    }
    push_table(text, &table);
    text.push('\n');
}

/// Faulty sensors are named; without any, and without a package with a profile, there is nothing to show.
fn push_drift(text: &mut String, report: &StatusReport) {
    let drift = &report.drift;
    if drift.sensors == 0 {
        return;
    }
    let pending = report.fleet.as_ref().and_then(|link| link.upload.waiting.get("statistics"));
    let pending = pending.map(|count| format!(", {} to be uploaded", grouped(*count)));
    let (reported, open) = (grouped(drift.windows_reported), grouped(drift.windows_open));
    let faulty: Vec<String> =
        drift.faulty.iter().map(|(flaw, count)| format!("{count} {}", terminal_safe(flaw))).collect();
    let faulty = if faulty.is_empty() { "none faulty".to_owned() } else { faulty.join(", ") };
    line(text, &format!("Windows: {reported} reported, {open} open{}", pending.unwrap_or_default()));
    line(text, &format!("Sensors: {} watched, {faulty}", grouped(drift.sensors)));
    for (series, field, flaw) in &drift.shown {
        let name = shortened(&format!("{series} {field}"), ERROR_CHARS_MAX);
        line(text, &format!("        {name}: {}", terminal_safe(flaw)));
    }
    text.push('\n');
}

fn push_store(text: &mut String, store: &StoreReport) {
    line(
        text,
        &format!(
            "Store: {}; {} of {} used, {} free on the card, {} quarantined",
            terminal_safe(&store.state),
            bytes(store.used_bytes as f64),
            bytes(store.quota_bytes as f64),
            bytes(store.free_bytes as f64),
            store.quarantined
        ),
    );
    let known = |value: Option<f64>, unit: &str| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}{unit}"))
    };
    line(
        text,
        &format!(
            "Written: {}; {} a prediction, {} a day, card life {}",
            bytes(store.written_bytes as f64),
            store.bytes_per_prediction.map_or_else(|| "-".to_owned(), bytes),
            known(store.megabytes_per_day, " MB"),
            known(store.card_life_years, " years")
        ),
    );
    let lost: Vec<String> = store
        .lost
        .iter()
        .map(|(what, count)| format!("{} {}", terminal_safe(what), grouped(*count)))
        .collect();
    line(text, &format!("Lost: {}", if lost.is_empty() { "nothing".to_owned() } else { lost.join(", ") }));
}

fn push_errors(text: &mut String, report: &StatusReport) {
    let mut errors: Vec<(String, String)> = Vec::new();
    if let Some(error) = &report.store.last_error {
        errors.push(("store".to_owned(), error.clone()));
    }
    for (name, broker) in &report.brokers {
        errors.extend(broker.last_error.iter().map(|error| (format!("broker {name}"), error.clone())));
    }
    for (name, slot) in &report.slots {
        errors.extend(slot.last_error.iter().map(|error| (format!("model {name}"), error.clone())));
    }
    for (name, source) in &report.sources {
        errors.extend(source.last_error.iter().map(|error| {
            (format!("source {name}"), format!("{}: {} (topic {})", error.reason, error.detail, error.topic))
        }));
    }
    if errors.is_empty() {
        return;
    }
    text.push_str("\nLast errors\n");
    for (object, error) in errors {
        line(text, &format!("  {}: {}", name_of(&object), shortened(&error, ERROR_CHARS_MAX)));
    }
}

/// Returns an empty table of the house form: columns without lines, at most 80 wide.
#[must_use]
pub fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(COLUMNS)
        .set_header(header.to_vec());
    table
}

fn push_table(text: &mut String, table: &Table) {
    for row in table.lines() {
        text.push_str(row.trim_end());
        text.push('\n');
    }
}

/// Adds a line, wrapped at 80 columns with its continuation indented.
fn line(text: &mut String, content: &str) {
    let mut column = 0_usize;
    for (index, word) in content.split(' ').enumerate() {
        let length = word.chars().count();
        if index > 0 && column + 1 + length > usize::from(COLUMNS) {
            text.push_str("\n   ");
            column = 3;
        }
        if index > 0 {
            text.push(' ');
            column += 1;
        }
        for c in word.chars() {
            if column == usize::from(COLUMNS) {
                text.push_str("\n    ");
                column = 4;
            }
            text.push(c);
            column += 1;
        }
    }
    text.push('\n');
}

fn name_of(name: &str) -> String {
    shortened(name, NAME_CHARS_MAX)
}

/// Returns a number with its thousands grouped.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"))
}

fn seconds(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 1e-3 => format!("{:.0} µs", value * 1e6),
        Some(value) if value < 1.0 => format!("{:.1} ms", value * 1e3),
        Some(value) => format!("{value:.2} s"),
    }
}

fn bytes(value: f64) -> String {
    let (mut value, mut unit) = (value, "B");
    for larger in ["kB", "MB", "GB", "TB"] {
        if value < 1_000.0 {
            break;
        }
        value /= 1_000.0;
        unit = larger;
    }
    if unit == "B" { format!("{value:.0} B") } else { format!("{value:.1} {unit}") }
}

fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
    let mut text = String::new();
    let parts = [(days, "d"), (hours, "h"), (minutes, "m"), (whole % 60, "s")];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    for (count, unit) in parts.iter().skip(first).take(2) {
        let _ = write!(text, "{}{count}{unit}", if text.is_empty() { "" } else { " " });
    }
    text
}

#[cfg(test)]
#[path = "terminal/tests.rs"]
mod tests;
