//! Exchanges of honest gateways.

use std::sync::mpsc;
use std::time::Duration;

use dunlin_e2e::{Failure, Outcome};
use dunlin_fleet::http::Bounds;
use dunlin_fleet::store::messages;
use dunlin_protocol::RefusalCode;
use dunlin_protocol::exchange::{Ask, ExchangeAnswer};

use super::Running;
use crate::rows::{losses, malformed, report};

#[test]
fn a_report_is_asked_for_until_it_came_in_full() -> Outcome<()> {
    let running = Running::start()?;
    let mut device = running.enrolled(1)?;
    let answer = device.exchange(Vec::new())?;
    assert_eq!((answer.report_known, answer.asks.to_vec()), (None, vec![Ask::Report]));
    let mut question = device.question(Vec::new());
    question.report.full = Some(Box::new(report()));
    let answer: ExchangeAnswer = device.read(&device.send(&question, 0)?)?;
    assert_eq!((answer.report_known, answer.asks.len()), (Some(question.report.digest), 0));
    assert_eq!(device.exchange(Vec::new())?.report_known, Some(question.report.digest));
    Ok(())
}

#[test]
fn rows_are_kept_once_and_acknowledged_across_a_restart() -> Outcome<()> {
    let running = Running::start()?;
    let mut device = running.enrolled(1)?;
    let ranges = |answer: &ExchangeAnswer| serde_json::to_string(&answer.receipts[0].ranges).unwrap();
    assert_eq!(ranges(&device.exchange(vec![losses(1, 3)])?), "[[1,3]]");
    assert_eq!(ranges(&device.exchange(vec![losses(7, 2)])?), "[[7,8]]");
    // Over a gap and over what was received.
    assert_eq!(ranges(&device.exchange(vec![losses(2, 9)])?), "[[2,10]]");
    let id = device.id().to_string();
    let rows = running.write(move |sql| {
        assert_eq!(serde_json::to_string(&messages::received(sql, &id, "losses")?).unwrap(), "[[1,10]]");
        messages::pieces(sql, (&id, "losses"), 1, 100)
    })?;
    assert_eq!(rows, [(1, 3), (4, 6), (7, 8), (9, 10)]);
    let again = Running::start_within(Bounds::default(), running.stop())?;
    let mut moved = again.device(1);
    (moved.incarnation, moved.counter) = (device.incarnation, device.counter);
    assert_eq!(ranges(&moved.exchange(vec![losses(1, 3)])?), "[[1,3]]");
    Ok(())
}

#[test]
fn a_batch_that_is_wrong_costs_itself_alone() -> Outcome<()> {
    let running = Running::start()?;
    let mut device = running.enrolled(1)?;
    let answer = device.exchange(vec![losses(1, 3), malformed(4, 2)])?;
    assert_eq!(serde_json::to_string(&answer.receipts[0].ranges).unwrap(), "[[1,3]]");
    assert_eq!(serde_json::to_string(&answer.rejected[0].ranges).unwrap(), "[[4,5]]");
    Ok(())
}

#[test]
fn a_question_that_is_sent_again_is_answered_again() -> Outcome<()> {
    let running = Running::start()?;
    let mut device = running.enrolled(1)?;
    let question = device.question(vec![losses(1, 3)]);
    let first: ExchangeAnswer = device.read(&device.send(&question, 0)?)?;
    let again: ExchangeAnswer = device.read(&device.send(&question, 0)?)?;
    assert_eq!((again.receipts, again.refusal), (first.receipts, None));
    Ok(())
}

#[test]
fn a_question_waits_until_there_is_something_new() -> Outcome<()> {
    let running = Running::start()?;
    let mut device = running.enrolled(1)?;
    let mut question = device.question(Vec::new());
    question.report.full = Some(Box::new(report()));
    device.send(&question, 0)?;
    let question = device.question(Vec::new());
    let (answered, answers) = mpsc::channel();
    let waiting = device.clone();
    let thread = std::thread::spawn(move || answered.send(waiting.send(&question, 50)).is_ok());
    // Nothing new: no answer, for as long as a test may look.
    assert!(answers.recv_timeout(Duration::from_millis(300)).is_err());
    let id = device.id();
    let name = id.to_string();
    use dunlin_fleet::store::devices::{DeviceState, set_state};
    running.write(move |sql| set_state(sql, &name, DeviceState::Suspended, Some("inspection")))?;
    running.on_fleet(async |fleet| {
        fleet.waiters.wake(id);
        Ok(())
    })?;
    let reply = answers.recv().map_err(Failure::of("wait"))??;
    let answer: ExchangeAnswer = device.read(&reply)?;
    assert_eq!(answer.refusal.map(|refusal| refusal.code), Some(RefusalCode::Suspended));
    assert!(thread.join().unwrap());
    Ok(())
}
