//! A row of the log: one transaction's figures, the messages it answers for, and its body, under one checksum.
//!
//! Makes and checks rows and moves them in and out of tables; never interprets a reading. The writer makes rows,
//! the reader and the start-up check and decode them.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::body::{self, BodyError, StoredStep};
use super::open::DeliveryMark;
use super::wire::{Cursor, Malformed, put_signed, put_unsigned};

/// Columns of a row in the order of [`BatchRow::of`].
pub(crate) const COLUMNS: &str = "seq, seq_last, boot, mono_us, clock_offset_us, first_us, last_us, readings, \
     predictions, prediction_seq, published_through, thinned, crc, deliveries, body";

/// The figures of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchFigures {
    /// Number of its first step; steps count on over the life of the log.
    pub seq: i64,
    /// Number of its last step.
    pub seq_last: i64,
    /// Row of the boot it was committed in.
    pub boot: i64,
    /// Monotonic time of its commit, in microseconds since boot.
    pub mono_us: i64,
    /// Wall minus monotonic time that its arrival times were made with.
    pub clock_offset_us: i64,
    /// Earliest event time in it; 0 when it has none.
    pub first_us: i64,
    /// Latest event time in it.
    pub last_us: i64,
    /// Readings in it.
    pub readings: i64,
    /// Predictions in it.
    pub predictions: i64,
    /// Sequence that its first prediction has, or the next one would have.
    pub prediction_seq: i64,
    /// Last prediction whose publication the broker had acknowledged.
    pub published_through: i64,
    /// 1 where some of its predictions were dropped on purpose.
    pub thinned: i64,
}

/// A row as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRow {
    /// Its figures.
    pub figures: BatchFigures,
    /// CRC32C over figures, deliveries and body.
    pub crc: u32,
    /// The messages it answers for.
    pub deliveries: Vec<u8>,
    /// Its steps.
    pub body: Vec<u8>,
}

/// Why a batch cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchError {
    /// Its checksum is wrong.
    Checksum {
        /// The row.
        seq: i64,
    },
    /// Its body has a later version.
    TooNew {
        /// The row.
        seq: i64,
        /// The version.
        version: u8,
    },
    /// Its body is not what this program writes, although the checksum is right.
    Malformed {
        /// The row.
        seq: i64,
    },
}

impl BatchError {
    /// Returns the number of the row.
    #[must_use]
    pub const fn seq(self) -> i64 {
        match self {
            Self::Checksum { seq } | Self::TooNew { seq, .. } | Self::Malformed { seq } => seq,
        }
    }
}

impl std::fmt::Display for BatchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Checksum { seq } => write!(f, "batch `{seq}` has a wrong checksum"),
            Self::TooNew { seq, version } => {
                write!(f, "batch `{seq}` has format {version}; a newer dunlind reads it")
            }
            Self::Malformed { seq } => write!(f, "batch `{seq}` is malformed"),
        }
    }
}

impl std::error::Error for BatchError {}

/// A batch with its contents.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodedBatch {
    /// Its figures.
    pub figures: BatchFigures,
    /// Its steps in order.
    pub steps: Vec<StoredStep>,
}

impl BatchFigures {
    const fn numbers(&self) -> [i64; 12] {
        [
            self.seq,
            self.seq_last,
            self.boot,
            self.mono_us,
            self.clock_offset_us,
            self.first_us,
            self.last_us,
            self.readings,
            self.predictions,
            self.prediction_seq,
            self.published_through,
            self.thinned,
        ]
    }

    fn checksum(&self, deliveries: &[u8], body: &[u8]) -> u32 {
        let figures: Vec<u8> = self.numbers().into_iter().flat_map(i64::to_le_bytes).collect();
        let crc = crc32c::crc32c(&figures);
        crc32c::crc32c_append(crc32c::crc32c_append(crc, deliveries), body)
    }

    /// Sets the figures that follow from the contents: counts and event times.
    pub(crate) fn describe(&mut self, steps: &[StoredStep]) {
        let times = steps.iter().flat_map(|step| {
            let predictions = step.predictions.iter().map(|p| p.window_end_us);
            step.readings.iter().map(|r| r.event_us).chain(predictions)
        });
        let (first, last) = times.fold((i64::MAX, i64::MIN), |(low, high), t| (low.min(t), high.max(t)));
        (self.first_us, self.last_us) = if first > last { (0, 0) } else { (first, last) };
        self.readings = steps.iter().map(|s| s.readings.len() as i64).sum();
        self.predictions = steps.iter().map(|s| s.predictions.len() as i64).sum();
    }
}

impl BatchRow {
    /// Returns the row of these steps; counts and event times are taken from them.
    #[must_use]
    pub fn encode(mut figures: BatchFigures, deliveries: &[DeliveryMark], steps: &[StoredStep]) -> Self {
        figures.describe(steps);
        let deliveries = encode_deliveries(deliveries);
        let body = body::encode(steps, figures.prediction_seq as u64);
        Self { crc: figures.checksum(&deliveries, &body), figures, deliveries, body }
    }

    /// Tells whether the row is what was written.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.crc == self.figures.checksum(&self.deliveries, &self.body)
    }

    /// Checks and decodes the row.
    ///
    /// *Errors*: the caller counts the batch and goes on with the next.
    pub fn decode(&self) -> Result<DecodedBatch, BatchError> {
        let seq = self.figures.seq;
        if !self.is_intact() {
            return Err(BatchError::Checksum { seq });
        }
        let steps = body::decode(&self.body, self.figures.prediction_seq as u64).map_err(|e| match e {
            BodyError::TooNew(version) => BatchError::TooNew { seq, version },
            BodyError::Malformed => BatchError::Malformed { seq },
        })?;
        Ok(DecodedBatch { figures: self.figures, steps })
    }

    /// Returns the row's length in bytes, near enough to judge room by.
    pub(crate) fn bytes(&self) -> usize {
        self.body.len() + self.deliveries.len() + 80
    }

    /// Reads a row selected by [`COLUMNS`].
    ///
    /// Figures out of type or range read as 0: the checksum then tells.
    pub(crate) fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        let number = |i: usize| row.get::<_, i64>(i).or_else(unless_damaged);
        let figures = BatchFigures {
            seq: number(0)?,
            seq_last: number(1)?,
            boot: number(2)?,
            mono_us: number(3)?,
            clock_offset_us: number(4)?,
            first_us: number(5)?,
            last_us: number(6)?,
            readings: number(7)?,
            predictions: number(8)?,
            prediction_seq: number(9)?,
            published_through: number(10)?,
            thinned: number(11)?,
        };
        Ok(Self {
            figures,
            crc: number(12)? as u32,
            deliveries: row.get(13).or_else(unless_damaged)?,
            body: row.get(14).or_else(unless_damaged)?,
        })
    }

    /// Inserts the row into `table`.
    pub(crate) fn insert(&self, connection: &Connection, table: Table) -> rusqlite::Result<()> {
        let f = &self.figures;
        let verb = match table {
            Table::Batch => "INSERT INTO batch",
            Table::Quarantine => "INSERT OR REPLACE INTO quarantine",
        };
        let sql = format!("{verb} ({COLUMNS}) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)");
        connection.prepare_cached(&sql)?.execute(params![
            f.seq,
            f.seq_last,
            f.boot,
            f.mono_us,
            f.clock_offset_us,
            f.first_us,
            f.last_us,
            f.readings,
            f.predictions,
            f.prediction_seq,
            f.published_through,
            f.thinned,
            self.crc,
            self.deliveries,
            self.body
        ])?;
        Ok(())
    }
}

/// A table that holds rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// The log.
    Batch,
    /// Rows that could not be read.
    Quarantine,
}

fn unless_damaged<T: Default>(error: rusqlite::Error) -> rusqlite::Result<T> {
    match error {
        rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::FromSqlConversionFailure(..) => Ok(T::default()),
        other => Err(other),
    }
}

/// Returns the first row at or after `seq`.
pub(crate) fn row_from(connection: &Connection, seq: i64) -> rusqlite::Result<Option<BatchRow>> {
    let sql = format!("SELECT {COLUMNS} FROM batch WHERE seq >= ?1 ORDER BY seq LIMIT 1");
    connection.prepare_cached(&sql)?.query_row([seq], BatchRow::of).optional()
}

fn encode_deliveries(marks: &[DeliveryMark]) -> Vec<u8> {
    let mut out = Vec::with_capacity(marks.len() * 6);
    let (mut broker, mut packet) = (0, 0);
    for mark in marks {
        let delta = i64::from(mark.packet_id) - packet - 1;
        let head = super::wire::zigzag(delta) << 1;
        if mark.broker == broker {
            put_unsigned(&mut out, head);
        } else {
            put_unsigned(&mut out, head | 1);
            put_signed(&mut out, i64::from(mark.broker));
        }
        out.extend(mark.content_crc.to_le_bytes());
        (broker, packet) = (mark.broker, i64::from(mark.packet_id));
    }
    out
}

/// Returns the marks of a row, in order of delivery.
pub(crate) fn decode_deliveries(bytes: &[u8]) -> Result<Vec<DeliveryMark>, Malformed> {
    let mut cursor = Cursor(bytes);
    let (mut broker, mut packet) = (0_u16, 0_i64);
    let mut marks = Vec::new();
    while !cursor.is_empty() {
        let head = cursor.unsigned()?;
        packet = packet.wrapping_add(1).wrapping_add(super::wire::unzigzag(head >> 1));
        if head & 1 == 1 {
            broker = u16::try_from(cursor.signed()?).map_err(|_| Malformed)?;
        }
        let packet_id = u16::try_from(packet).map_err(|_| Malformed)?;
        let content_crc = u32::from_le_bytes(cursor.array()?);
        marks.push(DeliveryMark { broker, packet_id, content_crc });
    }
    Ok(marks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn delivery_marks_read_back(marks in prop::collection::vec((0_u16..3, any::<u16>(), any::<u32>()), 0..50)) {
            let marks: Vec<_> = marks.into_iter()
                .map(|(broker, packet_id, content_crc)| DeliveryMark { broker, packet_id, content_crc }).collect();
            prop_assert_eq!(decode_deliveries(&encode_deliveries(&marks)).unwrap(), marks);
        }

        #[test]
        fn arbitrary_delivery_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode_deliveries(&bytes);
        }

        #[test]
        fn any_flipped_bit_of_a_row_is_noticed(bit in 0_usize..32, column in 0_usize..4) {
            let figures = BatchFigures { seq: 5, seq_last: 5, prediction_seq: 9, ..BatchFigures::default() };
            let marks = [DeliveryMark { broker: 0, packet_id: 4, content_crc: 77 }];
            let mut row = BatchRow::encode(figures, &marks, &[StoredStep::default()]);
            prop_assert!(row.decode().is_ok());
            match column {
                0 => row.crc ^= 1 << bit,
                1 => { let at = bit % (row.body.len() * 8); row.body[at / 8] ^= 1 << (at % 8); }
                2 => { let at = bit % (row.deliveries.len() * 8); row.deliveries[at / 8] ^= 1 << (at % 8); }
                _ => row.figures.published_through ^= 1 << bit,
            }
            prop_assert_eq!(row.decode(), Err(BatchError::Checksum { seq: 5 }));
        }
    }
}
