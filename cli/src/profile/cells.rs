//! One row of a file of readings, whatever the file is written in.
//!
//! Borrows from the row; judges nothing. Stands between the readers of files and the gathering of series.

/// A value as it stands in a file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'c> {
    /// Nothing.
    Missing,
    /// A whole number, kept apart because nanoseconds since 1970 do not fit a double.
    Whole(i64),
    /// A number, which need not be finite.
    Number(f64),
    /// A truth value.
    Truth(bool),
    /// A text, without white space around it.
    Text(&'c str),
    /// A time in µs since 1970.
    Micros(i64),
}

/// Texts that mean that there is no value, as training tools write them.
const MISSING: [&str; 8] = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"];

impl<'c> Cell<'c> {
    /// Returns the value of a text.
    #[must_use]
    pub fn of_text(text: &'c str) -> Self {
        let text = text.trim();
        if MISSING.contains(&text) { Self::Missing } else { Self::Text(text) }
    }

    /// Returns the number that the value is or that its text spells; truth values are 0 and 1.
    #[must_use]
    pub fn number(self) -> Option<f64> {
        match self {
            Self::Whole(whole) => Some(whole as f64),
            Self::Number(number) => Some(number),
            Self::Truth(truth) => Some(f64::from(u8::from(truth))),
            Self::Text(text) => text.parse().ok(),
            Self::Missing | Self::Micros(_) => None,
        }
    }

    /// Appends the value as a text: of a key, or for an error.
    pub fn push_to(self, text: &mut String) {
        match self {
            Self::Missing => {}
            Self::Whole(whole) => text.push_str(&whole.to_string()),
            Self::Number(number) => text.push_str(&number.to_string()),
            Self::Truth(truth) => text.push_str(if truth { "true" } else { "false" }),
            Self::Text(own) => text.push_str(own),
            Self::Micros(us) => text.push_str(&us.to_string()),
        }
    }

    /// Returns the value as a short text for an error.
    #[must_use]
    pub fn shown(self) -> String {
        let mut text = String::new();
        self.push_to(&mut text);
        text.chars().take(64).collect()
    }
}

/// A cell that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Position of its column among those that were asked for; none where the row as a whole is meant.
    pub column: Option<usize>,
    /// What is wrong, and what to do.
    pub reason: String,
}

/// Something that takes the rows of files one at a time.
pub trait TakeRows {
    /// Begins a file with these columns; returns the positions of those whose cells are wanted, in their order.
    ///
    /// *Errors*: what the header lacks, and what to do.
    fn begin(&mut self, columns: &[String]) -> Result<Vec<usize>, String>;

    /// Takes the cells that were asked for.
    ///
    /// *Errors*: the first that cannot be used; the file is not read further.
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Fault>;
}
