//! Arrays that a training framework wrote: NumPy's `.npz` and `.npy`, and CSV.
//!
//! Reads numbers row by row, and labels as their positions, under limits; never runs what a file may hold: pickled objects
//! are refused. The first axis of an array is the row.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::Path;

use dunlin_model_package::LabelPositions;
use zip::ZipArchive;

use super::read;
use crate::command::CommandError;

/// Longest file, and longest array once unpacked: more rows than a comparison needs.
const ARRAY_BYTES_MAX: u64 = 512 << 20;
/// Most arrays of an archive: the inputs and outputs that a model may have, and the times.
const ARRAYS_MAX: usize = 256;
/// Longest header of an array: version 1.0 of the format allows no more.
const HEADER_BYTES_MAX: usize = 65_535;
/// Name of the column or array that says which window a row is for.
pub(super) const TIME_COLUMN: &str = "window_end_ms";

/// One column group: a tensor's name and its values in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Columns {
    /// Name of the tensor.
    pub(super) name: String,
    /// Values of one row.
    pub(super) width: usize,
    /// What its labels are, where it is a label: such a column holds texts or integers, which become positions.
    pub(super) labels: Option<LabelPositions>,
}

impl Columns {
    /// Returns a cell's value: a number, or the position of a label.
    fn value(&self, text: &str) -> Result<f64, String> {
        let Some(labels) = &self.labels else {
            return match text {
                "" => Ok(f64::NAN),
                text => text.parse().map_err(|_| format!("`{text}` is no number")),
            };
        };
        match labels.of_text(text) {
            Some(position) => Ok(position as f64),
            None => text.parse().map_or_else(|_| Err(self.no_label(text)), |number| self.position(number)),
        }
    }

    /// Returns the position that a number stands for as a label.
    fn position(&self, number: f64) -> Result<f64, String> {
        // Beyond 2^53 doubles are no exact integers.
        let is_integer = number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0;
        let position =
            self.labels.as_ref().filter(|_| is_integer).and_then(|labels| labels.of_integer(number as i64));
        position.map(|position| position as f64).ok_or_else(|| self.no_label(&number.to_string()))
    }

    fn no_label(&self, given: &str) -> String {
        let given: String = given.chars().take(64).collect();
        format!("`{given}` is no label of output `{}`; name all in `labels` of package.toml", self.name)
    }
}

/// Rows of numbers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rows {
    /// Ends of the rows' windows in milliseconds since 1970, where the file says them.
    pub(super) times_ms: Option<Vec<i64>>,
    /// *Shape*: a row holds the tensors one after the other, flattened row-major.
    pub(super) values: Vec<Vec<f64>>,
}

/// Reads the rows of these tensors; the name's ending says how the file is written.
///
/// *Errors*: there is no file (exit code 3), it cannot be read, or does not hold these tensors (exit code 5).
pub(super) fn read_rows(path: &Path, tensors: &[Columns]) -> Result<Rows, CommandError> {
    let bytes = read(path, ARRAY_BYTES_MAX)?;
    let rows = match path.extension().and_then(|ending| ending.to_str()) {
        Some("npz") => npz_rows(&bytes, tensors),
        Some("npy") => npy_rows(&bytes, tensors),
        Some("csv") => csv_rows(&bytes, tensors),
        _ => Err("has none of the endings .npz, .npy and .csv".to_owned()),
    };
    rows.map_err(|reason| CommandError::CheckFailed(format!("`{}` {reason}", path.display())))
}

/// An array as NumPy writes it.
#[derive(Debug, Clone, PartialEq)]
struct Array {
    shape: Vec<usize>,
    elements: Elements,
}

#[derive(Debug, Clone, PartialEq)]
enum Elements {
    Numbers(Vec<f64>),
    Texts(Vec<String>),
}

impl Array {
    fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Returns the values of a tensor: numbers, or positions of labels.
    fn values(&self, tensor: &Columns) -> Result<Vec<f64>, String> {
        match &self.elements {
            Elements::Numbers(numbers) if tensor.labels.is_none() => Ok(numbers.clone()),
            Elements::Numbers(numbers) => numbers.iter().map(|number| tensor.position(*number)).collect(),
            Elements::Texts(texts) if tensor.labels.is_some() => {
                texts.iter().map(|text| tensor.value(text)).collect()
            }
            Elements::Texts(_) => {
                Err(format!("`{}` is of texts, and the model's is of numbers", tensor.name))
            }
        }
    }
}

fn npz_rows(bytes: &[u8], tensors: &[Columns]) -> Result<Rows, String> {
    let mut archive =
        ZipArchive::new(Cursor::new(bytes)).map_err(|error| format!("is no .npz archive: {error}"))?;
    if archive.len() > ARRAYS_MAX {
        return Err(format!("holds more than {ARRAYS_MAX} arrays"));
    }
    let mut arrays = BTreeMap::new();
    for index in 0..archive.len() {
        let file = archive.by_index(index).map_err(|error| format!("cannot be unpacked: {error}"))?;
        let name = file.name().map_err(|error| format!("holds a name that cannot be read: {error}"))?;
        let name = name.trim_end_matches(".npy").to_owned();
        if name != TIME_COLUMN && tensors.iter().all(|tensor| tensor.name != name) {
            continue;
        }
        let mut unpacked = Vec::new();
        file.take(ARRAY_BYTES_MAX + 1)
            .read_to_end(&mut unpacked)
            .map_err(|error| format!("cannot be unpacked: array `{name}`: {error}"))?;
        if unpacked.len() as u64 > ARRAY_BYTES_MAX {
            return Err(format!("holds array `{name}` of more than {ARRAY_BYTES_MAX} bytes"));
        }
        arrays.insert(
            name.clone(),
            parse_npy(&unpacked).map_err(|reason| format!("holds array `{name}`, which {reason}"))?,
        );
    }
    let times = arrays.remove(TIME_COLUMN);
    let ordered: Vec<(&Columns, Array)> = tensors
        .iter()
        .map(|tensor| {
            let array = arrays.remove(&tensor.name).ok_or_else(|| {
                format!("holds no array `{}`; save it as in np.savez(FILE, {}=…)", tensor.name, tensor.name)
            })?;
            Ok((tensor, array))
        })
        .collect::<Result<_, String>>()?;
    let mut rows = joined(&ordered)?;
    if let Some(times) = times {
        let Elements::Numbers(times) = times.elements else {
            return Err(format!("holds `{TIME_COLUMN}` as texts; write milliseconds since 1970"));
        };
        if times.len() != rows.values.len() {
            return Err(format!("holds {} times for {} rows", times.len(), rows.values.len()));
        }
        rows.times_ms = Some(times.iter().map(|ms| ms.round() as i64).collect());
    }
    Ok(rows)
}

fn npy_rows(bytes: &[u8], tensors: &[Columns]) -> Result<Rows, String> {
    let [tensor] = tensors else {
        return Err(format!("is one array, and {} are needed: write an .npz", tensors.len()));
    };
    joined(&[(tensor, parse_npy(bytes)?)])
}

fn joined(arrays: &[(&Columns, Array)]) -> Result<Rows, String> {
    let count = arrays.first().map_or(0, |(_, array)| array.rows());
    let mut values = vec![Vec::new(); count];
    for (tensor, array) in arrays {
        if array.rows() != count {
            return Err(format!(
                "holds {} rows of `{}` and {count} of another array",
                array.rows(),
                tensor.name
            ));
        }
        let found = array.values(tensor).map_err(|why| format!("holds a value that is refused: {why}"))?;
        if found.len() != count.saturating_mul(tensor.width) {
            return Err(format!(
                "holds `{}` with shape {:?}, the model has {} value(s) a row",
                tensor.name, array.shape, tensor.width
            ));
        }
        for (row, part) in values.iter_mut().zip(found.chunks_exact(tensor.width.max(1))) {
            row.extend_from_slice(part);
        }
    }
    Ok(Rows { times_ms: None, values })
}

/// Reads an array. *Source*: the description of format versions 1.0 to 3.0 in NumPy's `numpy.lib.format`.
fn parse_npy(bytes: &[u8]) -> Result<Array, String> {
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("is no .npy array")?;
    let (length, rest) = match rest {
        [1, _, low, high, rest @ ..] => (usize::from(u16::from_le_bytes([*low, *high])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        _ => return Err("has an unknown version of the .npy format".to_owned()),
    };
    let (header, content) = rest
        .split_at_checked(length)
        .filter(|_| length <= HEADER_BYTES_MAX)
        .ok_or("has a header that is cut or too long")?;
    let header = std::str::from_utf8(header).map_err(|_| "has a header that is no text")?;
    let kind = quoted(header, "descr")
        .ok_or("has a header without a simple element type; pickled objects are not read")?;
    let is_fortran = after(header, "fortran_order")?.starts_with("True");
    let shape = shape(header)?;
    let count = shape.iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
    let count = count.filter(|count| *count as u64 <= ARRAY_BYTES_MAX).ok_or("has an impossible shape")?;
    if let Some(width) = kind.strip_prefix("<U").or_else(|| kind.strip_prefix("|S")) {
        let bytes_each = if kind.starts_with('<') { 4 } else { 1 };
        let texts = texts(content, count, width, bytes_each)
            .ok_or("does not hold as many texts as its shape says")?;
        let texts = if is_fortran { row_major(&shape, &texts) } else { texts };
        return Ok(Array { shape, elements: Elements::Texts(texts) });
    }
    let values: Vec<f64> = match kind {
        "<f4" => numbers(content, count, |b: [u8; 4]| f64::from(f32::from_le_bytes(b))),
        "<f8" => numbers(content, count, f64::from_le_bytes),
        "<i4" => numbers(content, count, |b: [u8; 4]| f64::from(i32::from_le_bytes(b))),
        "<i8" => numbers(content, count, |b: [u8; 8]| i64::from_le_bytes(b) as f64),
        "|b1" | "|u1" => numbers(content, count, |[b]: [u8; 1]| f64::from(b)),
        other => {
            return Err(format!(
                "has elements of type `{other}`; save float32, float64, int32, int64, bool, or texts with .astype(str)"
            ));
        }
    }
    .ok_or("does not hold as many values as its shape says")?;
    let values = if is_fortran { row_major(&shape, &values) } else { values };
    Ok(Array { shape, elements: Elements::Numbers(values) })
}

/// Returns texts of one width, in UTF-32 or in bytes, filled with zeros.
fn texts(content: &[u8], count: usize, width: &str, bytes_each: usize) -> Option<Vec<String>> {
    let bytes = width.parse::<usize>().ok()?.checked_mul(bytes_each).filter(|bytes| *bytes > 0)?;
    if content.len() != count.checked_mul(bytes)? {
        return None;
    }
    let text = |text: &[u8]| {
        let code = |bytes: &[u8]| bytes.iter().rev().fold(0_u32, |code, byte| code << 8 | u32::from(*byte));
        let codes: Vec<u32> = text.chunks_exact(bytes_each).map(code).collect();
        let end = codes.iter().rposition(|code| *code != 0).map_or(0, |last| last + 1);
        codes[..end].iter().map(|code| char::from_u32(*code)).collect()
    };
    content.chunks_exact(bytes).map(text).collect()
}

/// Returns the values of an array whose first axis runs fastest in the order in which its last one does.
fn row_major<T: Clone>(shape: &[usize], values: &[T]) -> Vec<T> {
    let mut strides = Vec::with_capacity(shape.len());
    let mut step = 1;
    for size in shape {
        strides.push(step);
        step *= size;
    }
    (0..values.len())
        .map(|position| {
            let (mut rest, mut at) = (position, 0);
            for (size, stride) in shape.iter().zip(&strides).rev() {
                at += rest % size * stride;
                rest /= size;
            }
            values[at].clone()
        })
        .collect()
}

fn numbers<const N: usize>(content: &[u8], count: usize, value: impl Fn([u8; N]) -> f64) -> Option<Vec<f64>> {
    if content.len() != count.checked_mul(N)? {
        return None;
    }
    Some(content.as_chunks::<N>().0.iter().map(|bytes| value(*bytes)).collect())
}

/// Returns the header's text after a key of its dictionary.
fn after<'h>(header: &'h str, key: &str) -> Result<&'h str, String> {
    let (_, rest) =
        header.split_once(&format!("'{key}':")).ok_or_else(|| format!("has a header without `{key}`"))?;
    Ok(rest.trim_start())
}

fn quoted<'h>(header: &'h str, key: &str) -> Option<&'h str> {
    after(header, key).ok()?.strip_prefix('\'')?.split_once('\'').map(|(text, _)| text)
}

fn shape(header: &str) -> Result<Vec<usize>, String> {
    let text =
        after(header, "shape")?.strip_prefix('(').and_then(|rest| rest.split_once(')')).map(|(text, _)| text);
    let text = text.ok_or("has a header without a shape")?;
    let sizes = text.split(',').map(str::trim).filter(|size| !size.is_empty());
    sizes.map(|size| size.parse().map_err(|_| format!("has `{size}` in its shape"))).collect()
}

/// Reads columns in the order of the tensors; a first line that begins with neither number nor label names them.
fn csv_rows(bytes: &[u8], tensors: &[Columns]) -> Result<Rows, String> {
    let width: usize = tensors.iter().map(|tensor| tensor.width).sum();
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(bytes);
    let columns: Vec<&Columns> = tensors.iter().flat_map(|tensor| vec![tensor; tensor.width]).collect();
    let (mut times, mut values) = (Vec::new(), Vec::new());
    let mut is_timed = false;
    for (index, record) in reader.records().enumerate() {
        let record = record.map_err(|error| format!("is no CSV: {error}"))?;
        let first = record.get(0).unwrap_or_default();
        let is_label = columns.first().and_then(|column| column.labels.as_ref()?.of_text(first)).is_some();
        if index == 0 && !is_label && first.parse::<f64>().is_err() {
            is_timed = first == TIME_COLUMN;
            continue;
        }
        let mut cells = record.iter();
        if is_timed && let Some(time) = cells.next() {
            let time =
                time.parse::<f64>().map_err(|_| format!("line {}: `{time}` is no number", index + 1))?;
            times.push(time.round() as i64);
        }
        let count = record.len() - usize::from(is_timed && !record.is_empty());
        if count != width {
            let names: Vec<String> = tensors.iter().map(|t| format!("{} of `{}`", t.width, t.name)).collect();
            return Err(format!(
                "line {}: {} columns, the model has {width} ({})",
                index + 1,
                count,
                names.join(", ")
            ));
        }
        let row = cells.zip(&columns).map(|(cell, column)| column.value(cell));
        values.push(row.collect::<Result<_, _>>().map_err(|why| format!("line {}: {why}", index + 1))?);
    }
    Ok(Rows { times_ms: is_timed.then_some(times), values })
}

#[cfg(test)]
#[path = "arrays/tests.rs"]
mod tests;
