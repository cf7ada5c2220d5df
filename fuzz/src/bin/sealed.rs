//! Sealed envelopes under an attacker who changes bytes, types, keys and signatures: nothing verifies but what was signed.
//!
//! The input is a list of changes to an enrolment and to a message, of which each is signed by one key.

#![no_main]

use std::sync::LazyLock;

use dunlin_protocol::enrolment::{EnrollRequest, Enrolment, Facts};
use dunlin_protocol::list::Labels;
use dunlin_protocol::{
    Digest, EnrolmentToken, Envelope, ExchangeRequest, List, Message, Name, Nonce, ProofKey, PublicKey,
    TokenId,
};
use ed25519_dalek::{Signer as _, SigningKey};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const PAYLOAD: &[u8] = b"{\"signed\":true}";
const PAYLOAD_BYTES_MAX: usize = 64 << 10;

static SIGNED: LazyLock<Signed> = LazyLock::new(Signed::new);

struct Signed {
    key: PublicKey,
    stranger: PublicKey,
    proof: ProofKey,
    request: EnrollRequest,
    envelopes: [Vec<u8>; 2],
}

fuzz_target!(|data: &[u8]| {
    let _ = check(&mut Unstructured::new(data));
});

fn check(choices: &mut Unstructured<'_>) -> Result<()> {
    let which = choices.int_in_range(0..=1)?;
    let mut raw = SIGNED.envelopes[which].clone();
    for _ in 0..choices.int_in_range(0..=4)? {
        change(choices, &mut raw)?;
    }
    let Ok(envelope) = Envelope::parse(&raw, PAYLOAD_BYTES_MAX) else { return Ok(()) };
    let again =
        Envelope::parse(&envelope.to_bytes(), PAYLOAD_BYTES_MAX).expect("what was read can be written");
    assert_eq!(again, envelope);
    assert!(envelope.clone().verify(&[]).is_err());
    assert!(envelope.clone().verify(&[SIGNED.stranger]).is_err());
    if let Ok(payload) = envelope.clone().verify(&[SIGNED.stranger, SIGNED.key]) {
        let is_message = payload.payload_type() == ExchangeRequest::TYPE && payload.bytes() == PAYLOAD;
        let is_enrolment = payload.payload_type() == EnrollRequest::TYPE
            && EnrollRequest::from_plain(payload.bytes()).as_ref() == Ok(&SIGNED.request);
        assert!(is_message || is_enrolment, "something unsigned is verified");
    }
    if let Ok(enrolment) = Enrolment::open(envelope) {
        // A stranger may enrol a key of his own; ours is enrolled with our words alone.
        assert!(enrolment.request().key != SIGNED.key || **enrolment.request() == SIGNED.request);
        assert!(!enrolment.is_proven_by(&SIGNED.proof) || **enrolment.request() == SIGNED.request);
        assert!(!enrolment.is_proven_by(&ProofKey::from_bytes([0; 32])));
    }
    Ok(())
}

/// Puts bytes of the input, or of the other envelope, in the place of some.
fn change(choices: &mut Unstructured<'_>, raw: &mut Vec<u8>) -> Result<()> {
    let start = choices.int_in_range(0..=raw.len())?;
    let end = choices.int_in_range(start..=raw.len().min(start + 200))?;
    let length = choices.int_in_range(0..=120)?;
    let put = if choices.ratio(1, 2)? {
        let other = choices.choose(&SIGNED.envelopes)?;
        let from = choices.int_in_range(0..=other.len())?;
        other[from..other.len().min(from + length)].to_vec()
    } else {
        choices.bytes(length.min(choices.len()))?.to_vec()
    };
    raw.splice(start..end, put);
    Ok(())
}

impl Signed {
    fn new() -> Self {
        let (ours, strange) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let public = |key: &SigningKey| {
            PublicKey::from_bytes(key.verifying_key().as_bytes()).expect("a key of its own making is good")
        };
        let sign = |message: &[u8]| ours.sign(message).to_bytes();
        let name = |text: &str| Name::cut(text);
        let facts = Facts {
            architecture: name("aarch64"),
            agent: name("dunlind"),
            agent_version: name("0.1.0"),
            models: List::first_of([name("frost")]),
            ..Facts::default()
        };
        let token = TokenId::new(1, [5; 10]);
        let request = EnrollRequest {
            key: public(&ours),
            facts,
            labels: Labels::default(),
            server_url: "https://fleet.example".parse().expect("a short text"),
            root: Digest::of(b"root"),
            token: Some(token),
            nonce: Nonce::from_bytes([7; 16]),
            previous: None,
        };
        let claim = dunlin_protocol::token::TokenClaim {
            server_url: request.server_url.clone(),
            root: request.root,
            root_version: 1,
            group: None,
            expires_s: 1,
            uses: 1,
            token,
        };
        let proof = EnrolmentToken::new(claim, [6; 32]).proof_key();
        let enrolment = request.seal(Some(&proof), sign).expect("a short message").to_bytes();
        let message = Envelope::seal(ExchangeRequest::TYPE, PAYLOAD.to_vec(), "device", sign).to_bytes();
        let (key, stranger) = (public(&ours), public(&strange));
        Self { key, stranger, proof, request, envelopes: [enrolment, message] }
    }
}
