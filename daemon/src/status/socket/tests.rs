//! The status socket over real connections: requests, limits, slow and garbling clients.

use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::metrics::Metrics;
use crate::status::client::{ClientError, StatusClient};
use crate::status::{SOCKET_NAME, StatusFacts};
use crate::store::{FolderLock, StateDatabase};
use crate::update::import_desk::ImportDesk;
use crate::update::machine::{Event, Floor, Intent, ModelState};

fn board(folder: &Path) -> Arc<StatusBoard> {
    let facts = StatusFacts {
        gateway: "g".into(),
        version: "1".into(),
        pid: 1,
        state_dir: folder.to_owned(),
        boot: "b".into(),
        card_endurance_bytes: 1,
    };
    Arc::new(StatusBoard::new(Arc::new(Metrics::new(0)), facts))
}

/// A daemon that has nothing but its status socket; returns what is asked of its stage.
fn start(folder: &Path) -> (mpsc::Receiver<ControlRequest>, tokio::task::JoinHandle<()>) {
    let socket = StatusSocket::bind(folder).unwrap();
    let (control, requests) = mpsc::channel(4);
    (requests, tokio::spawn(socket.serve(board(folder), control)))
}

async fn exchange(folder: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(folder.join(SOCKET_NAME)).await.unwrap();
    // The daemon may answer and close before it has taken all.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply).await;
    String::from_utf8(reply).unwrap()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || drop(sender.send(work())));
    receiver.await.unwrap()
}

#[tokio::test]
async fn the_client_gets_status_and_sources() {
    let folder = TempDir::new().unwrap();
    let (_requests, _task) = start(folder.path());
    let client = StatusClient::new(folder.path());
    let (status, sources) = blocking(move || (client.status(), client.sources())).await;
    assert_eq!(status.unwrap().gateway, "g");
    assert!(sources.unwrap().is_empty());
    let mode = fs::metadata(folder.path().join(SOCKET_NAME)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[tokio::test]
async fn a_flush_is_answered_when_the_stage_has_answered() {
    let folder = TempDir::new().unwrap();
    let (mut requests, _task) = start(folder.path());
    let client = StatusClient::new(folder.path());
    let stage = tokio::spawn(async move {
        let Some(ControlRequest::Flush(done)) = requests.recv().await else { panic!("no flush") };
        done.send(()).unwrap();
        let Some(ControlRequest::Quarantine(sequence)) = requests.recv().await else { panic!("no batch") };
        sequence
    });
    blocking(move || {
        client.flush().unwrap();
        client.quarantine(9).unwrap();
    })
    .await;
    assert_eq!(stage.await.unwrap(), 9);
}

#[tokio::test]
async fn a_flush_of_a_stopping_daemon_is_refused() {
    let folder = TempDir::new().unwrap();
    let (requests, _task) = start(folder.path());
    drop(requests);
    let client = StatusClient::new(folder.path());
    assert!(matches!(blocking(move || client.flush()).await, Err(ClientError::Refused(_))));
}

#[tokio::test]
async fn garbage_and_huge_lines_get_an_error_and_the_next_client_is_served() {
    let folder = TempDir::new().unwrap();
    let (_requests, _task) = start(folder.path());
    for garbage in [&b"\xff\xfe\n"[..], b"{\"request\":\"reboot\"}\n", b"{\"request\":\"status\"", b"[[[[\n"]
    {
        assert!(exchange(folder.path(), garbage).await.contains("\"error\":\"not a request"), "{garbage:?}");
    }
    let huge = vec![b' '; REQUEST_BYTES_MAX * 2];
    let reply = exchange(folder.path(), &huge).await;
    assert!(reply.is_empty() || reply.contains("longer than 65536"), "{reply}");
    assert_eq!(exchange(folder.path(), b"").await, "");
    assert!(exchange(folder.path(), b"{\"request\":\"sources\"}\n").await.contains("\"sources\":{}"));
}

#[tokio::test]
async fn a_slow_client_is_sent_away_and_holds_up_nobody() {
    let folder = TempDir::new().unwrap();
    let mut socket = StatusSocket::bind(folder.path()).unwrap();
    socket.client_time_max = Duration::from_millis(50);
    let (control, _requests) = mpsc::channel(1);
    let _task = tokio::spawn(socket.serve(board(folder.path()), control));
    let mut slow = Vec::new();
    for _ in 0..CONNECTIONS_MAX * 2 {
        let mut stream = UnixStream::connect(folder.path().join(SOCKET_NAME)).await.unwrap();
        stream.write_all(b"{\"requ").await.unwrap();
        slow.push(stream);
    }
    assert!(exchange(folder.path(), b"{\"request\":\"sources\"}\n").await.contains("\"sources\""));
    let mut reply = String::new();
    slow.remove(0).read_to_string(&mut reply).await.unwrap();
    assert!(reply.contains("no whole request within"), "{reply}");
}

#[tokio::test]
async fn a_socket_in_use_is_left_alone_and_a_stale_one_replaced() {
    let folder = TempDir::new().unwrap();
    let first = StatusSocket::bind(folder.path()).unwrap();
    assert!(matches!(StatusSocket::bind(folder.path()), Err(SocketError::InUse(_))));
    drop(first);
    let path = folder.path().join(SOCKET_NAME);
    assert!(!path.exists());
    // The standard library leaves the file behind, as a killed daemon does.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let second = StatusSocket::bind(folder.path()).unwrap();
    drop(second);
    fs::File::create(&path).unwrap();
    assert!(matches!(StatusSocket::bind(folder.path()), Err(SocketError::NotASocket(_))));
}

#[test]
fn without_a_daemon_the_client_says_so() {
    let folder = TempDir::new().unwrap();
    assert!(matches!(StatusClient::new(folder.path()).status(), Err(ClientError::NotRunning(_))));
}

#[tokio::test]
async fn models_are_shown_and_rolled_back_over_the_socket_once_the_book_is_open() {
    let folder = TempDir::new().unwrap();
    let board = board(folder.path());
    let socket = StatusSocket::bind(folder.path()).unwrap();
    let (control, _requests) = mpsc::channel(4);
    let _task = tokio::spawn(socket.serve(Arc::clone(&board), control));
    let client = StatusClient::new(folder.path());
    let early = client.clone();
    let refused = blocking(move || early.models()).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused(_)), "{refused}");

    let lock = FolderLock::acquire(folder.path()).unwrap();
    let good = crate::update::tests::signed(1);
    let digest = good.release.digest;
    let state = ModelState {
        active: Some(good.release.clone()),
        floor: Floor { counter: 1, digest: Some(digest) },
        ..ModelState::default()
    };
    let mut database = StateDatabase::open(&lock).unwrap();
    database.save_model("m", &state, Some(&good)).unwrap();
    let rules = crate::update::tests::rules();
    let book = ReleaseBook::open(database, folder.path(), rules, vec!["m".to_owned()]).unwrap();
    let book = Arc::new(book);
    board.show_releases(Arc::clone(&book));
    let asked = client.clone();
    let (models, nothing, unknown) = blocking(move || {
        (asked.models().unwrap(), asked.rollback("m", None).unwrap(), asked.rollback("x", None).unwrap())
    })
    .await;
    assert!(models.running);
    assert_eq!(models.models["m"].serving, Some(good.release.clone()));
    assert_eq!((nothing, unknown), (RollbackReport::Nothing, RollbackReport::UnknownModel));

    let new = crate::update::tests::signed(2);
    let digest = new.release.digest;
    book.offer("m", &new, Intent::Desired).unwrap();
    for event in [Event::Verified { digest }, Event::Admitted { digest }, Event::Begin { digest }] {
        book.apply("m", &event).unwrap();
    }
    let left = blocking(move || client.rollback("m", Some("odd"))).await.unwrap();
    assert_eq!(left, RollbackReport::Left { left: new.release, serving: Some(good.release) });
    assert_eq!(book.report().models["m"].bad[0].detail, "odd");
}

#[tokio::test]
async fn an_import_comes_after_the_one_that_is_under_way() {
    let folder = TempDir::new().unwrap();
    let (desk, _jobs) = ImportDesk::new();
    let desk = Arc::new(desk);
    let facts = board(folder.path()).facts().clone();
    let board = StatusBoard::new(Arc::new(Metrics::new(0)), facts).with_imports(Arc::clone(&desk));
    let socket = StatusSocket::bind(folder.path()).unwrap();
    let (control, _requests) = mpsc::channel(4);
    let _task = tokio::spawn(socket.serve(Arc::new(board), control));
    desk.import_configured(PathBuf::from("/first")).unwrap();
    let client = StatusClient::new(folder.path());
    let mut handed_in =
        tokio::spawn(blocking(move || client.import(Path::new("/second"), Again::Never).unwrap()));
    // The request is there and waits: nothing but the end of the first import can answer it.
    assert!(timeout(Duration::from_millis(100), &mut handed_in).await.is_err());
    desk.change(|report| report.ended = true);
    assert_eq!(handed_in.await.unwrap(), 2);
}
