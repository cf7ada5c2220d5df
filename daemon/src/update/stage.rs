//! What the updater needs of the others, as small traits: files, self-tests and lanes.
//!
//! Contracts alone. Each step may be asked for twice and may be dropped at any moment; what it did until then is of use
//! to the next attempt or is cleaned up by its owner.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use tokio::sync::watch;

use super::release::Reason;
use crate::lanes::{LANES_PER_MODEL, LaneCounts, LaneRole, Leaving};
use crate::store::StoredRelease;

/// Why a step of an update was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepFailure {
    /// The release is not for this gateway.
    Bad(Reason, String),
    /// Files that were here are not what they were.
    Damaged(String),
    /// It is to be tried again: no network, no room, nobody to ask.
    Later(String),
}

impl fmt::Display for StepFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bad(reason, why) => write!(f, "{reason}: {why}"),
            Self::Damaged(why) | Self::Later(why) => f.write_str(why),
        }
    }
}

/// A step that is being done.
pub type Step<T> = Pin<Box<dyn Future<Output = Result<T, StepFailure>> + Send>>;

/// Brings releases here.
pub trait Fetch<P>: Send + Sync {
    /// Brings all files of the release here, those that are missing, and checks every one.
    fn fetch(&self, model: &str, release: &StoredRelease) -> Step<P>;

    /// Opens a release whose files are here and checks every one; needs no network.
    fn open(&self, model: &str, release: &StoredRelease) -> Step<P>;
}

/// Tests releases before they run on live readings.
pub trait Admit<P>: Send + Sync {
    /// Runs the golden vectors of a release in a worker of its own, within its budgets.
    fn admit(&self, model: &str, package: &P) -> Step<()>;
}

/// What is to become of a lane.
#[derive(Debug)]
pub enum LaneOrder<F> {
    /// Nothing runs in it.
    Empty(Leaving),
    /// What runs in it stays, in this role.
    Keep(LaneRole),
    /// This runs in it.
    Fill(LaneRole, F),
}

/// Carries out how lanes are to be.
pub trait Stage: Send + Sync + 'static {
    /// A release whose files were checked.
    type Package: Clone + Send + Sync + 'static;
    /// A model that is loaded and ready to run in its lane.
    type Fill: Send + 'static;

    /// Returns what each lane did, by its index over all models.
    fn counts(&self) -> watch::Receiver<Vec<LaneCounts>>;

    /// Loads a package for a lane; done once it is ready.
    fn load(&self, model: usize, lane: usize, package: &Self::Package) -> Step<Self::Fill>;

    /// Arranges a model's lanes between two batches; done once that is in force.
    fn arrange(&self, model: usize, lanes: [LaneOrder<Self::Fill>; LANES_PER_MODEL]) -> Step<()>;
}
