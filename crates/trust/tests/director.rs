//! The director's first root, and what its statement takes back.
//!
//! Real signatures over repositories in memory; the attacks on files stand in `attacks/`.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

mod repository;

use dunlin_trust::director::{DIRECTOR_ROLE, StatementNote, WithdrawalNote, first_root};
use dunlin_trust::{Code, Device, Digest, Statement, Stored, TrustedSet};
use repository::{NOW, Repository};
use serde_json::json;

/// An image repository whose root needs two of three keys.
fn image() -> Repository {
    let mut image = Repository::new();
    image.set_keys("root", &[1, 51, 52], 2);
    image.publish_root();
    image
}

/// A director whose root the owner signed, as it should be.
fn director() -> Repository {
    let mut director = Repository::new();
    director.set_keys("root", &[1, 51, 52], 2);
    for role in ["timestamp", "snapshot", "targets", DIRECTOR_ROLE] {
        director.set_keys(role, &[60], 1);
    }
    director.signers.insert("root".to_owned(), vec![1, 52]);
    director.publish_root();
    director.publish();
    director
}

fn trusted(image: &Repository) -> TrustedSet {
    TrustedSet::load(&image.device()).unwrap()
}

fn refusal(image: &Repository, director: &Repository) -> Code {
    first_root(&trusted(image), &director.files["1.root.json"]).unwrap_err().code
}

#[test]
fn the_first_root_is_taken_when_enough_of_the_owners_keys_have_signed_it() {
    let director = director();
    let stored = first_root(&trusted(&image()), &director.files["1.root.json"]).unwrap();
    assert_eq!((stored.floors.root, stored.timestamp.is_none()), (1, true));
    let set = director.refresh(TrustedSet::load(&stored).unwrap()).unwrap();
    assert!(set.targets().is_some());
}

#[test]
fn a_first_root_by_too_few_or_by_strangers_is_refused() {
    let mut by_one = director();
    by_one.signers.insert("root".to_owned(), vec![1]);
    by_one.publish_root();
    assert_eq!(refusal(&image(), &by_one), Code::Signature);
    let mut by_one_twice = director();
    by_one_twice.signers.insert("root".to_owned(), vec![1, 1]);
    by_one_twice.publish_root();
    assert_eq!(refusal(&image(), &by_one_twice), Code::Signature);
    // A thief's root names his own keys, and satisfies itself.
    let mut thief = director();
    thief.set_keys("root", &[70, 71], 2);
    thief.publish_root();
    assert_eq!(refusal(&image(), &thief), Code::Signature);
    // The owner's keys of a root that asks for others besides.
    let mut more = director();
    more.set_keys("root", &[1, 51, 80], 3);
    more.signers.insert("root".to_owned(), vec![1, 51]);
    more.publish_root();
    assert_eq!(refusal(&image(), &more), Code::Signature, "it has not signed itself");
}

#[test]
fn neither_the_image_repositorys_root_nor_other_bytes_are_a_directors_root() {
    let image = image();
    assert_eq!(refusal(&image, &image), Code::Mismatch);
    let set = trusted(&image);
    assert_eq!(first_root(&set, &vec![b' '; 600 << 10]).unwrap_err().code, Code::EndlessData);
    assert_eq!(first_root(&set, b"<html>").unwrap_err().code, Code::Mismatch);
    let timestamp = &director().files["timestamp.json"].clone();
    assert_eq!(first_root(&set, timestamp).unwrap_err().code, Code::Mismatch);
}

#[test]
fn a_later_root_is_the_first_where_the_owners_keys_changed_before() {
    let mut image = image();
    image.rotate("root", &[90]);
    let set = image.refresh(trusted(&image)).unwrap();
    let mut director = director();
    assert_eq!(first_root(&set, &director.files["1.root.json"]).unwrap_err().code, Code::Signature);
    director.rotate("root", &[90]);
    let stored = first_root(&set, &director.files["2.root.json"]).unwrap();
    assert_eq!(stored.floors.root, 2);
}

#[test]
fn roots_of_the_two_repositories_never_follow_each_other() {
    let (mut image, mut director) = (image(), director());
    director.rotate("timestamp", &[61]);
    let mut set = trusted(&image);
    let before = set.stored();
    let as_next = director.files["2.root.json"].clone();
    assert_eq!(set.update_root(&as_next).unwrap_err().code, Code::Mismatch);
    assert_eq!(set.stored(), before);
    let first = first_root(&set, &director.files["1.root.json"]).unwrap();
    let mut set = TrustedSet::load(&first).unwrap();
    image.rotate("timestamp", &[62]);
    assert_eq!(set.update_root(&image.files["2.root.json"]).unwrap_err().code, Code::Mismatch);
    set.update_root(&as_next).unwrap();
}

fn statement(custom: serde_json::Value) -> Result<Vec<WithdrawalNote>, Code> {
    let mut director = director();
    director.targets.targets.clear();
    director.targets.custom = Some(custom);
    director.release();
    let first = Stored::first(director.files["1.root.json"].clone());
    let set = director.refresh(TrustedSet::load(&first).unwrap()).unwrap();
    let device = Device { id: "gateway-1".to_owned(), architecture: String::new(), engine: String::new() };
    let statement = Statement::read(&set, &device, "n1", NOW).map_err(|failure| failure.code)?;
    Ok(statement.withdrawn.clone())
}

#[test]
fn a_statement_says_which_releases_to_leave() {
    let note = WithdrawalNote {
        model: "frost".to_owned(),
        digest: Digest::of(b"manifest"),
        rollout: "r1".to_owned(),
        reason: "halted by its gate".to_owned(),
    };
    let said = StatementNote {
        device: "gateway-1".to_owned(),
        nonce: "n1".to_owned(),
        server_time: NOW,
        withdrawn: vec![note.clone()],
    };
    assert_eq!(statement(serde_json::to_value(&said).unwrap()), Ok(vec![note]));
    let without = StatementNote { withdrawn: Vec::new(), ..said };
    let without = serde_json::to_value(&without).unwrap();
    assert!(without.get("withdrawn").is_none(), "older gateways read the same statement as before");
    assert_eq!(statement(without.clone()), Ok(Vec::new()));
    let mut nameless = without;
    nameless["withdrawn"] = json!([{ "model": "frost" }]);
    assert_eq!(statement(nameless), Err(Code::Mismatch));
}
