//! The kernel function of a row with each support vector.
//!
//! Keeps the vectors in groups of eight with their features beside each other, so that eight values are computed at once
//! in the order of features.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::super::super::standard::curves;
use super::super::rows::{Lanes, add_lanes};

/// Vectors of one group.
const LANES: usize = size_of::<Lanes>() / size_of::<f32>();

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
        for group in self.groups.chunks_exact(self.columns) {
            let mut sums: Lanes = [0.0; LANES];
            if matches!(self.function, Function::Rbf { .. }) {
                for (x, vectors) in row.iter().zip(group) {
                    sums = add_lanes(&sums, |lane| {
                        let difference = x - vectors[lane];
                        difference * difference
                    });
                }
            } else {
                for (x, vectors) in row.iter().zip(group) {
                    sums = add_lanes(&sums, |lane| x * vectors[lane]);
                }
            }
            into.extend_from_slice(&sums);
        }
        into.truncate(self.count);
        match self.function {
            Function::Linear => {}
            Function::Rbf { gamma } => into.iter_mut().for_each(|value| *value = (-gamma * *value).exp()),
            Function::Sigmoid { gamma, coef0 } => {
                into.iter_mut().for_each(|value| *value = curves::tanh(gamma * *value + coef0));
            }
            Function::Poly { gamma, coef0, degree } => {
                let power = |base: f32| match degree {
                    2.0 => base * base,
                    3.0 => base * base * base,
                    _ => base.powf(degree),
                };
                into.iter_mut().for_each(|value| *value = power(gamma * *value + coef0));
            }
        }
    }
}
