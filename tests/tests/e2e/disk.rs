//! Disks that are full or wrong: inference goes on, and what was lost is told.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dunlin_e2e::broker::{Broker, BrokerPlan};
use dunlin_e2e::daemon::DaemonPlan;
use dunlin_e2e::package::{lab_readings, lab_readings_noisy, write, write_lab};
use dunlin_e2e::seed::Choices;
use dunlin_e2e::stream::{Listener, Publisher};
use dunlin_e2e::wait::wait_for;
use dunlin_e2e::wire::Qos;
use dunlin_e2e::workspace::{note, skip};
use dunlin_e2e::{Failure, Outcome};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(40);
const QUIET: Duration = Duration::from_millis(100);

/// A file system of its own, of 3 MB.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one; nothing where this user may not.
    fn mount(folder: &Path) -> Outcome<Option<Self>> {
        std::fs::create_dir_all(folder)?;
        let output =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(folder).output();
        if output.is_ok_and(|output| output.status.success()) {
            return Ok(Some(Self(folder.to_owned())));
        }
        skip("a tmpfs cannot be mounted: run as root");
        Ok(None)
    }

    /// Takes all the room that is left, as another program would.
    fn fill(&self) -> Outcome<()> {
        let mut file = File::create(self.0.join("of-another-program"))?;
        let piece = [0; 4_096];
        while file.write_all(&piece).is_ok() {}
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.0).status().ok();
    }
}

fn has_losses(status: &Value) -> bool {
    status["store"]["lost"].as_object().is_some_and(|lost| !lost.is_empty())
}

/// Takes published predictions until there are `count` different ones.
fn wait_published(listener: &mut Listener, seen: &mut BTreeSet<Vec<u8>>, count: usize) -> Outcome<()> {
    let mut have = 0;
    let waited = wait_for("all predictions are published", LIMIT, || {
        seen.extend(listener.take_until_quiet(QUIET)?.into_iter().map(|message| message.payload));
        have = seen.len();
        Ok((have >= count).then_some(()))
    });
    waited.map_err(|failure| Failure::new(format!("{failure}: {have} of {count}")))
}

#[test]
fn a_store_that_outgrows_its_disk_drops_the_oldest_and_tells_what_went() -> Outcome<()> {
    const READINGS_MAX: usize = 300_000;
    const PIECE: usize = 10_000;
    let folder = tempfile::tempdir()?;
    let Some(_disk) = SmallDisk::mount(&folder.path().join("state"))? else { return Ok(()) };
    let broker = Broker::start(&BrokerPlan { in_flight_max: 1_000, queued_max: 0 })?;
    let plan = DaemonPlan::new(&write_lab(folder.path())?, folder.path()).set("mqtt.url", broker.url());
    let mut daemon = plan.start_ready()?;
    let mut listener = Listener::connect(broker.port(), "listener", "out/double/+")?;
    let mut publisher = Publisher::connect(broker.port(), "sensor")?;
    let mut seen = BTreeSet::new();
    let mut sent = 0;
    while sent < READINGS_MAX && !has_losses(&daemon.status()?) {
        publisher.publish_all(&lab_readings_noisy("a", sent, PIECE), Qos::AtLeastOnce)?;
        sent += PIECE;
        wait_published(&mut listener, &mut seen, sent).map_err(|f| daemon.failure(&f.to_string()))?;
    }
    let status = daemon.wait_status("the ledger tells what went", has_losses)?;
    assert!(status["store"]["used_bytes"].as_u64() <= Some(3 << 20), "{status}");
    let kept = plan.export("double")?.lines().count() - 1;
    assert!(kept > 0 && kept <= sent, "{kept} rows are kept");
    Ok(())
}

#[test]
fn a_disk_filled_by_others_does_not_stop_inference() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let Some(disk) = SmallDisk::mount(&folder.path().join("state"))? else { return Ok(()) };
    let broker = Broker::start(&BrokerPlan::default())?;
    let plan = DaemonPlan::new(&write_lab(folder.path())?, folder.path())
        .set("mqtt.url", broker.url())
        .set("mqtt.qos", 0);
    let daemon = plan.start_ready()?;
    let mut listener = Listener::connect(broker.port(), "listener", "out/double/+")?;
    let mut publisher = Publisher::connect(broker.port(), "sensor")?;
    let mut seen = BTreeSet::new();
    publisher.publish_all(&lab_readings("a", 0, 200), Qos::AtLeastOnce)?;
    wait_published(&mut listener, &mut seen, 200).map_err(|f| daemon.failure(&f.to_string()))?;
    disk.fill()?;
    let mut sent = 200;
    let told = |status: &Value| has_losses(status) || status["store"]["state"] != "ok";
    while sent < 100_000 && !told(&daemon.status()?) {
        publisher.publish_all(&lab_readings_noisy("a", sent, 1_000), Qos::AtLeastOnce)?;
        sent += 1_000;
        wait_published(&mut listener, &mut seen, sent).map_err(|f| daemon.failure(&f.to_string()))?;
    }
    let status = daemon.status()?;
    assert!(told(&status), "nobody is told of the full disk: {status}");
    Ok(())
}

#[test]
fn a_flipped_bit_never_becomes_a_prediction_that_was_not_made() -> Outcome<()> {
    const READINGS: usize = 2_000;
    const FLIPS: usize = 24;
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(&BrokerPlan::default())?;
    let plan = DaemonPlan::new(&write_lab(folder.path())?, folder.path()).set("mqtt.url", broker.url());
    let mut daemon = plan.start_ready()?;
    Publisher::connect(broker.port(), "sensor")?
        .publish_all(&lab_readings("a", 0, READINGS), Qos::AtLeastOnce)?;
    let truth = plan.export_of("double", READINGS, LIMIT)?;
    let truth: BTreeSet<&str> = truth.lines().collect();
    daemon.terminate()?;

    let path = plan.state_dir.join("telemetry.db");
    let sound = std::fs::read(&path)?;
    let mut choices = Choices::from_environment();
    note(&format!("DUNLIN_SEED={}", choices.seed()));
    let mut noticed = 0;
    for _ in 0..FLIPS {
        let mut flipped = sound.clone();
        // Behind the first page, whose damage means the whole file.
        let at = 4_096 + choices.below(sound.len() as u64 - 4_096) as usize;
        flipped[at] ^= 1 << choices.below(8);
        write(&path, &flipped)?;
        let output = plan.command("export", &["--model", "double", "--format", "csv"])?;
        let export = String::from_utf8_lossy(&output.stdout).into_owned();
        let wrong: Vec<_> = export.lines().filter(|line| !truth.contains(line)).collect();
        assert!(
            wrong.is_empty(),
            "byte {at}: rows that were never stored: {:?}",
            &wrong[..wrong.len().min(3)]
        );
        let told = !output.status.success() || !output.stderr.is_empty();
        noticed += usize::from(told);
        assert!(
            told || export.lines().count() == truth.len(),
            "byte {at}: rows are missing and nobody is told"
        );
    }
    assert!(noticed > 0, "none of {FLIPS} flips was noticed");
    Ok(())
}
