//! Texts of bounded length without control characters: whatever a peer writes fits a log line and a table's cell.
//!
//! Reading refuses what is too long or holds control characters; [`Text::cut`] is for the side that writes, which must
//! not fail because a model's message is long.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::{
    CODE_BYTES_MAX, METADATA_BYTES_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, TAG_VALUE_BYTES_MAX, URL_BYTES_MAX,
    WORDS_BYTES_MAX,
};

/// A text of at most `BYTES_MAX` bytes of UTF-8, without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Text<const BYTES_MAX: usize>(String);

/// A name.
pub type Name = Text<NAME_BYTES_MAX>;
/// A code, for programs.
pub type Code = Text<CODE_BYTES_MAX>;
/// An explanation, for people.
pub type Words = Text<WORDS_BYTES_MAX>;
/// A URL.
pub type Url = Text<URL_BYTES_MAX>;
/// The value of a tag: may be a level of a topic.
pub type TagValue = Text<TAG_VALUE_BYTES_MAX>;
/// The path of a target.
pub type TargetPath = Text<PATH_BYTES_MAX>;

/// Why something is no such text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextError {
    /// It is longer than so many bytes.
    TooLong(usize),
    /// It holds a control character.
    Control,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(bytes_max) => write!(f, "the text is longer than {bytes_max} bytes"),
            Self::Control => f.write_str("the text holds a control character"),
        }
    }
}

impl std::error::Error for TextError {}

impl<const BYTES_MAX: usize> Text<BYTES_MAX> {
    /// Takes a text as it is.
    ///
    /// *Errors*: it is too long or holds control characters.
    pub fn new(text: impl Into<String>) -> Result<Self, TextError> {
        let text = text.into();
        if text.len() > BYTES_MAX {
            return Err(TextError::TooLong(BYTES_MAX));
        }
        if text.chars().any(char::is_control) {
            return Err(TextError::Control);
        }
        Ok(Self(text))
    }

    /// Makes a text of any: control characters become spaces, and what is too long is cut at a character's end.
    #[must_use]
    pub fn cut(text: &str) -> Self {
        let mut kept = String::with_capacity(text.len().min(BYTES_MAX));
        for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
            if kept.len() + c.len_utf8() > BYTES_MAX {
                break;
            }
            kept.push(c);
        }
        Self(kept)
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Gives the text away.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

impl<const BYTES_MAX: usize> Deref for Text<BYTES_MAX> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const BYTES_MAX: usize> fmt::Display for Text<BYTES_MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<const BYTES_MAX: usize> PartialEq<&str> for Text<BYTES_MAX> {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl<const BYTES_MAX: usize> FromStr for Text<BYTES_MAX> {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        Self::new(text)
    }
}

impl<const BYTES_MAX: usize> TryFrom<String> for Text<BYTES_MAX> {
    type Error = TextError;

    fn try_from(text: String) -> Result<Self, TextError> {
        Self::new(text)
    }
}

impl<const BYTES_MAX: usize> Serialize for Text<BYTES_MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de, const BYTES_MAX: usize> Deserialize<'de> for Text<BYTES_MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl<const BYTES_MAX: usize> JsonSchema for Text<BYTES_MAX> {
    fn schema_name() -> Cow<'static, str> {
        format!("Text{BYTES_MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": BYTES_MAX,
            "description": format!("A text of at most {BYTES_MAX} bytes of UTF-8, without control characters."),
        })
    }
}

/// A file of metadata as text, byte for byte; at most [`METADATA_BYTES_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataText(String);

impl MetadataText {
    /// Takes a file.
    ///
    /// *Errors*: it is too long, or no UTF-8, which metadata in JSON always are.
    pub fn new(raw: impl Into<Vec<u8>>) -> Result<Self, TextError> {
        let raw = raw.into();
        if raw.len() > METADATA_BYTES_MAX {
            return Err(TextError::TooLong(METADATA_BYTES_MAX));
        }
        String::from_utf8(raw).map(Self).map_err(|_| TextError::Control)
    }

    /// Returns the file's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Serialize for MetadataText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for MetadataText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for MetadataText {
    fn schema_name() -> Cow<'static, str> {
        "MetadataText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": METADATA_BYTES_MAX,
            "description": "A signed file of metadata of The Update Framework, byte for byte as a JSON string.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_and_control_characters_are_refused_in_reading_and_cut_in_writing() {
        assert_eq!(Text::<4>::new("äää"), Err(TextError::TooLong(4)));
        assert_eq!(Text::<4>::cut("äää").as_str(), "ää");
        assert_eq!(Text::<9>::new("a\u{1b}[31m"), Err(TextError::Control));
        assert_eq!(Text::<9>::cut("a\u{1b}[31m").as_str(), "a [31m");
        assert!(serde_json::from_str::<Text<4>>("\"abcde\"").is_err());
        assert_eq!(serde_json::from_str::<Text<4>>("\"abcd\"").unwrap(), "abcd");
    }
}
