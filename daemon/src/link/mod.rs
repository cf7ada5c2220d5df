//! The link to the fleet server: who the gateway is there, what it says, what it makes of the answers.
//!
//! Runs on a thread of its own and stops no stage, whatever happens on the network: models run on without a server. What
//! to do next is decided by pure parts (`rhythm`, `reaction`, `heard`, `counter`); `course` carries it out over `remote`.
//! Believes what the director's keys signed, and of that only what the owner's keys approve: `update/direct` checks it.

pub mod counter;
pub mod course;
pub mod enrolment;
pub mod facts;
pub mod health;
pub mod heard;
pub mod identity;
pub mod link_board;
pub mod meter;
pub mod outgoing;
pub mod reaction;
pub mod remote;
pub mod report;
pub mod rhythm;
pub mod server_clock;
pub mod server_keys;
pub mod server_repository;
pub mod settings;
pub mod settings_offer;

/// What stands in the place of a release that comes from the fleet server.
pub const FLEET_PLACE: &str = "fleet:";
