//! The command without a daemon: what it keeps, and how it ends.

use dunlin_trust::time::UnixTime;

use super::*;
use crate::update::testing::{Draft, Owner, bundle};

const CONFIG: &str = r#"[mqtt]
url = "mqtt://127.0.0.1:1"

[trust]
root = "root.json"

[[source]]
name = "lab"
topics = ["lab/{sensor}/data"]
format = "json"
fields = { a = { pointer = "/a" } }

[[model]]
name = "frost"
key = ["sensor"]
window = { length = 1, hop = 1 }
inputs.x = ["a"]
"#;

fn args(folder: &Path, path: &Path) -> ImportArgs {
    ImportArgs {
        path: path.to_owned(),
        state: StateDirArgs { state_dir: Some(folder.join("state")) },
        config: folder.join("dunlind.toml"),
        retry: false,
        wait: false,
        json: false,
    }
}

#[test]
fn without_a_daemon_a_bundle_is_verified_and_fetched_and_a_second_time_it_is_as_good() {
    let mut owner = Owner::at(UnixTime(dunlin_kit::clock::wall_micros() / 1_000_000));
    owner.publish(&Draft::new("frost", 4));
    let folder = tempfile::tempdir().unwrap();
    dunlin_kit::atomic_file::write(&folder.path().join("dunlind.toml"), CONFIG.as_bytes()).unwrap();
    dunlin_kit::atomic_file::write(&folder.path().join("root.json"), &owner.root(1)).unwrap();
    let (file, _place) = bundle(&owner);
    for _ in 0..2 {
        assert_eq!(run_in(&args(folder.path(), file.path()), Vec::new()).unwrap(), ExitCode::SUCCESS);
    }
    let lock = FolderLock::acquire(&folder.path().join("state")).unwrap();
    let kept = TrustStore::open(&lock).unwrap().releases().unwrap();
    assert_eq!(kept.iter().map(|release| release.counter).collect::<Vec<_>>(), [4]);
    assert_eq!(std::fs::read_dir(folder.path().join("state/models/blobs")).unwrap().count(), 1);
    drop(lock);

    // Somebody else's repository is refused, one without the model and one that is not there are not found.
    let thief = Owner::at(owner.now);
    assert_eq!(run_in(&args(folder.path(), thief.folder()), Vec::new()).unwrap_err().exit_code(), 5);
    let mut other = Owner::at(owner.now);
    other.publish(&Draft::new("pump", 1));
    let fresh = tempfile::tempdir().unwrap();
    dunlin_kit::atomic_file::write(&fresh.path().join("dunlind.toml"), CONFIG.as_bytes()).unwrap();
    dunlin_kit::atomic_file::write(&fresh.path().join("root.json"), &other.root(1)).unwrap();
    assert_eq!(run_in(&args(fresh.path(), other.folder()), Vec::new()).unwrap_err().exit_code(), 3);
    assert_eq!(run_in(&args(folder.path(), Path::new("/nowhere")), Vec::new()).unwrap_err().exit_code(), 3);
}
