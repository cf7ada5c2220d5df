//! `dunlin devices` and `dunlin labels`: gateways, found by labels, accepted, suspended, revoked, labelled.

use clap::{Args, Subcommand};
use dunlin_fleet_api::device::{DeviceDetail, DeviceSummary, NewLabels};
use dunlin_fleet_api::enrolment::{ExpectedDevice, NewExpectedDevice};
use dunlin_fleet_api::order::Order;
use reqwest::Method;

use super::CommandError;
use crate::fleet::client::{Client, encoded};
use crate::fleet::profile::ServerArguments;
use crate::output::{Column, Output, OutputArguments, column, wide};
use crate::print;

/// Columns of a list of gateways.
const COLUMNS: [Column; 8] = [
    column("DEVICE", "/id"),
    column("STATE", "/state"),
    column("ONLINE", "/is_online"),
    column("LABELS", "/labels"),
    column("MODELS", "/models"),
    column("SEEN", "/seen"),
    wide("HOST", "/hostname"),
    wide("REASON", "/reason"),
];

/// Shows gateways, and decides about them.
#[derive(Debug, Subcommand)]
pub enum DevicesCommand {
    /// List gateways.
    List(ListArguments),
    /// Show all that is known of a gateway.
    Get(OneArguments),
    /// Accept a gateway that waits; compare its six words with what `dunlind enroll` shows first.
    Accept(OrderArguments),
    /// Suspend a gateway: it keeps inferring; its uploads and updates wait.
    Suspend(OrderArguments),
    /// Let a suspended gateway speak again.
    Resume(OrderArguments),
    /// Revoke a gateway, for ever.
    Revoke(OrderArguments),
    /// Expect a gateway by its key: it needs no token.
    Expect(ExpectArguments),
}

/// Gives gateways labels.
#[derive(Debug, Subcommand)]
pub enum LabelsCommand {
    /// Set labels of a gateway, as in `site=plant-1`; `site=` takes one away. Others stay.
    Set(SetArguments),
}

/// Arguments of `dunlin devices list`.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Label query, as in 'site=plant-1 && board~pi4*'.
    #[arg(default_value = "*")]
    query: String,
    /// Only those of this state.
    #[arg(long, value_parser = ["pending", "active", "suspended", "revoked"])]
    state: Option<String>,
    /// Most gateways to show.
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// Arguments of a command about one gateway.
#[derive(Debug, Args)]
pub struct OneArguments {
    /// The gateway's id.
    device: String,
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// Arguments of an order to a gateway.
#[derive(Debug, Args)]
pub struct OrderArguments {
    /// The gateway's id.
    device: String,
    /// Why, for the audit log; needed to suspend and to revoke.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    server: ServerArguments,
}

/// Arguments of `dunlin devices expect`.
#[derive(Debug, Args)]
pub struct ExpectArguments {
    /// The gateway's public ed25519 key in hexadecimal.
    public_key: String,
    /// Label that it gets, as in `site=plant-1`; may be given more than once.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Why, for the audit log.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    server: ServerArguments,
}

/// Arguments of `dunlin labels set`.
#[derive(Debug, Args)]
pub struct SetArguments {
    /// The gateway's id.
    device: String,
    /// Labels, as in `site=plant-1`; `site=` takes one away.
    #[arg(required = true, value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Why, for the audit log.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    server: ServerArguments,
}

/// Reads `NAME=VALUE`.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| "write NAME=VALUE".to_owned())
}

impl DevicesCommand {
    /// Runs the command.
    ///
    /// *Errors*: those of the server.
    pub fn run(self) -> Result<(), CommandError> {
        match self {
            Self::List(arguments) => list(&arguments),
            Self::Get(arguments) => {
                let path = format!("/v1/devices/{}", encoded(&arguments.device));
                let device: DeviceDetail = arguments.server.client()?.get(&path)?;
                Output::of(&device)?.print_object(arguments.output.format)
            }
            Self::Accept(arguments) => order(&arguments, "accept"),
            Self::Suspend(arguments) => order(&arguments, "suspend"),
            Self::Resume(arguments) => order(&arguments, "resume"),
            Self::Revoke(arguments) => order(&arguments, "revoke"),
            Self::Expect(arguments) => expect(&arguments),
        }
    }
}

impl LabelsCommand {
    /// Runs the command.
    ///
    /// *Errors*: those of the server.
    pub fn run(self) -> Result<(), CommandError> {
        let Self::Set(arguments) = self;
        let client = arguments.server.client()?;
        let path = format!("/v1/devices/{}", encoded(&arguments.device));
        let (device, tag): (DeviceDetail, _) = client.get_with_tag(&path)?;
        let mut labels = device.summary.labels;
        for (name, value) in arguments.labels {
            match value.is_empty() {
                true => drop(labels.remove(&name)),
                false => drop(labels.insert(name, value)),
            }
        }
        let wish = NewLabels { labels, reason: arguments.reason };
        let device: DeviceDetail =
            client.send(Method::PUT, &format!("{path}/labels"), &wish, tag.as_deref())?;
        say(&device.summary);
        Ok(())
    }
}

fn list(arguments: &ListArguments) -> Result<(), CommandError> {
    let client: Client = arguments.server.client()?;
    let mut path = format!("/v1/devices?query={}", encoded(&arguments.query));
    if let Some(state) = &arguments.state {
        path.push_str("&state=");
        path.push_str(state);
    }
    let devices: Vec<DeviceSummary> = client.list(&path, arguments.limit)?;
    let mut shown = serde_json::json!(devices);
    if !arguments.output.format.is_for_programs() {
        // What a model runs, in one cell.
        for device in shown.as_array_mut().into_iter().flatten() {
            let models = device["models"].as_array().into_iter().flatten();
            let text = |name: &serde_json::Value| name.as_str().unwrap_or("-").to_owned();
            let cells: Vec<String> = models
                .map(|model| {
                    format!("{}@{}:{}", text(&model["model"]), text(&model["version"]), text(&model["phase"]))
                })
                .collect();
            device["models"] = cells.join(" ").into();
        }
    }
    Output::of(&shown)?.print_list(arguments.output.format, &COLUMNS)
}

fn order(arguments: &OrderArguments, word: &str) -> Result<(), CommandError> {
    let path = format!("/v1/devices/{}/{word}", encoded(&arguments.device));
    let device: DeviceDetail =
        arguments.server.client()?.post(&path, &Order { reason: arguments.reason.clone() })?;
    say(&device.summary);
    Ok(())
}

fn say(device: &DeviceSummary) {
    let labels: Vec<String> = device.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let state = serde_json::json!(device.state);
    print::line(&format!("{}: {} {}", device.id, state.as_str().unwrap_or_default(), labels.join(" ")));
}

fn expect(arguments: &ExpectArguments) -> Result<(), CommandError> {
    let wish = NewExpectedDevice {
        public_key: arguments.public_key.clone(),
        labels: arguments.labels.iter().cloned().collect(),
        reason: arguments.reason.clone(),
    };
    let expected: ExpectedDevice = arguments.server.client()?.post("/v1/expected-devices", &wish)?;
    print::line(&format!("{} is expected", expected.id));
    Ok(())
}
