//! Backups made while gateways speak, restored into a new folder; and what is damaged or from the future.

use std::path::Path;

use dunlin_e2e::{Failure, Outcome};
use dunlin_fleet::backup::{BackupError, Database, back_up, check, restore};
use dunlin_fleet::http::Bounds;
use dunlin_fleet::store::{Store, StoreError};

use crate::device::Device;
use crate::rows::losses;
use crate::serving::Running;

fn ranges(device: &mut Device, first: u64, count: u64) -> Outcome<String> {
    let answer = device.exchange(vec![losses(first, count)])?;
    Ok(serde_json::to_string(&answer.receipts[0].ranges)?)
}

#[test]
fn a_fleet_goes_on_from_a_backup_that_was_made_while_it_ran() -> Outcome<()> {
    let running = Running::start()?;
    let mut device = running.enrolled(1)?;
    ranges(&mut device, 1, 5)?;
    let data = running.folder.path().join("data");
    let outside = tempfile::tempdir()?;
    let to = outside.path().join("backup");
    let made = std::thread::scope(|scope| {
        let backup = scope.spawn(|| back_up(&data, &to, Database::InFolder));
        for first in 6..20 {
            ranges(&mut device, first, 1)?;
        }
        backup.join().map_err(|_| Failure::new("panicked"))?.map_err(Failure::of("back up"))
    })?;
    assert!(made.files >= 3, "{made:?}");
    check(&to).map_err(Failure::of("check the backup"))?;
    check(&data).map_err(Failure::of("check the folder"))?;
    assert!(matches!(back_up(&data, &to, Database::InFolder), Err(BackupError::NotEmpty(_))));
    drop(running);
    let folder = tempfile::tempdir()?;
    restore(&to, &folder.path().join("data")).map_err(Failure::of("restore"))?;
    assert!(matches!(restore(&to, &folder.path().join("data")), Err(BackupError::NotEmpty(_))));
    let again = Running::start_within(Bounds::default(), folder)?;
    let mut moved = again.device(1);
    // The same server by key and id; the gateway's counter is ahead of it, and its rows are received on.
    (moved.incarnation, moved.counter) = (device.incarnation, device.counter);
    assert_eq!((again.id, again.key), (device.server_id, moved.server_key()));
    assert_eq!(ranges(&mut moved, 1, 30)?, "[[1,30]]");
    Ok(())
}

#[test]
fn damage_is_found_and_not_restored() -> Outcome<()> {
    let running = Running::start()?;
    running.enrolled(1)?;
    let data = running.folder.path().join("data");
    let outside = tempfile::tempdir()?;
    let to = outside.path().join("backup");
    back_up(&data, &to, Database::InFolder).map_err(Failure::of("back up"))?;
    let spoil = |file: &Path| -> Outcome<Vec<u8>> {
        let raw = std::fs::read(file)?;
        let mut wrong = raw.clone();
        wrong[raw.len() / 2] ^= 1;
        dunlin_kit::atomic_file::write_from(file, &mut wrong.as_slice(), 0o600)?;
        Ok(raw)
    };
    for name in ["fleet.db", "keys/online.pem"] {
        let raw = spoil(&to.join(name))?;
        let new = outside.path().join("new");
        for failed in [check(&to), restore(&to, &new)] {
            assert!(matches!(failed, Err(BackupError::Damaged(_))), "{name}: {failed:?}");
        }
        assert!(!new.exists());
        dunlin_kit::atomic_file::write_from(&to.join(name), &mut raw.as_slice(), 0o600)?;
    }
    check(&to).map_err(Failure::of("mended"))?;
    std::fs::remove_file(to.join("backup.json"))?;
    let incomplete = restore(&to, &outside.path().join("new"));
    assert!(matches!(incomplete, Err(BackupError::Incomplete(_))), "{incomplete:?}");
    let none = back_up(outside.path(), &outside.path().join("empty"), Database::InFolder);
    assert!(matches!(none, Err(BackupError::NoDatabase(_))), "{none:?}");
    Ok(())
}

#[test]
fn what_a_newer_program_made_is_refused_by_its_version() -> Outcome<()> {
    let running = Running::start()?;
    let data = running.folder.path().join("data");
    let outside = tempfile::tempdir()?;
    let to = outside.path().join("backup");
    back_up(&data, &to, Database::InFolder).map_err(Failure::of("back up"))?;
    let list = to.join("backup.json");
    let text = std::fs::read_to_string(&list)?.replacen("\"format\": 1", "\"format\": 2", 1);
    dunlin_kit::atomic_file::write_from(&list, &mut text.as_bytes(), 0o600)?;
    let refused = restore(&to, &outside.path().join("new"));
    assert!(matches!(refused, Err(BackupError::TooNew { .. })), "{refused:?}");
    running.write(|sql| {
        sql.execute("UPDATE origin SET version = '9.9.9'", &[])?;
        sql.execute("UPDATE refinery_schema_history SET version = 9999 WHERE version = 1", &[])
    })?;
    let by_name = |outcome: Result<(), StoreError>| match outcome {
        Err(StoreError::TooNew { needed, .. }) => assert_eq!(needed, "9.9.9"),
        other => panic!("{other:?}"),
    };
    match back_up(&data, &outside.path().join("other"), Database::InFolder) {
        Err(BackupError::Store(error)) => by_name(Err(error)),
        other => panic!("{other:?}"),
    }
    let folder = running.stop();
    by_name(Store::open_sqlite(&folder.path().join("data/fleet.db")).map(Store::close));
    Ok(())
}
