//! A client of The Update Framework, with the commands of the public conformance suite.
//!
//! Brings what the product's core leaves out: files, a clock, plain HTTP, and signatures by P-256 and RSA-PSS, which the
//! suite uses and the product refuses. Never decides anything about trust: every byte goes through the core. Stands
//! between the suite and `dunlin_trust`; `cargo xtask conformance` runs it.

#![expect(clippy::print_stderr, reason = "a command for tests talks to its terminal")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use clap::{Parser, Subcommand};
use dunlin_kit::{atomic_file, clock};
use dunlin_trust::key::SignatureCheck;
use dunlin_trust::steps::file_name_of;
use dunlin_trust::time::UnixTime;
use dunlin_trust::{
    Answer, Ed25519Only, Lookup, PublicKey, Refresh, Stored, TargetReader, TrustedSet, Verified, run,
};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;

/// Longest target that the suite serves by far.
const TARGET_BYTES_MAX: u64 = 64 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    metadata_dir: PathBuf,
    #[arg(long, default_value = "")]
    metadata_url: String,
    #[arg(long)]
    target_name: Vec<String>,
    #[arg(long, default_value = "")]
    target_base_url: String,
    #[arg(long, default_value = ".")]
    target_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Init { root: PathBuf },
    Refresh,
    Download,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.command {
        Command::Init { root } => init(&arguments, root),
        Command::Refresh => refresh(&arguments).map(drop),
        Command::Download => download(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn init(arguments: &Arguments, root: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(&arguments.metadata_dir)?;
    store(&arguments.metadata_dir, &Stored::first(fs::read(root)?))?;
    Ok(())
}

fn refresh(arguments: &Arguments) -> Result<TrustedSet, Box<dyn Error>> {
    let set = TrustedSet::load_checked_by(&load(&arguments.metadata_dir)?, &AllKinds)?;
    let mut refresh = Refresh::new(set, now());
    let outcome = run(&mut refresh, |file| get(&arguments.metadata_url, &file.path, file.length_max));
    let refreshed = refresh.finish();
    store(&arguments.metadata_dir, &refreshed.set.stored())?;
    outcome?;
    Ok(refreshed.set)
}

fn download(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let mut set = refresh(arguments)?;
    for path in &arguments.target_name {
        let outcome = find(arguments, &mut set, path);
        store(&arguments.metadata_dir, &set.stored())?;
        let target = outcome?;
        fetch_target(arguments, &target)?;
    }
    Ok(())
}

fn find(
    arguments: &Arguments,
    set: &mut TrustedSet,
    path: &str,
) -> Result<Verified<dunlin_trust::ApprovedTarget>, Box<dyn Error>> {
    let mut lookup = Lookup::new(set, path, now())?;
    run(&mut lookup, |file| get(&arguments.metadata_url, &file.path, file.length_max))?;
    Ok(lookup.finish()?)
}

fn fetch_target(arguments: &Arguments, target: &dunlin_trust::ApprovedTarget) -> Result<(), Box<dyn Error>> {
    let local = arguments.target_dir.join(file_name_of(&target.path));
    if local.is_file() && is_target(target, &fs::read(&local)?).is_ok() {
        return Ok(());
    }
    let length_max = target.description.length.min(TARGET_BYTES_MAX);
    match get(&arguments.target_base_url, &quote_path(&target.file), length_max)? {
        Answer::Found(bytes) => {
            is_target(target, &bytes)?;
            Ok(atomic_file::write(&local, &bytes)?)
        }
        Answer::NotFound => Err(format!("`{}` is not in the repository", target.file).into()),
    }
}

fn is_target(target: &dunlin_trust::ApprovedTarget, bytes: &[u8]) -> Result<(), dunlin_trust::Failure> {
    let mut reader = TargetReader::new(&target.description, None, &target.path)?;
    reader.update(bytes)?;
    reader.finish()
}

fn now() -> UnixTime {
    UnixTime(clock::wall_micros().div_euclid(1_000_000))
}

const TOP_LEVEL: [&str; 4] = ["root.json", "timestamp.json", "snapshot.json", "targets.json"];

fn load(folder: &Path) -> Result<Stored, Box<dyn Error>> {
    let top = |name: &str| match fs::read(folder.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    };
    let mut delegated = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(role) = name.strip_suffix(".json")
            && !TOP_LEVEL.contains(&name.as_str())
        {
            delegated.insert(role_of(role), fs::read(folder.join(&name))?);
        }
    }
    Ok(Stored {
        root: fs::read(folder.join("root.json"))?,
        timestamp: top("timestamp.json")?,
        snapshot: top("snapshot.json")?,
        targets: top("targets.json")?,
        delegated,
        floors: top("floors")?
            .map_or(Ok(dunlin_trust::Floors::default()), |raw| serde_json::from_slice(&raw))?,
    })
}

fn store(folder: &Path, stored: &Stored) -> Result<(), Box<dyn Error>> {
    let top =
        [Some(&stored.root), stored.timestamp.as_ref(), stored.snapshot.as_ref(), stored.targets.as_ref()];
    for (name, raw) in TOP_LEVEL.into_iter().zip(top) {
        let path = folder.join(name);
        match raw {
            Some(raw) => atomic_file::write(&path, raw)?,
            None if path.exists() => fs::remove_file(&path)?,
            None => {}
        }
    }
    for (role, raw) in &stored.delegated {
        atomic_file::write(&folder.join(format!("{}.json", file_name_of(role))), raw)?;
    }
    Ok(atomic_file::write(&folder.join("floors"), &serde_json::to_vec(&stored.floors)?)?)
}

/// Returns the role whose file has this name.
fn role_of(name: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), name.as_bytes());
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = tail.get(..2).and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok());
        match escaped {
            Some(escaped) if byte == b'%' => {
                bytes.push(escaped);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn quote_path(path: &str) -> String {
    path.split('/').map(file_name_of).collect::<Vec<_>>().join("/")
}

/// Gets a file over plain HTTP, at most one byte more than allowed.
fn get(base: &str, path: &str, length_max: u64) -> io::Result<Answer> {
    let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
    let rest = base.strip_prefix("http://").ok_or_else(|| invalid("only http:// is known here"))?;
    let (host, folder) = rest.split_once('/').unwrap_or((rest, ""));
    let url = format!("/{}/{path}", folder.trim_end_matches('/'));
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {url} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(length_max.saturating_add(8192)).read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(|| invalid("no HTTP"))?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let body = answer.split_off(end + 4);
    eprintln!("GET {url}: {}", head.lines().next().unwrap_or_default());
    match head.split(' ').nth(1) {
        Some("200") => {
            let announced = head.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<u64>().ok())?
            });
            let is_whole = announced.is_none_or(|length| length == body.len() as u64);
            if is_whole || body.len() as u64 > length_max {
                Ok(Answer::Found(body))
            } else {
                Err(invalid("the body is cut"))
            }
        }
        Some("404" | "403") => Ok(Answer::NotFound),
        _ => Err(invalid("the server fails")),
    }
}

/// Ed25519 as the product checks it, and what else the suite signs with.
struct AllKinds;

impl SignatureCheck for AllKinds {
    fn is_valid(&self, key: &PublicKey, message: &[u8], signature: &str) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match key.scheme.as_str() {
            "ecdsa-sha2-nistp256" => &ECDSA_P256_SHA256_ASN1,
            "rsassa-pss-sha256" => &RSA_PSS_2048_8192_SHA256,
            _ => return Ed25519Only.is_valid(key, message, signature),
        };
        let Ok(spki) = SubjectPublicKeyInfoDer::from_pem_slice(key.keyval.public.as_bytes()) else {
            return false;
        };
        let signature: Option<Vec<u8>> = signature
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        signature.is_some_and(|signature| {
            UnparsedPublicKey::new(algorithm, spki.as_ref()).verify(message, &signature).is_ok()
        })
    }
}
