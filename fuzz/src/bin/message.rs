//! Messages of the device protocol: what is read can be written and read as the same, within its limits.
//!
//! The first byte chooses the kind. Batches are read as well: those that are sound can be made again of their rows.

#![no_main]

use std::fmt::Debug;

use dunlin_protocol::batch::{AnyColumns, Batch, BatchError, Columns};
use dunlin_protocol::limits::ROWS_MAX;
use dunlin_protocol::{
    EnrollAnswer, EnrollRequest, ExchangeAnswer, ExchangeRequest, Message, Problem, Ranges,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 5 {
        0 => drop(check::<EnrollRequest>(bytes)),
        1 => drop(check::<EnrollAnswer>(bytes)),
        2 => check_request(bytes),
        3 => check_answer(bytes),
        _ => drop(Problem::parse(bytes)),
    }
});

fn check<M: Message + PartialEq + Debug>(bytes: &[u8]) -> Option<M> {
    let message = M::from_plain(bytes).ok()?;
    let plain = message.to_plain().expect("what was read can be written");
    let again = M::from_plain(&plain).expect("what was written can be read");
    assert_eq!(again, message);
    assert_eq!(again.to_plain().expect("written once more"), plain);
    Some(message)
}

fn check_request(bytes: &[u8]) {
    let Some(request) = check::<ExchangeRequest>(bytes) else { return };
    let mut seen: Vec<(String, Ranges)> = Vec::new();
    for batch in &request.batches {
        let range: Ranges = batch.range().into();
        for (stream, ranges) in &seen {
            assert!(
                stream != batch.stream().as_str() || ranges.intersect(&range).is_empty(),
                "numbers twice"
            );
        }
        seen.push((batch.stream().as_str().to_owned(), range));
        match batch.read_any() {
            Ok(AnyColumns::Predictions(columns)) => {
                require_same(batch, &columns, columns.iter().count());
                assert!(columns.iter().all(|row| row.outputs.iter().all(|value| value.is_finite())));
            }
            Ok(AnyColumns::Events(columns)) => require_same(batch, &columns, columns.iter().count()),
            Ok(AnyColumns::Labels(columns)) => require_same(batch, &columns, columns.iter().count()),
            Ok(AnyColumns::Losses(columns)) => require_same(batch, &columns, columns.iter().count()),
            Ok(AnyColumns::Statistics(columns)) => require_same(batch, &columns, columns.iter().count()),
            Err(BatchError::Stream(_) | BatchError::Columns(_) | BatchError::Rows { .. }) => {}
            Err(BatchError::Numbers) => panic!("numbers are judged with the message"),
        }
    }
}

fn require_same<C: Columns + PartialEq + Debug>(batch: &Batch, columns: &C, rows: usize) {
    assert!(rows == columns.rows() && rows <= ROWS_MAX && batch.rows() == rows as u64);
    let numbers: Vec<u64> = batch.numbers().collect();
    assert!(numbers.len() == rows && numbers.iter().all(|number| batch.range().contains(*number)));
    let again = Batch::with_held_back(batch.range(), &numbers, columns).expect("sound rows make a batch");
    assert_eq!(again.read::<C>().expect("what was made can be read"), *columns);
    assert!(again.numbers().eq(numbers));
}

fn check_answer(bytes: &[u8]) {
    let Some(answer) = check::<ExchangeAnswer>(bytes) else { return };
    assert!(answer.refusal.is_none() || answer.desired.is_none() && answer.receipts.is_empty());
}
