//! Settings that the fleet server gave and the owner approved: tried, and then kept or left by the gateway itself.
//!
//! Gives settings no way around the checks of the configuration, and keeps none that cut the gateway off. `standing` decides,
//! `desk` stores and times; the link brings settings and confirms them, `app` runs what is in use.

pub mod desk;
pub mod standing;

pub use desk::SettingsDesk;
