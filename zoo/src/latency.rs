//! How long each engine takes for a batch, in one process and in turn.
//!
//! Our engine is called as the daemon calls it, with a batch of values for a batch of values; ONNX Runtime with tensors
//! that exist already, and what it gives is dropped after the clock has stopped. Judges no values.

use std::time::{Duration, Instant};

use dunlin_pipeline::engine::{Engine, TractEngine};

use crate::peer::Peer;
use crate::report::LatencyReport;
use crate::rows::Rows;

/// Runs of one engine before it is the other's turn: enough that the first does not pay for the other's traces in the
/// cache alone.
const TURN: usize = 8;
/// Most runs of each engine: enough for a 99th percentile that two outliers do not make.
const RUNS_MAX: usize = 4_000;
/// Fewest runs of each engine, whatever the time.
const RUNS_MIN: usize = 16;
/// Batches with other rows: a stream does not come back to the same few, whose branches a processor learns by heart.
const BATCHES_MAX: usize = 1_000;

/// Measures a batch size for about this time.
///
/// *Errors*: an engine fails.
pub(crate) fn measure(
    engine: &mut TractEngine,
    peer: &mut Peer,
    rows: &Rows,
    batch: usize,
    time: Duration,
) -> Result<LatencyReport, String> {
    let starts: Vec<usize> =
        (0..rows.count.saturating_sub(batch - 1)).step_by(batch).take(BATCHES_MAX).collect();
    if starts.is_empty() {
        return Err(format!("there are less than {batch} rows"));
    }
    let windows: Vec<Vec<f32>> = starts.iter().map(|&first| rows.windows(first, batch)).collect();
    let tensors =
        starts.iter().map(|&first| peer.tensors(rows, first, batch)).collect::<Result<Vec<_>, _>>()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut outputs = Vec::new();
    let begin = Instant::now();
    while ours.len() < RUNS_MIN || (ours.len() < RUNS_MAX && begin.elapsed() < time) {
        for turn in 0..TURN {
            let values = &windows[(ours.len() + turn) % windows.len()];
            let start = Instant::now();
            let ran = engine.run_into(batch, values, &mut outputs);
            ours.push(start.elapsed());
            ran.map_err(|error| error.to_string())?;
        }
        for turn in 0..TURN {
            let tensors = &tensors[(theirs.len() + turn) % tensors.len()];
            let start = Instant::now();
            let outputs = peer.run(tensors)?;
            theirs.push(start.elapsed());
            drop(outputs);
        }
    }
    let runs = ours.len();
    let (ours_p50_us, ours_p99_us) = percentiles(ours);
    let (theirs_p50_us, theirs_p99_us) = percentiles(theirs);
    let ratio = ours_p50_us / theirs_p50_us;
    Ok(LatencyReport { batch, ours_p50_us, ours_p99_us, theirs_p50_us, theirs_p99_us, ratio, runs })
}

/// Returns median and 99th percentile in microseconds.
fn percentiles(mut taken: Vec<Duration>) -> (f64, f64) {
    taken.sort_unstable();
    let at =
        |hundredth: usize| taken[(taken.len() * hundredth / 100).min(taken.len() - 1)].as_secs_f64() * 1e6;
    (at(50), at(99))
}
