//! Class probabilities from the decisions between pairs of classes.
//!
//! *Source*: J. Platt's sigmoid for a pair; T.-F. Wu, C.-J. Lin, R. C. Weng, "Probability Estimates for Multi-class
//! Classification by Pairwise Coupling" (2004), second method, with the steps and the end that libsvm has, in single
//! precision as ONNX Runtime.

use super::super::post_transform::logistic;

/// Most rounds, and how small the error must be times the classes.
const ROUNDS_MAX: usize = 100;
const ERROR: f32 = 0.005;
/// Smallest probability of a pair's class.
const PAIR_MIN: f32 = 1e-7;

/// Returns the probability of a pair's first class.
pub(super) fn of_pair(score: f32, a: f32, b: f32) -> f32 {
    (1.0 - logistic(score * a + b)).clamp(PAIR_MIN, 1.0 - PAIR_MIN)
}

/// Returns the classes' probabilities.
///
/// *Shape*: `pairs[i * classes + j]` is the probability of class i against j.
pub(super) fn of_classes(classes: usize, pairs: &[f32]) -> Vec<f32> {
    let at = |row: usize, column: usize| row * classes + column;
    let mut q = vec![0.0_f32; classes * classes];
    for i in 0..classes {
        for j in (0..classes).filter(|&j| j != i) {
            q[at(i, i)] += pairs[at(j, i)] * pairs[at(j, i)];
            q[at(i, j)] = if j < i { q[at(j, i)] } else { -pairs[at(j, i)] * pairs[at(i, j)] };
        }
    }
    let mut p = vec![1.0 / classes as f32; classes];
    let mut qp = vec![0.0_f32; classes];
    for _ in 0..ROUNDS_MAX {
        let mut pqp = 0.0;
        for (i, value) in qp.iter_mut().enumerate() {
            *value = 0.0;
            for (j, p) in p.iter().enumerate() {
                *value += q[at(i, j)] * p;
            }
            pqp += p[i] * *value;
        }
        let worst = qp.iter().fold(0.0_f32, |worst, value| worst.max((value - pqp).abs()));
        if worst < ERROR / classes as f32 {
            break;
        }
        for i in 0..classes {
            let step = (pqp - qp[i]) / q[at(i, i)];
            p[i] += step;
            pqp = (pqp + step * (step * q[at(i, i)] + 2.0 * qp[i])) / (1.0 + step) / (1.0 + step);
            for j in 0..classes {
                qp[j] = (qp[j] + step * q[at(i, j)]) / (1.0 + step);
                p[j] /= 1.0 + step;
            }
        }
    }
    p
}
