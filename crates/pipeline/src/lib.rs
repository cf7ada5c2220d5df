//! The one path from payload to prediction: decode, series, window, features, engine, outputs.
//!
//! Pure: no broker, store, clock or thread. Time is passed in, state is a value that can be saved and restored. The
//! only home of tract. The daemon, golden vectors, replay and the benches call the same functions and get the same
//! numbers.

pub mod collect;
pub mod compiled_model;
pub mod core;
pub mod decode;
pub mod engine;
pub mod golden_check;
mod grid;
mod history;
mod instance;
mod instance_ids;
pub mod lane;
pub mod message;
pub mod postprocess;
pub mod prediction;
pub mod reading;
pub mod refusal;
pub mod runner;
mod series;
pub mod snapshot;
pub mod window;

pub use compiled_model::ModelBinding;
pub use core::{Core, Turn};
pub use lane::LaneRole;
