//! Keys of gateways that spoke lately, so that a question costs no search for its key.
//!
//! An id follows from its key and from no other, so that what is kept here is never out of date; whether a gateway may
//! speak is asked of the store each time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use dunlin_protocol::{DeviceId, PublicKey};

/// Keys that are kept: of a fleet of 20,000; some 100 bytes each.
const KEYS_MAX: usize = 20_000;

/// Keys by id.
#[derive(Debug, Default)]
pub struct Keys(Mutex<HashMap<DeviceId, PublicKey>>);

impl Keys {
    /// Returns the key of a gateway that is known here.
    #[must_use]
    pub fn get(&self, device: DeviceId) -> Option<PublicKey> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&device).copied()
    }

    /// Keeps a key; where there is no room, some other is forgotten.
    pub fn put(&self, key: PublicKey) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEYS_MAX
            && let Some(any) = keys.keys().next().copied()
        {
            keys.remove(&any);
        }
        keys.insert(DeviceId::of(&key), key);
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    #[test]
    fn keys_are_found_by_the_id_that_follows_from_them_and_are_bounded() {
        let keys = Keys::default();
        let key = |seed: u8| {
            let key = SigningKey::from_bytes(&[seed; 32]);
            PublicKey::from_bytes(key.verifying_key().as_bytes()).unwrap()
        };
        for seed in 0..4 {
            keys.put(key(seed));
            keys.put(key(seed));
        }
        assert_eq!(keys.0.lock().unwrap().len(), 4);
        assert_eq!(keys.get(DeviceId::of(&key(2))), Some(key(2)));
        assert_eq!(keys.get(DeviceId::of(&key(9))), None);
    }
}
