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
use super::rows::{NUMBERS, dot, floats, only, require_type, rows_of};

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

    /// Writes a row's sums, one a target.
    fn write_row(&self, features: &[f32], scores: &mut [f32]) {
        let targets = self.coefficients.chunks_exact(self.columns).zip(&self.intercepts);
        for (score, (weights, intercept)) in scores.iter_mut().zip(targets) {
            *score = dot(features, weights) + intercept;
        }
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

    fn writes_outputs(&self) -> bool {
        true
    }

    fn run_into(&self, inputs: &[&Tensor], outputs: &mut [&mut Tensor]) -> TractResult<()> {
        let ([input], [labels, scores]) = (inputs, outputs) else {
            bail!("it takes one input and makes two outputs")
        };
        let input = floats(input)?;
        let (mut labels, mut scores) = (self.labels.writer(labels)?, scores.try_as_plain_ram_mut()?);
        let width = if self.layout == Layout::Pair { 2 } else { self.sums.intercepts.len() };
        let rows = scores.as_slice_mut::<f32>()?.chunks_exact_mut(width);
        for (row, (features, scores)) in input.chunks_exact(self.sums.columns).zip(rows).enumerate() {
            self.sums.write_row(features, scores);
            if self.layout == Layout::Pair {
                labels.write(row, usize::from(scores[0] > 0.0))?;
                scores.copy_from_slice(&self.post_transform.pair(scores[0]));
            } else {
                labels.write(row, first_highest(scores))?;
                self.post_transform.apply(scores);
            }
        }
        Ok(())
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

    fn writes_outputs(&self) -> bool {
        true
    }

    fn run_into(&self, inputs: &[&Tensor], outputs: &mut [&mut Tensor]) -> TractResult<()> {
        let ([input], [output]) = (inputs, outputs) else { bail!("it takes one input and makes one output") };
        let input = floats(input)?;
        let mut output = output.try_as_plain_ram_mut()?;
        let rows = output.as_slice_mut::<f32>()?.chunks_exact_mut(self.sums.intercepts.len());
        for (features, scores) in input.chunks_exact(self.sums.columns).zip(rows) {
            self.sums.write_row(features, scores);
            self.post_transform.apply(scores);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
