//! The kernel function of a row with each support vector.
//!
//! Keeps the vectors in groups of sixteen with their features beside each other, so that these are computed at once
//! in the order of features.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::super::super::super::vectors::{Arithmetic, Loops, on_widest};
use super::super::super::standard::curves;

/// Vectors of one group.
const LANES: usize = 16;

/// Values of a group, one a vector.
type Lanes = [f32; LANES];

/// A kernel function with its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Function {
    Linear,
    Poly { gamma: f32, coef0: f32, degree: f32 },
    Rbf { gamma: f32 },
    Sigmoid { gamma: f32, coef0: f32 },
}

impl Function {
    /// *Errors*: another kernel, or not three parameters.
    fn read(node: &NodeProto) -> TractResult<Self> {
        let parameters: Vec<f32> = node.get_attr_opt_vec("kernel_params")?.unwrap_or_default();
        let [gamma, coef0, degree] = match parameters.as_slice() {
            [] => [0.0; 3],
            &[gamma, coef0, degree] => [gamma, coef0, degree],
            other => bail!("`kernel_params` has {} values, not gamma, coef0 and degree", other.len()),
        };
        Ok(match node.get_attr_opt::<&str>("kernel_type")?.unwrap_or("LINEAR") {
            "LINEAR" => Self::Linear,
            "POLY" => Self::Poly { gamma, coef0, degree },
            "RBF" => Self::Rbf { gamma },
            "SIGMOID" => Self::Sigmoid { gamma, coef0 },
            other => {
                bail!("`kernel_type` is `{}`, which is none", other.chars().take(64).collect::<String>())
            }
        })
    }
}

/// The support vectors of a machine.
#[derive(Debug)]
pub(super) struct SupportVectors {
    function: Function,
    count: usize,
    columns: usize,
    /// *Shape*: `[groups, columns, LANES]`, the last group filled with zeros.
    groups: Vec<Lanes>,
}

impl SupportVectors {
    /// Reads `count` vectors and the kernel.
    ///
    /// *Errors*: the values are not that many vectors of one length.
    pub(super) fn read(node: &NodeProto, count: usize) -> TractResult<Self> {
        let values: Vec<f32> = node.get_attr_opt_vec("support_vectors")?.unwrap_or_default();
        ensure!(
            count > 0 && !values.is_empty() && values.len().is_multiple_of(count),
            "`support_vectors` has {} values, which are no {count} vectors",
            values.len()
        );
        let columns = values.len() / count;
        let mut groups = Vec::with_capacity(count.div_ceil(LANES) * columns);
        for group in values.chunks(LANES * columns) {
            for column in 0..columns {
                let mut lanes = [0.0; LANES];
                for (lane, vector) in lanes.iter_mut().zip(group.chunks_exact(columns)) {
                    *lane = vector[column];
                }
                groups.push(lanes);
            }
        }
        Ok(Self { function: Function::read(node)?, count, columns, groups })
    }

    /// Returns how many features a row has.
    pub(super) const fn columns(&self) -> usize {
        self.columns
    }

    /// Computes the kernel function of a row with every vector.
    pub(super) fn kernels(&self, row: &[f32], into: &mut Vec<f32>) {
        into.clear();
        into.resize(self.count.next_multiple_of(LANES), 0.0);
        on_widest(Row { vectors: self, row, into });
        into.truncate(self.count);
    }
}

/// One row with every vector.
struct Row<'a> {
    vectors: &'a SupportVectors,
    row: &'a [f32],
    /// *Shape*: `[groups * LANES]`.
    into: &'a mut [f32],
}

impl Row<'_> {
    #[inline(always)]
    fn each<A: Arithmetic>(self, is_distance: bool, function: impl Fn(f32) -> f32) {
        let groups = self.vectors.groups.chunks_exact(self.vectors.columns);
        let (into, _) = self.into.as_chunks_mut::<LANES>();
        for (group, into) in groups.zip(into) {
            let mut sums: Lanes = [0.0; LANES];
            for (x, vectors) in self.row.iter().zip(group) {
                for lane in 0..LANES {
                    let (a, b) = if is_distance {
                        (x - vectors[lane], x - vectors[lane])
                    } else {
                        (*x, vectors[lane])
                    };
                    sums[lane] = A::add_product(sums[lane], a, b);
                }
            }
            for (into, sum) in into.iter_mut().zip(&sums) {
                *into = function(*sum);
            }
        }
    }
}

impl Loops for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        match self.vectors.function {
            Function::Linear => self.each::<A>(false, |sum| sum),
            Function::Rbf { gamma } => self.each::<A>(true, |sum| curves::exp(-gamma * sum)),
            Function::Sigmoid { gamma, coef0 } => {
                self.each::<A>(false, |sum| curves::tanh(gamma * sum + coef0));
            }
            Function::Poly { gamma, coef0, degree: 2.0 } => self.each::<A>(false, |sum| {
                let base = gamma * sum + coef0;
                base * base
            }),
            Function::Poly { gamma, coef0, degree: 3.0 } => self.each::<A>(false, |sum| {
                let base = gamma * sum + coef0;
                base * base * base
            }),
            Function::Poly { gamma, coef0, degree } => {
                self.each::<A>(false, |sum| (gamma * sum + coef0).powf(degree));
            }
        }
    }
}
