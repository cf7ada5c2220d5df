//! What a later version may add: members, values of enumerations, streams, columns. All are accepted and do no harm.

use std::fmt::Debug;

use dunlin_protocol::batch::{BatchError, Predictions, Stream};
use dunlin_protocol::exchange::Ask;
use dunlin_protocol::{
    DeviceState, EnrollAnswer, EnrollRequest, Envelope, ExchangeAnswer, ExchangeRequest, Message, Problem,
    RefusalCode,
};
use serde_json::{Value, json};

use crate::{golden, samples};

/// Members whose names are data: a new name is a new label there.
const MAPS: &[&str] = &["labels"];

/// Adds a member to every object, as deep as they go.
fn grow(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                if !MAPS.contains(&name.as_str()) || !member.is_object() {
                    grow(member);
                }
            }
            members.insert(
                "from_the_future".to_owned(),
                json!({ "list": [1, [null, { "deep": true }]], "text": "x" }),
            );
        }
        Value::Array(elements) => elements.iter_mut().for_each(grow),
        _ => {}
    }
}

#[track_caller]
fn accepts_more<M: Message + PartialEq + Debug>(file: &str, expected: &M) {
    let mut value: Value = serde_json::from_slice(&golden(file)).unwrap();
    grow(&mut value);
    let grown = M::from_plain(value.to_string().as_bytes()).unwrap();
    // Columns keep their bytes until they are read: there the new member is dropped.
    assert_eq!(without_columns(&grown), without_columns(expected), "{file}");
}

fn without_columns<M: Message>(message: &M) -> Value {
    let mut value = serde_json::to_value(message).unwrap();
    for batch in value["batches"].as_array_mut().into_iter().flatten() {
        batch["columns"] = Value::Null;
    }
    value
}

#[test]
fn unknown_members_are_passed_over_everywhere() {
    accepts_more("enroll-request.json", &samples::enroll_request());
    accepts_more("enroll-answer.json", &samples::enroll_answer());
    accepts_more("enroll-answer-refused.json", &samples::enroll_refused());
    accepts_more("exchange-request.json", &samples::exchange_request());
    accepts_more("exchange-answer.json", &samples::exchange_answer());
    accepts_more("exchange-answer-replayed.json", &samples::exchange_refused());
    let mut problem: Value = serde_json::from_slice(&golden("problem.json")).unwrap();
    grow(&mut problem);
    assert_eq!(Problem::parse(problem.to_string().as_bytes()), Problem::parse(&golden("problem.json")));
}

#[test]
fn unknown_columns_are_passed_over() {
    let mut value: Value = serde_json::from_slice(&golden("exchange-request.json")).unwrap();
    grow(&mut value);
    let request = ExchangeRequest::from_plain(value.to_string().as_bytes()).unwrap();
    assert_eq!(request.batches[0].read(), Ok(samples::predictions()));
    assert_eq!(request.batches[4].read(), Ok(samples::statistics()));
}

#[test]
fn members_of_an_envelope_and_signatures_of_other_schemes_are_passed_over() {
    let mut value: Value = serde_json::from_slice(&golden("exchange-request.envelope.json")).unwrap();
    value["from_the_future"] = json!(1);
    let other = json!({ "keyid": "post-quantum", "sig": "AAAA", "scheme": "ml-dsa" });
    value["signatures"].as_array_mut().unwrap().insert(0, other);
    let envelope = Envelope::parse(value.to_string().as_bytes(), ExchangeRequest::BYTES_MAX).unwrap();
    assert!(envelope.verify(&[samples::public(&samples::device_key())]).is_ok());
}

/// Replaces a text, reads the message, and finds the text again when it is written.
#[track_caller]
fn keeps<M: Message>(file: &str, pointer: &str) {
    let mut value: Value = serde_json::from_slice(&golden(file)).unwrap();
    *value.pointer_mut(pointer).unwrap_or_else(|| panic!("{file}{pointer}")) = json!("from_the_future");
    let message = M::from_plain(value.to_string().as_bytes()).unwrap();
    let written = serde_json::to_value(&message).unwrap();
    assert_eq!(written.pointer(pointer), Some(&json!("from_the_future")), "{file}{pointer}");
}

#[test]
fn unknown_values_of_enumerations_are_kept() {
    for pointer in [
        "/report/full/models/0/phase",
        "/report/full/models/0/lanes/0/role",
        "/report/full/models/0/candidate/phase",
        "/report/full/settings/state",
        "/report/full/clock",
        "/health/waiting/0/stream",
        "/health/spent/0/purpose",
        "/batches/1/stream",
    ] {
        keeps::<ExchangeRequest>("exchange-request.json", pointer);
    }
    for pointer in ["/state", "/receipts/0/stream", "/rejected/0/stream", "/asks/2/stream", "/asks/2/share"] {
        keeps::<ExchangeAnswer>("exchange-answer.json", pointer);
    }
    keeps::<ExchangeAnswer>("exchange-answer-replayed.json", "/refusal/code");
    keeps::<EnrollAnswer>("enroll-answer.json", "/state");
    keeps::<EnrollRequest>("enroll-request.json", "/facts/architecture");
}

#[test]
fn a_state_or_refusal_from_the_future_is_none_of_those_that_are_known() {
    assert!("quarantined".parse::<DeviceState>().is_ok_and(|state| !DeviceState::KNOWN.contains(&state)));
    let code: RefusalCode = "from_the_future".parse().unwrap();
    assert_eq!((code.http_status(), code.is_signed()), (400, false));
    for code in RefusalCode::KNOWN {
        assert_eq!(&code.as_str().parse::<RefusalCode>().unwrap(), code);
        assert!((400..600).contains(&code.http_status()));
    }
}

#[test]
fn an_ask_from_the_future_is_passed_over() {
    let mut value: Value = serde_json::from_slice(&golden("exchange-answer.json")).unwrap();
    value["asks"][0] = json!({ "ask": "dance", "steps": [1, 2] });
    let answer = ExchangeAnswer::from_plain(value.to_string().as_bytes()).unwrap();
    assert_eq!(answer.asks[0], Ask::Unknown);
    assert_eq!(answer.asks[1], Ask::Logs { lines_max: 200 });
}

#[test]
fn a_stream_from_the_future_is_neither_read_nor_wrong() {
    let mut value: Value = serde_json::from_slice(&golden("exchange-request.json")).unwrap();
    value["batches"][1] =
        json!({ "stream": "spectra", "first": 1, "count": 2, "columns": { "anything": [1, 2] } });
    let request = ExchangeRequest::from_plain(value.to_string().as_bytes()).unwrap();
    let batch = &request.batches[1];
    assert_eq!(batch.read_any(), Err(BatchError::Stream("spectra".parse().unwrap())));
    assert_eq!(batch.read::<Predictions>(), Err(BatchError::Stream(batch.stream().clone())));
    assert!(!Stream::KNOWN.contains(batch.stream()));
    let again = ExchangeRequest::from_plain(&request.to_plain().unwrap()).unwrap();
    assert_eq!(again, request);
}
