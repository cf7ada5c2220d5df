//! What all requests share: the store, the online key, the server's names.
//!
//! Never holds what another process over the same store would need.

use std::sync::Arc;
use std::time::Duration;

use dunlin_kit::clock;
use dunlin_protocol::ServerId;

use crate::api::RateLimits;
use crate::blobs::Blobs;
use crate::exchange::keys::Keys;
use crate::exchange::waiters::Waiters;
use crate::feed::Feed;
use crate::http::BodyRoom;
use crate::metrics::{Metrics, MetricsAccess};
use crate::online_key::OnlineKey;
use crate::retention::Retention;
use crate::store::Store;
use crate::webhooks::Sender;

/// The server's parts.
#[derive(Debug)]
pub struct Fleet {
    /// Everything that is kept.
    pub store: Store,
    /// Files by their SHA-256.
    pub blobs: Blobs,
    /// Signs answers.
    pub key: OnlineKey,
    /// The server's id.
    pub server: ServerId,
    /// Where gateways find it, without a slash at its end.
    pub public_url: String,
    /// What this process is called where it holds a lease; another one after a restart.
    pub holder: String,
    /// Keys of gateways that spoke lately.
    pub keys: Keys,
    /// Gateways that wait for something new.
    pub waiters: Arc<Waiters>,
    /// How long rows are kept, and how much.
    pub retention: Retention,
    /// Those who listen to events.
    pub feed: Feed,
    /// Sends events to webhooks.
    pub webhooks: Sender,
    /// What is counted.
    pub metrics: Metrics,
    /// Who may read that.
    pub metrics_access: MetricsAccess,
    /// How often each token may ask.
    pub rate_limits: RateLimits,
    /// Memory for bodies of gateways' messages.
    pub body_room: BodyRoom,
    /// Longest time for the body of a request.
    pub body_time: Duration,
}

/// Returns the time in ms since 1970.
#[must_use]
pub fn now_ms() -> u64 {
    u64::try_from(clock::wall_micros() / 1_000).unwrap_or(0)
}

/// Returns random bytes.
///
/// *Errors*: the system has none.
pub fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
