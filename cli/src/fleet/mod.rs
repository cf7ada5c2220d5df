//! The fleet server as an operator's program sees it: where it is, who asks, and its REST interface.
//!
//! Never holds an offline key, and never prints a token.

pub mod client;
pub mod profile;
pub mod repository;
pub mod served;
