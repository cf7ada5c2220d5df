//! The REST interface of the fleet server: the objects that go over the wire, for the server and its clients alike.
//!
//! Types alone: no I/O, no rules. Times are RFC 3339 in UTC, sizes end in `_bytes`, durations in `_s` or `_ms`. A reader
//! passes over members that it does not know.

pub mod audit;
pub mod device;
pub mod enrolment;
pub mod event;
pub mod image;
pub mod order;
pub mod page;
pub mod policy;
pub mod rollout;
pub mod server;
pub mod token;
pub mod upload;
pub mod webhook;

use std::collections::BTreeMap;

/// Labels of a gateway, by name.
pub type Labels = BTreeMap<String, String>;
