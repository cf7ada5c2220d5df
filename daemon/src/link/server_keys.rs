//! The keys that may sign what the server says: those of the role `director` in the director's root.
//!
//! The root is the director's because the owner's keys say so. Newer roots are fetched where an answer is signed by a key
//! that is not known; nothing else is believed of it.

use dunlin_protocol::PublicKey;
use dunlin_trust::director::DIRECTOR_ROLE;
use dunlin_trust::metadata::Root;

/// Returns the keys of the role `director`; none that is no Ed25519 key.
#[must_use]
pub fn director_keys(root: &Root) -> Vec<PublicKey> {
    let role = root.roles.get(DIRECTOR_ROLE);
    let named = role.into_iter().flat_map(|role| &role.keyids);
    let keys = named.filter_map(|id| root.keys.get(id)).filter(|key| key.keytype == "ed25519");
    keys.filter_map(|key| key.keyval.public.to_ascii_lowercase().parse().ok()).collect()
}
