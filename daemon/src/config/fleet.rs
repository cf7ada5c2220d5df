//! The fleet server: its address, and the files that the gateway reaches it with.
//!
//! Checks what is written; never connects, and never reads a token.

use std::collections::BTreeMap;

use dunlin_model_package::Span;
use dunlin_protocol::Name;
use dunlin_protocol::limits::{LABELS_MAX, URL_BYTES_MAX};

use super::LoadRequest;
use super::brokers::{Folders, check_file, is_world_readable};
use super::file::{FleetTable, SettingsModeName};
use super::finding::Findings;
use super::origin::Origins;
use super::quantity::Bytes;
use super::resolve::span_in;
use super::settings::FleetSettings;
use crate::remote_settings::desk::{SettingsMode, SettingsRule};
use crate::upload::UploadSettings;
use crate::upload::selection::Sampling;

/// Most mirrors: one a site and one a region, with room.
const MIRRORS_MAX: usize = 8;

/// Turns the table into settings, noting everything that is wrong with it.
pub(super) fn resolve(
    table: &FleetTable,
    request: &LoadRequest,
    origins: &Origins,
    findings: &mut Findings<'_>,
) -> FleetSettings {
    let folders = Folders::of(request, origins);
    let url = table.url.as_deref().map(|url| checked_url("fleet.url", url, findings));
    if table.mirrors.len() > MIRRORS_MAX {
        let message = format!("names {} mirrors", table.mirrors.len());
        findings.error("fleet.mirrors", message, format!("name {MIRRORS_MAX} at most"));
    }
    let mirrors = table.mirrors.iter().enumerate();
    let mirrors =
        mirrors.map(|(at, url)| checked_url(&format!("fleet.mirrors[{at}]"), url, findings)).collect();
    let token_file = table.token_file.as_deref().map(|name| {
        let file = folders.locate_secret("fleet.token_file", name);
        // A token is used once; who enrolled with it may have removed it.
        if is_world_readable(&file) {
            let message = format!("`{}` can be read by every user of this machine", file.display());
            findings.warning("fleet.token_file", message, format!("chmod 0600 {}", file.display()));
        }
        file
    });
    let ca_file = table.ca_file.as_deref().map(|name| {
        let file = folders.locate("fleet.ca_file", name);
        check_file("fleet.ca_file", &file, findings);
        file
    });
    if let Some(proxy) = &table.proxy
        && !proxy.starts_with("http://")
    {
        let message = "is no address of an HTTP proxy";
        findings.error("fleet.proxy", message, "write `http://host:port`");
    }
    let mut span =
        |key: &str, span, min, max| span_in(findings, &format!("fleet.{key}"), span, min, max).as_duration();
    let hour = Span::from_secs(3_600);
    let interval_min = span("interval_min", table.interval_min, Span::from_millis(100), hour);
    let (minute, week) = (Span::from_secs(60), Span::from_secs(7 * 86_400));
    let interval_max = span("interval_max", table.interval_max, minute, week);
    let second = Span::from_secs(1);
    let confirm_max = span("settings_confirm_max", table.settings_confirm_max, second, hour);
    let mode = match table.settings {
        SettingsModeName::Take => SettingsMode::Take,
        SettingsModeName::Refuse => SettingsMode::Refuse,
    };
    check_labels(&table.labels, findings);
    FleetSettings {
        url,
        token_file,
        ca_file,
        proxy: table.proxy.clone(),
        mirrors,
        interval_min,
        interval_max,
        metered: table.metered,
        upload: upload(table, findings),
        settings: SettingsRule { mode, confirm_max },
        labels: table.labels.clone(),
    }
}

/// Smallest data budget: questions once a day for a month, and some metadata.
const BUDGET_BYTES_MIN: u64 = 100_000;

fn upload(table: &FleetTable, findings: &mut Findings<'_>) -> UploadSettings {
    let predictions = table.upload_predictions.parse().unwrap_or_else(|message: String| {
        findings.error("fleet.upload_predictions", message, "write `all`, `none`, or for example `1/10`");
        Sampling::All
    });
    let budget_bytes = table.data_budget.as_deref().and_then(|text| {
        let hint = "write bytes of a month, as in `20MB/month`";
        match text.strip_suffix("/month").unwrap_or(text).parse::<Bytes>() {
            Ok(Bytes(bytes)) if bytes >= BUDGET_BYTES_MIN => Some(bytes),
            Ok(_) => {
                findings.error(
                    "fleet.data_budget",
                    format!("`{text}` is too little to ask once a day"),
                    hint,
                );
                None
            }
            Err(message) => {
                findings.error("fleet.data_budget", message, hint);
                None
            }
        }
    });
    UploadSettings { predictions, budget_bytes }
}

/// Checks a URL and takes the slash from its end. The messages never repeat it: a password may stand in it.
fn checked_url(path: &str, url: &str, findings: &mut Findings<'_>) -> String {
    let hint = "write for example `https://fleet.example`";
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    match host {
        None => findings.error(path, "the URL begins neither with `https://` nor with `http://`", hint),
        Some("") => findings.error(path, "the URL names no host", hint),
        Some(host) if host.contains('@') => {
            findings.error(path, "a user or password does not belong into the URL", hint);
        }
        Some(_) if url.len() > URL_BYTES_MAX || url.contains(['?', '#', ' ']) => {
            findings.error(path, "the URL has a query or a blank, or is too long", hint);
        }
        Some(_) => {}
    }
    url.trim_end_matches('/').to_owned()
}

fn check_labels(labels: &BTreeMap<String, String>, findings: &mut Findings<'_>) {
    if labels.len() > LABELS_MAX {
        let hint = format!("name {LABELS_MAX} at most");
        findings.error("fleet.labels", format!("names {} labels", labels.len()), hint);
    }
    for (name, value) in labels {
        if name.is_empty() || Name::new(name.as_str()).is_err() || Name::new(value.as_str()).is_err() {
            let message = "is too long, or has control characters";
            findings.error(&format!("fleet.labels.{name}"), message, "write a short name and a short value");
        }
    }
}
