//! One attempt: the signature, the addresses that may be connected to, and the request.
//!
//! Whoever may make a webhook must not reach by it what only the server reaches: addresses are checked after names are
//! resolved, for the very connection that is made.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, Mac as _};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use sha2::Sha256;

use crate::fleet::now_ms;

/// Longest time of an attempt: a receiver takes the event first and works on it after.
const ATTEMPT_MAX: Duration = Duration::from_secs(10);
/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest URL.
pub(crate) const URL_BYTES_MAX: usize = 2_048;

/// Which addresses may be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Targets {
    /// Those of the public internet.
    #[default]
    Public,
    /// Those of the server's own networks and machine as well. Never link-local ones: clouds give out credentials there.
    Private,
}

impl Targets {
    /// Tells whether an address may be sent to.
    #[must_use]
    pub fn allow(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        match (self, address) {
            (Self::Public, IpAddr::V4(address)) => is_public_v4(address),
            (Self::Public, IpAddr::V6(address)) => is_public_v6(address),
            (Self::Private, IpAddr::V4(address)) => {
                !address.is_link_local() && !address.is_unspecified() && !is_crowd_v4(address)
            }
            (Self::Private, IpAddr::V6(address)) => {
                !address.is_unicast_link_local() && !address.is_unspecified() && !address.is_multicast()
            }
        }
    }
}

fn is_crowd_v4(address: Ipv4Addr) -> bool {
    address.is_multicast() || address.is_broadcast() || address.octets()[0] >= 240
}

/// *Source*: IANA's registry of special-purpose addresses.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || is_crowd_v4(address)
        || a == 0
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19)))
}

/// Global unicast alone, without the ranges that carry an IPv4 address or stand in documents.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    (0x2000..0x4000).contains(&a) && a != 0x2002 && !(a == 0x2001 && (b < 0x200 || b == 0xdb8))
}

/// Why an event was not taken.
#[derive(Debug)]
pub enum SenderError {
    /// The URL is none to send to.
    Url(&'static str),
    /// No HTTP client can be made.
    Client(reqwest::Error),
    /// The receiver was not reached, or did not answer in time. Without the URL, whose path may be a secret.
    Request(&'static str),
}

impl fmt::Display for SenderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(why) | Self::Request(why) => f.write_str(why),
            Self::Client(_) => f.write_str("no HTTP client can be made"),
        }
    }
}

impl std::error::Error for SenderError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Client(error) => Some(error),
            Self::Url(_) | Self::Request(_) => None,
        }
    }
}

/// Resolves names to addresses that may be sent to.
#[derive(Debug, Clone, Copy)]
struct Allowed(Targets);

impl Resolve for Allowed {
    fn resolve(&self, name: Name) -> Resolving {
        let targets = self.0;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|address| targets.allow(address.ip())).collect();
            if allowed.is_empty() {
                return Err("the name has no address that may be sent to".into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Sends events.
#[derive(Debug)]
pub struct Sender {
    client: Client,
    targets: Targets,
}

impl Sender {
    /// Makes one; connects to nothing.
    ///
    /// *Errors*: no HTTP client can be made.
    pub fn new(targets: Targets) -> Result<Self, SenderError> {
        // Where another has been installed it is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::builder()
            .dns_resolver(Arc::new(Allowed(targets)))
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_MAX)
            .timeout(ATTEMPT_MAX)
            .pool_max_idle_per_host(1)
            .user_agent(concat!("dunlin-fleet/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(SenderError::Client)?;
        Ok(Self { client, targets })
    }

    /// Reads a URL that may be sent to, as far as it says so itself: what a name stands for is seen when it is sent to.
    ///
    /// *Errors*: [`SenderError::Url`].
    pub fn require(&self, text: &str) -> Result<Url, SenderError> {
        if text.len() > URL_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(SenderError::Url("the URL is too long, or holds control characters"));
        }
        let url = Url::parse(text).map_err(|_| SenderError::Url("the URL cannot be read"))?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(SenderError::Url("the URL begins with neither `https://` nor `http://`"));
        }
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(SenderError::Url("the URL holds a user's name, a password or a fragment"));
        }
        let host = url.host_str().ok_or(SenderError::Url("the URL names no host"))?;
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        if literal.is_ok_and(|address| !self.targets.allow(address)) {
            return Err(SenderError::Url("the URL's address is not one that may be sent to"));
        }
        Ok(url)
    }

    /// Sends a body once; returns the status of the answer.
    ///
    /// *Errors*: see [`SenderError`].
    pub async fn send(&self, url: &str, secret: &str, seq: u64, body: Vec<u8>) -> Result<u16, SenderError> {
        let url = self.require(url)?;
        let signed = signature(secret, now_ms() / 1_000, &body);
        let request = self
            .client
            .post(url)
            .header("content-type", "application/json")
            .header("dunlin-signature", signed)
            .header("dunlin-event", seq.to_string())
            .body(body);
        let answer = request.send().await.map_err(|error| {
            SenderError::Request(if error.is_timeout() {
                "the receiver did not answer in time"
            } else if error.is_connect() {
                "the receiver cannot be connected to, or its address is not one that may be sent to"
            } else {
                "the receiver broke off"
            })
        })?;
        Ok(answer.status().as_u16())
    }
}

/// Returns the header `Dunlin-Signature`: HMAC-SHA256 with the secret over the time in seconds, a full stop, and the body.
#[must_use]
pub fn signature(secret: &str, at_s: u64, body: &[u8]) -> String {
    // A key of any length is taken.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(at_s.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    let code = mac.finalize().into_bytes();
    let hex: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={at_s},v1={hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_sent_to_unless_the_owner_says_so() {
        let inside = [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "::1",
            "fd00::1",
            "::ffff:10.0.0.1",
        ];
        for address in inside {
            let address: IpAddr = address.parse().unwrap();
            assert!(!Targets::Public.allow(address), "{address}");
            assert!(Targets::Private.allow(address), "{address}");
        }
        for address in [
            "169.254.169.254",
            "fe80::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "255.255.255.255",
            "::ffff:169.254.169.254",
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert!(!Targets::Public.allow(address) && !Targets::Private.allow(address), "{address}");
        }
        for address in ["93.184.215.14", "2606:4700::1111"] {
            assert!(Targets::Public.allow(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn urls_in_other_spellings_of_an_address_are_refused_as_well() {
        let sender = Sender::new(Targets::Public).unwrap();
        let bad = [
            "http://0x7f.1/",
            "http://2130706433/",
            "http://[::ffff:127.0.0.1]/",
            "ftp://a.example/",
            "https://u:p@a.example/",
            "https://a.example/#x",
            "http://",
            "x",
        ];
        for url in bad {
            assert!(sender.require(url).is_err(), "{url}");
        }
        assert!(sender.require("https://hooks.example/a?b=c").is_ok());
    }
}
