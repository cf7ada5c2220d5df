//! Rescues what can be read of a damaged log, and copies a log into memory where nothing can be written.
//!
//! Never writes to the damaged file and never trusts a row whose checksum is wrong. Called once at a start.

use std::fs;
use std::path::{Path, PathBuf};

use dunlin_pipeline::prediction::InstanceIdentity;
use dunlin_pipeline::reading::SeriesIdentity;
use rusqlite::{Connection, OpenFlags, params};

use super::batch::{self, Table};
use super::open::{Moment, damaged_batches};
use super::schema::{self, Schema};
use super::tables::{Position, checkpoint, identities, put_checkpoint, put_identity};
use super::{StoreError, TELEMETRY_FILE, ledger, outbox};

/// Rows that are looked for beyond an unreadable place before the rest is given up.
const PROBES_MAX: u32 = 512;
/// Prediction numbers that are left out after damage: nobody knows which of the lost ones were used.
const SEQUENCE_MARGIN: u64 = 1 << 20;

/// What became of a damaged log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SalvageReport {
    /// Where the damaged file is kept.
    pub kept_as: PathBuf,
    /// Batches that were rescued.
    pub batches: u64,
    /// Batches and unreadable places that were not.
    pub lost: u64,
}

/// Moves the damaged log aside and returns a fresh one with what could be read of it.
///
/// Only the newest damaged file is kept: an older one would take room for ever.
///
/// *Errors*: the file cannot be moved, or no fresh one made.
pub(crate) fn set_aside_and_salvage(
    folder: &Path,
    path: &Path,
    quota: u64,
    moment: &Moment,
) -> Result<(Connection, SalvageReport), StoreError> {
    remove_older(folder);
    let kept_as = folder.join(format!("{TELEMETRY_FILE}.damaged-{}", moment.wall_us / 1_000_000));
    for suffix in ["-wal", ""] {
        let from = with_suffix(path, suffix);
        if from.exists() {
            fs::rename(&from, with_suffix(&kept_as, suffix)).map_err(StoreError::file(&from))?;
        }
    }
    let _ = fs::remove_file(with_suffix(path, "-shm"));
    let connection = schema::open_writer(path, Schema::Telemetry, schema::wal_pages(quota))?;
    let mut report = SalvageReport { kept_as: kept_as.clone(), batches: 0, lost: 0 };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    match Connection::open_with_flags(&kept_as, flags) {
        Ok(source) => copy(&source, &connection, &mut report),
        Err(_) => report.lost += 1,
    }
    let lost = damaged_batches(report.lost.max(1));
    let noted = ledger::record(&connection, &lost, moment.wall_us).and_then(|()| {
        let mut position = Position::read(&connection)?;
        position.prediction_next += SEQUENCE_MARGIN;
        position.write(&connection)
    });
    noted.map_err(StoreError::sqlite("note the damage in the fresh log"))?;
    tracing::error!(
        kept_as = %kept_as.display(), batches = report.batches, lost = report.lost,
        "the telemetry log was damaged: it was set aside and what could be read was rescued"
    );
    Ok((connection, report))
}

/// Returns a log in memory with the tail of the one at `path`, as far as that can be read.
pub(crate) fn copy_to_memory(path: &Path) -> Result<Connection, StoreError> {
    let connection = schema::open_in_memory()?;
    let immutable = format!("file:{}?immutable=1", path.display());
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let readable = |c: &Connection| c.query_row("SELECT count(*) FROM series", [], |_| Ok(())).is_ok();
    let source = schema::open_reader(path)
        .ok()
        .filter(readable)
        .or_else(|| Connection::open_with_flags(immutable, flags).ok().filter(readable));
    if let Some(source) = source {
        let mut report = SalvageReport { kept_as: path.to_owned(), batches: 0, lost: 0 };
        copy(&source, &connection, &mut report);
    }
    Ok(connection)
}

fn copy(source: &Connection, target: &Connection, report: &mut SalvageReport) {
    let copied = (|| {
        let transaction = target.unchecked_transaction()?;
        copy_small_tables(source, &transaction, report);
        copy_batches(source, &transaction, report)?;
        transaction.commit()
    })();
    if let Err(e) = copied {
        tracing::warn!(error = %e, "salvage ended early");
        report.lost += 1;
    }
}

fn copy_small_tables(source: &Connection, target: &Connection, report: &mut SalvageReport) {
    let parts: [&dyn Fn() -> rusqlite::Result<()>; 7] = [
        &|| {
            let found: Vec<(u32, SeriesIdentity)> = identities(source, "series")?;
            found.iter().try_for_each(|(id, identity)| put_identity(target, "series", *id, identity))
        },
        &|| {
            let found: Vec<(u32, InstanceIdentity)> = identities(source, "instance")?;
            found.iter().try_for_each(|(id, identity)| put_identity(target, "instance", *id, identity))
        },
        &|| checkpoint(source)?.map_or(Ok(()), |(seq, state)| put_checkpoint(target, seq, &state)),
        &|| Position::read(source)?.write(target),
        &|| {
            let losses = ledger::entries(source)?;
            losses.iter().try_for_each(|entry| ledger::enter(target, &entry.loss, entry.at_us))
        },
        &|| copy_clocks(source, target),
        &|| outbox::copy(source, target),
    ];
    for part in parts {
        if let Err(e) = part() {
            tracing::warn!(error = %e, "a part of the damaged log cannot be read");
            report.lost += 1;
        }
    }
}

fn copy_clocks(source: &Connection, target: &Connection) -> rusqlite::Result<()> {
    let mut boots = source.prepare("SELECT id, boot_id, wall_us, mono_us FROM boot")?;
    let mut rows = boots.query([])?;
    while let Some(row) = rows.next()? {
        let found = params![
            row.get::<_, i64>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, i64>(2)?,
            row.get::<_, i64>(3)?
        ];
        target.execute("INSERT OR REPLACE INTO boot VALUES (?1, ?2, ?3, ?4)", found)?;
    }
    let mut clocks = source.prepare("SELECT boot, mono_us, offset_us FROM clock")?;
    let mut rows = clocks.query([])?;
    while let Some(row) = rows.next()? {
        let found = params![row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?];
        target.execute("INSERT OR REPLACE INTO clock VALUES (?1, ?2, ?3)", found)?;
    }
    Ok(())
}

/// Copies intact rows in order; where the tree cannot be read, looks beyond in growing strides.
fn copy_batches(
    source: &Connection,
    target: &Connection,
    report: &mut SalvageReport,
) -> rusqlite::Result<()> {
    let (mut next, mut stride, mut probes) = (0_i64, 1_i64, 0);
    loop {
        match batch::row_from(source, next) {
            Ok(None) => return Ok(()),
            Ok(Some(row)) if row.figures.seq >= next => {
                next = row.figures.seq.saturating_add(1);
                stride = 1;
                if row.decode().is_ok() {
                    row.insert(target, Table::Batch)?;
                    report.batches += 1;
                } else {
                    report.lost += 1;
                }
            }
            _ => {
                if stride == 1 {
                    report.lost += 1;
                }
                probes += 1;
                if probes > PROBES_MAX {
                    return Ok(());
                }
                next = next.saturating_add(stride);
                stride = (stride * 2).min(1 << 20);
            }
        }
    }
}

fn remove_older(folder: &Path) {
    let prefix = format!("{TELEMETRY_FILE}.damaged-");
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
