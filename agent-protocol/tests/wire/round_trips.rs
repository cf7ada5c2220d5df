//! What is written is read as the same, whatever it says; and what is read of any bytes is written as the same.

use dunlin_protocol::batch::{Batch, PredictionRow, Predictions, quality};
use dunlin_protocol::enrolment::Enrolment;
use dunlin_protocol::envelope::pre_authentication_encoding;
use dunlin_protocol::{
    Counter, Digest, EnrolmentToken, Envelope, ExchangeRequest, List, Map, Message, Name, Range, Text, Words,
};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use crate::samples;

fn name() -> impl Strategy<Value = Name> {
    "\\PC{0,40}".prop_map(|text| Name::cut(&text))
}

prop_compose! {
    fn some_predictions()(
        rows in proptest::collection::vec((any::<i32>(), any::<bool>(), 0_u32..4, any::<[i16; 3]>()), 1..40),
        names in proptest::collection::vec(name(), 3),
        tag in "\\PC{0,40}",
    ) -> Predictions {
        let mut predictions = Predictions::default();
        let mut instance = samples::instance();
        instance.model = names[0].clone();
        instance.key = List::first_of([(names[1].clone(), Text::cut(&tag))]);
        instance.outputs = List::first_of([(names[2].clone(), 3)]);
        instance.labels = List::first_of(names);
        let instance = predictions.add_instance(instance).unwrap();
        for (at, is_valid, label, values) in rows {
            let flags = if is_valid { quality::HELD_VALUE } else { quality::INVALID_OUTPUT };
            let values = values.map(|value| f32::from(value) / 7.0);
            let row = PredictionRow {
                instance,
                window_end_us: i64::from(at) * 1_000_003,
                flags,
                label: (label < 3).then_some(label),
                outputs: if is_valid { &values } else { &[] },
            };
            predictions.push(&row).unwrap();
        }
        predictions
    }
}

proptest! {
    #[test]
    fn batches_come_back_as_they_were_made(
        predictions in some_predictions(),
        first in 1_u64..1 << 52,
        gaps in proptest::collection::vec(1_u64..1_000_000, 40),
    ) {
        let whole = Batch::of(first, &predictions).unwrap();
        let mut number = first;
        let rows = predictions.instance.len();
        let numbers: Vec<u64> = gaps[..rows].iter().map(|gap| { number += gap; number }).collect();
        let sparse = Batch::with_held_back(Range::new(first, number + 5).unwrap(), &numbers, &predictions).unwrap();
        prop_assert!(sparse.numbers().eq(numbers.iter().copied()));
        prop_assert!(whole.numbers().eq(first..first + rows as u64));
        for batch in [whole, sparse] {
            let text = serde_json::to_string(&batch).unwrap();
            let again: Batch = serde_json::from_str(&text).unwrap();
            let read: Predictions = again.read().unwrap();
            prop_assert_eq!(&read, &predictions);
            prop_assert_eq!(read.iter().count(), rows);
            let values: Vec<f32> = read.iter().flat_map(|row| row.outputs.to_vec()).collect();
            prop_assert_eq!(values.as_slice(), &*read.outputs);
            prop_assert_eq!(again, batch);
        }
    }

    #[test]
    fn messages_come_back_as_they_were_written(
        counter in 1_u64..1 << 53,
        boot in name(),
        reason in "\\PC{0,80}",
        labels in proptest::collection::btree_map(name(), name(), 0..8),
        times in any::<(i64, u64)>(),
        held in any::<[u32; 4]>(),
        is_full: bool,
    ) {
        let mut request = samples::exchange_request();
        request.counter = Counter::new(counter).unwrap();
        request.clock.boot = boot;
        (request.clock.wall_ms, request.clock.mono_ms) = times;
        (request.held.root, request.held.targets) = (held[0].into(), held[1].into());
        (request.held.director_version, request.held.desired_revision) = (held[2].into(), held[3].into());
        request.defer.as_mut().unwrap().reason = Words::cut(&reason);
        let mut report = samples::report();
        report.labels = Map::try_from(labels).unwrap();
        request.report.digest = report.digest();
        request.report.full = is_full.then(|| Box::new(report));
        let plain = request.to_plain().unwrap();
        prop_assert_eq!(ExchangeRequest::from_plain(&plain).unwrap(), request);
    }

    #[test]
    fn envelopes_come_back_and_verify_by_their_key(
        seed: [u8; 32],
        payload in proptest::collection::vec(any::<u8>(), 0..200),
        flip in any::<(prop::sample::Index, u8)>(),
        key_id in "\\PC{0,30}",
    ) {
        let key = SigningKey::from_bytes(&seed);
        let sealed = Envelope::seal(ExchangeRequest::TYPE, payload.clone(), &key_id, samples::signing(&key));
        let raw = sealed.to_bytes();
        let envelope = Envelope::parse(&raw, 200).unwrap();
        prop_assert_eq!(&envelope, &sealed);
        let signed = envelope.signed_bytes();
        prop_assert_eq!(signed, pre_authentication_encoding(ExchangeRequest::TYPE, &payload));
        let public = samples::public(&key);
        let verified = envelope.verify(&[public]).unwrap();
        prop_assert_eq!(verified.bytes(), payload.as_slice());
        // A changed byte leads to no payload, or to the same one: where it hit the key's hint.
        let mut changed = raw.clone();
        changed[flip.0.index(raw.len())] ^= flip.1 | 1;
        if let Ok(Ok(other)) = Envelope::parse(&changed, 200).map(|envelope| envelope.verify(&[public])) {
            prop_assert_eq!(other.payload_type(), ExchangeRequest::TYPE);
            prop_assert_eq!(other.bytes(), payload.as_slice());
        }
    }

    #[test]
    fn tokens_come_back_and_prove_their_secret_alone(
        secret: [u8; 32],
        other: [u8; 32],
        group in proptest::option::of(name()),
        uses in 0_u64..1 << 53,
        root: [u8; 32],
    ) {
        let mut claim = samples::token().claim().clone();
        (claim.group, claim.uses, claim.root) = (group, uses, Digest::from_bytes(root));
        let token = EnrolmentToken::new(claim.clone(), secret);
        prop_assert_eq!(&EnrolmentToken::parse(&token.to_text()).unwrap(), &token);
        let mut request = samples::enroll_request();
        request.token = Some(claim.token);
        let envelope =
            request.seal(Some(&token.proof_key()), samples::signing(&samples::device_key())).unwrap();
        let enrolment = Enrolment::open(envelope).unwrap();
        prop_assert!(enrolment.is_proven_by(&token.proof_key()));
        let stranger = EnrolmentToken::new(claim, other);
        prop_assert_eq!(enrolment.is_proven_by(&stranger.proof_key()), other == secret);
    }

    #[test]
    fn no_bytes_break_a_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,200}") {
        for bytes in [bytes.as_slice(), text.as_bytes()] {
            let _ = Envelope::parse(bytes, 1_000);
            let _ = ExchangeRequest::from_plain(bytes);
            let _ = dunlin_protocol::Problem::parse(bytes);
        }
        let _ = EnrolmentToken::parse(&text);
    }
}
