//! Requests and replies of the status socket: a line is a request or an error, and every request has one form.
//!
//! Takes any bytes as a line of either side.

#![no_main]

use dunlin_daemon::status::socket::{Reply, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<Request>(line) {
        let written = serde_json::to_string(&request).expect("a request is JSON");
        assert!(!written.contains('\n'), "a request is one line");
        assert_eq!(serde_json::from_str::<Request>(&written).ok().as_ref(), Some(&request));
    }
    // What the command `status` reads may come from a daemon of another version.
    if let Ok(reply) = serde_json::from_slice::<Reply>(line) {
        let written = serde_json::to_string(&reply).expect("a reply is JSON");
        assert!(!written.contains('\n'), "a reply is one line");
    }
});
