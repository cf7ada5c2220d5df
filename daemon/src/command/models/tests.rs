//! The report of models as text and as JSON.

use std::collections::BTreeMap;

use super::*;
use crate::lanes::LaneCounts;
use crate::store::StoredModels;
use crate::store::trust::KeptRefusal;
use crate::update::machine::{BadRelease, Candidate, Floor, ModelState, Phase};
use crate::update::release::{Cause, Reason};
use crate::update::safe_mode::{Mode, StartRecord};
use crate::update::tests::signed;

fn stored() -> StoredModels {
    let bad = BadRelease {
        release: signed(3).release,
        reason: Reason::RolledBack(Cause::Latency),
        detail: "slow\u{1b}[2J".to_owned(),
        at_us: 1_780_000_000_000_000,
    };
    let state = ModelState {
        active: Some(signed(2).release),
        previous: Some(signed(1).release),
        candidate: Some(Candidate { release: signed(4).release, phase: Phase::Trial, tries_used: 1 }),
        bad: vec![bad],
        floor: Floor { counter: 2, digest: Some(signed(2).release.digest) },
        since_us: 1_780_000_001_000_000,
        last: Some("m 3.0.0 (release 3): rolled_back:latency".to_owned()),
        ..ModelState::default()
    };
    let starts = StartRecord { mode: Mode::Normal, ..StartRecord::default() };
    StoredModels { models: BTreeMap::from([("m".to_owned(), state)]), starts, ..StoredModels::default() }
}

#[test]
fn a_model_in_trial_is_shown_with_all_that_is_known_of_it() {
    let counts = [
        LaneCounts { predictions: 5, ..LaneCounts::default() },
        LaneCounts { invalid: 1, ..LaneCounts::default() },
    ];
    let report = ModelsReport::of(&stored(), &counts, Some(3));
    let short = |counter| signed(counter).release.digest.to_string()[..DIGEST_CHARS].to_owned();
    assert_eq!(
        render_models(&report),
        format!(
            "m: trial since 2026-05-28T20:26:41Z\n  \
             serving    4.0.0 (release 4, {d4})\n  \
             candidate  4.0.0 (release 4, {d4}), trial, 2 tries left\n  \
             active     2.0.0 (release 2, {d2})\n  \
             previous   1.0.0 (release 1, {d1})\n  \
             floor      release 2\n  \
             standby    2.0.0: 5 predictions, 0 invalid, 0 failed, 0 slow\n  \
             serving    4.0.0: 0 predictions, 1 invalid, 0 failed, 0 slow\n  \
             bad        3.0.0 (release 3, {d3}): rolled_back:latency at 2026-05-28T20:26:40Z: slow\\u{{1b}}[2J\n  \
             last       m 3.0.0 (release 3): rolled_back:latency\n",
            d1 = short(1),
            d2 = short(2),
            d3 = short(3),
            d4 = short(4)
        )
    );
}

#[test]
fn a_release_that_its_owner_withdrew_is_said_so_as_long_as_it_is_in_a_slot() {
    let withdrawn = [2, 3].map(|counter| signed(counter).release.digest).into();
    let report = ModelsReport::of(&StoredModels { withdrawn, ..stored() }, &[], None);
    assert_eq!(report.models["m"].withdrawn, [signed(2).release]);
    let text = render_models(&report);
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("withdrawn")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert!(lines[0].starts_with("  withdrawn  2.0.0 (release 2, "), "{text}");
}

#[test]
fn the_json_form_has_whole_digests_and_is_read_back() {
    let report = ModelsReport::of(&stored(), &[], None);
    let json = serde_json::to_string(&report).unwrap();
    assert!(json.contains(&signed(4).release.digest.to_string()));
    assert_eq!(serde_json::from_str::<ModelsReport>(&json).unwrap(), report);
}

#[test]
fn safe_mode_lost_state_and_a_daemon_that_rests_are_said_first() {
    let refusal = |subject: &str, code: &str| KeptRefusal {
        subject: subject.to_owned(),
        code: code.to_owned(),
        object: "timestamp.json".to_owned(),
        reason: "has 0 of the 1 signatures it needs".to_owned(),
        at_us: 0,
    };
    let refusals = vec![refusal("metadata", "signature"), refusal("model/n", "incompatible")];
    let starts = StartRecord { mode: Mode::Safe, ..StartRecord::default() };
    let stored = StoredModels { starts, refusals, ..stored() };
    let report = ModelsReport { state_lost: Some("torn".to_owned()), ..ModelsReport::of(&stored, &[], None) };
    let text = render_models(&report);
    let import = "The last import was refused at 1970-01-01T00:00:00Z: signature: `timestamp.json` has 0 of";
    let release = "A release of `n` was refused at 1970-01-01T00:00:00Z: incompatible:";
    for said in ["does not run", "Safe mode", "state_lost", import, release, "serving    2.0.0"] {
        assert!(text.contains(said), "{said} in {text}");
    }
}

#[test]
fn a_state_that_was_cut_is_named_with_what_to_do() {
    use dunlin_kit::error_chain::Chain;

    for (contents, why, code) in
        [(&b""[..], "no tables", 3), (&b"SQLite format 3\0 and no more"[..], "cannot", 1)]
    {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(STATE_FILE);
        dunlin_kit::atomic_file::write(&file, contents).unwrap();
        let state = StateDirArgs { state_dir: Some(folder.path().to_owned()) };
        let args = ModelsArgs { state, json: false, end_safe_mode: false };
        let error = run(&args).unwrap_err();
        let said = Chain(&error).to_string();
        assert_eq!(error.exit_code(), code);
        for part in [file.to_str().unwrap(), "start the daemon", why] {
            assert!(said.contains(part), "`{part}` is not in {said}");
        }
    }
}
