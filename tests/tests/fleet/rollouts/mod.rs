//! Rollouts by a real server over simulated gateways: ordered over REST, decided by what gateways report, and kept through
//! kills.

mod crowd;
mod deciding;
mod killing;
mod simulating;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dunlin_e2e::fleet_owner::{ApprovedRelease, FleetOwner};
use dunlin_e2e::fleet_server::{FleetServer, ServerPlan};
use dunlin_e2e::{Failure, Outcome};
use dunlin_protocol::{Digest, EnrolmentToken};
use serde_json::{Value, json};

use crate::device::{Device, request};
use crowd::{Gateway, Manner};

/// The model of all tests here.
const MODEL: &str = "frost";
/// No test waits longer for a rollout to come somewhere.
const SOON: Duration = Duration::from_secs(120);

/// A person with a token.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) server: SocketAddr,
    token: String,
}

impl Person {
    fn ask(&self, method: &str, path: &str, more: &str, body: &Value) -> Outcome<(u16, String, Value)> {
        let headers =
            format!("authorization: Bearer {}\r\ncontent-type: application/json\r\n{more}", self.token);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let reply = request(self.server, method, path, &headers, body.as_bytes())?;
        Ok((
            reply.status,
            reply.head.to_lowercase(),
            serde_json::from_slice(&reply.body).unwrap_or(Value::Null),
        ))
    }

    pub(crate) fn expect(&self, status: u16, method: &str, path: &str, body: &Value) -> Outcome<Value> {
        let (found, _, answer) = self.ask(method, path, "", body)?;
        if found == status {
            Ok(answer)
        } else {
            Err(Failure::new(format!("{method} {path}: {found} {answer}")))
        }
    }

    pub(crate) fn get(&self, path: &str) -> Outcome<Value> {
        self.expect(200, "GET", path, &Value::Null)
    }

    pub(crate) fn new_person(&self, name: &str, scope: &str, devices: &str) -> Outcome<Self> {
        let wish = json!({ "name": name, "scope": scope, "devices": devices });
        let made = self.expect(201, "POST", "/v1/tokens", &wish)?;
        Ok(Self { server: self.server, token: made["text"].as_str().unwrap_or_default().to_owned() })
    }

    /// Makes a rollout; returns its id.
    pub(crate) fn make(&self, spec: &Value) -> Outcome<String> {
        let made = self.expect(201, "POST", "/v1/rollouts", &json!({ "spec": spec, "reason": "test" }))?;
        Ok(made["id"].as_str().unwrap_or_default().to_owned())
    }

    /// Orders something by the rollout's present state; returns the status and the answer.
    pub(crate) fn try_order(&self, id: &str, order: &str) -> Outcome<(u16, Value)> {
        let path = format!("/v1/rollouts/{id}");
        for _ in 0..100 {
            let revision = self.get(&path)?["revision"].as_u64().unwrap_or_default();
            let if_match = format!("if-match: \"{revision}\"\r\n");
            let reason = json!({ "reason": format!("to {order}") });
            let (status, _, answer) = self.ask("POST", &format!("{path}/{order}"), &if_match, &reason)?;
            // It went on in between.
            if status != 412 {
                return Ok((status, answer));
            }
        }
        Err(Failure::new(format!("`{order}` always came too late")))
    }

    pub(crate) fn order(&self, id: &str, order: &str) -> Outcome<Value> {
        let (status, answer) = self.try_order(id, order)?;
        if status == 200 { Ok(answer) } else { Err(Failure::new(format!("{order}: {status} {answer}"))) }
    }

    /// Starts a rollout of a specification; returns its id.
    pub(crate) fn start(&self, spec: &Value) -> Outcome<String> {
        let id = self.make(spec)?;
        self.order(&id, "start")?;
        Ok(id)
    }
}

/// An adopted server with an owner, releases and gateways.
pub(crate) struct Site {
    pub(crate) server: FleetServer,
    pub(crate) admin: Person,
    pub(crate) old: ApprovedRelease,
    pub(crate) new: ApprovedRelease,
    pub(crate) owner: FleetOwner,
    pub(crate) folder: tempfile::TempDir,
    key: dunlin_protocol::PublicKey,
    id: dunlin_protocol::ServerId,
}

impl Site {
    /// Starts a server, adopts it and publishes two releases.
    pub(crate) fn new(database_url: Option<&str>) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let mut plan = ServerPlan::new(folder.path())?;
        if let Some(url) = database_url {
            plan = plan.on_database(url);
        }
        let server = plan.start()?;
        let token = std::fs::read_to_string(plan.data.join("keys/admin.token"))?.trim().to_owned();
        let admin = Person { server: SocketAddr::from(([127, 0, 0, 1], plan.port)), token };
        let status = admin.get("/v1/server")?;
        let text = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
        let key: dunlin_protocol::PublicKey = text("public_key").parse().map_err(Failure::of("key"))?;
        let id = text("server").parse().map_err(Failure::of("server"))?;
        let online = dunlin_trust::PublicKey::ed25519(key.as_bytes());
        let mut owner = FleetOwner::of(&online)?;
        let old = owner.approve(folder.path(), MODEL, 1, &[])?;
        let new = owner.approve(folder.path(), MODEL, 2, &[])?;
        let site = Self { server, admin, old, new, owner, folder, key, id };
        site.publish()?;
        let texts = texts(site.owner.director());
        site.admin.expect(200, "POST", "/v1/director", &json!({ "files": texts, "reason": "adopt" }))?;
        Ok(site)
    }

    pub(crate) fn publish(&self) -> Outcome<()> {
        for (sha256, content) in self.owner.blobs() {
            let headers = format!(
                "authorization: Bearer {}\r\ncontent-type: application/octet-stream\r\n",
                self.admin.token
            );
            let reply = request(self.admin.server, "PUT", &format!("/v1/blobs/{sha256}"), &headers, content)?;
            assert!(matches!(reply.status, 200 | 201), "{reply:?}");
        }
        let body = json!({ "files": texts(self.owner.image()), "reason": "publish" });
        self.admin.expect(200, "POST", "/v1/image", &body).map(drop)
    }

    /// Enrols gateways that run the old release; each at one of some sites.
    pub(crate) fn gateways(&self, count: u8, sites: u8) -> Outcome<Vec<Gateway>> {
        self.more_gateways(0, count, sites)
    }

    /// The same, beside so many that are there.
    pub(crate) fn more_gateways(&self, there: u8, count: u8, sites: u8) -> Outcome<Vec<Gateway>> {
        let tokens = (0..sites).map(|site| {
            let labels = json!({ "site": format!("s{site}") });
            let wish = json!({ "labels": labels, "uses": u64::from(count), "expires_s": 3_600 });
            let issued = self.admin.expect(201, "POST", "/v1/enrolment-tokens", &wish)?;
            EnrolmentToken::parse(issued["text"].as_str().unwrap_or_default()).map_err(Failure::of("token"))
        });
        let tokens = tokens.collect::<Outcome<Vec<_>>>()?;
        let root = Digest::of(self.owner.first_root());
        let enrol = |number: u8| {
            let mut device = Device::new(number + 1, self.admin.server, self.key, self.id, root);
            device.url = self.server.url();
            device.enrol(Some(&tokens[usize::from(number % sites)]))?;
            let mut gateway = Gateway::new(device, &self.old, &self.new);
            gateway.live()?;
            Ok(gateway)
        };
        (there..there + count).map(enrol).collect()
    }

    /// Returns what a rollout of the new release is asked for by.
    pub(crate) fn spec(&self, phases: Value) -> Value {
        json!({
            "releases": [{ "digest": self.new.digest.to_string() }],
            "query": "*",
            "phases": phases,
            "bake": { "time_ms": 300, "predictions": 5 },
        })
    }

    /// Lets gateways live until a rollout is as is asked; returns it.
    pub(crate) fn live_until(
        &self,
        gateways: &mut [Gateway],
        id: &str,
        what: &str,
        is_there: impl Fn(&Value) -> bool,
    ) -> Outcome<Value> {
        let began = Instant::now();
        loop {
            for gateway in gateways.iter_mut() {
                gateway.live()?;
            }
            let rollout = self.admin.get(&format!("/v1/rollouts/{id}"))?;
            if is_there(&rollout) {
                return Ok(rollout);
            }
            if began.elapsed() > SOON {
                return Err(self.server.failure(&format!("the rollout is not {what}: {rollout}")));
            }
            dunlin_e2e::wait::pause(Duration::from_millis(50));
        }
    }

    pub(crate) fn live_until_status(
        &self,
        gateways: &mut [Gateway],
        id: &str,
        status: &str,
    ) -> Outcome<Value> {
        self.live_until(gateways, id, status, |rollout| rollout["status"] == status)
    }
}

fn texts(files: &dunlin_trust::sign::repository::Files) -> serde_json::Map<String, Value> {
    let text = |raw: &Vec<u8>| Value::String(String::from_utf8_lossy(raw).into_owned());
    files.iter().map(|(name, raw)| (name.clone(), text(raw))).collect()
}

/// Returns how many gateways run a release.
fn running(gateways: &[Gateway], release: &ApprovedRelease) -> usize {
    gateways.iter().filter(|gateway| gateway.runs() == release.digest).count()
}

fn with_manner(gateways: &mut [Gateway], manner: Manner) {
    gateways.iter_mut().for_each(|gateway| gateway.manner = manner);
}
