//! The time that expiry is judged by, on a machine whose clock may be anywhere.
//!
//! A pure function of what is known; keeps nothing. What may be kept across starts are times that were signed offline,
//! and these live in the metadata that carry them: a wrong clock or a stolen online key delays, and never for good.

use std::time::Duration;

use crate::time::UnixTime;

/// A time that the server signed in this boot, by the clock that never jumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerTime {
    /// What the server said.
    pub signed: UnixTime,
    /// The monotonic clock when the answer with the device's own nonce came.
    pub received_at: Duration,
}

/// What is known about the time. *Source*: each member says how far it is to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustedTime {
    /// When this program was built: it cannot be earlier.
    pub built: UnixTime,
    /// [`crate::TrustedSet::signed_time`]: it cannot be earlier either.
    pub offline_signed: Option<UnixTime>,
    /// The newest one of this boot; never kept across boots.
    pub server: Option<ServerTime>,
    /// The system clock, where it is synchronised; never kept.
    pub system: Option<UnixTime>,
}

impl TrustedTime {
    /// Returns the latest of the times known; `uptime` is the monotonic clock.
    #[must_use]
    pub fn at(&self, uptime: Duration) -> UnixTime {
        let server = self.server.map(|server| {
            let since = uptime.saturating_sub(server.received_at).as_secs();
            UnixTime(server.signed.0.saturating_add(i64::try_from(since).unwrap_or(i64::MAX)))
        });
        [self.offline_signed, server, self.system].into_iter().flatten().fold(self.built, UnixTime::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILT: UnixTime = UnixTime(1_790_000_000);
    const YEAR_2099: UnixTime = UnixTime(4_070_908_800);

    fn known() -> TrustedTime {
        TrustedTime { built: BUILT, offline_signed: None, server: None, system: None }
    }

    #[test]
    fn a_clock_at_1970_is_at_least_at_the_build() {
        assert_eq!(TrustedTime { system: Some(UnixTime(0)), ..known() }.at(Duration::ZERO), BUILT);
        assert_eq!(known().at(Duration::from_secs(9)), BUILT);
    }

    #[test]
    fn a_clock_at_2099_that_comes_back_leaves_nothing_behind() {
        let wrong = TrustedTime { system: Some(YEAR_2099), ..known() };
        assert_eq!(wrong.at(Duration::ZERO), YEAR_2099);
        let right = UnixTime(BUILT.0 + 1000);
        assert_eq!(TrustedTime { system: Some(right), ..wrong }.at(Duration::ZERO), right);
    }

    #[test]
    fn the_servers_time_goes_on_with_the_clock_that_never_jumps() {
        let server = ServerTime { signed: UnixTime(BUILT.0 + 500), received_at: Duration::from_secs(100) };
        let time = TrustedTime { server: Some(server), system: Some(UnixTime(0)), ..known() };
        assert_eq!(time.at(Duration::from_secs(160)), UnixTime(BUILT.0 + 560));
        assert_eq!(time.at(Duration::from_secs(90)), UnixTime(BUILT.0 + 500));
    }

    #[test]
    fn the_latest_of_all_counts() {
        let offline_signed = Some(UnixTime(BUILT.0 + 7));
        let time = TrustedTime { offline_signed, system: Some(UnixTime(BUILT.0 + 3)), ..known() };
        assert_eq!(time.at(Duration::ZERO), UnixTime(BUILT.0 + 7));
    }
}
