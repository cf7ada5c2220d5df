//! Golden vectors and recorded messages: what is read can be written and reads again as the same.
//!
//! Takes any bytes as a golden file.

#![no_main]

use dunlin_model_package::golden::{RECORDS_MAX, RecordedMessage};
use dunlin_model_package::{Golden, GoldenRecord};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // The fallback of a payload that is no text.
    let message = RecordedMessage::from_bytes("t".to_owned(), data, None, false);
    assert_eq!(message.payload_bytes().as_deref(), Ok(data));

    let Ok(golden) = Golden::parse(data) else { return };
    assert!(golden.records.len() <= RECORDS_MAX);
    let again = Golden::parse(&golden.to_bytes()).expect("what was read can be written and read");
    assert_eq!(again, golden);
    for record in &golden.records {
        if let GoldenRecord::Message(message) = record
            && let Ok(payload) = message.payload_bytes()
        {
            let again = RecordedMessage::from_bytes(
                message.topic.clone(),
                &payload,
                message.arrival_ms,
                message.retained,
            );
            assert_eq!(again.payload_bytes().as_deref(), Ok(payload.as_slice()));
        }
    }
});
