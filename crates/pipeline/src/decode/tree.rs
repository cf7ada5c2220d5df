//! Trees of JSON and CBOR, pointers into them (RFC 6901), and the records they hold.
//!
//! One tree for both formats, so that both are addressed alike. Converts no value and parses no bytes.

mod build;

use super::RECORDS_MAX;
use super::record::{Place, Recorder};
use super::time::FoundTime;
use super::value::Raw;
use crate::refusal::Reason;

/// A parsed payload whose texts are of type `T`.
#[derive(Debug, PartialEq)]
pub(super) enum Tree<T> {
    Null,
    Truth(bool),
    Integer(i64),
    Float(f64),
    Text(T),
    List(Vec<Tree<T>>),
    /// In order of appearance; of two equal keys the later one counts. Keys that are no text or number are left out.
    Map(Vec<(T, Tree<T>)>),
    /// A CBOR date or time (tags 0 and 1): a time, but no value.
    Instant(Box<Tree<T>>),
    /// Bytes and other tags.
    Other,
}

impl<T: AsRef<str>> Tree<T> {
    /// Returns what a field or tag makes of it.
    pub(super) fn raw(&self) -> Raw<'_> {
        match self {
            Self::Null => Raw::Missing,
            Self::Truth(truth) => Raw::Truth(*truth),
            Self::Integer(whole) => Raw::Integer(*whole),
            Self::Float(number) => Raw::Float(*number),
            Self::Text(text) => Raw::Text(text.as_ref()),
            Self::List(_) | Self::Map(_) | Self::Instant(_) | Self::Other => Raw::Other,
        }
    }

    fn raw_time(&self) -> Raw<'_> {
        match self {
            Self::Instant(inner) => inner.raw(),
            _ => self.raw(),
        }
    }

    fn find(&self, pointer: &Pointer) -> Option<&Self> {
        pointer.steps.iter().try_fold(self, |tree, step| match tree {
            Self::Map(entries) => {
                entries.iter().rev().find(|(key, _)| key.as_ref() == step.key).map(|(_, value)| value)
            }
            Self::List(items) => items.get(step.position?),
            _ => None,
        })
    }

    fn raw_at(&self, pointer: &Pointer) -> Raw<'_> {
        self.find(pointer).map_or(Raw::Missing, Self::raw)
    }
}

/// A JSON pointer, split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pointer {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    key: String,
    /// The same as a position in an array.
    position: Option<usize>,
}

impl Step {
    fn new(key: String) -> Self {
        let is_position = key == "0" || (!key.starts_with('0') && key.bytes().all(|b| b.is_ascii_digit()));
        let position = if is_position { key.parse().ok() } else { None };
        Self { key, position }
    }
}

impl Pointer {
    /// Reads a pointer: empty, or each step after a `/`, with `~1` for `/` and `~0` for `~`.
    ///
    /// *Errors*: what is wrong and what to write instead.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let Some(steps) = text.strip_prefix('/') else {
            return if text.is_empty() {
                Ok(Self { steps: Vec::new() })
            } else {
                Err(format!("`{text}` is no JSON pointer: it begins with `/`, as in `/{text}`"))
            };
        };
        let unescaped = steps.split('/').map(|step| {
            if step.replace("~0", "").replace("~1", "").contains('~') {
                return Err(format!("`{text}` is no JSON pointer: write `~0` for `~` and `~1` for `/`"));
            }
            Ok(Step::new(step.replace("~1", "/").replace("~0", "~")))
        });
        Ok(Self { steps: unescaped.collect::<Result<_, _>>()? })
    }

    /// Returns the pointer to one key of the root.
    pub(super) fn to_key(key: &str) -> Self {
        Self { steps: vec![Step::new(key.to_owned())] }
    }
}

/// Where records, times, tags and fields stand in a tree.
#[derive(Debug, Clone)]
pub(super) struct TreeLayout {
    /// The array whose elements are one record each; without it the tree is one record.
    pub(super) each: Option<Pointer>,
    pub(super) time: Option<Pointer>,
    pub(super) tags: Vec<Pointer>,
    pub(super) fields: Vec<Pointer>,
}

/// Adds the records of a tree.
pub(super) fn decode<T: AsRef<str>>(layout: &TreeLayout, root: &Tree<T>, recorder: &mut Recorder<'_>) {
    let Some(each) = &layout.each else {
        return decode_record(layout, root, Place::Payload, recorder);
    };
    let items = match root.find(each) {
        Some(Tree::List(items)) if !items.is_empty() => items,
        Some(Tree::List(_) | Tree::Null) | None => {
            return recorder.refuse(Reason::NoFields, "the array of `each` is empty or not there");
        }
        Some(_) => return recorder.refuse(Reason::WrongType, "what `each` points at is no array"),
    };
    for (position, item) in items.iter().take(RECORDS_MAX).enumerate() {
        decode_record(layout, item, Place::Element(position), recorder);
    }
    if items.len() > RECORDS_MAX {
        let detail = format!("{} records, of which the first {RECORDS_MAX} are used", items.len());
        recorder.refuse(Reason::TooManyRecords, detail);
    }
}

fn decode_record<T: AsRef<str>>(
    layout: &TreeLayout,
    tree: &Tree<T>,
    place: Place,
    recorder: &mut Recorder<'_>,
) {
    let mut draft = recorder.draft(place);
    for (field, pointer) in layout.fields.iter().enumerate() {
        if recorder.is_active(field) {
            recorder.set(&mut draft, field, tree.raw_at(pointer), None);
        }
    }
    let time = layout.time.as_ref().and_then(|pointer| tree.find(pointer));
    let time = time.map_or(FoundTime::None, |tree| recorder.source.times.found(tree.raw_time()));
    recorder.finish(draft, time, |tag| tree.raw_at(&layout.tags[tag]));
}
