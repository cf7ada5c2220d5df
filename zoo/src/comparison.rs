//! How far two engines' outputs are apart.
//!
//! Floats are compared relative to the range of their output over all rows, integers and texts exactly; what is not
//! finite must be the same in the same place. Runs nothing.

use crate::package::labels;
use crate::peer::{Column, Values};
use crate::report::OutputReport;

/// Largest difference of a float that is none, relative to the range of its output: rounding in another order.
pub(crate) const TOLERANCE: f64 = 1e-4;

/// The value of an output that differs most.
#[derive(Debug, Default)]
struct Worst {
    difference: f64,
    unequal: usize,
    text: Option<String>,
}

/// Compares our values, all outputs of a row one after the other, with the peer's columns.
///
/// Rows `but` are passed over.
pub(crate) fn compare(ours: &[f32], theirs: &[Column], but: &[usize]) -> Vec<OutputReport> {
    let row_width: usize = theirs.iter().map(Column::width).sum();
    let mut offset = 0;
    let mut reports = Vec::new();
    for column in theirs {
        let own = Own { values: ours, row_width, offset, width: column.width(), but };
        offset += column.width();
        reports.push(report(column, &own));
    }
    reports
}

/// Tells whether an output agrees.
pub(crate) fn agrees(report: &OutputReport) -> bool {
    report.unequal == 0 && report.difference.is_none_or(|difference| difference <= TOLERANCE)
}

/// Where our values of an output are.
struct Own<'v> {
    values: &'v [f32],
    row_width: usize,
    offset: usize,
    width: usize,
    but: &'v [usize],
}

impl Own<'_> {
    fn at(&self, position: usize) -> f64 {
        let (row, place) = (position / self.width, position % self.width);
        f64::from(self.values[row * self.row_width + self.offset + place])
    }

    fn is_passed_over(&self, position: usize) -> bool {
        self.but.contains(&(position / self.width))
    }

    fn name(&self, position: usize) -> String {
        format!("row {} value {}", position / self.width, position % self.width)
    }
}

fn report(column: &Column, own: &Own<'_>) -> OutputReport {
    let (kind, worst) = match &column.values {
        Values::Floats(expected) => ("float", floats(expected, own)),
        Values::Integers(expected) => ("integer", exact(expected.iter().map(|&value| value as f64), own)),
        Values::Texts(expected) => {
            let labels = labels(column);
            let position = |text: &String| labels.binary_search(text).unwrap_or(usize::MAX) as f64;
            ("text", exact(expected.iter().map(position), own))
        }
    };
    let is_float = kind == "float";
    OutputReport {
        name: column.name.clone(),
        kind: kind.to_owned(),
        difference: (is_float && worst.difference.is_finite()).then_some(worst.difference),
        unequal: worst.unequal,
        worst: worst.text,
    }
}

/// Returns the range of an output's finite values, or their size where they are all the same.
fn range(expected: &[f64]) -> f64 {
    let finite = || expected.iter().copied().filter(|value| value.is_finite());
    let (low, high) =
        finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    let largest = finite().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    [high - low, largest, 1.0].into_iter().find(|range| range.is_finite() && *range > 0.0).unwrap_or(1.0)
}

/// Returns the range of each output.
pub(crate) fn ranges(columns: &[Column]) -> Vec<f64> {
    let range_of = |column: &Column| match &column.values {
        Values::Floats(values) => range(values),
        Values::Integers(_) | Values::Texts(_) => 1.0,
    };
    columns.iter().map(range_of).collect()
}

/// Tells whether our values of one row, all outputs one after the other, are those of a row of the columns.
pub(crate) fn is_row_near(ours: &[f32], columns: &[Column], row: usize, ranges: &[f64]) -> bool {
    let mut offset = 0;
    columns.iter().zip(ranges).all(|(column, range)| {
        let width = column.width();
        let own = &ours[offset..offset + width];
        offset += width;
        match &column.values {
            Values::Floats(values) => {
                let values = &values[row * width..(row + 1) * width];
                own.iter()
                    .zip(values)
                    .all(|(own, value)| (f64::from(*own) - value).abs() <= TOLERANCE * range)
            }
            Values::Integers(values) => {
                let values = &values[row * width..(row + 1) * width];
                own.iter().zip(values).all(|(own, value)| f64::from(*own) == *value as f64)
            }
            Values::Texts(_) => false,
        }
    })
}

fn floats(expected: &[f64], own: &Own<'_>) -> Worst {
    let range = range(expected);
    let mut worst = Worst::default();
    for (position, &expected) in expected.iter().enumerate() {
        let got = own.at(position);
        // The engine gives f32: a double beyond it is infinite there.
        let is_same = expected == got
            || own.is_passed_over(position)
            || (expected.is_nan() && got.is_nan())
            || f64::from(expected as f32) == got;
        let difference = if is_same {
            0.0
        } else if expected.is_finite() && got.is_finite() {
            (expected - got).abs() / range
        } else {
            worst.unequal += 1;
            f64::INFINITY
        };
        if difference > worst.difference {
            worst.difference = difference;
            worst.text = Some(format!("{}: {got} instead of {expected}", own.name(position)));
        }
    }
    worst
}

fn exact(expected: impl Iterator<Item = f64>, own: &Own<'_>) -> Worst {
    let mut worst = Worst::default();
    for (position, expected) in expected.enumerate() {
        let got = own.at(position);
        // The engine gives f32: larger integers are rounded there.
        if f64::from(expected as f32) != got {
            worst.unequal += 1;
            worst.text.get_or_insert_with(|| format!("{}: {got} instead of {expected}", own.name(position)));
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, values: Values) -> Column {
        Column { name: name.to_owned(), axes: vec![1], values }
    }

    #[test]
    fn floats_are_judged_by_the_range_of_their_output() {
        let theirs =
            [column("a", Values::Floats(vec![0.0, 100.0])), column("b", Values::Floats(vec![5.0, 5.0]))];
        let reports = compare(&[0.005, 5.0, 100.0, 5.0], &theirs, &[]);
        assert!((reports[0].difference.unwrap() - 5e-5).abs() < 1e-9 && agrees(&reports[0]));
        assert_eq!(reports[1].difference, Some(0.0));
        let reports = compare(&[0.05, 5.0, 100.0, 4.9], &theirs, &[]);
        assert!(!agrees(&reports[0]) && !agrees(&reports[1]));
        assert_eq!(reports[0].worst.as_deref(), Some("row 0 value 0: 0.05000000074505806 instead of 0"));
    }

    #[test]
    fn rows_that_are_passed_over_and_neighbours_do_not_count() {
        let theirs =
            [column("a", Values::Floats(vec![0.0, 100.0])), column("n", Values::Integers(vec![1, 2]))];
        assert!(agrees(&compare(&[50.0, 1.0, 100.0, 2.0], &theirs, &[0])[0]));
        assert!(!agrees(&compare(&[50.0, 1.0, 100.0, 2.0], &theirs, &[1])[0]));
        let ranges = ranges(&theirs);
        assert!(is_row_near(&[100.005, 2.0], &theirs, 1, &ranges));
        assert!(!is_row_near(&[100.05, 2.0], &theirs, 1, &ranges));
        assert!(!is_row_near(&[100.0, 1.0], &theirs, 1, &ranges));
        assert!(!is_row_near(&[f32::NAN, 2.0], &theirs, 1, &ranges));
    }

    #[test]
    fn what_is_not_finite_must_stand_in_the_same_place() {
        let theirs = [column("a", Values::Floats(vec![f64::NAN, f64::INFINITY, 1.0]))];
        assert!(agrees(&compare(&[f32::NAN, f32::INFINITY, 1.0], &theirs, &[])[0]));
        for wrong in [
            [0.0, f32::INFINITY, 1.0],
            [f32::NAN, f32::NEG_INFINITY, 1.0],
            [f32::NAN, f32::INFINITY, f32::NAN],
        ] {
            let report = &compare(&wrong, &theirs, &[])[0];
            assert!(!agrees(report) && report.unequal == 1 && report.difference.is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn labels_are_positions_among_the_sorted_classes() {
        let texts = ["warm", "cold", "warm"].map(str::to_owned).to_vec();
        let theirs = [column("label", Values::Texts(texts)), column("n", Values::Integers(vec![-1, 1, 7]))];
        let reports = compare(&[1.0, -1.0, 0.0, 1.0, 1.0, 7.0], &theirs, &[]);
        assert!(reports.iter().all(agrees));
        let reports = compare(&[1.0, -1.0, 1.0, 1.0, 1.0, 6.0], &theirs, &[]);
        assert_eq!(reports.iter().map(|report| report.unequal).collect::<Vec<_>>(), [1, 1]);
    }
}
