//! Rows of gateways: each number is taken once, and acknowledged with the transaction that keeps it.
//!
//! A batch that is wrong costs itself alone. Rows are kept as they came; of losses, which numbers they explain is noted.

use dunlin_protocol::batch::AnyColumns;
use dunlin_protocol::exchange::{Receipt, Rejected};
use dunlin_protocol::limits::RANGES_MAX;
use dunlin_protocol::text::Text;
use dunlin_protocol::{Batch, BatchError, Range, Ranges, Stream, Words};

use crate::store::{Sql, StoreError, accounts, messages};

/// Gaps that one batch may fill: it is kept once for each. Of one that would fill more, the lowest are taken, and the
/// gateway sends the others again.
const GAPS_MAX: usize = 8;

/// What became of batches.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) receipts: Vec<Receipt>,
    pub(super) rejected: Vec<Rejected>,
    /// Rows that were new.
    pub(super) rows_new: u64,
}

/// Streams whose losses are counted: a name that a gateway makes up opens no account.
const ACCOUNTED: [Stream; 5] =
    [Stream::Predictions, Stream::Events, Stream::Labels, Stream::Losses, Stream::Statistics];

/// A batch that was looked at before the transaction.
#[derive(Debug)]
struct Looked {
    batch: Batch,
    body: Vec<u8>,
    /// Of losses: the row's number, and which numbers of which stream it says will never come.
    lost: Vec<(u64, Stream, Range)>,
}

/// Batches that were looked at before the transaction, with their bytes.
#[derive(Debug, Default)]
pub(super) struct Sound {
    batches: Vec<Looked>,
    rejected: Vec<Rejected>,
}

/// Reads batches. One of a stream that is not known is neither taken nor rejected.
pub(super) fn inspect(batches: &[Batch]) -> Sound {
    let mut sound = Sound::default();
    for batch in batches {
        match look(batch) {
            Ok(looked) => sound.batches.push(looked),
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

fn look(batch: &Batch) -> Result<Looked, BatchError> {
    let mut lost = Vec::new();
    if let AnyColumns::Losses(losses) = batch.read_any()? {
        for (number, row) in batch.numbers().zip(losses.iter()) {
            let Some((stream, range)) = row.numbers else { continue };
            let stream = ACCOUNTED.into_iter().find(|known| known.as_str() == stream);
            lost.extend(stream.map(|stream| (number, stream, range)));
        }
    }
    let body = serde_json::to_vec(batch);
    let body = body.map_err(|error| BatchError::Columns(Words::cut(&error.to_string())))?;
    Ok(Looked { batch: batch.clone(), body, lost })
}

/// Keeps what is new of sound batches; what was received before gets its receipt again.
pub(super) fn take(sql: &mut dyn Sql, device: &str, sound: &Sound, now_ms: u64) -> Result<Taken, StoreError> {
    let mut taken = Taken { receipts: Vec::new(), rejected: sound.rejected.clone(), rows_new: 0 };
    for Looked { batch, body, lost } in &sound.batches {
        let stream = batch.stream().as_str();
        let before = messages::received(sql, device, stream)?;
        let wanted = Ranges::from(batch.range());
        let new = wanted.subtract(&before).lowest(GAPS_MAX);
        let after = before.union(&new);
        if after.iter().count() > RANGES_MAX {
            // The gateway fills gaps first, and sends these numbers again.
            continue;
        }
        let mut rows = 0;
        for range in new.iter() {
            let count = batch.numbers().filter(|number| range.contains(*number)).count() as u64;
            rows += count;
            messages::upload(sql, (device, stream), (range.first(), range.last()), now_ms, count, body)?;
        }
        if !new.is_empty() {
            messages::set_received(sql, device, stream, &after)?;
            taken.rows_new += rows;
            accounts::add(sql, (device, stream), rows, new.count() - rows)?;
            note_lost(sql, device, lost, &new)?;
        }
        let ranges = after.intersect(&wanted);
        taken.receipts.push(Receipt { stream: batch.stream().clone(), ranges });
    }
    Ok(taken)
}

/// Notes what rows of losses say, of those rows that are new.
fn note_lost(
    sql: &mut dyn Sql,
    device: &str,
    lost: &[(u64, Stream, Range)],
    new: &Ranges,
) -> Result<(), StoreError> {
    for stream in ACCOUNTED {
        let named = lost.iter().filter(|(number, of, _)| *of == stream && new.contains(*number));
        let named: Ranges = named.map(|(_, _, range)| *range).collect();
        if !named.is_empty() {
            accounts::lose(sql, (device, stream.as_str()), &named)?;
        }
    }
    Ok(())
}
