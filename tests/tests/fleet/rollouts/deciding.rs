//! From the first gateway to the last, and back.

use dunlin_e2e::Outcome;
use dunlin_protocol::exchange::Defer;
use serde_json::{Value, json};

use super::{Manner, Site, running, with_manner};

#[test]
fn a_good_release_reaches_everybody_phase_by_phase_and_nobody_is_told_twice() -> Outcome<()> {
    let site = Site::new(None)?;
    let mut gateways = site.gateways(8, 2)?;
    let spec = site.spec(json!([{ "count": 1 }, { "percent": 50 }, { "percent": 100 }]));
    let plan = site.admin.expect(200, "POST", "/v1/rollouts/plan", &json!({ "spec": spec }))?;
    assert_eq!((plan["devices_total"].as_u64(), &plan["phases"]), (Some(8), &json!([1, 4, 8])), "{plan}");
    assert_eq!(plan["sites"]["s0"]["devices"], 4);
    let bytes = plan["bytes_total"].as_u64().unwrap();
    assert!(bytes > 0 && bytes % 8 == 0, "{plan}");
    // They all have the files that both releases share.
    let manifest = site.new.bytes;
    assert!(bytes / 8 >= manifest && plan["warnings"] == json!([]), "{plan}");

    let id = site.admin.start(&spec)?;
    for (phase, reached) in [(1, 1), (2, 4), (3, 8)] {
        site.live_until(&mut gateways, &id, "baking", |rollout| {
            rollout["phase"].as_u64() > Some(phase)
                || rollout["stage"] == "baking" && rollout["phase"] == phase
        })?;
        assert!(running(&gateways, &site.new) >= reached, "phase {phase}");
    }
    let rollout = site.live_until_status(&mut gateways, &id, "completed")?;
    assert_eq!((&rollout["devices"], running(&gateways, &site.new)), (&json!({ "good": 8 }), 8));
    assert!(gateways.iter().all(|gateway| gateway.moves.values().all(|moves| *moves == 1)));
    assert!(gateways.iter().all(|gateway| gateway.fetched.values().all(|count| *count == 1)));
    let gates: Vec<&Value> =
        rollout["gates"].as_array().unwrap().iter().map(|gate| &gate["verdict"]).collect();
    assert!(gates.len() == 7 && gates.iter().all(|verdict| **verdict == "pass"), "{rollout}");
    // One that joins after the end is given it too.
    let mut late = site.more_gateways(8, 1, 1)?;
    site.live_until(&mut late, &id, "joined", |rollout| rollout["devices"]["good"] == 9)?;
    let audit = site.admin.get("/v1/audit?limit=1000")?.to_string();
    for action in ["rollout.make", "rollout.start", "rollout.phase", "rollout.completed"] {
        assert!(audit.contains(action), "{action}");
    }
    Ok(())
}

#[test]
fn a_gateway_whose_question_waits_is_told_while_it_waits() -> Outcome<()> {
    let site = Site::new(None)?;
    let mut gateways = site.gateways(1, 1)?;
    gateways[0].live()?;
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| gateways[0].wait_for_news());
        // One whose time is over is answered without news.
        site.admin.start(&site.spec(json!([{ "percent": 100 }])))?;
        let has_news = waits.join().map_err(|_| dunlin_e2e::Failure::new("the gateway panicked"))??;
        assert!(has_news, "the question was not woken");
        Ok(())
    })
}

#[test]
fn each_gate_halts_and_all_that_had_succeeded_run_the_old_release_again_without_a_download() -> Outcome<()> {
    let site = Site::new(None)?;
    let mut gateways = site.gateways(6, 1)?;
    for (manner, gate) in [
        (Manner::FailsGolden, "install"),
        (Manner::CrashesInTrial, "restarts"),
        (Manner::Disagrees, "agreement"),
        (Manner::Slow, "latency"),
        (Manner::Invalid, "invalid"),
    ] {
        // All but one get it well in the first phase; the last one fails in the second.
        with_manner(&mut gateways, Manner::Good);
        let mut spec = site.spec(json!([{ "count": 3 }, { "percent": 100 }]));
        spec["gates"] = json!({ "failures_percent": 0.0, "latency_of_old": 4.0 });
        let id = site.admin.start(&spec)?;
        site.live_until(&mut gateways, &id, "in its second phase", |rollout| {
            rollout["phase"].as_u64() >= Some(1) && rollout["devices"]["good"].as_u64() >= Some(3)
        })?;
        gateways.iter_mut().filter(|gateway| gateway.runs() == site.old.digest).for_each(|gateway| {
            gateway.manner = manner;
        });
        let rollout = site.live_until_status(&mut gateways, &id, "reverted")?;
        assert_eq!(
            (&rollout["halt"]["gate"], &rollout["halt"]["phase"]),
            (&json!(gate), &json!(2)),
            "{rollout}"
        );
        assert_eq!(running(&gateways, &site.old), 6, "{gate}");
        assert!(gateways.iter().all(|gateway| !gateway.fetched.contains_key(&site.old.digest)), "{gate}");
        gateways.iter_mut().for_each(|gateway| gateway.forget_failures());
    }
    Ok(())
}

#[test]
fn people_pause_resume_promote_abort_and_have_failures_retried() -> Outcome<()> {
    let site = Site::new(None)?;
    let mut gateways = site.gateways(6, 1)?;
    let mut spec = site.spec(json!([{ "count": 1 }, { "count": 3 }, { "percent": 100 }]));
    // Watched for an hour: nothing goes on by itself.
    spec["bake"] = json!({ "time_ms": 3_600_000, "predictions": 0 });
    spec["on_failure"] = json!("hold");
    let id = site.admin.start(&spec)?;
    site.live_until(&mut gateways, &id, "baking", |rollout| rollout["stage"] == "baking")?;
    site.admin.order(&id, "pause")?;
    assert_eq!(site.admin.order(&id, "pause")?["status"], "paused", "given twice it is the same");
    site.admin.order(&id, "resume")?;
    site.admin.order(&id, "promote")?;
    site.live_until(&mut gateways, &id, "in its second phase", |rollout| {
        rollout["phase"] == 2 && rollout["stage"] == "baking"
    })?;
    assert_eq!(running(&gateways, &site.new), 3);
    // In the last phase one fails, and it holds.
    let bad = gateways.iter().position(|gateway| gateway.runs() == site.old.digest).unwrap();
    gateways[bad].manner = Manner::FailsGolden;
    site.admin.order(&id, "promote")?;
    let halted = site.live_until_status(&mut gateways, &id, "halted")?;
    assert_eq!(halted["halt"]["gate"], "install");
    gateways[bad].manner = Manner::Good;
    gateways[bad].forget_failures();
    site.admin.order(&id, "retry")?;
    site.live_until(&mut gateways, &id, "good everywhere", |rollout| rollout["devices"]["good"] == 6)?;
    let tried = site.admin.get(&format!("/v1/rollouts/{id}/devices"))?;
    let tries = |device: &Value| device["tries"].as_u64().unwrap();
    assert_eq!(tried["items"].as_array().unwrap().iter().map(tries).max(), Some(2));
    assert_eq!(site.admin.order(&id, "revert")?["status"], "reverting");
    site.live_until_status(&mut gateways, &id, "reverted")?;
    assert_eq!(running(&gateways, &site.old), 6);

    let id = site.admin.start(&spec)?;
    assert_eq!(site.admin.order(&id, "abort")?["status"], "aborted");
    assert_eq!(site.admin.try_order(&id, "resume")?.0, 409);
    Ok(())
}

#[test]
fn gateways_that_are_away_are_no_failure_and_come_in_when_they_are_back_and_one_may_put_it_off() -> Outcome<()>
{
    let site = Site::new(None)?;
    let mut gateways = site.gateways(5, 1)?;
    let in_an_hour = 3_600_000;
    gateways[4].defer =
        Some(Defer { until_ms: in_an_hour, rollout: None, reason: dunlin_protocol::Words::cut("a batch") });
    gateways[4].live()?;
    let (here, away) = gateways.split_at_mut(3);
    let id = site.admin.start(&site.spec(json!([{ "percent": 100 }])))?;
    let began = site.live_until(here, &id, "deployed to those that are here", |rollout| {
        rollout["devices"]["good"] == 3
    })?;
    assert_eq!(began["devices"]["assigned"], 1, "the one that puts it off is not told: {began}");
    away[0].live()?;
    let rollout =
        site.live_until(&mut gateways[..4], &id, "over", |rollout| rollout["status"] == "completed")?;
    assert_eq!(rollout["devices"]["good"], 4, "{rollout}");
    gateways[4].defer = None;
    site.live_until(&mut gateways, &id, "on all", |rollout| rollout["devices"]["good"] == 5)?;
    assert!(gateways.iter().all(|gateway| gateway.moves[&site.new.digest] == 1));
    Ok(())
}

#[test]
fn who_may_do_what_and_by_which_state() -> Outcome<()> {
    let site = Site::new(None)?;
    let mut gateways = site.gateways(4, 2)?;
    let admin = &site.admin;
    let (viewer, ann) =
        (admin.new_person("viewer", "viewer", "*")?, admin.new_person("ann", "operator", "*")?);
    let bob = admin.new_person("bob", "operator", "*")?;
    let local = admin.new_person("local", "operator", "site=s0")?;
    let rules = json!({ "rules": [{ "query": "site=s1", "approvals": 1 }], "reason": "production" });
    admin.expect(200, "PUT", "/v1/policies/approvals", &rules)?;
    let spec = site.spec(json!([{ "percent": 100 }]));
    viewer.expect(403, "POST", "/v1/rollouts", &json!({ "spec": spec }))?;
    ann.expect(422, "POST", "/v1/rollouts", &json!({ "spec": { "query": "*", "releases": [] } }))?;
    let unknown = json!({ "spec": { "query": "*", "releases": [{ "digest": "ab" }] } });
    ann.expect(409, "POST", "/v1/rollouts", &unknown)?;

    let id = ann.make(&spec)?;
    let path = format!("/v1/rollouts/{id}/start");
    ann.expect(428, "POST", &path, &json!({ "reason": "go" }))?;
    let (stale, ..) = ann.ask("POST", &path, "if-match: \"7\"\r\n", &json!({ "reason": "go" }))?;
    assert_eq!(stale, 412);
    let (empty, ..) = ann.ask("POST", &path, "if-match: *\r\n", &json!({ "reason": "" }))?;
    assert_eq!(empty, 400);
    local.expect(404, "GET", &format!("/v1/rollouts/{id}"), &Value::Null)?;
    assert_eq!(ann.order(&id, "start")?["status"], "approval", "a gateway of the second site is meant");
    assert_eq!(ann.try_order(&id, "approve")?.0, 409, "who made it does not approve it");
    assert_eq!(admin.try_order(&id, "approve")?.0, 409, "who published the release does not either");
    assert_eq!(bob.order(&id, "approve")?["status"], "running");
    site.live_until_status(&mut gateways, &id, "completed")?;
    ann.order(&id, "revert")?;
    site.live_until_status(&mut gateways, &id, "reverted")?;

    // One for some gateways reaches no others, whatever it asks for.
    let narrow = local.start(&spec)?;
    let rollout = site.live_until_status(&mut gateways, &narrow, "completed")?;
    assert_eq!((&rollout["devices"], running(&gateways, &site.new)), (&json!({ "good": 2 }), 2), "{rollout}");
    assert_eq!(local.get("/v1/rollouts")?["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(viewer.get("/v1/rollouts")?["items"].as_array().map(Vec::len), Some(2));
    Ok(())
}

#[test]
fn the_rollout_that_was_started_last_wins() -> Outcome<()> {
    let mut site = Site::new(None)?;
    let mut gateways = site.gateways(4, 2)?;
    let third = site.owner.approve(site.folder.path(), super::MODEL, 3, &[])?;
    site.publish()?;
    gateways.iter_mut().for_each(|gateway| gateway.learn(&third));
    let mut spec = site.spec(json!([{ "percent": 100 }]));
    spec["bake"] = json!({ "time_ms": 3_600_000, "predictions": 0 });
    let first = site.admin.start(&spec)?;
    site.live_until(&mut gateways, &first, "on all", |rollout| rollout["devices"]["good"] == 4)?;
    let mut newer = site.spec(json!([{ "percent": 100 }]));
    (newer["releases"], newer["query"]) = (json!([{ "digest": third.digest.to_string() }]), json!("site=s0"));
    let second = site.admin.start(&newer)?;
    site.live_until_status(&mut gateways, &second, "completed")?;
    let rollout =
        site.live_until(&mut gateways, &first, "overtaken", |rollout| rollout["devices"]["superseded"] == 2)?;
    assert_eq!(rollout["status"], "running", "it takes no harm: {rollout}");
    // What is taken back is what the first one gave, where it is still the newest.
    site.admin.order(&first, "revert")?;
    site.live_until_status(&mut gateways, &first, "reverted")?;
    assert_eq!((running(&gateways, &third), running(&gateways, &site.old)), (2, 2));
    Ok(())
}

#[test]
fn settings_alone_are_rolled_out_and_a_refusal_gives_everybody_those_that_were_before() -> Outcome<()> {
    let mut site = Site::new(None)?;
    let mut gateways = site.gateways(3, 1)?;
    let day = site.owner.approve_settings("day.toml", b"[log]\nlevel = \"info\"\n")?;
    let night = site.owner.approve_settings("night.toml", b"[log]\nlevel = \"warn\"\n")?;
    site.publish()?;
    let spec = |digest: &dunlin_protocol::Digest| {
        json!({
            "settings": { "digest": digest.to_string() },
            "query": "*",
            "phases": [{ "count": 1 }, { "percent": 100 }],
            "bake": { "time_ms": 300, "predictions": 1_000_000 },
        })
    };
    let first = site.admin.start(&spec(&day))?;
    site.live_until_status(&mut gateways, &first, "completed")?;
    let held = |gateways: &[super::Gateway], digest| {
        gateways.iter().filter(|gateway| gateway.settings.is_some_and(|(_, held)| held == digest)).count()
    };
    assert_eq!(held(&gateways, day), 3);
    let second = site.admin.start(&spec(&night))?;
    site.live_until(&mut gateways, &second, "in its second phase", |rollout| {
        rollout["devices"]["good"] == 1
    })?;
    gateways
        .iter_mut()
        .filter(|gateway| gateway.settings.is_some_and(|(_, held)| held == day))
        .for_each(|gateway| gateway.manner = Manner::RefusesSettings);
    let rollout = site.live_until_status(&mut gateways, &second, "reverted")?;
    assert_eq!(rollout["halt"]["gate"], "install", "{rollout}");
    with_manner(&mut gateways, Manner::Good);
    for gateway in &mut gateways {
        gateway.live()?;
        gateway.live()?;
    }
    assert_eq!(held(&gateways, day), 3, "those that were before");
    Ok(())
}
