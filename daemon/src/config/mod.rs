//! The configuration: files, environment and command line, checked as a whole.

pub mod settings;

pub use settings::Settings;
