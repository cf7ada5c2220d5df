//! Labels, hysteresis, abstention, debounce and rate limit, each against its rule.

use dunlin_model_package::Span;
use dunlin_model_package::model_spec::Debounce;
use proptest::prelude::*;

use super::*;

fn manifest(output: serde_json::Value) -> Manifest {
    serde_json::from_value(serde_json::json!({
        "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": { "length": 1 },
        "inputs": [], "outputs": [output], "blobs": {}
    }))
    .unwrap()
}

fn scored(post: serde_json::Value) -> Manifest {
    manifest(serde_json::json!({ "name": "y", "kind": "anomaly", "shape": ["batch", 1], "post": post }))
}

fn label<'p>(post: &'p PostProcess, state: &mut PostState, outputs: &[f32]) -> Option<&'p str> {
    post.judge(state, outputs, 0).label.map(|label| post.labels()[usize::from(label)].as_str())
}

#[test]
fn the_highest_class_gives_the_label_unless_it_is_unsure() {
    let manifest =
        manifest(serde_json::json!({ "name": "p", "kind": "classification", "shape": ["batch", 2],
        "post": { "labels": ["empty", "occupied"], "confidence_min": 0.6 } }));
    let post = PostProcess::compile(&manifest, None).unwrap();
    let mut state = PostState::default();
    assert_eq!(label(&post, &mut state, &[0.2, 0.8]), Some("occupied"));
    assert_eq!(label(&post, &mut state, &[0.7, 0.3]), Some("empty"));
    assert_eq!(label(&post, &mut state, &[0.5, 0.5]), Some("abstain"));
    assert!(post.judge(&mut state, &[0.5, 0.5], 0).flags.contains(QualityFlags::ABSTAINED));
}

#[test]
fn a_threshold_holds_until_the_value_falls_below_its_lower_bound() {
    let post = PostProcess::compile(
        &scored(serde_json::json!({ "threshold": { "above": 1.0, "clear": 0.5 } })),
        None,
    )
    .unwrap();
    let mut state = PostState::default();
    let found: Vec<_> =
        [0.9, 1.0, 0.6, 0.5, 0.4, 0.9].iter().map(|v| label(&post, &mut state, &[*v]).unwrap()).collect();
    assert_eq!(found, ["normal", "alarm", "alarm", "alarm", "normal", "normal"]);
}

#[test]
fn values_inside_the_band_are_abstained_from() {
    let post = PostProcess::compile(
        &scored(serde_json::json!({ "threshold": { "above": 1.0 }, "abstain_band": [0.9, 1.1] })),
        None,
    )
    .unwrap();
    let mut state = PostState::default();
    assert_eq!(label(&post, &mut state, &[1.0]), Some("abstain"));
    assert_eq!(label(&post, &mut state, &[1.2]), Some("alarm"));
}

#[test]
fn outputs_that_are_not_finite_or_not_all_there_are_invalid_and_change_nothing() {
    let post = PostProcess::compile(
        &scored(serde_json::json!({ "threshold": { "above": 1.0, "clear": 0.0 } })),
        None,
    )
    .unwrap();
    let mut state = PostState::default();
    label(&post, &mut state, &[2.0]);
    let before = state.clone();
    for outputs in [&[f32::NAN][..], &[f32::INFINITY], &[], &[1.0, 1.0]] {
        let verdict = post.judge(&mut state, outputs, 0);
        assert!(verdict.flags.contains(QualityFlags::INVALID_OUTPUT) && verdict.label.is_none());
    }
    assert_eq!(state, before);
}

#[test]
fn an_alert_for_an_unknown_label_is_refused_with_the_known_ones() {
    let spec = AlertSpec { topic: "a".into(), label: Some("fire".into()), debounce: None, rate_limit: None };
    let error =
        PostProcess::compile(&scored(serde_json::json!({ "threshold": { "above": 1.0 } })), Some(&spec))
            .unwrap_err();
    assert!(error.contains("normal, alarm"), "{error}");
}

proptest! {
    #[test]
    fn an_alert_holds_exactly_when_n_of_the_last_m_agree(
        values in prop::collection::vec(any::<bool>(), 1..100), m in 1..10_u8, n in 1..10_u8
    ) {
        prop_assume!(n <= m);
        let spec = AlertSpec { topic: "a".into(), label: None, debounce: Some(Debounce { n, m }), rate_limit: None };
        let post = PostProcess::compile(&scored(serde_json::json!({ "threshold": { "above": 1.0 } })), Some(&spec)).unwrap();
        let (mut state, mut on) = (PostState::default(), false);
        for (i, value) in values.iter().enumerate() {
            let change = post.judge(&mut state, &[f32::from(u8::from(*value)) * 2.0], i as i64).alert;
            let recent = values[(i + 1).saturating_sub(usize::from(m))..=i].iter().filter(|v| **v).count();
            let expected = recent >= usize::from(n);
            prop_assert_eq!(change, match (on, expected) {
                (false, true) => Some(AlertChange::Raised),
                (true, false) => Some(AlertChange::Cleared),
                _ => None,
            });
            on = expected;
        }
    }

    #[test]
    fn raises_are_never_closer_than_the_rate_limit_and_every_clear_follows_a_raise(values in prop::collection::vec(any::<bool>(), 1..200)) {
        let spec = AlertSpec { topic: "a".into(), label: None, debounce: None, rate_limit: Some(Span::from_secs(10)) };
        let post = PostProcess::compile(&scored(serde_json::json!({ "threshold": { "above": 1.0 } })), Some(&spec)).unwrap();
        let (mut state, mut last, mut open) = (PostState::default(), None, false);
        for (i, value) in values.iter().enumerate() {
            let at = i as i64 * 1_000_000;
            match post.judge(&mut state, &[f32::from(u8::from(*value)) * 2.0], at).alert {
                Some(AlertChange::Raised) => {
                    prop_assert!(!open && last.is_none_or(|last| at - last >= 10_000_000));
                    (last, open) = (Some(at), true);
                }
                Some(AlertChange::Cleared) => {
                    prop_assert!(open);
                    open = false;
                }
                None => {}
            }
        }
    }
}

#[test]
fn a_label_output_names_its_label_and_raises_its_alert() {
    let manifest = manifest(serde_json::json!({
        "name": "label", "kind": "classification", "shape": ["batch"], "post": { "labels": ["sound", "worn", "broken"] }
    }));
    let alert =
        AlertSpec { topic: "a".into(), label: Some("worn".to_owned()), debounce: None, rate_limit: None };
    let (post, mut state) = (PostProcess::compile(&manifest, Some(&alert)).unwrap(), PostState::default());
    let mut judged = |value: f32| {
        let verdict = post.judge(&mut state, &[value], 0);
        (verdict.label.map(|label| post.labels()[usize::from(label)].clone()), verdict.alert, verdict.flags)
    };
    let none = QualityFlags::default();
    assert_eq!(judged(2.0), (Some("broken".to_owned()), None, none));
    assert_eq!(judged(1.0), (Some("worn".to_owned()), Some(AlertChange::Raised), none));
    assert_eq!(judged(0.0), (Some("sound".to_owned()), Some(AlertChange::Cleared), none));
    for wrong in [3.0, -1.0, 0.5, f32::NAN] {
        assert_eq!(judged(wrong), (None, None, QualityFlags::INVALID_OUTPUT));
    }
}
