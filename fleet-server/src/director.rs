//! The director: what a gateway is to run, as a statement that answers its own question and no other.
//!
//! What is said is read in the transaction that takes the question, and signed outside it. Chooses among what the owner
//! approved and can approve nothing: the gateway compares each target with the image repository. *Source*: Uptane 2.1,
//! section 5.3.

use std::collections::BTreeMap;

use dunlin_kit::digest::Digest;
use dunlin_protocol::exchange::{Desired, DirectorFiles, Held, SettingsOffer};
use dunlin_protocol::limits::ROOTS_MAX;
use dunlin_protocol::text::{MetadataText, TargetPath, TextError};
use dunlin_protocol::{List, Nonce};
use dunlin_trust::director::{AssignmentNote, Requirements, StatementNote, WithdrawalNote};
use dunlin_trust::metadata::{
    FileVersion, Role, SPEC_VERSION, Snapshot, TargetDescription, Targets, Timestamp,
};
use dunlin_trust::sign::{SigningKey, sign};
use dunlin_trust::time::UnixTime;

use crate::store::desired::{self, Assigned, Wanted};
use crate::store::{Sql, StoreError, director};

/// How long a statement lasts. *Source*: docs/protocol.md.
pub const LASTS_S: u64 = 7 * 24 * 3_600;
/// After how long it is made anew: half of that, so that a gateway which comes seldom never runs on an old one.
const RENEWED_AFTER_MS: u64 = LASTS_S * 1_000 / 2;
/// Bytes of roots in one answer, which has 2 MiB: what is beyond comes with the next one. A root has 512 KiB at most.
const ROOTS_BYTES_MAX: usize = 1 << 20;
/// Largest number of a version: what a JSON number and a column hold exactly.
const VERSION_MAX: u64 = dunlin_protocol::limits::INTEGER_MAX;

/// What the server knows of the statements for a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing<'d> {
    /// The gateway's id.
    pub device: &'d str,
    /// Revision of what it is to run.
    pub revision: u64,
    /// Version of the last statement.
    pub version: u64,
    /// When that was made, in ms.
    pub made_ms: u64,
}

impl Standing<'_> {
    /// Tells whether a gateway that holds this needs a statement.
    fn is_due(&self, held: &Held, now_ms: u64) -> bool {
        if held.desired_revision != self.revision {
            return true;
        }
        // One that was never told anything has nothing that could grow old.
        let was_told = self.revision > 0;
        let grows_old = self.made_ms.saturating_add(RENEWED_AFTER_MS) <= now_ms;
        was_told && (grows_old || held.director_version != self.version)
    }
}

/// A statement that is not signed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    revision: u64,
    version: u64,
    now_ms: u64,
    roots: Vec<Vec<u8>>,
    note: StatementNote,
    targets: BTreeMap<String, TargetDescription>,
}

/// Returns the statement for a gateway that asks with `nonce`, where it needs one and the owner has adopted this server;
/// notes its version.
///
/// *Errors*: the store's.
pub fn draft(
    sql: &mut dyn Sql,
    standing: Standing<'_>,
    held: &Held,
    nonce: Nonce,
    now_ms: u64,
) -> Result<Option<Draft>, StoreError> {
    if !standing.is_due(held, now_ms) {
        return Ok(None);
    }
    let Some(roots) = roots_for(sql, held.director_root)? else { return Ok(None) };
    let wanted = desired::of(sql, standing.device)?;
    // The gateway may know a newer one: of a database that was restored since.
    let version = standing.version.max(held.director_version.min(VERSION_MAX - 1)) + 1;
    desired::note_statement(sql, standing.device, version, now_ms)?;
    let note = StatementNote {
        device: standing.device.to_owned(),
        nonce: nonce.to_string(),
        server_time: seconds(now_ms),
        withdrawn: withdrawals(&wanted)?,
    };
    let targets = targets(&wanted)?;
    Ok(Some(Draft { revision: standing.revision, version, now_ms, roots, note, targets }))
}

/// Returns the settings to offer a gateway, where it does not hold them.
///
/// *Errors*: the store's.
pub fn settings_for(
    sql: &mut dyn Sql,
    standing: Standing<'_>,
    held: &Held,
) -> Result<Option<SettingsOffer>, StoreError> {
    if standing.revision == 0 {
        return Ok(None);
    }
    let Some((assigned, revision)) = desired::settings_of(sql, standing.device)? else { return Ok(None) };
    if revision == held.settings_revision {
        return Ok(None);
    }
    let target = TargetPath::new(assigned.path.as_str()).map_err(|_| damaged("path", &assigned.path))?;
    let digest = assigned.digest.parse().map_err(|_| damaged("digest", &assigned.digest))?;
    Ok(Some(SettingsOffer { revision, target, digest }))
}

/// Returns the roots that a gateway lacks; nothing where the server is not adopted. One that has none gets the newest
/// alone: older ones may be signed by keys that the owner has replaced.
fn roots_for(sql: &mut dyn Sql, held: u64) -> Result<Option<Vec<Vec<u8>>>, StoreError> {
    let newest = director::newest(sql)?;
    if newest == 0 {
        return Ok(None);
    }
    let after = if held == 0 { newest - 1 } else { held };
    let mut bytes = 0;
    let mut roots = director::roots_after(sql, after, ROOTS_MAX)?;
    let fits = roots.iter().take_while(|root| {
        bytes += root.len();
        bytes <= ROOTS_BYTES_MAX
    });
    let count = fits.count();
    roots.truncate(count);
    Ok(Some(roots))
}

fn targets(wanted: &Wanted) -> Result<BTreeMap<String, TargetDescription>, StoreError> {
    let settings = wanted.settings.iter().map(|(assigned, _)| assigned);
    wanted
        .releases
        .iter()
        .chain(settings)
        .map(|assigned| Ok((assigned.path.clone(), target(assigned)?)))
        .collect()
}

fn target(assigned: &Assigned) -> Result<TargetDescription, StoreError> {
    let note = AssignmentNote {
        rollout: assigned.rollout.clone(),
        slot: assigned.slot.clone(),
        requirements: Requirements::default(),
        retry_of_ms: assigned.retry_of_ms,
    };
    let custom = serde_json::to_value(note).map_err(|_| damaged("slot", &assigned.slot))?;
    let hashes = BTreeMap::from([("sha256".to_owned(), assigned.digest.clone())]);
    Ok(TargetDescription { length: assigned.bytes, hashes, custom: Some(custom) })
}

fn withdrawals(wanted: &Wanted) -> Result<Vec<WithdrawalNote>, StoreError> {
    let note = |withdrawn: &desired::Withdrawn| {
        let digest: Digest = withdrawn.digest.parse().map_err(|_| damaged("digest", &withdrawn.digest))?;
        Ok(WithdrawalNote {
            model: withdrawn.model.clone(),
            digest,
            rollout: withdrawn.rollout.clone(),
            reason: withdrawn.reason.clone(),
        })
    };
    wanted.withdrawn.iter().map(note).collect()
}

fn damaged(what: &str, value: &str) -> StoreError {
    StoreError::Damaged(format!("the {what} `{value}` of what a gateway is to run cannot be read"))
}

fn seconds(ms: u64) -> UnixTime {
    UnixTime(i64::try_from(ms / 1_000).unwrap_or(i64::MAX))
}

impl Draft {
    /// Signs the statement with the online key.
    ///
    /// *Errors*: it is longer than a message may be.
    pub fn sign(self, key: &SigningKey) -> Result<Desired, TextError> {
        let Self { revision, version, now_ms, roots, note, targets } = self;
        let expires = seconds(now_ms.saturating_add(LASTS_S * 1_000));
        // A statement is texts and numbers, which JSON holds.
        let custom = serde_json::to_value(note).ok();
        let statement = Targets {
            kind: Targets::TYPE.to_owned(),
            spec_version: SPEC_VERSION.to_owned(),
            version,
            expires,
            signed_at: None,
            custom,
            targets,
            delegations: None,
        };
        let targets = sign(&statement, &[key]);
        let snapshot = Snapshot {
            kind: Snapshot::TYPE.to_owned(),
            spec_version: SPEC_VERSION.to_owned(),
            version,
            expires,
            meta: BTreeMap::from([("targets.json".to_owned(), file_version(version, &targets))]),
        };
        let snapshot = sign(&snapshot, &[key]);
        let timestamp = Timestamp {
            kind: Timestamp::TYPE.to_owned(),
            spec_version: SPEC_VERSION.to_owned(),
            version,
            expires,
            meta: BTreeMap::from([("snapshot.json".to_owned(), file_version(version, &snapshot))]),
        };
        let timestamp = sign(&timestamp, &[key]);
        let roots = roots.into_iter().map(MetadataText::new).collect::<Result<Vec<_>, _>>()?;
        let director = DirectorFiles {
            roots: List::first_of(roots),
            timestamp: MetadataText::new(timestamp)?,
            snapshot: MetadataText::new(snapshot)?,
            targets: MetadataText::new(targets)?,
        };
        Ok(Desired { revision, director })
    }
}

fn file_version(version: u64, raw: &[u8]) -> FileVersion {
    let hashes = BTreeMap::from([("sha256".to_owned(), Digest::of(raw).to_string())]);
    FileVersion { version, length: Some(raw.len() as u64), hashes: Some(hashes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDING: Standing<'static> = Standing { device: "d", revision: 4, version: 9, made_ms: 1_000 };

    #[test]
    fn a_statement_is_due_when_the_gateway_lacks_it_or_it_grows_old() {
        let held = Held { desired_revision: 4, director_version: 9, ..Held::default() };
        let half = 1_000 + RENEWED_AFTER_MS;
        for (held, now_ms, is_due) in [
            (held, 2_000, false),
            (held, half - 1, false),
            (held, half, true),
            (Held { desired_revision: 3, ..held }, 2_000, true),
            // Of a database that was restored.
            (Held { desired_revision: 5, ..held }, 2_000, true),
            (Held { director_version: 8, ..held }, 2_000, true),
            (Held { director_version: 12, ..held }, 2_000, true),
        ] {
            assert_eq!(STANDING.is_due(&held, now_ms), is_due, "{held:?} {now_ms}");
        }
        let never = Standing { revision: 0, version: 0, made_ms: 0, ..STANDING };
        assert!(!never.is_due(&Held::default(), half));
        assert!(never.is_due(&Held { desired_revision: 2, ..Held::default() }, half));
    }
}
