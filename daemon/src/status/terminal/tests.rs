//! The status text, with hostile names above all.

use proptest::prelude::*;

use super::*;
use crate::status::report::{BrokerReport, IdleModelReport, SampleReport, SlotReport, SourceError};

const HOSTILE: &str = "a\u{1b}]0;owned\u{7}\r\n\u{9b}2J\u{202e}/b";

fn report(text: &str) -> StatusReport {
    let mut report = StatusReport {
        gateway: text.to_owned(),
        version: "0.1.0".to_owned(),
        pid: 42,
        uptime_seconds: 93_784.0,
        state_dir: format!("/var/{text}"),
        messages: 1_234_567,
        ..StatusReport::default()
    };
    report.rates.messages = SpanRates { last_10s: Some(12.34), last_5m: None };
    report.latency_seconds.p50 = Some(0.0021);
    report.brokers.insert(
        text.to_owned(),
        BrokerReport { url: text.to_owned(), last_error: Some(text.to_owned()), ..BrokerReport::default() },
    );
    report.slots.insert(
        text.to_owned(),
        SlotReport {
            version: text.to_owned(),
            state: text.to_owned(),
            last_error: Some(text.to_owned()),
            failed: [("crashed".to_owned(), 2)].into(),
            ..SlotReport::default()
        },
    );
    let idle = IdleModelReport { phase: text.to_owned(), remedy: text.to_owned() };
    report.idle_models.insert(text.to_owned(), idle);
    report.store.state = "ok".to_owned();
    report.store.lost.insert(text.to_owned(), 5);
    report.store.last_error = Some(text.to_owned());
    let sample = SampleReport { topic: text.into(), detail: text.into(), payload: text.into(), at_us: 0 };
    report.sources.insert(
        text.to_owned(),
        SourceReport {
            messages: 10,
            accepted: 9,
            refused: [("syntax".to_owned(), 1)].into(),
            last_error: Some(SourceError {
                reason: "syntax".into(),
                topic: text.into(),
                detail: text.into(),
                at_us: 0,
            }),
            samples: [("syntax".to_owned(), sample)].into(),
        },
    );
    report
}

fn assert_safe(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= usize::from(COLUMNS), "{} columns: {line}", line.chars().count());
    }
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    assert!(!text.contains('\u{202e}'));
}

#[test]
fn hostile_names_topics_and_errors_cannot_write_to_the_terminal() {
    let report = report(HOSTILE);
    let text = render_status(&report);
    assert_safe(&text);
    assert!(text.contains(r"\u{1b}]0;owned\u{7}\r\n\u{9b}2J"), "{text}");
    let errors = render_source_errors(&report.sources);
    assert_safe(&errors);
    assert!(errors.contains("payload  a\\u{1b}"), "{errors}");
}

#[test]
fn the_head_of_the_text_is_as_documented() {
    let text = render_status(&report("plant"));
    let expected = "\
Gateway plant: dunlind 0.1.0, process 42, up 1d 2h
State   /var/plant
";
    assert!(text.starts_with(expected), "{text}");
    for part in
        ["1,234,567", "12.3", "p50 2.1 ms", "Lost: plant 5", "source plant: syntax: plant (topic plant)"]
    {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn a_daemon_that_just_started_has_a_text_too() {
    let text = render_status(&StatusReport::default());
    assert_safe(&text);
    assert!(text.contains("Lost: nothing"));
    assert_eq!(render_source_errors(&BTreeMap::new()), "No payload was refused.\n");
}

proptest! {
    #[test]
    fn any_text_from_outside_stays_on_its_line(text in any::<String>()) {
        let rendered = render_status(&report(&text));
        prop_assert!(rendered.chars().all(|c| c == '\n' || !c.is_control()));
    }
}
