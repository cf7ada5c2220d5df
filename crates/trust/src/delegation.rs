//! Which delegated role may name which path.
//!
//! Matches patterns, hash prefixes and hash bins; never reads a role's file. Used by the search for a target and by the
//! check of evidence. *Source*: TUF 1.0.34, section 4.5; TAP 15 for the bins.

use dunlin_kit::digest::Digest;

use crate::metadata::{DelegatedRole, Delegations, RoleKeys, SuccinctRoles};

impl DelegatedRole {
    /// Returns the keys that speak for the role.
    #[must_use]
    pub fn role_keys(&self) -> RoleKeys {
        RoleKeys { keyids: self.keyids.clone(), threshold: self.threshold }
    }

    /// Tells whether the role may name the path.
    #[must_use]
    pub fn may_name(&self, path: &str) -> bool {
        let by_pattern = self.paths.iter().flatten().any(|pattern| matches(pattern, path));
        let hash = Digest::of(path.as_bytes()).to_string();
        by_pattern || self.path_hash_prefixes.iter().flatten().any(|prefix| hash.starts_with(prefix.as_str()))
    }
}

impl SuccinctRoles {
    /// Returns the keys that speak for each of the bins.
    #[must_use]
    pub fn role_keys(&self) -> RoleKeys {
        RoleKeys { keyids: self.keyids.clone(), threshold: self.threshold }
    }

    /// Returns the name of the bin that may name the path.
    #[must_use]
    pub fn bin_of(&self, path: &str) -> String {
        let bits = self.bit_length.clamp(1, 32);
        let [a, b, c, d, ..] = *Digest::of(path.as_bytes()).as_bytes();
        let bin = u32::from_be_bytes([a, b, c, d]) >> (32 - bits);
        // As many digits as the last bin's number needs.
        let digits = bits.div_ceil(4) as usize;
        format!("{}-{bin:0digits$x}", self.name_prefix)
    }

    fn may_hold(&self, name: &str) -> bool {
        let bits = self.bit_length.clamp(1, 32);
        let digits = name.strip_prefix(&self.name_prefix).and_then(|rest| rest.strip_prefix('-'));
        digits.is_some_and(|digits| {
            digits.len() == bits.div_ceil(4) as usize
                && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                && u64::from_str_radix(digits, 16).is_ok_and(|bin| bin < 1 << bits)
        })
    }
}

impl Delegations {
    /// Returns the roles that may name the path, in order of precedence.
    #[must_use]
    pub fn roles_for(&self, path: &str) -> Vec<DelegatedRole> {
        let listed = self.roles.iter().flatten().filter(|role| role.may_name(path)).cloned();
        let bin = self.succinct_roles.as_ref().map(|bins| DelegatedRole {
            name: bins.bin_of(path),
            keyids: bins.keyids.clone(),
            threshold: bins.threshold,
            terminating: false,
            paths: Some(vec![path.to_owned()]),
            path_hash_prefixes: None,
        });
        listed.chain(bin).collect()
    }

    /// Returns the keys that speak for a role of this name, where it is delegated.
    #[must_use]
    pub fn keys_of(&self, name: &str) -> Option<RoleKeys> {
        let listed = self.roles.iter().flatten().find(|role| role.name == name);
        let bins = self.succinct_roles.as_ref().filter(|bins| bins.may_hold(name));
        listed.map(DelegatedRole::role_keys).or_else(|| bins.map(SuccinctRoles::role_keys))
    }
}

/// Tells whether a path has a pattern's form: as many folders, `*` for any text and `?` for one character within one.
fn matches(pattern: &str, path: &str) -> bool {
    let (patterns, folders): (Vec<&str>, Vec<&str>) =
        (pattern.split('/').collect(), path.split('/').collect());
    patterns.len() == folders.len()
        && patterns.iter().zip(folders).all(|(pattern, name)| {
            let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
            matches_name(&pattern, &name)
        })
}

/// Matches without recursion: after a mismatch the last `*` takes one character more.
fn matches_name(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_within_one_folder() {
        for (pattern, path, expected) in [
            ("models/*/?/m*.json", "models/frost/1/manifest.json", true),
            ("models/*", "models/frost/1", false),
            ("a*b*c", "aXbYbc", true),
            ("a?c", "ac", false),
            ("*", "a/b", false),
            ("*", "a", true),
            ("A", "a", false),
            ("*a", "aaaab", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_bin_is_named_by_the_first_bits_of_the_hash_of_the_path() {
        let bins = |bit_length| SuccinctRoles {
            keyids: Vec::new(),
            threshold: 1,
            bit_length,
            name_prefix: "bin".to_owned(),
        };
        // SHA-256 of `a` begins with ca978112.
        for (bits, name) in [(1, "bin-1"), (4, "bin-c"), (5, "bin-19"), (8, "bin-ca"), (32, "bin-ca978112")] {
            assert_eq!(bins(bits).bin_of("a"), name);
            assert!(bins(bits).may_hold(name), "{name}");
        }
        for name in ["bin-20", "bin-1", "bin-0a0", "bin-+1", "bin", "nib-01"] {
            assert!(!bins(5).may_hold(name), "{name}");
        }
    }
}
