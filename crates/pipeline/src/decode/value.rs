//! From what stands in a payload to a field's number: the rules that all formats share.
//!
//! Knows nothing of formats and times. Never lets a value through that is not finite or outside the field's range.

use dunlin_model_package::unit::{Conversion, conversion};

use crate::reading::MISSING;
use crate::refusal::Reason;

/// A value as it stands in a payload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Raw<'v> {
    /// Not there, or null.
    Missing,
    /// A whole number, kept apart because nanoseconds since 1970 do not fit a double.
    Integer(i64),
    Float(f64),
    Truth(bool),
    Text(&'v str),
    /// An object, an array, bytes: nothing that a field can hold.
    Other,
}

impl<'v> Raw<'v> {
    /// Returns the value of a text cell, where nothing but white space is a missing value.
    pub(super) fn of_cell(cell: &'v str) -> Self {
        let cell = cell.trim();
        if cell.is_empty() { Self::Missing } else { Self::Text(cell) }
    }

    /// Returns the number that the value is or that its text spells, which need not be finite.
    pub(super) fn number(self) -> Option<f64> {
        match self {
            Self::Integer(whole) => Some(whole as f64),
            Self::Float(number) => Some(number),
            Self::Text(text) => text.trim().parse().ok(),
            Self::Missing | Self::Truth(_) | Self::Other => None,
        }
    }
}

/// A field's way from raw value to number.
#[derive(Debug, Clone)]
pub(super) struct FieldRule {
    pub(super) name: String,
    pub(super) unit: Option<String>,
    /// Positions of captures among the tags, and the texts they must have.
    pub(super) when: Vec<(usize, String)>,
    pub(super) scale: f64,
    pub(super) offset: f64,
    pub(super) range: Option<[f64; 2]>,
    pub(super) missing_values: Vec<f64>,
    pub(super) map: ValueMap,
}

impl FieldRule {
    /// Tells whether the field is read for these values of the source's tags.
    pub(super) fn is_active(&self, tags: &[String]) -> bool {
        self.when.iter().all(|(position, value)| tags.get(*position) == Some(value))
    }
}

/// A field's `map`, split by what a payload may hold.
#[derive(Debug, Clone, Default)]
pub(super) struct ValueMap {
    /// Sorted by text.
    texts: Vec<(String, f64)>,
    /// Entries whose text spells a number: `21`, `21.0` and `"21"` are the same there.
    numbers: Vec<(f64, f64)>,
    on_false: Option<f64>,
    on_true: Option<f64>,
}

impl ValueMap {
    pub(super) fn new<'e>(entries: impl Iterator<Item = (&'e String, &'e f64)>) -> Self {
        let mut map = Self::default();
        for (text, &value) in entries {
            match text.as_str() {
                "false" => map.on_false = Some(value),
                "true" => map.on_true = Some(value),
                _ => {}
            }
            if let Ok(number) = text.parse::<f64>() {
                map.numbers.push((number, value));
            }
            map.texts.push((text.clone(), value));
        }
        map.texts.sort_by(|a, b| a.0.cmp(&b.0));
        map
    }

    fn of_text(&self, text: &str) -> Option<f64> {
        let found = self.texts.binary_search_by(|(known, _)| known.as_str().cmp(text)).ok()?;
        Some(self.texts[found].1)
    }

    fn of_number(&self, number: f64) -> Option<f64> {
        self.numbers.iter().find(|(known, _)| *known == number).map(|(_, value)| *value)
    }

    /// What a value is that is neither listed nor a number.
    fn unlisted(&self) -> Reason {
        if self.texts.is_empty() { Reason::WrongType } else { Reason::NotMapped }
    }
}

impl FieldRule {
    /// Returns the field's value, NaN where it is missing. Order: `map`, `missing_values`, the unit that the payload
    /// names, `scale`, `offset`, `range`.
    ///
    /// *Errors*: why the value is refused.
    pub(super) fn value_of(&self, raw: Raw<'_>, payload_unit: Option<&str>) -> Result<f64, Reason> {
        let number = match raw {
            Raw::Missing => return Ok(MISSING),
            Raw::Integer(whole) => self.mapped_number(whole as f64)?,
            Raw::Float(number) => self.mapped_number(number)?,
            Raw::Truth(truth) => {
                let listed = if truth { self.map.on_true } else { self.map.on_false };
                listed.ok_or_else(|| self.map.unlisted())?
            }
            Raw::Text(text) => match self.map.of_text(text) {
                Some(value) => value,
                None => self.mapped_number(raw.number().ok_or_else(|| self.map.unlisted())?)?,
            },
            Raw::Other => return Err(Reason::WrongType),
        };
        if self.missing_values.contains(&number) {
            return Ok(MISSING);
        }
        let value = self.conversion_from(payload_unit)?.apply(number) * self.scale + self.offset;
        if !value.is_finite() {
            return Err(Reason::NotFinite);
        }
        match self.range {
            Some([low, high]) if !(low..=high).contains(&value) => Err(Reason::OutOfRange),
            _ => Ok(value),
        }
    }

    fn mapped_number(&self, number: f64) -> Result<f64, Reason> {
        if !number.is_finite() {
            return Err(Reason::NotFinite);
        }
        Ok(self.map.of_number(number).unwrap_or(number))
    }

    fn conversion_from(&self, payload_unit: Option<&str>) -> Result<Conversion, Reason> {
        match (payload_unit, &self.unit) {
            (Some(from), Some(to)) => conversion(from, to).ok_or(Reason::WrongUnit),
            _ => Ok(Conversion::IDENTITY),
        }
    }
}
