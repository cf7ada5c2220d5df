//! Everything the server keeps: one store over two databases.
//!
//! Work is a plain function over [`Sql`], handed to the store's threads; each is one transaction. SQL stands here alone,
//! one text for both databases. Decides nothing about devices or rollouts.

pub mod accounts;
pub mod api_tokens;
pub mod audit;
pub mod blobs;
pub mod desired;
pub mod devices;
pub mod director;
mod error;
pub mod events;
pub mod fleet;
pub mod idempotency;
pub mod image;
pub mod leases;
pub mod messages;
pub mod policies;
mod postgres;
mod postgres_tls;
mod queue;
pub mod releases;
pub mod retention;
pub mod rollouts;
pub mod rows;
pub mod sightings;
mod sql;
mod sqlite;
pub(crate) mod sqlite_file;
pub mod tokens;
pub mod webhooks;

use std::fmt;
use std::path::Path;

pub use error::StoreError;
pub use sql::{FromValue, Row, Sql, Value};

use queue::Lane;

/// Connections that read beside the writers: as many as cores that would serve them on a small server.
const READERS: usize = 4;
/// Connections of PostgreSQL that write at the same time.
const POSTGRES_WRITERS: usize = 8;

/// Notes the program that shaped the database, for the message of an older one that refuses it.
const NOTE_ORIGIN: &str = "INSERT INTO origin VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET version = $1 WHERE origin.version <> $1";

/// The store.
pub struct Store {
    reads: Lane,
    writes: Lane,
    is_shared: bool,
}

impl Store {
    /// Opens the SQLite database of a folder, and makes it where there is none.
    ///
    /// *Errors*: [`StoreError::TooNew`], [`StoreError::Damaged`], or the file cannot be used.
    pub fn open_sqlite(file: &Path) -> Result<Self, StoreError> {
        let writer = sqlite::Writer::open(file)?;
        let readers = (0..READERS).map(|_| sqlite::Reader::open(file)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            writes: Lane::start("store-writer", [writer].into_iter()),
            reads: Lane::start("store-reader", readers.into_iter()),
            is_shared: false,
        })
    }

    /// Connects to a PostgreSQL database, and shapes it where it is empty.
    ///
    /// *Errors*: [`StoreError::TooNew`], or the server cannot be reached.
    pub fn open_postgres(url: &str) -> Result<Self, StoreError> {
        let database = postgres::Database::open(url)?;
        let writers = (0..POSTGRES_WRITERS).map(|_| database.connect(postgres::Mode::Write));
        let writers = writers.collect::<Result<Vec<_>, _>>()?;
        let readers = (0..READERS).map(|_| database.connect(postgres::Mode::Read));
        let readers = readers.collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            writes: Lane::start("store-writer", writers.into_iter()),
            reads: Lane::start("store-reader", readers.into_iter()),
            is_shared: true,
        })
    }

    /// Does work in one transaction, all of it or nothing, as if no other ran at the same time. It may be done several
    /// times before it is kept once, and must change nothing but the database.
    ///
    /// *Errors*: the work's own, or the store's; after [`StoreError::Unavailable`] it is not known whether it was done.
    pub async fn write<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnMut(&mut dyn Sql) -> Result<T, StoreError> + Send + 'static,
    {
        self.writes.hand_in(work).await
    }

    /// Does work that only reads, and sees the database as it is at one moment.
    ///
    /// *Errors*: as [`Store::write`].
    pub async fn read<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnMut(&mut dyn Sql) -> Result<T, StoreError> + Send + 'static,
    {
        self.reads.hand_in(work).await
    }

    /// Tells whether so much waits to be written that rows of gateways should wait with them.
    #[must_use]
    pub fn is_strained(&self) -> bool {
        self.writes.is_strained()
    }

    /// Tells whether other servers may use the same database.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Waits until all work that was handed in is done, and closes the database.
    pub fn close(self) {
        // The last to close folds the log into the file, which a reader cannot.
        self.reads.close();
        self.writes.close();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}
