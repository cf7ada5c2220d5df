//! `dunlin profile` as a person uses it: data in the shapes that training leaves, real models, exit codes and messages.
//!
//! Builds profiles of the repository's example of a room. Never looks at how long something took.

#![expect(clippy::unwrap_used, reason = "a test ends at the first thing that is not as it should be")]

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use dunlin_cli::profile::fields::fields;
use dunlin_cli::profile::files;
use dunlin_cli::profile::gathering::{Gathering, Times};
use dunlin_cli::profile::layout::Names;
use dunlin_model_package::profile::Profile;
use dunlin_model_package::profile::making::{Material, SeriesReadings, make};
use dunlin_model_package::{Golden, Manifest};
use dunlin_pipeline::decode::WrittenTime;
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use serde_json::Value;

/// Fields of the room in the order of the columns.
const FIELDS: [&str; 5] = ["temperature", "humidity", "illuminance", "co2", "humidity_ratio"];
const BEGIN_MS: i64 = 1_741_593_600_000;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

fn write(path: &Path, text: &str) {
    dunlin_kit::atomic_file::write(path, text.as_bytes()).unwrap();
}

fn dunlin(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
    command.env_remove("LC_ALL").env_remove("LC_CTYPE").env("LANG", "C.UTF-8").env("COLUMNS", "80");
    command.args(arguments).current_dir(folder).output().unwrap()
}

fn text(output: &Output) -> String {
    [output.stdout.as_slice(), output.stderr.as_slice()].map(String::from_utf8_lossy).concat()
}

#[track_caller]
fn assert_code(output: &Output, code: i32, expected: &[&str]) {
    let text = text(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in expected {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

/// A row of a room: time, values, whether somebody was in.
struct Row {
    at_ms: i64,
    room: &'static str,
    values: [Option<f64>; 5],
    occupied: bool,
}

/// Two rooms over some minutes: people from eight to five, light and breath with them, noise that repeats nowhere.
fn rows(minutes: i64) -> Vec<Row> {
    let mut rows = Vec::new();
    for minute in 0..minutes {
        for (room, offset) in [("office", 0.0), ("lab", 0.4)] {
            let noise = |seed: f64| ((minute as f64 + offset * 100.0) * seed).sin() * 43_758.545 % 1.0;
            let hour = (minute / 60) % 24;
            let occupied = (8..17).contains(&hour);
            let people = f64::from(u8::from(occupied));
            let value = |value: f64| Some((value * 1e4).round() / 1e4);
            rows.push(Row {
                at_ms: BEGIN_MS + minute * 60_000,
                room,
                values: [
                    value(20.0 + offset + 2.0 * people + 0.2 * noise(0.123)),
                    if minute % 97 == 5 { None } else { value(25.0 + people + noise(0.777)) },
                    value((450.0 * people + 20.0 * noise(0.311)).max(0.0)),
                    value(450.0 + 400.0 * people + 20.0 * noise(0.519)),
                    value(0.004 + 0.0005 * people + 0.0001 * noise(0.911)),
                ],
                occupied,
            });
        }
    }
    rows
}

fn cell(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| format!("{value:?}"))
}

fn csv<'r>(rows: impl IntoIterator<Item = &'r Row>) -> String {
    let mut text = format!("time,room,{},occupied\n", FIELDS.join(","));
    for row in rows {
        let values = row.values.map(cell).join(",");
        writeln!(text, "{},{},{values},{}", row.at_ms, row.room, u8::from(row.occupied)).unwrap();
    }
    text
}

/// The same as a gateway exports it: in the units of its sources, which are those of the package here.
fn exported(rows: &[Row]) -> String {
    let mut text = format!("event_ms,{},source,tags,timed_by\n", FIELDS.join(","));
    for row in rows {
        writeln!(text, "{},{},rooms,room={},payload", row.at_ms, row.values.map(cell).join(","), row.room)
            .unwrap();
    }
    text
}

fn write_parquet(path: &Path, rows: &[Row]) {
    let optional: String = FIELDS.iter().map(|field| format!("optional double {field};")).collect();
    let schema = format!(
        "message room {{ required int64 time (TIMESTAMP(MILLIS,true)); required binary room (UTF8); {optional} required int64 occupied; }}"
    );
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let mut writer =
        SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
    for rows in rows.chunks(1_000) {
        let mut group = writer.next_row_group().unwrap();
        let times: Vec<i64> = rows.iter().map(|row| row.at_ms).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&times, None, None).unwrap();
        column.close().unwrap();
        let rooms: Vec<ByteArray> = rows.iter().map(|row| ByteArray::from(row.room)).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&rooms, None, None).unwrap();
        column.close().unwrap();
        for field in 0..FIELDS.len() {
            let values: Vec<f64> = rows.iter().filter_map(|row| row.values[field]).collect();
            let levels: Vec<i16> = rows.iter().map(|row| i16::from(row.values[field].is_some())).collect();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<DoubleType>().write_batch(&values, Some(&levels), None).unwrap();
            column.close().unwrap();
        }
        let labels: Vec<i64> = rows.iter().map(|row| i64::from(row.occupied)).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&labels, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

/// Copies the example of the occupied room with its package, and recorded messages of it.
fn room() -> tempfile::TempDir {
    let (folder, from) = (tempfile::tempdir().unwrap(), example("occupancy"));
    for file in ["dunlind.toml", "package.toml"] {
        std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    std::fs::create_dir(folder.path().join("package")).unwrap();
    for file in ["manifest.json", "model.onnx", "golden.jsonl"] {
        std::fs::copy(from.join("package").join(file), folder.path().join("package").join(file)).unwrap();
    }
    std::fs::copy(from.join("package/model.onnx"), folder.path().join("model.onnx")).unwrap();
    let golden = std::fs::read_to_string(from.join("package/golden.jsonl")).unwrap();
    let message =
        |line: &str| serde_json::from_str::<Value>(line).unwrap().get("message").map(Value::to_string);
    let samples: Vec<String> = golden.lines().filter_map(message).take(40).collect();
    write(&folder.path().join("samples.ndjson"), &samples.join("\n"));
    folder
}

fn profile(folder: &Path, name: &str) -> Profile {
    Profile::parse(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

#[test]
fn data_become_a_profile_and_the_profile_a_part_of_the_package() {
    let room = room();
    write(&room.path().join("train.csv"), &csv(&rows(3 * 1_440)));
    let built = dunlin(room.path(), &["profile", "build", "train.csv", "--label", "occupied"]);
    assert_code(
        &built,
        0,
        &[
            "wrote `profile.json`",
            "8640 readings of 2 series, 2025-03-10T08:00:00Z to 2025-03-13T07:59:00Z (3.0 days)",
            "accuracy",
            "missing",
            "note: windows of 1 d are not calibrated for co2",
        ],
    );
    let made = profile(room.path(), "profile.json");
    assert_eq!((made.made_of.rows, made.made_of.series, made.features.len()), (8_640, 2, 5));
    assert_eq!(made.features["co2"].unit.as_deref(), Some("ppm"));
    assert_eq!(made.features["humidity"].range, Some((0.0, 100.0)));
    assert_eq!(made.features["humidity"].reference.missing, 90);
    assert_eq!(made.outputs.keys().collect::<Vec<_>>(), ["probabilities[0]", "probabilities[1]"]);
    assert_eq!(made.together.as_ref().unwrap().features.len(), 5);
    let scores = made.scores.as_ref().unwrap();
    assert_eq!(scores.output, "probabilities[1]");
    // A row without humidity is none of the model's.
    assert_eq!(scores.calibration.totals.iter().sum::<u64>(), 8_640 - 90);
    assert!(made.metrics["accuracy"] > 0.9, "{:?}", made.metrics);

    assert_code(
        &dunlin(room.path(), &["package", "build", "--profile", "profile.json"]),
        0,
        &["with a reference profile"],
    );
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(room.path().join("package/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["blobs"]["profile.json"]["sha256"], made.digest().unwrap().to_string());
    assert_code(
        &dunlin(room.path(), &["package", "check"]),
        0,
        &["a reference profile of 5 field(s) and 2 output(s)"],
    );
    assert_code(
        &dunlin(room.path(), &["package", "inspect"]),
        0,
        &["profile   5 field(s), of 8640 readings of 2 series"],
    );
    // Built again without it, the package is as it was without one.
    assert_code(&dunlin(room.path(), &["package", "build"]), 0, &[]);
    assert_code(&dunlin(room.path(), &["package", "check"]), 0, &["no reference profile"]);
}

#[test]
fn csv_parquet_and_a_gateways_export_of_the_same_rows_give_equal_bytes_in_any_order() {
    let room = room();
    let all = rows(1_500);
    write(&room.path().join("train.csv"), &csv(&all));
    write(&room.path().join("export.csv"), &exported(&all));
    write(&room.path().join("first.csv"), &csv(all.iter().rev().filter(|row| row.at_ms % 7 == 0)));
    write(&room.path().join("second.csv"), &csv(all.iter().filter(|row| row.at_ms % 7 != 0)));
    write_parquet(&room.path().join("train.parquet"), &all);
    let build = |files: &[&str], arguments: &[&str]| {
        let arguments = [&["profile", "build"], files, arguments, &["-o", "made.json"]].concat();
        assert_code(&dunlin(room.path(), &arguments), 0, &[]);
        std::fs::read(room.path().join("made.json")).unwrap()
    };
    let labelled = ["--label", "occupied"];
    let of_csv = build(&["train.csv"], &labelled);
    assert!(build(&["train.parquet"], &labelled) == of_csv, "Parquet");
    assert!(build(&["second.csv", "first.csv"], &labelled) == of_csv, "in parts");
    assert!(build(&["export.csv"], &[]) == build(&["train.csv"], &[]), "exported");
    let of_config = ["--spec", "package.toml", "--config", "dunlind.toml"];
    assert!(build(&["export.csv"], &of_config) == build(&["export.csv"], &[]), "before the package is built");
}

#[test]
fn a_profile_is_drawn_within_the_width_of_the_terminal() {
    let room = room();
    write(&room.path().join("train.csv"), &csv(&rows(2_880)));
    assert_code(&dunlin(room.path(), &["profile", "build", "train.csv"]), 0, &[]);
    let shown = dunlin(room.path(), &["profile", "show", "profile.json"]);
    assert_code(&shown, 0, &["temperature  Cel", "█", "PSI 50/95/100 %", "15 min", "together  "]);
    assert!(String::from_utf8_lossy(&shown.stdout).lines().all(|line| line.chars().count() <= 80));
    assert!(!shown.stdout.contains(&0x1b), "colours are for terminals");
    let one = dunlin(room.path(), &["profile", "show", "profile.json", "--feature", "co2", "--ascii"]);
    assert_code(&one, 0, &["co2  ppm", "#"]);
    assert!(one.stdout.is_ascii() && !text(&one).contains("humidity"));
    let json = dunlin(room.path(), &["profile", "show", "profile.json", "-o", "json"]);
    let value: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value["features"]["co2"]["unit"], "ppm");
    assert_code(&dunlin(room.path(), &["profile", "show", "profile.json", "-o", "yaml"]), 0, &["features:"]);
    assert_code(
        &dunlin(room.path(), &["profile", "show", "profile.json", "--feature", "noise"]),
        3,
        &["the profile has no `noise`; it has `co2`"],
    );
    assert_code(
        &dunlin(room.path(), &["profile", "show"]),
        3,
        &["package `package` has no reference profile"],
    );
}

#[test]
fn what_is_bad_is_named_by_file_line_and_column_and_nothing_is_written() {
    let room = room();
    let good = csv(&rows(60));
    let refused = |data: &str, arguments: &[&str], code: i32, expected: &[&str]| {
        write(&room.path().join("bad.csv"), data);
        let output = dunlin(room.path(), &[&["profile", "build", "bad.csv"], arguments].concat());
        assert_code(&output, code, expected);
        assert!(!room.path().join("profile.json").exists());
    };
    let wrong = good.replacen(",lab,20.", ",lab,warm20.", 1);
    refused(&wrong, &[], 5, &["`bad.csv`, line 3, column `temperature`: `warm20."]);
    let wrong = good.replacen(&format!("\n{},lab", BEGIN_MS + 60_000), "\nyesterday,lab", 1);
    refused(&wrong, &[], 5, &["`bad.csv`, line 5, column `time`: `yesterday` is no time"]);
    refused(&(good.clone() + "1,2\n"), &[], 5, &["`bad.csv`, line 122: has 2 cells, and the header names 8"]);
    refused("", &[], 5, &["`bad.csv`: is empty"]);
    refused("a,b\n1,2\n", &[], 5, &["has no column that is named as a time", "`a`, `b`"]);
    refused(
        "time,b\n1,2\n",
        &[],
        5,
        &["for none of the model's fields `temperature`", "--column FIELD=COLUMN"],
    );
    refused(&good.replacen("co2", "CO2", 1), &[], 5, &["no value of field `co2`", "--column co2=COLUMN"]);
    refused(&good, &["--label", "busy"], 5, &["no file has rows with a column `busy`"]);
    refused(&good, &["--key", "gateway"], 5, &["has no column `gateway` for the key"]);
    refused(&good, &["--without", "noise"], 2, &["the model has no field `noise`"]);
    refused(&good, &["--without", "co2"], 2, &["add `--inputs-only`"]);
    refused(&good, &["--until", "2000-01-01"], 5, &["there is no reading between `--since` and `--until`"]);
    let few: String = good.lines().take(9).map(|line| format!("{line}\n")).collect();
    refused(&few, &[], 5, &["`co2` has too little data", "at least 20"]);
    let quote = format!("time,room,{},occupied\n1,\"{}", FIELDS.join(","), "x".repeat(3 << 20));
    refused(&quote, &[], 5, &["`bad.csv` cannot be read", "is a quote not closed?"]);
    write(&room.path().join("bad.parquet"), "PAR1 and nothing else");
    assert_code(
        &dunlin(room.path(), &["profile", "build", "bad.parquet"]),
        5,
        &["`bad.parquet` cannot be read"],
    );
    assert_code(&dunlin(room.path(), &["profile", "build", "none.csv"]), 3, &["no file `none.csv`"]);
}

#[test]
fn a_profile_of_another_model_is_refused_by_the_name_of_the_field() {
    let room = room();
    write(&room.path().join("train.csv"), &csv(&rows(120)));
    assert_code(&dunlin(room.path(), &["profile", "build", "train.csv", "--inputs-only"]), 0, &[]);
    let text = std::fs::read_to_string(room.path().join("profile.json")).unwrap();
    write(&room.path().join("other.json"), &text.replace("\"co2\"", "\"radon\""));
    assert_code(
        &dunlin(room.path(), &["package", "build", "--profile", "other.json"]),
        5,
        &["describes field `radon`, which the model does not have", "`temperature`"],
    );
    // The same beside a manifest that names it: neither this check nor a gateway takes it.
    std::fs::copy(room.path().join("other.json"), room.path().join("package/profile.json")).unwrap();
    let path = room.path().join("package/manifest.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let bytes = std::fs::read(room.path().join("other.json")).unwrap();
    manifest["blobs"]["profile.json"] = serde_json::json!({
        "sha256": dunlin_kit::digest::Digest::of(&bytes), "bytes": bytes.len()
    });
    write(&path, &manifest.to_string());
    assert_code(
        &dunlin(room.path(), &["package", "check"]),
        5,
        &["the reference profile is refused", "field `radon`"],
    );
}

/// Reads a text as a file of data and makes a profile of it.
fn made_of(text: &str) -> Result<Profile, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.csv");
    write(&path, text);
    let package = example("occupancy/package");
    let manifest = Manifest::parse(&std::fs::read(package.join("manifest.json")).unwrap()).unwrap();
    let golden = Golden::parse(&std::fs::read(package.join("golden.jsonl")).unwrap()).unwrap();
    let fields = fields(&manifest, &golden.header.sources, &golden.header.model)?;
    let written = |format: &str| WrittenTime::parse(format).unwrap();
    let names = Names {
        time: Vec::new(),
        written: written("auto"),
        keys: Vec::new(),
        tags: vec!["room".to_owned()],
        columns: Default::default(),
        label: None,
    };
    let mut gathering = Gathering::new(&fields, names, Vec::new(), Times::default(), written("unix-ms"));
    files::read(&path, b',', &mut gathering).map_err(|error| error.to_string())?;
    let series = gathering.finish().tables.into_iter().map(|table| SeriesReadings {
        name: format!("{:?}", table.key),
        times_us: table.times_us,
        values: table.fields.iter().map(|field| fields[*field].name.clone()).zip(table.values).collect(),
    });
    let material = Material {
        fields: fields.iter().take(2).map(|field| (field.name.clone(), field.knowledge())).collect(),
        series: series.collect(),
        predictions: Vec::new(),
    };
    make(&manifest, material).map(|(profile, _)| profile).map_err(|error| error.to_string())
}

fn any_cell() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (-1_000..1_000i32).prop_map(|n| (f64::from(n) / 7.0).to_string()),
        1 => Just(String::new()),
        1 => Just("NA".to_owned()),
        1 => any::<f64>().prop_map(|number| number.to_string()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn of_any_table_the_profile_is_sound_or_the_refusal_has_a_name(
        rows in prop::collection::vec((0..4_000_000_000i64, 0..3u8, any_cell(), any_cell()), 0..120),
        noise in prop_oneof![9 => Just(None), 1 => any::<String>().prop_map(Some)],
    ) {
        let mut text = "time,room,temperature,humidity\n".to_owned();
        for (at, room, one, other) in &rows {
            writeln!(text, "{at},r{room},{one},{other}").unwrap();
        }
        text.extend(noise);
        match made_of(&text) {
            Ok(profile) => prop_assert_eq!(profile.require_sound().is_ok(), true),
            Err(message) => prop_assert!(
                message.contains('`') || message.contains("no readings") || message.contains("no profile can hold"),
                "{}", message
            ),
        }
    }
}
