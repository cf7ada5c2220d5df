//! What is left of updates where the gateway does not know any more what it trusted.

use dunlin_model_package::Digest;

use super::*;
use crate::config::{LoadRequest, load};
use crate::store::spoiled::{self, spoil};

const CONFIGURATION: &str = r#"
gateway = "g"

[mqtt]
url = "mqtt://127.0.0.1:1"

[[source]]
name = "s"
topics = ["t"]
format = "number"

[source.fields]
value = { unit = "Cel" }
"#;

fn settings(folder: &std::path::Path) -> Settings {
    let file = folder.join("dunlind.toml");
    dunlin_kit::atomic_file::write(&file, CONFIGURATION.as_bytes()).unwrap();
    let request = LoadRequest {
        file,
        set: Vec::new(),
        environment: Vec::new().into_iter().collect(),
        state_dir: Some(folder.to_owned()),
        overlay: None,
    };
    load(&request).unwrap().settings
}

#[tokio::test]
async fn where_what_was_trusted_is_damaged_every_import_is_refused_and_what_runs_needs_no_trust() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let lock = FolderLock::acquire(folder.path()).unwrap();
    drop(Updates::open(&lock, &settings, PathBuf::from("worker")).unwrap());
    spoil(folder.path(), spoiled::ROOT_UNKNOWN);
    let updates = Updates::open(&lock, &settings, PathBuf::from("worker")).unwrap();
    assert!(updates.book.report().state_lost.is_some());
    assert!(updates.book.accepts_root(&Digest::of(b"any")).unwrap());
    let import = updates.desk.import(folder.path().to_owned(), Again::Never).unwrap();
    let report = updates.desk.idle().await;
    assert_eq!(report.import, import);
    assert_eq!(report.refused.map(|refusal| refusal.code).as_deref(), Some("state_lost"));
}
