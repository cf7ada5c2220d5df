//! Random ensembles with the outputs that ONNX Runtime 1.32 gave, one thread, recorded in `onnxruntime.json`.
//!
//! Every case must give the same labels and, within a few roundings, the same numbers, or be refused where ONNX
//! Runtime's numbers are undefined or its labels not the model's.

use serde_json::Value;
use tract_onnx::pb::{AttributeProto, NodeProto};
use tract_onnx::prelude::*;

use super::super::super::testing::{floats, int, ints, node, run_node, text, texts};
use super::{doubles, octets, singles, tensor_attribute};

/// Why a case is refused on purpose.
const UNDEFINED: [&str; 4] = [
    "undefined in ONNX Runtime",
    "other labels than the 0 and 1",
    "has no weight, for which ONNX Runtime takes its value",
    "reaches no leaf",
];

fn number(value: &Value) -> f64 {
    match value.as_str() {
        Some("nan") => f64::NAN,
        Some("inf") => f64::INFINITY,
        Some("-inf") => f64::NEG_INFINITY,
        _ => value.as_f64().unwrap(),
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

fn singles_of(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|value| value as f32).collect()
}

fn attribute(name: &str, value: &Value) -> AttributeProto {
    match value {
        Value::String(value) => text(name, value),
        Value::Number(value) => int(name, value.as_i64().unwrap()),
        Value::Array(values) if values[0].is_string() => {
            texts(name, &values.iter().map(|value| value.as_str().unwrap()).collect::<Vec<_>>())
        }
        Value::Array(values) => {
            ints(name, &values.iter().map(|value| value.as_i64().unwrap()).collect::<Vec<_>>())
        }
        Value::Object(value) if value.contains_key("floats") => floats(name, &singles_of(&value["floats"])),
        Value::Object(value) => {
            let values = &value["values"];
            tensor_attribute(
                name,
                match value["tensor"].as_str().unwrap() {
                    "f32" => singles(&singles_of(values)),
                    "f64" => doubles(&numbers(values)),
                    _ => octets(&numbers(values).into_iter().map(|value| value as u8).collect::<Vec<_>>()),
                },
            )
        }
        other => panic!("attribute {name} is {other}"),
    }
}

fn input(case: &Value) -> Tensor {
    let values = numbers(&case["input"]);
    let columns = case["columns"].as_u64().unwrap() as usize;
    let flat = match case["type"].as_str().unwrap() {
        "f32" => tensor1(&values.iter().map(|value| *value as f32).collect::<Vec<_>>()),
        "f64" => tensor1(&values),
        "i64" => tensor1(&values.iter().map(|value| *value as i64).collect::<Vec<_>>()),
        _ => tensor1(&values.iter().map(|value| *value as i32).collect::<Vec<_>>()),
    };
    flat.into_shape(&[values.len() / columns, columns]).unwrap()
}

fn as_node(case: &Value) -> NodeProto {
    let operator = case["operator"].as_str().unwrap();
    let attributes = case["attributes"].as_object().unwrap();
    let attributes = attributes.iter().map(|(name, value)| attribute(name, value)).collect();
    node(operator, 1, case["outputs"].as_array().unwrap().len(), attributes)
}

fn near(ours: f64, theirs: f64, scale: f64) -> bool {
    ours == theirs || ours.is_nan() && theirs.is_nan() || (ours - theirs).abs() <= 5e-6 * scale
}

fn check(case: &Value, outputs: &[Tensor]) -> Result<(), String> {
    for (ours, theirs) in outputs.iter().zip(case["outputs"].as_array().unwrap()) {
        if ours.datum_type() == String::datum_type() {
            let plain = ours.try_as_plain_ram().unwrap();
            let ours = plain.as_slice::<String>().unwrap();
            let theirs: Vec<&str> = theirs.as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
            if ours != theirs {
                return Err(format!("labels {ours:?} and not {theirs:?}"));
            }
            continue;
        }
        let exact = ours.datum_type() == i64::datum_type();
        let cast = ours.cast_to::<f64>().unwrap();
        let plain = cast.try_as_plain_ram().unwrap();
        let ours = plain.as_slice::<f64>().unwrap();
        let theirs = numbers(theirs);
        let finite = theirs.iter().filter(|value| value.is_finite());
        let scale = finite.fold(1.0_f64, |scale, value| scale.max(value.abs()));
        let same = |(ours, theirs): (&f64, &f64)| {
            if exact { ours == theirs } else { near(*ours, *theirs, scale) }
        };
        if ours.len() != theirs.len() || !ours.iter().zip(&theirs).all(same) {
            return Err(format!("{ours:?} and not {theirs:?}"));
        }
    }
    Ok(())
}

#[test]
fn outputs_are_those_of_onnx_runtime() {
    let file: Value = serde_json::from_str(include_str!("onnxruntime.json")).unwrap();
    let mut refused = 0;
    let cases = file.as_array().unwrap();
    let mut failures = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        match run_node(as_node(case), &[input(case)]) {
            Ok(outputs) => {
                failures.extend(
                    check(case, &outputs).err().map(|error| format!("case {index}: {error}\n{case}")),
                );
            }
            Err(error) => {
                let error = error.to_string();
                assert!(UNDEFINED.iter().any(|why| error.contains(why)), "case {index}: {error}\n{case}");
                refused += 1;
            }
        }
    }
    assert!(failures.is_empty(), "{} cases: {}", failures.len(), failures[0]);
    assert!(refused * 5 < cases.len(), "{refused} of {} are refused", cases.len());
}
