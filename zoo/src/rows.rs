//! The input of a model: rows from a NumPy file.
//!
//! Reads `.npy` and `.npz` with numbers of the usual types and holds them as the engine takes them, as f32. Never judges
//! what the numbers are.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use npyz::{NpyFile, Order, TypeChar};

/// The rows of one input.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    /// Its name; nothing where the file holds one array without a name.
    pub(crate) name: Option<String>,
    /// Axes of one row.
    pub(crate) axes: Vec<usize>,
    /// *Shape*: `[rows, axes…]`.
    pub(crate) values: Vec<f32>,
}

/// The rows of all inputs.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    /// How many there are.
    pub(crate) count: usize,
    pub(crate) inputs: Vec<Input>,
}

impl Input {
    /// Returns the number of values of a row.
    pub(crate) fn width(&self) -> usize {
        self.axes.iter().product()
    }

    /// Returns so many rows from this one on.
    pub(crate) fn slice(&self, first: usize, count: usize) -> &[f32] {
        &self.values[first * self.width()..(first + count) * self.width()]
    }
}

impl Rows {
    /// Reads a file, at most `count_max` rows of it.
    ///
    /// *Errors*: it is no such file, or its arrays differ in their number of rows.
    pub(crate) fn read(path: &Path, count_max: usize) -> Result<Self, String> {
        let fail = |error: std::io::Error| format!("cannot read `{}`: {error}", path.display());
        let mut inputs = Vec::new();
        if path.extension().is_some_and(|extension| extension == "npz") {
            let mut archive = npyz::npz::NpzArchive::open(path).map_err(fail)?;
            let names: Vec<String> = archive.array_names().map(str::to_owned).collect();
            for name in names {
                if let Some(array) = archive.by_name(&name).map_err(fail)? {
                    inputs.push(input(Some(name), array, count_max).map_err(fail)?);
                }
            }
        } else {
            let file = BufReader::new(File::open(path).map_err(fail)?);
            inputs.push(NpyFile::new(file).and_then(|array| input(None, array, count_max)).map_err(fail)?);
        }
        let count = inputs.first().map_or(0, |(count, _)| *count);
        if count == 0 || inputs.iter().any(|(other, _)| *other != count) {
            return Err(format!("`{}` has no rows, or not the same number in each array", path.display()));
        }
        Ok(Self { count, inputs: inputs.into_iter().map(|(_, input)| input).collect() })
    }

    /// Puts the inputs in the order of these names.
    ///
    /// *Errors*: there is no array for a name.
    pub(crate) fn in_order(mut self, names: &[String]) -> Result<Self, String> {
        if let ([only], [name]) = (self.inputs.as_mut_slice(), names) {
            only.name = Some(name.clone());
            return Ok(self);
        }
        let find = |name: &String| {
            let found = self.inputs.iter().find(|input| input.name.as_ref() == Some(name));
            found.cloned().ok_or_else(|| format!("the rows have no array `{name}`"))
        };
        let inputs = names.iter().map(find).collect::<Result<_, _>>()?;
        Ok(Self { inputs, ..self })
    }

    /// Returns rows as the engine takes them: all inputs of a row one after the other.
    pub(crate) fn windows(&self, first: usize, count: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(count * self.inputs.iter().map(Input::width).sum::<usize>());
        for row in first..first + count {
            self.inputs.iter().for_each(|input| values.extend_from_slice(input.slice(row, 1)));
        }
        values
    }
}

fn input<R: Read>(
    name: Option<String>,
    array: NpyFile<R>,
    count_max: usize,
) -> std::io::Result<(usize, Input)> {
    let wrong = |why: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, why.to_owned());
    let axes: Vec<usize> = array.shape().iter().map(|&axis| axis as usize).collect();
    let (Some((&rows, axes)), Order::C) = (axes.split_first(), array.order()) else {
        return Err(wrong("an array has no rows, or columns come first"));
    };
    let count = rows.min(count_max);
    let take = count * axes.iter().product::<usize>();
    let npyz::DType::Plain(kind) = array.dtype() else {
        return Err(wrong("an array of records"));
    };
    let values = match (kind.type_char(), kind.size_field()) {
        (TypeChar::Float, 4) => numbers::<f32, R>(array, take, |value| value)?,
        (TypeChar::Float, 8) => numbers::<f64, R>(array, take, |value| value as f32)?,
        (TypeChar::Int, 4) => numbers::<i32, R>(array, take, |value| value as f32)?,
        (TypeChar::Int, 8) => numbers::<i64, R>(array, take, |value| value as f32)?,
        _ => return Err(wrong("an array of neither f4, f8, i4 nor i8")),
    };
    Ok((count, Input { name, axes: axes.to_vec(), values }))
}

fn numbers<T: npyz::Deserialize, R: Read>(
    array: NpyFile<R>,
    take: usize,
    cast: impl Fn(T) -> f32,
) -> std::io::Result<Vec<f32>> {
    let reader = array.data::<T>().map_err(std::io::Error::other)?;
    reader.take(take).map(|value| value.map(&cast)).collect()
}
