//! Payloads in comma-separated lines: nothing panics, limits hold, every record keeps what its source promises.
//!
//! The first byte chooses one of the sources, the second the circumstances, the rest is the payload.

#![no_main]

use std::sync::LazyLock;

use fuzz_pipeline::Sources;
use libfuzzer_sys::fuzz_target;

static SOURCES: LazyLock<Sources> = LazyLock::new(|| {
    Sources::of(&[
        r#"
        format = "csv"
        retained = "use"
        time = { pointer = "t" }
        [fields]
        a = { range = [-40, 85] }
        b = { scale = 0.1, missing_values = [-200] }
        "#,
        r#"
        format = "csv"
        delimiter = ";"
        header = false
        tags = { id = "3" }
        time = { pointer = "0", format = "unix-ns", fallback = "reject", age_max = "365d" }
        fields.a = { column = "1" }
        "#,
        r#"
        format = "csv"
        header = true
        time = { pointer = "0", format = "%Y-%m-%dT%H:%M:%S" }
        fields.a = { column = "1", map = { on = 1 } }
        "#,
    ])
});

fuzz_target!(|data: &[u8]| SOURCES.check(data));
