//! What all gateways of a crowd are told at once: to begin, to lose their connections, to stop.
//!
//! A channel of the newest state; whoever looks late sees it all the same.

use tokio::sync::watch::{Receiver, Sender, channel};

/// What holds for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Moment {
    pub(crate) has_begun: bool,
    pub(crate) storms: u32,
    pub(crate) has_ended: bool,
}

/// Who tells.
#[derive(Debug)]
pub(crate) struct Teller(Sender<Moment>);

/// Who listens.
#[derive(Debug, Clone)]
pub(crate) struct Listener {
    receiver: Receiver<Moment>,
    storms: u32,
}

/// Why a wait was over before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Storm,
    End,
}

pub(crate) fn pair() -> (Teller, Listener) {
    let (sender, receiver) = channel(Moment::default());
    (Teller(sender), Listener { receiver, storms: 0 })
}

impl Teller {
    pub(crate) fn begin(&self) {
        self.0.send_modify(|moment| moment.has_begun = true);
    }

    pub(crate) fn storm(&self) {
        self.0.send_modify(|moment| moment.storms += 1);
    }

    pub(crate) fn end(&self) {
        self.0.send_modify(|moment| moment.has_ended = true);
    }
}

impl Listener {
    /// Waits for the beginning; false where it is the end.
    pub(crate) async fn begun(&mut self) -> bool {
        let began = self.receiver.wait_for(|moment| moment.has_begun || moment.has_ended).await;
        began.is_ok_and(|moment| !moment.has_ended)
    }

    /// Waits for a call; cancel-safe.
    pub(crate) async fn call(&mut self) -> Call {
        let storms = self.storms;
        let called = self.receiver.wait_for(|moment| moment.has_ended || moment.storms > storms).await;
        match called {
            Ok(moment) if !moment.has_ended => {
                self.storms = moment.storms;
                Call::Storm
            }
            _ => Call::End,
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.receiver.borrow().has_ended
    }
}
