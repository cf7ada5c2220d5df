//! Texts from outside (topics, payloads, errors of peers), made fit for a terminal or a log.
//!
//! Replaces whatever could move the cursor, colour the screen or reorder the line by a visible escape. Never drops a
//! character silently. Everything that `status`, `sources`, `query` and the logs print goes through here.

use std::borrow::Cow;
use std::fmt::Write;

/// Tells whether a character may reach a terminal as it is.
///
/// Not: C0 and C1 controls and DEL, line and paragraph separators, and the invisible characters that reorder or hide
/// text (*Source*: Unicode Technical Report 36, section 3.7).
const fn is_plain(c: char) -> bool {
    !matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

/// Returns the text with everything that is not plain replaced by a visible escape, as in `\u{1b}` or `\n`.
#[must_use]
pub fn terminal_safe(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_plain(c) {
            safe.push(c);
        } else {
            push_escaped(&mut safe, c);
        }
    }
    Cow::Owned(safe)
}

/// Returns the text made safe and cut to at most `chars_max` characters, the last of them `…` where it was cut.
#[must_use]
pub fn shortened(text: &str, chars_max: usize) -> String {
    let safe = terminal_safe(text);
    if safe.chars().count() <= chars_max {
        return safe.into_owned();
    }
    let mut cut: String = safe.chars().take(chars_max.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

fn push_escaped(out: &mut String, c: char) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        _ => write!(out, "\\u{{{:x}}}", u32::from(c)).expect("writing to a String does not fail"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn terminal_escapes_become_visible() {
        assert_eq!(terminal_safe("a\x1b[2Jb\u{9b}31m\n\u{202e}c"), "a\\u{1b}[2Jb\\u{9b}31m\\n\\u{202e}c");
        assert!(matches!(terminal_safe("Küche/温度"), Cow::Borrowed(_)));
    }

    #[test]
    fn long_texts_are_cut_with_a_mark() {
        assert_eq!(shortened("abcdef", 4), "abc…");
        assert_eq!(shortened("abcd", 4), "abcd");
    }

    proptest! {
        #[test]
        fn nothing_that_moves_the_cursor_is_left(text in any::<String>(), chars_max in 1_usize..40) {
            prop_assert!(terminal_safe(&text).chars().all(|c| is_plain(c) && !c.is_control()));
            prop_assert!(shortened(&text, chars_max).chars().count() <= chars_max);
        }
    }
}
