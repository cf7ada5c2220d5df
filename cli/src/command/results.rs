//! `dunlin bundle import-results`: brings the server what a gateway without a network wrote, and the receipts back.
//!
//! Each part of the file is an envelope that the gateway signed: nothing is changed on the way, and the server judges.
//! Brought twice it changes nothing.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use clap::Args;
use dunlin_fleet_api::server::ServerStatus;
use dunlin_kit::atomic_file;
use dunlin_protocol::limits::{REQUEST_BYTES_MAX, envelope_bytes_max};
use dunlin_protocol::results::ResultsAnswer;
use dunlin_protocol::routes::{RESULTS, director_root_path};
use dunlin_protocol::{Envelope, Message as _, PublicKey, Verified};

use super::CommandError;
use crate::fleet::client::Client;
use crate::fleet::profile::ServerArguments;
use crate::print;

/// Most roots of a director that are looked for: more than a century of yearly ones.
const ROOTS_MAX: u64 = 256;

/// Arguments of `dunlin bundle import-results`.
#[derive(Debug, Args)]
#[command(after_help = "\
The gateway's signature says whose results they are. One that was never enrolled is let in by its key: `dunlin devices \
expect KEY`, with the key that `dunlind export-results` showed. Carry the receipts back for `dunlind import-receipts`: \
the gateway then sends only what is new, and may forget what arrived.")]
pub struct ImportResultsArguments {
    /// File that `dunlind export-results` wrote.
    file: PathBuf,
    /// File to write the server's receipts to.
    #[arg(long, value_name = "FILE")]
    receipts: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArguments,
}

/// Runs the command.
///
/// *Errors*: not found where the server knows no such gateway; check failed for what is no result of it; conflict where
/// the server does not take results of this gateway.
pub fn run(arguments: &ImportResultsArguments) -> Result<(), CommandError> {
    let client = arguments.server.client()?;
    let status: ServerStatus = client.get("/v1/server")?;
    let key: PublicKey = status
        .public_key
        .parse()
        .map_err(|_| CommandError::CheckFailed("the server's key is no ed25519 key".to_owned()))?;
    let file = &arguments.file;
    let mut receipts = Vec::new();
    let (mut device, mut parts, mut rows, mut rejected) = (None, 0, 0, 0);
    for line in Lines::open(file)? {
        let envelope = client.bring_envelope(RESULTS, line?)?;
        let answer = read(&envelope, &key)?;
        if let Some(refusal) = &answer.refusal {
            let message = format!(
                "the server refuses results of `{}`: {} ({})",
                answer.device, refusal.words, refusal.code
            );
            return Err(CommandError::Conflict(message));
        }
        receipts.extend(envelope);
        receipts.push(b'\n');
        parts += 1;
        rows += answer.rows_new;
        rejected += answer.rejected.iter().map(|rejected| rejected.ranges.count()).sum::<u64>();
        device = Some(answer.device);
    }
    let Some(device) = device else {
        return Err(CommandError::CheckFailed(format!("`{}` holds no results", file.display())));
    };
    print::line(&format!("{device}: {rows} new rows in {parts} parts, {rejected} rejected"));
    let Some(to) = &arguments.receipts else {
        print::note(
            "note: without `--receipts FILE` the gateway does not learn what arrived, and sends it again",
        );
        return Ok(());
    };
    let mut text = director_root(&client)?;
    text.extend(receipts);
    atomic_file::write_from(to, &mut text.as_slice(), 0o644)
        .map_err(|e| CommandError::failed(format!("cannot write `{}`", to.display()), e))?;
    print::note(&format!(
        "next: carry `{}` to the gateway and run `dunlind import-receipts FILE` there",
        to.display()
    ));
    Ok(())
}

fn read(envelope: &[u8], key: &PublicKey) -> Result<ResultsAnswer, CommandError> {
    let failed = |e: &dyn std::error::Error| {
        CommandError::CheckFailed(format!(
            "the server's answer is none: {}",
            dunlin_kit::error_chain::Chain(e)
        ))
    };
    let envelope = Envelope::parse(envelope, ResultsAnswer::BYTES_MAX).map_err(|e| failed(&e))?;
    let payload = envelope.verify(std::slice::from_ref(key)).map_err(|e| failed(&e))?;
    let answer: Verified<ResultsAnswer> = payload.read(|_, _| None).map_err(|e| failed(&e))?;
    Ok(answer.into_inner())
}

/// Returns the line by which a gateway knows the key that signed the receipts: the director's newest root.
fn director_root(client: &Client) -> Result<Vec<u8>, CommandError> {
    let mut newest = None;
    for version in 1..=ROOTS_MAX {
        match client.fetched(&director_root_path(version))? {
            Some(raw) => newest = Some(raw),
            None => break,
        }
    }
    let newest = newest.and_then(|raw| String::from_utf8(raw).ok());
    let newest = newest.ok_or_else(|| {
        CommandError::NotFound("the server was not adopted: gateways do not know its receipts".to_owned())
    })?;
    let line = serde_json::json!({ "director_root": newest });
    Ok(format!("{line}\n").into_bytes())
}

/// The lines of a file, each as long as an envelope may be.
struct Lines {
    file: PathBuf,
    reader: BufReader<File>,
    number: usize,
}

impl Lines {
    fn open(path: &Path) -> Result<Self, CommandError> {
        let file = File::open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                CommandError::NotFound(format!("`{}` is missing", path.display()))
            }
            _ => CommandError::failed(format!("cannot read `{}`", path.display()), error),
        })?;
        Ok(Self { file: path.to_owned(), reader: BufReader::new(file), number: 0 })
    }
}

impl Iterator for Lines {
    type Item = Result<Vec<u8>, CommandError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.number += 1;
        let (file, number) = (self.file.display(), self.number);
        let limit = envelope_bytes_max(REQUEST_BYTES_MAX) as u64;
        let mut line = Vec::new();
        match self.reader.by_ref().take(limit + 2).read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) if line.last() == Some(&b'\n') => {
                line.pop();
                Some(Ok(line))
            }
            Ok(_) => Some(Err(CommandError::CheckFailed(format!(
                "line {number} of `{file}` is cut or too long; copy the file again"
            )))),
            Err(error) => Some(Err(CommandError::failed(format!("cannot read `{file}`"), error))),
        }
    }
}
