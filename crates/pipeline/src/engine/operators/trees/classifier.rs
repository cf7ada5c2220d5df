//! `TreeEnsembleClassifier`: labels and scores of rows.
//!
//! Ties the node lists to the decision; the engine sees it as one kernel with two outputs, of which labels are texts
//! or integers.
//!
//! *Shape*: in `[batch, column]`, out `[batch]` and `[batch, class]`.
//! *Source*: ai.onnx.ml 1 and 3, TreeEnsembleClassifier.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::classify::{Decision, Weights};
use super::leaves::{Aggregate, Ensemble};
use super::node_lists::{ATTRIBUTES, NodeLists, Stored};
use super::numbers::{Real, ints, text, texts};
use super::regressor::rows_and_columns;
use super::transform::PostTransform;

/// Attributes that this operator has beside those of the nodes.
const OWN_ATTRIBUTES: [&str; 7] = [
    "class_ids",
    "class_nodeids",
    "class_treeids",
    "class_weights",
    "class_weights_as_tensor",
    "classlabels_int64s",
    "classlabels_strings",
];

#[derive(Debug)]
enum Labels {
    Texts(Vec<String>),
    Integers(Vec<i64>),
}

#[derive(Debug)]
struct Classifier {
    stored: Stored,
    labels: Labels,
    classes: usize,
    decision: Decision,
}

pub(super) fn build(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let known: Vec<&str> = ATTRIBUTES.iter().chain(&OWN_ATTRIBUTES).copied().collect();
    require_only(node, &known)?;
    let post = PostTransform::named(text(node, "post_transform", "NONE")?)?;
    let lists = NodeLists::read(node, "class")?;
    let one_class = lists.targets.windows(2).all(|pair| pair[0] == pair[1]);
    let base = lists.base.clone();
    let positive = !lists.weights.has_negative();
    let (classes, labels) = labels(node, one_class)?;
    let stored = lists.into_stored(classes, Aggregate::Sum)?;
    let dense = match &stored {
        Stored::Single(ensemble) => ensemble.leaves.is_dense(),
        Stored::Double(ensemble) => ensemble.leaves.is_dense(),
    };
    let decision = Decision::of(classes, base, Weights { one_class, positive, dense }, post)?;
    built(Classifier { stored, labels, classes, decision })
}

/// Returns the number of classes and the labels by position.
///
/// For one class, and for two with weights for both, ONNX Runtime answers with 1 or 0 whatever the labels are: other
/// labels would come out wrong.
fn labels(node: &NodeProto, one_class: bool) -> TractResult<(usize, Labels)> {
    let integers = ints(node, "classlabels_int64s")?;
    let names = texts(node, "classlabels_strings")?;
    ensure!(
        integers.is_empty() || names.is_empty(),
        "`classlabels_int64s` and `classlabels_strings` both have values"
    );
    ensure!(
        integers.len() + names.len() > 0,
        "it has neither `classlabels_int64s` nor `classlabels_strings`"
    );
    if names.is_empty() {
        let literal = match integers {
            [1] => return Ok((1, Labels::Integers(vec![0, 1]))),
            [_] => true,
            [first, second] => !one_class && [*first, *second] != [0, 1],
            _ => false,
        };
        ensure!(
            !literal,
            "`classlabels_int64s` has other labels than the 0 and 1 that ONNX Runtime answers with"
        );
        return Ok((integers.len(), Labels::Integers(integers.to_vec())));
    }
    ensure!(names.len() > 1, "`classlabels_strings` has one label, of which ONNX Runtime makes none");
    let names = names.iter().map(|name| String::from_utf8(name.clone()));
    let names: Vec<String> =
        names.collect::<Result<_, _>>().map_err(|_| format_err!("a label is not UTF-8"))?;
    Ok((names.len(), Labels::Texts(names)))
}

impl Classifier {
    fn decide<T: Real, X: Real + From<T>>(
        &self,
        ensemble: &Ensemble<T>,
        input: &Tensor,
        labels: &mut Tensor,
        scores: &mut Tensor,
    ) -> TractResult<()> {
        let (rows, columns) = rows_and_columns(input)?;
        ensure!(
            labels.len() == rows && scores.len() == rows * self.classes,
            "its outputs are not made for {rows} rows"
        );
        let (mut labels, mut scores) = (labels.try_as_plain_ram_mut()?, scores.try_as_plain_ram_mut()?);
        let scores = scores.as_slice_mut::<f32>()?;
        let input = input.try_as_plain_ram()?;
        let input = input.as_slice::<X>()?;
        match &self.labels {
            Labels::Integers(known) => {
                let labels = labels.as_slice_mut::<i64>()?;
                self.rows(ensemble, input, columns, scores, |row, class| labels[row] = known[class])
            }
            Labels::Texts(known) => {
                let labels = labels.as_slice_mut::<String>()?;
                self.rows(ensemble, input, columns, scores, |row, class| {
                    labels[row].clone_from(&known[class])
                })
            }
        }
    }

    fn rows<T: Real, X: Real + From<T>>(
        &self,
        ensemble: &Ensemble<T>,
        input: &[X],
        columns: usize,
        scores: &mut [f32],
        mut label: impl FnMut(usize, usize),
    ) -> TractResult<()> {
        // Not every decision writes every score, and these are of the last run.
        scores.fill(0.0);
        ensemble.evaluate(input, columns, |index, mut row| {
            let scores = &mut scores[index * self.classes..][..self.classes];
            label(index, self.decision.decide(&mut row, scores)?);
            Ok(())
        })
    }
}

impl Kernel for Classifier {
    fn name(&self) -> &'static str {
        "TreeEnsembleClassifier"
    }

    fn outputs(&self) -> usize {
        2
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let rows = self.stored.check_input(inputs)?;
        let labels = match self.labels {
            Labels::Texts(_) => String::datum_type(),
            Labels::Integers(_) => i64::datum_type(),
        };
        let scores = fact(f32::datum_type(), &[rows.clone(), self.classes.to_dim()]);
        Ok(tvec!(fact(labels, &[rows]), scores))
    }

    fn writes_outputs(&self) -> bool {
        true
    }

    fn run_into(&self, inputs: &[&Tensor], outputs: &mut [&mut Tensor]) -> TractResult<()> {
        let ([input], [labels, scores]) = (inputs, outputs) else {
            bail!("it takes one input and makes two outputs")
        };
        let double = input.datum_type() == DatumType::F64;
        match &self.stored {
            Stored::Double(ensemble) => self.decide::<f64, f64>(ensemble, input, labels, scores),
            Stored::Single(ensemble) if double => self.decide::<f32, f64>(ensemble, input, labels, scores),
            Stored::Single(ensemble) => {
                let input = input.cast_to::<f32>()?;
                self.decide::<f32, f32>(ensemble, &input, labels, scores)
            }
        }
    }
}
