//! Who a simulated gateway is: its key, its counter, and the envelopes that it writes and reads.
//!
//! Pure: bytes go out and come in. Counts and marks what it signs as a gateway does; whoever drives it may send the result
//! twice, late, or to somebody else.

use std::fmt;

use dunlin_protocol::enrolment::{EnrollAnswer, EnrollRequest, Facts};
use dunlin_protocol::exchange::{Clock, Held, ReportPart};
use dunlin_protocol::message::MessageError;
use dunlin_protocol::text::{TextError, Url};
use dunlin_protocol::{
    Batch, Counter, DeviceId, Digest, EnrolmentToken, Envelope, EnvelopeError, ExchangeRequest, Form, Health,
    Incarnation, List, Message, Name, Nonce, PublicKey, ServerId, StartId, Words,
};
use ed25519_dalek::{Signer as _, SigningKey};

/// Level of Zstandard for questions, as `dunlind` has it.
const LEVEL: i32 = 3;

/// Why an answer is none.
#[derive(Debug)]
pub enum AgentError {
    /// It is no envelope, or not signed by the server.
    Envelope(EnvelopeError),
    /// It is no message.
    Message(MessageError),
    /// It answers another question.
    Other(Words),
    /// The server's URL cannot be said in a message.
    Url(TextError),
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Envelope(_) => f.write_str("the answer is not the server's"),
            Self::Message(_) => f.write_str("the message cannot be used"),
            Self::Other(reason) => write!(f, "the answer {reason}"),
            Self::Url(_) => f.write_str("the server's URL cannot be said"),
        }
    }
}

impl std::error::Error for AgentError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Envelope(error) => Some(error),
            Self::Message(error) => Some(error),
            Self::Url(error) => Some(error),
            Self::Other(_) => None,
        }
    }
}

/// What a gateway knows of its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// The URL that it was given.
    pub url: String,
    /// SHA-256 of the image repository's root that it starts from.
    pub root: Digest,
    /// The server's online key.
    pub server_key: PublicKey,
    /// The server's id.
    pub server_id: ServerId,
}

/// A gateway's identity.
#[derive(Debug, Clone)]
pub struct Agent {
    key: SigningKey,
    public: PublicKey,
    id: DeviceId,
    /// The server's URL that it was given.
    pub url: String,
    /// SHA-256 of the root that it starts from.
    pub root: Digest,
    server_key: PublicKey,
    /// The server's id.
    pub server_id: ServerId,
    /// Its life at the server; none before it enrolled.
    pub incarnation: Option<Incarnation>,
    /// The number of its last question.
    pub counter: u64,
    /// The start of its program.
    pub start: StartId,
    nonces: u64,
}

impl Agent {
    /// Returns a gateway whose key follows from a seed; `start` stands for this start of its program.
    ///
    /// *Panics*: never: each key has a public one.
    #[must_use]
    pub fn new(seed: &[u8; 32], start: [u8; 8], home: Home) -> Self {
        let key = SigningKey::from_bytes(seed);
        let public = PublicKey::from_bytes(key.verifying_key().as_bytes());
        let public = public.expect("the public half of a key is a key");
        let id = DeviceId::of(&public);
        let start = StartId::from_bytes(start);
        let Home { url, root, server_key, server_id } = home;
        Self {
            key,
            public,
            id,
            url,
            root,
            server_key,
            server_id,
            incarnation: None,
            counter: 0,
            start,
            nonces: 0,
        }
    }

    /// Returns its public key.
    #[must_use]
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// Returns its id.
    #[must_use]
    pub const fn id(&self) -> DeviceId {
        self.id
    }

    /// Returns the server's online key.
    #[must_use]
    pub const fn server_key(&self) -> PublicKey {
        self.server_key
    }

    /// Signs bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    fn nonce(&mut self) -> Nonce {
        self.nonces += 1;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(self.start.as_bytes());
        nonce[8..].copy_from_slice(&self.nonces.to_le_bytes());
        Nonce::from_bytes(nonce)
    }

    /// Returns a wish to be enrolled.
    ///
    /// *Errors*: the server's URL cannot be said.
    pub fn wish(
        &mut self,
        token: Option<&EnrolmentToken>,
        facts: Facts,
    ) -> Result<EnrollRequest, AgentError> {
        Ok(EnrollRequest {
            key: self.public(),
            facts,
            labels: Default::default(),
            server_url: Url::new(self.url.as_str()).map_err(AgentError::Url)?,
            root: self.root,
            token: token.map(|token| token.claim().token),
            nonce: self.nonce(),
            previous: self.incarnation,
        })
    }

    /// Signs a wish, and proves that it has the token.
    ///
    /// *Errors*: it is too long.
    pub fn seal_wish(
        &self,
        wish: &EnrollRequest,
        token: Option<&EnrolmentToken>,
    ) -> Result<Vec<u8>, AgentError> {
        let proof = token.map(EnrolmentToken::proof_key);
        let envelope = wish.seal(proof.as_ref(), |message| self.sign(message));
        Ok(envelope.map_err(AgentError::Message)?.to_bytes())
    }

    /// Takes the answer to a wish, and the life that the server gives.
    ///
    /// *Errors*: it is not the answer.
    pub fn take_life(&mut self, wish: &EnrollRequest, answer: &EnrollAnswer) -> Result<(), AgentError> {
        answer.require_answer_to(wish).map_err(AgentError::Other)?;
        if let Some(incarnation) = answer.incarnation {
            self.incarnation = Some(incarnation);
            self.counter = 0;
            self.server_id = answer.server;
        }
        Ok(())
    }

    /// Returns the next question; whoever asks fills in what the gateway holds and reports.
    ///
    /// *Panics*: never: nobody counts beyond what a counter holds.
    #[must_use]
    pub fn question(&mut self, batches: Vec<Batch>) -> ExchangeRequest {
        self.counter += 1;
        ExchangeRequest {
            device: self.id,
            server: self.server_id,
            incarnation: self.incarnation.unwrap_or(Incarnation::from_bytes([0; 16])),
            counter: Counter::new(self.counter).expect("a simulated gateway asks fewer than 2^53 questions"),
            start: self.start,
            nonce: self.nonce(),
            clock: Clock { boot: Name::cut("boot"), mono_ms: 1, wall_ms: 1, synchronised: true },
            held: Held::default(),
            report: ReportPart { digest: Digest::of(b"report"), full: None },
            health: Health::default(),
            batches: List::first_of(batches),
            defer: None,
        }
    }

    /// Signs a question as plain JSON.
    ///
    /// *Errors*: it is too long.
    pub fn seal(&self, question: &ExchangeRequest) -> Result<Vec<u8>, AgentError> {
        let envelope = Envelope::of(question, &self.id.to_string(), |message| self.sign(message));
        Ok(envelope.map_err(AgentError::Message)?.to_bytes())
    }

    /// Signs a frame of Zstandard as a question.
    #[must_use]
    pub fn seal_frame(&self, frame: Vec<u8>) -> Vec<u8> {
        let sign = |message: &[u8]| self.sign(message);
        Envelope::seal(ExchangeRequest::ZSTD_TYPE, frame, &self.id.to_string(), sign).to_bytes()
    }

    /// Signs a question in the shorter form, as `dunlind` does.
    ///
    /// *Errors*: it is too long.
    pub fn seal_short(&self, question: &ExchangeRequest) -> Result<Vec<u8>, AgentError> {
        let plain = question.to_plain().map_err(AgentError::Message)?;
        match zstd::bulk::compress(&plain, LEVEL) {
            Ok(frame) if frame.len() < plain.len() => Ok(self.seal_frame(frame)),
            _ => {
                let sign = |message: &[u8]| self.sign(message);
                let of = ExchangeRequest::payload_type(Form::Plain);
                Ok(Envelope::seal(of, plain, &self.id.to_string(), sign).to_bytes())
            }
        }
    }

    /// Reads an answer that the server's key has signed.
    ///
    /// *Errors*: it is none.
    pub fn read<M: Message>(&self, body: &[u8]) -> Result<M, AgentError> {
        let envelope = Envelope::parse(body, M::BYTES_MAX).map_err(AgentError::Envelope)?;
        let payload = envelope.verify(&[self.server_key]).map_err(AgentError::Envelope)?;
        let decompress = |frame: &[u8], bytes_max: usize| zstd::bulk::decompress(frame, bytes_max).ok();
        Ok(payload.read::<M>(decompress).map_err(AgentError::Message)?.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> Agent {
        let server = SigningKey::from_bytes(&[9; 32]);
        let home = Home {
            url: "http://fleet".to_owned(),
            root: Digest::of(b"root"),
            server_key: PublicKey::from_bytes(server.verifying_key().as_bytes()).unwrap(),
            server_id: ServerId::new(1, [1; 10]),
        };
        Agent::new(&[1; 32], [2; 8], home)
    }

    #[test]
    fn both_forms_of_a_question_say_the_same_and_no_mark_comes_twice() {
        let mut agent = agent();
        let (first, second) = (agent.question(Vec::new()), agent.question(Vec::new()));
        assert!(first.nonce != second.nonce && first.counter < second.counter);
        let read = |raw: Vec<u8>| {
            let payload = Envelope::parse(&raw, 1 << 20).unwrap().verify(&[agent.public()]).unwrap();
            let decompress = |frame: &[u8], bytes_max: usize| zstd::bulk::decompress(frame, bytes_max).ok();
            payload.read::<ExchangeRequest>(decompress).unwrap().into_inner()
        };
        assert_eq!(read(agent.seal(&first).unwrap()), first);
        assert_eq!(read(agent.seal_short(&first).unwrap()), first);
        assert!(agent.seal_short(&first).unwrap().len() < agent.seal(&first).unwrap().len());
    }

    #[test]
    fn what_another_key_signed_is_no_answer() {
        let agent = agent();
        let forged = Envelope::seal(EnrollAnswer::TYPE, b"{}".to_vec(), "k", |message| agent.sign(message));
        let read = agent.read::<EnrollAnswer>(&forged.to_bytes());
        assert!(matches!(read, Err(AgentError::Envelope(EnvelopeError::Signature))));
    }
}
