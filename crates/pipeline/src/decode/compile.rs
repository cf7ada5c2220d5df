//! From specification to compiled source: every check that can be made before a payload arrives.
//!
//! Reports all findings at once, each with a remedy. Decodes nothing.

use std::collections::BTreeMap;

use dunlin_model_package::feature_spec::{FieldSpec, Format, SourceSpec, TimeFallback};
use dunlin_model_package::topic::TopicFilter;

use super::csv::{Column, CsvLayout};
use super::route::{TakenTopic, Topics};
use super::senml::SenmlLayout;
use super::time::{TimeFormat, TimeRule};
use super::tree::{Pointer, TreeLayout};
use super::value::{FieldRule, ValueMap};
use super::{CompiledSource, FIELDS_MAX, Layout, NAME_BYTES_MAX, TAGS_MAX, TOPICS_MAX};
use crate::refusal::SpecFinding;

/// What is wrong so far.
#[derive(Default)]
struct Findings(Vec<SpecFinding>);

impl Findings {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(SpecFinding::new(path, message));
    }

    /// Returns the value, or notes at `path` why there is none.
    fn take<T>(&mut self, path: impl Into<String>, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.add(path, message)).ok()
    }
}

pub(super) fn compile(spec: &SourceSpec) -> Result<CompiledSource, Vec<SpecFinding>> {
    let mut findings = Findings::default();
    check_name(&mut findings, "name", &spec.name);
    for (path, limit) in
        [("series_max", spec.series_max), ("new_topics_per_second_max", spec.new_topics_per_second_max)]
    {
        if limit == 0 {
            findings.add(path, "0 would refuse everything; write 1 or more");
        }
    }
    let (topics, mut tag_names) = compile_topics(spec, &mut findings);
    let captures = tag_names.len();
    check_tags(spec, &tag_names, &mut findings);
    tag_names.extend(spec.tags.keys().cloned());
    if tag_names.len() > TAGS_MAX {
        findings.add("tags", format!("{} tags, captures included; {TAGS_MAX} are the most", tag_names.len()));
    }
    let fields = compile_fields(spec, &tag_names[..captures], &topics, &mut findings);
    let times = compile_times(spec, &mut findings);
    check_format_only_keys(spec, &mut findings);
    let layout = compile_layout(spec, &mut findings);
    match (times, layout) {
        (Some(times), Some(layout)) if findings.0.is_empty() => Ok(CompiledSource {
            name: spec.name.clone(),
            broker: spec.broker.clone(),
            topics,
            tag_names,
            field_names: spec.fields.keys().cloned().collect(),
            fields,
            times,
            retained: spec.retained,
            layout,
        }),
        _ => Err(findings.0),
    }
}

impl CompiledSource {
    /// Returns the positions of the tags that the payload holds.
    pub(super) fn payload_tags(&self) -> std::ops::Range<usize> {
        let held = match &self.layout {
            Layout::Json(layout) | Layout::Cbor(layout) => layout.tags.len(),
            Layout::Csv(layout) => layout.tags.len(),
            Layout::Number | Layout::Senml(_) => 0,
        };
        self.tag_names.len() - held..self.tag_names.len()
    }
}

fn check_name(findings: &mut Findings, path: impl Into<String>, name: &str) {
    if name.is_empty() {
        findings.add(path, "the name is empty");
    } else if name.len() > NAME_BYTES_MAX {
        findings.add(path, format!("the name is longer than {NAME_BYTES_MAX} bytes"));
    } else if name.chars().any(char::is_control) {
        findings.add(path, "the name has a control character");
    }
}

/// Returns the filters, and the names of their captures in order of first appearance. A filter need not have all of
/// them: what it lacks is the empty text there.
fn compile_topics(spec: &SourceSpec, findings: &mut Findings) -> (Topics, Vec<String>) {
    if spec.topics.is_empty() {
        findings
            .add("topics", "a source needs at least one topic filter, as in `plant/{machine}/temperature`");
    }
    let mut topics = Topics::default();
    let mut captures: Vec<String> = Vec::new();
    for filter in parse_filters("topics", &spec.topics, findings) {
        let mut tag_positions = Vec::new();
        for capture in filter.captures() {
            let known = captures.iter().position(|name| name == capture);
            tag_positions.push(known.unwrap_or_else(|| {
                captures.push(capture.to_owned());
                captures.len() - 1
            }));
        }
        topics.taken.push(TakenTopic { filter, tag_positions });
    }
    topics.ignored = parse_filters("ignore", &spec.ignore, findings);
    (topics, captures)
}

fn parse_filters(key: &str, texts: &[String], findings: &mut Findings) -> Vec<TopicFilter> {
    if texts.len() > TOPICS_MAX {
        findings.add(key, format!("{} topic filters; {TOPICS_MAX} are the most", texts.len()));
    }
    let parse = |(position, text): (usize, &String)| {
        let parsed = TopicFilter::parse(text).map_err(|error| error.to_string());
        findings.take(format!("{key}[{position}]"), parsed)
    };
    texts.iter().enumerate().filter_map(parse).collect()
}

fn check_tags(spec: &SourceSpec, captures: &[String], findings: &mut Findings) {
    for tag in spec.tags.keys() {
        let path = format!("tags.{tag}");
        check_name(findings, &path, tag);
        if captures.contains(tag) {
            findings.add(path, format!("the topics capture a tag `{tag}` already; rename one of the two"));
        }
    }
}

fn compile_fields(
    spec: &SourceSpec,
    captures: &[String],
    topics: &Topics,
    findings: &mut Findings,
) -> Vec<FieldRule> {
    match spec.fields.len() {
        0 => findings
            .add("fields", "a source needs at least one field, as in `temperature = { unit = \"Cel\" }`"),
        1..=FIELDS_MAX => {}
        many => findings.add("fields", format!("{many} fields; {FIELDS_MAX} are the most")),
    }
    let fields: Vec<FieldRule> =
        spec.fields.iter().map(|(name, field)| compile_field(name, field, captures, findings)).collect();
    // Without topics there is nothing to compare with, and the lack of them is reported.
    if !topics.taken.is_empty() {
        for field in &fields {
            if !topics.taken.iter().any(|topic| can_be_read(field, topic)) {
                findings.add(
                    format!("fields.{}.when", field.name),
                    "no topic filter has all of these captures, so the field would never be read",
                );
            }
        }
        if spec.format == Format::Number {
            check_one_number_a_topic(&fields, topics, findings);
        }
    }
    fields
}

fn compile_field(name: &str, spec: &FieldSpec, captures: &[String], findings: &mut Findings) -> FieldRule {
    let path = format!("fields.{name}");
    check_name(findings, &path, name);
    if name.contains(|c: char| c == '@' || c.is_whitespace()) {
        findings
            .add(&path, format!("`{name}` has white space or `@`: feature expressions could not name it"));
    }
    check_numbers(&path, spec, findings);
    let mut when = Vec::new();
    for (capture, value) in &spec.when {
        match captures.iter().position(|known| known == capture) {
            Some(position) => when.push((position, value.clone())),
            None => {
                let known = list(captures.iter().map(String::as_str));
                findings.add(
                    format!("{path}.when.{capture}"),
                    format!("no topic captures `{capture}`; the captures are: {known}"),
                );
            }
        }
    }
    FieldRule {
        name: name.to_owned(),
        unit: spec.unit.clone(),
        when,
        scale: spec.scale.unwrap_or(1.0),
        offset: spec.offset.unwrap_or(0.0),
        range: spec.range,
        missing_values: spec.missing_values.clone(),
        map: ValueMap::new(spec.map.iter()),
    }
}

fn check_numbers(path: &str, spec: &FieldSpec, findings: &mut Findings) {
    if spec.scale.is_some_and(|scale| !scale.is_finite() || scale == 0.0) {
        findings.add(format!("{path}.scale"), "a scale is a finite number other than 0");
    }
    if spec.offset.is_some_and(|offset| !offset.is_finite()) {
        findings.add(format!("{path}.offset"), "an offset is a finite number");
    }
    if let Some([low, high]) = spec.range
        && !(low.is_finite() && high.is_finite() && low < high)
    {
        findings.add(format!("{path}.range"), "a range is `[lowest, highest]`, both finite, lowest first");
    }
    if spec.missing_values.iter().any(|value| !value.is_finite()) {
        findings.add(format!("{path}.missing_values"), "these are finite numbers; NaN is refused anyway");
    }
    for (text, value) in &spec.map {
        if !value.is_finite() {
            findings.add(format!("{path}.map.{text}"), "a text or truth value maps to a finite number");
        }
    }
    if spec.unit.as_deref() == Some("") {
        findings
            .add(format!("{path}.unit"), "the unit is empty; leave the key out, or write `/` for a ratio");
    }
}

/// Tells whether some topic of the filter has the captures that the field asks for.
fn can_be_read(field: &FieldRule, topic: &TakenTopic) -> bool {
    field.when.iter().all(|(position, value)| value.is_empty() || topic.tag_positions.contains(position))
}

fn check_one_number_a_topic(fields: &[FieldRule], topics: &Topics, findings: &mut Findings) {
    for (position, field) in fields.iter().enumerate() {
        let clash = fields[..position].iter().find(|other| {
            let apart = field.when.iter().any(|(tag, value)| {
                other.when.iter().any(|(tag_b, value_b)| tag == tag_b && value != value_b)
            });
            !apart && topics.taken.iter().any(|topic| can_be_read(field, topic) && can_be_read(other, topic))
        });
        if let Some(other) = clash {
            findings.add(
                format!("fields.{}.when", field.name),
                format!(
                    "`{}` and `{}` would both be the one number of a topic; tell them apart by a capture, as in \
                     `when = {{ quantity = \"{}\" }}`",
                    other.name, field.name, field.name
                ),
            );
        }
    }
}

fn compile_times(spec: &SourceSpec, findings: &mut Findings) -> Option<TimeRule> {
    let time = &spec.time;
    let format = findings.take("time.format", TimeFormat::parse(&time.format));
    match spec.format {
        Format::Number | Format::Senml => {
            let why = if spec.format == Format::Senml {
                "SenML carries its own times; leave the key out"
            } else {
                "a bare number holds no time; leave the key out"
            };
            if time.pointer.is_some() {
                findings.add("time.pointer", why);
            }
            if time.format != "auto" {
                findings.add("time.format", why);
            }
        }
        Format::Json | Format::Cbor | Format::Csv => {}
    }
    if time.fallback == TimeFallback::Reject && time.pointer.is_none() && spec.format != Format::Senml {
        findings.add(
            "time.fallback",
            "`reject` without a `time.pointer` would refuse every reading; write `arrival`, or say where the time stands",
        );
    }
    Some(TimeRule {
        format: format?,
        fallback: time.fallback,
        skew_max_us: time.skew_max.as_micros(),
        age_max_us: time.age_max.map(|span| span.as_micros()),
    })
}

/// Reports keys that only other formats have.
fn check_format_only_keys(spec: &SourceSpec, findings: &mut Findings) {
    let format = format_name(spec.format);
    let is_tree = matches!(spec.format, Format::Json | Format::Cbor);
    if spec.each.is_some() && !is_tree {
        findings.add("each", format!("`each` is for `json` and `cbor`; `{format}` needs none"));
    }
    if spec.format != Format::Csv {
        if spec.delimiter.is_some() {
            findings.add("delimiter", format!("`delimiter` is for `csv`; the format is `{format}`"));
        }
        if spec.header.is_some() {
            findings.add("header", format!("`header` is for `csv`; the format is `{format}`"));
        }
    }
    if !spec.tags.is_empty() && matches!(spec.format, Format::Number | Format::Senml) {
        let message =
            format!("a `{format}` payload holds no tags; capture them from the topic, as in `{{room}}`");
        findings.add("tags", message);
    }
    let hint = match spec.format {
        Format::Json | Format::Cbor => "by `pointer`, as in `/temperature`",
        Format::Senml => "by `name`, as in `temperature`",
        Format::Csv => "by `column`, a header or a position from 0",
        Format::Number => "by the topic, with `when`",
    };
    for (name, field) in &spec.fields {
        let selectors = [
            ("pointer", field.pointer.is_some(), is_tree),
            ("name", field.name.is_some(), spec.format == Format::Senml),
            ("column", field.column.is_some(), spec.format == Format::Csv),
        ];
        for (key, is_set, fits) in selectors {
            if is_set && !fits {
                findings.add(
                    format!("fields.{name}.{key}"),
                    format!("`{key}` does not fit the format `{format}`, whose fields are selected {hint}"),
                );
            }
        }
    }
}

const fn format_name(format: Format) -> &'static str {
    match format {
        Format::Json => "json",
        Format::Number => "number",
        Format::Senml => "senml",
        Format::Csv => "csv",
        Format::Cbor => "cbor",
    }
}

fn compile_layout(spec: &SourceSpec, findings: &mut Findings) -> Option<Layout> {
    match spec.format {
        Format::Json => compile_tree(spec, findings).map(Layout::Json),
        Format::Cbor => compile_tree(spec, findings).map(Layout::Cbor),
        Format::Number => Some(Layout::Number),
        Format::Senml => {
            let name_of = |(name, field): (&String, &FieldSpec)| field.name.as_ref().unwrap_or(name).clone();
            let layout = SenmlLayout { names: spec.fields.iter().map(name_of).collect() };
            for ((field, _), name) in spec.fields.iter().zip(&layout.names) {
                if name.is_empty() {
                    findings.add(format!("fields.{field}.name"), "the name is empty");
                }
            }
            Some(Layout::Senml(layout))
        }
        Format::Csv => compile_csv(spec, findings).map(Layout::Csv),
    }
}

fn compile_tree(spec: &SourceSpec, findings: &mut Findings) -> Option<TreeLayout> {
    let mut pointer = |path: String, text: &str| findings.take(path, Pointer::parse(text));
    let each = spec.each.as_ref().map(|text| pointer("each".to_owned(), text));
    let time = spec.time.pointer.as_ref().map(|text| pointer("time.pointer".to_owned(), text));
    let tags: Vec<_> = spec.tags.iter().map(|(tag, text)| pointer(format!("tags.{tag}"), text)).collect();
    let fields: Vec<_> = spec
        .fields
        .iter()
        .map(|(name, field)| match &field.pointer {
            Some(text) => pointer(format!("fields.{name}.pointer"), text),
            None => Some(Pointer::to_key(name)),
        })
        .collect();
    Some(TreeLayout {
        each: each.map_or(Some(None), |each| each.map(Some))?,
        time: time.map_or(Some(None), |time| time.map(Some))?,
        tags: tags.into_iter().collect::<Option<_>>()?,
        fields: fields.into_iter().collect::<Option<_>>()?,
    })
}

fn compile_csv(spec: &SourceSpec, findings: &mut Findings) -> Option<CsvLayout> {
    let mut columns: BTreeMap<String, Column> = BTreeMap::new();
    let mut column = |path: String, text: &str| {
        let column = Column::new(text);
        columns.insert(path, column.clone());
        column
    };
    let time = spec.time.pointer.as_ref().map(|text| column("time.pointer".to_owned(), text));
    let tags = spec.tags.iter().map(|(tag, text)| column(format!("tags.{tag}"), text)).collect();
    let fields = spec
        .fields
        .iter()
        .map(|(name, field)| column(format!("fields.{name}.column"), field.column.as_ref().unwrap_or(name)))
        .collect();
    let has_header = spec.header.unwrap_or_else(|| columns.values().any(Column::needs_header));
    if !has_header {
        for (path, _) in columns.iter().filter(|(_, column)| column.needs_header()) {
            let message = "with `header = false` a column is named by its position from 0, as in `\"2\"`";
            findings.add(path.as_str(), message);
        }
    }
    let delimiter = spec.delimiter.unwrap_or(',');
    if !delimiter.is_ascii() || matches!(delimiter, '"' | '\r' | '\n' | '\0') {
        findings.add("delimiter", "a delimiter is one ASCII character that is no quote or line end");
        return None;
    }
    Some(CsvLayout { delimiter: delimiter as u8, has_header, time, tags, fields })
}

fn list<'t>(texts: impl Iterator<Item = &'t str>) -> String {
    let texts: Vec<String> = texts.map(|text| format!("`{text}`")).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}
