//! Topics: filters and templates that can be read, and no output that comes back as input.
//!
//! A prediction that is taken for a reading makes further predictions, without end; so every topic that the daemon
//! may publish on is held against every filter it subscribes to. Pure.

use dunlin_model_package::{TopicFilter, TopicTemplate};

use super::file::ConfigFile;
use super::finding::Findings;
use super::settings::BrokerSettings;
use crate::flow::BrokerIndex;

/// A topic that the daemon may publish on.
struct Output {
    /// Path of the template.
    path: String,
    /// What is published there, in words.
    what: String,
    /// Every topic the template can give.
    filter: TopicFilter,
    /// The broker; `None` for every broker.
    broker: Option<String>,
}

/// A source's filters, read.
struct Input<'f> {
    path: String,
    name: &'f str,
    broker: &'f str,
    topics: Vec<(usize, TopicFilter)>,
    ignore: Vec<TopicFilter>,
}

/// Checks all topics of the configuration.
pub(super) fn check(
    file: &ConfigFile,
    gateway: &str,
    brokers: &[BrokerSettings],
    publish: BrokerIndex,
    findings: &mut Findings<'_>,
) {
    let default = brokers.first().map_or("", |broker| broker.name.as_str());
    let publish = brokers.get(usize::from(publish.0)).map_or(default, |broker| broker.name.as_str());
    let inputs = inputs(file, default, findings);
    let mut outputs = outputs(file, gateway, publish, findings);
    check_doubles(&outputs, findings);
    if let Ok(filter) = TopicFilter::parse(&format!("dunlin/{gateway}/status")) {
        let what = "the gateway's status".to_owned();
        outputs.push(Output { path: String::new(), what, filter, broker: None });
    }
    for input in &inputs {
        for output in &outputs {
            check_loop(input, output, findings);
        }
    }
}

fn inputs<'f>(file: &'f ConfigFile, default: &'f str, findings: &mut Findings<'_>) -> Vec<Input<'f>> {
    let mut read = |path: &str, texts: &[String]| {
        let mut filters = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            match TopicFilter::parse(text) {
                Ok(filter) => filters.push((index, filter)),
                Err(error) => {
                    let hint = "levels are separated by `/`; `+` or `{name}` is one level, `#` or `{name...}` the rest";
                    findings.error(&format!("{path}[{index}]"), error.to_string(), hint);
                }
            }
        }
        filters
    };
    let each = file.source.iter().enumerate();
    each.map(|(index, source)| {
        let path = format!("source[{index}]");
        Input {
            topics: read(&format!("{path}.topics"), &source.topics),
            ignore: read(&format!("{path}.ignore"), &source.ignore)
                .into_iter()
                .map(|(_, filter)| filter)
                .collect(),
            path,
            name: &source.name,
            broker: source.broker.as_deref().unwrap_or(default),
        }
    })
    .collect()
}

fn outputs(file: &ConfigFile, gateway: &str, publish: &str, findings: &mut Findings<'_>) -> Vec<Output> {
    let mut outputs = Vec::new();
    for (index, model) in file.model.iter().enumerate() {
        let alert = model.alert.as_ref().map(|alert| ("alert.topic", "alerts", &alert.topic));
        let topics = [Some(("output.topic", "predictions", &model.output.topic)), alert];
        let mut known = vec!["gateway", "model", "key"];
        known.extend(model.key.iter().flatten().map(String::as_str));
        for (key, what, text) in topics.into_iter().flatten() {
            let path = format!("model[{index}].{key}");
            let fixed = |name: &str| match name {
                "gateway" => Some(gateway),
                "model" => Some(model.name.as_str()),
                _ => None,
            };
            let filter = TopicTemplate::parse(text, &known).map(|template| template.widest_filter(fixed));
            let what = format!("{what} of model `{}`", model.name);
            match filter {
                Ok(filter) => outputs.push(Output { path, what, filter, broker: Some(publish.to_owned()) }),
                Err(error) => {
                    let hint =
                        "placeholders are `{gateway}`, `{model}`, `{key}` and the tags of the model's `key`";
                    findings.error(&path, error.to_string(), hint);
                }
            }
        }
    }
    outputs
}

fn check_doubles(outputs: &[Output], findings: &mut Findings<'_>) {
    for (index, output) in outputs.iter().enumerate() {
        let double = outputs[..index].iter().find(|other| other.filter == output.filter);
        if let Some(other) = double {
            let message = format!("{} would go to the same topics as {}", output.what, other.what);
            findings.error(&output.path, message, "put `{model}` into the topic, or choose another one");
        }
    }
}

fn check_loop(input: &Input<'_>, output: &Output, findings: &mut Findings<'_>) {
    if output.broker.as_deref().is_some_and(|broker| broker != input.broker)
        || input.ignore.iter().any(|ignored| covers(ignored, &output.filter))
    {
        return;
    }
    for (index, topic) in &input.topics {
        if topic.intersects(&output.filter) {
            let message = format!(
                "source `{}` would read {} on `{}`: every prediction would be taken for a reading",
                input.name, output.what, output.filter
            );
            let hint = format!("add `ignore = [\"{}\"]` to the source, or narrow the topic", output.filter);
            findings.error(&format!("{}.topics[{index}]", input.path), message, hint);
            return;
        }
    }
}

/// Tells whether every topic that matches `narrow` matches `wide`.
fn covers(wide: &TopicFilter, narrow: &TopicFilter) -> bool {
    let (wide, narrow) = (wide.subscription(), narrow.subscription());
    if narrow.starts_with('$') && wide.starts_with(['+', '#']) {
        return false;
    }
    let mut narrow = narrow.split('/');
    for level in wide.split('/') {
        match (level, narrow.next()) {
            ("#", _) => return true,
            ("+", Some(other)) if other != "#" => {}
            (text, Some(other)) if text == other => {}
            _ => return false,
        }
    }
    narrow.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_covers_those_that_are_no_wider() {
        for (wide, narrow, expected) in [
            ("a/#", "a/b/#", true),
            ("a/#", "a", true),
            ("a/+", "a/b", true),
            ("a/+", "a/#", false),
            ("a/b", "a/+", false),
            ("+/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("#", "$SYS/x", false),
            ("a/{x}/{rest...}", "a/b/c", true),
        ] {
            let of = |text| TopicFilter::parse(text).unwrap();
            assert_eq!(covers(&of(wide), &of(narrow)), expected, "{wide} {narrow}");
        }
    }
}
