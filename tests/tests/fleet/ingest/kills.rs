//! A server that is killed while gateways upload: no row is lost or counted twice, and nothing old is taken.

use std::net::SocketAddr;
use std::time::Duration;

use dunlin_e2e::fleet_server::ServerPlan;
use dunlin_e2e::postgres::Postgres;
use dunlin_e2e::workspace::skip;
use dunlin_e2e::{Failure, Outcome};
use dunlin_fleet::store::{Store, StoreError, accounts, image, messages, tokens};
use dunlin_protocol::exchange::{ExchangeAnswer, ExchangeRequest};
use dunlin_protocol::{Digest, PublicKey, RefusalCode};

use crate::device::{Device, request};
use crate::rows::losses;

const ROOT: &[u8] = b"{\"signed\":{}}";
/// How often the server is killed.
const KILLS: usize = 8;
/// Rows of each message.
const ROWS: u64 = 5;

#[test]
fn uploads_through_kills_are_kept_once_in_sqlite() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let plan = ServerPlan::new(folder.path())?;
    let file = plan.data.join("fleet.db");
    upload_through_kills(&plan, &|| Store::open_sqlite(&file))
}

#[test]
fn uploads_through_kills_are_kept_once_in_postgresql() -> Outcome<()> {
    if !Postgres::is_installed() {
        skip("PostgreSQL is not installed");
        return Ok(());
    }
    let server = Postgres::start()?;
    let url = server.new_database("fleet")?;
    let folder = tempfile::tempdir()?;
    let plan = ServerPlan::new(folder.path())?.on_database(&url);
    upload_through_kills(&plan, &|| Store::open_postgres(&url))
}

fn with_store<T: Send + 'static>(
    open: &dyn Fn() -> Result<Store, StoreError>,
    work: impl FnMut(&mut dyn dunlin_fleet::store::Sql) -> Result<T, StoreError> + Send + 'static,
) -> Outcome<T> {
    let store = open().map_err(Failure::of("open the store"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let done = runtime.block_on(store.write(work)).map_err(Failure::of("use the store"));
    store.close();
    done
}

/// Returns a gateway that the server expects; server and gateway know each other by the first token.
fn gateway(plan: &ServerPlan, seed: u8) -> Outcome<Device> {
    let address = SocketAddr::from(([127, 0, 0, 1], plan.port));
    let token = std::fs::read_to_string(plan.data.join("keys/admin.token"))?;
    let reply =
        request(address, "GET", "/v1/server", &format!("authorization: Bearer {}\r\n", token.trim()), b"")?;
    let server: serde_json::Value = serde_json::from_slice(&reply.body)?;
    let text = |name: &str| server[name].as_str().unwrap_or_default().to_owned();
    let key: PublicKey = text("public_key").parse().map_err(|_| Failure::new(server.to_string()))?;
    let id = text("server").parse().map_err(|_| Failure::new(server.to_string()))?;
    Ok(Device::new(seed, address, key, id, Digest::of(ROOT)))
}

fn answer(device: &Device, question: &ExchangeRequest) -> Outcome<ExchangeAnswer> {
    device.read(&device.send(question, 0)?)
}

fn upload_through_kills(plan: &ServerPlan, open: &dyn Fn() -> Result<Store, StoreError>) -> Outcome<()> {
    let mut server = plan.start()?;
    let mut device = gateway(plan, 1)?;
    server.kill();
    let id = device.id().to_string();
    let expected = id.clone();
    with_store(open, move |sql| {
        image::put(sql, "root", 1, ROOT)?;
        tokens::expect(sql, &expected, "{}", 1, "test")
    })?;
    server = plan.start()?;
    device.enrol(None)?;
    let (mut next, mut answered): (u64, Vec<ExchangeRequest>) = (1, Vec::new());
    for round in 0..KILLS {
        let question = device.question(vec![losses(next, ROWS)]);
        let sent = std::thread::scope(|scope| {
            let sending = scope.spawn(|| answer(&device, &question));
            // Some are killed before they read, some while they commit, some after they answered.
            let (_never, pause) = std::sync::mpsc::channel::<()>();
            let _ = pause.recv_timeout(Duration::from_millis(round as u64 * 3));
            server.kill();
            sending.join().map_err(|_| Failure::new("panicked"))
        })?;
        server = plan.start()?;
        // Whether it was taken or not, it is answered again, and its rows are there once.
        let again = answer(&device, &question)?;
        let expected = format!("[[{next},{}]]", next + ROWS - 1);
        for got in sent.iter().chain([&again]) {
            assert_eq!(got.refusal, None, "round {round}");
            assert_eq!(serde_json::to_string(&got.receipts[0].ranges)?, expected);
        }
        if let Some(old) = answered.last() {
            let refusal = answer(&device, old)?.refusal.map(|refusal| refusal.code);
            assert_eq!(refusal, Some(RefusalCode::Replayed), "round {round}");
        }
        answered.push(question);
        next += ROWS;
    }
    server.kill();
    let (pieces, rows) = with_store(open, move |sql| {
        let rows = accounts::of(sql, &id)?.get("losses").map_or(0, |account| account.rows);
        Ok((messages::pieces(sql, (&id, "losses"), 1, 1_000)?, rows))
    })?;
    let all: Vec<(u64, u64)> = (0..KILLS as u64).map(|n| (n * ROWS + 1, (n + 1) * ROWS)).collect();
    assert_eq!((pieces, rows), (all, KILLS as u64 * ROWS));
    Ok(())
}
