//! What the server does by itself while it serves: each a task that ends when the server stops.
//!
//! What is to be done by one of several servers is done under a lease. Never keeps the store open after the end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::feed;
use crate::fleet::Fleet;
use crate::image;
use crate::retention;
use crate::rollouts;
use crate::waking;
use crate::webhooks;

/// The tasks.
#[derive(Debug)]
pub struct Background {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// Tells a task when the server stops.
#[derive(Debug, Clone)]
pub struct Stopping(watch::Receiver<bool>);

impl Stopping {
    /// Waits for a time; false where the server stops before it is over.
    pub async fn pause(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.0.wait_for(|is_stopping| *is_stopping)).await.is_err()
    }
}

impl Background {
    /// Starts all tasks.
    #[must_use]
    pub fn start(fleet: &Arc<Fleet>) -> Self {
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let stopping = Stopping(stopping);
        tasks.spawn(image::renew_in_time(Arc::clone(fleet), stopping.clone()));
        tasks.spawn(retention::tidy_in_time(Arc::clone(fleet), stopping.clone()));
        tasks.spawn(rollouts::reconcile(Arc::clone(fleet), stopping.clone()));
        tasks.spawn(feed::follow(Arc::clone(fleet), stopping.clone()));
        tasks.spawn(webhooks::deliver(Arc::clone(fleet), stopping.clone()));
        if fleet.store.is_shared() {
            tasks.spawn(waking::listen(Arc::clone(fleet), stopping));
        }
        Self { stop, tasks }
    }

    /// Ends all tasks; returns when they have ended.
    pub async fn end(mut self) {
        // Tasks that have ended already hear nothing.
        let _ = self.stop.send(true);
        while self.tasks.join_next().await.is_some() {}
    }
}
