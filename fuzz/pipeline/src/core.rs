//! A running core to be fuzzed: sources of a plant, models with each kind of window, and messages made of choices.
//!
//! Everything is fixed but the messages. Used by the targets that follow a core over time.

use dunlin_model_package::{Digest, Manifest, ModelSpec, SourceSpec};
use dunlin_pipeline::message::{ClockState, Message};
use dunlin_pipeline::{Core, LaneRole, ModelBinding, Turn};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use serde_json::json;

use crate::ARRIVAL_US;

const SOURCES: [&str; 2] = [
    "name = \"s\"\ntopics = [\"s/{id}\"]\nformat = \"json\"\nseries_max = 4\ntime = { pointer = \"/t\", format = \"unix-ms\" }\nfields.a = {}\nfields.b = {}",
    "name = \"n\"\ntopics = [\"n/{id}\"]\nformat = \"number\"\nseries_max = 4\nfields.c = {}",
];

const MODELS: [(&str, &[&str]); 4] = [
    (
        "key = [\"id\"]\nsources = [\"s\"]\nwindow = { gap_max = \"10s\", lateness = \"2s\" }",
        &["a", "b@mean:5s"],
    ),
    (
        "key = []\nsources = [\"s\", \"n\"]\nskew_max = \"5s\"\nmissing = { c = \"hold:15m\" }",
        &["a", "c@last"],
    ),
    (
        "key = [\"id\"]\nsources = [\"s\"]\nwindow = { resample = \"1s\", every = \"2s\", lateness = \"1s\" }\nmissing = { b = \"const:0\" }",
        &["a", "b"],
    ),
    (
        "key = []\nsources = [\"n\"]\ntrigger = { every = \"1s\" }\nmissing = { c = \"nan\" }",
        &["c", "c@lag:2", "c@std:3s"],
    ),
];
const WINDOW_LENGTH: usize = 3;

/// Compiles the core.
#[must_use]
pub fn core() -> Core {
    let sources: Vec<SourceSpec> =
        SOURCES.iter().map(|text| toml::from_str(text).expect("the source is one")).collect();
    let models = MODELS.iter().enumerate().map(|(index, (text, features))| {
        let spec: ModelSpec =
            toml::from_str(&format!("name = \"m{index}\"\n{text}")).expect("the model is one");
        Some((
            LaneRole::Serving,
            ModelBinding {
                spec,
                manifest: manifest(features),
                package: Digest::of(text.as_bytes()),
                profile: None,
            },
        ))
    });
    Core::compile(&sources, models.collect()).expect("the configuration compiles")
}

fn manifest(features: &[&str]) -> Manifest {
    let named: Vec<_> = features.iter().map(|name| json!({ "name": name })).collect();
    serde_json::from_value(json!({
        "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": { "length": WINDOW_LENGTH },
        "inputs": [{ "name": "x", "shape": ["batch", WINDOW_LENGTH, features.len()], "features": named }],
        "outputs": [{ "name": "y", "kind": "anomaly", "shape": ["batch", 1],
            "post": { "threshold": { "above": 2.0, "clear": 1.0 } } }],
        "blobs": {}
    }))
    .expect("the manifest is one")
}

/// A message that a choice made.
pub struct Sent {
    topic: String,
    payload: String,
    arrival_us: i64,
}

/// Makes the messages of a run; the clock mostly goes on, and sometimes jumps.
///
/// *Errors*: the input is used up.
pub fn messages(choices: &mut Unstructured<'_>) -> Result<Vec<Sent>> {
    let mut arrival_us = ARRIVAL_US;
    let mut sent = Vec::new();
    while !choices.is_empty() && sent.len() < 64 {
        let step_ms: i64 = match choices.int_in_range(0..=7)? {
            0 => choices.int_in_range(-100_000..=10_000_000)?,
            _ => choices.int_in_range(0..=3_000)?,
        };
        arrival_us += step_ms * 1_000;
        let id = choices.int_in_range(0..=5)?;
        let value: i16 = choices.arbitrary()?;
        let (topic, payload) = match choices.int_in_range(0..=3)? {
            0 => (format!("n/{id}"), f64::from(value).to_string()),
            kind => {
                let t = arrival_us / 1_000 + choices.int_in_range(-3_000..=1_000)?;
                let b = if kind == 1 { "null".to_owned() } else { (value / 2).to_string() };
                (format!("s/{id}"), format!("{{\"t\":{t},\"a\":{value},\"b\":{b}}}"))
            }
        };
        sent.push(Sent { topic, payload, arrival_us });
    }
    Ok(sent)
}

/// Gives messages to a core and returns what comes of each as text, windows with their outputs finished.
pub fn run(core: &mut Core, messages: &[Sent]) -> Vec<String> {
    let mut turn = Turn::default();
    let mut all = Vec::new();
    for Sent { topic, payload, arrival_us } in messages {
        turn.clear();
        let (payload, arrival_us) = (payload.as_bytes(), *arrival_us);
        let message =
            Message { broker: None, topic, payload, retained: false, arrival_us, clock: ClockState::Set };
        core.take(&message, &mut turn);
        let mut text = format!("{:?} {:?} {:?}", turn.readings, turn.windows, turn.rows_refused);
        for window in turn.windows.drain(..) {
            let features = MODELS[usize::from(window.head.model.0)].1.len();
            assert_eq!(window.values.len(), WINDOW_LENGTH * features, "a window is whole");
            let output = window.values[0];
            text += &format!(" {:?}", core.finish(window.head, Some(vec![output])));
        }
        all.push(text);
    }
    all
}
