//! The gateway's report: its releases, what was refused, its settings, room and clock.
//!
//! Made of what `dunlind models` shows, so that people and server see the same. Holds no figure that changes by itself.

use dunlin_kit::clock;
use dunlin_protocol::report as wire;
use dunlin_protocol::report::{Budget, ClockState, DeviceReport, Disk, ModelPhase, Refused, SettingsReport};
use dunlin_protocol::text::Code;
use dunlin_protocol::{List, Words};
use jiff::Timestamp;

use super::facts::{facts_of, is_synchronised, labels_of, name};
use super::settings::LinkSettings;
use crate::store::reserve::Space;
use crate::update::release::Release;
use crate::update::report::{
    BadReport, CandidateReport, LaneReport, ModelReport, ModelsReport, RefusedReport,
};

/// Returns the report; `of_server` says what became of the server's settings, `budget` what the data budget leaves out.
#[must_use]
pub fn device_report(
    settings: &LinkSettings,
    models: &ModelsReport,
    of_server: SettingsReport,
    budget: Budget,
) -> DeviceReport {
    let clock = match (is_synchronised(), clock::is_plausible(clock::wall_micros())) {
        (true, _) => ClockState::Synchronised,
        (false, true) => ClockState::Free,
        (false, false) => ClockState::Unset,
    };
    DeviceReport {
        facts: facts_of(settings),
        labels: labels_of(settings),
        time_zone: name(&time_zone()),
        settings: of_server,
        models: List::first_of(models.models.iter().map(|(model, report)| model_report(model, report))),
        safe_mode: models.safe_mode,
        state_lost: models.state_lost.as_deref().map(Words::cut),
        refused: List::first_of(models.refused.iter().map(refused)),
        budget,
        disk: Disk { total_bytes: Space::of(&settings.state_dir).total, quota_bytes: settings.quota_bytes },
        clock,
    }
}

/// Returns the system's time zone as the IANA names it; empty where it is none of theirs.
fn time_zone() -> String {
    let link = std::fs::read_link("/etc/localtime").unwrap_or_default();
    let path = link.to_string_lossy();
    path.split_once("zoneinfo/").map(|(_, zone)| zone.to_owned()).unwrap_or_default()
}

fn model_report(model: &str, report: &ModelReport) -> wire::ModelReport {
    wire::ModelReport {
        model: name(model),
        phase: phase(&report.phase),
        since_ms: report.since.as_deref().and_then(unix_ms),
        serving: report.serving.as_ref().map(release),
        active: report.active.as_ref().map(release),
        previous: report.previous.as_ref().map(release),
        candidate: report.candidate.as_ref().map(candidate),
        floor: report.floor,
        lanes: List::first_of(report.lanes.iter().map(lane)),
        bad: List::first_of(report.bad.iter().rev().map(bad)),
        last: report.last.as_deref().map(Words::cut),
    }
}

fn candidate(candidate: &CandidateReport) -> wire::Candidate {
    wire::Candidate {
        release: release(&candidate.release),
        phase: phase(&candidate.phase),
        tries_used: candidate.tries_used,
        tries_left: candidate.tries_left,
    }
}

fn lane(lane: &LaneReport) -> wire::Lane {
    wire::Lane { role: role(&lane.role), release: release(&lane.release) }
}

fn bad(bad: &BadReport) -> wire::BadRelease {
    wire::BadRelease {
        release: release(&bad.release),
        code: Code::cut(&bad.code),
        detail: Words::cut(&bad.detail),
        at_ms: bad.at.as_deref().and_then(unix_ms),
    }
}

fn refused(refused: &RefusedReport) -> Refused {
    Refused {
        check: name(&refused.check),
        code: Code::cut(&refused.code),
        object: Words::cut(&refused.object),
        reason: Words::cut(&refused.reason),
        at_ms: refused.at.as_deref().and_then(unix_ms),
    }
}

fn release(release: &Release) -> wire::Release {
    wire::Release {
        digest: release.digest,
        model: name(&release.model),
        version: name(&release.version),
        counter: release.counter,
    }
}

/// Returns the role of a lane.
pub(super) fn role(role: &str) -> wire::LaneRole {
    wire::LaneRole::from(Code::cut(role))
}

fn phase(phase: &str) -> ModelPhase {
    ModelPhase::from(Code::cut(phase))
}

fn unix_ms(time: &str) -> Option<i64> {
    time.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}
