//! The kernel function of a row with each support vector.
//!
//! Keeps the support vectors in groups, as many as a vector of the machine has lanes, with their features beside each other,
//! so that a group is computed at once in the order of features.

use pulp::{Simd, WithSimd};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::super::super::super::vectors::{Arithmetic, Loops, in_vectors, lanes, on_widest};
use super::super::super::standard::curves;

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
    lanes: usize,
    /// *Shape*: `[groups, columns, lanes]`, the last group filled with zeros.
    groups: Vec<f32>,
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
        let lanes = lanes();
        let mut groups = Vec::with_capacity(count.next_multiple_of(lanes) * columns);
        for group in values.chunks(lanes * columns) {
            for column in 0..columns {
                let value = |lane: usize| group.get(lane * columns + column).copied().unwrap_or(0.0);
                groups.extend((0..lanes).map(value));
            }
        }
        Ok(Self { function: Function::read(node)?, count, columns, lanes, groups })
    }

    /// Returns how many features a row has.
    pub(super) const fn columns(&self) -> usize {
        self.columns
    }

    /// Computes the kernel function of a row with every vector.
    pub(super) fn kernels(&self, row: &[f32], into: &mut Vec<f32>) {
        into.clear();
        into.resize(self.count.next_multiple_of(self.lanes), 0.0);
        in_vectors(Sums { vectors: self, row, into });
        into.truncate(self.count);
        if self.function != Function::Linear {
            on_widest(Curve(self.function, into));
        }
    }
}

/// Products of one row with every vector, or squares of their distances.
struct Sums<'a> {
    vectors: &'a SupportVectors,
    row: &'a [f32],
    /// *Shape*: `[groups * lanes]`.
    into: &'a mut [f32],
}

impl Sums<'_> {
    /// Computes some groups together: so many sums are under way at once.
    #[inline(always)]
    fn block<S: Simd, const GROUPS: usize>(&mut self, simd: S, first: usize) {
        let columns = self.vectors.columns;
        let (groups, _) = S::as_simd_f32s(&self.vectors.groups);
        let groups = &groups[first * columns..(first + GROUPS) * columns];
        let row = &self.row[..columns];
        let mut sums = [simd.splat_f32s(0.0); GROUPS];
        if matches!(self.vectors.function, Function::Rbf { .. }) {
            for column in 0..columns {
                let value = simd.splat_f32s(row[column]);
                for group in 0..GROUPS {
                    let difference = simd.sub_f32s(value, groups[group * columns + column]);
                    sums[group] = simd.mul_add_e_f32s(difference, difference, sums[group]);
                }
            }
        } else {
            for column in 0..columns {
                let value = simd.splat_f32s(row[column]);
                for group in 0..GROUPS {
                    sums[group] = simd.mul_add_e_f32s(value, groups[group * columns + column], sums[group]);
                }
            }
        }
        let (into, _) = S::as_mut_simd_f32s(self.into);
        into[first..first + GROUPS].copy_from_slice(&sums);
    }
}

impl WithSimd for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let groups = self.into.len() / S::F32_LANES;
        let mut group = 0;
        while group + 4 <= groups {
            self.block::<S, 4>(simd, group);
            group += 4;
        }
        while group < groups {
            self.block::<S, 1>(simd, group);
            group += 1;
        }
    }
}

/// A kernel function of sums.
struct Curve<'a>(Function, &'a mut [f32]);

impl Loops for Curve<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self(function, values) = self;
        match function {
            Function::Linear => {}
            Function::Rbf { gamma } => {
                for value in values {
                    *value = curves::exp(-gamma * *value);
                }
            }
            Function::Sigmoid { gamma, coef0 } => {
                for value in values {
                    *value = curves::tanh(gamma * *value + coef0);
                }
            }
            Function::Poly { gamma, coef0, degree } => {
                for value in values.iter_mut() {
                    *value = gamma * *value + coef0;
                }
                if degree == 2.0 {
                    for value in values {
                        *value *= *value;
                    }
                } else if degree == 3.0 {
                    for value in values {
                        *value = *value * *value * *value;
                    }
                } else {
                    for value in values {
                        *value = value.powf(degree);
                    }
                }
            }
        }
    }
}
