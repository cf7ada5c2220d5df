//! The upload against a server that forgets, rejects and does not answer, over a store that is killed, cut and lost.
//!
//! An oracle counts: no number twice in a message, each number explained in the end, contents as they were made, the
//! ledgers of both sides equal.

use std::collections::BTreeMap;
use std::path::Path;

use dunlin_kit::clock::BUILD_EPOCH_MICROS;
use dunlin_model_package::Digest;
use dunlin_pipeline::prediction::{
    AlertChange, InstanceId, InstanceIdentity, ModelIndex, Prediction, PredictionId, QualityFlags, WindowHead,
};
use dunlin_protocol::batch::{Events, Losses, Predictions};
use dunlin_protocol::text::{Code, Words};
use proptest::prelude::*;

use super::*;
use crate::config::settings::{CommitProfile, PredictionRetention, StorageSettings};
use crate::flow::Step as FlowStep;
use crate::store::open::PendingBatch;
use crate::store::outbox::EventEntry;
use crate::store::queue::Received;
use crate::store::retention::{Pressure, Retention, Turn};
use crate::store::{LastStop, Moment, Recovery, Store, StoreReader};

const T0: i64 = BUILD_EPOCH_MICROS + 1_000_000_000;

fn settings(predictions_retention: PredictionRetention) -> StorageSettings {
    StorageSettings {
        commit: CommitProfile::Auto,
        bytes_max: 64 << 20,
        free_bytes_min: 1 << 20,
        readings_age_max: None,
        predictions_age_max: None,
        predictions_retention,
        card_endurance_bytes: 1 << 40,
    }
}

fn identity(instance: u32) -> InstanceIdentity {
    InstanceIdentity {
        model: format!("m{instance}"),
        version: "1.0.0".into(),
        package: Digest::of(b"p"),
        key: vec![("room".into(), instance.to_string())],
        outputs: vec![("y".into(), 2)],
        labels: vec!["normal".into(), "alarm".into()],
    }
}

/// A step of `count` predictions from number `first` on, of two instances; each thirteenth changes an alert, each
/// eleventh is not valid.
fn step(first: u64, count: u64, introduces: bool) -> FlowStep {
    let predictions = (first..first + count).map(|n| {
        let instance = (n % 2) as u32;
        let is_valid = !n.is_multiple_of(11);
        let flags = if is_valid { QualityFlags::default() } else { QualityFlags::INFERENCE_FAILED };
        let window_end_us = T0 + n as i64 * 100_000;
        Prediction {
            head: WindowHead { model: ModelIndex(0), instance: InstanceId(instance), window_end_us, flags },
            id: PredictionId::of(&identity(instance), window_end_us),
            outputs: if is_valid { vec![n as f32, 0.5] } else { Vec::new() },
            label: is_valid.then_some((n % 2) as u16),
            alert: n.is_multiple_of(13).then_some(AlertChange::Raised),
        }
    });
    FlowStep {
        new_instances: if introduces {
            (0..2).map(|n| (InstanceId(n), identity(n))).collect()
        } else {
            vec![]
        },
        predictions: predictions.collect(),
        prediction_sequence: first,
        checkpoint: Some(vec![1]),
        ..FlowStep::default()
    }
}

/// A gateway's store and upload, the writer's thread left out.
struct Gateway {
    lock: FolderLock,
    store: Store,
    retention: Retention,
    uploads: Uploads,
    commands: queue::Receiver<WriterCommand>,
    next: u64,
    introduces: bool,
}

impl Gateway {
    fn start(folder: &Path, settings: &StorageSettings) -> Self {
        let lock = FolderLock::acquire(folder).unwrap();
        let (mut store, mut recovery): (Store, Recovery) =
            Store::open(&lock, settings, &Moment::now(), LastStop::Clean).unwrap();
        let settled = SettledNumbers::default();
        store.guard_numbers(&lock, &mut recovery, &settled).unwrap();
        let (sender, commands) = queue::bounded(1_024);
        let line = watch::channel(Some(sender)).1;
        let uploads = Uploads::open(&lock, UploadSettings::default(), settled, line).unwrap();
        let (next, introduces) = (recovery.next_prediction_sequence, recovery.instances.is_empty());
        Self { lock, store, retention: Retention::default(), uploads, commands, next, introduces }
    }

    fn restart(self, settings: &StorageSettings, loses_log: bool) -> Self {
        let folder = self.lock.folder().to_owned();
        drop(self);
        if loses_log {
            for name in ["telemetry.db", "telemetry.db-wal", "telemetry.db-shm"] {
                let _ = std::fs::remove_file(folder.join(name));
            }
        }
        Self::start(&folder, settings)
    }

    fn predict(&mut self, count: u64, is_kept: bool) {
        let mut pending = PendingBatch::default();
        pending.push(step(self.next, count, std::mem::take(&mut self.introduces)));
        self.next += count;
        if is_kept {
            self.store.commit(&pending, 0).unwrap();
        } else {
            self.store.give_up(&mut pending, "disk_full");
        }
    }

    fn obey(&mut self) {
        while let Received::Command(command) = self.commands.receive(Some(Duration::ZERO)) {
            match command {
                WriterCommand::Outbox(order) => self.store.follow_order(&order).unwrap(),
                WriterCommand::Quarantine(seq) => self.store.quarantine(seq).unwrap(),
                other => panic!("{other:?}"),
            }
        }
    }

    fn fill(&mut self, room: usize) -> Vec<Batch> {
        let batches = self.uploads.fill(room).into_vec();
        self.obey();
        batches
    }

    fn retain(&mut self, turns: u32) {
        for _ in 0..turns {
            if self.retention.turn(&mut self.store, Pressure::Emergency).unwrap() == Turn::Done {
                break;
            }
        }
    }

    fn ledger(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for entry in StoreReader::open(self.lock.folder()).unwrap().losses().unwrap() {
            let key = format!("{}:{}", entry.loss.kind.as_str(), entry.loss.reason);
            *sums.entry(key).or_default() += entry.loss.count;
        }
        sums
    }
}

/// What a server has of one stream.
#[derive(Default)]
struct Held {
    rows: BTreeMap<u64, String>,
    held_back: Ranges,
    lost: Ranges,
}

#[derive(Default)]
struct Server {
    streams: BTreeMap<String, Held>,
    ledger: BTreeMap<String, u64>,
    forgives_repeats: bool,
}

impl Server {
    fn take(&mut self, batches: &[Batch]) -> Vec<Receipt> {
        batches.iter().map(|batch| self.take_batch(batch)).collect()
    }

    fn take_batch(&mut self, batch: &Batch) -> Receipt {
        let rows: Vec<String> = match batch.stream() {
            Stream::Predictions => {
                let columns: Predictions = batch.read().unwrap();
                let text = |row: dunlin_protocol::batch::PredictionRow<'_>| {
                    let model = &columns.instances[row.instance as usize].model;
                    format!("{model} {} {} {:?} {:?}", row.window_end_us, row.flags, row.label, row.outputs)
                };
                columns.iter().map(text).collect()
            }
            Stream::Events => batch.read::<Events>().unwrap().iter().map(|row| format!("{row:?}")).collect(),
            _ => batch.read::<Losses>().unwrap().iter().map(|row| format!("{row:?}")).collect(),
        };
        let stream = self.streams.entry(batch.stream().to_string()).or_default();
        let numbers: Vec<u64> = batch.numbers().collect();
        assert_eq!(numbers.len(), rows.len());
        let mut fresh = Vec::new();
        for (position, (number, row)) in numbers.iter().zip(rows).enumerate() {
            match stream.rows.get(number) {
                Some(present) => assert_eq!(*present, row, "a number has one row for ever"),
                None => {
                    stream.rows.insert(*number, row);
                    fresh.push(position);
                }
            }
        }
        let mut without = Ranges::from(batch.range());
        numbers.iter().for_each(|n| without.remove(Range::counted(*n, 1).unwrap()));
        stream.held_back = stream.held_back.union(&without);
        if *batch.stream() == Stream::Losses {
            let columns: Losses = batch.read().unwrap();
            for (_, row) in columns.iter().enumerate().filter(|(position, _)| fresh.contains(position)) {
                *self.ledger.entry(format!("{}:{}", row.kind, row.reason)).or_default() += row.count;
                if let Some((stream, range)) = row.numbers {
                    let stream = self.streams.entry(stream.to_owned()).or_default();
                    // A log that was lost took with it what it had explained without a receipt.
                    let is_new = !stream.lost.contains(range.first());
                    assert!(is_new || self.forgives_repeats, "a number is lost once");
                    stream.lost.insert(range);
                }
            }
        }
        Receipt { stream: batch.stream().clone(), ranges: batch.range().into() }
    }

    fn unexplained(&self, stream: &str, next: u64) -> Ranges {
        let made: Ranges = Range::counted(1, next - 1).ok().into_iter().collect();
        let Some(held) = self.streams.get(stream) else { return made };
        let rows: Ranges = held.rows.keys().map(|n| Range::counted(*n, 1).unwrap()).collect();
        made.subtract(&rows).subtract(&held.held_back).subtract(&held.lost)
    }
}

/// Each number once in a message; in each stream live before backfill, either in order.
fn assert_sound(batches: &[Batch], horizon: u64) {
    let mut last: BTreeMap<String, (bool, u64)> = BTreeMap::new();
    for batch in batches {
        let range = batch.range();
        let is_old = *batch.stream() == Stream::Predictions && range.last() <= horizon;
        if let Some((was_old, through)) = last.insert(batch.stream().to_string(), (is_old, range.last())) {
            assert!((was_old, through) < (is_old, range.first()), "{batch:?}");
        }
    }
}

#[derive(Debug, Clone)]
enum Act {
    Predict(u64),
    GiveUp(u64),
    Event,
    Retain(u32),
    Exchange(usize),
    AnswerLost(usize),
    Reject(usize),
    Restart,
    LoseLog,
    Damage(u64),
    ServerLoses(u64, u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (1_u64..60).prop_map(Act::Predict),
        1 => (1_u64..60).prop_map(Act::GiveUp),
        1 => Just(Act::Event),
        2 => (1_u32..4).prop_map(Act::Retain),
        6 => (0_usize..12_000).prop_map(Act::Exchange),
        3 => (0_usize..12_000).prop_map(Act::AnswerLost),
        1 => (0_usize..5).prop_map(Act::Reject),
        2 => Just(Act::Restart),
        1 => Just(Act::LoseLog),
        1 => (0_u64..50).prop_map(Act::Damage),
        1 => (1_u64..300, 1_u64..40).prop_map(|(first, count)| Act::ServerLoses(first, count)),
    ]
}

struct Story {
    gateway: Gateway,
    server: Server,
    settings: StorageSettings,
    lost_log: bool,
}

impl Story {
    fn play(mut self, act: &Act) -> Self {
        match act {
            Act::Predict(count) => self.gateway.predict(*count, true),
            Act::GiveUp(count) => self.gateway.predict(*count, false),
            Act::Event => {
                let kind = "started".to_owned();
                let entry =
                    EventEntry { at_us: T0, kind, severity: 0, object: String::new(), words: String::new() };
                self.gateway.store.follow_order(&OutboxOrder::Event(entry)).unwrap();
            }
            Act::Retain(turns) => self.gateway.retain(*turns),
            Act::Exchange(room) => self.exchange(*room),
            Act::AnswerLost(room) => {
                let batches = self.fill(*room);
                self.server.take(&batches);
            }
            Act::Reject(which) => {
                let batches = self.fill(4_000);
                if let Some(batch) = batches.get(*which) {
                    let rejected = Rejected {
                        stream: batch.stream().clone(),
                        ranges: batch.range().into(),
                        code: Code::cut("columns"),
                        words: Words::cut("wrong"),
                    };
                    self.gateway.uploads.take_answer(&[], &[rejected], &[]);
                    self.gateway.obey();
                }
            }
            Act::Restart => self.gateway = self.gateway.restart(&self.settings, false),
            Act::LoseLog => {
                self.lost_log = true;
                self.server.forgives_repeats = true;
                self.gateway = self.gateway.restart(&self.settings, true);
            }
            Act::Damage(seq) => {
                let sql = "UPDATE batch SET crc = (crc + 1) % 4294967296 WHERE seq = ?1";
                self.gateway.store.connection.execute(sql, [*seq as i64]).unwrap();
            }
            Act::ServerLoses(first, count) => {
                let range = Range::counted(*first, *count).unwrap();
                let held = self.server.streams.entry(PREDICTIONS.to_owned()).or_default();
                held.rows.retain(|number, _| !range.contains(*number));
                held.held_back.remove(range);
                let ask = Ask::Resend { stream: Stream::Predictions, ranges: range.into() };
                self.gateway.uploads.take_answer(&[], &[], &[ask]);
            }
        }
        self
    }

    fn fill(&mut self, room: usize) -> Vec<Batch> {
        let batches = self.gateway.fill(room);
        assert_sound(&batches, self.gateway.uploads.horizon);
        let plain: usize = batches.iter().map(bytes_of).sum();
        assert!(plain <= room.max(1), "{plain} bytes in a room of {room}");
        batches
    }

    fn exchange(&mut self, room: usize) {
        let batches = self.fill(room);
        let receipts = self.server.take(&batches);
        self.gateway.uploads.take_answer(&receipts, &[], &[]);
        self.gateway.obey();
    }

    /// Exchanges until nothing waits, and compares both sides.
    fn settle(mut self) {
        for _ in 0..400 {
            self.exchange(200_000);
            let ends = self.ends();
            let due = self.gateway.uploads.waiting();
            if due.iter().all(|waiting| waiting.rows == 0) && ends.losses == ends.unsealed {
                break;
            }
        }
        let ends = self.ends();
        for (stream, next) in [(PREDICTIONS, ends.predictions), (EVENTS, ends.events), (LOSSES, ends.losses)]
        {
            assert_eq!(self.server.unexplained(stream, next), Ranges::new(), "{stream} up to {next}");
        }
        if !self.lost_log {
            let server: BTreeMap<_, _> = self.server.ledger.iter().filter(|(_, count)| **count > 0).collect();
            assert_eq!(server, self.gateway.ledger().iter().collect::<BTreeMap<_, _>>());
        }
    }

    fn ends(&self) -> Ends {
        OutboxReader::open(self.gateway.lock.folder()).unwrap().ends().unwrap()
    }
}

fn story(folder: &Path, retention: PredictionRetention) -> Story {
    let settings = settings(retention);
    let gateway = Gateway::start(folder, &settings);
    Story { gateway, server: Server::default(), settings, lost_log: false }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn every_number_is_explained_once_and_both_ledgers_agree_whatever_happens(
        acts in proptest::collection::vec(act(), 1..60),
        retention in prop_oneof![Just(PredictionRetention::Thin), Just(PredictionRetention::Summarise), Just(PredictionRetention::DropOldest)],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut story = story(folder.path(), retention);
        for act in &acts {
            story = story.play(act);
        }
        story.settle();
    }
}

#[test]
fn rows_are_sent_once_they_have_a_receipt_never_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = story(folder.path(), PredictionRetention::Thin);
    story.gateway.predict(500, true);
    story.exchange(1 << 20);
    assert!(story.fill(1 << 20).is_empty());
    let held = &story.server.streams[PREDICTIONS];
    assert_eq!((held.rows.len(), held.held_back.count()), (500, 0));
    assert_eq!(held.rows[&13], format!("m1 {} 0 Some(1) [13.0, 0.5]", T0 + 1_300_000));
    assert!(held.rows[&11].ends_with("None []"), "{}", held.rows[&11]);
    assert_eq!(story.server.streams[EVENTS].rows.len(), 38);
    assert!(story.server.streams[EVENTS].rows[&1].contains("alert_raised"));
    let gateway = story.gateway.restart(&story.settings, false);
    story = Story { gateway, ..story };
    assert!(story.fill(1 << 20).is_empty(), "receipts survive a start");
}

#[test]
fn the_newest_rows_come_first_after_a_silence_and_then_the_oldest() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = story(folder.path(), PredictionRetention::Thin);
    for _ in 0..20 {
        story.gateway.predict(100, true);
    }
    let firsts: Vec<u64> = story
        .fill(30_000)
        .iter()
        .filter(|batch| *batch.stream() == Stream::Predictions)
        .map(|batch| batch.range().first())
        .collect();
    assert_eq!(firsts[..2], [2_000 - LIVE_ROWS + 1, 1], "{firsts:?}");
    assert!(firsts[1..].is_sorted(), "{firsts:?}");
    story.exchange(30_000);
    story.gateway.predict(10, true);
    let batches = story.fill(30_000);
    let live = batches.iter().find(|batch| *batch.stream() == Stream::Predictions).unwrap();
    assert_eq!(live.range(), Range::new(2_001, 2_010).unwrap(), "what is new goes before the backlog");
    story.settle();
}

#[test]
fn the_newest_rows_come_first_though_an_answer_came_before_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = story(folder.path(), PredictionRetention::Thin);
    story.gateway.predict(2_000, true);
    // The link sends nothing before it was heard.
    story.gateway.uploads.take_answer(&[], &[], &[]);
    let firsts: Vec<u64> = story
        .fill(8_000)
        .iter()
        .filter(|batch| *batch.stream() == Stream::Predictions)
        .map(|batch| batch.range().first())
        .collect();
    assert_eq!(firsts[..2], [2_000 - LIVE_ROWS + 1, 1], "{firsts:?}");
}

#[test]
fn a_policy_holds_rows_back_by_number_and_alerts_are_never_among_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = story(folder.path(), PredictionRetention::Thin);
    let policy = |share, every| Ask::Policy { stream: Stream::Predictions, share, every };
    story.gateway.uploads.take_answer(&[], &[], &[policy(Share::Sampled, Some(50))]);
    story.gateway.predict(1_000, true);
    story.exchange(1 << 20);
    let numbers: Vec<u64> = story.server.streams[PREDICTIONS].rows.keys().copied().collect();
    let expected: Vec<u64> = (1..=1_000).filter(|n| n % 50 == 0 || n % 13 == 0).collect();
    assert_eq!(numbers, expected);
    story.gateway = story.gateway.restart(&story.settings, false);
    story.gateway.uploads.take_answer(&[], &[], &[policy(Share::None, None)]);
    story.gateway.predict(100, true);
    let batches = story.fill(1 << 20);
    let held = batches.iter().filter(|batch| *batch.stream() == Stream::Predictions);
    let held = held.map(|batch| (batch.range().count(), batch.rows()));
    // Live ones first, then those before.
    assert_eq!(held.collect::<Vec<_>>(), [(LIVE_ROWS, 0), (100 - LIVE_ROWS, 0)]);
    story.settle();
}

#[test]
fn uploaded_rows_go_before_others_when_room_is_short_and_are_no_loss() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = story(folder.path(), PredictionRetention::DropOldest);
    for _ in 0..40 {
        story.gateway.predict(100, true);
    }
    // The newest 64 and as many of the oldest as fit.
    story.exchange(40_000);
    let sent = story.server.streams[PREDICTIONS].rows.len() as u64;
    assert!(sent > 300 && sent < 3_000, "{sent}");
    story.gateway.retain(1);
    assert!(story.gateway.ledger().is_empty(), "{:?}", story.gateway.ledger());
    let left = StoreReader::open(folder.path()).unwrap().overview().unwrap().predictions;
    assert!(left < 4_000 && left + sent + 100 > 4_000, "{left} left of 4000, {sent} sent");
    story.settle();
}

#[test]
fn a_log_that_is_lost_goes_on_above_every_number_that_was_used() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = story(folder.path(), PredictionRetention::Thin);
    story.gateway.predict(300, true);
    story.exchange(1 << 20);
    story.gateway.predict(50, true);
    story.gateway = story.gateway.restart(&story.settings, true);
    story.lost_log = true;
    assert!(story.gateway.next > 350, "{}", story.gateway.next);
    let next = story.gateway.next;
    story.gateway.predict(10, true);
    story.exchange(1 << 20);
    assert_eq!(story.server.streams[PREDICTIONS].rows.len(), 310);
    story.gateway = story.gateway.restart(&story.settings, false);
    assert_eq!(story.gateway.next, next + 10, "a log that is known goes on without a gap");
    story.settle();
}

#[test]
fn a_server_cannot_settle_rows_that_are_not_made_yet() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = story(folder.path(), PredictionRetention::Thin);
    story.gateway.predict(10, true);
    story.fill(1 << 20);
    let ranges = Range::new(1, 1_000_000).unwrap().into();
    story.gateway.uploads.take_answer(&[Receipt { stream: Stream::Predictions, ranges }], &[], &[]);
    story.gateway.predict(10, true);
    let batches = story.fill(1 << 20);
    let fresh = batches.iter().find(|batch| *batch.stream() == Stream::Predictions).unwrap();
    assert_eq!(fresh.range(), Range::new(11, 20).unwrap());
}

#[test]
fn a_budget_that_is_spent_keeps_rows_and_sends_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = story(folder.path(), PredictionRetention::Thin);
    story.gateway.predict(100, true);
    story
        .gateway
        .uploads
        .configure(UploadSettings { budget_bytes: Some(1_000_000), ..UploadSettings::default() });
    story.gateway.uploads.spend(&Purpose::Packages, 0, 999_999);
    assert!(story.gateway.uploads.fetches_packages());
    assert!(story.fill(1 << 20).is_empty());
    assert_eq!(story.gateway.uploads.interval_min(), Duration::from_secs(86_400));
    story.gateway.uploads.spend(&Purpose::Exchange, 1, 0);
    assert!(!story.gateway.uploads.fetches_packages());
    story.gateway = story.gateway.restart(&story.settings, false);
    let rows: u64 = story.gateway.uploads.waiting().iter().map(|waiting| waiting.rows).sum();
    assert_eq!(rows, 107, "predictions and alerts wait");
    assert_eq!(story.gateway.uploads.account().spent_bytes, 1_000_000);
}
