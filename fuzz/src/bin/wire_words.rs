//! The small languages of the device protocol: ids, keys, tokens, ranges, columns of differences.
//!
//! The first byte chooses the language. What is read prints as a text that reads as the same; an id has one spelling.

#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use dunlin_protocol::batch::{Deltas, Offsets};
use dunlin_protocol::limits::INTEGER_MAX;
use dunlin_protocol::{DeviceId, EnrolmentToken, Incarnation, PublicKey, Ranges, ServerId, StartId};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|data: &[u8]| {
    let Some((language, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    match language % 9 {
        0 => check_id::<DeviceId>(text),
        1 => check_id::<ServerId>(text),
        2 => check_id::<Incarnation>(text),
        3 => check_id::<StartId>(text),
        4 => check_id::<PublicKey>(text),
        5 => check_token(text),
        6 => check_ranges(text),
        7 => drop(check_json::<Deltas>(text)),
        _ => check_offsets(text),
    }
});

fn check_id<T: FromStr + Display>(text: &str) {
    if let Ok(read) = text.parse::<T>() {
        assert_eq!(read.to_string(), text, "an id has one spelling");
    }
}

fn check_token(text: &str) {
    let Ok(token) = EnrolmentToken::parse(text) else { return };
    let again = EnrolmentToken::parse(&token.to_text());
    assert!(again.is_ok_and(|again| again == token));
}

fn check_json<T: DeserializeOwned + Serialize + PartialEq + Debug>(text: &str) -> Option<T> {
    let read: T = serde_json::from_str(text).ok()?;
    let printed = serde_json::to_string(&read).expect("numbers are JSON");
    assert_eq!(serde_json::from_str::<T>(&printed).expect("what was printed can be read"), read);
    Some(read)
}

fn check_ranges(text: &str) {
    let Some(ranges) = check_json::<Ranges>(text) else { return };
    let mut end = None;
    for range in ranges.iter() {
        assert!(range.first() >= 1 && range.last() <= INTEGER_MAX);
        assert!(end.is_none_or(|end: u64| end + 1 < range.first()), "sorted, disjoint, never adjacent");
        end = Some(range.last());
    }
    let lowest = ranges.lowest(3);
    assert_eq!(lowest.union(&ranges.subtract(&lowest)), ranges);
    assert_eq!(lowest.count() + ranges.subtract(&lowest).count(), ranges.count());
}

fn check_offsets(text: &str) {
    let Some(offsets) = check_json::<Offsets>(text) else { return };
    let all: Vec<u64> = offsets.iter().collect();
    assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
}
