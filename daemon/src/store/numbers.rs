//! Keeps the numbers of a stream's rows from being used twice: ceilings in `state.db`, and what damage does to numbers.
//!
//! A number below its ceiling may have been used. A log that is fresh, rescued or older than the receipts goes on from the
//! ceiling; what is skipped so is found by the upload and explained. Never stops the writer: without `state.db` there
//! is no server to send anything to either.

use dunlin_kit::error_chain::Chain;
use dunlin_protocol::{Range, Ranges};
use rusqlite::{Connection, OptionalExtension};

use super::batch::{BatchRow, COLUMNS};
use super::open::{Recovery, Store, damaged_batches};
use super::outbox::{self, EVENTS, LOSSES, OutboxOrder, PREDICTIONS, STATISTICS, STREAMS, SettledNumbers};
use super::outbox_windows;
use super::tables::Position;
use super::uploads::UploadStore;
use super::{FolderLock, StoreError, ledger};

/// Numbers from a ceiling to the next: at ten a second a write in two hours.
const CEILING_STEP: u64 = 65_536;
/// A ceiling is raised when it is so near: more than the rows that one transaction or one turn of retention can add.
const CEILING_NEAR: u64 = 16_384;

/// The ceilings, and what the server has answered for.
#[derive(Debug, Default)]
pub(crate) struct NumberGuard {
    pub(crate) settled: SettledNumbers,
    state: Option<UploadStore>,
    /// Of predictions, events, losses and statistics.
    ceilings: [u64; 4],
}

impl Store {
    /// Has numbers go on where they may not have been used, and shares with retention what the server has answered for.
    /// Called once, before anything is written.
    ///
    /// *Errors*: the log cannot be written.
    pub fn guard_numbers(
        &mut self,
        lock: &FolderLock,
        recovery: &mut Recovery,
        settled: &SettledNumbers,
    ) -> Result<(), StoreError> {
        self.guard.settled = settled.clone();
        let opened = UploadStore::open(lock).and_then(|state| Ok((state.lines()?, state.log()?, state)));
        let (lines, known, state) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                tracing::warn!(error = %Chain(&e), "numbers of what travels are kept by the log alone");
                return Ok(());
            }
        };
        for (stream, line) in &lines {
            settled.replace(stream, line.settled.clone());
        }
        if self.memory_only {
            return Ok(());
        }
        let reading = StoreError::sqlite("read the numbers of the log");
        let (log, next) = identity_and_numbers(&self.connection, self.prediction_next).map_err(reading)?;
        let is_another = known.is_some_and(|known| known != log);
        let is_older =
            STREAMS.iter().zip(next).any(|(stream, next)| lines[stream].settled.last() >= Some(next));
        if is_another || is_older {
            let ceilings = STREAMS.map(|stream| lines[stream].ceiling);
            self.skip_to(ceilings, recovery).map_err(StoreError::sqlite("go on with unused numbers"))?;
            tracing::warn!(
                predictions = self.prediction_next,
                "the log does not know which numbers were used: it goes on above them"
            );
        }
        if let Err(e) = state.note_log(&log) {
            tracing::warn!(error = %Chain(&e), "cannot note which log the numbers are of");
        }
        self.guard.state = Some(state);
        self.guard.keep_ahead(&self.connection, self.prediction_next);
        Ok(())
    }

    fn skip_to(
        &mut self,
        [predictions, events, losses, statistics]: [u64; 4],
        recovery: &mut Recovery,
    ) -> rusqlite::Result<()> {
        let transaction = self.connection.unchecked_transaction()?;
        let mut position = Position::read(&transaction)?;
        let had_none = position.prediction_next <= 1;
        position.prediction_next = position.prediction_next.max(predictions);
        if had_none {
            // There is nothing below that a broker could wait for.
            position.published_through = position.prediction_next - 1;
        }
        position.write(&transaction)?;
        outbox::continue_from(&transaction, EVENTS, events)?;
        outbox::continue_from(&transaction, LOSSES, losses)?;
        outbox::continue_from(&transaction, STATISTICS, statistics)?;
        transaction.commit()?;
        self.prediction_next = position.prediction_next;
        recovery.next_prediction_sequence = position.prediction_next;
        recovery.published_through = position.published_through;
        Ok(())
    }

    /// Does what the upload asks for, in a transaction of its own.
    ///
    /// *Errors*: those of the database; nothing was done.
    pub(crate) fn follow_order(&mut self, order: &OutboxOrder) -> Result<(), StoreError> {
        let (at_us, settled) = (self.wall_us(), &self.guard.settled);
        let done = (|| {
            let transaction = self.connection.unchecked_transaction()?;
            match order {
                OutboxOrder::Seal => outbox::seal(&transaction, settled)?,
                OutboxOrder::Event(entry) => outbox::add_event(&transaction, entry, settled)?,
                OutboxOrder::LetGo(grain) => outbox_windows::let_go(&transaction, *grain)?,
                OutboxOrder::Explain(lost) => outbox::enter_unsendable(&transaction, lost, settled, at_us)?,
            }
            transaction.commit()
        })();
        done.map_err(StoreError::sqlite("write to the outbox"))?;
        self.guard.keep_ahead(&self.connection, self.prediction_next);
        Ok(())
    }
}

impl NumberGuard {
    /// Raises the ceilings that the next numbers come near.
    pub(crate) fn keep_ahead(&mut self, connection: &Connection, prediction_next: u64) {
        let Some(state) = &self.state else { return };
        let Ok((_, next)) = identity_and_numbers(connection, prediction_next) else { return };
        for ((stream, next), ceiling) in STREAMS.iter().zip(next).zip(&mut self.ceilings) {
            if next + CEILING_NEAR <= *ceiling {
                continue;
            }
            match state.raise_ceiling(stream, next + CEILING_STEP) {
                Ok(()) => *ceiling = next + CEILING_STEP,
                Err(e) => tracing::warn!(error = %Chain(&e), stream, "cannot raise the ceiling of numbers"),
            }
        }
    }

    /// Enters a batch that cannot be read, with the numbers that were in it, inside the caller's transaction.
    pub(crate) fn record_damaged(
        &self,
        connection: &Connection,
        numbers: Option<Range>,
        at_us: i64,
    ) -> rusqlite::Result<()> {
        let loss = damaged_batches(1);
        let numbers = numbers.map_or_else(Ranges::new, Ranges::from);
        let numbers = outbox::unexplained(connection, PREDICTIONS, &numbers, &self.settled)?;
        if numbers.is_empty() {
            return ledger::record(connection, &loss, at_us);
        }
        ledger::enter(connection, &loss, at_us)?;
        let mut left = 1;
        outbox::add_numbered_loss(
            connection,
            &loss,
            (PREDICTIONS, &numbers),
            &mut |_| std::mem::take(&mut left),
            at_us,
        )
    }
}

fn identity_and_numbers(connection: &Connection, predictions: u64) -> rusqlite::Result<(String, [u64; 4])> {
    let log = connection.prepare_cached("SELECT text FROM log_identity")?.query_row([], |row| row.get(0))?;
    let next_of = |stream| outbox::next_number(connection, stream);
    let next = [predictions, next_of(EVENTS)?, next_of(LOSSES)?, next_of(STATISTICS)?];
    Ok((log, next))
}

/// Returns the numbers that a row has which cannot be read: those between its neighbours'.
pub(crate) fn around(
    connection: &Connection,
    seq: i64,
    prediction_next: u64,
) -> rusqlite::Result<Option<Range>> {
    let sql = format!("SELECT {COLUMNS} FROM batch WHERE seq < ?1 ORDER BY seq DESC LIMIT 1");
    let before = connection.prepare_cached(&sql)?.query_row([seq], BatchRow::of).optional()?;
    let first = match before.map(|row| (row.decode(), row.figures.prediction_seq)) {
        None => 1,
        // Its own numbers are not known either: the upload finds what is missing between.
        Some((Err(_), _)) => return Ok(None),
        Some((Ok(batch), expected)) => {
            let last = batch.steps.iter().flat_map(|step| &step.predictions).next_back();
            last.map_or(expected.unsigned_abs(), |last| last.sequence + 1)
        }
    };
    let after = next_numbers(connection, seq)?.unwrap_or(prediction_next);
    Ok(Range::counted(first.max(1), after.saturating_sub(first.max(1))).ok())
}

/// Returns the number that the row after this one begins with; none where it is the last.
pub(crate) fn next_numbers(connection: &Connection, seq: i64) -> rusqlite::Result<Option<u64>> {
    connection
        .prepare_cached("SELECT prediction_seq FROM batch WHERE seq > ?1 ORDER BY seq LIMIT 1")?
        .query_row([seq], |row| row.get::<_, i64>(0).map(i64::unsigned_abs))
        .optional()
}

/// Returns the row that holds a number, or would: the last one that begins with it or before. Rows and numbers rise
/// together, and so it takes some twenty looks, whatever the length of the log.
pub(crate) fn row_of_number(connection: &Connection, number: u64) -> rusqlite::Result<Option<i64>> {
    let number = i64::try_from(number).unwrap_or(i64::MAX);
    let (mut low, mut high): (i64, i64) = connection
        .prepare_cached("SELECT coalesce(min(seq), 0), coalesce(max(seq), -1) FROM batch")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut found = None;
    let mut probe = connection
        .prepare_cached("SELECT seq, prediction_seq FROM batch WHERE seq <= ?1 ORDER BY seq DESC LIMIT 1")?;
    while low <= high {
        let middle = low + (high - low) / 2;
        let row: Option<(i64, i64)> =
            probe.query_row([middle], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        match row {
            Some((seq, first)) if first <= number => {
                found = Some(found.map_or(seq, |best: i64| best.max(seq)));
                low = middle + 1;
            }
            Some((seq, _)) => high = seq - 1,
            None => low = middle + 1,
        }
    }
    Ok(found)
}
