//! A bucket of an S3 service of the test's own: moto's server, a child at a free loopback port.
//!
//! Kept in the service's memory, and gone with it. Needs Python with the package `moto[server]`.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::broker::free_port;
use crate::failure::{Failure, Outcome};
use crate::wait::wait_until;

/// Longest wait for the service to start.
const START_MAX: Duration = Duration::from_secs(60);
/// The bucket's name.
const BUCKET: &str = "dunlin";

/// A running service with one bucket.
#[derive(Debug)]
pub struct Bucket {
    child: Child,
    port: u16,
}

impl Bucket {
    /// Tells whether the service is installed.
    #[must_use]
    pub fn is_installed() -> bool {
        let found = Command::new("python3").args(["-c", "import moto.server"]).stderr(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    }

    /// Starts the service and makes the bucket.
    ///
    /// *Errors*: it does not start.
    pub fn start() -> Outcome<Self> {
        let port = free_port()?;
        let mut command = Command::new("python3");
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let bucket = Self { child: child.map_err(Failure::of("start moto's server"))?, port };
        wait_until("the bucket is there", START_MAX, || bucket.make().unwrap_or(false))?;
        Ok(bucket)
    }

    /// Returns the URL that names the bucket, with a folder in it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("s3://{BUCKET}/fleet")
    }

    /// Returns what the environment says of the service.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT", format!("http://127.0.0.1:{}", self.port)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    fn make(&self) -> Outcome<bool> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        let host = format!("127.0.0.1:{}", self.port);
        let head = format!(
            "PUT /{BUCKET} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply)?;
        Ok(reply.starts_with(b"HTTP/1.1 200"))
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
