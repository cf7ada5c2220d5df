//! Reference profiles from files of readings: reading them, running the package's model over them, drawing what came of it.
//!
//! The I/O and the order of events around `dunlin_model_package::profile::making`, which computes. Never keeps a reading.

pub mod cells;
pub mod chart;
mod csv_rows;
pub mod fields;
pub mod files;
pub mod gathering;
pub mod layout;
mod parquet_rows;
pub mod run;
