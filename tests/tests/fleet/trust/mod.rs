//! Server trust: adoption, what the owner signs, blobs, and statements that a gateway checks as the protocol has it.
//!
//! Each case runs over both databases; the gateway's side is the verifier, over real sockets.

mod blobs;
mod bucket;
mod director;
mod image;
mod lies;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use dunlin_e2e::fleet_owner::FleetOwner;
use dunlin_e2e::gateway_trust::{GatewayTrust, Told};
use dunlin_e2e::postgres::Postgres;
use dunlin_e2e::workspace::skip;
use dunlin_e2e::{Failure, Outcome};
use dunlin_fleet::http::Bounds;
use dunlin_fleet::image::{ImageRefusal, Uploaded, upload, upload_director};
use dunlin_fleet::store::StoreError;
use dunlin_fleet::store::desired;
use dunlin_protocol::{Digest, ExchangeAnswer};
use dunlin_trust::sign::repository::Files;
use dunlin_trust::time::UnixTime;

use crate::device::{Device, request};
use crate::serving::Running;

/// Runs a case over each database that is here.
fn over_both(case: fn(Option<String>) -> Outcome<()>) -> Outcome<()> {
    case(None)?;
    if !Postgres::is_installed() {
        skip("PostgreSQL is not installed");
        return Ok(());
    }
    let server = Postgres::start()?;
    case(Some(server.new_database("fleet")?))
}

/// An adopted server and its owner.
struct Site {
    running: Running,
    owner: FleetOwner,
    folder: tempfile::TempDir,
}

impl Site {
    fn new(database_url: Option<String>) -> Outcome<Self> {
        let running = Running::open(Bounds::default(), tempfile::tempdir()?, database_url, None)?;
        Self::adopting(running)
    }

    fn adopting(mut running: Running) -> Outcome<Self> {
        let online = running.with_fleet(async |fleet| fleet.key.role().public())?;
        let owner = FleetOwner::of(&online)?;
        running.set_root(owner.first_root());
        let site = Self { running, owner, folder: tempfile::tempdir()? };
        site.publish()?;
        site.publish_director(site.owner.director().clone())?.map_err(Failure::of("adopt"))?;
        Ok(site)
    }

    /// Uploads everything that the owner signed, blobs first.
    fn publish(&self) -> Outcome<Uploaded> {
        self.upload_blobs(self.owner.blobs())?;
        self.upload(self.owner.image().clone())?.map_err(Failure::of("publish"))
    }

    fn upload_blobs(&self, blobs: &BTreeMap<Digest, Vec<u8>>) -> Outcome<()> {
        for (sha256, content) in blobs {
            let (sha256, content) = (*sha256, content.clone());
            let kept = self.running.with_fleet(async |fleet| {
                let mut writer = fleet.blobs.writer(sha256);
                writer.push(&content).await?;
                let bytes = writer.finish().await?;
                let name = sha256.to_string();
                let note = move |sql: &mut dyn dunlin_fleet::store::Sql| {
                    dunlin_fleet::store::blobs::put(sql, &name, bytes, 1)
                };
                fleet.store.write(note).await?;
                Ok::<_, dunlin_fleet::blobs::BlobError>(())
            })?;
            kept.map_err(Failure::of("write a blob"))?;
        }
        Ok(())
    }

    fn upload(&self, files: Files) -> Outcome<Result<Uploaded, ImageRefusal>> {
        self.running.with_fleet(async |fleet| upload(fleet, files, "admin", "test").await)
    }

    fn publish_director(&self, files: Files) -> Outcome<Result<Uploaded, ImageRefusal>> {
        self.running.with_fleet(async |fleet| upload_director(fleet, files, "admin", "test").await)
    }

    /// Returns an enrolled gateway with what it trusts.
    fn gateway(&self, seed: u8) -> Outcome<Gateway> {
        let device = self.running.enrolled(seed)?;
        let address = self.running.address;
        let mut trust = GatewayTrust::new(&device.id().to_string(), self.owner.first_root())
            .map_err(Failure::of("take the root"))?;
        trust.refresh(now(), &mut source(address)).map_err(Failure::of("refresh"))?;
        trust.take_director(&mut source(address)).map_err(Failure::of("take the director"))?;
        Ok(Gateway { device, trust, address })
    }

    /// Gives a gateway a release, and wakes it.
    fn assign(&self, gateway: &Gateway, digest: Digest) -> Outcome<bool> {
        let id = gateway.device.id();
        let (name, digest) = (id.to_string(), digest.to_string());
        let changed =
            self.running.write(move |sql| desired::assign(sql, &name, &digest, "rol-1", now_ms()))?;
        self.running.on_fleet(async |fleet| {
            fleet.waiters.wake(id);
            Ok::<_, StoreError>(())
        })?;
        Ok(changed)
    }
}

/// A gateway that trusts as the protocol says.
struct Gateway {
    device: Device,
    trust: GatewayTrust,
    address: SocketAddr,
}

impl Gateway {
    /// Asks once; returns the answer and the question's mark.
    fn ask(&mut self, wait_seconds: u64) -> Outcome<(ExchangeAnswer, String)> {
        let mut question = self.device.question(Vec::new());
        question.held = self.trust.held();
        question.report.full = Some(Box::new(crate::rows::report()));
        let answer: ExchangeAnswer = self.device.read(&self.device.send(&question, wait_seconds)?)?;
        answer.require_answer_to(&question).map_err(|words| Failure::new(words.to_string()))?;
        Ok((answer, question.nonce.to_string()))
    }

    /// Asks, and takes what it is told; nothing where there is nothing new.
    fn exchange(&mut self) -> Outcome<Option<Told>> {
        let (answer, nonce) = self.ask(0)?;
        let Some(desired) = answer.desired else { return Ok(None) };
        let told = self.trust.take(&desired, &nonce, now(), &mut source(self.address));
        told.map(Some).map_err(Failure::of("take the statement"))
    }
}

/// Fetches files over HTTP.
fn source(server: SocketAddr) -> impl FnMut(&str, u64) -> Option<Vec<u8>> {
    move |path, _| {
        let reply = request(server, "GET", path, "", b"").ok()?;
        (reply.status == 200).then_some(reply.body)
    }
}

fn now() -> UnixTime {
    dunlin_e2e::fleet_owner::now()
}

fn now_ms() -> u64 {
    dunlin_fleet::fleet::now_ms()
}
