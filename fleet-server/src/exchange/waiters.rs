//! Gateways that wait for something new: the long poll.
//!
//! In the memory of one process, and worth nothing: whoever is not woken asks again after its time. Never holds more than
//! a bounded number.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use dunlin_protocol::DeviceId;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

/// Questions that wait at most where nobody says otherwise; others are answered at once. Each takes a connection and, with it,
/// some 25 KiB of memory.
pub const WAITERS_MAX: usize = 4_096;

/// Who waits.
#[derive(Debug)]
pub struct Waiters {
    places: Semaphore,
    by_device: Mutex<HashMap<DeviceId, (Arc<Notify>, usize)>>,
}

impl Default for Waiters {
    fn default() -> Self {
        Self::new(WAITERS_MAX)
    }
}

/// A place among those that wait; given back when it is dropped.
#[derive(Debug)]
pub struct Waiter<'w> {
    waiters: &'w Waiters,
    device: DeviceId,
    notify: Arc<Notify>,
    _place: SemaphorePermit<'w>,
}

/// What ends a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// There is something new for the gateway.
    News,
    /// The server stops: thousands are woken at once, and nothing is looked up for them.
    Stopping,
}

impl Waiters {
    /// Returns so many places.
    #[must_use]
    pub fn new(places: usize) -> Self {
        Self { places: Semaphore::new(places.min(Semaphore::MAX_PERMITS)), by_device: Mutex::default() }
    }

    /// Takes a place, before the question is answered, so that nothing is missed in between; none where all are taken.
    #[must_use]
    pub fn join(&self, device: DeviceId) -> Option<Waiter<'_>> {
        let place = self.places.try_acquire().ok()?;
        let mut by_device = self.by_device.lock().unwrap_or_else(PoisonError::into_inner);
        let (notify, count) = by_device.entry(device).or_default();
        *count += 1;
        let notify = Arc::clone(notify);
        Some(Waiter { waiters: self, device, notify, _place: place })
    }

    /// Tells whether a gateway's question has a place.
    #[must_use]
    pub fn has(&self, device: DeviceId) -> bool {
        self.by_device.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&device)
    }

    /// Wakes a gateway's question: there is something new for it.
    pub fn wake(&self, device: DeviceId) {
        if let Some((notify, _)) = self.by_device.lock().unwrap_or_else(PoisonError::into_inner).get(&device)
        {
            notify.notify_waiters();
            // One that has its place and does not wait yet finds this.
            notify.notify_one();
        }
    }

    /// Wakes all: the server stops.
    pub fn wake_all(&self) {
        self.places.close();
        for (notify, _) in self.by_device.lock().unwrap_or_else(PoisonError::into_inner).values() {
            notify.notify_waiters();
            notify.notify_one();
        }
    }
}

impl Waiter<'_> {
    /// Waits until there is something new, or the server stops.
    pub async fn woken(&self) -> Woken {
        self.notify.notified().await;
        if self.waiters.places.is_closed() { Woken::Stopping } else { Woken::News }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut by_device = self.waiters.by_device.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, count)) = by_device.get_mut(&self.device) {
            *count -= 1;
            if *count == 0 {
                by_device.remove(&self.device);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let (waiters, device) = (Waiters::default(), DeviceId::from_bytes([1; 16]));
        let places: Vec<_> = std::iter::from_fn(|| waiters.join(device)).collect();
        assert_eq!(places.len(), WAITERS_MAX);
        drop(places);
        assert!(waiters.by_device.lock().unwrap().is_empty());
        assert!(waiters.join(device).is_some());
    }
}
