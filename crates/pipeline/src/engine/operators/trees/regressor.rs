//! `TreeEnsembleRegressor` and `TreeEnsemble`: values of rows.
//!
//! Ties the lists of either operator to sums, base values and post-transform. With one target ONNX Runtime applies no
//! post-transform but `PROBIT`, and a target that no leaf of a row has a weight for is zero whatever its base value:
//! so it is here.
//!
//! *Shape*: in `[batch, column]`, out `[batch, target]`; `f32`, of `TreeEnsemble` the input's type.
//! *Source*: ai.onnx.ml 1 and 3, TreeEnsembleRegressor; ai.onnx.ml 5, TreeEnsemble.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::leaves::{Aggregate, Ensemble};
use super::node_lists::{self, NodeLists, Stored};
use super::numbers::{Real, int, text};
use super::split_lists::{self, SplitLists};
use super::transform::PostTransform;

/// Attributes that `TreeEnsembleRegressor` has beside those of the nodes.
const OWN_ATTRIBUTES: [&str; 7] = [
    "aggregate_function",
    "n_targets",
    "target_ids",
    "target_nodeids",
    "target_treeids",
    "target_weights",
    "target_weights_as_tensor",
];
/// Most targets without a weight each: they cost a file nothing and a row four bytes each.
const TARGETS_FREE_MAX: usize = 4_096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    TreeEnsembleRegressor,
    TreeEnsemble,
}

#[derive(Debug)]
struct Regressor {
    operator: Operator,
    stored: Stored,
    targets: usize,
    base: Vec<f64>,
    /// Trees of which the mean is taken.
    averaged: Option<usize>,
    post: PostTransform,
}

/// Reads a `TreeEnsembleRegressor`.
pub(super) fn build(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let known: Vec<&str> = node_lists::ATTRIBUTES.iter().chain(&OWN_ATTRIBUTES).copied().collect();
    require_only(node, &known)?;
    let post = PostTransform::named(text(node, "post_transform", "NONE")?)?;
    let (aggregate, average) = match text(node, "aggregate_function", "SUM")? {
        "SUM" => (Aggregate::Sum, false),
        "AVERAGE" => (Aggregate::Sum, true),
        "MIN" => (Aggregate::Min, false),
        "MAX" => (Aggregate::Max, false),
        other => {
            let name: String = other.escape_debug().take(32).collect();
            bail!("`aggregate_function` is none of ONNX: `{name}`");
        }
    };
    let lists = NodeLists::read(node, "target")?;
    let targets = targets(node, lists.targets.len())?;
    let base: Vec<f64> = lists.base.clone().into_vec();
    ensure!(
        base.is_empty() || base.len() == targets,
        "`base_values` has {} values for {targets} targets",
        base.len()
    );
    let stored = lists.into_stored(targets, aggregate)?;
    let averaged = average.then(|| stored.trees());
    let operator = Operator::TreeEnsembleRegressor;
    built(Regressor { operator, stored, targets, base, averaged, post })
}

/// Reads a `TreeEnsemble`.
pub(super) fn build_from_splits(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &split_lists::ATTRIBUTES)?;
    let post = match int(node, "post_transform")?.unwrap_or(0) {
        0 => PostTransform::None,
        code @ (1 | 2) => bail!(
            "`post_transform` is {code}: ONNX has 1 for softmax and 2 for logistic, ONNX Runtime the reverse; \
             write the operator of its own after the trees"
        ),
        3 => PostTransform::SoftmaxZero,
        4 => PostTransform::Probit,
        other => bail!("`post_transform` is none of ONNX: {other}"),
    };
    let (aggregate, average) = match int(node, "aggregate_function")?.unwrap_or(1) {
        0 => (Aggregate::Sum, true),
        1 => (Aggregate::Sum, false),
        2 => (Aggregate::Min, false),
        3 => (Aggregate::Max, false),
        other => bail!("`aggregate_function` is none of ONNX: {other}"),
    };
    let lists = SplitLists::read(node)?;
    let targets = targets(node, lists.weights())?;
    let stored = lists.into_stored(targets, aggregate)?;
    let averaged = average.then(|| stored.trees());
    built(Regressor { operator: Operator::TreeEnsemble, stored, targets, base: Vec::new(), averaged, post })
}

fn targets(node: &NodeProto, weights: usize) -> TractResult<usize> {
    let targets = int(node, "n_targets")?.unwrap_or(0);
    let within = usize::try_from(targets).ok();
    within.filter(|targets| (1..=weights.max(TARGETS_FREE_MAX)).contains(targets)).ok_or_else(|| {
        format_err!(
            "`n_targets` is {targets}, and at most {TARGETS_FREE_MAX} or as many as there are weights"
        )
    })
}

/// Returns the axes of an input of two.
pub(super) fn rows_and_columns(input: &Tensor) -> TractResult<(usize, usize)> {
    let [rows, columns] = *input.shape() else { bail!("the input has not two axes") };
    ensure!(columns > 0, "the input has no columns");
    Ok((rows, columns))
}

impl Stored {
    pub(super) fn trees(&self) -> usize {
        match self {
            Self::Single(ensemble) => ensemble.forest.trees.len(),
            Self::Double(ensemble) => ensemble.forest.trees.len(),
        }
    }

    /// Checks type and shape of the input; returns its rows.
    ///
    /// *Errors*: another type than ONNX and the precision of the attributes allow, or columns are missing.
    pub(super) fn check_input(&self, inputs: &[&TypedFact]) -> TractResult<TDim> {
        let [input] = inputs else { bail!("it takes one input, not {}", inputs.len()) };
        let (double, feature_max) = match self {
            Self::Single(ensemble) => (false, ensemble.forest.feature_max),
            Self::Double(ensemble) => (true, ensemble.forest.feature_max),
        };
        match input.datum_type {
            DatumType::F64 => {}
            DatumType::F32 | DatumType::I32 | DatumType::I64 if !double => {}
            other => bail!(
                "it takes no input of {other:?}{}",
                if double { ", since its attributes are of double precision" } else { "" }
            ),
        }
        let [rows, columns] = &input.shape[..] else {
            bail!("it takes an input of two axes, not {}", input.rank())
        };
        if let Ok(columns) = columns.to_usize() {
            ensure!(columns > feature_max as usize, "it asks for column {feature_max} of {columns}");
        }
        Ok(rows.clone())
    }
}

impl Regressor {
    fn evaluate<T: Real, X: Real + From<T>, Y: Real>(
        &self,
        ensemble: &Ensemble<T>,
        input: &Tensor,
        output: &mut Tensor,
        out: fn(X) -> Y,
    ) -> TractResult<()> {
        let (rows, columns) = rows_and_columns(input)?;
        let mut plain = output.try_as_plain_ram_mut()?;
        let all = plain.as_slice_mut::<Y>()?;
        ensure!(all.len() == rows * self.targets, "its output is not made for {rows} rows");
        let input = input.try_as_plain_ram()?;
        ensemble.evaluate(input.as_slice::<X>()?, columns, |index, row| {
            self.finish(row.values, row.seen);
            for (target, value) in all[index * self.targets..].iter_mut().zip(row.values) {
                *target = out(*value);
            }
            Ok(())
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "trees are counted below 2^32")]
    fn finish<X: Real>(&self, values: &mut [X], seen: &[bool]) {
        if let Some(trees) = self.averaged {
            let trees = X::near(trees as f64);
            values.iter_mut().for_each(|value| *value = *value / trees);
        }
        for ((value, seen), base) in values.iter_mut().zip(seen).zip(&self.base) {
            if *seen {
                *value += X::near(*base);
            }
        }
        if self.targets > 1 || self.post == PostTransform::Probit {
            self.post.apply(values);
        }
    }
}

impl Kernel for Regressor {
    fn name(&self) -> &'static str {
        match self.operator {
            Operator::TreeEnsembleRegressor => "TreeEnsembleRegressor",
            Operator::TreeEnsemble => "TreeEnsemble",
        }
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let rows = self.stored.check_input(inputs)?;
        let given = inputs[0].datum_type;
        let output = match self.operator {
            Operator::TreeEnsembleRegressor => f32::datum_type(),
            Operator::TreeEnsemble => {
                let stored = match self.stored {
                    Stored::Single(_) => f32::datum_type(),
                    Stored::Double(_) => f64::datum_type(),
                };
                ensure!(given == stored, "its input is of {given:?} and its attributes are of {stored:?}");
                given
            }
        };
        Ok(tvec!(fact(output, &[rows, self.targets.to_dim()])))
    }

    fn writes_outputs(&self) -> bool {
        true
    }

    fn run_into(&self, inputs: &[&Tensor], outputs: &mut [&mut Tensor]) -> TractResult<()> {
        let ([input], [output]) = (inputs, outputs) else { bail!("it takes one input and makes one output") };
        let double = input.datum_type() == DatumType::F64;
        match &self.stored {
            Stored::Double(ensemble) if self.operator == Operator::TreeEnsemble => {
                self.evaluate::<f64, f64, f64>(ensemble, input, output, |value| value)
            }
            Stored::Double(ensemble) => self.evaluate(ensemble, input, output, f64::single),
            Stored::Single(ensemble) if double => {
                self.evaluate::<f32, f64, f32>(ensemble, input, output, f64::single)
            }
            Stored::Single(ensemble) => {
                let input = input.cast_to::<f32>()?;
                self.evaluate::<f32, f32, f32>(ensemble, &input, output, |value| value)
            }
        }
    }
}
