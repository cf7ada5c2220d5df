//! Feature expressions: `temperature`, `temperature@mean:5m`, `door@last`, `load@lag:3`.
//!
//! Parses and prints; evaluates nothing.

use std::fmt;
use std::str::FromStr;

use crate::span::Span;

/// The largest `lag:n`: a series keeps this many rows at most for it.
pub const LAG_MAX: u32 = 4_096;

/// What is computed of a field's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Aggregate {
    /// The value itself, as new as the row.
    Value,
    /// The last known value, of any age.
    Last,
    /// Arithmetic mean over the span that ends with the row.
    Mean(Span),
    /// Lowest value over the span.
    Min(Span),
    /// Highest value over the span.
    Max(Span),
    /// Sample standard deviation over the span (n - 1; 0 for one value).
    Std(Span),
    /// Sum over the span.
    Sum(Span),
    /// Number of values over the span.
    Count(Span),
    /// Least-squares slope over the span, per second (0 for one value).
    Slope(Span),
    /// The value n rows ago.
    Lag(u32),
}

/// A field and what is computed of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FeatureExpression {
    /// Name of the field.
    pub field: String,
    /// What is computed of its values.
    pub aggregate: Aggregate,
}

/// A text that is no feature expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpressionError(String);

impl fmt::Display for ExpressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ExpressionError {}

impl Aggregate {
    /// Returns the span of event time that the aggregate looks back over, if it has one.
    #[must_use]
    pub const fn span(self) -> Option<Span> {
        match self {
            Self::Mean(s)
            | Self::Min(s)
            | Self::Max(s)
            | Self::Std(s)
            | Self::Sum(s)
            | Self::Count(s)
            | Self::Slope(s) => Some(s),
            Self::Value | Self::Last | Self::Lag(_) => None,
        }
    }
}

impl FromStr for FeatureExpression {
    type Err = ExpressionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |why: String| ExpressionError(format!("`{text}` is no feature expression: {why}"));
        let (field, operation) = match text.split_once('@') {
            None => (text, None),
            Some((field, operation)) => (field, Some(operation)),
        };
        if field.is_empty() || field.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(refuse("write a field name, as in `temperature@mean:5m`".to_owned()));
        }
        let aggregate = match operation {
            None => Aggregate::Value,
            Some(operation) => parse_operation(operation).map_err(refuse)?,
        };
        Ok(Self { field: field.to_owned(), aggregate })
    }
}

fn parse_operation(text: &str) -> Result<Aggregate, String> {
    let (name, argument) =
        text.split_once(':').map_or((text, None), |(name, argument)| (name, Some(argument)));
    let over: fn(Span) -> Aggregate = match (name, argument) {
        ("last", None) => return Ok(Aggregate::Last),
        ("lag", Some(rows)) => {
            return match rows.parse::<u32>() {
                Ok(n) if (1..=LAG_MAX).contains(&n) => Ok(Aggregate::Lag(n)),
                _ => Err(format!("`lag` takes a number of rows from 1 to {LAG_MAX}")),
            };
        }
        ("mean", _) => Aggregate::Mean,
        ("min", _) => Aggregate::Min,
        ("max", _) => Aggregate::Max,
        ("std", _) => Aggregate::Std,
        ("sum", _) => Aggregate::Sum,
        ("count", _) => Aggregate::Count,
        ("slope", _) => Aggregate::Slope,
        _ => {
            return Err(format!(
                "`@{text}` is none of mean, min, max, std, sum, count, slope (each with `:SPAN`), last, lag:N"
            ));
        }
    };
    let span: Span = argument
        .ok_or_else(|| format!("`@{name}` needs a span, as in `@{name}:5m`"))?
        .parse()
        .map_err(|e| format!("{e}"))?;
    if span.as_micros() == 0 { Err(format!("the span of `@{name}` is zero")) } else { Ok(over(span)) }
}

impl fmt::Display for FeatureExpression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.field)?;
        match self.aggregate {
            Aggregate::Value => Ok(()),
            Aggregate::Last => f.write_str("@last"),
            Aggregate::Mean(span) => write!(f, "@mean:{span}"),
            Aggregate::Min(span) => write!(f, "@min:{span}"),
            Aggregate::Max(span) => write!(f, "@max:{span}"),
            Aggregate::Std(span) => write!(f, "@std:{span}"),
            Aggregate::Sum(span) => write!(f, "@sum:{span}"),
            Aggregate::Count(span) => write!(f, "@count:{span}"),
            Aggregate::Slope(span) => write!(f, "@slope:{span}"),
            Aggregate::Lag(rows) => write!(f, "@lag:{rows}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_read_back_as_they_are_printed() {
        for text in [
            "t",
            "t@mean:5m",
            "t@min:1h",
            "t@max:1h",
            "t@std:30s",
            "t@sum:1d",
            "t@count:5m",
            "t@slope:15m",
            "door@last",
            "t@lag:3",
        ] {
            assert_eq!(text.parse::<FeatureExpression>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_expression_is_refused_with_a_reason() {
        for (text, part) in [
            ("", "field name"),
            ("t@avg:5m", "none of mean"),
            ("t@mean", "needs a span"),
            ("t@lag:0", "1 to"),
            ("t@mean:0s", "zero"),
        ] {
            let error = text.parse::<FeatureExpression>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
