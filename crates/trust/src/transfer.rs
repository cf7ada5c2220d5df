//! The check of a target while it arrives: length first, hash at the end, a floor under the speed.
//!
//! Never opens a connection and never keeps more than the running hash. The caller writes each part where it wants to
//! after it was taken here.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::failure::{Code, Failure};
use crate::hashes::{Hashing, require_length};
use crate::metadata::TargetDescription;

/// Over how long the speed is judged: a radio link may pause for many seconds.
pub const SPEED_WINDOW: Duration = Duration::from_secs(30);
/// Slowest transfer that goes on: half of what GPRS gives on a bad day. A model of 1 MB then takes an hour at most.
pub const SPEED_BYTES_PER_S_MIN: u64 = 256;

/// Takes the parts of one target.
#[derive(Debug, Clone)]
pub struct TargetReader {
    object: String,
    hashes: BTreeMap<String, String>,
    hashing: Hashing,
    length: u64,
    taken: u64,
}

impl TargetReader {
    /// Begins; `announced` is the length that the source promises, where it does. To resume, give the parts that are there
    /// already to [`TargetReader::update`] first.
    ///
    /// *Errors*: `endless_data` or `mismatch` where another length is promised than was signed.
    pub fn new(
        description: &TargetDescription,
        announced: Option<u64>,
        object: &str,
    ) -> Result<Self, Failure> {
        if let Some(announced) = announced {
            require_length(announced, description.length, object)?;
        }
        Ok(Self {
            object: object.to_owned(),
            hashing: Hashing::new(&description.hashes),
            hashes: description.hashes.clone(),
            length: description.length,
            taken: 0,
        })
    }

    /// Takes the next part.
    ///
    /// *Errors*: `endless_data` as soon as there is more than was signed; nothing of the part is to be kept.
    pub fn update(&mut self, part: &[u8]) -> Result<(), Failure> {
        let taken = self.taken.saturating_add(part.len() as u64);
        if taken > self.length {
            return require_length(taken, self.length, &self.object);
        }
        self.hashing.update(part);
        self.taken = taken;
        Ok(())
    }

    /// Returns how many bytes are missing.
    #[must_use]
    pub const fn missing(&self) -> u64 {
        self.length - self.taken
    }

    /// Ends: what was taken is the target.
    ///
    /// *Errors*: `mismatch` where bytes are missing or a hash differs.
    pub fn finish(self) -> Result<(), Failure> {
        require_length(self.taken, self.length, &self.object)?;
        if !self.hashing.is(&self.hashes) {
            let reason = "is not the file that was signed (its hash differs)";
            return Err(Failure::new(Code::Mismatch, &self.object, reason));
        }
        Ok(())
    }
}

/// Judges the speed of a transfer: `bytes` came in the last `elapsed`. To be asked at least once every [`SPEED_WINDOW`],
/// with the count begun anew each time.
///
/// *Errors*: `slow_retrieval` for less than [`SPEED_BYTES_PER_S_MIN`] over a whole window.
pub fn require_speed(bytes: u64, elapsed: Duration, object: &str) -> Result<(), Failure> {
    let needed = SPEED_BYTES_PER_S_MIN.saturating_mul(elapsed.as_secs());
    if elapsed >= SPEED_WINDOW && bytes < needed {
        let seconds = elapsed.as_secs();
        let reason = format!("gave {bytes} bytes in {seconds} s; at least {needed} are needed to go on");
        return Err(Failure::new(Code::SlowRetrieval, object, reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &[u8]) -> TargetReader {
        TargetReader::new(&TargetDescription::of(bytes, None), Some(bytes.len() as u64), "t").unwrap()
    }

    #[test]
    fn a_target_in_parts_is_the_target() {
        let mut reader = reader(b"abcdef");
        for part in [b"ab".as_slice(), b"", b"cdef"] {
            reader.update(part).unwrap();
        }
        assert_eq!(reader.missing(), 0);
        reader.finish().unwrap();
    }

    #[test]
    fn an_endless_target_is_cut_at_its_length() {
        let mut endless = reader(b"abc");
        endless.update(b"abc").unwrap();
        assert_eq!(endless.update(b"d").unwrap_err().code, Code::EndlessData);
        let description = TargetDescription::of(b"abc", None);
        assert_eq!(
            TargetReader::new(&description, Some(4), "t").unwrap_err().code,
            Code::EndlessData,
            "before the first byte"
        );
        assert_eq!(TargetReader::new(&description, Some(2), "t").unwrap_err().code, Code::Mismatch);
    }

    #[test]
    fn a_short_or_another_target_is_a_mismatch() {
        let mut short = reader(b"abc");
        short.update(b"ab").unwrap();
        assert_eq!(short.finish().unwrap_err().code, Code::Mismatch);
        let mut other = reader(b"abc");
        other.update(b"abd").unwrap();
        assert_eq!(other.finish().unwrap_err().code, Code::Mismatch);
    }

    #[test]
    fn one_byte_a_second_is_too_slow_and_a_pause_is_not() {
        assert!(require_speed(1, Duration::from_secs(29), "t").is_ok());
        let slow = require_speed(30, Duration::from_secs(30), "t").unwrap_err();
        assert_eq!(slow.code, Code::SlowRetrieval);
        assert!(require_speed(30 * SPEED_BYTES_PER_S_MIN, Duration::from_secs(30), "t").is_ok());
    }
}
