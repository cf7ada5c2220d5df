//! Settings from a file of the operator's to the server, by the owner's keys.

use dunlin_e2e::package::write;
use dunlin_e2e::{Failure, Outcome};
use serde_json::Value;

use super::{Office, text};
use crate::device::request;

/// Returns path and digest of the settings that the server names.
fn named(office: &Office) -> Outcome<Vec<(String, String)>> {
    let token = std::fs::read_to_string(office.server.plan().data.join("keys/admin.token"))?;
    let bearer = format!("authorization: Bearer {}\r\n", token.trim());
    let reply = request(office.address(), "GET", "/v1/settings", &bearer, b"")?;
    let listed: Value = serde_json::from_slice(&reply.body)?;
    let items = listed["items"].as_array().ok_or_else(|| Failure::new(listed.to_string()))?;
    let text = |item: &Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
    Ok(items.iter().map(|item| (text(item, "path"), text(item, "digest"))).collect())
}

/// Returns the digest that `dunlin sign --settings` says.
fn signed(office: &Office, content: &[u8]) -> Outcome<String> {
    write(&office.path("night.toml"), content)?;
    let said = office.operator.with_pass(&["sign", "--settings", "night.toml"])?;
    assert!(said.contains("signed settings/night.toml, "), "{said}");
    let digest = said.split(", ").nth(1).and_then(|rest| rest.split_whitespace().next());
    digest.map(str::to_owned).ok_or_else(|| Failure::new(said))
}

#[test]
fn settings_are_signed_published_and_rolled_out_by_their_digest() -> Outcome<()> {
    let office = Office::adopted()?;
    let operator = &office.operator;
    let first = signed(&office, b"[log]\nfilter = \"warn\"\n")?;
    operator.run(&["publish"])?;
    assert_eq!(named(&office)?, [("settings/night.toml".to_owned(), first.clone())]);
    let plan = operator.run(&["rollout", "plan", "--settings", &first, "--query", "*"])?;
    assert!(plan.contains("0 gateways"), "{plan}");
    // A change takes the place of what was there.
    let second = signed(&office, b"[log]\nfilter = \"info\"\n")?;
    operator.run(&["publish"])?;
    assert!(named(&office)?.contains(&("settings/night.toml".to_owned(), second)));
    // A folder takes them along, for mirrors and sticks.
    operator.run(&["publish", "--to", "site"])?;
    Ok(())
}

#[test]
fn what_is_no_file_of_settings_is_refused_and_nothing_is_signed() -> Outcome<()> {
    let office = Office::adopted()?;
    let long = vec![b'#'; 70_000];
    let files: [(&str, &[u8]); 4] =
        [("Night.toml", b""), ("night.txt", b""), ("torn.toml", b"[log\n"), ("long.toml", &long)];
    for (name, content) in files {
        write(&office.path(name), content)?;
        office.operator.refused(&["sign", "--settings", name, "--passphrase-file", "pass"], 5)?;
    }
    office.operator.refused(&["sign", "--settings", text(&office.path("none.toml"))], 1)?;
    office.operator.run(&["publish"])?;
    assert_eq!(named(&office)?, []);
    Ok(())
}
