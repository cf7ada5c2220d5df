//! What a rollout would do, before anybody starts it.
//!
//! Exact gateways by phase, those that cannot run it and why, what has to be fetched, who is away, and how it will run by
//! what is known of the same boards. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_protocol::DeviceReport;

use super::census::{Census, Mark};
use crate::rollout::facts::DeviceFacts;
use crate::rollout::phase::{meant, reached};
use crate::rollout::spec::RolloutSpec;

/// The label that says where a gateway stands, where a rollout spreads by no other.
const SITE: &str = "site";

/// What a rollout would do.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// The gateways, in the order in which they come.
    pub devices: Vec<PlannedDevice>,
    /// Gateways that each phase reaches, those of the phases before included.
    pub phases: Vec<usize>,
    /// Gateways that the query means and that cannot run it, with why.
    pub unfit: Vec<(String, String)>,
    /// By the value of the label that spreads it, or of `site`: gateways and bytes to be fetched.
    pub sites: BTreeMap<String, (usize, u64)>,
    /// By class of board, how it will run.
    pub boards: Vec<Board>,
    /// People that must approve.
    pub approvals: u32,
    /// What is likely not meant.
    pub warnings: Vec<String>,
}

/// A gateway of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDevice {
    /// Its id.
    pub device: String,
    /// In which phase it comes, from 0.
    pub phase: usize,
    /// Whether it was heard of of late.
    pub is_online: bool,
    /// Whether it may change what it runs at this moment.
    pub is_window_open: bool,
    /// Bytes that it has to fetch.
    pub bytes: u64,
    /// What is left of its data budget this month; none where it has none.
    pub budget_left_bytes: Option<u64>,
    /// Whether it has all of it.
    pub has_it: bool,
}

/// How a release will run on boards of a class.
#[derive(Debug, Clone, PartialEq)]
pub struct Board {
    /// The class.
    pub class: String,
    /// The model.
    pub model: String,
    /// Gateways of the class.
    pub devices: usize,
    /// The highest p99 of an inference in us that gateways of the class report of this release.
    pub p99_us: Option<f64>,
    /// The same of the release that they run.
    pub p99_us_before: Option<f64>,
    /// What the package allows itself, in us.
    pub p99_us_budget: Option<f64>,
    /// Memory that the package allows itself.
    pub resident_bytes_budget: u64,
    /// The least memory that is free on a gateway of the class.
    pub available_bytes_min: Option<u64>,
}

/// Returns what a rollout would do, by the fleet as it is.
#[must_use]
pub fn plan(spec: &RolloutSpec, id: &str, census: &Census, now_ms: u64) -> Plan {
    let fleet = census.fleet();
    let order = meant(spec, id, fleet);
    let mut plan = Plan::default();
    let mut phase_of: BTreeMap<&str, usize> = BTreeMap::new();
    for phase in 0..spec.phases.len() {
        let reached = reached(spec, phase, &order, fleet);
        plan.phases.push(reached.len());
        reached.into_iter().for_each(|device| {
            phase_of.entry(device).or_insert(phase);
        });
    }
    let site_label = spec.spread.as_ref().map_or(SITE, |spread| spread.label.as_str());
    for device in order {
        let (Some(facts), Some(phase)) = (fleet.get(device), phase_of.get(device)) else { continue };
        let mark = census.mark(device);
        let planned = PlannedDevice {
            device: device.to_owned(),
            phase: *phase,
            is_online: facts.is_online(now_ms),
            is_window_open: spec.is_open(facts, now_ms),
            bytes: bytes(spec, census, mark),
            budget_left_bytes: mark.and_then(budget_left),
            has_it: spec
                .releases
                .iter()
                .all(|release| facts.standing(release) == crate::rollout::facts::Standing::Good)
                && !spec.releases.is_empty(),
        };
        let site = facts.labels.get(site_label).cloned().unwrap_or_default();
        let of_site = plan.sites.entry(site).or_default();
        *of_site = (of_site.0 + 1, of_site.1 + planned.bytes);
        plan.approvals = plan.approvals.max(facts.approvals);
        plan.devices.push(planned);
    }
    plan.approvals = plan.approvals.max(spec.approvals);
    let is_meant = |facts: &DeviceFacts| spec.query.matches(&facts.labels);
    plan.unfit = fleet
        .iter()
        .filter(|(_, facts)| is_meant(facts))
        .filter_map(|(id, facts)| Some((id.clone(), spec.unfit(facts)?.to_owned())))
        .collect();
    plan.boards = boards(spec, census, &plan.devices);
    plan.warnings = warnings(spec, census, &plan);
    plan
}

/// Returns the bytes that a gateway has to fetch: the files that none of the releases it has holds.
fn bytes(spec: &RolloutSpec, census: &Census, mark: Option<&Mark>) -> u64 {
    let report = mark.and_then(|mark| mark.report.as_deref());
    let held: BTreeSet<String> = report.map(releases_of).unwrap_or_default();
    let has = |file: &str| {
        held.contains(file)
            || held.iter().any(|release| {
                census.package(release).is_some_and(|package| package.files.contains_key(file))
            })
    };
    let mut wanted: BTreeMap<&str, u64> = BTreeMap::new();
    for release in spec.releases.iter().filter(|release| !held.contains(&release.digest)) {
        let files = census.package(&release.digest).map(|package| &package.files);
        wanted.extend(files.into_iter().flatten().map(|(file, bytes)| (file.as_str(), *bytes)));
    }
    wanted.into_iter().filter(|(file, _)| !has(file)).map(|(_, bytes)| bytes).sum()
}

/// Returns the releases whose files a gateway has, by their digests.
pub(super) fn releases_of(report: &DeviceReport) -> BTreeSet<String> {
    let of_model = |model: &dunlin_protocol::report::ModelReport| {
        [&model.serving, &model.active, &model.previous]
            .into_iter()
            .flatten()
            .map(|release| release.digest.to_string())
            .collect::<Vec<_>>()
    };
    report.models.iter().flat_map(of_model).collect()
}

fn budget_left(mark: &Mark) -> Option<u64> {
    let monthly = mark.report.as_ref()?.budget.monthly_bytes?;
    let spent: u64 = mark.health.spent.iter().map(|spent| spent.sent_bytes + spent.received_bytes).sum();
    Some(monthly.saturating_sub(spent))
}

fn boards(spec: &RolloutSpec, census: &Census, devices: &[PlannedDevice]) -> Vec<Board> {
    let mut boards: BTreeMap<(String, &str), Board> = BTreeMap::new();
    for planned in devices {
        let Some(mark) = census.mark(&planned.device) else { continue };
        let (Some(report), Some(facts)) = (&mark.report, census.fleet().get(&planned.device)) else {
            continue;
        };
        let (class, architecture) =
            (report.facts.board_class.to_string(), report.facts.architecture.as_str());
        for release in &spec.releases {
            let Some(package) = census.package(&release.digest) else { continue };
            let board = boards.entry((class.clone(), &release.model)).or_insert_with(|| Board {
                class: class.clone(),
                model: release.model.clone(),
                devices: 0,
                p99_us: None,
                p99_us_before: None,
                p99_us_budget: package.p99_us(&class, architecture),
                resident_bytes_budget: package.resident_bytes,
                available_bytes_min: None,
            });
            board.devices += 1;
            let model = facts.models.get(&release.model);
            let p99 = |digest: Option<&String>| model?.counts.get(digest?)?.p99_us;
            board.p99_us = higher(board.p99_us, p99(Some(&release.digest)));
            let good = model.and_then(|model| model.good.as_ref()).filter(|good| **good != release.digest);
            board.p99_us_before = higher(board.p99_us_before, p99(good));
            let available = Some(mark.health.memory_available_bytes).filter(|bytes| *bytes > 0);
            board.available_bytes_min = [board.available_bytes_min, available].into_iter().flatten().min();
        }
    }
    boards.into_values().collect()
}

fn higher(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    [one, other].into_iter().flatten().max_by(f64::total_cmp)
}

fn warnings(spec: &RolloutSpec, census: &Census, plan: &Plan) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |count: usize, sentence: &str| {
        if count > 0 {
            warnings.push(sentence.replace("{}", &count.to_string()));
        }
    };
    warn(usize::from(plan.devices.is_empty()), "the query means no gateway that can run this");
    let missing = spec
        .releases
        .iter()
        .filter(|release| census.package(&release.digest).is_none_or(|package| package.is_removed));
    warn(missing.count(), "{} of the releases are not named by the owner at present");
    warn(
        plan.devices.iter().filter(|device| !device.is_online).count(),
        "{} gateways are away: they come in when they are back",
    );
    let over = |device: &&PlannedDevice| device.budget_left_bytes.is_some_and(|left| device.bytes > left);
    warn(
        plan.devices.iter().filter(over).count(),
        "{} gateways have less data left this month than they have to fetch",
    );
    let slow = |board: &&Board| match (board.p99_us, board.p99_us_budget) {
        (Some(p99), Some(budget)) => p99 > budget,
        _ => false,
    };
    warn(
        plan.boards.iter().filter(slow).count(),
        "on {} classes of boards the release is slower than its budget",
    );
    let tight =
        |board: &&Board| board.available_bytes_min.is_some_and(|bytes| bytes < board.resident_bytes_budget);
    warn(
        plan.boards.iter().filter(tight).count(),
        "on {} classes of boards a gateway has less memory free than the package may use",
    );
    warn(plan.unfit.len(), "{} gateways that are meant cannot run this and are left out");
    warnings
}
