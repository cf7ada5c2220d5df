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
    vec![Columns { name: "p".into(), width: 2 }, Columns { name: "q".into(), width: 1 }]
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
        assert_eq!(parse_npy(&npy(kind, "(1,)", &content)).unwrap().values, [expected], "{kind}");
    }
}

#[test]
fn arrays_whose_first_axis_runs_fastest_are_turned() {
    let mut bytes = npy("<f4", "(2, 3)", &floats(&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]));
    let at = bytes.windows(5).position(|part| part == b"False").unwrap();
    bytes[at..at + 5].copy_from_slice(b"True ");
    assert_eq!(parse_npy(&bytes).unwrap().values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
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
