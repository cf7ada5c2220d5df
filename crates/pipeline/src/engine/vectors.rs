//! Plain loops, compiled for the widest vectors of the machine that they run on.
//!
//! A loop that is written over arrays and slices becomes one of vectors; which ones is known only on the gateway, so each
//! is compiled several times and picked at the run. Computes nothing itself, and asks for no instruction by name.

use std::sync::LazyLock;

use pulp::{Arch, Simd, WithSimd};

/// What this machine has, asked once.
static MACHINE: LazyLock<Arch> = LazyLock::new(Arch::new);

/// Loops that are worth it: some hundred operations at least, since none is inlined into its caller.
pub(super) trait Loops {
    /// What they compute.
    type Output;

    /// Runs them. To be `#[inline(always)]`, as is all that it calls: what is not inlined is not compiled anew.
    fn run<A: Arithmetic>(self) -> Self::Output;
}

/// How the machine adds products.
pub(super) trait Arithmetic {
    /// Values of f32 in the widest vectors there are; 1 where only the compiler knows of any.
    const LANES: usize;

    /// Returns `sum + a * b`, rounded once or twice: what the machine has an instruction for.
    fn add_product(sum: f32, a: f32, b: f32) -> f32;
}

/// Products are added by one instruction.
pub(super) enum Fused<const LANES: usize> {}

/// Products are added by two: without such an instruction, one rounding is a slow call.
pub(super) enum Separate {}

impl<const LANES: usize> Arithmetic for Fused<LANES> {
    const LANES: usize = LANES;

    #[inline(always)]
    fn add_product(sum: f32, a: f32, b: f32) -> f32 {
        a.mul_add(b, sum)
    }
}

impl Arithmetic for Separate {
    const LANES: usize = 1;

    #[inline(always)]
    fn add_product(sum: f32, a: f32, b: f32) -> f32 {
        sum + a * b
    }
}

/// Runs loops with the widest vectors there are.
pub(super) fn on_widest<L: Loops>(loops: L) -> L::Output {
    MACHINE.dispatch(Dispatched(loops))
}

/// Runs loops that are written over the machine's own vectors: where the sums under way are more than a compiler keeps in
/// registers by itself. All that they call is to be `#[inline(always)]` as well.
pub(super) fn in_vectors<L: WithSimd>(loops: L) -> L::Output {
    MACHINE.dispatch(loops)
}

/// Returns how many values of f32 a vector of this machine holds.
pub(super) fn lanes() -> usize {
    in_vectors(Lanes)
}

struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

struct Dispatched<L>(L);

impl<L: Loops> WithSimd for Dispatched<L> {
    type Output = L::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> L::Output {
        // Every x86 with vectors of eight has the instruction, and every aarch64.
        if S::F32_LANES >= 16 {
            self.0.run::<Fused<16>>()
        } else if S::F32_LANES >= 8 {
            self.0.run::<Fused<8>>()
        } else if cfg!(target_arch = "aarch64") {
            self.0.run::<Fused<4>>()
        } else {
            self.0.run::<Separate>()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Dot<'a>(&'a [f32], &'a [f32]);

    impl Loops for Dot<'_> {
        type Output = f32;

        #[inline(always)]
        fn run<A: Arithmetic>(self) -> f32 {
            self.0.iter().zip(self.1).fold(0.0, |sum, (a, b)| A::add_product(sum, *a, *b))
        }
    }

    proptest! {
        #[test]
        fn every_machine_has_the_same_sums_to_a_rounding(
            pairs in prop::collection::vec((-100.0_f32..100.0, -100.0_f32..100.0), 0..100)
        ) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let exact: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let size: f64 = a.iter().zip(&b).map(|(a, b)| (f64::from(*a) * f64::from(*b)).abs()).sum();
            for sum in [on_widest(Dot(&a, &b)), Dot(&a, &b).run::<Separate>(), Dot(&a, &b).run::<Fused<1>>()] {
                prop_assert!((f64::from(sum) - exact).abs() <= size * 1e-5, "{sum} is not {exact}");
            }
        }
    }
}
