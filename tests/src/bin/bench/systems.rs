//! The systems that are measured: Dunlin and what a user would pick instead, each doing the same work.
//!
//! Prepares (configuration, virtual environment, modules), starts and measures processes from outside; never knows
//! how one works.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dunlin_e2e::broker::url_of;
use dunlin_e2e::daemon::{Daemon, DaemonPlan, resident_bytes};
use dunlin_e2e::golden::add_golden;
use dunlin_e2e::owner::Owner;
use dunlin_e2e::package::{LAB_START_MS, PackagePlan, write, write_package};
use dunlin_e2e::stream::Message;
use dunlin_e2e::wait::wait_until;
use dunlin_e2e::wire::Qos;
use dunlin_e2e::workspace::{note, root, shared_folder};
use dunlin_e2e::{Failure, Outcome, onnx};

/// Readings in a window.
pub(crate) const ROWS: usize = 32;
/// Values in a reading.
pub(crate) const COLUMNS: usize = 4;

/// Which system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Dunlin, the model in a worker process.
    Dunlin,
    /// Dunlin, the model in a thread.
    DunlinThread,
    /// Python with paho-mqtt, NumPy, ONNX Runtime and sqlite3.
    Python,
    /// Node.js with mqtt, onnxruntime-node and better-sqlite3.
    Node,
}

/// What is there to be measured.
#[derive(Debug)]
pub(crate) struct Equipment {
    /// Folder of the generated configuration and package.
    folder: tempfile::TempDir,
    /// The model that every system runs.
    model: PathBuf,
    /// `python3` of a virtual environment, and the script.
    python: Option<(PathBuf, PathBuf)>,
    /// Folder of the Node.js script with its modules.
    node: Option<PathBuf>,
}

/// Whether other systems are measured too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peers {
    /// Where they can be prepared.
    Measured,
    /// No.
    LeftOut,
}

impl Equipment {
    /// Writes Dunlin's configuration and prepares the peers, where they are to be had.
    ///
    /// *Errors*: the configuration cannot be written; a peer that cannot be prepared is left out and named.
    pub(crate) fn prepare(peers: Peers) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let peers_folder = shared_folder().map(|shared| shared.join("peers")).filter(|path| path.is_dir());
        let given = peers_folder.as_ref().map(|path| path.join("model.onnx")).filter(|path| path.is_file());
        let bytes = match &given {
            Some(path) => std::fs::read(path)?,
            None => onnx::autoencoder(ROWS, COLUMNS),
        };
        let plan = PackagePlan {
            name: "bench",
            rows: ROWS,
            features: &["a", "b", "c", "d"],
            input_shape: &[ROWS, COLUMNS],
            ..PackagePlan::of_one_value("")
        };
        let package = folder.path().join("bench");
        write_package(&package, &plan, &bytes)?;
        add_golden(&package, CONFIG, "bench", &golden_messages())?;
        Owner::of(folder.path())?.publish(&package)?;
        write(&folder.path().join("dunlind.toml"), CONFIG.as_bytes())?;
        let mut equipment = Self { model: package.join("model.onnx"), folder, python: None, node: None };
        if let (Peers::Measured, Some(peers)) = (peers, peers_folder) {
            equipment.python = named("Python", prepare_python(&peers));
            equipment.node = named("Node.js", prepare_node(&peers));
        }
        Ok(equipment)
    }

    /// Tells whether a system can be measured.
    pub(crate) const fn has(&self, kind: Kind) -> bool {
        match kind {
            Kind::Dunlin | Kind::DunlinThread => true,
            Kind::Python => self.python.is_some(),
            Kind::Node => self.node.is_some(),
        }
    }

    /// Returns the plan of a Dunlin daemon with its state in `folder`.
    pub(crate) fn dunlin_plan(&self, kind: Kind, port: u16, qos: Qos, folder: &Path) -> DaemonPlan {
        let isolation = if kind == Kind::DunlinThread { "thread" } else { "process" };
        DaemonPlan::new(&self.folder.path().join("dunlind.toml"), folder)
            .set("mqtt.url", url_of(port))
            .set("mqtt.qos", u8::from(qos == Qos::AtLeastOnce))
            .set("publish.qos", 0)
            .set("inference.isolation", isolation)
            .set("storage.commit", "auto")
    }

    /// Starts a system and waits until it is subscribed.
    ///
    /// *Errors*: it does not start.
    pub(crate) fn start(&self, kind: Kind, port: u16, qos: Qos, folder: &Path) -> Outcome<System> {
        let mut command = match kind {
            Kind::Dunlin | Kind::DunlinThread => {
                return Ok(System::Dunlin(self.dunlin_plan(kind, port, qos, folder).start_ready()?));
            }
            Kind::Python => {
                let (python, script) = self.python.as_ref().ok_or_else(|| Failure::new("no Python"))?;
                let mut command = Command::new(python);
                command.arg(script);
                command
            }
            Kind::Node => {
                let folder = self.node.as_ref().ok_or_else(|| Failure::new("no Node.js"))?;
                let mut command = Command::new("node");
                command.arg(folder.join("edge.js"));
                command
            }
        };
        let log = folder.join("peer.log");
        command.args(["--port", &port.to_string(), "--qos", if qos == Qos::AtLeastOnce { "1" } else { "0" }]);
        command.arg("--model").arg(&self.model).arg("--db").arg(folder.join("peer.db"));
        let file = File::create(&log)?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        let system = System::Peer(child.map_err(Failure::of("start a peer"))?);
        wait_until("the peer is ready", Duration::from_secs(30), || {
            std::fs::read_to_string(&log).is_ok_and(|text| text.contains("ready"))
        })?;
        Ok(system)
    }
}

/// A running system. Dropping it kills it.
#[derive(Debug)]
pub(crate) enum System {
    /// Dunlin.
    Dunlin(Daemon),
    /// Anything else.
    Peer(Child),
}

impl System {
    /// Returns the resident memory of all its processes, in bytes.
    ///
    /// *Errors*: it is gone.
    pub(crate) fn resident_bytes(&self) -> Outcome<u64> {
        match self {
            Self::Dunlin(daemon) => daemon.resident_bytes(),
            Self::Peer(child) => resident_bytes(child.id()),
        }
    }

    /// Returns predictions committed and bytes written for them, where the system tells.
    ///
    /// *Errors*: it does not answer.
    pub(crate) fn stored(&self) -> Outcome<Option<(u64, u64)>> {
        let Self::Dunlin(daemon) = self else { return Ok(None) };
        let store = daemon.status()?["store"].clone();
        let number = |name: &str| store[name].as_u64().unwrap_or_default();
        Ok(Some((number("predictions"), number("written_bytes"))))
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if let Self::Peer(child) = self {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

const CONFIG: &str = r#"[mqtt]
url = "mqtt://127.0.0.1:1"

[trust]
root = "root.json"

[[source]]
name = "sensors"
topics = ["sensors/{sensor}/data"]
format = "json"
series_max = 20000
new_topics_per_second_max = 1000000
time = { pointer = "/ts", format = "unix-ns", fallback = "reject" }

[source.fields]
a = { pointer = "/values/0" }
b = { pointer = "/values/1" }
c = { pointer = "/values/2" }
d = { pointer = "/values/3" }

[[model]]
name = "bench"
package = "repository"
key = ["sensor"]
window = { length = 32, hop = 1 }
inputs.x = ["a", "b", "c", "d"]
output = { topic = "predictions/{key}" }
"#;

/// Returns a window and some more of readings that the bench's load could send.
fn golden_messages() -> Vec<Message> {
    let reading = |n: i64| {
        let at_ms = LAB_START_MS + n * 1_000;
        let values: Vec<f64> = (0..4).map(|k| 20.0 + ((n * (7 + k)) % 64) as f64 / 16.0).collect();
        let payload = format!("{{\"ts\": {}, \"values\": {values:?}}}", at_ms * 1_000_000);
        Message::timed("sensors/golden/data".to_owned(), payload, at_ms)
    };
    (0..ROWS as i64 + 8).map(reading).collect()
}

fn named<T>(name: &str, prepared: Outcome<T>) -> Option<T> {
    prepared.map_err(|failure| note(&format!("{name} is left out: {failure}"))).ok()
}

fn prepare_python(peers: &Path) -> Outcome<(PathBuf, PathBuf)> {
    let folder = root().join(".xtask").join("peer-python");
    let python = folder.join("bin").join("python3");
    let imports = ["-c", "import paho.mqtt, numpy, onnxruntime"];
    if run(Command::new(&python).args(imports)).is_err() {
        note("preparing Python (paho-mqtt, NumPy, ONNX Runtime) …");
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        run(Command::new(&python).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "paho-mqtt",
            "numpy",
            "onnxruntime",
        ]))?;
        run(Command::new(&python).args(imports))?;
    }
    Ok((python, peers.join("python").join("edge.py")))
}

fn prepare_node(peers: &Path) -> Outcome<PathBuf> {
    let folder = root().join(".xtask").join("peer-node");
    std::fs::create_dir_all(&folder)?;
    for name in ["edge.js", "package.json", "package-lock.json"] {
        write(&folder.join(name), &std::fs::read(peers.join("node").join(name))?)?;
    }
    let imports =
        ["-e", "require('mqtt'); require('onnxruntime-node'); new (require('better-sqlite3'))(':memory:')"];
    if run(Command::new("node").args(imports).current_dir(&folder)).is_err() {
        note("preparing Node.js (better-sqlite3 is compiled: about 3 minutes) …");
        let mut install = Command::new("npm");
        install.args(["ci", "--no-audit", "--no-fund"]).env("ONNXRUNTIME_NODE_INSTALL", "skip");
        run(install.current_dir(&folder))?;
        run(Command::new("node").args(imports).current_dir(&folder))?;
    }
    Ok(folder)
}

fn run(command: &mut Command) -> Outcome<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(Failure::of(&name))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
    Err(Failure::new(format!("{name}: {}: {last}", output.status)))
}
