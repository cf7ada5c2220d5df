//! From enrolment to a withdrawal, with kills in between.

use dunlin_e2e::{Failure, Outcome};
use dunlin_fleet::store::devices;

use super::{Gateway, assign, publish, wait_report, withdraw};
use crate::trust::Site;

#[test]
fn a_gateway_enrols_by_its_token_takes_a_release_and_goes_back_when_it_is_withdrawn() -> Outcome<()> {
    let mut site = Site::new(None)?;
    let (first, second) = (publish(&mut site, 1)?, publish(&mut site, 2)?);
    let gateway = Gateway::new(&site, None)?;
    let (mut daemon, id) = gateway.start_linked()?;
    let report = wait_report(&site, id, "the server has a report", |report| !report.models.is_empty())?;
    assert_eq!(report.models[0].phase.as_str(), "absent");

    assign(&site, id, &first)?;
    gateway.wait_good(1)?;
    wait_report(&site, id, "release 1 is good at the server", |report| {
        report.models[0].active.as_ref().is_some_and(|active| active.digest == first.digest)
    })?;
    assign(&site, id, &second)?;
    gateway.wait_good(2)?;

    // Nothing is fetched for a way back.
    let served = site.running.address;
    withdraw(&site, id, &second)?;
    let model = gateway.wait_good(1)?;
    assert_eq!(model["bad"][0]["code"], "rolled_back:fleet", "{model}");
    assert_eq!(model["floor"], 2, "the floor stays");
    let report = wait_report(&site, id, "the server hears of it", |report| {
        report.models[0].bad.iter().any(|bad| bad.code.as_str() == "rolled_back:fleet")
    })?;
    assert_eq!(report.models[0].active.as_ref().map(|active| active.digest), Some(first.digest));
    assert_eq!(served, site.running.address);

    // What is given again on purpose is tried again.
    assign(&site, id, &second)?;
    gateway.wait_good(2)?;
    assert!(daemon.terminate()?.success());
    Ok(())
}

#[test]
fn a_gateway_that_is_killed_goes_on_in_the_same_life_and_is_told_what_it_missed() -> Outcome<()> {
    let mut site = Site::new(None)?;
    let (first, second) = (publish(&mut site, 1)?, publish(&mut site, 2)?);
    let gateway = Gateway::new(&site, None)?;
    let (mut daemon, id) = gateway.start_linked()?;
    assign(&site, id, &first)?;
    gateway.wait_good(1)?;
    daemon.kill();
    // The token is gone: it was for the first start alone.
    std::fs::remove_file(gateway.folder.path().join("fleet.token"))?;
    assign(&site, id, &second)?;
    let mut last = None;
    for _ in 0..3 {
        let (mut daemon, again) = gateway.start_linked()?;
        assert_eq!(again, id);
        daemon.kill();
        last = Some(again);
    }
    assert_eq!(last, Some(id));
    let (mut daemon, _) = gateway.start_linked()?;
    gateway.wait_good(2)?;
    daemon.kill();
    withdraw(&site, id, &second)?;
    let (_daemon, _) = gateway.start_linked()?;
    gateway.wait_good(1)?;
    let log = std::fs::read_to_string(&gateway.plan.log)?;
    assert!(!log.contains("cloned_identity") && !log.contains("replayed:"), "{log}");
    Ok(())
}

#[test]
fn a_gateway_is_enrolled_by_hand_and_a_second_use_of_its_token_is_refused() -> Outcome<()> {
    let site = Site::new(None)?;
    let gateway = Gateway::new(&site, None)?;
    let state = gateway.plan.state_dir.to_string_lossy().into_owned();
    let shown = gateway.plan.config_command("enroll", &["--state-dir", &state, "--show-key"])?;
    let key = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.status.success(), "{shown:?}");
    let enrolled = gateway.plan.config_command("enroll", &["--state-dir", &state])?;
    let said = String::from_utf8_lossy(&enrolled.stdout).into_owned();
    assert!(enrolled.status.success() && said.contains("words"), "{enrolled:?}");
    let other = gateway.folder.path().join("other").to_string_lossy().into_owned();
    let refused = gateway.plan.config_command("enroll", &["--state-dir", &other])?;
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("token"), "{refused:?}");
    let (_daemon, id) = gateway.start_linked()?;
    assert!(said.contains(&id.to_string()), "{said}");
    // The same key as before the enrolment, shown beside the running daemon too, and the one that the server knows.
    let again = gateway.plan.config_command("enroll", &["--state-dir", &state, "--show-key"])?;
    assert_eq!(String::from_utf8_lossy(&again.stdout), key);
    let name = id.to_string();
    let device = site.running.write(move |sql| devices::get(sql, &name))?;
    let known = device.ok_or_else(|| Failure::new("the server does not know the gateway"))?.public_key;
    let known: String = known.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(key.contains(&format!("key     {known}\ngateway {id}\nwords   ")), "{key} {known}");
    let checked = gateway.plan.config_command("check", &["--state-dir", &state])?;
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    for expected in ["✔ enrolled at http", "answers\n", "✔ the server's clock and this one differ by"] {
        assert!(checked.contains(expected), "`{expected}` is not in\n{checked}");
    }
    Ok(())
}

#[test]
fn a_token_of_another_owner_shows_nothing_to_the_server() -> Outcome<()> {
    let site = Site::new(None)?;
    let mut stranger = Site::new(None)?;
    stranger.running.set_root(b"{\"signed\":{}}");
    // The token names this server and another root.
    let gateway = Gateway::new(&stranger, Some(&format!("http://{}", site.running.address)))?;
    let state = gateway.plan.state_dir.to_string_lossy().into_owned();
    let server = format!("http://{}", site.running.address);
    let refused = gateway.plan.config_command("enroll", &["--state-dir", &state, "--server", &server])?;
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("mismatch"), "{refused:?}");
    Ok(())
}
