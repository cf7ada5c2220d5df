//! Who calls: a token, what it may do, and the gateways that there are for it.
//!
//! The text of a token is compared by its SHA-256 and never kept. What a token may not do is refused and written to the
//! audit log. Never tells a gateway outside the token's query from one that does not exist.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use dunlin_fleet_api::token::Scope;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use sha2::{Digest as _, Sha256};

use crate::fleet::{Fleet, now_ms};
use crate::http::Rejection;
use crate::rollout::query::Query;
use crate::store::audit::{self, Deed};
use crate::store::{StoreError, api_tokens};

/// Requests of one token in a second, for long: a program that walks a fleet of 100,000 by pages takes 100.
const REQUESTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(50).unwrap();
/// Requests of one token at once.
const REQUESTS_AT_ONCE: NonZeroU32 = NonZeroU32::new(200).unwrap();
/// A token's use is noted once in so many ms: a write for each request would cost more than the request.
const NOTED_EACH_MS: u64 = 60_000;
/// Longest text of a token that is looked at.
const TEXT_BYTES_MAX: usize = 256;

/// How often each token may ask.
#[derive(Debug)]
pub struct RateLimits(DefaultKeyedRateLimiter<String>);

impl Default for RateLimits {
    fn default() -> Self {
        let quota = Quota::per_second(REQUESTS_PER_SECOND).allow_burst(REQUESTS_AT_ONCE);
        Self(RateLimiter::keyed(quota))
    }
}

/// Who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The token's id.
    pub id: String,
    /// Its name: who did it, in the audit log.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// The gateways that there are for it.
    pub devices: Query,
}

impl Caller {
    /// Requires that the token may do what `needed` may; a refusal is written to the audit log.
    ///
    /// *Errors*: 403 `scope`.
    pub(super) async fn require(&self, fleet: &Fleet, needed: Scope, action: &str) -> Result<(), Rejection> {
        if self.scope >= needed {
            return Ok(());
        }
        self.note_refused(fleet, action).await?;
        let detail =
            format!("`{action}` needs the scope `{}`; this token has `{}`", needed.word(), self.scope.word());
        Err(Rejection::http(StatusCode::FORBIDDEN, "scope", &detail))
    }

    /// Writes to the audit log that the token was refused something.
    pub(super) async fn note_refused(&self, fleet: &Fleet, action: &str) -> Result<(), Rejection> {
        let deed = self.refused(action, now_ms());
        fleet.store.write(move |sql| audit::add(sql, &deed)).await?;
        Ok(())
    }

    /// Returns the audit log's line of a refusal.
    pub(super) fn refused(&self, what: &str, now_ms: u64) -> Deed {
        let (scope, devices) = (self.scope.word(), self.devices.to_string());
        Deed {
            at_ms: now_ms,
            who: self.name.clone(),
            action: "token.refused".to_owned(),
            object: self.id.clone(),
            reason: String::new(),
            detail: serde_json::json!({ "action": what, "scope": scope, "devices": devices }).to_string(),
        }
    }

    /// Tells whether all gateways are there for the token.
    pub(super) fn has_all_devices(&self) -> bool {
        self.devices == Query::all()
    }

    /// Requires what concerns the whole fleet: a token for some gateways cannot do it, and its refusal is written to the
    /// audit log.
    ///
    /// *Errors*: 403 `scope`.
    pub(super) async fn require_all_devices(&self, fleet: &Fleet, action: &str) -> Result<(), Rejection> {
        if self.has_all_devices() {
            return Ok(());
        }
        self.note_refused(fleet, action).await?;
        let detail =
            format!("this concerns the whole fleet; this token is for the gateways `{}`", self.devices);
        Err(Rejection::http(StatusCode::FORBIDDEN, "scope", &detail))
    }
}

impl FromRequestParts<Arc<Fleet>> for Caller {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, fleet: &Arc<Fleet>) -> Result<Self, Rejection> {
        let text = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let text = text.and_then(|text| text.split_once(' '));
        let text =
            text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, text)| text.trim());
        let text = text
            .filter(|text| text.len() <= TEXT_BYTES_MAX)
            .ok_or_else(|| Rejection::unauthorised("say who you are: `Authorization: Bearer TOKEN`"))?;
        let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        let token = fleet.store.read(move |sql| api_tokens::by_digest(sql, &digest)).await?;
        let token = token.ok_or_else(|| Rejection::unauthorised("there is no such token"))?;
        let now = now_ms();
        if token.revoked_ms.is_some() || token.expires_ms.is_some_and(|expires| expires <= now) {
            return Err(Rejection::unauthorised("the token was revoked, or its time is over"));
        }
        if fleet.rate_limits.0.check_key(&token.id).is_err() {
            return Err(Rejection::too_many("this token asks too often; come back a little later"));
        }
        if token.used_ms.is_none_or(|used| used + NOTED_EACH_MS < now) {
            let id = token.id.clone();
            fleet.store.write(move |sql| api_tokens::note_used(sql, &id, now)).await?;
            // The same moment to forget who has not asked for long.
            fleet.rate_limits.0.retain_recent();
        }
        let damaged = || StoreError::Damaged(format!("token `{}` cannot be read", token.id));
        let scope = Scope::of(&token.scope).ok_or_else(damaged)?;
        let devices = token.devices.parse().map_err(|_| damaged())?;
        Ok(Self { id: token.id, name: token.name, scope, devices })
    }
}
