//! The nearest known word to a misspelled one.
//!
//! Pure; proposes, never decides. Used for keys, variants and names.

/// Returns the known word that is most like `word`, if one is like enough to be meant.
#[must_use]
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let wanted = plain(word);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Returns a hint that proposes the nearest known word, or lists all.
#[must_use]
pub(super) fn did_you_mean<'k>(word: &str, known: &[&'k str]) -> (Option<&'k str>, String) {
    match nearest(word, known.iter().copied()) {
        Some(candidate) => (Some(candidate), format!("did you mean `{candidate}`?")),
        None if known.is_empty() => (None, "remove it".to_owned()),
        None => {
            let list: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
            (None, format!("known: {}", list.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_word() {
        let known = ["topics", "time", "tags", "keep_alive", "qos"];
        for (word, expected) in [
            ("topcis", Some("topics")),
            ("keepalive", Some("keep_alive")),
            ("Keep-Alive", Some("keep_alive")),
            ("qo", Some("qos")),
            ("banana", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }
}
