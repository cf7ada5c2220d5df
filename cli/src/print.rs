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
        let safe: String = line
            .chars()
            .flat_map(|c| {
                if c.is_control() { c.escape_debug().to_string() } else { c.to_string() }
                    .chars()
                    .collect::<Vec<_>>()
            })
            .collect();
        let _ = writeln!(sink, "{safe}");
    }
}
