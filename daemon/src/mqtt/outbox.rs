//! What was accepted for publishing and is not confirmed, and where the next publications come from.
//!
//! Two pure machines without input or output: [`Outbox`] keeps publications through any number of connections until
//! they are confirmed, [`Supply`] says whether to take from the queue or from the store. The publisher drives both.

use std::collections::{HashMap, VecDeque};

use super::feed::{BacklogPage, PageEnd};
use crate::flow::Publication;

/// Where a publication stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not given to the current connection.
    Waiting,
    /// Given to the current connection.
    Handed,
    /// Confirmed, or given up: waits only for those before it.
    Done,
}

#[derive(Debug)]
struct Entry {
    publication: Publication,
    phase: Phase,
    /// Whether an earlier connection had it.
    repeated: bool,
}

/// How a publication is confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// By being written to the socket (QoS 0).
    Written,
    /// By PUBACK (QoS 1).
    Acknowledged,
}

/// Accepted publications in order of acceptance, until all before them and they themselves are confirmed.
#[derive(Debug)]
pub struct Outbox {
    confirmation: Confirmation,
    entries: VecDeque<Entry>,
    /// Number of the front entry, counted since the start.
    front: u64,
    /// Number of the first entry that was not looked at for handing on this connection.
    next: u64,
    /// Numbers of entries that were handed and not written yet, in order.
    handed: VecDeque<u64>,
    /// Entries written under these packet identifiers.
    packets: HashMap<u16, u64>,
    /// An entry that waits for its packet identifier to become free.
    collided: Option<(u16, u64)>,
    /// Highest sequence that was accepted.
    newest: u64,
    /// No publication up to this sequence is still to be accepted.
    whole_through: u64,
}

impl Outbox {
    /// Returns an empty outbox; everything up to `published_through` was confirmed before.
    #[must_use]
    pub fn new(confirmation: Confirmation, published_through: u64) -> Self {
        Self {
            confirmation,
            entries: VecDeque::new(),
            front: 0,
            next: 0,
            handed: VecDeque::new(),
            packets: HashMap::new(),
            collided: None,
            newest: published_through,
            whole_through: published_through,
        }
    }

    /// Returns how many publications are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Tells whether all that was accepted is confirmed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns how many were handed to the connection and not written yet.
    #[must_use]
    pub fn handed(&self) -> usize {
        self.handed.len()
    }

    /// Accepts a publication from the queue. A higher sequence than before says that the lower ones are whole.
    pub fn accept_live(&mut self, publication: Publication) {
        // Read back from the store before.
        if publication.sequence <= self.whole_through {
            return;
        }
        if publication.sequence > self.newest {
            self.whole_through = self.whole_through.max(publication.sequence - 1);
        }
        self.accept(publication);
    }

    /// Accepts publications from the store that are not whole yet; `through` says up to where they are then.
    pub fn accept_page(&mut self, publications: Vec<Publication>, through: u64) {
        for publication in publications {
            if publication.sequence > self.whole_through && publication.sequence <= through {
                self.accept(publication);
            }
        }
        self.whole_through = self.whole_through.max(through);
        self.newest = self.newest.max(self.whole_through);
    }

    /// Notes that nothing more comes for what was accepted.
    pub fn end_of_queue(&mut self) {
        self.whole_through = self.newest;
    }

    fn accept(&mut self, publication: Publication) {
        self.newest = self.newest.max(publication.sequence);
        self.entries.push_back(Entry { publication, phase: Phase::Waiting, repeated: false });
    }

    /// Starts anew on a connection that has none of the publications.
    pub fn connected(&mut self) {
        self.handed.clear();
        self.packets.clear();
        self.collided = None;
        self.next = self.front;
        for entry in &mut self.entries {
            if entry.phase == Phase::Handed {
                entry.phase = Phase::Waiting;
                entry.repeated = true;
            }
        }
    }

    /// Returns the next publication to hand to the connection.
    #[must_use]
    pub fn waiting(&mut self) -> Option<&Publication> {
        while let Some(entry) = self.entries.get(self.index(self.next)) {
            if entry.phase == Phase::Waiting {
                break;
            }
            self.next += 1;
        }
        self.entries.get(self.index(self.next)).map(|entry| &entry.publication)
    }

    /// Notes that the connection took what `waiting` returned; tells how often an earlier one had it: 0 or 1.
    pub fn mark_handed(&mut self) -> u64 {
        let index = self.index(self.next);
        let Some(entry) = self.entries.get_mut(index) else { return 0 };
        entry.phase = Phase::Handed;
        let repeated = u64::from(entry.repeated);
        self.handed.push_back(self.next);
        self.next += 1;
        repeated
    }

    /// Gives up what `waiting` returned: it can never be sent.
    pub fn give_up_waiting(&mut self) {
        self.done(self.next);
    }

    /// Notes that the connection wrote a publication under this packet identifier; 0 for QoS 0.
    pub fn written(&mut self, packet_id: u16) {
        if let Some((_, number)) = self.collided.take_if(|(waiting, _)| *waiting == packet_id) {
            self.packets.insert(packet_id, number);
            return;
        }
        let Some(number) = self.handed.pop_front() else { return };
        match self.confirmation {
            Confirmation::Written => self.done(number),
            Confirmation::Acknowledged => {
                self.packets.insert(packet_id, number);
            }
        }
    }

    /// Notes that the next publication waits for its packet identifier to become free.
    pub fn collided(&mut self, packet_id: u16) {
        if let Some(number) = self.handed.pop_front() {
            self.collided = Some((packet_id, number));
        }
    }

    /// Notes the broker's PUBACK.
    pub fn acknowledged(&mut self, packet_id: u16) {
        if let Some(number) = self.packets.remove(&packet_id) {
            self.done(number);
        }
    }

    /// Returns the highest sequence up to which every publication is confirmed; never falls.
    #[must_use]
    pub fn published_through(&self) -> u64 {
        match self.entries.front() {
            Some(entry) => self.whole_through.min(entry.publication.sequence.saturating_sub(1)),
            None => self.whole_through,
        }
    }

    fn index(&self, number: u64) -> usize {
        usize::try_from(number.saturating_sub(self.front)).unwrap_or(usize::MAX)
    }

    fn done(&mut self, number: u64) {
        let index = self.index(number);
        if let Some(entry) = self.entries.get_mut(index) {
            entry.phase = Phase::Done;
        }
        while self.entries.front().is_some_and(|entry| entry.phase == Phase::Done) {
            self.entries.pop_front();
            self.front += 1;
        }
        self.next = self.next.max(self.front);
    }
}

/// What to take next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Whatever comes through the queue.
    Queue,
    /// The store's publications after this sequence.
    Page(u64),
}

/// Up to where the store has to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// The stage leaves out publications: as far as the store goes.
    Open,
    /// The stage sends again after this sequence.
    Sequence(u64),
}

/// Where publications come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Supply(State);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Live,
    Reading { covered: u64, target: Target },
}

/// What to do about a gap after a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterPage {
    /// Nothing: go on.
    Continue,
    /// Read again, a little later: the store has not committed all of it.
    Wait,
    /// Tell the stage to send again, and tell `closed` the last sequence that it left out.
    Close,
}

impl Supply {
    /// Starts with what was committed before this process and not confirmed.
    #[must_use]
    pub const fn resume(published_through: u64, committed_through: u64) -> Self {
        if published_through < committed_through {
            let target = Target::Sequence(committed_through);
            Self(State::Reading { covered: published_through, target })
        } else {
            Self(State::Live)
        }
    }

    /// Returns what to take next.
    #[must_use]
    pub const fn want(&self) -> Want {
        match self.0 {
            State::Live => Want::Queue,
            State::Reading { covered, .. } => Want::Page(covered),
        }
    }

    /// Notes that the stage leaves out publications from this sequence on, and that the queue was drained after that.
    pub const fn gap_reached(&mut self, first_missing: u64) {
        if let State::Live = self.0 {
            self.0 = State::Reading { covered: first_missing.saturating_sub(1), target: Target::Open };
        }
    }

    /// Takes a page into the outbox and says what is next.
    pub fn take_page(&mut self, page: BacklogPage, outbox: &mut Outbox) -> AfterPage {
        let State::Reading { covered, target } = self.0 else { return AfterPage::Continue };
        let through = match target {
            Target::Open => page.through,
            Target::Sequence(last) => page.through.min(last),
        };
        let through = through.max(covered);
        outbox.accept_page(page.publications, through);
        self.0 = State::Reading { covered: through, target };
        match (target, page.end) {
            (Target::Sequence(last), _) if through >= last => {
                self.0 = State::Live;
                AfterPage::Continue
            }
            (Target::Open, PageEnd::Exhausted) => AfterPage::Close,
            (Target::Sequence(_), PageEnd::Exhausted) => AfterPage::Wait,
            (_, PageEnd::More) if through > covered => AfterPage::Continue,
            (_, PageEnd::More) => AfterPage::Wait,
        }
    }

    /// Notes that the stage sends again, and the last sequence that it left out.
    pub const fn closed(&mut self, last_missing: u64) {
        if let State::Reading { covered, .. } = self.0 {
            self.0 = if covered >= last_missing {
                State::Live
            } else {
                State::Reading { covered, target: Target::Sequence(last_missing) }
            };
        }
    }

    /// Gives up what cannot be read; `last_missing` is the end of the gap if it was still open. Returns the sequences
    /// that were given up: after the first and up to the second.
    pub fn give_up(&mut self, last_missing: Option<u64>, outbox: &mut Outbox) -> (u64, u64) {
        let State::Reading { covered, target } = self.0 else { return (0, 0) };
        let last = match target {
            Target::Open => last_missing.unwrap_or(covered),
            Target::Sequence(last) => last,
        };
        outbox.accept_page(Vec::new(), last);
        self.0 = State::Live;
        (covered, last.max(covered))
    }
}

#[cfg(test)]
mod tests;
