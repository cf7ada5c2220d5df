//! Rows of batches as JSON, for people and their programs.
//!
//! Reads what was kept as it came. A batch was sound when it was taken; one that is not any more is named damaged.

use dunlin_protocol::batch::{AnyColumns, Events, Instance, Labels, Losses, Predictions, Statistics};
use dunlin_protocol::text::TagValue;
use dunlin_protocol::{Batch, Name};
use serde_json::{Map, Value, json};

use crate::store::StoreError;
use crate::store::rows::Piece;

/// Returns the rows of a piece with numbers above `after`, each with its number, at most `limit`.
///
/// *Errors*: [`StoreError::Damaged`].
pub fn rows(piece: &Piece, after: u64, limit: usize) -> Result<Vec<(u64, Value)>, StoreError> {
    let damaged = || StoreError::Damaged(format!("the batch at number {} cannot be read", piece.first));
    let batch: Batch = serde_json::from_slice(&piece.body).map_err(|_| damaged())?;
    let rows = match batch.read_any().map_err(|_| damaged())? {
        AnyColumns::Predictions(columns) => predictions(&columns),
        AnyColumns::Events(columns) => events(&columns),
        AnyColumns::Labels(columns) => labels(&columns),
        AnyColumns::Losses(columns) => losses(&columns),
        AnyColumns::Statistics(columns) => statistics(&columns),
    };
    let numbered = batch.numbers().zip(rows);
    let meant = numbered.filter(|(number, _)| *number > after && (piece.first..=piece.last).contains(number));
    Ok(meant.take(limit).collect())
}

/// Returns a time in microseconds since 1970 as RFC 3339.
fn time(at_us: i64) -> Value {
    jiff::Timestamp::from_microsecond(at_us).map_or(Value::Null, |at| format!("{at:.6}").into())
}

fn word(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

fn key(key: &[(Name, TagValue)]) -> Value {
    let tags = key.iter().map(|(name, value)| (name.as_str().to_owned(), Value::from(value.as_str())));
    tags.collect::<Map<_, _>>().into()
}

fn predictions(columns: &Predictions) -> Vec<Value> {
    let row = |row: dunlin_protocol::batch::PredictionRow<'_>| {
        let instance = columns.instances.get(row.instance as usize);
        let mut outputs = Map::new();
        let mut start = 0;
        for (name, count) in instance.iter().flat_map(|instance| instance.outputs.iter()) {
            let end = start + *count as usize;
            if let Some(values) = row.outputs.get(start..end) {
                outputs.insert(name.as_str().to_owned(), json!(values));
            }
            start = end;
        }
        json!({
            "instance": instance.map(named),
            "window_end": time(row.window_end_us),
            "flags": row.flags,
            "label": columns.label_of(&row).map(|label| label.as_str().to_owned()),
            "outputs": outputs,
        })
    };
    columns.iter().map(row).collect()
}

fn named(instance: &Instance) -> Value {
    json!({
        "model": instance.model.as_str(),
        "version": instance.version.as_str(),
        "package": instance.package.to_string(),
        "key": key(&instance.key),
    })
}

fn events(columns: &Events) -> Vec<Value> {
    let row = |row: dunlin_protocol::batch::EventRow<'_>| {
        json!({
            "at": time(row.at_us),
            "kind": row.kind,
            "severity": row.severity.0,
            "object": word(row.object),
            "words": word(row.words),
        })
    };
    columns.iter().map(row).collect()
}

fn labels(columns: &Labels) -> Vec<Value> {
    let row = |row: dunlin_protocol::batch::LabelRow<'_>| {
        let subject = columns.subjects.get(row.subject as usize);
        json!({
            "model": subject.map(|subject| subject.model.as_str().to_owned()),
            "key": subject.map(|subject| key(&subject.key)),
            "from": time(row.from_us),
            "span_us": row.span_us,
            "label": word(row.label),
            "value": row.value,
            "source": word(row.source),
            "at": time(row.at_us),
        })
    };
    columns.iter().map(row).collect()
}

fn losses(columns: &Losses) -> Vec<Value> {
    let row = |row: dunlin_protocol::batch::LossRow<'_>| {
        json!({
            "kind": row.kind,
            "object": word(row.object),
            "reason": word(row.reason),
            "count": row.count,
            "from": time(row.from_us),
            "span_us": row.span_us,
            "at": time(row.at_us),
            "stream": row.numbers.map(|(stream, _)| stream),
            "numbers": row.numbers.map(|(_, range)| [range.first(), range.last()]),
        })
    };
    columns.iter().map(row).collect()
}

fn statistics(columns: &Statistics) -> Vec<Value> {
    let row = |row: dunlin_protocol::batch::StatisticRow<'_>| {
        let instance = columns.instances.get(row.instance as usize);
        let profile = columns.profiles.get(row.profile as usize);
        json!({
            "instance": instance.map(named),
            "profile": profile.map(ToString::to_string),
            "from": time(row.from_us),
            "span_us": row.span_us,
            "revision": row.revision,
            "n": row.n,
            "bytes": row.summaries.len(),
        })
    };
    columns.iter().map(row).collect()
}
