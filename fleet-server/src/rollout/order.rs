//! The order in which a rollout comes to gateways: at random, and always the same.
//!
//! A gateway's place follows from its id and the rollout's seed alone, so that those that join later have theirs already
//! and no other changes.

use sha2::{Digest, Sha256};

/// Returns a gateway's place in a rollout: lower comes first.
#[must_use]
pub fn place(seed: &str, device: &str) -> [u8; 16] {
    let mut hash = Sha256::new();
    // The lengths keep `a` + `bc` apart from `ab` + `c`.
    for part in [seed, device] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    let mut place = [0; 16];
    place.copy_from_slice(&digest[..16]);
    place
}
