//! The image repository: what is taken of the owner's, what is not, and what the server signs around it.

use dunlin_e2e::fleet_owner::FleetOwner;
use dunlin_e2e::gateway_trust::GatewayTrust;
use dunlin_e2e::{Failure, Outcome};
use dunlin_fleet::http::Bounds;
use dunlin_fleet::image::{ImageRefusal, Renewed, renew, standing};
use dunlin_fleet::store::{audit, releases};
use dunlin_trust::Code;
use dunlin_trust::sign::SigningKey;
use dunlin_trust::sign::repository::Files;

use super::{Site, now, now_ms, over_both, source};
use crate::device::request;
use crate::serving::Running;

fn only(files: &Files, name: &str) -> Files {
    Files::from([(name.to_owned(), files[name].clone())])
}

fn code(refused: Result<dunlin_fleet::image::Uploaded, ImageRefusal>) -> &'static str {
    refused.unwrap_err().code()
}

#[test]
fn a_server_is_adopted_once_and_serves_what_gateways_take() -> Outcome<()> {
    over_both(|database| {
        let running = Running::open(Bounds::default(), tempfile::tempdir()?, database, None)?;
        let online = running.with_fleet(async |fleet| fleet.key.role().public())?;
        let key = online.clone();
        let before = running.write(move |sql| standing(sql, &key))?;
        assert!(!before.is_adopted && before.root_version == 0);
        let mut site = Site::adopting(running)?;
        let key = online.clone();
        let after = site.running.write(move |sql| standing(sql, &key))?;
        assert!(after.is_adopted && after.root_version == 1 && after.director_root_version == 1);
        let release = site.owner.approve(site.folder.path(), "frost", 1, &["aarch64"])?;
        let uploaded = site.publish()?;
        assert_eq!(uploaded.releases, [release.digest.to_string()]);
        assert_eq!(uploaded.files, ["2.snapshot.json", "2.targets.json", "timestamp.json"]);
        assert!(site.publish()?.files.is_empty(), "taken again it changes nothing");
        let mut trust = GatewayTrust::new("d", site.owner.first_root()).unwrap();
        trust.refresh(now(), &mut source(site.running.address)).map_err(Failure::of("refresh"))?;
        let kept = site.running.write(move |sql| releases::get(sql, &release.digest.to_string()))?.unwrap();
        assert_eq!((kept.model.as_str(), kept.counter, kept.removed_ms), ("frost", 1, None));
        assert!(kept.signers.contains('"'), "{}", kept.signers);
        site.owner.remove(&release.path)?;
        site.publish()?;
        let kept = site.running.write(move |sql| releases::get(sql, &release.digest.to_string()))?.unwrap();
        assert!(kept.removed_ms.is_some());
        let deeds = site.running.write(|sql| audit::page(sql, 0, 100))?;
        let deeds: Vec<_> = deeds.iter().skip(1).map(|line| line.deed.action.as_str()).collect();
        assert_eq!(deeds, ["image.root", "director.root", "image.publish", "image.publish"]);
        Ok(())
    })
}

#[test]
fn a_release_without_its_files_is_not_taken_and_they_are_named() -> Outcome<()> {
    let mut site = Site::new(None)?;
    let release = site.owner.approve(site.folder.path(), "frost", 1, &[])?;
    let missing = site.upload(site.owner.image().clone())?.unwrap_err();
    assert!(matches!(&missing, ImageRefusal::Missing(named) if *named == [release.digest]), "{missing}");
    // The manifest alone: the model's file is still missing.
    let mut blobs = site.owner.blobs().clone();
    let manifest = blobs.remove(&release.digest).unwrap();
    site.upload_blobs(&[(release.digest, manifest)].into())?;
    let missing = site.upload(site.owner.image().clone())?.unwrap_err();
    let others: Vec<_> = blobs.keys().copied().collect();
    assert!(matches!(&missing, ImageRefusal::Missing(named) if *named == others), "{missing}");
    let before = request(site.running.address, "GET", "/device/v1/image/2.targets.json", "", b"")?;
    assert_eq!(before.status, 404, "nothing of it was kept");
    site.publish()?;
    let after = request(site.running.address, "GET", "/device/v1/image/2.targets.json", "", b"")?;
    assert_eq!((after.status, after.body), (200, site.owner.image()["2.targets.json"].clone()));
    Ok(())
}

#[test]
fn what_a_gateway_would_refuse_is_refused_by_name_and_nothing_of_it_is_kept() -> Outcome<()> {
    let mut site = Site::new(None)?;
    let online = site.running.with_fleet(async |fleet| fleet.key.role().public())?;
    let first = site.owner.image().clone();
    site.owner.approve(site.folder.path(), "frost", 1, &[])?;
    site.publish()?;
    site.owner.approve(site.folder.path(), "frost", 2, &[])?;
    site.upload_blobs(site.owner.blobs())?;
    let newest = site.owner.image()["3.targets.json"].clone();

    // Signed by another owner, who has roots of his own.
    let mut thief = FleetOwner::with_seeds(&online, [7; 32], [8; 32])?;
    assert_eq!(code(site.upload(thief.image().clone())?), "taken");
    for release in 1..=2 {
        thief.approve(&site.folder.path().join("thief"), "frost", release, &[])?;
    }
    assert_eq!(code(site.upload(only(thief.image(), "3.targets.json"))?), "signature");
    // Changed after it was signed.
    let mut changed = newest.clone();
    let at = changed.windows(5).position(|five| five == b"frost").unwrap();
    changed[at] = b'F';
    assert_eq!(code(site.upload(Files::from([("3.targets.json".to_owned(), changed)]))?), "signature");
    // Under another name than it says.
    assert_eq!(code(site.upload(Files::from([("4.targets.json".to_owned(), newest.clone())]))?), "mismatch");
    for name in
        ["timestamp.json", "9.timestamp.json", "9.snapshot.json", "x.json", "3.Team.json", "03.targets.json"]
    {
        assert_eq!(code(site.upload(Files::from([(name.to_owned(), newest.clone())]))?), "unfit", "{name}");
    }
    // A role that nobody delegates, a root after a gap, a root of a director.
    assert_eq!(code(site.upload(Files::from([("3.team.json".to_owned(), newest.clone())]))?), "unfit");
    let root = site.owner.first_root().to_vec();
    assert_eq!(code(site.upload(Files::from([("3.root.json".to_owned(), root)]))?), "mismatch");
    let director = site.owner.director_root(2, &online, now().0 + 1_000);
    assert_eq!(code(site.upload(Files::from([("2.root.json".to_owned(), director)]))?), "mismatch");
    // What is good is taken after all of that, and then nothing older.
    site.upload(only(site.owner.image(), "3.targets.json"))?.map_err(Failure::of("publish"))?;
    assert_eq!(
        code(site.upload(Files::from([("2.targets.json".to_owned(), first["1.targets.json"].clone())]))?),
        "rollback"
    );
    Ok(())
}

#[test]
fn a_root_that_does_not_name_the_servers_key_is_no_adoption() -> Outcome<()> {
    let stranger = SigningKey::from_seed(&[9; 32]).public();
    let running = Running::open(Bounds::default(), tempfile::tempdir()?, None, None)?;
    let owner = FleetOwner::of(&stranger)?;
    let site = Site { running, owner, folder: tempfile::tempdir()? };
    assert_eq!(code(site.upload(site.owner.image().clone())?), "not_named");
    assert_eq!(code(site.publish_director(site.owner.director().clone())?), "no_image");
    Ok(())
}

#[test]
fn a_director_is_taken_by_the_owners_signature_and_with_the_servers_key_alone() -> Outcome<()> {
    let site = Site::new(None)?;
    let online = site.running.with_fleet(async |fleet| fleet.key.role().public())?;
    let thief = FleetOwner::with_seeds(&online, [7; 32], [8; 32])?;
    let as_second = |raw: Vec<u8>| Files::from([("2.root.json".to_owned(), raw)]);
    let later = now().0 + 1_000;
    assert_eq!(code(site.publish_director(as_second(thief.director_root(2, &online, later)))?), "signature");
    let stranger = SigningKey::from_seed(&[9; 32]).public();
    let named = site.owner.director_root(2, &stranger, later);
    assert_eq!(code(site.publish_director(as_second(named))?), "not_named");
    let expired = site.owner.director_root(2, &online, now().0 - 10);
    assert_eq!(code(site.publish_director(as_second(expired))?), "freeze_suspected");
    let gap = site.owner.director_root(3, &online, later);
    assert_eq!(code(site.publish_director(as_second(gap))?), "mismatch");
    assert_eq!(
        code(site.publish_director(Files::from([("1.targets.json".to_owned(), Vec::new())]))?),
        "unfit"
    );
    let again = site.publish_director(site.owner.director().clone())?.map_err(Failure::of("again"))?;
    assert!(again.files.is_empty());
    // The first one of another owner.
    let running = Running::open(Bounds::default(), tempfile::tempdir()?, None, None)?;
    let online = running.with_fleet(async |fleet| fleet.key.role().public())?;
    let owner = FleetOwner::of(&online)?;
    let site = Site { running, owner, folder: tempfile::tempdir()? };
    site.publish()?;
    let thief = FleetOwner::with_seeds(&online, [7; 32], [8; 32])?;
    assert_eq!(code(site.publish_director(thief.director().clone())?), "signature");
    Ok(())
}

#[test]
fn timestamp_and_snapshot_are_renewed_in_time_and_gateways_follow() -> Outcome<()> {
    over_both(|database| {
        let site = Site::new(database)?;
        let renew_in = |days: u64| {
            let at = now_ms() + days * 24 * 3_600 * 1_000;
            let renewed = site.running.with_fleet(async |fleet| renew(fleet, at).await)?;
            renewed.map_err(Failure::of("renew"))
        };
        let mut trust = GatewayTrust::new("d", site.owner.first_root()).unwrap();
        trust.refresh(now(), &mut source(site.running.address)).map_err(Failure::of("refresh"))?;
        assert_eq!(renew_in(0)?, Renewed::Nothing);
        assert_eq!(renew_in(3)?, Renewed::Nothing);
        assert_eq!(renew_in(4)?, Renewed::Timestamp);
        assert_eq!(renew_in(4)?, Renewed::Nothing);
        let before = trust.held();
        trust.refresh(now(), &mut source(site.running.address)).map_err(Failure::of("refresh"))?;
        let after = trust.held();
        assert_eq!((after.timestamp, after.snapshot), (before.timestamp + 1, before.snapshot));
        assert_eq!(renew_in(16)?, Renewed::Snapshot);
        trust.refresh(now(), &mut source(site.running.address)).map_err(Failure::of("refresh"))?;
        let last = trust.held();
        assert_eq!((last.timestamp, last.snapshot), (after.timestamp + 1, after.snapshot + 1));
        Ok(())
    })
}

#[test]
fn a_server_whose_key_is_replaced_goes_on_when_the_owner_names_the_new_one() -> Outcome<()> {
    let mut site = Site::new(None)?;
    let release = site.owner.approve(site.folder.path(), "frost", 1, &[])?;
    site.publish()?;
    let mut gateway = site.gateway(1)?;
    let old = site.running.with_fleet(async |fleet| fleet.key.role().public())?;
    // The key's file is lost or was stolen: the server makes another one.
    let folder = {
        let Site { running, owner, folder } = site;
        site = Site { running: Running::start()?, owner, folder };
        running.stop()
    };
    std::fs::remove_file(folder.path().join("data/keys/online.pem"))?;
    site.running = Running::open(Bounds::default(), folder, None, None)?;
    let new = site.running.with_fleet(async |fleet| fleet.key.role().public())?;
    assert_ne!(old, new);
    let at = now_ms() + 4 * 24 * 3_600 * 1_000;
    let refused = site.running.with_fleet(async |fleet| renew(fleet, at).await)?;
    assert!(matches!(refused, Err(ImageRefusal::NotNamed { .. })), "{refused:?}");
    site.owner.replace_online(&old, &new)?;
    site.publish()?;
    site.publish_director(site.owner.director().clone())?.map_err(Failure::of("adopt again"))?;
    let address = site.running.address;
    gateway.trust.refresh(now(), &mut source(address)).map_err(Failure::of("refresh"))?;
    assert_eq!(gateway.trust.held().root, 2);
    let found = gateway.trust.image.targets().unwrap().targets.contains_key(&release.path);
    assert!(found);
    Ok(())
}

#[test]
fn two_uploads_at_the_same_time_are_taken_one_after_the_other() -> Outcome<()> {
    over_both(|database| {
        let mut site = Site::new(database)?;
        site.owner.approve(site.folder.path(), "frost", 1, &[])?;
        site.upload_blobs(site.owner.blobs())?;
        let site = &site;
        let outcomes = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| site.upload(site.owner.image().clone()))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Outcome<Vec<_>>>()
        })?;
        let published = outcomes.iter().flatten().filter(|uploaded| !uploaded.files.is_empty()).count();
        assert_eq!(
            (published, outcomes.iter().filter(|outcome| outcome.is_err()).count()),
            (1, 0),
            "{outcomes:?}"
        );
        let mut trust = GatewayTrust::new("d", site.owner.first_root()).unwrap();
        trust.refresh(now(), &mut source(site.running.address)).map_err(Failure::of("refresh"))?;
        assert_eq!((trust.held().timestamp, Code::ALL.len()), (2, 10));
        Ok(())
    })
}
