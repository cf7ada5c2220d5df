//! What a device says of itself: programs, models, what was refused, room and clock.
//!
//! Facts as the device has them; a server derives its status from them and from nothing else. Holds no figure that
//! changes by itself: it is sent in full only when its digest is not the one that the server confirmed last.

use dunlin_kit::digest::Digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::enrolment::Facts;
use crate::limits::{BAD_RELEASES_MAX, LANES_MAX, MODELS_MAX, REFUSALS_MAX};
use crate::list::{Labels, List, is_default};
use crate::open_enum::open_enum;
use crate::text::{Code, Name, Words};

/// One signed release of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Release {
    /// SHA-256 of its manifest: its identity.
    pub digest: Digest,
    /// Name of the model as signed.
    pub model: Name,
    /// Version for people.
    #[serde(default, skip_serializing_if = "is_default")]
    pub version: Name,
    /// Strictly rising number of the release.
    pub counter: u64,
}

open_enum!(
    /// How far a model or a candidate has come.
    ModelPhase {
        /// There is no release.
        Absent = "absent",
        /// Files are being fetched.
        Fetching = "fetching",
        /// All files are here.
        Verified = "verified",
        /// It has passed its tests.
        Admitted = "admitted",
        /// It runs beside the serving one.
        Shadow = "shadow",
        /// It serves and is judged.
        Trial = "trial",
        /// It is good.
        Good = "good",
    }
);

open_enum!(
    /// What a lane is for.
    LaneRole {
        /// Its predictions are published.
        Serving = "serving",
        /// Its predictions are compared.
        Shadow = "shadow",
        /// Its windows are filled.
        Standby = "standby",
    }
);

/// A lane of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Lane {
    /// What it is for.
    pub role: LaneRole,
    /// What runs in it.
    pub release: Release,
}

/// A release that is being tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Candidate {
    /// Which.
    pub release: Release,
    /// How far it has come.
    pub phase: ModelPhase,
    /// Starts of its worker in this phase.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tries_used: u32,
    /// Starts that are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tries_left: Option<u32>,
}

/// A release that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BadRelease {
    /// Which.
    pub release: Release,
    /// Code of the reason, as in `selftest:golden` and `rolled_back:crash`.
    pub code: Code,
    /// What exactly was seen.
    #[serde(default, skip_serializing_if = "is_default")]
    pub detail: Words,
    /// When, in milliseconds since 1970 by the device's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<i64>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelReport {
    /// Its name in the device's configuration: its slot.
    pub model: Name,
    /// How far it has come.
    pub phase: ModelPhase,
    /// When a release last moved, in milliseconds since 1970 by the device's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<i64>,
    /// The release that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<Release>,
    /// The last good one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<Release>,
    /// The good one before: what a withdrawal goes back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Release>,
    /// The one that is being tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Candidate>,
    /// The lowest release counter that is taken is one above.
    #[serde(default, skip_serializing_if = "is_default")]
    pub floor: u64,
    /// What runs; what it did stands in [`crate::health::Health`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub lanes: List<Lane, LANES_MAX>,
    /// Releases that failed, oldest first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bad: List<BadRelease, BAD_RELEASES_MAX>,
    /// What came of the last intent or candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Words>,
}

/// Something that an update refused; gone once the same check passes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    /// `metadata`, `director`, `settings`, or `model/` with a model's name.
    pub check: Name,
    /// Code of the failure, as in `freeze_suspected`.
    pub code: Code,
    /// File, role or model that it is about.
    #[serde(default, skip_serializing_if = "is_default")]
    pub object: Words,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reason: Words,
    /// When, in milliseconds since 1970 by the device's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<i64>,
}

open_enum!(
    /// What became of settings that the server sent.
    SettingsState {
        /// The device runs on its own configuration alone.
        Local = "local",
        /// They are in use and not yet confirmed.
        Trial = "trial",
        /// They are in use for good.
        Confirmed = "confirmed",
        /// They did not prove themselves; those before are in use.
        Reverted = "reverted",
        /// They were refused before use.
        Refused = "refused",
    }
);

/// The settings in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SettingsReport {
    /// SHA-256 of the effective configuration.
    pub digest: Digest,
    /// Revision of the last settings that the server sent; 0 where there were none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub revision: u64,
    /// What became of them.
    pub state: SettingsState,
    /// Why, where they are not in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Words>,
}

/// Bytes that a device may send and receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Budget {
    /// Bytes a month; none where there is no cap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monthly_bytes: Option<u64>,
    /// Day of the month on which it begins anew, from 1.
    #[serde(skip_serializing_if = "is_default")]
    pub first_day: u32,
    /// Step of degradation: 0 where nothing is held back.
    #[serde(skip_serializing_if = "is_default")]
    pub step: u32,
    /// Shortest time between two questions that it grants, in seconds, rounded up.
    #[serde(skip_serializing_if = "is_default")]
    pub interval_s: u32,
}

/// Room on the device's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Disk {
    /// Size of the file system with the state folder.
    #[serde(skip_serializing_if = "is_default")]
    pub total_bytes: u64,
    /// Quota of the telemetry store.
    #[serde(skip_serializing_if = "is_default")]
    pub quota_bytes: u64,
}

open_enum!(
    /// What is known of a device's clock.
    ClockState {
        /// The system says that it is synchronised.
        Synchronised = "synchronised",
        /// It runs and nobody has set it in this boot.
        Free = "free",
        /// It is before the program was built.
        Unset = "unset",
    }
);

/// Everything about a device that changes seldom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceReport {
    /// What it is.
    pub facts: Facts,
    /// Labels that its configuration claims.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// Its time zone, as in `Europe/Vienna`: maintenance windows are in it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub time_zone: Name,
    /// Its settings.
    pub settings: SettingsReport,
    /// Its models.
    #[serde(default, skip_serializing_if = "is_default")]
    pub models: List<ModelReport, MODELS_MAX>,
    /// Whether safe mode keeps candidates from running.
    #[serde(default, skip_serializing_if = "is_default")]
    pub safe_mode: bool,
    /// Why `state.db` is lost, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_lost: Option<Words>,
    /// What updates refused.
    #[serde(default, skip_serializing_if = "is_default")]
    pub refused: List<Refused, REFUSALS_MAX>,
    /// Its data budget.
    #[serde(default, skip_serializing_if = "is_default")]
    pub budget: Budget,
    /// Its disk.
    #[serde(default, skip_serializing_if = "is_default")]
    pub disk: Disk,
    /// Its clock.
    pub clock: ClockState,
}

impl DeviceReport {
    /// Returns the digest that stands for this report in exchanges. A server keeps what it was told and never computes
    /// one: how a device makes it is the device's affair.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).expect("a report is texts and numbers"))
    }
}
