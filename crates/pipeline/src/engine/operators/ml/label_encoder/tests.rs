//! Every pair of key and value types against a search through the list, and lists that do not fit.

use super::super::super::testing::{float, floats, int, ints, node, run_node, run_node_of, text, texts};
use super::*;
use proptest::prelude::*;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, TensorProto, attribute_proto};

/// An attribute of a tensor that holds small integers as elements of any type.
fn tensor_attribute(name: &str, element: DataType, values: &[i64], raw: bool) -> AttributeProto {
    let mut tensor =
        TensorProto { dims: vec![values.len() as i64], data_type: element as i32, ..TensorProto::default() };
    match element {
        DataType::String => {
            tensor.string_data = values.iter().map(|x| format!("t{x}").into_bytes()).collect()
        }
        DataType::Float if raw => {
            tensor.raw_data = values.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect()
        }
        DataType::Float => tensor.float_data = values.iter().map(|x| *x as f32).collect(),
        DataType::Double if raw => {
            tensor.raw_data = values.iter().flat_map(|x| (*x as f64).to_le_bytes()).collect()
        }
        DataType::Double => tensor.double_data = values.iter().map(|x| *x as f64).collect(),
        DataType::Int64 if raw => tensor.raw_data = values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DataType::Int64 => tensor.int64_data = values.to_vec(),
        DataType::Int32 if raw => {
            tensor.raw_data = values.iter().flat_map(|x| (*x as i32).to_le_bytes()).collect()
        }
        DataType::Int16 if raw => {
            tensor.raw_data = values.iter().flat_map(|x| (*x as i16).to_le_bytes()).collect()
        }
        _ => tensor.int32_data = values.iter().map(|x| *x as i32).collect(),
    }
    AttributeProto {
        name: name.to_owned(),
        r#type: attribute_proto::AttributeType::Tensor as i32,
        t: Some(tensor),
        ..AttributeProto::default()
    }
}

/// A tensor that holds small integers as elements of any type.
fn input(element: DataType, values: &[i64]) -> Tensor {
    match element {
        DataType::String => tensor1(&values.iter().map(|x| format!("t{x}")).collect::<Vec<_>>()),
        DataType::Float => tensor1(&values.iter().map(|x| *x as f32).collect::<Vec<_>>()),
        DataType::Double => tensor1(&values.iter().map(|x| *x as f64).collect::<Vec<_>>()),
        DataType::Int32 => tensor1(&values.iter().map(|x| *x as i32).collect::<Vec<_>>()),
        DataType::Int16 => tensor1(&values.iter().map(|x| *x as i16).collect::<Vec<_>>()),
        _ => tensor1(values),
    }
}

const ELEMENTS: [DataType; 6] =
    [DataType::String, DataType::Float, DataType::Double, DataType::Int64, DataType::Int32, DataType::Int16];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn tensors_of_every_type_are_looked_up(
        pairs in proptest::collection::vec((-3..4_i64, -50..50_i64), 1..6), asked in proptest::collection::vec(-5..6_i64, 1..6),
        key in 0..6_usize, value in 0..6_usize, default in -50..50_i64, raw: bool,
    ) {
        let (keys, values): (Vec<i64>, Vec<i64>) = pairs.iter().copied().unzip();
        let encoder = node("LabelEncoder", 1, 1, vec![
            tensor_attribute("keys_tensor", ELEMENTS[key], &keys, raw), tensor_attribute("values_tensor", ELEMENTS[value], &values, raw),
            tensor_attribute("default_tensor", ELEMENTS[value], &[default], raw),
        ]);
        let found = run_node_of(encoder, &[input(ELEMENTS[key], &asked)], 4).unwrap();
        let want: Vec<i64> = asked.iter().map(|x| pairs.iter().find(|(key, _)| key == x).map_or(default, |(_, value)| *value)).collect();
        prop_assert_eq!(found, [input(ELEMENTS[value], &want)]);
    }

    #[test]
    fn lists_of_any_length_are_taken_or_refused(keys in 0..4_usize, others in 0..3_usize, values in 0..4_usize, version in 2..5_i64) {
        let encoder = node("LabelEncoder", 1, 1, vec![
            ints("keys_int64s", &vec![1; keys]), floats("keys_floats", &vec![1.0; others]), ints("values_int64s", &vec![5; values]),
        ]);
        let found = run_node_of(encoder, &[tensor1(&[1_i64, 2])], version);
        prop_assert_eq!(found.is_ok(), keys > 0 && others == 0 && keys == values);
    }
}

#[test]
fn a_key_that_is_no_number_is_found_from_version_4_on() {
    let encoder = || {
        let keys = floats("keys_floats", &[f32::NAN, -0.0]);
        node("LabelEncoder", 1, 1, vec![keys, texts("values_strings", &["missing", "zero"])])
    };
    let asked = [tensor1(&[f32::NAN, 0.0, 1.0])];
    let found = |words: [&str; 3]| [tensor1(&words.map(str::to_owned))];
    assert_eq!(run_node_of(encoder(), &asked, 4).unwrap(), found(["missing", "zero", "_Unused"]));
    assert_eq!(run_node_of(encoder(), &asked, 2).unwrap(), found(["_Unused", "zero", "_Unused"]));
}

#[test]
fn the_default_is_that_of_the_values_type() {
    let keys = || ints("keys_int64s", &[1]);
    let of = |attributes| {
        run_node(node("LabelEncoder", 1, 1, attributes), &[tensor1(&[9_i64])]).unwrap().remove(0)
    };
    assert_eq!(
        of(vec![keys(), floats("values_floats", &[4.0]), float("default_float", 2.5)]),
        tensor1(&[2.5_f32])
    );
    assert_eq!(of(vec![keys(), ints("values_int64s", &[4]), int("default_int64", 3)]), tensor1(&[3_i64]));
    assert_eq!(
        of(vec![keys(), ints("values_int64s", &[4]), text("default_string", "x")]),
        tensor1(&[-1_i64])
    );
}

#[test]
fn the_first_version_numbers_texts_and_names_numbers() {
    let encoder = || node("LabelEncoder", 1, 1, vec![texts("classes_strings", &["a", "b", "a"])]);
    let asked = ["a", "b", "c"].map(str::to_owned);
    assert_eq!(run_node_of(encoder(), &[tensor1(&asked)], 1).unwrap(), [tensor1(&[2_i64, 1, -1])]);
    let named = ["b", "a", "_Unused"].map(str::to_owned);
    assert_eq!(run_node_of(encoder(), &[tensor1(&[1_i64, 0, 3])], 1).unwrap(), [tensor1(&named)]);
    assert!(run_node_of(encoder(), &[tensor1(&[1_i64])], 2).is_err());
}

#[test]
fn categories_are_mapped_both_ways() {
    let mapper = || {
        let attributes = vec![
            texts("cats_strings", &["low", "high"]),
            ints("cats_int64s", &[10, 20]),
            int("default_int64", 7),
            text("default_string", "none"),
        ];
        node("CategoryMapper", 1, 1, attributes)
    };
    let asked = ["high", "low", "x"].map(str::to_owned);
    assert_eq!(run_node(mapper(), &[tensor1(&asked)]).unwrap(), [tensor1(&[20_i64, 10, 7])]);
    let named = ["low", "none"].map(str::to_owned);
    assert_eq!(run_node(mapper(), &[tensor1(&[10_i64, 0])]).unwrap(), [tensor1(&named)]);
}
