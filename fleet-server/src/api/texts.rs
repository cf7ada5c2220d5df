//! Texts of requests and answers: times, reasons, labels, queries.

use axum::http::StatusCode;
use dunlin_fleet_api::Labels;
use dunlin_fleet_api::order::REASON_CHARS_MAX;
use dunlin_protocol::Name;
use dunlin_protocol::limits::LABELS_MAX;

use super::Declined;
use crate::rollout::query::Query;

/// Returns a time in ms since 1970 as RFC 3339.
pub(super) fn time(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    at.map_or_else(|| "9999-12-31T23:59:59Z".to_owned(), |at| format!("{at:.3}"))
}

/// Refuses a reason that is too long, or holds what a line of a log cannot.
pub(super) fn require_reason(reason: &str) -> Result<(), Declined> {
    if reason.chars().count() > REASON_CHARS_MAX || reason.chars().any(char::is_control) {
        let detail = format!("`reason` has at most {REASON_CHARS_MAX} characters, and no control characters");
        return Err(Declined::malformed(detail));
    }
    Ok(())
}

/// The same for an order that others have to live with: it needs a reason.
pub(super) fn require_given_reason(reason: &str) -> Result<(), Declined> {
    if reason.trim().is_empty() {
        return Err(Declined::malformed(
            "`reason` is empty: say why, for those who read the audit log".to_owned(),
        ));
    }
    require_reason(reason)
}

/// Refuses labels that a gateway cannot be told of.
pub(super) fn require_labels(labels: &Labels) -> Result<(), Declined> {
    if labels.len() > LABELS_MAX {
        return Err(Declined::malformed(format!("`labels` are more than {LABELS_MAX}")));
    }
    for (name, value) in labels {
        let is_good =
            !name.is_empty() && Name::new(name.as_str()).is_ok() && Name::new(value.as_str()).is_ok();
        if !is_good {
            let name: String = name.chars().take(40).collect();
            let detail = format!(
                "label `{}`: name and value are short and hold no control characters",
                name.escape_debug()
            );
            return Err(Declined::malformed(detail));
        }
    }
    Ok(())
}

/// Reads a label query.
pub(super) fn read_query(text: &str) -> Result<Query, Declined> {
    text.parse()
        .map_err(|error| Declined::new(StatusCode::BAD_REQUEST, "query", format!("label query: {error}")))
}
