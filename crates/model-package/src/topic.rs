//! Topic filters with captures, and topic templates.
//!
//! Matches and fills MQTT topic names; knows nothing of brokers. `{name}` stands for one level, `{name...}` for the
//! tail, `+` and `#` for the same without a name (MQTT 5, section 4.7).

use std::fmt;

/// Longest topic that is looked at: MQTT allows 65,535 bytes, no sensor needs them.
pub const TOPIC_BYTES_MAX: usize = 1_024;
/// Most levels of a topic that is looked at.
pub const TOPIC_LEVELS_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Text(String),
    One(Option<String>),
    Tail(Option<String>),
}

/// A topic filter whose wildcards may have names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFilter {
    text: String,
    levels: Vec<Level>,
}

/// A text that is no topic filter or template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicError(String);

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TopicError {}

impl TopicFilter {
    /// Reads a filter such as `zigbee2mqtt/{room}/+` or `plant/{rest...}`.
    ///
    /// *Errors*: what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        let refuse = |why: &str| Err(TopicError(format!("`{text}` is no topic filter: {why}")));
        if text.is_empty() || text.len() > TOPIC_BYTES_MAX || text.contains('\0') {
            return refuse("it is empty, too long or has a NUL character");
        }
        let mut levels: Vec<Level> = Vec::new();
        for part in text.split('/') {
            if matches!(levels.last(), Some(Level::Tail(_))) {
                return refuse("`#` and `{name...}` stand at the end only");
            }
            let level = match part {
                "+" => Level::One(None),
                "#" => Level::Tail(None),
                _ => match part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                    Some(name) => match name.strip_suffix("...") {
                        Some(tail) if is_name(tail) => Level::Tail(Some(tail.to_owned())),
                        None if is_name(name) => Level::One(Some(name.to_owned())),
                        _ => return refuse("a capture's name is letters, digits and `_`"),
                    },
                    None if part.contains(['+', '#', '{', '}']) => {
                        return refuse("a wildcard or capture takes a whole level");
                    }
                    None => Level::Text(part.to_owned()),
                },
            };
            levels.push(level);
        }
        let filter = Self { text: text.to_owned(), levels };
        let names: Vec<_> = filter.captures().collect();
        if (1..names.len()).any(|i| names[..i].contains(&names[i])) {
            return refuse("a capture's name occurs twice");
        }
        if filter.levels.len() > TOPIC_LEVELS_MAX { refuse("it has too many levels") } else { Ok(filter) }
    }

    /// Returns the names of the captures, in order.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.levels.iter().filter_map(|level| match level {
            Level::One(Some(name)) | Level::Tail(Some(name)) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Returns the filter as the broker understands it, with `+` and `#`.
    #[must_use]
    pub fn subscription(&self) -> String {
        let parts: Vec<&str> = self
            .levels
            .iter()
            .map(|level| match level {
                Level::Text(text) => text.as_str(),
                Level::One(_) => "+",
                Level::Tail(_) => "#",
            })
            .collect();
        parts.join("/")
    }

    /// Returns the captured values, in the order of [`TopicFilter::captures`], if the filter matches `topic`.
    #[must_use]
    pub fn matches<'t>(&self, topic: &'t str) -> Option<Vec<&'t str>> {
        if topic.starts_with('$') && !matches!(self.levels.first(), Some(Level::Text(_))) {
            return None;
        }
        let mut found = Vec::new();
        let mut rest = Some(topic);
        for level in &self.levels {
            if let Level::Tail(name) = level {
                if name.is_some() {
                    found.push(rest.unwrap_or(""));
                }
                return Some(found);
            }
            let text = rest?;
            let (head, tail) = text.split_once('/').map_or((text, None), |(head, tail)| (head, Some(tail)));
            match level {
                Level::Text(expected) if expected != head => return None,
                Level::One(Some(_)) => found.push(head),
                _ => {}
            }
            rest = tail;
        }
        rest.is_none().then_some(found)
    }

    /// Tells whether some topic matches both filters.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        levels_intersect(&self.levels, &other.levels)
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn levels_intersect(a: &[Level], b: &[Level]) -> bool {
    match (a.split_first(), b.split_first()) {
        (Some((Level::Tail(_), _)), _) | (_, Some((Level::Tail(_), _))) | (None, None) => true,
        (Some((Level::Text(x), a)), Some((Level::Text(y), b))) => x == y && levels_intersect(a, b),
        (Some((_, a)), Some((_, b))) => levels_intersect(a, b),
        _ => false,
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Placeholder(String),
}

/// A topic with `{placeholders}` that are filled in when a message is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTemplate {
    pieces: Vec<Piece>,
}

impl TopicTemplate {
    /// Reads a template such as `dunlin/{gateway}/predictions/{model}/{key}`.
    ///
    /// *Errors*: what is wrong with the text, or a placeholder that is not in `known`.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, TopicError> {
        let refuse = |why: String| Err(TopicError(format!("`{text}` is no topic template: {why}")));
        if text.is_empty() || text.len() > TOPIC_BYTES_MAX || text.contains(['+', '#', '\0']) {
            return refuse("it is empty, too long, or has `+`, `#` or a NUL character".to_owned());
        }
        if text.bytes().all(|byte| byte == b'/') || text.split('/').count() > TOPIC_LEVELS_MAX {
            return refuse(format!("it names nothing, or has more than {TOPIC_LEVELS_MAX} levels"));
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let Some(close) = rest[open..].find('}').filter(|_| !rest[..open].contains('}')) else {
                return refuse("a `{` has no `}`, or the other way round".to_owned());
            };
            let name = &rest[open + 1..open + close];
            if !known.contains(&name) {
                return refuse(format!(
                    "`{{{name}}}` is none of {}",
                    known.iter().map(|k| format!("{{{k}}}")).collect::<Vec<_>>().join(", ")
                ));
            }
            pieces.push(Piece::Text(rest[..open].to_owned()));
            pieces.push(Piece::Placeholder(name.to_owned()));
            rest = &rest[open + close + 1..];
        }
        if rest.contains('}') {
            return refuse("a `}` has no `{`".to_owned());
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self { pieces })
    }

    /// Returns the topic with the placeholders filled in by `value_of`. Characters that a topic name may not hold
    /// become `_`, and so do the slashes of a value other than `key`'s own; an empty level at the end is dropped.
    #[must_use]
    pub fn fill<'v>(&self, value_of: impl Fn(&str) -> &'v str) -> String {
        let mut topic = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => topic.push_str(text),
                Piece::Placeholder(name) => topic.extend(safe(name, value_of(name))),
            }
        }
        while topic.ends_with('/') {
            topic.pop();
        }
        topic
    }

    /// Returns a filter that matches every topic the template can give: placeholders are wildcards, except those
    /// that `fixed` knows a value of.
    #[must_use]
    pub fn widest_filter<'v>(&self, fixed: impl Fn(&str) -> Option<&'v str>) -> TopicFilter {
        let mut text = String::new();
        let mut is_open = false;
        for piece in &self.pieces {
            match piece {
                Piece::Text(part) => text.push_str(part),
                Piece::Placeholder(name) => match fixed(name) {
                    Some(value) => text.extend(safe(name, value)),
                    // A value may be empty or have several levels: whatever follows may then stand anywhere.
                    None => {
                        is_open = true;
                        text.truncate(text.rfind('/').unwrap_or(0));
                        break;
                    }
                },
            }
        }
        // Slashes at the end are not published.
        let known = text.trim_end_matches('/');
        let mut levels: Vec<Level> = Vec::new();
        if !(is_open && known.is_empty()) {
            levels.extend(known.split('/').map(|level| Level::Text(level.to_owned())));
        }
        let text = match (is_open, known) {
            (false, _) => known.to_owned(),
            (true, "") => "#".to_owned(),
            (true, _) => format!("{known}/#"),
        };
        if is_open {
            levels.push(Level::Tail(None));
        }
        TopicFilter { text, levels }
    }
}

/// Returns what stands in a topic for the value of a placeholder.
fn safe(name: &str, value: &str) -> impl Iterator<Item = char> {
    let keep_slash = name == "key";
    value.chars().map(move |c| match c {
        '+' | '#' | '\0'..='\u{1f}' | '\u{7f}' => '_',
        '/' if !keep_slash => '_',
        _ => c,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_take_levels_and_tails() {
        let filter = TopicFilter::parse("plant/{line}/+/{rest...}").unwrap();
        assert_eq!(filter.subscription(), "plant/+/+/#");
        assert_eq!(filter.matches("plant/a/b/c/d").unwrap(), ["a", "c/d"]);
        assert_eq!(filter.matches("plant/a/b").unwrap(), ["a", ""]);
        assert!(filter.matches("plant/a").is_none());
        assert!(TopicFilter::parse("#").unwrap().matches("$SYS/x").is_none());
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for text in ["", "a/#/b", "a/{x}{y}", "a+/b", "{x}/{x}", "{x y}", "{a...}/b"] {
            assert!(TopicFilter::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn filters_that_share_a_topic_intersect() {
        let of = |text| TopicFilter::parse(text).unwrap();
        for (a, b, expected) in [
            ("a/+", "a/b", true),
            ("a/#", "a", true),
            ("a/+/c", "a/b", false),
            ("+/x", "y/+", true),
            ("a/b", "a/c", false),
        ] {
            assert_eq!(of(a).intersects(&of(b)), expected, "{a} {b}");
            assert_eq!(of(b).intersects(&of(a)), expected, "{b} {a}");
        }
    }

    #[test]
    fn a_template_gives_only_topics_of_its_widest_filter() {
        let template = TopicTemplate::parse("dunlin/{gateway}/p/{key}", &["gateway", "key"]).unwrap();
        let topic = template.fill(|name| if name == "gateway" { "g/1" } else { "a/b+" });
        assert_eq!(topic, "dunlin/g_1/p/a/b_");
        let filter = template.widest_filter(|name| (name == "gateway").then_some("g/1"));
        assert_eq!(filter.to_string(), "dunlin/g_1/p/#");
        assert!(filter.matches(&topic).is_some());
        assert_eq!(template.fill(|name| if name == "gateway" { "g" } else { "" }), "dunlin/g/p");
    }

    #[test]
    fn what_is_no_template_is_refused() {
        let many = "a/".repeat(TOPIC_LEVELS_MAX + 1);
        for text in ["", "/", "a}", "a}{key}", "{key", "{other}", "a/+", &many] {
            assert!(TopicTemplate::parse(text, &["key"]).is_err(), "{text}");
        }
    }

    #[test]
    fn the_widest_filter_covers_slashes_and_odd_values_too() {
        for (text, value) in [
            ("a/b/", ""),
            ("a/{gateway}", ""),
            ("a/{gateway}", "{x\u{1}"),
            ("a//{key}", ""),
            ("a{key}", "/b"),
            ("{key}", "b"),
        ] {
            let template = TopicTemplate::parse(text, &["gateway", "key"]).unwrap();
            let topic = template.fill(|_| value);
            let filter = template.widest_filter(|name| (name == "gateway").then_some(value));
            assert!(filter.matches(&topic).is_some(), "`{filter}` does not cover `{topic}` of `{text}`");
        }
    }
}
