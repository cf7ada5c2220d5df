//! A server that is killed again and again in the midst of a rollout, alone and as one of two.
//!
//! Every gateway is told once, every row is kept once, and the rollout ends as it would have. `DUNLIN_ROLLOUT_KILLS` says
//! how often it is killed where the usual number is not enough.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dunlin_e2e::fleet_server::FleetServer;
use dunlin_e2e::postgres::Postgres;
use dunlin_e2e::workspace::skip;
use dunlin_e2e::{Failure, Outcome};
use dunlin_fleet::store::{Sql, Store, StoreError};
use serde_json::json;

use super::{Gateway, Site, running};

/// Kills in a run of all tests; a run of its own has more.
const KILLS: u32 = 8;
const GATEWAYS: u8 = 200;
/// Gateways that one thread speaks for.
const TOGETHER: usize = 25;
/// No kill is farther from the one before, on average.
const BETWEEN: Duration = Duration::from_millis(700);

fn kills() -> u32 {
    std::env::var("DUNLIN_ROLLOUT_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS)
}

/// Lets gateways live until they are told to stop, each at the server that answers.
fn crowd_lives(gateways: &mut [Gateway], servers: &[SocketAddr], stops: &AtomicBool) -> Outcome<()> {
    let mut at = vec![0_usize; gateways.len()];
    while !stops.load(Ordering::Relaxed) {
        for (gateway, at) in gateways.iter_mut().zip(&mut at) {
            gateway.turn_to(servers[*at % servers.len()]);
            if !gateway.try_live()? {
                *at += 1;
            }
        }
        dunlin_e2e::wait::pause(Duration::from_millis(100));
    }
    Ok(())
}

fn kept_rows(sql: &mut dyn Sql) -> Result<Vec<(String, u64, u64)>, StoreError> {
    let rows = sql.query(
        "SELECT device, CAST(sum(last - first + 1) AS BIGINT), max(last) FROM upload GROUP BY device ORDER BY device",
        &[],
    )?;
    rows.into_iter().map(|mut row| Ok((row.take(0)?, row.take(1)?, row.take(2)?))).collect()
}

fn survive(
    site: Site,
    mut others: Vec<FleetServer>,
    store: impl Fn(&Site) -> Result<Store, StoreError>,
) -> Outcome<()> {
    let mut gateways = site.gateways(GATEWAYS, 4)?;
    gateways.iter_mut().for_each(|gateway| gateway.sends_rows = true);
    let kills = kills();
    let mut spec =
        site.spec(json!([{ "count": 1 }, { "percent": 10 }, { "percent": 50 }, { "percent": 100 }]));
    // Watched for long enough that it goes on while the last kill comes.
    let bake_ms = u64::from(kills) * u64::try_from(BETWEEN.as_millis()).unwrap_or(0) / 4;
    spec["bake"] = json!({ "time_ms": bake_ms, "predictions": 10 });
    let id = site.admin.start(&spec)?;
    let mut servers = vec![site.admin.server];
    servers.extend(others.iter().map(|other| SocketAddr::from(([127, 0, 0, 1], other.plan().port))));
    let stops = AtomicBool::new(false);
    let Site { mut server, admin, new, old, owner, folder, key, id: server_id } = site;
    let outcome = std::thread::scope(|scope| {
        let threads: Vec<_> = gateways
            .chunks_mut(TOGETHER)
            .map(|chunk| scope.spawn(|| crowd_lives(chunk, &servers, &stops)))
            .collect();
        let outcome = kill_and_wait(&mut server, &mut others, kills, &admin, &id);
        stops.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| Failure::new("a gateway panicked"))??;
        }
        outcome
    });
    outcome?;
    let rollout = admin.get(&format!("/v1/rollouts/{id}"))?;
    assert_eq!(rollout["devices"], json!({ "good": u64::from(GATEWAYS) }), "{rollout}");
    assert_eq!(running(&gateways, &new), usize::from(GATEWAYS));
    for gateway in &gateways {
        let id = gateway.device.id();
        assert_eq!(gateway.moves[&new.digest], 1, "{id} was moved more than once");
        assert_eq!((gateway.fetched[&new.digest], gateway.revision), (1, 1), "{id} was told more than once");
    }
    // Whoever has a question without an answer gets it, so that both sides know the same rows.
    for gateway in &mut gateways {
        gateway.turn_to(admin.server);
        gateway.live()?;
    }
    let site = Site { server, admin, new, old, owner, folder, key, id: server_id };
    let opened = store(&site).map_err(Failure::of("open the store"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
    let kept = runtime.block_on(opened.read(kept_rows)).map_err(Failure::of("read rows"))?;
    opened.close();
    let mut sent: Vec<_> = gateways
        .iter()
        .map(|gateway| (gateway.device.id().to_string(), gateway.rows, gateway.rows))
        .collect();
    sent.sort();
    assert_eq!(kept, sent, "rows were lost or counted twice");
    Ok(())
}

/// Kills servers in turn, and waits until the rollout is over.
fn kill_and_wait(
    server: &mut FleetServer,
    others: &mut [FleetServer],
    kills: u32,
    admin: &super::Person,
    id: &str,
) -> Outcome<()> {
    let path = format!("/v1/rollouts/{id}");
    let mut done = 0;
    for kill in 0..kills {
        // Never at the same moment of its second.
        dunlin_e2e::wait::pause(BETWEEN / 2 + BETWEEN.mul_f64(f64::from(kill * 7 % 10) / 10.0));
        let victims = 1 + others.len();
        let victim = match kill as usize % victims {
            0 => &mut *server,
            other => &mut others[other - 1],
        };
        let plan = victim.plan().clone();
        victim.kill();
        *victim = plan.start()?;
        done += 1;
    }
    assert_eq!(done, kills);
    let began = Instant::now();
    loop {
        let rollout = admin.get(&path)?;
        if rollout["status"] == "completed" {
            return Ok(());
        }
        if began.elapsed() > super::SOON || rollout["status"] != "running" {
            return Err(server.failure(&format!("the rollout did not end: {rollout}")));
        }
        dunlin_e2e::wait::pause(Duration::from_millis(200));
    }
}

#[test]
fn a_server_that_is_killed_moves_no_gateway_twice_and_loses_no_row() -> Outcome<()> {
    let site = Site::new(None)?;
    survive(site, Vec::new(), |site| Store::open_sqlite(&site.server.plan().data.join("fleet.db")))
}

#[test]
fn two_servers_that_are_killed_in_turn_move_no_gateway_twice_and_lose_no_row() -> Outcome<()> {
    if !Postgres::is_installed() {
        skip("PostgreSQL is not installed");
        return Ok(());
    }
    let database = Postgres::start()?;
    let url = database.new_database("fleet")?;
    let site = Site::new(Some(&url))?;
    let other = site.server.plan().replica()?.start()?;
    survive(site, vec![other], move |_| Store::open_postgres(&url))
}
