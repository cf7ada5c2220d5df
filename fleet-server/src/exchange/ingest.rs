//! Rows of gateways: each number is taken once, and acknowledged with the transaction that keeps it.
//!
//! A batch that is wrong costs itself alone. Never reads rows beyond whether they are sound: they are kept as they came.

use dunlin_protocol::exchange::{Receipt, Rejected};
use dunlin_protocol::limits::RANGES_MAX;
use dunlin_protocol::text::Text;
use dunlin_protocol::{Batch, BatchError, Ranges, Words};

use crate::store::{Sql, StoreError, messages};

/// Gaps that one batch may fill: it is kept once for each. Of one that would fill more, the lowest are taken, and the
/// gateway sends the others again.
const GAPS_MAX: usize = 8;

/// What became of batches.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) receipts: Vec<Receipt>,
    pub(super) rejected: Vec<Rejected>,
}

/// Batches that were looked at before the transaction, with their bytes.
#[derive(Debug, Default)]
pub(super) struct Sound {
    batches: Vec<(Batch, Vec<u8>)>,
    rejected: Vec<Rejected>,
}

/// Reads batches. One of a stream that is not known is neither taken nor rejected.
pub(super) fn inspect(batches: &[Batch]) -> Sound {
    let mut sound = Sound::default();
    for batch in batches {
        let outcome = batch.read_any().and_then(|_| {
            serde_json::to_vec(batch).map_err(|error| BatchError::Columns(Words::cut(&error.to_string())))
        });
        match outcome {
            Ok(body) => sound.batches.push((batch.clone(), body)),
            Err(BatchError::Stream(_)) => {}
            Err(error) => sound.rejected.push(Rejected {
                stream: batch.stream().clone(),
                ranges: batch.range().into(),
                code: Text::cut("malformed"),
                words: Words::cut(&error.to_string()),
            }),
        }
    }
    sound
}

/// Keeps what is new of sound batches; what was received before gets its receipt again.
pub(super) fn take(sql: &mut dyn Sql, device: &str, sound: &Sound, now_ms: u64) -> Result<Taken, StoreError> {
    let mut taken = Taken { receipts: Vec::new(), rejected: sound.rejected.clone() };
    for (batch, body) in &sound.batches {
        let stream = batch.stream().as_str();
        let before = messages::received(sql, device, stream)?;
        let wanted = Ranges::from(batch.range());
        let new = wanted.subtract(&before).lowest(GAPS_MAX);
        let after = before.union(&new);
        if after.iter().count() > RANGES_MAX {
            // The gateway fills gaps first, and sends these numbers again.
            continue;
        }
        for range in new.iter() {
            messages::upload(sql, (device, stream), (range.first(), range.last()), now_ms, body)?;
        }
        if !new.is_empty() {
            messages::set_received(sql, device, stream, &after)?;
        }
        let ranges = after.intersect(&wanted);
        taken.receipts.push(Receipt { stream: batch.stream().clone(), ranges });
    }
    Ok(taken)
}
