//! Arrays as NumPy and spreadsheets write them, and bytes that nobody wrote.

use super::*;
use proptest::prelude::*;
use std::io::Write;
use zip::write::SimpleFileOptions;

fn npy(kind: &str, shape: &str, content: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(content);
    bytes
}

fn npz(method: zip::CompressionMethod, arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in arrays {
        writer
            .start_file(format!("{name}.npy"), SimpleFileOptions::default().compression_method(method))
            .unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn two() -> Vec<Columns> {
    vec![column("p", 2), column("q", 1)]
}

fn column(name: &str, width: usize) -> Columns {
    Columns { name: name.into(), width, labels: None }
}

/// A label and a score beside it.
fn labelled(labels: &[&str]) -> Vec<Columns> {
    let output = serde_json::json!({ "name": "label", "kind": "classification", "shape": ["batch"], "post": { "labels": labels } });
    let output = serde_json::from_value(output).unwrap();
    let label = Columns { name: "label".into(), width: 1, labels: LabelPositions::of(&output) };
    vec![label, column("q", 1)]
}

fn utf32(texts: &[&str], width: usize) -> Vec<u8> {
    let padded =
        |text: &&str| text.chars().map(u32::from).chain(std::iter::repeat(0)).take(width).collect::<Vec<_>>();
    texts.iter().flat_map(padded).flat_map(u32::to_le_bytes).collect()
}

#[test]
fn labels_are_read_as_their_positions_whether_texts_or_integers() {
    let q = || ("q", npy("<f4", "(3,)", &floats(&[0.5, 0.6, 0.7])));
    let of = |array: Vec<u8>, labels: &[&str]| {
        npz_rows(&npz(zip::CompressionMethod::Stored, &[("label", array), q()]), &labelled(labels))
            .map(|rows| rows.values.iter().map(|row| row[0]).collect::<Vec<_>>())
    };
    let named = ["low", "grün", "high"];
    assert_eq!(of(npy("<U5", "(3,)", &utf32(&["high", "low", "grün"], 5)), &named).unwrap(), [2.0, 0.0, 1.0]);
    assert_eq!(of(npy("|S4", "(3,)", b"highlow\0low\0"), &named).unwrap(), [2.0, 0.0, 0.0]);
    let integers = npy("<i8", "(3,)", &[2_i64, 0, 1].map(i64::to_le_bytes).concat());
    assert_eq!(of(integers.clone(), &named).unwrap(), [2.0, 0.0, 1.0]);
    assert_eq!(of(integers, &["1", "2", "0"]).unwrap(), [1.0, 2.0, 0.0]);
    let error = of(npy("<U5", "(3,)", &utf32(&["high", "low", "none"], 5)), &named).unwrap_err();
    assert!(error.contains("`none` is no label of output `label`"), "{error}");
    assert!(
        of(npy("<f4", "(3,)", &floats(&[0.5, 1.0, 0.0])), &named).unwrap_err().contains("`0.5` is no label")
    );
    assert!(of(npy("<U0", "(3,)", &[]), &named).is_err());
    let plain = npz(zip::CompressionMethod::Stored, &[("p", npy("<U1", "(1,)", &utf32(&["a"], 1)))]);
    assert!(npz_rows(&plain, &[column("p", 1)]).unwrap_err().contains("of texts"));
}

#[test]
fn a_label_may_stand_first_in_csv_with_header_or_without() {
    let tensors = labelled(&["low", "high"]);
    let want = [[1.0, 0.5], [0.0, 0.25]];
    assert_eq!(csv_rows(b"high,0.5\nlow,0.25\n", &tensors).unwrap().values, want);
    assert_eq!(csv_rows(b"label,q\nhigh,0.5\nlow,0.25\n", &tensors).unwrap().values, want);
    assert_eq!(csv_rows(b"1,0.5\n0.0,0.25\n", &tensors).unwrap().values, want);
    let timed = csv_rows(b"window_end_ms,label,q\n7,high,0.5\n", &tensors).unwrap();
    assert_eq!((timed.times_ms, timed.values), (Some(vec![7]), vec![vec![1.0, 0.5]]));
    assert!(csv_rows(b"high,0.5\nHigh,0.5\n", &tensors).unwrap_err().contains("line 2: `High` is no label"));
}

#[test]
fn archives_are_read_stored_and_deflated_in_the_models_order() {
    for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
        let bytes = npz(
            method,
            &[
                ("unrelated", b"no array".to_vec()),
                ("q", npy("<i8", "(2,)", &[7_i64.to_le_bytes(), (-8_i64).to_le_bytes()].concat())),
                ("p", npy("<f4", "(2, 2)", &floats(&[1.0, 2.0, 3.0, 4.0]))),
                ("window_end_ms", npy("<i8", "(2,)", &[5_i64.to_le_bytes(), 6_i64.to_le_bytes()].concat())),
            ],
        );
        let rows = npz_rows(&bytes, &two()).unwrap();
        assert_eq!(rows.values, [[1.0, 2.0, 7.0], [3.0, 4.0, -8.0]]);
        assert_eq!(rows.times_ms, Some(vec![5, 6]));
    }
}

#[test]
fn every_element_type_is_read() {
    for (kind, content, expected) in [
        ("<f4", 1.5_f32.to_le_bytes().to_vec(), 1.5),
        ("<f8", 1.5_f64.to_le_bytes().to_vec(), 1.5),
        ("<i4", (-3_i32).to_le_bytes().to_vec(), -3.0),
        ("<i8", 9_i64.to_le_bytes().to_vec(), 9.0),
        ("|b1", vec![1], 1.0),
    ] {
        let array = parse_npy(&npy(kind, "(1,)", &content)).unwrap();
        assert_eq!(array.elements, Elements::Numbers(vec![expected]), "{kind}");
    }
}

#[test]
fn arrays_whose_first_axis_runs_fastest_are_turned() {
    let mut bytes = npy("<f4", "(2, 3)", &floats(&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]));
    let at = bytes.windows(5).position(|part| part == b"False").unwrap();
    bytes[at..at + 5].copy_from_slice(b"True ");
    let want = Elements::Numbers(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(parse_npy(&bytes).unwrap().elements, want);
}

#[test]
fn what_is_wrong_with_an_array_is_said() {
    for (bytes, expected) in [
        (b"PK".to_vec(), "is no .npy array"),
        (npy("|O", "(1,)", &[0; 8]), "elements of type `|O`"),
        (npy("<f4", "(2,)", &[0; 4]), "as many values as its shape"),
        (npy("<f4", "(99999999999, 99999999999)", &[]), "impossible shape"),
        (npy("<f4", "(-1,)", &[0; 4]), "`-1` in its shape"),
    ] {
        assert!(parse_npy(&bytes).unwrap_err().contains(expected), "{expected}");
    }
    let missing = npz_rows(&npz(zip::CompressionMethod::Stored, &[]), &two()).unwrap_err();
    assert!(missing.contains("no array `p`"), "{missing}");
}

#[test]
fn csv_has_a_header_or_none_and_times_or_none() {
    let plain = csv_rows(b"1,2,3\n4,5,6\n", &two()).unwrap();
    assert_eq!((plain.values.len(), plain.times_ms), (2, None));
    let timed = csv_rows(b"window_end_ms,p0,p1,q\n1735689600000,1,2,\n", &two()).unwrap();
    assert_eq!(timed.times_ms, Some(vec![1_735_689_600_000]));
    assert!(timed.values[0][2].is_nan());
    assert!(csv_rows(b"1,2\n", &two()).unwrap_err().contains("line 1: 2 columns, the model has 3"));
    assert!(csv_rows(b"1,2,x\n", &two()).unwrap_err().contains("`x` is no number"));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0..200_usize) {
        let _ = (npz_rows(&bytes, &two()), parse_npy(&bytes), csv_rows(&bytes, &two()));
        let mut good = npz(zip::CompressionMethod::Deflated, &[("p", npy("<f4", "(1, 2)", &floats(&[1.0, 2.0])))]);
        for (position, byte) in bytes.iter().take(4).enumerate() {
            let at = (cut * 7 + position * 31) % good.len();
            good[at] ^= byte;
        }
        let _ = npz_rows(&good, &two());
        let mut array = npy("<f4", "(1, 2)", &floats(&[1.0, 2.0]));
        array.truncate(cut);
        let _ = parse_npy(&array);
    }
}
