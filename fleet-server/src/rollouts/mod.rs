//! Rollouts as the server runs them: what gateways reported is looked at every second, what becomes of each rollout is
//! kept, and gateways are told.
//!
//! One server at a time looks, under a lease; a state is kept only over the one that it was made of, so that two that
//! look all the same do no harm. Decides nothing: the rules are those of `rollout`, which is pure.

mod census;
mod package;
mod plan;
mod reconcile;
mod telling;

pub use census::Census;
pub use plan::{Plan, PlannedDevice, plan};
pub(crate) use reconcile::{keep, reconcile};
