//! Golden files: each message as version 1 writes it, byte for byte.
//!
//! `DUNLIN_WRITE_FIXTURES=1` writes those that are missing; the table of digests keeps those that are there.

use std::collections::BTreeMap;
use std::fmt::Debug;

use dunlin_protocol::enrolment::Enrolment;
use dunlin_protocol::{
    Digest, EnrollRequest, EnrolmentToken, Envelope, ExchangeAnswer, ExchangeRequest, Form, Message, Problem,
    RefusalCode, words,
};
use serde_json::json;

use crate::samples::{self, device, device_key, public, server_key, signing};
use crate::{golden, golden_folder};

/// Version 1 is frozen: agents in the field read and write these very bytes. A message with something new in it gets a
/// file of its own; none of these lines ever changes.
const FROZEN: &[(&str, &str)] = &[
    ("enroll-answer-refused.json", "6c9bbdb12d0ef41625a4687841b9432a2a3773a764b6e902680d9a5e200f7c46"),
    ("enroll-answer.json", "cd8587e686bc1da3c07753765376cf6845009b9a1741e6f66e4cf932db7a8f4e"),
    ("enroll-request.envelope.json", "f721a8d0c46960b817401eea10c6bf81c2feca285af5e99b52fcead43d6949db"),
    ("enroll-request.json", "6f4599b2a2abd2f0616a76f767f066c3f041e3c101f8005455242ecfebcc2295"),
    ("exchange-answer-nothing-new.json", "93a8d43021064643e97d7dd7ed66da9dcc8a3d706d4ce6957336175601bf4d64"),
    ("exchange-answer-replayed.json", "167dbc0323b74afd80532690f584b7618ade3687c17325cf64026f93ea6499e0"),
    ("exchange-answer.envelope.json", "947df878195e38f39b7ffe8e2e8ff302abead2c6bdabbc730640cd0a37b85d44"),
    ("exchange-answer.json", "a979dd5e9373e074c9c338a4c5950d06d66708c57587d6d08064d133d2e28dfe"),
    ("exchange-request-nothing-new.json", "c9a891d8d346c48615b742d04db4468109ce821136c75efade17638b8a31abfd"),
    ("exchange-request.envelope.json", "55d6378ce7f8e725b599944a468b8569ff6d11cb3bdc80245b1ab8aa8eadbf48"),
    ("exchange-request.json", "c1fd5f5b63c013c2073d0feec4eb553d311126dd2f037b6154a4c8e96bfe7f04"),
    ("identity.json", "87ba64b6b94c5b307a37252e86403072201583452f67cfc692c83aae20aa4231"),
    ("problem.json", "50354df9bb2e73b297718b4343b309c1e9bb7824d7b52c845fd508eef0296437"),
    ("results-answer.json", "a64f0d8342e2bd149033b2b705df78d47bca967e26b830616e29df8be187765b"),
    ("results.envelope.json", "fa32c8e3f11b06fb3f280e54741b0c8a08f3d8f003a8de6f0d66599623f9625e"),
    ("results.json", "73982e818236ea711412eebb8809cd8180734b58bb8ec228fec5f006345efc90"),
    ("token.json", "23aae6a57a1e474633865ca95a4718eef1eef54b9f98790d21480bcc9622c6c4"),
];

fn files() -> BTreeMap<&'static str, Vec<u8>> {
    let (device_key, server_key) = (device_key(), server_key());
    let seal_small = || {
        let plain = samples::exchange_request_small().to_plain().unwrap();
        let kind = ExchangeRequest::payload_type(Form::Plain);
        Envelope::seal(kind, plain, &device().to_string(), signing(&device_key)).to_bytes()
    };
    let seal_answer = || {
        Envelope::of(&samples::exchange_answer_small(), "online", signing(&server_key)).unwrap().to_bytes()
    };
    // The key itself names the sender: the server may not know it yet.
    let seal_results = || {
        let key_id = public(&device_key).to_string();
        Envelope::of(&samples::results(), &key_id, signing(&device_key)).unwrap().to_bytes()
    };
    let token = samples::token();
    let enrolment =
        samples::enroll_request().seal(Some(&token.proof_key()), signing(&device_key)).unwrap().to_bytes();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let identity = json!({
        "seed": hex(device_key.as_bytes()),
        "key": public(&device_key),
        "device": device(),
        "words": words::words(&public(&device_key)),
    });
    let token = json!({ "text": *token.to_text(), "claim": token.claim(), "proof_key": hex(token.proof_key().as_bytes()) });
    let problem = Problem::new(RefusalCode::TooLarge, "the body has 2097152 bytes; 1402200 are the most");
    BTreeMap::from([
        ("enroll-answer-refused.json", samples::enroll_refused().to_plain().unwrap()),
        ("enroll-answer.json", samples::enroll_answer().to_plain().unwrap()),
        ("enroll-request.envelope.json", enrolment),
        ("enroll-request.json", samples::enroll_request().to_plain().unwrap()),
        ("exchange-answer-nothing-new.json", samples::exchange_answer_small().to_plain().unwrap()),
        ("exchange-answer-replayed.json", samples::exchange_refused().to_plain().unwrap()),
        ("exchange-answer.envelope.json", seal_answer()),
        ("exchange-answer.json", samples::exchange_answer().to_plain().unwrap()),
        ("exchange-request-nothing-new.json", samples::exchange_request_small().to_plain().unwrap()),
        ("exchange-request.envelope.json", seal_small()),
        ("exchange-request.json", samples::exchange_request().to_plain().unwrap()),
        ("identity.json", identity.to_string().into_bytes()),
        ("problem.json", serde_json::to_vec(&problem).unwrap()),
        ("results-answer.json", samples::results_answer().to_plain().unwrap()),
        ("results.envelope.json", seal_results()),
        ("results.json", samples::results().to_plain().unwrap()),
        ("token.json", token.to_string().into_bytes()),
    ])
}

#[test]
fn the_files_are_frozen() {
    let mut wrong = Vec::new();
    for (file, digest) in FROZEN {
        let found = Digest::of(&golden(file)).to_string();
        if found != *digest {
            wrong.push(format!("    (\"{file}\", \"{found}\"),"));
        }
    }
    assert!(wrong.is_empty(), "these are not the bytes that were frozen:\n{}", wrong.join("\n"));
    let there = std::fs::read_dir(golden_folder()).unwrap().count();
    assert_eq!(there, FROZEN.len(), "each file has its line");
}

#[test]
fn messages_are_written_as_the_files_are() {
    let write = std::env::var_os("DUNLIN_WRITE_FIXTURES").is_some();
    for (file, bytes) in files() {
        let path = golden_folder().join(file);
        if write && !path.exists() {
            dunlin_kit::atomic_file::write(&path, &bytes).unwrap();
        }
        assert_eq!(String::from_utf8(golden(file)).unwrap(), String::from_utf8(bytes).unwrap(), "{file}");
    }
}

#[track_caller]
fn reads_as<M: Message + PartialEq + Debug>(file: &str, expected: &M) {
    assert_eq!(&M::from_plain(&golden(file)).unwrap(), expected, "{file}");
}

#[test]
fn the_files_are_read_as_what_they_say() {
    reads_as("enroll-request.json", &samples::enroll_request());
    reads_as("enroll-answer.json", &samples::enroll_answer());
    reads_as("enroll-answer-refused.json", &samples::enroll_refused());
    reads_as("exchange-request.json", &samples::exchange_request());
    reads_as("exchange-request-nothing-new.json", &samples::exchange_request_small());
    reads_as("exchange-answer.json", &samples::exchange_answer());
    reads_as("exchange-answer-nothing-new.json", &samples::exchange_answer_small());
    reads_as("exchange-answer-replayed.json", &samples::exchange_refused());
    reads_as("results.json", &samples::results());
    reads_as("results-answer.json", &samples::results_answer());
    assert_eq!(Problem::parse(&golden("problem.json")).unwrap().code, RefusalCode::TooLarge);
    let token: serde_json::Value = serde_json::from_slice(&golden("token.json")).unwrap();
    assert_eq!(EnrolmentToken::parse(token["text"].as_str().unwrap()).unwrap(), samples::token());
}

#[test]
fn rows_are_read_as_they_were_made() {
    let request = ExchangeRequest::from_plain(&golden("exchange-request.json")).unwrap();
    let [held_back, events, labels, losses, statistics, predictions] = &*request.batches else { panic!() };
    assert_eq!(held_back.read(), Ok(samples::predictions()));
    assert_eq!(held_back.numbers().collect::<Vec<_>>(), [1_201, 1_202, 1_300]);
    assert_eq!((held_back.range().first(), held_back.range().last()), (1_201, 1_300));
    assert_eq!(events.read(), Ok(samples::events()));
    assert_eq!(labels.read(), Ok(samples::true_labels()));
    assert_eq!(losses.read(), Ok(samples::losses()));
    assert_eq!(statistics.read(), Ok(samples::statistics()));
    assert_eq!(predictions.numbers().collect::<Vec<_>>(), [1_301, 1_302, 1_303]);
    let rows = predictions.read::<dunlin_protocol::batch::Predictions>().unwrap();
    let outputs: Vec<&[f32]> = rows.iter().map(|row| row.outputs).collect();
    assert_eq!(outputs, [&[0.25, 0.75][..], &[], &[0.9, 0.1]]);
    assert_eq!(rows.iter().next().and_then(|row| rows.label_of(&row)).unwrap(), &"frost");
    assert_eq!(samples::losses().iter().nth(1).unwrap().numbers.unwrap().1.count(), 1_200);
    assert_eq!(samples::events().iter().nth(1).unwrap().kind, "restart");
    assert_eq!(samples::true_labels().iter().nth(1).unwrap().value, Some(-1.5));
    let windows = statistics.read::<dunlin_protocol::batch::Statistics>().unwrap();
    let summaries: Vec<&[u8]> = windows.iter().map(|row| row.summaries).collect();
    assert_eq!(summaries, [b"window one", b"window two"]);
    assert_eq!(windows.iter().map(|row| (row.revision, row.n)).collect::<Vec<_>>(), [(2, 360), (1, 360)]);
}

#[test]
fn envelopes_are_verified_by_the_key_that_signed_them_alone() {
    let (device_key, server_key) = (public(&device_key()), public(&server_key()));
    let parse = |file| Envelope::parse(&golden(file), ExchangeRequest::BYTES_MAX).unwrap();
    let envelope = parse("exchange-request.envelope.json");
    assert!(envelope.key_ids().eq([device().to_string()]));
    assert!(envelope.clone().verify(&[server_key]).is_err());
    assert!(envelope.clone().verify(&[]).is_err());
    let payload = envelope.verify(&[server_key, device_key]).unwrap();
    let request = payload.read::<ExchangeRequest>(|_, _| None).unwrap();
    assert_eq!(*request, samples::exchange_request_small());
    assert!(payload.read::<ExchangeAnswer>(|_, _| None).is_err(), "another message's type");

    let answer = parse("exchange-answer.envelope.json").verify(&[server_key]).unwrap();
    let answer = answer.read::<ExchangeAnswer>(|_, _| None).unwrap();
    answer.require_answer_to(&request).unwrap();
    let mut other = request.clone().into_inner();
    other.nonce = dunlin_protocol::Nonce::from_bytes([0; 16]);
    assert!(answer.require_answer_to(&other).is_err());
}

#[test]
fn an_enrolment_brings_its_key_and_proves_its_token() {
    let envelope =
        Envelope::parse(&golden("enroll-request.envelope.json"), EnrollRequest::BYTES_MAX).unwrap();
    let enrolment = Enrolment::open(envelope).unwrap();
    assert_eq!(**enrolment.request(), samples::enroll_request());
    assert!(enrolment.is_proven_by(&samples::token().proof_key()));
    assert!(!enrolment.is_proven_by(&dunlin_protocol::ProofKey::from_bytes([0; 32])));
    let plain = samples::enroll_request().seal(None, signing(&device_key())).unwrap();
    assert!(!Enrolment::open(plain).unwrap().is_proven_by(&samples::token().proof_key()));
    let stranger = samples::enroll_request().seal(None, signing(&server_key())).unwrap();
    assert!(Enrolment::open(stranger).is_err(), "signed by another key than it brings");
    samples::enroll_answer().require_answer_to(&samples::enroll_request()).unwrap();
}
