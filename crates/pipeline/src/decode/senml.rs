//! The `senml` format: packs of measurements in JSON (RFC 8428).
//!
//! Resolves base values; entries of one resolved time are one record. Entries that no field selects are passed over.

use std::collections::HashMap;

use super::RECORDS_MAX;
use super::json;
use super::record::{Draft, Place, Recorder};
use super::time::{FoundTime, senml_micros};
use super::tree::Tree;
use super::value::Raw;
use crate::refusal::Reason;

/// Times below this are relative to now: 2^28 seconds (RFC 8428, section 4.5.3).
const RELATIVE_US_MAX: i64 = (1 << 28) * 1_000_000;
/// The newest version of SenML that is read (RFC 8428, section 4.4).
const VERSION_MAX: f64 = 10.0;

/// Names of the SenML records that the fields select, with or without the base name.
#[derive(Debug, Clone)]
pub(super) struct SenmlLayout {
    pub(super) names: Vec<String>,
}

/// What holds for the following entries until it is set anew.
#[derive(Default)]
struct Bases<'p> {
    name: &'p str,
    time_us: i64,
    unit: Option<&'p str>,
    value: f64,
}

/// What one entry holds besides base values.
struct Entry<'p> {
    name: &'p str,
    time_us: i64,
    unit: Option<&'p str>,
    value: Raw<'p>,
}

/// The records of a pack by resolved time, in order of appearance.
#[derive(Default)]
struct Groups {
    drafts: Vec<(i64, Draft)>,
    positions: HashMap<i64, usize>,
    left_out: usize,
}

pub(super) fn decode(layout: &SenmlLayout, recorder: &mut Recorder<'_>) {
    let Some(root) = json::parse(recorder) else {
        return;
    };
    let Tree::List(items) = &root else {
        return recorder.refuse(Reason::Syntax, "a SenML pack is an array of objects");
    };
    let mut bases = Bases::default();
    let mut groups = Groups::default();
    for (position, item) in items.iter().enumerate() {
        let Tree::Map(members) = item else {
            recorder.refuse(Reason::Syntax, format!("entry {position} of the pack is no object"));
            continue;
        };
        match bases.resolve(members) {
            Ok(entry) => add(layout, &bases, &entry, &mut groups, recorder),
            // What follows could be misread: the unknown member may change the meaning of the pack.
            Err(why) => {
                return recorder.refuse(Reason::Syntax, format!("entry {position} of the pack {why}"));
            }
        }
    }
    if groups.left_out > 0 {
        let detail =
            format!("more than {RECORDS_MAX} times in one pack, {} entries left out", groups.left_out);
        recorder.refuse(Reason::TooManyRecords, detail);
    }
    if groups.drafts.is_empty() {
        recorder.refuse(Reason::NoFields, "no entry of the pack has the name of a field");
    }
    for (time_us, draft) in groups.drafts {
        recorder.finish(draft, found_time(time_us), |_| Raw::Missing);
    }
}

/// A time of zero says that the sensor knows none.
const fn found_time(time_us: i64) -> FoundTime {
    match time_us {
        0 => FoundTime::None,
        us if us < RELATIVE_US_MAX => FoundTime::SinceArrival(us),
        us => FoundTime::Absolute(us),
    }
}

impl<'p> Bases<'p> {
    /// Takes over the base values of an entry and returns the rest of it.
    ///
    /// *Errors*: what RFC 8428 tells a reader to refuse.
    fn resolve<T: AsRef<str>>(&mut self, members: &'p [(T, Tree<T>)]) -> Result<Entry<'p>, &'static str> {
        let mut entry = Entry { name: "", time_us: 0, unit: None, value: Raw::Missing };
        for (key, value) in members {
            let raw = value.raw();
            match key.as_ref() {
                "bn" => self.name = text_of(raw),
                "bt" => self.time_us = senml_micros(raw).ok_or("has an unreadable `bt`")?,
                "bu" => self.unit = Some(text_of(raw)),
                "bv" => self.value = raw.number().ok_or("has an unreadable `bv`")?,
                "bver" if raw.number().is_none_or(|version| version > VERSION_MAX) => {
                    return Err("is of a newer SenML version than 10");
                }
                "n" => entry.name = text_of(raw),
                "t" => entry.time_us = senml_micros(raw).ok_or("has an unreadable `t`")?,
                "u" => entry.unit = Some(text_of(raw)),
                "v" | "vb" | "vs" => entry.value = raw,
                "vd" => entry.value = Raw::Other,
                unknown if unknown.ends_with('_') => return Err("has a member that must be understood"),
                _ => {}
            }
        }
        Ok(entry)
    }

    /// Tells whether a field's name is the entry's local name or its full one.
    fn selects(&self, wanted: &str, entry: &Entry<'_>) -> bool {
        wanted == entry.name || wanted.strip_prefix(self.name) == Some(entry.name)
    }
}

fn text_of(raw: Raw<'_>) -> &str {
    match raw {
        Raw::Text(text) => text,
        _ => "",
    }
}

fn add(
    layout: &SenmlLayout,
    bases: &Bases<'_>,
    entry: &Entry<'_>,
    groups: &mut Groups,
    recorder: &mut Recorder<'_>,
) {
    let time_us = bases.time_us.saturating_add(entry.time_us);
    let value = match entry.value.number() {
        Some(number) if bases.value != 0.0 => Raw::Float(number + bases.value),
        _ => entry.value,
    };
    let unit = entry.unit.or(bases.unit).filter(|unit| !unit.is_empty());
    for (field, name) in layout.names.iter().enumerate() {
        if !recorder.is_active(field) || !bases.selects(name, entry) {
            continue;
        }
        let Some(draft) = groups.draft_at(time_us, recorder) else {
            continue;
        };
        if draft.has(field) {
            // Two devices of one pack, or a fault: only the full name tells them apart.
            recorder.refuse_field(draft, field, Reason::Duplicate);
        } else {
            recorder.set(draft, field, value, unit);
        }
    }
}

impl Groups {
    fn draft_at(&mut self, time_us: i64, recorder: &Recorder<'_>) -> Option<&mut Draft> {
        let last = self.drafts.len().wrapping_sub(1);
        let position = match self.drafts.last() {
            Some((time, _)) if *time == time_us => last,
            _ => match self.positions.get(&time_us) {
                Some(position) => *position,
                None if self.drafts.len() == RECORDS_MAX => {
                    self.left_out += 1;
                    return None;
                }
                None => {
                    self.positions.insert(time_us, self.drafts.len());
                    self.drafts.push((time_us, recorder.draft(Place::Payload)));
                    self.drafts.len() - 1
                }
            },
        };
        self.drafts.get_mut(position).map(|(_, draft)| draft)
    }
}
