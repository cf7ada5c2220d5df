//! Keys that several people keep: they adopt a server together, replace each other, and gateways follow.

use std::fs;

use dunlin_e2e::Outcome;
use dunlin_e2e::fleet_owner::now;
use dunlin_e2e::gateway_trust::GatewayTrust;
use dunlin_e2e::key_files::KeyPlan;
use dunlin_trust::Code;
use dunlin_trust::director::{DIRECTOR_ROLE, first_root};

use super::Office;

/// Two of the three keepers must sign.
const KEEPERS: [&str; 3] = ["anna", "bert", "carl"];

impl Office {
    /// Opens an office whose three root keys are each in the folder of a keeper.
    fn of_keepers() -> Outcome<Self> {
        let office = Self::open(KeyPlan { roots: 3, root_threshold: 2, targets: 1 })?;
        let mut keys: Vec<_> = fs::read_dir(office.path("trust/keys"))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("root-"))
            .collect();
        keys.sort();
        for (keeper, key) in KEEPERS.iter().zip(&keys) {
            fs::create_dir(office.path(keeper))?;
            fs::rename(office.path("trust/keys").join(key), office.path(keeper).join(key))?;
        }
        Ok(office)
    }

    /// Has two of the three adopt the server.
    fn adopt_by_keepers(&self) -> Outcome<()> {
        self.operator.with_pass(&["server", "adopt", "--keys", "anna", "--reason", "first"])?;
        self.operator.with_pass(&["sign", "--add", "--keys", "bert"])?;
        self.operator.run(&["publish", "--reason", "first"]).map(drop)
    }

    /// Returns a gateway that was given the first root alone and has heard of nothing yet.
    fn gateway(&self) -> Outcome<GatewayTrust> {
        let root = fs::read(self.path("trust/metadata/1.root.json"))?;
        Ok(GatewayTrust::new("dev-of-the-test", &root).unwrap())
    }

    /// Has a gateway follow both roots; returns the version of each.
    fn follow(&self, gateway: &mut GatewayTrust) -> (u64, u64) {
        gateway.refresh(now(), &mut self.source()).unwrap();
        match &mut gateway.director {
            None => gateway.take_director(&mut self.source()).unwrap(),
            Some(director) => {
                let mut source = self.source();
                for version in director.root().version + 1.. {
                    match source(&format!("/device/v1/director/{version}.root.json"), 1 << 20) {
                        Some(raw) => director.update_root(&raw).unwrap(),
                        None => break,
                    };
                }
            }
        }
        let director = gateway.director.as_ref().unwrap().root();
        (gateway.image.root().version, director.version)
    }

    fn require_trusted(&self, gateway: &GatewayTrust) -> Outcome<()> {
        let key = self.json(&["server", "get"])?["public_key"].clone();
        let director = gateway.director.as_ref().unwrap().root();
        for (root, role) in [
            (gateway.image.root(), "snapshot"),
            (gateway.image.root(), "timestamp"),
            (director, DIRECTOR_ROLE),
        ] {
            let ids = &root.roles[role].keyids;
            assert_eq!(ids.len(), 1, "{role}");
            assert_eq!(root.keys[&ids[0]].keyval.public, key, "{role}");
        }
        let owners = |root: &dunlin_trust::metadata::Root| root.roles["root"].clone();
        assert_eq!(owners(director), owners(gateway.image.root()));
        Ok(())
    }
}

#[test]
fn two_of_three_keepers_adopt_a_server_and_a_gateway_believes_it() -> Outcome<()> {
    let office = Office::of_keepers()?;
    let operator = &office.operator;
    let said = operator.with_pass(&["server", "adopt", "--keys", "anna", "--reason", "first"])?;
    assert!(said.contains("2.root.json: signed by") && said.contains("director's 1.root.json"), "{said}");
    assert_eq!(said.matches("needs 1 more of").count(), 2, "{said}");
    assert_eq!(office.json(&["server", "get"])?["image"]["is_adopted"], false);
    // One signature is nobody's adoption, however it is sent.
    let said = operator.refused(&["publish", "--reason", "too early"], 4)?;
    assert!(said.contains("dunlin sign --add"), "{said}");
    let again = ["server", "adopt", "--keys", "anna", "--passphrase-file", "pass"];
    let said = operator.refused(&again, 3)?;
    assert!(said.contains("none of them is at hand"), "{said}");

    // The second keeper needs no network: both roots wait in the folder.
    let said = operator.with_pass(&["sign", "--add", "--keys", "carl"])?;
    assert!(said.contains("2.root.json: signed by") && !said.contains("needs"), "{said}");
    operator.run(&["publish", "--reason", "first"])?;
    let server = office.json(&["server", "get"])?;
    assert_eq!(server["image"]["is_adopted"], true);
    assert_eq!(server["director_root_version"], 1);
    let mut gateway = office.gateway()?;
    assert_eq!(office.follow(&mut gateway), (2, 1));
    office.require_trusted(&gateway)?;
    // Asked for again it is done already, and needs no key.
    let said = operator.run(&["server", "adopt", "--reason", "again"])?;
    assert!(said.contains("speaks for the fleet"), "{said}");
    assert_eq!(office.follow(&mut gateway), (2, 1));
    Ok(())
}

#[test]
fn a_root_key_that_is_replaced_takes_the_director_along_and_gateways_old_and_new_follow() -> Outcome<()> {
    let office = Office::of_keepers()?;
    let operator = &office.operator;
    office.adopt_by_keepers()?;
    let (mut old, mut away) = (office.gateway()?, office.gateway()?);
    assert_eq!(office.follow(&mut old), (2, 1));
    assert_eq!(office.follow(&mut away), (2, 1));

    // Anna's key is replaced: her old one, her new one and Bert's sign both roots.
    let key = fs::read_dir(office.path("anna"))?.next().unwrap()?.file_name().into_string().unwrap();
    let key = key.trim_start_matches("root-").trim_end_matches(".key").to_owned();
    let rotate = ["keys", "rotate", "root", "--key", &key, "--keys", "anna"];
    let said = operator.with_pass(&[&rotate[..], &["--keys", "bert"]].concat())?;
    assert!(!said.contains("needs"), "{said}");
    let said = operator.run(&["publish", "--reason", "a new key"])?;
    assert!(said.contains("2 signed files"), "{said}");
    assert_eq!(office.follow(&mut old), (3, 2));
    office.require_trusted(&old)?;
    let mut new = office.gateway()?;
    assert_eq!(office.follow(&mut new), (3, 2));
    office.require_trusted(&new)?;
    // The keys of the day did not sign the director's first root: a gateway that comes in takes the second.
    let first = fs::read(office.path("trust/director/1.root.json"))?;
    assert_eq!(first_root(&new.image, &first).unwrap_err().code, Code::Signature);

    // Root and director are made to last longer together.
    operator.with_pass(&["keys", "renew", "root", "--keys", "anna", "--keys", "carl"])?;
    operator.run(&["publish"])?;
    assert_eq!(office.follow(&mut away), (4, 3));
    office.require_trusted(&away)?;
    Ok(())
}

#[test]
fn a_root_that_was_replaced_without_its_director_is_made_good_by_adopting_again() -> Outcome<()> {
    let office = Office::of_keepers()?;
    let operator = &office.operator;
    office.adopt_by_keepers()?;
    // As by a program that knows of no director: its folder was elsewhere.
    fs::rename(office.path("trust/director"), office.path("director"))?;
    let key = fs::read_dir(office.path("carl"))?.next().unwrap()?.file_name().into_string().unwrap();
    let key = key.trim_start_matches("root-").trim_end_matches(".key").to_owned();
    operator.with_pass(&["keys", "rotate", "root", "--key", &key, "--keys", "carl", "--keys", "bert"])?;
    operator.run(&["publish"])?;
    fs::rename(office.path("director"), office.path("trust/director"))?;
    operator.with_pass(&["server", "adopt", "--keys", "carl", "--keys", "bert"])?;
    let mut gateway = office.gateway()?;
    assert_eq!(office.follow(&mut gateway), (3, 2));
    office.require_trusted(&gateway)
}

#[test]
fn a_server_that_lost_everything_is_adopted_again_with_the_roots_of_before() -> Outcome<()> {
    let mut office = Office::of_keepers()?;
    office.adopt_by_keepers()?;
    let mut gateway = office.gateway()?;
    assert_eq!(office.follow(&mut gateway), (2, 1));
    let key = fs::read_dir(office.path("anna"))?.next().unwrap()?.file_name().into_string().unwrap();
    let key = key.trim_start_matches("root-").trim_end_matches(".key").to_owned();
    office
        .operator
        .with_pass(&["keys", "rotate", "root", "--key", &key, "--keys", "anna", "--keys", "bert"])?;
    office.operator.run(&["publish"])?;
    office.server.terminate()?;
    fs::remove_dir_all(&office.server.plan().data)?;
    office.server = office.server.plan().clone().start()?;
    office.log_in()?;
    office.operator.with_pass(&["server", "adopt", "--keys", "bert", "--keys", "carl"])?;
    // The one that was away knows the director's first root alone, which the keys of the day did not sign.
    assert_eq!(office.follow(&mut gateway), (4, 3));
    office.require_trusted(&gateway)?;
    let mut new = office.gateway()?;
    assert_eq!(office.follow(&mut new), (4, 3));
    Ok(())
}
