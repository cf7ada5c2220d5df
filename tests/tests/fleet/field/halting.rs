//! Releases that do harm on one gateway alone: the rollout halts in its first phase by the right gate, and all gateways
//! that had succeeded run the old release again, without fetching anything.

use dunlin_e2e::package::PackagePlan;
use dunlin_e2e::recorder::BLOBS;
use dunlin_e2e::{Outcome, onnx};
use serde_json::json;

use super::{BORDER, POISON, Plant, Wish};

const EARLY: Wish = Wish { ring: "early", settings: &[] };
const LATE: Wish = Wish { ring: "late", settings: &[] };
/// The gateway on which the release does harm.
const ODD: usize = 2;

/// What is wrong with a release.
struct Fault {
    model: Vec<u8>,
    /// How all gateways but the odd one are set up.
    even: &'static [(&'static str, &'static str)],
    /// How the odd one is.
    odd: &'static [(&'static str, &'static str)],
    /// What the odd one reads once the others have succeeded.
    reads: Option<f64>,
    gate: &'static str,
    code: &'static str,
}

/// Rolls a faulty release out to three gateways first, of which it does harm to one, after two have succeeded.
fn halts(fault: &Fault) -> Outcome<()> {
    let (even, odd) = (Wish { settings: fault.even, ..EARLY }, Wish { settings: fault.odd, ..EARLY });
    let mut plant = Plant::with_good_release(&[even, even, odd, Wish { settings: fault.even, ..LATE }])?;
    let before: Vec<_> = plant.gateways.iter().map(super::Gateway::fetched).collect();
    assert!(before.iter().all(|fetched| fetched.values().all(|count| *count == 1)), "{before:?}");
    let old = plant.gateways[0].model()?["active"]["digest"].clone();

    let release = plant.publish(2, &fault.model)?;
    // The odd one comes last.
    plant.gateways[ODD].line.hold(Some(BLOBS));
    let id = plant.roll_out(&release, json!([{ "labels": "ring=early" }, { "percent": 100 }]))?;
    plant.feed_until("two gateways have succeeded", &[0, 1, 3], None, |plant| {
        let rollout = plant.rollout(&id)?;
        Ok(rollout["devices"]["good"] == 2 && plant.gateways[0].has(2)? && plant.gateways[1].has(2)?)
    })?;
    assert_eq!(plant.rollout(&id)?["status"], "running");
    plant.gateways[ODD].line.hold(None);
    let code = fault.code;
    plant.feed_until("the odd gateway finds it bad", &[ODD], fault.reads, |plant| {
        let bad = plant.gateways[ODD].model()?["bad"][0]["code"].clone();
        let status = plant.rollout(&id)?["status"].clone();
        Ok(bad == code && matches!(status.as_str(), Some("reverting" | "reverted")))
    })?;
    // Whatever follows needs no file of a package.
    let fetched: Vec<_> = plant.gateways.iter().map(super::Gateway::fetched).collect();
    plant.feed_until("all have gone back", &[0, 1, ODD, 3], None, |plant| {
        let all = plant.gateways.iter().map(|gateway| gateway.has(1)).collect::<Outcome<Vec<_>>>()?;
        Ok(plant.rollout(&id)?["status"] == "reverted" && all.iter().all(|has| *has))
    })?;

    let rollout = plant.rollout(&id)?;
    assert_eq!((&rollout["halt"]["gate"], &rollout["halt"]["phase"]), (&json!(fault.gate), &json!(1)));
    assert!(rollout["halt"]["words"].as_str().is_some_and(|words| words.contains(code)), "{rollout}");
    assert_eq!(rollout["devices"], json!({ "reverted": 3 }), "the late one was never told");
    for (number, gateway) in plant.gateways.iter().enumerate() {
        let model = gateway.model()?;
        assert_eq!((&model["active"]["digest"], &model["serving"]["digest"]), (&old, &old), "{model}");
        assert_eq!(gateway.fetched(), fetched[number], "gateway {number} fetched something to go back");
        assert!(gateway.fetched().values().all(|count| *count == 1), "{:?}", gateway.fetched());
    }
    assert_eq!(fetched[3], before[3], "the late one fetched something");
    let said = plant.operator.run(&["rollout", "watch", &id]).unwrap_err().to_string();
    let expected = format!("gate `{}` in phase 1: ", fault.gate);
    assert!(said.contains("exit status: 5") && said.contains(&expected) && said.contains(code), "{said}");
    Ok(())
}

/// Boards run as many windows at once as they are set up for; this export gives other outputs in a batch.
#[test]
fn a_package_that_fails_its_golden_vectors_on_one_board_is_taken_back_from_all() -> Outcome<()> {
    halts(&Fault {
        model: onnx::doubling_but_alone(),
        even: &[("inference.batch_max", "1")],
        odd: &[],
        reads: None,
        gate: "install",
        code: "selftest:golden",
    })
}

#[test]
fn a_package_that_crashes_in_trial_is_taken_back_from_all() -> Outcome<()> {
    halts(&Fault {
        model: onnx::doubling_but_hanging_above(BORDER),
        even: &[("update.shadow_predictions", "0")],
        // The crash is to end the trial, and not the predictions that it costs.
        odd: &[
            ("update.shadow_predictions", "0"),
            ("update.trial_predictions", "30"),
            ("update.trial_faults_max", "1.0"),
        ],
        reads: Some(POISON),
        gate: "restarts",
        code: "rolled_back:crash",
    })
}

#[test]
fn a_package_that_answers_otherwise_on_live_data_is_taken_back_from_all() -> Outcome<()> {
    halts(&Fault {
        model: onnx::doubling_but_wrong_above(BORDER),
        even: &[],
        odd: &[("update.shadow_predictions", "20"), ("update.shadow_agreement_min", "0.9")],
        reads: Some(POISON),
        gate: "agreement",
        code: "selftest:shadow",
    })
}

/// On the gateway it is good: to abstain is no fault. Only the fleet sees that it answers less often than the one before.
#[test]
fn a_package_that_abstains_from_live_data_is_taken_back() -> Outcome<()> {
    // What it counts comes with the next question: none is kept open.
    let early = Wish { settings: &[("update.shadow_predictions", "0"), ("fleet.metered", "true")], ..EARLY };
    let mut plant = Plant::with_good_release(&[early, LATE])?;
    let before = plant.gateways[1].fetched();
    let post = json!({ "abstain_band": [BORDER, 1e9] });
    let plan = PackagePlan { release: 2, post, ..PackagePlan::of_one_value("double") };
    let release = plant.publish_of(&plan, &onnx::doubling())?;
    let id = plant.site.admin.start(&json!({
        "releases": [{ "digest": release.digest.to_string() }],
        "query": "*",
        "phases": [{ "labels": "ring=early" }, { "percent": 100 }],
        "bake": { "time_ms": 0, "predictions": 1_000_000 },
        "gates": { "latency_of_old": null, "compared_min": 20 },
    }))?;
    plant.feed_until("release 2 is good", &[0, 1], None, |plant| plant.gateways[0].has(2))?;
    plant.feed_until("it is taken back", &[0], Some(POISON), |plant| {
        Ok(plant.rollout(&id)?["status"] == "reverted" && plant.gateways[0].has(1)?)
    })?;
    let halt = plant.rollout(&id)?["halt"].take();
    assert_eq!((&halt["gate"], &halt["phase"]), (&json!("abstention"), &json!(1)), "{halt}");
    assert!(
        halt["words"].as_str().is_some_and(|words| words.contains("the release before from 0.0 %")),
        "{halt}"
    );
    assert!(plant.gateways[1].has(1)?);
    assert_eq!(plant.gateways[1].fetched(), before, "the late one was told");
    Ok(())
}
