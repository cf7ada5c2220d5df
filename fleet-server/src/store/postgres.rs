//! The store in PostgreSQL, for several servers over one database.
//!
//! Every piece of work is a serialisable transaction, or shares one with others that wait; done again where another got in
//! its way, over a connection that is made anew when it broke. The only file that speaks to PostgreSQL.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use postgres::error::SqlState;
use postgres::types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked};
use postgres::{Client, Statement};

use super::postgres_tls::Address;
use super::queue::{Connection, Work, run_caught};
use super::sql::require_storable;
use super::{Row, Sql, StoreError, Value};

mod embedded {
    refinery::embed_migrations!("src/store/migrations/postgres");
}

/// How often a transaction is done before it is given up. Transactions are short: one that loses to eight others in turn
/// met them all.
const TRIES: u32 = 10;
/// Longest wait for a connection: a server that fails over comes back within some seconds.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest run of one statement.
const STATEMENT_MS_MAX: u32 = 30_000;
/// Statements that stay prepared on a connection.
const STATEMENTS_MAX: usize = 256;
/// The lock that one server holds while it shapes the database: others wait. Any number that nothing else uses.
const SHAPING_LOCK: i64 = 0x6475_6e6c_696e;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Transactions that may change rows.
    Write,
    /// Transactions that see one moment.
    Read,
}

/// A database that was found to be of a known shape.
pub(super) struct Database {
    address: Address,
}

/// A connection, made anew where it broke.
pub(super) struct Session {
    address: Address,
    mode: Mode,
    client: Option<Client>,
    prepared: HashMap<String, Statement>,
    seed: u64,
}

impl Database {
    /// Connects and brings the schema up to date.
    pub(super) fn open(url: &str) -> Result<Self, StoreError> {
        let mut address = Address::parse(url)?;
        address.config.application_name("dunlin-fleet").connect_timeout(CONNECT);
        address.config.options(&format!("-c statement_timeout={STATEMENT_MS_MAX}"));
        let mut client = address.connect()?;
        shape(&mut client)?;
        Ok(Self { address })
    }

    /// Returns a connection.
    pub(super) fn connect(&self, mode: Mode) -> Result<Session, StoreError> {
        let mut session = Session {
            address: self.address.clone(),
            mode,
            client: None,
            prepared: HashMap::new(),
            // Any number does: it only keeps connections from pausing alike.
            seed: getrandom::u64().unwrap_or(1),
        };
        session.connected()?;
        Ok(session)
    }
}

fn shape(client: &mut Client) -> Result<(), StoreError> {
    let doing = "bring the schema up to date";
    client
        .execute("SELECT pg_advisory_lock($1)", &[&SHAPING_LOCK])
        .map_err(StoreError::unavailable(doing))?;
    let mut runner = embedded::migrations::runner();
    let newest = runner.get_migrations().iter().map(|step| i64::from(step.version())).max().unwrap_or(0);
    let reading = "read the schema's version";
    let has_history: bool = client
        .query_one("SELECT to_regclass('refinery_schema_history') IS NOT NULL", &[])
        .and_then(|row| row.try_get(0))
        .map_err(StoreError::unavailable(reading))?;
    let mut found = 0;
    if has_history {
        found = client
            .query_one("SELECT CAST(coalesce(max(version), 0) AS BIGINT) FROM refinery_schema_history", &[])
            .and_then(|row| row.try_get(0))
            .map_err(StoreError::unavailable(reading))?;
    }
    if found > newest {
        let needed = client.query_opt("SELECT version FROM origin WHERE id = 1", &[]).ok().flatten();
        let needed = needed.and_then(|row| row.try_get::<_, String>(0).ok());
        return Err(StoreError::TooNew {
            object: "the PostgreSQL database".to_owned(),
            needed: needed.unwrap_or_else(|| format!("with schema {found}")),
        });
    }
    runner = runner.set_grouped(true);
    runner.run(client).map_err(StoreError::unavailable(doing))?;
    client
        .execute(super::NOTE_ORIGIN, &[&env!("CARGO_PKG_VERSION")])
        .map_err(StoreError::unavailable("note the program's version"))?;
    client
        .execute("SELECT pg_advisory_unlock($1)", &[&SHAPING_LOCK])
        .map_err(StoreError::unavailable(doing))?;
    Ok(())
}

impl Session {
    fn connected(&mut self) -> Result<(&mut Client, &mut HashMap<String, Statement>), StoreError> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.prepared.clear();
            self.client = Some(self.address.connect()?);
        }
        let client = self.client.as_mut().ok_or(StoreError::Stopped)?;
        Ok((client, &mut self.prepared))
    }

    /// Does work, all of it in one transaction.
    fn attempt(&mut self, works: &mut [Box<dyn Work>]) -> Result<(), StoreError> {
        let begin = match self.mode {
            Mode::Write => "BEGIN ISOLATION LEVEL SERIALIZABLE",
            Mode::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        let (client, prepared) = self.connected()?;
        client.batch_execute(begin).map_err(|error| failed(error, begin))?;
        let outcome = works
            .iter_mut()
            .try_for_each(|work| run_caught(&mut **work, &mut Transaction { client, prepared }));
        let end = if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = client.batch_execute(end).map_err(|error| failed(error, end));
        if ended.is_err() {
            // In no known state: the next transaction gets a connection of its own.
            self.client = None;
        }
        outcome.and(ended)
    }

    /// Pauses before another try, at random so that those who met do not meet again.
    fn pause(&mut self, tries: u32) {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let most_us = 500_u64 << tries.min(7);
        std::thread::park_timeout(Duration::from_micros((self.seed >> 33) % most_us));
    }
}

impl Connection for Session {
    /// Some: a commit is flushed for all of them, and one that fails has the others done again.
    const TOGETHER: usize = 16;

    fn run(&mut self, mut works: Vec<Box<dyn Work>>) {
        if self.mode == Mode::Write && works.len() > 1 {
            match self.attempt(&mut works) {
                Ok(()) => return works.into_iter().for_each(|work| work.end(Ok(()))),
                // Nobody knows whether it was kept: it must not be done again.
                Err(StoreError::Unavailable { doing, source }) => {
                    let lost = || StoreError::Unavailable { doing, source: source.to_string().into() };
                    return works.into_iter().for_each(|work| work.end(Err(lost())));
                }
                Err(_) => {}
            }
        }
        // Alone: what failed is nobody else's failure, and what contends meets fewer.
        for mut work in works {
            let mut tries = 0;
            let outcome = loop {
                let outcome = self.attempt(std::slice::from_mut(&mut work));
                tries += 1;
                if !matches!(outcome, Err(StoreError::Contended)) || tries == TRIES {
                    break outcome;
                }
                self.pause(tries);
            };
            work.end(outcome);
        }
    }
}

fn failed(error: postgres::Error, sql: &str) -> StoreError {
    let Some(state) = error.code() else {
        return StoreError::Unavailable { doing: "use the database", source: Box::new(error) };
    };
    if [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(state) {
        return StoreError::Contended;
    }
    match state.code().get(..2) {
        Some("23") => StoreError::Conflict(error.to_string()),
        // Connection, resources, operator's intervention, system: the database's state, not the statement's fault.
        Some("08" | "53" | "57" | "58" | "25") => {
            StoreError::Unavailable { doing: "use the database", source: Box::new(error) }
        }
        Some("XX") => StoreError::Damaged(error.to_string()),
        _ => StoreError::Refused { sql: sql.to_owned(), source: Box::new(error) },
    }
}

struct Transaction<'c> {
    client: &'c mut Client,
    prepared: &'c mut HashMap<String, Statement>,
}

impl Transaction<'_> {
    fn statement(&mut self, sql: &str) -> Result<Statement, StoreError> {
        if let Some(statement) = self.prepared.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).map_err(|error| failed(error, sql))?;
        if self.prepared.len() >= STATEMENTS_MAX {
            self.prepared.clear();
        }
        self.prepared.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

impl Sql for Transaction<'_> {
    fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
        require_storable(values, sql)?;
        let statement = self.statement(sql)?;
        self.client.execute(&statement, &parameters(values)).map_err(|error| failed(error, sql))
    }

    fn query(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        require_storable(values, sql)?;
        let statement = self.statement(sql)?;
        let rows = self.client.query(&statement, &parameters(values)).map_err(|error| failed(error, sql))?;
        rows.iter().map(|row| read(row, sql)).collect()
    }
}

fn parameters(values: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}

fn read(row: &postgres::Row, sql: &str) -> Result<Row, StoreError> {
    let value = |(position, column): (usize, &postgres::Column)| {
        let value = match *column.type_() {
            Type::INT8 => row.try_get::<_, Option<i64>>(position).map(Value::from),
            Type::INT4 => row.try_get::<_, Option<i32>>(position).map(|value| value.map(i64::from).into()),
            Type::FLOAT8 => row.try_get::<_, Option<f64>>(position).map(Value::from),
            Type::BYTEA => row.try_get::<_, Option<Vec<u8>>>(position).map(Value::from),
            Type::TEXT | Type::VARCHAR | Type::NAME => {
                row.try_get::<_, Option<String>>(position).map(Value::from)
            }
            ref other => {
                let source = format!("column `{}` is of type {other}; cast it", column.name()).into();
                return Err(StoreError::Refused { sql: sql.to_owned(), source });
            }
        };
        value.map_err(|error| failed(error, sql))
    };
    row.columns().iter().enumerate().map(value).collect::<Result<_, _>>().map(Row)
}

impl ToSql for Value {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(inner) if *ty == Type::INT4 => i32::try_from(*inner)?.to_sql(ty, out),
            Self::Integer(inner) => inner.to_sql_checked(ty, out),
            Self::Real(inner) => inner.to_sql_checked(ty, out),
            Self::Text(inner) => inner.to_sql_checked(ty, out),
            Self::Blob(inner) => inner.to_sql_checked(ty, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        // Each value checks the type it meets.
        true
    }

    to_sql_checked!();
}
