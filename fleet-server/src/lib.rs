//! The fleet server: enrols gateways, rolls releases out to them, and keeps what they report.
//!
//! A process holds no state that another could need: everything is in the store and among the blobs. It cannot approve a
//! model; it chooses among what the owner signed. `dunlin-fleet` starts it.

pub mod api;
pub mod background;
pub mod backup;
pub mod blobs;
pub mod director;
pub mod enrolment;
pub mod exchange;
pub mod feed;
pub mod fleet;
pub mod http;
pub mod image;
pub mod metrics;
pub mod online_key;
pub mod open_files;
pub mod retention;
pub mod rollout;
pub mod rollouts;
pub mod server;
pub mod service_manager;
pub mod store;
pub mod uploaded;
mod waking;
pub mod webhooks;
