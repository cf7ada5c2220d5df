//! Figures for Prometheus: requests as they are counted here, and the fleet as it stands in the database.
//!
//! Few series whatever the fleet's size: never the id of a gateway, a path, or a token.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::fleet::Fleet;
use crate::store::{Sql, StoreError, devices, events, webhooks};

type One = [(&'static str, &'static str); 1];
type Two = [(&'static str, &'static str); 2];
type Named = [(&'static str, String); 1];

/// What is counted in this process.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Family<Two, Counter>,
    attempts: Family<One, Counter>,
}

/// Who may read the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MetricsAccess {
    /// Who has a token.
    #[default]
    Token,
    /// Everybody who reaches the server.
    Open,
}

/// What the database says.
#[derive(Debug)]
pub(crate) struct Standing {
    devices: Vec<(String, u64)>,
    deliveries: Vec<(String, u64)>,
    newest_event: u64,
}

/// Reads what the figures say of the fleet.
pub(crate) fn standing(sql: &mut dyn Sql) -> Result<Standing, StoreError> {
    Ok(Standing {
        devices: devices::count_by_state(sql)?.into_iter().collect(),
        deliveries: webhooks::count_by_state(sql)?,
        newest_event: events::newest(sql)?,
    })
}

impl Metrics {
    pub(crate) fn note_attempt(&self, result: &'static str) {
        self.attempts.get_or_create(&[("result", result)]).inc();
    }

    /// Returns all figures in OpenMetrics' text.
    pub(crate) fn text(&self, standing: &Standing) -> String {
        let mut registry = Registry::default();
        registry.register(
            "dunlin_fleet_requests",
            "Requests by who asks and by status",
            self.requests.clone(),
        );
        registry.register(
            "dunlin_fleet_webhook_attempts",
            "Attempts to send an event by result",
            self.attempts.clone(),
        );
        let by_state = |counts: &[(String, u64)]| {
            let family = Family::<Named, Gauge>::default();
            for (state, count) in counts {
                let count = i64::try_from(*count).unwrap_or(i64::MAX);
                family.get_or_create(&[("state", state.clone())]).set(count);
            }
            family
        };
        registry.register("dunlin_fleet_devices", "Gateways by state", by_state(&standing.devices));
        registry.register(
            "dunlin_fleet_webhook_deliveries",
            "Events on their way to webhooks by state",
            by_state(&standing.deliveries),
        );
        let newest: Gauge = Gauge::default();
        newest.set(i64::try_from(standing.newest_event).unwrap_or(i64::MAX));
        registry.register("dunlin_fleet_newest_event", "Number of the newest event", newest);
        let mut text = String::new();
        // A String takes whatever is written to it.
        let _ = encode(&mut text, &registry);
        text
    }
}

/// Counts a request by who asks and by the class of its status.
pub(crate) async fn count(State(fleet): State<Arc<Fleet>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let surface = if path.starts_with("/device/") {
        "gateway"
    } else if path.starts_with("/v1/") {
        "people"
    } else {
        "other"
    };
    let response = next.run(request).await;
    let status = match response.status().as_u16() {
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    };
    fleet.metrics.requests.get_or_create(&[("surface", surface), ("status", status)]).inc();
    response
}
