//! Statements and values, as both databases take them.
//!
//! The smallest set of types that both have: integers, floats, text and bytes. Never knows a table, and never opens or
//! ends a transaction.

use super::StoreError;

/// A value of a column or parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// `BIGINT`
    Integer(i64),
    /// `DOUBLE PRECISION`
    Real(f64),
    /// `TEXT`
    Text(String),
    /// `BLOB` or `BYTEA`
    Blob(Vec<u8>),
}

/// What one transaction asks of the database.
///
/// One text serves both databases: parameters are `$1`, `$2`, …; sums of integers are cast to `BIGINT`.
pub trait Sql {
    /// Runs a statement; returns the number of rows that it changed.
    ///
    /// *Errors*: [`StoreError::Conflict`] for a row that exists already, or what the database says.
    fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, StoreError>;

    /// Runs a query; returns all of its rows. Bounded by a `LIMIT` wherever a table can grow.
    ///
    /// *Errors*: as [`Sql::execute`].
    fn query(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Row>, StoreError>;

    /// Runs a query that has one row at most.
    ///
    /// *Errors*: as [`Sql::execute`], or there are more rows.
    fn query_optional(&mut self, sql: &str, values: &[Value]) -> Result<Option<Row>, StoreError> {
        let mut rows = self.query(sql, values)?;
        match rows.len() {
            0 | 1 => Ok(rows.pop()),
            several => {
                Err(StoreError::Damaged(format!("{several} rows answer `{sql}`, where one is expected")))
            }
        }
    }
}

/// A row of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Row(pub(super) Vec<Value>);

impl Row {
    /// Takes the value of a column, by its position from 0, out of the row.
    ///
    /// *Errors*: [`StoreError::Damaged`] for a value of another type.
    pub fn take<T: FromValue>(&mut self, column: usize) -> Result<T, StoreError> {
        let value = self.0.get_mut(column).map(|value| std::mem::replace(value, Value::Null));
        let value = value.ok_or_else(|| StoreError::Damaged(format!("a row has no column {column}")))?;
        T::from_value(value)
            .map_err(|value| StoreError::Damaged(format!("column {column} holds {}", kind(&value))))
    }
}

/// Refuses what one of the databases cannot keep: NUL in a text, and floats that are not finite.
pub(super) fn require_storable(values: &[Value], sql: &str) -> Result<(), StoreError> {
    let is_storable = |value: &Value| match value {
        Value::Text(text) => !text.contains('\0'),
        Value::Real(number) => number.is_finite(),
        Value::Null | Value::Integer(_) | Value::Blob(_) => true,
    };
    let Some(position) = values.iter().position(|value| !is_storable(value)) else { return Ok(()) };
    let source = format!("${} is a text with a NUL, or not a finite number", position + 1).into();
    Err(StoreError::Refused { sql: sql.to_owned(), source })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Integer(_) => "an integer",
        Value::Real(_) => "a float",
        Value::Text(_) => "a text",
        Value::Blob(_) => "bytes",
    }
}

/// What a column can be read as.
pub trait FromValue: Sized {
    /// Returns the value, or gives back one of another type.
    ///
    /// *Errors*: the value, where it is of another type or outside the range.
    fn from_value(value: Value) -> Result<Self, Value>;
}

macro_rules! from_value {
    ($($variant:ident => $type:ty),*) => {$(
        impl FromValue for $type {
            fn from_value(value: Value) -> Result<Self, Value> {
                match value {
                    Value::$variant(inner) => Ok(inner),
                    other => Err(other),
                }
            }
        }

        impl From<$type> for Value {
            fn from(inner: $type) -> Self {
                Self::$variant(inner)
            }
        }
    )*};
}

from_value!(Integer => i64, Real => f64, Text => String, Blob => Vec<u8>);

macro_rules! from_integer {
    ($($type:ty),*) => {$(
        impl FromValue for $type {
            fn from_value(value: Value) -> Result<Self, Value> {
                match value {
                    Value::Integer(inner) => Self::try_from(inner).map_err(|_| Value::Integer(inner)),
                    other => Err(other),
                }
            }
        }

        /// Numbers beyond what a column holds become its largest: nothing here counts that far.
        impl From<$type> for Value {
            fn from(inner: $type) -> Self {
                Self::Integer(i64::try_from(inner).unwrap_or(i64::MAX))
            }
        }
    )*};
}

from_integer!(u64, u32, usize);

impl FromValue for bool {
    fn from_value(value: Value) -> Result<Self, Value> {
        match value {
            Value::Integer(0) => Ok(false),
            Value::Integer(1) => Ok(true),
            other => Err(other),
        }
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> Result<Self, Value> {
        if value == Value::Null { Ok(None) } else { T::from_value(value).map(Some) }
    }
}

impl From<bool> for Value {
    fn from(inner: bool) -> Self {
        Self::Integer(i64::from(inner))
    }
}

impl From<&str> for Value {
    fn from(inner: &str) -> Self {
        Self::Text(inner.to_owned())
    }
}

impl From<&[u8]> for Value {
    fn from(inner: &[u8]) -> Self {
        Self::Blob(inner.to_owned())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(inner: Option<T>) -> Self {
        inner.map_or(Self::Null, Into::into)
    }
}
