//! Webhooks against a real receiver, whose signatures another language checks.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use dunlin_e2e::wait::wait_for;
use dunlin_e2e::{Failure, Outcome};
use dunlin_fleet::store::webhooks;
use dunlin_fleet::webhooks::TRIES_MAX;
use serde_json::{Value, json};

use super::Person;
use crate::serving::Running;

/// A request that a receiver got.
struct Received {
    signature: String,
    body: String,
}

/// Receives at a port, and answers each request with the next status; with the last one from then on.
fn receiver(statuses: &'static [u16]) -> Outcome<(String, Receiver<Received>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/hook", listener.local_addr()?);
    let (sender, received) = channel();
    std::thread::spawn(move || {
        let mut statuses = statuses.iter().copied();
        let mut status = 200;
        for stream in listener.incoming().flatten() {
            status = statuses.next().unwrap_or(status);
            if serve(stream, status, &sender).is_err() {
                return;
            }
        }
    });
    Ok((url, received))
}

fn serve(stream: std::net::TcpStream, status: u16, sender: &Sender<Received>) -> Outcome<()> {
    let mut reader = BufReader::new(stream);
    let (mut signature, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            if line.trim_end().is_empty() {
                break;
            }
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "dunlin-signature" => signature = value.to_owned(),
            "content-length" => length = value.parse().map_err(Failure::of("content-length"))?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let location = "location: http://127.0.0.1:1/\r\n";
    write!(
        reader.get_mut(),
        "HTTP/1.1 {status} x\r\n{location}content-length: 0\r\nconnection: close\r\n\r\n"
    )?;
    let body = String::from_utf8(body).map_err(Failure::of("body"))?;
    sender.send(Received { signature, body }).map_err(Failure::of("send"))
}

/// What stands in `docs/server.md` for receivers.
const CHECK: &str = "import hashlib,hmac,sys\n\
secret,header,body=sys.argv[1:]\n\
parts=dict(p.split('=',1) for p in header.split(','))\n\
want=hmac.new(secret.encode(),(parts['t']+'.'+body).encode(),hashlib.sha256).hexdigest()\n\
sys.exit(0 if hmac.compare_digest(want,parts['v1']) else 1)";

fn is_signed(secret: &str, received: &Received) -> Outcome<bool> {
    let status =
        Command::new("python3").args(["-c", CHECK, secret, &received.signature, &received.body]).status()?;
    Ok(status.success())
}

const WAIT: Duration = Duration::from_secs(60);

#[test]
fn an_event_is_signed_and_sent_again_until_it_is_taken() -> Outcome<()> {
    let running = Running::start()?;
    let first = Person::first(&running)?;
    let (url, received) = receiver(&[500, 200])?;
    let made = first.expect(201, "POST", "/v1/webhooks", &json!({ "url": url, "kinds": ["device.*"] }))?;
    let (id, secret) = (made["id"].as_str().unwrap(), made["secret"].as_str().unwrap());
    let device = super::devices::enrolled(&first, 1, "a")?;
    for _ in 0..2 {
        let received = received.recv_timeout(WAIT).map_err(Failure::of("wait"))?;
        assert!(is_signed(secret, &received)?, "{}", received.signature);
        assert!(!is_signed("whsec_other", &received)?);
        let event: Value = serde_json::from_str(&received.body)?;
        assert_eq!((&event["kind"], &event["object"]), (&json!("device.enrolled"), &json!(device)));
    }
    let path = format!("/v1/webhooks/{id}/deliveries");
    let delivered = (0..600).find_map(|_| {
        let page = first.get(&path).ok()?;
        (page["items"][0]["state"] == "delivered").then_some(page)
    });
    assert_eq!(delivered.unwrap()["items"][0]["tries"], 2);
    // Once more, since a person asks for it.
    first.expect(200, "POST", &format!("{path}/1/retry"), &json!({ "reason": "lost" }))?;
    received.recv_timeout(WAIT).map_err(Failure::of("wait"))?;
    assert!(!first.get("/v1/webhooks")?.to_string().contains(secret));
    first.expect(204, "POST", &format!("/v1/webhooks/{id}/remove"), &json!({ "reason": "" }))?;
    first.expect(404, "GET", &path, &Value::Null)?;
    Ok(())
}

#[test]
fn what_no_try_delivers_becomes_a_dead_letter_which_a_person_may_send_again() -> Outcome<()> {
    let running = Running::start()?;
    let first = Person::first(&running)?;
    let (url, received) = receiver(&[500, 500, 200])?;
    let made = first.expect(201, "POST", "/v1/webhooks", &json!({ "url": url, "kinds": ["device.*"] }))?;
    let path = format!("/v1/webhooks/{}/deliveries", made["id"].as_str().unwrap_or_default());
    super::devices::enrolled(&first, 1, "a")?;
    let wait = |what: &str, state: &str, tries: u32| {
        wait_for(what, WAIT, || {
            let item = first.get(&path)?["items"].get(0).cloned().unwrap_or_default();
            Ok((item["state"] == state && item["tries"] == tries).then_some(item))
        })
    };
    let failed = wait("the first try fails", "waiting", 1)?;
    // As if it had failed for days.
    let (id, event) = (made["id"].clone(), failed["event"].as_u64());
    running.write(move |sql| {
        let (id, event) = (id.as_str().unwrap_or_default(), event.unwrap_or_default());
        for mut delivery in webhooks::deliveries(sql, id, None, event - 1, 1)? {
            (delivery.tries, delivery.next_ms) = (TRIES_MAX - 1, 0);
            webhooks::note_tried(sql, &delivery)?;
        }
        Ok(())
    })?;
    let dead = wait("the last try fails", "dead", TRIES_MAX)?;
    assert_eq!(dead["last"], "HTTP 500", "{dead}");
    assert_eq!(received.try_iter().count(), 2);
    first.expect(200, "POST", &format!("{path}/{}/retry", dead["event"]), &json!({ "reason": "mended" }))?;
    wait("it is taken", "delivered", 1)?;
    Ok(())
}

#[test]
fn a_test_tells_what_the_receiver_said_and_follows_no_redirect() -> Outcome<()> {
    let running = Running::start()?;
    let first = Person::first(&running)?;
    let (url, received) = receiver(&[302, 204])?;
    let made = first.expect(201, "POST", "/v1/webhooks", &json!({ "url": url }))?;
    let path = format!("/v1/webhooks/{}/test", made["id"].as_str().unwrap());
    for (is_delivered, result) in [(false, "HTTP 302"), (true, "HTTP 204")] {
        let told = first.expect(200, "POST", &path, &json!({ "reason": "" }))?;
        assert_eq!(told, json!({ "is_delivered": is_delivered, "result": result }));
        let received = received.recv_timeout(WAIT).map_err(Failure::of("wait"))?;
        assert!(is_signed(made["secret"].as_str().unwrap(), &received)?);
    }
    Ok(())
}

#[test]
fn webhooks_are_an_unlimited_administrators_and_never_where_credentials_are() -> Outcome<()> {
    let running = Running::start()?;
    let first = Person::first(&running)?;
    let hook = json!({ "url": "https://hooks.example/x" });
    for (name, scope, devices) in
        [("viewer", "viewer", "*"), ("operator", "operator", "*"), ("narrow", "admin", "site=a")]
    {
        let person = first.new_person(name, scope, devices)?;
        person.expect(403, "POST", "/v1/webhooks", &hook)?;
        person.expect(403, "GET", "/v1/webhooks", &Value::Null)?;
    }
    for url in
        ["http://169.254.169.254/latest", "file:///etc/passwd", "https://u:p@a.example/", "http://[fe80::1]/"]
    {
        first.expect(400, "POST", "/v1/webhooks", &json!({ "url": url }))?;
    }
    Ok(())
}
