//! The daemon against a server that holds the online key and lies in every way: each lie is told by its code, and what
//! runs is untouched.

use std::time::Duration;

use dunlin_e2e::daemon::{Daemon, DaemonPlan};
use dunlin_e2e::fleet_owner::{ApprovedRelease, FleetOwner};
use dunlin_e2e::lying_server::{Lie, LyingServer};
use dunlin_e2e::package::write;
use dunlin_e2e::releases::write_release;
use dunlin_e2e::wait::wait_for;
use dunlin_e2e::{Outcome, onnx};

use super::{CONFIG, Gateway};

/// A slow transfer is judged after half a minute.
const LIE_MAX: Duration = Duration::from_secs(90);

/// A lying server, its owner, and a gateway that runs what it was told truly.
struct Lair {
    server: LyingServer,
    owner: FleetOwner,
    releases: Vec<ApprovedRelease>,
    gateway: Gateway,
    daemon: Daemon,
}

impl Lair {
    fn new() -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("dunlind.toml");
        write(&config, CONFIG.as_bytes())?;
        let server = LyingServer::start()?;
        let mut owner = FleetOwner::of(&server.online())?;
        owner.renew_director(&server.online());
        let root = folder.path().join("root.json");
        write(&root, owner.first_root())?;
        let plan = DaemonPlan::new(&config, folder.path())
            .set("fleet.url", server.url())
            .set("trust.root", root.display());
        let gateway = Gateway { folder, plan };
        server.serve(&owner)?;
        let daemon = gateway.start()?;
        let mut lair = Self { server, owner, releases: Vec::new(), gateway, daemon };
        lair.tell_the_truth()?;
        lair.tell_the_truth()?;
        Ok(lair)
    }

    /// Approves the next release.
    fn approve(&mut self) -> Outcome<u64> {
        let number = self.sign()?;
        self.server.serve(&self.owner)?;
        Ok(number)
    }

    /// Has the owner sign the next release; it is not published yet.
    fn sign(&mut self) -> Outcome<u64> {
        let (folder, number) = (self.gateway.folder.path(), self.releases.len() as u64 + 1);
        write_release(folder, number, &onnx::doubling())?;
        self.releases.push(self.owner.approve_package(&folder.join(format!("double-{number}")))?);
        Ok(number)
    }

    /// Publishes two releases at once and tells the first truly: what the gateway holds names the second already.
    fn tell_the_first_of_two(&mut self) -> Outcome<()> {
        let number = self.sign()?;
        self.approve()?;
        self.server.tell(&self.releases[self.releases.len() - 2..self.releases.len() - 1]);
        self.gateway.wait_good(number).map(drop)
    }

    /// Tells the gateway to run the next release, and waits until it does and has nothing to complain of.
    fn tell_the_truth(&mut self) -> Outcome<()> {
        let number = self.approve()?;
        self.server.tell(&self.releases[self.releases.len() - 1..]);
        self.gateway.wait_good(number)?;
        let what = "every check passes";
        let waited = wait_for(what, LIE_MAX, || {
            let models = self.gateway.plan.models()?;
            Ok(models["refused"].as_array().is_none_or(Vec::is_empty).then_some(()))
        });
        waited.map_err(|failure| self.gateway.plan.failure(&failure.to_string()))
    }

    /// Lies once, and waits until the gateway tells the lie by its name.
    fn lie(&mut self, lie: Lie) -> Outcome<()> {
        let mut good = self.releases.len() as u64;
        if lie == Lie::OlderImage {
            self.tell_the_first_of_two()?;
            good += 1;
        } else {
            self.approve()?;
        }
        self.server.lie(Some(lie));
        let told = if lie == Lie::OlderRelease { 0 } else { self.releases.len() - 1 };
        self.server.tell(&self.releases[told..=told]);
        let mut last = serde_json::Value::Null;
        let waited = wait_for(&format!("{lie:?} is told"), LIE_MAX, || {
            last = match lie.code() {
                Some(_) => self.gateway.plan.models()?["refused"].take(),
                None => self.gateway.plan.status()?.unwrap_or_default()["fleet"]["last_error"].take(),
            };
            let is_told = match lie.code() {
                Some(code) => last.as_array().is_some_and(|all| all.iter().any(|one| one["code"] == code)),
                None => last.is_string(),
            };
            Ok(is_told.then_some(()))
        });
        waited.map_err(|failure| self.gateway.plan.failure(&format!("{failure}; last said: {last}")))?;
        assert!(self.daemon.is_running(), "{lie:?}");
        let model = self.gateway.plan.models()?["models"]["double"].take();
        assert_eq!(model["active"]["counter"], good, "{lie:?}: {model}");
        self.server.lie(None);
        Ok(())
    }
}

fn tell_lies(lies: &[Lie]) -> Outcome<()> {
    let mut lair = Lair::new()?;
    for lie in lies {
        lair.lie(*lie)?;
        // The owner's next change brings everything back into order, whatever the thief ran up.
        lair.approve()?;
        lair.tell_the_truth()?;
    }
    Ok(())
}

#[test]
fn lies_in_a_statement_are_told_by_their_names_and_what_runs_is_untouched() -> Outcome<()> {
    tell_lies(&Lie::ALL[..12])
}

#[test]
fn lies_in_the_image_repository_are_told_by_their_names_and_what_runs_is_untouched() -> Outcome<()> {
    tell_lies(&Lie::ALL[12..18])
}

#[test]
fn lies_in_blobs_and_answers_are_told_by_their_names_and_what_runs_is_untouched() -> Outcome<()> {
    tell_lies(&Lie::ALL[18..])
}
