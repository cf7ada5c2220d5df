//! `LinearClassifier` and `LinearRegressor`: weighted sums of a row's features, and the class with the highest.
//!
//! *Source*: ai.onnx.ml 1. As in ONNX Runtime the classes of a classifier are as many as its intercepts, one score of
//! two classes becomes two, and `multi_class` says nothing.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::class_labels::ClassLabels;
use super::post_transform::PostTransform;
use super::rows::{NUMBERS, dot, floats, only, require_type, rows_of, tensor};

/// Weighted sums, one a target.
#[derive(Debug)]
struct Sums {
    /// *Shape*: `[targets, columns]`.
    coefficients: Vec<f32>,
    intercepts: Vec<f32>,
    columns: usize,
}

impl Sums {
    /// *Errors*: the coefficients are not a row a target.
    fn new(coefficients: Vec<f32>, intercepts: Vec<f32>) -> TractResult<Self> {
        let targets = intercepts.len();
        ensure!(
            targets > 0 && !coefficients.is_empty() && coefficients.len().is_multiple_of(targets),
            "`coefficients` has {} values, which is no row for each of {targets} targets",
            coefficients.len()
        );
        let columns = coefficients.len() / targets;
        Ok(Self { coefficients, intercepts, columns })
    }

    fn add_row(&self, features: &[f32], scores: &mut Vec<f32>) {
        let targets = self.coefficients.chunks_exact(self.columns).zip(&self.intercepts);
        scores.extend(targets.map(|(weights, intercept)| dot(features, weights) + intercept));
    }
}

#[derive(Debug)]
struct LinearClassifier {
    sums: Sums,
    labels: ClassLabels,
    post_transform: PostTransform,
    layout: Layout,
}

/// What is made of a row's scores.
#[derive(Debug, PartialEq, Eq)]
enum Layout {
    /// A score a class; the first of the highest is the label's.
    Classes,
    /// One score for two classes, above zero for the second.
    Pair,
}

pub(super) fn build_classifier(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(
        node,
        &[
            "classlabels_ints",
            "classlabels_strings",
            "coefficients",
            "intercepts",
            "multi_class",
            "post_transform",
        ],
    )?;
    let labels = ClassLabels::read(node)?;
    let intercepts: Vec<f32> = node.get_attr_opt_vec("intercepts")?.unwrap_or_default();
    ensure!(!intercepts.is_empty(), "`intercepts` is missing, by which ONNX Runtime counts the classes");
    let sums = Sums::new(node.get_attr_vec("coefficients")?, intercepts)?;
    let post_transform = PostTransform::read(node)?;
    let targets = sums.intercepts.len();
    let layout = match (targets, labels.len()) {
        (1, 2) => Layout::Pair,
        (1, classes) => bail!("there is one intercept for {classes} labels, and not for two"),
        (targets, classes) => {
            ensure!(targets == classes, "there are {classes} labels for {targets} intercepts");
            Layout::Classes
        }
    };
    ensure!(
        layout != Layout::Pair || post_transform != PostTransform::Probit,
        "`post_transform` PROBIT of one score for two classes is not defined"
    );
    built(LinearClassifier { sums, labels, post_transform, layout })
}

impl Kernel for LinearClassifier {
    fn name(&self) -> &'static str {
        "LinearClassifier"
    }

    fn outputs(&self) -> usize {
        2
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let input = only(inputs)?;
        require_type(input, NUMBERS)?;
        let rows = rows_of(input, self.sums.columns)?;
        let width = if self.layout == Layout::Pair { 2 } else { self.sums.intercepts.len() };
        Ok(tvec!(
            fact(self.labels.datum_type(), std::slice::from_ref(&rows)),
            fact(f32::datum_type(), &[rows, width.to_dim()])
        ))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = floats(&inputs[0])?;
        let rows = input.len() / self.sums.columns;
        let targets = self.sums.intercepts.len();
        let mut scores = Vec::with_capacity(rows * targets.max(2));
        let mut positions = Vec::with_capacity(rows);
        for features in input.chunks_exact(self.sums.columns) {
            let start = scores.len();
            self.sums.add_row(features, &mut scores);
            match self.layout {
                Layout::Classes => positions.push(first_highest(&scores[start..])),
                Layout::Pair => positions.push(usize::from(scores[start] > 0.0)),
            }
            if self.layout == Layout::Pair {
                let pair = self.post_transform.pair(scores[start]);
                scores.truncate(start);
                scores.extend(pair);
            } else {
                self.post_transform.apply(&mut scores[start..]);
            }
        }
        let width = scores.len().checked_div(rows).unwrap_or(targets);
        Ok(tvec!(self.labels.at(&positions)?, tensor(&[rows, width], scores)?.into_tvalue()))
    }
}

/// Returns the position of the highest score, the first of equal ones. Nothing is above a first one that is no number.
pub(super) fn first_highest(scores: &[f32]) -> usize {
    let mut highest = 0;
    for (position, score) in scores.iter().enumerate().skip(1) {
        if *score > scores[highest] {
            highest = position;
        }
    }
    highest
}

#[derive(Debug)]
struct LinearRegressor {
    sums: Sums,
    post_transform: PostTransform,
}

pub(super) fn build_regressor(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &["coefficients", "intercepts", "post_transform", "targets"])?;
    let coefficients: Vec<f32> = node.get_attr_vec("coefficients")?;
    let targets = usize::try_from(node.get_attr_opt::<i64>("targets")?.unwrap_or(1)).unwrap_or(0);
    // Before anything is made of the number: a file can say any.
    ensure!((1..=coefficients.len()).contains(&targets), "`targets` is not 1 to the number of coefficients");
    let intercepts: Vec<f32> = node.get_attr_opt_vec("intercepts")?.unwrap_or_default();
    let intercepts = if intercepts.is_empty() { vec![0.0; targets] } else { intercepts };
    ensure!(intercepts.len() == targets, "there are {} intercepts for {targets} targets", intercepts.len());
    let sums = Sums::new(coefficients, intercepts)?;
    built(LinearRegressor { sums, post_transform: PostTransform::read(node)? })
}

impl Kernel for LinearRegressor {
    fn name(&self) -> &'static str {
        "LinearRegressor"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let input = only(inputs)?;
        require_type(input, NUMBERS)?;
        let rows = rows_of(input, self.sums.columns)?;
        Ok(tvec!(fact(f32::datum_type(), &[rows, self.sums.intercepts.len().to_dim()])))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = floats(&inputs[0])?;
        let targets = self.sums.intercepts.len();
        let rows = input.len() / self.sums.columns;
        let mut scores = Vec::with_capacity(rows * targets);
        for features in input.chunks_exact(self.sums.columns) {
            self.sums.add_row(features, &mut scores);
        }
        if self.post_transform != PostTransform::None {
            scores.chunks_exact_mut(targets).for_each(|row| self.post_transform.apply(row));
        }
        Ok(tvec!(tensor(&[rows, targets], scores)?.into_tvalue()))
    }
}

#[cfg(test)]
mod tests;
