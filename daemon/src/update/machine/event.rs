//! What happens to a model's releases, and what comes of it.

use std::fmt;
use std::time::Duration;

use dunlin_kit::digest::Digest;

use super::{Intent, Phase};
use crate::lanes::LaneCounts;
use crate::store::LastStop;
use crate::update::release::{Reason, Release};

/// What happened.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "events are handed on one at a time, and none is kept")]
pub enum Event {
    /// The daemon starts: the n-th time, after a stop of this kind.
    Boot {
        /// Number of the start.
        start: u64,
        /// How it stopped before.
        stop: LastStop,
    },
    /// A signed statement names this release.
    Offer {
        /// The release.
        release: Release,
        /// Who wants it.
        intent: Intent,
    },
    /// All files of the release are here and are what was signed.
    Verified {
        /// The release.
        digest: Digest,
    },
    /// Its golden vectors and budgets are kept.
    Admitted {
        /// The release.
        digest: Digest,
    },
    /// It may run: its slot is about to be made.
    Begin {
        /// The release.
        digest: Digest,
    },
    /// Its worker is about to be started, for the n-th time in its phase.
    Start {
        /// The release.
        digest: Digest,
        /// `tries_used` after this start.
        attempt: u32,
    },
    /// What it did in its phase until now.
    Observed {
        /// The release.
        digest: Digest,
        /// The phase that the counts are of.
        phase: Phase,
        /// How long it has been in that phase, by the monotonic clock.
        elapsed: Duration,
        /// What it did.
        counts: LaneCounts,
    },
    /// The candidate failed a check.
    Failed {
        /// The release.
        digest: Digest,
        /// Which check.
        reason: Reason,
        /// What exactly was seen.
        detail: String,
    },
    /// A step could not be done, and will be tried again.
    Delayed {
        /// The release.
        digest: Digest,
        /// Why.
        detail: String,
    },
    /// The files of a good release are not what they were.
    Damaged {
        /// The release.
        digest: Digest,
        /// What exactly was seen.
        detail: String,
    },
    /// The operator wants this release to stop serving.
    Rollback {
        /// The release to leave.
        from: Digest,
        /// Why, in the operator's words.
        detail: String,
    },
    /// The director takes a release back: it is left in whatever place it has.
    Withdraw {
        /// The release to leave.
        digest: Digest,
        /// Why, in the fleet's words.
        detail: String,
    },
}

/// What came of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The state moved; it is to be stored before anything acts on it.
    Changed,
    /// It says what was known already.
    Unchanged,
    /// It does not fit; slots and floor are as they were.
    Refused(Refusal),
}

/// Why an event changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The release is older than one that was good here.
    Downgrade {
        /// Counter of the offered one.
        offered: u64,
        /// The floor.
        floor: u64,
    },
    /// The release failed here before.
    KnownBad(Reason),
    /// A newer release is being tried already.
    Superseded {
        /// Counter of the candidate.
        by: u64,
    },
    /// There is no release to go back to.
    NothingToGoBackTo,
    /// It is about a release or a phase that is over.
    OutOfTurn,
}

impl Refusal {
    /// Returns the code that is reported.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Downgrade { .. } => "downgrade",
            Self::KnownBad(_) => "known_bad",
            Self::Superseded { .. } => "superseded",
            Self::NothingToGoBackTo => "nothing_to_go_back_to",
            Self::OutOfTurn => "out_of_turn",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.code())?;
        match self {
            Self::Downgrade { offered, floor } => write!(
                f,
                "release {offered} is not above release {floor}, which was good here; sign it again with a higher counter"
            ),
            Self::KnownBad(reason) => {
                write!(f, "it failed here before ({reason}); import it with `--retry` to try it again")
            }
            Self::Superseded { by } => write!(f, "release {by} is being tried and is not older"),
            Self::NothingToGoBackTo => f.write_str("no release that was good before is kept"),
            Self::OutOfTurn => f.write_str("the release or its phase is over"),
        }
    }
}
