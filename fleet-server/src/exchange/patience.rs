//! How long a gateway may be silent before it is taken for offline: some of the questions that it was told to ask are missing.
//!
//! Follows from the rules of exchanges and from what the gateway reports of its data budget. Judges no rollout.

use dunlin_fleet_api::policy::ExchangeRule;
use dunlin_protocol::report::Budget;

use super::wishes::{EXCHANGE, read};
use crate::rollout::facts::OFFLINE_MS;
use crate::rollout::query::{Labels, Query};
use crate::store::{Sql, StoreError, policies};

/// Questions that are missing when a gateway is taken for offline.
const MISSING: u64 = 3;

/// The rules of exchanges.
#[derive(Debug, Default)]
pub(crate) struct Patience(Vec<(Query, u64)>);

impl Patience {
    /// Reads the rules.
    ///
    /// *Errors*: the store's.
    pub(crate) fn read(sql: &mut dyn Sql) -> Result<Self, StoreError> {
        let Some(policy) = policies::get(sql, EXCHANGE)? else { return Ok(Self::default()) };
        let rules: Vec<ExchangeRule> = read(&policy.rules)?;
        let rules = rules.iter().filter_map(|rule| Some((rule.query.parse().ok()?, rule.next_s)));
        Ok(Self(rules.collect()))
    }

    /// Returns after how many ms of silence a gateway is offline.
    pub(crate) fn ms(&self, labels: &Labels, budget: Option<&Budget>) -> u64 {
        let rule = self.0.iter().find(|(query, _)| query.matches(labels));
        let told_s = rule.map_or(0, |(_, next_s)| *next_s);
        let own_s = budget.map_or(0, |budget| u64::from(budget.interval_s));
        told_s.max(own_s).saturating_mul(MISSING * 1_000).max(OFFLINE_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked_to_speak_seldom_or_grants_itself_few_questions_is_waited_for() {
        let patience = Patience(vec![("link=metered".parse().unwrap(), 14_400), ("*".parse().unwrap(), 60)]);
        let metered = Labels::from([("link".to_owned(), "metered".to_owned())]);
        let mut budget = Budget::default();
        assert_eq!(patience.ms(&metered, Some(&budget)), 12 * 3_600_000);
        assert_eq!(patience.ms(&Labels::new(), Some(&budget)), OFFLINE_MS);
        budget.interval_s = 36_000;
        assert_eq!(patience.ms(&metered, Some(&budget)), 30 * 3_600_000);
        assert_eq!(Patience::default().ms(&metered, None), OFFLINE_MS);
    }
}
