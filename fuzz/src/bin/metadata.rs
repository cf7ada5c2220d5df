//! Metadata of the four roles: what is read keeps its bytes, stays in its limits and can be written and read again.
//!
//! The first byte chooses the role, the rest is the file. Signatures are not judged here.

#![no_main]

use std::fmt::Debug;

use dunlin_trust::canonical;
use dunlin_trust::envelope::{Envelope, SIGNATURES_MAX};
use dunlin_trust::metadata::{Role, Root, Snapshot, Targets, Timestamp};
use dunlin_trust::sign;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Some((role, file)) = data.split_first() else { return };
    match role % 4 {
        0 => check::<Root>(file),
        1 => check::<Timestamp>(file),
        2 => check::<Snapshot>(file),
        _ => check::<Targets>(file),
    }
});

fn check<R: Role + Debug + PartialEq>(raw: &[u8]) {
    let Ok(file) = Envelope::<R>::parse(raw, "file") else { return };
    assert_eq!(file.raw(), raw);
    assert!(file.signatures().len() <= SIGNATURES_MAX);
    assert!(file.role().version() > 0);
    let value: Value = serde_json::from_slice(raw).expect("metadata are JSON");
    let message = canonical::to_bytes(&value["signed"]).expect("the signed part has a canonical form");
    assert_eq!(file.message(), message, "signatures are on what the file says");

    let rewritten = sign::sign(file.role(), &[]);
    let again = Envelope::<R>::parse(&rewritten, "rewritten").expect("what was read can be written and read");
    assert_eq!(again.role(), file.role());
    assert_eq!(sign::sign(again.role(), &[]), rewritten, "writing has one form");
}
