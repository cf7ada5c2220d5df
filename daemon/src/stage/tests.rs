//! The stage as a task, between a queue of messages and a writer that the test plays.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use dunlin_kit::clock;
use dunlin_pipeline::Core;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};

use super::publishing::{PublishProgress, Publishing, Topics};
use super::redelivery::Redelivery;
use super::{Stage, StageEnd, StageLinks, StageParts};
use crate::config::settings::PublishMode;
use crate::flow::{AckToken, BrokerIndex, ConnectionId, Delivery, Loss, LossKind};
use crate::metrics::Metrics;
use crate::mqtt::feed::publish_channel;
use crate::status::ControlRequest;
use crate::store::WriterCommand;
use crate::store::queue::{self, Received, Receiver};
use crate::systemd::Watchdog;

/// No step of a test takes longer on any machine.
const LONG: Duration = Duration::from_secs(30);
const SOURCE: &str = "name = \"s\"\ntopics = [\"s/{id}\"]\nformat = \"number\"\nfields.a = {}";

struct Running {
    deliveries: mpsc::Sender<Delivery>,
    control: mpsc::Sender<ControlRequest>,
    losses: mpsc::Sender<Loss>,
    commands: Receiver<WriterCommand>,
    committed: watch::Sender<u64>,
    stage: JoinHandle<StageEnd>,
    sent: u16,
}

fn start(capacity: usize) -> (tokio::task::LocalSet, impl FnOnce() -> Running) {
    let set = tokio::task::LocalSet::new();
    let spawn = move || {
        let core = Core::serving(&[toml::from_str(SOURCE).unwrap()], Vec::new()).unwrap();
        let (deliveries, taken) = mpsc::channel(16);
        let (control, requests) = mpsc::channel(16);
        let (losses, lost) = mpsc::channel(16);
        let (writer, commands) = queue::bounded(capacity);
        let (committed, through) = watch::channel(0);
        let (feed, _) = publish_channel(1);
        let progress = PublishProgress::default();
        let publishing = Publishing::new(feed, PublishMode::Immediate, Topics::new("gw", &[]), progress, 0);
        let now = clock::monotonic_micros();
        let watchdog = Watchdog::default();
        let parts = StageParts {
            core,
            brokers: vec!["mqtt".to_owned()],
            slots: Vec::new(),
            lane_counts: watch::channel(Vec::new()).0,
            publishing,
            redelivery: Redelivery::new([100]),
            next_sequence: 1,
            privacy: dunlin_drift::privacy::Privacy::default(),
            metrics: Arc::new(Metrics::new(now)),
            heartbeats: (watchdog.register("stage", now), watchdog.register("writer", now)),
        };
        let links = StageLinks {
            deliveries: taken,
            results: mpsc::channel(1).1,
            arrangements: mpsc::channel(1).1,
            control: requests,
            losses: lost,
            writer,
            committed: through,
            checkpoint_wanted: Arc::new(AtomicBool::new(false)),
        };
        let stage = tokio::task::spawn_local(Stage::new(parts).run(links));
        Running { deliveries, control, losses, commands, committed, stage, sent: 0 }
    };
    (set, spawn)
}

impl Running {
    async fn send(&mut self, duplicate: bool) {
        self.sent += 1;
        let (broker, connection) = (BrokerIndex(0), ConnectionId(1));
        let ack = AckToken { broker, connection, packet_id: self.sent, content_crc: 5 };
        let delivery = Delivery {
            broker,
            topic: Bytes::from_static(b"s/x"),
            payload: Bytes::from_static(b"1.5"),
            retained: false,
            duplicate,
            ack: Some(ack),
            arrived_us: clock::monotonic_micros(),
        };
        self.deliveries.send(delivery).await.unwrap();
    }

    fn commands(&self) -> Vec<WriterCommand> {
        let mut found = Vec::new();
        while let Received::Command(command) = self.commands.receive(Some(Duration::ZERO)) {
            found.push(command);
        }
        found
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_flush_is_answered_however_steadily_messages_come_and_after_all_that_came_before_it() {
    let (set, spawn) = start(64);
    runtime().block_on(set.run_until(async {
        let mut running = spawn();
        running.send(false).await;
        let (reply, mut answered) = oneshot::channel();
        running.control.send(ControlRequest::Flush(reply)).await.unwrap();
        let mut acks = 0;
        let flushed = timeout(LONG, async {
            let mut pace = interval(Duration::from_millis(20));
            while answered.try_recv().is_err() {
                pace.tick().await;
                running.send(false).await;
                for command in running.commands() {
                    match command {
                        WriterCommand::Step(step) => acks += step.acks.len(),
                        WriterCommand::Flush(reply) => {
                            assert!(acks > 0, "the flush went ahead of a message before it");
                            let _ = reply.send(());
                        }
                        _ => {}
                    }
                }
            }
        });
        flushed.await.unwrap();
    }));
}

#[test]
fn losses_wait_for_a_writer_that_is_behind_and_all_is_handed_over_before_the_end() {
    let (set, spawn) = start(1);
    runtime().block_on(set.run_until(async {
        let mut running = spawn();
        for n in 0..10 {
            running.send(false).await;
            let (kind, object, reason) = (LossKind::Messages, n.to_string(), "queue_full".to_owned());
            let loss = Loss { kind, object, first_us: 0, last_us: 0, count: 1, reason };
            running.losses.send(loss).await.unwrap();
        }
        running.deliveries = mpsc::channel(1).0;
        let (mut losses, mut acks, mut saved) = (0, 0, 0);
        let ended = timeout(LONG, async {
            let mut pace = interval(Duration::from_millis(1));
            while !running.stage.is_finished() {
                pace.tick().await;
                for command in running.commands() {
                    match command {
                        WriterCommand::Step(step) => {
                            acks += step.acks.len();
                            saved += usize::from(step.checkpoint.is_some());
                        }
                        WriterCommand::Loss(_) => losses += 1,
                        WriterCommand::Flush(reply) => reply.send(()).unwrap(),
                        _ => {}
                    }
                }
            }
        });
        ended.await.unwrap();
        assert_eq!(running.stage.await.unwrap(), StageEnd::Drained);
        assert_eq!((losses, acks), (10, 10));
        assert!(saved > 0);
    }));
}

#[test]
fn the_stage_ends_when_the_writer_has() {
    let (set, spawn) = start(1);
    runtime().block_on(set.run_until(async {
        let Running { deliveries, commands, committed, stage, .. } = spawn();
        drop((commands, committed));
        assert_eq!(timeout(LONG, stage).await.unwrap().unwrap(), StageEnd::WriterGone);
        drop(deliveries);
    }));
}
