//! Brings a core to the state it had at the last commit: the saved state, then the readings stored after it.
//!
//! Runs no model: the stored predictions stand in for it. Windows of statistics are counted again, and none is reported
//! again. Ends before the first message is taken.

use std::collections::HashMap;

use dunlin_kit::error_chain::Chain;
use dunlin_pipeline::collect::Predicted;
use dunlin_pipeline::prediction::InstanceId;
use dunlin_pipeline::{Core, Turn};

use crate::store::batch::DecodedBatch;
use crate::store::{Recovery, Store, StoreError};

/// What a restore found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// Readings that were replayed.
    pub readings: u64,
    /// Windows that the replay made and no stored prediction belongs to: their model or configuration is new.
    pub windows_without_prediction: u64,
}

/// Restores the core from what the store kept.
///
/// *Errors*: those of the store.
pub fn restore(core: &mut Core, store: &mut Store, recovery: &mut Recovery) -> Result<Restored, StoreError> {
    core.register(std::mem::take(&mut recovery.series), std::mem::take(&mut recovery.instances));
    if let Some(state) = recovery.checkpoint.take()
        && let Err(error) = core.restore(&state)
    {
        tracing::warn!(error = %Chain(&error), "windows start anew: the saved state cannot be used");
    }
    let mut restored = Restored::default();
    let mut turn = Turn::default();
    store.replay_after_checkpoint(&mut |batch| replay(core, batch, &mut turn, &mut restored))?;
    Ok(restored)
}

fn replay(core: &mut Core, batch: DecodedBatch, turn: &mut Turn, restored: &mut Restored) {
    for step in batch.steps {
        turn.clear();
        restored.readings += step.readings.len() as u64;
        let mut stored: HashMap<(InstanceId, i64), Option<&[f32]>> = step
            .predictions
            .iter()
            .map(|p| ((p.instance, p.window_end_us), p.flags.is_valid().then_some(&*p.outputs)))
            .collect();
        for reading in step.readings {
            // Refused here means refused before: a changed configuration orders its series anew.
            let _ = core.accept(reading, turn);
            // One reading's windows at a time: a step may have had more than there is memory for.
            for window in turn.windows.drain(..) {
                match stored.remove(&(window.head.instance, window.head.window_end_us)) {
                    Some(outputs) => drop(core.finish(window.head, outputs.map(<[f32]>::to_vec))),
                    None => restored.windows_without_prediction += 1,
                }
            }
        }
        let predicted = step.predictions.iter().map(|p| Predicted {
            instance: p.instance,
            window_end_us: p.window_end_us,
            flags: p.flags,
            label: p.label,
            outputs: &p.outputs,
        });
        // Windows that are complete with this step were stored with it.
        core.collect(&turn.observations, predicted, &mut Vec::new());
    }
}
