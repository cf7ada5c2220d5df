//! Sources and models as a configuration or a golden file writes them: in TOML and JSON, read, written, read again.
//!
//! The first byte chooses what it is, the rest is its text.

#![no_main]

use std::fmt::Debug;

use dunlin_model_package::{ModelSpec, SourceSpec};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|data: &[u8]| {
    let Some((kind, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    match kind % 4 {
        0 => json(&toml::from_str::<SourceSpec>(text).ok()),
        1 => json(&toml::from_str::<ModelSpec>(text).ok()),
        2 => toml_too(&serde_json::from_str::<SourceSpec>(text).ok()),
        _ => toml_too(&serde_json::from_str::<ModelSpec>(text).ok()),
    }
});

fn json<S: Serialize + DeserializeOwned + PartialEq + Debug>(read: &Option<S>) {
    let Some(spec) = read else { return };
    // TOML has numbers that JSON has no words for; they are refused when the specification is compiled.
    let Ok(written) = serde_json::to_value(spec) else { return };
    if written.to_string().contains("null") {
        return;
    }
    let again: S = serde_json::from_str(&written.to_string()).expect("what was read can be written and read");
    assert_eq!(&again, spec);
}

fn toml_too<S: Serialize + DeserializeOwned + PartialEq + Debug>(read: &Option<S>) {
    json(read);
    let Some(spec) = read else { return };
    let written = toml::to_string(spec).expect("a specification is a table");
    let again: S = toml::from_str(&written).expect("what was read can be written and read");
    assert_eq!(&again, spec);
}
