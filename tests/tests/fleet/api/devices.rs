//! Gateways over REST: found by labels, accepted by their words, suspended, and hidden from who may not see them.

use dunlin_e2e::Outcome;
use serde_json::{Value, json};

use super::Person;
use crate::serving::Running;

#[test]
fn a_gateway_waits_until_somebody_accepts_it_by_its_words() -> Outcome<()> {
    let running = Running::start()?;
    let first = Person::first(&running)?;
    let mut device = running.device(1);
    device.enrol(None)?;
    let waiting = first.get("/v1/devices?state=pending")?;
    let path = format!("/v1/devices/{}", waiting["items"][0]["id"].as_str().unwrap_or_default());
    let detail = first.get(&path)?;
    let words = dunlin_protocol::words::words(&device.public());
    assert_eq!(detail["words"], json!(words));
    first.expect(200, "POST", &format!("{path}/accept"), &json!({}))?;
    assert_eq!(device.exchange(Vec::new())?.state, dunlin_protocol::enrolment::DeviceState::Active);
    first.expect(400, "POST", &format!("{path}/suspend"), &json!({}))?;
    first.expect(200, "POST", &format!("{path}/suspend"), &json!({ "reason": "stolen van" }))?;
    assert_eq!(first.get(&path)?["reason"], "stolen van");
    first.expect(200, "POST", &format!("{path}/resume"), &json!({}))?;
    first.expect(200, "POST", &format!("{path}/revoke"), &json!({ "reason": "scrapped" }))?;
    first.expect(409, "POST", &format!("{path}/resume"), &json!({}))?;
    let deeds: Vec<String> = first.deeds()?.into_iter().map(|(_, action)| action).collect();
    let expected = ["device.enrol", "device.accept", "device.suspend", "device.resume", "device.revoke"];
    assert_eq!(deeds, expected);
    Ok(())
}

#[test]
fn gateways_are_found_by_labels_a_page_at_a_time() -> Outcome<()> {
    let running = Running::start()?;
    let first = Person::first(&running)?;
    for seed in 1..=7 {
        let device = running.enrolled(seed)?;
        let labels = json!({ "labels": { "site": if seed % 2 == 0 { "even" } else { "odd" } } });
        first.expect(200, "PUT", &format!("/v1/devices/{}/labels", device.id()), &labels)?;
    }
    let mut found = Vec::new();
    let mut path = "/v1/devices?query=site%3Dodd&limit=3".to_owned();
    let mut pages = 0;
    loop {
        let page = first.get(&path)?;
        let ids = page["items"].as_array().cloned().unwrap_or_default();
        found.extend(ids.iter().map(|device| device["id"].to_string()));
        pages += 1;
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/devices?query=site%3Dodd&limit=3&cursor={next}");
    }
    let mut sorted = found.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!((found.len(), pages, &found), (4, 2, &sorted));
    Ok(())
}

#[test]
fn labels_that_were_changed_meanwhile_are_not_overwritten() -> Outcome<()> {
    let running = Running::start()?;
    let first = Person::first(&running)?;
    let path = format!("/v1/devices/{}", running.enrolled(1)?.id());
    let reply = first.ask("GET", &path, "", &Value::Null)?;
    let tag = reply.head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap_or_default().to_owned();
    let put = |value: &str| {
        let body = json!({ "labels": { "site": value } });
        first.ask("PUT", &format!("{path}/labels"), &format!("if-match: {tag}\r\n"), &body)
    };
    assert_eq!(put("a")?.status, 200);
    assert_eq!(put("b")?.status, 412);
    assert_eq!(first.get(&path)?["labels"], json!({ "site": "a" }));
    Ok(())
}

#[test]
fn a_gateway_outside_of_a_tokens_query_does_not_exist_for_it() -> Outcome<()> {
    let running = Running::start()?;
    let first = Person::first(&running)?;
    let mut paths = Vec::new();
    for (seed, site) in [(1, "north"), (2, "south")] {
        let path = format!("/v1/devices/{}", running.enrolled(seed)?.id());
        first.expect(200, "PUT", &format!("{path}/labels"), &json!({ "labels": { "site": site } }))?;
        paths.push(path);
    }
    let north = first.new_person("north", "admin", "site=north")?;
    let listed = north.get("/v1/devices")?;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
    north.get(&paths[0])?;
    let hidden = north.ask("GET", &paths[1], "", &Value::Null)?;
    let nothing = north.ask("GET", "/v1/devices/d00000000000000000000000000", "", &Value::Null)?;
    assert_eq!((hidden.status, nothing.status), (404, 404));
    for order in ["accept", "suspend", "resume", "revoke"] {
        north.expect(404, "POST", &format!("{}/{order}", paths[1]), &json!({ "reason": "mine" }))?;
    }
    north.expect(404, "PUT", &format!("{}/labels", paths[1]), &json!({ "labels": { "site": "north" } }))?;
    // Nor does it give a gateway of its own away, or make a token that sees more.
    north.expect(403, "PUT", &format!("{}/labels", paths[0]), &json!({ "labels": { "site": "south" } }))?;
    north.expect(403, "POST", "/v1/tokens", &json!({ "name": "all", "scope": "viewer" }))?;
    north.expect(403, "GET", "/v1/audit", &Value::Null)?;
    assert_eq!(first.get(&paths[1])?["labels"], json!({ "site": "south" }));
    Ok(())
}

/// Returns the id of a gateway that came in and is of a site.
pub(super) fn enrolled(person: &Person<'_>, seed: u8, site: &str) -> Outcome<String> {
    let id = person.running.enrolled(seed)?.id().to_string();
    let labels = json!({ "labels": { "site": site } });
    person.expect(200, "PUT", &format!("/v1/devices/{id}/labels"), &labels)?;
    Ok(id)
}
