//! Imports handed in over the status socket, carried out by the real thread.

use std::fs;
use std::sync::Arc;

use super::*;
use crate::metrics::Metrics;
use crate::status::client::StatusClient;
use crate::status::socket::StatusSocket;
use crate::status::{StatusBoard, StatusFacts};
use crate::update::testing::{Draft, Gateway, Owner};

struct Daemon {
    gateway: Gateway,
    desk: Arc<ImportDesk>,
    events: mpsc::Receiver<ImportEvent>,
    client: StatusClient,
}

fn start(owner: &Owner) -> Daemon {
    let gateway = Gateway::of(owner, &["frost", "pump"]);
    let state_dir = gateway.folder.path().to_owned();
    let settings = ImportSettings {
        state_dir: state_dir.clone(),
        root: Some(owner.file("metadata/1.root.json")),
        models: gateway.models.clone(),
        free_bytes_min: 0,
    };
    let (desk, jobs) = ImportDesk::new();
    let desk = Arc::new(desk);
    let (sender, events) = mpsc::channel(16);
    let settings = Arc::new(Mutex::new(settings));
    let importer = Importer { settings, store: gateway.store(), desk: Arc::clone(&desk), events: sender };
    importer.spawn(jobs).unwrap();
    let facts = StatusFacts {
        gateway: "g".into(),
        version: "1".into(),
        pid: 1,
        state_dir: state_dir.clone(),
        boot: "b".into(),
        card_endurance_bytes: 1,
    };
    let board = StatusBoard::new(Arc::new(Metrics::new(0)), facts).with_imports(Arc::clone(&desk));
    let socket = StatusSocket::bind(&state_dir).unwrap();
    let (control, _) = mpsc::channel(1);
    tokio::spawn(socket.serve(Arc::new(board), control));
    Daemon { gateway, desk, events, client: StatusClient::new(&state_dir) }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || drop(sender.send(work())));
    receiver.await.unwrap()
}

#[tokio::test]
async fn a_path_that_is_handed_in_becomes_a_package_and_every_phase_is_told() {
    let mut owner = Owner::new();
    owner.publish(&Draft::new("frost", 3));
    owner.publish(&Draft::new("other", 1));
    let mut daemon = start(&owner);
    let (client, place) = (daemon.client.clone(), owner.folder().to_owned());
    let import = blocking(move || client.import(&place, Again::Retry)).await.unwrap();
    let Some(ImportEvent::Offered { release, again: Again::Retry }) = daemon.events.recv().await else {
        panic!()
    };
    assert_eq!((release.model.as_str(), release.counter), ("frost", 3));
    let Some(ImportEvent::Fetched { package, .. }) = daemon.events.recv().await else { panic!() };
    assert!(package.read_blob("model.onnx").is_ok());
    let mut report = daemon.desk.report();
    while !report.ended {
        report = daemon.desk.newer_than(report.revision).await;
    }
    assert_eq!((report.import, report.models["frost"].phase.as_str()), (import, "verified"));
    assert!(report.passed_over.contains("other"));
    // The updater goes on, and the client that waits hears of it.
    let (client, after) = (daemon.client.clone(), report.revision);
    let waiting = tokio::spawn(blocking(move || client.import_progress(after)));
    daemon.desk.enter_phase(&release, "bad", Some("selftest:golden".to_owned()));
    let report = waiting.await.unwrap().unwrap();
    assert!(report.models["frost"].is_settled());
    assert_eq!(report.models["frost"].cause.as_deref(), Some("selftest:golden"));
}

#[tokio::test]
async fn files_that_went_with_their_stick_come_once_it_is_back() {
    let mut owner = Owner::new();
    owner.publish(&Draft::new("frost", 3));
    let blobs = owner.file("blobs");
    let away = owner.file("away");
    fs::rename(&blobs, &away).unwrap();
    let mut daemon = start(&owner);
    daemon.desk.import(owner.folder().to_owned(), Again::Never).unwrap();
    let Some(ImportEvent::Offered { release, .. }) = daemon.events.recv().await else { panic!() };
    assert!(matches!(daemon.events.recv().await, Some(ImportEvent::NotFetched { .. })));
    fs::rename(&away, &blobs).unwrap();
    daemon.desk.fetch(release.digest).unwrap();
    assert!(matches!(daemon.events.recv().await, Some(ImportEvent::Fetched { .. })));
}

#[tokio::test]
async fn what_cannot_be_imported_says_why_and_the_next_import_is_taken() {
    let mut owner = Owner::new();
    owner.publish(&Draft::new("frost", 3));
    let mut daemon = start(&owner);
    let no_bundle = daemon.gateway.folder.path().join("stick.tar");
    dunlin_kit::atomic_file::write(&no_bundle, b"no bundle").unwrap();
    for place in [no_bundle, "/nowhere/at/all".into()] {
        daemon.desk.import(place, Again::Never).unwrap();
        let mut report = daemon.desk.report();
        while !report.ended {
            report = daemon.desk.newer_than(report.revision).await;
        }
        assert!(report.refused.is_some() || report.failed.is_some());
    }
    assert!(daemon.desk.import("relative".into(), Again::Never).is_err());
    daemon.desk.import(owner.folder().to_owned(), Again::Never).unwrap();
    assert!(matches!(daemon.events.recv().await, Some(ImportEvent::Offered { .. })));
}
