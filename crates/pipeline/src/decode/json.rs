//! The `json` format: objects, or arrays of them, addressed by pointers.
//!
//! Parses text into a tree that borrows from it; never shows a payload's content in an error.

use std::borrow::Cow;

use super::record::Recorder;
use super::tree::{self, Tree, TreeLayout};
use crate::refusal::Reason;

pub(super) fn decode(layout: &TreeLayout, recorder: &mut Recorder<'_>) {
    if let Some(root) = parse(recorder) {
        tree::decode(layout, &root, recorder);
    }
}

/// Returns the payload's tree, or refuses the message.
pub(super) fn parse<'a>(recorder: &mut Recorder<'a>) -> Option<Tree<Cow<'a, str>>> {
    let Ok(text) = std::str::from_utf8(recorder.message.payload) else {
        recorder.refuse(Reason::InvalidUtf8, "the payload");
        return None;
    };
    match serde_json::from_str(text.trim_start_matches('\u{feff}')) {
        Ok(root) => Some(root),
        Err(error) => {
            let (reason, what) = refusal_of(&error);
            recorder.refuse(reason, format!("line {}, column {}: {what}", error.line(), error.column()));
            None
        }
    }
}

/// Tells why the parser gave up. The parser has one category for all of it, so its texts decide; the tree accepts
/// every type, so none of them quotes the payload.
fn refusal_of(error: &serde_json::Error) -> (Reason, String) {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    match what {
        "recursion limit exceeded" => (Reason::TooDeep, "nested too deeply".to_owned()),
        "number out of range" => (Reason::NotFinite, what.to_owned()),
        _ if error.is_data() => (Reason::Syntax, "not readable as JSON".to_owned()),
        _ => (Reason::Syntax, what.to_owned()),
    }
}
