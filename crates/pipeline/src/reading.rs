//! Readings: the values of one record of one series at one event time.
//!
//! Plain values between the stages, and the identities of the series they belong to. Also what the store keeps.

use serde::{Deserialize, Serialize};

/// The value that stands for "not measured" in a reading.
pub const MISSING: f64 = f64::NAN;

/// Number of a series, given when its first reading is accepted and kept for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SeriesId(pub u32);

/// What makes a series: its source and the values of its tags.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SeriesIdentity {
    /// Name of the source.
    pub source: String,
    /// Tags and their values, in the order of the source's tag names.
    pub tags: Vec<(String, String)>,
    /// Names of the fields, in the order of a reading's values.
    pub fields: Vec<String>,
}

/// An accepted reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Its series.
    pub series: SeriesId,
    /// Event time in microseconds since 1970.
    pub event_us: i64,
    /// Where the event time came from.
    pub timed_by: TimedBy,
    /// One value a field of the series; NaN ([`MISSING`]) where it was not measured.
    pub values: Vec<f64>,
}

/// Where an event time came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimedBy {
    /// The payload.
    Payload,
    /// The gateway's clock at arrival: to be corrected where that clock was set later.
    Arrival,
}
