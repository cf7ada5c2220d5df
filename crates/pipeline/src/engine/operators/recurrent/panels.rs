//! Weights in panels of hidden units, and their products with rows of values.
//!
//! All gates of a panel's units stand side by side, so that a row's sums stay in registers until the step is done with
//! them. Plain loops for `vectors::on_widest`; never looks at what the numbers mean.

use std::ops::Range;

use tract_onnx::tract_core::internal::*;

use super::super::super::vectors::{Arithmetic, Loops, on_widest};

/// What a panel's sums are made of: a bias, the inputs and the state.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) bias: Panels,
    pub(super) input: Panels,
    pub(super) recurrent: Panels,
}

/// Weights of some gates.
///
/// *Shape*: `[panels, depth, gates, width]`, the last panel filled up with zeros.
#[derive(Debug)]
pub(super) struct Panels {
    values: Vec<f32>,
    depth: usize,
}

/// Returns the units of a panel, with the loops for a machine.
const fn width<A: Arithmetic>() -> usize {
    // One vector, or two of the short ones: what with four gates leaves registers for weights.
    if A::LANES > 4 {
        A::LANES
    } else if A::LANES == 4 {
        8
    } else {
        4
    }
}

/// Returns the units of a panel on this machine.
pub(super) fn panel_width() -> usize {
    struct Width;
    impl Loops for Width {
        type Output = usize;

        #[inline(always)]
        fn run<A: Arithmetic>(self) -> usize {
            width::<A>()
        }
    }
    on_widest(Width)
}

impl Panels {
    /// Packs the rows of some gates.
    ///
    /// *Shape*: `matrix` is `[gates · hidden, depth]`.
    pub(super) fn pack(matrix: &[f32], hidden: usize, depth: usize, gates: Range<usize>) -> Self {
        Self::of_width(panel_width(), matrix, hidden, depth, gates)
    }

    fn of_width(width: usize, matrix: &[f32], hidden: usize, depth: usize, gates: Range<usize>) -> Self {
        let mut values = Vec::with_capacity(hidden.next_multiple_of(width) * depth * gates.len());
        for panel in (0..hidden).step_by(width) {
            for k in 0..depth {
                for gate in gates.clone() {
                    let value = |unit: usize| matrix[(gate * hidden + unit) * depth + k];
                    let units = panel..panel + width;
                    values.extend(units.map(|unit| if unit < hidden { value(unit) } else { 0.0 }));
                }
            }
        }
        Self { values, depth }
    }

    /// Returns a panel's weights.
    #[inline(always)]
    pub(super) fn panel<const GATES: usize, const WIDTH: usize>(
        &self,
        at: usize,
    ) -> &[[[f32; WIDTH]; GATES]] {
        let (vectors, _) = self.values.as_chunks::<WIDTH>();
        let (depths, _) = vectors.as_chunks::<GATES>();
        &depths[at * self.depth..(at + 1) * self.depth]
    }
}

impl Part {
    /// Packs some gates of a node's weights.
    ///
    /// *Shape*: `input` is `[gates · hidden, size]`, `recurrent` is `[gates · hidden, hidden]`, `bias` is
    /// `[gates · hidden]`.
    pub(super) fn pack(
        [input, recurrent]: [&Tensor; 2],
        bias: &[f32],
        gates: Range<usize>,
    ) -> TractResult<Self> {
        let (size, hidden) = (input.shape()[1], recurrent.shape()[1]);
        let (input, recurrent) = (input.try_as_plain_ram()?, recurrent.try_as_plain_ram()?);
        Ok(Self {
            bias: Panels::pack(bias, hidden, 1, gates.clone()),
            input: Panels::pack(input.as_slice()?, hidden, size, gates.clone()),
            recurrent: Panels::pack(recurrent.as_slice()?, hidden, hidden, gates),
        })
    }

    /// Returns a panel's sums for some rows.
    #[inline(always)]
    pub(super) fn sums<A: Arithmetic, const GATES: usize, const WIDTH: usize, const ROWS: usize>(
        &self,
        panel: usize,
        x: [&[f32]; ROWS],
        h: [&[f32]; ROWS],
    ) -> Sums<GATES, WIDTH, ROWS> {
        let sums = [self.bias.panel::<GATES, WIDTH>(panel)[0]; ROWS];
        let sums = add_products::<A, GATES, WIDTH, ROWS>(sums, self.input.panel(panel), x);
        add_products::<A, GATES, WIDTH, ROWS>(sums, self.recurrent.panel(panel), h)
    }
}

/// For each row, the gates of a panel's units.
pub(super) type Sums<const GATES: usize, const WIDTH: usize, const ROWS: usize> =
    [[[f32; WIDTH]; GATES]; ROWS];

/// Returns `sums + rows · weights`.
#[inline(always)]
pub(super) fn add_products<A: Arithmetic, const GATES: usize, const WIDTH: usize, const ROWS: usize>(
    mut sums: Sums<GATES, WIDTH, ROWS>,
    weights: &[[[f32; WIDTH]; GATES]],
    rows: [&[f32]; ROWS],
) -> Sums<GATES, WIDTH, ROWS> {
    if ROWS > 1 {
        let depth = weights.len();
        // All of one length, which the compiler then sees: no check of a bound in the loop. Not by `map`, which stays a
        // call.
        let mut rows = rows;
        for row in &mut rows {
            *row = &row[..depth];
        }
        // One by one, since sums that a loop counts through do not stay in registers.
        if let Ok(four) = <&mut Sums<GATES, WIDTH, 4>>::try_from(&mut sums[..]) {
            let [mut a, mut b, mut c, mut d] = *four;
            for k in 0..depth {
                let weights = &weights[k];
                add_product::<A, GATES, WIDTH>(&mut a, weights, rows[0][k]);
                add_product::<A, GATES, WIDTH>(&mut b, weights, rows[1][k]);
                add_product::<A, GATES, WIDTH>(&mut c, weights, rows[2][k]);
                add_product::<A, GATES, WIDTH>(&mut d, weights, rows[3][k]);
            }
            *four = [a, b, c, d];
        } else if let Ok(two) = <&mut Sums<GATES, WIDTH, 2>>::try_from(&mut sums[..]) {
            let [mut a, mut b] = *two;
            for k in 0..depth {
                add_product::<A, GATES, WIDTH>(&mut a, &weights[k], rows[0][k]);
                add_product::<A, GATES, WIDTH>(&mut b, &weights[k], rows[1][k]);
            }
            *two = [a, b];
        } else {
            for k in 0..depth {
                for row in 0..ROWS {
                    add_product::<A, GATES, WIDTH>(&mut sums[row], &weights[k], rows[row][k]);
                }
            }
        }
        return sums;
    }
    // A row alone has two sums a value under way: an addition waits for the one before it.
    let mut others = [[0.0; WIDTH]; GATES];
    let (pairs, odd) = weights.as_chunks::<2>();
    let (values, odd_value) = rows[0][..weights.len()].as_chunks::<2>();
    for (weights, values) in pairs.iter().zip(values) {
        add_product::<A, GATES, WIDTH>(&mut sums[0], &weights[0], values[0]);
        add_product::<A, GATES, WIDTH>(&mut others, &weights[1], values[1]);
    }
    for (weights, value) in odd.iter().zip(odd_value) {
        add_product::<A, GATES, WIDTH>(&mut sums[0], weights, *value);
    }
    for gate in 0..GATES {
        for lane in 0..WIDTH {
            sums[0][gate][lane] += others[gate][lane];
        }
    }
    sums
}

#[inline(always)]
fn add_product<A: Arithmetic, const GATES: usize, const WIDTH: usize>(
    sums: &mut [[f32; WIDTH]; GATES],
    weights: &[[f32; WIDTH]; GATES],
    value: f32,
) {
    for gate in 0..GATES {
        for lane in 0..WIDTH {
            sums[gate][lane] = A::add_product(sums[gate][lane], value, weights[gate][lane]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::super::vectors::{Fused, Separate};
    use super::*;

    /// Returns the largest difference from sums in f64, relative to their terms.
    fn difference<A: Arithmetic, const GATES: usize, const WIDTH: usize, const ROWS: usize>(
        hidden: usize,
        depth: usize,
        values: &[f32],
    ) -> f64 {
        let matrix = &values[..GATES * hidden * depth];
        let mut rows = [&values[..0]; ROWS];
        for (row, start) in rows.iter_mut().zip(1..) {
            *row = &values[start..start + depth];
        }
        let panels = Panels::of_width(WIDTH, matrix, hidden, depth, 0..GATES);
        let mut difference = 0.0_f64;
        for unit in 0..hidden.next_multiple_of(WIDTH) {
            let weights = panels.panel::<GATES, WIDTH>(unit / WIDTH);
            let sums = add_products::<A, GATES, WIDTH, ROWS>([[[0.5; WIDTH]; GATES]; ROWS], weights, rows);
            for (sums, values) in sums.iter().zip(&rows) {
                for (gate, sums) in sums.iter().enumerate() {
                    let from = (gate * hidden + unit) * depth;
                    let weights = if unit < hidden { &matrix[from..from + depth] } else { &[] };
                    let terms = weights.iter().zip(*values).map(|(a, b)| f64::from(*a) * f64::from(*b));
                    let (sum, size) = terms.fold((0.5, 0.5), |(sum, size), t| (sum + t, size + t.abs()));
                    let found = f64::from(sums[unit % WIDTH]);
                    difference = difference.max((found - sum).abs() / size);
                }
            }
        }
        difference
    }

    proptest! {
        #[test]
        fn panels_of_every_width_give_the_sums_of_the_matrix(
            hidden in 1..40_usize,
            depth in 1..20_usize,
            values in prop::collection::vec(-3.0_f32..3.0, 4 * 40 * 20),
        ) {
            for difference in [
                difference::<Fused<16>, 4, 16, 4>(hidden, depth, &values),
                difference::<Fused<16>, 3, 16, 1>(hidden, depth, &values),
                difference::<Fused<8>, 3, 8, 2>(hidden, depth, &values),
                difference::<Fused<8>, 4, 8, 1>(hidden, depth, &values),
                difference::<Separate, 2, 4, 2>(hidden, depth, &values),
                difference::<Separate, 1, 4, 1>(hidden, depth, &values),
            ] {
                prop_assert!(difference < 1e-5, "{difference}");
            }
        }
    }
}
