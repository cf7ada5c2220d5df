//! The metrics server over real connections: paths, limits, health.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::metrics::Metrics;
use crate::status::StatusFacts;

fn board() -> Arc<StatusBoard> {
    let facts = StatusFacts {
        gateway: "g".into(),
        version: "1".into(),
        pid: 1,
        state_dir: "/s".into(),
        boot: "b".into(),
        card_endurance_bytes: 1,
    };
    Arc::new(StatusBoard::new(Arc::new(Metrics::new(0)), facts))
}

async fn start(board: &Arc<StatusBoard>, time_max: Duration) -> SocketAddr {
    let http = StatusHttp::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = http.address();
    tokio::spawn(http.serve_within(Arc::clone(board), time_max));
    address
}

async fn request(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

#[tokio::test]
async fn metrics_and_health_are_served_and_nothing_else() {
    let board = board();
    let address = start(&board, CONNECTION_TIME_MAX).await;
    let metrics = request(address, "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.ends_with("# EOF\n"), "{metrics}");
    let health = request(address, "/healthz").await;
    assert!(health.starts_with("HTTP/1.1 503") && health.contains("store: not open yet"), "{health}");
    board.metrics().store(|store| store.state = "ok".into());
    assert!(request(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(request(address, "/").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn clients_that_say_nothing_are_sent_away() {
    let address = start(&board(), Duration::from_millis(50)).await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    assert!(request(address, "/metrics").await.starts_with("HTTP/1.1 200"));
    let mut rest = Vec::new();
    let _ = silent.remove(0).read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}

#[tokio::test]
async fn an_address_of_the_network_is_refused() {
    assert!(matches!(StatusHttp::bind("0.0.0.0:0".parse().unwrap()).await, Err(HttpError::NotLoopback(_))));
}

#[test]
fn health_names_everything_that_is_wrong() {
    let mut report = StatusReport::default();
    report.store.state = "full since 12:00".into();
    report.slots.insert("m".into(), crate::status::report::SlotReport::default());
    report.slots.entry("m".into()).and_modify(|slot| slot.state = "failed".into());
    report.brokers.insert("mqtt".into(), crate::status::report::BrokerReport::default());
    assert_eq!(
        Health::of(&report).reasons,
        ["store: full since 12:00", "model `m`: failed", "broker `mqtt`: not connected"]
    );
}
