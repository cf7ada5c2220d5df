//! Rollouts as they go over the wire, and specifications as they come.
//!
//! What the server knows better than who asks (models, versions, counters, paths) is filled in from what the owner
//! approved. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_fleet_api::rollout as wire;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Declined;
use super::texts::{read_query, time};
use crate::rollout::gate::Gate;
use crate::rollout::spec::{self, RolloutSpec};
use crate::rollout::state::{Member, Stage};
use crate::rollouts::Plan;
use crate::store::rollouts::{self, Kept};
use crate::store::{Sql, StoreError, releases};

/// Entries of a plan that are shown.
const SHOWN_MAX: usize = 1_000;

/// Turns one form of a value into the other: both have the same members.
fn convert<T: DeserializeOwned>(value: &impl Serialize, what: &str) -> Result<T, StoreError> {
    let damaged = |error: serde_json::Error| StoreError::Damaged(format!("{what}: {error}"));
    serde_json::from_value(serde_json::to_value(value).map_err(damaged)?).map_err(damaged)
}

/// Reads what was asked for, with what is left out filled in; also who published what it gives.
pub(super) fn read_spec(
    sql: &mut dyn Sql,
    asked: &wire::RolloutSpec,
) -> Result<Result<(RolloutSpec, BTreeSet<String>), Declined>, StoreError> {
    if let Err(declined) = require_form(asked) {
        return Ok(Err(declined));
    }
    let (mut asked, mut publishers) = (asked.clone(), BTreeSet::new());
    for named in &mut asked.releases {
        let found = if is_digest(&named.digest) { releases::get(sql, &named.digest)? } else { None };
        let Some(release) = found.filter(|release| release.removed_ms.is_none()) else {
            return Ok(Err(missing("release", &named.digest)));
        };
        publishers.insert(release.published_by);
        (named.model, named.version) = (Some(release.model), Some(release.version));
        named.counter = Some(release.counter);
    }
    if let Some(named) = &mut asked.settings {
        let path = if is_digest(&named.digest) { rollouts::settings_path(sql, &named.digest)? } else { None };
        let Some(path) = path else { return Ok(Err(missing("settings", &named.digest))) };
        named.path = Some(path);
    }
    let read = serde_json::to_value(&asked).and_then(serde_json::from_value::<RolloutSpec>);
    let spec = match read {
        Ok(spec) => spec,
        Err(error) => return Ok(Err(Declined::unsound(format!("`spec`: {error}")))),
    };
    if let Err(wrong) = spec.check() {
        return Ok(Err(Declined::unsound(format!("`spec`: {}", wrong.join("; ")))));
    }
    Ok(Ok((spec, publishers)))
}

/// Refuses what has not the form that the interface's document gives it, before anything is looked up.
fn require_form(asked: &wire::RolloutSpec) -> Result<(), Declined> {
    read_query(&asked.query)?;
    for site in &asked.site_windows {
        read_query(&site.query)?;
    }
    let of_sites = asked.site_windows.iter().flat_map(|site| &site.windows);
    let is_window = |window: &wire::Window| {
        window.days.iter().all(|day| *day < 7) && window.from_min.max(window.to_min) < 24 * 60
    };
    let is_too_much = asked.releases.len() > spec::RELEASES_MAX
        || asked.phases.as_ref().is_some_and(|phases| phases.len() > spec::PHASES_MAX)
        || asked.windows.len() > spec::WINDOWS_MAX
        || asked.site_windows.len() > spec::SITES_MAX;
    if is_too_much || !asked.windows.iter().chain(of_sites).all(is_window) {
        let detail =
            "`spec`: a day is 0 to 6, times are below 24:00, and lists are as long as the document says";
        return Err(Declined::malformed(detail.to_owned()));
    }
    Ok(())
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn missing(kind: &str, digest: &str) -> Declined {
    let digest: String = digest.chars().take(80).collect();
    let digest = digest.escape_debug();
    Declined::conflict(format!("the owner names no {kind} `{digest}`; publish it first"))
}

pub(super) fn summary(kept: &Kept) -> Result<wire::RolloutSummary, StoreError> {
    let rollout = &kept.rollout;
    let spec = shown_spec(&rollout.spec)?;
    Ok(wire::RolloutSummary {
        id: rollout.id.clone(),
        status: convert(&rollout.status, "a rollout's status")?,
        releases: spec.releases,
        settings: spec.settings,
        query: spec.query,
        phase: rollout.phase + 1,
        phases: rollout.spec.phases.len(),
        stage: match rollout.stage {
            Stage::Deploying => wire::Stage::Deploying,
            Stage::Baking { .. } => wire::Stage::Baking,
        },
        halt: rollout.halt.as_ref().map(|halt| wire::Halt {
            gate: word(&halt.gate),
            phase: halt.phase + 1,
            at: time(halt.at_ms),
            words: halt.words.clone(),
        }),
        author: rollout.author.clone(),
        created: time(kept.created_ms),
        started: (rollout.started_ms > 0).then(|| time(rollout.started_ms)),
        changed: time(kept.changed_ms),
        revision: kept.revision,
    })
}

fn shown_spec(spec: &RolloutSpec) -> Result<wire::RolloutSpec, StoreError> {
    convert(spec, "a rollout's specification")
}

/// Returns a rollout with its gates, and its gateways by outcome.
pub(super) fn detail(sql: &mut dyn Sql, kept: &Kept) -> Result<wire::RolloutDetail, StoreError> {
    let rollout = &kept.rollout;
    Ok(wire::RolloutDetail {
        summary: summary(kept)?,
        spec: shown_spec(&rollout.spec)?,
        baking_since: match rollout.stage {
            Stage::Deploying => None,
            Stage::Baking { since_ms } => Some(time(since_ms)),
        },
        approvals_needed: rollout.approvals,
        approved_by: rollout.approved_by.iter().cloned().collect(),
        gates: rollout.gates.iter().map(gate).collect(),
        devices: rollouts::outcomes(sql, &rollout.id)?,
    })
}

fn gate(gate: &Gate) -> wire::Gate {
    wire::Gate {
        gate: word(&gate.kind),
        value: gate.value,
        bound: gate.bound,
        verdict: word(&gate.verdict),
        words: gate.words.clone(),
    }
}

fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

pub(super) fn device(id: String, member: &Member) -> wire::RolloutDevice {
    let (outcome, cause) = member.outcome.word();
    let before = member.before.iter().map(|(model, before)| (model.clone(), before.digest.clone()));
    wire::RolloutDevice {
        device: id,
        phase: member.phase + 1,
        assigned: time(member.assigned_ms),
        tries: member.tries,
        outcome: outcome.to_owned(),
        cause: cause.map(str::to_owned),
        before: before.collect(),
    }
}

pub(super) fn shown_plan(plan: Plan) -> wire::RolloutPlan {
    let Plan { devices, phases, unfit, sites, boards, approvals, warnings } = plan;
    let site = |(site, (devices, fetch_bytes))| (site, wire::PlannedSite { devices, fetch_bytes });
    let sites: BTreeMap<_, _> = sites.into_iter().map(site).collect();
    wire::RolloutPlan {
        devices_total: devices.len(),
        phases,
        unfit_total: unfit.len(),
        offline_total: devices.iter().filter(|device| !device.is_online).count(),
        bytes_total: devices.iter().map(|device| device.bytes).sum(),
        sites,
        boards: boards
            .into_iter()
            .map(|board| wire::PlannedBoard {
                class: board.class,
                model: board.model,
                devices: board.devices,
                p99_us: board.p99_us,
                p99_us_before: board.p99_us_before,
                p99_us_budget: board.p99_us_budget,
                resident_budget_bytes: board.resident_bytes_budget,
                available_min_bytes: board.available_bytes_min,
            })
            .collect(),
        approvals_needed: approvals,
        warnings,
        unfit: unfit
            .into_iter()
            .take(SHOWN_MAX)
            .map(|(device, reason)| wire::UnfitDevice { device, reason })
            .collect(),
        devices: devices
            .into_iter()
            .take(SHOWN_MAX)
            .map(|planned| wire::PlannedDevice {
                device: planned.device,
                phase: planned.phase + 1,
                is_online: planned.is_online,
                is_window_open: planned.is_window_open,
                fetch_bytes: planned.bytes,
                budget_left_bytes: planned.budget_left_bytes,
                has_it: planned.has_it,
            })
            .collect(),
    }
}

/// Returns the rules of the approval policy as they are kept.
pub(super) fn read_rules(rules: &[wire::ApprovalRule]) -> Result<Vec<rollouts::ApprovalRule>, Declined> {
    if rules.len() > spec::SITES_MAX {
        return Err(Declined::malformed(format!("`rules` are more than {}", spec::SITES_MAX)));
    }
    rules
        .iter()
        .map(|rule| {
            // More than 16 people approve nothing.
            if rule.approvals > 16 {
                return Err(Declined::malformed("`approvals` is more than 16".to_owned()));
            }
            Ok(rollouts::ApprovalRule { query: read_query(&rule.query)?, approvals: rule.approvals })
        })
        .collect()
}

pub(super) fn shown_rules(rules: &[rollouts::ApprovalRule]) -> wire::ApprovalPolicy {
    let shown = |rule: &rollouts::ApprovalRule| wire::ApprovalRule {
        query: rule.query.to_string(),
        approvals: rule.approvals,
    };
    wire::ApprovalPolicy { rules: rules.iter().map(shown).collect() }
}
