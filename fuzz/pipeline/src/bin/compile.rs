//! Configurations: whatever sources, model and manifest say, they compile or are refused, and what compiles runs.
//!
//! Takes JSON with `sources`, `model`, `manifest`, and `messages` as a golden file holds them.

#![no_main]

use dunlin_model_package::golden::RecordedMessage;
use dunlin_model_package::{Digest, Manifest, ModelSpec, SourceSpec};
use dunlin_pipeline::message::{ClockState, Message};
use dunlin_pipeline::{Core, LaneRole, ModelBinding, Turn};
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    sources: Vec<SourceSpec>,
    model: ModelSpec,
    manifest: serde_json::Value,
    messages: Vec<RecordedMessage>,
}

fuzz_target!(|data: &[u8]| {
    let Ok(case) = serde_json::from_slice::<Case>(data) else { return };
    let Ok(manifest) = Manifest::parse(case.manifest.to_string().as_bytes()) else { return };
    let window_values: usize = manifest.inputs.iter().map(|input| input.values()).sum();
    let binding = ModelBinding { spec: case.model, manifest, package: Digest::of(b"package"), profile: None };
    let mut core = match Core::compile(&case.sources, vec![Some((LaneRole::Serving, binding))]) {
        Ok(core) => core,
        Err(findings) => {
            assert!(!findings.is_empty() && findings.iter().all(|finding| !finding.message.is_empty()));
            return;
        }
    };
    let mut turn = Turn::default();
    for message in case.messages.iter().take(64) {
        let Ok(payload) = message.payload_bytes() else { continue };
        turn.clear();
        core.take(
            &Message {
                broker: None,
                topic: &message.topic,
                payload: &payload,
                retained: message.retained,
                arrival_us: message.arrival_ms.unwrap_or_default().saturating_mul(1_000),
                clock: ClockState::Set,
            },
            &mut turn,
        );
        for window in turn.windows.drain(..) {
            assert_eq!(window.values.len(), window_values, "a window is whole");
            core.finish(window.head, None);
        }
    }
    let saved = core.snapshot();
    assert_eq!(core.restore(&saved), Ok(()));
});
