//! A dense layer: rows of values times constant weights, a bias, and an activation on the way out.
//!
//! Packs the weights when the plan is made. Products run as loops over the machine's vectors, which begin at once; large
//! ones of machines with narrow vectors go through tract's matrix kernels. Never takes weights that a run computes.

use std::sync::Mutex;

use pulp::{Simd, WithSimd};
use tract_onnx::tract_core::internal::*;

use super::super::super::vectors::{in_vectors, lanes};
use super::super::kernel::{Kernel, fact};
use super::activation::Map;
use super::product::{Product, Weights};

/// Vectors of at least this many values: every product runs as loops. Measured with 16 on x86-64, where they reach 0.9 of
/// what the machine can multiply, from 1 row of 16 values up to 1,000 of 256.
const WIDE: usize = 8;

/// Most multiplications that run as loops over narrower vectors: 32 rows of 64 values to 64 outputs. Up to there what a
/// matrix kernel spends on packing the rows is a tenth of all; its blocks for four lanes are larger than those here.
const LOOPED_MAX: usize = 32 * 64 * 64;

/// A layer for a known number of rows.
#[derive(Debug)]
pub(super) struct Dense {
    outputs: usize,
    depth: usize,
    /// Of the input.
    shape: TVec<usize>,
    way: Way,
    activation: Option<Map>,
}

enum Way {
    Looped(Vectors),
    Packed(Box<Packed>),
}

impl Way {
    fn packed(weights: &Tensor, bias: &[f32], rows: usize) -> TractResult<Self> {
        let weights = Weights::pack(weights, rows)?;
        Ok(Self::Packed(Box::new(Packed { weights, bias: tensor1(bias), kept: Mutex::new(None) })))
    }
}

/// Weights for tract's kernels.
struct Packed {
    weights: Weights,
    /// *Shape*: `[outputs]`
    bias: Tensor,
    /// Buffers wait here for the next run; runs at the same time make their own.
    kept: Mutex<Option<Product>>,
}

/// Weights for loops over vectors, the last filled up with zeros.
struct Vectors {
    /// *Shape*: `[vectors, depth, lanes]`
    weights: Vec<f32>,
    /// *Shape*: `[vectors, lanes]`
    bias: Vec<f32>,
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Looped(_) => f.write_str("Looped"),
            Self::Packed(packed) => f.debug_tuple("Packed").field(&packed.weights).finish(),
        }
    }
}

impl Dense {
    /// Prepares a layer for inputs of a shape, whose last axis is the depth.
    ///
    /// *Shape*: `weights` is `[outputs, depth]`, `bias` is `[outputs]`.
    pub(super) fn prepare(
        weights: &Tensor,
        bias: &[f32],
        shape: &[usize],
        activation: Option<Map>,
    ) -> TractResult<Self> {
        let &[outputs, depth] = weights.shape() else { bail!("weights of {} axes", weights.rank()) };
        ensure!(bias.len() == outputs, "a bias of {} values for {outputs} outputs", bias.len());
        let Some((&last, leading)) = shape.split_last() else { bail!("a layer of one value") };
        ensure!(last == depth && !shape.contains(&0), "an input of shape {shape:?} for a depth of {depth}");
        let rows: usize = leading.iter().product();
        let work = rows.saturating_mul(outputs).saturating_mul(depth);
        let way = if lanes() >= WIDE || work <= LOOPED_MAX {
            Way::Looped(Vectors::of(weights, bias, depth)?)
        } else {
            Way::packed(weights, bias, rows)?
        };
        Ok(Self { outputs, depth, shape: shape.into(), way, activation })
    }

    fn rows(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product()
    }

    fn output_shape(&self) -> TVec<usize> {
        let mut shape = self.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = self.outputs;
        }
        shape
    }
}

impl Vectors {
    fn of(weights: &Tensor, bias: &[f32], depth: usize) -> TractResult<Self> {
        let lanes = lanes();
        let weights = weights.try_as_plain_ram()?;
        let of_vector = |outputs: &[f32]| -> Vec<f32> {
            let value = |k: usize, lane: usize| outputs.get(lane * depth + k).copied().unwrap_or(0.0);
            (0..depth).flat_map(|k| (0..lanes).map(move |lane| value(k, lane))).collect()
        };
        let weights = weights.as_slice::<f32>()?.chunks(lanes * depth).flat_map(of_vector).collect();
        let mut bias = bias.to_vec();
        bias.resize(bias.len().next_multiple_of(lanes), 0.0);
        Ok(Self { weights, bias })
    }
}

/// One run of a layer.
struct Layer<'a> {
    vectors: &'a Vectors,
    depth: usize,
    outputs: usize,
    from: &'a [f32],
    into: &'a mut [f32],
}

impl Layer<'_> {
    /// Computes some rows of some vectors of outputs. Loops by number: what a closure does is not always inlined, and
    /// vectors would then go through memory.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "several arrays go side by side, unrolled")]
    fn block<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        simd: S,
        row: usize,
        vector: usize,
    ) {
        let (depth, outputs) = (self.depth, self.outputs);
        let (weights, _) = S::as_simd_f32s(&self.vectors.weights);
        let (bias, _) = S::as_simd_f32s(&self.vectors.bias);
        let weights = &weights[vector * depth..(vector + VECTORS) * depth];
        let from = &self.from[row * depth..(row + ROWS) * depth];
        // All of one length, which the compiler then sees: no check of a bound in the loop.
        let mut columns = [weights; VECTORS];
        for at in 0..VECTORS {
            columns[at] = &weights[at * depth..(at + 1) * depth];
        }
        let mut rows = [from; ROWS];
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        for next in 0..ROWS {
            rows[next] = &from[next * depth..(next + 1) * depth];
            sums[next].copy_from_slice(&bias[vector..vector + VECTORS]);
        }
        for k in 0..depth {
            let mut weights = [bias[0]; VECTORS];
            for at in 0..VECTORS {
                weights[at] = columns[at][k];
            }
            for next in 0..ROWS {
                let value = simd.splat_f32s(rows[next][k]);
                for at in 0..VECTORS {
                    sums[next][at] = simd.mul_add_e_f32s(value, weights[at], sums[next][at]);
                }
            }
        }
        for next in 0..ROWS {
            let into = &mut self.into[(row + next) * outputs..(row + next + 1) * outputs];
            for at in 0..VECTORS {
                let into = &mut into[(vector + at) * S::F32_LANES..];
                match S::as_mut_simd_f32s(into) {
                    ([into, ..], _) => *into = sums[next][at],
                    ([], rest) => simd.partial_store_f32s(rest, sums[next][at]),
                }
            }
        }
    }

    /// Computes all rows of some vectors of outputs.
    #[inline(always)]
    fn columns<S: Simd, const ROWS: usize, const VECTORS: usize>(&mut self, simd: S, vector: usize) {
        let rows = self.from.len() / self.depth;
        let mut row = 0;
        while row + ROWS <= rows {
            self.block::<S, ROWS, VECTORS>(simd, row, vector);
            row += ROWS;
        }
        while ROWS > 4 && row + 4 <= rows {
            self.block::<S, 4, VECTORS>(simd, row, vector);
            row += 4;
        }
        while row < rows {
            self.block::<S, 1, VECTORS>(simd, row, vector);
            row += 1;
        }
    }
}

impl WithSimd for Layer<'_> {
    type Output = ();

    /// Blocks of as many sums as the registers hold, and at least eight where there are: so many products are under way at
    /// once on common machines. More vectors at a time were slower, since each is one more place in memory to read.
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let vectors = self.vectors.bias.len() / S::F32_LANES;
        let is_alone = self.from.len() == self.depth;
        let mut vector = 0;
        while is_alone && vector + 8 <= vectors {
            self.block::<S, 1, 8>(simd, 0, vector);
            vector += 8;
        }
        while is_alone && vector + 4 <= vectors {
            self.block::<S, 1, 4>(simd, 0, vector);
            vector += 4;
        }
        while vector + 2 <= vectors {
            if S::REGISTER_COUNT > 16 {
                self.columns::<S, 8, 2>(simd, vector);
            } else {
                self.columns::<S, 4, 2>(simd, vector);
            }
            vector += 2;
        }
        if vector < vectors {
            self.columns::<S, 8, 1>(simd, vector);
        }
    }
}

impl Kernel for Dense {
    fn name(&self) -> &'static str {
        "Gemm"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [input] = inputs else { bail!("it takes one input, not {}", inputs.len()) };
        let is_planned =
            input.datum_type == DatumType::F32 && input.shape.as_concrete() == Some(&self.shape[..]);
        ensure!(is_planned, "{input:?} is not of shape {:?}", self.shape);
        let shape: TVec<TDim> = self.output_shape().iter().map(|length| length.to_dim()).collect();
        Ok(tvec!(fact(f32::datum_type(), &shape)))
    }

    fn run(&self, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let Some(input) = inputs.pop() else { bail!("it takes one input") };
        let mut output = match &self.way {
            Way::Looped(vectors) => {
                let mut output = Tensor::zero::<f32>(&self.output_shape())?;
                let from = input.try_as_plain_ram()?;
                let from = from.as_slice::<f32>()?;
                ensure!(from.len() == self.rows() * self.depth, "an input of another shape");
                let mut into = output.try_as_plain_ram_mut()?;
                let into = into.as_slice_mut::<f32>()?;
                in_vectors(Layer { vectors, depth: self.depth, outputs: self.outputs, from, into });
                output
            }
            Way::Packed(packed) => {
                let Packed { weights, bias, kept } = &**packed;
                let mut output = Tensor::zero::<f32>(&[self.rows(), self.outputs])?;
                let input = input.into_tensor().into_shape(&[self.rows(), self.depth])?;
                let waiting = kept.try_lock().ok().and_then(|mut kept| kept.take());
                let mut product = match waiting {
                    Some(product) => product,
                    None => weights.product(self.rows())?,
                };
                product.run(weights, &input, bias, &mut output)?;
                if let Ok(mut kept) = kept.try_lock() {
                    *kept = Some(product);
                }
                output.into_shape(&self.output_shape())?
            }
        };
        if let Some(activation) = self.activation {
            activation.all(output.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?);
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(layer: &Dense, shape: &[usize]) -> Tensor {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|at| (at * 37 % 41) as f32 - 20.0).collect();
        let input = Tensor::from_shape(shape, &values).unwrap();
        layer.run(tvec!(input.into_tvalue())).unwrap().remove(0).into_tensor()
    }

    #[test]
    fn loops_and_kernels_give_the_same_sums_for_any_number_of_axes() {
        for (shape, outputs) in [
            (&[1, 1][..], 1),
            (&[1, 7], 200),
            (&[5, 16], 17),
            (&[33, 3], 4),
            (&[2, 3, 5], 35),
            (&[3, 1, 4, 9], 64),
        ] {
            let (depth, rows) = (shape[shape.len() - 1], shape[..shape.len() - 1].iter().product());
            let weights: Vec<f32> = (0..outputs * depth).map(|at| (at * 29 % 31) as f32 - 15.0).collect();
            let weights = Tensor::from_shape(&[outputs, depth], &weights).unwrap();
            let bias: Vec<f32> = (0..outputs).map(|at| at as f32).collect();
            let mut layer = Dense::prepare(&weights, &bias, shape, Some(Map::Relu)).unwrap();
            layer.way = Way::Looped(Vectors::of(&weights, &bias, depth).unwrap());
            let looped = run(&layer, shape);
            layer.way = Way::packed(&weights, &bias, rows).unwrap();
            // Whole numbers: every order of the sums gives the same.
            for _ in 0..2 {
                assert_eq!(run(&layer, shape), looped);
            }
        }
    }
}
