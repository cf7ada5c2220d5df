//! What an HTTP reply is: an envelope, a refusal that nobody signed, or no answer of the server at all.
//!
//! Pure. Believes nothing: an envelope's signature is checked by who asked. A captive portal's page and a proxy's error
//! are no answers, whatever their status says.

use std::time::Duration;

use dunlin_protocol::routes::{ENVELOPE_MEDIA_TYPE, PROBLEM_MEDIA_TYPE};
use dunlin_protocol::{Envelope, Problem, RefusalCode};

/// Longest wait that an unsigned header may ask for: a day. It may be anybody's.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(86_400);

/// A reply as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`.
    pub media_type: String,
    /// `Retry-After`.
    pub retry_after: Option<String>,
    /// The body, up to the limit that was asked for.
    pub body: Vec<u8>,
}

/// What a reply is.
#[derive(Debug)]
pub enum Heard {
    /// An envelope; its signature is not checked yet.
    Envelope(Envelope),
    /// A refusal that is not signed.
    Problem {
        /// The code.
        code: RefusalCode,
        /// What it says, for people.
        words: String,
    },
    /// No answer of the server: why.
    Nothing(String),
}

impl Reply {
    /// Reads the reply; `payload_bytes_max` is the limit of the message that was asked for.
    #[must_use]
    pub fn read(&self, payload_bytes_max: usize) -> Heard {
        let media_type = self.media_type.split(';').next().unwrap_or_default().trim();
        if media_type.eq_ignore_ascii_case(ENVELOPE_MEDIA_TYPE) {
            return match Envelope::parse(&self.body, payload_bytes_max) {
                Ok(envelope) => Heard::Envelope(envelope),
                Err(error) => Heard::Nothing(format!("the answer is no envelope: {error}")),
            };
        }
        let problem = media_type.eq_ignore_ascii_case(PROBLEM_MEDIA_TYPE).then(|| Problem::parse(&self.body));
        match problem.flatten().filter(|problem| problem.status == self.status) {
            Some(problem) => Heard::Problem { code: problem.code, words: problem.detail.into_string() },
            None => {
                let shown: String = media_type.chars().take(60).collect();
                Heard::Nothing(format!(
                    "HTTP status {} with `{}` is no answer of a fleet server; a portal or a proxy may stand in between",
                    self.status,
                    shown.escape_debug()
                ))
            }
        }
    }

    /// Returns how long `Retry-After` asks to wait; a date is passed over, since the clock may be anywhere.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.retry_after.as_deref()?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, media_type: &str, body: &[u8]) -> Reply {
        Reply { status, media_type: media_type.to_owned(), retry_after: None, body: body.to_vec() }
    }

    #[test]
    fn pages_and_foreign_errors_are_no_answers() {
        let envelope = Envelope::seal("t", b"{}".to_vec(), "k", |_| [0; 64]).to_bytes();
        let problem = serde_json::to_vec(&Problem::new(RefusalCode::Unavailable, "later")).unwrap();
        let html = b"<html>Welcome to the hotel</html>".as_slice();
        for (reply, expected) in [
            (reply(200, ENVELOPE_MEDIA_TYPE, &envelope), "envelope"),
            (reply(403, ENVELOPE_MEDIA_TYPE, &envelope), "envelope"),
            (reply(200, "application/vnd.dsse.envelope.v1+json; charset=utf-8", &envelope), "envelope"),
            (reply(200, ENVELOPE_MEDIA_TYPE, html), "nothing"),
            (reply(200, "text/html", html), "nothing"),
            (reply(200, "text/html", &envelope), "nothing"),
            (reply(503, PROBLEM_MEDIA_TYPE, &problem), "unavailable"),
            (reply(500, PROBLEM_MEDIA_TYPE, &problem), "nothing"),
            (reply(503, PROBLEM_MEDIA_TYPE, html), "nothing"),
            (reply(503, "application/json", &problem), "nothing"),
            (reply(502, "text/html", html), "nothing"),
            (reply(204, "", b""), "nothing"),
        ] {
            let heard = match reply.read(1 << 10) {
                Heard::Envelope(_) => "envelope".to_owned(),
                Heard::Problem { code, .. } => code.to_string(),
                Heard::Nothing(_) => "nothing".to_owned(),
            };
            assert_eq!(heard, expected, "{} {}", reply.status, reply.media_type);
        }
    }

    #[test]
    fn retry_after_is_seconds_up_to_a_day() {
        let of = |text: &str| {
            Reply { retry_after: Some(text.to_owned()), ..reply(503, "", b"") }
                .retry_after()
                .map(|d| d.as_secs())
        };
        assert_eq!(of("120"), Some(120));
        assert_eq!(of("99999999"), Some(86_400));
        assert_eq!(of("Wed, 21 Oct 2026 07:28:00 GMT"), None);
        assert_eq!(of("-1"), None);
    }
}
