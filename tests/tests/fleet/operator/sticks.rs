//! A site without a network: a release comes by stick, results go back by stick, receipts come by the next one.

use std::fs;
use std::path::PathBuf;

use dunlin_e2e::broker::{Broker, BrokerPlan};
use dunlin_e2e::daemon::{CHANGE_MAX, DaemonPlan};
use dunlin_e2e::package::write;
use dunlin_e2e::releases::{Sensor, with_short_trials, write_release};
use dunlin_e2e::wait::wait_for;
use dunlin_e2e::{Failure, Outcome, onnx};
use serde_json::Value;

use super::{Office, text};

/// A gateway that knows the owner's first root, and no server.
const CONFIG: &str = r#"[mqtt]
url = "mqtt://127.0.0.1:1"

[trust]
root = "root.json"

[[source]]
name = "lab"
topics = ["lab/{sensor}/data"]
format = "json"
time = { pointer = "/t", format = "unix-ms", fallback = "reject", skew_max = "5m" }

[source.fields]
v = { pointer = "/v" }

[[model]]
name = "double"
key = ["sensor"]
window = { length = 1, hop = 1 }
inputs.x = ["v"]
output = { topic = "out/{model}/{key}" }
"#;

/// The far site.
struct Site {
    folder: tempfile::TempDir,
    plan: DaemonPlan,
}

impl Site {
    fn new(office: &Office, broker: &Broker) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("dunlind.toml");
        write(&config, CONFIG.as_bytes())?;
        fs::copy(office.path("trust/metadata/1.root.json"), folder.path().join("root.json"))?;
        let plan = DaemonPlan::new(&config, folder.path()).set("mqtt.url", broker.url());
        Ok(Self { folder, plan: with_short_trials(plan) })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a command that is to end with this code; returns what it said.
    fn run(&self, name: &str, arguments: &[&str], code: i32) -> Outcome<String> {
        let output = self.plan.command(name, arguments)?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        match output.status.code() == Some(code) {
            true => Ok(said),
            false => Err(self.plan.failure(&format!("`dunlind {name}`: {}: {said}", output.status))),
        }
    }

    /// Returns how many predictions are stored.
    fn predicted(&self) -> Outcome<u64> {
        Ok(self.plan.export("double")?.lines().skip(1).count() as u64)
    }

    /// Writes results; returns how many rows, and the gateway's key.
    fn export(&self, to: &str) -> Outcome<(u64, String)> {
        let (config, to) = (self.path("dunlind.toml"), self.path(to));
        let said = self.run("export-results", &["--config", text(&config), text(&to)], 0)?;
        let key = said.lines().find_map(|line| line.strip_prefix("key")).unwrap_or_default().trim();
        Ok((number_before(&said, " rows in")?, key.to_owned()))
    }
}

fn number_before(said: &str, words: &str) -> Outcome<u64> {
    let digits = said.split(words).next().and_then(|head| head.rsplit(' ').next());
    digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| Failure::new(format!("no number: {said}")))
}

#[test]
fn a_release_and_its_results_travel_by_stick_both_ways_and_nothing_is_taken_that_was_changed() -> Outcome<()>
{
    let office = Office::adopted()?;
    let broker = Broker::start(&BrokerPlan::default())?;
    let site = Site::new(&office, &broker)?;
    write_release(site.folder.path(), 1, &onnx::doubling())?;
    office.operator.with_pass(&["sign", text(&site.path("double-1"))])?;
    office.operator.run(&["publish"])?;
    // The server alone is needed: whoever carries the stick has no folder of trust.
    fs::rename(office.path("trust"), office.path("elsewhere"))?;
    let bundle = site.path("stick.bundle");
    let export = ["bundle", "export", "--from-server", "-o", text(&bundle)];
    let said = office.operator.run(&[&export[..], &["--model", "double@1.0.0"]].concat())?;
    assert!(said.contains("wrote 1 releases"), "{said}");
    office.operator.refused(&[&export[..], &["--model", "frost"]].concat(), 3)?;

    let mut daemon = site.plan.start_ready()?;
    site.run("import", &[text(&bundle)], 0)?;
    site.plan.wait_model("double", "the release serves", |model| !model["serving"].is_null())?;
    let mut sensor = Sensor::connect(broker.port(), "a")?;
    sensor.feed_until_good(&site.plan, 1)?;
    let predicted = site.predicted()?;
    let (rows, key) = site.export("out.results")?;
    assert!(predicted >= 3 && rows >= predicted, "{rows} rows with {predicted} predictions");
    let results = site.path("out.results");
    let import = ["bundle", "import-results", text(&results)];

    let said = office.operator.refused(&import, 3)?;
    assert!(said.contains("no such device"), "{said}");
    office.operator.run(&["devices", "expect", &key, "--label", "site=far"])?;
    require_changed_refused(&office, &site)?;
    assert_eq!(office.json(&["devices", "list"])?, Value::Array(Vec::new()), "nobody came in meanwhile");

    let receipts = site.path("in.receipts");
    let with_receipts = [&import[..], &["--receipts", text(&receipts)]].concat();
    let said = office.operator.run(&with_receipts)?;
    assert_eq!(number_before(&said, " new rows")?, rows, "{said}");
    let devices = office.json(&["devices", "list", "site=far"])?;
    assert_eq!(devices.as_array().map(Vec::len), Some(1), "{devices}");
    assert_eq!(devices[0]["models"][0]["version"], "1.0.0", "{devices}");
    let said = office.operator.run(&import)?;
    assert_eq!(number_before(&said, " new rows")?, 0, "taken twice it is taken once: {said}");

    let said = site.run("import-receipts", &[text(&receipts)], 4)?;
    assert!(said.contains("stop the daemon"), "{said}");
    daemon.terminate()?;
    require_changed_receipts_refused(&site)?;
    let said = site.run("import-receipts", &[text(&receipts)], 0)?;
    assert_eq!(number_before(&said, " rows have arrived")?, rows, "{said}");
    let said = site.run("import-receipts", &[text(&receipts)], 0)?;
    assert_eq!(number_before(&said, " rows have arrived")?, 0, "{said}");

    // What came since goes with the next stick, and nothing else does.
    daemon = site.plan.start_ready()?;
    sensor.send(5)?;
    let all = predicted + 5;
    wait_for("the new readings are predicted", CHANGE_MAX, || Ok((site.predicted()? >= all).then_some(())))?;
    let (more, _) = site.export("next.results")?;
    assert!((5..rows + 5).contains(&more), "{more} rows");
    let next = site.path("next.results");
    let said = office.operator.run(&["bundle", "import-results", text(&next)])?;
    assert_eq!(number_before(&said, " new rows")?, more, "{said}");
    daemon.terminate()?;

    // Another gateway: the key is another.
    fs::remove_file(site.plan.state_dir.join("identity.key"))?;
    let (_, other) = site.export("other.results")?;
    assert_ne!(other, key);
    let said = site.run("import-receipts", &[text(&receipts)], 5)?;
    assert!(said.contains("another gateway's"), "{said}");
    let forged = fs::read_to_string(site.path("other.results"))?.replace(&other, &key);
    write(&site.path("forged.results"), forged.as_bytes())?;
    let said =
        office.operator.refused(&["bundle", "import-results", text(&site.path("forged.results"))], 5)?;
    assert!(said.contains("not signed by"), "{said}");
    Ok(())
}

/// Flips bits all over the file of results: each is refused.
fn require_changed_refused(office: &Office, site: &Site) -> Outcome<()> {
    let good = fs::read(site.path("out.results"))?;
    let changed = site.path("changed.results");
    let first = good.iter().position(|byte| *byte == b'\n').unwrap_or(good.len());
    for at in (0..12).map(|part| part * (first - 1) / 11) {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        write(&changed, &bytes)?;
        office.operator.refused(&["bundle", "import-results", text(&changed)], 5)?;
    }
    for cut in [0, 1, first / 2, first] {
        write(&changed, &good[..cut])?;
        office.operator.refused(&["bundle", "import-results", text(&changed)], 5)?;
    }
    Ok(())
}

fn require_changed_receipts_refused(site: &Site) -> Outcome<()> {
    let good = fs::read(site.path("in.receipts"))?;
    let changed = site.path("changed.receipts");
    for at in (0..12).map(|part| part * (good.len() - 1) / 11) {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        write(&changed, &bytes)?;
        site.run("import-receipts", &[text(&changed)], 5)?;
    }
    Ok(())
}
