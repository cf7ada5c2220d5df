//! A crowd: many gateways in one process, against one server, for some time.
//!
//! All come in, a bounded number at a time, and report; then the time of the run begins. Ends by itself or when it is told
//! to, and says what it has seen.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dunlin_kit::clock;
use dunlin_protocol::ServerId;
use dunlin_trust::time::UnixTime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::agent::{Agent, Home};
use crate::figures::{Ended, Figures, Releases, Summary};
use crate::files_limit::{TooFewFiles, require_connections};
use crate::line::{Line, LineError, Meter, Target};
use crate::member::{Member, Shared};
use crate::mirror::{Mirror, MirrorError};
use crate::plan::Plan;
use crate::watch::{self, Listener, Teller};

/// Gateways that come in at the same time: more would only wait in the server's queue.
const DOORS: usize = 64;
/// How often it is told how far the run has come.
const TOLD_EACH: Duration = Duration::from_secs(5);

/// Why there is no run.
#[derive(Debug)]
pub enum CrowdError {
    /// There are too few files for so many connections.
    Files(TooFewFiles),
    /// The server's URL, or the authorities, cannot be used.
    Target(LineError),
    /// The owner's roots are not there.
    Mirror(MirrorError),
    /// No gateway came in; by code, why.
    NobodyEnrolled(BTreeMap<String, u64>),
    /// The system gives no randomness.
    Random,
}

impl fmt::Display for CrowdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(_) => f.write_str("too few open files are allowed"),
            Self::Target(_) => f.write_str("the server cannot be used"),
            Self::Mirror(_) => f.write_str("the gateways cannot be given a root to trust"),
            Self::NobodyEnrolled(codes) => {
                let codes: Vec<String> =
                    codes.iter().map(|(code, count)| format!("{code}: {count}")).collect();
                write!(f, "no gateway could enrol ({})", codes.join(", "))
            }
            Self::Random => f.write_str("the system gives no randomness"),
        }
    }
}

impl std::error::Error for CrowdError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Files(error) => Some(error),
            Self::Target(error) => Some(error),
            Self::Mirror(error) => Some(error),
            Self::NobodyEnrolled(_) | Self::Random => None,
        }
    }
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many gateways have come in.
    Entering(usize),
    /// All are in.
    Begun,
    /// So many questions were answered since.
    Running(u64),
    /// All lose their connections.
    Storm,
}

struct Run {
    shared: Arc<Shared>,
    target: Arc<Target>,
    meter: Arc<Meter>,
    entered: Arc<AtomicUsize>,
}

/// Runs a plan until its time is over or `stop` is; `tell` is told how far it has come.
///
/// *Errors*: see [`CrowdError`]; what befalls single gateways is in the summary.
pub async fn run(
    plan: Plan,
    stop: impl Future<Output = ()>,
    tell: impl Fn(Progress),
) -> Result<Summary, CrowdError> {
    let (devices, clones) = (plan.devices, plan.clones.min(plan.devices));
    require_connections(devices + clones).map_err(CrowdError::Files)?;
    let target = Target::new(plan.url(), plan.ca_file.as_deref()).map_err(CrowdError::Target)?;
    let (target, meter) = (Arc::new(target), Arc::new(Meter::default()));
    let line = Line::new(Arc::clone(&target), Arc::new(Meter::default()));
    let now = UnixTime(clock::wall_micros() / 1_000_000);
    let mirror = Mirror::open(line, &plan.token, now).await.map_err(CrowdError::Mirror)?;
    let mut start = [0; 8];
    getrandom::fill(&mut start).map_err(|_| CrowdError::Random)?;
    let shared =
        Shared { plan, mirror, figures: Figures::new(), doors: Semaphore::new(DOORS), began: Instant::now() };
    let run = Run { shared: Arc::new(shared), target, meter, entered: Arc::default() };
    let (teller, listener) = watch::pair();
    let mut members = JoinSet::new();
    for number in 0..devices {
        members.spawn(run.one(number, start, listener.clone(), number < clones));
    }
    drop(listener);
    let time = run.lead(&teller, stop, tell).await;
    run.sum_up(members, time, clones).await
}

impl Run {
    /// Returns the life of a gateway, and of its copy where it has one.
    fn one(
        &self,
        number: usize,
        start: [u8; 8],
        listener: Listener,
        is_copied: bool,
    ) -> impl Future<Output = Vec<Member>> + Send + 'static {
        let plan = &self.shared.plan;
        let home = Home {
            url: plan.token.claim().server_url.as_str().to_owned(),
            root: plan.token.claim().root,
            server_key: self.shared.mirror.server_key(),
            // The answer to the enrolment says which.
            server_id: ServerId::new(0, [0; 10]),
        };
        let agent = Agent::new(&plan.draw("key", number), start, home);
        let line = Line::new(Arc::clone(&self.target), Arc::clone(&self.meter));
        let copys_line = is_copied.then(|| Line::new(Arc::clone(&self.target), Arc::clone(&self.meter)));
        let (shared, entered) = (Arc::clone(&self.shared), Arc::clone(&self.entered));
        async move {
            let mut member = Member::new(number, agent, line, listener.clone(), &shared);
            let has_entered = member.enter().await;
            entered.fetch_add(1, Ordering::Relaxed);
            let mut waiting = listener;
            if !has_entered || !waiting.begun().await {
                return vec![member];
            }
            let Some(line) = copys_line else {
                member.live().await;
                return vec![member];
            };
            let mut copys_start = start;
            copys_start[0] ^= 0xff;
            let mut copy = member.copied(line, copys_start);
            tokio::join!(member.live(), copy.live());
            vec![member, copy]
        }
    }

    /// Waits for all to come in, begins, and ends; returns how long it was from the one to the other.
    async fn lead(
        &self,
        teller: &Teller,
        stop: impl Future<Output = ()>,
        tell: impl Fn(Progress),
    ) -> Duration {
        let mut stop = std::pin::pin!(stop);
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        let mut told_at = Instant::now();
        let mut began: Option<Instant> = None;
        let mut has_stormed = false;
        loop {
            tokio::select! {
                () = &mut stop => break,
                _ = tick.tick() => {}
            }
            let plan = &self.shared.plan;
            let entered = self.entered.load(Ordering::Relaxed);
            let Some(since) = began else {
                if entered == plan.devices {
                    self.shared.figures.begin();
                    self.meter.sent.store(0, Ordering::Relaxed);
                    self.meter.received.store(0, Ordering::Relaxed);
                    self.meter.connections.store(0, Ordering::Relaxed);
                    began = Some(Instant::now());
                    teller.begin();
                    tell(Progress::Begun);
                } else if told_at.elapsed() >= TOLD_EACH {
                    told_at = Instant::now();
                    tell(Progress::Entering(entered));
                }
                continue;
            };
            if plan.lasts.is_some_and(|lasts| since.elapsed() >= lasts) {
                break;
            }
            if !has_stormed && plan.storm.is_some_and(|after| since.elapsed() >= after) {
                has_stormed = true;
                teller.storm();
                tell(Progress::Storm);
            }
            if told_at.elapsed() >= TOLD_EACH {
                told_at = Instant::now();
                tell(Progress::Running(self.shared.figures.exchanges()));
            }
        }
        let time = began.map_or(Duration::ZERO, |since| since.elapsed());
        teller.end();
        time
    }

    async fn sum_up(
        &self,
        mut members: JoinSet<Vec<Member>>,
        time: Duration,
        clones: usize,
    ) -> Result<Summary, CrowdError> {
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let mut ended = Ended {
            devices: self.shared.plan.devices,
            clones,
            time,
            sent: count(&self.meter.sent),
            received: count(&self.meter.received),
            connections: count(&self.meter.connections),
            ..Ended::default()
        };
        while let Some(joined) = members.join_next().await {
            let Ok(group) = joined else { continue };
            for (position, member) in group.iter().enumerate() {
                // A copy is the same gateway.
                if position == 0 {
                    count_member(&mut ended, member);
                }
            }
        }
        let summary = self.shared.figures.sum_up(ended);
        if summary.enrolled == 0 {
            return Err(CrowdError::NobodyEnrolled(summary.errors));
        }
        Ok(summary)
    }
}

fn count_member(ended: &mut Ended, member: &Member) {
    ended.enrolled += usize::from(member.agent.incarnation.is_some());
    *ended.states.entry(member.state.clone()).or_default() += 1;
    ended.rows.0 += member.receipts;
    ended.rows.1 += member.outbox.waiting();
    let name = |release: &dunlin_protocol::report::Release| format!("{} {}", release.model, release.version);
    let mut of = |name: String, change: fn(&mut Releases)| change(ended.releases.entry(name).or_default());
    for running in member.board.running() {
        of(name(running), |releases| releases.running += 1);
    }
    for digest in member.board.moves.keys() {
        if let Some(release) = member.board.known.get(digest) {
            of(name(release), |releases| releases.told += 1);
        }
    }
    for bad in member.board.failures() {
        of(name(&bad.release), |releases| releases.failed += 1);
    }
}
