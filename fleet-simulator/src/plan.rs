//! What is simulated: how many gateways, for how long, and what befalls them.
//!
//! Plain values; who gets which part follows from the seed, so that a run can be made again.

use std::path::PathBuf;
use std::time::Duration;

use dunlin_protocol::EnrolmentToken;
use sha2::{Digest as _, Sha256};

use crate::board::Manner;

/// How a share of the gateways takes releases after its first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// How.
    pub manner: Manner,
    /// Which part of all, from 0 to 1.
    pub share: f64,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many gateways.
    pub devices: usize,
    /// Where the server is; the token's where it is none.
    pub server: Option<String>,
    /// Certificates of authorities, in PEM, for `https`.
    pub ca_file: Option<PathBuf>,
    /// By what they enrol.
    pub token: EnrolmentToken,
    /// What all else follows from.
    pub seed: u64,
    /// How long it lasts, from the moment that all have enrolled; none until it is stopped.
    pub lasts: Option<Duration>,
    /// Time between two questions of a gateway; none as the protocol says, with questions that wait.
    pub interval: Option<Duration>,
    /// Which part is away now and then.
    pub outages: f64,
    /// Which part has a wrong clock.
    pub clock_faults: f64,
    /// Which parts take releases badly.
    pub bad: Vec<Share>,
    /// How many gateways are copied, key and all.
    pub clones: usize,
    /// When all lose their connections at once.
    pub storm: Option<Duration>,
    /// Predictions that each makes an hour.
    pub predictions_an_hour: f64,
    /// On a metered line: no question waits, no predictions are sent.
    pub is_metered: bool,
    /// Whether statements are checked as a gateway does; else they are read.
    pub checks_statements: bool,
    /// Models that their configuration wants.
    pub models: Vec<String>,
    /// Time that a step of a release takes.
    pub step: Duration,
}

impl Plan {
    /// Returns a plan of so many gateways that are all well.
    #[must_use]
    pub fn of(devices: usize, token: EnrolmentToken) -> Self {
        Self {
            devices,
            server: None,
            ca_file: None,
            token,
            seed: 1,
            lasts: None,
            interval: None,
            outages: 0.0,
            clock_faults: 0.0,
            bad: Vec::new(),
            clones: 0,
            storm: None,
            predictions_an_hour: 60.0,
            is_metered: false,
            checks_statements: true,
            models: Vec::new(),
            step: Duration::from_millis(500),
        }
    }

    /// Returns where the server is.
    #[must_use]
    pub fn url(&self) -> &str {
        self.server.as_deref().unwrap_or(self.token.claim().server_url.as_str()).trim_end_matches('/')
    }

    /// Returns 32 bytes for a purpose of a gateway.
    #[must_use]
    pub fn draw(&self, purpose: &str, number: usize) -> [u8; 32] {
        let drawn =
            Sha256::new().chain_update(b"dunlin simulate\0").chain_update(purpose).chain_update(b"\0");
        drawn.chain_update(self.seed.to_le_bytes()).chain_update(number.to_le_bytes()).finalize().into()
    }

    /// Returns a number from 0 to 1 for a purpose of a gateway.
    #[must_use]
    pub fn draw_unit(&self, purpose: &str, number: usize) -> f64 {
        let bytes = self.draw(purpose, number);
        f64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])) / f64::from(u32::MAX)
    }

    /// Tells whether a gateway is of a part.
    #[must_use]
    pub fn is_of(&self, purpose: &str, number: usize, share: f64) -> bool {
        share > 0.0 && self.draw_unit(purpose, number) <= share
    }

    /// Returns how a gateway takes releases.
    #[must_use]
    pub fn manner(&self, number: usize) -> Manner {
        let drawn = self.draw_unit("manner", number);
        let mut reached = 0.0;
        for part in &self.bad {
            reached += part.share;
            if drawn <= reached && part.share > 0.0 {
                return part.manner;
            }
        }
        Manner::Good
    }
}

#[cfg(test)]
mod tests {
    use dunlin_protocol::text::Url;
    use dunlin_protocol::token::TokenClaim;
    use dunlin_protocol::{Digest, TokenId};

    use super::*;

    #[test]
    fn parts_are_about_as_large_as_asked_for_and_the_same_each_time() {
        let claim = TokenClaim {
            server_url: Url::new("http://fleet").unwrap(),
            root: Digest::of(b"root"),
            root_version: 1,
            group: None,
            expires_s: 1,
            uses: 1,
            token: TokenId::new(1, [1; 10]),
        };
        let part = |manner, share| Share { manner, share };
        let bad = vec![part(Manner::Slow, 0.1), part(Manner::Invalid, 0.2)];
        let plan = Plan { bad, ..Plan::of(1_000, EnrolmentToken::new(claim, [1; 32])) };
        let count = |manner| (0..1_000).filter(|number| plan.manner(*number) == manner).count();
        assert!((70..130).contains(&count(Manner::Slow)), "{}", count(Manner::Slow));
        assert!((150..250).contains(&count(Manner::Invalid)), "{}", count(Manner::Invalid));
        assert!((0..1_000).all(|number| !plan.is_of("outage", number, 0.0)));
        assert!((0..1_000).all(|number| plan.is_of("outage", number, 1.0)));
        assert_eq!(plan.draw("key", 7), plan.clone().draw("key", 7));
        assert_ne!(plan.draw("key", 7), plan.draw("key", 8));
    }
}
