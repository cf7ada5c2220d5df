//! Steps whose windows are with the slots: kept in order until every prediction is there.
//!
//! Pure bookkeeping: a window's ticket is its prediction's sequence number, so numbers have no gaps whatever the
//! order in which slots answer. A step leaves when it and all before it are complete.

use std::collections::VecDeque;

use dunlin_pipeline::prediction::{ModelIndex, Prediction, WindowHead};

use crate::flow::Step;

/// Steps and windows in flight.
#[derive(Debug)]
pub struct InFlight {
    steps: VecDeque<OpenStep>,
    first_step: u64,
    windows: VecDeque<OpenWindow>,
    first_ticket: u64,
}

#[derive(Debug)]
struct OpenStep {
    step: Step,
    predictions: Vec<Option<Prediction>>,
    missing: usize,
}

/// A window that is with a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenWindow {
    /// Which window.
    pub head: WindowHead,
    /// Monotonic time at which its last message arrived, in microseconds.
    pub arrived_us: i64,
    /// Monotonic time at which its slot got it; `None` before.
    pub submitted_us: Option<i64>,
    step: u64,
    position: usize,
    answered: bool,
}

impl InFlight {
    /// Returns an empty list whose first ticket is this sequence number.
    #[must_use]
    pub const fn new(first_ticket: u64) -> Self {
        Self { steps: VecDeque::new(), first_step: 0, windows: VecDeque::new(), first_ticket }
    }

    /// Returns the ticket that the next window gets.
    #[must_use]
    pub fn next_ticket(&self) -> u64 {
        self.first_ticket + self.windows.len() as u64
    }

    /// Returns the lowest ticket that has no answer yet, or the next one where all have.
    #[must_use]
    pub const fn lowest_open(&self) -> u64 {
        self.first_ticket
    }

    /// Returns how many windows wait for their slot, at most.
    #[must_use]
    pub fn windows(&self) -> usize {
        self.windows.len()
    }

    /// Returns how many steps wait.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// Adds a step with its windows and the arrival time of each; their tickets are the next ones, in order.
    pub fn open(&mut self, mut step: Step, windows: &[(WindowHead, i64)]) {
        step.prediction_sequence = self.next_ticket();
        let number = self.first_step + self.steps.len() as u64;
        for (position, (head, arrived_us)) in windows.iter().enumerate() {
            self.windows.push_back(OpenWindow {
                head: *head,
                arrived_us: *arrived_us,
                submitted_us: None,
                step: number,
                position,
                answered: false,
            });
        }
        self.steps.push_back(OpenStep {
            step,
            predictions: vec![None; windows.len()],
            missing: windows.len(),
        });
    }

    /// Returns the window with this ticket, if it waits for its answer.
    #[must_use]
    pub fn window(&self, ticket: u64) -> Option<OpenWindow> {
        let position = usize::try_from(ticket.checked_sub(self.first_ticket)?).ok()?;
        self.windows.get(position).filter(|window| !window.answered).copied()
    }

    /// Notes when the slot got the window with this ticket.
    pub fn submitted(&mut self, ticket: u64, now_us: i64) {
        let position =
            ticket.checked_sub(self.first_ticket).and_then(|position| usize::try_from(position).ok());
        if let Some(window) = position.and_then(|position| self.windows.get_mut(position)) {
            window.submitted_us = Some(now_us);
        }
    }

    /// Returns the tickets of a lane's windows that wait for their answer.
    #[must_use]
    pub fn open_in(&self, lane: ModelIndex) -> Vec<u64> {
        let tickets = (self.first_ticket..).zip(&self.windows);
        let open = tickets.filter(|(_, window)| !window.answered && window.head.model == lane);
        open.map(|(ticket, _)| ticket).collect()
    }

    /// Puts the prediction of the window with this ticket into its step.
    pub fn answer(&mut self, ticket: u64, prediction: Prediction) {
        let Some(window) = self.window(ticket) else { return };
        self.windows[(ticket - self.first_ticket) as usize].answered = true;
        if let Some(open) =
            usize::try_from(window.step - self.first_step).ok().and_then(|i| self.steps.get_mut(i))
        {
            open.predictions[window.position] = Some(prediction);
            open.missing -= 1;
        }
        while self.windows.front().is_some_and(|window| window.answered) {
            self.windows.pop_front();
            self.first_ticket += 1;
        }
    }

    /// Returns the oldest step if all its predictions are there.
    pub fn take_complete(&mut self) -> Option<Step> {
        if self.steps.front()?.missing > 0 {
            return None;
        }
        let open = self.steps.pop_front()?;
        self.first_step += 1;
        let mut step = open.step;
        step.predictions = open.predictions.into_iter().flatten().collect();
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunlin_pipeline::prediction::{InstanceId, ModelIndex, PredictionId, QualityFlags};
    use proptest::prelude::*;

    fn head(n: u64) -> WindowHead {
        WindowHead {
            model: ModelIndex(0),
            instance: InstanceId(0),
            window_end_us: n as i64,
            flags: QualityFlags::default(),
        }
    }

    fn prediction(n: u64) -> Prediction {
        Prediction { head: head(n), id: PredictionId([0; 16]), outputs: vec![], label: None, alert: None }
    }

    proptest! {
        #[test]
        fn steps_leave_in_order_with_all_predictions_whatever_the_order_of_answers(
            sizes in prop::collection::vec(0..5_usize, 1..20), picks in prop::collection::vec(any::<prop::sample::Index>(), 0..200)
        ) {
            let mut in_flight = InFlight::new(100);
            let mut waiting = Vec::new();
            for size in &sizes {
                let first = in_flight.next_ticket();
                let windows: Vec<_> = (first..first + *size as u64).map(|n| (head(n), 0)).collect();
                waiting.extend(windows.iter().map(|(head, _)| head.window_end_us as u64));
                in_flight.open(Step::default(), &windows);
            }
            let mut left = Vec::new();
            let mut order = Vec::new();
            for pick in picks {
                if !waiting.is_empty() {
                    order.push(waiting.remove(pick.index(waiting.len())));
                }
            }
            let mut open: std::collections::BTreeSet<u64> = (100..in_flight.next_ticket()).collect();
            for ticket in order.into_iter().chain(waiting) {
                prop_assert!(in_flight.lowest_open() <= ticket);
                prop_assert_eq!(in_flight.open_in(ModelIndex(0)), open.iter().copied().collect::<Vec<_>>());
                prop_assert!(in_flight.open_in(ModelIndex(1)).is_empty());
                open.remove(&ticket);
                in_flight.answer(ticket, prediction(ticket));
                in_flight.answer(ticket, prediction(0));
                while let Some(step) = in_flight.take_complete() {
                    left.push(step);
                }
            }
            while let Some(step) = in_flight.take_complete() {
                left.push(step);
            }
            prop_assert_eq!(left.len(), sizes.len());
            let mut next = 100;
            for (step, size) in left.iter().zip(sizes) {
                prop_assert_eq!(step.prediction_sequence, next);
                let ends: Vec<i64> = step.predictions.iter().map(|p| p.head.window_end_us).collect();
                prop_assert_eq!(ends, (next as i64..next as i64 + size as i64).collect::<Vec<_>>());
                next += size as u64;
            }
            prop_assert_eq!(in_flight.windows(), 0);
        }
    }
}
