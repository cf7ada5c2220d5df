//! Which gateways a phase reaches.
//!
//! Those that are in stay in; others come in the rollout's order, as far as the phase reaches at that moment.

use std::collections::BTreeSet;

use super::facts::Fleet;
use super::order::place;
use super::spec::{Reach, RolloutSpec};

/// Returns the gateways that are meant and can run it, in the rollout's order.
#[must_use]
pub fn meant<'f>(spec: &RolloutSpec, seed: &str, fleet: &'f Fleet) -> Vec<&'f str> {
    let mut meant: Vec<_> = (fleet.iter())
        .filter(|(_, device)| spec.query.matches(&device.labels) && spec.unfit(device).is_none())
        .map(|(id, _)| (place(seed, id), id.as_str()))
        .collect();
    meant.sort_unstable();
    meant.into_iter().map(|(_, id)| id).collect()
}

/// Returns the gateways that the phases up to this one reach, of those that are meant.
#[must_use]
pub fn reached<'f>(spec: &RolloutSpec, phase: usize, meant: &[&'f str], fleet: &Fleet) -> BTreeSet<&'f str> {
    let mut reached = BTreeSet::new();
    for reach in spec.phases.iter().take(phase + 1) {
        match reach {
            Reach::Count(count) => reached.extend(meant.iter().take(*count as usize)),
            Reach::Percent(percent) => {
                let count = (meant.len() * usize::from(*percent)).div_ceil(100);
                reached.extend(meant.iter().take(count));
            }
            Reach::Labels(query) => {
                let has = |id: &&&str| fleet.get(**id).is_some_and(|device| query.matches(&device.labels));
                reached.extend(meant.iter().filter(has));
            }
        }
    }
    reached
}
