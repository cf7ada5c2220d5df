//! Which server is asked, and by whose token: from arguments, the environment, or what `dunlin login` kept.
//!
//! The token is kept in a file that its owner alone reads, and is never an argument, where other users would see it.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use dunlin_kit::atomic_file;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::client::Client;
use crate::command::CommandError;

/// Name of the variable with the server's URL.
pub const SERVER_VARIABLE: &str = "DUNLIN_SERVER";
/// Name of the variable with the name of a file that holds a token.
pub const TOKEN_FILE_VARIABLE: &str = "DUNLIN_TOKEN_FILE";
/// Read and written by its owner alone.
const MODE: u32 = 0o600;
/// Longest file of a token or profile.
const FILE_BYTES_MAX: u64 = 4_096;

/// Which server is asked.
#[derive(Debug, Clone, Default, Args)]
pub struct ServerArguments {
    /// URL of the fleet server [default: $DUNLIN_SERVER, or that of `dunlin login`].
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// File with the token [default: $DUNLIN_TOKEN_FILE, or the token of `dunlin login`].
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// File with certificates, in PEM, of authorities to believe beside the system's.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// What `dunlin login` kept.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    server: String,
    token: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca_file: Option<PathBuf>,
}

impl ServerArguments {
    /// Returns the client of the server that is meant.
    ///
    /// *Errors*: none is named anywhere; a file cannot be read.
    pub fn client(&self) -> Result<Client, CommandError> {
        let variable = |name| std::env::var(name).ok().filter(|text: &String| !text.is_empty());
        let kept = read_profile()?;
        let url = self.server.clone().or_else(|| variable(SERVER_VARIABLE));
        // A token belongs to the server it was kept for.
        let kept = kept.filter(|kept| url.as_ref().is_none_or(|url| same_url(url, &kept.server)));
        let url = url.or_else(|| kept.as_ref().map(|kept| kept.server.clone())).ok_or_else(none)?;
        let file = self.token_file.clone().or_else(|| variable(TOKEN_FILE_VARIABLE).map(PathBuf::from));
        let token = match (file, &kept) {
            (Some(file), _) => read_token(&file)?,
            (None, Some(kept)) => Zeroizing::new(kept.token.clone()),
            (None, None) => {
                let message = format!(
                    "there is no token for `{url}`: `dunlin login {url} --token-file FILE`, or name its file with `--token-file`"
                );
                return Err(CommandError::NotFound(message));
            }
        };
        let ca_file = self.ca_file.clone().or_else(|| kept.and_then(|kept| kept.ca_file));
        Client::new(&url, token, ca_file.as_deref())
    }

    /// Keeps server and token for the commands to come; returns the file.
    ///
    /// *Errors*: the file cannot be written.
    pub fn keep(&self, server: &str, token: &str) -> Result<PathBuf, CommandError> {
        let path = profile_path()?;
        let ca_file = self.ca_file.as_deref().map(std::path::absolute).transpose().ok().flatten();
        let profile = Profile { server: server.to_owned(), token: token.to_owned(), ca_file };
        let text =
            toml::to_string(&profile).map_err(|e| CommandError::failed("cannot write the profile", e))?;
        let text = Zeroizing::new(text);
        if let Some(folder) = path.parent() {
            crate::workspace::make_key_folder(folder)?;
        }
        atomic_file::write_from(&path, &mut text.as_bytes(), MODE)
            .map_err(|e| CommandError::failed(format!("cannot write `{}`", path.display()), e))?;
        Ok(path)
    }
}

fn none() -> CommandError {
    CommandError::Usage(
        "no fleet server is named: `dunlin login URL --token-file FILE`, or `--server URL --token-file FILE`"
            .to_owned(),
    )
}

fn same_url(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

/// Reads a token from a file.
///
/// *Errors*: it cannot be read, or holds no token.
pub fn read_token(file: &Path) -> Result<Zeroizing<String>, CommandError> {
    let text =
        read_file(file)?.ok_or_else(|| CommandError::NotFound(format!("`{}` is missing", file.display())))?;
    let token = Zeroizing::new(text.trim().to_owned());
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(CommandError::CheckFailed(format!("`{}` holds no token", file.display())));
    }
    Ok(token)
}

fn read_profile() -> Result<Option<Profile>, CommandError> {
    let path = profile_path()?;
    let Some(text) = read_file(&path)? else { return Ok(None) };
    let wrong = |e| CommandError::failed(format!("cannot read `{}`; log in anew", path.display()), e);
    toml::from_str(&text).map(Some).map_err(|e: toml::de::Error| wrong(e.message().to_owned()))
}

fn read_file(path: &Path) -> Result<Option<Zeroizing<String>>, CommandError> {
    let failed = |e| CommandError::failed(format!("cannot read `{}`", path.display()), e);
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = Zeroizing::new(String::new());
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text))
}

fn profile_path() -> Result<PathBuf, CommandError> {
    let folder = |name| std::env::var_os(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    let base = folder("XDG_CONFIG_HOME").or_else(|| folder("HOME").map(|home| home.join(".config")));
    let base =
        base.ok_or_else(|| CommandError::NotFound("there is no $HOME to keep a login in".to_owned()))?;
    Ok(base.join("dunlin/server.toml"))
}
