//! Six words for a key: what two people compare, one at the gateway and one at the server.
//!
//! 66 bits of the key's SHA-256: nobody makes a second key with the same words (2^66 tries; each costs a key). Never used
//! where a machine compares.

use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};

use crate::key::PublicKey;

/// Words of a fingerprint.
pub const WORDS: usize = 6;
/// Bits of a word: the list has 2^11 words.
const WORD_BITS: usize = 11;

/// The English list of BIP-39: no two words share their first four letters. Its licence is in the folder.
static LIST: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| include_str!("../words/english.txt").split_whitespace().collect());

/// Returns the six words of a key: the first 66 bits of its SHA-256, eleven a word, the highest first.
#[must_use]
pub fn words(key: &PublicKey) -> [&'static str; WORDS] {
    let digest = Sha256::digest(key.as_bytes());
    let bit = |at: usize| usize::from(digest[at / 8] >> (7 - at % 8) & 1);
    std::array::from_fn(|word| {
        let index = (0..WORD_BITS).fold(0, |index, at| index << 1 | bit(word * WORD_BITS + at));
        LIST[index]
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dunlin_kit::digest::Digest;

    use super::*;

    #[test]
    fn the_list_is_the_published_one() {
        let digest = Digest::of(include_bytes!("../words/english.txt")).to_string();
        assert_eq!(digest, "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda");
        assert_eq!(LIST.len(), 1 << WORD_BITS);
        let starts: BTreeSet<&str> = LIST.iter().map(|word| &word[..word.len().min(4)]).collect();
        assert_eq!(starts.len(), LIST.len());
    }
}
