//! Payloads in CBOR: nothing panics, limits hold, every record keeps what its source promises.
//!
//! The first byte chooses one of the sources, the second the circumstances, the rest is the payload.

#![no_main]

use std::sync::LazyLock;

use fuzz_pipeline::Sources;
use libfuzzer_sys::fuzz_target;

static SOURCES: LazyLock<Sources> = LazyLock::new(|| {
    Sources::of(&[
        r#"
        format = "cbor"
        retained = "use"
        time = { pointer = "/t" }
        [fields]
        a = { range = [-40, 85] }
        b = { pointer = "/v/0", scale = 0.1, offset = 3, missing_values = [-200] }
        c = { pointer = "/c", map = { on = 1, true = 1, false = 0 } }
        "#,
        r#"
        format = "cbor"
        each = "/r"
        tags = { id = "/id" }
        retained = "use-if-time"
        time = { pointer = "/t", format = "unix-ms", fallback = "reject", age_max = "365d" }
        fields.a = {}
        "#,
        r#"
        format = "cbor"
        each = ""
        time = { pointer = "/0" }
        fields.a = { pointer = "/1" }
        "#,
    ])
});

fuzz_target!(|data: &[u8]| SOURCES.check(data));
