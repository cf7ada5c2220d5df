//! What the fleet reported, in memory: read once, then what changed.
//!
//! A cache that is worth nothing without the database: whoever takes over reads it anew. Never writes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use dunlin_protocol::Health;
use dunlin_protocol::report::{DeviceReport, ModelReport, SettingsState};

use super::package::Package;
use crate::exchange::Patience;
use crate::rollout::facts::{Bad, Counts, DeviceFacts, Fleet, ModelFacts, SettingsFacts, Standing};
use crate::store::rollouts::{self, ApprovalRule};
use crate::store::sightings::{self, Said, Sighting};
use crate::store::{Store, StoreError, releases};

/// How far a look goes back: messages bear the time at which they came, on a clock that may be behind by some seconds,
/// and are kept a little later.
const BACK_MS: u64 = 10_000;
/// Between two looks at what no message tells of: labels, who is suspended, wishes, the approval policy.
const ALL_EACH_MS: u64 = 5_000;
/// Reports that are read in one transaction.
const READ_TOGETHER: usize = 200;

/// What the fleet reported.
#[derive(Debug, Default)]
pub struct Census {
    fleet: Fleet,
    marks: HashMap<String, Mark>,
    packages: BTreeMap<String, Package>,
    rules: Vec<ApprovalRule>,
    patience: Patience,
    heard_ms: u64,
    all_ms: u64,
}

/// What was read of a gateway.
#[derive(Debug, Clone, Default)]
pub(super) struct Mark {
    counter: u64,
    report_digest: Option<String>,
    pub(super) report: Option<Box<DeviceReport>>,
    pub(super) health: Health,
}

impl Census {
    /// Returns the fleet.
    #[must_use]
    pub const fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Returns the releases whose files gateways have, by their digests.
    #[must_use]
    pub fn releases(&self) -> BTreeSet<String> {
        let reports = self.marks.values().filter_map(|mark| mark.report.as_deref());
        reports.flat_map(super::plan::releases_of).collect()
    }

    pub(super) fn mark(&self, device: &str) -> Option<&Mark> {
        self.marks.get(device)
    }

    pub(super) fn package(&self, digest: &str) -> Option<&Package> {
        self.packages.get(digest)
    }

    /// Returns how many people must approve what the gateways of a query are given.
    #[must_use]
    pub fn approvals(&self, is_meant: impl Fn(&DeviceFacts) -> bool) -> u32 {
        self.fleet
            .values()
            .filter(|device| is_meant(device))
            .map(|device| device.approvals)
            .max()
            .unwrap_or(0)
    }

    /// Reads what changed since the last time; `digests` are the releases that matter.
    ///
    /// *Errors*: the store's; what was read by then stays.
    pub async fn refresh(
        &mut self,
        store: &Store,
        digests: &BTreeSet<String>,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let is_all =
            self.all_ms == 0 || now_ms.saturating_sub(self.all_ms) >= ALL_EACH_MS || now_ms < self.all_ms;
        let has_new = self.read_packages(store, digests).await?;
        let from_ms = if is_all { 0 } else { self.heard_ms.saturating_sub(BACK_MS) };
        let sightings = store.read(move |sql| sightings::since(sql, from_ms)).await?;
        if is_all {
            let present: BTreeSet<&str> = sightings.iter().map(|sighting| sighting.device.as_str()).collect();
            self.fleet.retain(|id, _| present.contains(id.as_str()));
            self.marks.retain(|id, _| present.contains(id.as_str()));
        }
        self.heard_ms = self.heard_ms.max(now_ms);
        let changed = self.read_reports(store, sightings).await?;
        if is_all || changed.iter().any(|id| !self.fleet.contains_key(id)) {
            self.read_all(store, now_ms).await?;
            self.all_ms = now_ms;
        }
        let again: Vec<String> =
            if is_all || has_new { self.marks.keys().cloned().collect() } else { changed };
        for id in again {
            self.describe(&id, now_ms);
        }
        Ok(())
    }

    async fn read_packages(&mut self, store: &Store, digests: &BTreeSet<String>) -> Result<bool, StoreError> {
        self.packages.retain(|digest, _| digests.contains(digest));
        let missing: Vec<String> =
            digests.iter().filter(|digest| !self.packages.contains_key(*digest)).cloned().collect();
        if missing.is_empty() {
            return Ok(false);
        }
        let read = store.read(move |sql| {
            missing.iter().map(|digest| releases::get(sql, digest)).collect::<Result<Vec<_>, _>>()
        });
        for release in read.await?.into_iter().flatten() {
            self.packages.insert(release.digest.clone(), Package::of(&release));
        }
        Ok(true)
    }

    /// Reads what gateways said since; returns those that said something.
    async fn read_reports(
        &mut self,
        store: &Store,
        sightings: Vec<Sighting>,
    ) -> Result<Vec<String>, StoreError> {
        let is_new = |sighting: &Sighting| {
            let seen_ms = self.fleet.get(&sighting.device).map(|device| device.seen_ms);
            let mark = self.marks.get(&sighting.device);
            seen_ms != Some(sighting.seen_ms)
                || mark.is_none_or(|mark| {
                    mark.counter != sighting.counter || mark.report_digest != sighting.report_digest
                })
        };
        let new: Vec<Sighting> = sightings.into_iter().filter(is_new).collect();
        let mut changed = Vec::with_capacity(new.len());
        for chunk in new.chunks(READ_TOGETHER) {
            let wanted: Vec<(String, bool)> = chunk
                .iter()
                .map(|sighting| {
                    let known = self.marks.get(&sighting.device).map(|mark| &mark.report_digest);
                    (sighting.device.clone(), known != Some(&sighting.report_digest))
                })
                .collect();
            let read = store.read(move |sql| {
                wanted
                    .iter()
                    .map(|(device, with_report)| sightings::said(sql, device, *with_report))
                    .collect::<Result<Vec<Said>, _>>()
            });
            for (sighting, said) in chunk.iter().zip(read.await?) {
                self.hear(sighting, said);
                changed.push(sighting.device.clone());
            }
        }
        Ok(changed)
    }

    fn hear(&mut self, sighting: &Sighting, said: Said) {
        let mark = self.marks.entry(sighting.device.clone()).or_default();
        if mark.report_digest != sighting.report_digest {
            // One that cannot be read is none: nothing is rolled out to what cannot be understood.
            mark.report = said.report.and_then(|raw| serde_json::from_str(&raw).ok()).map(Box::new);
            mark.report_digest.clone_from(&sighting.report_digest);
        }
        mark.counter = sighting.counter;
        let health = said.health.and_then(|raw| serde_json::from_str::<Health>(&raw).ok());
        mark.health = health.unwrap_or_default();
        if let Some(device) = self.fleet.get_mut(&sighting.device) {
            device.seen_ms = sighting.seen_ms;
        } else {
            let device = DeviceFacts { seen_ms: sighting.seen_ms, ..DeviceFacts::default() };
            self.fleet.insert(sighting.device.clone(), device);
        }
    }

    /// Reads what no message tells of.
    async fn read_all(&mut self, store: &Store, now_ms: u64) -> Result<(), StoreError> {
        let read = store.read(move |sql| {
            Ok((
                sightings::labels(sql)?,
                sightings::deferrals(sql, now_ms)?,
                rollouts::intents(sql)?,
                rollouts::approval_policy(sql)?.0,
                Patience::read(sql)?,
            ))
        });
        let (labels, deferrals, intents, rules, patience) = read.await?;
        (self.rules, self.patience) = (rules, patience);
        for device in self.fleet.values_mut() {
            device.labels.clear();
            device.intents.clear();
            device.deferral = None;
        }
        for (id, name, value) in labels {
            if let Some(device) = self.fleet.get_mut(&id) {
                device.labels.insert(name, value);
            }
        }
        for (id, deferral) in deferrals {
            if let Some(device) = self.fleet.get_mut(&id) {
                device.deferral = Some(deferral);
            }
        }
        for (id, slot, intent) in intents {
            if let Some(device) = self.fleet.get_mut(&id) {
                device.intents.insert(slot, intent);
            }
        }
        Ok(())
    }

    /// Makes the facts of a gateway from what it said.
    fn describe(&mut self, id: &str, now_ms: u64) {
        let (Some(mark), Some(device)) = (self.marks.get(id), self.fleet.get_mut(id)) else { return };
        let rules = self.rules.iter().filter(|rule| rule.query.matches(&device.labels));
        let budget = mark.report.as_deref().map(|report| &report.budget);
        device.patience_ms = self.patience.ms(&device.labels, budget);
        device.approvals = rules.map(|rule| rule.approvals).max().unwrap_or(0);
        let unfit = |(digest, package): (&String, &Package)| {
            Some((digest.clone(), package.unfit(mark.report.as_deref())?))
        };
        device.unfit = self.packages.iter().filter_map(unfit).collect();
        let Some(report) = &mark.report else { return };
        device.utc_offset_min = utc_offset_min(report.time_zone.as_str(), now_ms);
        device.settings = settings(report);
        let mut earlier = std::mem::take(&mut device.models);
        for model in report.models.iter() {
            let name = model.model.to_string();
            let counts = earlier.remove(&name).map(|facts| facts.counts).unwrap_or_default();
            device.models.insert(name, model_facts(model, counts));
        }
        let (class, architecture) = (report.facts.board_class.as_str(), report.facts.architecture.as_str());
        // What a gateway says no more of keeps its last figures.
        for (model, digest, counts) in counts_of(&mark.health) {
            let Some(facts) = device.models.get_mut(&model) else { continue };
            let p99_us_budget =
                self.packages.get(&digest).and_then(|package| package.p99_us(class, architecture));
            facts.counts.insert(digest, Counts { p99_us_budget, ..counts });
        }
    }

    /// Notes who chose what a gateway is to run, ahead of the next look at all.
    pub(super) fn note_intent(&mut self, device: &str, slot: &str, intent: &crate::rollout::facts::Intent) {
        if let Some(device) = self.fleet.get_mut(device) {
            device.intents.insert(slot.to_owned(), intent.clone());
        }
    }
}

fn model_facts(model: &ModelReport, counts: BTreeMap<String, Counts>) -> ModelFacts {
    let bad = model.bad.iter().map(|bad| Bad {
        digest: bad.release.digest.to_string(),
        cause: bad.code.to_string(),
        at_ms: bad.at_ms,
    });
    let mut facts = ModelFacts {
        good: model.active.as_ref().map(|release| release.digest.to_string()),
        candidate: model.candidate.as_ref().map(|candidate| candidate.release.digest.to_string()),
        bad: bad.collect(),
        counts,
    };
    let runs = |digest: &String| {
        facts.good.as_ref() == Some(digest)
            || facts.candidate.as_ref() == Some(digest)
            || model.previous.as_ref().is_some_and(|release| release.digest.to_string() == *digest)
    };
    let keep: BTreeSet<String> = facts.counts.keys().filter(|digest| runs(digest)).cloned().collect();
    facts.counts.retain(|digest, _| keep.contains(digest));
    facts
}

fn settings(report: &DeviceReport) -> Option<SettingsFacts> {
    let settings = &report.settings;
    let bad = |cause: &str| Standing::Bad { cause: format!("settings:{cause}"), at_ms: None };
    let standing = match settings.state {
        SettingsState::Trial => Standing::Underway,
        SettingsState::Confirmed => Standing::Good,
        SettingsState::Reverted => bad("reverted"),
        SettingsState::Refused => bad("refused"),
        _ => Standing::Untouched,
    };
    (settings.revision > 0).then_some(SettingsFacts { revision: settings.revision, standing })
}

/// Returns what was counted by model and release, over all lanes that a release is in.
fn counts_of(health: &Health) -> Vec<(String, String, Counts)> {
    let mut found: BTreeMap<(String, String), Counts> = BTreeMap::new();
    for activity in health.activity.iter() {
        let of_lane = &activity.counts;
        let counts = found.entry((activity.model.to_string(), activity.release.to_string())).or_default();
        counts.predictions += of_lane.predictions;
        counts.invalid += of_lane.invalid + of_lane.failed;
        counts.abstained += of_lane.abstained;
        counts.compared += of_lane.compared;
        counts.agreed += of_lane.agreed;
        counts.difference_max = counts.difference_max.max(of_lane.difference_max);
        counts.starts = counts.starts.max(of_lane.worker_starts);
        if activity.latency.count > 0 {
            let p99 = activity.latency.p99_us as f64;
            counts.p99_us = Some(counts.p99_us.map_or(p99, |before| before.max(p99)));
        }
    }
    found.into_iter().map(|((model, digest), counts)| (model, digest, counts)).collect()
}

/// Returns what a zone's time is ahead of UTC; 0 for one that is not known.
fn utc_offset_min(zone: &str, now_ms: u64) -> i32 {
    if zone.is_empty() {
        return 0;
    }
    let at = i64::try_from(now_ms).ok().and_then(|now| jiff::Timestamp::from_millisecond(now).ok());
    let zone = jiff::tz::TimeZone::get(zone).ok();
    zone.zip(at).map_or(0, |(zone, at)| zone.to_offset(at).seconds() / 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_ahead_of_utc_by_its_season() {
        let (winter, summer) = (1_768_000_000_000, 1_783_000_000_000);
        for (zone, now_ms, expected) in [
            ("Europe/Vienna", winter, 60),
            ("Europe/Vienna", summer, 120),
            ("Asia/Kolkata", winter, 330),
            ("UTC", winter, 0),
            ("", winter, 0),
            ("Nowhere/Else", winter, 0),
        ] {
            assert_eq!(utc_offset_min(zone, now_ms), expected, "{zone}");
        }
    }
}
