//! Those who hold a token and try what it does not give them, and those who hold none: every route of the interface, from
//! the document that describes it, so that none is forgotten.

mod crowd;
mod document;
mod limits;
mod odd_requests;
mod schemathesis;
mod scopes;
mod secrets;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use dunlin_e2e::fleet_owner::FleetOwner;
use dunlin_e2e::{Failure, Outcome};
use dunlin_protocol::{Digest, EnrolmentToken};
use serde_json::{Value, json};

use crate::device::{Device, Reply};
use crate::rows::{losses, report};
use crate::serving::Running;

/// No test waits longer for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Somebody at a server's interface, with a token or none.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub(super) server: SocketAddr,
    pub(super) token: String,
}

impl Asker {
    /// Returns who has the first token of a server with these data.
    pub(super) fn first(server: SocketAddr, data: &std::path::Path) -> Outcome<Self> {
        let token = std::fs::read_to_string(data.join("keys/admin.token"))?.trim().to_owned();
        Ok(Self { server, token })
    }

    pub(super) fn first_of(running: &Running) -> Outcome<Self> {
        Self::first(running.address, &running.folder.path().join("data"))
    }

    /// Returns somebody new.
    pub(super) fn new_asker(&self, name: &str, scope: &str, devices: &str) -> Outcome<Self> {
        let made = self.expect(
            201,
            "POST",
            "/v1/tokens",
            &json!({ "name": name, "scope": scope, "devices": devices }),
        )?;
        Ok(Self { server: self.server, token: text(&made["text"]) })
    }

    /// Asks; of a stream that does not end, the head is the reply.
    pub(super) fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Outcome<Reply> {
        let bearer = if self.token.is_empty() {
            String::new()
        } else {
            format!("authorization: Bearer {}\r\n", self.token)
        };
        exchange(self.server, method, path, &(bearer + headers), body)
    }

    pub(super) fn ask_json(&self, method: &str, path: &str, headers: &str, body: &Value) -> Outcome<Reply> {
        let bytes = if body.is_null() { String::new() } else { body.to_string() };
        self.ask(method, path, &format!("content-type: application/json\r\n{headers}"), bytes.as_bytes())
    }

    /// Asks for something, and expects this status.
    pub(super) fn expect(&self, status: u16, method: &str, path: &str, body: &Value) -> Outcome<Value> {
        let reply = self.ask_json(method, path, "if-match: *\r\n", body)?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        if reply.status != status {
            return Err(Failure::new(format!("{method} {path}: {}: {text}", reply.status)));
        }
        if text.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&text)?) }
    }

    pub(super) fn get(&self, path: &str) -> Outcome<Value> {
        self.expect(200, "GET", path, &Value::Null)
    }

    /// Returns the audit log's lines of an action, oldest first.
    pub(super) fn deeds(&self, action: &str) -> Outcome<Vec<Value>> {
        let (mut found, mut path) = (Vec::new(), "/v1/audit?limit=1000".to_owned());
        loop {
            let page = self.get(&path)?;
            let lines = page["items"].as_array().cloned().unwrap_or_default();
            found.extend(lines.into_iter().filter(|line| line["action"] == action));
            let Some(next) = page["next"].as_str() else { return Ok(found) };
            path = format!("/v1/audit?limit=1000&cursor={next}");
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Sends a request as it is told, and reads the reply: of a stream of events, its head.
pub(super) fn exchange(
    server: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> Outcome<Reply> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: fleet\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes())?;
    // A server that has answered already may have closed.
    let _ = stream.write_all(body);
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(Failure::new(format!("{method} {path}: no reply: {head}")));
        }
        head.push_str(&String::from_utf8_lossy(&line));
    }
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| Failure::new(head.clone()))?;
    let mut body = Vec::new();
    if !head.contains("text/event-stream") {
        // What was sent after the answer makes the end a reset.
        let _ = reader.read_to_end(&mut body);
    }
    Ok(Reply { status, head, body })
}

/// What belongs to one site.
#[derive(Debug, Clone)]
pub(super) struct Belongings {
    pub(super) device: Device,
    /// Ids by the part of the path that they stand behind.
    pub(super) ids: BTreeMap<&'static str, String>,
}

/// A server that an owner has adopted, with two sites that must not see each other.
#[derive(Debug)]
pub(super) struct Seeded {
    pub(super) admin: Asker,
    pub(super) sites: [Belongings; 2],
    pub(super) release: Digest,
    /// Texts that no log may show.
    pub(super) secrets: Vec<String>,
    folder: tempfile::TempDir,
}

impl Seeded {
    /// Fills a server that has just been started.
    pub(super) fn new(admin: Asker) -> Outcome<Self> {
        let status = admin.get("/v1/server")?;
        let online: [u8; 32] = status["public_key"].as_str().and_then(from_hex).unwrap();
        let mut owner = FleetOwner::of(&dunlin_trust::PublicKey::ed25519(&online))?;
        let folder = tempfile::tempdir()?;
        let release = owner.approve(folder.path(), "frost", 1, &[])?.digest;
        owner.approve_settings("plant.toml", b"[log]\n")?;
        for (sha256, content) in owner.blobs() {
            assert_eq!(admin.ask("PUT", &format!("/v1/blobs/{sha256}"), "", content)?.status, 201);
        }
        admin.expect(200, "POST", "/v1/image", &upload_of(owner.image()))?;
        admin.expect(200, "POST", "/v1/director", &upload_of(owner.director()))?;
        let root = Digest::of(owner.first_root());
        let key = dunlin_protocol::PublicKey::from_bytes(&online).unwrap();
        let server = text(&status["server"]).parse().unwrap();
        let mut secrets = vec![admin.token.clone()];
        let mut site = |name: &'static str, seed: u8| {
            let device = Device::new(seed, admin.server, key, server, root);
            belongings(&admin, name, device, release, &mut secrets)
        };
        let sites = [site("a", 1)?, site("b", 2)?];
        let mut waiting = Device::new(3, admin.server, key, server, root);
        waiting.enrol(None)?;
        Ok(Self { admin, sites, release, secrets, folder })
    }

    /// Makes a webhook at this address; returns its id.
    pub(super) fn hook(&mut self, url: &str) -> Outcome<String> {
        let made = self.admin.expect(201, "POST", "/v1/webhooks", &json!({ "url": url }))?;
        self.secrets.push(text(&made["secret"]));
        Ok(text(&made["id"]))
    }

    /// Returns a folder of the test's own.
    pub(super) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

fn belongings(
    admin: &Asker,
    site: &'static str,
    mut device: Device,
    release: Digest,
    secrets: &mut Vec<String>,
) -> Outcome<Belongings> {
    let labels = json!({ "site": site });
    let query = format!("site={site}");
    let operator = admin.new_asker(&format!("operator-{site}"), "operator", &query)?;
    let made =
        operator.expect(201, "POST", "/v1/enrolment-tokens", &json!({ "labels": labels, "uses": 5 }))?;
    let token = EnrolmentToken::parse(&text(&made["text"])).map_err(Failure::of("read the token"))?;
    device.enrol(Some(&token))?;
    let mut question = device.question(vec![losses(1, 3)]);
    question.report.full = Some(Box::new(report()));
    device.send(&question, 0)?;
    let expected = device.clone().sibling();
    let wish = json!({ "public_key": expected.public().to_string(), "labels": labels });
    let expected = operator.expect(201, "POST", "/v1/expected-devices", &wish)?;
    let wish = json!({ "spec": { "releases": [{ "digest": release.to_string() }], "query": query } });
    let rollout = operator.expect(201, "POST", "/v1/rollouts", &wish)?;
    let tokens = admin.get("/v1/tokens?limit=1000")?;
    let own = tokens["items"].as_array().into_iter().flatten().find(|token| token["devices"] == query);
    let ids = BTreeMap::from([
        ("devices", device.id().to_string()),
        ("enrolment-tokens", text(&made["id"])),
        ("expected-devices", text(&expected["id"])),
        ("rollouts", text(&rollout["id"])),
        ("tokens", own.map(|own| text(&own["id"])).unwrap_or_default()),
    ]);
    secrets.extend([
        operator.token,
        text(&made["text"]),
        token.to_text().rsplit('.').next().unwrap().to_owned(),
    ]);
    Ok(Belongings { device, ids })
}

fn upload_of(files: &dunlin_trust::sign::repository::Files) -> Value {
    let files: serde_json::Map<String, Value> =
        files.iter().map(|(name, raw)| (name.clone(), json!(String::from_utf8_lossy(raw)))).collect();
    json!({ "files": files, "reason": "first models" })
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = |at: usize| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..text.len() / 2).map(digits).collect();
    bytes?.try_into().ok()
}
