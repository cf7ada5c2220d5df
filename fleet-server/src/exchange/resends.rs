//! Rows that a gateway has receipts for and that are not here: of a database that was put back to an older state.
//!
//! Follows from what the gateway says is waiting and from the accounts. Asks for numbers alone; what the gateway has no more
//! it explains itself, as a loss.

use dunlin_protocol::exchange::{Ask, ExchangeRequest};
use dunlin_protocol::health::Waiting;
use dunlin_protocol::limits::RANGES_MAX;
use dunlin_protocol::{Range, Ranges, Stream};

use crate::store::{Sql, StoreError, accounts};

/// Streams that are asked for again.
const STREAMS: [Stream; 3] = [Stream::Predictions, Stream::Events, Stream::Losses];

/// Returns what to ask for again. `is_jump`: messages of the gateway are missing here before this one, as they are after a
/// restore; otherwise the streams alone are looked at that the message brings rows of.
pub(super) fn asks(
    sql: &mut dyn Sql,
    device: &str,
    request: &ExchangeRequest,
    is_jump: bool,
) -> Result<Vec<Ask>, StoreError> {
    let mut asks = Vec::new();
    for waiting in request.health.waiting.iter() {
        let is_brought = request.batches.iter().any(|batch| *batch.stream() == waiting.stream);
        if !STREAMS.contains(&waiting.stream) || !(is_jump || is_brought) {
            continue;
        }
        let known = accounts::known(sql, (device, waiting.stream.as_str()))?;
        if let Some(ranges) = lost_here(waiting, &known) {
            asks.push(Ask::Resend { stream: waiting.stream.clone(), ranges });
        }
    }
    Ok(asks)
}

/// Returns the numbers that were made and are not known here, where they are more than the gateway still wants to send.
fn lost_here(waiting: &Waiting, known: &Ranges) -> Option<Ranges> {
    let made = Range::new(1, waiting.next.checked_sub(1)?).ok()?;
    let missing = Ranges::from(made).subtract(known);
    (missing.count() > waiting.rows).then(|| missing.lowest(RANGES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_at_the_gateway_is_not_asked_for_and_what_it_has_receipts_for_is() {
        let ranges = |text: &str| serde_json::from_str::<Ranges>(text).unwrap();
        for (next, rows, known, expected) in [
            (1, 0, "[]", None),
            (11, 10, "[]", None),
            (11, 0, "[[1,10]]", None),
            // Live first: what is between comes.
            (11, 4, "[[1,3],[8,10]]", None),
            (11, 0, "[[1,7]]", Some("[[8,10]]")),
            (11, 2, "[[1,3],[9,10]]", Some("[[4,8]]")),
            (11, 0, "[]", Some("[[1,10]]")),
        ] {
            let waiting = Waiting { stream: Stream::Predictions, rows, next, oldest_us: None };
            assert_eq!(lost_here(&waiting, &ranges(known)), expected.map(ranges), "{next} {rows} {known}");
        }
    }
}
