//! New releases on a running gateway: good ones take over, faulty ones go back, others do not get in.
//!
//! Each release passes its golden vectors; what is wrong with a faulty one shows on a live value alone. Every window has
//! exactly one prediction that counts, whichever release made it.

use std::path::Path;
use std::time::Duration;

use dunlin_e2e::broker::{Broker, BrokerPlan};
use dunlin_e2e::daemon::{Daemon, DaemonPlan};
use dunlin_e2e::oracle::{Comparison, Expected};
use dunlin_e2e::owner::Owner;
use dunlin_e2e::package::{
    LAB_START_MS, PackagePlan, lab_expected, lab_readings, lab_readings_of, publish_release, write, write_lab,
};
use dunlin_e2e::stream::Publisher;
use dunlin_e2e::swaps::Swaps;
use dunlin_e2e::wait::wait_for;
use dunlin_e2e::wire::Qos;
use dunlin_e2e::workspace::note;
use dunlin_e2e::{Failure, Outcome, onnx};
use jiff::Timestamp;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(40);
/// What the faulty releases do not bear; the golden vectors stay below 5.
const POISON: f64 = 100.0;
/// Above the golden vectors and the healthy readings of these tests, below the poison.
const BORDER: f32 = 50.0;
/// Readings of each part of a stream.
const PART: usize = 50;
/// Most parts with poison until a faulty release must be gone.
const POISONED_PARTS_MAX: usize = 20;

/// A gateway of the lab with a publisher.
struct Lab {
    folder: tempfile::TempDir,
    broker: Broker,
    plan: DaemonPlan,
    daemon: Daemon,
}

impl Lab {
    /// Starts a gateway whose first release has become good with the first part of the stream; releases after it are
    /// tried by these settings.
    fn start(settings: &[(&str, &str)]) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let broker = Broker::start(&BrokerPlan::default())?;
        let plan = DaemonPlan::new(&write_lab(folder.path())?, folder.path()).set("mqtt.url", broker.url());
        let quick = plan.clone().set("update.trial_predictions", 1).set("update.trial_time", "0s");
        let mut first = quick.start_ready()?;
        Publisher::connect(broker.port(), "sensor")?
            .publish_all(&lab_readings("a", 0, PART), Qos::AtLeastOnce)?;
        plan.export_of("double", PART, LIMIT)?;
        plan.wait_model("double", "release 1 is good", |model| model["active"]["counter"] == 1)?;
        first.terminate()?;
        let plan = settings.iter().fold(plan, |plan, (key, value)| plan.set(key, value));
        let daemon = plan.start_ready()?;
        Ok(Self { folder, broker, plan, daemon })
    }

    fn publisher(&self) -> Outcome<Publisher> {
        Publisher::connect(self.broker.port(), "sensor")
    }

    /// Publishes release 2 of `double`; returns the repository.
    fn publish_second(&self, model: &[u8], budgets: Value) -> Outcome<std::path::PathBuf> {
        let mut owner = Owner::of(self.folder.path())?;
        let plan = PackagePlan { release: 2, budgets, ..PackagePlan::of_one_value("double") };
        publish_release(&mut owner, &self.folder.path().join("second"), &plan, model)?;
        Ok(owner.repository())
    }

    fn double(&self) -> Outcome<Value> {
        Ok(self.plan.models()?["models"]["double"].take())
    }
}

fn is_bad(model: &Value) -> bool {
    model["bad"].as_array().is_some_and(|bad| !bad.is_empty())
}

/// Returns the rows of a column by name.
fn column(export: &str, name: &str) -> Outcome<Vec<String>> {
    let mut lines = export.lines().map(|line| line.split(','));
    let place = lines.next().and_then(|mut header| header.position(|cell| cell == name));
    let place = place.ok_or_else(|| Failure::new(format!("the export has no column `{name}`")))?;
    Ok(lines.map(|mut line| line.nth(place).unwrap_or_default().to_owned()).collect())
}

/// Returns the lines of an export that satisfy a condition, and its header.
fn filtered(export: &str, condition: impl Fn(&str) -> bool) -> String {
    let mut lines = export.lines();
    let header = lines.next().unwrap_or_default();
    std::iter::once(header).chain(lines.filter(|line| condition(line))).collect::<Vec<_>>().join("\n")
}

/// Returns the time at which the log first says something.
fn logged_at(log: &str, words: &str) -> Option<Timestamp> {
    let line = log.lines().find(|line| line.contains(words))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Runs a release 2 that passes its self-test and is faulty on a live value: it is rolled back with one of these codes,
/// and the first release serves on as if there had been no other.
fn rolls_back(model: &[u8], budgets: Value, codes: &[&str]) -> Outcome<()> {
    let settings = [
        ("update.shadow_predictions", "0"),
        ("update.trial_predictions", "500"),
        ("update.trial_time", "1h"),
    ];
    let mut lab = Lab::start(&settings)?;
    let mut publisher = lab.publisher()?;
    let repository = lab.publish_second(model, budgets)?;
    let imported = lab.plan.import(&repository, &[])?;
    assert!(imported.status.success(), "{imported:?}");
    // Whatever happens from here on happens without the owner.
    std::fs::rename(&repository, lab.folder.path().join("away"))?;
    lab.plan.wait_model("double", "release 2 is on trial", |model| {
        model["candidate"]["phase"] == "trial" && model["serving"]["counter"] == 2
    })?;
    publisher.publish_all(&lab_readings("a", PART, PART), Qos::AtLeastOnce)?;
    lab.plan.export_of("double", 2 * PART, LIMIT)?;
    let (mut sent, first_fault) = (2 * PART, Timestamp::now());
    for _ in 0..POISONED_PARTS_MAX {
        publisher.publish_all(&lab_readings_of(POISON, "a", sent, PART), Qos::AtLeastOnce)?;
        sent += PART;
        lab.plan.export_of("double", sent, LIMIT)?;
        if is_bad(&lab.double()?) {
            break;
        }
    }
    let model = lab.plan.wait_model("double", "release 2 is rolled back", is_bad)?;
    let code = model["bad"][0]["code"].as_str().unwrap_or_default();
    assert!(codes.contains(&code), "{model}");
    assert_eq!(
        (&model["bad"][0]["release"]["counter"], &model["serving"]["counter"]),
        (&json!(2), &json!(1))
    );
    assert!(model["candidate"].is_null() && model["phase"] == "good", "{model}");
    let log = lab.daemon.log();
    assert!(log.contains(code), "{log}");
    let rolled_back = logged_at(&log, "release is bad").map(|at| at.duration_since(first_fault));
    // What the first release serves is exact again, and stays so.
    wait_first_serves(&mut lab, &mut publisher, &mut sent)?;
    let healthy = sent;
    publisher.publish_all(&lab_readings_of(POISON, "a", sent, 2 * PART), Qos::AtLeastOnce)?;
    sent += 2 * PART;
    let export = lab.plan.export_of("double", sent, LIMIT)?;
    let expected = expected(sent);
    let whole = Comparison::of(&expected, &export)?;
    assert_eq!((whole.missing, whole.unexpected, whole.twice), (0, 0, 0), "{whole}");
    // Faulty predictions are marked: what is not marked is right.
    let unmarked = filtered(&export, |line| !is_marked(line));
    let right = Comparison::of(&expected, &unmarked)?;
    assert_eq!((right.unexpected, right.twice), (0, 0), "{right}");
    assert!(right.worst < 1e-4, "{right}");
    let versions = column(&export, "version")?;
    assert!(versions[..PART].iter().chain(&versions[healthy..]).all(|version| version == "1.0.0"));
    assert_eq!(export.lines().skip(1 + healthy).filter(|line| is_marked(line)).count(), 0);
    let by_second = versions.iter().filter(|version| *version == "2.0.0").count();
    let marked: std::collections::BTreeSet<_> = column(&export, "quality")?.into_iter().collect();
    note(&format!("quality: {marked:?}"));
    note(&format!(
        "{code}: rolled back {rolled_back:?} after the first faulty reading; {by_second} predictions by release 2, {} marked as faulty",
        right.missing
    ));
    Ok(())
}

/// Sends poison until a window is served by the first release again: some may be on their way to the second still.
fn wait_first_serves(lab: &mut Lab, publisher: &mut Publisher, sent: &mut usize) -> Outcome<()> {
    wait_for("the first release serves again", LIMIT, || {
        publisher.publish_all(&lab_readings_of(POISON, "a", *sent, 1), Qos::AtLeastOnce)?;
        *sent += 1;
        let export = lab.plan.export_of("double", *sent, LIMIT)?;
        let is_first = column(&export, "version")?.last().is_some_and(|version| version == "1.0.0");
        Ok(is_first.then_some(()))
    })
}

/// Tells whether a row says itself that it is no right prediction.
fn is_marked(line: &str) -> bool {
    ["inference_failed", "invalid_output", "not_finite", "timeout"].iter().any(|flag| line.contains(flag))
}

/// Returns what doubles must come of two healthy parts and poison after them.
fn expected(count: usize) -> Expected {
    let value = |n: usize| if n < 2 * PART { (n % 1_000) as f64 / 4.0 } else { POISON };
    Expected::of((0..count).map(|n| (LAB_START_MS + n as i64 * 1_000, vec![2.0 * value(n)])))
}

#[test]
fn a_release_that_fails_on_live_readings_is_rolled_back() -> Outcome<()> {
    rolls_back(&onnx::doubling_but_failing_at(POISON as i64), json!({}), &["rolled_back:failed"])
}

#[test]
fn a_release_that_answers_no_number_is_rolled_back() -> Outcome<()> {
    let codes = ["rolled_back:invalid_output"];
    rolls_back(&onnx::doubling_but_no_number_above(BORDER), json!({}), &codes)
}

#[test]
fn a_release_that_hangs_until_its_worker_is_killed_is_rolled_back() -> Outcome<()> {
    let codes = ["rolled_back:failed", "rolled_back:crash"];
    rolls_back(&onnx::doubling_but_hanging_above(BORDER), json!({ "deadline": "200ms" }), &codes)
}

#[test]
fn a_release_that_is_ten_times_slower_than_its_budget_is_rolled_back() -> Outcome<()> {
    let budgets = json!({ "deadline": "30s", "p99": { "any": "20ms" } });
    rolls_back(&onnx::doubling_but_slow_above(BORDER, 60), budgets, &["rolled_back:latency"])
}

#[test]
fn a_good_release_takes_over_without_a_gap_and_an_operator_goes_back() -> Outcome<()> {
    let settings = [
        ("update.shadow_predictions", "20"),
        ("update.trial_predictions", "20"),
        ("update.trial_time", "0s"),
    ];
    let lab = Lab::start(&settings)?;
    let mut publisher = lab.publisher()?;
    let repository = lab.publish_second(&onnx::doubling(), json!({}))?;
    let imported = lab.plan.import(&repository, &[])?;
    assert!(imported.status.success(), "{imported:?}");
    let mut sent = PART;
    wait_for("release 2 is good", LIMIT, || {
        publisher.publish_all(&lab_readings("a", sent, 5), Qos::AtLeastOnce)?;
        sent += 5;
        let model = lab.double()?;
        Ok((model["active"]["counter"] == 2).then_some(()))
    })?;
    publisher.publish_all(&lab_readings("a", sent, PART), Qos::AtLeastOnce)?;
    sent += PART;
    let export = lab.plan.export_of("double", sent, LIMIT)?;
    let comparison = Comparison::of(&lab_expected(sent), &export)?;
    assert!(comparison.is_exact(), "{comparison}");
    let versions = column(&export, "version")?;
    let first = versions.iter().take_while(|version| *version == "1.0.0").count();
    assert!(first >= PART + 20 && versions[first..].iter().all(|version| version == "2.0.0"), "{versions:?}");
    let log = lab.daemon.log();
    let phases = ["fetching", "verified", "admitted", "shadow", "trial"].map(|phase| {
        let said = format!("phase=\"{phase}\"");
        log.lines().position(|line| line.contains("(release 2)") && line.contains(&said))
    });
    assert!(phases.is_sorted() && phases.iter().all(Option::is_some), "{phases:?}\n{log}");
    check_shadow(&lab, sent)?;
    check_refusals(&lab, &repository, &mut publisher, &mut sent)
}

/// The shadow's predictions are kept and flagged.
fn check_shadow(lab: &Lab, sent: usize) -> Outcome<()> {
    let with_shadow = lab.plan.export_with_shadow("double")?;
    let shadow = filtered(&with_shadow, |line| line.contains("shadow"));
    assert!(
        shadow.lines().count() > 20 && column(&shadow, "version")?.iter().all(|version| version == "2.0.0")
    );
    let others = filtered(&with_shadow, |line| !line.contains("shadow"));
    let comparison = Comparison::of(&lab_expected(sent), &others)?;
    assert!(comparison.is_exact(), "{comparison}");
    Ok(())
}

/// What is old, forged or withdrawn does not get in, and what runs is not touched; the operator goes back.
fn check_refusals(lab: &Lab, repository: &Path, publisher: &mut Publisher, sent: &mut usize) -> Outcome<()> {
    let workers = lab.daemon.worker_pids()?;
    let refused = |what: &str, place: &Path| -> Outcome<()> {
        let output = lab.plan.import(place, &["--wait"])?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(said.contains(what), "{what} is not in: {said}");
        let model = lab.double()?;
        assert_eq!((&model["serving"]["counter"], &model["phase"]), (&json!(2), &json!("good")), "{model}");
        assert_eq!(lab.daemon.worker_pids()?, workers);
        Ok(())
    };
    let forged = lab.folder.path().join("forged");
    copy_folder(repository, &forged)?;
    forge(&forged.join("metadata/timestamp.json"))?;
    refused("signature", &forged)?;
    let mut owner = Owner::of(lab.folder.path())?;
    let before = lab.folder.path().join("before");
    copy_folder(repository, &before)?;
    owner.withdraw("double", 2)?;
    refused("downgrade", repository)?;
    refused("rollback", &before)?;
    let output = lab.plan.rollback("double")?;
    assert!(output.status.success(), "{output:?}");
    let model = lab.plan.wait_model("double", "the operator's rollback", is_bad)?;
    assert_eq!(
        (&model["bad"][0]["code"], &model["serving"]["counter"]),
        (&json!("rolled_back:operator"), &json!(1))
    );
    // Until the first release is loaded the second one answers.
    let export = wait_for("release 1 serves again", LIMIT, || {
        publisher.publish_all(&lab_readings("a", *sent, PART), Qos::AtLeastOnce)?;
        *sent += PART;
        let export = lab.plan.export_of("double", *sent, LIMIT)?;
        let is_first = column(&export, "version")?.last().is_some_and(|version| version == "1.0.0");
        Ok(is_first.then_some(export))
    })?;
    let comparison = Comparison::of(&lab_expected(*sent), &export)?;
    assert!(comparison.is_exact(), "{comparison}");
    Ok(())
}

/// Changes a digit of the first signature.
fn forge(path: &Path) -> Outcome<()> {
    let text = std::fs::read_to_string(path)?;
    let mut parts = text.splitn(2, "\"sig\"");
    let (before, after) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let place = after.find(|c: char| c.is_ascii_hexdigit()).ok_or_else(|| Failure::new("no signature"))?;
    let digit = if &after[place..=place] == "0" { "1" } else { "0" };
    let forged = format!("{before}\"sig\"{}{digit}{}", &after[..place], &after[place + 1..]);
    write(path, forged.as_bytes())
}

fn copy_folder(from: &Path, to: &Path) -> Outcome<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// A thousand are run by the `oracle` program.
#[test]
fn sixty_hot_swaps_under_load_lose_and_double_nothing() -> Outcome<()> {
    let swapped = Swaps { count: 60, rate: 500.0, limit: LIMIT }.run()?;
    note(&swapped.to_string());
    assert!(swapped.comparison.is_exact(), "{swapped}");
    // One model beside a golden file each for what runs, what ran before, and what came last.
    assert!(swapped.blobs <= 8, "{swapped}");
    Ok(())
}
