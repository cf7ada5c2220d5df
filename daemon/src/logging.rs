//! Where log lines go: to journald under systemd, else to standard error.
//!
//! Sets the filter from the configuration and makes every text fit for a terminal. Never logs payloads or secrets:
//! that is the callers' duty. Started once, before everything else.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::status::escape::terminal_safe;

/// Why logging cannot be started or changed.
#[derive(Debug)]
pub enum LoggingError {
    /// The filter cannot be read.
    Filter {
        /// The filter.
        filter: String,
        /// Why.
        source: ParseError,
    },
    /// Logging was started before.
    Started(TryInitError),
    /// The filter cannot be replaced any more.
    Reload(reload::Error),
}

impl fmt::Display for LoggingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter { filter, .. } => write!(
                f,
                "`{}` is no log filter; write a level, as in `info`, or `info,dunlin_daemon::mqtt=debug`",
                terminal_safe(filter)
            ),
            Self::Started(_) => f.write_str("logging was started before"),
            Self::Reload(_) => f.write_str("cannot replace the log filter"),
        }
    }
}

impl std::error::Error for LoggingError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Filter { source, .. } => Some(source),
            Self::Started(source) => Some(source),
            Self::Reload(source) => Some(source),
        }
    }
}

/// Changes the filter of the running log, for a reload of the configuration.
#[derive(Debug, Clone)]
pub struct LogFilter(reload::Handle<EnvFilter, tracing_subscriber::Registry>);

impl LogFilter {
    /// Replaces the filter.
    ///
    /// *Errors*: the filter cannot be read; the old one stays.
    pub fn replace(&self, filter: &str) -> Result<(), LoggingError> {
        self.0.reload(parse(filter)?).map_err(LoggingError::Reload)
    }
}

/// Starts logging with this filter.
///
/// *Errors*: the filter cannot be read, or logging was started before.
pub fn start(filter: &str) -> Result<LogFilter, LoggingError> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let registry = tracing_subscriber::registry().with(filter);
    match journal() {
        Some(journal) => registry.with(journal).try_init(),
        None => {
            let ansi = io::stderr().is_terminal();
            let lines =
                tracing_subscriber::fmt::layer().with_ansi(ansi).with_writer(move || SafeWriter { ansi });
            registry.with(lines).try_init()
        }
    }
    .map_err(LoggingError::Started)?;
    Ok(LogFilter(handle))
}

/// Reads a filter, for the check of a configuration.
///
/// *Errors*: the filter cannot be read.
pub fn check_filter(filter: &str) -> Result<(), LoggingError> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|source| LoggingError::Filter { filter: filter.to_owned(), source })
}

/// Returns the journal where systemd connected standard error to it. Journald keeps field boundaries by itself and its
/// readers escape what a terminal must not get.
fn journal() -> Option<tracing_journald::Layer> {
    std::env::var_os("JOURNAL_STREAM")?;
    tracing_journald::layer().ok().map(|layer| layer.with_syslog_identifier("dunlind".to_owned()))
}

/// Writes to standard error; each write is one log line.
struct SafeWriter {
    ansi: bool,
}

impl Write for SafeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(&safe_line(bytes, self.ansi))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

/// Returns the line with its control characters escaped; with `ansi`, colours (`ESC [ … m`) are kept: the formatter
/// itself escapes those in messages and fields.
fn safe_line(line: &[u8], ansi: bool) -> Vec<u8> {
    let text = String::from_utf8_lossy(line);
    let content = text.strip_suffix('\n').unwrap_or(&text);
    let mut safe = String::with_capacity(text.len());
    let mut rest = content;
    while let Some(start) = rest.find('\u{1b}').filter(|_| ansi) {
        safe.push_str(&terminal_safe(&rest[..start]));
        let colour = colour_length(&rest[start..]).unwrap_or(0);
        safe.push_str(&rest[start..start + colour]);
        let skipped = if colour == 0 { 1 } else { colour };
        if colour == 0 {
            safe.push_str("\\u{1b}");
        }
        rest = &rest[start + skipped..];
    }
    safe.push_str(&terminal_safe(rest));
    safe.push('\n');
    safe.into_bytes()
}

/// Returns the length of the colour sequence at the start of the text, if there is one.
fn colour_length(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[end..].starts_with('m').then_some(2 + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_in_a_line_are_escaped_and_colours_kept_on_a_terminal() {
        let line = b"\x1b[32mINFO\x1b[0m a\x1b[2Jb\nc\x07\n";
        assert_eq!(safe_line(line, true), b"\x1b[32mINFO\x1b[0m a\\u{1b}[2Jb\\nc\\u{7}\n");
        assert_eq!(safe_line(b"\x1b[32mx\n", false), b"\\u{1b}[32mx\n");
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        assert!(check_filter("info,dunlin_daemon::mqtt=debug").is_ok());
        let error = check_filter("info,x=loud").unwrap_err();
        assert!(error.to_string().contains("`info,x=loud`"), "{error}");
    }
}
