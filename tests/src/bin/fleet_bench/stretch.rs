//! One stretch of a measurement: a crowd of one kind against a server that is watched from outside.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dunlin_e2e::daemon::{processor_time, resident_bytes};
use dunlin_e2e::fleet_server::{FleetServer, ServerPlan};
use dunlin_e2e::operator::Operator;
use dunlin_e2e::wait::pause;
use dunlin_e2e::workspace::owner_program;
use dunlin_e2e::{Failure, Outcome};
use serde_json::Value;
use tempfile::TempDir;

/// When the server is killed and started again in the stretch of the default profile.
const RESTART_AFTER: Duration = Duration::from_secs(60);
/// Connections of a server: those of all gateways, and some for people.
const CONNECTIONS: &str = "12000";

/// What the gateways do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ask again at once.
    Saturation,
    /// Ask at an interval.
    Paced { interval_ms: u64 },
    /// As on a metered line, at an interval that stands for an hour.
    Metered { interval_ms: u64 },
    /// As the protocol says, with questions that wait; the server is killed and started again once.
    Default,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Saturation => "saturation",
            Self::Paced { .. } => "paced",
            Self::Metered { .. } => "metered",
            Self::Default => "default",
        }
    }
}

/// What a stretch has shown.
pub(crate) struct Figures {
    pub(crate) summary: Value,
    pub(crate) resident_bytes: u64,
    pub(crate) server_cores: f64,
    pub(crate) generator_cores: f64,
    pub(crate) load_before: f64,
}

/// A server with an owner.
pub(crate) struct Server {
    folder: TempDir,
    server: Option<FleetServer>,
    plan: ServerPlan,
}

impl Server {
    pub(crate) fn start(database_url: Option<&str>) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let mut plan = ServerPlan::new(folder.path())?.with(&["--connections", CONNECTIONS]);
        if let Some(url) = database_url {
            plan = plan.on_database(url);
        }
        let server = plan.start()?;
        let operator = Operator::in_folder(folder.path())?.with_config(&folder.path().join("config"));
        let token = plan.data.join("keys/admin.token").to_string_lossy().into_owned();
        operator.run(&["login", &plan.url(), "--token-file", &token])?;
        operator.with_pass(&["keys", "init", "trust"])?;
        operator.with_pass(&["server", "adopt", "--reason", "bench"])?;
        Ok(Self { folder, server: Some(server), plan })
    }

    /// Runs a crowd beside the server. The same gateways come each time.
    pub(crate) fn measure(&mut self, kind: Kind, devices: u64, seconds: u64) -> Outcome<Figures> {
        let load_before = load();
        let output = self.folder.path().join("summary.json");
        let mut crowd = self.crowd(kind, devices, seconds, &output)?;
        let began = self.wait_begun(&mut crowd)?;
        let server = self.server.as_ref().ok_or_else(|| Failure::new("there is no server"))?;
        let (mut pid, generator) = (server.pid(), crowd.id());
        let mut spent = Duration::ZERO;
        let (mut server_before, generator_before) = (processor_time(pid)?, processor_time(generator)?);
        let (mut generator_time, mut resident, mut restarted) = (Duration::ZERO, 0, kind != Kind::Default);
        let mut watched = Duration::ZERO;
        while crowd.try_wait()?.is_none() {
            resident = resident.max(resident_bytes(pid).unwrap_or(0));
            if let Ok(time) = processor_time(generator) {
                (generator_time, watched) = (time.saturating_sub(generator_before), began.elapsed());
            }
            if !restarted && began.elapsed() >= RESTART_AFTER {
                restarted = true;
                spent += processor_time(pid)?.saturating_sub(server_before);
                if let Some(mut server) = self.server.take() {
                    server.kill();
                }
                let server = self.plan.start()?;
                (pid, server_before) = (server.pid(), Duration::ZERO);
                self.server = Some(server);
            }
            pause(Duration::from_millis(200));
        }
        spent += processor_time(pid)?.saturating_sub(server_before);
        let raw = std::fs::read(&output)?;
        let summary = serde_json::from_slice(&raw).map_err(|_| {
            Failure::new(format!("no summary: {}", std::fs::read_to_string(self.notes()).unwrap_or_default()))
        })?;
        let watched = watched.as_secs_f64().max(1e-9);
        Ok(Figures {
            summary,
            resident_bytes: resident,
            server_cores: spent.as_secs_f64() / watched,
            generator_cores: generator_time.as_secs_f64() / watched,
            load_before,
        })
    }

    fn notes(&self) -> PathBuf {
        self.folder.path().join("notes")
    }

    fn crowd(&self, kind: Kind, devices: u64, seconds: u64, output: &PathBuf) -> Outcome<Child> {
        let mut command = Command::new(owner_program()?);
        command.args(["simulate", "-o", "json", "--seed", "1", "--predictions-per-hour", "60"]);
        command.args(["--devices", &devices.to_string(), "--for", &format!("{seconds}s")]);
        match kind {
            Kind::Saturation => command.args(["--exchange-interval", "0s"]),
            Kind::Paced { interval_ms } => command.args(["--exchange-interval", &format!("{interval_ms}ms")]),
            Kind::Metered { interval_ms } => {
                command.args(["--metered", "--exchange-interval", &format!("{interval_ms}ms")])
            }
            Kind::Default => &mut command,
        };
        command.env("XDG_CONFIG_HOME", self.folder.path().join("config")).stdin(Stdio::null());
        command.stdout(std::fs::File::create(output)?).stderr(std::fs::File::create(self.notes())?);
        command.spawn().map_err(Failure::of("start dunlin"))
    }

    /// Waits until all gateways are in.
    fn wait_begun(&self, crowd: &mut Child) -> Outcome<Instant> {
        loop {
            let notes = std::fs::read_to_string(self.notes()).unwrap_or_default();
            if notes.contains("the time begins") {
                return Ok(Instant::now());
            }
            if crowd.try_wait()?.is_some() {
                return Err(Failure::new(format!("`dunlin simulate` ended: {notes}")));
            }
            pause(Duration::from_millis(50));
        }
    }
}

fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}
