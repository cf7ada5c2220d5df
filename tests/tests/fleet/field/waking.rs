//! Who is online is told while its question waits, who is away when it comes back; nothing is fetched twice.

use dunlin_e2e::recorder::{BLOBS, QUESTIONS};
use dunlin_e2e::workspace::note;
use dunlin_e2e::{Outcome, onnx};
use serde_json::json;

use super::{Gateway, Plant, Wish};

const USUAL: Wish = Wish { ring: "early", settings: &[] };

#[test]
fn an_online_gateway_fetches_at_once_one_that_was_away_when_it_is_back_and_nothing_twice() -> Outcome<()> {
    let mut plant = Plant::new(&[USUAL; 3])?;
    let release = plant.publish(1, &onnx::doubling())?;
    let away = 2;
    plant.gateways[away].stop();
    plant.wait("questions are kept open", |plant| {
        Ok(plant.gateways[..away].iter().all(|gateway| gateway.line.open_question().is_some()))
    })?;
    let open: Vec<_> = plant.gateways.iter().map(|gateway| gateway.line.open_question()).collect();
    let began = std::time::Instant::now();
    let id = plant.roll_out(&release, json!([{ "percent": 100 }]))?;
    // The server keeps a question for 50 s: whoever fetches sooner was woken.
    plant.wait("those that are online fetch", |plant| {
        let has_begun = |gateway: &Gateway| !gateway.line.paths(BLOBS).is_empty();
        Ok(plant.gateways[..away].iter().all(has_begun))
    })?;
    for (gateway, open) in plant.gateways[..away].iter().zip(&open) {
        let all = gateway.line.all();
        let open = open.unwrap_or_default();
        let first = all.iter().position(|one| one.path.starts_with(BLOBS)).unwrap_or_default();
        assert!(all[open].path.contains("wait=50"), "{:?}", all[open]);
        assert_eq!(all[open].status, Some(200), "the question that was open is the one that was answered");
        // Between the answer and the files there is no other question: this one told it.
        let between = &all[open + 1..first];
        assert!(between.iter().all(|one| !one.path.starts_with(QUESTIONS)), "{between:?}");
        note(&format!("the first file was asked for {:?} after the order", all[first].began - began));
    }
    plant.feed_until("they run it", &[0, 1], None, |plant| {
        Ok(plant.gateways[0].has(1)? && plant.gateways[1].has(1)?)
    })?;
    assert!(plant.gateways[away].line.paths(BLOBS).is_empty());
    plant.gateways[away].start()?;
    plant.feed_until("the one that was away runs it", &[away], None, |plant| plant.gateways[away].has(1))?;
    plant.feed_until("all have it", &[0, 1, away], None, |plant| {
        let rollout = plant.rollout(&id)?;
        Ok(rollout["status"] == "completed" && rollout["devices"]["good"] == 3)
    })?;
    let fetched: Vec<_> = plant.gateways.iter().map(Gateway::fetched).collect();
    let once =
        |fetched: &std::collections::BTreeMap<String, usize>| fetched.values().all(|count| *count == 1);
    assert!(fetched.iter().all(once), "{fetched:?}");
    assert_eq!(fetched[0].keys().collect::<Vec<_>>(), fetched[away].keys().collect::<Vec<_>>());
    Ok(())
}
