//! Payloads in SenML: nothing panics, limits hold, every record keeps what its source promises.
//!
//! The first byte chooses one of the sources, the second the circumstances, the rest is the payload.

#![no_main]

use std::sync::LazyLock;

use fuzz_pipeline::Sources;
use libfuzzer_sys::fuzz_target;

static SOURCES: LazyLock<Sources> = LazyLock::new(|| {
    Sources::of(&[
        r#"
        format = "senml"
        retained = "use"
        [fields]
        a = { unit = "Cel", range = [-40, 85] }
        b = { name = "urn:dev:b", unit = "%RH" }
        c = { map = { true = 1, false = 0 } }
        "#,
        r#"
        format = "senml"
        time = { fallback = "reject", age_max = "365d", skew_max = "1s" }
        fields.a = { missing_values = [0] }
        "#,
    ])
});

fuzz_target!(|data: &[u8]| SOURCES.check(data));
