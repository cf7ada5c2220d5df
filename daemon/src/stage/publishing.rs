//! The stage's side of publishing: which topic, which text, and when a prediction counts as published.
//!
//! Predictions are offered as soon as their model has run, or once they are on disk; a slow model does not hold up
//! the others, so they may be offered out of order. Never waits. What it cannot hand on is read back from the store.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use dunlin_model_package::{ModelSpec, TopicTemplate};
use dunlin_pipeline::prediction::{InstanceId, InstanceIdentity, Prediction, QualityFlags};

use crate::config::settings::PublishMode;
use crate::flow::Publication;
use crate::mqtt::feed::{OfferedLate, PublishFeed};
use crate::publication::{InstanceRenderer, ModelTexts};

/// Most late publications that wait for the publisher to catch up: about 1 MB. The newest are left to the next start,
/// which publishes everything that is not known to be published.
const LATE_MAX: usize = 4_096;

/// The topics of one model.
#[derive(Debug, Clone)]
struct ModelTopics {
    output: TopicTemplate,
    alert: Option<TopicTemplate>,
}

/// Makes renderers for instances.
#[derive(Debug, Clone)]
pub struct Topics {
    gateway: String,
    models: HashMap<String, ModelTopics>,
}

impl Topics {
    /// Compiles the models' topic templates; the configuration has checked them.
    #[must_use]
    pub fn new(gateway: &str, models: &[ModelSpec]) -> Self {
        let mut topics = HashMap::new();
        for model in models {
            let mut known = vec!["gateway", "model", "key"];
            known.extend(model.key.iter().flatten().map(String::as_str));
            let Ok(output) = TopicTemplate::parse(&model.output.topic, &known) else { continue };
            let alert =
                model.alert.as_ref().and_then(|alert| TopicTemplate::parse(&alert.topic, &known).ok());
            topics.insert(model.name.clone(), ModelTopics { output, alert });
        }
        Self { gateway: gateway.to_owned(), models: topics }
    }

    /// Returns the renderer of an instance, or `None` where its model is not configured.
    #[must_use]
    pub fn renderer(&self, identity: &InstanceIdentity) -> Option<InstanceRenderer> {
        let topics = self.models.get(&identity.model)?;
        let values: Vec<String> = identity.key.iter().map(|(_, value)| value.replace('/', "_")).collect();
        let key = values.join("/");
        let value_of = |name: &str| match name {
            "gateway" => self.gateway.as_str(),
            "model" => identity.model.as_str(),
            "key" => key.as_str(),
            tag => {
                identity.key.iter().find(|(known, _)| known == tag).map_or("", |(_, value)| value.as_str())
            }
        };
        let fill = |template: &TopicTemplate| template.fill(value_of);
        Some(InstanceRenderer::new(identity, fill(&topics.output), topics.alert.as_ref().map(fill)))
    }
}

/// Appends what is published of a prediction: itself, and the alert it changed. Nothing where it is not valid, or of a
/// package that ran in shadow.
pub fn publications(
    renderer: &InstanceRenderer,
    sequence: u64,
    prediction: &Prediction,
    out: &mut Vec<Publication>,
) {
    let flags = prediction.head.flags;
    if !flags.is_valid() || flags.contains(QualityFlags::SHADOW) {
        return;
    }
    let mut payload = Vec::with_capacity(256);
    renderer.render(prediction, &mut payload);
    out.push(Publication { sequence, topic: renderer.topic().to_owned(), payload: Bytes::from(payload) });
    if let (Some(change), Some(topic)) = (prediction.alert, renderer.alert_topic()) {
        let mut payload = Vec::with_capacity(192);
        renderer.render_alert(prediction, change, &mut payload);
        out.push(Publication { sequence, topic: topic.to_owned(), payload: Bytes::from(payload) });
    }
}

/// How far publishing has come, as two stages know it.
#[derive(Debug, Clone, Default)]
pub struct PublishProgress {
    /// Up to here everything that the publisher was given is confirmed; the publisher writes it.
    pub publisher: Arc<AtomicU64>,
    /// Up to here every prediction is published; the writer stores it.
    pub stored: Arc<AtomicU64>,
}

/// Publications on their way to the publisher.
pub struct Publishing {
    feed: PublishFeed,
    mode: PublishMode,
    topics: Topics,
    progress: PublishProgress,
    renderers: HashMap<InstanceId, InstanceRenderer>,
    texts: Vec<Arc<ModelTexts>>,
    /// For `committed`: what waits for its commit, in order.
    held: VecDeque<Publication>,
    /// Highest sequence number of a prediction so far.
    highest: u64,
    /// Late publications with the publisher: their own sequence, and the one they have there. Both rise: an earlier
    /// one with a higher own sequence says nothing that a later one does not.
    late: VecDeque<(u64, u64)>,
    /// Late publications that the publisher had no room for.
    waiting: VecDeque<Publication>,
    /// Lowest sequence that is left to the next start.
    left_to_restart: Option<u64>,
    made: Vec<Publication>,
}

impl Publishing {
    /// Returns the stage's side for a start after the sequence `committed_through`.
    #[must_use]
    pub fn new(
        feed: PublishFeed,
        mode: PublishMode,
        topics: Topics,
        progress: PublishProgress,
        committed_through: u64,
    ) -> Self {
        Self {
            feed,
            mode,
            topics,
            progress,
            renderers: HashMap::new(),
            texts: Vec::new(),
            held: VecDeque::new(),
            highest: committed_through,
            late: VecDeque::new(),
            waiting: VecDeque::new(),
            left_to_restart: None,
            made: Vec::new(),
        }
    }

    /// Learns the identity of an instance.
    pub fn introduce(&mut self, id: InstanceId, identity: &InstanceIdentity) {
        if let Some(mut renderer) = self.topics.renderer(identity) {
            renderer.share_texts(&mut self.texts);
            self.renderers.insert(id, renderer);
        }
    }

    /// Forgets all instances but these.
    pub fn keep_instances(&mut self, runs: impl Fn(InstanceId) -> bool) {
        self.renderers.retain(|id, _| runs(*id));
        self.texts.retain(|texts| Arc::strong_count(texts) > 1);
    }

    /// Takes a prediction whose model has just run.
    pub fn predicted(&mut self, sequence: u64, prediction: &Prediction) {
        if self.mode == PublishMode::Immediate {
            self.offer_all(sequence, prediction);
        }
    }

    /// Takes a prediction that goes to the writer now, in the order of sequences.
    pub fn to_be_committed(&mut self, sequence: u64, prediction: &Prediction) {
        if self.mode == PublishMode::Committed
            && let Some(renderer) = self.renderers.get(&prediction.head.instance)
        {
            publications(renderer, sequence, prediction, &mut self.made);
            self.held.extend(self.made.drain(..));
        }
    }

    /// Everything up to this sequence is on disk.
    pub fn committed(&mut self, through: u64) {
        while self.held.front().is_some_and(|publication| publication.sequence <= through) {
            if let Some(publication) = self.held.pop_front() {
                self.feed.offer(publication);
            }
        }
    }

    /// Brings the progress up to date; `lowest_open` is the first sequence without a prediction yet.
    pub fn advance(&mut self, lowest_open: u64) {
        while let Some(publication) = self.waiting.pop_front() {
            if let Some(refused) = self.offer_late(publication) {
                self.waiting.push_front(refused);
                break;
            }
        }
        let confirmed = self.progress.publisher.load(Ordering::Acquire);
        while self.late.front().is_some_and(|(_, given)| *given <= confirmed) {
            self.late.pop_front();
        }
        let late = self.late.front().map(|(own, _)| *own);
        let waiting = self.waiting.iter().map(|publication| publication.sequence).min();
        let open = [late, waiting, self.left_to_restart];
        let unpublished = open.into_iter().flatten().fold(lowest_open, u64::min);
        self.progress.stored.store(confirmed.min(unpublished.saturating_sub(1)), Ordering::Release);
    }

    fn offer_all(&mut self, sequence: u64, prediction: &Prediction) {
        let mut made = std::mem::take(&mut self.made);
        if let Some(renderer) = self.renderers.get(&prediction.head.instance) {
            publications(renderer, sequence, prediction, &mut made);
        }
        for publication in made.drain(..) {
            if sequence >= self.highest {
                self.feed.offer(publication);
            } else if let Some(refused) = self.offer_late(publication) {
                self.keep(refused);
            }
        }
        self.made = made;
        // One that is not published counts too: the store covers it when it is read back.
        self.highest = self.highest.max(sequence);
    }

    /// Offers a publication after ones with higher sequences; gives it back where it is to be offered again.
    fn offer_late(&mut self, publication: Publication) -> Option<Publication> {
        let (own, given) = (publication.sequence, self.highest + 1);
        match self.feed.offer_late(publication, given) {
            OfferedLate::Queued => {
                while self.late.back().is_some_and(|(earlier, _)| *earlier >= own) {
                    self.late.pop_back();
                }
                self.late.push_back((own, given));
                None
            }
            OfferedLate::LeftOut => None,
            OfferedLate::Refused(refused) => Some(refused),
        }
    }

    fn keep(&mut self, publication: Publication) {
        if self.waiting.len() < LATE_MAX {
            self.waiting.push_back(publication);
        } else {
            let own = publication.sequence;
            self.left_to_restart = Some(self.left_to_restart.map_or(own, |lowest| lowest.min(own)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunlin_model_package::Digest;
    use dunlin_pipeline::prediction::{AlertChange, ModelIndex, PredictionId, WindowHead};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn only_valid_predictions_of_packages_that_serve_are_published_with_their_alerts(bits in any::<u8>()) {
            let text = "name = \"m\"\npackage = \"p\"\nkey = []\nalert = { topic = \"alert\" }";
            let topics = Topics::new("gw", &[toml::from_str(text).unwrap()]);
            let identity = InstanceIdentity {
                model: "m".into(),
                version: "1".into(),
                package: Digest::of(b"p"),
                key: vec![],
                outputs: vec![("y".into(), 1)],
                labels: vec!["hot".into()],
            };
            let flags = QualityFlags(u16::from(bits));
            let prediction = Prediction {
                head: WindowHead { model: ModelIndex(0), instance: InstanceId(0), window_end_us: 1, flags },
                id: PredictionId([0; 16]),
                outputs: vec![1.0],
                label: Some(0),
                alert: Some(AlertChange::Raised),
            };
            let mut made = Vec::new();
            publications(&topics.renderer(&identity).unwrap(), 1, &prediction, &mut made);
            let hidden = !flags.is_valid() || flags.contains(QualityFlags::SHADOW);
            prop_assert_eq!(made.len(), if hidden { 0 } else { 2 });
        }
    }
}
