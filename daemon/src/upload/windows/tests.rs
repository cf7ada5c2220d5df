//! Windows on their way to a server that takes its time: as reported, by day where the budget asks for it, and through kills.

use std::collections::BTreeMap;
use std::path::Path;

use dunlin_drift::bins::Bins;
use dunlin_drift::moments::Scale;
use dunlin_drift::summary::Summary;
use dunlin_model_package::Digest;
use dunlin_model_package::profile_window::{Counted, Shape, read_window, write_window};
use dunlin_pipeline::prediction::{InstanceId, InstanceIdentity};
use dunlin_protocol::exchange::{Ask, Receipt, Share};
use dunlin_protocol::limits::BATCHES_MAX;
use dunlin_protocol::{List, Stream};
use proptest::prelude::*;
use tokio::sync::watch;

use super::*;
use crate::config::settings::{CommitProfile, PredictionRetention, StorageSettings};
use crate::flow::Step as FlowStep;
use crate::store::open::PendingBatch;
use crate::store::outbox::{STATISTICS, SettledNumbers};
use crate::store::queue::{self, Received};
use crate::store::{FolderLock, LastStop, Moment, Store, WriterCommand};
use crate::upload::budget::Step;
use crate::upload::selection::waiting;
use crate::upload::{UploadSettings, Uploads};

const HOUR_US: i64 = 3_600_000_000;
/// Midnight.
const START_US: i64 = 20_600 * 24 * HOUR_US;

fn bins() -> Bins {
    Bins::Edges(vec![0.0, 0.5, 1.0])
}

/// The window of an hour; what is in it follows from its place.
fn window(instance: u32, hour: i64, revision: u32) -> WindowEntry {
    let mut summary = Summary::empty(4);
    let n = 20 + (hour as u64 * 7 + u64::from(instance) * 3 + u64::from(revision)) % 11;
    (0..n).for_each(|k| summary.add_number((k % 9) as f64 / 6.0, &bins(), &Scale::of(0.5, 0.5)));
    WindowEntry {
        instance,
        profile: Digest::of(b"profile"),
        from_us: START_US + hour * HOUR_US,
        span_us: HOUR_US.unsigned_abs(),
        revision,
        n,
        shapes: vec![Shape { bins: 4, of: Counted::Numbers }],
        summaries: write_window([&summary]),
    }
}

struct Gateway {
    lock: FolderLock,
    store: Store,
    uploads: Uploads,
    commands: queue::Receiver<WriterCommand>,
    introduces: bool,
}

impl Gateway {
    fn start(folder: &Path) -> Self {
        let lock = FolderLock::acquire(folder).unwrap();
        let settings = StorageSettings {
            commit: CommitProfile::Auto,
            bytes_max: 64 << 20,
            free_bytes_min: 1 << 20,
            readings_age_max: None,
            predictions_age_max: None,
            predictions_retention: PredictionRetention::Thin,
            card_endurance_bytes: 1 << 40,
        };
        let (mut store, mut recovery) =
            Store::open(&lock, &settings, &Moment::now(), LastStop::Clean).unwrap();
        let settled = SettledNumbers::default();
        store.guard_numbers(&lock, &mut recovery, &settled).unwrap();
        let (sender, commands) = queue::bounded(1_024);
        let line = watch::channel(Some(sender)).1;
        let uploads = Uploads::open(&lock, UploadSettings::default(), settled, line).unwrap();
        Self { lock, store, uploads, commands, introduces: recovery.instances.is_empty() }
    }

    fn kill(self) -> Self {
        let folder = self.lock.folder().to_owned();
        drop(self);
        Self::start(&folder)
    }

    fn report(&mut self, windows: Vec<WindowEntry>) {
        let identity = |n: u32| InstanceIdentity {
            model: "m".into(),
            version: "1".into(),
            package: Digest::of(b"p"),
            key: vec![("id".into(), n.to_string())],
            outputs: vec![],
            labels: vec![],
        };
        let new = std::mem::take(&mut self.introduces);
        let new_instances = (0..2).filter(|_| new).map(|n| (InstanceId(n), identity(n))).collect();
        let mut pending = PendingBatch::default();
        let prediction_sequence = 1;
        pending.push(FlowStep { windows, new_instances, prediction_sequence, ..FlowStep::default() });
        self.store.commit(&pending, 0).unwrap();
    }

    /// Fills a message at a step of the budget, then has the writer obey.
    fn fill(&mut self, step: Step, room: usize) -> Vec<Batch> {
        let mut batches: List<Batch, BATCHES_MAX> = List::new();
        let reader =
            self.uploads.reader.get_or_insert_with(|| OutboxReader::open(self.lock.folder()).unwrap());
        reader.begin().unwrap();
        let next = reader.ends().unwrap().statistics;
        self.uploads.fill_windows(next, room, step, &mut batches).unwrap();
        self.uploads.reader.as_ref().unwrap().end();
        while let Received::Command(command) = self.commands.receive(Some(std::time::Duration::ZERO)) {
            match command {
                WriterCommand::Outbox(order) => self.store.follow_order(&order).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        batches.into_vec()
    }

    fn receive(&mut self, server: &mut Server, batches: &[Batch]) {
        for batch in batches {
            server.take(batch);
            let ranges = Ranges::from(batch.range());
            let receipt = Receipt { stream: Stream::Statistics, ranges };
            self.uploads.take_answer(&[receipt], &[], &[]);
        }
    }
}

/// A server that takes each number once, and of one beginning the last revision.
#[derive(Default)]
struct Server {
    numbers: Ranges,
    windows: BTreeMap<(String, i64), (u32, u64, Vec<u8>)>,
    rows: usize,
}

impl Server {
    fn take(&mut self, batch: &Batch) {
        let columns: Statistics = batch.read().unwrap();
        for (number, row) in batch.numbers().zip(columns.iter()) {
            if self.numbers.contains(number) {
                continue;
            }
            self.rows += 1;
            let instance = &columns.instances[row.instance as usize];
            let place = (instance.key[0].1.to_string(), row.from_us);
            let window = (row.revision, row.n, row.summaries.to_vec());
            let known = self.windows.entry(place).or_insert_with(|| window.clone());
            if row.revision >= known.0 {
                *known = window;
            }
        }
        self.numbers.insert(batch.range());
    }

    fn sums(&self) -> BTreeMap<String, (u64, Summary)> {
        let mut sums: BTreeMap<String, (u64, Summary)> = BTreeMap::new();
        for ((instance, _), (_, n, bytes)) in &self.windows {
            let sum = sums.entry(instance.clone()).or_insert_with(|| (0, Summary::empty(4)));
            sum.0 += n;
            let shape = Shape { bins: 4, of: Counted::Numbers };
            sum.1.merge(&read_window(bytes, [shape]).unwrap()[0]).unwrap();
        }
        sums
    }
}

/// What all windows say in their last revision.
fn truth(reported: &[WindowEntry]) -> BTreeMap<String, (u64, Summary)> {
    let mut server = Server::default();
    for window in reported {
        let row = (window.revision, window.n, window.summaries.clone());
        let place = (window.instance.to_string(), window.from_us);
        let known = server.windows.entry(place).or_insert_with(|| row.clone());
        if row.0 >= known.0 {
            *known = row;
        }
    }
    server.sums()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_the_budget_says_and_whenever_it_is_killed_the_server_has_the_sums_of_the_last_revisions(
        hours in 60..110i64,
        fates in prop::collection::vec((0..12u8, any::<bool>()), 110),
        late in prop::collection::vec(any::<bool>(), 110),
        room in 2_000..40_000usize,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (mut gateway, mut server, mut reported) =
            (Gateway::start(folder.path()), Server::default(), Vec::new());
        let mut step = Step::Full;
        for hour in 0..hours {
            let (fate, is_received) = fates[hour as usize];
            let mut windows: Vec<WindowEntry> = (0..2).map(|instance| window(instance, hour, 1)).collect();
            if hour > 0 && late[hour as usize] {
                windows.push(window(0, hour - 1, 2));
            }
            reported.extend(windows.clone());
            gateway.report(windows);
            step = match fate {
                0 => Step::Coarser,
                1 => Step::Full,
                2 => Step::HealthOnly,
                _ => step,
            };
            if fate % 4 == 3 {
                let batches = gateway.fill(step, room);
                prop_assert!(step.windows().is_some() || batches.is_empty());
                if is_received {
                    gateway.receive(&mut server, &batches);
                }
            }
            if fate == 4 {
                gateway = gateway.kill();
            }
        }
        for _ in 0..200 {
            let batches = gateway.fill(Step::Full, room.max(4_000));
            gateway.receive(&mut server, &batches);
        }
        prop_assert_eq!(server.sums(), truth(&reported));
        let all: Ranges = Range::counted(1, reported.len() as u64).unwrap().into();
        prop_assert_eq!(&server.numbers, &all);
    }
}

#[test]
fn a_short_budget_makes_days_of_hours() {
    let folder = tempfile::tempdir().unwrap();
    let (mut gateway, mut server, mut reported) =
        (Gateway::start(folder.path()), Server::default(), Vec::new());
    assert!(gateway.fill(Step::Coarser, 1 << 20).is_empty());
    for hour in 0..24 * 5 {
        reported.push(window(0, hour, 1));
        gateway.report(vec![window(0, hour, 1)]);
        let batches = gateway.fill(Step::Coarser, 1 << 20);
        gateway.receive(&mut server, &batches);
    }
    // The last day is not over, and the one before may still change.
    assert_eq!(server.rows, 3);
    assert_eq!(server.numbers.count(), 3 * 24);
    let days: Vec<i64> = server.windows.keys().map(|(_, from_us)| (from_us - START_US) / HOUR_US).collect();
    assert_eq!(days, [0, 24, 48]);
    for (_, n, bytes) in server.windows.values() {
        assert!(*n > 24 * 20 && bytes.len() < 60);
    }
    for _ in 0..3 {
        let batches = gateway.fill(Step::Full, 1 << 20);
        gateway.receive(&mut server, &batches);
    }
    assert_eq!(server.sums(), truth(&reported));
}

#[test]
fn a_server_that_wants_no_windows_gets_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(folder.path());
    let ask = Ask::Policy { stream: Stream::Statistics, share: Share::None, every: None };
    gateway.uploads.take_answer(&[], &[], &[ask]);
    gateway.report((0..10).map(|hour| window(1, hour, 1)).collect());
    let batches = gateway.fill(Step::Full, 1 << 20);
    assert_eq!((batches.len(), batches[0].rows(), batches[0].range().count()), (1, 0, 10));
    let mut server = Server::default();
    gateway.receive(&mut server, &batches);
    assert_eq!(server.rows, 0);
    let settled = gateway.uploads.settled.of(STATISTICS);
    assert!(waiting(11, &settled, &Ranges::new()).is_empty());
}

#[test]
fn windows_that_nobody_takes_are_bounded_and_become_losses() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(folder.path());
    for chunk in 0..90 {
        gateway.report((0..100).map(|n| window(0, chunk * 100 + n, 1)).collect());
    }
    let reader = OutboxReader::open(gateway.lock.folder()).unwrap();
    let gone = reader.gone(STATISTICS).unwrap();
    assert_eq!((gone.first(), gone.count()), (Some(1), 9_000 - 8_192));
    let losses = reader.losses(Range::new(1, 1_000).unwrap(), 100).unwrap();
    let lost: u64 =
        losses.iter().filter(|(_, loss)| loss.kind == "windows").map(|(_, loss)| loss.count).sum();
    assert_eq!(lost, 9_000 - 8_192);
}
