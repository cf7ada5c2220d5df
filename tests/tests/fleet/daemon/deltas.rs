//! Releases that are made of the one before: what travels, and what runs then.

use dunlin_e2e::daemon::Daemon;
use dunlin_e2e::{Outcome, onnx};

use super::networks::Impostor;
use super::{Gateway, assign, publish_model, wait_report};
use crate::trust::Site;

/// Bytes of a model's notes: far more than metadata and manifests take.
pub(super) const NOTES_BYTES: usize = 400_000;

/// Returns a model that doubles, with notes that no compression makes small; one word of them is `word`.
pub(super) fn with_notes(word: &str) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut notes = word.as_bytes().to_vec();
    while notes.len() < NOTES_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        notes.extend_from_slice(format!("{state:016x}").as_bytes());
    }
    let mut model = onnx::doubling();
    // `ModelProto.doc_string`, field 6, with its length as a variable-length number.
    model.push(0x32);
    let mut length = notes.len();
    while length >= 0x80 {
        model.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    model.push(length as u8);
    model.extend_from_slice(&notes);
    model
}

/// Waits until more than `floor` bytes of packages are metered, and returns how many.
pub(super) fn wait_spent(daemon: &mut Daemon, floor: u64) -> Outcome<u64> {
    let of = |status: &serde_json::Value| status["fleet"]["upload"]["spent_bytes"]["packages"].as_u64();
    let what = format!("more than {floor} bytes of packages are metered");
    let status = daemon.wait_status(&what, |status| of(status).is_some_and(|bytes| bytes > floor))?;
    Ok(of(&status).unwrap_or(0))
}

#[test]
fn a_release_that_is_much_like_the_one_before_travels_as_its_difference() -> Outcome<()> {
    let mut site = Site::new(None)?;
    let first = publish_model(&mut site, 1, &with_notes("first "))?;
    let gateway = Gateway::new(&site, None)?;
    let (mut daemon, id) = gateway.start_linked()?;
    assign(&site, id, &first)?;
    gateway.wait_good(1)?;
    let whole = wait_spent(&mut daemon, NOTES_BYTES as u64)?;
    let second = publish_model(&mut site, 2, &with_notes("second"))?;
    assign(&site, id, &second)?;
    gateway.wait_good(2)?;
    wait_report(&site, id, "release 2 is reported as good", |report| {
        report.models.iter().any(|model| {
            model.active.as_ref().is_some_and(|active| active.digest.to_string() == second.digest.to_string())
        })
    })?;
    let spent = wait_spent(&mut daemon, whole)? - whole;
    assert!(spent < NOTES_BYTES as u64 / 4, "{spent} bytes travelled");
    Ok(())
}

#[test]
fn a_patch_that_makes_something_else_is_dropped_and_the_release_fetched_whole() -> Outcome<()> {
    let mut site = Site::new(None)?;
    let first = publish_model(&mut site, 1, &with_notes("first "))?;
    let mut gateway = Gateway::new(&site, None)?;
    let garbage = b"\x28\xb5\x2f\xfd no frame of Zstandard";
    let mirror = Impostor::start("/from/", "application/octet-stream", garbage)?;
    gateway.plan = gateway.plan.set("fleet.mirrors", format!("[\"{}\"]", mirror.url()));
    let (mut daemon, id) = gateway.start_linked()?;
    assign(&site, id, &first)?;
    gateway.wait_good(1)?;
    let before = wait_spent(&mut daemon, NOTES_BYTES as u64)?;
    let second = publish_model(&mut site, 2, &with_notes("second"))?;
    assign(&site, id, &second)?;
    gateway.wait_good(2)?;
    wait_spent(&mut daemon, before + NOTES_BYTES as u64)?;
    Ok(())
}
