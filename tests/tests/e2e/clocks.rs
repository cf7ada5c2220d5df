//! Wrong clocks: at 1970, at 2099 and back, and stepping backwards. A model runs through all of them.

use dunlin_e2e::Outcome;
use dunlin_e2e::broker::{Broker, BrokerPlan};
use dunlin_e2e::daemon::DaemonPlan;
use dunlin_e2e::killing::WrongClock;
use dunlin_e2e::onnx;
use dunlin_e2e::package::write_lab;
use dunlin_e2e::releases::{Sensor, lab_model, publish_release, serving, with_short_trials};
use dunlin_e2e::workspace::skip;

const BOOT_1970: &str = "@1970-01-01 00:00:10";
const FAR_FUTURE: &str = "@2099-01-01 00:00:00";
const RIGHT: &str = "+0";

#[test]
fn a_clock_at_1970_at_2099_and_back_delays_an_update_and_bricks_nothing() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let Some(clock) = WrongClock::find(folder.path()) else {
        skip("faketime is not installed");
        return Ok(());
    };
    let config = write_lab(folder.path())?;
    let broker = Broker::start(&BrokerPlan::default())?;
    let plan = with_short_trials(DaemonPlan::new(&config, folder.path()).set("mqtt.url", broker.url()));
    let repository = folder.path().join("repository").to_string_lossy().into_owned();
    let mut sensor = Sensor::connect(broker.port(), "a")?;
    let release = |number: u64| {
        publish_release(folder.path(), number, &onnx::doubling_but_slow_above(1e9, number as usize))
    };

    // A first boot without a battery: nothing has expired, and an update works.
    clock.set(BOOT_1970)?;
    let mut daemon = clock.start(&plan)?;
    daemon.wait_connected()?;
    sensor.feed_until_good(&plan, 1)?;
    release(2)?;
    let output = plan.command("import", &[&repository])?;
    assert!(output.status.success(), "{output:?}");
    sensor.feed_until_good(&plan, 2)?;

    // Far ahead everything has expired: the update is refused by name, the model runs on, through a restart too.
    release(3)?;
    for restarted in [false, true] {
        clock.set(FAR_FUTURE)?;
        if restarted {
            daemon.terminate()?;
            daemon = clock.start(&plan)?;
            daemon.wait_connected()?;
        }
        let output = plan.command("import", &["--wait", &repository])?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(said.contains("freeze_suspected"), "{said}");
        sensor.send(5)?;
        sensor.require_all_predicted_once(&plan)?;
        let model = lab_model(&plan)?;
        assert_eq!((serving(&model), model["floor"].as_u64()), (Some(2), Some(2)), "{model}");
    }

    // At the right time it works at once, without a restart.
    clock.set(RIGHT)?;
    let output = plan.command("import", &[&repository])?;
    assert!(output.status.success(), "{output:?}");
    sensor.feed_until_good(&plan, 3)?;

    // A step back in operation, and one to 1970 with a restart: readings and updates go on.
    clock.set("-3h")?;
    sensor.send(5)?;
    sensor.require_all_predicted_once(&plan)?;
    daemon.kill();
    clock.set(BOOT_1970)?;
    daemon = clock.start(&plan)?;
    daemon.wait_connected()?;
    release(4)?;
    let output = plan.command("import", &[&repository])?;
    assert!(output.status.success(), "{output:?}");
    sensor.feed_until_good(&plan, 4)?;
    sensor.require_all_predicted_once(&plan)?;
    daemon.terminate()?;
    Ok(())
}
