//! A gateway's rows on their way to a real server: both are killed at random, and each prediction arrives once.
//!
//! Real processes, a real broker; what arrived is read from the server's store, what was made is the daemon's own export.

use std::collections::BTreeMap;
use std::time::Duration;

use dunlin_e2e::broker::{Broker, BrokerPlan};
use dunlin_e2e::daemon::{CHANGE_MAX, Daemon, DaemonPlan};
use dunlin_e2e::fleet_server::{FleetServer, ServerPlan};
use dunlin_e2e::package::{linked_lab, write};
use dunlin_e2e::releases::write_release;
use dunlin_e2e::seed::Choices;
use dunlin_e2e::stream::{Message, Publisher};
use dunlin_e2e::wait::{pause, wait_for};
use dunlin_e2e::wire::Qos;
use dunlin_e2e::{Outcome, onnx};
use dunlin_fleet::http::Bounds;
use dunlin_fleet::store::desired;
use dunlin_fleet::store::rows::{self, Piece};
use dunlin_protocol::batch::{Losses, Predictions};
use dunlin_protocol::{Batch, DeviceId, Range, Ranges, Stream};

use crate::serving::Running;
use crate::trust::Site;

/// Kills of either side.
const KILLS: usize = 12;
/// Readings between two of them.
const READINGS: u64 = 150;

/// A gateway that predicts, and the store of its server.
struct Plant {
    broker: Broker,
    publisher: Publisher,
    plan: DaemonPlan,
    server: ServerPlan,
    id: DeviceId,
    began_ms: u64,
    sent: u64,
    _folder: tempfile::TempDir,
    _data: tempfile::TempDir,
}

impl Plant {
    /// Enrols a gateway, has it run its model, and makes of its server a process that can be killed.
    fn new() -> Outcome<(Self, Daemon, FleetServer)> {
        let mut site = Site::new(None)?;
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("dunlind.toml");
        write(&config, linked_lab(0, "").as_bytes())?;
        write_release(folder.path(), 1, &onnx::doubling())?;
        let release = site.owner.approve_package(&folder.path().join("double-1"))?;
        site.publish()?;
        let token = site.running.token(1, dunlin_fleet::fleet::now_ms() + 3_600_000)?;
        write(&folder.path().join("fleet.token"), token.to_text().as_bytes())?;
        let broker = Broker::start(&BrokerPlan { in_flight_max: 1_000, queued_max: 0 })?;
        let plan = DaemonPlan::new(&config, folder.path()).set("mqtt.url", broker.url());
        let mut daemon = plan.start()?;
        daemon.wait_ready()?;
        let status = daemon.wait_status("it is enrolled", |status| status["fleet"]["state"] == "active")?;
        let id: DeviceId = status["fleet"]["device"].as_str().and_then(|id| id.parse().ok()).unwrap();
        let (name, digest) = (id.to_string(), release.digest.to_string());
        let now = dunlin_fleet::fleet::now_ms();
        site.running.write(move |sql| desired::assign(sql, &name, &digest, "rol-1", now))?;
        site.running.with_fleet(async |fleet| fleet.waiters.wake(id))?;
        plan.wait_model("double", "its release is good", |model| model["active"]["counter"] == 1)?;
        daemon.wait_connected()?;

        let mut server = ServerPlan::new(folder.path())?;
        server.port = site.running.address.port();
        let data = site.running.stop();
        server.data = data.path().join("data");
        let running = server.start()?;
        let publisher = Publisher::connect(broker.port(), "sensor")?;
        let (began_ms, sent) = (now, 0);
        let plant =
            Self { broker, publisher, plan, server, id, began_ms, sent, _folder: folder, _data: data };
        Ok((plant, daemon, running))
    }

    /// Publishes readings that the model doubles.
    fn predict(&mut self, count: u64) -> Outcome<()> {
        let readings: Vec<Message> = (self.sent..self.sent + count)
            .map(|n| Message::new("lab/a/data", format!("{{\"t\": {}, \"v\": {n}}}", self.began_ms + n)))
            .collect();
        self.sent += count;
        self.publisher.publish_all(&readings, Qos::AtLeastOnce).map(drop)
    }

    fn start(&self) -> Outcome<Daemon> {
        let mut daemon = self.plan.start()?;
        daemon.wait_ready()?;
        Ok(daemon)
    }
}

/// What a server has of a gateway's predictions: the numbers that it was sent, and values by window end.
#[derive(Default)]
struct Arrived {
    numbers: Ranges,
    lost: Ranges,
    rows: BTreeMap<i64, f32>,
}

fn arrived(data: tempfile::TempDir, id: DeviceId) -> Outcome<Arrived> {
    let running = Running::open(Bounds::default(), data, None, None)?;
    let name = id.to_string();
    let pieces = running.write(move |sql| {
        let mut pieces = Vec::new();
        for stream in ["predictions", "losses"] {
            let mut after = 0;
            while let Some(piece) = rows::next(sql, &name, stream, after)? {
                after = piece.last;
                pieces.push(piece);
            }
        }
        Ok(pieces)
    })?;
    let mut arrived = Arrived::default();
    for Piece { first, last, body, .. } in pieces {
        let batch: Batch = serde_json::from_slice(&body)?;
        let range = Range::new(first, last).unwrap();
        if *batch.stream() == Stream::Losses {
            for row in batch.read::<Losses>().unwrap().iter() {
                if let Some(("predictions", numbers)) = row.numbers {
                    arrived.lost.insert(numbers);
                }
            }
        }
        if *batch.stream() != Stream::Predictions {
            continue;
        }
        assert!(arrived.numbers.intersect(&range.into()).is_empty(), "a number is kept once");
        arrived.numbers.insert(range);
        let columns: Predictions = batch.read().unwrap();
        for (number, row) in batch.numbers().zip(columns.iter()).filter(|(number, _)| range.contains(*number))
        {
            let before = arrived.rows.insert(row.window_end_us, row.outputs[0]);
            assert_eq!(before, None, "number {number} is a prediction that came before");
        }
    }
    Ok(arrived)
}

#[test]
fn each_prediction_arrives_once_though_gateway_and_server_are_killed_at_random() -> Outcome<()> {
    let (mut plant, mut daemon, mut server) = Plant::new()?;
    let mut choices = Choices::from_environment();
    eprintln!("seed {}", choices.seed());
    for kill in 0..KILLS {
        plant.predict(READINGS)?;
        pause(Duration::from_millis(choices.below(700)));
        if kill % 2 == 0 {
            server.kill();
            plant.predict(READINGS)?;
            pause(Duration::from_millis(choices.below(300)));
            server = plant.server.start()?;
        } else {
            daemon.kill();
            daemon = plant.start()?;
        }
    }
    let expected = plant.sent as usize;
    plant.plan.export_of("double", expected, CHANGE_MAX)?;
    let limit = Duration::from_secs(90);
    wait_for("everything has a receipt", limit, || {
        let status = daemon.status()?;
        let waiting = &status["fleet"]["upload"]["waiting"];
        Ok((waiting["predictions"] == 0 && waiting["events"] == 0).then_some(()))
    })
    .map_err(|failure| daemon.failure(&failure.to_string()))?;
    let export = plant.plan.export("double")?;
    assert!(daemon.terminate()?.success());
    server.terminate()?;
    let Plant { _data: data, id, .. } = plant;
    let arrived = arrived(data, id)?;
    assert_eq!(arrived.lost, Ranges::new(), "nothing was given up");
    assert_eq!(arrived.numbers.iter().count(), 1, "{:?}", arrived.numbers);
    assert_eq!(arrived.numbers.first(), Some(1));
    assert_eq!(arrived.rows.len(), expected);
    assert_eq!(arrived.rows.len(), export.lines().count() - 1, "what was made is what arrived");
    let base = *arrived.rows.keys().next().unwrap();
    for (window_end_us, value) in &arrived.rows {
        let n = (window_end_us - base) / 1_000;
        assert!((f64::from(*value) - 2.0 * n as f64).abs() < 1e-3, "{n}: {value}");
    }
    drop(plant.broker);
    Ok(())
}
