//! Label queries: which gateways are meant, as an expression over their labels.
//!
//! Reads, prints and evaluates; knows nothing of where labels come from. A query is live: a gateway that gets a label
//! later is meant from then on.
//!
//! ```text
//! site=plant-1 && (board~"pi4*" || !canary) && model in (pump, fan)
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest text of a query.
pub const QUERY_BYTES_MAX: usize = 2_048;
/// Deepest nesting: each level is a call.
pub const DEPTH_MAX: usize = 32;
/// Longest name or value of a label.
pub const LABEL_BYTES_MAX: usize = 128;

/// The labels of a gateway.
pub type Labels = BTreeMap<String, String>;

/// A query that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Query(Node);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    /// Every gateway.
    All,
    /// The label is there, whatever its value.
    Has(String),
    /// The label has one of these values.
    In(String, Vec<String>),
    /// The label's value has this form, `*` standing for any text.
    Like(String, String),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
}

/// Why a text is no query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryError {
    /// Where, in bytes from the start.
    pub position: usize,
    /// What is wrong there.
    pub reason: String,
}

impl Query {
    /// Returns the query that means every gateway.
    #[must_use]
    pub const fn all() -> Self {
        Self(Node::All)
    }

    /// Returns the query that means what both mean.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        match (&self.0, &other.0) {
            (Node::All, _) => other.clone(),
            (_, Node::All) => self.clone(),
            (one, other) => Self(Node::And(vec![one.clone(), other.clone()])),
        }
    }

    /// Tells whether a gateway with these labels is meant.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.matches(labels)
    }
}

impl Node {
    fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::All => true,
            Self::Has(name) => labels.contains_key(name),
            Self::In(name, values) => labels.get(name).is_some_and(|value| values.contains(value)),
            Self::Like(name, form) => labels.get(name).is_some_and(|value| is_like(value, form)),
            Self::Not(node) => !node.matches(labels),
            Self::And(nodes) => nodes.iter().all(|node| node.matches(labels)),
            Self::Or(nodes) => nodes.iter().any(|node| node.matches(labels)),
        }
    }

    /// Prints the node; `inside` is how strongly what stands around it binds.
    fn print(&self, f: &mut fmt::Formatter<'_>, inside: Binding) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Has(name) => f.write_str(&word(name)),
            Self::In(name, values) => match &values[..] {
                [value] => write!(f, "{}={}", word(name), word(value)),
                values => {
                    let values: Vec<String> = values.iter().map(|value| word(value)).collect();
                    write!(f, "{} in ({})", word(name), values.join(", "))
                }
            },
            Self::Like(name, form) => write!(f, "{}~{}", word(name), quoted(form)),
            Self::Not(node) => {
                f.write_str("!")?;
                node.print(f, Binding::Not)
            }
            Self::And(nodes) => list(f, nodes, " && ", Binding::And, inside),
            Self::Or(nodes) => list(f, nodes, " || ", Binding::Or, inside),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Binding {
    Or,
    And,
    Not,
}

fn list(
    f: &mut fmt::Formatter<'_>,
    nodes: &[Node],
    between: &str,
    own: Binding,
    inside: Binding,
) -> fmt::Result {
    let needs_brackets = own < inside;
    if needs_brackets {
        f.write_str("(")?;
    }
    for (position, node) in nodes.iter().enumerate() {
        if position > 0 {
            f.write_str(between)?;
        }
        // A list of the same kind inside is one that brackets stood around.
        let is_same = matches!((node, own), (Node::And(_), Binding::And) | (Node::Or(_), Binding::Or));
        node.print(f, if is_same { Binding::Not } else { own })?;
    }
    if needs_brackets {
        f.write_str(")")?;
    }
    Ok(())
}

/// Tells whether a text has a form in which each `*` stands for any text.
fn is_like(text: &str, form: &str) -> bool {
    let mut parts = form.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    // The leftmost place of each part leaves the most for those after it.
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':')
}

/// Returns a name or value as it is written: quoted where it has other characters than plain ones.
fn word(text: &str) -> String {
    if !text.is_empty() && text != "in" && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.print(f, Binding::Or)
    }
}

impl From<Query> for String {
    fn from(query: Query) -> Self {
        query.to_string()
    }
}

impl TryFrom<String> for Query {
    type Error = QueryError;

    fn try_from(text: String) -> Result<Self, QueryError> {
        text.parse()
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.position, self.reason)
    }
}

impl std::error::Error for QueryError {}

impl FromStr for Query {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        if text.len() > QUERY_BYTES_MAX {
            let reason = format!("is longer than {QUERY_BYTES_MAX} bytes");
            return Err(QueryError { position: QUERY_BYTES_MAX, reason });
        }
        let mut reader = Reader { text, position: 0 };
        let node = reader.any_of(0)?;
        reader.skip_space();
        if reader.position < text.len() {
            return Err(reader.expected("`&&`, `||` or the end"));
        }
        Ok(Self(node))
    }
}

struct Reader<'t> {
    text: &'t str,
    position: usize,
}

impl Reader<'_> {
    fn any_of(&mut self, depth: usize) -> Result<Node, QueryError> {
        let mut nodes = vec![self.all_of(depth)?];
        while self.take("||") {
            nodes.push(self.all_of(depth)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Or(nodes) })
    }

    fn all_of(&mut self, depth: usize) -> Result<Node, QueryError> {
        let mut nodes = vec![self.one(depth)?];
        while self.take("&&") {
            nodes.push(self.one(depth)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::And(nodes) })
    }

    fn one(&mut self, depth: usize) -> Result<Node, QueryError> {
        if depth > DEPTH_MAX {
            return Err(self.error(format!("is nested deeper than {DEPTH_MAX}")));
        }
        if self.take("!") {
            return Ok(Node::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.take("(") {
            let node = self.any_of(depth + 1)?;
            self.require(")")?;
            return Ok(node);
        }
        if self.take("*") {
            return Ok(Node::All);
        }
        let name = self.word("a label's name, `!`, `(` or `*`")?.0;
        if self.take("!=") {
            let value = self.word("a value")?.0;
            return Ok(Node::Not(Box::new(Node::In(name, vec![value]))));
        }
        if self.take("=") {
            return Ok(Node::In(name, vec![self.word("a value")?.0]));
        }
        if self.take("~") {
            return Ok(Node::Like(name, self.form()?));
        }
        if self.take_in() {
            self.require("(")?;
            let mut values = vec![self.word("a value")?.0];
            while self.take(",") {
                values.push(self.word("a value")?.0);
            }
            self.require(")")?;
            return Ok(Node::In(name, values));
        }
        Ok(Node::Has(name))
    }

    fn take_in(&mut self) -> bool {
        let before = self.position;
        match self.word("") {
            Ok((word, Written::Plain)) if word == "in" => true,
            _ => {
                self.position = before;
                false
            }
        }
    }

    /// Reads a form: a quoted text, or plain characters and `*`.
    fn form(&mut self) -> Result<String, QueryError> {
        self.skip_space();
        if self.rest().starts_with('"') {
            return self.word("a form").map(|(form, _)| form);
        }
        let form: String = self.rest().chars().take_while(|c| is_plain(*c) || *c == '*').collect();
        if form.is_empty() {
            return Err(self.expected("a form such as `pi4*`"));
        }
        self.position += form.len();
        Ok(form)
    }

    /// Reads a name or value.
    fn word(&mut self, what: &str) -> Result<(String, Written), QueryError> {
        self.skip_space();
        let (word, read, written) = match self.rest().strip_prefix('"') {
            Some(rest) => {
                let (word, read) =
                    unquoted(rest).ok_or_else(|| self.error("the quote is not closed".into()))?;
                (word, read + 1, Written::Quoted)
            }
            None => {
                let word: String = self.rest().chars().take_while(|c| is_plain(*c)).collect();
                let read = word.len();
                if read == 0 {
                    return Err(self.expected(what));
                }
                (word, read, Written::Plain)
            }
        };
        if word.len() > LABEL_BYTES_MAX {
            return Err(self.error(format!("a name or value is longer than {LABEL_BYTES_MAX} bytes")));
        }
        self.position += read;
        Ok((word, written))
    }

    fn require(&mut self, token: &str) -> Result<(), QueryError> {
        if self.take(token) { Ok(()) } else { Err(self.expected(&format!("`{token}`"))) }
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        // `!=` belongs to the word before it.
        let is_there = self.rest().starts_with(token) && !(token == "!" && self.rest().starts_with("!="));
        if is_there {
            self.position += token.len();
        }
        is_there
    }

    fn skip_space(&mut self) {
        self.position += self.rest().len() - self.rest().trim_start().len();
    }

    fn rest(&self) -> &str {
        &self.text[self.position..]
    }

    fn expected(&self, what: &str) -> QueryError {
        let found =
            self.rest().chars().next().map_or("the end".to_owned(), |c| format!("`{}`", c.escape_debug()));
        self.error(format!("{what} is expected, not {found}"))
    }

    const fn error(&self, reason: String) -> QueryError {
        QueryError { position: self.position, reason }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Plain,
    Quoted,
}

/// Returns a quoted text and how many bytes it took, with its closing quote.
fn unquoted(rest: &str) -> Option<(String, usize)> {
    let mut word = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((word, at + 1)),
            '\\' => word.push(chars.next()?.1),
            c => word.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests;
