//! Rows are kept once, accounted for, and read again; answers come in the form that was asked in.

use dunlin_e2e::Outcome;
use dunlin_fleet::store::retention::{self, Limits};
use dunlin_fleet::store::{accounts, messages};
use dunlin_protocol::batch::{LossRow, Losses};
use dunlin_protocol::exchange::{Ask, ExchangeAnswer, Share};
use dunlin_protocol::{Batch, Message as _, Range, RefusalCode, Stream};
use serde_json::json;

use super::over_both;
use crate::api::Person;
use crate::device::post;
use crate::rows::{losses, report};

/// Makes a batch of one loss, which explains numbers of predictions.
fn lost_predictions(first: u64, numbers: (u64, u64)) -> Batch {
    let mut losses = Losses::default();
    let row = LossRow {
        kind: "predictions",
        object: "press",
        reason: "quota",
        count: numbers.1 - numbers.0 + 1,
        from_us: 0,
        span_us: 0,
        at_us: 1_700_000_000_000_000,
        numbers: Some(("predictions", Range::new(numbers.0, numbers.1).unwrap())),
    };
    losses.push(&row).unwrap();
    Batch::of(first, &losses).unwrap()
}

#[test]
fn rows_repetitions_and_replays_are_one_over_both_databases() -> Outcome<()> {
    over_both(|running| {
        let mut device = running.enrolled(1)?;
        let question = device.question(vec![losses(1, 3)]);
        let first: ExchangeAnswer = device.read(&device.send(&question, 0)?)?;
        let again: ExchangeAnswer = device.read(&device.send(&question, 0)?)?;
        assert_eq!((again.receipts, again.refusal), (first.receipts, None));
        assert_eq!(device.exchange(vec![losses(2, 4)])?.receipts.len(), 1);
        let reply = device.send(&question, 0)?;
        let replayed: ExchangeAnswer = device.read(&reply)?;
        assert_eq!(replayed.refusal.map(|refusal| refusal.code), Some(RefusalCode::Replayed));
        let id = device.id().to_string();
        let pieces = running.write(move |sql| messages::pieces(sql, (&id, "losses"), 1, 9))?;
        assert_eq!(pieces, [(1, 3), (4, 5)]);
        let mut copy = device.clone();
        copy.start = dunlin_protocol::StartId::from_bytes([9; 8]);
        copy.counter += 1_000;
        assert_eq!(copy.exchange(Vec::new())?.refusal, None);
        device.counter += 2_000;
        assert_eq!(device.refused()?, RefusalCode::ClonedIdentity);
        Ok(())
    })
}

#[test]
fn numbers_are_accounted_for_and_rows_are_read_again() -> Outcome<()> {
    over_both(|running| {
        let mut device = running.enrolled(1)?;
        device.exchange(vec![losses(1, 2)])?;
        // The same row of the ledger twice explains its numbers once.
        for _ in 0..2 {
            device.exchange(vec![lost_predictions(3, (4, 9))])?;
        }
        let person = Person::first(running)?;
        let path = format!("/v1/devices/{}", device.id());
        let found = person.get(&format!("{path}/accounts"))?;
        let of =
            |stream: &str| found.as_array().unwrap().iter().find(|a| a["stream"] == stream).unwrap().clone();
        assert_eq!(
            (of("losses")["received"].clone(), of("losses")["rows"].clone()),
            (json!([[1, 3]]), json!(3))
        );
        let predictions = of("predictions");
        assert_eq!(predictions["lost"], json!([[4, 9]]));
        assert_eq!(predictions["unexplained"], json!([[1, 3]]));
        let page = person.get(&format!("{path}/rows?stream=losses&limit=2"))?;
        assert_eq!((page["items"].as_array().map(Vec::len), page["next"].clone()), (Some(2), json!(2)));
        let page = person.get(&format!("{path}/rows?stream=losses&after=2"))?;
        assert_eq!(page["items"][0]["number"], json!(3));
        assert_eq!(page["items"][0]["numbers"], json!([4, 9]));
        assert_eq!(page["items"][0]["at"], json!("2023-11-14T22:13:20.000000Z"));
        assert_eq!(page["next"], json!(null));
        person.expect(400, "GET", &format!("{path}/rows?stream=secrets"), &json!(null))?;
        // Of another fleet's person the gateway does not exist.
        let stranger = person.new_person("stranger", "viewer", "site=elsewhere")?;
        stranger.expect(404, "GET", &format!("{path}/accounts"), &json!(null))?;
        Ok(())
    })
}

#[test]
fn what_is_old_or_too_much_goes_oldest_first_and_is_counted() -> Outcome<()> {
    over_both(|running| {
        let mut device = running.enrolled(1)?;
        for first in [1, 3, 5] {
            device.exchange(vec![losses(first, 2)])?;
        }
        let id = device.id().to_string();
        let state = |limits: Limits| {
            let id = id.clone();
            running.write(move |sql| {
                retention::tidy(sql, limits)?;
                let expired = accounts::of(sql, &id)?["losses"].expired;
                Ok((messages::pieces(sql, (&id, "losses"), 1, 9)?.len(), expired))
            })
        };
        assert_eq!(state(Limits { before_ms: 0, bytes_max: u64::MAX })?, (3, 0));
        let id = device.id().to_string();
        running.write(move |sql| {
            sql.execute(
                "UPDATE upload SET received_ms = 5 WHERE device = $1 AND first = 3",
                &[id.as_str().into()],
            )
        })?;
        assert_eq!(state(Limits { before_ms: 6, bytes_max: u64::MAX })?, (2, 2));
        assert_eq!(state(Limits { before_ms: 0, bytes_max: 0 })?, (0, 6));
        // What went was received: it is not taken again.
        let answer = device.exchange(vec![losses(1, 6)])?;
        assert_eq!(serde_json::to_string(&answer.receipts[0].ranges)?, "[[1,6]]");
        assert_eq!(state(Limits { before_ms: 0, bytes_max: u64::MAX })?, (0, 6));
        Ok(())
    })
}

#[test]
fn rules_are_told_with_every_answer_and_end_no_wait() -> Outcome<()> {
    over_both(|running| {
        let mut device = running.enrolled(1)?;
        let person = Person::first(running)?;
        let uploads = json!({ "rules": [
            { "query": "group=plant-1", "stream": "predictions", "share": "sampled", "every": 10 },
            { "query": "*", "stream": "predictions", "share": "none" },
        ] });
        let set = person.expect(200, "PUT", "/v1/policies/uploads", &uploads)?;
        assert_eq!(set["revision"], json!(1));
        let hourly = json!({ "rules": [{ "query": "*", "next_s": 3600 }], "reason": "metered" });
        person.expect(200, "PUT", "/v1/policies/exchange", &hourly)?;
        let mut question = device.question(Vec::new());
        question.report.full = Some(Box::new(report()));
        device.send(&question, 0)?;
        let answer = device.exchange(Vec::new())?;
        let ask = Ask::Policy { stream: Stream::Predictions, share: Share::Sampled, every: Some(10) };
        assert_eq!(answer.asks.to_vec(), [ask]);
        assert!((2_700_000..=4_500_000).contains(&answer.next_ms), "{}", answer.next_ms);
        for (status, wrong) in [
            (400, json!({ "rules": [{ "query": "group=", "stream": "predictions", "share": "all" }] })),
            (400, json!({ "rules": [{ "query": "*", "stream": "losses", "share": "none" }] })),
            (422, json!({ "rules": [{ "query": "*", "stream": "events", "share": "sampled" }] })),
        ] {
            person.expect(status, "PUT", "/v1/policies/uploads", &wrong)?;
        }
        let reply = person.ask("PUT", "/v1/policies/uploads", "if-match: \"9\"\r\n", &uploads)?;
        assert_eq!(reply.status, 412);
        let viewer = person.new_person("viewer", "viewer", "*")?;
        viewer.expect(403, "PUT", "/v1/policies/uploads", &uploads)?;
        Ok(())
    })
}

#[test]
fn a_compressed_question_has_a_compressed_answer() -> Outcome<()> {
    over_both(|running| {
        let mut device = running.enrolled(1)?;
        let question = device.question(vec![losses(1, 1)]);
        let frame = zstd::encode_all(question.to_plain().unwrap().as_slice(), 3)?;
        let reply = post(running.address, dunlin_protocol::routes::EXCHANGE, &device.seal_frame(frame))?;
        assert_eq!(reply.status, 200);
        let envelope = dunlin_protocol::Envelope::parse(&reply.body, ExchangeAnswer::BYTES_MAX).unwrap();
        assert_eq!(envelope.payload_type(), ExchangeAnswer::ZSTD_TYPE);
        let payload = envelope.verify(&[running.key]).unwrap();
        let answer =
            payload.read::<ExchangeAnswer>(|frame, bytes_max| zstd::bulk::decompress(frame, bytes_max).ok());
        answer.unwrap().into_inner().require_answer_to(&question).unwrap();
        Ok(())
    })
}
