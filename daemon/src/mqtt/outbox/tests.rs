//! Nothing is skipped and nothing counts as confirmed too early, whatever the order of events.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::mqtt::feed::{PublishFeed, PublishQueue, publish_channel};

fn publication(sequence: u64, part: u8) -> Publication {
    Publication { sequence, topic: "t".into(), payload: Bytes::from(vec![part]) }
}

#[test]
fn out_of_order_acknowledgements_confirm_nothing_early() {
    let mut outbox = Outbox::new(Confirmation::Acknowledged, 10);
    for sequence in [11, 12, 13] {
        outbox.accept_live(publication(sequence, 0));
    }
    outbox.connected();
    for packet_id in 1..=3 {
        assert!(outbox.waiting().is_some());
        outbox.mark_handed();
        outbox.written(packet_id);
    }
    outbox.acknowledged(2);
    assert_eq!(outbox.published_through(), 10);
    outbox.acknowledged(1);
    assert_eq!(outbox.published_through(), 12);
    outbox.acknowledged(3);
    assert_eq!(outbox.published_through(), 12, "another publication of 13 may follow");
    outbox.end_of_queue();
    assert_eq!(outbox.published_through(), 13);
}

#[test]
fn a_packet_identifier_that_is_taken_confirms_the_right_publication() {
    let mut outbox = Outbox::new(Confirmation::Acknowledged, 0);
    for sequence in [1, 2, 3] {
        outbox.accept_live(publication(sequence, 0));
    }
    outbox.connected();
    while outbox.waiting().is_some() {
        outbox.mark_handed();
    }
    outbox.written(1);
    outbox.written(2);
    outbox.collided(1);
    outbox.acknowledged(1);
    outbox.written(1);
    assert_eq!((outbox.published_through(), outbox.len()), (1, 2));
    outbox.acknowledged(1);
    assert_eq!((outbox.published_through(), outbox.len()), (1, 2));
    outbox.acknowledged(2);
    assert_eq!((outbox.published_through(), outbox.len()), (2, 0));
}

/// A stage, a store, a broker and a publisher, as far as they matter.
struct World {
    feed: PublishFeed,
    queue: PublishQueue,
    outbox: Outbox,
    supply: Supply,
    confirmation: Confirmation,
    made: Vec<Publication>,
    sequence: u64,
    committed: u64,
    connected: bool,
    on_wire: VecDeque<u16>,
    wire: HashMap<u16, Publication>,
    packet_id: u16,
    /// What the broker has.
    received: BTreeSet<(u64, u8)>,
    through: u64,
}

#[derive(Debug, Clone)]
enum Step {
    Predict(u8),
    Commit,
    Connect,
    Cut,
    Take(usize),
    Hand(usize),
    Deliver(usize),
    Acknowledge(usize),
}

impl World {
    fn new(confirmation: Confirmation) -> Self {
        let (feed, queue) = publish_channel(4);
        Self {
            feed,
            queue,
            outbox: Outbox::new(confirmation, 0),
            supply: Supply::resume(0, 0),
            confirmation,
            made: Vec::new(),
            sequence: 0,
            committed: 0,
            connected: false,
            on_wire: VecDeque::new(),
            wire: HashMap::new(),
            packet_id: 0,
            received: BTreeSet::new(),
            through: 0,
        }
    }

    fn page(&self, after: u64, limit: usize) -> BacklogPage {
        let mut page = BacklogPage { through: self.committed.max(after), ..BacklogPage::default() };
        for one in self.made.iter().filter(|one| one.sequence > after && one.sequence <= self.committed) {
            let last = page.publications.last().map(|last: &Publication| last.sequence);
            if page.publications.len() >= limit && last != Some(one.sequence) {
                page.through = last.unwrap_or(after);
                page.end = PageEnd::More;
                break;
            }
            page.publications.push(one.clone());
        }
        page
    }

    fn take(&mut self, limit: usize) {
        match self.supply.want() {
            Want::Queue => {
                let gap = self.queue.gap.first_missing();
                for _ in 0..limit {
                    let Ok(one) = self.queue.queue.try_recv() else {
                        if let Some(first) = gap {
                            self.supply.gap_reached(first);
                        }
                        break;
                    };
                    self.outbox.accept_live(one);
                }
            }
            Want::Page(after) => {
                let page = self.page(after, limit);
                if self.supply.take_page(page, &mut self.outbox) == AfterPage::Close
                    && let Some(last) = self.queue.gap.close()
                {
                    self.supply.closed(last);
                }
            }
        }
    }

    fn hand(&mut self, limit: usize) {
        for _ in 0..limit {
            let Some(one) = self.outbox.waiting().cloned() else { break };
            self.outbox.mark_handed();
            self.packet_id = self.packet_id.wrapping_add(1).max(1);
            let id = self.packet_id;
            self.on_wire.push_back(id);
            self.wire.insert(id, one);
        }
    }

    fn deliver(&mut self, limit: usize) {
        for _ in 0..limit.min(self.outbox.handed()) {
            let handed = self.on_wire.len() - self.outbox.handed();
            let id = self.on_wire[handed];
            let one = &self.wire[&id];
            self.received.insert((one.sequence, one.payload[0]));
            match self.confirmation {
                Confirmation::Written => {
                    self.outbox.written(0);
                    self.on_wire.remove(handed);
                }
                Confirmation::Acknowledged => self.outbox.written(id),
            }
        }
    }

    fn acknowledge(&mut self, position: usize) {
        let written = self.on_wire.len() - self.outbox.handed();
        if self.confirmation == Confirmation::Acknowledged && written > 0 {
            let id = self.on_wire.remove(position % written).unwrap();
            self.outbox.acknowledged(id);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Predict(parts) => {
                self.sequence += 1;
                for part in 0..parts {
                    let one = publication(self.sequence, part);
                    self.made.push(one.clone());
                    self.feed.offer(one);
                }
            }
            Step::Commit => self.committed = self.sequence,
            Step::Connect => {
                self.outbox.connected();
                self.on_wire.clear();
                self.connected = true;
            }
            Step::Cut => self.connected = false,
            Step::Take(limit) if self.connected => self.take(limit),
            Step::Hand(limit) if self.connected => self.hand(limit),
            Step::Deliver(limit) if self.connected => self.deliver(limit),
            Step::Acknowledge(position) if self.connected => self.acknowledge(position),
            _ => {}
        }
        let through = self.outbox.published_through();
        assert!(through >= self.through, "published_through falls from {} to {through}", self.through);
        self.through = through;
        for one in self.made.iter().filter(|one| one.sequence <= through) {
            assert!(self.received.contains(&(one.sequence, one.payload[0])), "{one:?} is not received");
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..3_u8).prop_map(Step::Predict),
        2 => Just(Step::Commit),
        1 => Just(Step::Connect),
        1 => Just(Step::Cut),
        3 => (1..6_usize).prop_map(Step::Take),
        3 => (1..6_usize).prop_map(Step::Hand),
        3 => (1..6_usize).prop_map(Step::Deliver),
        3 => (0..6_usize).prop_map(Step::Acknowledge),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn nothing_is_skipped_and_nothing_is_confirmed_that_the_broker_lacks(
        steps in steps(),
        confirmation in prop_oneof![Just(Confirmation::Written), Just(Confirmation::Acknowledged)],
    ) {
        let mut world = World::new(confirmation);
        for step in &steps {
            world.step(step);
        }
        for step in [Step::Commit, Step::Cut, Step::Connect] {
            world.step(&step);
        }
        for _ in 0..4 * steps.len() + 20 {
            if world.outbox.is_empty() && world.supply.want() == Want::Queue && world.queue.queue.is_empty()
                && world.queue.gap.first_missing().is_none() { break; }
            for step in [Step::Take(8), Step::Hand(8), Step::Deliver(8)] {
                world.step(&step);
            }
            (0..8).for_each(|_| world.step(&Step::Acknowledge(0)));
        }
        prop_assert!(world.outbox.is_empty());
        prop_assert_eq!(world.supply.want(), Want::Queue);
        world.outbox.end_of_queue();
        let last = world.made.last().map_or(0, |one| one.sequence);
        prop_assert!(world.outbox.published_through() >= last);
        for one in &world.made {
            prop_assert!(world.received.contains(&(one.sequence, one.payload[0])), "{:?}", one);
        }
    }

    #[test]
    fn a_start_reads_back_what_was_not_confirmed_and_then_goes_live(through in 0..30_u64, committed in 0..30_u64) {
        let mut world = World::new(Confirmation::Written);
        world.made = (1..=committed).map(|sequence| publication(sequence, 0)).collect();
        (world.committed, world.sequence) = (committed, committed);
        let through = through.min(committed);
        world.outbox = Outbox::new(Confirmation::Written, through);
        world.supply = Supply::resume(through, committed);
        world.connected = true;
        world.feed.offer(publication(committed + 1, 0));
        world.made.push(publication(committed + 1, 0));
        for _ in 0..40 {
            world.take(3);
            world.hand(3);
            world.deliver(3);
        }
        let expected: Vec<_> = (through + 1..=committed + 1).map(|sequence| (sequence, 0)).collect();
        prop_assert_eq!(world.received.into_iter().collect::<Vec<_>>(), expected);
    }
}
