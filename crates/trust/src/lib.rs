//! Trust in what a gateway runs: The Update Framework's verification, Uptane's checks, and the signer.
//!
//! Pure: bytes, trusted state and time are passed in, verdicts come out. Never reads a file, a clock or a network.
//! [`Verified`] can be made here alone; [`sign`] stands apart, for the programs that hold keys.

pub mod canonical;
pub mod envelope;
pub mod evidence;
pub mod failure;
pub mod key;
pub mod metadata;
pub mod sign;
pub mod time;
mod verified;

pub use dunlin_kit::digest::Digest;
pub use evidence::{Evidence, TargetFile};
pub use failure::{Code, Failure};
pub use key::{Ed25519Only, KeyId, PublicKey, SignatureCheck};
pub use verified::Verified;
