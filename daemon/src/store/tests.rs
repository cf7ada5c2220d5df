//! The store as a whole, on real files: kills, cuts, flipped bits, full disks.

use std::fs::{self, OpenOptions};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use dunlin_kit::clock::BUILD_EPOCH_MICROS;
use dunlin_model_package::Digest;
use dunlin_pipeline::prediction::{
    InstanceId, InstanceIdentity, ModelIndex, Prediction, PredictionId, QualityFlags, WindowHead,
};
use dunlin_pipeline::reading::{Reading, SeriesId, SeriesIdentity, TimedBy};
use proptest::prelude::*;
use tokio::sync::{mpsc, oneshot, watch};

use super::open::PendingBatch;
use super::reader::Selection;
use super::retention::{Pressure, Retention, Turn};
use super::*;
use crate::backlog::StoredBacklog;
use crate::config::settings::{CommitProfile, PredictionRetention, StorageSettings};
use crate::flow::{AckToken, BrokerIndex, ConnectionId, LossKind, Step};
use crate::metrics::Metrics;
use crate::mqtt::feed::{Backlog, PageEnd};
use crate::stage::publishing::Topics;

const T0: i64 = 1_700_000_000_000_000;

fn settings() -> StorageSettings {
    StorageSettings {
        commit: CommitProfile::Auto,
        bytes_max: 64 << 20,
        free_bytes_min: 1 << 20,
        readings_age_max: None,
        predictions_age_max: None,
        predictions_retention: PredictionRetention::Thin,
        card_endurance_bytes: 1 << 40,
    }
}

fn instance() -> InstanceIdentity {
    InstanceIdentity {
        model: "frost".into(),
        version: "1.0.0".into(),
        package: Digest::of(b"p"),
        key: vec![("room".into(), "a".into())],
        outputs: vec![("y".into(), 2)],
        labels: vec!["normal".into(), "alarm".into()],
    }
}

fn series() -> SeriesIdentity {
    SeriesIdentity {
        source: "rooms".into(),
        tags: vec![("room".into(), "a".into())],
        fields: vec!["t".into()],
    }
}

fn reading(n: u64, timed_by: TimedBy, event_us: i64) -> Reading {
    Reading {
        series: SeriesId(0),
        event_us,
        timed_by,
        values: vec![n as f64 / 100.0, 20.5, 1013.25, f64::NAN],
    }
}

/// Step `n`, from 1: one reading, one prediction, one message.
fn step(n: u64) -> Step {
    let event_us = T0 + n as i64 * 100_000;
    let head = WindowHead {
        model: ModelIndex(0),
        instance: InstanceId(0),
        window_end_us: event_us,
        flags: QualityFlags::default(),
    };
    Step {
        readings: vec![reading(n, TimedBy::Payload, event_us)],
        new_series: if n == 1 { vec![(SeriesId(0), series())] } else { vec![] },
        new_instances: if n == 1 { vec![(InstanceId(0), instance())] } else { vec![] },
        predictions: vec![Prediction {
            head,
            id: PredictionId::of(&instance(), event_us),
            outputs: vec![(n as f32).sin(), 0.5],
            label: Some((n % 2) as u16),
            alert: None,
        }],
        prediction_sequence: n,
        acks: vec![ack(n)],
        ..Step::default()
    }
}

fn ack(n: u64) -> AckToken {
    let packet_id = (n % 65_535 + 1) as u16;
    AckToken { broker: BrokerIndex(0), connection: ConnectionId(1), packet_id, content_crc: n as u32 }
}

fn moment() -> Moment {
    Moment::now()
}

fn open(folder: &Path, settings: &StorageSettings) -> (FolderLock, Store, Recovery) {
    let lock = FolderLock::acquire(folder).unwrap();
    let (store, recovery) = Store::open(&lock, settings, &moment(), LastStop::Clean).unwrap();
    (lock, store, recovery)
}

fn commit(store: &mut Store, steps: impl IntoIterator<Item = Step>) -> Result<(), StoreError> {
    let mut pending = PendingBatch::default();
    for step in steps {
        pending.push(step);
    }
    store.commit(&pending, 0)
}

fn sequences(folder: &Path) -> (Vec<u64>, usize) {
    let mut found = Vec::new();
    let report = StoreReader::open(folder)
        .unwrap()
        .predictions(&Selection::default(), &mut |p| {
            found.push(p.stored.sequence);
            ControlFlow::Continue(())
        })
        .unwrap();
    (found, report.damaged.len())
}

fn copy_files(from: &Path, to: &Path) {
    for name in [TELEMETRY_FILE, "telemetry.db-wal"] {
        let _ = fs::copy(from.join(name), to.join(name));
    }
}

#[test]
fn a_kill_loses_nothing_that_was_committed() {
    let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_lock, mut store, recovery) = open(folder.path(), &settings());
    assert_eq!((recovery.next_prediction_sequence, recovery.published_through), (1, 0));
    commit(&mut store, (1..=3).map(step)).unwrap();
    let mut saved = step(4);
    saved.checkpoint = Some(b"windows".to_vec());
    commit(&mut store, [saved, step(5)]).unwrap();
    commit(&mut store, [step(6)]).unwrap();
    copy_files(folder.path(), copy.path());

    let (_lock, mut store, recovery) = open(copy.path(), &settings());
    assert_eq!(recovery.checkpoint.as_deref(), Some(&b"windows"[..]));
    assert_eq!(recovery.next_prediction_sequence, 7);
    assert_eq!(recovery.series, [(SeriesId(0), series())]);
    assert_eq!(recovery.instances, [(InstanceId(0), instance())]);
    assert_eq!(recovery.delivered.iter().map(|m| m.content_crc).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    let mut replayed = Vec::new();
    store
        .replay_after_checkpoint(&mut |batch| {
            replayed.extend(batch.steps.iter().map(|s| (s.readings[0].event_us, s.predictions[0].sequence)));
        })
        .unwrap();
    assert_eq!(replayed, [(T0 + 500_000, 5), (T0 + 600_000, 6)]);
}

#[test]
fn a_wal_cut_at_any_byte_opens_to_whole_transactions() {
    let folder = tempfile::tempdir().unwrap();
    let (_lock, mut store, _) = open(folder.path(), &settings());
    for batch in 0..40_u64 {
        commit(&mut store, (batch * 3 + 1..=batch * 3 + 3).map(step)).unwrap();
    }
    let wal = fs::read(folder.path().join("telemetry.db-wal")).unwrap();
    for cut in 0..500 {
        let copy = tempfile::tempdir().unwrap();
        fs::copy(folder.path().join(TELEMETRY_FILE), copy.path().join(TELEMETRY_FILE)).unwrap();
        let end = wal.len() * cut / 500 + cut % 7;
        let file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .open(copy.path().join("telemetry.db-wal"))
            .unwrap();
        file.write_all_at(&wal[..end.min(wal.len())], 0).unwrap();
        let (_lock, store, recovery) = open(copy.path(), &settings());
        assert_eq!(recovery.salvaged, None, "cut at {end}");
        drop(store);
        let (found, damaged) = sequences(copy.path());
        assert_eq!(damaged, 0);
        assert_eq!(found.len() % 3, 0, "cut at {end}: {found:?}");
        assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>());
        assert_eq!(recovery.next_prediction_sequence, found.len() as u64 + 1);
    }
}

#[test]
fn a_flipped_bit_is_found_reported_and_quarantined() {
    let folder = tempfile::tempdir().unwrap();
    let (lock, mut store, _) = open(folder.path(), &settings());
    for n in 1..=5 {
        commit(&mut store, [step(n)]).unwrap();
    }
    store.connection.execute("UPDATE batch SET body = CAST(substr(body, 1, 9) || x'00' || substr(body, 11) AS BLOB) WHERE seq = 3", []).unwrap();
    assert_eq!(sequences(folder.path()), (vec![1, 2, 4, 5], 1));
    store.quarantine(3).unwrap();
    assert_eq!(sequences(folder.path()), (vec![1, 2, 4, 5], 0));
    drop(store);
    let reader = StoreReader::open(folder.path()).unwrap();
    assert_eq!(reader.overview().unwrap().quarantined, 1);
    assert_eq!(reader.losses().unwrap()[0].loss.kind, LossKind::Batches);
    let (_, recovery) = Store::open(&lock, &settings(), &moment(), LastStop::Unclean).unwrap();
    assert_eq!(recovery.next_prediction_sequence, 6);
}

#[test]
fn a_log_that_is_no_database_is_set_aside_and_one_with_holes_is_salvaged() {
    let folder = tempfile::tempdir().unwrap();
    dunlin_kit::atomic_file::write(&folder.path().join(TELEMETRY_FILE), &[0x41; 10_000]).unwrap();
    let (lock, mut store, recovery) = open(folder.path(), &settings());
    assert!(fs::read(recovery.salvaged.unwrap().kept_as).unwrap().starts_with(b"AAAA"));
    for n in 1..=400 {
        commit(&mut store, [step(n)]).unwrap();
    }
    store.truncate_wal().unwrap();
    drop(store);
    let path = folder.path().join(TELEMETRY_FILE);
    let length = fs::metadata(&path).unwrap().len();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff; 4_096], length - 3 * 4_096).unwrap();
    let (_store, recovery) = Store::open(&lock, &settings(), &moment(), LastStop::Unclean).unwrap();
    let report = recovery.salvaged.unwrap();
    assert!((100..400).contains(&report.batches), "{report:?}");
    assert!(recovery.next_prediction_sequence > 400);
    assert_eq!(recovery.series.len(), 1);
    let losses = StoreReader::open(folder.path()).unwrap().losses().unwrap();
    assert!(losses.iter().any(|l| l.loss.reason == "damaged"));
}

#[test]
fn a_damaged_checkpoint_is_no_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (lock, mut store, _) = open(folder.path(), &settings());
    let mut saved = step(1);
    saved.checkpoint = Some(b"windows".to_vec());
    commit(&mut store, [saved, step(2)]).unwrap();
    store.connection.execute("UPDATE checkpoint SET state = x'00'", []).unwrap();
    drop(store);
    let (mut store, recovery) = Store::open(&lock, &settings(), &moment(), LastStop::Clean).unwrap();
    assert_eq!(recovery.checkpoint, None);
    let mut steps = 0;
    store.replay_after_checkpoint(&mut |batch| steps += batch.steps.len()).unwrap();
    assert_eq!(steps, 2);
}

#[test]
fn a_log_from_the_future_is_refused_by_the_version_needed() {
    let folder = tempfile::tempdir().unwrap();
    let (lock, store, _) = open(folder.path(), &settings());
    store
        .connection
        .execute_batch(
            "UPDATE origin SET version = '9.1.0';
             INSERT INTO refinery_schema_history SELECT 99, 'later', applied_on, checksum FROM refinery_schema_history LIMIT 1",
        )
        .unwrap();
    drop(store);
    let error = Store::open(&lock, &settings(), &moment(), LastStop::Clean).unwrap_err();
    assert!(
        error.to_string().contains("install that version") && error.to_string().contains("9.1.0"),
        "{error}"
    );
    assert!(StoreReader::open(folder.path()).is_err());
}

#[test]
fn times_of_an_unset_clock_are_corrected_when_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let lock = FolderLock::acquire(folder.path()).unwrap();
    let mono_us = dunlin_kit::clock::monotonic_micros();
    let unset = Moment { wall_us: mono_us, mono_us, boot_id: "b".into() };
    let (mut store, _) = Store::open(&lock, &settings(), &unset, LastStop::Clean).unwrap();
    let mut first = step(1);
    first.readings = vec![reading(1, TimedBy::Arrival, mono_us + 5), reading(1, TimedBy::Payload, 7)];
    commit(&mut store, [first]).unwrap();
    store.step_clock(dunlin_kit::clock::monotonic_micros(), BUILD_EPOCH_MICROS);
    commit(&mut store, [step(2)]).unwrap();
    let mut found = Vec::new();
    StoreReader::open(folder.path())
        .unwrap()
        .readings(&Selection::default(), &mut |r| {
            found.push(r.event_us);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(found, [BUILD_EPOCH_MICROS + mono_us + 5, 7, T0 + 200_000]);
}

#[test]
fn predictions_are_found_again_by_sequence_model_and_time() {
    let folder = tempfile::tempdir().unwrap();
    let (_lock, mut store, _) = open(folder.path(), &settings());
    for n in 0..30 {
        commit(&mut store, [step(n * 2 + 1), step(n * 2 + 2)]).unwrap();
    }
    let mut reader = StoreReader::open(folder.path()).unwrap();
    let mut after = Vec::new();
    reader
        .predictions_after(41, 3, &mut |p| after.push((p.stored.sequence, p.id, p.label.map(str::to_owned))))
        .unwrap();
    let expected = |n: u64, label: &str| {
        (n, PredictionId::of(&instance(), T0 + n as i64 * 100_000), Some(label.to_owned()))
    };
    assert_eq!(after, [expected(42, "normal"), expected(43, "alarm"), expected(44, "normal")]);
    let selection =
        Selection { name: Some("frost".into()), from_us: Some(T0 + 300_000), to_us: Some(T0 + 600_000) };
    let mut count = 0;
    reader
        .predictions(&selection, &mut |_| {
            count += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(count, 3);
}

struct Running {
    commands: queue::Sender<WriterCommand>,
    thread: std::thread::JoinHandle<Result<(), StoreError>>,
    acks: mpsc::Receiver<Vec<AckToken>>,
    committed: watch::Receiver<u64>,
    metrics: Arc<Metrics>,
}

fn start(store: Store) -> Running {
    let (commands, receiver) = queue::bounded(crate::flow::STEPS);
    let (ack_sender, acks) = mpsc::channel(crate::flow::ACKNOWLEDGEMENTS);
    let (committed_sender, committed) = watch::channel(0);
    let metrics = Arc::new(Metrics::new(0));
    let settings = WriterSettings {
        acks: vec![ack_sender],
        in_flight_max: 20,
        published_through: Arc::new(AtomicU64::new(0)),
        committed: committed_sender,
        checkpoint_wanted: Arc::new(AtomicBool::new(false)),
    };
    let thread = spawn_writer(store, receiver, settings, Arc::clone(&metrics)).unwrap();
    Running { commands, thread, acks, committed, metrics }
}

impl Running {
    fn send(&self, command: WriterCommand) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(runtime.block_on(self.commands.send(command)).is_ok());
    }

    fn flush(&self) {
        let (answer, answered) = oneshot::channel();
        self.send(WriterCommand::Flush(answer));
        answered.blocking_recv().unwrap();
    }

    fn acknowledged(&mut self) -> usize {
        let mut count = 0;
        while let Ok(acks) = self.acks.try_recv() {
            count += acks.len();
        }
        count
    }

    fn stop(self) {
        self.send(WriterCommand::Stop);
        self.thread.join().unwrap().unwrap();
    }
}

#[test]
fn what_was_published_before_its_commit_does_not_count_as_published_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let (lock, mut store, _) = open(folder.path(), &settings());
    let mut pending = PendingBatch::default();
    pending.push(step(1));
    store.commit(&pending, 7).unwrap();
    drop((lock, store));
    let (_lock, _store, recovery) = open(folder.path(), &settings());
    assert_eq!((recovery.next_prediction_sequence, recovery.published_through), (2, 1));
}

#[test]
fn acknowledgements_follow_the_commit_and_a_stop_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (_lock, store, _) = open(folder.path(), &settings());
    let mut running = start(store);
    for n in 1..=100 {
        running.send(WriterCommand::Step(step(n)));
    }
    running.flush();
    assert_eq!(running.acknowledged(), 100);
    assert_eq!(*running.committed.borrow(), 100);
    assert_eq!(sequences(folder.path()).0.len(), 100);
    running.send(WriterCommand::Step(step(101)));
    let metrics = Arc::clone(&running.metrics);
    running.stop();
    assert_eq!(sequences(folder.path()).0.len(), 101);
    let counts = metrics.store_counts();
    assert_eq!((counts.state.as_str(), counts.predictions, counts.last_sequence), ("ok", 101, 101));
}

/// Sums predictions and readings left in the log and given up in the ledger.
fn accounts(folder: &Path) -> (u64, u64) {
    let reader = StoreReader::open(folder).unwrap();
    let overview = reader.overview().unwrap();
    let losses = reader.losses().unwrap();
    let lost = |kind| losses.iter().filter(|l| l.loss.kind == kind).map(|l| l.loss.count).sum::<u64>();
    (overview.readings + lost(LossKind::Readings), overview.predictions + lost(LossKind::Predictions))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]
    #[test]
    fn the_log_stays_in_its_quota_and_the_ledger_explains_the_rest(
        retention in prop_oneof![Just(PredictionRetention::Thin), Just(PredictionRetention::Summarise), Just(PredictionRetention::DropOldest)],
        per_batch in 20_u64..60,
        batches in 200_u64..500,
        checkpoint_every in 1_u64..40,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let small = StorageSettings { bytes_max: 512 << 10, predictions_retention: retention, ..settings() };
        let (lock, mut store, _) = open(folder.path(), &small);
        let mut memory = Retention::default();
        let mut written = 0;
        for batch in 0..batches {
            let mut steps: Vec<_> = (written + 1..=written + per_batch).map(step).collect();
            if batch % checkpoint_every == 0 {
                steps.last_mut().unwrap().checkpoint = Some(vec![7; 500]);
            }
            while let Err(e) = commit(&mut store, std::mem::take(&mut steps)) {
                prop_assert_eq!(e.class(), FailureClass::Full);
                let turn = memory.turn(&mut store, Pressure::Emergency).unwrap();
                prop_assert_eq!(turn, Turn::More);
                steps = (written + 1..=written + per_batch).map(step).collect();
                steps.last_mut().unwrap().checkpoint = Some(vec![7; 500]);
            }
            written += per_batch;
            let _ = memory.turn(&mut store, Pressure::Routine).unwrap();
            prop_assert!(store.used_bytes().unwrap() <= 512 << 10);
        }
        drop(store);
        prop_assert!(fs::metadata(folder.path().join(TELEMETRY_FILE)).unwrap().len() <= 512 << 10);
        prop_assert_eq!(accounts(folder.path()), (written, written));
        prop_assert_eq!(sequences(folder.path()).1, 0);
        let (_store, recovery) = Store::open(&lock, &small, &moment(), LastStop::Clean).unwrap();
        prop_assert_eq!(recovery.next_prediction_sequence, written + 1);
    }
}

/// A tmpfs of 3 MB, where the test may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"])
            .arg(folder.path())
            .stderr(std::process::Stdio::null())
            .status();
        mounted.is_ok_and(|s| s.success()).then_some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_small_disk_that_others_fill_costs_history_and_no_acknowledgement() {
    let Some(disk) = SmallDisk::mount() else { return };
    let folder = disk.0.path();
    let (_lock, store, _) = open(folder, &StorageSettings { free_bytes_min: 256 << 20, ..settings() });
    let mut running = start(store);
    let mut sent = 0;
    let mut feed = |running: &mut Running, steps: u64| {
        for n in sent + 1..=sent + steps {
            let mut step = step(n);
            step.checkpoint = n.is_multiple_of(100).then(|| vec![1; 1_000]);
            running.send(WriterCommand::Step(step));
            if n.is_multiple_of(50) {
                running.flush();
            }
        }
        sent += steps;
        running.flush();
    };
    feed(&mut running, 2_000);
    assert_eq!(running.acknowledged(), 2_000);
    let hog = OpenOptions::new().create_new(true).write(true).open(folder.join("hog")).unwrap();
    let mut at = 0;
    while hog.write_at(&[1; 4_096], at).is_ok_and(|n| n == 4_096) {
        at += 4_096;
    }
    feed(&mut running, 30_000);
    assert_eq!(running.acknowledged(), 30_000);
    drop(hog);
    fs::remove_file(folder.join("hog")).unwrap();
    running.stop();
    let (readings, predictions) = accounts(folder);
    assert_eq!((readings, predictions), (32_000, 32_000));
    let losses = StoreReader::open(folder).unwrap().losses().unwrap();
    assert!(
        losses.iter().all(|l| !l.loss.object.is_empty()),
        "steps were given up although old rows could go: {losses:?}"
    );
    let (_, damaged) = sequences(folder);
    assert_eq!(damaged, 0);
}

#[test]
fn a_prediction_takes_few_bytes_beside_its_values() {
    let folder = tempfile::tempdir().unwrap();
    let (_lock, mut store, _) = open(folder.path(), &settings());
    let empty = store.used_bytes().unwrap();
    for batch in 0..1_000_u64 {
        commit(&mut store, (batch * 10 + 1..=batch * 10 + 10).map(step)).unwrap();
    }
    let each = (store.used_bytes().unwrap() - empty) / 10_000;
    let values = 4 * 8 + 2 * 4;
    assert!(each <= 48 + values, "{each} bytes a prediction at ten a transaction");
}

fn written_bytes() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/io").unwrap();
    text.lines().find_map(|l| l.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

#[test]
fn a_prediction_costs_the_card_few_bytes() {
    for (each, bound) in [(10_u64, 1_024), (64, 250)] {
        let folder = tempfile::tempdir().unwrap();
        let (_lock, mut store, _) = open(folder.path(), &settings());
        let before = written_bytes();
        for batch in 0..300_u64 {
            commit(&mut store, (batch * each + 1..=batch * each + each).map(step)).unwrap();
        }
        store.truncate_wal().unwrap();
        let written = (written_bytes() - before) / (300 * each);
        assert!(written <= bound, "{written} bytes a prediction at {each} a transaction");
    }
}

#[test]
fn a_read_only_disk_leaves_a_log_in_memory_that_knows_the_past() {
    let Some(disk) = SmallDisk::mount() else { return };
    let folder = disk.0.path();
    let (lock, mut store, _) = open(folder, &settings());
    let mut saved = step(1);
    saved.checkpoint = Some(b"windows".to_vec());
    commit(&mut store, [saved, step(2)]).unwrap();
    store.truncate_wal().unwrap();
    drop((store, lock));
    let remount = ["-o", "remount,ro"];
    assert!(std::process::Command::new("mount").args(remount).arg(folder).status().unwrap().success());
    let (_lock, store, recovery) = open(folder, &settings());
    assert!(recovery.memory_only);
    assert_eq!(recovery.checkpoint.as_deref(), Some(&b"windows"[..]));
    assert_eq!(recovery.next_prediction_sequence, 3);
    let mut running = start(store);
    for n in 3..=50 {
        running.send(WriterCommand::Step(step(n)));
    }
    running.flush();
    assert_eq!(running.acknowledged(), 48);
    assert_eq!(running.metrics.store_counts().state, "read_only");
    running.stop();
}

/// Writes `count` transactions of one step, saves a checkpoint with the last, and runs retention until it is done.
fn written_and_retained(folder: &Path, settings: &StorageSettings, count: u64) {
    let lock = FolderLock::acquire(folder).unwrap();
    let set = Moment { wall_us: BUILD_EPOCH_MICROS * 2, ..moment() };
    let (mut store, _) = Store::open(&lock, settings, &set, LastStop::Clean).unwrap();
    for n in 1..=count {
        let mut step = step(n);
        step.checkpoint = (n == count).then(|| b"windows".to_vec());
        commit(&mut store, [step]).unwrap();
    }
    let mut memory = Retention::default();
    while memory.turn(&mut store, Pressure::Routine).unwrap() == Turn::More {}
}

#[test]
fn old_readings_go_by_the_time_of_their_commit_and_their_predictions_stay() {
    let folder = tempfile::tempdir().unwrap();
    let aged = StorageSettings { readings_age_max: Some(std::time::Duration::ZERO), ..settings() };
    written_and_retained(folder.path(), &aged, 200);
    let overview = StoreReader::open(folder.path()).unwrap().overview().unwrap();
    assert_eq!((overview.readings, overview.predictions), (64, 200), "the newest rows are kept");
    assert_eq!(accounts(folder.path()), (200, 200));
    assert_eq!(sequences(folder.path()).0, (1..=200).collect::<Vec<_>>());

    let kept = tempfile::tempdir().unwrap();
    let aged =
        StorageSettings { readings_age_max: Some(std::time::Duration::from_secs(3_600)), ..settings() };
    written_and_retained(kept.path(), &aged, 200);
    let overview = StoreReader::open(kept.path()).unwrap().overview().unwrap();
    assert_eq!(overview.readings, 200, "event times of years ago do not make a reading old");
}

#[test]
fn summaries_stand_for_the_predictions_they_replace() {
    let folder = tempfile::tempdir().unwrap();
    let small = StorageSettings {
        bytes_max: 320 << 10,
        predictions_retention: PredictionRetention::Summarise,
        ..settings()
    };
    let (_lock, mut store, _) = open(folder.path(), &small);
    let mut memory = Retention::default();
    for batch in 0..700_u64 {
        let mut steps: Vec<_> = (batch * 60 + 1..=batch * 60 + 60).map(step).collect();
        steps[59].checkpoint = Some(vec![1]);
        // Every second one is of a package in shadow: it stands for nothing.
        for prediction in steps.iter_mut().step_by(2).flat_map(|step| &mut step.predictions) {
            prediction.head.flags = QualityFlags::SHADOW;
            prediction.outputs[1] = 9.0;
        }
        commit(&mut store, steps).unwrap();
        while memory.turn(&mut store, Pressure::Routine).unwrap() == Turn::More {}
    }
    let mut reader = StoreReader::open(folder.path()).unwrap();
    let lost = reader.losses().unwrap().into_iter().find(|l| l.loss.reason == "summarised").unwrap().loss;
    assert_eq!((lost.kind, lost.object.as_str()), (LossKind::Predictions, "frost"));
    let (mut count, mut halves) = (0, true);
    reader
        .summaries(&mut |s| {
            count += if s.element == 1 { s.count } else { 0 };
            halves &= s.element == 0 || (s.mean, s.low, s.high) == (0.5, 0.5, 0.5);
        })
        .unwrap();
    assert_eq!(2 * count, lost.count);
    assert!(halves);
}

#[test]
fn publications_come_back_page_by_page_and_nothing_is_held_after_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let (_lock, mut store, _) = open(folder.path(), &settings());
    commit(&mut store, (1..=5).map(step)).unwrap();
    let model = serde_json::from_value(serde_json::json!({ "name": "frost", "key": ["room"] })).unwrap();
    let mut backlog = StoredBacklog::new(folder.path().to_owned(), Topics::new("g", &[model]));
    let page = backlog.publications_after(0, 3).unwrap();
    assert_eq!(
        (page.end, page.publications.len(), backlog.rests()),
        (PageEnd::More, page.through as usize, false)
    );
    let rest = backlog.publications_after(page.through, 9).unwrap();
    assert_eq!((rest.end, rest.through, backlog.rests()), (PageEnd::Exhausted, 5, true));
    // It is asked again when the queue is full the next time.
    commit(&mut store, [step(6)]).unwrap();
    let later = backlog.publications_after(5, 9).unwrap();
    assert_eq!((later.end, later.through, later.publications.len()), (PageEnd::Exhausted, 6, 1));
    assert!(backlog.rests());
}
