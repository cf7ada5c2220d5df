//! What is drawn: shapes that can be told, widths that are kept, nothing that a terminal obeys.

use std::collections::BTreeMap;

use dunlin_drift::reference::{Reading, SPANS_S};
use dunlin_model_package::profile::{MadeOf, SCHEMA};
use proptest::prelude::*;

use super::*;

fn readings(values: impl Iterator<Item = f64>) -> Vec<Vec<Reading<f64>>> {
    vec![values.enumerate().map(|(n, value)| (n as i64 * 60_000_000, Some(value))).collect()]
}

fn profile(name: &str, unit: &str, reference: Reference) -> Profile {
    let feature =
        FeatureProfile { unit: Some(unit.to_owned()), range: Some((-9.0, 9.0)), reference, usual: None };
    Profile {
        schema: SCHEMA,
        made_of: MadeOf { rows: 9, series: 1, from_us: 0, to_us: 60_000_000 },
        features: BTreeMap::from([(name.to_owned(), feature)]),
        outputs: BTreeMap::new(),
        together: None,
        scores: None,
        metrics: BTreeMap::from([("mae".to_owned(), 0.123_456)]),
    }
}

fn text(lines: &[Line]) -> String {
    let line = |line: &Line| line.iter().map(|(_, part)| part.as_str()).collect::<String>();
    lines.iter().map(|parts| line(parts).trim_end().to_owned() + "\n").collect()
}

#[test]
fn two_hills_are_drawn_as_two_hills() {
    let hill = |centre: f64| (0..500).map(move |n| centre + (f64::from(n) / 499.0 * 2.0 - 1.0).powi(3));
    let reference = Reference::of_numbers(&readings(hill(0.0).chain(hill(10.0))), &SPANS_S).unwrap();
    let Bins::Edges(edges) = &reference.bins else { unreachable!() };
    let bins = bins(&reference, edges, range(&reference).unwrap());
    let heights = densities(&bins, -1.0, 11.0, 60);
    let highest = |columns: std::ops::Range<usize>| heights[columns].iter().copied().fold(0.0, f64::max);
    assert!(highest(0..15) > 0.5 && highest(45..60) > 0.5, "{heights:?}");
    assert!(highest(20..40) < 0.2, "{heights:?}");
    let drawn = rows(&heights, Ink::Ascii);
    assert!(drawn.iter().all(|row| row.chars().count() == 60 && row.is_ascii()), "{drawn:?}");
}

#[test]
fn quantiles_are_those_of_the_values_within_a_bin() {
    let reference = Reference::of_numbers(&readings((0..2_000).map(f64::from)), &SPANS_S).unwrap();
    let Bins::Edges(edges) = &reference.bins else { unreachable!() };
    let bins = bins(&reference, edges, range(&reference).unwrap());
    for share in [0.0, 0.05, 0.5, 0.95, 1.0] {
        let found = value_at(&bins, share);
        assert!((found - share * 1_999.0).abs() < 10.0, "{share}: {found}");
    }
}

#[test]
fn categories_are_bars_with_their_shares() {
    let names = [vec!["open"; 30], vec!["sh\u{1b}ut"; 10]].concat();
    let readings =
        vec![names.into_iter().enumerate().map(|(n, name)| (n as i64, Some(name.to_owned()))).collect()];
    let reference = Reference::of_names(&readings, &SPANS_S).unwrap();
    let lines = text(&body(&reference, "", &View { columns: 80, ink: Ink::Ascii, all: false }));
    assert!(lines.contains("open                  75.00 %"), "{lines}");
    assert!(lines.contains("sh\\u001but"), "{lines}");
}

#[test]
fn numbers_have_four_digits() {
    let cases = [
        (0.0, "0"),
        (21.0, "21"),
        (0.123_456, "0.1235"),
        (-1_234_567.0, "-1234567"),
        (1e9, "1.00e9"),
        (0.000_01, "1.00e-5"),
        (99.999_9, "100"),
        (f64::NAN, "-"),
    ];
    for (value, expected) in cases {
        assert_eq!(number(value), expected);
    }
    let steps = [
        (-0.28, 0.76, "0"),
        (23.181_2, 0.004, "23.18"),
        (0.997_9, 0.0016, "1"),
        (1_234.5, 300.0, "1234"),
        (5.0, 0.0, "5"),
    ];
    for (value, step, expected) in steps {
        assert_eq!(whole(value, step), expected);
    }
    assert_eq!([900, 3_600, 86_400, 259_200, 7].map(span_text), ["15 min", "1 h", "1 d", "3 d", "7 s"]);
}

proptest! {
    #[test]
    fn of_any_values_no_line_is_wider_than_the_terminal_and_ascii_is_ascii(
        values in prop::collection::vec(prop_oneof![-1e9..1e9f64, Just(5.0), -1e-6..1e-6f64], 20..120),
        columns in 0..200usize,
        all in any::<bool>(),
    ) {
        let reference = Reference::of_numbers(&readings(values.into_iter()), &SPANS_S).unwrap();
        let profile = profile("a\u{1b}[2J", "Cel", reference);
        let lines = text(&draw(&profile, &View { columns, ink: Ink::Ascii, all }));
        prop_assert!(lines.is_ascii());
        for line in lines.lines() {
            prop_assert!(line.chars().count() <= columns.max(COLUMNS_MIN), "{line}");
            let has_escape = line.contains('\u{1b}');
            prop_assert!(!has_escape);
        }
    }
}
