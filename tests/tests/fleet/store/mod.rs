//! The store over each of its databases: the same cases, one after the other, each with a database of its own.
//!
//! What a case asks stands in `cases`; here are the databases.

mod cases;

use dunlin_e2e::certificates::Authority;
use dunlin_e2e::package::write;
use dunlin_e2e::postgres::Postgres;
use dunlin_e2e::workspace::skip;
use dunlin_e2e::{Failure, Outcome};
use dunlin_fleet::store::{Store, StoreError};

use cases::CASES;

fn on_threads<T>(work: impl Future<Output = T>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    Ok(runtime.block_on(work))
}

#[test]
fn sqlite_keeps_what_the_store_promises() -> Outcome<()> {
    for (name, case) in CASES {
        let folder = tempfile::tempdir()?;
        let store = Store::open_sqlite(&folder.path().join("fleet.db")).map_err(Failure::of(name))?;
        on_threads(case(&store))?.map_err(Failure::of(name))?;
        store.close();
    }
    Ok(())
}

#[test]
fn postgresql_keeps_what_the_store_promises() -> Outcome<()> {
    if !Postgres::is_installed() {
        skip("PostgreSQL is not installed");
        return Ok(());
    }
    let server = Postgres::start()?;
    for (number, (name, case)) in CASES.iter().enumerate() {
        let url = server.new_database(&format!("case_{number}"))?;
        let store = Store::open_postgres(&url).map_err(Failure::of(name))?;
        on_threads(case(&store))?.map_err(Failure::of(name))?;
        store.close();
    }
    Ok(())
}

/// Makes a database one that a newer program shaped.
const NEWER: &str = "UPDATE refinery_schema_history SET version = 9999 \
    WHERE version = (SELECT max(version) FROM refinery_schema_history)";

#[test]
fn databases_that_a_newer_program_shaped_are_refused_by_its_version() -> Outcome<()> {
    let require_refused = |opened: Result<Store, StoreError>| match opened {
        Err(StoreError::TooNew { needed, .. }) if needed == "9.9.9" => Ok(()),
        other => Err(Failure::new(format!("{other:?}"))),
    };
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("fleet.db");
    let store = Store::open_sqlite(&file).map_err(Failure::of("open"))?;
    on_threads(store.write(|sql| {
        sql.execute("UPDATE origin SET version = '9.9.9'", &[])?;
        sql.execute(NEWER, &[])
    }))?
    .map_err(Failure::of("age"))?;
    store.close();
    require_refused(Store::open_sqlite(&file))?;
    if !Postgres::is_installed() {
        skip("PostgreSQL is not installed");
        return Ok(());
    }
    let server = Postgres::start()?;
    let url = server.new_database("fleet")?;
    Store::open_postgres(&url).map_err(Failure::of("open"))?.close();
    server.psql("fleet", "UPDATE origin SET version = '9.9.9'")?;
    server.psql("fleet", NEWER)?;
    require_refused(Store::open_postgres(&url))
}

#[test]
fn two_servers_shape_one_empty_database_at_the_same_time() -> Outcome<()> {
    if !Postgres::is_installed() {
        skip("PostgreSQL is not installed");
        return Ok(());
    }
    let server = Postgres::start()?;
    let url = server.new_database("fleet")?;
    let open = || Store::open_postgres(&url).map(Store::close);
    let opened = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or(Err(StoreError::Panicked)))
            .collect::<Vec<_>>()
    });
    assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    Ok(())
}

#[test]
fn a_database_elsewhere_is_spoken_to_by_tls_and_verified() -> Outcome<()> {
    if !Postgres::is_installed() {
        skip("PostgreSQL is not installed");
        return Ok(());
    }
    let (server, folder) = (Postgres::start()?, tempfile::tempdir()?);
    let (own, foreign) = (Authority::new()?, Authority::new()?);
    let database = server.new_database("fleet")?.replace("127.0.0.1", "localhost");
    let url_with = |name: &str, authority: &Authority| {
        let file = folder.path().join(name);
        write(&file, authority.pem().as_bytes())?;
        Ok::<_, Failure>(format!("{database}?sslmode=verify-full&sslrootcert={}", file.display()))
    };
    let (trusting, distrustful) = (url_with("own.pem", &own)?, url_with("foreign.pem", &foreign)?);
    let refused = |url: &str| matches!(Store::open_postgres(url), Err(StoreError::Unavailable { .. }));
    assert!(refused(&trusting), "the server has no TLS yet, and nothing is said plainly");
    server.offer_tls(&own.issue("localhost")?)?;
    assert!(refused(&distrustful), "another authority vouches for it");
    let store = Store::open_postgres(&trusting).map_err(Failure::of("open"))?;
    let ways = "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
        WHERE application_name = 'dunlin-fleet'";
    assert_eq!(server.psql("fleet", ways)?, "t");
    store.close();
    Ok(())
}

#[test]
fn a_server_that_was_killed_is_found_again_and_what_was_kept_is_there() -> Outcome<()> {
    if !Postgres::is_installed() {
        skip("PostgreSQL is not installed");
        return Ok(());
    }
    let mut server = Postgres::start()?;
    let store = Store::open_postgres(&server.new_database("fleet")?).map_err(Failure::of("open"))?;
    let count = |store: &Store| on_threads(store.read(|sql| sql.query("SELECT n FROM kept", &[])));
    on_threads(store.write(|sql| {
        sql.execute("CREATE TABLE kept (n BIGINT PRIMARY KEY)", &[])?;
        sql.execute("INSERT INTO kept VALUES ($1)", &[1_i64.into()])
    }))?
    .map_err(Failure::of("write"))?;
    server.kill();
    let away = count(&store)?;
    assert!(matches!(away, Err(StoreError::Unavailable { .. })), "{away:?}");
    server.start_again()?;
    // A connection that broke is noticed by the work that meets it; each one is made anew once.
    let mut rows = Err(StoreError::Stopped);
    for _ in 0..20 {
        rows = count(&store)?;
        if rows.is_ok() {
            break;
        }
    }
    assert_eq!(rows.map_err(Failure::of("read"))?.len(), 1);
    Ok(())
}
