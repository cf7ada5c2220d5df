//! A core over time: whatever comes, readings stay in order, and a core that was restored goes on exactly as the first.
//!
//! The input is a list of messages and the place where the second core takes over.

#![no_main]

use fuzz_pipeline::core::{core, messages, run};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = check(&mut Unstructured::new(data));
});

fn check(choices: &mut Unstructured<'_>) -> Result<()> {
    let place: u8 = choices.arbitrary()?;
    let messages = messages(choices)?;
    let (before, after) = messages.split_at(usize::from(place) % (messages.len() + 1));
    let mut first = core();
    let expected_before = run(&mut first, before);
    let mut second = core();
    assert_eq!(run(&mut second, before), expected_before, "the same messages give the same");
    let saved = first.snapshot();
    assert_eq!(second.restore(&saved), Ok(()));
    assert_eq!(second.snapshot(), saved, "a restored core is as the saved one");
    assert_eq!(run(&mut second, after), run(&mut first, after));
    assert_eq!(second.snapshot(), first.snapshot());
    Ok(())
}
