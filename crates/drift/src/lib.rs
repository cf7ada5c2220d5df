//! What a model's inputs and outputs look like over time, and whether that still is what it was trained on: summaries of
//! windows, scores against a reference, evidence gathered over windows, quality with and without labels.
//!
//! Pure: numbers in, numbers out. Reads no clock, file or network, and draws no random number that it is not given.
//!
//! A gateway fills [`summary::Summary`]; they travel as bytes of [`wire`] and merge by addition, exactly, in any order. The
//! server and the command line score them against a [`reference::Reference`] with the same code.

pub mod alert;
pub mod bins;
#[cfg(test)]
#[path = "../tests/draws/mod.rs"]
mod draws;
pub mod evidence;
pub mod faults;
pub mod moments;
pub mod privacy;
pub mod quality;
pub mod reference;
pub mod scores;
pub mod sequence;
pub mod subspace;
pub mod summary;
pub mod wire;
