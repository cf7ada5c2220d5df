//! What Dunlin's programs share that is not of the domain: clock, atomic files, back-off, error chains, memory given back.
//!
//! Knows nothing of MQTT, models or fleets and stays under 600 lines. Both the daemon and the server stand on it.

pub mod atomic_file;
pub mod backoff;
pub mod clock;
pub mod digest;
pub mod error_chain;
pub mod resident;
