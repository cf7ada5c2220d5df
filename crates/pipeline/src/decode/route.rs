//! From topic to tags: which source's filter matches, what it captures, which fields are read there.
//!
//! Looks at topics alone, never at payloads. Its result is kept by the caller, one a topic.

use dunlin_model_package::topic::TopicFilter;

use super::value::FieldRule;

/// What a topic says before any payload is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Values of the source's tags. A capture that the matching filter does not have, and a tag that the payload
    /// holds, are the empty text here.
    pub tags: Vec<String>,
    /// Which fields are read from this topic: those whose `when` fits the captures.
    pub active: Vec<bool>,
}

/// The filters of a source.
#[derive(Debug, Clone, Default)]
pub(super) struct Topics {
    pub(super) taken: Vec<TakenTopic>,
    pub(super) ignored: Vec<TopicFilter>,
}

/// A filter, and for each of its captures the position among the source's tags.
#[derive(Debug, Clone)]
pub(super) struct TakenTopic {
    pub(super) filter: TopicFilter,
    pub(super) tag_positions: Vec<usize>,
}

impl Topics {
    pub(super) fn subscriptions(&self) -> Vec<String> {
        let mut subscriptions: Vec<String> = Vec::with_capacity(self.taken.len());
        for topic in &self.taken {
            let subscription = topic.filter.subscription();
            if !subscriptions.contains(&subscription) {
                subscriptions.push(subscription);
            }
        }
        subscriptions
    }

    pub(super) fn route(&self, topic: &str, tag_count: usize, fields: &[FieldRule]) -> Option<Route> {
        let (taken, captured) =
            self.taken.iter().find_map(|taken| Some((taken, taken.filter.matches(topic)?)))?;
        if self.ignored.iter().any(|filter| filter.matches(topic).is_some()) {
            return None;
        }
        let mut tags = vec![String::new(); tag_count];
        for (position, value) in taken.tag_positions.iter().zip(captured) {
            value.clone_into(&mut tags[*position]);
        }
        let active = fields.iter().map(|field| field.is_active(&tags)).collect();
        Some(Route { tags, active })
    }
}
