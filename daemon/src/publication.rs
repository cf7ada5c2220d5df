//! The JSON form of predictions and alerts, as published, printed by replay and exported as JSON lines.
//!
//! Writes into a buffer that is used again, with everything that is fixed for an instance written once before. Never
//! rounds: numbers read back exactly. Shared by the stage, `replay`, `predict` and `export`.

use std::sync::Arc;

use dunlin_pipeline::prediction::{AlertChange, InstanceIdentity, Prediction, PredictionId, QualityFlags};

/// Longest text of a time: `-292277-01-09T04:00:54.775807Z` with room.
const TIME_BYTES_MAX: usize = 36;

/// The varying part of a prediction's JSON form.
#[derive(Debug, Clone, Copy)]
pub struct PredictionParts<'p> {
    /// Its id.
    pub id: PredictionId,
    /// Event time of the window's last row, in microseconds since 1970.
    pub window_end_us: i64,
    /// The outputs one after the other, flattened; empty when the prediction is not valid.
    pub outputs: &'p [f32],
    /// The label.
    pub label: Option<&'p str>,
    /// The quality flags.
    pub flags: QualityFlags,
}

/// Writes the predictions of one instance.
///
/// *Shape* of a prediction: `{"id","model","version","key":{tag:value},"window_end","outputs":{name:[…]},"label",
/// "quality":[…]}`; of an alert: `{"id","model","key":{…},"alert":"raised"|"cleared","label","window_end"}`. Times are
/// RFC 3339, UTC, with microseconds. Numbers that are not finite are `null`; a prediction that is not valid has no
/// outputs.
#[derive(Debug, Clone)]
pub struct InstanceRenderer {
    topic: Box<str>,
    alert_topic: Option<Box<str>>,
    /// The key as JSON.
    key: Box<[u8]>,
    texts: Arc<ModelTexts>,
}

/// What the renderers of one model have in common; shared, since there may be ten thousand of them.
#[derive(Debug, PartialEq, Eq)]
pub struct ModelTexts {
    /// From after the id to before the key.
    head: Vec<u8>,
    /// From after the id to before the key of an alert.
    alert_head: Vec<u8>,
    /// `"name":[` and the number of values, by output.
    outputs: Vec<(Vec<u8>, usize)>,
    /// The labels as JSON texts.
    labels: Vec<Vec<u8>>,
}

impl ModelTexts {
    fn of(identity: &InstanceIdentity) -> Self {
        let mut head = b"\",\"model\":".to_vec();
        push_text(&mut head, &identity.model);
        let mut alert_head = head.clone();
        head.extend_from_slice(b",\"version\":");
        push_text(&mut head, &identity.version);
        for part in [&mut head, &mut alert_head] {
            part.extend_from_slice(b",\"key\":");
        }
        let outputs = identity.outputs.iter().map(|(name, count)| {
            let mut text = Vec::new();
            push_text(&mut text, name);
            text.extend_from_slice(b":[");
            (text, *count as usize)
        });
        let labels = identity.labels.iter().map(|label| {
            let mut text = Vec::new();
            push_text(&mut text, label);
            text
        });
        Self { head, alert_head, outputs: outputs.collect(), labels: labels.collect() }
    }
}

impl InstanceRenderer {
    /// Returns the renderer of an instance that publishes to these topics.
    #[must_use]
    pub fn new(identity: &InstanceIdentity, topic: String, alert_topic: Option<String>) -> Self {
        let mut key = Vec::new();
        for (index, (tag, value)) in identity.key.iter().enumerate() {
            key.push(if index == 0 { b'{' } else { b',' });
            push_text(&mut key, tag);
            key.push(b':');
            push_text(&mut key, value);
        }
        key.extend_from_slice(if identity.key.is_empty() { b"{}" } else { b"}" });
        Self {
            topic: topic.into(),
            alert_topic: alert_topic.map(Into::into),
            key: key.into(),
            texts: Arc::new(ModelTexts::of(identity)),
        }
    }

    /// Shares the model's texts with other renderers: takes equal ones from `known`, or adds its own.
    pub fn share_texts(&mut self, known: &mut Vec<Arc<ModelTexts>>) {
        match known.iter().find(|texts| **texts == self.texts) {
            Some(texts) => self.texts = Arc::clone(texts),
            None => known.push(Arc::clone(&self.texts)),
        }
    }

    /// Returns the topic of predictions.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Returns the topic of alerts, where the model has some.
    #[must_use]
    pub fn alert_topic(&self) -> Option<&str> {
        self.alert_topic.as_deref()
    }

    /// Appends the JSON form of a prediction of this instance.
    pub fn render(&self, prediction: &Prediction, out: &mut Vec<u8>) {
        let parts = PredictionParts {
            id: prediction.id,
            window_end_us: prediction.head.window_end_us,
            outputs: &prediction.outputs,
            label: None,
            flags: prediction.head.flags,
        };
        self.push_prediction(&parts, self.label_text(prediction.label), out);
    }

    /// Appends the JSON form of a stored prediction of this instance, whose label is a text.
    pub fn render_parts(&self, parts: &PredictionParts<'_>, out: &mut Vec<u8>) {
        let mut label = Vec::new();
        match parts.label {
            Some(text) => push_text(&mut label, text),
            None => label.extend_from_slice(b"null"),
        }
        self.push_prediction(parts, &label, out);
    }

    /// Appends the JSON form of the alert that a prediction of this instance changed.
    pub fn render_alert(&self, prediction: &Prediction, change: AlertChange, out: &mut Vec<u8>) {
        push_id(out, prediction.id);
        out.extend_from_slice(&self.texts.alert_head);
        out.extend_from_slice(&self.key);
        out.extend_from_slice(b",\"alert\":\"");
        out.extend_from_slice(alert_text(change).as_bytes());
        out.extend_from_slice(b"\",\"label\":");
        out.extend_from_slice(self.label_text(prediction.label));
        out.extend_from_slice(b",\"window_end\":\"");
        push_time(out, prediction.head.window_end_us);
        out.extend_from_slice(b"\"}");
    }

    fn label_text(&self, label: Option<u16>) -> &[u8] {
        label.and_then(|position| self.texts.labels.get(usize::from(position))).map_or(b"null", Vec::as_slice)
    }

    fn push_prediction(&self, parts: &PredictionParts<'_>, label: &[u8], out: &mut Vec<u8>) {
        push_id(out, parts.id);
        out.extend_from_slice(&self.texts.head);
        out.extend_from_slice(&self.key);
        out.extend_from_slice(b",\"window_end\":\"");
        push_time(out, parts.window_end_us);
        out.extend_from_slice(b"\",\"outputs\":{");
        let mut rest = if parts.flags.is_valid() { parts.outputs } else { &[] };
        if !rest.is_empty() {
            for (index, (name, count)) in self.texts.outputs.iter().enumerate() {
                let (values, others) = rest.split_at((*count).min(rest.len()));
                rest = others;
                if index > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(name);
                push_values(out, values);
                out.push(b']');
            }
        }
        out.extend_from_slice(b"},\"label\":");
        out.extend_from_slice(label);
        out.extend_from_slice(b",\"quality\":[");
        for (index, name) in parts.flags.names().enumerate() {
            out.extend_from_slice(if index == 0 { b"\"" } else { b",\"" });
            out.extend_from_slice(name.as_bytes());
            out.push(b'"');
        }
        out.extend_from_slice(b"]}");
    }
}

/// Returns the text of an alert's change in JSON, tables and CSV.
#[must_use]
pub const fn alert_text(change: AlertChange) -> &'static str {
    match change {
        AlertChange::Raised => "raised",
        AlertChange::Cleared => "cleared",
    }
}

/// Returns a time in microseconds since 1970 as RFC 3339 text, UTC, with microseconds.
#[must_use]
pub fn time_text(micros: i64) -> String {
    let mut out = Vec::with_capacity(TIME_BYTES_MAX);
    push_time(&mut out, micros);
    out.into_iter().map(char::from).collect()
}

fn push_id(out: &mut Vec<u8>, id: PredictionId) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"{\"id\":\"");
    for byte in id.0 {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// Appends numbers separated by commas; not finite ones are `null`.
pub(crate) fn push_values(out: &mut Vec<u8>, values: &[f32]) {
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, value)
            .expect("a number is always JSON, and a Vec takes every write");
    }
}

/// Appends a text as JSON.
pub(crate) fn push_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(&mut *out, text).expect("a text is always JSON, and a Vec takes every write");
}

/// Appends a time; years beyond 9999 get more digits, years before 0 a sign.
///
/// *Source*: the algorithm `civil_from_days` of Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn push_time(out: &mut Vec<u8>, micros: i64) {
    const DAY_MICROS: i64 = 86_400_000_000;
    let (days, of_day) = (micros.div_euclid(DAY_MICROS), micros.rem_euclid(DAY_MICROS));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if year < 0 {
        out.push(b'-');
    }
    if year.abs() > 9_999 {
        out.extend_from_slice((year.abs() / 10_000).to_string().as_bytes());
    }
    push_digits::<4>(out, year.abs());
    for (separator, value) in [
        (b'-', month),
        (b'-', day),
        (b'T', of_day / 3_600_000_000),
        (b':', of_day / 60_000_000 % 60),
        (b':', of_day / 1_000_000 % 60),
    ] {
        out.push(separator);
        push_digits::<2>(out, value);
    }
    out.push(b'.');
    push_digits::<6>(out, of_day % 1_000_000);
    out.push(b'Z');
}

/// Appends the last `N` decimal digits of a number that is not negative.
fn push_digits<const N: usize>(out: &mut Vec<u8>, mut value: i64) {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&digits);
}

#[cfg(test)]
#[path = "publication/tests.rs"]
mod tests;
