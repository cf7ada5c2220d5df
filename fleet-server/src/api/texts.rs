//! Texts of requests and answers: times, reasons, labels, queries.

use axum::http::StatusCode;
use dunlin_fleet_api::Labels;
use dunlin_fleet_api::order::REASON_CHARS_MAX;
use dunlin_protocol::Name;
use dunlin_protocol::limits::{LABELS_MAX, NAME_BYTES_MAX};

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
        let shown: String = name.chars().take(40).collect();
        let shown = shown.escape_debug();
        let is_text =
            |text: &str| text.chars().count() <= NAME_BYTES_MAX && !text.chars().any(char::is_control);
        if name.is_empty() || !is_text(name) || !is_text(value) {
            let detail = format!(
                "label `{shown}`: name and value have at most {NAME_BYTES_MAX} characters, and no control characters"
            );
            return Err(Declined::malformed(detail));
        }
        // What a schema cannot tell: characters are not bytes.
        if [name, value].into_iter().any(|text| Name::new(text.as_str()).is_err()) {
            let detail =
                format!("label `{shown}`: name and value have at most {NAME_BYTES_MAX} bytes of UTF-8");
            return Err(Declined::unsound(detail));
        }
    }
    Ok(())
}

/// Reads a label query.
pub(super) fn read_query(text: &str) -> Result<Query, Declined> {
    text.parse()
        .map_err(|error| Declined::new(StatusCode::BAD_REQUEST, "query", format!("label query: {error}")))
}
