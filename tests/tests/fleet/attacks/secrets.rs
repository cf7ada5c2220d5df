//! What the server writes down for people, after a whole run with everything told: no secret, and nothing that moves a
//! terminal's cursor.

use std::net::SocketAddr;

use dunlin_e2e::Outcome;
use dunlin_e2e::fleet_server::ServerPlan;
use serde_json::json;

use super::{Asker, Seeded, exchange};

#[test]
fn a_log_that_tells_everything_tells_no_secret_and_nothing_that_a_terminal_obeys() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let plan = ServerPlan::new(folder.path())?
        .with(&["--private-webhooks"])
        .within(vec![("RUST_LOG".to_owned(), "trace".to_owned())]);
    let mut server = plan.start()?;
    let address = SocketAddr::from(([127, 0, 0, 1], plan.port));
    let mut seeded = Seeded::new(Asker::first(address, &plan.data)?)?;
    let hook = seeded.hook("http://127.0.0.1:9/hook-path-secret")?;
    seeded.secrets.push("hook-path-secret".to_owned());
    seeded.admin.expect(200, "POST", &format!("/v1/webhooks/{hook}/test"), &json!({}))?;
    let [own, _] = &seeded.sites;
    let (device, rollout) = (&own.ids["devices"], &own.ids["rollouts"]);
    seeded.admin.expect(200, "POST", &format!("/v1/rollouts/{rollout}/start"), &json!({ "reason": "go" }))?;
    // Somebody who has no token, and writes what a terminal would obey wherever he can.
    for headers in
        ["authorization: Bearer \u{9b}31m\r\n", "user-agent: \u{9b}2J\r\nx: \u{1b}]0;evil\u{7}\r\n"]
    {
        let _ = exchange(address, "GET", "/v1/devices/%1b%5b2J", headers, b"");
    }
    let _ = exchange(address, "POST", "/v1/tokens\u{9b}2J", "", b"\x1b[2J");
    seeded.admin.expect(400, "POST", "/v1/tokens", &json!({ "name": "\u{1b}[2J", "scope": "viewer" }))?;
    let order = json!({ "reason": "lost" });
    seeded.admin.expect(200, "POST", &format!("/v1/devices/{device}/suspend"), &order)?;
    server.terminate()?;
    let key = std::fs::read_to_string(plan.data.join("keys/online.pem"))?;
    let line = key.lines().find(|line| !line.starts_with("-----") && line.len() > 40);
    seeded.secrets.push(line.unwrap_or(key.trim()).to_owned());
    let log = std::fs::read(&plan.log)?;
    let log = String::from_utf8_lossy(&log);
    assert!(log.contains("DEBUG") && log.contains("TRACE"), "nothing was told");
    for secret in &seeded.secrets {
        assert!(secret.len() > 12, "{secret}");
        if log.contains(secret.as_str()) {
            let line = log.lines().find(|line| line.contains(secret.as_str()));
            panic!("a secret stands in the log: {line:?}");
        }
    }
    let odd = log.chars().position(|c| c.is_control() && !matches!(c, '\t' | '\n'));
    let around = odd.map(|at| log.chars().skip(at.saturating_sub(200)).take(400).collect::<String>());
    assert_eq!(around, None);
    Ok(())
}
