//! The server itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The server, and what it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerStatus {
    /// Its id.
    pub server: String,
    /// Version of the program.
    pub version: String,
    /// Its online key, ed25519, in hexadecimal: the owner's roots name it.
    pub public_key: String,
    /// Where gateways find it.
    pub public_url: String,
    /// The owner's image repository.
    pub image: ImageStatus,
    /// Version of the director's newest root; 0 where there is none.
    pub director_root_version: u64,
    /// Gateways by state.
    pub devices: BTreeMap<String, u64>,
}

/// The image repository.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct ImageStatus {
    /// Version of the newest root; 0 where there is none.
    pub root_version: u64,
    /// Whether an owner's root names this server's key: without that it cannot serve a gateway.
    pub is_adopted: bool,
    /// When the timestamp expires.
    pub timestamp_expires: Option<String>,
}
