//! The documentation: its schema is the types', and its example is the golden file's.
//!
//! `UPDATE_DOCS=1` writes the schema; the words are people's.

use std::path::{Path, PathBuf};

use dunlin_protocol::limits;
use dunlin_protocol::schema::protocol_schema_json;
use dunlin_protocol::{
    DeviceId, Digest, Envelope, ExchangeRequest, Message, RefusalCode, Verified, routes, words,
};
use serde_json::Value;

use crate::samples::{device_key, public, token};
use crate::{golden, golden_folder};

fn docs(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(file)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Without white space, so that long values may be broken into lines.
fn dense(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

#[test]
fn docs_hold_the_schema_that_the_types_give() {
    let path = docs("protocol.schema.json");
    let generated = protocol_schema_json();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        dunlin_kit::atomic_file::write(&path, generated.as_bytes()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == generated,
        "docs/protocol.schema.json is out of date: run this test with UPDATE_DOCS=1"
    );
}

#[test]
fn every_member_of_the_golden_files_is_in_the_schema() {
    let schema = protocol_schema_json();
    let mut names = Vec::new();
    for file in std::fs::read_dir(golden_folder()).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        if !name.contains("envelope") && name != "identity.json" && name != "token.json" {
            collect_names(&serde_json::from_slice(&golden(&name)).unwrap(), &mut names);
        }
    }
    for name in names.iter().filter(|name| !["site", "line"].contains(&name.as_str())) {
        assert!(schema.contains(&format!("\"{name}\":")), "{name}");
    }
}

fn collect_names(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, inner)| {
            into.push(name.clone());
            collect_names(inner, into);
        }),
        Value::Array(elements) => elements.iter().for_each(|inner| collect_names(inner, into)),
        _ => {}
    }
}

#[test]
fn the_example_of_the_documentation_is_the_golden_file() {
    let text = dense(&std::fs::read_to_string(docs("protocol.md")).unwrap());
    let raw = golden("exchange-request.envelope.json");
    let value: Value = serde_json::from_slice(&raw).unwrap();
    let envelope = Envelope::parse(&raw, ExchangeRequest::BYTES_MAX).unwrap();
    let key = public(&device_key());
    let signature = {
        use base64::Engine as _;
        let text = value["signatures"][0]["sig"].as_str().unwrap();
        base64::engine::general_purpose::STANDARD.decode(text).unwrap()
    };
    let message = envelope.signed_bytes();
    assert!(key.has_signed(&message, signature.as_slice().try_into().unwrap()));
    for expected in [
        hex(device_key().as_bytes()),
        key.to_string(),
        DeviceId::of(&key).to_string(),
        words::words(&key).join(" "),
        hex(&message),
        Digest::of(&message).to_string(),
        hex(&signature),
        String::from_utf8(golden("exchange-request-nothing-new.json")).unwrap(),
        String::from_utf8(raw).unwrap(),
        token().to_text().to_string(),
        hex(token().proof_key().as_bytes()),
    ] {
        assert!(text.contains(&dense(&expected)), "docs/protocol.md lacks {expected}");
    }
    let _: Verified<_> = envelope.verify(&[key]).unwrap();
}

#[test]
fn the_documentation_names_every_code_route_and_limit() {
    let text = std::fs::read_to_string(docs("protocol.md")).unwrap();
    for code in RefusalCode::KNOWN {
        let signed = if code.is_signed() { "yes" } else { "no" };
        let row = format!("| `{code}` | {} | {signed} |", code.http_status());
        assert!(text.contains(&row), "docs/protocol.md lacks the row {row}");
    }
    for route in [
        routes::ENROLL,
        routes::EXCHANGE,
        routes::RESULTS,
        routes::IMAGE,
        routes::DIRECTOR,
        routes::BLOB,
        routes::DELTA,
        routes::ENVELOPE_MEDIA_TYPE,
        routes::PROBLEM_MEDIA_TYPE,
    ] {
        assert!(text.contains(&format!("`{route}`")), "docs/protocol.md lacks {route}");
    }
    for (what, limit) in [
        ("request", limits::REQUEST_BYTES_MAX),
        ("answer", limits::ANSWER_BYTES_MAX),
        ("enrolment", limits::ENROLMENT_BYTES_MAX),
        ("batches a message", limits::BATCHES_MAX),
        ("rows a batch", limits::ROWS_MAX),
        ("ranges of a list of ranges", limits::RANGES_MAX),
        ("models", limits::MODELS_MAX),
        ("depth of JSON", limits::DEPTH_MAX),
    ] {
        let row = format!("| {what} | {} |", separated(limit));
        assert!(text.contains(&row), "docs/protocol.md lacks the row {row}");
    }
}

fn separated(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
