//! `/metrics` and `/healthz` over HTTP on a loopback address.
//!
//! Read-only, one request a connection, with limits on connections and time; every other path is 404. Never listens on
//! an address that other machines reach. Reads the status board like the status socket does.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use dunlin_kit::clock;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::status::{StatusBoard, StatusReport, exposition};

/// Connections served at once; further ones wait in the kernel's backlog. At most a few kB each.
pub const CONNECTIONS_MAX: usize = 16;
/// How long a connection may live: each carries one request, answered from memory.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);
/// How long accepting pauses after an error, such as no free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why metrics cannot be served.
#[derive(Debug)]
pub enum HttpError {
    /// The address can be reached from other machines.
    NotLoopback(SocketAddr),
    /// The system refuses.
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLoopback(address) => write!(
                f,
                "metrics are served without a password: `{address}` must be a loopback address, as `127.0.0.1:9464`"
            ),
            Self::Bind { address, .. } => write!(f, "cannot serve metrics on `{address}`"),
        }
    }
}

impl std::error::Error for HttpError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind { source, .. } => Some(source),
            Self::NotLoopback(_) => None,
        }
    }
}

/// Answer of `/healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Whether everything works.
    pub healthy: bool,
    /// What does not.
    pub reasons: Vec<String>,
}

impl Health {
    /// Judges a report: the store can be written, every slot is ready, every broker is connected.
    #[must_use]
    pub fn of(report: &StatusReport) -> Self {
        let mut reasons = Vec::new();
        if report.store.state != "ok" {
            let state = if report.store.state.is_empty() { "not open yet" } else { &report.store.state };
            reasons.push(format!("store: {state}"));
        }
        for (model, slot) in &report.slots {
            if slot.state != "ready" {
                reasons.push(format!("model `{model}`: {}", slot.state));
            }
        }
        for (name, broker) in &report.brokers {
            if !broker.connected {
                reasons.push(format!("broker `{name}`: not connected"));
            }
        }
        Self { healthy: reasons.is_empty(), reasons }
    }
}

/// The open HTTP listener.
#[derive(Debug)]
pub struct StatusHttp {
    listener: TcpListener,
    address: SocketAddr,
}

impl StatusHttp {
    /// Opens the listener; port 0 takes a free one, which is logged.
    ///
    /// *Errors*: the address is not loopback or is taken; the caller stops.
    pub async fn bind(address: SocketAddr) -> Result<Self, HttpError> {
        if !address.ip().is_loopback() {
            return Err(HttpError::NotLoopback(address));
        }
        let refuse = |source| HttpError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(refuse)?;
        let address = listener.local_addr().map_err(refuse)?;
        tracing::info!(%address, "serving /metrics and /healthz");
        Ok(Self { listener, address })
    }

    /// Returns the address with its port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until it is dropped. A task of its own.
    ///
    /// *Errors*: none in practice; those of the HTTP server.
    pub async fn serve(self, board: Arc<StatusBoard>) -> io::Result<()> {
        self.serve_within(board, CONNECTION_TIME_MAX).await
    }

    async fn serve_within(self, board: Arc<StatusBoard>, time_max: Duration) -> io::Result<()> {
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .layer(middleware::map_response(one_request_a_connection))
            .with_state(board);
        let listener = BoundedListener {
            listener: self.listener,
            permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            time_max,
        };
        axum::serve(listener, router).await
    }
}

async fn metrics(State(board): State<Arc<StatusBoard>>) -> Response {
    let report = board.report(clock::monotonic_micros());
    match exposition::render(report, board.metrics().latency_totals()) {
        Ok(text) => ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn healthz(State(board): State<Arc<StatusBoard>>) -> Response {
    let health = Health::of(&board.report(clock::monotonic_micros()));
    let status = if health.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match serde_json::to_string(&health) {
        Ok(json) => (status, [(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn one_request_a_connection(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Accepts at most [`CONNECTIONS_MAX`] connections, each for a bounded time.
struct BoundedListener {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    time_max: Duration,
}

impl axum::serve::Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let deadline = Box::pin(tokio::time::sleep(self.time_max));
                    return (BoundedStream { stream, deadline, _permit: permit }, address);
                }
                Err(error) => {
                    tracing::warn!(%error, "the metrics listener accepts no connection at the moment");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that fails once its time is over.
struct BoundedStream {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl BoundedStream {
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_deadline(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_deadline(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_deadline(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "http/tests.rs"]
mod tests;
