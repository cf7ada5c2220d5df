//! `dunlin tokens`, `dunlin enrolment-tokens` and `dunlin audit`: who may do what, who may come in, and who did what.
//!
//! A token's text goes to standard output or into a file, once; everything else goes to standard error beside it.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use dunlin_fleet_api::audit::{AuditCheck, AuditLine};
use dunlin_fleet_api::enrolment::{EnrolmentTokenStatus, IssuedEnrolmentToken, NewEnrolmentToken};
use dunlin_fleet_api::order::Order;
use dunlin_fleet_api::token::{ApiToken, IssuedApiToken, NewApiToken, Scope};
use dunlin_kit::atomic_file;

use super::CommandError;
use super::devices::label;
use crate::fleet::client::encoded;
use crate::fleet::profile::ServerArguments;
use crate::output::{Column, Output, OutputArguments, column, wide};
use crate::print;

/// Entries of a list at most.
const LIST_MAX: usize = 10_000;
/// Read and written by its owner alone.
const MODE: u32 = 0o600;

const TOKEN_COLUMNS: [Column; 8] = [
    column("TOKEN", "/id"),
    column("NAME", "/name"),
    column("SCOPE", "/scope"),
    column("DEVICES", "/devices"),
    column("EXPIRES", "/expires"),
    column("REVOKED", "/revoked"),
    wide("USED", "/used"),
    wide("MADE BY", "/created_by"),
];
const ENROLMENT_COLUMNS: [Column; 6] = [
    column("TOKEN", "/id"),
    column("LABELS", "/labels"),
    column("USES LEFT", "/uses_left"),
    column("EXPIRES", "/expires"),
    column("REVOKED", "/revoked"),
    wide("MADE BY", "/created_by"),
];
const AUDIT_COLUMNS: [Column; 7] = [
    column("LINE", "/seq"),
    column("AT", "/at"),
    column("WHO", "/who"),
    column("ACTION", "/action"),
    column("OBJECT", "/object"),
    column("REASON", "/reason"),
    wide("DETAIL", "/detail"),
];

/// Makes, lists and revokes tokens of people and programs.
#[derive(Debug, Subcommand)]
pub enum TokensCommand {
    /// Make a token; its text is shown this once.
    New(NewTokenArguments),
    /// List tokens.
    List(ListArguments),
    /// Revoke a token, at once and for ever.
    Revoke(RevokeArguments),
}

/// Makes, lists and revokes the tokens by which gateways come in.
#[derive(Debug, Subcommand)]
pub enum EnrolmentTokensCommand {
    /// Make an enrolment token; its text is shown this once.
    New(NewEnrolmentArguments),
    /// List enrolment tokens.
    List(ListArguments),
    /// Revoke an enrolment token; gateways that came in by it stay.
    Revoke(RevokeArguments),
}

/// Shows and checks the audit log.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Show who did what, oldest first.
    List(ListArguments),
    /// Check that no line was changed or taken out.
    Verify(VerifyArguments),
}

/// Arguments of a list.
#[derive(Debug, Args)]
pub struct ListArguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// Arguments of a check.
#[derive(Debug, Args)]
pub struct VerifyArguments {
    #[command(flatten)]
    server: ServerArguments,
}

/// Arguments of `dunlin tokens new`.
#[derive(Debug, Args)]
pub struct NewTokenArguments {
    /// Who or what is to use it: the name in the audit log.
    name: String,
    /// What it may do.
    #[arg(long, default_value = "viewer", value_parser = ["viewer", "operator", "admin"])]
    scope: String,
    /// The gateways that there are for it, as a label query.
    #[arg(long, default_value = "*")]
    devices: String,
    /// Days until it ends by itself.
    #[arg(long, value_name = "DAYS")]
    days: Option<u32>,
    #[command(flatten)]
    made: MadeArguments,
}

/// Arguments of `dunlin enrolment-tokens new`.
#[derive(Debug, Args)]
pub struct NewEnrolmentArguments {
    /// Label that gateways get by it, as in `site=plant-1`; may be given more than once.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// How many gateways may use it.
    #[arg(long, default_value_t = 1)]
    uses: u64,
    /// Hours until it ends.
    #[arg(long, default_value_t = 24)]
    hours: u32,
    #[command(flatten)]
    made: MadeArguments,
}

/// What all commands have in common that make a token.
#[derive(Debug, Args)]
pub struct MadeArguments {
    /// File to write the token to, readable by you alone [default: standard output].
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Why, for the audit log.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    server: ServerArguments,
}

/// Arguments of a revocation.
#[derive(Debug, Args)]
pub struct RevokeArguments {
    /// The token's id.
    id: String,
    /// Why, for the audit log.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    server: ServerArguments,
}

impl TokensCommand {
    /// Runs the command.
    ///
    /// *Errors*: those of the server.
    pub fn run(self) -> Result<(), CommandError> {
        match self {
            Self::New(arguments) => {
                let wish = NewApiToken {
                    name: arguments.name,
                    scope: Scope::of(&arguments.scope).unwrap_or(Scope::Viewer),
                    devices: arguments.devices,
                    expires_s: arguments.days.map(|days| u64::from(days) * 86_400),
                    reason: arguments.made.reason,
                };
                let made: IssuedApiToken = arguments.made.server.client()?.post("/v1/tokens", &wish)?;
                hand_out(&made.text, arguments.made.to.as_deref())?;
                print::note(&format!(
                    "token {} of `{}`; it is not shown again",
                    made.token.id, made.token.name
                ));
                Ok(())
            }
            Self::List(arguments) => list::<ApiToken>(&arguments, "/v1/tokens", &TOKEN_COLUMNS),
            Self::Revoke(arguments) => revoke(&arguments, "tokens"),
        }
    }
}

impl EnrolmentTokensCommand {
    /// Runs the command.
    ///
    /// *Errors*: those of the server.
    pub fn run(self) -> Result<(), CommandError> {
        match self {
            Self::New(arguments) => {
                let wish = NewEnrolmentToken {
                    labels: arguments.labels.into_iter().collect(),
                    expires_s: u64::from(arguments.hours) * 3_600,
                    uses: arguments.uses,
                    reason: arguments.made.reason,
                };
                let client = arguments.made.server.client()?;
                let made: IssuedEnrolmentToken = client.post("/v1/enrolment-tokens", &wish)?;
                hand_out(&made.text, arguments.made.to.as_deref())?;
                print::note(&format!(
                    "token {} for {} gateways, until {}",
                    made.token.id, made.token.uses_left, made.token.expires
                ));
                print::note("next: on each gateway `dunlind enroll --token-file FILE`");
                Ok(())
            }
            Self::List(arguments) => {
                list::<EnrolmentTokenStatus>(&arguments, "/v1/enrolment-tokens", &ENROLMENT_COLUMNS)
            }
            Self::Revoke(arguments) => revoke(&arguments, "enrolment-tokens"),
        }
    }
}

impl AuditCommand {
    /// Runs the command.
    ///
    /// *Errors*: those of the server; the log is not as it was written.
    pub fn run(self) -> Result<(), CommandError> {
        match self {
            Self::List(arguments) => list::<AuditLine>(&arguments, "/v1/audit", &AUDIT_COLUMNS),
            Self::Verify(arguments) => {
                let check: AuditCheck = arguments.server.client()?.get("/v1/audit/verify")?;
                if let Some(line) = check.first_broken {
                    return Err(CommandError::CheckFailed(format!(
                        "line {line} of the audit log is not as it was written"
                    )));
                }
                let digest = check.last_digest.unwrap_or_default();
                print::line(&format!(
                    "{} lines, each bound to the one before; the last has digest {digest}",
                    check.lines
                ));
                print::note("keep the digest elsewhere: a log that was cut at its end shows by it");
                Ok(())
            }
        }
    }
}

fn list<T: serde::Serialize + serde::de::DeserializeOwned>(
    arguments: &ListArguments,
    path: &str,
    columns: &[Column],
) -> Result<(), CommandError> {
    let items: Vec<T> = arguments.server.client()?.list(path, LIST_MAX)?;
    Output::of(&items)?.print_list(arguments.output.format, columns)
}

fn revoke(arguments: &RevokeArguments, kind: &str) -> Result<(), CommandError> {
    let path = format!("/v1/{kind}/{}/revoke", encoded(&arguments.id));
    let order = Order { reason: arguments.reason.clone() };
    let _: serde_json::Value = arguments.server.client()?.post(&path, &order)?;
    print::line(&format!("{} is revoked", arguments.id));
    Ok(())
}

fn hand_out(text: &str, to: Option<&Path>) -> Result<(), CommandError> {
    let Some(path) = to else {
        print::line(text);
        return Ok(());
    };
    atomic_file::write_from(path, &mut format!("{text}\n").as_bytes(), MODE)
        .map_err(|e| CommandError::failed(format!("cannot write `{}`", path.display()), e))
}
