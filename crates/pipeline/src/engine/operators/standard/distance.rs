//! `CDist`: the distance of each row to each row of a second table, as exporters of nearest neighbours and Gaussian
//! processes write it.
//!
//! Sums the squares of differences, in the values' own type: rows far from zero keep their digits.
//!
//! *Source*: com.microsoft 1, CDist.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};

#[derive(Debug)]
struct Distances {
    /// Without the root.
    is_squared: bool,
}

pub(super) fn build(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &["metric"])?;
    match node.get_attr_opt::<&str>("metric")?.unwrap_or("sqeuclidean") {
        "sqeuclidean" => built(Distances { is_squared: true }),
        "euclidean" => built(Distances { is_squared: false }),
        other => bail!("`metric` is `{other}`"),
    }
}

macro_rules! distances {
    ($name:ident, $type:ident) => {
        fn $name(&self, a: &Tensor, b: &Tensor, width: usize) -> TractResult<Tensor> {
            let shape = [a.shape()[0], b.shape()[0]];
            let mut found: Vec<$type> = Vec::with_capacity(shape[0] * shape[1]);
            let (a, b) = (a.try_as_plain_ram()?, b.try_as_plain_ram()?);
            for row in a.as_slice::<$type>()?.chunks_exact(width) {
                for other in b.as_slice::<$type>()?.chunks_exact(width) {
                    let sum: $type = row.iter().zip(other).map(|(x, y)| (x - y) * (x - y)).sum();
                    found.push(if self.is_squared { sum } else { sum.sqrt() });
                }
            }
            Tensor::from_shape(&shape, &found)
        }
    };
}

impl Distances {
    distances!(single, f32);
    distances!(double, f64);
}

impl Kernel for Distances {
    fn name(&self) -> &'static str {
        "CDist"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [a, b] = inputs else { bail!("it takes two inputs, not {}", inputs.len()) };
        ensure!(a.rank() == 2 && b.rank() == 2, "tables of {} and {} axes", a.rank(), b.rank());
        ensure!(a.shape[1] == b.shape[1], "tables of {} and {} columns", a.shape[1], b.shape[1]);
        ensure!(a.shape[1] != 0.to_dim(), "tables without columns");
        let takes = matches!(a.datum_type, DatumType::F32 | DatumType::F64) && a.datum_type == b.datum_type;
        ensure!(takes, "tables of {:?} and {:?}", a.datum_type, b.datum_type);
        Ok(tvec!(fact(a.datum_type, &[a.shape[0].clone(), b.shape[0].clone()])))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (a, b) = (&inputs[0], &inputs[1]);
        let width = a.shape()[1];
        let found = match a.datum_type() {
            DatumType::F32 => self.single(a, b, width)?,
            _ => self.double(a, b, width)?,
        };
        Ok(tvec!(found.into_tvalue()))
    }
}
