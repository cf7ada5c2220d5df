//! `SVMClassifier`: a vote between pairs of classes, or a linear score a class.
//!
//! *Source*: ai.onnx.ml 1, SVMClassifier.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::super::super::attributes::require_only;
use super::super::super::kernel::{Kernel, built, fact};
use super::super::class_labels::ClassLabels;
use super::super::linear::first_highest;
use super::super::post_transform::PostTransform;
use super::super::rows::{NUMBERS, dot, floats, only, require_type, rows_of, tensor};
use super::coupling;
use super::support_vectors::SupportVectors;

#[derive(Debug)]
struct SvmClassifier {
    labels: ClassLabels,
    post_transform: PostTransform,
    machine: Machine,
}

#[derive(Debug)]
enum Machine {
    Pairs(Pairs),
    Scores {
        /// *Shape*: `[classes, columns]`.
        coefficients: Vec<f32>,
        rho: f32,
        columns: usize,
        binary: Binary,
    },
}

/// What the highest of two linear scores says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Binary {
    /// There are not two classes, or probabilities are declared: the highest score's class.
    Highest,
    /// All weights are positive: the second class from a half on.
    FromHalf,
    /// The second class above zero.
    AboveZero,
}

/// A decision a pair of classes.
#[derive(Debug)]
struct Pairs {
    vectors: SupportVectors,
    /// Where each class's vectors begin, and the end of the last.
    starts: Vec<usize>,
    /// *Shape*: `[classes - 1, vectors]`.
    coefficients: Vec<f32>,
    rho: Vec<f32>,
    /// Platt's two parameters a pair, where probabilities are wanted.
    platt: Option<(Vec<f32>, Vec<f32>)>,
}

pub(in super::super) fn build(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(
        node,
        &[
            "classlabels_ints",
            "classlabels_strings",
            "coefficients",
            "kernel_params",
            "kernel_type",
            "post_transform",
            "prob_a",
            "prob_b",
            "rho",
            "support_vectors",
            "vectors_per_class",
        ],
    )?;
    let labels = ClassLabels::read(node)?;
    let post_transform = PostTransform::read(node)?;
    let list = |name: &str| Ok::<Vec<f32>, TractError>(node.get_attr_opt_vec(name)?.unwrap_or_default());
    let (prob_a, prob_b) = (list("prob_a")?, list("prob_b")?);
    ensure!(prob_a.len() == prob_b.len(), "`prob_a` and `prob_b` are not of one length");
    let (rho, coefficients) = (list("rho")?, list("coefficients")?);
    let per_class: Vec<usize> = node.get_attr_opt_vec("vectors_per_class")?.unwrap_or_default();
    let count = per_class.iter().try_fold(0_usize, |sum, count| sum.checked_add(*count));
    let count = count.ok_or_else(|| format_err!("`vectors_per_class` counts too many vectors"))?;
    let classes = labels.len();
    let machine = if count == 0 {
        let has_probabilities = !prob_a.is_empty();
        ensure!(
            !coefficients.is_empty() && coefficients.len().is_multiple_of(classes),
            "`coefficients` is no row for each of {classes} classes"
        );
        ensure!(!rho.is_empty(), "`rho` is missing");
        let binary = match classes {
            2 if has_probabilities => Binary::Highest,
            2 if coefficients.iter().all(|weight| *weight >= 0.0) => Binary::FromHalf,
            2 => Binary::AboveZero,
            _ => Binary::Highest,
        };
        let columns = coefficients.len() / classes;
        Machine::Scores { coefficients, rho: rho[0], columns, binary }
    } else {
        let platt = (!prob_a.is_empty()).then_some((prob_a, prob_b));
        let is_defined = classes > 2 || platt.is_some() || post_transform != PostTransform::Probit;
        ensure!(is_defined, "`post_transform` PROBIT of one score for two classes is not defined");
        ensure!(per_class.len() == classes, "`vectors_per_class` is not for {classes} classes");
        let vectors = SupportVectors::read(node, count)?;
        Machine::Pairs(Pairs::new(vectors, &per_class, coefficients, rho, platt)?)
    };
    built(SvmClassifier { labels, post_transform, machine })
}

impl Pairs {
    /// *Errors*: the values are not for each vector and each pair of two or more classes.
    fn new(
        vectors: SupportVectors,
        per_class: &[usize],
        coefficients: Vec<f32>,
        rho: Vec<f32>,
        platt: Option<(Vec<f32>, Vec<f32>)>,
    ) -> TractResult<Self> {
        let (classes, count) = (per_class.len(), per_class.iter().sum::<usize>());
        ensure!(classes >= 2, "there are not two or more classes");
        let pairs = classes * (classes - 1) / 2;
        ensure!(
            coefficients.len() == (classes - 1) * count,
            "`coefficients` has {} values, not {} rows of {count} vectors",
            coefficients.len(),
            classes - 1
        );
        ensure!(rho.len() == pairs, "`rho` has {} values for {pairs} pairs of classes", rho.len());
        let given = platt.as_ref().map_or(pairs, |(a, _)| a.len());
        ensure!(given == pairs, "`prob_a` has {given} values for {pairs} pairs of classes");
        let mut starts = vec![0];
        for count in per_class {
            starts.push(starts[starts.len() - 1] + count);
        }
        Ok(Self { vectors, starts, coefficients, rho, platt })
    }

    const fn classes(&self) -> usize {
        self.starts.len() - 1
    }

    /// Computes a score a pair, above zero for its first class; returns the first of the classes with most votes.
    fn decide(&self, kernels: &[f32], scores: &mut Vec<f32>) -> usize {
        let (classes, count) = (self.classes(), kernels.len());
        let mut votes = vec![0_usize; classes];
        scores.clear();
        for first in 0..classes {
            for second in first + 1..classes {
                let part = |row: usize, of: usize| {
                    let (start, end) = (self.starts[of], self.starts[of + 1]);
                    sum_of_products(&self.coefficients[row * count..][start..end], &kernels[start..end])
                };
                let sum = part(second - 1, first) + part(first, second) + f64::from(self.rho[scores.len()]);
                votes[if sum > 0.0 { first } else { second }] += 1;
                scores.push(sum as f32);
            }
        }
        let most = votes.iter().copied().max().unwrap_or(0);
        votes.iter().position(|count| *count == most).unwrap_or(0)
    }

    fn probabilities(&self, scores: &[f32], (a, b): &(Vec<f32>, Vec<f32>)) -> Vec<f32> {
        let classes = self.classes();
        let mut pairs = vec![0.0; classes * classes];
        let mut pair = 0;
        for first in 0..classes {
            for second in first + 1..classes {
                let probability = coupling::of_pair(scores[pair], a[pair], b[pair]);
                pairs[first * classes + second] = probability;
                pairs[second * classes + first] = 1.0 - probability;
                pair += 1;
            }
        }
        coupling::of_classes(classes, &pairs)
    }

    fn width(&self) -> usize {
        match (&self.platt, self.classes()) {
            (Some(_), classes) => classes,
            (None, 2) => 2,
            (None, _) => self.rho.len(),
        }
    }
}

/// Returns the sum of products, each of single precision, in double.
fn sum_of_products(left: &[f32], right: &[f32]) -> f64 {
    let (left_parts, left_rest) = left.as_chunks::<4>();
    let (right_parts, right_rest) = right.as_chunks::<4>();
    let mut sums = [0.0_f64; 4];
    for (left, right) in left_parts.iter().zip(right_parts) {
        let term = |lane: usize| f64::from(left[lane] * right[lane]);
        sums = [sums[0] + term(0), sums[1] + term(1), sums[2] + term(2), sums[3] + term(3)];
    }
    let rest: f64 = left_rest.iter().zip(right_rest).map(|(left, right)| f64::from(left * right)).sum();
    sums.iter().sum::<f64>() + rest
}

impl SvmClassifier {
    fn columns(&self) -> usize {
        match &self.machine {
            Machine::Pairs(pairs) => pairs.vectors.columns(),
            Machine::Scores { columns, .. } => *columns,
        }
    }

    fn width(&self) -> usize {
        match &self.machine {
            Machine::Pairs(pairs) => pairs.width(),
            Machine::Scores { .. } => self.labels.len(),
        }
    }

    fn add_pairs(&self, pairs: &Pairs, kernels: &[f32], scores: &mut Vec<f32>, into: &mut Vec<f32>) -> usize {
        let winner = pairs.decide(kernels, scores);
        let start = into.len();
        match (&pairs.platt, pairs.classes(), self.post_transform) {
            (Some(platt), ..) => into.extend(pairs.probabilities(scores, platt)),
            (None, 2, PostTransform::None) => into.extend([-scores[0], scores[0]]),
            (None, 2, transform) => into.extend(transform.pair(scores[0])),
            (None, ..) => into.extend_from_slice(scores),
        }
        if pairs.platt.is_some() || pairs.classes() > 2 {
            self.post_transform.apply(&mut into[start..]);
        }
        winner
    }
}

impl Kernel for SvmClassifier {
    fn name(&self) -> &'static str {
        "SVMClassifier"
    }

    fn outputs(&self) -> usize {
        2
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let input = only(inputs)?;
        require_type(input, NUMBERS)?;
        let rows = rows_of(input, self.columns())?;
        Ok(tvec!(
            fact(self.labels.datum_type(), std::slice::from_ref(&rows)),
            fact(f32::datum_type(), &[rows, self.width().to_dim()])
        ))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = floats(&inputs[0])?;
        let columns = self.columns();
        let rows = input.len() / columns;
        let mut output = Vec::with_capacity(rows * self.width());
        let mut positions = Vec::with_capacity(rows);
        let (mut kernels, mut scores) = (Vec::new(), Vec::new());
        for row in input.chunks_exact(columns) {
            positions.push(match &self.machine {
                Machine::Pairs(pairs) => {
                    pairs.vectors.kernels(row, &mut kernels);
                    self.add_pairs(pairs, &kernels, &mut scores, &mut output)
                }
                Machine::Scores { coefficients, rho, binary, .. } => {
                    let start = output.len();
                    output.extend(coefficients.chunks_exact(columns).map(|weights| dot(row, weights) + rho));
                    let winner = first_highest(&output[start..]);
                    let highest = output[start + winner];
                    self.post_transform.apply(&mut output[start..]);
                    match binary {
                        Binary::FromHalf if highest >= 0.5 => 1,
                        Binary::AboveZero if highest > 0.0 => 1,
                        _ => winner,
                    }
                }
            });
        }
        Ok(tvec!(self.labels.at(&positions)?, tensor(&[rows, self.width()], output)?.into_tvalue()))
    }
}
