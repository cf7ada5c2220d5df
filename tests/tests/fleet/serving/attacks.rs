//! Those who forge, record, copy and flood.

use dunlin_e2e::Outcome;
use dunlin_protocol::exchange::ExchangeAnswer;
use dunlin_protocol::limits::REQUEST_BYTES_MAX;
use dunlin_protocol::routes::EXCHANGE;
use dunlin_protocol::{Envelope, RefusalCode, ServerId, StartId};

use super::Running;
use crate::device::post;
use crate::rows::losses;

#[test]
fn forged_messages_move_no_counter() -> Outcome<()> {
    let running = Running::start()?;
    let (mut device, other) = (running.enrolled(1)?, running.enrolled(2)?);
    let question = device.question(Vec::new());
    let sealed = device.seal(&question);
    let text = String::from_utf8_lossy(&sealed).into_owned();
    // Another's signature under this name, this signature under another's name, and a byte changed.
    let by_other = Envelope::of(&question, &device.id().to_string(), |_| [1; 64]).unwrap().to_bytes();
    let renamed = text.replace(&device.id().to_string(), &other.id().to_string()).into_bytes();
    let changed = text.replacen("\"payload\":\"eyJk", "\"payload\":\"eyJl", 1).into_bytes();
    assert_ne!(changed, sealed);
    for forged in [by_other, other.seal(&question), renamed, changed] {
        let reply = post(running.address, EXCHANGE, &forged)?;
        assert_eq!((reply.status, reply.problem()?), (401, RefusalCode::Signature));
    }
    let answer: ExchangeAnswer = device.read(&device.send(&question, 0)?)?;
    assert_eq!(answer.refusal, None);
    Ok(())
}

#[test]
fn recorded_and_reordered_messages_are_refused_with_the_highest_counter() -> Outcome<()> {
    let running = Running::start()?;
    let mut device = running.enrolled(1)?;
    let recorded = device.question(vec![losses(1, 2)]);
    device.send(&recorded, 0)?;
    let late = device.question(Vec::new());
    assert_eq!(device.exchange(Vec::new())?.refusal, None);
    for old in [&recorded, &late] {
        let reply = device.send(old, 0)?;
        let answer: ExchangeAnswer = device.read(&reply)?;
        let refusal = answer.refusal.unwrap();
        assert_eq!(
            (reply.status, refusal.code, refusal.highest.unwrap().get()),
            (409, RefusalCode::Replayed, 3)
        );
        assert!(answer.receipts.is_empty());
    }
    assert_eq!(device.exchange(Vec::new())?.refusal, None);
    Ok(())
}

#[test]
fn what_stands_around_the_signed_bytes_makes_no_clone_of_a_gateway() -> Outcome<()> {
    let running = Running::start()?;
    let mut device = running.enrolled(1)?;
    let question = device.question(Vec::new());
    device.send(&question, 0)?;
    let sealed = String::from_utf8(device.seal(&question)).unwrap();
    let padded = sealed.replacen("{\"payloadType\"", "{ \"later\": 1, \"payloadType\"", 1);
    assert_ne!(padded, sealed);
    let answer: ExchangeAnswer = device.read(&post(running.address, EXCHANGE, padded.as_bytes())?)?;
    assert_eq!(answer.refusal, None);
    Ok(())
}

#[test]
fn two_copies_of_a_card_are_both_suspended_and_it_is_written_down() -> Outcome<()> {
    let running = Running::start()?;
    let mut first = running.enrolled(1)?;
    first.exchange(Vec::new())?;
    let mut copy = first.clone();
    copy.start = StartId::from_bytes([9; 8]);
    copy.counter += 1_000;
    assert_eq!(copy.exchange(Vec::new())?.refusal, None);
    // The first goes on with a start that is over, above the other's counter.
    first.counter += 2_000;
    assert_eq!(first.refused()?, RefusalCode::ClonedIdentity);
    copy.counter += 3_000;
    assert_eq!(copy.refused()?, RefusalCode::ClonedIdentity);
    assert_eq!(first.exchange(vec![losses(1, 1)])?.receipts.len(), 0);
    assert_eq!(running.deeds(&first.id().to_string())?, ["device.enrol", "device.suspend"]);
    Ok(())
}

#[test]
fn one_counter_with_two_messages_shows_two_gateways() -> Outcome<()> {
    let running = Running::start()?;
    let mut first = running.enrolled(1)?;
    let mut copy = first.clone();
    copy.start = StartId::from_bytes([9; 8]);
    assert_eq!(first.exchange(Vec::new())?.refusal, None);
    assert_eq!(copy.refused()?, RefusalCode::ClonedIdentity);
    assert_eq!(first.refused()?, RefusalCode::ClonedIdentity);
    Ok(())
}

#[test]
fn a_message_for_another_server_is_refused() -> Outcome<()> {
    let running = Running::start()?;
    let mut device = running.enrolled(1)?;
    device.server_id = ServerId::new(1, [1; 10]);
    let question = device.question(Vec::new());
    let reply = device.send(&question, 0)?;
    assert_eq!((reply.status, reply.problem()?), (421, RefusalCode::WrongServer));
    Ok(())
}

#[test]
fn an_answer_is_worth_nothing_for_another_gateway_or_question() -> Outcome<()> {
    let running = Running::start()?;
    let (mut device, mut other) = (running.enrolled(1)?, running.enrolled(2)?);
    let (question, others) = (device.question(Vec::new()), other.question(Vec::new()));
    let answer: ExchangeAnswer = device.read(&device.send(&question, 0)?)?;
    assert!(answer.require_answer_to(&question).is_ok());
    assert!(answer.require_answer_to(&others).is_err());
    assert!(answer.require_answer_to(&device.question(Vec::new())).is_err());
    Ok(())
}

#[test]
fn a_signed_frame_that_grows_beyond_the_limit_is_refused() -> Outcome<()> {
    let running = Running::start()?;
    let device = running.enrolled(1)?;
    for frame in [zstd::encode_all(vec![b' '; REQUEST_BYTES_MAX + 1].as_slice(), 3)?, b"no frame".to_vec()] {
        let reply = post(running.address, EXCHANGE, &device.seal_frame(frame))?;
        assert_eq!((reply.status, reply.problem()?), (413, RefusalCode::TooLarge));
    }
    Ok(())
}
