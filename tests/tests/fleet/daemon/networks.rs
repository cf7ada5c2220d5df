//! Networks that fail: portals, cuts, servers that are away, too slow or somebody else.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dunlin_e2e::Outcome;
use dunlin_e2e::proxy::{Fault, Proxy};
use dunlin_e2e::tls_front::TlsFront;
use dunlin_e2e::wait::wait_for;
use dunlin_e2e::workspace::note;
use dunlin_fleet::store::policies;
use dunlin_trust::transfer::SPEED_WINDOW;
use serde_json::Value;

use super::deltas::{NOTES_BYTES, wait_spent, with_notes};
use super::{Gateway, assign, publish, publish_model, withdraw};
use crate::trust::Site;

/// Answers for the server: as a captive portal with its page, or as a mirror that is damaged.
pub(super) struct Impostor {
    port: u16,
    stopped: Arc<AtomicBool>,
}

impl Impostor {
    /// Starts one that gives `answer` to whoever asks for a path with `part` in it, and has nothing else.
    pub(super) fn start(
        part: &'static str,
        media_type: &'static str,
        answer: &'static [u8],
    ) -> Outcome<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let stopped = Arc::new(AtomicBool::new(false));
        let own = Arc::clone(&stopped);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if own.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                let mut head = [0; 4_096];
                let count = stream.read(&mut head).unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..count]);
                let is_meant = head.split(' ').nth(1).is_some_and(|path| path.contains(part));
                let (status, body) = if is_meant { ("200 OK", answer) } else { ("404 Not Found", &[][..]) };
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: {media_type}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
                );
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
            }
        });
        Ok(Self { port, stopped })
    }

    /// Returns where it is found.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

#[test]
fn the_page_of_a_portal_is_no_answer_and_changes_nothing() -> Outcome<()> {
    let mut site = Site::new(None)?;
    let first = publish(&mut site, 1)?;
    let gateway = Gateway::new(&site, None)?;
    let (mut daemon, id) = gateway.start_linked()?;
    assign(&site, id, &first)?;
    gateway.wait_good(1)?;
    daemon.terminate()?;
    let portal = Impostor::start("/", "text/html", b"<html>Welcome! Accept our terms.</html>")?;
    let behind = gateway.plan.clone().set("fleet.url", portal.url());
    let mut daemon = behind.start()?;
    daemon.wait_ready()?;
    let status = daemon.wait_status("the portal is told", |status| {
        status["fleet"]["last_error"].as_str().is_some_and(|error| error.contains("text/html"))
    })?;
    assert_eq!(status["fleet"]["answers"], 0, "{status}");
    gateway.wait_good(1)?;
    assert!(daemon.terminate()?.success());
    drop(portal);
    gateway.start_linked()?;
    Ok(())
}

#[test]
fn a_network_that_is_cut_again_and_again_delivers_in_the_end() -> Outcome<()> {
    let mut site = Site::new(None)?;
    let (first, second) = (publish(&mut site, 1)?, publish(&mut site, 2)?);
    let proxy = Proxy::start(site.running.address.port())?;
    let gateway = Gateway::new(&site, None)?;
    let (mut daemon, id) = gateway.start_linked()?;
    daemon.terminate()?;
    let through = gateway.plan.clone().set("fleet.url", format!("http://127.0.0.1:{}", proxy.port()));
    let mut daemon = through.start()?;
    daemon.wait_ready()?;
    daemon.wait_status("it answers through the proxy", |status| status["fleet"]["state"] == "active")?;
    proxy.set(Fault::Refuse);
    proxy.cut();
    assign(&site, id, &first)?;
    daemon.wait_status("the cut is told", |status| !status["fleet"]["last_error"].is_null())?;
    proxy.set(Fault::None);
    gateway.wait_good(1)?;
    assign(&site, id, &second)?;
    for _ in 0..5 {
        proxy.cut();
    }
    gateway.wait_good(2)?;
    proxy.cut();
    withdraw(&site, id, &second)?;
    gateway.wait_good(1)?;
    Ok(())
}

/// Returns the bytes of the month, for whatever they were.
fn metered(status: &Value) -> u64 {
    let spent = status["fleet"]["upload"]["spent_bytes"].as_object();
    spent.into_iter().flatten().filter_map(|(_, bytes)| bytes.as_u64()).sum()
}

/// Each second a connection of its own: no less is metered than goes by, and not half as much again.
#[test]
fn tls_with_an_authority_of_ones_own_is_believed_and_no_other_and_its_bytes_are_metered() -> Outcome<()> {
    let site = Site::new(None)?;
    let each_second = r#"[{"query":"*","next_s":1}]"#;
    site.running.write(|sql| policies::put(sql, "exchange", each_second, 1))?;
    let front = TlsFront::start(site.running.address.port())?;
    let proxy = Proxy::start(front.port())?;
    let mut gateway = Gateway::new(&site, None)?;
    gateway.start_linked()?.0.terminate()?;
    gateway.plan = gateway.plan.set("fleet.url", format!("https://localhost:{}", proxy.port()));
    let (own, foreign) = (gateway.folder.path().join("own.pem"), gateway.folder.path().join("foreign.pem"));
    front.write_authority(&own)?;
    TlsFront::start(1)?.write_authority(&foreign)?;

    let distrustful = gateway.plan.clone().set("fleet.ca_file", foreign.display());
    let mut daemon = distrustful.start()?;
    daemon.wait_ready()?;
    let status = daemon.wait_status("the certificate is told", |status| {
        status["fleet"]["last_error"].as_str().is_some_and(|error| error.contains("certificate"))
    })?;
    assert_eq!(status["fleet"]["answers"], 0, "{status}");
    assert!(daemon.terminate()?.success());

    let trusting = gateway.plan.clone().set("fleet.ca_file", own.display()).set("fleet.metered", "true");
    let (metered_before, before) = (metered(&status), proxy.forwarded_bytes());
    let mut daemon = trusting.start()?;
    daemon.wait_ready()?;
    let (mut last, mut settled) = (Value::Null, 0);
    for answers in 1..=8 {
        last = daemon.wait_status("one more answer", |status| {
            status["fleet"]["answers"].as_u64().is_some_and(|count| count >= answers)
        })?;
        proxy.cut();
        if answers == 4 {
            settled = metered(&last);
        }
    }
    let each = (metered(&last) - settled) / 4;
    let (metered, forwarded) = (metered(&last) - metered_before, proxy.forwarded_bytes() - before);
    let ratio = metered as f64 / forwarded as f64;
    assert!((1.0..1.5).contains(&ratio), "{metered} metered, {forwarded} forwarded: {last}");
    note(&format!(
        "of an exchange with a TLS connection of its own: {} bytes go by, {} are metered; once all is told, {each}",
        forwarded / 8,
        metered / 8
    ));
    Ok(())
}

#[test]
fn a_mirror_that_gives_a_byte_a_second_is_left_for_the_server() -> Outcome<()> {
    let mut site = Site::new(None)?;
    let release = publish_model(&mut site, 1, &with_notes("slow"))?;
    let proxy = Proxy::start(site.running.address.port())?;
    proxy.set(Fault::Trickle { after_bytes: 6_000 });
    let mut gateway = Gateway::new(&site, None)?;
    gateway.plan = gateway.plan.set("fleet.mirrors", format!("[\"http://127.0.0.1:{}\"]", proxy.port()));
    let (mut daemon, id) = gateway.start_linked()?;
    assign(&site, id, &release)?;
    let patience = SPEED_WINDOW * 3;
    wait_for("the release is good", patience, || {
        Ok((gateway.plan.models()?["models"]["double"]["active"]["counter"] == 1).then_some(()))
    })?;
    assert!(proxy.forwarded_bytes() > 6_000, "the mirror was asked");
    wait_spent(&mut daemon, NOTES_BYTES as u64)?;
    Ok(())
}

#[test]
fn a_name_that_nobody_knows_is_told_and_a_server_without_ipv4_is_reached() -> Outcome<()> {
    let site = Site::new(None)?;
    let gateway = Gateway::new(&site, None)?;
    gateway.start_linked()?.0.terminate()?;
    let nowhere = gateway.plan.clone().set("fleet.url", "http://fleet.invalid:8080");
    let mut daemon = nowhere.start()?;
    daemon.wait_ready()?;
    let status = daemon.wait_status("the name is told", |status| {
        status["fleet"]["last_error"].as_str().is_some_and(|error| error.contains("dns error"))
    })?;
    assert_eq!(status["fleet"]["answers"], 0, "{status}");
    assert!(daemon.terminate()?.success());

    let six = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    if TcpListener::bind(six).is_err() {
        note("this machine has no IPv6: a server without IPv4 is not tried");
        return Ok(());
    }
    let proxy = Proxy::listen(six, site.running.address.port())?;
    let through = gateway.plan.clone().set("fleet.url", format!("http://[::1]:{}", proxy.port()));
    let mut daemon = through.start()?;
    daemon.wait_ready()?;
    daemon.wait_status("the server has answered", |status| status["fleet"]["state"] == "active")?;
    assert!(proxy.accepted() > 0);
    Ok(())
}
