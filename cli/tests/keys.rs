//! The life of a repository's keys, with the real binary: made, rotated, withdrawn, shared.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test program uses its part of the bench")]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use dunlin_trust::Code;
use support::{Bench, copy_folder};

#[test]
fn a_package_goes_from_keys_to_a_published_folder_that_a_gateway_accepts() {
    let bench = Bench::new();
    bench.with_pass(&["keys", "init"]);
    for name in ["root", "targets", "online"] {
        let key = &bench.keys("trust/keys", name)[0];
        let path = bench.path(&format!("trust/keys/{name}-{key}.key"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::read_to_string(&path).unwrap().contains("BEGIN ENCRYPTED PRIVATE KEY"));
    }
    bench.release("frost", "1.0.0", 1);
    assert_eq!(bench.verdict("site"), Ok(1));
    let published = support::files_below(&bench.path("site"));
    assert!(bench.ok(&["publish", "--to", "site"]).contains("up to date"));
    assert_eq!(support::files_below(&bench.path("site")), published, "published twice changes nothing");
    let shown: serde_json::Value = serde_json::from_str(&bench.ok(&["keys", "show", "-o", "json"])).unwrap();
    assert_eq!(shown["roles"][0]["role"], "root");
    assert_eq!(shown["roles"][0]["version"], 1);
    assert_eq!(shown["releases"][0]["model"], "frost");
    assert!(bench.ok(&["keys", "show"]).contains("1 of 1 keys must sign"));
    bench.refused(&["sign", "package-frost-1.0.0", "--passphrase-file", "pass"], 4, "signed already");
    bench.package("older", "frost", "0.9.0", 1);
    bench.refused(&["sign", "older", "--passphrase-file", "pass"], 4, "release counter 1");
    bench.refused(&["keys", "init", "--passphrase-file", "pass"], 4, "holds keys and metadata already");
}

#[test]
fn a_root_rotated_four_times_is_followed_from_the_first() {
    let bench = Bench::new();
    bench.with_pass(&["keys", "init"]);
    bench.release("frost", "1.0.0", 1);
    for version in 2..=5 {
        let key = key_of(&bench, "root");
        bench.with_pass(&["keys", "rotate", "root", "--key", &key]);
        assert_ne!(key_of(&bench, "root"), key);
        assert!(bench.path(&format!("trust/metadata/{version}.root.json")).exists());
    }
    bench.ok(&["publish", "--to", "site"]);
    assert_eq!(bench.verdict("site"), Ok(1));
    // A root in the chain that is missing or forged stops the reader at the last good one.
    fs::remove_file(bench.path("site/metadata/3.root.json")).unwrap();
    fs::copy(bench.path("site/metadata/4.root.json"), bench.path("site/metadata/3.root.json")).unwrap();
    assert!(bench.verdict("site").is_err());
}

#[test]
fn rotating_targets_and_online_keys_breaks_no_reader() {
    let bench = Bench::new();
    bench.with_pass(&["keys", "init"]);
    bench.release("frost", "1.0.0", 1);
    for role in ["targets", "timestamp"] {
        let before = key_of(&bench, role);
        bench.with_pass(&["keys", "rotate", role]);
        assert_ne!(key_of(&bench, role), before);
        let run = bench.run(&["publish", "--to", "site"]);
        assert!(!run.err.contains("the keys of before cannot sign"), "{}", run.err);
        assert_eq!(bench.verdict("site"), Ok(1));
    }
    assert_eq!(key_of(&bench, "snapshot"), key_of(&bench, "timestamp"), "one online key for both");
    bench.release("frost", "1.1.0", 2);
    assert_eq!(bench.verdict("site"), Ok(2));
}

#[test]
fn a_withdrawn_targets_key_approves_nothing_any_more() {
    let bench = Bench::new();
    bench.with_pass(&["keys", "init", "--targets-keys", "2"]);
    bench.release("frost", "1.0.0", 1);
    bench.release("ember", "1.0.0", 1);
    let signer = signer_of(&bench, "targets");
    let pass = ["--passphrase-file", "pass"];
    bench.refused(&[&["keys", "revoke", "ffff0000"], &pass[..]].concat(), 3, "no key that counts begins");
    let root = key_of(&bench, "root");
    bench.refused(&[&["keys", "revoke", &root], &pass[..]].concat(), 2, "would have 0 keys");
    bench.refused(
        &[&["keys", "revoke", &signer, "--drop", "frost@9"], &pass[..]].concat(),
        3,
        "no release `frost@9`",
    );
    copy_folder(&bench.path("site"), &bench.path("attack"));
    let said = bench.with_pass(&["keys", "revoke", &signer, "--drop", "ember@1.0.0"]);
    assert!(said.contains("ember 1.0.0: dropped"), "{said}");
    assert!(said.contains("frost 1.0.0: kept: approved by"), "{said}");
    assert!(said.contains("approved by the revoked key alone"), "{said}");
    bench.ok(&["publish", "--to", "site"]);
    let verdict = bench.judge("site").unwrap();
    assert_eq!(verdict.targets.keys().collect::<Vec<_>>(), ["models/frost/1.0.0/manifest.json"]);
    // What the key signed before counts nowhere once the new root is known.
    fs::copy(bench.path("site/metadata/2.root.json"), bench.path("attack/metadata/2.root.json")).unwrap();
    assert_eq!(bench.verdict("attack"), Err(Code::Signature));
    let other = bench.keys("trust/keys", "targets").into_iter().find(|key| *key != signer).unwrap();
    assert_eq!(signer_of(&bench, "targets"), other);
    fs::remove_file(bench.path(&format!("trust/keys/targets-{other}.key"))).unwrap();
    bench.package("next", "frost", "2.0.0", 2);
    bench.refused(&[&["sign", "next"], &pass[..]].concat(), 3, "none of them is at hand");
}

#[test]
fn two_of_three_keepers_with_their_own_folders_and_passphrases_approve_a_model() {
    let bench = Bench::new();
    bench.with_pass(&["keys", "init", "--targets-keys", "3", "--targets-threshold", "2"]);
    let keys = bench.keys("trust/keys", "targets");
    for (keeper, key) in ["anna", "bert"].iter().zip(&keys) {
        fs::create_dir(bench.path(keeper)).unwrap();
        let name = format!("targets-{key}.key");
        fs::rename(bench.path(&format!("trust/keys/{name}")), bench.path(keeper).join(&name)).unwrap();
    }
    fs::remove_file(bench.path(&format!("trust/keys/targets-{}.key", keys[2]))).unwrap();
    bench.package("p", "frost", "1.0.0", 1);
    let said = bench.with_pass(&["sign", "p", "--keys", "anna"]);
    assert!(said.contains("signed in part") && said.contains("needs 1 more"), "{said}");
    bench.refused(&["publish", "--to", "site"], 4, "waits for signatures");
    bench.refused(&["keys", "rotate", "root", "--passphrase-file", "pass"], 4, "waits for signatures");
    bench.refused(
        &["sign", "--add", "--keys", "anna", "--passphrase-file", "pass"],
        3,
        "none of them is at hand",
    );
    bench.refused(
        &["sign", "--add", "--keys", "bert", "--passphrase-file", "other-pass"],
        1,
        "wrong passphrase",
    );
    // The second keeper has no online key: the change is complete, and waits for it.
    let said = bench.with_pass(&["sign", "--add", "--keys", "bert"]);
    assert!(said.contains("2.targets.json: signed by") && !said.contains("needs"), "{said}");
    bench.refused(&["publish", "--to", "site"], 4, "waits for signatures");
    bench.with_pass(&["sign", "--add", "--keys", "trust"]);
    bench.ok(&["publish", "--to", "site"]);
    assert_eq!(bench.verdict("site"), Ok(1));
    bench.package("q", "frost", "1.1.0", 2);
    bench.with_pass(&["sign", "q", "--keys", "anna"]);
    bench.ok(&["sign", "--discard"]);
    assert!(bench.ok(&["publish", "--to", "site"]).contains("up to date"));
}

#[test]
fn a_team_approves_the_models_delegated_to_it_and_no_others() {
    let bench = Bench::new();
    bench.with_pass(&["keys", "init"]);
    bench.with_pass(&["keys", "new", "vision", "--to", "team"]);
    let file = format!("team/vision-{}.key", bench.keys("team", "vision")[0]);
    let paths = "models/vision-*/*/manifest.json";
    bench.with_pass(&["keys", "delegate", "vision", "--paths", paths, "--public", &file]);
    bench.release("frost", "1.0.0", 1);
    assert_eq!(bench.verdict("site"), Ok(1), "a team that has signed nothing stops nobody");
    bench.package("v", "vision-door", "1.0.0", 1);
    bench.package("f", "frost", "2.0.0", 2);
    let team = ["--role", "vision", "--keys", "team", "--keys", "trust", "--passphrase-file", "pass"];
    bench.refused(&[&["sign", "f"], &team[..]].concat(), 5, "may not name `models/frost");
    bench.ok(&[&["sign", "v"], &team[..]].concat());
    bench.ok(&["publish", "--to", "site"]);
    assert_eq!(bench.verdict("site"), Ok(2));
}

#[test]
fn passphrases_may_differ_by_role_and_a_wrong_one_is_said_so() {
    let bench = Bench::new();
    bench.file("short", b"short\n");
    bench.file("empty", b"\n");
    bench.refused(&["keys", "init"], 2, "a passphrase is needed");
    bench.refused(&["keys", "init", "--passphrase-file", "short"], 2, "shorter than 8");
    bench.refused(&["keys", "init", "--passphrase-file", "empty"], 2, "is empty");
    bench.refused(&["keys", "init", "--passphrase-file", "none"], 1, "cannot read passphrase file `none`");
    bench.ok(&["keys", "init", "--passphrase-file", "pass", "--passphrase-file", "root=other-pass"]);
    bench.package("p", "frost", "1.0.0", 1);
    bench.refused(&["sign", "p", "--passphrase-file", "other-pass"], 1, "wrong passphrase");
    bench.with_pass(&["sign", "p"]);
    bench.refused(&["keys", "rotate", "root", "--passphrase-file", "pass"], 1, "wrong passphrase");
    bench.ok(&["keys", "rotate", "root", "--passphrase-file", "root=other-pass"]);
}

/// Returns the short name of the only key of a role.
fn key_of(bench: &Bench, role: &str) -> String {
    field(bench, role, |key| key["key"].is_string())
}

/// Returns the short name of the key that has signed for a role.
fn signer_of(bench: &Bench, role: &str) -> String {
    field(bench, role, |key| key["has_signed"] == true)
}

fn field(bench: &Bench, role: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> String {
    let shown: serde_json::Value = serde_json::from_str(&bench.ok(&["keys", "show", "-o", "json"])).unwrap();
    let role = shown["roles"].as_array().unwrap().iter().find(|other| other["role"] == role).unwrap().clone();
    let keys = role["keys"].as_array().unwrap();
    let key = keys.iter().find(|key| wanted(key)).unwrap();
    key["key"].as_str().unwrap()[..8].to_owned()
}
