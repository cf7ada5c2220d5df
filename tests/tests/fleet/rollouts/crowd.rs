//! Simulated gateways that run releases: they do as the director's statement says, and report what became of it.
//!
//! The statement is read and not verified: whether it holds before the verifier is asked elsewhere, of few.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use dunlin_e2e::Outcome;
use dunlin_e2e::fleet_owner::ApprovedRelease;
use dunlin_protocol::exchange::{Defer, Desired, ExchangeAnswer, ExchangeRequest};
use dunlin_protocol::report::{
    BadRelease, Candidate, DeviceReport, LaneRole, ModelPhase, ModelReport, Release,
};
use dunlin_protocol::text::Text;
use dunlin_protocol::{Digest, List, Name};
use serde_json::Value;

use crate::device::Device;
use crate::rows::{losses, report};

/// How a gateway takes the new release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Good,
    FailsGolden,
    CrashesInTrial,
    Disagrees,
    /// Good, and slower than the package's budget allows.
    Slow,
    /// Good, and of a hundred predictions ten are not finite.
    Invalid,
}

/// A gateway.
#[derive(Debug, Clone)]
pub(super) struct Gateway {
    pub(super) device: Device,
    pub(super) manner: Manner,
    /// How often it was told to run a release that it was not told to run before, by digest.
    pub(super) moves: BTreeMap<Digest, u32>,
    /// How often it fetched each release.
    pub(super) fetched: BTreeMap<Digest, u32>,
    /// The revision of what it is to run.
    pub(super) revision: u64,
    /// Rows of losses that it sent and has receipts for.
    pub(super) rows: u64,
    /// Whether it sends rows.
    pub(super) sends_rows: bool,
    pub(super) defer: Option<Defer>,
    version: u64,
    known: BTreeMap<Digest, Release>,
    active: Digest,
    previous: Option<Digest>,
    candidate: Option<(Digest, u32)>,
    wanted: Option<Digest>,
    bad: Vec<BadRelease>,
    predictions: BTreeMap<Digest, u64>,
    report_known: Option<Digest>,
    waiting: Option<ExchangeRequest>,
    ticks: u64,
}

fn release(approved: &ApprovedRelease) -> Release {
    Release {
        digest: approved.digest,
        model: Name::new(approved.note.model.as_str()).unwrap(),
        version: Name::new(approved.note.version.as_str()).unwrap(),
        counter: approved.note.release_counter,
    }
}

impl Gateway {
    pub(super) fn new(device: Device, old: &ApprovedRelease, new: &ApprovedRelease) -> Self {
        Self {
            device,
            manner: Manner::Good,
            moves: BTreeMap::new(),
            fetched: BTreeMap::new(),
            revision: 0,
            rows: 0,
            sends_rows: false,
            defer: None,
            version: 0,
            known: [(old.digest, release(old)), (new.digest, release(new))].into(),
            active: old.digest,
            previous: None,
            candidate: None,
            wanted: None,
            bad: Vec::new(),
            predictions: BTreeMap::new(),
            report_known: None,
            waiting: None,
            ticks: 0,
        }
    }

    pub(super) fn runs(&self) -> Digest {
        self.active
    }

    /// Knows another release, as far as a gateway knows one by its manifest.
    pub(super) fn learn(&mut self, approved: &ApprovedRelease) {
        self.known.insert(approved.digest, release(approved));
    }

    pub(super) fn turn_to(&mut self, server: SocketAddr) {
        self.device.turn_to(server);
    }

    /// Exchanges once, and does as it is told; a question without an answer is sent again next time.
    pub(super) fn live(&mut self) -> Outcome<()> {
        if !self.try_live()? {
            return Err(dunlin_e2e::Failure::new("the server does not answer"));
        }
        Ok(())
    }

    /// The same; tells whether the server answered.
    pub(super) fn try_live(&mut self) -> Outcome<bool> {
        let question = self.waiting.take().unwrap_or_else(|| self.ask());
        let answer = self.device.send(&question, 0).and_then(|reply| {
            // A server that ends, or does not have its database, answers with a problem or not at all.
            if reply.status >= 500 { Ok(None) } else { self.device.read::<ExchangeAnswer>(&reply).map(Some) }
        });
        let Ok(Some(answer)) = answer else {
            self.waiting = Some(question);
            return Ok(false);
        };
        answer.require_answer_to(&question).unwrap();
        assert!(answer.refusal.is_none(), "{answer:?}");
        self.report_known = answer.report_known;
        for receipt in answer.receipts.iter() {
            let last = receipt.ranges.iter().map(|range| range.last()).max();
            self.rows = self.rows.max(last.unwrap_or(0));
        }
        if let Some(desired) = &answer.desired {
            self.obey(desired);
        }
        self.go_on();
        Ok(true)
    }

    fn ask(&mut self) -> ExchangeRequest {
        let rows = if self.sends_rows { vec![losses(self.rows + 1, 3)] } else { Vec::new() };
        let mut question = self.device.question(rows);
        question.held.desired_revision = self.revision;
        question.held.director_version = self.version;
        question.held.director_root = u64::from(self.version > 0);
        let report = self.report();
        question.report.digest = report.digest();
        if self.report_known != Some(question.report.digest) {
            question.report.full = Some(Box::new(report));
        }
        question.health.activity = List::first_of(self.activity());
        question.defer = self.defer.clone();
        question
    }

    fn report(&self) -> DeviceReport {
        let mut report = report();
        let named = |digest: &Digest| self.known[digest].clone();
        report.facts.models = List::first_of([Name::new(super::MODEL).unwrap()]);
        report.settings.revision = 0;
        let phase = if self.candidate.is_some() { ModelPhase::Trial } else { ModelPhase::Good };
        report.models = List::first_of([ModelReport {
            model: Name::new(super::MODEL).unwrap(),
            phase,
            since_ms: None,
            serving: Some(named(&self.active)),
            active: Some(named(&self.active)),
            previous: self.previous.as_ref().map(named),
            candidate: self.candidate.as_ref().map(|(digest, tries)| Candidate {
                release: named(digest),
                phase: ModelPhase::Trial,
                tries_used: *tries,
                tries_left: None,
            }),
            floor: 0,
            lanes: List::default(),
            bad: List::first_of(self.bad.clone()),
            last: None,
        }]);
        report
    }

    fn activity(&self) -> Vec<dunlin_protocol::health::Activity> {
        let activity = |(digest, predictions): (&Digest, &u64)| {
            let is_new = self.known[digest].counter > 1;
            let is_slow = is_new && self.manner == Manner::Slow;
            let invalid = if is_new && self.manner == Manner::Invalid { predictions / 10 } else { 0 };
            dunlin_protocol::health::Activity {
                model: Name::new(super::MODEL).unwrap(),
                role: LaneRole::Serving,
                release: *digest,
                counts: dunlin_protocol::health::Counts {
                    predictions: *predictions,
                    invalid,
                    worker_starts: 1,
                    ..Default::default()
                },
                latency: dunlin_protocol::health::Latency {
                    count: *predictions,
                    p50_us: 80,
                    p99_us: if is_slow { 900 } else { 100 },
                },
            }
        };
        self.predictions.iter().map(activity).collect()
    }

    /// Reads a statement: what to run, and what to leave.
    fn obey(&mut self, desired: &Desired) {
        let statement: Value = serde_json::from_slice(desired.director.targets.as_bytes()).unwrap();
        let signed = &statement["signed"];
        self.revision = desired.revision;
        self.version = signed["version"].as_u64().unwrap();
        let targets = signed["targets"].as_object().unwrap();
        let of_model = targets.values().find(|target| target["custom"]["slot"] == super::MODEL);
        let wanted = of_model.and_then(|target| target["hashes"]["sha256"].as_str()?.parse().ok());
        if let Some(digest) = wanted.filter(|digest| self.wanted != Some(*digest)) {
            *self.moves.entry(digest).or_default() += 1;
        }
        self.wanted = wanted;
        for note in signed["custom"]["withdrawn"].as_array().into_iter().flatten() {
            let digest: Digest = note["digest"].as_str().unwrap().parse().unwrap();
            if self.candidate.is_some_and(|(candidate, _)| candidate == digest) {
                self.candidate = None;
            }
            if self.active == digest
                && let Some(previous) = self.previous.take()
            {
                // Back without a download: the good one before is still here.
                self.active = previous;
            }
        }
    }

    /// Goes on with what it runs and tries.
    fn go_on(&mut self) {
        self.ticks += 1;
        *self.predictions.entry(self.active).or_default() += 20;
        let is_bad = |digest: &Digest| self.bad.iter().any(|bad| bad.release.digest == *digest);
        if let Some(wanted) = self.wanted
            && wanted != self.active
            && self.candidate.is_none()
            && !is_bad(&wanted)
        {
            *self.fetched.entry(wanted).or_default() += 1;
            self.candidate = Some((wanted, 0));
            return;
        }
        let Some((digest, tries)) = &mut self.candidate else { return };
        *tries += 1;
        let cause = match self.manner {
            Manner::FailsGolden => Some("selftest:golden"),
            Manner::CrashesInTrial => Some("rolled_back:crash"),
            Manner::Disagrees => Some("selftest:shadow"),
            Manner::Good | Manner::Slow | Manner::Invalid => None,
        };
        if *tries < 2 {
            return;
        }
        let digest = *digest;
        self.candidate = None;
        match cause {
            Some(code) => self.bad.push(BadRelease {
                release: self.known[&digest].clone(),
                code: Text::new(code).unwrap(),
                detail: Text::default(),
                at_ms: i64::try_from(self.ticks).ok(),
            }),
            None => self.previous = Some(std::mem::replace(&mut self.active, digest)),
        }
    }

    /// Forgets that releases failed, as somebody does on the gateway to have them tried again.
    pub(super) fn forget_failures(&mut self) {
        self.bad.clear();
    }
}
