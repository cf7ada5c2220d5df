//! Admission: whether a release may run on this board, tested beside the model that serves.
//!
//! Starts the model in a worker with its signed limits, runs its golden vectors from raw payloads to final outputs,
//! measures time and memory against its budgets. Never touches a running slot and never marks a release: the update
//! does, by the verdict. The golden vectors' messages are decoded on a thread of their own, so that the data path waits
//! for none of them.
//!
//! A model that is to run on a thread of the daemon is tested in a worker all the same: a thread can neither be killed
//! nor kept from taking the daemon's memory, and a release that nobody ran here yet is where that matters most.

use std::fmt;
use std::sync::mpsc as blocking;
use std::time::{Duration, Instant};

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::Package;
use dunlin_model_package::manifest::shown;
use dunlin_pipeline::engine::MEMORY_REFUSED;
use dunlin_pipeline::golden_check::{GoldenCheck, GoldenFailure, GoldenReport, GoldenStep};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::confine::{self, WorkerMemory};
use super::process::WorkerProcess;
use super::runner::Fault;
use super::{SlotSpec, ipc};
use crate::board::BoardClass;
use crate::flow::SlotJob;

/// Longest check of golden vectors: the most records at the speed of the slowest board, some 1,000 a second.
const GOLDEN_TIME_MAX: Duration = Duration::from_secs(120);
/// Runs of one measurement: the two slowest are above the 99th percentile.
const LATENCY_RUNS: usize = 200;
/// Longest measurement.
const LATENCY_TIME_MAX: Duration = Duration::from_secs(3);
/// Measurements of which the best counts: a board that was busy with something else for a while is not the model's
/// doing, and a verdict is for good.
const LATENCY_ROUNDS: usize = 3;
/// Runs of the largest batch, which is compared with its windows alone and measured.
const BATCH_RUNS: usize = 8;
/// Windows of golden vectors that the measurement repeats.
const WINDOWS_KEPT_MAX: usize = 32;
/// Most values of these windows: 16 MiB.
const VALUES_KEPT_MAX: usize = 4 << 20;
/// How often a test is begun again whose worker was killed from outside.
const ATTEMPTS_MAX: usize = 3;

/// A release that passed its self-test, and what was measured.
#[derive(Debug, Clone)]
pub struct Admission {
    /// How the golden vectors were kept.
    pub golden: GoldenReport,
    /// Median of one window's run, with the way to the worker and back.
    pub p50: Duration,
    /// 99th percentile of the same.
    pub p99: Duration,
    /// Windows of the largest batch.
    pub batch_windows: usize,
    /// Median of that batch's run.
    pub batch_p50: Duration,
    /// Resident memory of the worker after the runs, with the program itself, in bytes.
    pub resident_bytes: u64,
    /// Its highest.
    pub resident_bytes_max: u64,
}

/// Why a release does not run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SelfTestFailure {
    /// The engine does not take the model.
    Load(String),
    /// A golden vector is not kept, or there is none.
    Golden(String),
    /// Slower than its budget.
    Latency {
        /// 99th percentile as measured.
        p99: Duration,
        /// What the manifest allows.
        budget: Duration,
        /// Key of the budget.
        board: &'static str,
    },
    /// More memory than its budget.
    Memory(String),
    /// The worker died.
    Crash(String),
    /// A run took longer than its deadline.
    Deadline(String),
    /// No verdict: the board could not run the test.
    Unavailable(String),
}

impl SelfTestFailure {
    /// Returns the code that is reported.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Load(_) => "selftest:load",
            Self::Golden(_) => "selftest:golden",
            Self::Latency { .. } => "selftest:latency",
            Self::Memory(_) => "selftest:memory",
            Self::Crash(_) => "selftest:crash",
            Self::Deadline(_) => "selftest:deadline",
            Self::Unavailable(_) => "selftest:unavailable",
        }
    }

    /// Tells whether the release is to be marked bad; otherwise the test is to be tried again later.
    #[must_use]
    pub const fn is_verdict(&self) -> bool {
        !matches!(self, Self::Unavailable(_))
    }
}

impl fmt::Display for SelfTestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(why) | Self::Golden(why) | Self::Memory(why) | Self::Deadline(why) => f.write_str(why),
            Self::Latency { p99, budget, board } => write!(
                f,
                "99 of 100 windows take up to {:.3} ms and `budgets.p99.{board}` allows {:.3} ms; make the model smaller or raise the budget",
                p99.as_secs_f64() * 1e3,
                budget.as_secs_f64() * 1e3
            ),
            Self::Crash(how) => write!(f, "the model's worker {how}"),
            Self::Unavailable(why) => write!(f, "the self-test could not be run: {why}"),
        }
    }
}

impl std::error::Error for SelfTestFailure {}

/// Tests a release in a worker of its own, which is gone when the verdict is there: a release may wait long for its
/// start on live readings, and its memory is the serving model's meanwhile. `spec.package`, `.inference.batch_max` and `.worker_program` count; starts
/// are not recorded in `spec.tries`. To be called on the thread that the daemon lives on, as workers end with the thread
/// that starts them. Dropping the future kills the worker.
///
/// *Errors*: what the release does not keep; see [`SelfTestFailure::is_verdict`].
pub async fn admit(spec: &SlotSpec, board: &BoardClass) -> Result<Admission, SelfTestFailure> {
    let mut attempt = 1;
    loop {
        match (Test { spec, board, kept: Vec::new(), values_kept: 0 }).run().await {
            Ok(admission) => return Ok(admission),
            Err(Stop::Failed(failure)) => return Err(failure),
            Err(Stop::Killed) if attempt < ATTEMPTS_MAX => attempt += 1,
            Err(Stop::Killed) => {
                return Err(SelfTestFailure::Unavailable(format!(
                    "its worker was killed from outside {ATTEMPTS_MAX} times; free memory, and it is tried again"
                )));
            }
        }
    }
}

/// Why a test ended.
enum Stop {
    Failed(SelfTestFailure),
    Killed,
}

impl From<SelfTestFailure> for Stop {
    fn from(failure: SelfTestFailure) -> Self {
        Self::Failed(failure)
    }
}

struct Test<'s> {
    spec: &'s SlotSpec,
    board: &'s BoardClass,
    /// Windows of golden vectors for the measurement.
    kept: Vec<SlotJob>,
    values_kept: usize,
}

/// Outputs of windows, or why the engine gave none.
type Outputs = Result<Vec<Vec<f32>>, String>;

impl Test<'_> {
    async fn run(mut self) -> Result<Admission, Stop> {
        let mut worker = WorkerProcess::start(self.spec).await.map_err(|fault| match fault {
            Fault::Refused(why) => refused(why, SelfTestFailure::Load).into(),
            fault => stopped(fault),
        })?;
        let golden = self.keep_golden(&mut worker).await?;
        if golden.valid == 0 {
            return Err(no_golden("expect no prediction with outputs").into());
        }
        let (p50, p99, alone) = self.measure(&mut worker).await?;
        let (batch_windows, batch_p50) = self.measure_batch(&mut worker, &alone).await?;
        let (resident_bytes, resident_bytes_max) = self.weigh(worker.pid())?;
        worker.stop().await;
        Ok(Admission { golden, p50, p99, batch_windows, batch_p50, resident_bytes, resident_bytes_max })
    }

    async fn keep_golden(&mut self, worker: &mut WorkerProcess) -> Result<GoldenReport, Stop> {
        let mut lane = GoldenLane::start(self.spec.package.clone()).map_err(|error| {
            SelfTestFailure::Unavailable(format!("a thread for golden vectors cannot start: {error}"))
        })?;
        let check = async {
            while let Some(windows) = lane.windows.recv().await {
                let outputs = self.run_windows(worker, windows).await?;
                if lane.outputs.send(outputs).is_err() {
                    break;
                }
            }
            // The thread ends without a verdict where it panicked.
            let verdict = lane
                .verdict
                .await
                .map_err(|_| SelfTestFailure::Golden("golden vectors broke their check".to_owned()))?;
            match verdict {
                Ok(Some(report)) => Ok(report),
                Ok(None) => Err(no_golden("are missing").into()),
                Err(failure) => {
                    Err(refused(shown(&Chain(&failure).to_string()), SelfTestFailure::Golden).into())
                }
            }
        };
        timeout(GOLDEN_TIME_MAX, check).await.unwrap_or_else(|_| {
            let seconds = GOLDEN_TIME_MAX.as_secs();
            let why = format!("golden vectors take longer than {seconds} s; keep fewer of them");
            Err(SelfTestFailure::Deadline(why).into())
        })
    }

    /// Runs the windows of one message, as many at once as a slot does.
    async fn run_windows(
        &mut self,
        worker: &mut WorkerProcess,
        windows: Vec<Vec<f32>>,
    ) -> Result<Vec<Result<Vec<f32>, String>>, Stop> {
        let jobs: Vec<SlotJob> =
            windows.into_iter().enumerate().map(|(n, values)| SlotJob { ticket: n as u64, values }).collect();
        let mut outputs = Vec::with_capacity(jobs.len());
        for batch in jobs.chunks(self.batch_max()) {
            match self.run_batch(worker, batch).await? {
                Ok(rows) => outputs.extend(rows.into_iter().map(Ok)),
                Err(why) => outputs.extend(batch.iter().map(|_| Err(why.clone()))),
            }
        }
        for job in jobs {
            let values = self.values_kept + job.values.len();
            if self.kept.is_empty() || (self.kept.len() < WINDOWS_KEPT_MAX && values <= VALUES_KEPT_MAX) {
                self.values_kept = values;
                self.kept.push(job);
            }
        }
        Ok(outputs)
    }

    async fn run_batch(&self, worker: &mut WorkerProcess, batch: &[SlotJob]) -> Result<Outputs, Stop> {
        let deadline = self.spec.package.manifest().budgets.deadline.as_duration();
        match worker.run(batch, deadline).await {
            Ok(rows) => Ok(Ok(rows)),
            Err(Fault::Refused(why)) => Ok(Err(why)),
            Err(fault) => Err(stopped(fault)),
        }
    }

    /// Returns median and 99th percentile of one window's run, and the outputs of the kept windows.
    async fn measure(&self, worker: &mut WorkerProcess) -> Result<(Duration, Duration, Vec<Outputs>), Stop> {
        let budget = self.board.budget(&self.spec.package.manifest().budgets.p99);
        let mut best: Option<(Duration, Duration)> = None;
        let mut alone = Vec::new();
        for _ in 0..LATENCY_ROUNDS {
            let mut times = Vec::with_capacity(LATENCY_RUNS);
            let began = Instant::now();
            for job in self.kept.iter().cycle().take(LATENCY_RUNS) {
                let (took, outputs) = self.timed(worker, std::slice::from_ref(job)).await?;
                times.push(took);
                if alone.len() < self.kept.len() {
                    alone.push(outputs);
                }
                if alone.len() == self.kept.len() && began.elapsed() > LATENCY_TIME_MAX {
                    break;
                }
            }
            let round = (quantile(&mut times, 50), quantile(&mut times, 99));
            best = best.filter(|best| best.1 <= round.1).or(Some(round));
            if budget.is_none_or(|(_, budget)| round.1 <= budget.as_duration()) {
                break;
            }
        }
        let (p50, p99) = best.unwrap_or_default();
        match budget.map(|(board, budget)| (board, budget.as_duration())) {
            Some((board, budget)) if p99 > budget => {
                Err(SelfTestFailure::Latency { p99, budget, board }.into())
            }
            _ => Ok((p50, p99, alone)),
        }
    }

    /// Runs the largest batch of the kept windows, repeated, and compares it with their outputs alone; returns its size
    /// and median time.
    async fn measure_batch(
        &self,
        worker: &mut WorkerProcess,
        alone: &[Outputs],
    ) -> Result<(usize, Duration), Stop> {
        // A window that the engine refuses would fail the batch with it, as it would in a slot.
        let good: Vec<(&SlotJob, &[Vec<f32>])> = self
            .kept
            .iter()
            .zip(alone)
            .filter_map(|(job, outputs)| outputs.as_deref().ok().map(|rows| (job, rows)))
            .collect();
        let again = |job: &SlotJob| SlotJob { ticket: job.ticket, values: job.values.clone() };
        let filled = good.into_iter().cycle().take(self.batch_max());
        let (jobs, expected): (Vec<SlotJob>, Vec<&[Vec<f32>]>) =
            filled.map(|(job, rows)| (again(job), rows)).unzip();
        if jobs.len() < 2 {
            return Ok((jobs.len(), Duration::ZERO));
        }
        let (mut times, began) = (Vec::with_capacity(BATCH_RUNS), Instant::now());
        while times.len() < BATCH_RUNS {
            let (took, outputs) = self.timed(worker, &jobs).await?;
            times.push(took);
            let rows = outputs.map_err(|why| differs(jobs.len(), &why))?;
            let pairs = rows.iter().zip(expected.iter().copied().flatten());
            let tolerance = self.spec.package.manifest().golden_tolerance;
            if let Some((have, want)) = pairs.into_iter().find(|(have, want)| !agree(have, want, tolerance)) {
                return Err(differs(
                    jobs.len(),
                    &format!("{} instead of {}", first_values(have), first_values(want)),
                )
                .into());
            }
            if began.elapsed() > LATENCY_TIME_MAX {
                break;
            }
        }
        Ok((jobs.len(), quantile(&mut times, 50)))
    }

    async fn timed(
        &self,
        worker: &mut WorkerProcess,
        batch: &[SlotJob],
    ) -> Result<(Duration, Outputs), Stop> {
        let began = Instant::now();
        let outputs = self.run_batch(worker, batch).await?;
        Ok((began.elapsed(), outputs))
    }

    /// Returns resident memory and its highest. The limit on the worker's address space leaves room for loading; what
    /// the model holds afterwards is what the budget is for. The program's own pages are shared with the daemon.
    fn weigh(&self, pid: u32) -> Result<(u64, u64), Stop> {
        // The worker ended after its last run.
        let memory = confine::worker_memory(pid).ok_or(Stop::Killed)?;
        let budget_bytes = self.spec.package.manifest().budgets.resident_bytes;
        match beyond_budget(memory, budget_bytes) {
            Some(failure) => Err(failure.into()),
            None => Ok((memory.resident_bytes, memory.resident_bytes_max)),
        }
    }

    fn batch_max(&self) -> usize {
        let manifest = self.spec.package.manifest();
        let window_values = manifest.inputs.iter().map(|input| input.values()).sum();
        let per_frame = ipc::windows_per_frame(window_values, manifest.output_values());
        self.spec.inference.batch_max.clamp(1, per_frame)
    }
}

fn no_golden(what: &str) -> SelfTestFailure {
    SelfTestFailure::Golden(format!(
        "the package's golden vectors {what}; build it with `dunlin package build` from sample payloads"
    ))
}

fn differs(windows: usize, how: &str) -> SelfTestFailure {
    SelfTestFailure::Golden(format!(
        "{windows} windows in one batch have other outputs than alone: {how}; export the model with a free batch axis, or with one of 1"
    ))
}

/// Returns the failure of a model that was refused memory, or else `otherwise`.
fn refused(why: String, otherwise: fn(String) -> SelfTestFailure) -> SelfTestFailure {
    if why.contains(MEMORY_REFUSED) { SelfTestFailure::Memory(why) } else { otherwise(why) }
}

/// Judges memory that no other process shares.
fn beyond_budget(memory: WorkerMemory, budget_bytes: u64) -> Option<SelfTestFailure> {
    (memory.own_bytes > budget_bytes).then(|| {
        SelfTestFailure::Memory(format!(
            "the model holds {} bytes and `budgets.resident_bytes` allows {budget_bytes}; make the model smaller or raise the budget",
            memory.own_bytes
        ))
    })
}

fn stopped(fault: Fault) -> Stop {
    match fault {
        Fault::Killed => Stop::Killed,
        Fault::Unstartable(why) => SelfTestFailure::Unavailable(why).into(),
        Fault::Crashed(how) => SelfTestFailure::Crash(how).into(),
        fault @ Fault::Deadline(_) => SelfTestFailure::Deadline(fault.to_string()).into(),
        Fault::Refused(why) => refused(why, SelfTestFailure::Load).into(),
    }
}

/// Tells whether outputs agree within a tolerance relative to `max(1, |want|)`; values that are not finite agree with
/// themselves.
fn agree(have: &[f32], want: &[f32], tolerance: f64) -> bool {
    let same = |(have, want): (&f32, &f32)| {
        have.total_cmp(want).is_eq()
            || (have.is_nan() && want.is_nan())
            || (f64::from(*have) - f64::from(*want)).abs() <= tolerance * f64::from(want.abs()).max(1.0)
    };
    have.len() == want.len() && have.iter().zip(want).all(same)
}

fn first_values(values: &[f32]) -> String {
    format!("{:?}", &values[..values.len().min(4)])
}

/// Returns the value that this percentage of the times does not exceed (nearest rank).
fn quantile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or_default()
}

/// The thread that decodes golden vectors: windows come from it, outputs go to it, a verdict is its last word. It ends
/// when either channel does.
struct GoldenLane {
    windows: mpsc::Receiver<Vec<Vec<f32>>>,
    outputs: blocking::Sender<Vec<Result<Vec<f32>, String>>>,
    verdict: oneshot::Receiver<Result<Option<GoldenReport>, GoldenFailure>>,
}

impl GoldenLane {
    fn start(package: Package) -> std::io::Result<Self> {
        let (windows_out, windows) = mpsc::channel(1);
        let (outputs, outputs_in) = blocking::channel();
        let (verdict_out, verdict) = oneshot::channel();
        std::thread::Builder::new().name("golden".to_owned()).spawn(move || {
            // Without a receiver the test has ended.
            if let Some(verdict) = check(&package, &windows_out, &outputs_in) {
                let _ = verdict_out.send(verdict);
            }
        })?;
        Ok(Self { windows, outputs, verdict })
    }
}

/// Checks golden vectors; `None` where nobody runs the windows any more.
fn check(
    package: &Package,
    windows: &mpsc::Sender<Vec<Vec<f32>>>,
    outputs: &blocking::Receiver<Vec<Result<Vec<f32>, String>>>,
) -> Option<Result<Option<GoldenReport>, GoldenFailure>> {
    let mut check = match GoldenCheck::open(package) {
        Ok(Some(check)) => check,
        Ok(None) => return Some(Ok(None)),
        Err(failure) => return Some(Err(failure)),
    };
    loop {
        match check.step() {
            Ok(GoldenStep::Run(ready)) => {
                windows.blocking_send(ready).ok()?;
                check.finish(outputs.recv().ok()?);
            }
            Ok(GoldenStep::Done(report)) => return Some(Ok(Some(report))),
            Err(failure) => return Some(Err(failure)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let mut times: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(quantile(&mut times, 50), Duration::from_millis(100));
        assert_eq!(quantile(&mut times, 99), Duration::from_millis(198));
        assert_eq!(quantile(&mut [Duration::from_millis(7)], 99), Duration::from_millis(7));
        assert_eq!(quantile(&mut [], 99), Duration::ZERO);
    }

    #[test]
    fn memory_that_is_shared_is_not_the_models() {
        let memory = |own_bytes| WorkerMemory { resident_bytes: 60, resident_bytes_max: 90, own_bytes };
        assert_eq!(beyond_budget(memory(50), 50), None);
        let failure = beyond_budget(memory(51), 50).unwrap();
        assert_eq!(failure.code(), "selftest:memory");
        assert!(failure.to_string().contains("holds 51 bytes"), "{failure}");
    }

    #[test]
    fn outputs_agree_within_the_tolerance_alone() {
        assert!(agree(&[f32::NAN, 1.0, f32::INFINITY], &[f32::NAN, 1.00005, f32::INFINITY], 1e-4));
        assert!(agree(&[2_000.1], &[2_000.0], 1e-4));
        for (have, want) in [(f32::NAN, 1.0), (1.0, f32::NAN), (1.0002, 1.0), (f32::INFINITY, f32::MAX)] {
            assert!(!agree(&[have], &[want], 1e-4), "{have} {want}");
        }
        assert!(!agree(&[1.0], &[1.0, 2.0], 1.0));
    }
}
