//! Saved windows: any bytes restore to a core that runs on, or are refused and leave it as it was.
//!
//! A part of the input is messages; the rest is put over the snapshot that they leave behind.

#![no_main]

use fuzz_pipeline::core::{core, messages, run};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = check(&mut Unstructured::new(data));
});

fn check(choices: &mut Unstructured<'_>) -> Result<()> {
    let changes = choices.int_in_range(0..=4)?;
    let mut puts = Vec::new();
    for _ in 0..changes {
        let (at, skipped): (u16, u8) = (choices.arbitrary()?, choices.arbitrary()?);
        let put: [u8; 4] = choices.arbitrary()?;
        puts.push((usize::from(at), usize::from(skipped % 8), put, choices.int_in_range(0..=4)?));
    }
    let messages = messages(choices)?;
    let mut running = core();
    let half = messages.len() / 2;
    run(&mut running, &messages[..half]);
    let mut bytes = running.snapshot();
    for (at, skipped, put, length) in puts {
        let start = at % (bytes.len() + 1);
        let end = (start + skipped).min(bytes.len());
        bytes.splice(start..end, put[..length].iter().copied());
    }
    let before = running.snapshot();
    if running.restore(&bytes).is_err() {
        assert_eq!(running.snapshot(), before, "a refusal changes nothing");
    }
    run(&mut running, &messages[half..]);
    let again = running.snapshot();
    assert!(running.restore(&again).is_ok(), "a snapshot of its own is restored");
    assert_eq!(running.snapshot(), again);
    Ok(())
}
