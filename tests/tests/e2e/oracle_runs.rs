//! Streams whose predictions are known: plain, and under kills and cuts.
//!
//! The public series are compared with another engine's outputs where they are there; the lab's stream, whose
//! outputs are known by arithmetic, always runs. Full lengths are run by the `oracle` program.

use std::process::Command;
use std::time::Duration;

use dunlin_e2e::Outcome;
use dunlin_e2e::broker::{Broker, BrokerPlan};
use dunlin_e2e::campaign::{Campaign, Trouble};
use dunlin_e2e::daemon::DaemonPlan;
use dunlin_e2e::package::{lab_expected, lab_readings, write, write_lab};
use dunlin_e2e::seed::Choices;
use dunlin_e2e::series::Series;
use dunlin_e2e::workspace::{note, root, shared_folder, skip};

/// Readings of a public series in a test: enough for windows of 32 across dozens of kills.
const STRETCH: usize = 3_000;
/// Longest wait for the last prediction.
const LIMIT: Duration = Duration::from_secs(40);

fn run_series(series: Series, trouble: Trouble) -> Outcome<()> {
    let Some(shared) = shared_folder() else {
        skip("there is no folder of public series (DUNLIN_SHARED)");
        return Ok(());
    };
    let (messages, expected) = series.stretch(&shared, STRETCH)?;
    let config = root().join("examples").join(series.name()).join("dunlind.toml");
    run(&Campaign { config, model: series.name().to_owned(), messages, expected, trouble, limit: LIMIT })
}

fn run_lab(trouble: Trouble) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let config = write_lab(folder.path())?;
    run(&Campaign {
        config,
        model: "double".to_owned(),
        messages: lab_readings("a", 0, STRETCH),
        expected: lab_expected(STRETCH),
        trouble,
        limit: LIMIT,
    })
}

fn run(campaign: &Campaign) -> Outcome<()> {
    let mut choices = Choices::from_environment();
    note(&format!("DUNLIN_SEED={}", choices.seed()));
    let comparison = campaign.run(&mut choices)?;
    note(&format!("{} {}: {comparison}", campaign.model, campaign.trouble.name()));
    Ok(())
}

#[test]
fn machine_temperature_is_predicted_as_by_the_oracle() -> Outcome<()> {
    run_series(Series::MachineTemperature, Trouble::Calm)
}

#[test]
fn occupancy_is_predicted_as_by_the_oracle() -> Outcome<()> {
    run_series(Series::Occupancy, Trouble::Calm)
}

#[test]
fn air_quality_is_predicted_as_by_the_oracle() -> Outcome<()> {
    run_series(Series::AirQuality, Trouble::Calm)
}

#[test]
fn a_daemon_killed_at_random_loses_and_doubles_nothing_of_a_public_series() -> Outcome<()> {
    run_series(Series::MachineTemperature, Trouble::DaemonKilled(22))
}

#[test]
fn a_daemon_killed_at_random_loses_and_doubles_nothing_of_the_lab() -> Outcome<()> {
    run_lab(Trouble::DaemonKilled(22))
}

#[test]
fn a_killed_worker_costs_no_prediction_of_a_public_series() -> Outcome<()> {
    run_series(Series::MachineTemperature, Trouble::WorkerKilled(20))
}

#[test]
fn a_killed_worker_costs_no_prediction_of_the_lab() -> Outcome<()> {
    run_lab(Trouble::WorkerKilled(20))
}

#[test]
fn a_cut_connection_costs_no_prediction_of_a_public_series() -> Outcome<()> {
    run_series(Series::AirQuality, Trouble::ConnectionCut(20))
}

#[test]
fn a_cut_connection_costs_no_prediction_of_the_lab() -> Outcome<()> {
    run_lab(Trouble::ConnectionCut(20))
}

/// As a user would: the published tools send the series with another client library and judge the export.
#[test]
fn the_tools_beside_the_public_series_find_nothing_missing() -> Outcome<()> {
    let (Some(shared), Some(python)) = (shared_folder(), std::env::var_os("DUNLIN_PYTHON")) else {
        skip(
            "there is no folder of public series (DUNLIN_SHARED), or no Python with paho-mqtt (DUNLIN_PYTHON)",
        );
        return Ok(());
    };
    let (name, folder) = ("air-quality", tempfile::tempdir()?);
    let broker = Broker::start(&BrokerPlan { in_flight_max: 20, queued_max: 0 })?;
    let config = root().join("examples").join(name).join("dunlind.toml");
    let plan = DaemonPlan::new(&config, folder.path()).set("mqtt.url", broker.url());
    let _daemon = plan.start_ready()?;
    let tool = |tool: &str| {
        let mut command = Command::new(&python);
        command.arg(shared.join("tools").join(tool));
        command
    };
    let sent = tool("replay.py").args([name, "--port", &broker.port().to_string()]).output()?;
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let export = folder.path().join("export.csv");
    write(&export, plan.export(name)?.as_bytes())?;
    let expected = shared.join("oracle").join(format!("{name}.expected.csv"));
    let judged = tool("compare.py").arg(expected).arg(export).output()?;
    note(&String::from_utf8_lossy(&judged.stdout));
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stdout));
    Ok(())
}
