//! One model for the test suite: its manifest, some of its rows, and what ONNX Runtime says of these.
//!
//! The rows are taken from all over the file, so that each kind of hard row is among them. Our engine has no part in it.

use serde_json::{Map, Value, json};

use crate::Task;
use crate::package::{labels, manifest};
use crate::peer::{Column, Peer, Values};
use crate::rows::{Input, Rows};

/// Returns the record as one line of JSON: `manifest`, `rows` and `expected`, row by row, all inputs or outputs of a row one
/// after the other. What is not finite stands there as a text.
///
/// *Errors*: ONNX Runtime does not run the model.
pub(crate) fn record(task: &Task, rows_max: usize, guards: &[usize]) -> Result<String, String> {
    let model = std::fs::read(&task.model)
        .map_err(|error| format!("cannot read `{}`: {error}", task.model.display()))?;
    let mut peer = Peer::open(&task.library, &task.model)?;
    let rows = chosen(&Rows::read(&task.rows, usize::MAX)?.in_order(&peer.input_names())?, rows_max, guards)?;
    let columns = peer.outputs(&rows)?;
    let given: Vec<Value> = (0..rows.count)
        .map(|row| rows.windows(row, 1).into_iter().map(|value| number(f64::from(value))).collect())
        .collect();
    let expected: Vec<Value> =
        (0..rows.count).map(|row| columns.iter().flat_map(|column| values(column, row)).collect()).collect();
    let mut record = Map::new();
    record.insert("manifest".to_owned(), manifest(&model, &peer, &rows, &columns)?);
    record.insert("exact".to_owned(), columns.iter().map(|column| json!(is_exact(column))).collect());
    record.insert("rows".to_owned(), Value::Array(given));
    record.insert("expected".to_owned(), Value::Array(expected));
    Ok(Value::Object(record).to_string())
}

/// Returns rows at even distances, and after them the ones that must be there.
///
/// *Errors*: there is no such row.
fn chosen(rows: &Rows, rows_max: usize, guards: &[usize]) -> Result<Rows, String> {
    if let Some(beyond) = guards.iter().find(|row| **row >= rows.count) {
        return Err(format!("there is no row {beyond} in {}", rows.count));
    }
    let count = rows.count.min(rows_max);
    let mut positions: Vec<usize> = (0..count).map(|n| n * rows.count / count).collect();
    for row in guards {
        if !positions.contains(row) {
            positions.push(*row);
        }
    }
    let inputs = rows.inputs.iter().map(|input| Input {
        values: positions.iter().flat_map(|row| input.slice(*row, 1).iter().copied()).collect(),
        ..input.clone()
    });
    Ok(Rows { count: positions.len(), inputs: inputs.collect() })
}

const fn is_exact(column: &Column) -> bool {
    !matches!(column.values, Values::Floats(_))
}

fn values(column: &Column, row: usize) -> Vec<Value> {
    let places = row * column.width()..(row + 1) * column.width();
    match &column.values {
        // The engine gives f32, and its shortest text is enough.
        Values::Floats(all) => all[places].iter().map(|&value| number(value)).collect(),
        Values::Integers(all) => all[places].iter().map(|&value| json!(value)).collect(),
        Values::Texts(all) => {
            let labels = labels(column);
            all[places].iter().map(|text| json!(labels.binary_search(text).unwrap_or(usize::MAX))).collect()
        }
    }
}

/// JSON has no number for what is not finite.
fn number(value: f64) -> Value {
    if value.is_finite() {
        // The text of the f32: reading it back gives the same f32, in half the characters.
        (value as f32).to_string().parse::<f64>().map_or(Value::Null, |value| json!(value))
    } else {
        json!(value.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_stand_behind_the_rows_at_even_distances_once_each() {
        let input = Input { name: None, axes: vec![2], values: (0..200).map(|value| value as f32).collect() };
        let rows = Rows { count: 100, inputs: vec![input] };
        let chosen = |guards: &[usize]| chosen(&rows, 4, guards).map(|rows| rows.inputs[0].values.clone());
        let even = [0.0, 1.0, 50.0, 51.0, 100.0, 101.0, 150.0, 151.0];
        assert_eq!(chosen(&[]).as_deref(), Ok(even.as_slice()));
        assert_eq!(
            chosen(&[25, 99, 3, 99]).as_deref(),
            Ok([even.as_slice(), &[198.0, 199.0, 6.0, 7.0]].concat().as_slice())
        );
        assert!(chosen(&[100]).is_err());
    }
}
