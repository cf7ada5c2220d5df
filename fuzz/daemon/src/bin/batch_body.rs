//! Bodies of stored batches: any bytes are steps or an error, memory stays near what the bytes can hold, and steps that
//! were read are written and read again as the same.
//!
//! The first byte says whether the rest is a whole body or the steps of a plain one.

#![no_main]

use dunlin_daemon::store::body::{decode, encode};
use libfuzzer_sys::fuzz_target;

/// The version of a body that is not compressed.
const PLAIN: u8 = 1;
const SEQUENCE: u64 = 1_000;

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let body = if kind & 1 == 0 { rest.to_vec() } else { [&[PLAIN], rest].concat() };
    let Ok(steps) = decode(&body, SEQUENCE) else { return };
    let written = encode(&steps, SEQUENCE);
    let again = decode(&written, SEQUENCE).expect("what was written can be read");
    // As text, since a missing value is not equal to itself.
    assert_eq!(format!("{again:?}"), format!("{steps:?}"));
    assert_eq!(encode(&again, SEQUENCE), written, "writing has one form");
    if body.first() == Some(&PLAIN) {
        let values: usize =
            steps.iter().flat_map(|step| &step.readings).map(|reading| reading.values.len()).sum();
        assert!(values <= 8 * body.len(), "a value takes a bit at least");
    }
});
