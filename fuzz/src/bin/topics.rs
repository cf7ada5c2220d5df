//! Topic filters and templates: a filter takes what its subscription takes, a template fills only what its widest
//! filter covers.
//!
//! Lines: a filter, another one, a template, a topic, and values for the template.

#![no_main]

use dunlin_model_package::{TopicFilter, TopicTemplate};
use libfuzzer_sys::fuzz_target;

const PLACEHOLDERS: [&str; 3] = ["gateway", "model", "key"];

fuzz_target!(|text: &str| {
    let lines: Vec<&str> = text.split('\n').collect();
    let line = |index: usize| lines.get(index).copied().unwrap_or_default();
    check_filters(line(0), line(1), line(3));
    check_template(line(2), [line(4), line(5), line(6)]);
});

fn check_filters(filter: &str, other: &str, topic: &str) {
    let Ok(filter) = TopicFilter::parse(filter) else { return };
    assert_eq!(TopicFilter::parse(&filter.to_string()).as_ref(), Ok(&filter));
    let plain = TopicFilter::parse(&filter.subscription()).expect("a subscription is a filter");
    let found = filter.matches(topic);
    assert_eq!(found.is_some(), plain.matches(topic).is_some());
    if let Some(found) = found {
        assert_eq!(found.len(), filter.captures().count());
    }
    assert!(filter.intersects(&filter));
    if let Ok(other) = TopicFilter::parse(other) {
        assert_eq!(filter.intersects(&other), other.intersects(&filter));
        if filter.matches(topic).is_some() && other.matches(topic).is_some() {
            assert!(filter.intersects(&other), "both match `{topic}`");
        }
    }
}

fn check_template(text: &str, values: [&str; 3]) {
    let Ok(template) = TopicTemplate::parse(text, &PLACEHOLDERS) else { return };
    let value_of = |name: &str| {
        let position = PLACEHOLDERS.iter().position(|known| *known == name);
        values[position.expect("only known placeholders are asked for")]
    };
    let topic = template.fill(value_of);
    assert!(!topic.contains(['+', '#', '\0']), "`{topic}` is no topic");
    // The gateway's name is known when the configuration is checked.
    for fixed in [None, Some(values[0])] {
        let widest = template.widest_filter(|name| fixed.filter(|_| name == "gateway"));
        if !topic.is_empty() && !topic.starts_with('$') {
            assert!(widest.matches(&topic).is_some(), "`{widest}` does not cover `{topic}`");
        }
    }
}
