//! What an operator asks for: releases, gateways, phases, gates, windows.
//!
//! Read strictly, with defaults for everything but the release and the gateways. Nothing in it changes once the rollout
//! has begun.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::facts::DeviceFacts;
use super::query::{Labels, Query};
use super::window::{Window, is_any_open};

/// Most releases of one rollout: one a model, and a gateway has few models.
pub const RELEASES_MAX: usize = 16;
/// Most phases.
pub const PHASES_MAX: usize = 32;
/// Most maintenance windows.
pub const WINDOWS_MAX: usize = 32;
/// Most sites with windows of their own.
pub const SITES_MAX: usize = 256;
/// The name that stands for settings where a model's does.
pub const SETTINGS_SLOT: &str = "settings";

/// A release of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseName {
    /// The model.
    pub model: String,
    /// SHA-256 of its manifest: what gateways report.
    pub digest: String,
    /// Version for people.
    pub version: String,
    /// Release counter.
    pub counter: u64,
}

/// Settings for gateways: a target that the owner signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsName {
    /// Path of the target, as in `settings/night.toml`.
    pub path: String,
    /// SHA-256 of the file.
    pub digest: String,
}

/// Windows of some gateways, in place of those of all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteWindows {
    /// Which gateways.
    pub query: Query,
    /// Their windows; any time where there is none.
    pub windows: Vec<Window>,
}

/// How many gateways a phase brings the rollout to, those of the phases before included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// So many gateways.
    Count(u32),
    /// So many percent of the gateways that are meant, rounded up; 1 to 100.
    Percent(u8),
    /// All that have these labels besides.
    Labels(Query),
}

/// How long a phase is watched before the next begins: both must be over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bake {
    /// Time since the last gateway of the phase settled, in ms.
    #[serde(rename = "time_ms")]
    pub ms: u64,
    /// Predictions that the phase's gateways made with the release, all together.
    pub predictions: u64,
}

impl Default for Bake {
    fn default() -> Self {
        Self { ms: 3_600_000, predictions: 1_000 }
    }
}

/// What happens when a gate fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Every gateway that has the release goes back to the one before.
    #[default]
    Revert,
    /// The rollout stops where it is, until somebody decides.
    Hold,
}

/// Gateways with the same value of a label are not updated at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// The label, as in `site`.
    pub label: String,
    /// How many may be under way at once.
    pub at_once: u32,
}

/// Bounds of the gates; a gate without a bound passes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Failures that are borne, whatever the phase's size.
    pub failures: u32,
    /// Failures that are borne, in percent of the phase's gateways.
    pub failures_percent: f64,
    /// p99 of an inference, by the package's own budget.
    pub latency_of_budget: Option<f64>,
    /// p99 of an inference, by the p99 of the release before.
    pub latency_of_old: Option<f64>,
    /// Starts of a worker on one gateway beyond the first.
    pub restarts: Option<u32>,
    /// Share of predictions that are not finite, or failed.
    pub invalid_rate: Option<f64>,
    /// By how much the share of predictions from which the model abstains may be above that of the release before.
    pub abstention_rise: Option<f64>,
    /// Smallest share of compared predictions that agree with the release before.
    pub agreement: Option<f64>,
    /// Largest relative change of an output against the release before, on any one compared prediction.
    pub output_change: Option<f64>,
    /// Compared predictions before agreement is judged.
    pub compared_min: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            failures: 0,
            failures_percent: 2.0,
            latency_of_budget: Some(1.0),
            latency_of_old: Some(3.0),
            // A gateway gives a release up by itself after its third start in a trial.
            restarts: Some(3),
            invalid_rate: Some(0.01),
            abstention_rise: Some(0.1),
            agreement: Some(0.8),
            // One window at the edge of a sensor's range can change an output by any amount: it is shown, and judged
            // only where somebody knows the model well enough to say what is too much.
            output_change: None,
            compared_min: 100,
        }
    }
}

/// A rollout as it was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutSpec {
    /// What is rolled out: at most one release a model; none where there are settings alone.
    #[serde(default)]
    pub releases: Vec<ReleaseName>,
    /// Settings that go with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<SettingsName>,
    /// Which gateways are meant, live.
    pub query: Query,
    /// The phases, each reaching as far as the one before or farther.
    #[serde(default = "default_phases")]
    pub phases: Vec<Reach>,
    /// How long each phase is watched.
    #[serde(default)]
    pub bake: Bake,
    /// When it is stopped.
    #[serde(default)]
    pub gates: Bounds,
    /// What happens then.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// What is not updated at the same time.
    #[serde(default)]
    pub spread: Option<Spread>,
    /// When gateways may change what they run, in their own time; any time where there is none.
    #[serde(default)]
    pub windows: Vec<Window>,
    /// Windows of some gateways in place of these; the first that means a gateway counts.
    #[serde(default)]
    pub site_windows: Vec<SiteWindows>,
    /// For how long a gateway may ask to be left alone, in ms.
    #[serde(default = "default_defer_ms_max")]
    pub defer_ms_max: u64,
    /// How long a gateway that is online may take to run the release before it counts as failed, in ms.
    #[serde(default = "default_install_ms_max")]
    pub install_ms_max: u64,
    /// How many people must approve before it begins; whoever made it is none of them.
    #[serde(default)]
    pub approvals: u32,
}

/// Returns the phases where none are named: one gateway, 5 %, 25 %, all.
#[must_use]
pub fn default_phases() -> Vec<Reach> {
    vec![Reach::Count(1), Reach::Percent(5), Reach::Percent(25), Reach::Percent(100)]
}

/// An hour: a trial takes minutes, a download over a poor link longer.
const fn default_install_ms_max() -> u64 {
    3_600_000
}

/// A day: whoever holds a gateway back for a shift or a batch is done by then.
const fn default_defer_ms_max() -> u64 {
    24 * 3_600_000
}

/// Longest times: a year. Beyond it sums with the present time could overflow.
const MS_MAX: u64 = 366 * 24 * 3_600_000;

impl RolloutSpec {
    /// Returns what gateways know the parts by: models' names, and the settings'.
    pub fn slots(&self) -> impl Iterator<Item = &str> {
        let models = self.releases.iter().map(|release| release.model.as_str());
        models.chain(self.settings.iter().map(|_| SETTINGS_SLOT))
    }

    /// Returns the windows of gateways with these labels.
    #[must_use]
    pub fn windows_of(&self, labels: &Labels) -> &[Window] {
        let own = self.site_windows.iter().find(|site| site.query.matches(labels));
        own.map_or(&self.windows, |site| &site.windows)
    }

    /// Tells whether a gateway may change what it runs at this moment.
    #[must_use]
    pub fn is_open(&self, device: &DeviceFacts, now_ms: u64) -> bool {
        is_any_open(self.windows_of(&device.labels), now_ms, device.utc_offset_min)
    }

    /// Returns why a gateway can never run all of it, where it cannot.
    #[must_use]
    pub fn unfit<'f>(&self, device: &'f DeviceFacts) -> Option<&'f str> {
        self.releases.iter().find_map(|release| device.unfit.get(&release.digest)).map(String::as_str)
    }

    /// Checks what the types do not.
    ///
    /// *Errors*: all that is wrong, one sentence each, naming the field.
    pub fn check(&self) -> Result<(), Vec<String>> {
        let mut wrong = Vec::new();
        let mut require = |is_right: bool, sentence: &str| {
            if !is_right {
                wrong.push(sentence.to_owned());
            }
        };
        let models: BTreeSet<&str> = self.releases.iter().map(|release| release.model.as_str()).collect();
        require(
            !self.releases.is_empty() || self.settings.is_some(),
            "`releases` is empty and there are no `settings`: name what is to be rolled out",
        );
        require(self.releases.len() <= RELEASES_MAX, "`releases` names more than 16 releases");
        require(models.len() == self.releases.len(), "`releases` names a model twice");
        require(!self.phases.is_empty(), "`phases` is empty: leave it out for the usual ones");
        require(self.phases.len() <= PHASES_MAX, "`phases` are more than 32");
        let is_reach = |reach: &Reach| match reach {
            Reach::Count(count) => *count > 0,
            Reach::Percent(percent) => (1..=100).contains(percent),
            Reach::Labels(_) => true,
        };
        require(self.phases.iter().all(is_reach), "`phases`: a count is above 0, a percentage 1 to 100");
        let falls = self.phases.windows(2).any(|pair| match (&pair[0], &pair[1]) {
            (Reach::Count(before), Reach::Count(after)) => after < before,
            (Reach::Percent(before), Reach::Percent(after)) => after < before,
            _ => false,
        });
        require(!falls, "`phases`: each reaches as far as the one before, or farther");
        require(self.windows.len() <= WINDOWS_MAX, "`windows` are more than 32");
        require(self.site_windows.len() <= SITES_MAX, "`site_windows` are more than 256");
        require(
            self.site_windows.iter().all(|site| site.windows.len() <= WINDOWS_MAX),
            "`site_windows`: one site has more than 32 windows",
        );
        let of_sites = self.site_windows.iter().flat_map(|site| &site.windows);
        require(
            self.windows.iter().chain(of_sites).all(Window::is_valid),
            "`windows`: a day is 0 to 6, times are below 24:00",
        );
        require(self.bake.ms <= MS_MAX, "`bake.time_ms` is more than a year");
        require((1..=MS_MAX).contains(&self.install_ms_max), "`install_ms_max` is 0 or more than a year");
        require(self.defer_ms_max <= MS_MAX, "`defer_ms_max` is more than a year");
        let gates = &self.gates;
        require((0.0..=100.0).contains(&gates.failures_percent), "`gates.failures_percent` is not 0 to 100");
        let is_ratio = |bound: Option<f64>| bound.is_none_or(|bound| bound.is_finite() && bound > 0.0);
        require(is_ratio(gates.latency_of_budget), "`gates.latency_of_budget` is not above 0");
        require(is_ratio(gates.latency_of_old), "`gates.latency_of_old` is not above 0");
        let is_share = |bound: Option<f64>| bound.is_none_or(|bound| (0.0..=1.0).contains(&bound));
        require(is_share(gates.invalid_rate), "`gates.invalid_rate` is not 0 to 1");
        require(is_share(gates.abstention_rise), "`gates.abstention_rise` is not 0 to 1");
        require(
            gates.output_change.is_none_or(|bound| bound.is_finite() && bound >= 0.0),
            "`gates.output_change` is below 0",
        );
        require(is_share(gates.agreement), "`gates.agreement` is not 0 to 1");
        let spread = self.spread.as_ref();
        require(
            spread.is_none_or(|spread| spread.at_once > 0),
            "`spread.at_once` is 0: nothing would be updated",
        );
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}
