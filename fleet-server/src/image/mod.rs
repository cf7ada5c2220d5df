//! The image repository: what the owner signed, verified as a gateway would before it is kept, and the server's own
//! snapshot and timestamp around it.
//!
//! The server speaks for `snapshot` and `timestamp` alone, and only since the owner's root names its key: that is its
//! adoption. Never takes a file that a gateway would refuse.

mod director;
mod refusal;
mod renewal;
mod upload;
mod verify;

pub use director::upload_director;
pub use refusal::ImageRefusal;
pub(crate) use renewal::renew_in_time;
pub use renewal::{Renewed, renew};
pub(crate) use upload::held;
pub use upload::{Uploaded, upload};

use dunlin_trust::PublicKey;
use dunlin_trust::envelope::Envelope;
use dunlin_trust::metadata::{Root, Timestamp};
use dunlin_trust::sign::repository::Lifetimes;
use dunlin_trust::time::UnixTime;

use crate::store::{Sql, StoreError, director as directors, image};

/// How long the server's files are valid: a gateway that hears nothing new for a week is being kept from it. The other
/// two are the owner's and not used here.
pub const LIFETIMES: Lifetimes =
    Lifetimes { root_days: 0, targets_days: 0, snapshot_days: 30, timestamp_days: 7 };

/// How the repositories stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageStanding {
    /// Version of the newest root; 0 where there is none.
    pub root_version: u64,
    /// When the timestamp expires, where there is one.
    pub timestamp_expires: Option<UnixTime>,
    /// Version of the director's newest root; 0 where there is none.
    pub director_root_version: u64,
    /// Whether the owner's roots name this server's key for all that it signs.
    pub is_adopted: bool,
}

/// Returns how the repositories stand for a server with this key.
///
/// *Errors*: the store's.
pub fn standing(sql: &mut dyn Sql, key: &PublicKey) -> Result<ImageStanding, StoreError> {
    let root = newest_root(sql)?;
    let director_root_version = directors::newest(sql)?;
    let director = directors::root(sql, director_root_version)?;
    let director = director.map(|raw| read_root(&raw)).transpose()?;
    let timestamp = image::get(sql, "timestamp", None)?;
    let timestamp_expires = timestamp
        .and_then(|raw| Envelope::<Timestamp>::parse(&raw, "timestamp.json").ok())
        .map(|file| file.role().expires);
    let names = |root: &Option<Root>, roles: &[&str]| {
        root.as_ref().is_some_and(|root| roles.iter().all(|role| speaks_for(root, role, key)))
    };
    Ok(ImageStanding {
        root_version: root.as_ref().map_or(0, |root| root.version),
        timestamp_expires,
        director_root_version,
        is_adopted: names(&root, &verify::ONLINE_ROLES) && names(&director, &director::ONLINE_ROLES),
    })
}

fn newest_root(sql: &mut dyn Sql) -> Result<Option<Root>, StoreError> {
    image::get(sql, "root", None)?.map(|raw| read_root(&raw)).transpose()
}

fn read_root(raw: &[u8]) -> Result<Root, StoreError> {
    let root = Envelope::<Root>::parse(raw, "root.json");
    Ok(root.map_err(|failure| StoreError::Damaged(failure.to_string()))?.role().clone())
}

/// Tells whether a key speaks for a role by itself.
fn speaks_for(root: &Root, role: &str, key: &PublicKey) -> bool {
    root.roles.get(role).is_some_and(|keys| {
        keys.threshold <= 1 && keys.keyids.iter().any(|id| root.keys.get(id) == Some(key))
    })
}

/// Returns the time in the form of metadata.
fn unix(now_ms: u64) -> UnixTime {
    UnixTime(i64::try_from(now_ms / 1_000).unwrap_or(i64::MAX))
}
