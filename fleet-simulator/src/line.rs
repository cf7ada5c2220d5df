//! A simulated gateway's own connection: HTTP/1.1 over TCP or TLS, with each byte counted.
//!
//! One connection a gateway, kept between questions and made anew where it was lost: a crowd that shared connections would
//! look smaller to a server than it is. Follows no redirect and reads no more than it was asked for.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// Longest wait for a connection, as `dunlind` has it.
const CONNECT_MAX: Duration = Duration::from_secs(30);

/// Why there is no reply.
#[derive(Debug)]
pub enum LineError {
    /// The URL is none.
    Url(String),
    /// The authorities cannot be used.
    Authorities(String),
    /// No connection.
    Connect(io::Error),
    /// The connection broke off.
    Broken(hyper::Error),
    /// There was no reply in time.
    Timeout,
    /// The reply is longer than asked for.
    TooLong,
}

impl LineError {
    /// Returns a word for a table of errors.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Url(_) | Self::Authorities(_) => "settings",
            Self::Connect(_) => "no_connection",
            Self::Broken(_) => "connection_broken",
            Self::Timeout => "timeout",
            Self::TooLong => "too_long",
        }
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => write!(f, "`{url}` is no URL of a server"),
            Self::Authorities(why) => write!(f, "the certificates of authorities cannot be used: {why}"),
            Self::Connect(_) => f.write_str("no connection to the server"),
            Self::Broken(_) => f.write_str("the connection broke off"),
            Self::Timeout => f.write_str("the server did not answer in time"),
            Self::TooLong => f.write_str("the answer is longer than asked for"),
        }
    }
}

impl std::error::Error for LineError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) => Some(error),
            Self::Broken(error) => Some(error),
            _ => None,
        }
    }
}

/// Where the server is.
#[derive(Clone)]
pub(crate) struct Target {
    host: String,
    port: u16,
    authority: String,
    /// Of the URL, before each path.
    prefix: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.authority).finish()
    }
}

impl Target {
    /// Reads a URL.
    pub(crate) fn new(url: &str, ca_file: Option<&Path>) -> Result<Self, LineError> {
        let wrong = || LineError::Url(url.to_owned());
        let uri: hyper::Uri = url.parse().map_err(|_| wrong())?;
        let host = uri.host().ok_or_else(wrong)?.to_owned();
        let is_secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let authority = uri.authority().ok_or_else(wrong)?.to_string();
        let prefix = uri.path().trim_end_matches('/').to_owned();
        let plain = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = if is_secure {
            let name = ServerName::try_from(plain.clone()).map_err(|_| wrong())?;
            Some((TlsConnector::from(Arc::new(authorities(ca_file)?)), name))
        } else {
            None
        };
        Ok(Self { host: plain, port, authority, prefix, tls })
    }
}

fn authorities(ca_file: Option<&Path>) -> Result<ClientConfig, LineError> {
    let wrong = |why: &dyn fmt::Display| LineError::Authorities(why.to_string());
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = ca_file {
        let found = rustls::pki_types::CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))?;
        for certificate in found {
            roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|error| wrong(&error))?.with_root_certificates(roots).with_no_client_auth())
}

/// Bytes of all lines, heads and TLS with them.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) connections: AtomicU64,
}

/// A connection whose bytes are counted.
struct Counted {
    stream: TcpStream,
    meter: Arc<Meter>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.meter.received.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = &polled {
            self.meter.sent.fetch_add(*count as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A reply as it came.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Vec<u8>,
}

struct Open {
    sender: SendRequest<String>,
    driver: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A connection that breaks so soon after a question was closed before: the server never saw the question.
const STALE_MAX: Duration = Duration::from_millis(100);

/// A gateway's line.
pub(crate) struct Line {
    target: Arc<Target>,
    meter: Arc<Meter>,
    open: Option<Open>,
}

impl Line {
    pub(crate) const fn new(target: Arc<Target>, meter: Arc<Meter>) -> Self {
        Self { target, meter, open: None }
    }

    /// Loses the connection at once.
    pub(crate) fn lose(&mut self) {
        self.open = None;
    }

    /// Posts a message; reads at most `bytes_max` of the reply, and waits no longer than `patience`. A connection that the
    /// server closed in between is made anew.
    pub(crate) async fn post(
        &mut self,
        path: &str,
        media_type: &'static str,
        body: &[u8],
        (bytes_max, patience): (usize, Duration),
    ) -> Result<Reply, LineError> {
        let text = String::from_utf8_lossy(body).into_owned();
        self.ask(Method::POST, path, Some((media_type, text)), bytes_max, patience).await
    }

    /// Gets a file; none where there is none.
    pub(crate) async fn get(
        &mut self,
        path: &str,
        bytes_max: usize,
        patience: Duration,
    ) -> Result<Option<Vec<u8>>, LineError> {
        let reply = self.ask(Method::GET, path, None, bytes_max, patience).await?;
        Ok(Some(reply.body).filter(|_| reply.status == 200))
    }

    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Option<(&'static str, String)>,
        bytes_max: usize,
        patience: Duration,
    ) -> Result<Reply, LineError> {
        let asked_at = Instant::now();
        let asked = tokio::time::timeout(patience, async {
            let was_kept = self.open.as_ref().is_some_and(|open| open.sender.is_ready());
            match self.ask_once(&method, path, body.clone(), bytes_max).await {
                Err(LineError::Broken(_)) if was_kept && asked_at.elapsed() < STALE_MAX => {
                    self.open = None;
                    self.ask_once(&method, path, body, bytes_max).await
                }
                asked => asked,
            }
        });
        let asked = asked.await.unwrap_or(Err(LineError::Timeout));
        if asked.is_err() {
            self.open = None;
        }
        asked
    }

    async fn ask_once(
        &mut self,
        method: &Method,
        path: &str,
        body: Option<(&'static str, String)>,
        bytes_max: usize,
    ) -> Result<Reply, LineError> {
        if self.open.as_ref().is_none_or(|open| open.sender.is_closed()) {
            self.open = None;
            let opened = tokio::time::timeout(CONNECT_MAX, connect(&self.target, &self.meter));
            self.open = Some(opened.await.map_err(|_| LineError::Timeout)??);
        }
        let Some(open) = &mut self.open else { return Err(LineError::Timeout) };
        let request = Request::builder().method(method).uri(format!("{}{path}", self.target.prefix));
        let request = request.header(HOST, self.target.authority.as_str());
        let mut request = request.header(USER_AGENT, concat!("dunlind/", env!("CARGO_PKG_VERSION")));
        let mut text = String::new();
        if let Some((media_type, body)) = body {
            request = request.header(CONTENT_TYPE, media_type);
            text = body;
        }
        let request = request.body(text).map_err(|_| LineError::Url(path.to_owned()))?;
        open.sender.ready().await.map_err(LineError::Broken)?;
        let response = open.sender.send_request(request).await.map_err(LineError::Broken)?;
        read(response, bytes_max).await
    }
}

async fn connect(target: &Target, meter: &Arc<Meter>) -> Result<Open, LineError> {
    meter.connections.fetch_add(1, Ordering::Relaxed);
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(LineError::Connect)?;
    stream.set_nodelay(true).map_err(LineError::Connect)?;
    let stream = Counted { stream, meter: Arc::clone(meter) };
    match &target.tls {
        None => open(stream).await,
        Some((connector, name)) => {
            let stream = connector.connect(name.clone(), stream).await.map_err(LineError::Connect)?;
            open(stream).await
        }
    }
}

async fn open<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Result<Open, LineError> {
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(LineError::Broken)?;
    // What breaks it shows where a reply is waited for.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok(Open { sender, driver })
}

async fn read(response: Response<Incoming>, bytes_max: usize) -> Result<Reply, LineError> {
    let (parts, mut body) = response.into_parts();
    let retry_after = parts.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(piece) = frame.map_err(LineError::Broken)?.into_data() {
            if bytes.len() + piece.len() > bytes_max {
                return Err(LineError::TooLong);
            }
            bytes.extend_from_slice(&piece);
        }
    }
    Ok(Reply {
        status: parts.status.as_u16(),
        retry_after: retry_after.map(Duration::from_secs),
        body: bytes,
    })
}
