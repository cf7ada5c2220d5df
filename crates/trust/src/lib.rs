//! Trust in what a gateway runs: The Update Framework's verification, Uptane's checks, and the signer.
//!
//! Pure: bytes, trusted state and time are passed in, verdicts come out. Never reads a file, a clock or a network.
//! [`Verified`] can be made here alone; [`sign`] stands apart, for the programs that hold keys.

pub mod canonical;
pub mod delegation;
pub mod director;
pub mod envelope;
pub mod evidence;
pub mod failure;
pub mod hashes;
pub mod key;
pub mod limits;
pub mod lookup;
pub mod metadata;
pub mod refresh;
pub mod sign;
pub mod steps;
pub mod time;
pub mod transfer;
pub mod trusted;
pub mod trusted_time;
mod verified;

pub use director::{Assignment, Device, Statement};
pub use dunlin_kit::digest::Digest;
pub use evidence::{Evidence, TargetFile};
pub use failure::{Code, Failure};
pub use key::{Ed25519Only, KeyId, PublicKey, SignatureCheck};
pub use lookup::{ApprovedTarget, Lookup};
pub use refresh::{Change, Refresh};
pub use steps::{Answer, Fetch, Interrupted, Steps, run};
pub use transfer::TargetReader;
pub use trusted::{Floors, Stored, TrustedSet};
pub use trusted_time::TrustedTime;
pub use verified::Verified;
