//! A gateway's core, store and upload, killed at any step, against one that was not: the same windows, in the same rows.
//!
//! The stage's order without its tasks: readings, models, counting, one transaction. What was not committed comes again, as
//! from a broker.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use dunlin_drift::faults::Usual;
use dunlin_drift::privacy::Privacy;
use dunlin_drift::reference::{Reading as Seen, Reference, SPANS_S};
use dunlin_kit::clock::BUILD_EPOCH_MICROS;
use dunlin_model_package::profile::{FeatureProfile, MadeOf, SCHEMA};
use dunlin_model_package::{Digest, Manifest, Profile};
use dunlin_pipeline::collect::{CollectSettings, Predicted, Reporting};
use dunlin_pipeline::lane::LaneRole;
use dunlin_pipeline::message::{ClockState, Message};
use dunlin_pipeline::prediction::Prediction;
use dunlin_pipeline::{Core, ModelBinding, Turn};
use dunlin_protocol::batch::{Predictions, Statistics};
use dunlin_protocol::{Batch, Stream};
use proptest::prelude::*;
use tokio::sync::watch;

use super::released;
use crate::config::settings::{CommitProfile, PredictionRetention, StorageSettings};
use crate::flow::Step;
use crate::stage::restore::restore;
use crate::store::open::PendingBatch;
use crate::store::outbox::SettledNumbers;
use crate::store::outbox_reader::OutboxReader;
use crate::store::outbox_windows::{Standing, WindowEntry};
use crate::store::{FolderLock, LastStop, Moment, Store, WriterCommand, queue};
use crate::upload::selection::Sampling;
use crate::upload::{UploadSettings, Uploads};

const MINUTE_US: i64 = 60_000_000;
const START_US: i64 = (BUILD_EPOCH_MICROS / 3_600_000_000 + 10) * 3_600_000_000;
/// Digits that no other number of a message has.
const PLANTED: f64 = 21.735_191_735_19;

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

fn sound(minute: i64) -> f64 {
    20.0 + (minute as f64 / 40.0).sin() + ((minute * 7_919).rem_euclid(1_000)) as f64 / 1_000.0
}

fn profile() -> Profile {
    let values: Vec<Seen<f64>> = (0..5_000).map(|n| (n * MINUTE_US, Some(sound(n)))).collect();
    let scores: Vec<Seen<f64>> =
        (0..5_000).map(|n| (n * MINUTE_US, Some(sound(n).rem_euclid(1.0)))).collect();
    let usual = Usual::of(std::slice::from_ref(&values));
    let reference = Reference::of_numbers(&[values], &SPANS_S).unwrap();
    let feature = FeatureProfile { unit: None, range: None, reference, usual };
    Profile {
        schema: SCHEMA,
        made_of: MadeOf { rows: 5_000, series: 1, from_us: 0, to_us: 4_999 * MINUTE_US },
        features: BTreeMap::from([("a".to_owned(), feature)]),
        outputs: BTreeMap::from([("y".to_owned(), Reference::of_numbers(&[scores], &SPANS_S).unwrap())]),
        together: None,
        scores: None,
        metrics: BTreeMap::new(),
    }
}

fn core(profile: &Arc<Profile>) -> Core {
    let source = "name = \"s\"\ntopics = [\"s/{id}\"]\nformat = \"json\"\n\
         time = { pointer = \"/t\", format = \"unix-us\" }\nfields.a = {}";
    let manifest: Manifest = serde_json::from_value(serde_json::json!({
        "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": { "length": 2 },
        "inputs": [{ "name": "x", "shape": ["batch", 2, 1], "features": [{ "name": "a" }] }],
        "outputs": [{ "name": "y", "kind": "anomaly", "shape": ["batch", 1] }],
        "blobs": {}
    }))
    .unwrap();
    let spec = toml::from_str("name = \"m\"\npackage = \"p\"\nkey = [\"id\"]").unwrap();
    let binding =
        ModelBinding { spec, manifest, package: Digest::of(b"p"), profile: Some(Arc::clone(profile)) };
    let mut core =
        Core::compile(&[toml::from_str(source).unwrap()], vec![Some((LaneRole::Serving, binding)), None])
            .unwrap();
    core.collect_with(Some(CollectSettings {
        span_us: 15 * MINUTE_US,
        grace_us: 5 * MINUTE_US,
        values_min: 5,
        reporting: Reporting::AtEnd,
    }));
    core
}

struct Gateway {
    profile: Arc<Profile>,
    lock: FolderLock,
    store: Store,
    core: Core,
    settled: SettledNumbers,
    next_sequence: u64,
}

impl Gateway {
    fn start(folder: &Path) -> Self {
        let lock = FolderLock::acquire(folder).unwrap();
        let (mut store, mut recovery) =
            Store::open(&lock, &settings(), &Moment::now(), LastStop::Unclean).unwrap();
        let settled = SettledNumbers::default();
        store.guard_numbers(&lock, &mut recovery, &settled).unwrap();
        let profile = Arc::new(profile());
        let mut core = core(&profile);
        restore(&mut core, &mut store, &mut recovery).unwrap();
        Self { profile, lock, store, core, settled, next_sequence: recovery.next_prediction_sequence }
    }

    fn kill(self) -> Self {
        let folder = self.lock.folder().to_owned();
        drop(self);
        Self::start(&folder)
    }

    /// Does what the stage does with messages, up to the transaction.
    fn step(&mut self, messages: &[(u8, i64, f64)]) -> Step {
        let mut turn = Turn::default();
        for (id, at_us, value) in messages {
            let payload = format!(r#"{{"t":{at_us},"a":{value}}}"#);
            let topic = format!("s/{id}");
            let message = Message {
                broker: None,
                topic: &topic,
                payload: payload.as_bytes(),
                retained: false,
                arrival_us: *at_us,
                clock: ClockState::Set,
            };
            self.core.take(&message, &mut turn);
        }
        let windows = std::mem::take(&mut turn.windows);
        let made = windows.into_iter().map(|window| {
            let score = window.values.last().map_or(0.0, |value| value.rem_euclid(1.0));
            self.core.finish(window.head, Some(vec![score]))
        });
        let predictions: Vec<Prediction> = made.collect();
        let mut reports = Vec::new();
        self.core.collect(&turn.observations, predictions.iter().map(Predicted::from), &mut reports);
        let mut chance = || 0.5;
        let step = Step {
            readings: turn.readings,
            new_series: turn.new_series,
            new_instances: turn.new_instances,
            prediction_sequence: self.next_sequence,
            windows: reports
                .iter()
                .map(|report| released(report, &Privacy { values_min: 5, ..Privacy::default() }, &mut chance))
                .collect(),
            predictions,
            ..Step::default()
        };
        self.next_sequence += step.predictions.len() as u64;
        step
    }

    fn commit(&mut self, steps: Vec<Step>, saves: bool) {
        let mut pending = PendingBatch::default();
        steps.into_iter().for_each(|step| drop(pending.push(step)));
        if saves {
            let checkpoint = Some(self.core.snapshot());
            let new_instances = self.core.announce();
            let prediction_sequence = self.next_sequence;
            pending.push(Step { checkpoint, new_instances, prediction_sequence, ..Step::default() });
        }
        self.store.commit(&pending, 0).unwrap();
    }

    fn rows(&self) -> Vec<(u64, Standing, WindowEntry)> {
        let mut reader = OutboxReader::open(self.lock.folder()).unwrap();
        let all = dunlin_protocol::Range::new(1, 1 << 40).unwrap();
        reader.windows(all, 10_000).unwrap().0
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_gateway_that_is_killed_reports_the_same_windows_in_the_same_rows(
        fates in prop::collection::vec((1..12usize, 0..3u8, 0..10u8), 40..60),
    ) {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let mut whole = Gateway::start(folders[0].path());
        let mut killed = Gateway::start(folders[1].path());
        let mut minute = 0;
        for (count, id, fate) in fates {
            let minutes = minute..minute + count as i64;
            minute = minutes.end;
            let messages: Vec<_> =
                minutes.map(|minute| (id, START_US + minute * MINUTE_US, sound(minute))).collect();
            let step = whole.step(&messages);
            whole.commit(vec![step], fate == 9);
            match fate {
                // Killed before the transaction: the broker delivers again.
                0..3 => {
                    drop(killed.step(&messages));
                    killed = killed.kill();
                    let step = killed.step(&messages);
                    killed.commit(vec![step], false);
                }
                // Killed after it.
                3..5 => {
                    let step = killed.step(&messages);
                    killed.commit(vec![step], fate == 4);
                    killed = killed.kill();
                }
                // Two steps in one transaction.
                5 => {
                    let (one, other) = messages.split_at(messages.len() / 2);
                    let steps = vec![killed.step(one), killed.step(other)];
                    killed.commit(steps, false);
                }
                _ => {
                    let step = killed.step(&messages);
                    killed.commit(vec![step], fate == 8);
                }
            }
        }
        let (rows, expected) = (killed.rows(), whole.rows());
        prop_assert!(!expected.is_empty());
        let said = |rows: &[(u64, Standing, WindowEntry)]| {
            let mut last: BTreeMap<(u32, i64), WindowEntry> = BTreeMap::new();
            for (_, _, window) in rows {
                last.insert((window.instance, window.from_us), window.clone());
            }
            last
        };
        prop_assert_eq!(said(&rows), said(&expected));
        let numbers: Vec<u64> = rows.iter().map(|row| row.0).collect();
        prop_assert_eq!(numbers, (1..=rows.len() as u64).collect::<Vec<_>>());
    }
}

#[test]
fn with_predictions_kept_at_home_nothing_that_is_sent_holds_a_reading() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(folder.path());
    let planted = |minute: i64| if minute % 17 == 3 { PLANTED } else { sound(minute) };
    for minute in 0..300 {
        let step = gateway.step(&[(1, START_US + minute * MINUTE_US, planted(minute))]);
        gateway.commit(vec![step], minute % 50 == 0);
    }
    let (sender, _commands) = queue::bounded::<WriterCommand>(64);
    let line = watch::channel(Some(sender)).1;
    let upload = UploadSettings { predictions: Sampling::None, budget_bytes: None };
    let mut uploads = Uploads::open(&gateway.lock, upload, gateway.settled.clone(), line).unwrap();
    let sent: Vec<Batch> = uploads.fill(1 << 20).into_vec();
    let text = serde_json::to_string(&sent).unwrap();
    let windows = sent.iter().find(|batch| *batch.stream() == Stream::Statistics).unwrap();
    let windows: Statistics = windows.read().unwrap();
    assert!(windows.iter().count() >= 15);
    let predictions = sent.iter().find(|batch| *batch.stream() == Stream::Predictions).unwrap();
    assert_eq!(predictions.read::<Predictions>().unwrap().iter().count(), 0);
    // Neither as text, in any number of digits that tells it, nor as a number of either width within the summaries.
    assert!(!text.contains("21.73519") && !text.contains("2173519"), "a reading is sent");
    let single = (PLANTED as f32).to_le_bytes();
    for row in windows.iter() {
        let holds = |needle: &[u8]| row.summaries.windows(needle.len()).any(|part| part == needle);
        assert!(!holds(&PLANTED.to_le_bytes()) && !holds(&PLANTED.to_be_bytes()));
        assert!(!holds(&single) && !holds(&[single[3], single[2], single[1], single[0]]));
    }
    // The same capture with predictions allowed holds what the model made of it: the search can find.
    let all = UploadSettings { predictions: Sampling::All, budget_bytes: None };
    uploads.configure(all);
    let text = serde_json::to_string(&uploads.fill(1 << 20)).unwrap();
    let made = serde_json::to_string(&(PLANTED as f32).rem_euclid(1.0)).unwrap();
    assert!(text.contains(&made), "{made}");
    assert!(gateway.profile.features.contains_key("a"));
}
