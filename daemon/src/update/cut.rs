//! Points at which the power may go, between every two acts that reach the disk.
//!
//! In the daemon a point does nothing. The tests cut at each of them in turn: from there on every act fails, as if the
//! process were gone, and a new start must find its way.

use std::io;

/// Stands before an act that reaches the disk.
///
/// *Errors*: none, outside of tests.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "the tests' twin fails")]
pub(crate) const fn point(_act: &'static str) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use armed::{after, disarm, point};

#[cfg(test)]
mod armed {
    use super::io;
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
        static HAS_CUT: Cell<bool> = const { Cell::new(false) };
    }

    pub(crate) fn point(act: &'static str) -> io::Result<()> {
        LEFT.with(|left| match left.get() {
            Some(0) => {
                HAS_CUT.set(true);
                Err(io::Error::other(format!("the power went before: {act}")))
            }
            Some(more) => {
                left.set(Some(more - 1));
                Ok(())
            }
            None => Ok(()),
        })
    }

    /// Lets this many points pass on this thread, and no further one.
    pub(crate) fn after(points: u64) {
        LEFT.set(Some(points));
        HAS_CUT.set(false);
    }

    /// Brings the power back; tells whether it had gone.
    pub(crate) fn disarm() -> bool {
        LEFT.set(None);
        HAS_CUT.get()
    }
}
