//! A token for one site, at every route with what belongs to another: it is told nothing, and nothing changes.

use dunlin_e2e::Outcome;
use serde_json::{Value, json};

use super::document::{Operation, operations};
use super::{Asker, Belongings, Seeded};
use crate::serving::Running;

/// What is the whole fleet's, and is there for everybody who may look at it.
const SHARED: [&str; 4] = ["blob.look", "blob.put", "image.get-file", "release.get"];

/// Returns the path with what belongs to a site; none where it is the whole fleet's.
fn path_to(operation: &Operation, belongings: &Belongings, webhook: &str) -> String {
    operation.path_with(|kind, name| match (kind, name) {
        ("webhooks", "id") => webhook.to_owned(),
        ("deliveries", "event") => "1".to_owned(),
        (_, "order") => "abort".to_owned(),
        (kind, _) => {
            let id = belongings.ids.get(kind);
            assert!(id.is_some(), "whose is what `{}` names?", operation.path);
            id.unwrap().clone()
        }
    })
}

/// Returns all that there is of a site, as an administrator sees it.
fn standing(admin: &Asker, belongings: &Belongings) -> Outcome<Vec<Value>> {
    let mut seen = Vec::new();
    for kind in ["devices", "rollouts"] {
        seen.push(admin.get(&format!("/v1/{kind}/{}", belongings.ids[kind]))?);
    }
    for kind in ["enrolment-tokens", "expected-devices", "tokens"] {
        let page = admin.get(&format!("/v1/{kind}?limit=1000"))?;
        let mut own = page["items"].as_array().into_iter().flatten();
        let mut own = own.find(|item| item["id"] == belongings.ids[kind].as_str()).cloned().unwrap();
        own["used"] = Value::Null;
        seen.push(own);
    }
    seen.push(admin.get("/v1/webhooks")?);
    Ok(seen)
}

#[test]
fn what_belongs_to_another_site_does_not_exist_for_a_token_and_does_not_change() -> Outcome<()> {
    let running = Running::open(dunlin_fleet::http::Bounds::default(), tempfile::tempdir()?, None, None)?;
    let mut seeded = Seeded::new(Asker::first_of(&running)?)?;
    let webhook = seeded.hook("http://127.0.0.1:9/")?;
    let [own, other] = seeded.sites.clone();
    let mut never = other.clone();
    for id in never.ids.values_mut() {
        // Another of the same form.
        let last = if id.ends_with('a') { "b" } else { "a" };
        id.replace_range(id.len() - 1.., last);
    }
    let before = standing(&seeded.admin, &other)?;
    for scope in ["viewer", "operator", "admin"] {
        let asker = seeded.admin.new_asker(scope, scope, "site=a")?;
        for operation in
            operations()?.into_iter().filter(|operation| !SHARED.contains(&operation.id.as_str()))
        {
            let ask =
                |path: &str| asker.ask(&operation.method, path, operation.headers(), &operation.bytes());
            let reply = ask(&path_to(&operation, &other, &webhook))?;
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            let at = format!("{scope} {}: {}: {text}", operation.id, reply.status);
            if operation.names_an_object() {
                assert!([403, 404].contains(&reply.status), "{at}");
                let nothing = ask(&path_to(&operation, &never, "whk-nothing"))?;
                assert_eq!(reply.status, nothing.status, "{at}");
                if reply.status == 404 {
                    let mut nothing = String::from_utf8_lossy(&nothing.body).into_owned();
                    for (kind, id) in &never.ids {
                        nothing = nothing.replace(id, &other.ids[kind]);
                    }
                    assert_eq!(text, nothing, "{at}");
                }
            } else {
                for id in other.ids.values() {
                    assert!(!text.contains(id.as_str()), "{at}");
                }
            }
        }
    }
    assert_eq!(standing(&seeded.admin, &other)?, before);
    // Nor is it refused what is its own.
    let operator = seeded.admin.new_asker("own", "operator", "site=a")?;
    operator.get(&format!("/v1/devices/{}", own.ids["devices"]))?;
    operator.get(&format!("/v1/rollouts/{}", own.ids["rollouts"]))?;
    Ok(())
}

#[test]
fn what_concerns_the_whole_fleet_is_refused_to_a_token_for_a_part_and_written_down() -> Outcome<()> {
    let running = Running::open(dunlin_fleet::http::Bounds::default(), tempfile::tempdir()?, None, None)?;
    let seeded = Seeded::new(Asker::first_of(&running)?)?;
    let some = seeded.admin.new_asker("some", "admin", "site=a")?;
    let wide = json!({ "name": "wide", "scope": "admin", "devices": "*" });
    let rules = json!({ "rules": [] });
    let cases = [
        ("GET", "/metrics", Value::Null),
        ("GET", "/v1/audit", Value::Null),
        ("GET", "/v1/webhooks", Value::Null),
        ("POST", "/v1/tokens", wide),
        ("PUT", "/v1/policies/uploads", rules.clone()),
        ("PUT", "/v1/policies/exchange", rules.clone()),
        ("PUT", "/v1/policies/approvals", rules),
        ("POST", "/v1/image", json!({ "files": {} })),
        ("POST", "/v1/director", json!({ "files": {} })),
    ];
    let count = cases.len();
    for (method, path, body) in cases {
        some.expect(403, method, path, &body)?;
    }
    let refused = seeded.admin.deeds("token.refused")?;
    assert_eq!(refused.iter().filter(|line| line["who"] == "some").count(), count, "{refused:?}");
    Ok(())
}

#[test]
fn a_token_for_one_site_takes_no_gateway_of_another_and_gives_none_away() -> Outcome<()> {
    let running = Running::open(dunlin_fleet::http::Bounds::default(), tempfile::tempdir()?, None, None)?;
    let seeded = Seeded::new(Asker::first_of(&running)?)?;
    let [own, other] = &seeded.sites;
    let operator = seeded.admin.new_asker("some", "operator", "site=a")?;
    // Whoever knows the key of a gateway that is expected elsewhere.
    let key = other.device.clone().sibling().public().to_string();
    let take = json!({ "public_key": key, "labels": { "site": "a" } });
    operator.expect(403, "POST", "/v1/expected-devices", &take)?;
    // One that is enrolled elsewhere would come over with its next enrolment.
    let key = other.device.public().to_string();
    let take = json!({ "public_key": key, "labels": { "site": "a" } });
    operator.expect(403, "POST", "/v1/expected-devices", &take)?;
    let labels = format!("/v1/devices/{}/labels", own.ids["devices"]);
    operator.expect(403, "PUT", &labels, &json!({ "labels": { "site": "b" } }))?;
    let wide = json!({ "spec": { "releases": [{ "digest": seeded.release.to_string() }], "query": "*" } });
    let made = operator.expect(201, "POST", "/v1/rollouts", &wide)?;
    assert_eq!(made["query"], "site=a");
    let plan = operator.expect(200, "POST", "/v1/rollouts/plan", &wide)?;
    assert!(!plan.to_string().contains(&other.ids["devices"]), "{plan}");
    Ok(())
}
