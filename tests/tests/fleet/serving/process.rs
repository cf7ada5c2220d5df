//! The program under its supervisor: ready when it serves, alive while its database answers, stopped in order.

use dunlin_e2e::Outcome;
use dunlin_e2e::fleet_server::ServerPlan;

#[test]
fn the_program_tells_its_supervisor_that_it_serves_and_that_it_stops() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let plan = ServerPlan::new(folder.path())?;
    let mut server = plan.start()?;
    let status = server.terminate()?;
    assert!(status.success(), "{}", server.failure("it failed"));
    server.wait_told("STOPPING=1")
}

#[test]
fn the_watchdog_is_fed_while_the_database_answers() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let mut server = ServerPlan::new(folder.path())?.under_watchdog().start()?;
    server.wait_told("WATCHDOG=1")?;
    server.wait_told("WATCHDOG=1")
}

#[test]
fn a_server_that_was_killed_comes_back_as_the_same_one() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let plan = ServerPlan::new(folder.path())?;
    let mut server = plan.start()?;
    server.kill();
    drop(plan.start()?);
    let log = plan.log();
    let ids: Vec<&str> = log.split("server=").skip(1).filter_map(|rest| rest.split(' ').next()).collect();
    assert_eq!(ids.len(), 2, "{log}");
    assert_eq!(ids[0], ids[1]);
    Ok(())
}
