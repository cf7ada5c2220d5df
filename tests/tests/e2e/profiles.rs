//! Reference profiles: from a table of readings to a signed release that a gateway runs, and from the gateway's own readings;
//! and of the public series.

use std::fmt::Write as _;
use std::path::Path;

use dunlin_e2e::broker::{Broker, BrokerPlan};
use dunlin_e2e::daemon::DaemonPlan;
use dunlin_e2e::operator::Operator;
use dunlin_e2e::package::write;
use dunlin_e2e::releases::copy_folder;
use dunlin_e2e::stream::{Message, Publisher};
use dunlin_e2e::wire::Qos;
use dunlin_e2e::workspace::{note, root, shared_folder, skip};
use dunlin_e2e::{Failure, Outcome};
use dunlin_model_package::profile::Profile;
use serde_json::{Value, json};

/// The model of the example.
const MODEL: &str = "occupancy";
const BEGIN_MS: i64 = 1_741_593_600_000;
/// Readings that are sent to the gateway.
const SENT: i64 = 60;

/// Values of a room at a minute: temperature, humidity, light, CO₂, humidity ratio.
fn values(minute: i64) -> [f64; 5] {
    let people = f64::from(u8::from((minute / 120) % 2 == 1));
    let noise = |seed: f64| (minute as f64 * seed).sin();
    [
        20.0 + 2.0 * people + 0.1 * noise(0.7),
        25.0 + people + 0.2 * noise(1.3),
        400.0 * people + 5.0 * (1.0 + noise(2.1)),
        450.0 + 400.0 * people + 9.0 * noise(0.37),
        0.004 + 0.000_5 * people + 0.000_01 * noise(1.9),
    ]
}

fn table(minutes: i64) -> String {
    let mut text = "time,room,temperature,humidity,illuminance,co2,humidity_ratio\n".to_owned();
    for minute in 0..minutes {
        let cells = values(minute).map(|value| format!("{value:?}")).join(",");
        writeln!(text, "{},office,{cells}", BEGIN_MS + minute * 60_000).ok();
    }
    text
}

fn messages(count: i64) -> Vec<Message> {
    let message = |minute: i64| {
        let [temperature, humidity, illuminance, co2, humidity_ratio] = values(minute);
        let at_ms = BEGIN_MS + minute * 60_000;
        let payload = json!({ "temperature": temperature, "humidity": humidity, "illuminance": illuminance,
            "co2": co2, "humidity_ratio": humidity_ratio, "last_seen": at_ms });
        Message::timed("zigbee2mqtt/office", payload.to_string(), at_ms)
    };
    (0..count).map(message).collect()
}

/// Writes the example without its package, with recorded messages.
fn write_source(folder: &Path) -> Outcome<()> {
    let from = root().join("examples").join(MODEL);
    for file in ["dunlind.toml", "package.toml"] {
        std::fs::copy(from.join(file), folder.join(file))?;
    }
    std::fs::copy(from.join("package/model.onnx"), folder.join("model.onnx"))?;
    let line = |message: &Message| {
        let payload = String::from_utf8_lossy(&message.payload).into_owned();
        json!({ "topic": message.topic, "arrival_ms": message.event_ms + 300, "payload": payload })
            .to_string()
    };
    let lines: Vec<String> = messages(40).iter().map(line).collect();
    write(&folder.join("samples.ndjson"), lines.join("\n").as_bytes())
}

fn profile(path: &Path) -> Outcome<Profile> {
    Profile::parse(&std::fs::read(path)?).map_err(Failure::of(path.display()))
}

#[test]
fn a_table_of_readings_becomes_a_signed_release_with_a_profile_and_the_gateways_readings_another_profile()
-> Outcome<()> {
    let (folder, broker) = (tempfile::tempdir()?, Broker::start(&BrokerPlan::default())?);
    write_source(folder.path())?;
    write(&folder.path().join("train.csv"), table(3_000).as_bytes())?;
    let operator = Operator::in_folder(folder.path())?;
    let from_source = ["--spec", "package.toml", "--config", "dunlind.toml"];
    operator.run(&[&["profile", "build", "train.csv"][..], &from_source].concat())?;
    operator.run(&["package", "build", "--profile", "profile.json"])?;
    operator.run(&["package", "check"])?;
    operator.run(&["keys", "init", "--development"])?;
    operator.run(&["sign", "package"])?;
    operator.run(&["bundle", "export", "--output", "occupancy.bundle"])?;
    std::fs::copy(folder.path().join("trust/metadata/1.root.json"), folder.path().join("root.json"))?;

    let plan =
        DaemonPlan::new(&folder.path().join("dunlind.toml"), folder.path()).set("mqtt.url", broker.url());
    let mut daemon = plan.start_ready()?;
    plan.wait_model(MODEL, "the release serves", |model| model["serving"].is_object())?;
    let digest = profile(&folder.path().join("profile.json"))?.digest().map_err(Failure::of("digest"))?;
    let blob = plan.state_dir.join("models/blobs").join(digest.to_string());
    let kept = std::fs::read(&blob).map_err(Failure::of(blob.display()))?;
    assert_eq!(kept, std::fs::read(folder.path().join("profile.json"))?);

    Publisher::connect(broker.port(), "room")?.publish_all(&messages(SENT), Qos::AtLeastOnce)?;
    daemon.wait_readings(SENT as u64)?;
    let output = plan.command("export", &["--readings"])?;
    assert!(output.status.success(), "{output:?}");
    write(&folder.path().join("own.csv"), &output.stdout)?;
    operator.run(&["profile", "build", "own.csv", "-o", "own.json"])?;
    let own = profile(&folder.path().join("own.json"))?;
    assert_eq!((own.made_of.rows, own.made_of.series), (SENT as u64, 1));
    // The table of the same minutes says the same.
    write(&folder.path().join("same.csv"), table(SENT).as_bytes())?;
    operator.run(&["profile", "build", "same.csv", "-o", "same.json"])?;
    assert!(profile(&folder.path().join("same.json"))? == own);
    Ok(())
}

/// A public series, as its first part becomes a profile.
struct Public<'p> {
    example: &'p str,
    data: String,
    arguments: Vec<&'p str>,
    features: usize,
    /// Fewest scores of hours.
    hours: usize,
}

fn built(folder: &Path, public: &Public<'_>) -> Outcome<Profile> {
    let folder = folder.join(public.example);
    copy_folder(&root().join("examples").join(public.example).join("package"), &folder.join("package"))?;
    write(&folder.join("data.csv"), public.data.as_bytes())?;
    let operator = Operator::in_folder(&folder)?;
    let told = operator.run(&[&["profile", "build", "data.csv"][..], &public.arguments].concat())?;
    note(&format!("{}: {told}", public.example));
    operator.run(&["profile", "show", "profile.json"])?;
    let shown: Value =
        serde_json::from_str(&operator.run(&["profile", "show", "profile.json", "-o", "json"])?)?;
    assert_eq!(shown["schema"], 1);
    let found = profile(&folder.join("profile.json"))?;
    assert_eq!(found.features.len(), public.features, "{}", public.example);
    for (name, feature) in &found.features {
        let hours = feature.reference.blocks.get(&3_600).map_or(0, |blocks| blocks.missing.len());
        assert!(hours >= public.hours, "{} {name}: {hours}", public.example);
        // Series as they are hold few faults of a sensor.
        let counted = feature.reference.counts.iter().sum::<u64>() + feature.reference.missing;
        assert!(counted as f64 >= 0.98 * found.made_of.rows as f64, "{} {name}: {counted}", public.example);
    }
    assert!(!found.outputs.is_empty(), "{}", public.example);
    Ok(found)
}

#[test]
fn the_first_part_of_each_public_series_becomes_a_profile() -> Outcome<()> {
    let Some(shared) = shared_folder() else {
        skip("no folder of public series");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let text = |path: &str| {
        let path = shared.join("data").join(path);
        std::fs::read_to_string(&path).map_err(Failure::of(path.display()))
    };
    let machine = built(
        folder.path(),
        &Public {
            example: "machine-temperature",
            data: text("nab/machine_temperature_system_failure.csv")?,
            arguments: vec!["--column", "temperature=value", "--until", "2013-12-10T06:25:00Z"],
            features: 1,
            hours: 100,
        },
    )?;
    assert_eq!(machine.features["temperature"].unit.as_deref(), Some("degF"));
    assert!(machine.outputs.contains_key("score"));

    // The file's rows begin with a number that its header does not name.
    let occupancy = format!("number,{}", text("occupancy/datatraining.txt")?);
    let columns = [
        "temperature=Temperature",
        "humidity=Humidity",
        "illuminance=Light",
        "co2=CO2",
        "humidity_ratio=HumidityRatio",
    ];
    let columns = columns.iter().flat_map(|column| ["--column", column]);
    let room = built(
        folder.path(),
        &Public {
            example: "occupancy",
            data: occupancy,
            arguments: columns.chain(["--label", "Occupancy"]).collect(),
            features: 5,
            hours: 100,
        },
    )?;
    assert!(room.metrics["accuracy"] > 0.9, "{:?}", room.metrics);
    assert!(room.scores.as_ref().is_some_and(|scores| scores.error < 0.1), "{:?}", room.scores);

    let air = built(
        folder.path(),
        &Public {
            example: "air-quality",
            data: text("airquality/AirQualityUCI.csv")?,
            arguments: vec![
                "--time",
                "Date",
                "--time",
                "Time",
                "--time-format",
                "%d/%m/%Y %H:%M:%S",
                "--until",
                "2004-06-30T18:00:00Z",
            ],
            features: 8,
            hours: 100,
        },
    )?;
    // A day of hours is a block; 16 weeks are 112 of them. The station's -200 is no value.
    let temperature = &air.features["T"].reference;
    assert!(temperature.blocks[&86_400].psi.len() >= 100);
    assert!(temperature.missing > 0);
    let lowest =
        temperature.scale.zip(temperature.sums).map(|(scale, sums)| scale.value(f64::from(sums.low)));
    assert!(lowest.is_some_and(|lowest| lowest > -20.0), "{lowest:?}");
    assert_eq!(air.together.as_ref().map(|together| together.features.len()), Some(8));
    Ok(())
}
