//! `dunlin package` as a person uses it: real models, real processes, exit codes and messages.
//!
//! Builds packages of the repository's examples in folders of the test. Never looks at how long something took.

#![expect(clippy::unwrap_used, reason = "a test ends at the first thing that is not as it should be")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

fn write(path: &Path, text: &str) {
    dunlin_kit::atomic_file::write(path, text.as_bytes()).unwrap();
}

fn dunlin(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dunlin")).args(arguments).current_dir(folder).output().unwrap()
}

fn text(output: &Output) -> String {
    [output.stdout.as_slice(), output.stderr.as_slice()].map(String::from_utf8_lossy).concat()
}

#[track_caller]
fn assert_code(output: &Output, code: i32, expected: &[&str]) {
    let text = text(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in expected {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

/// Copies the example of the occupied room without its package, and recorded messages of it.
fn room() -> tempfile::TempDir {
    let (folder, from) = (tempfile::tempdir().unwrap(), example("occupancy"));
    for file in ["dunlind.toml", "package.toml"] {
        std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    std::fs::copy(from.join("package/model.onnx"), folder.path().join("model.onnx")).unwrap();
    let mut samples = String::new();
    for minute in 0..6 {
        let at = 1_741_593_600_000_i64 + minute * 60_000;
        let payload = json!({ "temperature": 20.4, "humidity": 24.1, "illuminance": 80 * minute, "co2": 449.1 + 90.0 * minute as f64,
            "humidity_ratio": 0.003_543, "last_seen": at });
        let message =
            json!({ "topic": "zigbee2mqtt/office", "arrival_ms": at + 300, "payload": payload.to_string() });
        writeln!(samples, "{message}").unwrap();
    }
    write(&folder.path().join("samples.ndjson"), &samples);
    folder
}

fn manifest(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("package/manifest.json")).unwrap()).unwrap()
}

/// Returns the outputs that golden vectors hold, as CSV.
fn outputs(folder: &Path) -> String {
    let golden = std::fs::read_to_string(folder.join("package/golden.jsonl")).unwrap();
    let lines = golden.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut csv = "window_end_ms,empty,occupied\n".to_owned();
    for expected in lines.filter_map(|line| line.get("expect").cloned()) {
        let values = &expected["outputs"]["probabilities"];
        let at = expected["window_end_us"].as_i64().unwrap() / 1_000;
        writeln!(csv, "{at},{},{}", values[0], values[1]).unwrap();
    }
    csv
}

#[test]
fn a_package_is_built_checked_and_shown() {
    let room = room();
    let built = dunlin(room.path(), &["package", "build"]);
    assert_code(
        &built,
        0,
        &[
            "occupancy 1.0.0 (release 1)",
            "6 golden predictions of 6 messages",
            "warning: nobody has compared",
        ],
    );
    let made = manifest(room.path());
    assert_eq!(made["inputs"][0]["features"][0]["unit"], "Cel");
    assert_eq!(made["inputs"][0]["shape"], json!(["batch", 5]));
    assert_eq!(made["outputs"][0]["shape"], json!(["batch", 2]));
    assert!(made["requirements"]["operators"].as_array().unwrap().contains(&json!("Gemm")));

    let checked = dunlin(room.path(), &["package", "check", "-o", "json"]);
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!((checked.status.code(), &report["outcome"]), (Some(0), &json!("passed")), "{report:#}");
    let batches: Vec<_> =
        report["measured"]["latency"].as_array().unwrap().iter().map(|one| one["batch"].clone()).collect();
    assert_eq!(batches, [json!(1), json!(32)]);
    assert!(report["measured"]["resident_bytes"].as_u64().unwrap() > 1 << 20);

    let shown = dunlin(room.path(), &["package", "inspect", "-o", "json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&shown["golden"]["messages"], &shown["golden"]["predictions"]), (&json!(6), &json!(6)));
    assert_code(
        &dunlin(room.path(), &["package", "inspect"]),
        0,
        &["humidity  %RH, 16.7 to 31.8", "golden    6 predictions of 6 messages"],
    );
}

#[test]
fn ranges_that_nobody_wrote_are_those_of_the_samples() {
    let room = room();
    let spec = "name = \"occupancy\"\nversion = \"2\"\n[outputs.probabilities]\nkind = \"classification\"\nlabels = [\"empty\", \"occupied\"]\n";
    write(&room.path().join("package.toml"), spec);
    assert_code(&dunlin(room.path(), &["package", "build"]), 0, &[]);
    let features = manifest(room.path())["inputs"][0]["features"].clone();
    assert_eq!(features[3], json!({ "name": "co2", "unit": "ppm", "range": [449.1, 899.1] }));
    assert_eq!(features.as_array().unwrap().len(), 5);
}

#[test]
fn evidence_that_agrees_is_kept_and_evidence_that_does_not_refuses_the_package() {
    let room = room();
    assert_code(&dunlin(room.path(), &["package", "build"]), 0, &[]);
    let good = outputs(room.path());
    write(&room.path().join("good.csv"), &good);
    assert_code(
        &dunlin(room.path(), &["package", "build", "--evidence", "good.csv"]),
        0,
        &["agrees with the training framework in 6 row(s)"],
    );
    assert_eq!(manifest(room.path())["evidence"]["rows"], 6);

    let before = std::fs::read(room.path().join("package/manifest.json")).unwrap();
    let mut lines: Vec<&str> = good.lines().collect();
    let wrong = format!("{},0.5,0.5", lines[2].split(',').next().unwrap());
    lines[2] = &wrong;
    write(&room.path().join("bad.csv"), &lines.join("\n"));
    let refused = dunlin(room.path(), &["package", "build", "--evidence", "bad.csv"]);
    assert_code(
        &refused,
        5,
        &[
            "output `probabilities`, row 2 (window that ends at 2025-03-10T08:01:00Z), value 1: the framework gave 0.5",
        ],
    );
    assert_eq!(
        std::fs::read(room.path().join("package/manifest.json")).unwrap(),
        before,
        "nothing was written"
    );
}

#[test]
fn evidence_for_tensors_runs_the_model_on_them() {
    let room = room();
    write(&room.path().join("x.csv"), "20.4,24.1,0,449.1,0.003543\n23.1,27.2,430,1020,0.0048\n");
    write(&room.path().join("y.csv"), "1,0\n0,1\n");
    let arguments = ["package", "build", "--evidence-inputs", "x.csv", "--evidence", "y.csv", "--tolerance"];
    assert_code(
        &dunlin(room.path(), &[&arguments[..], &["0.1"]].concat()),
        0,
        &["agrees with the training framework in 2 row(s)"],
    );
    assert_code(&dunlin(room.path(), &[&arguments[..], &["1e-9"]].concat()), 5, &["row 1, value 1"]);
}

#[test]
fn everything_that_is_missing_is_said_at_once() {
    let room = room();
    let spec = "name = \"occupancy\"\nversion = \"1\"\n[inputs.z]\n[outputs.label]\nkind = \"vector\"\n";
    write(&room.path().join("package.toml"), spec);
    assert_code(
        &dunlin(room.path(), &["package", "build"]),
        5,
        &[
            "input `z` is not in the graph, which has `x`",
            "output `label` is not in the graph",
            "no output is kept",
        ],
    );
    write(&room.path().join("package.toml"), "name = \"occupancy\"\nversion = \"1\"\nsurprise = 1\n");
    assert_code(&dunlin(room.path(), &["package", "build"]), 5, &["unknown field `surprise`"]);
    assert_code(
        &dunlin(room.path(), &["package", "build", "--model", "none.onnx", "--spec", "none.toml"]),
        3,
        &["no file `none.toml`"],
    );
}

#[test]
fn samples_that_make_no_window_say_why() {
    let room = room();
    write(
        &room.path().join("samples.ndjson"),
        "{\"topic\":\"zigbee2mqtt/office\",\"arrival_ms\":1741593600300,\"payload\":\"{}\"}\n",
    );
    assert_code(&dunlin(room.path(), &["package", "build"]), 5, &["the 1 sample(s) make no window", "1 × "]);
    write(&room.path().join("samples.ndjson"), "{\"topic\":1}\n");
    assert_code(&dunlin(room.path(), &["package", "build"]), 5, &["`samples.ndjson`, line 1: "]);
}

#[test]
fn what_was_changed_after_the_build_fails_the_check() {
    let room = room();
    assert_code(&dunlin(room.path(), &["package", "build"]), 0, &[]);
    let path = room.path().join("package/golden.jsonl");
    let golden = std::fs::read_to_string(&path).unwrap();
    write(&path, &golden.replace("\"label\":\"empty\"", "\"label\":\"blank\""));
    assert_code(
        &dunlin(room.path(), &["package", "check"]),
        5,
        &["✘ ", "golden.jsonl` is not the one", "build the package again"],
    );
    assert_code(&dunlin(room.path(), &["package", "inspect"]), 0, &["missing or changed"]);
}

#[test]
fn a_budget_that_the_model_exceeds_fails_the_check_with_its_remedy() {
    let room = room();
    let spec = std::fs::read_to_string(room.path().join("package.toml")).unwrap();
    write(
        &room.path().join("package.toml"),
        &spec.replace("[budgets]", "[budgets]\nresident_bytes = 16777216"),
    );
    assert_code(&dunlin(room.path(), &["package", "build"]), 0, &[]);
    assert_code(
        &dunlin(room.path(), &["package", "check"]),
        5,
        &["the budget is 16.0 MiB", "raise budgets.resident_bytes"],
    );
}

#[test]
fn an_update_has_a_size_and_a_higher_number() {
    let room = room();
    assert_code(&dunlin(room.path(), &["package", "build"]), 0, &[]);
    assert_code(&dunlin(room.path(), &["package", "build", "--out", "next"]), 0, &[]);
    let same = ["package", "check", "next", "--previous", "package"];
    assert_code(&dunlin(room.path(), &same), 5, &["release 1 follows release 1", "raise release_counter"]);
    let repository = json!({ "signed": { "targets": { "a": { "custom": { "model": "occupancy", "release_counter": 41 } } } } });
    std::fs::create_dir(room.path().join("metadata")).unwrap();
    write(&room.path().join("metadata/1.targets.json"), &repository.to_string());
    let spec = std::fs::read_to_string(room.path().join("package.toml")).unwrap();
    write(&room.path().join("package.toml"), &spec.replace("release_counter = 1\n", ""));
    assert_code(
        &dunlin(room.path(), &["package", "build", "--out", "next", "--repository", "."]),
        0,
        &["(release 42)"],
    );
    assert_code(&dunlin(room.path(), &same), 0, &["the delta to the release before"]);
}

#[test]
fn who_signed_is_told_from_the_repositorys_metadata() {
    let room = room();
    assert_code(&dunlin(room.path(), &["package", "build"]), 0, &[]);
    let digest =
        dunlin_kit::digest::Digest::of(&std::fs::read(room.path().join("package/manifest.json")).unwrap());
    let name = |digest: &str| {
        let targets = json!({ "models/occupancy/1.0.0/manifest.json": { "length": 1, "hashes": { "sha256": digest } } });
        let file =
            json!({ "signatures": [{ "keyid": "k1", "sig": "00" }], "signed": { "targets": targets } });
        write(&room.path().join("metadata/1.targets.json"), &file.to_string());
    };
    let inspect = ["package", "inspect", "--repository", "."];
    std::fs::create_dir(room.path().join("metadata")).unwrap();
    name(&digest.to_string());
    assert_code(&dunlin(room.path(), &inspect), 0, &["signed    by k1"]);
    name(&"00".repeat(32));
    assert_code(&dunlin(room.path(), &inspect), 0, &["signed    by nobody in this repository"]);
}

#[test]
fn a_skeleton_names_the_graph_and_replaces_nothing() {
    let room = room();
    let arguments = ["package", "build", "--init", "model.onnx", "--spec", "new.toml"];
    assert_code(&dunlin(room.path(), &arguments), 0, &["wrote `new.toml`"]);
    let skeleton = std::fs::read_to_string(room.path().join("new.toml")).unwrap();
    assert!(
        skeleton.contains("# float32 [batch, 5]\n[inputs.x]") && skeleton.contains("[outputs.probabilities]"),
        "{skeleton}"
    );
    assert_code(&dunlin(room.path(), &arguments), 4, &["is there already"]);
    assert_code(
        &dunlin(room.path(), &["package", "build", "--spec", "new.toml", "--config", "dunlind.toml"]),
        0,
        &[],
    );
}

/// A scaler whose rows go to an operator for dictionaries and to one that nobody has.
const REFUSED: &[u8] = include_bytes!("data/refused.onnx");

#[test]
fn every_node_that_is_refused_is_named_with_what_to_do() {
    let room = room();
    dunlin_kit::atomic_file::write(&room.path().join("model.onnx"), REFUSED).unwrap();
    let both = "name = \"m\"\nversion = \"1\"\n[inputs.X]\nfeatures = [\"temperature\", \"humidity\", \"co2\"]\n\
        [outputs.probabilities]\nkind = \"vector\"\n[outputs.label]\nkind = \"vector\"\n";
    write(&room.path().join("package.toml"), both);
    let named = [
        "operator `DictVectorizer` ",
        "train on columns of numbers",
        "operator `Frobnicate` ",
        "export the model without it",
    ];
    assert_code(&dunlin(room.path(), &["package", "build"]), 5, &named);

    let package = room.path().join("package");
    std::fs::create_dir(&package).unwrap();
    dunlin_kit::atomic_file::write(&package.join("model.onnx"), REFUSED).unwrap();
    let manifest = json!({
        "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": { "length": 1 },
        "inputs": [{ "name": "X", "shape": ["batch", 3], "features": [{ "name": "a" }, { "name": "b" }, { "name": "c" }] }],
        "outputs": [{ "name": "label", "kind": "vector", "shape": ["batch"] }, { "name": "probabilities", "kind": "vector", "shape": ["batch", 2] }],
        "blobs": { "model.onnx": { "sha256": dunlin_kit::digest::Digest::of(REFUSED), "bytes": REFUSED.len() } }
    });
    write(&package.join("manifest.json"), &manifest.to_string());
    assert_code(&dunlin(room.path(), &["package", "check"]), 5, &named);
}

/// A logistic regression of scikit-learn behind a StandardScaler, with texts as labels and dictionaries of scores.
const LABELS: &[u8] = include_bytes!("data/labels.onnx");

#[test]
fn labels_and_dictionaries_of_an_export_are_kept_with_the_names_that_it_holds() {
    let room = room();
    dunlin_kit::atomic_file::write(&room.path().join("model.onnx"), LABELS).unwrap();
    let spec = "name = \"m\"\nversion = \"1\"\n[inputs.X]\nfeatures = [\"temperature\", \"humidity\"]\n\
        [outputs.output_label]\nkind = \"classification\"\n[outputs.output_probability]\nkind = \"classification\"\n";
    write(&room.path().join("package.toml"), spec);
    let configuration = std::fs::read_to_string(room.path().join("dunlind.toml")).unwrap();
    let (sources, _) = configuration.split_once("[[model]]").unwrap();
    write(&room.path().join("dunlind.toml"), &format!("{sources}[[model]]\nname = \"m\"\nkey = []\n"));
    // What scikit-learn said of these rows.
    write(&room.path().join("x.csv"), "20,40\n25,40\n20,50\n");
    let evidence = |last: &str| {
        let head = "output_label,damp,fine,hot\nfine,0.16619670,0.69529229,0.13851108\nhot,0.00492394,0.01386047,0.98121554\n";
        write(&room.path().join("y.csv"), &format!("{head}{last},0.87519169,0.04747172,0.07733656\n"));
    };
    let build = ["package", "build", "--evidence", "y.csv", "--evidence-inputs", "x.csv"];
    evidence("fine");
    let told = "output `output_label`, row 3: the framework said `fine`, the engine says `damp`";
    assert_code(&dunlin(room.path(), &build), 5, &[told]);
    evidence("dry");
    assert_code(&dunlin(room.path(), &build), 5, &["line 4: `dry` is no label of output `output_label`"]);
    evidence("damp");
    assert_code(&dunlin(room.path(), &build), 0, &["agrees with the training framework in 3 row(s)"]);
    let outputs = manifest(room.path())["outputs"].clone();
    assert_eq!(outputs[0]["post"]["labels"], json!(["damp", "fine", "hot"]));
    assert_eq!(outputs[1]["post"]["labels"], json!(["damp", "fine", "hot"]));
    let golden = std::fs::read_to_string(room.path().join("package/golden.jsonl")).unwrap();
    assert!(golden.contains("\"label\":\"fine\""), "{golden}");

    let init = ["package", "build", "--init", "model.onnx", "--spec", "new.toml"];
    assert_code(&dunlin(room.path(), &init), 0, &["wrote `new.toml`"]);
    let skeleton = std::fs::read_to_string(room.path().join("new.toml")).unwrap();
    assert!(skeleton.contains("# labels = [\"damp\", \"fine\", \"hot\"]   # default"), "{skeleton}");
    assert!(skeleton.contains("\n[outputs.output_probability]\nkind = \"classification\""), "{skeleton}");
}

#[test]
fn a_folder_without_manifest_is_no_package() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["check", "inspect"] {
        assert_code(
            &dunlin(folder.path(), &["package", command]),
            3,
            &["there is no file `package/manifest.json`"],
        );
    }
}
