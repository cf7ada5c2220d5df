//! The one way in which JSON of a peer is read: bounded in length and depth before a value is made of it.
//!
//! Unknown members are skipped; what they hold is bounded like the rest. Never reads from a stream.

use std::fmt;

use serde::de::DeserializeOwned;

use crate::limits::DEPTH_MAX;
use crate::text::Words;

/// Why bytes are not the JSON that was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonError {
    /// More bytes than allowed.
    TooLong {
        /// How many.
        bytes: usize,
        /// How many are allowed.
        bytes_max: usize,
    },
    /// Nested deeper than [`DEPTH_MAX`].
    TooDeep,
    /// No JSON, or of another form; with what and where.
    Malformed(Words),
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes, bytes_max } => {
                write!(f, "has {bytes} bytes; {bytes_max} are the most")
            }
            Self::TooDeep => write!(f, "is nested deeper than {DEPTH_MAX} levels"),
            Self::Malformed(reason) => write!(f, "is not of the expected form: {reason}"),
        }
    }
}

impl std::error::Error for JsonError {}

/// Reads a value.
///
/// *Errors*: it is too long, too deep or of another form.
pub fn read<T: DeserializeOwned>(bytes: &[u8], bytes_max: usize) -> Result<T, JsonError> {
    if bytes.len() > bytes_max {
        return Err(JsonError::TooLong { bytes: bytes.len(), bytes_max });
    }
    require_shallow(bytes)?;
    serde_json::from_slice(bytes).map_err(|error| JsonError::Malformed(Words::cut(&error.to_string())))
}

/// serde_json bounds the depth of what it makes a value of, at 128 levels, and not of what it skips.
fn require_shallow(bytes: &[u8]) -> Result<(), JsonError> {
    let (mut depth, mut is_text, mut is_escaped) = (0_usize, false, false);
    for byte in bytes {
        match (is_text, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (true, b'"') => is_text = false,
            (false, b'"') => is_text = true,
            (false, b'[' | b'{') => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(JsonError::TooDeep);
                }
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Known {
        a: u8,
    }

    #[test]
    fn depth_counts_brackets_outside_texts_alone() {
        let nested = |depth: usize| format!("{{\"a\":1,\"b\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(read::<Known>(nested(DEPTH_MAX - 1).as_bytes(), 1 << 20), Ok(Known { a: 1 }));
        assert_eq!(read::<Known>(nested(DEPTH_MAX).as_bytes(), 1 << 20), Err(JsonError::TooDeep));
        let text = format!("{{\"a\":1,\"b\":\"\\\"{}\"}}", "[".repeat(1_000));
        assert_eq!(read::<Known>(text.as_bytes(), 1 << 20), Ok(Known { a: 1 }));
    }

    #[test]
    fn what_is_wrong_is_told_in_a_bounded_text() {
        let text = format!("{{\"a\":\"{}\"}}", "\\u001b".repeat(10_000));
        let Err(JsonError::Malformed(words)) = read::<Known>(text.as_bytes(), 1 << 20) else { panic!() };
        assert!(!words.contains('\u{1b}'));
        assert_eq!(read::<Known>(b"{\"a\":1}", 6), Err(JsonError::TooLong { bytes: 7, bytes_max: 6 }));
    }
}
