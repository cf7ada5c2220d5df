//! The `number` format: a payload that is one number as text.
//!
//! Looks at nothing but the text; which field it is, the topic says.

use super::record::{Place, Recorder};
use super::time::FoundTime;
use super::value::Raw;
use crate::refusal::Reason;

pub(super) fn decode(recorder: &mut Recorder<'_>) {
    let Ok(text) = std::str::from_utf8(recorder.message.payload) else {
        return recorder.refuse(Reason::InvalidUtf8, "the payload");
    };
    let Some(field) = recorder.route.active.iter().position(|active| *active) else {
        return;
    };
    let mut draft = recorder.draft(Place::Payload);
    let raw = Raw::of_cell(text);
    match recorder.source.fields[field].value_of(raw, None) {
        // What is a wrong type inside an object is not in the format at all here.
        Err(Reason::WrongType) => recorder.refuse_field(&mut draft, field, Reason::Syntax),
        _ => recorder.set(&mut draft, field, raw, None),
    }
    recorder.finish(draft, FoundTime::None, |_| Raw::Missing);
}
