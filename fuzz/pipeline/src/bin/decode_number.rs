//! Payloads in one number: nothing panics, limits hold, every record keeps what its source promises.
//!
//! The first byte chooses one of the sources, the second the circumstances, the rest is the payload.

#![no_main]

use std::sync::LazyLock;

use fuzz_pipeline::Sources;
use libfuzzer_sys::fuzz_target;

static SOURCES: LazyLock<Sources> = LazyLock::new(|| {
    Sources::of(&[
        r#"
        format = "number"
        retained = "use"
        fields.a = { range = [-40, 85], scale = 10, offset = -5 }
        "#,
        r#"
        format = "number"
        fields.a = { map = { on = 1, off = 0 }, missing_values = [-200] }
        "#,
    ])
});

fuzz_target!(|data: &[u8]| SOURCES.check(data));
