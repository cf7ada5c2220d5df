//! Events as they happen, and the figures of the fleet.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use dunlin_e2e::{Failure, Outcome};
use serde_json::{Value, json};

use super::Person;
use crate::serving::Running;

/// A stream of events that is being read.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(person: &Person<'_>, query: &str, headers: &str) -> Outcome<Self> {
        let mut stream = TcpStream::connect(person.running.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        write!(
            stream,
            "GET /v1/events{query} HTTP/1.1\r\nhost: fleet\r\nconnection: close\r\nauthorization: Bearer {}\r\n{headers}\r\n",
            person.token
        )?;
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while reader.read_line(&mut head)? > 2 {}
        if !head.starts_with("HTTP/1.1 200") || !head.contains("text/event-stream") {
            return Err(Failure::new(head));
        }
        Ok(Self(reader))
    }

    /// Returns the next event's number, kind and object; none at the end.
    fn next(&mut self) -> Outcome<Option<(u64, String, String)>> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            if let Some(data) = line.strip_prefix("data: ") {
                let event: Value = serde_json::from_str(data)?;
                let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
                return Ok(Some((event["seq"].as_u64().unwrap_or(0), text("kind"), text("object"))));
            }
        }
    }
}

fn suspend(person: &Person<'_>, id: &str) -> Outcome<()> {
    person.expect(200, "POST", &format!("/v1/devices/{id}/suspend"), &json!({ "reason": "test" }))?;
    Ok(())
}

#[test]
fn events_go_on_where_a_listener_left_and_end_with_his_token() -> Outcome<()> {
    let running = Running::start()?;
    let first = Person::first(&running)?;
    let ids = [super::devices::enrolled(&first, 1, "a")?, super::devices::enrolled(&first, 2, "b")?];
    let listener = first.new_person("listener", "viewer", "*")?;
    let mut stream = Stream::open(&listener, "?after=0", "")?;
    let enrolled = [stream.next()?.unwrap(), stream.next()?.unwrap()];
    assert_eq!(
        enrolled.clone().map(|event| (event.0, event.1)),
        [(1, "device.enrolled".to_owned()), (2, "device.enrolled".to_owned())]
    );
    suspend(&first, &ids[0])?;
    assert_eq!(stream.next()?, Some((3, "device.state".to_owned(), ids[0].clone())));
    drop(stream);
    suspend(&first, &ids[1])?;
    let mut stream = Stream::open(&listener, "", "last-event-id: 3\r\n")?;
    assert_eq!(stream.next()?, Some((4, "device.state".to_owned(), ids[1].clone())));
    // Who sees some gateways only hears of those alone.
    let other = first.new_person("other", "viewer", "site=b")?;
    let mut narrow = Stream::open(&other, "?after=0", "")?;
    assert_eq!([narrow.next()?.unwrap().2, narrow.next()?.unwrap().2], [ids[1].clone(), ids[1].clone()]);
    let tokens = first.get("/v1/tokens")?;
    let token = tokens["items"].as_array().unwrap().iter().find(|token| token["name"] == "listener").unwrap();
    let path = format!("/v1/tokens/{}/revoke", token["id"].as_str().unwrap());
    first.expect(200, "POST", &path, &json!({ "reason": "left" }))?;
    first.expect(200, "POST", &format!("/v1/devices/{}/resume", ids[0]), &json!({ "reason": "" }))?;
    assert_eq!(stream.next()?, None);
    Ok(())
}

#[test]
fn figures_need_a_token_and_name_no_gateway() -> Outcome<()> {
    let running = Running::start()?;
    let first = Person::first(&running)?;
    let id = super::devices::enrolled(&first, 1, "a")?;
    let nobody = Person { running: &running, token: "none".to_owned() };
    assert_eq!(nobody.ask("GET", "/metrics", "", &Value::Null)?.status, 401);
    let narrow = first.new_person("narrow", "viewer", "site=b")?;
    assert_eq!(narrow.ask("GET", "/metrics", "", &Value::Null)?.status, 403);
    let reply = first.ask("GET", "/metrics", "", &Value::Null)?;
    let text = String::from_utf8(reply.body).map_err(Failure::of("text"))?;
    assert_eq!(reply.status, 200);
    assert!(text.contains("dunlin_fleet_devices{state=\"active\"} 1"), "{text}");
    assert!(text.contains("dunlin_fleet_requests_total{surface=\"people\",status=\"2xx\"}"), "{text}");
    assert!(text.ends_with("# EOF\n") && !text.contains(&id), "{text}");
    Ok(())
}
