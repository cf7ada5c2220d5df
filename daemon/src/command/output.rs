//! Where a command's result goes: a file that appears whole, a pipe, or a terminal that must not be written to freely.
//!
//! Never leaves half a file under the name that was asked for, and never lets texts from outside control a terminal.
//! Used by every command that prints.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::command::CommandError;
use crate::status::escape::terminal_safe;

/// The open output of a command.
pub struct Output {
    sink: Sink,
}

enum Sink {
    Pipe(BufWriter<io::Stdout>),
    Terminal(TerminalLines<io::Stdout>),
    File { file: BufWriter<File>, temporary: PathBuf, path: PathBuf, folder: PathBuf },
    Ended,
}

impl Output {
    /// Returns standard output.
    #[must_use]
    pub fn standard() -> Self {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            Self { sink: Sink::Terminal(TerminalLines::new(stdout)) }
        } else {
            Self { sink: Sink::Pipe(BufWriter::with_capacity(64 * 1024, stdout)) }
        }
    }

    /// Opens a file under a temporary name beside `path`; [`Output::finish`] renames it.
    ///
    /// *Errors*: those of the file system.
    pub fn file(path: &Path) -> Result<Self, CommandError> {
        let refuse =
            |error: io::Error| CommandError::failed(format!("cannot write `{}`", path.display()), error);
        let name = path.file_name().ok_or_else(|| refuse(io::Error::other("the path names no file")))?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut temporary_name = std::ffi::OsString::from(".");
        temporary_name.push(name);
        temporary_name.push(format!(".{}.tmp", std::process::id()));
        let temporary = folder.join(temporary_name);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o640)
            .open(&temporary)
            .map_err(refuse)?;
        let file = BufWriter::with_capacity(64 * 1024, file);
        Ok(Self { sink: Sink::File { file, temporary, path: path.to_owned(), folder } })
    }

    /// Tells whether the result goes to a terminal, where a progress bar would be in its way.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        matches!(self.sink, Sink::Terminal(_))
    }

    /// Ends the output: makes a file durable and gives it its name.
    ///
    /// *Errors*: those of the file system; a file is then not there.
    pub fn finish(mut self) -> Result<(), CommandError> {
        self.flush().map_err(output_error)?;
        if let Sink::File { file, temporary, path, folder } = &self.sink {
            let named = file
                .get_ref()
                .sync_all()
                .and_then(|()| fs::rename(temporary, path))
                .and_then(|()| File::open(folder)?.sync_all());
            named
                .map_err(|error| CommandError::failed(format!("cannot write `{}`", path.display()), error))?;
            self.sink = Sink::Ended;
        }
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Sink::File { temporary, .. } = &self.sink {
            let _ = fs::remove_file(temporary);
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.sink {
            Sink::Pipe(sink) => sink.write(bytes),
            Sink::Terminal(sink) => sink.write(bytes),
            Sink::File { file, .. } => file.write(bytes),
            Sink::Ended => Err(io::Error::other("the output is finished")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Pipe(sink) => sink.flush(),
            Sink::Terminal(sink) => sink.flush(),
            Sink::File { file, .. } => file.flush(),
            Sink::Ended => Ok(()),
        }
    }
}

/// Returns the command's error for a failed write: a closed pipe is no failure.
#[must_use]
pub fn output_error(error: io::Error) -> CommandError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        CommandError::OutputClosed
    } else {
        CommandError::failed("cannot write the output", error)
    }
}

/// Prints a text to standard output.
///
/// *Errors*: those of writing.
pub fn print(text: &str) -> Result<(), CommandError> {
    let mut output = Output::standard();
    output.write_all(text.as_bytes()).map_err(output_error)?;
    output.finish()
}

/// Passes whole lines on with their control characters escaped.
struct TerminalLines<W: Write> {
    to: W,
    line: Vec<u8>,
}

impl<W: Write> TerminalLines<W> {
    const fn new(to: W) -> Self {
        Self { to, line: Vec::new() }
    }
}

impl<W: Write> Write for TerminalLines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.line.pop();
                let text = String::from_utf8_lossy(&self.line);
                writeln!(self.to, "{}", terminal_safe(&text))?;
                self.line.clear();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_finished_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        let mut output = Output::file(&path).unwrap();
        output.write_all(b"half").unwrap();
        drop(output);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let mut output = Output::file(&path).unwrap();
        output.write_all(b"whole").unwrap();
        assert!(!path.exists());
        output.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_terminal_gets_no_control_characters() {
        let mut lines = TerminalLines::new(Vec::new());
        lines.write_all(b"a\x1b[2J\nb\xc2").unwrap();
        lines.write_all(b"\x9b\n").unwrap();
        assert_eq!(lines.to, b"a\\u{1b}[2J\nb\\u{9b}\n");
    }
}
