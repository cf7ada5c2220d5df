//! Rollouts: which gateways get a release when, and when they all go back.
//!
//! Pure: the fleet as it reported, time and a seed come in; the next state and what to tell which gateway come out. Never
//! speaks to a gateway, and never takes a claim for a fact: what a gateway runs is what it reported.

mod assign;
pub mod command;
pub mod facts;
pub mod gate;
pub mod machine;
pub mod order;
pub mod phase;
pub mod query;
pub mod spec;
pub mod state;
pub mod window;
