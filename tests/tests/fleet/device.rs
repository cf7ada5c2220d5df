//! A simulated gateway in a test's hand, and a small HTTP client that can misbehave.
//!
//! The gateway is the simulator's; what it says goes over real sockets. Decides nothing by itself.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use dunlin_e2e::{Failure, Outcome};
use dunlin_fleet_simulator::Agent;
use dunlin_fleet_simulator::agent::Home;
use dunlin_kit::error_chain::Chain;
use dunlin_protocol::enrolment::{EnrollAnswer, EnrollRequest, Facts};
use dunlin_protocol::exchange::{ExchangeAnswer, ExchangeRequest};
use dunlin_protocol::results::Results;
use dunlin_protocol::routes::{ENROLL, ENVELOPE_MEDIA_TYPE, RESULTS, exchange_path};
use dunlin_protocol::{
    Batch, Digest, EnrolmentToken, Envelope, Message, Name, Problem, PublicKey, RefusalCode, ServerId,
};

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

/// A gateway: the simulator's, over a connection a question.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    agent: Agent,
    server: SocketAddr,
}

impl Deref for Device {
    type Target = Agent;

    fn deref(&self) -> &Agent {
        &self.agent
    }
}

impl DerefMut for Device {
    fn deref_mut(&mut self) -> &mut Agent {
        &mut self.agent
    }
}

impl Device {
    pub(crate) fn new(
        seed: u8,
        server: SocketAddr,
        server_key: PublicKey,
        server_id: ServerId,
        root: Digest,
    ) -> Self {
        let home = Home { url: format!("http://{server}"), root, server_key, server_id };
        Self { agent: Agent::new(&[seed; 32], [seed; 8], home), server }
    }

    /// Speaks to another server of the same fleet from now on.
    pub(crate) fn turn_to(&mut self, server: SocketAddr) {
        self.server = server;
    }

    /// Returns another gateway of the same server, whose key follows from this one's.
    pub(crate) fn sibling(self) -> Self {
        let seed = Digest::of(self.agent.id().to_string().as_bytes());
        let Agent { url, root, server_id, .. } = self.agent.clone();
        let home = Home { url, root, server_key: self.agent.server_key(), server_id };
        Self { agent: Agent::new(seed.as_bytes(), [0; 8], home), server: self.server }
    }

    pub(crate) fn wish(&mut self, token: Option<&EnrolmentToken>) -> EnrollRequest {
        let name = |text: &str| Name::new(text).unwrap();
        let facts = Facts {
            architecture: name("aarch64"),
            agent: name("dunlind"),
            agent_version: name("0.1.0"),
            ..Facts::default()
        };
        self.agent.wish(token, facts).unwrap()
    }

    pub(crate) fn send_wish(&self, wish: &EnrollRequest, token: Option<&EnrolmentToken>) -> Outcome<Reply> {
        post(self.server, ENROLL, &self.agent.seal_wish(wish, token).unwrap())
    }

    /// Enrols and keeps the life that the server gives.
    pub(crate) fn enrol(&mut self, token: Option<&EnrolmentToken>) -> Outcome<EnrollAnswer> {
        let wish = self.wish(token);
        let reply = self.send_wish(&wish, token)?;
        let answer: EnrollAnswer = self.read(&reply)?;
        self.agent.take_life(&wish, &answer).unwrap();
        Ok(answer)
    }

    /// Reads an answer that the server's key has signed.
    pub(crate) fn read<M: Message>(&self, reply: &Reply) -> Outcome<M> {
        self.agent.read(&reply.body).map_err(|e| Failure::new(format!("{}: {reply:?}", Chain(&e))))
    }

    pub(crate) fn seal(&self, question: &ExchangeRequest) -> Vec<u8> {
        self.agent.seal(question).unwrap()
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
