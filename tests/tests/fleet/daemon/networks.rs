//! Networks that fail: portals, cuts, servers that are away, too slow or somebody else.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dunlin_e2e::Outcome;
use dunlin_e2e::proxy::{Fault, Proxy};

use super::{Gateway, assign, publish, withdraw};
use crate::trust::Site;

/// Answers every request with a page, as a captive portal does.
struct Portal {
    port: u16,
    stopped: Arc<AtomicBool>,
}

impl Portal {
    fn start() -> Outcome<Self> {
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
                let _ = stream.read(&mut head);
                let page = "<html>Welcome! Accept our terms.</html>";
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{page}",
                    page.len()
                );
            }
        });
        Ok(Self { port, stopped })
    }
}

impl Drop for Portal {
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
    let portal = Portal::start()?;
    let behind = gateway.plan.clone().set("fleet.url", format!("http://127.0.0.1:{}", portal.port));
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
