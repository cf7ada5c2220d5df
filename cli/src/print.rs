//! What the commands print: results to standard output, notes to standard error.
//!
//! Control characters from outside never reach the terminal. Nobody is told when a reader went away.

use std::io::{self, Write};

/// Writes lines of a result to standard output.
pub fn line(text: &str) {
    write_lines(&mut io::stdout().lock(), text);
}

/// Writes lines for people to standard error.
pub fn note(text: &str) {
    write_lines(&mut io::stderr().lock(), text);
}

fn write_lines(sink: &mut impl Write, text: &str) {
    for line in text.split('\n') {
        let _ = writeln!(sink, "{}", shown(line));
    }
}

/// Returns a line with what a terminal would obey written out, as JSON writes it: control characters, and those that turn
/// the direction of what follows.
pub(crate) fn shown(line: &str) -> String {
    let is_obeyed = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut shown = String::with_capacity(line.len());
    for c in line.chars() {
        if is_obeyed(c) {
            shown.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out_and_json_stays_json() {
        assert_eq!(shown("a\u{1b}[2J\u{9b}31m\tb\u{202e}c"), "a\\u001b[2J\\u009b31m\\u0009b\\u202ec");
        assert_eq!(shown("Zürich 東京 🐦 \"\\\""), "Zürich 東京 🐦 \"\\\"");
        let odd = "\u{85}\u{7f}\u{2066}x".to_owned();
        let text = serde_json::to_string(&odd).unwrap();
        assert_eq!(serde_json::from_str::<String>(&shown(&text)).unwrap(), odd);
    }
}
