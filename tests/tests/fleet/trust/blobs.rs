//! Blobs over HTTP: whole, in parts, by condition, as patches; in a folder and in a bucket.

use std::io::Read as _;

use dunlin_e2e::Outcome;
use dunlin_protocol::Digest;
use dunlin_protocol::routes::{blob_path, delta_path};

use super::{Site, over_both};
use crate::device::{Reply, request};

fn get(site: &Site, path: &str, headers: &str) -> Outcome<Reply> {
    request(site.running.address, "GET", path, headers, b"")
}

fn header<'r>(reply: &'r Reply, name: &str) -> Option<&'r str> {
    reply.head.lines().find_map(|line| {
        let (other, value) = line.split_once(':')?;
        other.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[test]
fn a_blob_is_fetched_whole_in_parts_and_by_its_tag() -> Outcome<()> {
    let site = Site::new(None)?;
    require_served(&site)
}

fn require_served(site: &Site) -> Outcome<()> {
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let sha256 = Digest::of(&content);
    site.upload_blobs(&[(sha256, content.clone())].into())?;
    let path = blob_path(&sha256);
    let whole = get(site, &path, "")?;
    assert_eq!((whole.status, whole.body == content), (200, true));
    let tag = format!("\"{sha256}\"");
    assert_eq!(header(&whole, "etag"), Some(tag.as_str()));
    assert_eq!(header(&whole, "accept-ranges"), Some("bytes"));
    assert!(header(&whole, "cache-control").unwrap().contains("immutable"));
    assert_eq!(header(&whole, "content-length"), Some("400000"));

    let part = get(site, &path, "range: bytes=1000-1999\r\n")?;
    assert_eq!((part.status, part.body.as_slice()), (206, &content[1_000..2_000]));
    assert_eq!(header(&part, "content-range"), Some("bytes 1000-1999/400000"));
    // As one goes on after a break.
    let rest = get(site, &path, &format!("range: bytes=399990-\r\nif-range: {tag}\r\n"))?;
    assert_eq!((rest.status, rest.body.as_slice()), (206, &content[399_990..]));
    let other = get(site, &path, "range: bytes=399990-\r\nif-range: \"another\"\r\n")?;
    assert_eq!((other.status, other.body.len()), (200, content.len()));
    let beyond = get(site, &path, "range: bytes=400000-\r\n")?;
    assert_eq!((beyond.status, header(&beyond, "content-range")), (416, Some("bytes */400000")));
    let several = get(site, &path, "range: bytes=0-1,5-6\r\n")?;
    assert_eq!((several.status, several.body.len()), (200, content.len()));

    let same = get(site, &path, &format!("if-none-match: {tag}\r\n"))?;
    assert_eq!((same.status, same.body.len()), (304, 0));
    let head = request(site.running.address, "HEAD", &path, "", b"")?;
    assert_eq!((head.status, head.body.len(), header(&head, "content-length")), (200, 0, Some("400000")));
    for wrong in [
        blob_path(&Digest::of(b"nobody")),
        format!("{path}0"),
        path.to_uppercase().replace("/DEVICE/V1/BLOBS", "/device/v1/blobs"),
        "/device/v1/blobs/..%2f..%2fkeys%2fonline.pem".to_owned(),
    ] {
        assert_eq!(get(site, &wrong, "")?.status, 404, "{wrong}");
    }
    Ok(())
}

#[test]
fn a_release_is_fetched_as_a_patch_of_the_one_before() -> Outcome<()> {
    over_both(|database| {
        let mut site = Site::new(database)?;
        let (old, new) = models();
        for (release, model) in [(1, &old), (2, &new)] {
            let package = site.folder.path().join(format!("big-{release}"));
            let plan = dunlin_e2e::package::PackagePlan {
                release,
                ..dunlin_e2e::package::PackagePlan::of_one_value("big")
            };
            dunlin_e2e::package::write_package(&package, &plan, model)?;
            site.owner.approve_package(&package)?;
        }
        site.publish()?;
        let (sha256, base) = (Digest::of(&new), Digest::of(&old));
        let patch = get(&site, &delta_path(&sha256, &base), "")?;
        assert_eq!(patch.status, 200);
        assert!(patch.body.len() < new.len() / 20, "{}", patch.body.len());
        let mut made = Vec::new();
        let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(patch.body.as_slice(), &old)?;
        decoder.read_to_end(&mut made)?;
        assert!(made == new);
        // The same again comes from where it is kept, and in parts.
        let part = get(&site, &delta_path(&sha256, &base), "range: bytes=5-\r\n")?;
        assert_eq!((part.status, part.body.as_slice()), (206, &patch.body[5..]));
        // Nothing between files that have nothing to do with one another, or that are not here.
        let manifest = *site.owner.blobs().keys().find(|other| **other != sha256 && **other != base).unwrap();
        for (sha256, base) in [
            (sha256, manifest),
            (sha256, sha256),
            (sha256, Digest::of(b"nobody")),
            (Digest::of(b"nobody"), base),
        ] {
            assert_eq!(get(&site, &delta_path(&sha256, &base), "")?.status, 404);
        }
        Ok(())
    })
}

#[test]
fn a_patch_that_is_not_worth_it_is_not_there() -> Outcome<()> {
    let mut site = Site::new(None)?;
    let (old, _) = models();
    let other: Vec<u8> = old.iter().map(|byte| byte.wrapping_mul(7).wrapping_add(3) ^ 0x5a).collect();
    for (release, model) in [(1, &old), (2, &other)] {
        let package = site.folder.path().join(format!("big-{release}"));
        let plan = dunlin_e2e::package::PackagePlan {
            release,
            ..dunlin_e2e::package::PackagePlan::of_one_value("big")
        };
        dunlin_e2e::package::write_package(&package, &plan, model)?;
        site.owner.approve_package(&package)?;
    }
    site.publish()?;
    for _ in 0..2 {
        let path = delta_path(&Digest::of(&other), &Digest::of(&old));
        assert_eq!(get(&site, &path, "")?.status, 404);
    }
    Ok(())
}

/// Two versions of a file that have most bytes in common, and none that compress.
fn models() -> (Vec<u8>, Vec<u8>) {
    let old: Vec<u8> = (0..20_000_u64)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17).wrapping_mul(n | 1).to_le_bytes())
        .collect();
    let mut new = old.clone();
    new.splice(70_000..70_016, *b"what is different between two releases");
    (old, new)
}
