//! Why something was not used: every refusal has a reason that is counted by source.
//!
//! Only the words; the counting is done by whoever runs the pipeline.

/// The reason of a refusal. Its text is a metric label and never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// No source has the topic.
    UnknownTopic,
    /// A retained message, where the source skips them.
    Retained,
    /// The topic is not UTF-8, too long or too deep.
    BadTopic,
    /// The payload is not UTF-8 where it must be.
    InvalidUtf8,
    /// The payload is not in the source's format.
    Syntax,
    /// The payload is nested too deeply.
    TooDeep,
    /// A number is infinite, not a number, or outside the range of a double.
    NotFinite,
    /// A value is of another type than the field.
    WrongType,
    /// A text or truth value that the field's `map` does not list.
    NotMapped,
    /// A value outside the field's range.
    OutOfRange,
    /// A unit in the payload that cannot be converted into the field's.
    WrongUnit,
    /// A record without any value of the source's fields.
    NoFields,
    /// A tag that the payload should hold is not there.
    NoTag,
    /// A record without a readable time, where the source rejects that.
    NoTime,
    /// An event time too far in the future.
    InFuture,
    /// An event time too far in the past.
    TooOld,
    /// An event time before one that was accepted.
    Late,
    /// An event time that was accepted already, or a message delivered again.
    Duplicate,
    /// More series than the source may create.
    SeriesLimit,
    /// New topics came faster than the source allows.
    TopicRate,
    /// More records in one payload than one may hold.
    TooManyRecords,
    /// A row that lacks a value a model needs, and no policy stands in.
    MissingValue,
    /// The values of one row would be too far apart in time.
    Skew,
    /// A window beyond those that one message may make.
    TooManyWindows,
}

impl Reason {
    /// Returns the reason's text in metrics, status and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownTopic => "unknown_topic",
            Self::Retained => "retained",
            Self::BadTopic => "bad_topic",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::Syntax => "syntax",
            Self::TooDeep => "too_deep",
            Self::NotFinite => "not_finite",
            Self::WrongType => "wrong_type",
            Self::NotMapped => "not_mapped",
            Self::OutOfRange => "out_of_range",
            Self::WrongUnit => "wrong_unit",
            Self::NoFields => "no_fields",
            Self::NoTag => "no_tag",
            Self::NoTime => "no_time",
            Self::InFuture => "in_future",
            Self::TooOld => "too_old",
            Self::Late => "late",
            Self::Duplicate => "duplicate",
            Self::SeriesLimit => "series_limit",
            Self::TopicRate => "topic_rate",
            Self::TooManyRecords => "too_many_records",
            Self::MissingValue => "missing_value",
            Self::Skew => "skew",
            Self::TooManyWindows => "too_many_windows",
        }
    }
}

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// Which object, in words: a field, a line, a topic. Never a whole payload.
    pub detail: String,
}

impl Refusal {
    /// Returns a refusal for this reason.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// What is wrong with a specification, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecFinding {
    /// Dotted path of the value inside the configuration, as in `source[0].fields.temperature.pointer`.
    pub path: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl SpecFinding {
    /// Returns a finding at a path.
    #[must_use]
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl std::fmt::Display for SpecFinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}
