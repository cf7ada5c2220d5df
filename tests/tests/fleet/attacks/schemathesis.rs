//! Schemathesis: made-up requests, sound and unsound, of the interface's document, against a real server with something in it.
//!
//! Needs a Python with schemathesis, which `cargo xtask test` makes and names in `DUNLIN_SCHEMATHESIS_PYTHON`; without one
//! the test says so. `DUNLIN_SCHEMATHESIS_SECONDS` says how long it may take; `cargo xtask schemathesis` takes longer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use dunlin_e2e::fleet_server::ServerPlan;
use dunlin_e2e::workspace::{root, skip};
use dunlin_e2e::{Failure, Outcome};
use serde_json::{Value, json};

use super::{Asker, Seeded};

/// The usual time in seconds: all routes with their edge cases once.
const SECONDS: &str = "60";
/// So that a failure shows again.
const SEED: &str = "17";

/// Returns what there is, by the part of the path that it stands behind.
fn there(seeded: &Seeded, hook: String) -> Value {
    let mut there: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (kind, id) in seeded.sites.iter().flat_map(|site| &site.ids) {
        there.entry(kind).or_default().push(id.clone());
    }
    let digest = seeded.release.to_string();
    there.extend([
        ("webhooks", vec![hook]),
        ("deliveries", vec!["1".to_owned()]),
        ("releases", vec![digest.clone()]),
        ("blobs", vec![digest]),
        ("image", ["1.root.json", "2.targets.json", "timestamp.json"].map(str::to_owned).to_vec()),
    ]);
    json!(there)
}

#[test]
fn the_server_keeps_what_its_document_says_whatever_is_asked() -> Outcome<()> {
    let Some(python) = std::env::var_os("DUNLIN_SCHEMATHESIS_PYTHON").map(PathBuf::from) else {
        skip("DUNLIN_SCHEMATHESIS_PYTHON names no Python with schemathesis; `cargo xtask test` makes one");
        return Ok(());
    };
    let given = |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    let seconds = given("DUNLIN_SCHEMATHESIS_SECONDS", SECONDS);
    let seed = given("DUNLIN_SCHEMATHESIS_SEED", SEED);
    let folder = tempfile::tempdir()?;
    // In place of webhooks somewhere else: these reach nobody.
    let plan = ServerPlan::new(folder.path())?.with(&["--private-webhooks"]);
    let server = plan.start()?;
    let address = SocketAddr::from(([127, 0, 0, 1], plan.port));
    let mut seeded = Seeded::new(Asker::first(address, &plan.data)?)?;
    let hook = seeded.hook("http://127.0.0.1:9/")?;
    // Each token may ask so often alone, and the one that makes the others is not to be revoked meanwhile.
    let tokens: Vec<String> = (0..8)
        .map(|number| Ok(seeded.admin.new_asker(&format!("tester-{number}"), "admin", "*")?.token))
        .collect::<Outcome<_>>()?;
    let there = there(&seeded, hook);
    let settings = root().join("tests/schemathesis");
    let mut run = Command::new(python);
    run.args(["-m", "schemathesis.cli", "--config-file"])
        .arg(settings.join("schemathesis.toml"))
        .arg("run")
        .arg(format!("{}/openapi.json", server.url()))
        .args(["--checks", "all", "--seed", &seed, "--max-time", &seconds, "--no-color"])
        .args(["--generation-database", "none"])
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONPATH", &settings)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("DUNLIN_TOKENS", tokens.join(" "))
        .env("DUNLIN_THERE", there.to_string())
        .current_dir(seeded.folder());
    let output = run.output().map_err(Failure::of("start schemathesis"))?;
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    if output.status.success() {
        return Ok(());
    }
    Err(server.failure(&format!("{}: {said}", output.status)))
}
