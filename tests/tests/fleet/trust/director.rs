//! Statements: for one gateway, in answer to one question, of what the owner approved.

use dunlin_e2e::Outcome;
use dunlin_fleet::http::Bounds;
use dunlin_fleet::store::desired::{self, Withdrawn};
use dunlin_trust::Code;

use super::{Site, now, over_both, source};
use crate::serving::Running;

#[test]
fn a_gateway_that_was_told_nothing_gets_no_statement() -> Outcome<()> {
    over_both(|database| {
        let site = Site::new(database)?;
        let mut gateway = site.gateway(1)?;
        assert_eq!(gateway.exchange()?, None);
        assert_eq!(gateway.exchange()?, None);
        Ok(())
    })
}

#[test]
fn a_release_is_told_once_fetched_and_taken_back_and_each_statement_holds_before_the_verifier() -> Outcome<()>
{
    over_both(|database| {
        let mut site = Site::new(database)?;
        let release = site.owner.approve(site.folder.path(), "frost", 1, &["aarch64"])?;
        site.publish()?;
        let mut gateway = site.gateway(1)?;
        assert!(site.assign(&gateway, release.digest)?);
        assert!(!site.assign(&gateway, release.digest)?, "given twice it is the same");
        let told = gateway.exchange()?.unwrap();
        let [assignment] = told.assignments.as_slice() else { panic!("{told:?}") };
        assert_eq!((assignment.note.rollout.as_str(), assignment.note.slot.as_str()), ("rol-1", "frost"));
        assert_eq!(assignment.release, release.note);
        let manifest = gateway.trust.fetch(assignment, &mut source(gateway.address)).unwrap();
        assert_eq!(manifest, site.owner.blobs()[&release.digest]);
        assert_eq!(gateway.exchange()?, None, "what is held is not told again");

        let withdrawn = Withdrawn {
            model: "frost".to_owned(),
            digest: release.digest.to_string(),
            rollout: "rol-1".to_owned(),
            reason: "halted by its gate\n".repeat(100),
        };
        let (id, again) = (gateway.device.id().to_string(), withdrawn.clone());
        assert!(site.running.write(move |sql| desired::withdraw(sql, &id, &withdrawn, 1))?);
        let told = gateway.exchange()?.unwrap();
        assert_eq!(told.assignments, []);
        let [note] = told.withdrawn.as_slice() else { panic!("{told:?}") };
        assert_eq!((note.model.as_str(), note.digest), ("frost", release.digest));
        let id = gateway.device.id().to_string();
        assert!(!site.running.write(move |sql| desired::withdraw(sql, &id, &again, 1))?);
        assert_eq!(gateway.exchange()?, None);

        assert!(site.assign(&gateway, release.digest)?, "it is given again on purpose");
        let told = gateway.exchange()?.unwrap();
        assert_eq!((told.assignments.len(), told.withdrawn.len()), (1, 0));
        Ok(())
    })
}

#[test]
fn a_statement_is_good_for_its_own_gateway_and_its_own_question_alone() -> Outcome<()> {
    let mut site = Site::new(None)?;
    let release = site.owner.approve(site.folder.path(), "frost", 1, &[])?;
    site.publish()?;
    let (mut first, mut second) = (site.gateway(1)?, site.gateway(2)?);
    for gateway in [&first, &second] {
        site.assign(gateway, release.digest)?;
    }
    let (answer, nonce) = first.ask(0)?;
    let desired = answer.desired.unwrap();
    let take = |gateway: &mut super::Gateway, nonce: &str| {
        gateway.trust.take(&desired, nonce, now(), &mut source(gateway.address)).unwrap_err().code
    };
    assert_eq!(take(&mut second, &nonce), Code::WrongDevice);
    assert_eq!(take(&mut first, "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"), Code::FreezeSuspected);
    // A newer one was taken: the older is a rollback, whatever it says.
    let mut first = site.gateway(3)?;
    site.assign(&first, release.digest)?;
    let (old, old_nonce) = first.ask(0)?;
    first.exchange()?.unwrap();
    let old = old.desired.unwrap();
    let refused = first.trust.take(&old, &old_nonce, now(), &mut source(first.address)).unwrap_err();
    assert_eq!(refused.code, Code::Rollback);
    Ok(())
}

#[test]
fn a_statement_is_said_again_until_it_is_held_and_before_it_grows_old() -> Outcome<()> {
    over_both(|database| {
        let mut site = Site::new(database)?;
        let release = site.owner.approve(site.folder.path(), "frost", 1, &[])?;
        site.publish()?;
        let mut gateway = site.gateway(1)?;
        site.assign(&gateway, release.digest)?;
        // Answers that are lost on the way.
        for _ in 0..3 {
            assert!(gateway.ask(0)?.0.desired.is_some());
        }
        gateway.exchange()?.unwrap();
        assert_eq!(gateway.exchange()?, None);
        site.running.write(|sql| {
            let half = super::now_ms() - 7 * 24 * 3_600 * 500 - 1_000;
            sql.execute("UPDATE device SET director_ms = $1", &[half.into()])
        })?;
        let told = gateway.exchange()?.unwrap();
        assert_eq!(told.assignments.len(), 1);
        assert_eq!(gateway.exchange()?, None);
        Ok(())
    })
}

#[test]
fn a_gateway_that_knows_a_newer_statement_than_a_restored_database_is_told_above_it() -> Outcome<()> {
    let mut site = Site::new(None)?;
    let release = site.owner.approve(site.folder.path(), "frost", 1, &[])?;
    site.publish()?;
    let mut gateway = site.gateway(1)?;
    site.assign(&gateway, release.digest)?;
    for _ in 0..5 {
        gateway.ask(0)?;
    }
    gateway.exchange()?.unwrap();
    // What a backup of before knows.
    site.running.write(|sql| sql.execute("UPDATE device SET director_version = 1", &[]))?;
    gateway.exchange()?.unwrap();
    assert_eq!(gateway.exchange()?, None);
    Ok(())
}

#[test]
fn of_many_releases_taken_back_the_newest_are_told_and_no_more_than_a_gateway_reads() -> Outcome<()> {
    over_both(|database| {
        let site = Site::new(database)?;
        let mut gateway = site.gateway(1)?;
        let id = gateway.device.id().to_string();
        let digest = |number: usize| dunlin_protocol::Digest::of(&number.to_le_bytes());
        site.running.write(move |sql| {
            for number in 0..desired::WITHDRAWN_MAX + 20 {
                let withdrawn = Withdrawn {
                    model: "frost".to_owned(),
                    digest: digest(number).to_string(),
                    rollout: format!("rol-{number}"),
                    reason: "halted".to_owned(),
                };
                desired::withdraw(sql, &id, &withdrawn, 1)?;
            }
            Ok(())
        })?;
        let told = gateway.exchange()?.unwrap();
        assert_eq!(told.withdrawn.len(), desired::WITHDRAWN_MAX);
        assert_eq!(told.withdrawn[0].digest, digest(desired::WITHDRAWN_MAX + 19));
        let id = gateway.device.id().to_string();
        let kept = site.running.write(move |sql| desired::of(sql, &id))?;
        assert_eq!(kept.withdrawn.len(), desired::WITHDRAWN_MAX);
        Ok(())
    })
}

#[test]
fn roots_that_a_gateway_lacks_come_with_the_statement() -> Outcome<()> {
    let mut site = Site::new(None)?;
    let release = site.owner.approve(site.folder.path(), "frost", 1, &[])?;
    site.publish()?;
    let mut gateway = site.gateway(1)?;
    let online = site.running.with_fleet(async |fleet| fleet.key.role().public())?;
    let mut files = site.owner.director().clone();
    for version in 2..=4 {
        let root = site.owner.director_root(version, &online, now().0 + 1_000_000);
        files.insert(format!("{version}.root.json"), root);
    }
    site.publish_director(files)?.unwrap();
    site.assign(&gateway, release.digest)?;
    assert_eq!(gateway.trust.held().director_root, 1);
    gateway.exchange()?.unwrap();
    assert_eq!(gateway.trust.held().director_root, 4);
    Ok(())
}

#[test]
fn settings_are_offered_until_they_are_held_and_stand_in_the_statement() -> Outcome<()> {
    over_both(|database| {
        let mut site = Site::new(database)?;
        let digest = site.owner.approve_settings("plant.toml", b"[update]\n")?;
        site.publish()?;
        let mut gateway = site.gateway(1)?;
        let (id, text) = (gateway.device.id().to_string(), digest.to_string());
        assert!(site.running.write(move |sql| desired::assign_settings(sql, &id, &text, "rol-2", 1))?);
        let (answer, nonce) = gateway.ask(0)?;
        let offer = answer.settings.clone().unwrap();
        assert_eq!((offer.target.as_str(), offer.digest), ("settings/plant.toml", digest));
        let desired = answer.desired.unwrap();
        let told = gateway.trust.take(&desired, &nonce, now(), &mut source(gateway.address)).unwrap();
        assert_eq!(told.settings, [("settings/plant.toml".to_owned(), digest)]);
        // The statement is held and the settings are not yet.
        let (answer, _) = gateway.ask(0)?;
        assert!(answer.desired.is_none() && answer.settings.is_some());
        let mut question = gateway.device.question(Vec::new());
        question.held = gateway.trust.held();
        question.held.settings_revision = offer.revision;
        let answer: dunlin_protocol::ExchangeAnswer =
            gateway.device.read(&gateway.device.send(&question, 0)?)?;
        assert!(answer.settings.is_none());
        Ok(())
    })
}

#[test]
fn what_the_owner_names_no_more_is_told_no_more_and_cannot_be_given() -> Outcome<()> {
    let mut site = Site::new(None)?;
    let release = site.owner.approve(site.folder.path(), "frost", 1, &[])?;
    site.publish()?;
    let (mut gateway, second) = (site.gateway(1)?, site.gateway(2)?);
    site.assign(&gateway, release.digest)?;
    site.owner.remove(&release.path)?;
    site.publish()?;
    let told = gateway.exchange()?.unwrap();
    assert_eq!(told.assignments, []);
    assert!(site.assign(&second, release.digest).is_err());
    Ok(())
}

#[test]
fn a_question_that_waits_is_answered_when_there_is_something_new() -> Outcome<()> {
    let mut site = Site::new(None)?;
    let release = site.owner.approve(site.folder.path(), "frost", 1, &[])?;
    site.publish()?;
    let mut gateway = site.gateway(1)?;
    gateway.ask(0)?;
    let id = gateway.device.id();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| gateway.ask(50).map(|(answer, _)| answer.desired.is_some()));
        wait_for_question(&site.running, id)?;
        let digest = release.digest.to_string();
        site.running.write(move |sql| desired::assign(sql, &id.to_string(), &digest, "rol-1", 1))?;
        site.running.on_fleet(async |fleet| {
            fleet.waiters.wake(id);
            Ok(())
        })?;
        assert!(asking.join().unwrap()?);
        Ok(())
    })
}

#[test]
fn who_waits_is_asked_to_wait_on_and_others_come_back_later() -> Outcome<()> {
    let site = Site::new(None)?;
    let mut gateway = site.gateway(1)?;
    gateway.ask(0)?;
    assert_eq!(gateway.ask(1)?.0.next_ms, 0);
    assert!(gateway.ask(0)?.0.next_ms > 30_000);
    Ok(())
}

#[test]
fn a_question_that_waits_at_one_server_is_answered_when_another_has_something_new() -> Outcome<()> {
    use dunlin_e2e::postgres::Postgres;
    if !Postgres::is_installed() {
        dunlin_e2e::workspace::skip("PostgreSQL is not installed");
        return Ok(());
    }
    let postgres = Postgres::start()?;
    let url = postgres.new_database("fleet")?;
    let mut site = Site::new(Some(url.clone()))?;
    let release = site.owner.approve(site.folder.path(), "frost", 1, &[])?;
    site.publish()?;
    let mut gateway = site.gateway(1)?;
    gateway.ask(0)?;
    // Another process over the same database; what it changes it tells nobody.
    let other = Running::open(Bounds::default(), tempfile::tempdir()?, Some(url), None)?;
    let id = gateway.device.id();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| gateway.ask(50).map(|(answer, _)| answer.desired.is_some()));
        wait_for_question(&site.running, id)?;
        let digest = release.digest.to_string();
        let now = super::now_ms();
        other.write(move |sql| desired::assign(sql, &id.to_string(), &digest, "rol-1", now))?;
        assert!(asking.join().unwrap()?);
        Ok(())
    })
}

/// Waits until a gateway's question waits at the server.
fn wait_for_question(running: &Running, device: dunlin_protocol::DeviceId) -> Outcome<()> {
    dunlin_e2e::wait::wait_until("the question waits", std::time::Duration::from_secs(20), || {
        running.on_fleet(async |fleet| Ok(fleet.waiters.has(device))).unwrap_or(false)
    })
}
