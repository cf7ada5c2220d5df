//! What the gateway does about a refusal, by its code. *Source*: docs/protocol.md, refusals.
//!
//! Pure. A refusal that is not signed makes the gateway wait or send less, and never changes what it keeps. None of them
//! stops a model that runs. A code that is not known counts as `unavailable`.

use dunlin_protocol::RefusalCode;

/// When to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// At once, with the next message.
    Next,
    /// As the answer tells.
    AsTold,
    /// By the growing series of waits.
    BackOff,
    /// Once an hour.
    Hourly,
    /// Once a day.
    Daily,
}

/// What becomes of rows that are to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Nothing changes.
    Same,
    /// Half as many a message.
    Half,
    /// The next message has none.
    NotNext,
    /// None until an answer brings no refusal.
    Stop,
}

/// What to do beside waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Nothing.
    None,
    /// Send the plain form from here on.
    PlainForm,
    /// Go on above the highest counter.
    RiseAbove,
    /// Enrol again where there is a token and this has lasted a day.
    EnrolAfterADay,
}

/// What follows from a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaction {
    /// When to ask again.
    pub patience: Patience,
    /// What becomes of rows.
    pub rows: Rows,
    /// What else.
    pub deed: Deed,
}

/// Whether the server's key signed a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warrant {
    /// It did.
    Signed,
    /// It may be anybody's.
    Unsigned,
}

/// Returns what follows from a refusal.
#[must_use]
pub fn reaction(code: &RefusalCode, warrant: Warrant) -> Reaction {
    use {Deed as D, Patience as P, Rows as R};
    let (patience, rows, deed) = match (code, warrant) {
        (RefusalCode::Replayed, Warrant::Signed) => (P::Next, R::Same, D::RiseAbove),
        (RefusalCode::WrongIncarnation | RefusalCode::ClonedIdentity, Warrant::Signed)
        | (RefusalCode::Suspended | RefusalCode::Pending, Warrant::Signed) => (P::AsTold, R::Stop, D::None),
        (RefusalCode::Revoked, Warrant::Signed) => (P::Daily, R::Stop, D::None),
        (RefusalCode::Token, Warrant::Signed) => (P::Hourly, R::Same, D::None),
        (RefusalCode::Malformed, _) => (P::BackOff, R::NotNext, D::None),
        (RefusalCode::Unsupported, _) => (P::BackOff, R::NotNext, D::PlainForm),
        (RefusalCode::UnknownDevice, _) => (P::BackOff, R::Same, D::EnrolAfterADay),
        (RefusalCode::TooLarge, _) => (P::BackOff, R::Half, D::None),
        // What only a signed answer may say, and what is not known.
        _ => (P::BackOff, R::Same, D::None),
    };
    Reaction { patience, rows, deed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsigned_refusal_never_moves_a_counter_nor_stops_rows_for_good() {
        for code in RefusalCode::KNOWN {
            let Reaction { patience, rows, deed } = reaction(code, Warrant::Unsigned);
            assert_eq!(patience, Patience::BackOff, "{code}");
            assert_ne!(rows, Rows::Stop, "{code}");
            assert_ne!(deed, Deed::RiseAbove, "{code}");
        }
    }

    #[test]
    fn signed_refusals_are_followed_as_the_protocol_says() {
        for (code, expected) in [
            ("replayed", (Patience::Next, Rows::Same, Deed::RiseAbove)),
            ("cloned_identity", (Patience::AsTold, Rows::Stop, Deed::None)),
            ("wrong_incarnation", (Patience::AsTold, Rows::Stop, Deed::None)),
            ("suspended", (Patience::AsTold, Rows::Stop, Deed::None)),
            ("pending", (Patience::AsTold, Rows::Stop, Deed::None)),
            ("revoked", (Patience::Daily, Rows::Stop, Deed::None)),
            ("token", (Patience::Hourly, Rows::Same, Deed::None)),
            ("from_the_future", (Patience::BackOff, Rows::Same, Deed::None)),
            ("unavailable", (Patience::BackOff, Rows::Same, Deed::None)),
        ] {
            let Reaction { patience, rows, deed } = reaction(&code.parse().unwrap(), Warrant::Signed);
            assert_eq!((patience, rows, deed), expected, "{code}");
        }
    }
}
