//! What is made of readings: sound or refused by name, the same in any order, without what a sensor did wrong.

use dunlin_drift::quality::SCORE_BINS;
use proptest::prelude::*;

use super::*;
use crate::manifest::OutputKind;

const MINUTE_US: i64 = 60_000_000;

fn manifest(output: serde_json::Value) -> Manifest {
    let manifest = serde_json::json!({
        "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": { "length": 1 },
        "inputs": [{ "name": "x", "shape": ["batch", 3],
                     "features": [{ "name": "air" }, { "name": "oil@mean:5m" }, { "name": "sum" }] }],
        "outputs": [output],
        "blobs": { "model.onnx": { "sha256": "00".repeat(32), "bytes": 5 } }
    });
    Manifest::parse(manifest.to_string().as_bytes()).unwrap()
}

fn number() -> Manifest {
    manifest(serde_json::json!({ "name": "y", "kind": "regression", "shape": ["batch", 1] }))
}

fn two_classes() -> Manifest {
    manifest(serde_json::json!({ "name": "p", "kind": "classification", "shape": ["batch", 2],
        "post": { "labels": ["sound", "worn"] } }))
}

fn fields(names: &[&str]) -> BTreeMap<String, FieldKnowledge> {
    names.iter().map(|name| ((*name).to_owned(), FieldKnowledge::default())).collect()
}

/// Three fields, of which the last is the sum of the others.
fn series(name: &str, rows: i64, shift: f64) -> SeriesReadings {
    let wave = |n: i64, step: f64| (n as f64 * step).sin() + (n as f64 * 12.9898).sin() * 0.1;
    let air: Vec<f64> = (0..rows).map(|n| wave(n, 0.01) * 3.0 + shift).collect();
    let oil: Vec<f64> = (0..rows).map(|n| wave(n, 0.037) - 4.0).collect();
    let sum = air.iter().zip(&oil).map(|(air, oil)| air + oil).collect();
    SeriesReadings {
        name: name.to_owned(),
        times_us: (0..rows).map(|n| n * MINUTE_US).collect(),
        values: BTreeMap::from([("air".to_owned(), air), ("oil".to_owned(), oil), ("sum".to_owned(), sum)]),
    }
}

fn material(series: Vec<SeriesReadings>) -> Material {
    Material { fields: fields(&["air", "oil", "sum"]), series, predictions: Vec::new() }
}

#[test]
fn fields_that_move_together_have_as_many_components_as_they_have_freedom() {
    let (profile, seen) = make(&number(), material(vec![series("a", 4_000, 0.0)])).unwrap();
    let together = profile.together.unwrap();
    assert_eq!(together.features, ["air", "oil", "sum"]);
    assert_eq!(together.subspace.components.len(), 2);
    assert!(together.q.blocks[&3_600].wasserstein_sd.len() > BLOCKS_MIN);
    assert!(profile.features["air"].usual.is_some());
    assert_eq!(seen.fields["air"].blocks[&900], 0, "a quarter of an hour has fewer than 20 minutes");
    assert_eq!((profile.made_of.rows, profile.made_of.to_us), (4_000, 3_999 * MINUTE_US));
}

#[test]
fn what_a_sensor_did_wrong_is_counted_and_in_no_reference() {
    let mut one = series("a", 4_000, 0.0);
    let air = one.values.get_mut("air").unwrap();
    (air[700], air[1_500], air[2_000]) = (400.0, 1e6, f64::NAN);
    let mut given = material(vec![one]);
    given.fields.get_mut("air").unwrap().range = Some((-1_000.0, 1_000.0));
    let (profile, seen) = make(&number(), given).unwrap();
    let flaws = &seen.fields["air"].flaws;
    assert_eq!(
        (flaws[&Flaw::Spike], flaws[&Flaw::OutOfRange], flaws[&Flaw::Missing]),
        (1, 1, 1),
        "{flaws:?}"
    );
    let reference = &profile.features["air"].reference;
    assert_eq!((reference.counts.iter().sum::<u64>(), reference.missing), (3_997, 1));
    let highest = reference.scale.unwrap().value(f64::from(reference.sums.unwrap().high));
    assert!(highest < 5.0, "{highest}");
}

#[test]
fn what_is_too_little_is_refused_by_the_name_of_the_field() {
    let error = make(&number(), material(vec![series("a", 12, 0.0)])).unwrap_err();
    assert!(error.to_string().contains("`air`"), "{error}");
    assert!(matches!(make(&number(), material(Vec::new())), Err(MakingError::Empty)));
    let fields = (0..=FEATURES_MAX).map(|n| (format!("f{n}"), FieldKnowledge::default())).collect();
    let many = Material { fields, ..material(vec![series("a", 40, 0.0)]) };
    assert!(matches!(make(&number(), many), Err(MakingError::Fields(_))));
}

/// Predictions of two classes whose scores are as sure as they say, or surer.
fn predictions(count: i64, sureness: f64) -> InstancePredictions {
    let mut found = InstancePredictions { name: "a".to_owned(), ..InstancePredictions::default() };
    for n in 0..count {
        let score = (n % 97) as f64 / 96.0;
        let is_worn = ((n * 7_919) % 1_000) as f64 / 1_000.0 < 0.5 + (score - 0.5) * sureness;
        found.times_us.push(n * MINUTE_US);
        found.outputs.extend([1.0 - score as f32, score as f32]);
        found.labels.push(Some(if is_worn { Label::Name("worn".to_owned()) } else { Label::Number(0.0) }));
    }
    found
}

#[test]
fn scores_are_worth_what_labels_say_and_the_error_is_that_of_blocks_that_were_held_back() {
    let given = |sureness| Material {
        predictions: vec![predictions(9_700, sureness)],
        ..material(vec![series("a", 4_000, 0.0)])
    };
    let (honest, seen) = make(&two_classes(), given(1.0)).unwrap();
    let scores = honest.scores.unwrap();
    assert_eq!((scores.output.as_str(), scores.calibration.positive_from), ("p[1]", SCORE_BINS as u32 / 2));
    assert_eq!((seen.labelled, scores.calibration.totals.iter().sum::<u64>()), (9_700, 9_700));
    assert!(scores.error < 0.05, "{}", scores.error);
    assert!((honest.metrics["accuracy"] - 0.75).abs() < 0.03, "{:?}", honest.metrics);
    // A model that is too sure is as well calibrated once it is known how sure it is.
    let (sure, _) = make(&two_classes(), given(0.4)).unwrap();
    let calibration = sure.scores.unwrap().calibration;
    assert!((calibration.probability(SCORE_BINS - 1) - 0.69).abs() < 0.05, "{calibration:?}");
    assert_eq!(honest.outputs.keys().collect::<Vec<_>>(), ["p[0]", "p[1]"]);
}

#[test]
fn labels_that_cannot_be_used_are_named() {
    let given =
        |predictions| Material { predictions: vec![predictions], ..material(vec![series("a", 400, 0.0)]) };
    let mut unknown = predictions(300, 1.0);
    unknown.labels[7] = Some(Label::Name("broken".to_owned()));
    let texts: Vec<String> = [unknown, predictions(50, 1.0)]
        .into_iter()
        .map(|predictions| match make(&two_classes(), given(predictions)).unwrap_err() {
            MakingError::Labels(error) => error.to_string(),
            other => panic!("{other}"),
        })
        .collect();
    assert!(texts[0].contains("`broken` is no class of output `p`, which has `sound`, `worn`"), "{texts:?}");
    assert!(texts[1].contains("50 prediction(s) have a label"), "{texts:?}");
}

#[test]
fn numbers_have_errors_in_place_of_classes() {
    let mut found = predictions(500, 1.0);
    found.outputs = (0..500).map(|n| n as f32).collect();
    found.labels = (0..500).map(|n| Some(Label::Number(f64::from(n) - 2.0))).collect();
    let given = Material { predictions: vec![found], ..material(vec![series("a", 400, 0.0)]) };
    let (profile, _) = make(&number(), given).unwrap();
    assert!((profile.metrics["mae"] - 2.0).abs() < 0.01 && (profile.metrics["bias"] - 2.0).abs() < 0.01);
    assert!(profile.metrics["r2"] > 0.99 && profile.scores.is_none());
}

#[test]
fn a_profile_of_other_fields_or_outputs_is_refused_by_name() {
    let given =
        Material { predictions: vec![predictions(300, 1.0)], ..material(vec![series("a", 400, 0.0)]) };
    let mut given = given;
    given.predictions[0].labels.clear();
    let (profile, _) = make(&two_classes(), given).unwrap();
    profile.require_fits(&two_classes()).unwrap();
    let error = profile.require_fits(&number()).unwrap_err().to_string();
    assert!(error.contains("output `p[0]`") && error.contains("it has `y`"), "{error}");
    let mut other = two_classes();
    other.inputs[0].features[0].name = "water".to_owned();
    let error = profile.require_fits(&other).unwrap_err().to_string();
    assert!(error.contains("field `air`") && error.contains("`water`, `oil`, `sum`"), "{error}");
    assert_eq!(other.outputs[0].kind, OutputKind::Classification);
}

proptest! {
    #[test]
    fn of_any_values_a_profile_is_sound_and_read_back_or_refused(
        values in prop::collection::vec(
            prop::array::uniform2(prop_oneof![Just(f64::NAN), -1e12..1e12f64, Just(5.0), Just(f64::MAX), Just(1e-300)]), 0..90),
        step_us in prop_oneof![Just(1i64), Just(MINUTE_US), Just(86_400_000_000)],
    ) {
        let one = SeriesReadings {
            name: "a".to_owned(),
            times_us: (0..values.len() as i64).map(|n| n * step_us).collect(),
            values: BTreeMap::from([
                ("air".to_owned(), values.iter().map(|pair| pair[0]).collect()),
                ("oil".to_owned(), values.iter().map(|pair| pair[1]).collect()),
            ]),
        };
        let given = Material { fields: fields(&["air", "oil"]), series: vec![one], predictions: Vec::new() };
        match make(&number(), given) {
            Ok((profile, _)) => prop_assert!(Profile::parse(&profile.to_json().unwrap()).unwrap() == profile),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn the_order_of_series_is_nothing(order in Just((0..4usize).collect::<Vec<_>>()).prop_shuffle()) {
        let all: Vec<SeriesReadings> =
            (0..4).map(|n| series(&format!("s{n}"), 600 + 100 * n, n as f64 * 0.3)).collect();
        let made = |series: Vec<SeriesReadings>| make(&number(), material(series)).unwrap().0.to_json().unwrap();
        let shuffled = order.iter().map(|place| all[*place].clone()).collect();
        prop_assert_eq!(made(all), made(shuffled));
    }
}
