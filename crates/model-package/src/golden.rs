//! Golden vectors: recorded messages and the predictions they must lead to, from raw payload to final output.
//!
//! Reads and writes `golden.jsonl`: one header line that holds the sources and the model as a configuration would,
//! then messages and expected predictions in order. Runs nothing: `dunlin-pipeline` does.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::feature_spec::SourceSpec;
use crate::manifest::shown;
use crate::model_spec::ModelSpec;

/// Most records of one golden file: checked within the seconds that loading a model may take.
pub const RECORDS_MAX: usize = 100_000;
/// Longest golden file: the most records of 160 bytes each, and no burden for a board of 512 MB.
pub const GOLDEN_BYTES_MAX: u64 = 16 << 20;

/// A golden file.
#[derive(Debug, Clone, PartialEq)]
pub struct Golden {
    /// How the messages become the model's input.
    pub header: GoldenHeader,
    /// Messages and expected predictions, in order.
    pub records: Vec<GoldenRecord>,
}

/// The first line of a golden file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenHeader {
    /// Version of the format: 1.
    pub golden: u32,
    /// The sources, as in a configuration.
    pub sources: Vec<SourceSpec>,
    /// The model, as in a configuration.
    pub model: ModelSpec,
}

/// A line of a golden file after the header.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum GoldenRecord {
    /// A message arrives.
    Message(RecordedMessage),
    /// The messages so far must have led to this prediction.
    Expect(ExpectedPrediction),
}

/// A recorded MQTT message. The same shape is read by `dunlind replay`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedMessage {
    /// Its topic.
    pub topic: String,
    /// When it arrived, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival_ms: Option<i64>,
    /// Its payload, where that is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Its payload in hexadecimal, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_hex: Option<String>,
    /// Whether the broker had retained it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retained: bool,
}

/// The prediction that a golden file expects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedPrediction {
    /// Values of the series key by tag.
    #[serde(default)]
    pub key: BTreeMap<String, String>,
    /// End of the window in microseconds since 1970.
    pub window_end_us: i64,
    /// Values by output, flattened row-major.
    pub outputs: BTreeMap<String, Vec<f32>>,
    /// The label, where the model gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// A golden file that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoldenError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for GoldenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "golden vectors, line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for GoldenError {}

impl RecordedMessage {
    /// Returns the payload's bytes.
    ///
    /// *Errors*: neither or both payloads given, or `payload_hex` is not hexadecimal.
    pub fn payload_bytes(&self) -> Result<Vec<u8>, String> {
        match (&self.payload, &self.payload_hex) {
            (Some(text), None) => Ok(text.clone().into_bytes()),
            (None, Some(hex)) => decode_hex(hex).ok_or_else(|| "`payload_hex` is not hexadecimal".to_owned()),
            _ => Err("a message has one of `payload` and `payload_hex`".to_owned()),
        }
    }

    /// Returns the record of a message with these bytes.
    #[must_use]
    pub fn from_bytes(topic: String, payload: &[u8], arrival_ms: Option<i64>, retained: bool) -> Self {
        let (text, hex) = match std::str::from_utf8(payload) {
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(payload.iter().map(|byte| format!("{byte:02x}")).collect())),
        };
        Self { topic, arrival_ms, payload: text, payload_hex: hex, retained }
    }
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    bytes.chunks_exact(2).map(|pair| Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8)).collect()
}

/// The records of a golden file, read one at a time: a whole file of them would take many times its bytes.
#[derive(Debug)]
pub struct GoldenReader {
    bytes: Vec<u8>,
    offset: usize,
    line: usize,
    records: usize,
}

impl GoldenReader {
    /// Reads the header; what is returned reads the rest.
    ///
    /// *Errors*: the header is missing, cannot be read or is of a newer format.
    pub fn open(bytes: Vec<u8>) -> Result<(GoldenHeader, Self), GoldenError> {
        let mut reader = Self { bytes, offset: 0, line: 0, records: 0 };
        let Some(first) = reader.next_line() else {
            return Err(GoldenError { line: 1, reason: "the file is empty".to_owned() });
        };
        let header: GoldenHeader =
            serde_json::from_slice(&reader.bytes[first]).map_err(|e| reader.refuse(e.to_string()))?;
        if header.golden != 1 {
            return Err(reader.refuse(format!("format {} is newer than this build reads (1)", header.golden)));
        }
        Ok((header, reader))
    }

    /// Returns where the next line lies that is not blank.
    fn next_line(&mut self) -> Option<std::ops::Range<usize>> {
        while self.offset < self.bytes.len() {
            let rest = &self.bytes[self.offset..];
            let length = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            let line = self.offset..self.offset + length;
            self.offset = line.end + 1;
            self.line += 1;
            if !self.bytes[line.clone()].trim_ascii().is_empty() {
                return Some(line);
            }
        }
        None
    }

    fn refuse(&self, reason: String) -> GoldenError {
        GoldenError { line: self.line, reason: shown(&reason) }
    }
}

impl Iterator for GoldenReader {
    type Item = Result<GoldenRecord, GoldenError>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.next_line()?;
        if self.records == RECORDS_MAX {
            return Some(Err(self.refuse(format!("more than {RECORDS_MAX} records"))));
        }
        self.records += 1;
        // A number beyond 32-bit floats is refused as one out of range.
        Some(serde_json::from_slice(&self.bytes[line]).map_err(|error| self.refuse(error.to_string())))
    }
}

impl Golden {
    /// Reads a golden file.
    ///
    /// *Errors*: the first line that cannot be read, or too many.
    pub fn parse(text: &[u8]) -> Result<Self, GoldenError> {
        let (header, records) = GoldenReader::open(text.to_vec())?;
        Ok(Self { header, records: records.collect::<Result<_, _>>()? })
    }

    /// Writes the golden file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out =
            serde_json::to_vec(&self.header).expect("a header has no maps with other keys than texts");
        for record in &self.records {
            out.push(b'\n');
            out.extend(serde_json::to_vec(record).expect("a record has no maps with other keys than texts"));
        }
        out.push(b'\n');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_of_any_bytes_read_back() {
        for bytes in [&b"21.5"[..], &[0xff, 0x00, 0x80]] {
            let record = RecordedMessage::from_bytes("a/b".to_owned(), bytes, Some(1), false);
            let line = serde_json::to_string(&GoldenRecord::Message(record.clone())).unwrap();
            assert_eq!(
                serde_json::from_str::<GoldenRecord>(&line).unwrap(),
                GoldenRecord::Message(record.clone())
            );
            assert_eq!(record.payload_bytes().unwrap(), bytes);
        }
    }

    #[test]
    fn an_unreadable_line_is_named() {
        let error = Golden::parse(
            b"{\"golden\":1,\"sources\":[],\"model\":{\"name\":\"m\",\"package\":\".\"}}\n{\"expect\":3}\n",
        )
        .unwrap_err();
        assert_eq!(error.line, 2);
    }

    #[test]
    fn an_expectation_beyond_32_bit_floats_is_refused_since_it_cannot_be_written() {
        let header = "{\"golden\":1,\"sources\":[],\"model\":{\"name\":\"m\",\"package\":\".\"}}";
        let golden = |value: &str| {
            format!("{header}\n{{\"expect\":{{\"window_end_us\":1,\"outputs\":{{\"y\":[{value}]}}}}}}\n")
        };
        let error = Golden::parse(golden("1e39").as_bytes()).unwrap_err();
        assert_eq!((error.line, error.reason.contains("out of range")), (2, true), "{error}");
        assert!(Golden::parse(golden("-3e38").as_bytes()).is_ok());
    }
}
