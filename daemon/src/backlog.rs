//! Reads publications back from the store: what the publisher's queue had no room for, and what a stop left open.
//!
//! Makes the same texts as the stage; keeps nothing once it has given all there is. Runs on the publisher's reading
//! thread.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use dunlin_kit::error_chain::Chain;
use dunlin_pipeline::prediction::{InstanceId, ModelIndex, Prediction, WindowHead};

use crate::mqtt::feed::{Backlog, BacklogPage, PageEnd};
use crate::publication::{InstanceRenderer, ModelTexts};
use crate::stage::publishing::{Topics, publications};
use crate::store::StoreReader;

/// Publications of the stored predictions.
pub struct StoredBacklog {
    folder: PathBuf,
    topics: Topics,
    reader: Option<StoreReader>,
    renderers: HashMap<InstanceId, Option<InstanceRenderer>>,
    texts: Vec<Arc<ModelTexts>>,
}

impl StoredBacklog {
    /// Returns the backlog of a state folder.
    #[must_use]
    pub fn new(folder: PathBuf, topics: Topics) -> Self {
        Self { folder, topics, reader: None, renderers: HashMap::new(), texts: Vec::new() }
    }

    /// A day may pass until it is asked again, and instances come and go with every release.
    fn rest(&mut self) {
        self.reader = None;
        self.renderers = HashMap::new();
        self.texts = Vec::new();
    }

    /// Tells whether it keeps anything for the next page.
    #[cfg(test)]
    pub(crate) fn rests(&self) -> bool {
        self.reader.is_none() && self.renderers.capacity() == 0 && self.texts.capacity() == 0
    }
}

impl Backlog for StoredBacklog {
    fn publications_after(&mut self, sequence: u64, limit: usize) -> Result<BacklogPage, String> {
        let text = |error: &crate::store::StoreError| Chain(error).to_string();
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => StoreReader::open(&self.folder).map_err(|error| text(&error))?,
        };
        let mut page = BacklogPage { through: sequence, ..BacklogPage::default() };
        let mut seen = 0;
        reader
            .predictions_after(sequence, limit, &mut |record| {
                seen += 1;
                page.through = record.stored.sequence;
                let stored = record.stored;
                let renderer = self.renderers.entry(stored.instance).or_insert_with(|| {
                    let mut renderer = self.topics.renderer(record.identity)?;
                    renderer.share_texts(&mut self.texts);
                    Some(renderer)
                });
                let Some(renderer) = renderer else { return };
                let head = WindowHead {
                    // Renderers do not look at it.
                    model: ModelIndex(0),
                    instance: stored.instance,
                    window_end_us: stored.window_end_us,
                    flags: stored.flags,
                };
                let prediction = Prediction {
                    head,
                    id: record.id,
                    outputs: stored.outputs.clone(),
                    label: stored.label,
                    alert: stored.alert,
                };
                publications(renderer, stored.sequence, &prediction, &mut page.publications);
            })
            .map_err(|error| text(&error))?;
        if seen < limit {
            page.end = PageEnd::Exhausted;
            self.rest();
        } else {
            page.end = PageEnd::More;
            self.reader = Some(reader);
        }
        Ok(page)
    }
}
