//! The daemon itself against a running fleet server: enrolment, assignments, withdrawals, and networks that fail.
//!
//! Real processes over real sockets; what the daemon holds is asked of its own commands, what the server holds of its store.

mod deltas;
mod link;
mod networks;

use dunlin_e2e::daemon::{Daemon, DaemonPlan};
use dunlin_e2e::fleet_owner::ApprovedRelease;
use dunlin_e2e::package::{linked_lab, write};
use dunlin_e2e::releases::write_release;
use dunlin_e2e::wait::wait_for;
use dunlin_e2e::{Failure, Outcome, onnx};
use dunlin_fleet::store::desired::{self, Withdrawn};
use dunlin_fleet::store::{StoreError, devices};
use dunlin_protocol::{DeviceId, DeviceReport};
use serde_json::Value;

use crate::trust::Site;

/// A gateway whose daemon runs, or did.
struct Gateway {
    folder: tempfile::TempDir,
    plan: DaemonPlan,
}

impl Gateway {
    /// Writes the configuration of a gateway with a token; `url` is where it finds the server, where that is not what the
    /// token says.
    fn new(site: &Site, url: Option<&str>) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("dunlind.toml");
        write(&config, linked_lab(0, "labels = { hall = \"3\" }\n").as_bytes())?;
        let token = site.running.token(1, dunlin_fleet::fleet::now_ms() + 3_600_000)?;
        write(&folder.path().join("fleet.token"), token.to_text().as_bytes())?;
        let mut plan = DaemonPlan::new(&config, folder.path());
        if let Some(url) = url {
            plan = plan.set("fleet.url", url);
        }
        Ok(Self { folder, plan })
    }

    fn start(&self) -> Outcome<Daemon> {
        let mut daemon = self.plan.start()?;
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Starts the daemon and waits until the server has answered it; returns the gateway's id too.
    fn start_linked(&self) -> Outcome<(Daemon, DeviceId)> {
        let mut daemon = self.start()?;
        let status =
            daemon.wait_status("the server has answered", |status| status["fleet"]["state"] == "active")?;
        let id = status["fleet"]["device"].as_str().and_then(|id| id.parse().ok());
        Ok((daemon, id.ok_or_else(|| Failure::new(status.to_string()))?))
    }

    fn wait_good(&self, counter: u64) -> Outcome<Value> {
        let what = format!("release {counter} is good");
        self.plan.wait_model("double", &what, |model| {
            model["active"]["counter"] == counter && model["candidate"].is_null()
        })
    }
}

/// Approves and publishes release `number` of the model `double`, with golden vectors.
fn publish(site: &mut Site, number: u64) -> Outcome<ApprovedRelease> {
    publish_model(site, number, &onnx::doubling())
}

/// Approves and publishes release `number` of the model `double` with this graph.
fn publish_model(site: &mut Site, number: u64, model: &[u8]) -> Outcome<ApprovedRelease> {
    let config = site.folder.path().join("dunlind.toml");
    write(&config, linked_lab(0, "labels = { hall = \"3\" }\n").as_bytes())?;
    write_release(site.folder.path(), number, model)?;
    let release = site.owner.approve_package(&site.folder.path().join(format!("double-{number}")))?;
    site.publish()?;
    Ok(release)
}

fn wake(site: &Site, id: DeviceId) -> Outcome<()> {
    site.running.on_fleet(async |fleet| {
        fleet.waiters.wake(id);
        Ok::<_, StoreError>(())
    })
}

fn assign(site: &Site, id: DeviceId, release: &ApprovedRelease) -> Outcome<()> {
    let (name, digest) = (id.to_string(), release.digest.to_string());
    site.running
        .write(move |sql| desired::assign(sql, &name, &digest, "rol-1", dunlin_fleet::fleet::now_ms()))?;
    wake(site, id)
}

fn withdraw(site: &Site, id: DeviceId, release: &ApprovedRelease) -> Outcome<()> {
    let name = id.to_string();
    let withdrawn = Withdrawn {
        model: "double".to_owned(),
        digest: release.digest.to_string(),
        rollout: "rol-1".to_owned(),
        reason: "halted by its gate".to_owned(),
    };
    site.running
        .write(move |sql| desired::withdraw(sql, &name, &withdrawn, dunlin_fleet::fleet::now_ms()))?;
    wake(site, id)
}

/// Waits until the report that the server has of a gateway satisfies a condition.
fn wait_report(
    site: &Site,
    id: DeviceId,
    what: &str,
    condition: impl Fn(&DeviceReport) -> bool,
) -> Outcome<DeviceReport> {
    wait_for(what, dunlin_e2e::daemon::CHANGE_MAX, || {
        let name = id.to_string();
        let device = site.running.write(move |sql| devices::get(sql, &name))?;
        let report = device.and_then(|device| device.report);
        let report: Option<DeviceReport> = report.map(|(text, _)| serde_json::from_str(&text)).transpose()?;
        Ok(report.filter(|report| condition(report)))
    })
}
