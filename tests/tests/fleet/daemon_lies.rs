//! The daemon against a server that holds the online key and lies: each lie is refused by its name, what runs stays, and
//! the truth after it is taken.
//!
//! What the daemon says of a lie is read where the server reads it: in its report.

use std::time::Duration;

use dunlin_e2e::daemon::{CHANGE_MAX, Daemon, DaemonPlan, peak_bytes};
use dunlin_e2e::fleet_owner::{ApprovedRelease, FleetOwner};
use dunlin_e2e::lying_server::{Lie, LyingServer};
use dunlin_e2e::package::{linked_lab, write};
use dunlin_e2e::releases::write_release;
use dunlin_e2e::wait::{wait_for, wait_until};
use dunlin_e2e::{Outcome, onnx};
use dunlin_protocol::text::Url;
use dunlin_protocol::token::TokenClaim;
use dunlin_protocol::{Digest, EnrolmentToken, TokenId};
use tempfile::TempDir;

/// Longest wait for a transfer to be found too slow: the speed is judged over half a minute.
const SLOW_MAX: Duration = Duration::from_secs(120);

/// More than a gateway takes for anything, and less than what lies grow to.
const MEMORY_MAX: u64 = 256 << 20;

/// A lying server, its owner, and a gateway that believed it.
struct Lair {
    server: LyingServer,
    owner: FleetOwner,
    releases: Vec<ApprovedRelease>,
    folder: TempDir,
    plan: DaemonPlan,
    daemon: Daemon,
}

impl Lair {
    /// Returns one whose gateway runs the second of two releases, which it was told truly.
    fn new() -> Outcome<Self> {
        let (folder, server) = (tempfile::tempdir()?, LyingServer::start()?);
        let mut owner = FleetOwner::of(&server.online())?;
        owner.renew_director(&server.online());
        server.serve(&owner)?;
        let config = folder.path().join("dunlind.toml");
        write(&config, linked_lab(0, "").as_bytes())?;
        let claim = TokenClaim {
            server_url: Url::new(server.url()).unwrap(),
            root: Digest::of(owner.first_root()),
            root_version: 1,
            group: None,
            expires_s: 4_000_000_000,
            uses: 1,
            token: TokenId::new(1, [1; 10]),
        };
        let token = EnrolmentToken::new(claim, [6; 32]).to_text();
        write(&folder.path().join("fleet.token"), token.as_bytes())?;
        let plan = DaemonPlan::new(&config, folder.path());
        let mut daemon = plan.start()?;
        daemon.wait_ready()?;
        let mut lair = Self { server, owner, releases: Vec::new(), folder, plan, daemon };
        for _ in 0..2 {
            lair.approve()?;
            lair.server.serve(&lair.owner)?;
            lair.tell_newest();
            lair.wait_newest()?;
        }
        Ok(lair)
    }

    /// Approves the next release; the server does not know yet.
    fn approve(&mut self) -> Outcome<()> {
        let number = self.releases.len() as u64 + 1;
        write_release(self.folder.path(), number, &onnx::doubling())?;
        let package = self.folder.path().join(format!("double-{number}"));
        self.releases.push(self.owner.approve_package(&package)?);
        Ok(())
    }

    fn tell_newest(&self) {
        self.server.tell(&self.releases[self.releases.len() - 1..]);
    }

    /// Waits until the newest release is good, and the server was told that its statement is taken.
    fn wait_newest(&self) -> Outcome<()> {
        let number = self.releases.len();
        let what = format!("release {number} is good");
        let is_good =
            |model: &serde_json::Value| model["active"]["counter"] == number && model["candidate"].is_null();
        self.plan.wait_model("double", &what, is_good)?;
        wait_until("the gateway says what it took", CHANGE_MAX, || self.server.is_heard())
    }

    /// Returns the codes of the newest report that came in full.
    fn codes(&self) -> Vec<String> {
        let questions = self.server.questions();
        let report = questions.into_iter().rev().find_map(|question| question.report.full);
        report
            .into_iter()
            .flat_map(|report| report.refused.to_vec())
            .map(|refused| refused.code.to_string())
            .collect()
    }

    /// Lies once, and tells the truth after it.
    fn require_refused(&mut self, lie: Lie, limit: Duration) -> Outcome<()> {
        let (active, before) = (self.releases.len(), self.server.questions().len());
        self.approve()?;
        // An older repository is one that the gateway is ahead of.
        if lie != Lie::OlderImage {
            self.server.serve(&self.owner)?;
        }
        self.server.lie(Some(lie));
        if lie == Lie::OlderRelease {
            self.server.tell(&self.releases[..1]);
        } else {
            self.tell_newest();
        }
        match lie.code() {
            Some(code) => {
                let what = format!("{lie:?} is refused with `{code}`");
                let waited =
                    wait_for(&what, limit, || Ok(self.codes().iter().any(|c| c == code).then_some(())));
                waited.map_err(|failure| {
                    self.plan.failure(&format!("{failure}; reported: {:?}", self.codes()))
                })?;
            }
            None => {
                // Not refused but dropped: the questions go on as if no answer had come.
                wait_until(&format!("{lie:?} is passed over"), limit, || {
                    lie == Lie::CaptivePortal || self.server.questions().len() > before + 2
                })?;
                let revision = self.server.questions()[before - 1].held.desired_revision;
                let questions = self.server.questions();
                assert!(
                    questions.iter().skip(before).all(|q| q.held.desired_revision == revision),
                    "{lie:?}"
                );
            }
        }
        let model = self.plan.models()?["models"]["double"].take();
        assert_eq!(model["active"]["counter"], active, "{lie:?}: {model}");
        // The thief is gone; the owner's next changes stand above whatever he ran up.
        self.server.lie(None);
        for _ in 0..2 {
            self.approve()?;
            self.server.serve(&self.owner)?;
        }
        self.tell_newest();
        self.wait_newest()
    }
}

fn require_all_refused(lies: &[Lie]) -> Outcome<()> {
    let mut lair = Lair::new()?;
    for lie in lies {
        lair.require_refused(*lie, CHANGE_MAX)?;
    }
    let counters: Vec<u64> = lair.server.questions().iter().map(|question| question.counter.get()).collect();
    assert!(counters.is_sorted_by(|a, b| a < b), "{counters:?}");
    let most = peak_bytes(lair.daemon.pid())?;
    assert!(most < MEMORY_MAX, "{most} bytes of memory");
    Ok(())
}

const KEYS_AND_TIME: [Lie; 7] = [
    Lie::StatementOfAStranger,
    Lie::OlderStatement,
    Lie::AnswerToAnotherQuestion,
    Lie::ExpiredStatement,
    Lie::StatementOfAnotherHash,
    Lie::StatementOfAnotherDevice,
    Lie::WithdrawalsWithoutEnd,
];
const RELEASES: [Lie; 5] = [
    Lie::UnapprovedRelease,
    Lie::AnotherManifest,
    Lie::AnotherArchitecture,
    Lie::AnotherEngine,
    Lie::OlderRelease,
];
const IMAGE: [Lie; 6] = [
    Lie::TargetsByTheOnlineKey,
    Lie::OlderImage,
    Lie::ExpiredImage,
    Lie::MixedImage,
    Lie::EndlessImage,
    Lie::DirectorAsImageRoot,
];
const BLOBS: [Lie; 2] = [Lie::ChangedBlobs, Lie::EndlessBlobs];
const SLOW: Lie = Lie::SlowBlobs;
const ANSWERS: [Lie; 7] = [
    Lie::AnswerOfAnotherDevice,
    Lie::AnswerOfAnotherServer,
    Lie::AnswerToAnotherNumber,
    Lie::AnswerOfAStranger,
    Lie::BombAnswer,
    Lie::EndlessAnswer,
    Lie::CaptivePortal,
];

#[test]
fn no_lie_is_left_out() {
    let told = [&KEYS_AND_TIME[..], &RELEASES, &IMAGE, &BLOBS, &[SLOW], &ANSWERS].concat();
    assert_eq!(told.len(), Lie::ALL.len());
    assert!(Lie::ALL.iter().all(|lie| told.contains(lie)));
}

#[test]
fn lies_of_statements_about_keys_and_time_are_refused() -> Outcome<()> {
    require_all_refused(&KEYS_AND_TIME)
}

#[test]
fn lies_of_statements_about_releases_are_refused() -> Outcome<()> {
    require_all_refused(&RELEASES)
}

#[test]
fn lies_of_the_image_repository_are_refused() -> Outcome<()> {
    require_all_refused(&IMAGE)
}

#[test]
fn blobs_that_are_others_are_refused() -> Outcome<()> {
    require_all_refused(&BLOBS)
}

#[test]
fn blobs_that_come_too_slowly_are_refused() -> Outcome<()> {
    Lair::new()?.require_refused(SLOW, SLOW_MAX)
}

#[test]
fn answers_that_are_none_are_passed_over() -> Outcome<()> {
    require_all_refused(&ANSWERS)
}
