//! `dunlind export-results` and `dunlind import-receipts`: for gateways without a network. Writes what exchanges would bring
//! into a file that people carry to the fleet server, and takes the server's receipts from another.
//!
//! Signs with the gateway's own key, and believes receipts of the server alone that the owner's keys speak for. Counts no
//! message: what is written twice is taken once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use dunlin_kit::clock;
use dunlin_kit::error_chain::Chain;
use dunlin_protocol::exchange::Clock;
use dunlin_protocol::limits::{ANSWER_BYTES_MAX, REQUEST_BYTES_MAX, envelope_bytes_max};
use dunlin_protocol::report::SettingsReport;
use dunlin_protocol::results::{Results, ResultsAnswer};
use dunlin_protocol::{
    Envelope, Form, Health, List, Message as _, Nonce, PublicKey, Range, Ranges, Stream, Verified,
};

use super::export::flush;
use super::offline::CONFIG_DEFAULT;
use super::output::{Output, output_error, print};
use super::{CommandError, StateDirArgs, note};
use crate::app;
use crate::config::{self, LoadRequest, process_environment};
use crate::link::facts::{is_synchronised, name};
use crate::link::health::health_of;
use crate::link::identity::Identity;
use crate::link::report::device_report;
use crate::link::server_keys::director_keys;
use crate::link::settings::LinkSettings;
use crate::remote_settings::desk::{SettingsMode, report_of};
use crate::status::client::{ClientError, StatusClient};
use crate::store::fleet::read_life;
use crate::store::fleet_settings::read_standing;
use crate::store::outbox::{EVENTS, LOSSES, PREDICTIONS, STATISTICS};
use crate::store::slots::read_models;
use crate::store::trust::Trusted;
use crate::store::{FleetLife, FleetStore, FolderLock, StoreError, TrustStore, UploadStore};
use crate::update::import_desk::ImportDesk;
use crate::update::report::ModelsReport;
use crate::update::trust_state::TrustState;
use crate::upload::results::ResultsReader;

/// Level of Zstandard: a stick is written once.
const ZSTD_LEVEL: i32 = 9;
/// What a part has beside its rows, its report aside.
const PART_BYTES: usize = 8 << 10;

/// Arguments of `dunlind export-results`.
#[derive(Debug, Clone, Args)]
pub struct ExportResultsArgs {
    /// File to write; it appears when it is whole
    pub file: PathBuf,
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = CONFIG_DEFAULT)]
    pub config: PathBuf,
    /// Where the daemon keeps its state
    #[command(flatten)]
    pub state: StateDirArgs,
}

/// Arguments of `dunlind import-receipts`.
#[derive(Debug, Clone, Args)]
pub struct ReceiptsArgs {
    /// File that `dunlin bundle import-results --receipts` wrote
    pub file: PathBuf,
    /// Where the daemon keeps its state
    #[command(flatten)]
    pub state: StateDirArgs,
}

fn store_failed(error: StoreError) -> CommandError {
    CommandError::failed("cannot use the state folder", error)
}

/// The parts of a file, sealed one by one.
struct Parts {
    identity: Identity,
    life: Option<FleetLife>,
    file: Nonce,
    count: u32,
}

/// Returns what the link would know of the configuration, with the settings of the fleet server that are in use.
fn settings(args: &ExportResultsArgs) -> Result<(LinkSettings, SettingsReport), CommandError> {
    let request = LoadRequest {
        file: args.config.clone(),
        set: Vec::new(),
        environment: process_environment(),
        state_dir: args.state.state_dir.clone(),
        overlay: None,
    };
    let load = |request: &LoadRequest| {
        config::load(request).map_err(|errors| CommandError::Configuration {
            message: format!("the configuration is refused\n{errors}"),
            source: None,
        })
    };
    let local = load(&request)?;
    let mode = local.settings.fleet.settings.mode;
    let standing = read_standing(&local.settings.state_dir).map_err(store_failed)?;
    let loaded = match standing.in_use().filter(|_| mode == SettingsMode::Take) {
        Some(file) => load(&app::with_settings(&request, file))?,
        None => local,
    };
    let settings = LinkSettings::of(&loaded);
    let of_server = report_of(&standing, mode, settings.digest);
    Ok((settings, of_server))
}

/// Writes report, health and all rows without a receipt into a file.
///
/// *Errors*: nothing was ever stored (exit code 3), the configuration is refused (64), reading or writing failed (1).
pub fn export(args: &ExportResultsArgs) -> Result<ExitCode, CommandError> {
    let (settings, of_server) = settings(args)?;
    let folder = &settings.state_dir;
    let client = StatusClient::new(folder);
    flush(&client);
    let (models, health) = seen(&client, folder)?;
    let mut reader = ResultsReader::open(folder, settings.fleet.upload).map_err(store_failed)?;
    let identity =
        Identity::open(folder).map_err(|error| CommandError::failed("the gateway has no identity", error))?;
    let mut file = [0; 16];
    getrandom::fill(&mut file).map_err(|error| CommandError::failed("there is no randomness", error))?;
    let life = read_life(folder).map_err(store_failed)?;
    let mut parts = Parts { identity, life, file: Nonce::from_bytes(file), count: 0 };
    let mut first = parts.next();
    first.report = Some(Box::new(device_report(&settings, &models, of_server, reader.budget())));
    first.health = health;
    let report_bytes = first.to_plain().map_or(REQUEST_BYTES_MAX / 2, |plain| plain.len());
    first.batches = reader
        .next_rows(REQUEST_BYTES_MAX.saturating_sub(PART_BYTES + report_bytes))
        .map_err(store_failed)?;
    let mut output = Output::file(&args.file)?;
    let mut rows = 0;
    let mut part = first;
    loop {
        rows += part.batches.iter().map(|batch| batch.numbers().count()).sum::<usize>();
        let line = parts.seal(&part)?;
        output.write_all(&line).and_then(|()| output.write_all(b"\n")).map_err(output_error)?;
        let batches = reader.next_rows(REQUEST_BYTES_MAX - PART_BYTES).map_err(store_failed)?;
        if batches.is_empty() {
            break;
        }
        part = Results { batches, ..parts.next() };
    }
    output.finish()?;
    for stream in reader.cut() {
        note(&format!("warning: rows of the stream `{stream}` end before one that cannot be read"));
    }
    print(&format!(
        "wrote {rows} rows in {} parts to `{}`\ngateway {}\nkey     {}\nwords   {}\n",
        parts.count,
        args.file.display(),
        parts.identity.device(),
        parts.identity.public(),
        parts.identity.words()
    ))?;
    if parts.life.is_none() {
        note("this gateway is not enrolled: the server takes its results after `dunlin devices expect KEY`");
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns models and health of the running daemon, or what it stored last.
fn seen(client: &StatusClient, folder: &Path) -> Result<(ModelsReport, Health), CommandError> {
    match client.models() {
        Ok(models) => {
            let (desk, _jobs) = ImportDesk::new();
            let health = health_of(&client.status()?, &models, &desk);
            Ok((models, health))
        }
        Err(error @ ClientError::NotRunning(_)) => {
            let stored = read_models(folder).map_err(store_failed)?;
            let Some(stored) = stored else { return Err(error.into()) };
            Ok((ModelsReport::of(&stored, &[], None), Health::default()))
        }
        Err(error) => Err(error.into()),
    }
}

impl Parts {
    fn next(&mut self) -> Results {
        self.count += 1;
        Results {
            device: self.identity.device(),
            server: self.life.as_ref().map(|life| life.server),
            incarnation: self.life.as_ref().map(|life| life.incarnation),
            file: self.file,
            part: self.count,
            counter_ceiling: self.life.as_ref().map_or(0, |life| life.counter_ceiling),
            clock: Clock {
                boot: name(&clock::boot_id()),
                mono_ms: (clock::monotonic_micros() / 1_000).unsigned_abs(),
                wall_ms: clock::wall_micros() / 1_000,
                synchronised: is_synchronised(),
            },
            report: None,
            health: Health::default(),
            batches: List::new(),
        }
    }

    fn seal(&self, part: &Results) -> Result<Vec<u8>, CommandError> {
        let plain =
            part.to_plain().map_err(|error| CommandError::failed("a part cannot be written", error))?;
        let frame = zstd::bulk::compress(&plain, ZSTD_LEVEL)
            .map_err(|error| CommandError::failed("a part cannot be compressed", error))?;
        let key_id = self.identity.public().to_string();
        let sign = |message: &[u8]| self.identity.sign(message);
        Ok(Envelope::seal(Results::payload_type(Form::Zstd), frame, &key_id, sign).to_bytes())
    }
}

/// Takes the server's receipts.
///
/// *Errors*: the daemon runs (exit code 4), what came is not to be trusted (5), nothing was ever stored (3), reading or
/// writing failed (1).
pub fn import(args: &ReceiptsArgs) -> Result<ExitCode, CommandError> {
    let folder = args.state.resolve();
    let identity = Identity::read(&folder)
        .map_err(|error| CommandError::failed("the gateway has no identity", error))?
        .ok_or_else(|| CommandError::NotFound(format!("`{}` holds no identity", folder.display())))?;
    let lock = FolderLock::acquire(&folder).map_err(|error| match error {
        error @ StoreError::Locked { .. } => {
            CommandError::Refused(format!("{}: stop the daemon first", Chain(&error)))
        }
        error => store_failed(error),
    })?;
    let life = FleetStore::open(&lock).and_then(|fleet| fleet.life()).map_err(store_failed)?;
    let mut lines = Lines::open(&args.file)?;
    let keys = keys_of(&lock, &lines.next()?.unwrap_or_default(), &args.file)?;
    let mut arrived: BTreeMap<&'static str, Ranges> = BTreeMap::new();
    while let Some(line) = lines.next()? {
        let answer = read_answer(&line, &keys).map_err(|words| untrusted(&args.file, &words))?;
        if answer.device != identity.device() {
            return Err(untrusted(&args.file, "they are another gateway's"));
        }
        if life.as_ref().is_some_and(|life| life.server != answer.server) {
            return Err(untrusted(&args.file, "they are another server's"));
        }
        for receipt in &answer.receipts {
            let stream = match receipt.stream {
                Stream::Predictions => PREDICTIONS,
                Stream::Events => EVENTS,
                Stream::Losses => LOSSES,
                Stream::Statistics => STATISTICS,
                _ => continue,
            };
            let numbers = arrived.entry(stream).or_default();
            *numbers = numbers.union(&receipt.ranges);
        }
    }
    let taken = settle(&lock, &arrived)?;
    print(&format!("{taken} rows have arrived at the server\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Keeps which numbers arrived, of those that were ever given; returns how many are new.
fn settle(lock: &FolderLock, arrived: &BTreeMap<&'static str, Ranges>) -> Result<u64, CommandError> {
    let ends = ResultsReader::open(lock.folder(), Default::default()).map_err(store_failed)?.ends();
    let state = UploadStore::open(lock).map_err(store_failed)?;
    let lines = state.lines().map_err(store_failed)?;
    let (mut all, mut taken) = (Vec::new(), 0);
    for (stream, numbers) in arrived {
        let next = match *stream {
            PREDICTIONS => ends.predictions,
            EVENTS => ends.events,
            STATISTICS => ends.statistics,
            _ => ends.unsealed,
        };
        // A server cannot settle what is not made yet.
        let made: Ranges = Range::counted(1, next.saturating_sub(1)).ok().into_iter().collect();
        let before = lines.get(stream).map(|line| line.settled.clone()).unwrap_or_default();
        let new = numbers.intersect(&made).subtract(&before);
        taken += new.count();
        all.push((*stream, before.union(&new)));
    }
    let all: Vec<(&'static str, &Ranges)> = all.iter().map(|(stream, numbers)| (*stream, numbers)).collect();
    state.settle(&all).map_err(store_failed)?;
    Ok(taken)
}

/// Returns the keys that may sign receipts: those of the director's root in the first line, which the owner's keys signed,
/// and which is not older than one that the gateway knows.
fn keys_of(lock: &FolderLock, line: &[u8], file: &Path) -> Result<Vec<PublicKey>, CommandError> {
    #[derive(serde::Deserialize)]
    struct Head {
        director_root: String,
    }
    let head: Head = serde_json::from_slice(line)
        .map_err(|_| untrusted(file, "it does not begin with a director's root"))?;
    let trust = TrustStore::open(lock).map_err(store_failed)?;
    let image = trust.load().map_err(store_failed)?;
    let image = image.ok_or_else(|| {
        CommandError::NotFound("this gateway trusts no root yet: import a release first".to_owned())
    })?;
    let known = trust.load_of(Trusted::Director).map_err(store_failed)?;
    let known = known.and_then(|kept| kept.roots.last().map(|root| root.version)).unwrap_or(0);
    let refused = |error: crate::update::refusal::Refusal| untrusted(file, &error.to_string());
    let image = TrustState::load(image).map_err(refused)?;
    let director = TrustState::first_of_director(&image, head.director_root.as_bytes()).map_err(refused)?;
    if director.set().root().version < known {
        return Err(untrusted(file, "its director's root is older than one seen before"));
    }
    Ok(director_keys(director.set().root()))
}

fn read_answer(line: &[u8], keys: &[PublicKey]) -> Result<ResultsAnswer, String> {
    let words = |error: &dyn std::error::Error| Chain(error).to_string();
    let envelope = Envelope::parse(line, ResultsAnswer::BYTES_MAX).map_err(|error| words(&error))?;
    let payload = envelope.verify(keys).map_err(|error| words(&error))?;
    let answer: Verified<ResultsAnswer> = payload.read(|_, _| None).map_err(|error| words(&error))?;
    Ok(answer.into_inner())
}

fn untrusted(file: &Path, why: &str) -> CommandError {
    CommandError::CheckFailed(format!("`{}` holds no receipts for this gateway: {why}", file.display()))
}

/// The lines of a file, each as long as an answer may be.
struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
}

impl Lines {
    fn open(path: &Path) -> Result<Self, CommandError> {
        let file = File::open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                CommandError::NotFound(format!("`{}` is missing", path.display()))
            }
            _ => CommandError::failed(format!("cannot read `{}`", path.display()), error),
        })?;
        Ok(Self { path: path.to_owned(), reader: BufReader::new(file) })
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, CommandError> {
        let limit = envelope_bytes_max(ANSWER_BYTES_MAX) as u64;
        let mut line = Vec::new();
        let read = self.reader.by_ref().take(limit + 1).read_until(b'\n', &mut line);
        read.map_err(|error| CommandError::failed(format!("cannot read `{}`", self.path.display()), error))?;
        match line.pop() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(line)),
            Some(_) => Err(untrusted(&self.path, "a line is cut or too long")),
        }
    }
}
