//! The whole product in the field: the server, several daemons with brokers and readings, and the operator's program, all
//! as processes.
//!
//! Each gateway has its own broker, and its own line to the server, which writes down what it asks for.

mod from_empty_folders;
mod halting;
mod offline;
mod restoring;
mod retrying;
mod settings;
mod waking;

use std::collections::BTreeMap;

use dunlin_e2e::broker::{Broker, BrokerPlan};
use dunlin_e2e::daemon::{CHANGE_MAX, Daemon, DaemonPlan};
use dunlin_e2e::fleet_owner::ApprovedRelease;
use dunlin_e2e::operator::Operator;
use dunlin_e2e::package::{PackagePlan, lab_readings, lab_readings_of, linked_lab, write};
use dunlin_e2e::recorder::{BLOBS, Recorder};
use dunlin_e2e::releases::{is_good, write_release_of};
use dunlin_e2e::stream::Publisher;
use dunlin_e2e::wait::wait_for;
use dunlin_e2e::wire::Qos;
use dunlin_e2e::{Failure, Outcome, onnx};
use serde_json::{Value, json};

use crate::rollouts::Site;

/// What faulty releases do not bear; healthy readings stay below 250, golden vectors below 5.
const POISON: f64 = 1_000.0;
/// Between the two.
const BORDER: f32 = 500.0;

/// A gateway in the field.
struct Gateway {
    id: String,
    plan: DaemonPlan,
    daemon: Option<Daemon>,
    line: Recorder,
    publisher: Publisher,
    sent: usize,
    _broker: Broker,
}

/// How a gateway is set up.
#[derive(Clone, Copy)]
struct Wish {
    /// Its label `ring`.
    ring: &'static str,
    settings: &'static [(&'static str, &'static str)],
}

/// A server, its owner, and gateways.
struct Plant {
    site: Site,
    operator: Operator,
    gateways: Vec<Gateway>,
}

impl Gateway {
    fn enrol(site: &Site, number: usize, wish: Wish) -> Outcome<Self> {
        let folder = site.folder.path().join(format!("gateway-{number}"));
        std::fs::create_dir(&folder)?;
        let labels = json!({ "ring": wish.ring });
        let issued = json!({ "labels": labels, "uses": 1, "expires_s": 3_600 });
        let issued = site.admin.expect(201, "POST", "/v1/enrolment-tokens", &issued)?;
        write(&folder.join("fleet.token"), issued["text"].as_str().unwrap_or_default().as_bytes())?;
        write(&folder.join("dunlind.toml"), linked_lab(3, "").as_bytes())?;
        let line = Recorder::start(site.server.plan().port)?;
        let broker = Broker::start(&BrokerPlan { in_flight_max: 1_000, queued_max: 0 })?;
        let plan = DaemonPlan::new(&folder.join("dunlind.toml"), &folder)
            .set("mqtt.url", broker.url())
            .set("fleet.proxy", line.url());
        let plan = wish.settings.iter().fold(plan, |plan, (key, value)| plan.set(key, value));
        let daemon = Some(plan.start()?);
        let publisher = Publisher::connect(broker.port(), "sensor")?;
        Ok(Self { id: String::new(), plan, daemon, line, publisher, sent: 0, _broker: broker })
    }

    /// Waits until the server knows the gateway.
    fn wait_linked(&mut self) -> Outcome<()> {
        let Some(daemon) = &mut self.daemon else { return Err(Failure::new("the gateway is away")) };
        daemon.wait_connected()?;
        let status =
            daemon.wait_status("the server answers", |status| status["fleet"]["state"] == "active")?;
        self.id = status["fleet"]["device"].as_str().unwrap_or_default().to_owned();
        Ok(())
    }

    fn start(&mut self) -> Outcome<()> {
        self.daemon = Some(self.plan.start()?);
        Ok(())
    }

    fn stop(&mut self) {
        self.daemon = None;
    }

    /// Publishes a reading, poisoned or not.
    fn feed(&mut self, poison: Option<f64>) -> Outcome<()> {
        let reading = match poison {
            Some(value) => lab_readings_of(value, "a", self.sent, 1),
            None => lab_readings("a", self.sent, 1),
        };
        self.sent += 1;
        self.publisher.publish_all(&reading, Qos::AtLeastOnce).map(drop)
    }

    fn model(&self) -> Outcome<Value> {
        Ok(self.plan.models()?["models"]["double"].take())
    }

    /// Tells whether a release is this gateway's good one, and nothing else is being tried.
    fn has(&self, counter: u64) -> Outcome<bool> {
        Ok(is_good(&self.model()?, counter))
    }

    /// Returns how often each file of a package was asked for.
    fn fetched(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for path in self.line.paths(BLOBS) {
            *counts.entry(path).or_default() += 1;
        }
        counts
    }
}

impl Plant {
    /// Starts a server and gateways that are enrolled and run nothing.
    fn new(wishes: &[Wish]) -> Outcome<Self> {
        let site = Site::new(None)?;
        // For those that keep no question open.
        let each_second = json!({ "rules": [{ "query": "*", "next_s": 1 }], "reason": "much to tell" });
        site.admin.expect(200, "PUT", "/v1/policies/exchange", &each_second)?;
        let folder = site.folder.path();
        write(&folder.join("dunlind.toml"), linked_lab(3, "").as_bytes())?;
        let operator = Operator::in_folder(folder)?.with_config(&folder.join("config"));
        let token = site.server.plan().data.join("keys/admin.token");
        operator.run(&["login", &site.server.url(), "--token-file", &token.to_string_lossy()])?;
        let gateways = wishes.iter().enumerate().map(|(number, wish)| Gateway::enrol(&site, number, *wish));
        let mut gateways = gateways.collect::<Outcome<Vec<_>>>()?;
        gateways.iter_mut().try_for_each(Gateway::wait_linked)?;
        let plant = Self { site, operator, gateways };
        plant.wait("the server has all reports", |plant| {
            let devices = plant.site.admin.get("/v1/devices")?;
            let is_known = |one: &Value| one["models"].as_array().is_some_and(|models| !models.is_empty());
            let known = devices["items"].as_array().into_iter().flatten().filter(|one| is_known(one)).count();
            Ok(known == plant.gateways.len())
        })?;
        Ok(plant)
    }

    /// Starts a server and gateways that all run a good release 1.
    fn with_good_release(wishes: &[Wish]) -> Outcome<Self> {
        let mut plant = Self::new(wishes)?;
        let release = plant.publish(1, &onnx::doubling())?;
        let id = plant.roll_out(&release, json!([{ "percent": 100 }]))?;
        let all: Vec<usize> = (0..plant.gateways.len()).collect();
        plant.feed_until("release 1 is rolled out", &all, None, |plant| {
            Ok(plant.rollout(&id)?["status"] == "completed")
        })?;
        Ok(plant)
    }

    /// Signs and publishes a release of the model `double`.
    fn publish(&mut self, number: u64, model: &[u8]) -> Outcome<ApprovedRelease> {
        self.publish_of(&PackagePlan { release: number, ..PackagePlan::of_one_value("double") }, model)
    }

    /// Signs and publishes a release of the model `double`, made as `plan` says.
    fn publish_of(&mut self, plan: &PackagePlan<'_>, model: &[u8]) -> Outcome<ApprovedRelease> {
        let folder = self.site.folder.path();
        write_release_of(folder, plan, model)?;
        let release = self.site.owner.approve_package(&folder.join(format!("double-{}", plan.release)))?;
        self.site.publish()?;
        Ok(release)
    }

    /// Starts a rollout to all gateways; returns its id. What is slow on a machine that does much else is not judged.
    fn roll_out(&self, release: &ApprovedRelease, phases: Value) -> Outcome<String> {
        self.site.admin.start(&json!({
            "releases": [{ "digest": release.digest.to_string() }],
            "query": "*",
            "phases": phases,
            "bake": { "time_ms": 0, "predictions": 0 },
            "gates": { "latency_of_old": null },
        }))
    }

    fn rollout(&self, id: &str) -> Outcome<Value> {
        self.site.admin.get(&format!("/v1/rollouts/{id}"))
    }

    /// Waits for something of the whole plant.
    fn wait(&self, what: &str, condition: impl Fn(&Self) -> Outcome<bool>) -> Outcome<()> {
        let waited = wait_for(what, CHANGE_MAX, || Ok(condition(self)?.then_some(())));
        waited.map_err(|failure| self.failure(&failure))
    }

    /// Publishes readings of some gateways, one a question, until a condition holds.
    fn feed_until(
        &mut self,
        what: &str,
        which: &[usize],
        poison: Option<f64>,
        condition: impl Fn(&Self) -> Outcome<bool>,
    ) -> Outcome<()> {
        let waited = wait_for(what, CHANGE_MAX, || {
            for number in which {
                self.gateways[*number].feed(poison)?;
            }
            Ok(condition(self)?.then_some(()))
        });
        waited.map_err(|failure| self.failure(&failure))
    }

    fn failure(&self, failure: &Failure) -> Failure {
        let rollouts = self.site.admin.get("/v1/rollouts").unwrap_or_default();
        let ids = rollouts["items"].as_array().into_iter().flatten().filter_map(|one| one["id"].as_str());
        let rollouts: Vec<String> =
            ids.filter_map(|id| self.rollout(id).ok()).map(|one| one.to_string()).collect();
        let gateways = self.gateways.iter().map(|one| {
            let model = one.model().unwrap_or_default();
            one.plan.failure(&format!("{}: {model}", one.id)).to_string()
        });
        let gateways: Vec<String> = gateways.collect();
        let server = self.site.server.failure("server");
        Failure::new(format!("{failure}\n{}\n{server}\n{}", rollouts.join("\n"), gateways.join("\n")))
    }
}
