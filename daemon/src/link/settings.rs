//! What the link needs of the configuration.
//!
//! Made anew at each reload; the link takes it over before its next question.

use std::path::PathBuf;

use dunlin_kit::digest::Digest;

use super::remote::RemoteSettings;
use crate::config::Loaded;
use crate::config::settings::FleetSettings;

/// What the configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSettings {
    /// The server and how it is reached.
    pub fleet: FleetSettings,
    /// Name of the gateway.
    pub gateway: String,
    /// The configured models.
    pub models: Vec<String>,
    /// The configured root of trust.
    pub root: Option<PathBuf>,
    /// SHA-256 of the effective configuration.
    pub digest: Digest,
    /// Largest size of the telemetry store.
    pub quota_bytes: u64,
    /// The state folder.
    pub state_dir: PathBuf,
}

impl LinkSettings {
    /// Returns what a loaded configuration says.
    #[must_use]
    pub fn of(loaded: &Loaded) -> Self {
        let settings = &loaded.settings;
        Self {
            fleet: settings.fleet.clone(),
            gateway: settings.gateway.clone(),
            models: settings.models.iter().map(|model| model.spec.name.clone()).collect(),
            root: settings.trust_root.clone(),
            digest: Digest::of(loaded.effective.to_string().as_bytes()),
            quota_bytes: settings.storage.bytes_max,
            state_dir: settings.state_dir.clone(),
        }
    }

    /// Returns how the server is reached; `known` is where the gateway was enrolled. None where no server is known.
    #[must_use]
    pub fn remote(&self, known: Option<&str>) -> Option<RemoteSettings> {
        RemoteSettings::of(&self.fleet, known)
    }
}
