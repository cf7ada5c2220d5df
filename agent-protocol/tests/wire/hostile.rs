//! What somebody sends who means harm: every piece of it is an error, and costs no more than its length.

use dunlin_protocol::batch::{
    AnyColumns, Batch, BatchError, Events, Losses, Predictions, StatisticRow, Statistics,
};
use dunlin_protocol::enrolment::Enrolment;
use dunlin_protocol::limits::{
    BATCHES_MAX, INTEGER_MAX, MODELS_MAX, ROWS_MAX, SIGNATURES_MAX, WINDOW_BYTES_MAX, envelope_bytes_max,
};
use dunlin_protocol::{
    Digest, EnrollAnswer, EnrollRequest, EnrolmentToken, Envelope, ExchangeAnswer, ExchangeRequest, Form,
    Message, MessageError, Range,
};
use serde_json::{Value, json};

use crate::{golden, samples};

fn request() -> Value {
    serde_json::from_slice(&golden("exchange-request.json")).unwrap()
}

/// Puts a value at a place of the request.
#[track_caller]
fn with(pointer: &str, value: Value) -> Value {
    let mut request = request();
    *request.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
    request
}

#[track_caller]
fn refused(request: &Value) {
    assert!(ExchangeRequest::from_plain(request.to_string().as_bytes()).is_err());
}

#[test]
fn ids_numbers_and_texts_out_of_form_are_refused() {
    for (pointer, value) in [
        ("/device", json!("d0")),
        ("/device", json!("../../etc/passwd")),
        ("/server", json!("SRV-0")),
        ("/incarnation", json!("09")),
        ("/counter", json!(0)),
        ("/counter", json!(-1)),
        ("/counter", json!(1.5)),
        ("/counter", json!(INTEGER_MAX + 1)),
        ("/counter", json!("4711")),
        ("/nonce", json!("0B".repeat(16))),
        ("/start", json!(null)),
        ("/clock/boot", json!("\u{1b}[31m")),
        ("/clock/boot", json!("x".repeat(129))),
        ("/report/digest", json!("abc")),
        ("/report/full/models/0/bad/0/detail", json!("x".repeat(1_601))),
        ("/report/full/models/0/phase", json!("x".repeat(65))),
        ("/report/full/models/0/phase", json!(7)),
        ("/held/root", json!(-1)),
        ("/health", json!(7)),
    ] {
        refused(&with(pointer, value));
    }
}

#[test]
fn lists_end_at_their_limits() {
    let model = request()["report"]["full"]["models"][0].clone();
    refused(&with("/report/full/models", json!(vec![model; MODELS_MAX + 1])));
    let batches: Vec<Value> = (0..=BATCHES_MAX)
        .map(|n| json!({ "stream": "events", "first": n + 1, "count": 1, "columns": {} }))
        .collect();
    refused(&with("/batches", json!(batches)));
    let labels: Value =
        (0..65).map(|n| (n.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>().into();
    refused(&with("/report/full/labels", labels));
}

#[test]
fn a_member_that_stands_twice_is_refused() {
    let text = String::from_utf8(golden("exchange-request.json")).unwrap();
    let twice = text.replacen("\"counter\":4711", "\"counter\":4711,\"counter\":4712", 1);
    assert_ne!(text, twice);
    assert!(ExchangeRequest::from_plain(twice.as_bytes()).is_err());
}

#[test]
fn length_and_depth_are_bounded_before_anything_is_read() {
    let mut long = golden("exchange-request.json");
    long.resize(ExchangeRequest::BYTES_MAX + 1, b' ');
    assert!(ExchangeRequest::from_plain(&long).is_err());
    let text = String::from_utf8(golden("exchange-request.json")).unwrap();
    for depth in [40, 200, 100_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let inner = if close == "]" { "" } else { "1" };
            let deep = format!("{{\"x\":{}{inner}{},{}", open.repeat(depth), close.repeat(depth), &text[1..]);
            assert!(ExchangeRequest::from_plain(deep.as_bytes()).is_err(), "{depth} of {open}");
        }
        let deep = text.replacen("\"columns\":{", &format!("\"columns\":{{\"x\":{}", "[".repeat(depth)), 1);
        assert!(ExchangeRequest::from_plain(deep.as_bytes()).is_err());
    }
}

#[test]
fn numbers_that_overflow_or_come_twice_are_refused_with_the_message() {
    for (first, count) in [
        (json!(0), json!(3)),
        (json!(1), json!(0)),
        (json!(INTEGER_MAX), json!(2)),
        (json!(u64::MAX), json!(u64::MAX)),
        (json!(1), json!((1_u64 << 32) + 1)),
        (json!(-1), json!(3)),
        (json!(1), json!(1e3)),
    ] {
        let mut request = with("/batches/0/first", first);
        request["batches"][0]["count"] = count;
        refused(&request);
    }
    for offsets in
        [json!([0, 0, 1]), json!([0, 1, 99]), json!([u64::MAX, 1]), json!([0, 1, 1e2]), json!(null)]
    {
        let request = with("/batches/0/offsets", offsets.clone());
        // Without offsets a batch says that each of its numbers has a row: wrong as a batch alone.
        if offsets.is_null() {
            let request = ExchangeRequest::from_plain(request.to_string().as_bytes()).unwrap();
            let error = request.batches[0].read::<Predictions>().unwrap_err();
            assert_eq!(error, BatchError::Rows { rows: 3, expected: 100 });
        } else {
            refused(&request);
        }
    }
    // The last batch's numbers lie within the first one's.
    refused(&with("/batches/5/first", json!(1_299)));
}

/// Columns that contradict each other, each in the place of one good column.
#[test]
fn a_batch_with_wrong_columns_is_rejected_alone() {
    let many = |value: Value| vec![value; ROWS_MAX + 1];
    let cases = [
        (0, "flags", json!([0, 0])),
        (0, "flags", json!(many(json!(0)))),
        (0, "instance", json!([0, 0, 1])),
        (0, "instance", json!([0, 0, -1])),
        (0, "label", json!([2, null, 0])),
        (0, "window_end_us", json!([i64::MAX, 1, 1])),
        (0, "window_end_us", json!([INTEGER_MAX, 1, 1])),
        (0, "outputs", json!([0.25, 0.75, 0.9])),
        (0, "outputs", json!([0.25, 0.75, 0.9, 0.1, 0.1])),
        (0, "outputs", json!([0.25, 0.75, 0.9, null])),
        (0, "outputs", json!([0.25, 0.75, 0.9, "NaN"])),
        (0, "outputs", json!([0.25, 0.75, 0.9, 1e39])),
        (1, "kind", json!([0, 9])),
        (1, "object", json!([9, null])),
        (1, "severity", json!([0, 256])),
        (1, "texts", json!(["\u{7}", "b", "c", "d"])),
        (2, "value", json!([null, null])),
        (2, "span_us", json!([-1, 0])),
        (2, "subject", json!([0, 1])),
        (3, "numbers", json!([null, [5, 4]])),
        (3, "numbers", json!([[1, 2], [3, 4]])),
        (3, "count", json!([1])),
        (4, "n", json!([10])),
        (4, "n", json!([10, -1])),
        (4, "revision", json!([0, 1])),
        (4, "span_us", json!([0, 1])),
        (4, "summaries", json!(["", "AAAA"])),
        (4, "summaries", json!(["AAA", "AAAA"])),
        (4, "profiles", json!(["no digest"])),
        (4, "profile", json!([0, 1])),
        (4, "instance", json!([3, 0])),
    ];
    for (at, column, value) in cases {
        let request = with(&format!("/batches/{at}/columns/{column}"), value.clone());
        let text = request.to_string();
        let request = ExchangeRequest::from_plain(text.as_bytes()).unwrap();
        assert!(request.batches[at].read_any().is_err(), "{column} = {value}");
        let good = request.batches.iter().filter(|batch| batch.read_any().is_ok()).count();
        assert_eq!(good, 5, "the other batches are as good as before");
    }
}

#[test]
fn columns_of_another_stream_and_bombs_of_columns_are_rejected() {
    let mut request = request();
    request["batches"][0]["stream"] = json!("events");
    request["batches"][0]["first"] = json!(900);
    let request = ExchangeRequest::from_plain(request.to_string().as_bytes()).unwrap();
    assert!(matches!(request.batches[0].read_any(), Err(BatchError::Columns(_))));

    let text = String::from_utf8(golden("exchange-request.json")).unwrap();
    let zeros = "0,".repeat(400_000);
    let bomb = text.replacen("\"flags\":[", &format!("\"flags\":[{zeros}"), 1);
    assert!(bomb.len() < ExchangeRequest::BYTES_MAX);
    let request = ExchangeRequest::from_plain(bomb.as_bytes()).unwrap();
    assert!(matches!(request.batches[0].read_any(), Err(BatchError::Columns(_))));
    // JSON has no NaN, and no number beyond a double.
    for wrong in ["NaN", "Infinity", "-Infinity", "1e400"] {
        let text = text.replacen("\"outputs\":[0.25", &format!("\"outputs\":[{wrong}"), 1);
        let read = ExchangeRequest::from_plain(text.as_bytes());
        assert!(read.is_err() || read.is_ok_and(|request| request.batches[0].read_any().is_err()), "{wrong}");
    }
}

#[test]
fn nobody_makes_a_batch_that_would_be_rejected() {
    let mut predictions = samples::predictions();
    predictions.outputs = vec![f32::NAN; 4].try_into().unwrap();
    assert!(matches!(Batch::of(1, &predictions), Err(BatchError::Columns(_))));
    let good = samples::predictions();
    assert_eq!(Batch::of(0, &good), Err(BatchError::Numbers));
    assert_eq!(Batch::of(INTEGER_MAX, &good), Err(BatchError::Numbers));
    assert_eq!(Batch::of(1, &Events::default()), Err(BatchError::Numbers), "no rows");
    let range = Range::new(10, 20).unwrap();
    for numbers in [&[9, 10, 11][..], &[10, 10, 11], &[11, 10, 12], &[10, 11, 21]] {
        assert_eq!(Batch::with_held_back(range, numbers, &good), Err(BatchError::Numbers), "{numbers:?}");
    }
    let few = Batch::with_held_back(range, &[10, 11], &good);
    assert_eq!(few, Err(BatchError::Rows { rows: 3, expected: 2 }));
    let none = Batch::with_held_back(range, &[], &Predictions::default()).unwrap();
    assert_eq!((none.rows(), none.numbers().count(), none.range()), (0, 0, range));
    assert_eq!(none.read_any(), Ok(AnyColumns::Predictions(Predictions::default())));
    assert!(Statistics::default().iter().next().is_none() && Losses::default().iter().next().is_none());
}

#[test]
fn windows_that_cannot_be_are_no_batch() {
    let row = samples::statistics();
    let good = row.iter().next().unwrap();
    let with = |change: fn(&mut StatisticRow<'_>)| {
        let mut columns = Statistics::default();
        columns.add_instance(samples::instance()).unwrap();
        columns.profile(Digest::of(b"p")).unwrap();
        let mut row = good;
        change(&mut row);
        columns.push(&row).unwrap();
        Batch::of(1, &columns)
    };
    assert!(with(|_| {}).is_ok());
    let wrong: [fn(&mut StatisticRow<'_>); 8] = [
        |row| row.span_us = 0,
        |row| row.span_us = u64::MAX,
        |row| row.from_us = INTEGER_MAX as i64,
        |row| row.revision = 0,
        |row| row.n = u64::MAX,
        |row| row.summaries = &[],
        |row| row.instance = 1,
        |row| row.profile = 1,
    ];
    for change in wrong {
        assert!(matches!(with(change), Err(BatchError::Columns(_))));
    }
    let mut columns = samples::statistics();
    let long = vec![0; WINDOW_BYTES_MAX + 1];
    assert!(columns.push(&StatisticRow { summaries: &long, ..good }).is_err());
    assert_eq!(columns, samples::statistics(), "nothing was added");
}

#[test]
fn an_answer_that_refuses_and_answers_or_waits_for_ever_is_refused() {
    let answer: Value = serde_json::from_slice(&golden("exchange-answer.json")).unwrap();
    let mut both = answer.clone();
    both["refusal"] = json!({ "code": "replayed" });
    let mut never = answer.clone();
    never["next_ms"] = json!(u64::MAX);
    let mut highest = serde_json::from_slice::<Value>(&golden("exchange-answer-replayed.json")).unwrap();
    highest["refusal"]["highest"] = json!(INTEGER_MAX + 1);
    let mut ranges = answer;
    ranges["receipts"][0]["ranges"] = json!([[1, 5], [5, 6]]);
    for wrong in [both, never, highest, ranges] {
        assert!(ExchangeAnswer::from_plain(wrong.to_string().as_bytes()).is_err(), "{wrong}");
    }
    let mut neither: Value = serde_json::from_slice(&golden("enroll-answer.json")).unwrap();
    neither.as_object_mut().unwrap().remove("incarnation");
    assert!(EnrollAnswer::from_plain(neither.to_string().as_bytes()).is_err());
}

#[test]
fn envelopes_that_are_long_crowded_or_spelt_otherwise_are_refused() {
    let raw = golden("exchange-request.envelope.json");
    let value: Value = serde_json::from_slice(&raw).unwrap();
    let parse = |value: &Value| Envelope::parse(value.to_string().as_bytes(), ExchangeRequest::BYTES_MAX);
    assert!(parse(&value).is_ok());
    let mut crowded = value.clone();
    crowded["signatures"] = json!(vec![value["signatures"][0].clone(); SIGNATURES_MAX + 1]);
    assert!(parse(&crowded).is_err());
    let payload = value["payload"].as_str().unwrap();
    for spelling in [
        payload.trim_end_matches('=').to_owned() + "=",
        format!("{payload}="),
        format!(" {payload}"),
        payload.replace('+', "-") + "*",
    ] {
        if spelling != payload {
            let mut other = value.clone();
            other["payload"] = json!(spelling);
            assert!(parse(&other).is_err(), "{spelling:?}");
        }
    }
    let mut kind = value.clone();
    kind["payloadType"] = json!("x".repeat(200));
    assert!(parse(&kind).is_err());
    assert!(Envelope::parse(&raw, 100).is_err());
    let mut long = raw;
    long.resize(envelope_bytes_max(ExchangeRequest::BYTES_MAX) + 1, b' ');
    assert!(Envelope::parse(&long, ExchangeRequest::BYTES_MAX).is_err());
}

#[test]
fn a_signature_covers_type_and_payload_and_has_one_form() {
    let key = samples::public(&samples::device_key());
    let value: Value = serde_json::from_slice(&golden("exchange-request.envelope.json")).unwrap();
    let verify = |value: &Value| {
        Envelope::parse(value.to_string().as_bytes(), ExchangeRequest::BYTES_MAX).unwrap().verify(&[key])
    };
    assert!(verify(&value).is_ok());
    let mut kind = value.clone();
    kind["payloadType"] = json!(ExchangeRequest::payload_type(Form::Zstd));
    let mut none = value.clone();
    none["signatures"] = json!([]);
    let mut short = value.clone();
    short["signatures"][0]["sig"] = json!("AAAA");
    for wrong in [kind, none, short] {
        assert!(verify(&wrong).is_err());
    }
    // The same signature with the group's order added to its scalar: valid where checks are not strict.
    let order = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10_u8,
    ];
    let plain = samples::exchange_request_small().to_plain().unwrap();
    let device_key = samples::device_key();
    let malleable = Envelope::seal(ExchangeRequest::TYPE, plain, "", |message| {
        let mut signature = samples::signing(&device_key)(message);
        let mut carry = 0_u16;
        for (byte, add) in signature[32..].iter_mut().zip(order) {
            carry += u16::from(*byte) + u16::from(add);
            *byte = carry as u8;
            carry >>= 8;
        }
        signature
    });
    assert!(malleable.verify(&[key]).is_err());
}

#[test]
fn every_flipped_bit_of_an_enrolment_is_noticed() {
    let raw = golden("enroll-request.envelope.json");
    let proof_key = samples::token().proof_key();
    for at in (0..raw.len()).step_by(3) {
        let mut flipped = raw.clone();
        flipped[at] ^= 2;
        let Ok(envelope) = Envelope::parse(&flipped, EnrollRequest::BYTES_MAX) else { continue };
        if let Ok(enrolment) = Enrolment::open(envelope) {
            // What is left are bits of the proof, its name, the hint at the key.
            assert_eq!(**enrolment.request(), samples::enroll_request(), "byte {at}");
        }
    }
    let mut other: Value = serde_json::from_slice(&raw).unwrap();
    other["signatures"][1]["sig"] = other["signatures"][0]["sig"].clone();
    let envelope = Envelope::parse(other.to_string().as_bytes(), EnrollRequest::BYTES_MAX).unwrap();
    assert!(!Enrolment::open(envelope).unwrap().is_proven_by(&proof_key));
}

#[test]
fn frames_that_are_broken_or_too_large_are_refused() {
    let key = samples::device_key();
    let inflate = |frame: &[u8], bytes_max: usize| {
        let mut plain = Vec::new();
        let mut reader = zstd::stream::read::Decoder::new(frame).ok()?;
        let limit = bytes_max as u64 + 1;
        std::io::Read::read_to_end(&mut std::io::Read::take(&mut reader, limit), &mut plain).ok()?;
        (plain.len() <= bytes_max).then_some(plain)
    };
    let open = |frame: Vec<u8>| {
        let envelope =
            Envelope::seal(ExchangeRequest::payload_type(Form::Zstd), frame, "", samples::signing(&key));
        let envelope = Envelope::parse(&envelope.to_bytes(), ExchangeRequest::BYTES_MAX).unwrap();
        envelope.verify(&[samples::public(&key)]).unwrap().read::<ExchangeRequest>(inflate)
    };
    let plain = samples::exchange_request().to_plain().unwrap();
    let frame = zstd::bulk::compress(&plain, 3).unwrap();
    assert!(frame.len() * 2 < plain.len());
    assert_eq!(*open(frame.clone()).unwrap(), samples::exchange_request());
    let bomb = zstd::bulk::compress(&vec![b' '; 64 << 20], 3).unwrap();
    assert_eq!(open(bomb).unwrap_err(), MessageError::Compressed);
    assert_eq!(open(frame[..frame.len() / 2].to_vec()).unwrap_err(), MessageError::Compressed);
    assert_eq!(open(plain).unwrap_err(), MessageError::Compressed);
}

#[test]
fn tokens_that_are_cut_changed_or_lead_elsewhere_are_refused() {
    let text = samples::token().to_text();
    assert_eq!(EnrolmentToken::parse(&format!("  {}\n", *text)).unwrap(), samples::token());
    let parts: Vec<&str> = text.split('.').collect();
    for wrong in [
        String::new(),
        "dl1".to_owned(),
        format!("{}.{}", parts[0], parts[1]),
        format!("dl2.{}.{}", parts[1], parts[2]),
        format!("dl1.{}.{}", parts[1], &parts[2][..40]),
        format!("dl1.{}.{}=", parts[1], parts[2]),
        format!("{}.x", *text),
        format!("dl1.{}.{}", "A".repeat(4_000), parts[2]),
    ] {
        let error = EnrolmentToken::parse(&wrong).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(parts[2]), "an error quotes no secret");
    }
    assert!(!format!("{:?} {:?}", samples::token(), samples::token().proof_key()).contains(parts[2]));
    for url in ["ftp://fleet.example", "https://", "https://a b", "fleet.example"] {
        let mut claim = samples::token().claim().clone();
        claim.server_url = url.parse().unwrap();
        let token = EnrolmentToken::new(claim, [6; 32]);
        assert!(EnrolmentToken::parse(&token.to_text()).is_err(), "{url}");
    }
}
