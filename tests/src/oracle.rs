//! Compares exported predictions with what another engine computed of the same windows.
//!
//! Reads the two CSV texts, nothing else. A run passes when every expected window is there once, none besides, and
//! every value is near enough.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use crate::failure::{Failure, Outcome};

/// Largest difference relative to `max(1, |expected|)` that two engines may have.
pub const TOLERANCE: f64 = 1e-4;

/// Expected outputs by window end in milliseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Expected(BTreeMap<i64, Vec<f64>>);

impl Expected {
    /// Reads `window_end_ms,y0[,y1…]` with a header line.
    ///
    /// *Errors*: the file cannot be read or a line holds no numbers.
    pub fn read(path: &Path) -> Outcome<Self> {
        let text = std::fs::read_to_string(path).map_err(Failure::of(path.display()))?;
        let rows = text.lines().skip(1).filter(|line| !line.is_empty()).map(|line| {
            let mut cells = line.split(',');
            let end = number::<i64>(cells.next(), line)?;
            Ok((end, cells.map(|cell| number(Some(cell), line)).collect::<Outcome<Vec<f64>>>()?))
        });
        Ok(Self(rows.collect::<Outcome<_>>()?))
    }

    /// Returns the expectation of these windows.
    #[must_use]
    pub fn of(windows: impl IntoIterator<Item = (i64, Vec<f64>)>) -> Self {
        Self(windows.into_iter().collect())
    }

    /// Keeps the windows that end at or before this time.
    #[must_use]
    pub fn until(mut self, window_end_ms: i64) -> Self {
        self.0.retain(|end, _| *end <= window_end_ms);
        self
    }

    /// Returns the number of windows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether no window is expected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What the comparison found.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Windows expected.
    pub expected: usize,
    /// Expected windows that are not there.
    pub missing: usize,
    /// Rows of windows that were not expected.
    pub unexpected: usize,
    /// Rows of windows that were there before.
    pub twice: usize,
    /// Largest difference relative to `max(1, |expected|)`; infinite where a value is no number.
    pub worst: f64,
}

impl Comparison {
    /// Compares an export, whose first columns are `window_end_ms` and the output values in order. Where nothing is stored
    /// yet it is empty: nobody knows the outputs' names.
    ///
    /// *Errors*: the export has another first column, or a row without a window end.
    pub fn of(expected: &Expected, export: &str) -> Outcome<Self> {
        let mut lines = export.lines();
        let header = lines.next().unwrap_or_default();
        if !export.is_empty() && header.split(',').next() != Some("window_end_ms") {
            return Err(Failure::new(format!("the export's header is `{header}`")));
        }
        let mut found = Self { expected: expected.len(), missing: 0, unexpected: 0, twice: 0, worst: 0.0 };
        let mut seen = BTreeSet::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let mut cells = line.split(',');
            let end = number::<i64>(cells.next(), line)?;
            let Some(values) = expected.0.get(&end) else {
                found.unexpected += 1;
                continue;
            };
            found.twice += usize::from(!seen.insert(end));
            for value in values {
                let actual = cells.next().and_then(|cell| cell.parse::<f64>().ok()).filter(|v| !v.is_nan());
                let difference = actual.map_or(f64::INFINITY, |a| (a - value).abs() / value.abs().max(1.0));
                found.worst = found.worst.max(difference);
            }
        }
        found.missing = expected.len() - seen.len();
        Ok(found)
    }

    /// Tells whether the export is exactly what was expected, within [`TOLERANCE`].
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.expected > 0
            && (self.missing, self.unexpected, self.twice) == (0, 0, 0)
            && self.worst <= TOLERANCE
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expected, missing, unexpected, twice, worst } = self;
        write!(
            f,
            "{expected} windows expected, {missing} missing, {unexpected} unexpected, {twice} twice, worst relative difference {worst:.2e}"
        )
    }
}

fn number<T: std::str::FromStr>(cell: Option<&str>, line: &str) -> Outcome<T> {
    cell.and_then(|cell| cell.parse().ok())
        .ok_or_else(|| Failure::new(format!("no numbers in line `{line}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_difference_is_counted() {
        let expected = Expected::of([(1, vec![1.0]), (2, vec![200.0]), (3, vec![0.0])]);
        let head = "window_end_ms,score,id\n";
        for (rows, figures, exact) in [
            ("1,1.0,a\n2,200.001,b\n3,0,c\n", (0, 0, 0), true),
            ("1,1.0,a\n3,0,c\n", (1, 0, 0), false),
            ("1,1,a\n2,200,b\n3,0,c\n4,1,d\n", (0, 1, 0), false),
            ("1,1,a\n2,200,b\n2,200,b\n3,0,c\n", (0, 0, 1), false),
            ("1,1.01,a\n2,200,b\n3,0,c\n", (0, 0, 0), false),
            ("1,,a\n2,NaN,b\n3,0,c\n", (0, 0, 0), false),
        ] {
            let found = Comparison::of(&expected, &format!("{head}{rows}")).unwrap();
            assert_eq!((found.missing, found.unexpected, found.twice), figures, "{rows}");
            assert_eq!(found.is_exact(), exact, "{rows}: {found}");
        }
        assert!(Comparison::of(&expected, "time,score\n").is_err());
        assert!(!Comparison::of(&Expected::default(), head).unwrap().is_exact());
        assert_eq!(expected.until(2).len(), 2);
    }
}
