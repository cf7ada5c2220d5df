//! A release of a model, and why one is not to run.
//!
//! Names and reasons alone; judges nothing. The reasons' codes are a fixed part of `dunlind models`, of the log and of
//! the documentation.

use std::fmt;

use dunlin_kit::digest::Digest;
use dunlin_model_package::Manifest;
use serde::{Deserialize, Serialize};

/// One signed release of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// SHA-256 of its manifest: its identity.
    pub digest: Digest,
    /// Name of the model as signed.
    pub model: String,
    /// Version for people.
    pub version: String,
    /// Strictly rising number of the release.
    pub counter: u64,
}

impl Release {
    /// Returns the release of a manifest.
    #[must_use]
    pub fn of(manifest: &Manifest, digest: Digest) -> Self {
        Self {
            digest,
            model: manifest.name.clone(),
            version: manifest.version.clone(),
            counter: manifest.release_counter,
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (release {})", self.model, self.version, self.counter)
    }
}

/// A check before a release serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelfTest {
    /// The engine loads it.
    Load,
    /// It answers its golden vectors as its owner did.
    Golden,
    /// It keeps its time budget.
    Latency,
    /// It keeps its memory budget.
    Memory,
    /// Its worker lives through them.
    Crash,
    /// Each run keeps its deadline.
    Deadline,
    /// It agrees with the running model.
    Shadow,
}

/// What ended a release that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its worker crashed as often as it had tries.
    Crash,
    /// The gateway went down as often as it had tries.
    Restart,
    /// Its outputs were not finite or not of the declared shape.
    InvalidOutput,
    /// It could not be run.
    Failed,
    /// It was slower than its budget.
    Latency,
    /// The operator said so.
    Operator,
    /// The fleet server took it back.
    Fleet,
}

/// Why a release is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is not for this hardware, engine or configuration.
    Incompatible,
    /// It failed a check before it served.
    SelfTest(SelfTest),
    /// It was good, and its files on disk are not what they were: it is fetched again.
    Damaged,
    /// It served, or ran beside the serving one, and had to leave.
    RolledBack(Cause),
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 16] = [
        Self::Incompatible,
        Self::SelfTest(SelfTest::Load),
        Self::SelfTest(SelfTest::Golden),
        Self::SelfTest(SelfTest::Latency),
        Self::SelfTest(SelfTest::Memory),
        Self::SelfTest(SelfTest::Crash),
        Self::SelfTest(SelfTest::Deadline),
        Self::SelfTest(SelfTest::Shadow),
        Self::Damaged,
        Self::RolledBack(Cause::Crash),
        Self::RolledBack(Cause::Restart),
        Self::RolledBack(Cause::InvalidOutput),
        Self::RolledBack(Cause::Failed),
        Self::RolledBack(Cause::Latency),
        Self::RolledBack(Cause::Operator),
        Self::RolledBack(Cause::Fleet),
    ];

    /// Returns the code that is reported.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            // To the operator it is the same: the model did not load.
            Self::Damaged => SELFTEST_LOAD,
            other => other.name(),
        }
    }

    /// Returns the name under which it is stored; no two are the same.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Incompatible => "incompatible",
            Self::SelfTest(SelfTest::Load) => SELFTEST_LOAD,
            Self::SelfTest(SelfTest::Golden) => "selftest:golden",
            Self::SelfTest(SelfTest::Latency) => "selftest:latency",
            Self::SelfTest(SelfTest::Memory) => "selftest:memory",
            Self::SelfTest(SelfTest::Crash) => "selftest:crash",
            Self::SelfTest(SelfTest::Deadline) => "selftest:deadline",
            Self::SelfTest(SelfTest::Shadow) => "selftest:shadow",
            Self::Damaged => "damaged",
            Self::RolledBack(Cause::Crash) => "rolled_back:crash",
            Self::RolledBack(Cause::Restart) => "rolled_back:restart",
            Self::RolledBack(Cause::InvalidOutput) => "rolled_back:invalid_output",
            Self::RolledBack(Cause::Failed) => "rolled_back:failed",
            Self::RolledBack(Cause::Latency) => "rolled_back:latency",
            Self::RolledBack(Cause::Operator) => "rolled_back:operator",
            Self::RolledBack(Cause::Fleet) => "rolled_back:fleet",
        }
    }

    /// Returns the reason that is stored under a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

const SELFTEST_LOAD: &str = "selftest:load";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_found_again_by_its_name() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_name(reason.name()), Some(reason));
        }
        assert_eq!(Reason::from_name("tired"), None);
    }
}
