//! Where a device finds what: paths below the server's URL, media types, parameters.
//!
//! Constants and the paths of files; never a whole URL, which is configuration. Paths stay as they are for ever.

use dunlin_kit::digest::Digest;

/// `POST`: enrolment.
pub const ENROLL: &str = "/device/v1/enroll";
/// `POST`: an exchange.
pub const EXCHANGE: &str = "/device/v1/exchange";
/// `POST`: a part of results that came by file.
pub const RESULTS: &str = "/device/v1/results";
/// `GET`: files of metadata of the image repository, as in `2.root.json` and `timestamp.json`.
pub const IMAGE: &str = "/device/v1/image/{file}";
/// `GET`: roots of the director, as in `1.root.json`; its other metadata come in exchanges.
pub const DIRECTOR: &str = "/device/v1/director/{file}";
/// `GET`, with `Range`: a manifest or a file of a package, by its SHA-256.
pub const BLOB: &str = "/device/v1/blobs/{sha256}";
/// `GET`, with `Range`: what makes one blob of another that the device has (Zstandard with the other as its dictionary);
/// 404 where there is none.
pub const DELTA: &str = "/device/v1/blobs/{sha256}/from/{base}";
/// Parameter of [`EXCHANGE`]: how many seconds the server may wait before it answers that there is nothing new.
pub const WAIT: &str = "wait";

/// Media type of an envelope.
pub const ENVELOPE_MEDIA_TYPE: &str = "application/vnd.dsse.envelope.v1+json";
/// Media type of a refusal that is not signed. *Source*: RFC 9457.
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// Returns the path of a file of the image repository. `file` is plain, as The Update Framework's part makes it.
#[must_use]
pub fn image_path(file: &str) -> String {
    IMAGE.replace("{file}", file)
}

/// Returns the path of a root of the director.
#[must_use]
pub fn director_root_path(version: u64) -> String {
    DIRECTOR.replace("{file}", &format!("{version}.root.json"))
}

/// Returns the path of a blob.
#[must_use]
pub fn blob_path(sha256: &Digest) -> String {
    BLOB.replace("{sha256}", &sha256.to_string())
}

/// Returns the path of what makes `sha256` of `base`.
#[must_use]
pub fn delta_path(sha256: &Digest, base: &Digest) -> String {
    DELTA.replace("{sha256}", &sha256.to_string()).replace("{base}", &base.to_string())
}

/// Returns path and query of an exchange.
#[must_use]
pub fn exchange_path(wait_seconds: u64) -> String {
    if wait_seconds == 0 { EXCHANGE.to_owned() } else { format!("{EXCHANGE}?{WAIT}={wait_seconds}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_documentation() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(image_path("timestamp.json"), "/device/v1/image/timestamp.json");
        assert_eq!(director_root_path(3), "/device/v1/director/3.root.json");
        assert_eq!(delta_path(&a, &b), format!("{}/from/{b}", blob_path(&a)));
        assert_eq!(exchange_path(30), "/device/v1/exchange?wait=30");
    }
}
