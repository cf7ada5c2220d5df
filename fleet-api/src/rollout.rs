//! Rollouts: what is asked for, where each stands, what it would do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A release that is rolled out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRef {
    /// SHA-256 of its manifest in hexadecimal.
    pub digest: String,
    /// The model; filled in by the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Version for people; filled in by the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Release counter; filled in by the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<u64>,
}

/// Settings that are rolled out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SettingsRef {
    /// SHA-256 of the file in hexadecimal.
    pub digest: String,
    /// Path of the target; filled in by the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// How far a phase reaches, the phases before included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// So many gateways.
    Count(u32),
    /// So many percent of those that are meant, rounded up; 1 to 100.
    Percent(u32),
    /// All that match this label query besides.
    Labels(String),
}

/// How long a phase is watched: both must be over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Bake {
    /// Time since the phase's last gateway settled.
    pub time_ms: u64,
    /// Predictions with the release, of all gateways together.
    pub predictions: u64,
}

/// Bounds of the gates. One that is null is not judged; those that are left out are the usual ones.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Gates {
    /// Failures that are borne, whatever the phase's size; usually 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,
    /// Failures that are borne, in percent of the gateways; usually 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures_percent: Option<f64>,
    /// p99 of an inference by the package's own budget; usually 1.
    #[serde(default, with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub latency_of_budget: Option<Option<f64>>,
    /// p99 of an inference by that of the release before; usually 3.
    #[serde(default, with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub latency_of_old: Option<Option<f64>>,
    /// Starts of a worker on one gateway beyond the first; usually 3.
    #[serde(default, with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub restarts: Option<Option<u32>>,
    /// Share of predictions that are not finite, or failed; usually 0.01.
    #[serde(default, with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub invalid_rate: Option<Option<f64>>,
    /// By how much the share of predictions from which the model abstains may rise; usually 0.1.
    #[serde(default, with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub abstention_rise: Option<Option<f64>>,
    /// Smallest share of compared predictions that agree with the release before; usually 0.8.
    #[serde(default, with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub agreement: Option<Option<f64>>,
    /// Largest relative change of an output against the release before; usually not judged.
    #[serde(default, with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub output_change: Option<Option<f64>>,
    /// Compared predictions before agreement is judged; usually 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared_min: Option<u64>,
}

/// Keeps a bound that is null apart from one that is left out.
mod given {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<Option<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().and_then(Option::as_ref).serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::deserialize(deserializer).map(Some)
    }
}

/// What happens when a gate fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Every gateway that has the release goes back, those that had succeeded too.
    #[default]
    Revert,
    /// The rollout stops until somebody decides.
    Hold,
}

/// Gateways with the same value of a label are not updated at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// The label, as in `site`.
    pub label: String,
    /// How many may be under way at once.
    pub at_once: u32,
}

/// A day of the week, 0 for Monday to 6 for Sunday.
#[derive(Debug, ToSchema)]
#[schema(value_type = u32, maximum = 6)]
pub struct Day(pub u8);

/// When gateways may change what they run, in their own time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Days on which it opens, 0 for Monday to 6 for Sunday; all where there is none.
    #[serde(default)]
    #[schema(value_type = Vec<Day>)]
    pub days: Vec<u8>,
    /// When it opens, in minutes after midnight.
    #[schema(maximum = 1439)]
    pub from_min: u32,
    /// When it closes; not after `from_min` means on the next day.
    #[schema(maximum = 1439)]
    pub to_min: u32,
}

/// Windows of some gateways in place of those of all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteWindows {
    /// Which gateways, as a label query.
    #[schema(max_length = 2048, format = "label-query")]
    pub query: String,
    /// Their windows; any time where there is none.
    pub windows: Vec<Window>,
}

/// A rollout as it is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutSpec {
    /// What is rolled out: at most one release a model; none where there are settings alone.
    #[serde(default)]
    #[schema(max_items = 16)]
    pub releases: Vec<ReleaseRef>,
    /// Settings that go with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<SettingsRef>,
    /// Which gateways are meant, as a label query; live: one that matches later comes in.
    #[schema(max_length = 2048, format = "label-query")]
    pub query: String,
    /// The phases; usually one gateway, 5 %, 25 %, 100 %.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 32)]
    pub phases: Option<Vec<Reach>>,
    /// How long each phase is watched; usually an hour and 1,000 predictions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bake: Option<Bake>,
    /// When it is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gates: Option<Gates>,
    /// What happens then.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// What is not updated at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
    /// When gateways may change what they run; any time where there is none.
    #[serde(default)]
    #[schema(max_items = 32)]
    pub windows: Vec<Window>,
    /// Windows of some gateways in place of these; the first that matches counts.
    #[serde(default)]
    #[schema(max_items = 256)]
    pub site_windows: Vec<SiteWindows>,
    /// For how long a gateway may put the update off; usually a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defer_ms_max: Option<u64>,
    /// How long a gateway that is online may take before it counts as failed; usually an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install_ms_max: Option<u64>,
    /// How many people must approve; the approval policy may ask for more.
    #[serde(default)]
    pub approvals: u32,
}

/// A rollout to be made, as a draft.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRollout {
    /// What is asked for.
    pub spec: RolloutSpec,
    /// Why.
    #[serde(default)]
    #[schema(max_length = 500, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub reason: String,
}

/// A rollout to be tried on paper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// What is asked for.
    pub spec: RolloutSpec,
}

/// Where a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It was made and not begun.
    Draft,
    /// It waits for people to approve it.
    Approval,
    /// It goes on by itself.
    Running,
    /// Somebody stopped it for a while.
    Paused,
    /// A gate stopped it, and it waits for a decision.
    Halted,
    /// The gateways that have the release go back.
    Reverting,
    /// They all went back, as far as they were heard of.
    Reverted,
    /// The last phase is over; gateways that come later are given the release too.
    Completed,
    /// Somebody ended it.
    Aborted,
}

/// How far a phase is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Gateways are given the release.
    Deploying,
    /// All have it that can be waited for; it is watched.
    Baking,
}

/// An order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutOrder {
    /// Begin, or ask for approval.
    Start,
    /// Approve; who made it or published what it gives cannot.
    Approve,
    /// Give nobody else the release.
    Pause,
    /// Go on after a pause, or after a halt that reverted nothing.
    Resume,
    /// Go on to the next phase without waiting.
    Promote,
    /// Give the gateways that failed another try.
    Retry,
    /// Have every gateway go back.
    Revert,
    /// End it; what has the release keeps it.
    Abort,
}

/// A rollout in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutSummary {
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub status: Status,
    /// What it gives.
    pub releases: Vec<ReleaseRef>,
    /// Settings that go with it.
    pub settings: Option<SettingsRef>,
    /// Which gateways are meant.
    pub query: String,
    /// The present phase, from 1.
    pub phase: usize,
    /// How many phases it has.
    pub phases: usize,
    /// How far the phase is.
    pub stage: Stage,
    /// Why it halted, where it did.
    pub halt: Option<Halt>,
    /// Who made it.
    pub author: String,
    /// When it was made.
    pub created: String,
    /// When it was started.
    pub started: Option<String>,
    /// When it last changed.
    pub changed: String,
    /// Rises with every change; the ETag.
    pub revision: u64,
}

/// All of a rollout but its gateways.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutDetail {
    /// What stands in lists.
    #[serde(flatten)]
    pub summary: RolloutSummary,
    /// What was asked for, with what was left out filled in.
    pub spec: RolloutSpec,
    /// Since when the phase is watched.
    pub baking_since: Option<String>,
    /// How many people must approve it.
    pub approvals_needed: u32,
    /// Who approved it.
    pub approved_by: Vec<String>,
    /// The gates as they were judged last.
    pub gates: Vec<Gate>,
    /// Gateways by what became of them.
    pub devices: BTreeMap<String, u64>,
}

/// Why a rollout halted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Halt {
    /// The gate, as in `agreement`.
    pub gate: String,
    /// In which phase, from 1.
    pub phase: usize,
    /// When.
    pub at: String,
    /// In words, with numbers and units.
    pub words: String,
}

/// A gate at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Gate {
    /// `install`, `restarts`, `latency`, `invalid`, `abstention`, `agreement` or `output_change`.
    pub gate: String,
    /// What was found, where there is something.
    pub value: Option<f64>,
    /// The bound.
    pub bound: Option<f64>,
    /// `pass`, `wait` or `fail`.
    pub verdict: String,
    /// In words, with numbers and units.
    pub words: String,
}

/// A gateway of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutDevice {
    /// Its id.
    pub device: String,
    /// In which phase it came, from 1.
    pub phase: usize,
    /// When it was given the release.
    pub assigned: String,
    /// How often it was given the release.
    pub tries: u32,
    /// `assigned`, `good`, `failed`, `retrying`, `superseded`, `reverting`, `reverted` or `dropped`.
    pub outcome: String,
    /// The code of its failure, as in `selftest:golden`.
    pub cause: Option<String>,
    /// By model, the digest of what it had before.
    pub before: BTreeMap<String, String>,
}

/// Which rollouts are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RolloutParams {
    /// Only those that stand so.
    pub status: Option<Status>,
    /// Most entries of the page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<u32>,
    /// Where the page begins: `next` of the one before.
    #[param(format = "cursor", pattern = "^[A-Za-z0-9_-]*$")]
    pub cursor: Option<String>,
}

/// What a rollout would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutPlan {
    /// Gateways that it would reach.
    pub devices_total: usize,
    /// The first thousand of them, in the order in which they come.
    pub devices: Vec<PlannedDevice>,
    /// Gateways that each phase reaches, those of the phases before included.
    pub phases: Vec<usize>,
    /// Gateways that are meant and cannot run it.
    pub unfit_total: usize,
    /// The first thousand of them, with why.
    pub unfit: Vec<UnfitDevice>,
    /// Gateways that are away.
    pub offline_total: usize,
    /// Bytes to be fetched by all together.
    pub bytes_total: u64,
    /// By site.
    pub sites: BTreeMap<String, PlannedSite>,
    /// By class of board, how it will run.
    pub boards: Vec<PlannedBoard>,
    /// How many people must approve.
    pub approvals_needed: u32,
    /// What is likely not meant.
    pub warnings: Vec<String>,
}

/// A gateway of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedDevice {
    /// Its id.
    pub device: String,
    /// In which phase it comes, from 1. Where the order is drawn is decided when the rollout is made.
    pub phase: usize,
    /// Whether it was heard of of late.
    pub is_online: bool,
    /// Whether it may change what it runs at this moment.
    pub is_window_open: bool,
    /// Bytes that it has to fetch.
    pub fetch_bytes: u64,
    /// What is left of its data budget this month.
    pub budget_left_bytes: Option<u64>,
    /// Whether it has all of it.
    pub has_it: bool,
}

/// A gateway that cannot run it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnfitDevice {
    /// Its id.
    pub device: String,
    /// Why.
    pub reason: String,
}

/// A site of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedSite {
    /// Gateways.
    pub devices: usize,
    /// Bytes that they have to fetch.
    pub fetch_bytes: u64,
}

/// How a release will run on boards of a class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlannedBoard {
    /// The class.
    pub class: String,
    /// The model.
    pub model: String,
    /// Gateways of the class.
    pub devices: usize,
    /// The highest p99 of an inference that gateways of the class report of this release.
    pub p99_us: Option<f64>,
    /// The same of the release that they run.
    pub p99_us_before: Option<f64>,
    /// What the package allows itself.
    pub p99_us_budget: Option<f64>,
    /// Memory that the package allows itself.
    pub resident_budget_bytes: u64,
    /// The least memory that is free on a gateway of the class.
    pub available_min_bytes: Option<u64>,
}

/// The approval policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApprovalPolicy {
    /// The rules; the strictest that means a gateway counts.
    pub rules: Vec<ApprovalRule>,
}

/// How many people must approve what some gateways are given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApprovalRule {
    /// Which gateways, as a label query.
    #[schema(max_length = 2048, format = "label-query")]
    pub query: String,
    /// How many people.
    #[schema(maximum = 16)]
    pub approvals: u32,
}

/// Another approval policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApprovalPolicy {
    /// The rules.
    #[schema(max_items = 256)]
    pub rules: Vec<ApprovalRule>,
    /// Why.
    #[serde(default)]
    #[schema(max_length = 500, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub reason: String,
}
