//! A dense layer: rows of values times constant weights, a bias, and an activation on the way out.
//!
//! Packs the weights when the plan is made. Few products run as plain loops over panels of weights, which begin at once;
//! more go through tract's matrix kernels. Never takes weights that a run computes.

use std::sync::Mutex;

use tract_onnx::tract_core::internal::*;

use super::super::kernel::{Kernel, fact};
use super::activation::Map;
use super::product::{Product, Weights};

/// Most multiplications that run as plain loops, 32 rows of 16 values to 16 outputs: below it a matrix kernel spends more
/// on packing the rows than its wider vectors save, measured on x86-64 with AVX-512, where it saves most.
const LOOPED_MAX: usize = 32 * 16 * 16;

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

/// Rows that go through a panel together, or panels that a row goes through: the sums and the weights fit the registers of
/// baseline x86-64.
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

/// A panel's weights and its bias.
type Panel<'a> = (&'a [[f32; PANEL]], [f32; PANEL]);

/// Returns `bias + row · panel` for some rows and panels.
#[inline(always)]
fn sums<const ROWS: usize, const PANELS: usize>(
    panels: [Panel<'_>; PANELS],
    rows: [&[f32]; ROWS],
) -> [[[f32; PANEL]; PANELS]; ROWS] {
    let depth = rows[0].len();
    // All of one length, which the compiler then sees: no check of a bound in the loop.
    let rows = rows.map(|row| &row[..depth]);
    let weights = panels.map(|(weights, _)| &weights[..depth]);
    let mut sums = [panels.map(|(_, bias)| bias); ROWS];
    for k in 0..depth {
        for panel in 0..PANELS {
            let weights = weights[panel][k];
            for row in 0..ROWS {
                let value = rows[row][k];
                for lane in 0..PANEL {
                    let sum = &mut sums[row][panel][lane];
                    *sum = add_product(*sum, value, weights[lane]);
                }
            }
        }
    }
    sums
}

/// Writes `bias + row · weights` for each row.
fn looped(weights: &[[f32; PANEL]], bias: &[f32], depth: usize, from: &[f32], into: &mut [f32]) {
    let outputs = bias.len();
    let panel = |at: usize| -> Panel<'_> {
        let mut own = [0.0; PANEL];
        let bias = &bias[at * PANEL..outputs.min((at + 1) * PANEL)];
        own[..bias.len()].copy_from_slice(bias);
        (&weights[at * depth..(at + 1) * depth], own)
    };
    let write = |into: &mut [f32], at: usize, sums: &[f32; PANEL]| {
        let columns = at * PANEL..outputs.min((at + 1) * PANEL);
        let count = columns.len();
        into[columns].copy_from_slice(&sums[..count]);
    };
    let panels = outputs.div_ceil(PANEL);
    let many = from.len() / (TOGETHER * depth);
    let (from, single) = from.split_at(many * TOGETHER * depth);
    let (into, into_single) = into.split_at_mut(many * TOGETHER * outputs);
    for at in 0..panels {
        let blocks = from.chunks_exact(TOGETHER * depth).zip(into.chunks_exact_mut(TOGETHER * outputs));
        for (rows, into) in blocks {
            let rows: [&[f32]; TOGETHER] = std::array::from_fn(|row| &rows[row * depth..(row + 1) * depth]);
            for ([sums], into) in sums([panel(at)], rows).iter().zip(into.chunks_exact_mut(outputs)) {
                write(into, at, sums);
            }
        }
    }
    // A row alone goes through panels together, so that there are as many sums under way.
    for (row, into) in single.chunks_exact(depth).zip(into_single.chunks_exact_mut(outputs)) {
        let mut at = 0;
        while at + TOGETHER <= panels {
            let [sums] = sums(std::array::from_fn::<_, TOGETHER, _>(|next| panel(at + next)), [row]);
            sums.iter().enumerate().for_each(|(next, sums)| write(into, at + next, sums));
            at += TOGETHER;
        }
        (at..panels).for_each(|at| write(into, at, &sums([panel(at)], [row])[0][0]));
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
                product.run(weights, &inputs[0], &self.bias, &mut output)?;
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
