//! Which stored predictions or readings a command is about: model, source, key, time.
//!
//! Reads the arguments and decides on a row; reads no clock and no store. Shared by `query` and `export`.

use std::str::FromStr;

use clap::Args;
use dunlin_model_package::Span;
use dunlin_pipeline::prediction::QualityFlags;

use crate::command::history::{PredictionRow, ReadingRow};

/// The arguments that select rows.
#[derive(Debug, Clone, Default, Args)]
pub struct SelectionArgs {
    /// Readings instead of predictions
    #[arg(long, conflicts_with = "model")]
    pub readings: bool,
    /// Only predictions of this model
    #[arg(long, value_name = "NAME", conflicts_with = "source")]
    pub model: Option<String>,
    /// Only readings of this source
    #[arg(long, value_name = "NAME", requires = "readings")]
    pub source: Option<String>,
    /// Only rows whose key has this tag; may be given several times
    #[arg(long = "key", value_name = "TAG=VALUE")]
    pub keys: Vec<KeyArg>,
    /// Only rows at or after this time: RFC 3339, or how long ago, as in `1h`
    #[arg(long, value_name = "TIME")]
    pub since: Option<TimeArg>,
    /// Only rows before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<TimeArg>,
    /// Shadow predictions too: those of packages that ran beside the one that served
    #[arg(long, conflicts_with = "readings")]
    pub shadow: bool,
}

/// A tag and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyArg {
    /// The tag.
    pub tag: String,
    /// Its value.
    pub value: String,
}

impl FromStr for KeyArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((tag, value)) if !tag.is_empty() => {
                Ok(Self { tag: tag.to_owned(), value: value.to_owned() })
            }
            _ => Err(format!("`{text}` is not `tag=value`")),
        }
    }
}

/// A moment, or how long ago it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeArg {
    /// Microseconds since 1970.
    At(i64),
    /// This long before now.
    Ago(Span),
}

impl FromStr for TimeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(time) = text.parse::<jiff::Timestamp>() {
            return Ok(Self::At(time.as_microsecond()));
        }
        text.parse().map(Self::Ago).map_err(|_| {
            format!(
                "`{text}` is no time; write it as `2026-01-31T12:00:00Z`, or how long ago, as in `90m`, `7d`"
            )
        })
    }
}

impl TimeArg {
    /// Returns the moment in microseconds since 1970, when it is `now_us`.
    #[must_use]
    pub const fn resolve(self, now_us: i64) -> i64 {
        match self {
            Self::At(micros) => micros,
            Self::Ago(span) => now_us.saturating_sub(span.as_micros()),
        }
    }
}

/// Whether predictions that were kept and never published are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RolesWanted {
    /// Those of the serving package alone.
    #[default]
    Serving,
    /// Those of packages in shadow too.
    WithShadow,
}

/// Which rows are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Predictions of this model alone.
    pub model: Option<String>,
    /// Readings of this source alone.
    pub source: Option<String>,
    /// The key has all these tags and values.
    pub keys: Vec<(String, String)>,
    /// At or after this event time, in microseconds since 1970.
    pub since_us: Option<i64>,
    /// Before this event time.
    pub until_us: Option<i64>,
    /// Which predictions by the role that their package had.
    pub roles: RolesWanted,
}

impl Selection {
    /// Returns the selection that the arguments make when it is `now_us`.
    #[must_use]
    pub fn of(args: &SelectionArgs, now_us: i64) -> Self {
        Self {
            model: args.model.clone(),
            source: args.source.clone(),
            keys: args.keys.iter().map(|key| (key.tag.clone(), key.value.clone())).collect(),
            since_us: args.since.map(|time| time.resolve(now_us)),
            until_us: args.until.map(|time| time.resolve(now_us)),
            roles: if args.shadow { RolesWanted::WithShadow } else { RolesWanted::Serving },
        }
    }

    /// Tells whether a prediction is wanted.
    #[must_use]
    pub fn has_prediction(&self, row: &PredictionRow) -> bool {
        let role_wanted = self.roles == RolesWanted::WithShadow || !row.flags.contains(QualityFlags::SHADOW);
        role_wanted
            && self.model.as_ref().is_none_or(|model| *model == row.identity.model)
            && self.has_time(row.window_end_us)
            && self.has_tags(&row.identity.key)
    }

    /// Tells whether a reading is wanted.
    #[must_use]
    pub fn has_reading(&self, row: &ReadingRow) -> bool {
        self.source.as_ref().is_none_or(|source| *source == row.series.source)
            && self.has_time(row.event_us)
            && self.has_tags(&row.series.tags)
    }

    fn has_time(&self, micros: i64) -> bool {
        self.since_us.is_none_or(|since| micros >= since) && self.until_us.is_none_or(|until| micros < until)
    }

    fn has_tags(&self, tags: &[(String, String)]) -> bool {
        self.keys.iter().all(|key| tags.contains(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_moments_or_spans_before_now() {
        assert_eq!("1970-01-01T00:00:01Z".parse::<TimeArg>().unwrap().resolve(9), 1_000_000);
        assert_eq!("1970-01-01T01:00:01+01:00".parse::<TimeArg>().unwrap().resolve(9), 1_000_000);
        assert_eq!("2s".parse::<TimeArg>().unwrap().resolve(5_000_000), 3_000_000);
        assert!("yesterday".parse::<TimeArg>().unwrap_err().contains("`yesterday`"));
    }

    #[test]
    fn keys_need_a_tag_and_may_have_an_empty_value() {
        assert_eq!("a=b=c".parse::<KeyArg>().unwrap(), KeyArg { tag: "a".into(), value: "b=c".into() });
        assert_eq!("a=".parse::<KeyArg>().unwrap().value, "");
        assert!("a".parse::<KeyArg>().is_err() && "=a".parse::<KeyArg>().is_err());
    }
}
