//! Rows of Parquet: the columns that are asked for, row by row.
//!
//! Reads plain columns alone, a page at a time; lists and structures are no readings. The only home of the library.

use std::fs::File;
use std::sync::Arc;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;

use super::cells::{Cell, Fault, TakeRows};
use super::files::{COLUMNS_MAX, FileFault, names};

const DAY_US: i64 = 86_400_000_000;

/// Hands the rows on.
///
/// *Errors*: see [`FileFault`].
pub(super) fn read(file: File, rows: &mut impl TakeRows) -> Result<(), FileFault> {
    let unreadable = |error: parquet::errors::ParquetError| FileFault::Unreadable(error.to_string());
    let reader = SerializedFileReader::new(file).map_err(unreadable)?;
    let schema = reader.metadata().file_metadata().schema().clone();
    let plain: Vec<Arc<Type>> =
        schema.get_fields().iter().filter(|column| column.is_primitive()).cloned().collect();
    if plain.len() > COLUMNS_MAX {
        return Err(FileFault::Header(format!("has {} columns; {COLUMNS_MAX} are the most", plain.len())));
    }
    let columns: Vec<String> = plain.iter().map(|column| column.name().to_owned()).collect();
    let wanted = rows.begin(&columns).map_err(FileFault::Header)?;
    // The projection keeps the order of the file, each column once.
    let kept: Vec<Arc<Type>> = plain
        .iter()
        .enumerate()
        .filter(|(at, _)| wanted.contains(at))
        .map(|(_, column)| Arc::clone(column))
        .collect();
    let places: Vec<usize> = wanted
        .iter()
        .map(|at| kept.iter().position(|column| column.name() == columns[*at]).unwrap_or_default())
        .collect();
    let projection = Type::group_type_builder(schema.name()).with_fields(kept).build().map_err(unreadable)?;
    for (row, number) in reader.get_row_iter(Some(projection)).map_err(unreadable)?.zip(1..) {
        let fields = row.map_err(unreadable)?.into_columns();
        let row_fault =
            |fault| FileFault::Row { word: "row", number, columns: names(&columns, &wanted), fault };
        let cells: Vec<Cell<'_>> = places
            .iter()
            .enumerate()
            .map(|(column, place)| cell(fields.get(*place).map(|(_, field)| field), column))
            .collect::<Result<_, _>>()
            .map_err(row_fault)?;
        rows.row(&cells).map_err(row_fault)?;
    }
    Ok(())
}

fn cell(field: Option<&Field>, column: usize) -> Result<Cell<'_>, Fault> {
    let fault = |reason: &str| Fault { column: Some(column), reason: reason.to_owned() };
    Ok(match field {
        None | Some(Field::Null) => Cell::Missing,
        Some(Field::Bool(truth)) => Cell::Truth(*truth),
        Some(Field::Byte(whole)) => Cell::Whole(i64::from(*whole)),
        Some(Field::Short(whole)) => Cell::Whole(i64::from(*whole)),
        Some(Field::Int(whole)) => Cell::Whole(i64::from(*whole)),
        Some(Field::Long(whole)) => Cell::Whole(*whole),
        Some(Field::UByte(whole)) => Cell::Whole(i64::from(*whole)),
        Some(Field::UShort(whole)) => Cell::Whole(i64::from(*whole)),
        Some(Field::UInt(whole)) => Cell::Whole(i64::from(*whole)),
        Some(Field::ULong(whole)) => i64::try_from(*whole).map_or(Cell::Number(*whole as f64), Cell::Whole),
        // The shortest number that is this one in single precision: what the sensor said, and what CSV would hold.
        Some(Field::Float(number)) => Cell::Number(number.to_string().parse().unwrap_or(f64::from(*number))),
        Some(Field::Double(number)) => Cell::Number(*number),
        Some(number @ (Field::Float16(_) | Field::Decimal(_))) => {
            Cell::Number(number.to_string().parse().map_err(|_| fault("is no number"))?)
        }
        Some(Field::Str(text)) => Cell::of_text(text),
        Some(Field::Bytes(bytes)) => {
            Cell::of_text(bytes.as_utf8().map_err(|_| fault("is bytes and no text"))?)
        }
        Some(Field::Date(days)) => Cell::Micros(i64::from(*days) * DAY_US),
        Some(Field::TimestampMillis(ms)) => Cell::Micros(ms.saturating_mul(1_000)),
        Some(Field::TimestampMicros(us)) => Cell::Micros(*us),
        Some(_) => {
            return Err(fault("is of a type that no reading has; write it as a number, a text or a time"));
        }
    })
}
