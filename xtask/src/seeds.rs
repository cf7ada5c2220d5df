//! What the fuzz targets begin with: inputs and words made of the repository's own files.
//!
//! Reads examples, and the texts in the sources and tests of each parser; makes no file. A source that has moved costs
//! a target its head start and nothing else. Used by `cargo xtask fuzz` alone.

use std::collections::BTreeSet;
use std::fs;
use std::iter;
use std::path::Path;

use serde_json::{Value, json};

use crate::tools;

/// Messages of a golden file that go into one input: few enough that a change soon hits what matters.
const MESSAGES: usize = 6;
/// The version of a stored body that is compressed.
const COMPRESSED: u8 = 2;
/// Longest word of a dictionary.
const WORD_BYTES_MAX: usize = 48;

/// What one target begins with.
#[derive(Debug, Default)]
pub(crate) struct Seeds {
    /// Whole inputs.
    pub(crate) inputs: Vec<Vec<u8>>,
    /// Words that stand in inputs.
    pub(crate) words: BTreeSet<Vec<u8>>,
}

/// Returns what a target begins with; nothing for one that is not known here.
pub(crate) fn of(target: &str) -> Seeds {
    let inputs = inputs(target);
    let mut words = BTreeSet::new();
    for file in sources(target) {
        words.extend(literals(&read(file)).into_iter().map(String::into_bytes));
    }
    for input in &inputs {
        words.extend(quoted(input));
    }
    words.retain(|word| (1..=WORD_BYTES_MAX).contains(&word.len()));
    Seeds { inputs, words }
}

/// Returns the text of a dictionary as libFuzzer reads it.
pub(crate) fn dictionary(words: &BTreeSet<Vec<u8>>) -> String {
    // libFuzzer refuses a file that is empty.
    let mut text = "# words of inputs\n".to_owned();
    for word in words {
        text.push('"');
        word.iter().for_each(|byte| text.push_str(&format!("\\x{byte:02X}")));
        text.push_str("\"\n");
    }
    text
}

/// Returns the files whose texts are words of a target's inputs.
fn sources(target: &str) -> &'static [&'static str] {
    match target {
        "metadata" | "evidence" | "trusted_set" => &["crates/trust/src/metadata.rs"],
        "delegation" => &["crates/trust/src/delegation.rs"],
        "manifest" => &["crates/model-package/src/manifest.rs"],
        "words" => &[
            "crates/model-package/src/expression.rs",
            "crates/model-package/src/model_spec.rs",
            "crates/model-package/src/span.rs",
            "crates/model-package/src/unit.rs",
        ],
        "topics" => &["crates/model-package/src/topic.rs"],
        "message" | "sealed" => &["agent-protocol/src/refusal.rs", "agent-protocol/src/report.rs"],
        "bundle" => &["crates/model-package/src/repository_path.rs"],
        "specification" | "compile" | "golden" => &[
            "crates/model-package/src/expression.rs",
            "crates/model-package/src/feature_spec.rs",
            "crates/model-package/src/model_spec.rs",
        ],
        "config" => &["crates/model-package/src/feature_spec.rs", "daemon/src/config/file.rs"],
        "decode_json" | "decode_cbor" | "decode_csv" | "decode_number" => {
            &["crates/pipeline/src/decode/tests/times.rs"]
        }
        "decode_senml" => &["crates/pipeline/src/decode/senml.rs"],
        "status_request" => &["daemon/src/status/socket.rs", "daemon/src/status/socket/tests.rs"],
        "ipc" => &["crates/model-package/src/manifest.rs", "crates/trust/src/metadata.rs"],
        _ => &[],
    }
}

fn inputs(target: &str) -> Vec<Vec<u8>> {
    let bytes = |text: String| text.into_bytes();
    match target {
        "canonical_json" | "manifest" => {
            manifests().into_iter().chain(roles().map(|role| role.to_string())).map(bytes).collect()
        }
        "metadata" => {
            (0..).zip(roles()).map(|(kind, role)| prefixed(&[kind], role.to_string().as_bytes())).collect()
        }
        "golden" => goldens().iter().map(|golden| bytes(beginning(golden))).collect(),
        "specification" => specifications(),
        "compile" => cases().into_iter().map(|case| bytes(case.to_string())).collect(),
        "words" => (0..5)
            .flat_map(|kind| words_of("words").into_iter().map(move |word| prefixed(&[kind], &word)))
            .collect(),
        "message" => messages_of_the_wire(),
        "wire_words" => words_of_the_wire(),
        // Choices are read from any bytes.
        "sealed" => (0..6_u8).map(|choice| vec![choice, 7, choice, 40, 0, 2, 65, 66]).collect(),
        "topics" | "delegation" => words_of(target).chunks(6).map(|lines| lines.join(&b'\n')).collect(),
        "decode_json" | "decode_cbor" | "decode_csv" | "decode_senml" | "decode_number" => payloads(target),
        "config" => configurations().into_iter().map(bytes).collect(),
        "status_request" => words_of(target),
        "ipc" => frames(),
        "batch_body" => bodies(),
        // Contents that some of the keys sign anew, under either path and in either place.
        "evidence" => {
            (0..128_u8).map(|n| vec![n >> 6, 7, n >> 5 & 1, n & 15, n >> 4 & 1, n >> 3 & 1]).collect()
        }
        "trusted_set" => (1..=4).map(refresh_to).collect(),
        // Each operator, with lists of as many values for every attribute.
        "tree_ensembles" => (0..3_u8)
            .flat_map(|operator| (1..6).map(move |length| prefixed(&[operator], &lists(length))))
            .collect(),
        // Choices are read from any bytes.
        "core" | "snapshot" => {
            manifests().into_iter().map(|text| bytes(text.chars().take(400).collect())).collect()
        }
        _ => Vec::new(),
    }
}

/// Twelve lists: a byte for the length, then that many values.
fn lists(length: u8) -> Vec<u8> {
    (0..12).flat_map(|_| iter::once(length).chain(0..length)).collect()
}

fn prefixed(prefix: &[u8], rest: &[u8]) -> Vec<u8> {
    [prefix, rest].concat()
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(tools::root().join(path)).unwrap_or_default()
}

fn examples(file: &str) -> Vec<String> {
    let folder = tools::root().join("examples");
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut paths: Vec<_> =
        entries.map(|entry| entry.path().join(file)).filter(|path| path.is_file()).collect();
    paths.sort();
    paths.into_iter().map(read).collect()
}

fn manifests() -> Vec<String> {
    examples("package/manifest.json")
}

/// Golden messages of the device protocol, each as the kind that it is.
fn messages_of_the_wire() -> Vec<Vec<u8>> {
    let kinds = [
        ["enroll-request", "enroll-request"],
        ["enroll-answer", "enroll-answer-refused"],
        ["exchange-request", "exchange-request-nothing-new"],
        ["exchange-answer", "exchange-answer-replayed"],
        ["problem", "problem"],
    ];
    let of_kind = |(kind, names): (u8, [&str; 2])| {
        names.map(|name| prefixed(&[kind], read(format!("agent-protocol/golden/v1/{name}.json")).as_bytes()))
    };
    (0..).zip(kinds).flat_map(of_kind).collect()
}

/// Ids, a token, ranges and columns, for each of the target's languages.
fn words_of_the_wire() -> Vec<Vec<u8>> {
    let [request, token] = ["exchange-request", "token"].map(|name| {
        let text = read(format!("agent-protocol/golden/v1/{name}.json"));
        serde_json::from_str::<Value>(&text).unwrap_or_default()
    });
    let ids = ["device", "server", "incarnation", "start", "nonce"].map(|name| request[name].clone());
    let texts = ids.iter().chain([&token["text"]]).filter_map(Value::as_str);
    let lists = ["[[1,5],[7,7]]", "[1,2,3]", "[1767225600000000,-1000,1000]"];
    let words = texts.chain(lists).flat_map(|text| (0..9).map(|kind| prefixed(&[kind], text.as_bytes())));
    words.collect()
}

fn goldens() -> Vec<String> {
    examples("package/golden.jsonl")
}

fn configurations() -> Vec<String> {
    examples("dunlind.toml").into_iter().chain([read("daemon/src/config/example.toml")]).collect()
}

/// The header, some messages and an expectation.
fn beginning(golden: &str) -> String {
    let expectation = golden.lines().find(|line| line.starts_with("{\"expect\""));
    let lines: Vec<&str> = golden.lines().take(1 + MESSAGES).chain(expectation).collect();
    lines.join("\n")
}

fn records(golden: &str) -> Vec<Value> {
    golden.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn messages(golden: &str) -> Vec<Value> {
    records(golden).into_iter().filter_map(|mut record| Some(record.get_mut("message")?.take())).collect()
}

/// Sources and models: JSON of the golden headers, TOML of the pipeline's tests.
fn specifications() -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for golden in goldens() {
        let Some(header) = records(&golden).into_iter().next() else { continue };
        for source in header["sources"].as_array().into_iter().flatten() {
            found.push(prefixed(&[2], source.to_string().as_bytes()));
        }
        found.push(prefixed(&[3], header["model"].to_string().as_bytes()));
    }
    for file in ["crates/pipeline/src/decode/tests/payloads.rs", "crates/pipeline/tests/core.rs"] {
        for text in literals(&read(file)).into_iter().filter(|text| text.contains(" = ")) {
            found.push(prefixed(&[0], text.as_bytes()));
            found.push(prefixed(&[1], text.as_bytes()));
        }
    }
    found
}

fn cases() -> Vec<Value> {
    let cases = manifests().into_iter().zip(goldens()).filter_map(|(manifest, golden)| {
        let header = records(&golden).into_iter().next()?;
        let manifest: Value = serde_json::from_str(&manifest).ok()?;
        let messages: Vec<Value> = messages(&golden).into_iter().take(MESSAGES).collect();
        Some(json!({
            "sources": header["sources"], "model": header["model"], "manifest": manifest, "messages": messages,
        }))
    });
    cases.collect()
}

/// Payloads of the examples and of the decoders' tests, for each of a target's sources.
fn payloads(target: &str) -> Vec<Vec<u8>> {
    let mut payloads: BTreeSet<Vec<u8>> = goldens()
        .iter()
        .flat_map(|golden| messages(golden).into_iter().take(MESSAGES))
        .filter_map(|message| Some(message["payload"].as_str()?.as_bytes().to_vec()))
        .collect();
    for file in ["findings", "payloads", "times", "values"] {
        let texts = literals(&read(format!("crates/pipeline/src/decode/tests/{file}.rs")));
        payloads.extend(texts.into_iter().filter(|text| !text.contains("topics = ")).map(String::into_bytes));
    }
    payloads.insert(
        br#"{"t":1795348800,"a":21.5,"v":[7],"c":"on","r":[{"id":"x","t":1795348800000,"a":1}]}"#.to_vec(),
    );
    if target == "decode_cbor" {
        payloads =
            payloads.iter().filter_map(|text| Some(cbor(&serde_json::from_slice(text).ok()?))).collect();
    }
    (0..3).flat_map(|source| payloads.iter().map(move |payload| prefixed(&[source, 0], payload))).collect()
}

/// Returns a value as CBOR. *Source*: RFC 8949, section 3.
fn cbor(value: &Value) -> Vec<u8> {
    let head = |kind: u8, length: usize| match u8::try_from(length) {
        Ok(length @ 0..24) => vec![kind << 5 | length],
        Ok(length) => vec![kind << 5 | 24, length],
        Err(_) => [&[kind << 5 | 25][..], &(length as u16).to_be_bytes()].concat(),
    };
    match value {
        Value::Null => vec![0xf6],
        Value::Bool(truth) => vec![0xf4 + u8::from(*truth)],
        Value::Number(number) => match number.as_u64() {
            Some(whole) => [&[0x1b][..], &whole.to_be_bytes()].concat(),
            None => [&[0xfb][..], &number.as_f64().unwrap_or_default().to_be_bytes()].concat(),
        },
        Value::String(text) => [head(3, text.len()), text.as_bytes().to_vec()].concat(),
        Value::Array(items) => {
            [head(4, items.len())].into_iter().chain(items.iter().map(cbor)).collect::<Vec<_>>().concat()
        }
        Value::Object(members) => {
            let pair = |(name, member): (&String, &Value)| {
                [cbor(&Value::from(name.as_str())), cbor(member)].concat()
            };
            [head(5, members.len())].into_iter().chain(members.iter().map(pair)).collect::<Vec<_>>().concat()
        }
    }
}

/// The choices that bring the repository of `trusted_set` to this version and its team's targets in: time, step, which of
/// the five files a version, unchanged, and which question is asked.
fn refresh_to(version: u8) -> Vec<u8> {
    let time = 1_000 * (u16::from(version) - 1) + 500;
    let step = |kind: u8, file: u8| [&time.to_be_bytes()[..], &[kind, file, 1, version - 1]].concat();
    let roots = (1..version).map(|old| step(0, 5 * old));
    let rest = [(1, 4), (2, 3), (3, 2), (4, 1)].map(|(kind, file)| step(kind, 5 * (version - 1) + file));
    roots.chain(rest).collect::<Vec<_>>().concat()
}

/// A frame of each kind between the daemon and a worker. *Source*: `daemon/src/slot/ipc.rs`.
fn frames() -> Vec<Vec<u8>> {
    let [root, _, _, targets] = roles().map(|role| role.to_string());
    let load = manifests().into_iter().map(|manifest| {
        let evidence =
            json!({ "target": "models/frost/1.4.0/manifest.json", "root": root, "roles": [targets] });
        let blobs = json!({ "by_digest": "blobs" });
        let anchor = "00".repeat(32);
        let request = json!({ "anchor": anchor, "evidence": evidence, "manifest": manifest, "blobs": blobs })
            .to_string();
        (1, prefixed(&[16, 0, 0, 0], request.as_bytes()))
    });
    let ready = (2, vec![4, 0, 0, 0]);
    let run = (3, [[2, 0, 0, 0], [0, 0, 128, 63], [0, 0, 0, 64]].concat());
    let outputs = (4, [[0, 0, 128, 63], [0, 0, 192, 127]].concat());
    let failed = (5, b"the model has no input `x`".to_vec());
    let all: Vec<Vec<u8>> = load
        .chain([ready, run, outputs, failed])
        .map(|(kind, body)| [&(body.len() as u32 + 1).to_le_bytes()[..], &[kind], &body].concat())
        .collect();
    // Each alone in one piece, and the short ones after each other in pieces of three bytes.
    let short: Vec<Vec<u8>> = all.iter().rev().take(4).cloned().collect();
    all.iter().map(|frame| prefixed(&[255], frame)).chain([prefixed(&[2], &short.concat())]).collect()
}

/// Bodies of a stored batch, plain and compressed. *Source*: `daemon/src/store/body.rs`.
fn bodies() -> Vec<Vec<u8>> {
    // A reading of two values and a prediction with a label, an alert and one output; then the second value is missing.
    let whole = vec![1, 2, 24, 20, 2, 80, 88, 3, 2, 0, 4, 1, 0, 0, 128, 63];
    let missing = vec![1, 0, 26, 20, 2, 0b01, 80];
    let both = [whole.clone(), missing.clone()].concat();
    // A frame of Zstandard with one block that is not compressed. *Source*: RFC 8878, section 3.1.1.
    let length = both.len() as u8;
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x20, length, length << 3 | 1, length >> 5, 0];
    let compressed = [&[0, COMPRESSED, length], &frame[..], &both].concat();
    vec![prefixed(&[1], &whole), prefixed(&[1], &missing), prefixed(&[1], &both), compressed]
}

/// One file of each role, unsigned.
fn roles() -> [Value; 4] {
    let keys = json!({ "k": { "keytype": "ed25519", "scheme": "ed25519", "keyval": { "public": "00" } } });
    let role = json!({ "keyids": ["k"], "threshold": 1 });
    let roles = json!({ "root": role, "timestamp": role, "snapshot": role, "targets": role });
    let named = json!({ "version": 1, "length": 10, "hashes": { "sha256": "00" } });
    let file = |kind: &str, rest: Value| {
        let mut signed = json!({ "_type": kind, "spec_version": "1.0.34", "version": 1, "expires": "2030-01-01T00:00:00Z" });
        for (name, member) in rest.as_object().into_iter().flatten() {
            signed[name.as_str()] = member.clone();
        }
        json!({ "signed": signed, "signatures": [{ "keyid": "k", "sig": "00" }] })
    };
    let delegated =
        json!({ "name": "team", "keyids": ["k"], "threshold": 1, "terminating": true, "paths": ["a/*"] });
    let bins = json!({ "keyids": ["k"], "threshold": 1, "bit_length": 8, "name_prefix": "bin" });
    let note = json!({ "model": "frost", "version": "1.4.0", "release_counter": 7 });
    let target = json!({ "length": 2, "hashes": { "sha256": "00" }, "custom": note });
    [
        file(
            "root",
            json!({ "consistent_snapshot": true, "keys": keys, "roles": roles, "signed_at": "2026-01-01T00:00:00Z" }),
        ),
        file("timestamp", json!({ "meta": { "snapshot.json": named } })),
        file("snapshot", json!({ "meta": { "targets.json": named, "team.json": named } })),
        file(
            "targets",
            json!({
                "targets": { "models/frost/1.4.0/manifest.json": target },
                "delegations": { "keys": keys, "roles": [delegated], "succinct_roles": bins },
            }),
        ),
    ]
}

fn words_of(target: &str) -> Vec<Vec<u8>> {
    sources(target).iter().flat_map(|file| literals(&read(file))).map(String::into_bytes).collect()
}

/// Returns the texts of a Rust source, plain and raw, as they are written between their quotes, and the names of public
/// fields, which are names in documents.
fn literals(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find('"') {
        let is_raw = rest[..at].ends_with("r#");
        let (end, after) = if is_raw { ("\"#", 2) } else { ("\"", 1) };
        let Some(length) = rest[at + 1..].find(end) else { break };
        found.push(rest[at + 1..at + 1 + length].to_owned());
        rest = &rest[at + 1 + length + after..];
    }
    let field = |line: &str| Some(line.trim().strip_prefix("pub ")?.split_once(':')?.0.to_owned());
    found.extend(source.lines().filter_map(field).filter(|name| !name.contains(' ')));
    found
}

/// Returns the texts in quotes of an input.
fn quoted(input: &[u8]) -> Vec<Vec<u8>> {
    let parts: Vec<&[u8]> = input.split(|byte| *byte == b'"').collect();
    parts.iter().skip(1).step_by(2).map(|part| part.to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_that_read_documents_begin_with_the_repositorys_own() {
        for target in [
            "manifest",
            "golden",
            "metadata",
            "specification",
            "compile",
            "topics",
            "decode_cbor",
            "config",
            "ipc",
        ] {
            let seeds = of(target);
            assert!(seeds.inputs.len() > 2, "{target}");
            assert!(seeds.words.len() > 5, "{target}");
        }
    }

    #[test]
    fn texts_of_a_source_are_found_plain_and_raw() {
        let source =
            "let a = \"x\"; let b = r#\"{\"y\":1}\"#;\n    pub(crate) c: u8,\n    pub length_max: u32,";
        assert_eq!(literals(source), ["x", "{\"y\":1}", "length_max"]);
        assert!(dictionary(&BTreeSet::from([b"a\"".to_vec()])).ends_with("\n\"\\x61\\x22\"\n"));
    }

    #[test]
    fn a_dictionary_without_words_is_still_a_file_that_libfuzzer_takes() {
        assert!(!dictionary(&BTreeSet::new()).is_empty());
    }

    #[test]
    fn json_becomes_cbor_as_the_standard_has_it() {
        assert_eq!(
            cbor(&json!({ "a": [true, null, 1.5] })),
            [0xa1, 0x61, b'a', 0x83, 0xf5, 0xf6, 0xfb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]
        );
    }
}
