//! The MQTT side against a real mosquitto: nothing is lost over cut lines, nothing livelocks, refusals are named.
//!
//! Stage, writer and store are played by the tests. Needs `mosquitto` from the system's packages.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails where its surroundings do")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dunlin_daemon::config::settings::{BrokerSettings, SubscriptionQos, TlsSettings};
use dunlin_daemon::flow::Publication;
use dunlin_daemon::metrics::Metrics;
use dunlin_daemon::mqtt::feed::{Backlog, BacklogPage, PageEnd, PublishFeed, publish_channel, start_backlog};
use dunlin_daemon::mqtt::probe::probe;
use dunlin_daemon::mqtt::publisher::{Publisher, Resume, run_publisher};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{Event, EventLoop};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use support::{Broker, LONG, Line, Running, put, settings};

fn text_of(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

/// Reads messages until `count` different payloads came.
async fn payloads(eventloop: &mut EventLoop, count: usize) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let reading = async {
        while seen.len() < count {
            if let Ok(Event::Incoming(Packet::Publish(publish))) = eventloop.poll().await {
                seen.insert(text_of(&publish.payload));
            }
        }
    };
    let read = timeout(LONG, reading).await;
    assert!(read.is_ok(), "{} of {count} messages came", seen.len());
    seen
}

#[tokio::test]
async fn messages_that_are_acknowledged_after_the_commit_survive_a_line_that_is_cut_often() {
    let broker = Broker::start("").await;
    let line = Line::to(broker.port).await;
    let mut ingest = Running::start(settings(line.port));
    ingest.until("connected", |counts| counts.connected).await;
    let messages: Vec<_> = (0..400).map(|number| ("sensors/a", Bytes::from(format!("{number}")))).collect();
    let expected: BTreeSet<String> = (0..400).map(|number: i32| number.to_string()).collect();
    broker.publish(&messages).await;

    let mut committed = BTreeSet::new();
    let mut held = Vec::new();
    let mut count = 0;
    while committed.len() < expected.len() {
        let delivery = ingest.next().await;
        committed.insert(text_of(&delivery.payload));
        held.extend(delivery.ack);
        count += 1;
        if count % 37 == 0 {
            line.cut();
        }
        // Acknowledged late: many of these belong to a connection that is gone.
        if held.len() >= 7 {
            ingest.acknowledge(std::mem::take(&mut held)).await;
        }
    }
    assert_eq!(committed, expected);
    ingest.acknowledge(held).await;
    // What was delivered again is acknowledged again.
    let mut rest = Vec::new();
    while let Ok(Some(delivery)) = timeout(Duration::from_millis(300), ingest.deliveries.recv()).await {
        rest.extend(delivery.ack);
        ingest.acknowledge(std::mem::take(&mut rest)).await;
    }
    ingest.until("all acknowledged", |counts| counts.connected && counts.in_flight == 0).await;
    ingest.stop().await;

    let (client, mut status) = broker.client("watch", true).await;
    client.try_subscribe("dunlin/gw1/status", QoS::AtLeastOnce).unwrap();
    assert_eq!(payloads(&mut status, 1).await, BTreeSet::from(["offline".to_owned()]));
    let mut again = Running::start(settings(line.port));
    assert_eq!(payloads(&mut status, 1).await, BTreeSet::from(["online".to_owned()]));
    broker.publish(&[("sensors/a", Bytes::from_static(b"last"))]).await;
    assert_eq!(text_of(&again.next().await.payload), "last", "nothing that was acknowledged comes again");
}

#[tokio::test]
async fn an_acknowledgement_of_an_earlier_connection_confirms_nothing() {
    let broker = Broker::start("").await;
    let line = Line::to(broker.port).await;
    let mut ingest = Running::start(settings(line.port));
    ingest.until("connected", |counts| counts.connected).await;
    let messages = ["1", "2", "3"].map(|text| ("sensors/a", Bytes::from(text)));
    broker.publish(&messages).await;
    let mut earlier = Vec::new();
    for round in 0..3 {
        let mut tokens = Vec::new();
        for (_, payload) in &messages {
            let delivery = ingest.next().await;
            assert_eq!(delivery.payload, payload, "round {round}");
            assert_eq!(delivery.duplicate, round > 0);
            tokens.extend(delivery.ack);
        }
        ingest.acknowledge(std::mem::replace(&mut earlier, tokens)).await;
        ingest.until("none acknowledged", |counts| counts.in_flight == 3).await;
        if round < 2 {
            line.cut();
        }
    }
    ingest.acknowledge(earlier).await;
    broker.publish(&[("sensors/a", Bytes::from_static(b"4"))]).await;
    assert_eq!(text_of(&ingest.next().await.payload), "4");
    ingest.until("only the last is open", |counts| counts.in_flight == 1).await;
    line.cut();
    assert_eq!(text_of(&ingest.next().await.payload), "4", "the others were confirmed");
}

#[tokio::test]
async fn a_message_that_is_too_large_does_not_hold_up_those_that_follow() {
    let broker = Broker::start("").await;
    let ingest = Running::start(settings(broker.port));
    ingest.until("connected", |counts| counts.connected).await;
    ingest.stop().await;
    let large = Bytes::from(vec![b'x'; 2 * 1024 * 1024]);
    let small = |text: &'static str| ("sensors/a", Bytes::from_static(text.as_bytes()));
    broker.publish(&[small("before"), ("sensors/a", large), small("after")]).await;
    let mut ingest = Running::start(settings(broker.port));
    for expected in ["before", "after"] {
        let delivery = ingest.next().await;
        assert_eq!(text_of(&delivery.payload), expected);
        ingest.acknowledge(delivery.ack.into_iter().collect()).await;
    }
    ingest.stop().await;
}

/// A broker that ignores Maximum Packet Size: it sends a small and a large message in every session it resumes.
async fn careless_broker() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connect = [0; 512];
                let length = socket.read(&mut connect).await.unwrap();
                let name = connect[..length].windows(4).position(|bytes| bytes == b"MQTT").unwrap();
                let clean = connect[name + 5] & 2 != 0;
                let mut answer = vec![0x20, 3, u8::from(!clean), 0, 0];
                // PUBLISH QoS 1 on `s`, packet identifier 1, no properties.
                answer.extend([0x32, 8, 0, 1, b's', 0, 1, 0, b'o', b'k']);
                if !clean {
                    // PUBLISH with a remaining length of 4 MB.
                    answer.extend([0x32, 0x80, 0x80, 0x80, 0x02, 0, 1]);
                }
                socket.write_all(&answer).await.unwrap();
                // Reads on until the client leaves.
                while socket.read(&mut connect).await.is_ok_and(|count| count > 0) {}
            });
        }
    });
    port
}

#[tokio::test]
async fn a_session_that_cannot_be_read_is_given_up_once_and_counted() {
    let mut ingest = Running::start(settings(careless_broker().await));
    let loss = timeout(LONG, ingest.losses.recv()).await.expect("a loss is told").unwrap();
    assert_eq!((loss.reason.as_str(), loss.count), ("session_reset", 1));
    ingest.until("connected", |counts| counts.connected && counts.dropped == 1).await;
    assert_eq!(text_of(&ingest.next().await.payload), "ok", "what came before it was delivered");
    let error = ingest.metrics.brokers()["mqtt"].last_error.clone().unwrap();
    assert!(error.contains("Maximum Packet Size"), "{error}");
}

#[tokio::test]
async fn two_gateways_with_one_client_id_are_told_so() {
    let broker = Broker::start("").await;
    let one = Running::start(settings(broker.port));
    one.until("connected", |counts| counts.connected).await;
    let other = Running::start(settings(broker.port));
    one.until("named", |counts| counts.last_error.as_ref().is_some_and(|text| text.contains("`client_id`")))
        .await;
    drop(other);
}

#[tokio::test]
async fn a_refused_user_is_named() {
    let broker = Broker::start("allow_anonymous false").await;
    let credential = broker.folder.path().join("credential");
    put(&credential, "gateway:wrong\n");
    let refused = BrokerSettings { credential_file: Some(credential), ..settings(broker.port) };
    let ingest = Running::start(refused.clone());
    ingest
        .until("named", |counts| {
            counts.last_error.as_ref().is_some_and(|text| text.contains("credential_file"))
        })
        .await;
    let error = probe(&refused, &[], 0).await.unwrap_err().to_string();
    assert!(error.contains("credential_file") && !error.contains("wrong"), "{error}");
    let missing = BrokerSettings { credential_file: Some("/nonexistent/credential".into()), ..refused };
    let error = probe(&missing, &[], 0).await.unwrap_err().to_string();
    assert!(error.contains("/nonexistent/credential"), "{error}");
}

/// The store's side of publishing, with all predictions from 1 to a number.
struct Stored(u64);

fn prediction(sequence: u64) -> Publication {
    Publication { sequence, topic: "dunlin/gw1/p".into(), payload: Bytes::from(format!("{sequence}")) }
}

impl Backlog for Stored {
    fn publications_after(&mut self, sequence: u64, limit: usize) -> Result<BacklogPage, String> {
        let through = self.0.min(sequence + limit as u64).max(sequence);
        let end = if through >= self.0 { PageEnd::Exhausted } else { PageEnd::More };
        Ok(BacklogPage { publications: (sequence + 1..=through).map(prediction).collect(), through, end })
    }
}

struct Publishing {
    feed: PublishFeed,
    through: Arc<AtomicU64>,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<()>,
    metrics: Arc<Metrics>,
}

fn publishing(port: u16, qos: SubscriptionQos, stored: u64, resume: Resume) -> Publishing {
    let (feed, queue) = publish_channel(64);
    let (shutdown, stop) = watch::channel(false);
    let through = Arc::new(AtomicU64::new(0));
    let metrics = Arc::new(Metrics::new(0));
    let task = tokio::spawn(run_publisher(Publisher {
        settings: settings(port),
        qos,
        queue,
        backlog: start_backlog(Stored(stored)).unwrap(),
        resume,
        published_through: Arc::clone(&through),
        losses: mpsc::channel(10).0,
        metrics: Arc::clone(&metrics),
        shutdown: stop,
        drain: LONG,
    }));
    Publishing { feed, through, shutdown, task, metrics }
}

async fn confirmed(through: &AtomicU64, sequence: u64) {
    let mut look = tokio::time::interval(Duration::from_millis(10));
    let met = async {
        while through.load(Ordering::Acquire) < sequence {
            look.tick().await;
        }
    };
    let met = timeout(LONG, met).await;
    assert!(met.is_ok(), "confirmed through {} of {sequence}", through.load(Ordering::Acquire));
}

const FROM_THE_START: Resume = Resume { published_through: 0, committed_through: 0 };

#[tokio::test]
async fn predictions_made_while_the_broker_is_away_are_published_when_it_is_back() {
    let mut broker = Broker::start("").await;
    let (client, mut watch) = broker.client("watch", false).await;
    client.try_subscribe("dunlin/gw1/p", QoS::AtLeastOnce).unwrap();
    let publishing = publishing(broker.port, SubscriptionQos::AtLeastOnce, 5_000, FROM_THE_START);
    // The first is only seen if the subscription came before it, so it is offered after the answer to that.
    timeout(LONG, async { while !matches!(watch.poll().await, Ok(Event::Incoming(Packet::SubAck(_)))) {} })
        .await
        .expect("the subscription is granted");
    for sequence in 1..=10 {
        publishing.feed.offer(prediction(sequence));
    }
    confirmed(&publishing.through, 9).await;
    broker.stop();
    // Far more than the queue holds: the rest comes from the store.
    for sequence in 11..=4_000 {
        publishing.feed.offer(prediction(sequence));
    }
    broker.run().await;
    let seen = payloads(&mut watch, 4_000).await;
    assert_eq!(seen, (1..=4_000).map(|sequence: u64| sequence.to_string()).collect());
    confirmed(&publishing.through, 4_000).await;
    publishing.shutdown.send_replace(true);
    drop(publishing.feed);
    timeout(LONG, publishing.task).await.expect("the publisher stops").unwrap();
    assert!(publishing.metrics.published_acked.get() >= 4_000);
}

#[tokio::test]
async fn a_start_publishes_what_was_committed_and_not_confirmed() {
    for qos in [SubscriptionQos::AtMostOnce, SubscriptionQos::AtLeastOnce] {
        let broker = Broker::start("").await;
        let (client, mut watch) = broker.client("watch", true).await;
        client.try_subscribe("dunlin/gw1/p", QoS::AtLeastOnce).unwrap();
        timeout(LONG, async {
            while !matches!(watch.poll().await, Ok(Event::Incoming(Packet::SubAck(_)))) {}
        })
        .await
        .expect("the subscription is granted");
        let resume = Resume { published_through: 100, committed_through: 2_000 };
        let publishing = publishing(broker.port, qos, 2_000, resume);
        publishing.feed.offer(prediction(2_001));
        let seen = payloads(&mut watch, 1_901).await;
        assert_eq!(seen, (101..=2_001).map(|sequence: u64| sequence.to_string()).collect());
        publishing.shutdown.send_replace(true);
        drop(publishing.feed);
        timeout(LONG, publishing.task).await.expect("the publisher stops").unwrap();
        assert_eq!(publishing.through.load(Ordering::Acquire), 2_001, "an orderly end leaves nothing open");
    }
}

#[tokio::test]
async fn a_broker_that_asks_for_a_client_certificate_gets_it_and_an_unknown_authority_is_refused() {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::from_params(&authority, &authority_key);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    put(&path("ca.pem"), &authority_pem);
    for (name, host) in [("server", "127.0.0.1"), ("client", "gw1")] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = parameters.signed_by(&key, &issuer).unwrap();
        put(&path(&format!("{name}.pem")), &certificate.pem());
        put(&path(&format!("{name}.key")), &key.serialize_pem());
    }
    let (ca, certificate, key) = (path("ca.pem"), path("server.pem"), path("server.key"));
    let broker = Broker::start(&format!(
        "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true",
        ca.display(),
        certificate.display(),
        key.display()
    ))
    .await;
    let tls = TlsSettings {
        ca_file: Some(ca),
        certificate_file: Some(path("client.pem")),
        key_file: Some(path("client.key")),
        alpn: vec!["mqtt".into()],
    };
    let with = |tls| BrokerSettings { tls: Some(tls), ..settings(broker.port) };
    let mut ingest = Running::start(with(tls.clone()));
    ingest.until("connected", |counts| counts.connected).await;
    let report = probe(&with(tls.clone()), &["sensors/#".to_owned()], 0).await.unwrap();
    assert!(report.subscription_faults.is_empty() && report.receive_max > 0, "{report:?}");
    assert!(ingest.deliveries.try_recv().is_err());

    let other_key = rcgen::KeyPair::generate().unwrap();
    put(&path("other.pem"), &authority.self_signed(&other_key).unwrap().pem());
    let distrustful = TlsSettings { ca_file: Some(path("other.pem")), ..tls.clone() };
    let error = probe(&with(distrustful), &[], 0).await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    let anonymous = TlsSettings { certificate_file: None, key_file: None, ..tls };
    assert!(probe(&with(anonymous), &[], 0).await.is_err(), "the broker asks for a certificate");
}

#[tokio::test]
async fn a_probe_reports_limits_and_topics_and_leaves_the_session_alone() {
    let broker = Broker::start("max_packet_size 100000").await;
    let ingest = Running::start(settings(broker.port));
    ingest.until("connected", |counts| counts.connected).await;
    let (client, mut sensor) = broker.client("retaining", true).await;
    client.try_publish("sensors/kept", QoS::AtLeastOnce, true, "1").unwrap();
    timeout(LONG, async { while !matches!(sensor.poll().await, Ok(Event::Incoming(Packet::PubAck(_)))) {} })
        .await
        .expect("the broker keeps the message");
    let report = probe(&settings(broker.port), &["sensors/#".to_owned()], 1).await.unwrap();
    assert_eq!(report.topics.get("sensors/kept"), Some(&1));
    assert_eq!((report.packet_bytes_max, report.receive_max, report.qos_max), (Some(100_000), 20, 2));
    assert_eq!(ingest.metrics.brokers()["mqtt"].connects, 1);
}

#[tokio::test]
async fn a_stage_that_stands_still_loses_counted_messages_at_qos_0_and_none_at_qos_1() {
    let broker = Broker::start("max_inflight_messages 5000").await;
    let messages: Vec<_> = (0..1_500).map(|number| ("sensors/a", Bytes::from(format!("{number}")))).collect();
    // The queue to the stage holds 1,000.
    let slow =
        |qos| BrokerSettings { qos, receive_max: 5_000, keep_alive: LONG / 6, ..settings(broker.port) };
    let mut lossy =
        Running::start(BrokerSettings { client_id: "lossy".into(), ..slow(SubscriptionQos::AtMostOnce) });
    let mut safe = Running::start(slow(SubscriptionQos::AtLeastOnce));
    for ingest in [&lossy, &safe] {
        ingest.until("connected", |counts| counts.connected).await;
    }
    broker.publish(&messages).await;
    lossy.until("dropped", |counts| counts.dropped > 0).await;
    let loss = timeout(LONG, lossy.losses.recv()).await.expect("a loss is told").unwrap();
    assert_eq!(loss.reason, "queue_full");
    safe.until("named", |counts| counts.last_error.as_ref().is_some_and(|text| text.contains("again"))).await;
    let mut seen = BTreeSet::new();
    while seen.len() < messages.len() {
        seen.insert(text_of(&safe.next().await.payload));
    }
    assert_eq!(safe.metrics.brokers()["mqtt"].dropped, 0);
    assert_eq!(lossy.metrics.brokers()["mqtt"].connects, 1, "the connection stands");
}
