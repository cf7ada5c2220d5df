//! A running server and simulated gateways: HTTP, enrolment, exchanges, and those who attack them.

mod attacks;
mod enrolling;
mod exchanging;
mod http;
mod process;

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use dunlin_e2e::{Failure, Outcome};
use dunlin_fleet::exchange::waiters::WAITERS_MAX;
use dunlin_fleet::fleet::{Fleet, now_ms};
use dunlin_fleet::http::Bounds;
use dunlin_fleet::metrics::MetricsAccess;
use dunlin_fleet::server::{Server, Settings};
use dunlin_fleet::store::tokens::{self, Token};
use dunlin_fleet::store::{Sql, StoreError, audit, image};
use dunlin_fleet::webhooks::Targets;
use dunlin_protocol::text::Url;
use dunlin_protocol::token::TokenClaim;
use dunlin_protocol::{Digest, EnrolmentToken, Name, TokenId};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::device::Device;

/// What stands for the owner's root: the server compares its digest alone.
pub(crate) const ROOT: &[u8] = b"{\"signed\":{}}";

/// A server of the test's own, at a free port.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) folder: TempDir,
    pub(crate) fleet: std::sync::Weak<Fleet>,
    runtime: Runtime,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    pub(crate) key: dunlin_protocol::PublicKey,
    pub(crate) id: dunlin_protocol::ServerId,
    root: Vec<u8>,
}

impl Running {
    pub(crate) fn start() -> Outcome<Self> {
        Self::start_within(Bounds::default(), tempfile::tempdir()?)
    }

    pub(crate) fn start_within(bounds: Bounds, folder: TempDir) -> Outcome<Self> {
        let running = Self::open(bounds, folder, None, None)?;
        running.write(|sql| image::put(sql, "root", 1, ROOT))?;
        Ok(running)
    }

    /// Starts a server that nobody has adopted, over a database and a bucket where they are named.
    pub(crate) fn open(
        bounds: Bounds,
        folder: TempDir,
        database_url: Option<String>,
        blob_url: Option<String>,
    ) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let settings = Settings {
            waiters: WAITERS_MAX,
            data: folder.path().join("data"),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            public_url: None,
            database_url,
            blob_url,
            retention: dunlin_fleet::retention::Retention::new(90, u64::MAX),
            webhook_targets: Targets::Private,
            metrics_access: MetricsAccess::Token,
            bounds,
        };
        let server = runtime.block_on(Server::open(settings)).map_err(Failure::of("open"))?;
        let (address, fleet) = (server.address(), std::sync::Arc::downgrade(server.fleet()));
        let (key, id) = (server.fleet().key.public(), server.fleet().server);
        let (stop, stopped) = oneshot::channel::<()>();
        let handle = runtime.handle().clone();
        let thread = std::thread::spawn(move || {
            handle.block_on(server.serve(async {
                let _ = stopped.await;
            }));
        });
        let (stop, thread, root) = (Some(stop), Some(thread), ROOT.to_vec());
        Ok(Self { address, folder, fleet, runtime, stop, thread, key, id, root })
    }

    /// Gives gateways this root from now on.
    pub(crate) fn set_root(&mut self, root: &[u8]) {
        self.root = root.to_vec();
    }

    /// Does work with the server's parts.
    pub(crate) fn with_fleet<T>(&self, work: impl AsyncFnOnce(&Fleet) -> T) -> Outcome<T> {
        let fleet = self.fleet.upgrade().ok_or_else(|| Failure::new("the server has stopped"))?;
        Ok(self.runtime.block_on(work(&fleet)))
    }

    pub(crate) fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut dyn Sql) -> Result<T, StoreError> + Send + 'static,
    ) -> Outcome<T> {
        let fleet = self.fleet.upgrade().ok_or_else(|| Failure::new("the server has stopped"))?;
        self.runtime.block_on(fleet.store.write(work)).map_err(Failure::of("write"))
    }

    pub(crate) fn on_fleet<T>(&self, work: impl AsyncFnOnce(&Fleet) -> Result<T, StoreError>) -> Outcome<T> {
        let fleet = self.fleet.upgrade().ok_or_else(|| Failure::new("the server has stopped"))?;
        self.runtime.block_on(work(&fleet)).map_err(Failure::of("work"))
    }

    pub(crate) fn device(&self, seed: u8) -> Device {
        Device::new(seed, self.address, self.key, self.id, Digest::of(&self.root))
    }

    /// Makes a token that lasts, and can be used so often.
    pub(crate) fn token(&self, uses: u64, expires_ms: u64) -> Outcome<EnrolmentToken> {
        let id = TokenId::new(now_ms(), dunlin_fleet::fleet::random().map_err(Failure::of("random"))?);
        let claim = TokenClaim {
            server_url: Url::new(format!("http://{}", self.address)).unwrap(),
            root: Digest::of(&self.root),
            root_version: 1,
            group: Some(Name::new("plant-1").unwrap()),
            expires_s: expires_ms / 1_000,
            uses,
            token: id,
        };
        let token = EnrolmentToken::new(claim, [6; 32]);
        let kept = Token {
            id: id.to_string(),
            proof_key: token.proof_key().as_bytes().to_vec(),
            labels: "{\"group\":\"plant-1\"}".to_owned(),
            expires_ms,
            uses_left: uses,
            created_ms: 1,
            created_by: "test".to_owned(),
            revoked_ms: None,
        };
        self.write(move |sql| tokens::insert(sql, &kept))?;
        Ok(token)
    }

    /// Returns a gateway that is enrolled.
    pub(crate) fn enrolled(&self, seed: u8) -> Outcome<Device> {
        let token = self.token(1, now_ms() + 1_000_000)?;
        let mut device = self.device(seed);
        device.enrol(Some(&token))?;
        Ok(device)
    }

    /// Returns what was done, line by line, to an object.
    pub(crate) fn deeds(&self, object: &str) -> Outcome<Vec<String>> {
        let lines = self.write(|sql| audit::page(sql, 0, 1_000))?;
        assert_eq!(audit::first_broken(None, &lines), None);
        Ok(lines.into_iter().map(|line| line.deed).filter(|d| d.object == object).map(|d| d.action).collect())
    }

    /// Stops the server; returns its folder.
    pub(crate) fn stop(mut self) -> TempDir {
        self.end();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Bounds that a test can reach.
pub(crate) fn narrow() -> Bounds {
    Bounds { body: Duration::from_millis(300), ..Bounds::default() }
}
