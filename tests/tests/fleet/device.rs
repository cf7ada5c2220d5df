//! A simulated gateway: its key, its counter, and a small HTTP client that can misbehave.
//!
//! Speaks over real sockets, written with the protocol's own types. Decides nothing by itself.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use dunlin_e2e::{Failure, Outcome};
use dunlin_protocol::enrolment::{EnrollAnswer, EnrollRequest, Facts};
use dunlin_protocol::exchange::{Clock, ExchangeAnswer, ExchangeRequest, Held, ReportPart};
use dunlin_protocol::results::Results;
use dunlin_protocol::routes::{ENROLL, ENVELOPE_MEDIA_TYPE, RESULTS, exchange_path};
use dunlin_protocol::text::Url;
use dunlin_protocol::{
    Batch, Counter, DeviceId, Digest, EnrolmentToken, Envelope, Health, Incarnation, List, Message, Name,
    Nonce, Problem, PublicKey, RefusalCode, ServerId, StartId,
};
use ed25519_dalek::{Signer as _, SigningKey};

/// No test waits longer for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// Returns the code of an unsigned refusal, which must be of the reply's own status.
    pub(crate) fn problem(&self) -> Outcome<RefusalCode> {
        let problem = Problem::parse(&self.body).filter(|problem| problem.status == self.status);
        let problem = problem.filter(|_| self.head.contains("application/problem+json"));
        Ok(problem.ok_or_else(|| Failure::new(format!("no problem: {self:?}")))?.code)
    }
}

/// Sends bytes as they are and reads one reply until the server closes.
pub(crate) fn send_raw(server: SocketAddr, pieces: &[&[u8]]) -> Outcome<Reply> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    for piece in pieces {
        // A server that has answered already may have closed.
        let _ = stream.write_all(piece);
    }
    let mut raw = Vec::new();
    // What was sent after the answer makes the end a reset.
    let _ = stream.read_to_end(&mut raw);
    let end = raw.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.ok_or_else(|| Failure::new(format!("no reply: {}", String::from_utf8_lossy(&raw))))?;
    let head = String::from_utf8_lossy(&raw[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| Failure::new(head.clone()))?;
    Ok(Reply { status, head, body: raw[end + 4..].to_vec() })
}

pub(crate) fn request(
    server: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> Outcome<Reply> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: fleet\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    send_raw(server, &[head.as_bytes(), body])
}

pub(crate) fn post(server: SocketAddr, path: &str, body: &[u8]) -> Outcome<Reply> {
    request(server, "POST", path, &format!("content-type: {ENVELOPE_MEDIA_TYPE}\r\n"), body)
}

/// A gateway.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    key: SigningKey,
    server: SocketAddr,
    server_key: PublicKey,
    pub(crate) url: String,
    pub(crate) root: Digest,
    pub(crate) server_id: ServerId,
    pub(crate) incarnation: Option<Incarnation>,
    pub(crate) counter: u64,
    pub(crate) start: StartId,
    nonces: u64,
}

impl Device {
    pub(crate) fn new(
        seed: u8,
        server: SocketAddr,
        server_key: PublicKey,
        server_id: ServerId,
        root: Digest,
    ) -> Self {
        Self {
            key: SigningKey::from_bytes(&[seed; 32]),
            server,
            server_key,
            url: format!("http://{server}"),
            root,
            server_id,
            incarnation: None,
            counter: 0,
            start: StartId::from_bytes([seed; 8]),
            nonces: 0,
        }
    }

    /// Speaks to another server of the same fleet from now on.
    pub(crate) fn turn_to(&mut self, server: SocketAddr) {
        self.server = server;
    }

    pub(crate) fn public(&self) -> PublicKey {
        PublicKey::from_bytes(self.key.verifying_key().as_bytes()).unwrap()
    }

    pub(crate) const fn server_key(&self) -> PublicKey {
        self.server_key
    }

    pub(crate) fn id(&self) -> DeviceId {
        DeviceId::of(&self.public())
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    fn nonce(&mut self) -> Nonce {
        self.nonces += 1;
        let mut nonce = [self.start.as_bytes()[0]; 16];
        nonce[8..].copy_from_slice(&self.nonces.to_le_bytes());
        Nonce::from_bytes(nonce)
    }

    pub(crate) fn wish(&mut self, token: Option<&EnrolmentToken>) -> EnrollRequest {
        let name = |text: &str| Name::new(text).unwrap();
        EnrollRequest {
            key: self.public(),
            facts: Facts {
                architecture: name("aarch64"),
                agent: name("dunlind"),
                agent_version: name("0.1.0"),
                ..Facts::default()
            },
            labels: Default::default(),
            server_url: Url::new(self.url.as_str()).unwrap(),
            root: self.root,
            token: token.map(|token| token.claim().token),
            nonce: self.nonce(),
            previous: self.incarnation,
        }
    }

    pub(crate) fn send_wish(&self, wish: &EnrollRequest, token: Option<&EnrolmentToken>) -> Outcome<Reply> {
        let proof = token.map(EnrolmentToken::proof_key);
        let envelope = wish.seal(proof.as_ref(), |message| self.sign(message)).unwrap();
        post(self.server, ENROLL, &envelope.to_bytes())
    }

    /// Enrols and keeps the life that the server gives.
    pub(crate) fn enrol(&mut self, token: Option<&EnrolmentToken>) -> Outcome<EnrollAnswer> {
        let wish = self.wish(token);
        let reply = self.send_wish(&wish, token)?;
        let answer: EnrollAnswer = self.read(&reply)?;
        answer.require_answer_to(&wish).unwrap();
        if let Some(incarnation) = answer.incarnation {
            self.incarnation = Some(incarnation);
            self.counter = 0;
        }
        Ok(answer)
    }

    /// Reads an answer that the server's key has signed.
    pub(crate) fn read<M: Message>(&self, reply: &Reply) -> Outcome<M> {
        let wrong = |what: String| Failure::new(format!("{what}: {reply:?}"));
        let envelope = Envelope::parse(&reply.body, M::BYTES_MAX).map_err(|e| wrong(e.to_string()))?;
        let payload = envelope.verify(&[self.server_key]).map_err(|e| wrong(e.to_string()))?;
        Ok(payload.read::<M>(|_, _| None).map_err(|e| wrong(e.to_string()))?.into_inner())
    }

    pub(crate) fn question(&mut self, batches: Vec<Batch>) -> ExchangeRequest {
        self.counter += 1;
        let digest = Digest::of(b"report");
        ExchangeRequest {
            device: self.id(),
            server: self.server_id,
            incarnation: self.incarnation.unwrap_or(Incarnation::from_bytes([0; 16])),
            counter: Counter::new(self.counter).unwrap(),
            start: self.start,
            nonce: self.nonce(),
            clock: Clock { boot: Name::new("boot").unwrap(), mono_ms: 1, wall_ms: 1, synchronised: true },
            held: Held::default(),
            report: ReportPart { digest, full: None },
            health: Health::default(),
            batches: List::try_from(batches).unwrap(),
            defer: None,
        }
    }

    pub(crate) fn seal(&self, question: &ExchangeRequest) -> Vec<u8> {
        Envelope::of(question, &self.id().to_string(), |message| self.sign(message)).unwrap().to_bytes()
    }

    pub(crate) fn seal_frame(&self, frame: Vec<u8>) -> Vec<u8> {
        let id = self.id().to_string();
        Envelope::seal(ExchangeRequest::ZSTD_TYPE, frame, &id, |message| self.sign(message)).to_bytes()
    }

    /// Sends a part of results, with the key that it names itself by.
    pub(crate) fn send_results(&self, part: &Results) -> Outcome<Reply> {
        let key_id = self.public().to_string();
        let sealed = Envelope::of(part, &key_id, |message| self.sign(message)).unwrap();
        post(self.server, RESULTS, &sealed.to_bytes())
    }

    pub(crate) fn send(&self, question: &ExchangeRequest, wait_seconds: u64) -> Outcome<Reply> {
        post(self.server, &exchange_path(wait_seconds), &self.seal(question))
    }

    /// Exchanges once; the answer is this question's.
    pub(crate) fn exchange(&mut self, batches: Vec<Batch>) -> Outcome<ExchangeAnswer> {
        let question = self.question(batches);
        let answer: ExchangeAnswer = self.read(&self.send(&question, 0)?)?;
        answer.require_answer_to(&question).unwrap();
        Ok(answer)
    }

    /// Returns the code of a signed refusal.
    pub(crate) fn refused(&mut self) -> Outcome<RefusalCode> {
        let answer = self.exchange(Vec::new())?;
        let refusal = answer.refusal.clone();
        Ok(refusal.ok_or_else(|| Failure::new(format!("not refused: {answer:?}")))?.code)
    }
}
