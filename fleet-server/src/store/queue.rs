//! Threads that own a connection each, and the bounded queue that they take work from.
//!
//! A connection is used by one thread, and never by the one that serves requests. Refuses what does not fit into the
//! queue, so that a slow database slows its clients down instead of filling the memory.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::{Sql, StoreError};

/// Work that waits at most: some seconds' worth on a slow disk.
const WAITING_MAX: usize = 1_024;

/// Work that waits when rows are left with the gateways: the rest is for their health and for people.
const STRAINED: usize = WAITING_MAX / 2;

/// A connection, as a thread uses it.
pub(super) trait Connection: Send + 'static {
    /// Most pieces of work that are taken together, to be kept by one commit.
    const TOGETHER: usize;

    /// Does work, each piece all or not at all, and tells each what became of it.
    fn run(&mut self, works: Vec<Box<dyn Work>>);
}

/// A piece of work.
pub(super) trait Work: Send {
    /// Does the work, for the first time or again.
    fn run(&mut self, sql: &mut dyn Sql) -> Result<(), StoreError>;

    /// Tells who waits that it is done and kept, or why not.
    fn end(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// Does a piece of work; a panic becomes an error.
pub(super) fn run_caught(work: &mut dyn Work, sql: &mut dyn Sql) -> Result<(), StoreError> {
    catch_unwind(AssertUnwindSafe(|| work.run(sql))).unwrap_or(Err(StoreError::Panicked))
}

struct Waiting<W, T> {
    work: W,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, W> Work for Waiting<W, T>
where
    T: Send,
    W: FnMut(&mut dyn Sql) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, sql: &mut dyn Sql) -> Result<(), StoreError> {
        self.result = Some((self.work)(sql)?);
        Ok(())
    }

    fn end(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { result, reply, .. } = *self;
        // Who asked may have gone away; the work is done all the same.
        let _ = reply.send(outcome.and_then(|()| result.ok_or(StoreError::Stopped)));
    }
}

/// A queue and its threads.
pub(super) struct Lane {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    works: VecDeque<Box<dyn Work>>,
    is_closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for work; nothing once the queue is closed and empty.
    fn take(&self, together: usize) -> Option<Vec<Box<dyn Work>>> {
        let mut state = self.lock();
        while state.works.is_empty() {
            if state.is_closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let count = state.works.len().min(together);
        Some(state.works.drain(..count).collect())
    }
}

impl Lane {
    /// Starts a thread for each connection.
    pub(super) fn start<C: Connection>(name: &str, connections: impl Iterator<Item = C>) -> Self {
        let queue = Arc::new(Queue::default());
        let mut threads = Vec::new();
        for mut connection in connections {
            let queue = Arc::clone(&queue);
            let work = move || {
                while let Some(works) = queue.take(C::TOGETHER) {
                    connection.run(works);
                }
            };
            match std::thread::Builder::new().name(name.to_owned()).spawn(work) {
                Ok(thread) => threads.push(thread),
                Err(error) => tracing::error!(%error, name, "a thread of the store cannot be started"),
            }
        }
        Self { queue, threads }
    }

    /// Hands work in and waits for its outcome. Cancel-safe: the work is done even if nobody waits any more.
    pub(super) async fn hand_in<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnMut(&mut dyn Sql) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, outcome) = oneshot::channel();
        {
            let mut state = self.queue.lock();
            if state.is_closed || self.threads.is_empty() {
                return Err(StoreError::Stopped);
            }
            if state.works.len() >= WAITING_MAX {
                return Err(StoreError::Busy);
            }
            state.works.push_back(Box::new(Waiting { work, result: None, reply }));
        }
        self.queue.changed.notify_one();
        outcome.await.unwrap_or(Err(StoreError::Stopped))
    }

    /// Tells whether so much waits that what can wait longer should stay away.
    pub(super) fn is_strained(&self) -> bool {
        self.queue.lock().works.len() >= STRAINED
    }

    /// Lets the threads end once the queue is empty, and waits for them.
    pub(super) fn close(mut self) {
        self.shut();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }

    fn shut(&self) {
        self.queue.lock().is_closed = true;
        self.queue.changed.notify_all();
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.shut();
    }
}
