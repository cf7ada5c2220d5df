//! Machines against libsvm's definitions in double precision, pair by pair, and attributes that do not fit.

use super::super::super::testing::{floats, int, ints, node, run_node, text};
use super::super::rows::tensor;
use super::coupling;
use proptest::prelude::*;
use tract_onnx::pb::AttributeProto;
use tract_onnx::prelude::*;

const KERNELS: [&str; 4] = ["LINEAR", "POLY", "RBF", "SIGMOID"];

#[derive(Debug, Clone)]
struct Sample {
    columns: usize,
    per_class: Vec<i64>,
    vectors: Vec<f32>,
    coefficients: Vec<f32>,
    rho: Vec<f32>,
    kernel: usize,
    degree: f32,
    input: Vec<f32>,
}

fn number() -> impl Strategy<Value = f32> {
    -1.5..1.5_f32
}

fn sample() -> impl Strategy<Value = Sample> {
    (1..12_usize, proptest::collection::vec(0..7_i64, 2..5)).prop_flat_map(|(columns, mut per_class)| {
        per_class[0] += 1;
        let count = per_class.iter().sum::<i64>() as usize;
        let classes = per_class.len();
        let numbers = |count: usize| proptest::collection::vec(number(), count);
        (
            numbers(count * columns),
            numbers((classes - 1) * count),
            numbers(classes * (classes - 1) / 2),
            0..4_usize,
            prop_oneof![Just(2.0_f32), Just(3.0), Just(4.0)],
            numbers(2 * columns),
        )
            .prop_map(move |(vectors, coefficients, rho, kernel, degree, input)| Sample {
                columns,
                per_class: per_class.clone(),
                vectors,
                coefficients,
                rho,
                kernel,
                degree,
                input,
            })
    })
}

impl Sample {
    fn attributes(&self) -> Vec<AttributeProto> {
        vec![
            floats("support_vectors", &self.vectors),
            floats("kernel_params", &[0.5, 0.25, self.degree]),
            text("kernel_type", KERNELS[self.kernel]),
        ]
    }

    fn kernels(&self, row: &[f32]) -> Vec<f64> {
        let kernel = |vector: &[f32]| {
            let pairs = || row.iter().zip(vector).map(|(x, v)| (f64::from(*x), f64::from(*v)));
            let product: f64 = pairs().map(|(x, v)| x * v).sum();
            let distance: f64 = pairs().map(|(x, v)| (x - v) * (x - v)).sum();
            match self.kernel {
                0 => product,
                1 => (0.5 * product + 0.25).powf(f64::from(self.degree)),
                2 => (-0.5 * distance).exp(),
                _ => (0.5 * product + 0.25).tanh(),
            }
        };
        self.vectors.chunks(self.columns).map(kernel).collect()
    }

    /// Decision of each pair of classes, as the text of libsvm has it.
    fn decisions(&self, row: &[f32]) -> Vec<f64> {
        let kernels = self.kernels(row);
        let class_of: Vec<usize> =
            self.per_class.iter().enumerate().flat_map(|(class, n)| vec![class; *n as usize]).collect();
        let weight =
            |against: usize, vector: usize| f64::from(self.coefficients[against * kernels.len() + vector]);
        let mut decisions = Vec::new();
        for first in 0..self.per_class.len() {
            for second in first + 1..self.per_class.len() {
                let parts = class_of.iter().enumerate().map(|(vector, class)| match *class {
                    class if class == first => weight(second - 1, vector) * kernels[vector],
                    class if class == second => weight(first, vector) * kernels[vector],
                    _ => 0.0,
                });
                decisions.push(parts.sum::<f64>() + f64::from(self.rho[decisions.len()]));
            }
        }
        decisions
    }
}

fn close(want: f64, found: f32) -> bool {
    (want - f64::from(found)).abs() <= 1e-4 * want.abs().max(1.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn pairs_of_classes_vote(sample in sample()) {
        let classes = sample.per_class.len();
        let labels: Vec<i64> = (0..classes as i64).map(|class| 100 + class).collect();
        let mut attributes = sample.attributes();
        attributes.extend([
            floats("coefficients", &sample.coefficients), floats("rho", &sample.rho), ints("vectors_per_class", &sample.per_class),
            ints("classlabels_ints", &labels),
        ]);
        let outputs = run_node(node("SVMClassifier", 1, 2, attributes), &[tensor(&[2, sample.columns], sample.input.clone()).unwrap()]).unwrap();
        let found = outputs[1].try_as_plain_ram().unwrap();
        let found = found.as_slice::<f32>().unwrap();
        for (row, input) in sample.input.chunks(sample.columns).enumerate() {
            let decisions = sample.decisions(input);
            prop_assume!(decisions.iter().all(|decision| decision.abs() > 1e-4));
            let mut votes = vec![0; classes];
            let mut pair = decisions.iter();
            for first in 0..classes {
                for second in first + 1..classes {
                    votes[if *pair.next().unwrap() > 0.0 { first } else { second }] += 1;
                }
            }
            let most = votes.iter().position(|n| n == votes.iter().max().unwrap()).unwrap();
            prop_assert_eq!(outputs[0].try_as_plain_ram().unwrap().as_slice::<i64>().unwrap()[row], labels[most]);
            let want = if classes == 2 { vec![-decisions[0], decisions[0]] } else { decisions };
            for (want, found) in want.iter().zip(&found[row * want.len()..]) {
                prop_assert!(close(*want, *found), "{want} {found}");
            }
        }
    }

    #[test]
    fn a_regressor_weighs_its_kernels(sample in sample(), one_class in 0..2_i64) {
        let count = sample.vectors.len() / sample.columns;
        let weights = &sample.coefficients[..count];
        let mut attributes = sample.attributes();
        attributes.extend([
            floats("coefficients", weights), floats("rho", &sample.rho[..1]), int("n_supports", count as i64), int("one_class", one_class),
        ]);
        let outputs = run_node(node("SVMRegressor", 1, 1, attributes), &[tensor(&[2, sample.columns], sample.input.clone()).unwrap()]).unwrap();
        let found = outputs[0].try_as_plain_ram().unwrap();
        for (input, found) in sample.input.chunks(sample.columns).zip(found.as_slice::<f32>().unwrap()) {
            let sum: f64 = sample.kernels(input).iter().zip(weights).map(|(kernel, weight)| kernel * f64::from(*weight)).sum();
            let value = sum + f64::from(sample.rho[0]);
            prop_assume!(value.abs() > 1e-4);
            prop_assert!(close(if one_class == 1 { value.signum() } else { value }, *found), "{value} {found}");
        }
    }

    /// The coupled probabilities minimise the sum over pairs of `(r_ji p_i - r_ij p_j)^2`: no small move is better.
    #[test]
    fn coupled_probabilities_are_the_least_wrong(raw in proptest::collection::vec(0.05..0.95_f32, 6), shift in -0.02..0.02_f64) {
        let mut pairs = vec![0.0_f32; 16];
        let mut next = raw.iter();
        for first in 0..4 {
            for second in first + 1..4 {
                let r = *next.next().unwrap();
                pairs[first * 4 + second] = r;
                pairs[second * 4 + first] = 1.0 - r;
            }
        }
        let p: Vec<f64> = coupling::of_classes(4, &pairs).iter().map(|p| f64::from(*p)).collect();
        prop_assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-5);
        let wrong = |p: &[f64]| -> f64 {
            let pair = |i: usize, j: usize| f64::from(pairs[j * 4 + i]) * p[i] - f64::from(pairs[i * 4 + j]) * p[j];
            (0..4).flat_map(|i| (0..4).map(move |j| (i, j))).filter(|(i, j)| i != j).map(|(i, j)| pair(i, j).powi(2)).sum()
        };
        for (from, to) in [(0, 1), (1, 2), (2, 3), (3, 0)] {
            let mut moved = p.clone();
            moved[from] -= shift;
            moved[to] += shift;
            prop_assert!(wrong(&p) <= wrong(&moved) + 1e-3, "{p:?}");
        }
    }

    #[test]
    fn attributes_that_do_not_fit_are_errors(
        vectors in 0..7_usize, coefficients in 0..7_usize, rho in 0..4_usize, platt in 0..3_usize,
        per_class in proptest::collection::vec(prop_oneof![0..3_i64, Just(-1), Just(i64::MAX)], 0..4), params in 0..5_usize,
        supports in prop_oneof![0..4_i64, any::<i64>()],
    ) {
        let ones = |count: usize| vec![0.5_f32; count];
        let common = || vec![floats("support_vectors", &ones(vectors)), floats("kernel_params", &ones(params)), floats("rho", &ones(rho)),
            floats("coefficients", &ones(coefficients))];
        let mut attributes = common();
        attributes.extend([ints("vectors_per_class", &per_class), ints("classlabels_ints", &[1, 2]), floats("prob_a", &ones(platt)),
            floats("prob_b", &ones(platt))]);
        let input = [tensor1(&[1.0_f32])];
        let sum = per_class.iter().try_fold(0_usize, |sum, n| sum.checked_add(usize::try_from(*n).ok()?));
        let fits = match sum {
            None => false,
            Some(0) => rho > 0 && coefficients == 2,
            Some(count) => per_class.len() == 2 && vectors == count && coefficients == count && rho == 1 && platt < 2 && (params == 0 || params == 3),
        };
        prop_assert_eq!(run_node(node("SVMClassifier", 1, 2, attributes), &input).is_ok(), fits);
        let mut attributes = common();
        attributes.push(int("n_supports", supports));
        let fits = rho == 1 && match supports {
            0 => coefficients == 1,
            _ => supports == vectors as i64 && supports == coefficients as i64 && vectors > 0 && (params == 0 || params == 3),
        };
        prop_assert_eq!(run_node(node("SVMRegressor", 1, 1, attributes), &input).is_ok(), fits);
    }
}

#[test]
fn two_linear_scores_are_judged_by_the_highest() {
    let of = |coefficients: &[f32], rows: &[f32]| {
        let attributes = vec![
            floats("coefficients", coefficients),
            floats("rho", &[0.0]),
            ints("classlabels_ints", &[3, 4]),
        ];
        let input = tensor(&[rows.len(), 1], rows.to_vec()).unwrap();
        run_node(node("SVMClassifier", 1, 2, attributes), &[input]).unwrap().remove(0)
    };
    // Mixed weights: any score above zero means the second class.
    assert_eq!(of(&[1.0, -1.0], &[2.0, 0.0]), tensor1(&[4_i64, 3]));
    // Positive weights: the second class from a half on, below it the highest score's.
    assert_eq!(of(&[1.0, 0.5], &[0.5, 0.25]), tensor1(&[4_i64, 3]));
}
