//! One of each message, made of fixed keys and numbers, so that the golden files can be made again.
//!
//! Every member that can be there is there once. Never changed: a message with more members gets a name of its own.

use dunlin_protocol::batch::{
    Batch, EventRow, Events, Instance, LabelRow, LabelSubject, Labels, LossRow, Losses, PredictionRow,
    Predictions, Severity, StatisticRow, Statistics, Stream, quality,
};
use dunlin_protocol::enrolment::{DeviceState, EnrollAnswer, EnrollRequest, Facts};
use dunlin_protocol::exchange::{
    Ask, Clock, Defer, Desired, DirectorFiles, ExchangeAnswer, ExchangeRequest, Held, Receipt, Rejected,
    ReportPart, SettingsOffer, Share,
};
use dunlin_protocol::health::{Activity, Counts, Health, Latency, Purpose, Spent, Transfer, Waiting};
use dunlin_protocol::refusal::{Refusal, RefusalCode};
use dunlin_protocol::report::{
    BadRelease, Budget, Candidate, ClockState, DeviceReport, Disk, Lane, LaneRole, ModelPhase, ModelReport,
    Refused, Release, SettingsReport, SettingsState,
};
use dunlin_protocol::results::{Results, ResultsAnswer};
use dunlin_protocol::text::{MetadataText, TargetPath, Text, Url, Words};
use dunlin_protocol::token::TokenClaim;
use dunlin_protocol::{
    Counter, DeviceId, Digest, EnrolmentToken, Incarnation, List, Map, Name, Nonce, PublicKey, Range, Ranges,
    RolloutId, ServerId, StartId, TokenId,
};
use ed25519_dalek::{Signer as _, SigningKey};

/// 2026-01-01T00:00:00Z.
pub(crate) const NOW_MS: u64 = 1_767_225_600_000;
const NOW_US: i64 = NOW_MS as i64 * 1_000;

pub(crate) fn device_key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

pub(crate) fn server_key() -> SigningKey {
    SigningKey::from_bytes(&[2; 32])
}

pub(crate) fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(key.verifying_key().as_bytes()).unwrap()
}

pub(crate) fn signing(key: &SigningKey) -> impl Fn(&[u8]) -> [u8; 64] + '_ {
    |message| key.sign(message).to_bytes()
}

pub(crate) fn device() -> DeviceId {
    DeviceId::of(&public(&device_key()))
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn words(text: &str) -> Words {
    Words::new(text).unwrap()
}

fn code<const MAX: usize>(text: &str) -> Text<MAX> {
    Text::new(text).unwrap()
}

fn server() -> ServerId {
    ServerId::new(NOW_MS, [3; 10])
}

fn rollout() -> RolloutId {
    RolloutId::new(NOW_MS, [4; 10])
}

fn labels() -> Map<64> {
    let mut labels = Map::default();
    labels.insert(name("site"), name("plant-1")).unwrap();
    labels.insert(name("line"), name("press")).unwrap();
    labels
}

fn range(first: u64, last: u64) -> Range {
    Range::new(first, last).unwrap()
}

pub(crate) fn token() -> EnrolmentToken {
    let claim = TokenClaim {
        server_url: Url::new("https://fleet.example").unwrap(),
        root: Digest::of(b"root"),
        root_version: 1,
        group: Some(name("plant-1")),
        expires_s: NOW_MS / 1_000 + 86_400,
        uses: 20,
        token: TokenId::new(NOW_MS, [5; 10]),
    };
    EnrolmentToken::new(claim, [6; 32])
}

fn facts() -> Facts {
    Facts {
        gateway: name("press-gateway"),
        hostname: name("gw-17"),
        architecture: name("aarch64"),
        board: name("Raspberry Pi 4 Model B Rev 1.4"),
        board_class: name("pi4"),
        os: name("Debian GNU/Linux 12"),
        agent: name("dunlind"),
        agent_version: name("0.1.0"),
        engine: name("tract-0.23"),
        processors: 4,
        memory_bytes: 4 << 30,
        protocols: List::first_of([1]),
        models: List::first_of([name("frost")]),
    }
}

pub(crate) fn enroll_request() -> EnrollRequest {
    EnrollRequest {
        key: public(&device_key()),
        facts: facts(),
        labels: labels(),
        server_url: Url::new("https://fleet.example").unwrap(),
        root: Digest::of(b"root"),
        token: Some(token().claim().token),
        nonce: Nonce::from_bytes([7; 16]),
        previous: Some(Incarnation::from_bytes([8; 16])),
    }
}

pub(crate) fn enroll_answer() -> EnrollAnswer {
    EnrollAnswer {
        device: device(),
        server: server(),
        nonce: Nonce::from_bytes([7; 16]),
        server_time_ms: NOW_MS,
        state: DeviceState::Active,
        incarnation: Some(Incarnation::from_bytes([9; 16])),
        labels: labels(),
        next_ms: 1_500,
        refusal: None,
    }
}

pub(crate) fn enroll_refused() -> EnrollAnswer {
    let refusal =
        Refusal { code: RefusalCode::Token, words: words("the token ended yesterday"), highest: None };
    EnrollAnswer {
        state: DeviceState::Pending,
        incarnation: None,
        labels: Map::default(),
        next_ms: 3_600_000,
        refusal: Some(refusal),
        ..enroll_answer()
    }
}

fn release(counter: u64) -> Release {
    Release {
        digest: Digest::of(&counter.to_le_bytes()),
        model: name("frost"),
        version: name(&format!("1.{counter}.0")),
        counter,
    }
}

pub(crate) fn report() -> DeviceReport {
    let model = ModelReport {
        model: name("frost"),
        phase: ModelPhase::Shadow,
        since_ms: Some(NOW_MS as i64 - 60_000),
        serving: Some(release(4)),
        active: Some(release(4)),
        previous: Some(release(3)),
        candidate: Some(Candidate {
            release: release(6),
            phase: ModelPhase::Shadow,
            tries_used: 1,
            tries_left: Some(2),
        }),
        floor: 4,
        lanes: List::first_of([
            Lane { role: LaneRole::Serving, release: release(4) },
            Lane { role: LaneRole::Shadow, release: release(6) },
        ]),
        bad: List::first_of([BadRelease {
            release: release(5),
            code: code("selftest:golden"),
            detail: words("prediction 3 is 0.5 where 0.25 was recorded"),
            at_ms: Some(NOW_MS as i64 - 120_000),
        }]),
        last: Some(words("frost 1.6.0 (release 6) runs beside frost 1.4.0 (release 4)")),
    };
    DeviceReport {
        facts: facts(),
        labels: labels(),
        time_zone: name("Europe/Vienna"),
        settings: SettingsReport {
            digest: Digest::of(b"settings"),
            revision: 3,
            state: SettingsState::Reverted,
            detail: Some(words("the broker could not be reached with them")),
        },
        models: List::first_of([model]),
        safe_mode: false,
        state_lost: Some(words("`state.db` cannot be read")),
        refused: List::first_of([Refused {
            check: name("director"),
            code: code("freeze_suspected"),
            object: words("director/targets.json"),
            reason: words("expired"),
            at_ms: Some(NOW_MS as i64),
        }]),
        budget: Budget { monthly_bytes: Some(1 << 20), first_day: 1, step: 2, interval_s: 0 },
        disk: Disk { total_bytes: 16 << 30, quota_bytes: 1 << 30 },
        clock: ClockState::Synchronised,
    }
}

fn health() -> Health {
    let counts = Counts {
        predictions: 1_200,
        invalid: 1,
        failed: 2,
        slow: 3,
        abstained: 4,
        compared: 600,
        agreed: 599,
        difference_max: 0.125,
        worker_starts: 1,
    };
    Health {
        uptime_s: 86_400,
        memory_available_bytes: 1 << 30,
        resident_bytes: 40 << 20,
        load: Some(0.25),
        temperature_c: Some(51.5),
        disk_free_bytes: 8 << 30,
        store_bytes: 100 << 20,
        written_bytes: 1 << 36,
        brokers: 1,
        brokers_connected: 1,
        messages: 10_000,
        readings: 9_990,
        refused: 10,
        predictions: 1_200,
        activity: List::first_of([Activity {
            model: name("frost"),
            role: LaneRole::Shadow,
            release: release(6).digest,
            counts,
            latency: Latency { count: 1_200, p50_us: 900, p99_us: 2_100 },
        }]),
        waiting: List::first_of([Waiting {
            stream: Stream::Predictions,
            rows: 3,
            next: 1_204,
            oldest_us: Some(NOW_US - 3_000_000),
        }]),
        transfers: List::first_of([Transfer {
            release: release(6).digest,
            fetched_bytes: 1_000,
            total_bytes: 4_000,
        }]),
        spent: List::first_of([Spent {
            purpose: Purpose::Exchange,
            sent_bytes: 7_000,
            received_bytes: 3_000,
        }]),
    }
}

pub(crate) fn instance() -> Instance {
    Instance {
        model: name("frost"),
        version: name("1.4.0"),
        package: release(4).digest,
        key: List::first_of([(name("room"), Text::new("cellar").unwrap())]),
        outputs: List::first_of([(name("probability"), 2)]),
        labels: List::first_of([name("dry"), name("frost")]),
    }
}

pub(crate) fn predictions() -> Predictions {
    let mut predictions = Predictions::default();
    let cellar = predictions.add_instance(instance()).unwrap();
    let rows: [(i64, u32, Option<u32>, &[f32]); 3] = [
        (0, 0, Some(1), &[0.25, 0.75]),
        (1_000_000, quality::INFERENCE_FAILED, None, &[]),
        (2_000_000, quality::HELD_VALUE | quality::SHADOW, Some(0), &[0.9, 0.1]),
    ];
    for (offset, flags, label, outputs) in rows {
        let row = PredictionRow { instance: cellar, window_end_us: NOW_US + offset, flags, label, outputs };
        predictions.push(&row).unwrap();
    }
    predictions
}

pub(crate) fn events() -> Events {
    let mut events = Events::default();
    for (at_us, kind, object, words) in [
        (NOW_US, "alert_raised", "frost", "label `frost` for 3 predictions"),
        (NOW_US + 5, "restart", "", ""),
    ] {
        events.push(&EventRow { at_us, kind, severity: Severity::WARNING, object, words }).unwrap();
    }
    events
}

pub(crate) fn true_labels() -> Labels {
    let mut labels = Labels::default();
    let key = instance().key;
    let subject = labels.add_subject(LabelSubject { model: name("frost"), key }).unwrap();
    for (label, value) in [("frost", None), ("", Some(-1.5))] {
        let row = LabelRow {
            subject,
            from_us: NOW_US,
            span_us: 60_000_000,
            label,
            value,
            source: "operator",
            at_us: NOW_US + 90_000_000,
        };
        labels.push(&row).unwrap();
    }
    labels
}

pub(crate) fn losses() -> Losses {
    let mut losses = Losses::default();
    for numbers in [None, Some(("predictions", range(1, 1_200)))] {
        let row = LossRow {
            kind: "predictions",
            object: "frost",
            reason: "quota",
            count: 1_200,
            from_us: NOW_US,
            span_us: 1_000,
            at_us: NOW_US + 2_000,
            numbers,
        };
        losses.push(&row).unwrap();
    }
    losses
}

pub(crate) fn statistics() -> Statistics {
    let mut statistics = Statistics::default();
    let instance = statistics.add_instance(instance()).unwrap();
    for (hour, revision, summaries) in [(0, 2, &b"window one"[..]), (1, 1, b"window two")] {
        let profile = statistics.profile(Digest::of(b"profile.json")).unwrap();
        let from_us = NOW_US + hour * 3_600_000_000;
        let row =
            StatisticRow { instance, profile, from_us, span_us: 3_600_000_000, revision, n: 360, summaries };
        statistics.push(&row).unwrap();
    }
    statistics
}

pub(crate) fn exchange_request() -> ExchangeRequest {
    let batches = [
        Batch::with_held_back(range(1_201, 1_300), &[1_201, 1_202, 1_300], &predictions()).unwrap(),
        Batch::of(7, &events()).unwrap(),
        Batch::of(1, &true_labels()).unwrap(),
        Batch::of(2, &losses()).unwrap(),
        Batch::of(40, &statistics()).unwrap(),
        Batch::of(1_301, &predictions()).unwrap(),
    ];
    ExchangeRequest {
        device: device(),
        server: server(),
        incarnation: Incarnation::from_bytes([9; 16]),
        counter: Counter::new(4_711).unwrap(),
        start: StartId::from_bytes([10; 8]),
        nonce: Nonce::from_bytes([11; 16]),
        clock: Clock {
            boot: name("6a7b9f0e-6d0c-4f0e-9d57-0f6f6f6f6f6f"),
            mono_ms: 3_600_000,
            wall_ms: NOW_MS as i64,
            synchronised: true,
        },
        held: Held {
            root: 1,
            timestamp: 12,
            snapshot: 4,
            targets: 3,
            director_root: 1,
            director_version: 9,
            desired_revision: 9,
            settings_revision: 3,
        },
        report: ReportPart { digest: Digest::of(b"report"), full: Some(Box::new(report())) },
        health: health(),
        batches: List::first_of(batches),
        defer: Some(Defer {
            until_ms: NOW_MS as i64 + 3_600_000,
            rollout: Some(rollout()),
            reason: words("the press is running"),
        }),
    }
}

/// Nothing to say.
pub(crate) fn exchange_request_small() -> ExchangeRequest {
    ExchangeRequest {
        report: ReportPart { digest: Digest::of(b"report"), full: None },
        health: Health::default(),
        batches: List::new(),
        defer: None,
        ..exchange_request()
    }
}

pub(crate) fn exchange_answer() -> ExchangeAnswer {
    let raw = |text: &str| MetadataText::new(text).unwrap();
    let ranges: Ranges = [range(1, 1_300), range(1_304, 1_400)].into_iter().collect();
    ExchangeAnswer {
        device: device(),
        server: server(),
        incarnation: Incarnation::from_bytes([9; 16]),
        counter: Counter::new(4_711).unwrap(),
        nonce: Nonce::from_bytes([11; 16]),
        server_time_ms: NOW_MS,
        state: DeviceState::Active,
        next_ms: 0,
        report_known: Some(Digest::of(b"report")),
        receipts: List::first_of([Receipt { stream: Stream::Predictions, ranges: ranges.clone() }]),
        rejected: List::first_of([Rejected {
            stream: Stream::Events,
            ranges: range(7, 8).into(),
            code: code("malformed"),
            words: words("`kind` names entry 9 of a dictionary of 2"),
        }]),
        desired: Some(Box::new(Desired {
            revision: 10,
            director: DirectorFiles {
                roots: List::first_of([raw("{\"signed\":{\"_type\":\"root\"},\"signatures\":[]}\n")]),
                timestamp: raw("{\"signed\":{\"_type\":\"timestamp\"},\"signatures\":[]}\n"),
                snapshot: raw("{\"signed\":{\"_type\":\"snapshot\"},\"signatures\":[]}\n"),
                targets: raw("{\"signed\":{\"_type\":\"targets\"},\"signatures\":[]}\n"),
            },
        })),
        settings: Some(SettingsOffer {
            revision: 4,
            target: TargetPath::new("settings/plant-1/4/settings.toml").unwrap(),
            digest: Digest::of(b"new settings"),
        }),
        asks: List::first_of([
            Ask::Report,
            Ask::Logs { lines_max: 200 },
            Ask::Policy { stream: Stream::Predictions, share: Share::Sampled, every: Some(10) },
            Ask::Resend { stream: Stream::Statistics, ranges },
        ]),
        refusal: None,
    }
}

pub(crate) fn results() -> Results {
    let ExchangeRequest { device, server, incarnation, nonce, clock, health, batches, .. } =
        exchange_request();
    Results {
        device,
        server: Some(server),
        incarnation: Some(incarnation),
        file: nonce,
        part: 1,
        counter_ceiling: 5_001,
        clock,
        report: Some(Box::new(report())),
        health,
        batches,
    }
}

pub(crate) fn results_answer() -> ResultsAnswer {
    let ExchangeAnswer { device, server, nonce, server_time_ms, state, receipts, rejected, .. } =
        exchange_answer();
    ResultsAnswer {
        device,
        server,
        file: nonce,
        part: 1,
        server_time_ms,
        state,
        receipts,
        rejected,
        rows_new: 103,
        refusal: Some(Refusal { code: RefusalCode::Suspended, words: words("suspended"), highest: None }),
    }
}

pub(crate) fn exchange_answer_small() -> ExchangeAnswer {
    ExchangeAnswer {
        next_ms: 60_000,
        receipts: List::new(),
        rejected: List::new(),
        desired: None,
        settings: None,
        asks: List::new(),
        ..exchange_answer()
    }
}

pub(crate) fn exchange_refused() -> ExchangeAnswer {
    ExchangeAnswer {
        report_known: None,
        refusal: Some(Refusal {
            code: RefusalCode::Replayed,
            words: words("a message with a higher counter came before"),
            highest: Some(Counter::new(5_000).unwrap()),
        }),
        ..exchange_answer_small()
    }
}
