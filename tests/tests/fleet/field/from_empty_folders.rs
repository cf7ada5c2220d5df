//! What the guide says, from empty folders to a release on every gateway, with the real programs: an owner with keys, a
//! server, three gateways that enrol by a token, a package published and rolled out from one gateway to all.

use std::path::Path;

use dunlin_e2e::daemon::{Daemon, DaemonPlan};
use dunlin_e2e::fleet_server::{FleetServer, ServerPlan};
use dunlin_e2e::operator::Operator;
use dunlin_e2e::package::{linked_lab, write};
use dunlin_e2e::releases::write_release;
use dunlin_e2e::{Failure, Outcome, onnx};
use dunlin_model_package::Digest;
use serde_json::Value;
use tempfile::TempDir;

/// Everything that a small site has.
struct Site {
    folder: TempDir,
    operator: Operator,
    server: FleetServer,
    gateways: Vec<(DaemonPlan, Daemon)>,
}

impl Site {
    /// Founds keys and server, and enrols gateways by one token.
    fn found(gateways: usize) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let server = ServerPlan::new(folder.path())?.start()?;
        let config = folder.path().join("config");
        let operator = Operator::in_folder(folder.path())?.with_config(&config);
        let token = server.plan().data.join("keys/admin.token").to_string_lossy().into_owned();
        operator.run(&["login", &server.url(), "--token-file", &token])?;
        operator.with_pass(&["keys", "init", "trust"])?;
        operator.with_pass(&["server", "adopt", "--reason", "first"])?;
        let uses = gateways.to_string();
        operator.run(&[
            "enrolment-tokens",
            "new",
            "--uses",
            &uses,
            "--label",
            "site=lab",
            "--to",
            "fleet.token",
        ])?;
        let mut site = Self { folder, operator, server, gateways: Vec::new() };
        for number in 0..gateways {
            let gateway = site.enrol(number)?;
            site.gateways.push(gateway);
        }
        Ok(site)
    }

    fn enrol(&self, number: usize) -> Outcome<(DaemonPlan, Daemon)> {
        let folder = self.folder.path().join(format!("gateway-{number}"));
        std::fs::create_dir(&folder)?;
        write(&folder.join("dunlind.toml"), linked_lab(0, "").as_bytes())?;
        let token = folder.join("fleet.token");
        let text = std::fs::read(self.folder.path().join("fleet.token"))?;
        dunlin_kit::atomic_file::write_from(&token, &mut text.as_slice(), 0o600)?;
        let plan = DaemonPlan::new(&folder.join("dunlind.toml"), &folder);
        let mut daemon = plan.start()?;
        daemon.wait_ready()?;
        Ok((plan, daemon))
    }

    /// Signs and publishes a release; returns its digest.
    fn publish(&self, number: u64, model: &[u8]) -> Outcome<String> {
        write(&self.folder.path().join("dunlind.toml"), linked_lab(0, "").as_bytes())?;
        write_release(self.folder.path(), number, model)?;
        let package = self.folder.path().join(format!("double-{number}"));
        self.operator.with_pass(&["sign", path(&package)])?;
        self.operator.run(&["publish"])?;
        Ok(Digest::of(&std::fs::read(package.join("manifest.json"))?).to_string())
    }

    fn wait_for_gateways(&self) -> Outcome<()> {
        dunlin_e2e::wait::wait_for("all gateways report", dunlin_e2e::daemon::CHANGE_MAX, || {
            let listed: Value =
                serde_json::from_str(&self.operator.run(&["devices", "list", "-o", "json"])?)?;
            let reporting = listed.as_array().into_iter().flatten();
            let reporting =
                reporting.filter(|one| one["models"].as_array().is_some_and(|models| !models.is_empty()));
            Ok((reporting.count() == self.gateways.len()).then_some(()))
        })
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

#[test]
fn a_package_reaches_three_new_gateways_from_one_to_all() -> Outcome<()> {
    let site = Site::found(3)?;
    site.wait_for_gateways()?;
    let digest = site.publish(1, &onnx::doubling())?;
    let plan = site.operator.run(&["rollout", "plan", "double", "--query", "site=lab"])?;
    assert!(plan.contains("3 gateways"), "{plan}");
    let options = ["--query", "site=lab", "--phases", "1,100%", "--bake", "1s", "--bake-predictions", "0"];
    let start =
        [&["rollout", "start", "double@1.0.0", "--reason", "first release", "--wait"], &options[..]].concat();
    let said = site.operator.run(&start).map_err(|failure| site.failure(&failure))?;
    assert!(said.contains("completed: phase 2 of 2"), "{said}");
    let listed: Value = serde_json::from_str(&site.operator.run(&["devices", "list", "-o", "json"])?)?;
    let listed = listed.as_array().cloned().unwrap_or_default();
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().all(|one| one["models"][0]["digest"] == digest.as_str()), "{listed:?}");
    for (plan, _) in &site.gateways {
        let model =
            plan.wait_model("double", "the release is good", |model| model["active"]["counter"] == 1)?;
        assert_eq!(model["active"]["digest"], digest.as_str(), "{model}");
    }
    site.operator.run(&["audit", "verify"])?;
    Ok(())
}

impl Site {
    fn failure(&self, failure: &Failure) -> Failure {
        let logs: Vec<String> =
            self.gateways.iter().map(|(_, daemon)| daemon.failure("gateway").to_string()).collect();
        Failure::new(format!("{failure}\n{}\n{}", self.server.failure("server"), logs.join("\n")))
    }
}
