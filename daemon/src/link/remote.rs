//! The way to the server: one HTTP client with the configured authorities and proxy, and limits on all that comes.
//!
//! Follows no redirect, sends no cookie, believes nothing. Blocks the thread that calls it: the link and the importer have
//! threads of their own.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dunlin_kit::error_chain::Chain;
use dunlin_protocol::routes::{ENVELOPE_MEDIA_TYPE, director_root_path};
use reqwest::header::{CONTENT_TYPE, DATE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Proxy, RequestBuilder, Response};
use rustls::RootCertStore;
use tokio::runtime::Runtime;
use tower::util::MapRequestLayer;

use super::heard::Reply;
use super::meter::{Meter, OVERHEAD_BYTES, Traffic};
use crate::config::settings::{FleetSettings, TlsSettings};
use crate::mqtt::tls::{self, TlsError};

/// Longest wait for a connection: satellite links take seconds for each round trip.
const CONNECT_MAX: Duration = Duration::from_secs(30);
/// Longest rest of a connection that is used again: servers close theirs after 15 s.
const REST_MAX: Duration = Duration::from_secs(10);
/// Longest silence while something is being received.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);
/// What a message may take beside its waiting: its bytes at the slowest speed that a download may have are added.
const MESSAGE_MAX: Duration = Duration::from_secs(60);
/// Slowest sending that is waited for. *Source*: `dunlin_trust::transfer`.
const BYTES_PER_S_MIN: u64 = dunlin_trust::transfer::SPEED_BYTES_PER_S_MIN;

/// How the server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSettings {
    /// The server, without a slash at its end.
    pub server: String,
    /// Places to fetch packages from before it.
    pub mirrors: Vec<String>,
    /// The authorities to trust.
    pub ca_file: Option<PathBuf>,
    /// The proxy.
    pub proxy: Option<String>,
}

impl RemoteSettings {
    /// Returns what the configuration says; `known` is where the gateway was enrolled. None where no server is known.
    #[must_use]
    pub fn of(fleet: &FleetSettings, known: Option<&str>) -> Option<Self> {
        let server = fleet.url.as_deref().or(known)?.trim_end_matches('/').to_owned();
        let FleetSettings { mirrors, ca_file, proxy, .. } = fleet.clone();
        Some(Self { server, mirrors, ca_file, proxy })
    }
}

/// Why nothing came.
#[derive(Debug)]
pub enum RemoteError {
    /// The authorities cannot be used.
    Tls(TlsError),
    /// No client can be made.
    Client(reqwest::Error),
    /// The system gives no runtime.
    Runtime(std::io::Error),
    /// The server was not reached, or the connection broke.
    Request(reqwest::Error),
    /// It took too long.
    TooSlow(String),
    /// More came than was asked for.
    TooLong(String),
    /// Something else than a file of the server came.
    Foreign(String),
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(error) => error.fmt(f),
            Self::Client(_) => f.write_str("no HTTP client can be made of `[fleet]`"),
            Self::Runtime(_) => f.write_str("the system gives no runtime"),
            Self::Request(_) => f.write_str("the fleet server was not reached"),
            Self::TooSlow(what) => write!(f, "`{what}` took too long"),
            Self::TooLong(what) => write!(f, "`{what}` is longer than anything that may be there"),
            Self::Foreign(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for RemoteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Tls(error) => error.source(),
            Self::Client(error) | Self::Request(error) => Some(error),
            Self::Runtime(error) => Some(error),
            Self::TooSlow(_) | Self::TooLong(_) | Self::Foreign(_) => None,
        }
    }
}

/// What the server says of itself to anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerSeen {
    /// Whether an owner has adopted it.
    pub is_adopted: bool,
    /// Its clock, in seconds since 1970; nobody signed it.
    pub unix_s: Option<i64>,
}

/// The client.
#[derive(Debug, Clone)]
pub struct Remote {
    client: Client,
    runtime: Arc<Runtime>,
    settings: RemoteSettings,
    meter: Arc<Meter>,
}

impl Remote {
    /// Makes the client; connects to nothing yet.
    ///
    /// *Errors*: the authorities or the proxy cannot be used.
    pub fn open(settings: &RemoteSettings, meter: Arc<Meter>) -> Result<Self, RemoteError> {
        let tls = TlsSettings { ca_file: settings.ca_file.clone(), ..TlsSettings::default() };
        let tls = match tls::client_config(&tls) {
            Ok(config) => Arc::unwrap_or_clone(config),
            // Without TLS no authority is needed; with it each connection is refused.
            Err(TlsError::NoSystemRoots) if settings.server.starts_with("http://") => {
                tls::client_config_of(RootCertStore::empty()).map_err(RemoteError::Tls)?
            }
            Err(error) => return Err(RemoteError::Tls(error)),
        };
        let (counted, is_tls) = (Arc::clone(&meter), settings.server.starts_with("https://"));
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(Policy::none())
            .connect_timeout(CONNECT_MAX)
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(REST_MAX)
            .connector_layer(MapRequestLayer::new(move |destination| {
                counted.connected(is_tls);
                destination
            }))
            .user_agent(concat!("dunlind/", env!("CARGO_PKG_VERSION")));
        if let Some(proxy) = &settings.proxy {
            builder = builder.proxy(Proxy::all(proxy.as_str()).map_err(RemoteError::Client)?);
        }
        let client = builder.build().map_err(RemoteError::Client)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = Arc::new(runtime.map_err(RemoteError::Runtime)?);
        Ok(Self { client, runtime, settings: settings.clone(), meter })
    }

    /// Returns how the server is reached.
    #[must_use]
    pub const fn settings(&self) -> &RemoteSettings {
        &self.settings
    }

    /// Returns what drives the client on the calling thread.
    #[must_use]
    pub fn runtime(&self) -> Arc<Runtime> {
        Arc::clone(&self.runtime)
    }

    /// Returns the counters of traffic.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Posts an envelope to the server, which may keep it for `wait`; reads at most `bytes_max` of the reply. Cancel-safe:
    /// a question that is dropped may have been taken all the same.
    ///
    /// *Errors*: the server was not reached, took too long, or said too much.
    pub async fn post(
        &self,
        path: &str,
        envelope: Vec<u8>,
        wait: Duration,
        bytes_max: usize,
    ) -> Result<Reply, RemoteError> {
        let sent = envelope.len() as u64;
        self.meter.sent(Traffic::Exchange, sent + OVERHEAD_BYTES);
        let patience = MESSAGE_MAX + wait + Duration::from_secs(sent / BYTES_PER_S_MIN);
        let request = self
            .client
            .post(format!("{}{path}", self.settings.server))
            .header(CONTENT_TYPE, ENVELOPE_MEDIA_TYPE)
            .timeout(patience)
            .body(envelope);
        let mut response = request.send().await.map_err(RemoteError::Request)?;
        let header = |name| {
            let value = response.headers().get(name).and_then(|value| value.to_str().ok());
            value.map(str::to_owned)
        };
        let (media_type, retry_after) = (header(CONTENT_TYPE), header(RETRY_AFTER));
        let body = read_body(&mut response, bytes_max, path).await?;
        self.meter.received(Traffic::Exchange, body.len() as u64 + OVERHEAD_BYTES);
        let status = response.status().as_u16();
        Ok(Reply { status, media_type: media_type.unwrap_or_default(), retry_after, body })
    }

    /// Gets a small file from the server; nothing where it has none. Blocks.
    ///
    /// *Errors*: the server was not reached, took too long, or something else than a file came.
    pub fn get(&self, path: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        self.runtime.block_on(async {
            let request = self.request(Method::GET, &self.settings.server, path);
            let Some(mut response) = answered(request.timeout(MESSAGE_MAX), path).await? else {
                return Ok(None);
            };
            let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
            let body = read_body(&mut response, bytes_max, path).await?;
            self.meter.received(Traffic::Metadata, body.len() as u64 + OVERHEAD_BYTES);
            Ok(Some(body))
        })
    }

    /// Asks the server for a file that it has for anybody, and returns what that tells. Blocks.
    ///
    /// *Errors*: the server was not reached, took too long, or something else answers.
    pub fn see(&self) -> Result<ServerSeen, RemoteError> {
        let path = director_root_path(1);
        self.runtime.block_on(async {
            let url = format!("{}{path}", self.settings.server);
            let request = self.client.get(url).timeout(CONNECT_MAX);
            let response = request.send().await.map_err(RemoteError::Request)?;
            let date = response.headers().get(DATE).and_then(|value| value.to_str().ok());
            let time =
                date.and_then(|date| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok());
            let is_adopted = taken(response, &path)?.is_some();
            Ok(ServerSeen { is_adopted, unix_s: time.map(jiff::Timestamp::as_second) })
        })
    }

    /// Begins a request for a file at a place. GETs carry no identity.
    pub fn request(&self, method: Method, base: &str, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{base}{path}"))
    }
}

/// Sends a request for a file; nothing where there is none.
///
/// *Errors*: the place was not reached, or answered with something else than a file.
pub async fn answered(request: RequestBuilder, path: &str) -> Result<Option<Response>, RemoteError> {
    taken(request.send().await.map_err(RemoteError::Request)?, path)
}

fn taken(response: Response, path: &str) -> Result<Option<Response>, RemoteError> {
    let status = response.status().as_u16();
    let media_type =
        response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_page = media_type.trim_start().to_ascii_lowercase().starts_with("text/html");
    match status {
        _ if is_page => Err(RemoteError::Foreign(format!(
            "a web page came in the place of `{path}`: a portal or a proxy stands in between"
        ))),
        200 | 206 => Ok(Some(response)),
        404 => Ok(None),
        _ => Err(RemoteError::Foreign(format!("`{path}` was answered with HTTP status {status}"))),
    }
}

async fn read_body(response: &mut Response, bytes_max: usize, what: &str) -> Result<Vec<u8>, RemoteError> {
    let mut body = Vec::new();
    loop {
        let part = tokio::time::timeout(SILENCE_MAX, response.chunk()).await;
        let part = part.map_err(|_| RemoteError::TooSlow(what.to_owned()))?.map_err(RemoteError::Request)?;
        let Some(part) = part else { return Ok(body) };
        if body.len() + part.len() > bytes_max {
            return Err(RemoteError::TooLong(what.to_owned()));
        }
        body.extend_from_slice(&part);
    }
}

/// Returns why a request failed, with its causes, without the URL: it is said elsewhere.
#[must_use]
pub fn words_of(error: &RemoteError) -> String {
    Chain(error).to_string()
}
