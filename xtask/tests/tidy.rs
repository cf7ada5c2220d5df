//! The repository's own rules, which no compiler checks: dependency edges, where libraries may appear, sizes, headers,
//! links.
//!
//! Reads files and `cargo metadata`; changes nothing. Each rule is a function from files to findings, with a sample that
//! it must object to. Every exception is listed here by name with its reason.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Longest source file without its tests, and longest file of tests.
const LINES_MAX: usize = 600;
const TEST_LINES_MAX: usize = 1_000;

/// Which crates of the workspace each may depend on. The daemon never sees the tests, the commands see nobody.
const EDGES: &[(&str, &[&str])] = &[
    ("dunlin-kit", &[]),
    ("dunlin-drift", &[]),
    ("dunlin-protocol", &["dunlin-kit"]),
    ("dunlin-trust", &["dunlin-kit"]),
    ("dunlin-model-package", &["dunlin-drift", "dunlin-kit", "dunlin-trust"]),
    ("dunlin-pipeline", &["dunlin-drift", "dunlin-kit", "dunlin-trust", "dunlin-model-package"]),
    (
        "dunlin-daemon",
        &[
            "dunlin-drift",
            "dunlin-kit",
            "dunlin-protocol",
            "dunlin-trust",
            "dunlin-model-package",
            "dunlin-pipeline",
        ],
    ),
    (
        "dunlin-cli",
        &[
            "dunlin-drift",
            "dunlin-fleet-api",
            "dunlin-fleet-simulator",
            "dunlin-kit",
            "dunlin-protocol",
            "dunlin-trust",
            "dunlin-model-package",
            "dunlin-pipeline",
        ],
    ),
    (
        "dunlin-e2e",
        &[
            "dunlin-kit",
            "dunlin-fleet",
            "dunlin-fleet-api",
            "dunlin-fleet-simulator",
            "dunlin-protocol",
            "dunlin-trust",
            "dunlin-model-package",
            "dunlin-pipeline",
        ],
    ),
    ("dunlin-fleet-api", &[]),
    (
        "dunlin-fleet",
        &["dunlin-fleet-api", "dunlin-kit", "dunlin-protocol", "dunlin-trust", "dunlin-model-package"],
    ),
    ("dunlin-fleet-simulator", &["dunlin-kit", "dunlin-protocol", "dunlin-trust"]),
    ("xtask", &[]),
];

/// Names in source code, and the folders where they may stand.
const HOMES: &[(&str, &[&str], &str)] = &[
    (
        "rusqlite",
        &["daemon/src/store", "fleet-server/src/store"],
        "SQL has one home, so that a schema can change",
    ),
    ("refinery", &["daemon/src/store", "fleet-server/src/store"], "migrations belong to the store"),
    (
        "rumqttc",
        &["daemon/src/mqtt", "daemon/tests/", "tests/"],
        "the client's defects are worked around in one place",
    ),
    (
        "parquet",
        &["cli/src/profile/parquet_rows.rs", "cli/tests/profile.rs"],
        "the reader of training data can be replaced",
    ),
    // The proofs of faults run the library as it is.
    ("tract_onnx", &["crates/pipeline/src/engine", "zoo/src/faults"], "the engine can be replaced"),
    ("tract_core", &["crates/pipeline/src/engine"], "the engine can be replaced"),
    (
        "load_checked_by",
        &["crates/trust/"],
        "whoever brings a check of signatures of his own can have anything verified",
    ),
];

/// Exceptions: rule, file, reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("markers", "xtask/tests/tidy.rs", "holds the samples that the rules object to"),
    ("markers", "clippy.toml", "names what it bans"),
    ("markers", "Cargo.toml", "names the lints"),
    ("sql", "xtask/tests/tidy.rs", "holds the samples that the rules object to"),
    ("sql", "tests/src/postgres.rs", "asks a server of the tests whether it answers"),
    ("homes", "xtask/tests/tidy.rs", "holds the names themselves"),
];

struct Text {
    path: String,
    text: String,
}

impl Text {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_exempt(&self, rule: &str) -> bool {
        EXCEPTIONS.iter().any(|(of, path, _)| *of == rule && *path == self.path)
    }

    /// Lines of code: without comment lines.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in the workspace's root").to_owned()
}

/// Every text file of the repository, built things apart.
fn files() -> Vec<Text> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository is readable") {
            let path = entry.expect("an entry of the repository is readable").path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if path.is_dir() {
                if !["target", ".git", ".xtask", "__pycache__"].contains(&name.as_str()) {
                    folders.push(path);
                }
                continue;
            }
            let inside =
                path.strip_prefix(&root).expect("the walk began at the root").to_string_lossy().into_owned();
            // What is no text (models) and what is a link out of the folder is not looked at.
            if let Ok(text) = fs::read_to_string(&path)
                && inside != ".git"
            {
                found.push(Text { path: inside, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo starts");
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

fn edge_findings(metadata: &Value) -> Vec<String> {
    let empty = Vec::new();
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().unwrap_or(&empty) {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = EDGES.iter().find(|(of, _)| *of == name) else {
            found.push(format!("package `{name}`: add it to EDGES with what it may depend on"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap_or(&empty) {
            let on = dependency["name"].as_str().unwrap_or_default();
            if !dependency["path"].is_null() && !allowed.contains(&on) {
                found.push(format!("package `{name}` may not depend on `{on}`: dependencies point down"));
            }
        }
        if package["features"].as_object().is_some_and(|features| !features.is_empty()) {
            found.push(format!("package `{name}` has Cargo features: decide at run time, or not at all"));
        }
    }
    found
}

fn home_findings(files: &[Text]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.is_rust() && !file.is_exempt("homes")) {
        for (name, homes, reason) in HOMES {
            if homes.iter().any(|home| file.path.starts_with(home)) {
                continue;
            }
            if let Some((line, _)) = file.code().find(|(_, line)| has_word(line, name)) {
                found.push(format!(
                    "{}:{}: `{name}` stands outside {homes:?}: {reason}",
                    file.path,
                    line + 1
                ));
            }
        }
    }
    found
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(is_part)
            && !line[at + word.len()..].chars().next().is_some_and(is_part)
    })
}

fn size_findings(files: &[Text]) -> Vec<String> {
    let too_long = |file: &&Text| {
        let is_tests = file.path.starts_with("tests/") || file.path.contains("/tests");
        let end = if is_tests { file.text.len() } else { tests_start(&file.text) };
        let (lines, most) =
            (file.text[..end].lines().count(), if is_tests { TEST_LINES_MAX } else { LINES_MAX });
        (lines > most && !file.is_exempt("size"))
            .then(|| format!("{}: {lines} lines without tests, {most} at most: split it by idea", file.path))
    };
    files.iter().filter(|file| file.is_rust()).filter_map(|file| too_long(&file)).collect()
}

fn tests_start(text: &str) -> usize {
    text.rfind("\n#[cfg(test)]\nmod tests {").unwrap_or(text.len())
}

/// Function sizes are clippy's: the lint must be on, with the right number, in every crate.
fn lint_findings(files: &[Text]) -> Vec<String> {
    let mut found = Vec::new();
    let mut must_hold = |path: &str, what: &str| {
        if !files.iter().any(|file| file.path == path && file.text.contains(what)) {
            found.push(format!("{path}: `{what}` is missing"));
        }
    };
    must_hold("Cargo.toml", "too_many_lines = \"warn\"");
    must_hold("clippy.toml", "too-many-lines-threshold = 70");
    for file in files.iter().filter(|file| file.path.ends_with("/Cargo.toml")) {
        must_hold(&file.path, "[lints]\nworkspace = true");
    }
    found
}

fn header_findings(files: &[Text]) -> Vec<String> {
    files
        .iter()
        .filter(|file| file.is_rust() && !file.is_exempt("header") && !file.text.starts_with("//! "))
        .map(|file| {
            format!("{}: does not begin with a `//!` header: what it does, what it never does", file.path)
        })
        .collect()
}

/// Unfinished code, and names of machines that are nobody else's business.
fn marker_findings(files: &[Text]) -> Vec<String> {
    let code = ["todo!", "unimplemented!", "dbg!"];
    let places = [
        "/home/",
        "/root/",
        "/work/",
        "/Users/",
        "index.crates.io",
        "static.crates.io",
        "registry.npmjs.org",
        "pypi.org",
        "files.pythonhosted.org",
        "proxy.golang.org",
    ];
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !file.is_exempt("markers")) {
        for (number, line) in file.text.lines().enumerate() {
            let marker =
                places.iter().chain(code.iter().filter(|_| file.is_rust())).find(|m| line.contains(**m));
            if let Some(marker) = marker {
                found.push(format!("{}:{}: holds `{marker}`", file.path, number + 1));
            }
        }
    }
    let lock = files.iter().find(|file| file.path == "Cargo.lock");
    let sources = lock.iter().flat_map(|lock| lock.text.lines()).filter(|line| line.starts_with("source = "));
    found.extend(
        sources
            .filter(|line| *line != "source = \"registry+https://github.com/rust-lang/crates.io-index\"")
            .map(|line| format!("Cargo.lock: {line} is not the public registry")),
    );
    found
}

fn sql_findings(files: &[Text]) -> Vec<String> {
    let statements = ["SELECT ", "INSERT INTO ", "INSERT OR ", "CREATE TABLE ", "DELETE FROM "];
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.is_rust() || file.path.ends_with(".sql")) {
        if file.path.contains("/store/") || file.path.contains("/store.rs") || file.is_exempt("sql") {
            continue;
        }
        for (number, line) in file.code() {
            if statements.iter().any(|statement| line.contains(statement)) {
                found.push(format!("{}:{}: SQL stands in `store/` folders only", file.path, number + 1));
            }
        }
    }
    found
}

fn link_findings(files: &[Text], exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for target in link_targets(&file.text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let full = if path.is_empty() { file.path.clone() } else { beside(&file.path, path) };
            if !exists(&full) {
                found.push(format!("{}: `{target}` leads nowhere", file.path));
                continue;
            }
            let linked = files.iter().find(|other| other.path == full);
            if !anchor.is_empty() && !linked.is_some_and(|other| anchors(&other.text).any(|a| a == anchor)) {
                found.push(format!("{}: `{target}` names no heading", file.path));
            }
        }
    }
    found
}

/// Targets of `[text](target)` outside code blocks.
fn link_targets(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    let lines = text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    });
    lines.flat_map(|line| {
        line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
    })
}

fn anchors(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        title
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .collect::<String>()
            .replace(' ', "-")
    })
}

/// Returns the path of `target` as seen from the file at `path`.
fn beside(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn changelog_findings(files: &[Text]) -> Vec<String> {
    let has = files.iter().any(|file| file.path == "CHANGELOG.md" && file.text.contains("\n## [Unreleased]"));
    if has { Vec::new() } else { vec!["CHANGELOG.md: has no section `## [Unreleased]`".to_owned()] }
}

#[track_caller]
/// Tests that the page of attacks names and that are not there: names in backticks of four words and more.
fn attack_findings(files: &[Text]) -> Vec<String> {
    let page = files.iter().find(|file| file.path == "docs/attacks.md");
    let names = page.map_or("", |page| page.text.as_str()).split('`').skip(1).step_by(2);
    let names = names.filter(|name| {
        name.matches('_').count() > 3
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    });
    let is_there = |name: &str| {
        let head = format!("fn {name}(");
        files.iter().any(|file| file.is_rust() && file.text.contains(&head))
    };
    names
        .filter(|name| !is_there(name))
        .map(|name| format!("docs/attacks.md: there is no test `{name}`"))
        .collect()
}

fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// Runs a rule on the repository, and on a sample that it must object to once.
#[track_caller]
fn check(rule: impl Fn(&[Text]) -> Vec<String>, path: &str, bad: &str) {
    let sample = rule(&[Text::new(path, bad)]);
    assert_eq!(sample.len(), 1, "the rule does not see what is wrong with its sample: {sample:?}");
    assert_none(&rule(&files()));
}

#[test]
fn dependencies_point_down_and_no_crate_has_features() {
    let package = |name: &str, on: &str| serde_json::json!({ "name": name, "dependencies": [{ "name": on, "path": "/x" }], "features": {} });
    let bad = |package: Value| edge_findings(&serde_json::json!({ "packages": [package] })).len();
    assert_eq!(bad(package("dunlin-pipeline", "dunlin-daemon")), 1);
    assert_eq!(bad(package("dunlin-new", "dunlin-kit")), 1);
    assert_eq!(bad(package("dunlin-pipeline", "dunlin-kit")), 0);
    let featured =
        serde_json::json!({ "name": "dunlin-kit", "dependencies": [], "features": { "fast": [] } });
    assert_eq!(bad(featured), 1);
    assert_none(&edge_findings(&metadata()));
}

#[test]
fn libraries_stand_in_their_homes_alone() {
    check(home_findings, "daemon/src/app.rs", "//! x\nuse rusqlite::Connection;\n");
    assert_none(&home_findings(&[Text::new("daemon/src/app.rs", "// rusqlite\nlet my_rusqlite = 1;\n")]));
}

#[test]
fn files_stay_short() {
    check(size_findings, "daemon/src/app.rs", &"x\n".repeat(LINES_MAX + 1));
    check(size_findings, "daemon/src/app/tests.rs", &"x\n".repeat(TEST_LINES_MAX + 1));
    let tested =
        format!("{}\n#[cfg(test)]\nmod tests {{\n{}}}\n", "x\n".repeat(LINES_MAX), "y\n".repeat(900));
    assert_none(&size_findings(&[Text::new("daemon/src/app.rs", &tested)]));
}

#[test]
fn function_sizes_are_linted_in_every_crate() {
    let good = [
        Text::new("Cargo.toml", "too_many_lines = \"warn\""),
        Text::new("clippy.toml", "too-many-lines-threshold = 70"),
        Text::new("a/Cargo.toml", "[lints]\nworkspace = true"),
    ];
    assert_none(&lint_findings(&good));
    for index in 0..good.len() {
        let mut bad: Vec<Text> = good.iter().map(|file| Text::new(&file.path, &file.text)).collect();
        bad[index].text.clear();
        assert_eq!(lint_findings(&bad).len(), 1, "{}", bad[index].path);
    }
    assert_none(&lint_findings(&files()));
}

#[test]
fn every_source_file_begins_with_its_header() {
    check(header_findings, "daemon/src/app.rs", "use std::fs;\n");
}

#[test]
fn nothing_is_unfinished_and_no_machine_is_named() {
    check(marker_findings, "daemon/src/app.rs", "//! x\nfn f() { todo!() }\n");
    check(marker_findings, "docs/x.md", "see /home/me/dunlin\n");
    check(marker_findings, "Cargo.lock", "source = \"registry+https://mirror.example/index\"\n");
}

#[test]
fn sql_stands_in_the_store_alone() {
    check(sql_findings, "daemon/src/app.rs", "//! x\nlet q = \"SELECT 1\";\n");
    check(sql_findings, "daemon/src/app.sql", "CREATE TABLE t (x);\n");
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    let root = root();
    check(|files| link_findings(files, |path| root.join(path).exists()), "docs/x.md", "[a](nowhere.md)\n");
    let page = [Text::new(
        "docs/x.md",
        "# A title: here\n[a](#a-title-here) [b](#elsewhere)\n```\n[c](code)\n```\n",
    )];
    assert_eq!(link_findings(&page, |_| true), ["docs/x.md: `#elsewhere` names no heading"]);
    assert_eq!(beside("docs/decisions/a.md", "../../README.md"), "README.md");
}

#[test]
fn tests_that_the_page_of_attacks_names_are_there() {
    check(attack_findings, "docs/attacks.md", "| a | `a_test_that_nobody_ever_wrote` |");
}

#[test]
fn the_changelog_has_a_place_for_the_next_release() {
    check(changelog_findings, "CHANGELOG.md", "# Changelog\n");
}

#[test]
fn every_exception_has_a_reason_and_a_file() {
    for (rule, path, reason) in EXCEPTIONS {
        assert!(root().join(path).is_file() && !reason.is_empty(), "{rule}: {path}");
    }
}
