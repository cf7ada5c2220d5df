//! Hostile packages around a good model: manifests, files and golden vectors that trick, bloat or never end.
//!
//! Makes drafts and spoils folders; runs nothing.

use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use crate::release::{Draft, Vector, golden_file, golden_header};
use crate::samples::weighted_sum;
use crate::{Case, Spoil};

const PACKAGE: &[&str] = &["package"];
const GOLDEN: &[&str] = &["selftest:golden"];
const SUM: [Vector<'static>; 1] = [([1.0, 2.0], &[5.0])];

fn good() -> Draft {
    Draft::new(&weighted_sum(), 1, &SUM)
}

fn case(name: impl Into<String>, draft: Draft, spoil: Spoil, expected: &'static [&'static str]) -> Case {
    Case { name: name.into(), draft, spoil, live: [1.0, 1.0], expected }
}

pub(crate) fn all() -> Vec<Case> {
    let mut all = manifests();
    all.extend(files());
    all.extend(golden_vectors());
    all
}

fn manifests() -> Vec<Case> {
    let described = json!({ "sha256": "00".repeat(32), "bytes": 4 });
    let mut all = Vec::new();
    for name in
        ["../m", "/etc/passwd", "a/../../b", ".hidden", "", "nul\0", "new\nline", "..", "\u{202e}xnno"]
    {
        let mut draft = good();
        draft.manifest["blobs"] = json!({ name: described });
        all.push(case(format!("a file named {name:?}"), draft, |_| (), PACKAGE));
    }
    let many: Value =
        (0..100).map(|n| (format!("f{n}"), described.clone())).collect::<serde_json::Map<_, _>>().into();
    let input = good().manifest["inputs"][0].clone();
    let features: Vec<Value> = (0..5_000).map(|n| json!({ "name": format!("f{n}") })).collect();
    for (name, pointer, value) in [
        ("a hundred files", "/blobs", many),
        (
            "a file of 2^40 bytes",
            "/blobs",
            json!({ "golden.jsonl": { "sha256": "00".repeat(32), "bytes": 1_u64 << 40 } }),
        ),
        (
            "a file of -1 bytes",
            "/blobs",
            json!({ "golden.jsonl": { "sha256": "00".repeat(32), "bytes": -1 } }),
        ),
        ("a version that leaves its folder", "/version", json!("../../x")),
        ("a name that leaves its folder", "/name", json!("../m")),
        ("a name with a terminal's commands", "/name", json!("\u{1b}[2J")),
        ("release 0", "/release_counter", json!(0)),
        ("release 2^70", "/release_counter", json!(1.2e21)),
        ("a format of the future", "/schema", json!(2)),
        ("a key nobody knows", "/exec", json!("/bin/sh")),
        ("a window of 2^31 rows", "/window/length", json!(1_u32 << 31)),
        ("no hop", "/window/hop", json!(0)),
        ("a thousand inputs", "/inputs", Value::Array(vec![input.clone(); 1_000])),
        ("five thousand features", "/inputs/0/features", Value::Array(features)),
        ("a shape beyond 64 bits", "/inputs/0/shape", json!(["batch", u32::MAX, u32::MAX, u32::MAX])),
        (
            "a shape of 64 axes",
            "/outputs/0/shape",
            Value::Array([vec![json!("batch")], vec![json!(1); 64]].concat()),
        ),
        ("an output of 2^32 values", "/outputs/0/shape", json!(["batch", u32::MAX])),
        ("an output with a terminal's commands", "/outputs/0/name", json!("\u{1b}]0;x\u{7}")),
        ("an output with a megabyte of name", "/outputs/0/name", json!("y".repeat(1 << 20))),
        ("a budget of 2^60 bytes", "/budgets/resident_bytes", json!(1_u64 << 60)),
        ("a budget of nothing", "/budgets/resident_bytes", json!(0)),
        ("a deadline of a century", "/budgets/deadline", json!("36500d")),
        ("a deadline of nothing", "/budgets/deadline", json!("0s")),
        ("a tolerance below 0", "/golden_tolerance", json!(-1.0)),
        ("four megabytes of builder", "/built_by", json!("x".repeat(5 << 20))),
        ("nested a hundred thousand deep", "/built_by", Value::Null),
    ] {
        let mut draft = good().with(pointer, value);
        if name.starts_with("nested") {
            // No value of this depth can be dropped: it is written as text.
            draft = draft.raw(format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)));
        }
        all.push(case(name, draft, |_| (), PACKAGE));
    }
    all.push(case("no manifest", good().raw(String::new()), |_| (), PACKAGE));
    all.push(case("a manifest that ends", good().raw("{\"schema\": 1, \"na".to_owned()), |_| (), PACKAGE));
    all
}

fn files() -> Vec<Case> {
    let replace: [(&str, Spoil); 7] = [
        ("a longer model than named", |folder| rewrite(folder, |bytes| bytes.push(0))),
        ("a shorter model than named", |folder| rewrite(folder, |bytes| bytes.truncate(bytes.len() - 1))),
        ("another model than named", |folder| rewrite(folder, |bytes| bytes[20] ^= 1)),
        ("a link in place of the model", |folder| {
            std::fs::rename(folder.join("model.onnx"), folder.join("real")).unwrap();
            std::os::unix::fs::symlink(folder.join("real"), folder.join("model.onnx")).unwrap();
        }),
        ("a link to a device in place of the model", |folder| {
            std::fs::remove_file(folder.join("model.onnx")).unwrap();
            std::os::unix::fs::symlink("/dev/zero", folder.join("model.onnx")).unwrap();
        }),
        ("a pipe in place of the model", |folder| {
            std::fs::remove_file(folder.join("model.onnx")).unwrap();
            mkfifo(&folder.join("model.onnx"), Mode::S_IRWXU).unwrap();
        }),
        ("a folder in place of the model", |folder| {
            std::fs::remove_file(folder.join("model.onnx")).unwrap();
            std::fs::create_dir(folder.join("model.onnx")).unwrap();
        }),
    ];
    replace.map(|(name, spoil)| case(name, good(), spoil, PACKAGE)).into()
}

fn rewrite(folder: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let path = folder.join("model.onnx");
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    dunlin_kit::atomic_file::write(&path, &bytes).unwrap();
}

fn golden_vectors() -> Vec<Case> {
    let header = golden_header().to_string();
    let text = |lines: &str| format!("{header}\n{lines}").into_bytes();
    let message = |payload: &str| {
        json!({ "message": { "topic": "t/1", "arrival_ms": 1, "payload": payload } }).to_string()
    };
    let mut newer = golden_header();
    newer["golden"] = json!(2);
    let mut many = golden_header();
    let source = many["sources"][0].clone();
    many["sources"] = Value::Array(
        (0..2_000)
            .map(|n| {
                let mut source = source.clone();
                source["name"] = json!(format!("s{n}"));
                source
            })
            .collect(),
    );
    let expect = |outputs: &str| {
        format!("{{\"expect\":{{\"key\":{{\"k\":\"1\"}},\"window_end_us\":1,\"outputs\":{outputs}}}}}")
    };
    let keys: String = (0..20_000).map(|n| format!("{}\n", json!({ "message": { "topic": format!("t/{n}"), "arrival_ms": 1, "payload": "{\"t\":1,\"a\":1}" } }))).collect();
    let list = [
        ("golden vectors are missing", None),
        ("golden vectors are empty", Some(Vec::new())),
        ("golden vectors are a header alone", Some(text(""))),
        ("golden vectors are bytes", Some(vec![0xff; 4_096])),
        ("golden vectors of a format of the future", Some(newer.to_string().into_bytes())),
        ("golden vectors of two thousand sources", Some(many.to_string().into_bytes())),
        ("golden vectors without expectations", Some(text(&message("{}")))),
        ("golden vectors of an infinite output", Some(text(&expect("{\"y\":[1e999]}")))),
        ("golden vectors of no number", Some(text(&expect("{\"y\":[null]}")))),
        ("golden vectors expecting what was not sent", Some(text(&expect("{\"y\":[1.0]}")))),
        ("golden vectors with a message of depth", Some(text(&message(&"[".repeat(100_000))))),
        ("golden vectors with a line of depth", Some(text(&"[".repeat(100_000)))),
        (
            "golden vectors with a message of megabytes",
            Some(text(&message(&format!("{{\"t\":1,\"a\":\"{}\"}}", "x".repeat(4 << 20))))),
        ),
        (
            "golden vectors with odd hexadecimal",
            Some(text("{\"message\":{\"topic\":\"t/1\",\"payload_hex\":\"abc\"}}")),
        ),
        (
            "golden vectors on a topic of wildcards",
            Some(text("{\"message\":{\"topic\":\"#/+/\\u0000\",\"payload\":\"\"}}")),
        ),
        ("golden vectors of twenty thousand series", Some(text(&keys))),
        (
            "golden vectors of too many records",
            Some(text(&"{\"message\":{\"topic\":\"u\",\"payload\":\"\"}}\n".repeat(100_001))),
        ),
        ("golden vectors beyond their limit", Some(text(&" \n".repeat(9 << 20)))),
        ("golden vectors that expect another value", Some(golden_file(&[([1.0, 2.0], &[5.1])]))),
        ("golden vectors that expect too many values", Some(golden_file(&[([1.0, 2.0], &[5.0, 5.0])]))),
        (
            "golden vectors that expect nothing of an output",
            Some(text(&format!("{}\n{}", message("{\"t\":1,\"a\":1,\"b\":1}"), expect("{}")))),
        ),
    ];
    list.into_iter()
        .map(|(name, bytes)| case(name, good().with_file("golden.jsonl", bytes), |_| (), GOLDEN))
        .collect()
}
