//! The hand-written JSON against a JSON parser.

use dunlin_model_package::Digest;
use dunlin_pipeline::prediction::{InstanceId, ModelIndex, WindowHead};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn identity(key: Vec<(String, String)>, names: [String; 2], labels: Vec<String>) -> InstanceIdentity {
    let [first, second] = names;
    InstanceIdentity {
        model: format!("m{first}"),
        version: second.clone(),
        package: Digest::of(b"p"),
        key,
        outputs: vec![(format!("a{first}"), 2), (format!("b{second}"), 1)],
        labels,
    }
}

fn prediction(outputs: Vec<f32>, flags: u16, label: Option<u16>, window_end_us: i64) -> Prediction {
    Prediction {
        head: WindowHead {
            model: ModelIndex(0),
            instance: InstanceId(0),
            window_end_us,
            flags: QualityFlags(flags),
        },
        id: PredictionId([0xa5; 16]),
        outputs,
        label,
        alert: None,
    }
}

fn number(value: f32) -> Value {
    if value.is_finite() { json!(f64::from(value)) } else { Value::Null }
}

/// Reads numbers as `f32`, so that the shortest text of one compares equal.
fn as_f32(value: &Value) -> Vec<Value> {
    let values = value.as_array().unwrap().iter();
    values.map(|v| v.as_f64().map_or(Value::Null, |v| json!(f64::from(v as f32)))).collect()
}

#[test]
fn a_prediction_and_an_alert_look_as_documented() {
    let identity = InstanceIdentity {
        model: "room".into(),
        version: "1.0.0".into(),
        package: Digest::of(b"p"),
        key: vec![("room".into(), "a\"b".into())],
        outputs: vec![("score".into(), 1)],
        labels: vec!["free".into(), "taken".into()],
    };
    let renderer = InstanceRenderer::new(&identity, "t".into(), Some("alerts".into()));
    let prediction = prediction(vec![0.1], 0b1001, Some(1), 1_700_000_000_123_456);
    let mut out = Vec::new();
    renderer.render(&prediction, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "{\"id\":\"a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5\",\"model\":\"room\",\"version\":\"1.0.0\",\
         \"key\":{\"room\":\"a\\\"b\"},\"window_end\":\"2023-11-14T22:13:20.123456Z\",\
         \"outputs\":{\"score\":[0.1]},\"label\":\"taken\",\"quality\":[\"held_value\",\"arrival_time\"]}"
    );
    let mut out = Vec::new();
    renderer.render_alert(&prediction, AlertChange::Raised, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "{\"id\":\"a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5\",\"model\":\"room\",\"key\":{\"room\":\"a\\\"b\"},\
         \"alert\":\"raised\",\"label\":\"taken\",\"window_end\":\"2023-11-14T22:13:20.123456Z\"}"
    );
    assert_eq!((renderer.topic(), renderer.alert_topic()), ("t", Some("alerts")));
}

#[test]
fn a_prediction_that_is_not_valid_has_no_outputs() {
    let identity = identity(vec![], [String::new(), String::new()], vec![]);
    let renderer = InstanceRenderer::new(&identity, String::new(), None);
    for outputs in [vec![], vec![1.0, f32::NAN, 2.0]] {
        let mut out = Vec::new();
        renderer.render(&prediction(outputs, QualityFlags::INVALID_OUTPUT.0, Some(7), 0), &mut out);
        let value: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["outputs"], json!({}));
        assert_eq!(value["label"], Value::Null);
        assert_eq!(value["key"], json!({}));
    }
}

proptest! {
    #[test]
    fn any_prediction_reads_back_as_json(
        tags in prop::collection::btree_map(any::<String>(), any::<String>(), 0..4),
        names in any::<[String; 2]>(),
        label in any::<Option<String>>(),
        outputs in any::<[f32; 3]>(),
        flags in 0_u16..32,
        window_end_us in -62_000_000_000_000_000_i64..250_000_000_000_000_000,
    ) {
        let key: Vec<(String, String)> = tags.clone().into_iter().collect();
        let identity = identity(key, names, label.clone().into_iter().collect());
        let renderer = InstanceRenderer::new(&identity, String::new(), None);
        let position = label.as_ref().map(|_| 0);
        let mut out = Vec::new();
        renderer.render(&prediction(outputs.to_vec(), flags, position, window_end_us), &mut out);
        let value: Value = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(&value["model"], &json!(identity.model));
        prop_assert_eq!(&value["version"], &json!(identity.version));
        prop_assert_eq!(&value["key"], &json!(tags));
        prop_assert_eq!(&value["label"], &json!(label));
        prop_assert_eq!(&value["id"], &json!(PredictionId([0xa5; 16]).to_string()));
        let names: Vec<&str> = QualityFlags(flags).names().collect();
        prop_assert_eq!(&value["quality"], &json!(names));
        let end: jiff::Timestamp = value["window_end"].as_str().unwrap().parse().unwrap();
        prop_assert_eq!(end.as_microsecond(), window_end_us);
        let first = as_f32(&value["outputs"][&identity.outputs[0].0]);
        prop_assert_eq!(first, vec![number(outputs[0]), number(outputs[1])]);
        prop_assert_eq!(as_f32(&value["outputs"][&identity.outputs[1].0]), vec![number(outputs[2])]);

        let parts = PredictionParts {
            id: PredictionId([0xa5; 16]),
            window_end_us,
            outputs: &outputs,
            label: label.as_deref(),
            flags: QualityFlags(flags),
        };
        let mut again = Vec::new();
        renderer.render_parts(&parts, &mut again);
        prop_assert_eq!(again, out);
    }

    #[test]
    fn times_are_those_of_the_calendar(micros in -62_167_219_200_000_000_i64..253_402_207_200_000_000) {
        let expected = jiff::Timestamp::from_microsecond(micros).unwrap();
        prop_assert_eq!(time_text(micros), format!("{expected:.6}"));
    }

    #[test]
    fn no_time_panics(micros in any::<i64>()) {
        prop_assert!(time_text(micros).len() <= TIME_BYTES_MAX);
    }
}
