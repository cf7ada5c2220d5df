//! Bytes by purpose since the start of the program: what the traffic of the link was for.
//!
//! Counts bodies and an allowance for the heads around them; decides nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use dunlin_protocol::health::{Purpose, Spent};

/// What a request and its response take beside their bodies: heads, and the frames of TLS and TCP around them.
pub const OVERHEAD_BYTES: u64 = 500;

/// What bytes were for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// Questions and answers.
    Exchange,
    /// Metadata of the repositories.
    Metadata,
    /// Manifests and files of packages.
    Packages,
}

impl Traffic {
    const ALL: [Self; 3] = [Self::Exchange, Self::Metadata, Self::Packages];

    const fn purpose(self) -> Purpose {
        match self {
            Self::Exchange => Purpose::Exchange,
            Self::Metadata => Purpose::Metadata,
            Self::Packages => Purpose::Packages,
        }
    }
}

/// The counters.
#[derive(Debug, Default)]
pub struct Meter {
    sent: [AtomicU64; 3],
    received: [AtomicU64; 3],
}

impl Meter {
    /// Counts bytes that were sent.
    pub fn sent(&self, traffic: Traffic, bytes: u64) {
        self.sent[traffic as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that were received.
    pub fn received(&self, traffic: Traffic, bytes: u64) {
        self.received[traffic as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns what was spent, by purpose; purposes without traffic are left out.
    #[must_use]
    pub fn spent(&self) -> Vec<Spent> {
        let of = |traffic: Traffic| Spent {
            purpose: traffic.purpose(),
            sent_bytes: self.sent[traffic as usize].load(Ordering::Relaxed),
            received_bytes: self.received[traffic as usize].load(Ordering::Relaxed),
        };
        Traffic::ALL.map(of).into_iter().filter(|spent| spent.sent_bytes + spent.received_bytes > 0).collect()
    }
}
