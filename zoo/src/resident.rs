//! What one engine alone takes of memory: a process that loads a model, runs it, and reads the kernel's account.
//!
//! Counts the whole process, libraries and all, as a gateway would; ours does what the daemon's worker does between load
//! and first run. Holds no more rows than it runs.

use dunlin_pipeline::engine::{Engine, TractEngine};

use crate::peer::Peer;
use crate::rows::Rows;
use crate::{Task, package};

/// Runs before memory is read: what is taken once has been taken by then.
const RUNS: usize = 100;
/// Largest batch that the engine makes plans for, as the daemon loads it.
const BATCH_MAX: usize = 32;

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum EngineChoice {
    /// Dunlin's.
    Ours,
    /// ONNX Runtime.
    Theirs,
}

/// Returns the bytes that are resident after load and runs of one row.
///
/// *Errors*: the engine does not run the model.
pub(crate) fn measure(engine: EngineChoice, task: &Task) -> Result<u64, String> {
    let rows = Rows::read(&task.rows, 1)?;
    match engine {
        EngineChoice::Ours => {
            let folder = task.package.as_deref().ok_or("there is no package")?;
            let package = package::open(folder)?;
            let names: Vec<String> =
                package.manifest().inputs.iter().map(|input| input.name.clone()).collect();
            let values = rows.in_order(&names)?.windows(0, 1);
            let mut engine = TractEngine::load(&package, BATCH_MAX).map_err(|error| error.to_string())?;
            drop(package);
            engine.warm_up();
            dunlin_kit::resident::release_free_heap();
            dunlin_kit::resident::release_program_pages();
            for _ in 0..RUNS {
                engine.run(1, &values).map_err(|error| error.to_string())?;
            }
            resident_bytes()
        }
        EngineChoice::Theirs => {
            let mut peer = Peer::open(&task.library, &task.model)?;
            let tensors = peer.tensors(&rows.in_order(&peer.input_names())?, 0, 1)?;
            for _ in 0..RUNS {
                drop(peer.run(&tensors)?);
            }
            resident_bytes()
        }
    }
}

fn resident_bytes() -> Result<u64, String> {
    let text = std::fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let found = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = found.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kilobytes
        .map(|kilobytes| kilobytes * 1_024)
        .ok_or_else(|| "the kernel does not say what is resident".to_owned())
}
