//! A dense layer: rows of values times constant weights, a bias, and an activation on the way out.
//!
//! Packs the weights when the plan is made. Few products run as plain loops over panels of weights, which begin at once;
//! more go through tract's matrix kernels. Never takes weights that a run computes.

use std::sync::Mutex;

use tract_onnx::tract_core::internal::*;

use super::super::kernel::{Kernel, fact};
use super::super::recurrent::product::{Addend, Product, Weights};
use super::activation::Map;

/// Most multiplications that run as plain loops, 32 rows of 32 values to 32 outputs: below it a matrix kernel spends more
/// on packing the rows than its wider vectors save, measured on x86-64 with AVX-512, where it saves most.
const LOOPED_MAX: usize = 32 * 32 * 32;

/// A layer for a known number of rows.
#[derive(Debug)]
pub(super) struct Dense {
    /// `[outputs]`
    bias: Tensor,
    depth: usize,
    /// Rows of the input.
    rows: usize,
    way: Way,
    activation: Option<Map>,
}

enum Way {
    /// *Shape*: `[panels, depth, PANEL]`
    Looped(Vec<[f32; PANEL]>),
    /// Buffers wait here for the next run; runs at the same time make their own.
    Packed(Weights, Mutex<Option<Product>>),
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Looped(_) => f.write_str("Looped"),
            Self::Packed(weights, _) => f.debug_tuple("Packed").field(weights).finish(),
        }
    }
}

impl Dense {
    /// Prepares a layer for `rows` rows.
    ///
    /// *Shape*: `weights` is `[outputs, depth]`, `bias` is `[outputs]`.
    pub(super) fn prepare(
        weights: &Tensor,
        bias: Vec<f32>,
        rows: usize,
        activation: Option<Map>,
    ) -> TractResult<Self> {
        let &[outputs, depth] = weights.shape() else { bail!("weights of {} axes", weights.rank()) };
        ensure!(bias.len() == outputs, "a bias of {} values for {outputs} outputs", bias.len());
        let work = rows.saturating_mul(outputs).saturating_mul(depth);
        let way = if work <= LOOPED_MAX {
            Way::Looped(panels(weights, depth)?)
        } else {
            Way::Packed(Weights::pack(weights, rows)?, Mutex::new(None))
        };
        Ok(Self { bias: tensor1(&bias), depth, rows, way, activation })
    }
}

/// Outputs of a panel: two vectors on the smallest targets.
const PANEL: usize = 8;

/// Rows that go through a panel together: their sums and the panel's weights fit the registers of baseline x86-64.
const TOGETHER: usize = 4;

/// Returns weights in panels of outputs, the last filled up with zeros.
///
/// *Shape*: `[outputs, depth]` to `[panels, depth, PANEL]`
fn panels(weights: &Tensor, depth: usize) -> TractResult<Vec<[f32; PANEL]>> {
    let weights = weights.try_as_plain_ram()?;
    let weights = weights.as_slice::<f32>()?;
    let of_panel = |outputs: &[f32]| -> Vec<[f32; PANEL]> {
        let value = |k: usize, lane: usize| outputs.get(lane * depth + k).copied().unwrap_or(0.0);
        (0..depth).map(|k| std::array::from_fn(|lane| value(k, lane))).collect()
    };
    Ok(weights.chunks(PANEL * depth).flat_map(of_panel).collect())
}

#[inline(always)]
fn add_product(sum: f32, a: f32, b: f32) -> f32 {
    // Without such an instruction it is a call.
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, sum) } else { sum + a * b }
}

/// Returns `bias + row · panel` for some rows.
#[inline(always)]
fn sums<const ROWS: usize>(
    panel: &[[f32; PANEL]],
    bias: [f32; PANEL],
    rows: [&[f32]; ROWS],
) -> [[f32; PANEL]; ROWS] {
    // All of one length, which the compiler then sees: no check of a bound in the loop.
    let rows = rows.map(|row| &row[..panel.len()]);
    let mut sums = [bias; ROWS];
    for k in 0..panel.len() {
        let weights = panel[k];
        for row in 0..ROWS {
            let value = rows[row][k];
            for lane in 0..PANEL {
                sums[row][lane] = add_product(sums[row][lane], value, weights[lane]);
            }
        }
    }
    sums
}

/// Writes `bias + row · weights` for each row.
fn looped(weights: &[[f32; PANEL]], bias: &[f32], depth: usize, from: &[f32], into: &mut [f32]) {
    let outputs = bias.len();
    for (at, (panel, own)) in weights.chunks_exact(depth).zip(bias.chunks(PANEL)).enumerate() {
        let mut bias = [0.0; PANEL];
        bias[..own.len()].copy_from_slice(own);
        let columns = at * PANEL..at * PANEL + own.len();
        let (many, single) =
            (from.chunks_exact(TOGETHER * depth), from.chunks_exact(TOGETHER * depth).remainder());
        let done = from.len() - single.len();
        for (rows, into) in many.zip(into.chunks_exact_mut(TOGETHER * outputs)) {
            let rows: [&[f32]; TOGETHER] = std::array::from_fn(|row| &rows[row * depth..(row + 1) * depth]);
            for (sums, into) in sums(panel, bias, rows).iter().zip(into.chunks_exact_mut(outputs)) {
                into[columns.clone()].copy_from_slice(&sums[..own.len()]);
            }
        }
        let into = into[done / depth * outputs..].chunks_exact_mut(outputs);
        for (row, into) in single.chunks_exact(depth).zip(into) {
            into[columns.clone()].copy_from_slice(&sums(panel, bias, [row])[0][..own.len()]);
        }
    }
}

impl Kernel for Dense {
    fn name(&self) -> &'static str {
        "Gemm"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [input] = inputs else { bail!("it takes one input, not {}", inputs.len()) };
        let is_planned = input.datum_type == DatumType::F32
            && input.shape.as_concrete() == Some(&[self.rows, self.depth][..]);
        ensure!(is_planned, "rows of {input:?} are not {} of {} values", self.rows, self.depth);
        Ok(tvec!(fact(f32::datum_type(), &[self.rows.to_dim(), self.bias.len().to_dim()])))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let shape = [self.rows, self.bias.len()];
        let mut output = Tensor::zero::<f32>(&shape)?;
        match &self.way {
            Way::Looped(weights) => {
                let from = inputs[0].try_as_plain_ram()?;
                let bias = self.bias.try_as_plain_ram()?;
                let mut into = output.try_as_plain_ram_mut()?;
                looped(weights, bias.as_slice()?, self.depth, from.as_slice()?, into.as_slice_mut()?);
            }
            Way::Packed(weights, kept) => {
                let waiting = kept.try_lock().ok().and_then(|mut kept| kept.take());
                let mut product = match waiting {
                    Some(product) => product,
                    None => weights.product(self.rows)?,
                };
                product.run(weights, &inputs[0], Addend::Bias(&self.bias), &mut output, &[])?;
                if let Ok(mut kept) = kept.try_lock() {
                    *kept = Some(product);
                }
            }
        }
        if let Some(activation) = self.activation {
            activation.all(output.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?);
        }
        Ok(tvec!(output.into_tvalue()))
    }
}
