//! Whether features still move together as they did: principal components of the reference, and the distance of a reading
//! within them (T²) and from them (Q).
//!
//! Made once; a reading costs one product with each component and allocates nothing. Readings with a missing feature have
//! no distance.
//!
//! *Source*: Jackson and Mudholkar (1979), "Control procedures for residuals associated with principal component analysis".

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bins::short;

/// Most features that are looked at together: the rotation takes `FEATURES_MAX`³ steps, once.
pub const FEATURES_MAX: usize = 64;
/// Share of the variance that the components hold.
const SHARE: f64 = 0.95;
/// Sweeps of the rotation; ten are enough for any matrix of this size.
const SWEEPS_MAX: usize = 30;
/// A component with less variance than this says nothing but rounding.
const VARIANCE_MIN: f64 = 1e-9;

/// Principal components of features, each in standard deviations from its mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subspace {
    /// Mean by feature.
    pub means: Vec<f64>,
    /// Standard deviation by feature. *Range*: above 0.
    pub deviations: Vec<f64>,
    /// Components, each a direction of length 1 over the features.
    pub components: Vec<Vec<f64>>,
    /// Variance along each component, falling. *Range*: above 0.
    pub variances: Vec<f64>,
}

/// Distances of one reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distances {
    /// Squared distance from the mean within the components, in their standard deviations (Hotelling).
    pub t2: f64,
    /// Squared distance from the components (squared prediction error), in standard deviations of the features.
    pub q: f64,
}

impl Subspace {
    /// Makes the components of readings; `rows` gives each as its features' values. None where there are fewer than two
    /// features or more than [`FEATURES_MAX`], or fewer complete readings than ten a feature.
    #[must_use]
    pub fn of<'r>(rows: impl Iterator<Item = &'r [f64]> + Clone) -> Option<Self> {
        let features = rows.clone().next()?.len();
        let complete = rows.filter(|row| row.len() == features && row.iter().all(|value| value.is_finite()));
        let count = complete.clone().count();
        if !(2..=FEATURES_MAX).contains(&features) || count < features * 10 {
            return None;
        }
        let mut means = vec![0.0; features];
        for row in complete.clone() {
            means.iter_mut().zip(row).for_each(|(mean, value)| *mean += value / count as f64);
        }
        let mut deviations = vec![0.0; features];
        for row in complete.clone() {
            for ((deviation, value), mean) in deviations.iter_mut().zip(row).zip(&means) {
                *deviation += (value - mean).powi(2) / count as f64;
            }
        }
        // A feature that never moved is in no component; any move of it is seen by Q.
        let least = |mean: f64| mean.abs().max(1e-6) * f64::from(f32::EPSILON);
        for (deviation, mean) in deviations.iter_mut().zip(&means) {
            *deviation = deviation.sqrt().max(least(*mean));
        }
        let mut matrix = vec![vec![0.0; features]; features];
        for row in complete {
            for one in 0..features {
                let left = (row[one] - means[one]) / deviations[one];
                for other in 0..features {
                    matrix[one][other] +=
                        left * (row[other] - means[other]) / deviations[other] / count as f64;
                }
            }
        }
        let (components, variances) = principal(matrix);
        let short_all = |values: Vec<f64>| values.into_iter().map(short).collect::<Vec<f64>>();
        Some(Self {
            means: short_all(means),
            deviations: short_all(deviations),
            components: components.into_iter().map(short_all).collect(),
            variances: short_all(variances),
        })
    }

    /// Checks what was read from outside.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let features = self.means.len();
        let finite = |values: &[f64]| values.iter().all(|value| value.is_finite());
        (2..=FEATURES_MAX).contains(&features)
            && self.deviations.len() == features
            && finite(&self.means)
            && self.deviations.iter().chain(&self.variances).all(|value| value.is_finite() && *value > 0.0)
            && (1..=features).contains(&self.components.len())
            && self.components.len() == self.variances.len()
            && self.components.iter().all(|component| component.len() == features && finite(component))
    }

    /// Returns the distances of a reading; none where a feature is missing or there are others.
    #[must_use]
    pub fn distances(&self, row: &[f64]) -> Option<Distances> {
        if row.len() != self.means.len() || !row.iter().all(|value| value.is_finite()) {
            return None;
        }
        let standard = |feature: usize| (row[feature] - self.means[feature]) / self.deviations[feature];
        let whole: f64 = (0..row.len()).map(|feature| standard(feature).powi(2)).sum();
        let (mut t2, mut inside) = (0.0, 0.0);
        for (component, variance) in self.components.iter().zip(&self.variances) {
            let along: f64 =
                component.iter().enumerate().map(|(feature, weight)| weight * standard(feature)).sum();
            t2 += along * along / variance;
            inside += along * along;
        }
        Some(Distances { t2, q: (whole - inside).max(0.0) })
    }
}

/// Returns the components that hold most of the variance of a correlation matrix, largest first, with their variances.
fn principal(matrix: Vec<Vec<f64>>) -> (Vec<Vec<f64>>, Vec<f64>) {
    let (vectors, values) = eigen(matrix);
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|one, other| values[*other].total_cmp(&values[*one]).then(one.cmp(other)));
    let whole: f64 = values.iter().sum();
    let (mut components, mut variances, mut held) = (Vec::new(), Vec::new(), 0.0);
    for column in order {
        if !components.is_empty() && (held >= SHARE * whole || values[column] <= VARIANCE_MIN) {
            break;
        }
        held += values[column];
        components.push(vectors.iter().map(|row| row[column]).collect());
        variances.push(values[column].max(VARIANCE_MIN));
    }
    (components, variances)
}

/// Returns the eigenvectors (as columns) and eigenvalues of a symmetric matrix. *Source*: the cyclic method of Jacobi, as in
/// Golub and Van Loan, "Matrix Computations", section 8.5.
fn eigen(mut matrix: Vec<Vec<f64>>) -> (Vec<Vec<f64>>, Vec<f64>) {
    let size = matrix.len();
    let mut vectors: Vec<Vec<f64>> =
        (0..size).map(|row| (0..size).map(|column| f64::from(u8::from(row == column))).collect()).collect();
    for _ in 0..SWEEPS_MAX {
        let off: f64 = (0..size)
            .flat_map(|row| (0..row).map(move |column| (row, column)))
            .map(|(row, column)| matrix[row][column].powi(2))
            .sum();
        if off < 1e-22 {
            break;
        }
        for p in 0..size {
            for q in p + 1..size {
                rotate(&mut matrix, &mut vectors, p, q);
            }
        }
    }
    let values = (0..size).map(|place| matrix[place][place]).collect();
    (vectors, values)
}

/// Turns two axes so that they have nothing in common.
fn rotate(matrix: &mut [Vec<f64>], vectors: &mut [Vec<f64>], p: usize, q: usize) {
    let common = matrix[p][q];
    if common == 0.0 {
        return;
    }
    let tau = (matrix[q][q] - matrix[p][p]) / (2.0 * common);
    let tangent = tau.signum() / (tau.abs() + tau.hypot(1.0));
    let cosine = 1.0 / tangent.hypot(1.0);
    let sine = tangent * cosine;
    let turn = |one: f64, other: f64| (cosine * one - sine * other, sine * one + cosine * other);
    for row in matrix.iter_mut() {
        (row[p], row[q]) = turn(row[p], row[q]);
    }
    let (upper, lower) = matrix.split_at_mut(q);
    for (one, other) in upper[p].iter_mut().zip(&mut lower[0]) {
        (*one, *other) = turn(*one, *other);
    }
    for row in vectors.iter_mut() {
        (row[p], row[q]) = turn(row[p], row[q]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Readings whose third feature is the sum of the first two.
    fn related(count: usize) -> Vec<[f64; 3]> {
        let wave = |n: usize, step: f64| (n as f64 * step).sin();
        (0..count)
            .map(|n| {
                let (one, other) = (wave(n, 0.7) * 3.0 + 10.0, wave(n, 1.3) * 0.5 - 4.0);
                [one, other, one + other]
            })
            .collect()
    }

    fn of(rows: &[[f64; 3]]) -> Subspace {
        Subspace::of(rows.iter().map(<[f64; 3]>::as_slice)).unwrap()
    }

    #[test]
    fn a_reading_that_breaks_the_relation_is_far_from_the_components_though_each_value_is_usual() {
        let rows = related(500);
        let subspace = of(&rows);
        assert!(subspace.is_sound());
        assert_eq!(subspace.components.len(), 2);
        let farthest = rows.iter().map(|row| subspace.distances(row).unwrap().q).fold(0.0, f64::max);
        let broken = subspace.distances(&[12.5, -4.0, 4.0]).unwrap();
        assert!(farthest < 1e-6 && broken.q > 0.5, "{farthest} {broken:?}");
        assert_eq!(subspace.distances(&[12.5, f64::NAN, 4.0]), None);
        assert_eq!(subspace.distances(&[12.5, 4.0]), None);
    }

    #[test]
    fn distances_within_the_components_average_to_their_number() {
        let rows = related(5_000);
        let subspace = of(&rows);
        let mean =
            rows.iter().map(|row| subspace.distances(row).unwrap().t2).sum::<f64>() / rows.len() as f64;
        assert!((mean - subspace.components.len() as f64).abs() < 1e-3, "{mean}");
    }

    proptest! {
        #[test]
        fn vectors_and_values_make_the_matrix_again(entries in prop::collection::vec(-1.0..1.0f64, 36)) {
            let matrix: Vec<Vec<f64>> = (0..6).map(|row: usize| (0..6).map(|column: usize| entries[row.min(column) * 6 + row.max(column)]).collect()).collect();
            let (vectors, values) = eigen(matrix.clone());
            for row in 0..6 {
                for column in 0..6 {
                    let made: f64 = (0..6).map(|k| vectors[row][k] * values[k] * vectors[column][k]).sum();
                    prop_assert!((made - matrix[row][column]).abs() < 1e-9);
                    let product: f64 = (0..6).map(|k| vectors[row][k] * vectors[column][k]).sum();
                    prop_assert!((product - f64::from(u8::from(row == column))).abs() < 1e-9);
                }
            }
        }

        #[test]
        fn of_any_rows_the_components_are_sound_or_none(rows in prop::collection::vec(prop::array::uniform3(prop_oneof![Just(1.0), -1e6..1e6f64, Just(f64::NAN)]), 0..80)) {
            if let Some(subspace) = Subspace::of(rows.iter().map(<[f64; 3]>::as_slice)) {
                prop_assert!(subspace.is_sound(), "{subspace:?}");
            }
        }
    }
}
