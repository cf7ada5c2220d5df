//! From values to records: what every format does with a record once it has found its values.
//!
//! Knows no format. Adds a record or the reasons against it to the caller's lists, with a bound on both.

use std::fmt;

use dunlin_model_package::feature_spec::Retained;

use super::time::FoundTime;
use super::value::Raw;
use super::{CompiledSource, Decoded, REFUSALS_MAX, Record, Route, TAG_BYTES_MAX};
use crate::message::Message;
use crate::reading::{MISSING, TimedBy};
use crate::refusal::{Reason, Refusal};

/// Where a record stands in its payload.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Payload,
    /// Counted from 0, as pointers do.
    Element(usize),
    /// Counted from 1, as editors do.
    Line(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload => Ok(()),
            Self::Element(position) => write!(f, "element {position}: "),
            Self::Line(line) => write!(f, "line {line}: "),
        }
    }
}

/// A record whose values are being filled in.
#[derive(Debug)]
pub(super) struct Draft {
    place: Place,
    values: Vec<f64>,
    refused: bool,
}

impl Draft {
    /// Tells whether the field has a value already.
    pub(super) fn has(&self, field: usize) -> bool {
        !self.values[field].is_nan()
    }
}

/// Turns the drafts of one message into records.
pub(super) struct Recorder<'a> {
    pub(super) source: &'a CompiledSource,
    pub(super) route: &'a Route,
    pub(super) message: &'a Message<'a>,
    out: &'a mut Decoded,
    refusals_end: usize,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(
        source: &'a CompiledSource,
        route: &'a Route,
        message: &'a Message<'a>,
        out: &'a mut Decoded,
    ) -> Self {
        let refusals_end = out.refusals.len() + REFUSALS_MAX;
        Self { source, route, message, out, refusals_end }
    }

    pub(super) fn refuse(&mut self, reason: Reason, detail: impl Into<String>) {
        if self.out.refusals.len() < self.refusals_end {
            self.out.refusals.push(Refusal::new(reason, detail));
        }
    }

    /// Starts a record without values.
    pub(super) fn draft(&self, place: Place) -> Draft {
        Draft { place, values: vec![MISSING; self.source.fields.len()], refused: false }
    }

    /// Tells whether the field at this position is read from the message's topic.
    pub(super) fn is_active(&self, field: usize) -> bool {
        self.route.active.get(field).copied().unwrap_or(false)
    }

    /// Puts a raw value into a draft, or refuses it.
    pub(super) fn set(&mut self, draft: &mut Draft, field: usize, raw: Raw<'_>, unit: Option<&str>) {
        match self.source.fields[field].value_of(raw, unit) {
            Ok(value) => draft.values[field] = value,
            Err(reason) => self.refuse_field(draft, field, reason),
        }
    }

    /// Refuses a value of a draft.
    pub(super) fn refuse_field(&mut self, draft: &mut Draft, field: usize, reason: Reason) {
        draft.refused = true;
        let detail = format!("{}field `{}`", draft.place, self.source.field_names[field]);
        self.refuse(reason, detail);
    }

    /// Adds the draft as a record, or refuses it. `tag_of` gives the raw values of the payload's tags, by position.
    pub(super) fn finish<'v>(&mut self, draft: Draft, time: FoundTime, tag_of: impl Fn(usize) -> Raw<'v>) {
        let Draft { place, values, refused } = draft;
        if values.iter().all(|value| value.is_nan()) {
            if !refused {
                self.refuse(Reason::NoFields, format!("{place}no field of the source has a value"));
            }
            return;
        }
        let (event_us, timed_by) = match self.source.times.event_time(time, self.message) {
            Ok(time) => time,
            Err(reason) => return self.refuse(reason, format!("{place}the record's time")),
        };
        if self.message.retained
            && self.source.retained == Retained::UseIfTime
            && timed_by == TimedBy::Arrival
        {
            let detail = format!("{place}the broker had retained the message, and it holds no time");
            return self.refuse(Reason::Retained, detail);
        }
        let mut tags = self.route.tags.clone();
        let from_payload = self.source.payload_tags();
        for (position, name) in self.source.tag_names[from_payload.clone()].iter().enumerate() {
            match tag_text(tag_of(position)) {
                Some(text) => tags[from_payload.start + position] = text,
                None => return self.refuse(Reason::NoTag, format!("{place}tag `{name}`")),
            }
        }
        self.out.records.push(Record { event_us, timed_by, tags, values });
    }
}

/// Returns the text of a tag, or `None` where there is none that could name a series.
fn tag_text(raw: Raw<'_>) -> Option<String> {
    let text = match raw {
        Raw::Text(text) if text.len() <= TAG_BYTES_MAX => text.to_owned(),
        Raw::Integer(whole) => whole.to_string(),
        Raw::Float(number) if number.is_finite() => number.to_string(),
        Raw::Truth(truth) => truth.to_string(),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}
