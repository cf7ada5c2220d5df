//! Imports handed in over the status socket, carried out by the real thread.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use dunlin_model_package::Digest;
use dunlin_trust::time::UnixTime;

use super::*;
use crate::metrics::Metrics;
use crate::status::client::StatusClient;
use crate::status::socket::StatusSocket;
use crate::status::{StatusBoard, StatusFacts};
use crate::store::{FolderLock, StateDatabase, StoredRelease};
use crate::update::import_desk::ImportReport;
use crate::update::machine::Intent;
use crate::update::release::Release;
use crate::update::testing::{Draft, Gateway, Owner, bundle};
use crate::update::tests::rules;

struct Daemon {
    gateway: Gateway,
    book: Arc<ReleaseBook>,
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
    let lock = FolderLock::acquire(&state_dir).unwrap();
    let database = StateDatabase::open(&lock).unwrap();
    let book = Arc::new(ReleaseBook::open(database, &state_dir, rules(), gateway.models.clone()).unwrap());
    let store = TrustStore::open(&lock).unwrap();
    let importer = Importer {
        settings,
        store,
        book: Arc::clone(&book),
        desk: Arc::clone(&desk),
        events: sender,
        clock: Arc::default(),
        meter: Arc::default(),
    };
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
    Daemon { gateway, book, desk, events, client: StatusClient::new(&state_dir) }
}

/// The importer judges by this machine's clock.
fn present_owner() -> Owner {
    Owner::at(UnixTime(dunlin_kit::clock::wall_micros() / 1_000_000))
}

async fn bounded<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.unwrap()
}

async fn next(daemon: &mut Daemon) -> Option<ImportEvent> {
    bounded(daemon.events.recv()).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || drop(sender.send(work())));
    receiver.await.unwrap()
}

#[tokio::test]
async fn a_path_that_is_handed_in_becomes_a_package_and_every_phase_is_told() {
    let mut owner = present_owner();
    owner.publish(&Draft::new("frost", 3));
    owner.publish(&Draft::new("other", 1));
    let mut daemon = start(&owner);
    let (client, place) = (daemon.client.clone(), owner.folder().to_owned());
    let import = blocking(move || client.import(&place, Again::Retry)).await.unwrap();
    let Some(ImportEvent::Offered { release, again: Again::Retry }) = next(&mut daemon).await else {
        panic!()
    };
    assert_eq!((release.model.as_str(), release.counter), ("frost", 3));
    let Some(ImportEvent::Fetched { package, .. }) = next(&mut daemon).await else { panic!() };
    assert!(package.read_blob("model.onnx").is_ok());
    let mut report = daemon.desk.report();
    while !report.ended {
        report = bounded(daemon.desk.newer_than(report.revision)).await;
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
    let mut owner = present_owner();
    owner.publish(&Draft::new("frost", 3));
    let blobs = owner.file("blobs");
    let away = owner.file("away");
    fs::rename(&blobs, &away).unwrap();
    let mut daemon = start(&owner);
    daemon.desk.import(owner.folder().to_owned(), Again::Never).unwrap();
    let Some(ImportEvent::Offered { release, .. }) = next(&mut daemon).await else { panic!() };
    assert!(matches!(next(&mut daemon).await, Some(ImportEvent::NotFetched { .. })));
    fs::rename(&away, &blobs).unwrap();
    daemon.desk.fetch(release.digest).unwrap();
    assert!(matches!(next(&mut daemon).await, Some(ImportEvent::Fetched { .. })));
}

#[tokio::test]
async fn what_cannot_be_imported_says_why_and_the_next_import_is_taken() {
    let mut owner = present_owner();
    owner.publish(&Draft::new("frost", 3));
    let mut daemon = start(&owner);
    let no_bundle = daemon.gateway.folder.path().join("stick.tar");
    dunlin_kit::atomic_file::write(&no_bundle, b"no bundle").unwrap();
    for place in [no_bundle, "/nowhere/at/all".into()] {
        daemon.desk.import(place, Again::Never).unwrap();
        let mut report = daemon.desk.report();
        while !report.ended {
            report = bounded(daemon.desk.newer_than(report.revision)).await;
        }
        assert!(report.refused.is_some() || report.failed.is_some());
    }
    assert!(daemon.desk.import("relative".into(), Again::Never).is_err());
    daemon.desk.import(owner.folder().to_owned(), Again::Never).unwrap();
    assert!(matches!(next(&mut daemon).await, Some(ImportEvent::Offered { .. })));
}

#[tokio::test]
async fn an_import_removes_the_files_of_releases_that_nobody_needs() {
    let mut owner = present_owner();
    let mut daemon = start(&owner);
    let mut offered = Vec::new();
    for counter in 1..=4_u8 {
        owner.publish(&Draft::new("frost", counter.into()).with_blob("notes.bin", vec![counter; 20]));
        daemon.desk.import(owner.folder().to_owned(), Again::Never).unwrap();
        loop {
            match next(&mut daemon).await {
                Some(ImportEvent::Offered { release, .. }) => offered.push(release),
                Some(ImportEvent::Fetched { .. }) => break,
                other => panic!("{other:?}"),
            }
        }
        let mut report = daemon.desk.report();
        while !report.ended {
            report = bounded(daemon.desk.newer_than(report.revision)).await;
        }
        // The second is tried; what comes after it is on its way.
        if counter == 2 {
            let KeptRelease { digest, model, version, counter, manifest, evidence, .. } = *offered[1].clone();
            let release = Release { digest, model, version, counter };
            let stored = StoredRelease { release, manifest, evidence };
            daemon.book.offer("frost", &stored, Intent::Desired).unwrap();
        }
    }
    let kept = |content: u8| {
        let path = BlobStore::path_in(daemon.gateway.folder.path());
        path.join(Digest::of(&[content; 20]).to_string()).exists()
    };
    assert_eq!([1, 2, 3, 4].map(kept), [false, true, false, true]);
}

#[tokio::test]
async fn a_configured_place_that_is_older_than_what_came_since_is_no_refusal_and_one_that_is_handed_in_is() {
    let mut owner = present_owner();
    owner.publish(&Draft::new("frost", 1));
    let (file, _) = bundle(&owner);
    let old = file.path().to_owned();
    owner.publish(&Draft::new("frost", 2));
    let daemon = start(&owner);
    daemon.desk.import(owner.folder().to_owned(), Again::Never).unwrap();
    bounded(daemon.desk.idle()).await;
    let code = |report: &ImportReport| report.refused.as_ref().map(|refusal| refusal.code.clone());
    let rollback = Some("rollback".to_owned());
    daemon.desk.import_configured(old.clone()).unwrap();
    let report = bounded(daemon.desk.idle()).await;
    assert_eq!((code(&report), daemon.gateway.refusal("metadata")), (rollback.clone(), None));
    daemon.desk.import(old, Again::Never).unwrap();
    let report = bounded(daemon.desk.idle()).await;
    assert_eq!((code(&report), daemon.gateway.refusal("metadata")), (rollback.clone(), rollback));
}
