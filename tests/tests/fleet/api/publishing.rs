//! Publishing over REST: blobs first, then what the owner signed; by whom, and by whom not.

use dunlin_e2e::Outcome;
use dunlin_e2e::fleet_owner::FleetOwner;
use dunlin_fleet::http::Bounds;
use dunlin_trust::sign::repository::Files;
use serde_json::{Value, json};

use super::Person;
use crate::device::{Reply, request};
use crate::serving::Running;

fn put(person: &Person<'_>, path: &str, content: &[u8]) -> Outcome<Reply> {
    let headers = format!("authorization: Bearer {}\r\n", person.token);
    request(person.running.address, "PUT", path, &headers, content)
}

fn upload_of(files: &Files) -> Value {
    let files: serde_json::Map<String, Value> =
        files.iter().map(|(name, raw)| (name.clone(), json!(String::from_utf8_lossy(raw)))).collect();
    json!({ "files": files, "reason": "first models" })
}

#[test]
fn an_owner_adopts_a_server_and_publishes() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let running = Running::open(Bounds::default(), tempfile::tempdir()?, None, None)?;
    let first = Person::first(&running)?;
    let before = first.get("/v1/server")?;
    assert_eq!(
        (&before["image"]["is_adopted"], &before["image"]["root_version"]),
        (&json!(false), &json!(0))
    );
    let online = running.with_fleet(async |fleet| fleet.key.role().public())?;
    let mut owner = FleetOwner::of(&online)?;
    let taken = first.expect(200, "POST", "/v1/image", &upload_of(owner.image()))?;
    assert_eq!(taken["files"].as_array().map(Vec::len), Some(4), "{taken}");
    first.expect(200, "POST", "/v1/director", &upload_of(owner.director()))?;
    let after = first.get("/v1/server")?;
    assert_eq!(after["image"]["is_adopted"], true);
    assert_eq!((&after["image"]["root_version"], &after["director_root_version"]), (&json!(1), &json!(1)));
    assert!(after["image"]["timestamp_expires"].is_string());

    let release = owner.approve(folder.path(), "frost", 1, &[])?;
    let missing = first.ask("POST", "/v1/image", "", &upload_of(owner.image()))?;
    let missing: Value = serde_json::from_slice(&missing.body)?;
    assert_eq!((&missing["status"], &missing["code"]), (&json!(409), &json!("missing_blobs")));
    assert!(missing["detail"].as_str().unwrap_or_default().contains(&release.digest.to_string()));
    for (sha256, content) in owner.blobs() {
        let path = format!("/v1/blobs/{sha256}");
        assert_eq!(first.ask("HEAD", &path, "", &Value::Null)?.status, 404);
        assert_eq!(put(&first, &path, &content[1..])?.status, 422);
        assert_eq!(put(&first, &path, content)?.status, 201);
        assert_eq!(put(&first, &path, content)?.status, 200);
        assert_eq!(first.ask("HEAD", &path, "", &Value::Null)?.status, 200);
    }
    let taken = first.expect(200, "POST", "/v1/image", &upload_of(owner.image()))?;
    assert_eq!(taken["releases"], json!([release.digest.to_string()]));
    assert_eq!(first.expect(200, "POST", "/v1/image", &upload_of(owner.image()))?["files"], json!([]));
    let held = first.get("/v1/image")?;
    for (name, raw) in
        [("1.root.json", owner.first_root()), ("2.targets.json", &owner.image()["2.targets.json"])]
    {
        assert_eq!(held["files"][name].as_str().map(str::as_bytes), Some(raw), "{name}");
    }
    let file = first.ask("GET", "/v1/image/1.root.json", "", &Value::Null)?;
    assert_eq!(file.body, owner.first_root());
    assert_eq!(first.get("/v1/director")?["files"].as_object().map(serde_json::Map::len), Some(1));

    let listed = first.get("/v1/releases?model=frost")?;
    assert_eq!(listed["items"][0]["digest"], release.digest.to_string());
    assert_eq!(listed["items"][0]["signers"].as_array().map(Vec::len), Some(1));
    assert_eq!(first.get("/v1/releases?model=other")?["items"], json!([]));
    let detail = first.get(&format!("/v1/releases/{}", release.digest))?;
    assert_eq!((&detail["manifest"]["name"], &detail["counter"]), (&json!("frost"), &json!(1)));
    first.expect(404, "GET", "/v1/releases/nobody", &Value::Null)?;
    let actions: Vec<String> = first.deeds()?.into_iter().map(|(_, action)| action).collect();
    assert_eq!(actions, ["image.root", "director.root", "image.publish"]);
    let events = running.write(|sql| dunlin_fleet::store::events::page(sql, 0, 100))?;
    let told: Vec<(&str, &str)> =
        events.iter().map(|event| (event.kind.as_str(), event.object.as_str())).collect();
    assert_eq!(told, [("release.published", release.digest.to_string().as_str())]);
    let body: Value = serde_json::from_str(&events[0].body)?;
    assert_eq!((&body["model"], &body["counter"]), (&json!("frost"), &json!(1)));
    Ok(())
}

#[test]
fn releases_and_settings_are_listed_a_page_at_a_time() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let running = Running::open(Bounds::default(), tempfile::tempdir()?, None, None)?;
    let first = Person::first(&running)?;
    let online = running.with_fleet(async |fleet| fleet.key.role().public())?;
    let mut owner = FleetOwner::of(&online)?;
    for (model, release) in [("frost", 1), ("frost", 2), ("heat", 1), ("heat", 10)] {
        owner.approve(folder.path(), model, release, &[])?;
    }
    for name in ["a.toml", "b.toml"] {
        owner.approve_settings(name, name.as_bytes())?;
    }
    for (sha256, content) in owner.blobs() {
        put(&first, &format!("/v1/blobs/{sha256}"), content)?;
    }
    first.expect(200, "POST", "/v1/image", &upload_of(owner.image()))?;
    let mut seen = Vec::new();
    let mut path = "/v1/releases?limit=1".to_owned();
    loop {
        let page = first.get(&path)?;
        seen.push(format!(
            "{}{}",
            page["items"][0]["model"].as_str().unwrap_or_default(),
            page["items"][0]["counter"]
        ));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/releases?limit=1&cursor={next}");
    }
    assert_eq!(seen, ["frost1", "frost2", "heat1", "heat10"]);
    let page = first.get("/v1/settings?limit=1")?;
    assert_eq!(page["items"][0]["path"], "settings/a.toml");
    let next = page["next"].as_str().unwrap_or_default().to_owned();
    let page = first.get(&format!("/v1/settings?limit=1&cursor={next}"))?;
    assert_eq!((&page["items"][0]["path"], &page["next"]), (&json!("settings/b.toml"), &Value::Null));
    first.expect(400, "GET", "/v1/releases?cursor=AAAA", &Value::Null)?;
    Ok(())
}

#[test]
fn who_may_not_publish_is_refused_and_what_a_thief_signed_is_written_down() -> Outcome<()> {
    let running = Running::open(Bounds::default(), tempfile::tempdir()?, None, None)?;
    let first = Person::first(&running)?;
    let online = running.with_fleet(async |fleet| fleet.key.role().public())?;
    let owner = FleetOwner::of(&online)?;
    let (viewer, operator) =
        (first.new_person("viewer", "viewer", "*")?, first.new_person("operator", "operator", "*")?);
    let some = first.new_person("some", "admin", "site=a")?;
    let upload = upload_of(owner.image());
    for (person, path) in
        [(&viewer, "/v1/image"), (&operator, "/v1/image"), (&operator, "/v1/director"), (&some, "/v1/image")]
    {
        person.expect(403, "POST", path, &upload)?;
    }
    let blob = format!("/v1/blobs/{}", dunlin_protocol::Digest::of(b"x"));
    assert_eq!(put(&viewer, &blob, b"x")?.status, 403);
    assert_eq!(put(&operator, &blob, b"x")?.status, 201);
    assert_eq!(put(&operator, "/v1/blobs/..%2f..%2fkeys", b"x")?.status, 404);
    assert_eq!(request(running.address, "PUT", &blob, "", b"x")?.status, 401);
    first.expect(200, "POST", "/v1/image", &upload)?;
    let mut thief = FleetOwner::with_seeds(&online, [7; 32], [8; 32])?;
    thief.approve_settings("evil.toml", b"[trust]\n")?;
    let newest = Files::from([("2.targets.json".to_owned(), thief.image()["2.targets.json"].clone())]);
    let refused = first.ask("POST", "/v1/image", "", &upload_of(&newest))?;
    let refused: Value = serde_json::from_slice(&refused.body)?;
    assert_eq!((&refused["status"], &refused["code"]), (&json!(422), &json!("signature")));
    assert_eq!(first.deeds()?.last().map(|(_, action)| action.as_str()), Some("image.refuse"));
    first.expect(404, "GET", "/v1/image/2.targets.json", &Value::Null)?;
    Ok(())
}
