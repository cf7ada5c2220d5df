//! Each route, asked for by nobody, by each scope that is too low for it, and by the lowest that may.

use std::collections::BTreeMap;

use dunlin_e2e::Outcome;
use serde_json::Value;

use super::document::operations;
use super::{Asker, Seeded, exchange};
use crate::serving::Running;

/// What may be asked for by whom. Written by hand: whoever adds a route says here who may.
const NEEDED: [(&str, &[&str]); 3] = [
    (
        "viewer",
        &[
            "device.accounts",
            "device.get",
            "device.list",
            "device.rows",
            "director.get",
            "event.listen",
            "image.get",
            "image.get-file",
            "metrics.get",
            "release.get",
            "release.list",
            "rollout.devices",
            "rollout.get",
            "rollout.list",
            "server.get",
            "settings.list",
        ],
    ),
    (
        "operator",
        &[
            "blob.look",
            "blob.put",
            "device.accept",
            "device.label",
            "device.resume",
            "device.suspend",
            "enrolment-token.create",
            "enrolment-token.list",
            "enrolment-token.revoke",
            "expected-device.create",
            "expected-device.forget",
            "expected-device.list",
            "rollout.make",
            "rollout.order",
            "rollout.plan",
        ],
    ),
    (
        "admin",
        &[
            "audit.list",
            "audit.verify",
            "device.revoke",
            "director.upload",
            "image.upload",
            "policy.approvals",
            "policy.approvals.set",
            "policy.exchange.get",
            "policy.exchange.set",
            "policy.uploads.get",
            "policy.uploads.set",
            "token.create",
            "token.list",
            "token.revoke",
            "webhook.create",
            "webhook.deliveries",
            "webhook.get",
            "webhook.list",
            "webhook.remove",
            "webhook.retry",
            "webhook.test",
        ],
    ),
];

#[test]
fn each_route_is_for_its_scope_and_above_and_who_tries_is_written_down() -> Outcome<()> {
    let running = Running::open(dunlin_fleet::http::Bounds::default(), tempfile::tempdir()?, None, None)?;
    let seeded = Seeded::new(Asker::first_of(&running)?)?;
    let admin = &seeded.admin;
    let needed: BTreeMap<&str, usize> = NEEDED
        .iter()
        .enumerate()
        .flat_map(|(rank, (_, operations))| operations.iter().map(move |operation| (*operation, rank)))
        .collect();
    let askers: Vec<Asker> =
        NEEDED.iter().map(|(scope, _)| admin.new_asker(scope, scope, "*")).collect::<Outcome<_>>()?;
    let mut tried = 0;
    for operation in operations()? {
        let rank =
            *needed.get(operation.id.as_str()).unwrap_or_else(|| panic!("who may `{}`?", operation.id));
        let path = operation.path_with(|_, name| match name {
            "order" => "start".to_owned(),
            "event" => "1".to_owned(),
            _ => "nothing".to_owned(),
        });
        let ask =
            |asker: &Asker| asker.ask(&operation.method, &path, operation.headers(), &operation.bytes());
        let nobody = Asker { server: admin.server, token: String::new() };
        let reply = ask(&nobody)?;
        assert_eq!(reply.status, 401, "{}", operation.id);
        assert!(reply.head.to_lowercase().contains("www-authenticate: bearer"), "{}", reply.head);
        for asker in &askers[..rank] {
            let reply = ask(asker)?;
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            assert_eq!(reply.status, 403, "{}: {text}", operation.id);
            if operation.method != "HEAD" {
                assert_eq!(reply.problem()?.as_str(), "scope", "{}", operation.id);
            }
            tried += 1;
        }
        let reply = ask(&askers[rank])?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(![401, 403].contains(&reply.status), "{}: {text}", operation.id);
    }
    assert!(tried > 50, "{tried}");
    assert_eq!(admin.deeds("token.refused")?.len(), tried);
    assert_eq!(admin.get("/v1/audit/verify")?["first_broken"], Value::Null);
    Ok(())
}

#[test]
fn no_other_way_than_a_bearer_says_who_asks_and_no_page_elsewhere_is_let_in() -> Outcome<()> {
    let running = Running::open(dunlin_fleet::http::Bounds::default(), tempfile::tempdir()?, None, None)?;
    let admin = Asker::first_of(&running)?;
    let (server, token) = (admin.server, admin.token.clone());
    let order = b"{\"name\":\"evil\",\"scope\":\"admin\"}";
    // What a form or script of another site can send with what a browser adds by itself.
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        let headers = format!(
            "origin: https://evil.example\r\ncontent-type: {kind}\r\ncookie: token={token}; authorization=Bearer {token}\r\n"
        );
        assert_eq!(exchange(server, "POST", "/v1/tokens", &headers, order)?.status, 401, "{kind}");
        // Not even with the token: JSON is asked for by name, which no form can.
        assert_eq!(admin.ask("POST", "/v1/tokens", &format!("content-type: {kind}\r\n"), order)?.status, 415);
    }
    for path in [format!("/v1/tokens?access_token={token}"), format!("/v1/tokens?token={token}")] {
        assert_eq!(exchange(server, "GET", &path, "", b"")?.status, 401);
    }
    for scheme in ["Basic", "Token", "bearer:", ""] {
        let headers = format!("authorization: {scheme} {token}\r\n");
        assert_eq!(exchange(server, "GET", "/v1/tokens", &headers, b"")?.status, 401, "{scheme}");
    }
    let preflight = "origin: https://evil.example\r\naccess-control-request-method: POST\r\n\
        access-control-request-headers: authorization,content-type\r\n";
    let asked = [
        exchange(server, "OPTIONS", "/v1/tokens", preflight, b"")?,
        admin.ask("GET", "/v1/tokens", "origin: https://evil.example\r\n", b"")?,
    ];
    assert_eq!(asked.each_ref().map(|reply| reply.status), [405, 200]);
    for reply in asked {
        assert!(!reply.head.to_lowercase().contains("access-control"), "{}", reply.head);
        assert!(!reply.head.to_lowercase().contains("set-cookie"), "{}", reply.head);
    }
    assert_eq!(admin.get("/v1/tokens")?["items"].as_array().map(Vec::len), Some(1));
    Ok(())
}
