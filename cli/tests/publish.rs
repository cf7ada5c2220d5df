//! Signing, publishing and bundling, with the real binary and with cuts at every write.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test program uses its part of the bench")]
mod support;

use std::fs;

use dunlin_cli::publication::{self, Continuity};
use dunlin_cli::verification;
use dunlin_model_package::{BundleReader, RepositoryFolder};
use dunlin_trust::Code;
use support::{Bench, copy_folder, files_below, now};

/// Each state of the trust folder in the life of a repository, as `state-N`.
fn life(bench: &Bench) -> usize {
    let mut states = 0;
    let mut keep = || {
        copy_folder(&bench.path("trust"), &bench.path(&format!("state-{states}")));
        states += 1;
    };
    bench.ok(&["keys", "init", "--development"]);
    keep();
    for (counter, change) in ["sign", "root", "sign", "targets", "timestamp", "sign"].iter().enumerate() {
        if *change == "sign" {
            bench.package("p", "frost", &format!("1.{counter}"), counter as u64 + 1);
            bench.ok(&["sign", "p"]);
        } else {
            bench.ok(&["keys", "rotate", change]);
        }
        keep();
    }
    states
}

#[test]
fn publishing_cut_after_any_write_leaves_a_repository_that_is_accepted() {
    let bench = Bench::new();
    let states = life(&bench);
    let (mut cuts, mut gaps) = (0, 0);
    for to in 0..states {
        let (source, verdict) = state(&bench, to);
        // From nothing, from the state before, and from the first of all.
        let starts = match to {
            0 => vec![None],
            1 => vec![None, Some(0)],
            _ => vec![Some(to - 1), Some(0)],
        };
        for from in starts {
            let site = format!("site-{from:?}-{to}");
            let folder = RepositoryFolder::new(bench.path(&site));
            let old = from.map(|from| {
                let (source, verdict) = state(&bench, from);
                for path in publication::plan(&verdict, &folder, now()).unwrap().writes {
                    publication::write(&source, &path, &folder).unwrap();
                }
                verdict.targets
            });
            let plan = publication::plan(&verdict, &folder, now()).unwrap();
            for (count, path) in plan.writes.iter().enumerate() {
                if plan.continuity == Continuity::Gap && path.is_metadata() {
                    assert_eq!(bench.judge(&site).unwrap().targets, *old.as_ref().unwrap());
                    assert!(publication::exchange(&verdict, &folder).unwrap());
                    assert_eq!(bench.judge(&site).unwrap().targets, verdict.targets);
                    gaps += 1;
                    break;
                }
                publication::write(&source, path, &folder).unwrap();
                cuts += 1;
                let is_last = count + 1 == plan.writes.len();
                match (bench.judge(&site), &old) {
                    (Ok(found), _) if is_last => assert_eq!(found.targets, verdict.targets),
                    (Ok(found), Some(old)) => {
                        assert!(found.targets == *old || found.targets == verdict.targets);
                    }
                    // A folder without timestamp is not a repository yet.
                    (Err(_), None) => assert!(!bench.path(&site).join("metadata/timestamp.json").exists()),
                    (verdict, _) => panic!("{site} after {path}: {verdict:?}"),
                }
                // Whoever publishes after the cut completes the same repository.
                let again = publication::plan(&verdict, &folder, now()).unwrap();
                assert_eq!(again.writes.len(), plan.writes.len() - count - 1, "{site} after {path}");
            }
            assert!(publication::plan(&verdict, &folder, now()).unwrap().writes.is_empty(), "{site}");
        }
    }
    assert!(cuts > 40 && gaps > 0, "{cuts} cuts, {gaps} gaps");
}

fn state(bench: &Bench, number: usize) -> (RepositoryFolder, verification::Verdict) {
    let folder = RepositoryFolder::new(bench.path(&format!("state-{number}")));
    let verdict = verification::verify(&folder, now()).unwrap();
    (folder, verdict)
}

#[test]
fn a_targets_key_that_was_lost_is_replaced_without_a_state_that_readers_refuse() {
    let bench = Bench::new();
    bench.with_pass(&["keys", "init"]);
    bench.release("frost", "1.0.0", 1);
    let lost = bench.keys("trust/keys", "targets")[0].clone();
    fs::remove_file(bench.path(&format!("trust/keys/targets-{lost}.key"))).unwrap();
    bench.with_pass(&["keys", "rotate", "targets"]);
    let verdict = bench.judge("trust").unwrap();
    let plan = publication::plan(&verdict, &RepositoryFolder::new(bench.path("site")), now()).unwrap();
    assert_eq!(plan.continuity, Continuity::Gap);
    bench.ok(&["publish", "--to", "site"]);
    assert_eq!(bench.verdict("site"), Ok(1));
    assert!(bench.path("site/metadata/1.root.json").exists() && !bench.path("site/.metadata").exists());
}

#[test]
fn a_change_cut_while_it_is_taken_in_is_completed_by_the_next_command() {
    let bench = Bench::development();
    copy_folder(&bench.path("trust"), &bench.path("before"));
    bench.package("p", "frost", "1.0.0", 1);
    bench.ok(&["sign", "p"]);
    let metadata = |folder: &str| files_below(&bench.path(folder).join("metadata"));
    let name = |path: &std::path::Path| path.file_name().unwrap().to_owned();
    let before: Vec<_> = metadata("before").into_iter().map(|(path, raw)| (name(&path), raw)).collect();
    let change: Vec<_> = metadata("trust")
        .into_iter()
        .map(|(path, raw)| (name(&path), raw))
        .filter(|file| !before.contains(file))
        .collect();
    assert_eq!(change.len(), 3, "targets, snapshot, timestamp");
    for taken in 0..=change.len() {
        for removed in 0..=if taken == change.len() { change.len() } else { 0 } {
            let cut = format!("cut-{taken}-{removed}");
            copy_folder(&bench.path("before"), &bench.path(&cut));
            for place in ["targets", "blobs"] {
                copy_folder(&bench.path("trust").join(place), &bench.path(&cut).join(place));
            }
            fs::create_dir(bench.path(&cut).join("ready")).unwrap();
            for (index, (name, raw)) in change.iter().enumerate() {
                let name = name.to_str().unwrap();
                if index >= removed {
                    bench.file(&format!("{cut}/ready/{name}"), raw);
                }
                if index < taken {
                    bench.file(&format!("{cut}/metadata/{name}"), raw);
                }
            }
            bench.ok(&["keys", "show", "--trust", &cut]);
            assert!(!bench.path(&cut).join("ready").exists());
            bench.ok(&["publish", "--trust", &cut, "--to", &format!("site-{cut}")]);
            assert_eq!(bench.verdict(&format!("site-{cut}")), Ok(1));
        }
    }
    // What was not ready yet is as if it had not begun.
    copy_folder(&bench.path("before"), &bench.path("begun"));
    bench.file("begun/.ready/2.targets.json", b"half");
    bench.ok(&["publish", "--trust", "begun", "--to", "site-begun"]);
    assert_eq!(bench.verdict("site-begun"), Ok(0));
}

#[test]
fn publishing_never_goes_back_and_never_mixes_repositories() {
    let bench = Bench::development();
    bench.package("p", "frost", "1.0.0", 1);
    copy_folder(&bench.path("trust"), &bench.path("old"));
    copy_folder(&bench.path("trust"), &bench.path("fork"));
    bench.ok(&["sign", "p"]);
    bench.ok(&["publish", "--to", "site"]);
    bench.refused(&["publish", "--trust", "old", "--to", "site"], 4, "newer `timestamp.json`");
    bench.package("q", "ember", "1.0.0", 1);
    bench.ok(&["sign", "q", "--trust", "fork"]);
    bench.refused(&["publish", "--trust", "fork", "--to", "site"], 4, "two folders were signed in");
    bench.ok(&["keys", "init", "stranger", "--development"]);
    bench.refused(&["publish", "--trust", "stranger", "--to", "site"], 4, "another first root");
    let run = bench.run(&["publish", "--refresh", "--to", "site"]);
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(bench.verdict("site"), Ok(1));
}

#[test]
fn what_was_changed_after_signing_is_not_published() {
    let bench = Bench::development();
    bench.package("p", "frost", "1.0.0", 1);
    bench.ok(&["sign", "p"]);
    for (path, bytes) in files_below(&bench.path("trust")) {
        let name = path.strip_prefix(bench.path("trust")).unwrap().to_owned();
        let is_used = !name.starts_with("keys")
            && !name.ends_with("1.targets.json")
            && !name.ends_with("1.snapshot.json");
        if !is_used {
            continue;
        }
        let mut wrong = bytes.clone();
        let at = wrong.len() / 2;
        wrong[at] ^= 1;
        fs::remove_file(&path).unwrap();
        dunlin_kit::atomic_file::write(&path, &wrong).unwrap();
        let before = bench.snapshot();
        let run = bench.run(&["publish", "--to", "site"]);
        assert!(run.code == 5 || run.code == 1, "{}: {} {}", name.display(), run.code, run.err);
        assert_eq!(bench.snapshot(), before, "{}", name.display());
        let run = bench.run(&["bundle", "export", "-o", "b.dunlin"]);
        assert!(run.code == 5 || run.code == 1, "{}: {} {}", name.display(), run.code, run.err);
        assert_eq!(bench.snapshot(), before, "{}", name.display());
        dunlin_kit::atomic_file::write(&path, &bytes).unwrap();
    }
    bench.ok(&["publish", "--to", "site"]);
}

#[test]
fn a_damaged_published_file_is_replaced() {
    let bench = Bench::development();
    bench.package("p", "frost", "1.0.0", 1);
    bench.ok(&["sign", "p"]);
    bench.ok(&["publish", "--to", "site"]);
    let (blob, _) = files_below(&bench.path("site/blobs")).into_iter().next().unwrap();
    dunlin_kit::atomic_file::write(&blob, b"rot").unwrap();
    assert_eq!(bench.verdict("site"), Err(Code::Mismatch));
    bench.ok(&["publish", "--to", "site"]);
    assert_eq!(bench.verdict("site"), Ok(1));
}

#[test]
fn a_bundle_holds_what_was_asked_for_and_has_the_same_bytes_each_time() {
    let bench = Bench::development();
    for (model, version, counter) in [("frost", "1.0.0", 1), ("frost", "1.1.0", 2), ("ember", "1.0.0", 1)] {
        bench.package("p", model, version, counter);
        bench.ok(&["sign", "p"]);
    }
    bench.ok(&["bundle", "export", "-o", "all.dunlin"]);
    bench.ok(&["bundle", "export", "-o", "again.dunlin"]);
    assert_eq!(fs::read(bench.path("all.dunlin")).unwrap(), fs::read(bench.path("again.dunlin")).unwrap());
    let all = BundleReader::open_path(&bench.path("all.dunlin")).unwrap();
    assert_eq!(verification::verify(&all, now()).unwrap().targets.len(), 3);
    for (wanted, manifests) in [("frost", 2), ("frost@1.1.0", 1), ("ember", 1)] {
        bench.ok(&["bundle", "export", "--model", wanted, "-o", "some.dunlin"]);
        let some = BundleReader::open_path(&bench.path("some.dunlin")).unwrap();
        let count = some.entries().filter(|(path, _)| path.to_string().ends_with(".manifest.json")).count();
        assert_eq!(count, manifests, "{wanted}");
        assert!(verification::verify_metadata(&some, now()).is_ok(), "all metadata are in every bundle");
    }
    bench.refused(&["bundle", "export", "--model", "frost@9", "-o", "x"], 3, "models/frost/1.1.0");
    bench.refused(&["bundle", "export", "-o", "nowhere/x"], 1, "nowhere/x");
}

/// Commands with the code they end with and a part of what they say.
const GARBAGE: &[(&[&str], i32, &str)] = &[
    (&["sign", "bad-model"], 5, "is not the one the manifest names"),
    (&["sign", "bad-version"], 5, "version `../1` is not"),
    (&["sign", "bad-manifest"], 5, "manifest is not readable"),
    (&["sign", "empty"], 3, "is no package"),
    (&["sign", "nowhere"], 3, "is no package"),
    (&["sign"], 2, "PACKAGE"),
    (&["sign", "good", "--add"], 2, "cannot be used with"),
    (&["sign", "--add"], 3, "no change waits"),
    (&["sign", "--discard"], 3, "no change waits"),
    (&["sign", "good", "--role", "nobody"], 3, "no role `nobody`"),
    (&["sign", "good", "--trust", "nowhere"], 3, "dunlin keys init nowhere"),
    (&["sign", "good", "--keys", "nowhere"], 1, "cannot read key folder `nowhere`"),
    (&["sign", "good", "--keys", "garbage-keys"], 1, "is no key file"),
    (&["sign", "good", "--keys", "text-keys"], 1, "is no key file"),
    (&["sign", "good", "--keys", "empty"], 3, "none of them is at hand"),
    (&["publish"], 2, "no fleet server is named"),
    (&["publish", "--to", "good/manifest.json"], 1, "good/manifest.json"),
    (&["keys", "rotate", "mirror"], 2, "mirror"),
    (&["keys", "rotate", "root", "--key", "zzzz"], 3, "no key that counts"),
    (&["keys", "revoke", "0"], 3, "no key that counts"),
    (
        &["keys", "init", "new", "--root-keys", "1", "--root-threshold", "2", "--passphrase-file", "pass"],
        2,
        "is more than",
    ),
    (&["keys", "init", "new", "--root-keys", "0"], 2, "root-keys"),
    (
        &["keys", "delegate", "team", "--paths", "models/*/*/manifest.json", "--public", "text-keys/x.key"],
        1,
        "is no key file",
    ),
    (&["keys", "delegate", "team", "--paths", "*", "--public", "text-keys/x.key"], 2, "matches no release"),
    (&["keys", "new", "../x", "--to", "new", "--passphrase-file", "pass"], 2, "a-z"),
];

#[test]
fn garbage_is_refused_with_a_clear_word_and_changes_nothing() {
    let bench = Bench::development();
    bench.package("good", "frost", "1.0.0", 1);
    bench.package("bad-model", "frost", "1.0.0", 1);
    bench.file("bad-model/model.onnx", b"another model");
    bench.package("bad-version", "frost", "../1", 1);
    bench.file("bad-manifest/manifest.json", b"{]");
    bench.file("empty/readme.txt", b"");
    bench.file("garbage-keys/x.key", &[0xff; 100]);
    bench.file("text-keys/x.key", b"hello");
    for (arguments, code, part) in GARBAGE {
        bench.refused(arguments, *code, part);
    }
}

#[test]
fn damaged_metadata_of_the_trust_folder_stop_every_command() {
    let bench = Bench::development();
    bench.package("good", "frost", "1.0.0", 1);
    for (name, bytes) in
        [("3.root.json", b"{}".as_slice()), ("2.targets.json", b"\xff\xfe"), ("timestamp.json", b"[]")]
    {
        copy_folder(&bench.path("trust"), &bench.path("damaged"));
        bench.file(&format!("damaged/metadata/{name}"), bytes);
        for command in [
            &["sign", "good"][..],
            &["publish", "--to", "site"],
            &["keys", "show"],
            &["bundle", "export", "-o", "x"],
        ] {
            bench.refused(&[command, &["--trust", "damaged"]].concat(), 1, "are damaged");
        }
        fs::remove_dir_all(bench.path("damaged")).unwrap();
    }
}
