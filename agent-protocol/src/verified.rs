//! The type of what a key has signed and this crate has checked.
//!
//! Holds a value and nothing else; can be made within this crate alone.

use std::ops::Deref;

/// A value whose signature was checked. There is no way to make one but to have it checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// Marks a value as verified: to be called where the last check of it stands.
    pub(crate) const fn attest(value: T) -> Self {
        Self(value)
    }

    /// Gives the value away; what it becomes is not verified.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
