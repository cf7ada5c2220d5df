//! What the commands print: results to standard output, notes to standard error.
//!
//! Control characters from outside never reach the terminal. Nobody is told when a reader went away.

use std::io::{self, IsTerminal as _, Write};

/// Columns of a line where nobody says how many there are.
const COLUMNS_DEFAULT: usize = 80;

/// How a part of a line stands out at a terminal that has colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As everything else.
    Plain,
    /// A heading.
    Strong,
    /// What is read second.
    Faint,
    /// A drawing.
    Drawn,
}

impl Style {
    /// Returns what begins the style (ECMA-48).
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Strong => "\u{1b}[1m",
            Self::Faint => "\u{1b}[2m",
            Self::Drawn => "\u{1b}[36m",
        }
    }
}

/// Writes a line of parts to standard output: in colour where it is a terminal and `NO_COLOR` is not set (no-color.org).
pub fn parts(line: &[(Style, String)]) {
    write_parts(&mut io::stdout().lock(), line, colours());
}

/// Whether lines have colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colours {
    Shown,
    LeftOut,
}

fn write_parts(sink: &mut impl Write, line: &[(Style, String)], colours: Colours) {
    let mut text = String::new();
    for (style, part) in line {
        let styled = colours == Colours::Shown && *style != Style::Plain;
        text.push_str(if styled { style.code() } else { "" });
        text.push_str(&shown(part));
        text.push_str(if styled { "\u{1b}[0m" } else { "" });
    }
    let _ = writeln!(sink, "{}", text.trim_end());
}

fn colours() -> Colours {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let are_shown = io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb;
    if are_shown { Colours::Shown } else { Colours::LeftOut }
}

/// Returns how many columns a line has: what `COLUMNS` says, else those of the terminal, else 80.
#[must_use]
pub fn columns() -> usize {
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let of_terminal = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    said.or_else(of_terminal).filter(|columns| *columns > 0).unwrap_or(COLUMNS_DEFAULT)
}

/// Tells whether the language of the surroundings has more characters than ASCII.
#[must_use]
pub fn has_unicode() -> bool {
    let said = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    said.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

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
    fn parts_have_colours_where_they_are_wanted_and_nothing_that_a_terminal_obeys_comes_from_outside() {
        let line = [(Style::Strong, "co2\u{1b}[2J".to_owned()), (Style::Plain, " ppm  ".to_owned())];
        let written = |colours| {
            let mut bytes = Vec::new();
            write_parts(&mut bytes, &line, colours);
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(written(Colours::LeftOut), "co2\\u001b[2J ppm\n");
        assert_eq!(written(Colours::Shown), "\u{1b}[1mco2\\u001b[2J\u{1b}[0m ppm\n");
    }

    #[test]
    fn what_a_terminal_would_obey_is_written_out_and_json_stays_json() {
        assert_eq!(shown("a\u{1b}[2J\u{9b}31m\tb\u{202e}c"), "a\\u001b[2J\\u009b31m\\u0009b\\u202ec");
        assert_eq!(shown("Zürich 東京 🐦 \"\\\""), "Zürich 東京 🐦 \"\\\"");
        let odd = "\u{85}\u{7f}\u{2066}x".to_owned();
        let text = serde_json::to_string(&odd).unwrap();
        assert_eq!(serde_json::from_str::<String>(&shown(&text)).unwrap(), odd);
    }
}
