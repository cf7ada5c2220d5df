//! Changes: done once, with their line of the audit log, in one transaction; a request that is sent again is answered
//! as before.
//!
//! What declines a change is found before anything is changed, since what was changed by then would stay.

use std::sync::Arc;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Caller;
use super::body::Posted;
use crate::fleet::{Fleet, now_ms};
use crate::http::Rejection;
use crate::store::audit::{self, Deed};
use crate::store::idempotency::{self, Kept};
use crate::store::{Sql, StoreError};

/// Why something that was asked for is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declined {
    status: StatusCode,
    code: &'static str,
    detail: String,
}

impl Declined {
    /// Makes one.
    #[must_use]
    pub const fn new(status: StatusCode, code: &'static str, detail: String) -> Self {
        Self { status, code, detail }
    }

    /// The request is not sound.
    #[must_use]
    pub const fn malformed(detail: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    /// The request has the right form, and what it says cannot be.
    #[must_use]
    pub const fn unsound(detail: String) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unsound", detail)
    }

    /// There is no such object, or not for who asks.
    #[must_use]
    pub fn not_found(kind: &str, id: &str) -> Self {
        let id: String = id.chars().take(80).collect();
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {kind} `{}`", id.escape_debug()))
    }

    /// The object is not in a state for this.
    #[must_use]
    pub const fn conflict(detail: String) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }
}

impl From<Declined> for Rejection {
    fn from(declined: Declined) -> Self {
        Self::http(declined.status, declined.code, &declined.detail)
    }
}

/// What is written to the audit log of a change.
#[derive(Debug, Clone)]
pub(super) struct Note {
    pub(super) action: &'static str,
    pub(super) object: String,
    pub(super) reason: String,
    pub(super) detail: serde_json::Value,
}

/// What came of a change.
#[derive(Debug, Clone)]
pub(super) struct Changed<T> {
    pub(super) status: StatusCode,
    pub(super) answer: T,
    /// What is kept for a request that is sent again, where the answer holds a secret.
    pub(super) shown_once: bool,
    pub(super) note: Option<Note>,
}

impl<T> Changed<T> {
    pub(super) const fn new(status: StatusCode, answer: T, note: Note) -> Self {
        Self { status, answer, shown_once: false, note: Some(note) }
    }
}

/// Tells whether a change is to be declined, in its transaction.
pub(super) type Outcome<T> = Result<Result<Changed<T>, Declined>, StoreError>;

enum Done {
    Answered { status: u16, body: String },
    Declined(Declined),
}

/// Does what a request asks for, once.
pub(super) async fn change<B, T, W>(
    fleet: &Arc<Fleet>,
    caller: &Caller,
    posted: &Posted<B>,
    mut work: W,
) -> Result<Response, Rejection>
where
    T: Serialize,
    W: FnMut(&mut dyn Sql, u64) -> Outcome<T> + Send + 'static,
{
    let (caller, name, digest) = (caller.clone(), posted.name.clone(), posted.digest);
    let now = now_ms();
    let done = fleet.store.write(move |sql| {
        if let Some(name) = &name
            && let Some(kept) = idempotency::get(sql, &caller.id, name, now)?
        {
            return Ok(again(kept, &digest));
        }
        let changed = match work(sql, now)? {
            Ok(changed) => changed,
            Err(declined) => {
                if declined.status == StatusCode::FORBIDDEN {
                    audit::add(sql, &caller.refused(&declined.detail, now))?;
                }
                return Ok(Done::Declined(declined));
            }
        };
        let body = serde_json::to_string(&changed.answer)
            .map_err(|error| StoreError::Damaged(format!("an answer cannot be written: {error}")))?;
        let status = changed.status.as_u16();
        if let Some(note) = &changed.note {
            let deed = Deed {
                at_ms: now,
                who: caller.name.clone(),
                action: note.action.to_owned(),
                object: note.object.clone(),
                reason: note.reason.clone(),
                detail: note.detail.to_string(),
            };
            audit::add(sql, &deed)?;
        }
        if let Some(name) = &name {
            let kept_body = if changed.shown_once { String::new() } else { body.clone() };
            let kept = Kept { request: digest.to_vec(), status, body: kept_body };
            idempotency::put(sql, (&caller.id, name), &kept, now)?;
        }
        Ok(Done::Answered { status, body })
    });
    match done.await? {
        Done::Answered { status, body } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
            if status == StatusCode::NO_CONTENT {
                return Ok(status.into_response());
            }
            Ok((status, [(header::CONTENT_TYPE, "application/json")], body).into_response())
        }
        Done::Declined(declined) => Err(declined.into()),
    }
}

fn again(kept: Kept, digest: &[u8; 32]) -> Done {
    if kept.request != digest {
        let detail = "this `Idempotency-Key` was used for another request; take a new one".to_owned();
        return Done::Declined(Declined::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency", detail));
    }
    if kept.body.is_empty() && kept.status != StatusCode::NO_CONTENT.as_u16() {
        let detail =
            "this was done before, and its secret is shown once; revoke it and make another".to_owned();
        return Done::Declined(Declined::conflict(detail));
    }
    Done::Answered { status: kept.status, body: kept.body }
}
