//! Keys, values and default of a LabelEncoder, as lists or as tensors.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{NodeProto, TensorProto};
use tract_onnx::tract_core::internal::*;

use super::super::super::attributes::require_only;
use super::Values;

/// Reads keys, values and the default for what is no key, as one value.
///
/// *Errors*: not exactly one list of keys and of values, or another default than the values' type allows.
pub(super) fn read(node: &NodeProto, version: i64) -> TractResult<(Values, Values, Values)> {
    let lists = [
        "keys_floats",
        "keys_int64s",
        "keys_strings",
        "values_floats",
        "values_int64s",
        "values_strings",
        "default_float",
        "default_int64",
        "default_string",
    ];
    let tensors = ["keys_tensor", "values_tensor", "default_tensor"];
    let known: Vec<&str> = lists.into_iter().chain(tensors.into_iter().filter(|_| version >= 4)).collect();
    require_only(node, &known)?;
    let keys = list(node, "keys")?;
    let values = list(node, "values")?;
    let default = match node.get_attr_opt::<&TensorProto>("default_tensor")? {
        Some(tensor) => {
            let default = values_of("default_tensor", tensor)?;
            ensure!(default.len() == 1, "`default_tensor` has {} values", default.len());
            default
        }
        None => default(node, &values)?,
    };
    Ok((keys, values, default))
}

fn list(node: &NodeProto, what: &str) -> TractResult<Values> {
    let mut found = Vec::new();
    found.extend(node.get_attr_opt_vec(&format!("{what}_floats"))?.map(Values::F32));
    found.extend(node.get_attr_opt_vec(&format!("{what}_int64s"))?.map(Values::I64));
    found.extend(node.get_attr_opt_vec(&format!("{what}_strings"))?.map(Values::Texts));
    let name = format!("{what}_tensor");
    if let Some(tensor) = node.get_attr_opt::<&TensorProto>(&name)? {
        found.push(values_of(&name, tensor)?);
    }
    // Some exporters write the lists they do not use, empty.
    found.retain(|values| values.len() > 0);
    let (Some(values), true) = (found.pop(), found.is_empty()) else {
        bail!("not one of `{what}_floats`, `{what}_int64s`, `{what}_strings` and `{what}_tensor` has values")
    };
    Ok(values)
}

fn default(node: &NodeProto, values: &Values) -> TractResult<Values> {
    let float = node.get_attr_opt::<f32>("default_float")?.unwrap_or(-0.0);
    let integer = node.get_attr_opt::<i64>("default_int64")?.unwrap_or(-1);
    Ok(match values {
        Values::Texts(_) => {
            Values::Texts(vec![node.get_attr_opt::<&str>("default_string")?.unwrap_or("_Unused").to_owned()])
        }
        Values::I64(_) => Values::I64(vec![integer]),
        // Only tensors hold shorter integers, and no other attribute names a default for them.
        Values::I32(_) => Values::I32(vec![-1]),
        Values::I16(_) => Values::I16(vec![-1]),
        Values::F32(_) => Values::F32(vec![float]),
        Values::F64(_) => Values::F64(vec![f64::from(float)]),
    })
}

fn values_of(name: &str, tensor: &TensorProto) -> TractResult<Values> {
    let count = tensor.dims.iter().try_fold(1_i64, |product, axis| product.checked_mul(*axis));
    let raw = &tensor.raw_data;
    let values = match DataType::try_from(tensor.data_type) {
        Ok(DataType::String) if raw.is_empty() => {
            let texts = tensor.string_data.iter().map(|text| String::from_utf8(text.clone()));
            Values::Texts(texts.collect::<Result<_, _>>()?)
        }
        Ok(DataType::Int64) if raw.is_empty() => Values::I64(tensor.int64_data.clone()),
        Ok(DataType::Int64) => Values::I64(numbers(raw, i64::from_le_bytes)),
        Ok(DataType::Int32) if raw.is_empty() => Values::I32(tensor.int32_data.clone()),
        Ok(DataType::Int32) => Values::I32(numbers(raw, i32::from_le_bytes)),
        Ok(DataType::Int16) if raw.is_empty() => {
            Values::I16(tensor.int32_data.iter().map(|x| i16::try_from(*x)).collect::<Result<_, _>>()?)
        }
        Ok(DataType::Int16) => Values::I16(numbers(raw, i16::from_le_bytes)),
        Ok(DataType::Float) if raw.is_empty() => Values::F32(tensor.float_data.clone()),
        Ok(DataType::Float) => Values::F32(numbers(raw, f32::from_le_bytes)),
        Ok(DataType::Double) if raw.is_empty() => Values::F64(tensor.double_data.clone()),
        Ok(DataType::Double) => Values::F64(numbers(raw, f64::from_le_bytes)),
        _ => bail!("`{name}` has elements of type {}", tensor.data_type),
    };
    ensure!(
        count.and_then(|count| usize::try_from(count).ok()) == Some(values.len()),
        "`{name}` does not fill its shape"
    );
    Ok(values)
}

fn numbers<const N: usize, T>(raw: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect()
}
