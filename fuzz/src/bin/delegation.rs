//! Which role may name which path: the matcher agrees with a plainer one, and every bin belongs to its delegator.
//!
//! The first line is the path, the second the length of bins, the others are patterns.

#![no_main]

use dunlin_trust::Digest;
use dunlin_trust::limits::PATH_BYTES_MAX;
use dunlin_trust::metadata::{DelegatedRole, Delegations, SuccinctRoles};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n').map(|line| &line[..line.floor_char_boundary(PATH_BYTES_MAX)]);
    let (Some(path), Some(bits)) = (lines.next(), lines.next()) else { return };
    let patterns: Vec<String> = lines.take(8).map(str::to_owned).collect();
    check_patterns(path, &patterns);
    check_bins(path, bits.len() as u32);
});

fn check_patterns(path: &str, patterns: &[String]) {
    let role = |paths, path_hash_prefixes| DelegatedRole {
        name: "role".to_owned(),
        keyids: Vec::new(),
        threshold: 1,
        terminating: false,
        paths,
        path_hash_prefixes,
    };
    let expected = patterns.iter().any(|pattern| {
        let (patterns, folders): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
        patterns.len() == folders.len()
            && patterns.iter().zip(&folders).all(|(pattern, name)| matches(pattern, name))
    });
    assert_eq!(role(Some(patterns.to_vec()), None).may_name(path), expected);
    let hash = Digest::of(path.as_bytes()).to_string();
    let expected = patterns.iter().any(|prefix| hash.starts_with(prefix.as_str()));
    assert_eq!(role(None, Some(patterns.to_vec())).may_name(path), expected);
    assert!(!role(None, None).may_name(path), "a role without paths names nothing");
}

/// Row by row over the pattern: which beginnings of the name does it match so far?
fn matches(pattern: &str, name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    for c in pattern.chars() {
        let mut next = vec![false; name.len() + 1];
        for end in 0..=name.len() {
            next[end] = match c {
                '*' => reached[..=end].contains(&true),
                _ => end > 0 && reached[end - 1] && (c == '?' || c == name[end - 1]),
            };
        }
        reached = next;
    }
    reached[name.len()]
}

fn check_bins(path: &str, bits: u32) {
    let bit_length = 1 + bits % 32;
    let bins = SuccinctRoles {
        keyids: Vec::new(),
        threshold: 1,
        bit_length,
        name_prefix: path.chars().take(8).collect(),
    };
    let name = bins.bin_of(path);
    let delegations = Delegations { keys: Default::default(), roles: None, succinct_roles: Some(bins) };
    assert!(delegations.keys_of(&name).is_some(), "the bin `{name}` is nobody's");
    assert!(delegations.keys_of(&format!("{name}0")).is_none());
    assert_eq!(delegations.roles_for(path).len(), 1);
}
