//! Configuration files: any text is a configuration or a list of findings that each say where, and the effective form of
//! what is accepted is accepted again.
//!
//! Takes any bytes as the main file.

#![no_main]

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::LazyLock;

use dunlin_daemon::config::{LoadRequest, load};
use libfuzzer_sys::fuzz_target;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("dunlin-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder can be made");
    folder
});

fuzz_target!(|data: &[u8]| {
    let request = |bytes: &[u8]| {
        let file = FOLDER.join("dunlind.toml");
        File::create(&file)
            .and_then(|mut file| file.write_all(bytes))
            .expect("a temporary file can be written");
        LoadRequest { file, state_dir: Some(FOLDER.join("state")), ..LoadRequest::default() }
    };
    match load(&request(data)) {
        Err(errors) => {
            assert!(!errors.0.is_empty(), "a refusal has a reason");
            assert!(errors.0.iter().all(|finding| !finding.message.is_empty()));
            assert!(!errors.to_string().is_empty());
        }
        Ok(loaded) => {
            let effective = toml::to_string(&loaded.effective).expect("a configuration is a table");
            let again = load(&request(effective.as_bytes())).map_err(|errors| errors.to_string());
            let again = again.expect("the effective configuration is one");
            assert_eq!(again.effective, loaded.effective);
        }
    }
});
