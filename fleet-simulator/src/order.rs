//! What a statement of the director orders: read with or without its checks.
//!
//! The checks are [`crate::gateway_trust`]'s. Without them a statement is JSON and believed, for crowds whose checks
//! somebody else makes.

use std::collections::BTreeMap;

use dunlin_protocol::exchange::Desired;
use dunlin_protocol::report::Release;
use dunlin_protocol::{Digest, Name};
use serde_json::Value;

use crate::gateway_trust::Told;

/// Something to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The slot to fill.
    pub slot: String,
    /// What to run there.
    pub release: Release,
    /// The rollout that chose it.
    pub rollout: String,
}

/// What a statement orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The revision that is said back.
    pub revision: u64,
    /// Version of the statement.
    pub version: u64,
    /// What to run.
    pub chosen: Vec<Chosen>,
    /// Releases to leave.
    pub withdrawn: Vec<Digest>,
    /// Whether settings are named.
    pub has_settings: bool,
}

/// A statement that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoStatement;

impl std::fmt::Display for NoStatement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the director's targets are no statement")
    }
}

impl std::error::Error for NoStatement {}

impl Order {
    /// Reads a statement without a check. Releases that are not in `known` are named as far as the statement does.
    ///
    /// *Errors*: it is no statement.
    pub fn unverified(desired: &Desired, known: &BTreeMap<Digest, Release>) -> Result<Self, NoStatement> {
        let statement: Value =
            serde_json::from_slice(desired.director.targets.as_bytes()).map_err(|_| NoStatement)?;
        let signed = &statement["signed"];
        let targets = signed["targets"].as_object().ok_or(NoStatement)?;
        let mut chosen = Vec::new();
        for (_, target) in targets.iter().filter(|(path, _)| !path.starts_with("settings/")) {
            let text = |name: &str| target["custom"][name].as_str().unwrap_or_default().to_owned();
            let digest = target["hashes"]["sha256"].as_str().and_then(|digest| digest.parse().ok());
            let (slot, digest): (_, Digest) = (text("slot"), digest.ok_or(NoStatement)?);
            let unknown = || Release {
                digest,
                model: Name::cut(&slot),
                version: Name::default(),
                counter: u64::from(u32::MAX),
            };
            let release = known.get(&digest).cloned().unwrap_or_else(unknown);
            chosen.push(Chosen { slot, release, rollout: text("rollout") });
        }
        let withdrawn = signed["custom"]["withdrawn"].as_array().into_iter().flatten();
        let withdrawn = withdrawn.filter_map(|note| note["digest"].as_str()?.parse().ok()).collect();
        let version = signed["version"].as_u64().ok_or(NoStatement)?;
        let has_settings = targets.keys().any(|path| path.starts_with("settings/"));
        Ok(Self { revision: desired.revision, version, chosen, withdrawn, has_settings })
    }

    /// Returns what a statement orders whose checks were made.
    #[must_use]
    pub fn believed(told: &Told, revision: u64, version: u64) -> Self {
        let chosen = told.assignments.iter().filter_map(|assignment| {
            let digest = assignment.target.description.hashes.get("sha256")?.parse().ok()?;
            let note = &assignment.release;
            let release = Release {
                digest,
                model: Name::cut(&note.model),
                version: Name::cut(&note.version),
                counter: note.release_counter,
            };
            Some(Chosen {
                slot: assignment.note.slot.clone(),
                release,
                rollout: assignment.note.rollout.clone(),
            })
        });
        Self {
            revision,
            version,
            chosen: chosen.collect(),
            withdrawn: told.withdrawn.iter().map(|note| note.digest).collect(),
            has_settings: !told.settings.is_empty(),
        }
    }
}
