//! What every request is held to, whatever it says.

use std::os::unix::fs::PermissionsExt as _;

use dunlin_e2e::Outcome;
use dunlin_protocol::limits::{ENROLMENT_BYTES_MAX, envelope_bytes_max};
use dunlin_protocol::routes::{ENROLL, ENVELOPE_MEDIA_TYPE, EXCHANGE};

use super::{Running, narrow};
use crate::device::{post, request, send_raw};

#[test]
fn what_is_no_request_of_the_protocol_is_refused_as_a_problem() -> Outcome<()> {
    let running = Running::start()?;
    let server = running.address;
    assert_eq!(request(server, "GET", "/healthz", "", b"")?.status, 200);
    let envelope = format!("content-type: {ENVELOPE_MEDIA_TYPE}\r\n");
    let coded = format!("{envelope}content-encoding: br\r\n");
    let cases: [(&str, &str, &str, u16, &str); 6] = [
        ("GET", "/nowhere", "", 404, "not_found"),
        ("GET", EXCHANGE, "", 405, "method"),
        ("POST", EXCHANGE, "content-type: application/json\r\n", 415, "unsupported"),
        ("POST", EXCHANGE, &coded, 415, "unsupported"),
        ("POST", EXCHANGE, &envelope, 400, "malformed"),
        ("GET", "/device/v1/image/..%2fkeys%2fonline.json", "", 404, "not_found"),
    ];
    for (method, path, headers, status, code) in cases {
        let reply = request(server, method, path, headers, b"")?;
        assert_eq!((reply.status, reply.problem()?.as_str()), (status, code), "{method} {path}");
    }
    Ok(())
}

#[test]
fn a_body_that_is_too_long_is_refused_before_and_after_decompression() -> Outcome<()> {
    let running = Running::start()?;
    let bytes_max = envelope_bytes_max(ENROLMENT_BYTES_MAX);
    let long = vec![b' '; bytes_max + 1];
    let reply = post(running.address, ENROLL, &long)?;
    assert_eq!((reply.status, reply.problem()?.as_str()), (413, "too_large"));
    // No length is said, and the body goes on.
    let head = format!(
        "POST {ENROLL} HTTP/1.1\r\nhost: f\r\ncontent-type: {ENVELOPE_MEDIA_TYPE}\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n",
        long.len()
    );
    assert_eq!(send_raw(running.address, &[head.as_bytes(), &long])?.status, 413);
    let bomb = zstd::encode_all(std::io::repeat(0).take_bytes(64 << 20), 3)?;
    assert!(bomb.len() < bytes_max);
    let headers = format!("content-type: {ENVELOPE_MEDIA_TYPE}\r\ncontent-encoding: zstd\r\n");
    let reply = request(running.address, "POST", ENROLL, &headers, &bomb)?;
    assert_eq!((reply.status, reply.problem()?.as_str()), (413, "too_large"));
    Ok(())
}

pub(crate) trait TakeBytes: std::io::Read + Sized {
    fn take_bytes(self, bytes: u64) -> std::io::Take<Self> {
        self.take(bytes)
    }
}

impl TakeBytes for std::io::Repeat {}

#[test]
fn a_body_that_does_not_come_is_given_up() -> Outcome<()> {
    let running = Running::start_within(narrow(), tempfile::tempdir()?)?;
    let head = format!(
        "POST {ENROLL} HTTP/1.1\r\nhost: f\r\ncontent-type: {ENVELOPE_MEDIA_TYPE}\r\ncontent-length: 100\r\n\r\n{{"
    );
    let reply = send_raw(running.address, &[head.as_bytes()])?;
    assert_eq!((reply.status, reply.problem()?.as_str()), (408, "timeout"));
    Ok(())
}

#[test]
fn key_and_id_outlive_a_restart_and_are_the_owners_alone() -> Outcome<()> {
    let running = Running::start()?;
    let device = running.device(1);
    let folder = running.stop();
    let key = folder.path().join("data/keys/online.pem");
    assert_eq!(key.metadata()?.permissions().mode() & 0o777, 0o600);
    assert_eq!(folder.path().join("data").metadata()?.permissions().mode() & 0o777, 0o700);
    let again = Running::start_within(narrow(), folder)?;
    assert_eq!(again.device(1).server_id, device.server_id);
    Ok(())
}
