//! A real broker, a line that can be cut, and clients for tests of the MQTT side.
//!
//! Listens on loopback alone, keeps its state in a temporary folder and ends only processes that it started.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dunlin_daemon::config::settings::{BrokerSettings, SubscriptionQos};
use dunlin_daemon::flow::{AckToken, BrokerIndex, Delivery, Loss};
use dunlin_daemon::metrics::Metrics;
use dunlin_daemon::mqtt::ingest::{Ingest, WillSpec, run_ingest};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// No step of a test takes longer on any machine.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A mosquitto of our own.
pub(crate) struct Broker {
    pub(crate) port: u16,
    pub(crate) folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Broker {
    /// Starts a broker with persistent sessions, an unlimited queue and these further lines of configuration.
    pub(crate) async fn start(lines: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let lines = lines.replace("FOLDER", folder.path().to_str().unwrap());
        let access = if lines.contains("allow_anonymous") { "" } else { "allow_anonymous true\n" };
        let text = format!(
            "user root\nlistener {port} 127.0.0.1\n{access}persistence true\npersistence_location {}/\n\
             max_queued_messages 0\n{lines}\n",
            folder.path().display()
        );
        put(&folder.path().join("mosquitto.conf"), &text);
        let mut broker = Self { port, folder, child: None };
        broker.run().await;
        broker
    }

    /// Starts the process, again if need be, and waits until it listens.
    pub(crate) async fn run(&mut self) {
        let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/usr/bin/mosquitto"]
            .into_iter()
            .map(PathBuf::from)
            .find(|path| path.exists())
            .unwrap_or_else(|| "mosquitto".into());
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let child = Command::new(program)
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("these tests need the MQTT broker `mosquitto`: install it from the system's packages");
        self.child = Some(child);
        let mut attempt = tokio::time::interval(Duration::from_millis(20));
        let listens = async {
            while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
                attempt.tick().await;
            }
        };
        if timeout(LONG, listens).await.is_err() {
            panic!("mosquitto: {:?}", std::fs::read_to_string(self.folder.path().join("log")));
        }
    }

    /// Stops the process in order, so that it saves its sessions.
    pub(crate) fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).unwrap();
        child.wait().unwrap();
    }

    /// Returns a client that is connected; the event loop has to be polled.
    pub(crate) async fn client(&self, id: &str, clean: bool) -> (AsyncClient, EventLoop) {
        let mut options = MqttOptions::new(id, "127.0.0.1", self.port);
        options
            .set_clean_start(clean)
            .set_session_expiry_interval(Some(3_600))
            .set_max_packet_size(Some(8 * 1024 * 1024));
        let (client, mut eventloop) = AsyncClient::new(options, 4_096);
        let connected = async {
            loop {
                match eventloop.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => break,
                    Ok(_) => {}
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        timeout(LONG, connected).await.expect("the broker accepts a client");
        (client, eventloop)
    }

    /// Publishes messages at QoS 1 and returns once all are acknowledged.
    pub(crate) async fn publish(&self, messages: &[(&str, Bytes)]) {
        let (client, mut eventloop) = self.client("sensor", true).await;
        for (topic, payload) in messages {
            client.try_publish(*topic, QoS::AtLeastOnce, false, payload.clone()).unwrap();
        }
        let mut missing = messages.len();
        let acknowledged = async {
            while missing > 0 {
                if let Event::Incoming(Packet::PubAck(_)) = eventloop.poll().await.unwrap() {
                    missing -= 1;
                }
            }
        };
        timeout(LONG, acknowledged).await.expect("the broker takes the messages");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Writes a file of a test.
#[expect(clippy::disallowed_methods, reason = "a test's own temporary file need not survive a power cut")]
pub(crate) fn put(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// A line to a broker that can be cut.
pub(crate) struct Line {
    pub(crate) port: u16,
    cut: watch::Sender<u64>,
}

impl Line {
    /// Returns a line to this port.
    pub(crate) async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cut, cuts) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cuts = cuts.clone();
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(("127.0.0.1", target)).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { port, cut }
    }

    /// Cuts all connections that stand.
    pub(crate) fn cut(&self) {
        self.cut.send_modify(|count| *count += 1);
    }
}

/// Settings for a broker on this port.
pub(crate) fn settings(port: u16) -> BrokerSettings {
    BrokerSettings {
        name: "mqtt".into(),
        host: "127.0.0.1".into(),
        port,
        tls: None,
        client_id: "dunlin-gw1".into(),
        username: None,
        credential_file: None,
        keep_alive: Duration::from_secs(10),
        session_expiry: Duration::from_secs(3_600),
        receive_max: 100,
        packet_bytes_max: 1024 * 1024,
        qos: SubscriptionQos::AtLeastOnce,
        reconnect_max: Duration::from_millis(500),
    }
}

/// A running ingest and the ends that stage and writer would hold.
pub(crate) struct Running {
    pub(crate) deliveries: mpsc::Receiver<Delivery>,
    pub(crate) acks: Option<mpsc::Sender<Vec<AckToken>>>,
    pub(crate) losses: mpsc::Receiver<Loss>,
    pub(crate) metrics: Arc<Metrics>,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    /// Starts the ingest of `sensors/#`.
    pub(crate) fn start(settings: BrokerSettings) -> Self {
        let (to_stage, deliveries) = mpsc::channel(1_000);
        let (acks, from_writer) = mpsc::channel(1_000);
        let (to_ledger, losses) = mpsc::channel(100);
        let (shutdown, stop) = watch::channel(false);
        let metrics = Arc::new(Metrics::new(0));
        let task = tokio::spawn(run_ingest(Ingest {
            settings,
            index: BrokerIndex(0),
            subscriptions: vec!["sensors/#".into()],
            identity: WillSpec::of_gateway("gw1"),
            deliveries: to_stage,
            acks: from_writer,
            losses: to_ledger,
            metrics: Arc::clone(&metrics),
            shutdown: stop,
            drain: LONG,
        }));
        Self { deliveries, acks: Some(acks), losses, metrics, shutdown, task }
    }

    /// Returns the next message.
    pub(crate) async fn next(&mut self) -> Delivery {
        timeout(LONG, self.deliveries.recv()).await.expect("a message arrives").expect("the ingest runs")
    }

    /// Acknowledges messages, as the writer does after the commit.
    pub(crate) async fn acknowledge(&self, tokens: Vec<AckToken>) {
        self.acks.as_ref().unwrap().send(tokens).await.unwrap();
    }

    /// Waits until something is true of the broker's counts.
    pub(crate) async fn until(&self, what: &str, is: impl Fn(&dunlin_daemon::metrics::BrokerCounts) -> bool) {
        let mut look = tokio::time::interval(Duration::from_millis(10));
        let met = async {
            while !self.metrics.brokers().get("mqtt").is_some_and(&is) {
                look.tick().await;
            }
        };
        let met = timeout(LONG, met).await;
        assert!(met.is_ok(), "{what}: {:?}", self.metrics.brokers());
    }

    /// Stops in order.
    pub(crate) async fn stop(mut self) {
        self.shutdown.send_replace(true);
        self.acks = None;
        timeout(LONG, self.task).await.expect("the ingest stops").unwrap();
    }
}
