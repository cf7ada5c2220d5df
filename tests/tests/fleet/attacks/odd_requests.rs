//! Requests that no honest program sends: too deep, too large, too odd, and with more lines than they have.

use dunlin_e2e::Outcome;
use serde_json::{Value, json};

use super::document::operations;
use super::{Asker, Seeded, exchange};
use crate::device::send_raw;
use crate::serving::Running;

#[test]
fn what_stands_in_a_path_never_becomes_a_line_of_the_answer_nor_a_file() -> Outcome<()> {
    let running = Running::open(dunlin_fleet::http::Bounds::default(), tempfile::tempdir()?, None, None)?;
    let seeded = Seeded::new(Asker::first_of(&running)?)?;
    let odd = [
        "x%0d%0aX-Evil:%20yes",
        "..%2f..%2fkeys%2fonline.pem",
        "%2e%2e%2fkeys%2fadmin.token",
        "%00",
        "%ff%fe",
        "%1b%5b31m",
        "%E2%80%AE",
        "%25",
        "_",
        "'%20OR%20'1'='1",
        "-1",
        "18446744073709551616",
    ];
    for operation in operations()?.into_iter().filter(super::document::Operation::names_an_object) {
        // Each asks as often as a token may.
        let asker = seeded.admin.new_asker(&operation.id, "admin", "*")?;
        for value in odd {
            let path = operation.path_with(|_, _| value.to_owned());
            let reply = asker.ask(&operation.method, &path, operation.headers(), &operation.bytes())?;
            let at = format!("{} {path}: {}", operation.id, String::from_utf8_lossy(&reply.body));
            assert!([400, 404].contains(&reply.status), "{at}: {}", reply.status);
            assert!(!reply.head.to_lowercase().contains("\nx-evil"), "{at}");
            assert!(!reply.body.iter().any(|byte| *byte < 0x20), "{at}");
        }
    }
    for value in odd {
        for path in [
            format!("/device/v1/image/{value}"),
            format!("/device/v1/director/{value}"),
            format!("/device/v1/blobs/{value}"),
            format!("/device/v1/blobs/{}/from/{value}", seeded.release),
        ] {
            assert_eq!(exchange(seeded.admin.server, "GET", &path, "", b"")?.status, 404, "{path}");
        }
    }
    Ok(())
}

#[test]
fn bodies_that_are_too_deep_too_long_or_not_what_was_asked_for_are_refused_by_name() -> Outcome<()> {
    let running = Running::open(dunlin_fleet::http::Bounds::default(), tempfile::tempdir()?, None, None)?;
    let admin = Asker::first_of(&running)?;
    let tokens = "/v1/tokens";
    let odd = [
        ("[".repeat(200_000) + &"]".repeat(200_000), 400),
        (format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000)), 400),
        (format!("{{\"name\":\"{}\",\"scope\":\"viewer\"}}", "x".repeat(900_000)), 400),
        (" ".repeat((1 << 20) + 1), 413),
        ("{\"name\":\"a\",\"scope\":\"viewer\",\"expires_s\":18446744073709551615}".to_owned(), 400),
        ("{\"name\":\"a\",\"scope\":\"viewer\",\"expires_s\":18446744073709551616}".to_owned(), 400),
        ("{\"name\":\"a\",\"scope\":\"viewer\",\"expires_s\":-1}".to_owned(), 400),
        ("{\"name\":\"a\",\"scope\":\"viewer\",\"expires_s\":1e999}".to_owned(), 400),
        ("{\"name\":\"a\",\"name\":\"b\",\"scope\":\"viewer\"}".to_owned(), 400),
        ("{\"name\":\"\\u0000\",\"scope\":\"viewer\"}".to_owned(), 400),
        ("{\"name\":\"\\ud800\",\"scope\":\"viewer\"}".to_owned(), 400),
        ("{\"name\":\"a\\u001b[31m\",\"scope\":\"viewer\"}".to_owned(), 400),
        ("NaN".to_owned(), 400),
        (String::new(), 400),
    ];
    for (body, status) in odd {
        let reply = admin.ask("POST", tokens, "content-type: application/json\r\n", body.as_bytes())?;
        let begin: String = body.chars().take(80).collect();
        assert_eq!(reply.status, status, "{begin}: {}", String::from_utf8_lossy(&reply.body));
        reply.problem()?;
    }
    let bytes = b"{\"name\":\"\xff\",\"scope\":\"viewer\"}";
    assert_eq!(admin.ask("POST", tokens, "content-type: application/json\r\n", bytes)?.status, 400);
    assert_eq!(admin.get(tokens)?["items"].as_array().map(Vec::len), Some(1));
    Ok(())
}

#[test]
fn headers_that_say_a_condition_are_never_passed_over_because_they_cannot_be_read() -> Outcome<()> {
    let running = Running::open(dunlin_fleet::http::Bounds::default(), tempfile::tempdir()?, None, None)?;
    let seeded = Seeded::new(Asker::first_of(&running)?)?;
    let labels = format!("/v1/devices/{}/labels", seeded.sites[0].ids["devices"]);
    let body = json!({ "labels": { "site": "b" } }).to_string();
    for header in ["if-match: \"\u{e4}\"", "if-match: \"0\", \"1\"", "idempotency-key: \u{e4}"] {
        let headers = format!("content-type: application/json\r\n{header}\r\n");
        let reply = seeded.admin.ask("PUT", &labels, &headers, body.as_bytes())?;
        assert!([400, 412].contains(&reply.status), "{header}: {}", reply.status);
    }
    assert_eq!(seeded.admin.get(labels.trim_end_matches("/labels"))?["labels"]["site"], "a");
    Ok(())
}

#[test]
fn numbers_at_their_ends_and_signs_of_other_languages_are_answered_in_good_order() -> Outcome<()> {
    let running = Running::open(dunlin_fleet::http::Bounds::default(), tempfile::tempdir()?, None, None)?;
    let mut seeded = Seeded::new(Asker::first_of(&running)?)?;
    let hook = seeded.hook("http://127.0.0.1:9/")?;
    let device = &seeded.sites[0].ids["devices"];
    let ends = [0, 1, (1 << 31) - 1, 1 << 53, (1 << 63) - 1, 1 << 63, u64::MAX];
    for end in ends {
        for path in [
            format!("/v1/devices?limit={end}"),
            format!("/v1/audit?limit={end}"),
            format!("/v1/devices/{device}/rows?stream=losses&after={end}"),
            format!("/v1/events?after={end}"),
        ] {
            let reply = seeded.admin.ask("GET", &path, "", b"")?;
            assert!([200, 400].contains(&reply.status), "{path}: {}", reply.status);
        }
        let reply = seeded.admin.ask("GET", "/v1/events", &format!("last-event-id: {end}\r\n"), b"")?;
        assert!([200, 400].contains(&reply.status), "{end}: {}", reply.status);
        let retry = format!("/v1/webhooks/{hook}/deliveries/{end}/retry");
        let reply = seeded.admin.ask_json("POST", &retry, "", &json!({ "reason": "x" }))?;
        assert!([200, 404].contains(&reply.status), "{retry}: {}", reply.status);
        let reply =
            exchange(seeded.admin.server, "GET", &format!("/device/v1/image/{end}.root.json"), "", b"")?;
        assert!([200, 404].contains(&reply.status), "{end}: {}", reply.status);
    }
    // Signs that a database would take for its own stand for themselves alone.
    for query in ["site~\"%\"", "site~\"_\"", "site=\"%\"", "site=\"' OR 1=1 --\"", "\"site\"~\"\\\\*b\""] {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let page = seeded.admin.get(&format!("/v1/devices?query={escaped}"))?;
        assert_eq!(page["items"], json!([]), "{query}");
    }
    // A form of many stars against a long value takes no longer than it has signs.
    let stars: String = "a%2A".repeat(60) + "b";
    seeded.admin.get(&format!("/v1/devices?query=site~%22{stars}%22"))?;
    for model in ["%25", "_rost", "fros%25"] {
        assert_eq!(seeded.admin.get(&format!("/v1/releases?model={model}"))?["items"], json!([]), "{model}");
    }
    let labels = json!({ "labels": { "site": "a", "ort": "Zürich 東京 🐦" }, "reason": "ärger" });
    let path = format!("/v1/devices/{device}/labels");
    seeded.admin.expect(200, "PUT", &path, &labels)?;
    let detail = seeded.admin.get(&format!("/v1/devices/{device}"))?;
    assert_eq!(detail["labels"], labels["labels"]);
    assert_eq!(seeded.admin.get("/v1/audit/verify")?["first_broken"], Value::Null);
    Ok(())
}

#[test]
fn a_head_that_two_servers_could_read_in_two_ways_is_refused() -> Outcome<()> {
    let running = Running::start()?;
    let odd = [
        "GET /healthz HTTP/1.1\r\nhost: f\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        "GET /healthz HTTP/1.1\r\nhost: f\r\ncontent-length: +5\r\n\r\nabcde",
        "GET /healthz HTTP/1.1\r\nhost: f\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nhost : f\r\n\r\n",
        "GET /healthz HTTP/1.1\r\n host: f\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nhost: f\r\nx: a\0b\r\n\r\n",
    ];
    for head in odd {
        let status = send_raw(running.address, &[head.as_bytes()]).map(|reply| reply.status);
        assert!(matches!(status, Ok(400)), "{head:?}: {status:?}");
    }
    let many: String = (0..1_000).map(|n| format!("x{n}: y\r\n")).collect();
    let reply = send_raw(running.address, &[format!("GET /healthz HTTP/1.1\r\n{many}\r\n").as_bytes()])?;
    assert_eq!(reply.status, 431);
    let long = format!("GET /healthz HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    assert_eq!(send_raw(running.address, &[long.as_bytes()])?.status, 431);
    Ok(())
}
