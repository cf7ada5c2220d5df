//! Connections: a bounded number, each with a bounded time for the head of a request, and an end in good order.
//!
//! Never reads what requests say.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Wait after a connection could not be accepted: the process has no file left, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Longest time for the head of a request, and between two of one connection: it takes 10 to 25 KiB of memory. Between two
/// questions that wait a gateway rests for 4 s at most; who asks each minute connects anew, as it is told with the answer.
pub(super) const REST_MAX: Duration = Duration::from_secs(15);

/// How much is allowed.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at the same time; more wait to be accepted.
    pub connections: usize,
    /// Longest time for the head of a request, and between two of one connection.
    pub head: Duration,
    /// Longest time for the body of a request.
    pub body: Duration,
    /// Longest time that requests under way have when the server stops.
    pub stop: Duration,
}

impl Default for Bounds {
    /// A body of a megabyte over a weak mobile link takes 20 s.
    fn default() -> Self {
        Self {
            connections: 10_000,
            head: REST_MAX,
            body: Duration::from_secs(30),
            stop: Duration::from_secs(10),
        }
    }
}

/// Serves connections until `stop` is over; `stopping` is called then, before requests under way are waited for.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    stop: impl Future<Output = ()>,
    stopping: impl FnOnce(),
) {
    let places = Arc::new(Semaphore::new(bounds.connections));
    let (stopped, watched) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut stop => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let work = connection(stream, router.clone(), bounds, watched.clone());
                connections.spawn(async move {
                    work.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no connection is accepted at the moment");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    stopping();
    stopped.send_replace(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(bounds.stop, ended).await.is_err() {
        tracing::warn!(connections = connections.len(), "requests under way are broken off");
    }
}

async fn connection(stream: TcpStream, router: Router, bounds: Bounds, mut stopped: watch::Receiver<bool>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = over(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection broke off");
    }
}

async fn over(stopped: &mut watch::Receiver<bool>) {
    // Where the sender is gone the server has stopped as well.
    drop(stopped.wait_for(|stopped| *stopped).await);
}
