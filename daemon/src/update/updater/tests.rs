//! The updater with a real book and a scripted stage.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::slot::TryLedger;
use crate::store::{FolderLock, StateDatabase};
use crate::update::machine::Intent;
use crate::update::tests::{rules, signed};

/// Longest wait for anything in these tests, in time that passes by itself only while nothing happens.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// What a package is in these tests: its release.
type Packaged = Digest;

/// A stage that does as it is told, and says what was refused of it.
struct Script {
    lanes: Arc<Mutex<RunningLanes>>,
    counts: watch::Sender<Vec<LaneCounts>>,
    book: Arc<ReleaseBook>,
    loads: Arc<AtomicUsize>,
    refuses: Option<Digest>,
}

impl Stage for Script {
    type Package = Packaged;
    type Fill = Digest;

    fn counts(&self) -> watch::Receiver<Vec<LaneCounts>> {
        self.counts.subscribe()
    }

    fn load(&self, _: usize, _: usize, package: &Digest) -> Step<Digest> {
        let (book, digest) = (Arc::clone(&self.book), *package);
        self.loads.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            tokio::task::yield_now().await;
            if book.record_start("m", &digest) == crate::slot::ledger::START_REFUSED {
                return Err(StepFailure::Later("its tries are used up".to_owned()));
            }
            book.record_ready("m", &digest);
            Ok(digest)
        })
    }

    fn arrange(&self, _: usize, orders: [LaneOrder<Digest>; LANES_PER_MODEL]) -> Step<()> {
        let (lanes, counts, refuses) = (Arc::clone(&self.lanes), self.counts.clone(), self.refuses);
        Box::pin(async move {
            tokio::task::yield_now().await;
            let before = *lanes.lock().unwrap();
            let mut after = before;
            for (lane, order) in orders.into_iter().enumerate() {
                after[lane] = match order {
                    LaneOrder::Empty(_) => None,
                    LaneOrder::Keep(role) => before[lane].map(|running| Running { role, ..running }),
                    LaneOrder::Fill(_, digest) if Some(digest) == refuses => {
                        return Err(StepFailure::Later("does not fit".to_owned()));
                    }
                    LaneOrder::Fill(role, digest) => Some(Running { digest, role }),
                };
            }
            let serving = after.iter().flatten().filter(|lane| lane.role == LaneRole::Serving).count();
            assert!(serving <= 1, "two lanes would serve: {after:?}");
            counts.send_modify(|counts| {
                for lane in (0..LANES_PER_MODEL).filter(|lane| before[*lane] != after[*lane]) {
                    counts[lane] = LaneCounts { epoch: counts[lane].epoch + 1, ..LaneCounts::default() };
                }
            });
            *lanes.lock().unwrap() = after;
            Ok(())
        })
    }
}

/// Files and tests that go as written.
#[derive(Default)]
struct Supply {
    fetches: AtomicUsize,
    failing_fetches: AtomicUsize,
    bad: Option<(Digest, Reason)>,
    damaged: Mutex<Option<Digest>>,
}

impl Fetch<Packaged> for Supply {
    fn fetch(&self, _: &str, release: &StoredRelease) -> Step<Digest> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let digest = release.release.digest;
        let failing =
            self.failing_fetches.try_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        Box::pin(async move {
            tokio::task::yield_now().await;
            failing.map_or(Ok(digest), |_| Err(StepFailure::Later("no network".to_owned())))
        })
    }

    fn open(&self, _: &str, release: &StoredRelease) -> Step<Digest> {
        let digest = release.release.digest;
        let damaged = *self.damaged.lock().unwrap() == Some(digest);
        Box::pin(async move {
            if damaged { Err(StepFailure::Damaged("another hash".to_owned())) } else { Ok(digest) }
        })
    }
}

impl Admit<Packaged> for Supply {
    fn admit(&self, _: &str, package: &Digest) -> Step<()> {
        let failure = self.bad.filter(|(digest, _)| digest == package);
        Box::pin(async move {
            failure.map_or(Ok(()), |(_, reason)| Err(StepFailure::Bad(reason, "seen".to_owned())))
        })
    }
}

/// An updater at work.
struct Bench {
    _folder: TempDir,
    _lock: FolderLock,
    book: Arc<ReleaseBook>,
    lanes: Arc<Mutex<RunningLanes>>,
    counts: watch::Sender<Vec<LaneCounts>>,
    loads: Arc<AtomicUsize>,
    supply: Arc<Supply>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Bench {
    fn start(supply: Supply, refuses: Option<Digest>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        let database = StateDatabase::open(&lock).unwrap();
        let book = ReleaseBook::open(database, folder.path(), rules(), vec!["m".to_owned()]).unwrap();
        let (book, lanes) = (Arc::new(book), Arc::new(Mutex::new([None; LANES_PER_MODEL])));
        let counts = watch::channel(vec![LaneCounts::default(); LANES_PER_MODEL]).0;
        let (supply, loads) = (Arc::new(supply), Arc::new(AtomicUsize::new(0)));
        let (stop, stopping) = watch::channel(false);
        let stage = Script {
            lanes: Arc::clone(&lanes),
            counts: counts.clone(),
            book: Arc::clone(&book),
            loads: Arc::clone(&loads),
            refuses,
        };
        let parts = UpdaterParts {
            book: Arc::clone(&book),
            fetch: Arc::clone(&supply) as Arc<dyn Fetch<Packaged>>,
            admit: Arc::clone(&supply) as Arc<dyn Admit<Packaged>>,
            models: vec![("m".to_owned(), [None; LANES_PER_MODEL])],
            stopping,
        };
        let task = tokio::spawn(Updater::new(parts, stage).run());
        Self { _folder: folder, _lock: lock, book, lanes, counts, loads, supply, stop, task }
    }

    fn offer(&self, counter: u64) {
        self.book.offer("m", &signed(counter), Intent::Desired).unwrap();
    }

    /// Waits until the lanes run this; `None` in a place where nothing does.
    async fn runs(&self, wanted: [Option<(u64, LaneRole)>; LANES_PER_MODEL]) {
        let wanted = wanted
            .map(|lane| lane.map(|(counter, role)| Running { digest: signed(counter).release.digest, role }));
        let reached = async {
            while *self.lanes.lock().unwrap() != wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let reached = timeout(PATIENCE, reached).await;
        assert!(reached.is_ok(), "{:?} instead of {wanted:?}; {:?}", self.lanes, self.book.state("m"));
    }

    /// Has a lane answer windows.
    fn predict(&self, lane: usize, change: impl FnOnce(&mut LaneCounts)) {
        self.counts.send_modify(|counts| change(&mut counts[lane]));
    }

    async fn make_good(&self, counter: u64, lane: usize) {
        self.offer(counter);
        let mut wanted = [None; LANES_PER_MODEL];
        wanted[lane] = Some((counter, LaneRole::Serving));
        self.runs(wanted).await;
        self.predict(lane, |counts| counts.predictions = 10);
        let good = async {
            while self.book.state("m").candidate.is_some() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, good).await.unwrap();
    }

    /// Brings release 2 to its trial in lane 0, beside release 1 in lane 1.
    async fn to_trial(&self) {
        self.make_good(1, 1).await;
        self.offer(2);
        self.runs([Some((2, LaneRole::Shadow)), Some((1, LaneRole::Serving))]).await;
        self.predict(0, |counts| {
            (counts.predictions, counts.compared, counts.agreed) = (10, 10, 10);
        });
        self.runs([Some((2, LaneRole::Serving)), Some((1, LaneRole::Standby))]).await;
    }

    async fn end(self) {
        self.stop.send(true).unwrap();
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_offer_becomes_good_by_itself_and_each_release_is_loaded_once() {
    let bench = Bench::start(Supply::default(), None);
    bench.to_trial().await;
    bench.predict(0, |counts| counts.predictions = 10);
    bench.runs([Some((2, LaneRole::Serving)), None]).await;
    let state = bench.book.state("m");
    assert_eq!((state.active, state.floor.counter), (Some(signed(2).release), 2));
    assert_eq!((bench.loads.load(Ordering::Relaxed), bench.supply.fetches.load(Ordering::Relaxed)), (2, 2));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_answers_nonsense_is_gone_at_once_and_nothing_is_loaded_for_it() {
    let bench = Bench::start(Supply::default(), None);
    bench.to_trial().await;
    let (loads, since) = (bench.loads.load(Ordering::Relaxed), Instant::now());
    bench.predict(0, |counts| (counts.predictions, counts.invalid) = (2, 2));
    bench.runs([None, Some((1, LaneRole::Serving))]).await;
    // The clock of the test stands still while there is work: it went on by the waits of `runs` alone.
    assert!(since.elapsed() < Duration::from_millis(100));
    assert_eq!(bench.loads.load(Ordering::Relaxed), loads);
    assert_eq!(bench.book.state("m").bad[0].reason.code(), "rolled_back:invalid_output");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn counts_of_the_shadow_do_not_end_the_trial_that_follows() {
    let bench = Bench::start(Supply::default(), None);
    bench.to_trial().await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(bench.book.state("m").candidate.unwrap().phase, Phase::Trial);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_used_up_its_tries_is_taken_away() {
    let bench = Bench::start(Supply::default(), None);
    bench.to_trial().await;
    let digest = signed(2).release.digest;
    while bench.book.record_start("m", &digest) != crate::slot::ledger::START_REFUSED {}
    bench.runs([None, Some((1, LaneRole::Serving))]).await;
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_newer_release_replaces_one_on_trial_and_the_active_one_serves_meanwhile() {
    let bench = Bench::start(Supply::default(), None);
    bench.to_trial().await;
    bench.offer(3);
    bench.runs([Some((3, LaneRole::Shadow)), Some((1, LaneRole::Serving))]).await;
    assert_eq!(bench.book.state("m").bad, []);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_operator_goes_back_to_a_release_that_is_loaded_first() {
    let bench = Bench::start(Supply::default(), None);
    bench.to_trial().await;
    bench.predict(0, |counts| counts.predictions = 10);
    bench.runs([Some((2, LaneRole::Serving)), None]).await;
    bench.book.roll_back("m", Some("odd")).unwrap();
    bench.runs([None, Some((1, LaneRole::Serving))]).await;
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_fails_is_done_again_and_a_self_test_that_fails_is_not() {
    let bad = (signed(2).release.digest, Reason::SelfTest(SelfTest::Memory));
    let supply = Supply { failing_fetches: AtomicUsize::new(3), bad: Some(bad), ..Supply::default() };
    let bench = Bench::start(supply, None);
    bench.make_good(1, 1).await;
    assert_eq!(bench.supply.fetches.load(Ordering::Relaxed), 4);
    bench.offer(2);
    let refused = async {
        while bench.book.state("m").bad.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, refused).await.unwrap();
    assert_eq!(bench.book.state("m").bad[0].reason.code(), "selftest:memory");
    bench.runs([None, Some((1, LaneRole::Serving))]).await;
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_release_that_the_stage_does_not_take_is_bad_in_the_end() {
    let bench = Bench::start(Supply::default(), Some(signed(2).release.digest));
    bench.make_good(1, 1).await;
    bench.offer(2);
    let refused = async {
        while bench.book.state("m").bad.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, refused).await.unwrap();
    assert_eq!(bench.book.state("m").bad[0].reason, Reason::Incompatible);
    bench.runs([None, Some((1, LaneRole::Serving))]).await;
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn damaged_files_at_the_start_bring_back_the_release_before_and_are_fetched_again() {
    let bench = Bench::start(Supply::default(), None);
    bench.to_trial().await;
    bench.predict(0, |counts| counts.predictions = 10);
    bench.runs([Some((2, LaneRole::Serving)), None]).await;
    *bench.supply.damaged.lock().unwrap() = Some(signed(2).release.digest);
    let lanes = first_lanes(&bench.book, bench.supply.as_ref(), "m").await;
    let previous = signed(1).release.digest;
    assert_eq!(lanes, [None, Some((LaneRole::Serving, previous))]);
    *bench.supply.damaged.lock().unwrap() = None;
    // The files come back, and the release passes all its checks again.
    bench.runs([Some((2, LaneRole::Shadow)), Some((1, LaneRole::Serving))]).await;
    assert_eq!(bench.book.state("m").floor.counter, 2);
    bench.end().await;
}
