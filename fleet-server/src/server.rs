//! The server from its folder to its last answer.
//!
//! Opens what it needs, serves, and ends in order. Never decides about gateways.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dunlin_protocol::{Incarnation, ServerId};
use tokio::net::{TcpListener, TcpSocket};

use crate::api::{self, RateLimits};
use crate::background::Background;
use crate::blobs::{BlobError, Blobs};
use crate::exchange::keys::Keys;
use crate::exchange::waiters::Waiters;
use crate::feed::Feed;
use crate::fleet::{Fleet, now_ms, random};
use crate::http::{self, BodyRoom, Bounds};
use crate::metrics::{Metrics, MetricsAccess};
use crate::online_key::OnlineKey;
use crate::retention::Retention;
use crate::service_manager;
use crate::store::{Store, StoreError, fleet};
use crate::webhooks::{Sender, SenderError, Targets};

/// Entered by its owner alone.
const FOLDER_MODE: u32 = 0o700;

/// How the server is started.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder with the database, the keys and the blobs.
    pub data: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where gateways find it; the address where it listens if it is not said.
    pub public_url: Option<String>,
    /// A PostgreSQL database in place of the one in the folder.
    pub database_url: Option<String>,
    /// A bucket in place of the folder of blobs, as in `s3://bucket/folder`.
    pub blob_url: Option<String>,
    /// How long rows of gateways are kept, and how much.
    pub retention: Retention,
    /// Where webhooks may be.
    pub webhook_targets: Targets,
    /// Who may read the figures.
    pub metrics_access: MetricsAccess,
    /// Questions of gateways that are kept open at most.
    pub waiters: usize,
    /// How much is allowed.
    pub bounds: Bounds,
}

/// Why the server does not start.
#[derive(Debug)]
pub enum ServeError {
    /// A file or folder cannot be used.
    File(PathBuf, io::Error),
    /// The folder or bucket of blobs cannot be used.
    Blobs(BlobError),
    /// The store cannot be used.
    Store(StoreError),
    /// The address cannot be listened at.
    Listen(SocketAddr, io::Error),
    /// No HTTP client for webhooks can be made.
    Webhooks(SenderError),
    /// The system gives no randomness.
    Random(getrandom::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, _) => write!(f, "cannot use `{}`", path.display()),
            Self::Blobs(_) => f.write_str("cannot open the blobs"),
            Self::Store(_) => f.write_str("cannot open the database"),
            Self::Listen(address, _) => write!(f, "cannot listen at `{address}`"),
            Self::Webhooks(_) => f.write_str("cannot send to webhooks"),
            Self::Random(_) => f.write_str("the system gives no randomness"),
        }
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(_, error) | Self::Listen(_, error) => Some(error),
            Self::Blobs(error) => Some(error),
            Self::Store(error) => Some(error),
            Self::Webhooks(error) => Some(error),
            Self::Random(error) => Some(error),
        }
    }
}

/// A server that is ready to serve.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    bounds: Bounds,
    fleet: Arc<Fleet>,
}

impl Server {
    /// Opens the folder, and makes what is missing there.
    ///
    /// *Errors*: see [`ServeError`].
    pub async fn open(settings: Settings) -> Result<Self, ServeError> {
        let keys = settings.data.join("keys");
        let blob_folder = settings.data.join("blobs");
        for folder in [&settings.data, &keys, &blob_folder] {
            make_private(folder).map_err(|error| ServeError::File(folder.clone(), error))?;
        }
        let file = keys.join("online.pem");
        let key = OnlineKey::open(&file).map_err(|error| ServeError::File(file, error))?;
        let store = open_store(&settings).map_err(ServeError::Store)?;
        let blobs = match &settings.blob_url {
            Some(url) => Blobs::open_url(url),
            None => Blobs::open_folder(&blob_folder),
        };
        let blobs = blobs.map_err(ServeError::Blobs)?;
        let holder = Incarnation::from_bytes(random().map_err(ServeError::Random)?).to_string();
        let now = now_ms();
        let made = ServerId::new(now, random().map_err(ServeError::Random)?).to_string();
        let id = store.write(move |sql| fleet::server_id(sql, &made, now)).await;
        let server = id.map_err(ServeError::Store)?.parse();
        let server =
            server.map_err(|_| ServeError::Store(StoreError::Damaged("the server's id".to_owned())))?;
        let listen = |error| ServeError::Listen(settings.listen, error);
        let listener = listener_at(settings.listen).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let public_url = settings.public_url.unwrap_or_else(|| format!("http://{address}"));
        let public_url = public_url.trim_end_matches('/').to_owned();
        let token = keys.join("admin.token");
        if api::first_token(&store, &token).await.map_err(|error| ServeError::File(token.clone(), error))? {
            tracing::info!(file = %token.display(), "the first token, an administrator's, is in this file");
        }
        let webhooks = Sender::new(settings.webhook_targets).map_err(ServeError::Webhooks)?;
        let fleet = Fleet {
            webhooks,
            store,
            blobs,
            key,
            server,
            public_url,
            holder,
            keys: Keys::default(),
            waiters: Arc::new(Waiters::new(settings.waiters)),
            body_room: BodyRoom::default(),
            retention: settings.retention,
            feed: Feed::default(),
            metrics: Metrics::default(),
            metrics_access: settings.metrics_access,
            rate_limits: RateLimits::default(),
            body_time: settings.bounds.body,
        };
        Ok(Self { listener, address, bounds: settings.bounds, fleet: Arc::new(fleet) })
    }

    /// Returns the address with its port.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns what requests share.
    #[must_use]
    pub const fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// Serves until `stop` is over, then lets requests under way end.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let Self { listener, address, bounds, fleet } = self;
        tracing::info!(%address, server = %fleet.server, key = %fleet.key.public(), "serving");
        let router = http::router(Arc::clone(&fleet));
        let background = Background::start(&fleet);
        service_manager::ready();
        let stopping = || {
            service_manager::stopping();
            fleet.waiters.wake_all();
            fleet.feed.close();
        };
        tokio::select! {
            () = http::serve(listener, router, bounds, stop, stopping) => {}
            () = service_manager::feed_watchdog(&fleet.store) => {}
        }
        background.end().await;
        if let Some(fleet) = Arc::into_inner(fleet) {
            fleet.store.close();
        }
        tracing::info!("stopped");
    }
}

/// Connections that have come and are not accepted yet: gateways that all come back at once find room, and need not try
/// again a second later. Linux's own limit is the same.
const BACKLOG: u32 = 4_096;

fn listener_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // After a restart the port is taken at once, though connections of the old process are not forgotten yet.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Opens the store on a thread of its own: the client of PostgreSQL brings its own runtime, which cannot be begun within
/// another.
fn open_store(settings: &Settings) -> Result<Store, StoreError> {
    let open = || match &settings.database_url {
        Some(url) => Store::open_postgres(url),
        None => Store::open_sqlite(&settings.data.join("fleet.db")),
    };
    std::thread::scope(|scope| scope.spawn(open).join().unwrap_or(Err(StoreError::Panicked)))
}

fn make_private(folder: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(FOLDER_MODE))
}
