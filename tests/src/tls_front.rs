//! TLS before a server that speaks plain HTTP, as a reverse proxy does it, with an authority of its own.
//!
//! Opens TLS and passes bytes on; knows nothing of HTTP. All of its threads end soon after it is dropped.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::certificates::{Authority, Issued};
use crate::failure::{Failure, Outcome};
use crate::package::write;
use crate::wait::pause;

/// How long one side is listened to before the other.
const TICK: Duration = Duration::from_millis(5);

/// A running front.
pub struct TlsFront {
    port: u16,
    authority: Authority,
    stopped: Arc<AtomicBool>,
}

impl TlsFront {
    /// Starts a front for `localhost` before the server at this loopback port.
    ///
    /// *Errors*: no port, thread or randomness is left.
    pub fn start(target_port: u16) -> Outcome<Self> {
        let authority = Authority::new()?;
        let config = certified(&authority)?;
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Failure::of("start the TLS front"))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let stopped = Arc::new(AtomicBool::new(false));
        let own = Arc::clone(&stopped);
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, target_port));
        let accept = move || {
            while !own.load(Ordering::Relaxed) {
                let Ok((client, _)) = listener.accept() else {
                    pause(TICK);
                    continue;
                };
                let (config, stopped) = (Arc::clone(&config), Arc::clone(&own));
                // What breaks off is the client's to notice.
                let serve = move || drop(serve(client, target, config, &stopped));
                if thread::Builder::new().name("tls-front-line".to_owned()).spawn(serve).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("tls-front".to_owned()).spawn(accept)?;
        Ok(Self { port, authority, stopped })
    }

    /// Returns the loopback port that clients connect to.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Writes the certificate of the authority that vouches for the front.
    ///
    /// *Errors*: those of the file system.
    pub fn write_authority(&self, path: &Path) -> Outcome<()> {
        write(path, self.authority.pem().as_bytes())
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

/// Returns the front's setup with a certificate that the authority has issued.
fn certified(authority: &Authority) -> Outcome<Arc<ServerConfig>> {
    let Issued { certificate, key } = authority.issue("localhost")?;
    let private = PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private.into())?;
    Ok(Arc::new(config))
}

/// Passes bytes on until either side ends.
fn serve(
    client: TcpStream,
    target: SocketAddr,
    config: Arc<ServerConfig>,
    stopped: &AtomicBool,
) -> Outcome<()> {
    let mut server = TcpStream::connect(target)?;
    client.set_nonblocking(false)?;
    for socket in [&client, &server] {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TICK))?;
    }
    let mut tls = StreamOwned::new(ServerConnection::new(config)?, client);
    let mut piece = vec![0; 64 << 10];
    while !stopped.load(Ordering::Relaxed) {
        match arrived(tls.read(&mut piece))? {
            Some(0) => break,
            Some(count) => server.write_all(&piece[..count])?,
            None => {}
        }
        match arrived(server.read(&mut piece))? {
            Some(0) => {
                tls.conn.send_close_notify();
                tls.flush()?;
                break;
            }
            Some(count) => {
                tls.write_all(&piece[..count])?;
                tls.flush()?;
            }
            None => {}
        }
    }
    Ok(())
}

/// Returns how many bytes came; nothing where none came in time.
fn arrived(read: std::io::Result<usize>) -> Outcome<Option<usize>> {
    match read {
        Ok(count) => Ok(Some(count)),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
