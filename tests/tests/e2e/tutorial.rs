//! The tutorial of `docs/model-package.md`, run as it is written.
//!
//! Takes every line of its command blocks and runs it in a copy of the example, with a broker of the test's own. Needs a
//! Python with scikit-learn and skl2onnx, which `cargo xtask test` makes and names in `DUNLIN_SKLEARN_PYTHON`; without one
//! the test says so and ends.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dunlin_e2e::broker::{Broker, BrokerPlan};
use dunlin_e2e::daemon::{CHANGE_MAX, DaemonPlan, kill_process};
use dunlin_e2e::stream::{Publisher, read_ndjson};
use dunlin_e2e::wait::wait_for;
use dunlin_e2e::wire::Qos;
use dunlin_e2e::workspace::{daemon_program, owner_program, root, skip};
use dunlin_e2e::{Failure, Outcome};
use nix::sys::signal::Signal;

/// The section, by its heading.
const HEADING: &str = "\n## From model.pkl to a running gateway\n";
/// The model of the example.
const MODEL: &str = "pump-bearing";
/// What it says.
const LABELS: [&str; 3] = ["sound", "worn", "abstain"];
/// Most commands from `model.pkl` on.
const COMMANDS_MAX: usize = 9;
/// The line that begins so is counted and not run: packages of Python are installed by whoever starts the test.
const ELSEWHERE: &str = "pip install ";

/// Returns the lines of all `sh` blocks of the section.
fn commands() -> Outcome<Vec<String>> {
    let text = std::fs::read_to_string(root().join("docs/model-package.md"))?;
    let missing = || Failure::new(format!("there is no section `{}`", HEADING.trim()));
    let (_, rest) = text.split_once(HEADING).ok_or_else(missing)?;
    let section = rest.split_once("\n## ").map_or(rest, |(section, _)| section);
    let blocks = section.split("```sh\n").skip(1).filter_map(|block| Some(block.split_once("```")?.0));
    let lines = blocks.flat_map(str::lines).map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(str::to_owned).collect())
}

/// Returns a command of the tutorial as a user's shell runs it, with the programs of this build in front of the path; what
/// is particular to the test is said to the daemon by its environment.
fn shell(line: &str, folder: &Path, python: &Path, broker: &Broker) -> Outcome<Command> {
    let folders = [owner_program()?, daemon_program()?, python.to_owned()].map(|mut program| {
        program.pop();
        program
    });
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&path)));
    let mut command = Command::new("sh");
    std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.to_string_lossy().starts_with("DUNLIN_"))
        .for_each(|name| {
            command.env_remove(name);
        });
    // The command itself is the child, so that it can be ended.
    command.args(["-e", "-c", &format!("exec {line}")]).current_dir(folder).stdin(Stdio::null());
    command.env("PATH", all.map_err(Failure::of("PATH"))?);
    command.env("DUNLIN_MQTT__URL", broker.url()).env("DUNLIN_HTTP__ENABLED", "false");
    Ok(command)
}

fn run(line: &str, mut command: Command) -> Outcome<()> {
    let output = command.output()?;
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "`{line}` ended with {}:\n{text}", output.status);
    Ok(())
}

/// Runs the gateway until it has predicted something of every sample.
fn run_gateway(mut command: Command, folder: &Path, broker: &Broker) -> Outcome<()> {
    let plan = DaemonPlan::new(&folder.join("dunlind.toml"), folder);
    let log = std::fs::File::create(&plan.log)?;
    command.stdout(log.try_clone()?).stderr(log);
    let mut gateway = command.spawn()?;
    let predicted = predict_samples(&plan, folder, broker);
    let pid = gateway.id();
    let ended = kill_process(pid, Signal::SIGTERM);
    let status = gateway.wait()?;
    predicted.map_err(|failure| plan.failure(&failure.to_string()))?;
    ended?;
    assert!(status.success(), "the gateway ended with {status}");
    Ok(())
}

fn predict_samples(plan: &DaemonPlan, folder: &Path, broker: &Broker) -> Outcome<()> {
    wait_for("the gateway is ready and subscribed", CHANGE_MAX, || {
        let status = plan.status()?;
        Ok(status
            .filter(|s| s["brokers"]["mqtt"]["connected"] == true && s["slots"][MODEL]["state"] == "ready"))
    })?;
    let samples = read_ndjson(&folder.join("samples.ndjson"))?;
    Publisher::connect(broker.port(), "pump")?.publish_all(&samples, Qos::AtLeastOnce)?;
    let export = plan.export_of(MODEL, samples.len(), CHANGE_MAX)?;
    let is_labelled = |line: &str| LABELS.iter().any(|label| line.contains(label));
    if export.lines().skip(1).all(is_labelled) {
        return Ok(());
    }
    Err(Failure::new(format!("predictions without a label:\n{export}")))
}

#[test]
fn the_way_from_a_pickle_to_a_gateway_has_under_ten_commands() -> Outcome<()> {
    let lines = commands()?;
    let pickled = lines.iter().position(|line| line.contains("train.py"));
    let after = pickled.map(|at| lines.len() - at - 1);
    assert!(after.is_some_and(|after| (1..=COMMANDS_MAX).contains(&after)), "{lines:?}");
    assert!(lines.last().is_some_and(|line| line.starts_with("dunlind run")), "{lines:?}");
    Ok(())
}

#[test]
fn every_command_of_the_tutorial_does_what_it_says() -> Outcome<()> {
    let Some(python) = std::env::var_os("DUNLIN_SKLEARN_PYTHON").map(PathBuf::from) else {
        skip("DUNLIN_SKLEARN_PYTHON names no Python with scikit-learn; `cargo xtask test` makes one");
        return Ok(());
    };
    let (folder, broker) = (tempfile::tempdir()?, Broker::start(&BrokerPlan::default())?);
    for file in std::fs::read_dir(root().join("examples/from-scikit-learn"))? {
        let file = file?;
        std::fs::copy(file.path(), folder.path().join(file.file_name()))?;
    }
    let mut ran = 0;
    for line in commands()?.iter().filter(|line| !line.starts_with(ELSEWHERE)) {
        let command = shell(line, folder.path(), &python, &broker)?;
        if line.starts_with("dunlind run") {
            run_gateway(command, folder.path(), &broker)?;
        } else {
            run(line, command)?;
        }
        ran += 1;
    }
    assert!(ran >= 9, "{ran}");
    Ok(())
}
