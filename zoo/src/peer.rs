//! ONNX Runtime: the peer that is compared with.
//!
//! Opens a model with one thread and else as by default, and gives its outputs as plain columns, whatever they are made
//! of. Never measures. The library is loaded when the first model is opened.

use std::path::Path;
use std::sync::OnceLock;

use ort::environment::Environment;
use ort::session::{Session, SessionInputValue, SessionOutputs};
use ort::value::{DynValue, MapValueType, Tensor, TensorElementType, ValueType};

use crate::rows::{Input, Rows};

/// Values of an output, row by row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Values {
    /// Floating-point numbers.
    Floats(Vec<f64>),
    /// Integers and truth values: compared exactly.
    Integers(Vec<i64>),
    /// Texts: compared exactly.
    Texts(Vec<String>),
}

/// An output.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Axes of one row.
    pub(crate) axes: Vec<usize>,
    pub(crate) values: Values,
}

/// The one environment that a process may have.
static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();

/// Returns the environment; the library is loaded for the first model.
fn environment(library: &Path) -> Result<&'static Environment, String> {
    if let Some(environment) = ENVIRONMENT.get() {
        return Ok(environment);
    }
    let builder =
        ort::init_from(library).map_err(|error| format!("cannot load `{}`: {error}", library.display()))?;
    let environment = builder.build().map_err(text)?;
    Ok(ENVIRONMENT.get_or_init(|| environment))
}

/// A model opened by ONNX Runtime.
pub(crate) struct Peer {
    session: Session,
    types: Vec<TensorElementType>,
    /// Whether the model takes several rows at once.
    is_batch_free: bool,
}

impl Peer {
    /// Opens a model.
    ///
    /// *Errors*: the library is not there; it refuses the model; an input is no tensor.
    pub(crate) fn open(library: &Path, model: &Path) -> Result<Self, String> {
        let session = Session::builder(environment(library)?)
            .map_err(text)?
            .with_intra_threads(1)
            .map_err(text)?
            .commit_from_file(model)
            .map_err(text)?;
        let mut types = Vec::new();
        let mut is_batch_free = true;
        for input in session.inputs() {
            let ValueType::Tensor { ty, shape, .. } = input.dtype() else {
                return Err(format!("input `{}` is no tensor", input.name()));
            };
            types.push(*ty);
            is_batch_free &= shape.first() != Some(&1);
        }
        Ok(Self { session, types, is_batch_free })
    }

    /// Returns the names of the inputs, in order.
    pub(crate) fn input_names(&self) -> Vec<String> {
        self.session.inputs().iter().map(|input| input.name().to_owned()).collect()
    }

    /// Returns the element types of the inputs, in order.
    pub(crate) fn input_types(&self) -> &[TensorElementType] {
        &self.types
    }

    /// Tells whether the model takes several rows at once.
    pub(crate) const fn is_batch_free(&self) -> bool {
        self.is_batch_free
    }

    /// Returns tensors of so many rows, in the order of the inputs.
    ///
    /// *Errors*: an input's type is none that a package may have.
    pub(crate) fn tensors(
        &self,
        rows: &Rows,
        first: usize,
        count: usize,
    ) -> Result<Vec<SessionInputValue<'static>>, String> {
        let inputs = rows.inputs.iter().zip(&self.types);
        inputs.map(|(input, kind)| tensor(input, *kind, first, count)).collect()
    }

    /// Runs the model; what it gives is dropped with the result.
    ///
    /// *Errors*: the runtime's.
    pub(crate) fn run(&mut self, tensors: &[SessionInputValue<'_>]) -> Result<SessionOutputs<'_>, String> {
        self.session.run(tensors).map_err(text)
    }

    /// Returns the outputs of all rows, one at a time: what a row gives must not depend on the rows beside it, as it does
    /// where a model takes the range of a whole batch to quantise it.
    ///
    /// *Errors*: the runtime's; an output has not one part a row.
    pub(crate) fn outputs(&mut self, rows: &Rows) -> Result<Vec<Column>, String> {
        let mut all: Vec<Column> = Vec::new();
        for row in 0..rows.count {
            let tensors = self.tensors(rows, row, 1)?;
            let outputs = self.run(&tensors)?;
            let mut columns = Vec::new();
            for (name, value) in &outputs {
                columns.extend(output(name, &value, 1)?);
            }
            drop(outputs);
            if all.is_empty() {
                all = columns;
            } else {
                all.iter_mut().zip(columns).try_for_each(|(column, more)| column.append(more))?;
            }
        }
        Ok(all)
    }
}

impl Column {
    /// Returns the number of values of a row.
    pub(crate) fn width(&self) -> usize {
        self.axes.iter().product()
    }

    fn append(&mut self, more: Self) -> Result<(), String> {
        if self.axes != more.axes {
            return Err(format!("output `{}` changes its shape from row to row", self.name));
        }
        match (&mut self.values, more.values) {
            (Values::Floats(all), Values::Floats(more)) => all.extend(more),
            (Values::Integers(all), Values::Integers(more)) => all.extend(more),
            (Values::Texts(all), Values::Texts(more)) => all.extend(more),
            _ => return Err(format!("output `{}` changes its type from row to row", self.name)),
        }
        Ok(())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    format!("ONNX Runtime: {error}")
}

fn tensor(
    input: &Input,
    kind: TensorElementType,
    first: usize,
    count: usize,
) -> Result<SessionInputValue<'static>, String> {
    let shape: Vec<i64> = std::iter::once(&count).chain(&input.axes).map(|&axis| axis as i64).collect();
    let values = input.slice(first, count).iter();
    Ok(match kind {
        TensorElementType::Float32 => {
            Tensor::from_array((shape, values.copied().collect::<Vec<f32>>())).map_err(text)?.into()
        }
        TensorElementType::Float64 => {
            Tensor::from_array((shape, values.map(|&value| f64::from(value)).collect::<Vec<_>>()))
                .map_err(text)?
                .into()
        }
        TensorElementType::Int32 => {
            Tensor::from_array((shape, values.map(|&value| value.round() as i32).collect::<Vec<_>>()))
                .map_err(text)?
                .into()
        }
        TensorElementType::Int64 => {
            Tensor::from_array((shape, values.map(|&value| value.round() as i64).collect::<Vec<_>>()))
                .map_err(text)?
                .into()
        }
        other => return Err(format!("an input has elements of type {other}; a window has numbers only")),
    })
}

fn output(name: &str, value: &DynValue, rows: usize) -> Result<Vec<Column>, String> {
    match value.dtype() {
        ValueType::Tensor { .. } => Ok(vec![tensor_column(name.to_owned(), value, rows)?]),
        ValueType::Sequence(inner) => match inner.as_ref() {
            ValueType::Map { key: TensorElementType::String, .. } => {
                let maps = value.try_extract_sequence::<MapValueType<String, f32>>().map_err(text)?;
                let rows = maps.iter().map(ort::value::Value::try_extract_key_values::<String, f32>);
                Ok(vec![map_column(name, rows.collect::<Result<_, _>>().map_err(text)?)])
            }
            ValueType::Map { .. } => {
                let maps = value.try_extract_sequence::<MapValueType<i64, f32>>().map_err(text)?;
                let rows = maps.iter().map(ort::value::Value::try_extract_key_values::<i64, f32>);
                Ok(vec![map_column(name, rows.collect::<Result<_, _>>().map_err(text)?)])
            }
            _ => {
                let parts = value.try_extract_sequence::<ort::value::DynTensorValueType>().map_err(text)?;
                let named = parts.into_iter().enumerate();
                named.map(|(n, part)| tensor_column(format!("{name}.{n}"), &part.into_dyn(), rows)).collect()
            }
        },
        other => Err(format!("output `{name}` is a {other:?}")),
    }
}

/// A row of maps becomes an array with a column a key, in the order of the keys.
fn map_column<K: Ord>(name: &str, rows: Vec<Vec<(K, f32)>>) -> Column {
    let width = rows.first().map_or(0, Vec::len);
    let mut values = Vec::with_capacity(width * rows.len());
    for mut row in rows {
        row.sort_by(|(a, _), (b, _)| a.cmp(b));
        values.extend(row.into_iter().map(|(_, value)| f64::from(value)));
    }
    Column { name: name.to_owned(), axes: vec![width], values: Values::Floats(values) }
}

fn tensor_column(name: String, value: &DynValue, rows: usize) -> Result<Column, String> {
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(format!("output `{name}` is no tensor"));
    };
    let axes: Vec<usize> = shape.iter().map(|&axis| axis as usize).collect();
    let Some((_, axes)) = axes.split_first().filter(|(first, _)| **first == rows) else {
        return Err(format!("output `{name}` has shape {axes:?} for {rows} rows"));
    };
    macro_rules! integers {
        ($type:ty) => {
            Values::Integers(
                value.try_extract_tensor::<$type>().map_err(text)?.1.iter().map(|&v| v as i64).collect(),
            )
        };
    }
    let values = match ty {
        TensorElementType::Float32 => {
            let (_, found) = value.try_extract_tensor::<f32>().map_err(text)?;
            Values::Floats(found.iter().map(|&value| f64::from(value)).collect())
        }
        TensorElementType::Float64 => {
            Values::Floats(value.try_extract_tensor::<f64>().map_err(text)?.1.to_vec())
        }
        TensorElementType::Int64 => integers!(i64),
        TensorElementType::Int32 => integers!(i32),
        TensorElementType::Int8 => integers!(i8),
        TensorElementType::Uint8 => integers!(u8),
        TensorElementType::Bool => integers!(bool),
        TensorElementType::String => Values::Texts(value.try_extract_strings().map_err(text)?.1),
        other => return Err(format!("output `{name}` has elements of type {other}")),
    };
    Ok(Column { name, axes: axes.to_vec(), values })
}
