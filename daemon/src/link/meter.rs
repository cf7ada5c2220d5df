//! Bytes by purpose since the start of the program: what the traffic of the link was for.
//!
//! Counts bodies and allowances for what is around them: heads, and connections. Decides nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use dunlin_protocol::health::{Purpose, Spent};

/// What a request or its response takes beside its body: heads, and the frames of TLS and TCP around them.
pub const OVERHEAD_BYTES: u64 = 350;

/// What a connection takes, sent and received: packets of TCP that open and close it.
const CONNECTION_BYTES: (u64, u64) = (200, 160);
/// What a connection takes that goes on with a session of TLS. The first of a start takes some kilobytes more, which no
/// budget notices.
const TLS_CONNECTION_BYTES: (u64, u64) = (1_200, 1_200);

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
    /// Counts a connection that is made; `is_tls` tells whether it is one of TLS.
    pub fn connected(&self, is_tls: bool) {
        let (sent, received) = if is_tls { TLS_CONNECTION_BYTES } else { CONNECTION_BYTES };
        self.sent(Traffic::Exchange, sent);
        self.received(Traffic::Exchange, received);
    }

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
