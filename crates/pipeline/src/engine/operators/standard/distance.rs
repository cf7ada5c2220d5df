//! `CDist`: the distance of each row to each row of a second table, as exporters of nearest neighbours and Gaussian
//! processes write it.
//!
//! Sums squares or sizes of differences, in the values' own type: rows far from zero keep their digits. Sixteen rows of the
//! second table are looked at together; constant ones are put side by side when the plan is made.
//!
//! *Source*: com.microsoft 1, CDist.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::super::super::vectors::{Arithmetic, Loops, on_widest};
use super::super::attributes::require_only;
use super::super::kernel::{Kernel, Prepared, built, fact};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Metric {
    Squared,
    Euclidean,
    Manhattan,
}

/// Rows of one group.
const LANES: usize = 16;

/// The second table in groups of rows, their columns beside each other.
///
/// *Shape*: `[groups, columns, LANES]`, the last group filled with zeros.
#[derive(Debug, Clone)]
enum Groups {
    Single(Vec<[f32; LANES]>),
    Double(Vec<[f64; LANES]>),
}

#[derive(Debug, Clone)]
struct Distances {
    metric: Metric,
    /// Where the second table is constant: its rows.
    constant: Option<(usize, Groups)>,
}

pub(super) fn build(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &["metric"])?;
    let metric = match node.get_attr_opt::<&str>("metric")?.unwrap_or("sqeuclidean") {
        "sqeuclidean" => Metric::Squared,
        "euclidean" => Metric::Euclidean,
        "cityblock" => Metric::Manhattan,
        other => bail!("`metric` is `{other}`"),
    };
    built(Distances { metric, constant: None })
}

impl Groups {
    fn of(table: &Tensor) -> TractResult<Self> {
        fn side_by_side<T: Datum + Copy + Default>(table: &Tensor) -> TractResult<Vec<[T; LANES]>> {
            let width = table.shape()[1];
            let values = table.try_as_plain_ram()?;
            let mut groups = Vec::with_capacity(table.shape()[0].div_ceil(LANES) * width);
            for rows in values.as_slice::<T>()?.chunks(LANES * width) {
                for column in 0..width {
                    let mut lanes = [T::default(); LANES];
                    for (lane, row) in lanes.iter_mut().zip(rows.chunks_exact(width)) {
                        *lane = row[column];
                    }
                    groups.push(lanes);
                }
            }
            Ok(groups)
        }
        Ok(match table.datum_type() {
            DatumType::F32 => Self::Single(side_by_side(table)?),
            _ => Self::Double(side_by_side(table)?),
        })
    }
}

/// All distances of one run.
struct Run<'a, T> {
    metric: Metric,
    rows: &'a [T],
    groups: &'a [[T; LANES]],
    width: usize,
    /// *Shape*: `[rows, others]`.
    into: &'a mut [T],
    others: usize,
}

macro_rules! distances {
    ($type:ident) => {
        impl Run<'_, $type> {
            #[inline(always)]
            fn each(self, term: impl Fn($type) -> $type, end: impl Fn($type) -> $type) {
                let rows = self.rows.chunks_exact(self.width).zip(self.into.chunks_exact_mut(self.others));
                for (row, into) in rows {
                    let groups = self.groups.chunks_exact(self.width).zip(into.chunks_mut(LANES));
                    for (group, into) in groups {
                        let mut sums: [$type; LANES] = [0.0; LANES];
                        for (x, others) in row.iter().zip(group) {
                            for (sum, other) in sums.iter_mut().zip(others) {
                                *sum += term(x - other);
                            }
                        }
                        for sum in &mut sums {
                            *sum = end(*sum);
                        }
                        into.copy_from_slice(&sums[..into.len()]);
                    }
                }
            }
        }

        impl Loops for Run<'_, $type> {
            type Output = ();

            #[inline(always)]
            fn run<A: Arithmetic>(self) {
                match self.metric {
                    Metric::Squared => self.each(|x| x * x, |sum| sum),
                    Metric::Euclidean => self.each(|x| x * x, $type::sqrt),
                    Metric::Manhattan => self.each($type::abs, |sum| sum),
                }
            }
        }
    };
}

distances!(f32);
distances!(f64);

impl Distances {
    fn to_groups(&self, rows: &Tensor, groups: &Groups, others: usize) -> TractResult<Tensor> {
        let &[count, width] = rows.shape() else { bail!("a table of {} axes", rows.rank()) };
        let metric = self.metric;
        let from = rows.try_as_plain_ram()?;
        let mut found = Tensor::zero_dt(rows.datum_type(), &[count, others])?;
        if found.len() == 0 {
            return Ok(found);
        }
        let mut into = found.try_as_plain_ram_mut()?;
        match groups {
            Groups::Single(groups) => {
                let (rows, into) = (from.as_slice::<f32>()?, into.as_slice_mut::<f32>()?);
                on_widest(Run { metric, rows, groups, width, into, others });
            }
            Groups::Double(groups) => {
                let (rows, into) = (from.as_slice::<f64>()?, into.as_slice_mut::<f64>()?);
                on_widest(Run { metric, rows, groups, width, into, others });
            }
        }
        Ok(found)
    }
}

/// *Errors*: no two tables of floats with as many columns.
fn check(a: &TypedFact, b: &TypedFact) -> TractResult<()> {
    ensure!(a.rank() == 2 && b.rank() == 2, "tables of {} and {} axes", a.rank(), b.rank());
    ensure!(a.shape[1] == b.shape[1], "tables of {} and {} columns", a.shape[1], b.shape[1]);
    ensure!(a.shape[1] != 0.to_dim(), "tables without columns");
    let takes = matches!(a.datum_type, DatumType::F32 | DatumType::F64) && a.datum_type == b.datum_type;
    ensure!(takes, "tables of {:?} and {:?}", a.datum_type, b.datum_type);
    Ok(())
}

impl Kernel for Distances {
    fn name(&self) -> &'static str {
        "CDist"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        if let ([a], Some((others, _))) = (inputs, &self.constant) {
            return Ok(tvec!(fact(a.datum_type, &[a.shape[0].clone(), others.to_dim()])));
        }
        let [a, b] = inputs else { bail!("it takes two inputs, not {}", inputs.len()) };
        check(a, b)?;
        Ok(tvec!(fact(a.datum_type, &[a.shape[0].clone(), b.shape[0].clone()])))
    }

    fn prepared(&self, inputs: &[&TypedFact]) -> TractResult<Option<Prepared>> {
        let [a, b] = inputs else { return Ok(None) };
        let Some(table) = &b.konst else { return Ok(None) };
        check(a, b)?;
        let constant = Some((table.shape()[0], Groups::of(table)?));
        let kernel = Self { metric: self.metric, constant };
        Ok(Some(Prepared { kernel: Arc::new(kernel), inputs: vec![0] }))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let found = match &self.constant {
            Some((others, groups)) => self.to_groups(&inputs[0], groups, *others)?,
            None => self.to_groups(&inputs[0], &Groups::of(&inputs[1])?, inputs[1].shape()[0])?,
        };
        Ok(tvec!(found.into_tvalue()))
    }
}
