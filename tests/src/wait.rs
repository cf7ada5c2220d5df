//! Bounded waits on a condition: the harness's only way to let time pass.
//!
//! Asks again and again, with short pauses, and gives up with the name of what did not come. A limit says when a
//! test is lost, never how fast the product must be.

use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Outcome};

/// Pause between two questions: long enough to leave a single core to the processes under test.
const PAUSE: Duration = Duration::from_millis(15);

/// Waits until `condition` holds.
///
/// *Errors*: it did not within `limit`; the failure names `what`.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Outcome<()> {
    wait_for(what, limit, || Ok(condition().then_some(())))
}

/// Waits until `question` has an answer and returns it.
///
/// *Errors*: it had none within `limit`, or the question itself failed for good.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut question: impl FnMut() -> Outcome<Option<T>>,
) -> Outcome<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = question()? {
            return Ok(answer);
        }
        if start.elapsed() >= limit {
            return Err(Failure::new(format!("waited {limit:?} in vain until {what}")));
        }
        pause(PAUSE);
    }
}

/// Lets this thread rest for about `length`; for pacing a load and for choosing a random moment, not for order.
pub fn pause(length: Duration) {
    let start = Instant::now();
    while let Some(rest) = length.checked_sub(start.elapsed()).filter(|rest| !rest.is_zero()) {
        thread::park_timeout(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_comes_is_named() {
        let failure = wait_until("pigs fly", Duration::ZERO, || false).unwrap_err();
        assert!(failure.to_string().contains("pigs fly"));
    }

    #[test]
    fn the_answer_is_returned_once_it_is_there() {
        let mut asked = 0;
        let answer = wait_for("third time", Duration::from_secs(10), || {
            asked += 1;
            Ok((asked == 3).then_some(asked))
        });
        assert_eq!(answer, Ok(3));
    }
}
