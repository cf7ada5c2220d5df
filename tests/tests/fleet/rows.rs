//! Rows and a report for simulated gateways to send.
//!
//! Made of the protocol's own types and its golden files.

use dunlin_protocol::batch::{LossRow, Losses};
use dunlin_protocol::{Batch, DeviceReport};

/// Makes a batch of losses with so many rows.
pub(crate) fn losses(first: u64, count: u64) -> Batch {
    let mut losses = Losses::default();
    let row = LossRow {
        kind: "readings",
        object: "press",
        reason: "quota",
        count: 1,
        from_us: 0,
        span_us: 0,
        at_us: 1,
        numbers: None,
    };
    for _ in 0..count {
        losses.push(&row).unwrap();
    }
    Batch::of(first, &losses).unwrap()
}

/// Makes a batch whose columns are wrong.
pub(crate) fn malformed(first: u64, count: u64) -> Batch {
    let text =
        format!("{{\"stream\":\"losses\",\"first\":{first},\"count\":{count},\"columns\":{{\"texts\":7}}}}");
    serde_json::from_str(&text).unwrap()
}

/// Returns the report of the golden files.
pub(crate) fn report() -> DeviceReport {
    let golden = include_str!("../../../agent-protocol/golden/v1/exchange-request.json");
    let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
    serde_json::from_value(golden["report"]["full"].clone()).unwrap()
}
