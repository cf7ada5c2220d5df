//! What every database must keep of the store's promises, as cases over any store.
//!
//! Each begins with an empty database and says in its name what it asks.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use dunlin_fleet::store::audit::{self, Deed};
use dunlin_fleet::store::devices::{self, Device, DeviceState};
use dunlin_fleet::store::{Sql, Store, StoreError, Value, leases};

type Outcome = Result<(), StoreError>;
type Case = for<'s> fn(&'s Store) -> Pin<Box<dyn Future<Output = Outcome> + 's>>;

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        /// All cases by name.
        pub(super) const CASES: &[(&str, Case)] = &[$((stringify!($name), |store| Box::pin($name(store)))),*];
    };
}

cases![
    values_of_every_type_come_back_as_they_were,
    what_one_database_cannot_keep_is_refused_by_both,
    work_that_fails_leaves_nothing,
    work_that_panics_leaves_nothing_and_the_store_goes_on,
    a_row_that_exists_is_a_conflict,
    no_increment_is_lost,
    transactions_that_would_contradict_each_other_do_not,
    a_read_sees_one_moment,
    work_is_done_even_if_nobody_waits_any_more,
    more_work_than_fits_is_refused_at_once,
    parameters_may_stand_in_any_order_and_several_times,
    a_reader_changes_nothing,
    a_gateway_is_found_as_it_was_written_and_enrols_again,
    pages_of_gateways_follow_one_another,
    a_lease_has_one_holder_until_it_ends,
    the_audit_log_shows_what_was_changed_or_taken_out,
];

async fn with_table(store: &Store, columns: &'static str) -> Outcome {
    store.write(move |sql| sql.execute(&format!("CREATE TABLE t ({columns})"), &[])).await?;
    Ok(())
}

fn count(sql: &mut dyn Sql) -> Result<i64, StoreError> {
    sql.query("SELECT count(*) FROM t", &[])?[0].take(0)
}

async fn require_rows(store: &Store, expected: i64) -> Outcome {
    let found = store.read(count).await?;
    assert_eq!(found, expected);
    Ok(())
}

async fn values_of_every_type_come_back_as_they_were(store: &Store) -> Outcome {
    with_table(store, "n BIGINT PRIMARY KEY, i BIGINT, r DOUBLE PRECISION, t TEXT, b BYTEA").await?;
    let rows = vec![
        vec![1_i64.into(), i64::MIN.into(), f64::MIN_POSITIVE.into(), "".into(), Value::Blob(Vec::new())],
        vec![
            2_i64.into(),
            i64::MAX.into(),
            (-1.5e300).into(),
            "ä\n'\";--\u{10ffff}".into(),
            vec![0_u8, 255].into(),
        ],
        vec![3_i64.into(), Value::Null, Value::Null, Value::Null, Value::Null],
        vec![4_i64.into(), 0_i64.into(), 0.1.into(), "7".into(), b"text".to_vec().into()],
    ];
    let written = rows.clone();
    store
        .write(move |sql| {
            for row in &written {
                sql.execute("INSERT INTO t VALUES ($1, $2, $3, $4, $5)", row)?;
            }
            Ok(())
        })
        .await?;
    let found = store.read(|sql| sql.query("SELECT n, i, r, t, b FROM t ORDER BY n", &[])).await?;
    assert_eq!(found.len(), rows.len());
    for (mut found, row) in found.into_iter().zip(rows) {
        assert_eq!(found.take::<i64>(0).map(Value::from)?, row[0]);
        assert_eq!(found.take::<Option<i64>>(1).map(Value::from)?, row[1]);
        assert_eq!(found.take::<Option<f64>>(2).map(Value::from)?, row[2]);
        assert_eq!(found.take::<Option<String>>(3).map(Value::from)?, row[3]);
        assert_eq!(found.take::<Option<Vec<u8>>>(4).map(Value::from)?, row[4]);
    }
    Ok(())
}

async fn what_one_database_cannot_keep_is_refused_by_both(store: &Store) -> Outcome {
    with_table(store, "r DOUBLE PRECISION, t TEXT").await?;
    for (real, text) in [(f64::NAN, "a"), (f64::INFINITY, "a"), (1.0, "a\0b")] {
        let insert = move |sql: &mut dyn Sql| {
            sql.execute("INSERT INTO t VALUES ($1, $2)", &[real.into(), text.into()])
        };
        let outcome = store.write(insert).await;
        assert!(matches!(outcome, Err(StoreError::Refused { .. })), "{outcome:?}");
    }
    require_rows(store, 0).await
}

async fn work_that_fails_leaves_nothing(store: &Store) -> Outcome {
    with_table(store, "n BIGINT PRIMARY KEY").await?;
    let outcome = store
        .write(|sql| {
            sql.execute("INSERT INTO t VALUES (1)", &[])?;
            sql.execute("INSERT INTO missing VALUES (1)", &[])
        })
        .await;
    assert!(matches!(outcome, Err(StoreError::Refused { .. })), "{outcome:?}");
    require_rows(store, 0).await?;
    let outcome = store
        .write(|sql| {
            sql.execute("INSERT INTO t VALUES (1)", &[])?;
            Err::<(), _>(StoreError::Conflict("of the work's own".to_owned()))
        })
        .await;
    assert!(matches!(outcome, Err(StoreError::Conflict(_))), "{outcome:?}");
    require_rows(store, 0).await
}

async fn work_that_panics_leaves_nothing_and_the_store_goes_on(store: &Store) -> Outcome {
    with_table(store, "n BIGINT PRIMARY KEY").await?;
    // More often than there are connections.
    for _ in 0..20 {
        let outcome = store
            .write(|sql| {
                sql.execute("INSERT INTO t VALUES (1)", &[])?;
                let nothing: Option<u64> = std::hint::black_box(None);
                Ok(nothing.expect("a panic is wanted"))
            })
            .await;
        assert!(matches!(outcome, Err(StoreError::Panicked)), "{outcome:?}");
    }
    store.write(|sql| sql.execute("INSERT INTO t VALUES (1)", &[])).await?;
    require_rows(store, 1).await
}

async fn a_row_that_exists_is_a_conflict(store: &Store) -> Outcome {
    with_table(store, "n BIGINT PRIMARY KEY, o BIGINT NOT NULL").await?;
    let insert = |sql: &mut dyn Sql| sql.execute("INSERT INTO t VALUES (1, 1)", &[]);
    store.write(insert).await?;
    let outcome = store.write(insert).await;
    assert!(matches!(outcome, Err(StoreError::Conflict(_))), "{outcome:?}");
    let outcome = store.write(|sql| sql.execute("INSERT INTO t VALUES (2, NULL)", &[])).await;
    assert!(matches!(outcome, Err(StoreError::Conflict(_))), "{outcome:?}");
    require_rows(store, 1).await
}

async fn no_increment_is_lost(store: &Store) -> Outcome {
    const TASKS: i64 = 8;
    const EACH: i64 = 25;
    with_table(store, "n BIGINT PRIMARY KEY").await?;
    store.write(|sql| sql.execute("INSERT INTO t VALUES (0)", &[])).await?;
    let increment = async || {
        let mut done = 0;
        while done < EACH {
            let outcome = store
                .write(|sql| {
                    let found: i64 = sql.query("SELECT n FROM t", &[])?[0].take(0)?;
                    sql.execute("UPDATE t SET n = $1", &[(found + 1).into()])
                })
                .await;
            match outcome {
                Ok(_) => done += 1,
                Err(StoreError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    for outcome in join_all((0..TASKS).map(|_| increment())).await {
        outcome?;
    }
    let found: i64 = store.read(|sql| sql.query("SELECT n FROM t", &[])?[0].take(0)).await?;
    assert_eq!(found, TASKS * EACH);
    Ok(())
}

async fn transactions_that_would_contradict_each_other_do_not(store: &Store) -> Outcome {
    // Each looks whether there is a row yet, and inserts one where there is none: a plain snapshot lets both.
    with_table(store, "n BIGINT PRIMARY KEY").await?;
    for round in 0..10_i64 {
        let insert = async |own: i64| {
            let alone = store.write(move |sql| {
                let (low, high) = (round * 100, round * 100 + 99);
                let found: i64 = sql
                    .query("SELECT count(*) FROM t WHERE n BETWEEN $1 AND $2", &[low.into(), high.into()])?
                    [0]
                .take(0)?;
                if found == 0 {
                    sql.execute("INSERT INTO t VALUES ($1)", &[(low + own).into()])?;
                }
                Ok(())
            });
            match alone.await {
                Err(StoreError::Contended) => Ok(()),
                other => other,
            }
        };
        for outcome in join_all((0..6).map(insert)).await {
            outcome?;
        }
        require_rows(store, round + 1).await?;
    }
    Ok(())
}

async fn a_read_sees_one_moment(store: &Store) -> Outcome {
    with_table(store, "n BIGINT PRIMARY KEY").await?;
    let (begun, has_begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let reading = store.read(move |sql| {
        let before = count(sql)?;
        let _ = begun.send(());
        let _ = may_go_on.recv();
        Ok((before, count(sql)?))
    });
    let writing = async {
        // The reader is on a thread of the store's own: it begins by itself once it was handed in.
        let _ = tokio::task::block_in_place(|| has_begun.recv());
        let written = store.write(|sql| sql.execute("INSERT INTO t VALUES (1)", &[])).await;
        let _ = go_on.send(());
        written
    };
    let (read, written) = tokio::join!(reading, writing);
    written?;
    assert_eq!(read?, (0, 0));
    require_rows(store, 1).await
}

async fn work_is_done_even_if_nobody_waits_any_more(store: &Store) -> Outcome {
    with_table(store, "n BIGINT PRIMARY KEY").await?;
    let mut given_up = Box::pin(store.write(|sql| sql.execute("INSERT INTO t VALUES (1)", &[])));
    // Polled once: it is handed in, and then dropped.
    let _ = std::future::poll_fn(|context| std::task::Poll::Ready(given_up.as_mut().poll(context))).await;
    drop(given_up);
    let mut found = 0;
    for _ in 0..1_000 {
        found = store.read(count).await?;
        if found == 1 {
            break;
        }
    }
    assert_eq!(found, 1);
    Ok(())
}

async fn more_work_than_fits_is_refused_at_once(store: &Store) -> Outcome {
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Arc::new(std::sync::Mutex::new(may_go_on));
    let refused = AtomicUsize::new(0);
    let wait = async || {
        let may_go_on = Arc::clone(&may_go_on);
        let outcome = store
            .read(move |_| {
                // Ends once the sender is gone.
                let _ = may_go_on.lock().map(|gate| gate.recv());
                Ok(())
            })
            .await;
        if matches!(outcome, Err(StoreError::Busy)) {
            refused.fetch_add(1, Ordering::Relaxed);
        }
    };
    let waits = join_all((0..3_000).map(|_| wait()));
    let release = async {
        tokio::task::yield_now().await;
        drop(go_on);
    };
    tokio::join!(waits, release);
    let refused = refused.into_inner();
    assert!((1..3_000).contains(&refused), "{refused} of 3000 are refused");
    store.read(|_| Ok(())).await
}

async fn parameters_may_stand_in_any_order_and_several_times(store: &Store) -> Outcome {
    with_table(store, "a BIGINT PRIMARY KEY, b BIGINT, c BIGINT").await?;
    let values = [1_i64.into(), 2_i64.into(), 3_i64.into()];
    store.write(move |sql| sql.execute("INSERT INTO t (c, a, b) VALUES ($3, $1, $2)", &values)).await?;
    let mut row = store
        .read(|sql| {
            let sought = [2_i64.into(), 1_i64.into()];
            let row =
                sql.query_optional("SELECT a, b, c FROM t WHERE b = $1 AND a = $2 AND b = $1", &sought)?;
            row.ok_or_else(|| StoreError::Damaged("no row".to_owned()))
        })
        .await?;
    assert_eq!((row.take::<i64>(0)?, row.take::<u32>(1)?, row.take::<bool>(2).is_err()), (1, 2, true));
    Ok(())
}

async fn a_reader_changes_nothing(store: &Store) -> Outcome {
    with_table(store, "n BIGINT PRIMARY KEY").await?;
    let outcome = store.read(|sql| sql.execute("INSERT INTO t VALUES (1)", &[])).await;
    assert!(outcome.is_err(), "{outcome:?}");
    require_rows(store, 0).await
}

fn gateway(number: u32) -> Device {
    Device {
        id: format!("d{number:05}"),
        public_key: vec![7; 32],
        state: DeviceState::Pending,
        reason: None,
        incarnation: "first".to_owned(),
        counter: 3,
        start: None,
        enrolled_ms: 5,
        enrolled_by: "token".to_owned(),
        seen_ms: 6,
        utc_offset_min: -90,
        facts: "{}".to_owned(),
        report: None,
        health: None,
        desired_revision: 0,
        director_version: 0,
        director_ms: 0,
        labels: [("site".to_owned(), format!("s{}", number % 3))].into(),
    }
}

async fn a_gateway_is_found_as_it_was_written_and_enrols_again(store: &Store) -> Outcome {
    store.write(|sql| devices::enrol(sql, &gateway(1))).await?;
    assert_eq!(store.read(|sql| devices::get(sql, "d00001")).await?, Some(gateway(1)));
    assert_eq!(store.read(|sql| devices::get(sql, "d00002")).await?, None);
    store
        .write(|sql| {
            devices::set_state(sql, "d00001", DeviceState::Suspended, Some("cloned"))?;
            devices::set_label(sql, "d00001", "site", None)?;
            devices::set_label(sql, "d00001", "canary", Some("yes"))?;
            devices::note_seen(sql, &[("d00001".to_owned(), 99), ("d00001".to_owned(), 50)])
        })
        .await?;
    let found = store.read(|sql| devices::get(sql, "d00001")).await?.unwrap_or_else(|| gateway(0));
    assert_eq!((found.state, found.reason.as_deref()), (DeviceState::Suspended, Some("cloned")));
    assert_eq!((found.seen_ms, found.labels), (99, [("canary".to_owned(), "yes".to_owned())].into()));
    let again = Device { incarnation: "second".to_owned(), ..gateway(1) };
    store.write(move |sql| devices::enrol(sql, &again)).await?;
    let found = store.read(|sql| devices::get(sql, "d00001")).await?.unwrap_or_else(|| gateway(0));
    assert_eq!((found.incarnation.as_str(), found.state), ("second", DeviceState::Pending));
    assert_eq!(found.labels.len(), 2);
    let unknown = store.write(|sql| devices::set_state(sql, "d00009", DeviceState::Active, None)).await;
    assert!(matches!(unknown, Err(StoreError::Conflict(_))), "{unknown:?}");
    let unknown = store.write(|sql| devices::set_label(sql, "d00009", "a", Some("b"))).await;
    assert!(matches!(unknown, Err(StoreError::Conflict(_))), "{unknown:?}");
    Ok(())
}

async fn pages_of_gateways_follow_one_another(store: &Store) -> Outcome {
    store.write(|sql| (0..25).try_for_each(|number| devices::enrol(sql, &gateway(number)))).await?;
    let (mut after, mut found) = (String::new(), Vec::new());
    loop {
        let from = after.clone();
        let page = store.read(move |sql| devices::page(sql, &from, 10)).await?;
        let Some(last) = page.last() else { break };
        after.clone_from(&last.id);
        found.extend(page);
    }
    assert_eq!(found, (0..25).map(gateway).collect::<Vec<_>>());
    Ok(())
}

async fn a_lease_has_one_holder_until_it_ends(store: &Store) -> Outcome {
    let take = async |holder: &'static str, now_ms: u64, until_ms: u64| {
        store.write(move |sql| leases::take(sql, "rollouts", holder, now_ms, until_ms)).await
    };
    assert!(take("a", 0, 10).await?);
    assert!(!take("b", 9, 20).await?);
    assert!(take("a", 9, 15).await?);
    assert!(!take("b", 14, 20).await?);
    assert!(take("b", 15, 20).await?);
    assert!(!take("a", 16, 30).await?);
    store.write(|sql| leases::give_back(sql, "rollouts", "a")).await?;
    assert!(!take("a", 16, 30).await?);
    store.write(|sql| leases::give_back(sql, "rollouts", "b")).await?;
    assert!(take("a", 16, 30).await?);
    Ok(())
}

async fn the_audit_log_shows_what_was_changed_or_taken_out(store: &Store) -> Outcome {
    let deed = |number: u64| Deed {
        at_ms: number,
        who: "ann".to_owned(),
        action: "rollout.pause".to_owned(),
        object: format!("r{number}"),
        reason: "because".to_owned(),
        detail: "{}".to_owned(),
    };
    for number in 1..=6 {
        let seq = store.write(move |sql| audit::add(sql, &deed(number))).await?;
        assert_eq!(seq, number);
    }
    let lines = store.read(|sql| audit::page(sql, 0, 100)).await?;
    assert_eq!(audit::first_broken(None, &lines), None);
    assert_eq!(audit::first_broken(lines.get(1), &lines[2..]), None);
    let rest = store.read(|sql| audit::page(sql, 4, 100)).await?;
    assert_eq!(rest, lines[4..]);
    store.write(|sql| sql.execute("UPDATE audit SET who = 'bob' WHERE seq = 3", &[])).await?;
    let changed = store.read(|sql| audit::page(sql, 0, 100)).await?;
    assert_eq!(audit::first_broken(None, &changed), Some(3));
    store.write(|sql| sql.execute("DELETE FROM audit WHERE seq = 2", &[])).await?;
    let short = store.read(|sql| audit::page(sql, 0, 100)).await?;
    assert_eq!(audit::first_broken(None, &short), Some(2));
    Ok(())
}

/// Waits for all, which run at the same time.
async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut is_done = true;
        for (future, output) in &mut waiting {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => is_done = false,
                }
            }
        }
        if is_done { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    waiting.into_iter().filter_map(|(_, output)| output).collect()
}
