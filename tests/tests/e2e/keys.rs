//! Keys that were replaced and withdrawn while a gateway was away, with the operator's own program.

use std::path::Path;

use dunlin_e2e::broker::{Broker, BrokerPlan};
use dunlin_e2e::daemon::DaemonPlan;
use dunlin_e2e::key_files::KeyPlan;
use dunlin_e2e::operator::Operator;
use dunlin_e2e::package::write_lab;
use dunlin_e2e::releases::{Sensor, copy_folder, lab_model, serving, with_short_trials, write_release};
use dunlin_e2e::{Outcome, onnx};

/// Signs a release in the operator's folder and publishes it to `site`.
fn release(operator: &Operator, folder: &Path, number: u64) -> Outcome<()> {
    write_release(folder, number, &onnx::doubling_but_slow_above(1e9, number as usize))?;
    operator.with_pass(&["sign", &format!("double-{number}")])?;
    operator.run(&["publish", "--to", "site"])?;
    Ok(())
}

/// Returns a thief with a copy of the owner's metadata, one targets key and the online key.
fn thief_of(trust: &Path, lair: &Path, stolen: &str) -> Outcome<Operator> {
    let thief = Operator::in_folder(lair)?;
    copy_folder(trust, &lair.join("trust"))?;
    for entry in std::fs::read_dir(lair.join("trust/keys"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with("online-") && !name.contains(stolen) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(thief)
}

#[test]
fn a_gateway_that_was_away_follows_five_roots_and_refuses_what_a_withdrawn_key_signs() -> Outcome<()> {
    let (home, lair) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let folder = home.path();
    let config = write_lab(folder)?;
    let operator = Operator::in_folder(folder)?;
    operator.found(KeyPlan { targets: 2, ..KeyPlan::default() })?;
    // The gateway gets the first root alone, and never another by hand.
    std::fs::copy(folder.join("trust/metadata/1.root.json"), folder.join("root.json"))?;
    let text = std::fs::read_to_string(&config)?.replace("\"repository\"", "\"site\"");
    dunlin_e2e::package::write(&config, text.as_bytes())?;
    release(&operator, folder, 1)?;
    let broker = Broker::start(&BrokerPlan::default())?;
    let plan = with_short_trials(DaemonPlan::new(&config, folder).set("mqtt.url", broker.url()));
    let mut sensor = Sensor::connect(broker.port(), "a")?;
    let mut daemon = plan.start_ready()?;
    sensor.feed_until_good(&plan, 1)?;
    daemon.terminate()?;

    // Meanwhile: three new roots, a targets key is stolen with the online key, and a fifth root withdraws it.
    for _ in 0..3 {
        let keys = operator.keys_of("root")?;
        operator.with_pass(&["keys", "rotate", "root", "--key", &keys[0]])?;
    }
    let targets = operator.keys_of("targets")?;
    assert_eq!(targets.len(), 2, "{targets:?}");
    let stolen = &targets[0];
    let thief = thief_of(&folder.join("trust"), lair.path(), &stolen[..8])?;
    copy_folder(&folder.join("site"), &lair.path().join("site"))?;
    operator.with_pass(&["keys", "revoke", stolen])?;
    release(&operator, folder, 2)?;
    assert!(
        folder.join("site/metadata/5.root.json").is_file()
            && !folder.join("site/metadata/6.root.json").exists()
    );
    daemon = plan.start_ready()?;
    sensor.feed_until_good(&plan, 2)?;

    // The thief's releases are newer than anything the gateway saw, and signed with a key that was good once.
    std::fs::copy(folder.join("dunlind.toml"), lair.path().join("dunlind.toml"))?;
    for number in 3..=6 {
        release(&thief, lair.path(), number)?;
    }
    std::fs::copy(folder.join("site/metadata/5.root.json"), lair.path().join("site/metadata/5.root.json"))?;
    let before = lab_model(&plan)?;
    for restarted in [false, true] {
        if restarted {
            daemon.kill();
            daemon = plan.start_ready()?;
        }
        let site = lair.path().join("site").to_string_lossy().into_owned();
        let output = plan.command("import", &["--wait", &site])?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(said.contains("signature"), "{said}");
        sensor.send(5)?;
        sensor.require_all_predicted_once(&plan)?;
        let after = lab_model(&plan)?;
        assert_eq!(serving(&after), Some(2), "{after}");
        for part in ["active", "previous", "candidate", "floor", "bad"] {
            assert_eq!(after[part], before[part], "{part}");
        }
    }

    // The owner's next release is taken as if nothing had been tried.
    release(&operator, folder, 3)?;
    let output = plan.command("import", &[&folder.join("site").to_string_lossy()])?;
    assert!(output.status.success(), "{output:?}");
    sensor.feed_until_good(&plan, 3)?;
    sensor.require_all_predicted_once(&plan)?;
    daemon.terminate()?;
    Ok(())
}
