//! CSV rows: what is written reads back, and empty cells stand for what is not there.

use dunlin_model_package::Digest;
use dunlin_pipeline::prediction::{AlertChange, PredictionId, QualityFlags};
use proptest::prelude::*;

use super::*;

fn identity(version: &str, outputs: Vec<(String, u32)>, key: Vec<(String, String)>) -> Arc<InstanceIdentity> {
    Arc::new(InstanceIdentity {
        model: "m".into(),
        version: version.into(),
        package: Digest::of(b"p"),
        key,
        outputs,
        labels: vec![],
    })
}

fn row(identity: &Arc<InstanceIdentity>, window_end_us: i64, outputs: Vec<f32>) -> PredictionRow {
    PredictionRow {
        identity: Arc::clone(identity),
        id: PredictionId([1; 16]),
        window_end_us,
        flags: QualityFlags::default(),
        outputs,
        label: None,
        alert: None,
    }
}

fn csv_of(instances: &[Arc<InstanceIdentity>], rows: &[PredictionRow]) -> String {
    let mut csv = PredictionCsv::new(Vec::new(), instances).unwrap();
    rows.iter().for_each(|row| csv.write(row).unwrap());
    String::from_utf8(csv.finish().unwrap()).unwrap()
}

#[test]
fn predictions_look_as_documented() {
    let identity = identity(
        "1",
        vec![("score".into(), 1), ("probabilities".into(), 2)],
        vec![("room".into(), "a".into()), ("floor".into(), "2".into())],
    );
    let mut first = row(&identity, 1_700_000_000_000_000, vec![0.1, 1.0, 2.5e-9]);
    first.label = Some("=a,\"b\"".into());
    first.flags = QualityFlags(3);
    first.alert = Some(AlertChange::Raised);
    let mut second = row(&identity, -1_500, vec![1.0, 2.0, 3.0]);
    second.flags = QualityFlags::INFERENCE_FAILED;
    let id = "01".repeat(16);
    assert_eq!(
        csv_of(std::slice::from_ref(&identity), &[first, second]),
        format!(
            "window_end_ms,score,probabilities_0,probabilities_1,id,model,version,key,label,quality,alert\n\
             1700000000000,0.1,1.0,2.5e-9,{id},m,1,room=a;floor=2,\"=a,\"\"b\"\"\",\
             held_value substituted_value,raised\n\
             -1.500,,,,{id},m,1,room=a;floor=2,,inference_failed,\n"
        )
    );
}

#[test]
fn versions_with_other_outputs_share_one_table() {
    let old = identity("1", vec![("a".into(), 1)], vec![]);
    let new = identity("2", vec![("b".into(), 1), ("a".into(), 2)], vec![]);
    let text = csv_of(
        &[Arc::clone(&old), Arc::clone(&new)],
        &[row(&old, 0, vec![1.0]), row(&new, 0, vec![2.0, 3.0, 4.0])],
    );
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("window_end_ms,a_0,a_1,b,id"), "{}", lines[0]);
    assert!(lines[1].starts_with("0,1.0,,,") && lines[2].starts_with("0,3.0,4.0,2.0,"), "{text}");
}

#[test]
fn readings_have_a_column_a_field_and_empty_cells_for_what_is_missing() {
    let series = Arc::new(SeriesIdentity {
        source: "hall".into(),
        tags: vec![("room".into(), "a;b".into())],
        fields: vec!["t".into(), "rh".into()],
    });
    let mut csv = ReadingCsv::new(Vec::new(), &[Arc::clone(&series)]).unwrap();
    csv.write(&ReadingRow {
        series,
        event_us: 5_000,
        timed_by: TimedBy::Arrival,
        values: vec![f64::NAN, 0.1],
    })
    .unwrap();
    assert_eq!(
        String::from_utf8(csv.finish().unwrap()).unwrap(),
        "event_ms,t,rh,source,tags,timed_by\n5,,0.1,hall,room=a\\;b,arrival\n"
    );
}

fn tags_of(text: &str) -> Vec<(String, String)> {
    let mut tags = vec![(String::new(), None::<String>)];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let last = tags.last_mut().unwrap();
        match c {
            ';' => tags.push((String::new(), None)),
            '=' => last.1 = Some(String::new()),
            _ => {
                let c = if c == '\\' { chars.next().unwrap() } else { c };
                last.1.as_mut().unwrap_or(&mut last.0).push(c);
            }
        }
    }
    tags.into_iter().map(|(tag, value)| (tag, value.unwrap())).collect()
}

proptest! {
    #[test]
    fn whatever_is_written_reads_back(
        values in prop::collection::vec(any::<f32>().prop_filter("a number", |v| v.is_finite()), 3),
        label in any::<String>(),
        tags in prop::collection::vec(any::<(String, String)>(), 1..4),
        window_end_us in any::<i64>(),
    ) {
        let identity = identity("1", vec![("a".into(), 2), ("b".into(), 1)], tags.clone());
        let mut written = row(&identity, window_end_us, values.clone());
        written.label = Some(label.clone());
        let text = csv_of(&[identity], &[written]);
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        prop_assert_eq!(records.len(), 1);
        let read: Vec<f32> = (1..4).map(|index| records[0][index].parse().unwrap()).collect();
        prop_assert_eq!(
            read.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
            values.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        );
        prop_assert_eq!(&records[0][8], label.as_str());
        prop_assert_eq!(tags_of(&records[0][7]), tags);
        let (whole, rest) = records[0][0].split_once('.').unwrap_or((&records[0][0], "000"));
        let digits: i128 = format!("{whole}{rest}").parse().unwrap();
        prop_assert_eq!(digits, i128::from(window_end_us));
    }
}
