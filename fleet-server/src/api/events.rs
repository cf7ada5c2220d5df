//! Events as they happen: a stream of server-sent events that goes on where it broke off.
//!
//! Who sees some gateways only hears of those alone. The token is looked at again with each reading: one that was revoked
//! hears nothing more.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use dunlin_fleet_api::event::{Event, EventParams, StreamedEvent};
use dunlin_fleet_api::token::Scope;
use dunlin_kit::error_chain::Chain;
use dunlin_protocol::refusal::RefusalCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::Params;
use super::document::Problems;
use super::texts::time;
use super::{Caller, Declined};
use crate::feed::Listener;
use crate::fleet::{Fleet, now_ms};
use crate::http::Rejection;
use crate::store::{Sql, StoreError, api_tokens, devices, events};

/// Events that are read at once.
const TOGETHER: u32 = 100;
/// Between two signs of life: proxies close what is silent for half a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) fn routes() -> OpenApiRouter<Arc<Fleet>> {
    OpenApiRouter::new().routes(routes!(listen))
}

/// Events as they happen, as `text/event-stream`
#[utoipa::path(get, operation_id = "event.listen", path = "/v1/events", tag = "events",
    params(EventParams, ("Last-Event-ID" = Option<u64>, Header, description = "Number of the last event that is known.")),
    responses((status = 200, body = StreamedEvent, content_type = "text/event-stream"), Problems))]
async fn listen(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Params(params): Params<EventParams>,
    headers: HeaderMap,
) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Viewer, "event.listen").await?;
    let after = match headers.get("last-event-id") {
        Some(id) => Some(
            id.to_str()
                .ok()
                .and_then(|id| id.parse().ok())
                .ok_or_else(|| Declined::malformed("`Last-Event-ID` is no number of an event".to_owned()))?,
        ),
        None => params.after,
    };
    let after = match after {
        Some(after) => after,
        None => fleet.store.read(events::newest).await?,
    };
    let Some(listener) = fleet.feed.listen() else {
        return Err(Rejection::of(RefusalCode::Unavailable, "too many listen; come back later"));
    };
    let reader = Reader { fleet, caller, listener, after, found: VecDeque::new() };
    let stream = futures_util::stream::unfold(reader, Reader::next);
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

struct Reader {
    fleet: Arc<Fleet>,
    caller: Caller,
    listener: Listener,
    after: u64,
    found: VecDeque<events::Event>,
}

impl Reader {
    async fn next(mut self) -> Option<(Result<Sent, Infallible>, Self)> {
        loop {
            if let Some(event) = self.found.pop_front() {
                return Some((Ok(sent(event)), self));
            }
            if !self.listener.is_more(self.after).await {
                return None;
            }
            let (caller, after) = (self.caller.clone(), self.after);
            match self.fleet.store.read(move |sql| read(sql, &caller, after)).await {
                Ok(Some((last, found))) => (self.after, self.found) = (last, found),
                Ok(None) => return None,
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "events cannot be read");
                    return None;
                }
            }
        }
    }
}

/// Reads on: up to which event, and those that the caller may see. None where the token is no good any more.
fn read(
    sql: &mut dyn Sql,
    caller: &Caller,
    after: u64,
) -> Result<Option<(u64, VecDeque<events::Event>)>, StoreError> {
    let token = api_tokens::get(sql, &caller.id)?;
    let is_good = |token: &api_tokens::ApiToken| {
        token.revoked_ms.is_none() && token.expires_ms.is_none_or(|expires| expires > now_ms())
    };
    if !token.as_ref().is_some_and(is_good) {
        return Ok(None);
    }
    let found = events::page(sql, after, TOGETHER)?;
    let last = found.last().map_or(after, |event| event.seq);
    let mut seen = VecDeque::new();
    for event in found {
        // Releases are there for everybody who may look.
        let is_seen = caller.has_all_devices()
            || event.kind == events::RELEASE_PUBLISHED
            || devices::get(sql, &event.object)?.is_some_and(|device| caller.devices.matches(&device.labels));
        if is_seen {
            seen.push_back(event);
        }
    }
    Ok(Some((last, seen)))
}

/// Returns an event as it goes over the wire.
pub(crate) fn shown(event: events::Event) -> Event {
    Event {
        seq: event.seq,
        at: time(event.at_ms),
        kind: event.kind,
        object: event.object,
        body: serde_json::from_str(&event.body).unwrap_or_default(),
    }
}

fn sent(event: events::Event) -> Sent {
    let (id, kind) = (event.seq.to_string(), event.kind.clone());
    let data = serde_json::to_string(&shown(event)).unwrap_or_default();
    Sent::default().id(id).event(kind).data(data)
}
