//! The REST interface of a running server, as people and their programs use it, and as those do who may not.

mod devices;
mod events;
mod publishing;
mod tokens;
mod webhooks;

use dunlin_e2e::{Failure, Outcome};
use serde_json::{Value, json};

use crate::device::{Reply, request};
use crate::serving::Running;

/// A person or program with a token.
pub(crate) struct Person<'r> {
    pub(crate) running: &'r Running,
    pub(crate) token: String,
}

impl<'r> Person<'r> {
    /// Returns who has the first token.
    pub(crate) fn first(running: &'r Running) -> Outcome<Self> {
        let file = running.folder.path().join("data/keys/admin.token");
        Ok(Self { running, token: std::fs::read_to_string(file)?.trim().to_owned() })
    }

    /// Returns somebody new.
    pub(crate) fn new_person(&self, name: &str, scope: &str, devices: &str) -> Outcome<Self> {
        let wish = json!({ "name": name, "scope": scope, "devices": devices });
        let made = self.expect(201, "POST", "/v1/tokens", &wish)?;
        let token = made["text"].as_str().ok_or_else(|| Failure::new("no text"))?.to_owned();
        Ok(Self { running: self.running, token })
    }

    pub(crate) fn ask(&self, method: &str, path: &str, more: &str, body: &Value) -> Outcome<Reply> {
        let headers =
            format!("authorization: Bearer {}\r\ncontent-type: application/json\r\n{more}", self.token);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        request(self.running.address, method, path, &headers, body.as_bytes())
    }

    /// Asks for something, and expects this status.
    pub(crate) fn expect(&self, status: u16, method: &str, path: &str, body: &Value) -> Outcome<Value> {
        let reply = self.ask(method, path, "", body)?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        if reply.status != status {
            return Err(Failure::new(format!("{method} {path}: {}: {text}", reply.status)));
        }
        if text.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&text)?) }
    }

    pub(crate) fn get(&self, path: &str) -> Outcome<Value> {
        self.expect(200, "GET", path, &Value::Null)
    }

    /// Returns the actions of the audit log after the first token's, each with who did it.
    pub(crate) fn deeds(&self) -> Outcome<Vec<(String, String)>> {
        let lines = self.get("/v1/audit?limit=1000")?;
        let lines = lines["items"].as_array().cloned().unwrap_or_default();
        let text = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
        Ok(lines.iter().skip(1).map(|line| (text(line, "who"), text(line, "action"))).collect())
    }
}

/// The checked-in description of the interface, which clients are generated from.
#[test]
fn the_document_is_the_one_that_is_checked_in() -> Outcome<()> {
    let path = dunlin_e2e::workspace::root().join("docs/openapi.json");
    let made = dunlin_fleet::api::document_text() + "\n";
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        dunlin_kit::atomic_file::write_from(&path, &mut made.as_bytes(), 0o644)?;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == made,
        "`docs/openapi.json` differs; `UPDATE_OPENAPI=1 cargo test -p dunlin-e2e --test fleet document` writes it"
    );
    let document: Value = serde_json::from_str(&made)?;
    let mut ids = Vec::new();
    for operations in document["paths"].as_object().into_iter().flat_map(|paths| paths.values()) {
        ids.extend(
            operations
                .as_object()
                .into_iter()
                .flat_map(|methods| methods.values())
                .map(|o| o["operationId"].to_string()),
        );
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "an operation's id stands twice");
    Ok(())
}
