//! Exports over a history that is passed in: formats, selections, damage, limits.

use std::fs;

use dunlin_model_package::Digest;
use dunlin_pipeline::prediction::{PredictionId, QualityFlags};
use dunlin_pipeline::reading::{SeriesIdentity, TimedBy};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::command::history::{ReadFault, Rows};
use crate::command::query;
use crate::command::{Cause, EXIT_CHECK_FAILED, EXIT_NOT_FOUND, EXIT_USAGE};

#[derive(Default)]
struct Past {
    instances: Vec<Arc<InstanceIdentity>>,
    series: Vec<Arc<SeriesIdentity>>,
    readings: Vec<ReadingRow>,
    windows: i64,
    /// Every second prediction is one of a package in shadow.
    shadowed: bool,
    damaged: Vec<u64>,
}

impl Past {
    fn of_models(models: &[&str], windows: i64) -> Self {
        let identity = |model: &&str| {
            Arc::new(InstanceIdentity {
                model: (*model).into(),
                version: "1".into(),
                package: Digest::of(b"p"),
                key: vec![("room".into(), format!("of\u{1b}{model}"))],
                outputs: vec![("score".into(), 1)],
                labels: vec![],
            })
        };
        Self { instances: models.iter().map(identity).collect(), windows, ..Self::default() }
    }
}

impl History for Past {
    fn instances(&self) -> Result<Vec<Arc<InstanceIdentity>>, Cause> {
        Ok(self.instances.clone())
    }

    fn series(&self) -> Result<Vec<Arc<SeriesIdentity>>, Cause> {
        Ok(self.series.clone())
    }

    fn predictions(&self, _: &Selection) -> Result<Rows<'_, PredictionRow>, Cause> {
        let damaged = self.damaged.iter().map(|sequence| {
            Err(ReadFault::DamagedBatch { sequence: *sequence, reason: "its checksum is wrong".into() })
        });
        let shadowed = self.shadowed;
        let rows = (0..self.windows).flat_map(move |window| {
            self.instances.iter().map(move |identity| {
                Ok(PredictionRow {
                    identity: Arc::clone(identity),
                    id: PredictionId::of(identity, window * 1_000_000),
                    window_end_us: window * 1_000_000,
                    flags: if shadowed && window % 2 == 1 {
                        QualityFlags::SHADOW
                    } else {
                        QualityFlags::default()
                    },
                    outputs: vec![window as f32 / 10.0],
                    label: Some("warm".into()),
                    alert: None,
                })
            })
        });
        Ok(Box::new(damaged.chain(rows)))
    }

    fn readings(&self, _: &Selection) -> Result<Rows<'_, ReadingRow>, Cause> {
        Ok(Box::new(self.readings.iter().cloned().map(Ok)))
    }
}

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: ExportArgs,
}

/// Runs `export` with these arguments; returns its exit code and the file it wrote.
fn export(past: Past, arguments: &str) -> (u8, String) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("out");
    let mut words: Vec<String> = vec!["export".into()];
    words.extend(arguments.split_whitespace().map(str::to_owned));
    words.extend(["--output".into(), path.display().to_string()]);
    words.extend(["--state-dir".into(), folder.path().display().to_string()]);
    let cli = <Cli as clap::Parser>::try_parse_from(words).unwrap();
    let code = match run(&cli.args, |_| Ok(past)) {
        Ok(_) => 0,
        Err(error) => error.exit_code(),
    };
    (code, fs::read_to_string(path).unwrap_or_default())
}

#[test]
fn a_table_is_of_one_model_and_of_the_selected_rows() {
    let (code, text) = export(
        Past::of_models(&["a", "b"], 10),
        "--model b --since 1970-01-01T00:00:02Z --until 1970-01-01T00:00:08Z --limit 3",
    );
    assert_eq!(code, 0);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[1].starts_with("2000,0.2,") && lines[3].starts_with("4000,0.4,"), "{text}");
    assert!(lines.iter().skip(1).all(|line| line.contains(",b,1,room=of\u{1b}b,warm,,")), "{text}");
}

#[test]
fn several_models_need_a_choice_and_an_unknown_one_is_not_found() {
    assert_eq!(export(Past::of_models(&["a", "b"], 1), ""), (EXIT_USAGE, String::new()));
    assert_eq!(export(Past::of_models(&["a"], 1), "--model c"), (EXIT_NOT_FOUND, String::new()));
    assert_eq!(export(Past::default(), ""), (EXIT_NOT_FOUND, String::new()));
    assert_eq!(export(Past::of_models(&["a"], 1), "").0, 0);
}

#[test]
fn damaged_batches_are_left_out_and_change_the_exit_code() {
    let mut past = Past::of_models(&["a"], 2);
    past.damaged = vec![7, 7, 9];
    let (code, text) = export(past, "");
    assert_eq!((code, text.lines().count()), (EXIT_CHECK_FAILED, 3));
}

#[test]
fn json_lines_are_as_published_and_hold_all_models() {
    let (code, text) = export(Past::of_models(&["a", "b"], 2), "--format jsonl --key room=of\u{1b}a");
    assert_eq!(code, 0);
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[1]["window_end"], "1970-01-01T00:00:01.000000Z");
    assert_eq!(rows[1]["outputs"], json!({"score": [0.1]}));
    assert_eq!(rows[1]["label"], "warm");
}

#[test]
fn shadow_predictions_are_exported_on_request_alone_and_say_what_they_are() {
    let past = || Past { shadowed: true, ..Past::of_models(&["a"], 6) };
    for format in ["", "--format jsonl"] {
        let (_, without) = export(past(), format);
        assert!(!without.contains("shadow"), "{without}");
        let (_, with) = export(past(), &format!("--shadow {format}"));
        let shadow = with.lines().filter(|line| line.contains("shadow")).count();
        assert_eq!((shadow, with.lines().count() - without.lines().count()), (3, 3), "{with}");
    }
}

#[test]
fn readings_are_exported_by_source() {
    let past = || {
        let series = Arc::new(SeriesIdentity {
            source: "hall".into(),
            tags: vec![("room".into(), "a".into())],
            fields: vec!["t".into(), "rh".into()],
        });
        let reading = ReadingRow {
            series: Arc::clone(&series),
            event_us: 1_500,
            timed_by: TimedBy::Payload,
            values: vec![20.5, f64::NAN],
        };
        Past { series: vec![series], readings: vec![reading], ..Past::default() }
    };
    let (_, csv) = export(past(), "--readings --source hall");
    assert_eq!(csv, "event_ms,t,rh,source,tags,timed_by\n1.500,20.5,,hall,room=a,payload\n");
    let (_, jsonl) = export(past(), "--readings --format jsonl");
    assert_eq!(
        serde_json::from_str::<Value>(&jsonl).unwrap(),
        json!({"source": "hall", "tags": {"room": "a"}, "event": "1970-01-01T00:00:00.001500Z",
               "timed_by": "payload", "values": {"t": 20.5, "rh": null}})
    );
}

#[test]
fn the_table_of_query_is_safe_for_a_terminal() {
    let past = Past::of_models(&["a"], 3);
    let rows: Vec<PredictionRow> =
        past.predictions(&Selection::default()).unwrap().map(|row| row.ok().unwrap()).collect();
    let table = query::prediction_table(&rows);
    assert!(table.chars().all(|c| c == '\n' || !c.is_control()), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
}
