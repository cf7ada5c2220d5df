//! Enrolment in its three ways, and who is not let in.

use dunlin_e2e::Outcome;
use dunlin_fleet::enrolment::accept;
use dunlin_fleet::fleet::now_ms;
use dunlin_fleet::store::devices::{self, DeviceState as Kept};
use dunlin_fleet::store::tokens;
use dunlin_protocol::enrolment::{DeviceState, EnrollAnswer};
use dunlin_protocol::{Digest, EnrolmentToken, Incarnation, RefusalCode};

use super::Running;

const LATER_MS: u64 = 1_000_000;

#[test]
fn a_token_lets_in_as_many_gateways_as_it_has_uses() -> Outcome<()> {
    let running = Running::start()?;
    let token = running.token(2, now_ms() + LATER_MS)?;
    for seed in [1, 2] {
        let answer = running.device(seed).enrol(Some(&token))?;
        assert_eq!(answer.state, DeviceState::Active);
        assert_eq!(answer.labels.values().map(|group| group.as_str()).collect::<Vec<_>>(), ["plant-1"]);
    }
    let answer = running.device(3).enrol(Some(&token))?;
    assert_eq!(answer.refusal.map(|refusal| refusal.code), Some(RefusalCode::Token));
    Ok(())
}

#[test]
fn tokens_that_ended_were_revoked_or_are_not_proven_let_nobody_in() -> Outcome<()> {
    let running = Running::start()?;
    let (ended, revoked) = (running.token(9, 1)?, running.token(9, now_ms() + LATER_MS)?);
    let id = revoked.claim().token.to_string();
    running.write(move |sql| tokens::revoke(sql, &id, 1))?;
    let good = running.token(9, now_ms() + LATER_MS)?;
    let guessed = EnrolmentToken::new(good.claim().clone(), [7; 32]);
    for token in [&ended, &revoked, &guessed] {
        let mut device = running.device(1);
        let answer = device.enrol(Some(token))?;
        assert_eq!(answer.refusal.map(|refusal| refusal.code), Some(RefusalCode::Token));
        // Not let in means not known: it may not even say that it is there.
        let question = device.question(Vec::new());
        assert_eq!(device.send(&question, 0)?.problem()?, RefusalCode::UnknownDevice);
    }
    let id = good.claim().token.to_string();
    assert_eq!(running.write(move |sql| tokens::get(sql, &id))?.map(|token| token.uses_left), Some(9));
    Ok(())
}

#[test]
fn an_enrolment_that_is_sent_again_gives_the_same_life_and_takes_no_second_use() -> Outcome<()> {
    let running = Running::start()?;
    let token = running.token(1, now_ms() + LATER_MS)?;
    let mut device = running.device(1);
    let wish = device.wish(Some(&token));
    let first: EnrollAnswer = device.read(&device.send_wish(&wish, Some(&token))?)?;
    let again: EnrollAnswer = device.read(&device.send_wish(&wish, Some(&token))?)?;
    assert!(first.incarnation.is_some());
    assert_eq!(again.incarnation, first.incarnation);
    // It enrols anew; what somebody recorded before does not put it back.
    device.incarnation = first.incarnation;
    let second = device.enrol(None)?;
    assert_eq!(second.state, DeviceState::Active);
    assert_ne!(second.incarnation, first.incarnation);
    let recorded: EnrollAnswer = device.read(&device.send_wish(&wish, Some(&token))?)?;
    assert_eq!(recorded.refusal.map(|refusal| refusal.code), Some(RefusalCode::WrongIncarnation));
    assert_eq!(device.exchange(Vec::new())?.refusal, None);
    Ok(())
}

#[test]
fn a_gateway_without_a_token_waits_until_somebody_accepts_it() -> Outcome<()> {
    let running = Running::start()?;
    let mut device = running.device(1);
    assert_eq!(device.enrol(None)?.state, DeviceState::Pending);
    assert_eq!(device.refused()?, RefusalCode::Pending);
    let id = device.id();
    running.on_fleet(async |fleet| accept(fleet, id, "operator").await)?;
    assert_eq!(device.exchange(Vec::new())?.refusal, None);
    assert_eq!(running.deeds(&id.to_string())?, ["device.enrol", "device.accept"]);
    Ok(())
}

#[test]
fn a_gateway_that_is_expected_by_its_key_needs_no_token() -> Outcome<()> {
    let running = Running::start()?;
    let mut device = running.device(1);
    let id = device.id().to_string();
    running.write(move |sql| tokens::expect(sql, &id, "{}", 1, "operator"))?;
    assert_eq!(device.enrol(None)?.state, DeviceState::Active);
    Ok(())
}

#[test]
fn another_owners_root_another_url_and_another_life_are_refused() -> Outcome<()> {
    let running = Running::start()?;
    let mut device = running.enrolled(1)?;
    let mut wish = device.wish(None);
    wish.root = Digest::of(b"another");
    assert_eq!(device.send_wish(&wish, None)?.problem()?, RefusalCode::WrongRoot);
    let mut elsewhere = device.clone();
    elsewhere.url = "http://elsewhere".to_owned();
    let wish = elsewhere.wish(None);
    assert_eq!(elsewhere.send_wish(&wish, None)?.problem()?, RefusalCode::WrongServer);
    let mut copied = device.clone();
    copied.incarnation = Some(Incarnation::from_bytes([1; 16]));
    let answer = copied.enrol(None)?;
    assert_eq!(answer.refusal.map(|refusal| refusal.code), Some(RefusalCode::WrongIncarnation));
    assert_eq!(device.exchange(Vec::new())?.refusal, None);
    Ok(())
}

#[test]
fn one_that_is_revoked_or_suspended_does_not_come_back_by_a_token() -> Outcome<()> {
    let running = Running::start()?;
    let token = running.token(9, now_ms() + LATER_MS)?;
    for (state, code) in [(Kept::Suspended, RefusalCode::Suspended), (Kept::Revoked, RefusalCode::Revoked)] {
        let mut device = running.device(1);
        let id = device.id().to_string();
        device.enrol(Some(&token))?;
        running.write(move |sql| devices::set_state(sql, &id, state, Some("theft")))?;
        let answer = device.enrol(Some(&token))?;
        assert_eq!(answer.refusal.map(|refusal| refusal.code), Some(code.clone()));
        assert_eq!(device.refused()?, code);
        let id = device.id().to_string();
        running.write(move |sql| devices::set_state(sql, &id, Kept::Active, None))?;
    }
    Ok(())
}
