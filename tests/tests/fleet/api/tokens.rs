//! Tokens: what each may do, when it ends, and what is written down of it.

use dunlin_e2e::Outcome;
use serde_json::{Value, json};

use super::Person;
use crate::device::request;
use crate::serving::Running;

#[test]
fn without_a_good_token_nothing_is_shown() -> Outcome<()> {
    let running = Running::start()?;
    let first = Person::first(&running)?;
    let ended = first.new_person("ended", "admin", "*")?;
    let id = first.get("/v1/tokens")?["items"][1]["id"].as_str().unwrap_or_default().to_owned();
    first.expect(200, "POST", &format!("/v1/tokens/{id}/revoke"), &json!({ "reason": "left" }))?;
    assert_eq!(ended.ask("GET", "/v1/server", "", &Value::Null)?.status, 401);
    for headers in [
        "",
        "authorization: Bearer dlt_x_y\r\n",
        "authorization: Basic Zmlyc3Q6\r\n",
        "authorization: Bearer\r\n",
    ] {
        let reply = request(running.address, "GET", "/v1/devices", headers, b"")?;
        assert_eq!((reply.status, reply.problem()?.as_str()), (401, "token"), "{headers}");
        assert!(reply.head.to_lowercase().contains("www-authenticate: bearer"));
    }
    Ok(())
}

#[test]
fn a_scope_is_not_gone_beyond_and_who_tries_is_written_down() -> Outcome<()> {
    let running = Running::start()?;
    let first = Person::first(&running)?;
    let device = running.device(1);
    let expected = json!({ "public_key": device.public().to_string(), "labels": { "site": "a" } });
    let viewer = first.new_person("viewer", "viewer", "*")?;
    let operator = first.new_person("operator", "operator", "*")?;
    viewer.expect(403, "POST", "/v1/expected-devices", &expected)?;
    operator.expect(201, "POST", "/v1/expected-devices", &expected)?;
    operator.expect(403, "POST", "/v1/tokens", &json!({ "name": "x", "scope": "viewer" }))?;
    operator.expect(403, "GET", "/v1/audit", &Value::Null)?;
    let refused: Vec<String> = first
        .deeds()?
        .into_iter()
        .filter(|(_, action)| action == "token.refused")
        .map(|(who, _)| who)
        .collect();
    assert_eq!(refused, ["viewer", "operator", "operator"]);
    assert_eq!(first.get("/v1/audit/verify")?["first_broken"], Value::Null);
    Ok(())
}

#[test]
fn a_request_that_is_sent_again_is_done_once() -> Outcome<()> {
    let running = Running::start()?;
    let first = Person::first(&running)?;
    let wish = |seed| json!({ "public_key": running.device(seed).public().to_string() });
    let name = "idempotency-key: 7\r\n";
    let made = first.ask("POST", "/v1/expected-devices", name, &wish(1))?;
    let again = first.ask("POST", "/v1/expected-devices", name, &wish(1))?;
    assert_eq!((made.status, &made.body), (201, &again.body));
    let other = first.ask("POST", "/v1/expected-devices", name, &wish(2))?;
    assert_eq!((other.status, other.problem()?.as_str()), (422, "idempotency"));
    let deeds = first.deeds()?;
    assert_eq!(deeds.iter().filter(|(_, action)| action == "expected-device.create").count(), 1);
    // A secret is not kept to be shown again.
    let token = json!({ "name": "ci", "scope": "viewer" });
    assert_eq!(first.ask("POST", "/v1/tokens", "idempotency-key: 8\r\n", &token)?.status, 201);
    assert_eq!(first.ask("POST", "/v1/tokens", "idempotency-key: 8\r\n", &token)?.status, 409);
    Ok(())
}

#[test]
fn bad_bodies_and_parameters_are_named() -> Outcome<()> {
    let running = Running::start()?;
    let first = Person::first(&running)?;
    let cases = [
        ("POST", "/v1/tokens", json!({ "name": "", "scope": "viewer" }), "`name`"),
        ("POST", "/v1/tokens", json!({ "name": "a", "scope": "king" }), "`scope`"),
        ("POST", "/v1/tokens", json!({ "name": "a", "scope": "viewer", "devices": "site=" }), "label query"),
        ("POST", "/v1/tokens", json!({ "name": "a", "scope": "viewer", "extra": 1 }), "extra"),
        ("POST", "/v1/expected-devices", json!({ "public_key": "00" }), "`public_key`"),
        ("GET", "/v1/devices?limit=0", Value::Null, "`limit`"),
        ("GET", "/v1/devices?limit=many", Value::Null, "limit"),
        ("GET", "/v1/devices?cursor=%01", Value::Null, "`cursor`"),
        ("GET", "/v1/devices?cursor=%00", Value::Null, "NUL"),
        ("GET", "/v1/devices?query=a%3D", Value::Null, "label query"),
    ];
    for (method, path, body, named) in cases {
        let reply = first.ask(method, path, "", &body)?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(reply.status, 400, "{path}: {text}");
        assert!(text.contains(named), "{path}: {text}");
    }
    assert_eq!(request(running.address, "DELETE", "/v1/devices", "", b"")?.problem()?.as_str(), "method");
    Ok(())
}
