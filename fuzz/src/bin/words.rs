//! The small languages of a specification: expressions, spans, policies, digests, units.
//!
//! The first byte chooses the language. What is read prints as a text that reads as the same, and prints so once more.

#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use dunlin_model_package::{Digest, FeatureExpression, MissingPolicy, Span, unit};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((language, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    match language % 5 {
        0 => check::<FeatureExpression>(text),
        1 => check::<Span>(text),
        2 => check::<MissingPolicy>(text),
        3 => check::<Digest>(text),
        _ => check_units(text),
    }
});

fn check<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    let Ok(read) = text.parse::<T>() else { return };
    let printed = read.to_string();
    let Ok(again) = printed.parse::<T>() else { panic!("`{printed}` was printed and cannot be read") };
    assert_eq!(again, read);
    assert_eq!(again.to_string(), printed);
}

/// There and back is where it began, within rounding.
fn check_units(text: &str) {
    let Some((from, to)) = text.split_once('\n') else { return };
    let (there, back) = (unit::conversion(from, to), unit::conversion(to, from));
    assert_eq!(there.is_some(), back.is_some());
    if let (Some(there), Some(back)) = (there, back) {
        for value in [0.0, 1.0, -40.0, 1e6] {
            let again = back.apply(there.apply(value));
            assert!((again - value).abs() <= 1e-6 * (1.0 + value.abs()), "{value} {from} became {again}");
        }
    }
}
