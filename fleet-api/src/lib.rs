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

use utoipa::openapi::schema::{Object, ObjectBuilder, Schema, Type};

/// Labels of a gateway, by name.
pub type Labels = BTreeMap<String, String>;

/// Describes labels to give: names and values of at most 128 bytes without control characters.
pub(crate) fn labels_schema() -> Object {
    let text = |length_min| {
        let text =
            ObjectBuilder::new().schema_type(Type::String).min_length(length_min).max_length(Some(128));
        text.pattern(Some("^[^\\u0000-\\u001f\\u007f-\\u009f]*$"))
    };
    let labels = ObjectBuilder::new().property_names(Some(Schema::Object(text(Some(1)).build())));
    labels.additional_properties(Some(Schema::Object(text(None).build()))).max_properties(Some(64)).build()
}
