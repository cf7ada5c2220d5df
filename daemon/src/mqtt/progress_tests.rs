//! What counts as published, over stage, queue, store and publisher together: pure parts, driven in any order.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use dunlin_model_package::Digest;
use dunlin_pipeline::prediction::{
    InstanceId, InstanceIdentity, ModelIndex, Prediction, PredictionId, QualityFlags, WindowHead,
};
use proptest::prelude::*;

use super::feed::{BacklogPage, PageEnd, PublishQueue, publish_channel};
use super::outbox::{AfterPage, Confirmation, Outbox, Supply, Want};
use crate::config::settings::PublishMode;
use crate::flow::Publication;
use crate::stage::publishing::{PublishProgress, Publishing, Topics, publications};

const QUEUE: usize = 3;
const PAGE: usize = 2;
const OPEN_MAX: usize = 6;

fn topics() -> Topics {
    Topics::new("gw", &[toml::from_str("name = \"m\"\npackage = \"p\"").unwrap()])
}

fn identity() -> InstanceIdentity {
    InstanceIdentity {
        model: "m".into(),
        version: "1".into(),
        package: Digest::of(b"p"),
        key: vec![],
        outputs: vec![("y".into(), 1)],
        labels: vec![],
    }
}

/// A prediction whose id is a number that no other has.
fn prediction(number: u64) -> Prediction {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    let flags = if number % 4 == 3 { QualityFlags::INFERENCE_FAILED } else { QualityFlags::default() };
    let head = WindowHead { model: ModelIndex(0), instance: InstanceId(0), window_end_us: 0, flags };
    Prediction { head, id: PredictionId(id), outputs: vec![1.0], label: None, alert: None }
}

fn number_of(publication: &Publication) -> u64 {
    let text = std::str::from_utf8(&publication.payload).unwrap();
    u64::from_str_radix(&text[7 + 16..7 + 32], 16).unwrap()
}

struct World {
    mode: PublishMode,
    publishing: Publishing,
    progress: PublishProgress,
    queue: PublishQueue,
    outbox: Outbox,
    supply: Supply,
    /// By sequence from 1: the prediction's number, once the model has run.
    made: Vec<Option<u64>>,
    next_number: u64,
    complete: usize,
    committed: usize,
    packet_id: u16,
    unacknowledged: Vec<(u16, u64)>,
    confirmed: BTreeSet<u64>,
}

impl World {
    fn start(mode: PublishMode, log: Vec<Option<u64>>, next_number: u64, published_through: u64) -> Self {
        let committed = log.len();
        let (feed, queue) = publish_channel(QUEUE);
        let progress = PublishProgress::default();
        progress.publisher.store(published_through, Ordering::Release);
        let mut publishing = Publishing::new(feed, mode, topics(), progress.clone(), committed as u64);
        publishing.introduce(InstanceId(0), &identity());
        Self {
            mode,
            publishing,
            progress,
            queue,
            outbox: Outbox::new(Confirmation::Acknowledged, published_through),
            supply: Supply::resume(published_through, committed as u64),
            made: log,
            next_number,
            complete: committed,
            committed,
            packet_id: 0,
            unacknowledged: Vec::new(),
            confirmed: BTreeSet::new(),
        }
    }

    fn killed(self) -> Self {
        let stored = self.progress.stored.load(Ordering::Acquire).min(self.committed as u64);
        let log = self.made[..self.committed].to_vec();
        let mut next = Self::start(self.mode, log, self.next_number, stored);
        next.confirmed = self.confirmed;
        next
    }

    fn open(&self) -> Vec<usize> {
        (self.complete..self.made.len()).filter(|index| self.made[*index].is_none()).collect()
    }

    fn answer(&mut self, pick: usize) {
        let open = self.open();
        if open.is_empty() {
            return;
        }
        let index = open[pick % open.len()];
        let number = self.next_number;
        self.next_number += 1;
        self.made[index] = Some(number);
        self.publishing.predicted(index as u64 + 1, &prediction(number));
        while let Some(Some(number)) = self.made.get(self.complete).copied() {
            self.complete += 1;
            self.publishing.to_be_committed(self.complete as u64, &prediction(number));
        }
    }

    fn commit(&mut self, count: usize) {
        self.committed = (self.committed + count).min(self.complete);
    }

    fn page(&self, after: u64) -> BacklogPage {
        let renderer = topics().renderer(&identity()).unwrap();
        let mut page = BacklogPage { through: after, ..BacklogPage::default() };
        let last = self.committed.min(after as usize + PAGE);
        for sequence in after as usize + 1..=last {
            let number = self.made[sequence - 1].unwrap();
            publications(&renderer, sequence as u64, &prediction(number), &mut page.publications);
            page.through = sequence as u64;
        }
        let full = last == after as usize + PAGE;
        page.end = if full { PageEnd::More } else { PageEnd::Exhausted };
        page
    }

    /// What the publisher does in one turn.
    fn publish(&mut self, count: usize) {
        if let Want::Page(after) = self.supply.want() {
            let page = self.page(after);
            if self.supply.take_page(page, &mut self.outbox) == AfterPage::Close {
                let last = self.queue.gap.close().unwrap_or(0);
                self.supply.closed(last);
            }
        } else {
            for _ in 0..count {
                if let Ok(publication) = self.queue.queue.try_recv() {
                    self.outbox.accept_live(publication);
                }
            }
            if let Some(first) = self.queue.gap.first_missing()
                && self.queue.queue.is_empty()
            {
                self.supply.gap_reached(first);
            }
        }
    }

    fn confirm(&mut self, pick: usize) {
        while let Some(publication) = self.outbox.waiting() {
            let number = number_of(publication);
            self.packet_id += 1;
            self.outbox.mark_handed();
            self.outbox.written(self.packet_id);
            self.unacknowledged.push((self.packet_id, number));
        }
        if !self.unacknowledged.is_empty() {
            let (packet_id, number) = self.unacknowledged.remove(pick % self.unacknowledged.len());
            self.outbox.acknowledged(packet_id);
            self.confirmed.insert(number);
        }
    }

    fn act(&mut self, action: u8, pick: usize) {
        match action {
            0 | 1 if self.open().len() < OPEN_MAX => self.made.push(None),
            0..=4 => self.answer(pick),
            5 => self.commit(pick % 4),
            6 => self.publishing.committed(self.committed as u64),
            7 => self.publish(1 + pick % 3),
            _ => self.confirm(pick),
        }
        self.progress.publisher.store(self.outbox.published_through(), Ordering::Release);
        self.publishing.advance(self.open().first().map_or(self.made.len(), |index| *index) as u64 + 1);
    }

    /// Returns the predictions up to `through` that are to be published and were not confirmed.
    fn missing(&self, through: usize) -> Vec<u64> {
        let numbers = self.made[..through.min(self.made.len())].iter().flatten().copied();
        numbers.filter(|n| n % 4 != 3 && !self.confirmed.contains(n)).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn every_valid_prediction_is_confirmed_or_above_the_stored_progress_wherever_the_daemon_is_killed(
        immediate in any::<bool>(),
        lives in prop::collection::vec(prop::collection::vec((0..9_u8, any::<u8>()), 0..80), 1..4),
    ) {
        let mode = if immediate { PublishMode::Immediate } else { PublishMode::Committed };
        let mut world = World::start(mode, Vec::new(), 0, 0);
        for life in lives {
            for (action, pick) in life {
                world.act(action, usize::from(pick));
                let stored = world.progress.stored.load(Ordering::Acquire);
                prop_assert_eq!(world.missing(stored as usize), Vec::<u64>::new(), "stored {}", stored);
            }
            world = world.killed();
        }
        // Nothing is forgotten either: all goes out in the end.
        for _ in 0..400 {
            for action in [4, 5, 6, 7, 8] {
                world.act(action, 3);
            }
        }
        prop_assert_eq!(world.missing(usize::MAX), Vec::<u64>::new());
    }
}
