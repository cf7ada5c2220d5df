//! The `cbor` format (RFC 8949): maps, or arrays of them, addressed like JSON.
//!
//! Parses bytes into an owned tree with a limit on nesting; never shows a payload's content in an error.

use ciborium::de::Error;

use super::DEPTH_MAX;
use super::record::Recorder;
use super::tree::{self, Tree, TreeLayout};
use crate::refusal::Reason;

pub(super) fn decode(layout: &TreeLayout, recorder: &mut Recorder<'_>) {
    let mut rest = recorder.message.payload;
    let root: Tree<String> = match ciborium::de::from_reader_with_recursion_limit(&mut rest, DEPTH_MAX) {
        Ok(root) => root,
        Err(error) => {
            let (reason, what) = refusal_of(&error);
            return recorder.refuse(reason, what);
        }
    };
    if !rest.is_empty() {
        let read = recorder.message.payload.len() - rest.len();
        return recorder
            .refuse(Reason::Syntax, format!("byte {read}: the item has ended, more bytes follow"));
    }
    tree::decode(layout, &root, recorder);
}

fn refusal_of<E>(error: &Error<E>) -> (Reason, String) {
    match error {
        Error::RecursionLimitExceeded => (Reason::TooDeep, "nested too deeply".to_owned()),
        Error::Io(_) => (Reason::Syntax, "the payload ends within an item".to_owned()),
        Error::Syntax(byte) => (Reason::Syntax, format!("byte {byte}: not a CBOR item")),
        Error::Semantic(..) => (Reason::Syntax, "an item that no field can hold".to_owned()),
    }
}
