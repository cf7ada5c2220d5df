//! The one path from payload to prediction: decode, series, window, features, engine, outputs.
//!
//! Pure: no broker, store, clock or thread. Time is passed in, state is a value that can be saved and restored. The
//! only home of tract. The daemon, golden vectors, replay and the benches call the same functions and get the same
//! numbers.

pub mod decode;
pub mod engine;
pub mod message;
pub mod prediction;
pub mod reading;
pub mod refusal;
