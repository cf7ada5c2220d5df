//! What the server wishes of a gateway beside the exchange: how much of each stream it sends, and when it asks next.
//!
//! Follows from rules by label query; the first that means the gateway counts. It is said with every answer, so that one
//! that was lost costs nothing, and is no reason to end a wait.

use dunlin_fleet_api::policy::{ExchangeRule, UploadRule};
use dunlin_protocol::Stream;
use dunlin_protocol::exchange::{Ask, Share};
use dunlin_protocol::text::Text;
use serde::de::DeserializeOwned;

use crate::rollout::query::{Labels, Query};
use crate::store::{Sql, StoreError, devices, policies};

/// Name of the rules of uploads in the store.
pub(crate) const UPLOADS: &str = "uploads";
/// Name of the rules of exchanges.
pub(crate) const EXCHANGE: &str = "exchange";

/// What the server wishes.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Wishes {
    pub(super) asks: Vec<Ask>,
    /// When to ask again, on average.
    pub(super) next_ms: Option<u64>,
}

/// Returns what the rules wish of a gateway.
pub(super) fn of(sql: &mut dyn Sql, device: &str) -> Result<Wishes, StoreError> {
    let policies = policies::all(sql)?;
    if policies.is_empty() {
        return Ok(Wishes::default());
    }
    let labels = devices::labels(sql, device)?;
    let mut wishes = Wishes::default();
    for (name, rules) in policies {
        match name.as_str() {
            UPLOADS => wishes.asks = asks(&read::<UploadRule>(&rules)?, &labels),
            EXCHANGE => {
                let rules = read::<ExchangeRule>(&rules)?;
                let rule = rules.iter().find(|rule| means(&rule.query, &labels));
                wishes.next_ms = rule.map(|rule| rule.next_s.saturating_mul(1_000));
            }
            _ => {}
        }
    }
    Ok(wishes)
}

pub(super) fn read<T: DeserializeOwned>(rules: &str) -> Result<Vec<T>, StoreError> {
    serde_json::from_str(rules)
        .map_err(|_| StoreError::Damaged("the rules of a policy cannot be read".to_owned()))
}

fn means(query: &str, labels: &Labels) -> bool {
    query.parse::<Query>().is_ok_and(|query| query.matches(labels))
}

/// Returns the ask of each stream by the first rule that means it.
fn asks(rules: &[UploadRule], labels: &Labels) -> Vec<Ask> {
    let mut asks: Vec<Ask> = Vec::new();
    for rule in rules.iter().filter(|rule| means(&rule.query, labels)) {
        let stream = Stream::from(Text::cut(&rule.stream));
        if asks.iter().any(|ask| matches!(ask, Ask::Policy { stream: said, .. } if *said == stream)) {
            continue;
        }
        let share = Share::from(Text::cut(rule.share.word()));
        asks.push(Ask::Policy { stream, share, every: rule.every });
    }
    asks
}

#[cfg(test)]
mod tests {
    use dunlin_fleet_api::policy::UploadShare;

    use super::*;

    #[test]
    fn the_first_rule_that_means_a_gateway_counts() {
        let rule = |query: &str, stream: &str, share, every| UploadRule {
            query: query.to_owned(),
            stream: stream.to_owned(),
            share,
            every,
        };
        let rules = [
            rule("link=metered", "predictions", UploadShare::Sampled, Some(10)),
            rule("*", "predictions", UploadShare::All, None),
            rule("*", "events", UploadShare::None, None),
        ];
        let shares = |labels: &Labels| {
            let share = |ask: Ask| match ask {
                Ask::Policy { stream, share, every } => (stream.as_str().to_owned(), share, every),
                other => panic!("{other:?}"),
            };
            asks(&rules, labels).into_iter().map(share).collect::<Vec<_>>()
        };
        let metered = Labels::from([("link".to_owned(), "metered".to_owned())]);
        let events = ("events".to_owned(), Share::None, None);
        let sampled = ("predictions".to_owned(), Share::Sampled, Some(10));
        let all = ("predictions".to_owned(), Share::All, None);
        assert_eq!(shares(&metered), [sampled, events.clone()]);
        assert_eq!(shares(&Labels::new()), [all, events]);
    }
}
