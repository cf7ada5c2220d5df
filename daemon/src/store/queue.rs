//! The bounded queue from the stage's task to the writer's thread.
//!
//! The sending side never blocks its thread: it tries, or awaits room. The receiving side is a plain thread that
//! waits with a deadline. Neither knows what the commands do.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// The queue has no room.
#[derive(Debug, PartialEq, Eq)]
pub enum SendFailure<T> {
    /// Await [`Sender::send`] with the command.
    Full(T),
    /// The writer has ended.
    Closed(T),
}

#[derive(Debug)]
struct Inner<T> {
    waiting: VecDeque<T>,
    senders: usize,
    receiver: bool,
}

#[derive(Debug)]
struct Shared<T> {
    inner: Mutex<Inner<T>>,
    capacity: usize,
    arrived: Condvar,
    room: Notify,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stage's end.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// The writer's end.
#[derive(Debug)]
pub struct Receiver<T>(Arc<Shared<T>>);

/// What a wait ended with.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<T> {
    /// A command.
    Command(T),
    /// The time is over.
    TimedOut,
    /// All senders are gone and nothing waits.
    Closed,
}

/// Returns both ends of a queue for `capacity` commands.
#[must_use]
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        inner: Mutex::new(Inner { waiting: VecDeque::new(), senders: 1, receiver: true }),
        capacity: capacity.max(1),
        arrived: Condvar::new(),
        room: Notify::new(),
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Sender<T> {
    /// Puts a command in, where there is room.
    ///
    /// *Errors*: the command comes back.
    pub fn try_send(&self, command: T) -> Result<(), SendFailure<T>> {
        let mut inner = self.0.lock();
        if !inner.receiver {
            return Err(SendFailure::Closed(command));
        }
        if inner.waiting.len() >= self.0.capacity {
            return Err(SendFailure::Full(command));
        }
        inner.waiting.push_back(command);
        drop(inner);
        self.0.arrived.notify_one();
        Ok(())
    }

    /// Puts a command in as soon as there is room. Cancelled, it may have taken the command with it: in a `select!`
    /// await [`Self::has_room`] instead.
    ///
    /// *Errors*: the command comes back when the writer has ended.
    pub async fn send(&self, command: T) -> Result<(), T> {
        let mut command = command;
        loop {
            command = match self.try_send(command) {
                Ok(()) => return Ok(()),
                Err(SendFailure::Closed(command)) => return Err(command),
                Err(SendFailure::Full(command)) => command,
            };
            self.has_room().await;
        }
    }

    /// Waits until there is room, or the writer has ended. Cancel-safe.
    pub async fn has_room(&self) {
        loop {
            let notified = self.0.room.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            {
                let inner = self.0.lock();
                if !inner.receiver || inner.waiting.len() < self.0.capacity {
                    return;
                }
            }
            notified.await;
        }
    }

    /// Returns the number of commands that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting.len()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.lock().senders -= 1;
        self.0.arrived.notify_one();
    }
}

impl<T> Receiver<T> {
    /// Takes the next command, waiting at most `patience`, or for ever.
    #[must_use]
    pub fn receive(&self, patience: Option<Duration>) -> Received<T> {
        let mut inner = self.0.lock();
        loop {
            if let Some(command) = inner.waiting.pop_front() {
                drop(inner);
                self.0.room.notify_waiters();
                return Received::Command(command);
            }
            if inner.senders == 0 {
                return Received::Closed;
            }
            inner = match patience {
                None => self.0.arrived.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(patience) => {
                    let waited = self.0.arrived.wait_timeout(inner, patience);
                    let (mut inner, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                    if timeout.timed_out() {
                        let next = inner.waiting.pop_front();
                        drop(inner);
                        self.0.room.notify_waiters();
                        return next.map_or(Received::TimedOut, Received::Command);
                    }
                    inner
                }
            };
        }
    }

    /// Looks at the commands that wait and returns a sum over them.
    pub fn sum_waiting(&self, of: impl Fn(&T) -> usize) -> usize {
        self.0.lock().waiting.iter().map(of).sum()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.receiver = false;
        // Dropped commands may hold reply channels: their senders must hear of it.
        let dropped = std::mem::take(&mut inner.waiting);
        drop(inner);
        drop(dropped);
        self.0.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_hands_back_and_a_closed_one_says_so() {
        let (sender, receiver) = bounded(1);
        sender.try_send(1).unwrap();
        assert_eq!(sender.try_send(2), Err(SendFailure::Full(2)));
        assert_eq!(receiver.receive(None), Received::Command(1));
        assert_eq!(receiver.receive(Some(Duration::from_millis(1))), Received::TimedOut);
        drop(receiver);
        assert_eq!(sender.try_send(3), Err(SendFailure::Closed(3)));
    }

    #[test]
    fn a_thread_drains_what_a_task_awaits_to_send() {
        let (sender, receiver) = bounded(2);
        let thread = std::thread::spawn(move || {
            let mut sum = 0;
            while let Received::Command(n) = receiver.receive(None) {
                sum += n;
            }
            sum
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for n in 0..500 {
                sender.send(n).await.unwrap();
            }
        });
        drop(sender);
        assert_eq!(thread.join().unwrap(), 500 * 499 / 2);
    }
}
