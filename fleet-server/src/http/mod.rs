//! HTTP: routes, how a body is read, and what a refusal looks like.
//!
//! Bounds everything before it is looked at: bytes before and after decompression, time, connections. Decides nothing
//! about gateways.

mod body;
mod connections;
mod files;
mod rejection;
mod routes;

pub use body::BodyRoom;
pub(crate) use body::{read_body, zstd_frame};
pub use connections::{Bounds, serve};
pub(crate) use files::image_response;
pub use rejection::Rejection;
pub use routes::router;
