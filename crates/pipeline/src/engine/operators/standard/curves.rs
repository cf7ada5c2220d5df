//! Exponentials and what is made of them, for many values of f32 at once.
//!
//! Plain arithmetic without branches or calls, which the compiler turns into vector instructions on every target; errors
//! are a few roundings of the exact value, infinities and NaN as the formulas say. Never used for f64.
//!
//! *Source*: the reduction and polynomials of Cephes (`expf`, `tanhf`, `logf`).

/// Returns `e^x`; values that are too small or too large for f32 become 0 and infinity.
#[inline(always)]
pub(in super::super) fn exp(x: f32) -> f32 {
    // 1.5 · 2^23: what is added to it and taken away again is rounded to an integer, which stands in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    // Beyond these bounds the result is 0 or infinite in any case. Comparisons with NaN are false: it stays.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUNDER;
    let whole = shifted - ROUNDER;
    let power = (shifted.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32);
    // ln 2 in two parts, the first of few digits, so that its multiples are exact.
    let rest = (x - whole * 0.693_359_4) - whole * -2.121_944_4e-4;
    let mut sum = 1.987_569_2e-4_f32;
    for factor in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        sum = sum * rest + factor;
    }
    let value = sum * (rest * rest) + rest + 1.0;
    // In two factors, since 2^power itself may be outside what a normal f32 holds.
    let half = power >> 1;
    let two_to = |power: i32| f32::from_bits((power.wrapping_add(127) as u32) << 23);
    value * two_to(half) * two_to(power.wrapping_sub(half))
}

/// Returns the hyperbolic tangent.
#[inline(always)]
pub(in super::super) fn tanh(x: f32) -> f32 {
    let size = x.abs();
    let square = x * x;
    let mut sum = -5.704_988_7e-3_f32;
    for factor in [2.063_909e-2, -5.373_971_6e-2, 0.133_314_42, -0.333_332_8] {
        sum = sum * square + factor;
    }
    // A product, which keeps the sign of zero.
    let near = (sum * square + 1.0) * x;
    let far = (1.0 - 2.0 / (exp(2.0 * size) + 1.0)).copysign(x);
    if size < 0.625 { near } else { far }
}

/// Returns `ln(1 + x)` for `x` from 0 to 1.
#[inline(always)]
fn ln_1p_of_part(x: f32) -> f32 {
    // ln((1 + s) / (1 - s)) as an odd series in s, which is at most a third.
    let s = x / (2.0 + x);
    let square = s * s;
    let mut sum = 1.0 / 15.0_f32;
    for factor in [1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0] {
        sum = sum * square + factor;
    }
    2.0 * (sum * square * s + s)
}

/// Returns `ln(1 + e^x)`.
#[inline(always)]
pub(in super::super) fn softplus(x: f32) -> f32 {
    (if x < 0.0 { 0.0 } else { x }) + ln_1p_of_part(exp(-x.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the formula in f64, and the error that a result near zero may have.
    type Curve = (&'static str, fn(f32) -> f32, fn(f64) -> f64, f32);

    /// Two steps between denormals, which have fewer digits than other results.
    const DENORMAL: f32 = f32::from_bits(2);

    const CURVES: [Curve; 4] = [
        ("exp", exp, f64::exp, DENORMAL),
        ("sigmoid", |x| 1.0 / (1.0 + exp(-x)), |x| 1.0 / (1.0 + (-x).exp()), f32::MIN_POSITIVE),
        ("tanh", tanh, f64::tanh, DENORMAL),
        ("softplus", softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), DENORMAL),
    ];

    /// Every 9973rd of all patterns of bits: some 400,000 values from denormals to infinities and NaN.
    fn values() -> impl Iterator<Item = f32> {
        (0..=u32::MAX).step_by(9_973).map(f32::from_bits)
    }

    #[test]
    fn curves_are_within_a_millionth_of_the_exact_value_over_the_whole_range() {
        for (name, curve, exact, least) in CURVES {
            for x in values().chain([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE]) {
                let (value, exact) = (curve(x), exact(f64::from(x)));
                let rounded = exact as f32;
                let tolerance = 1e-6 * exact.abs() + f64::from(least);
                let near = value == rounded || (f64::from(value) - exact).abs() <= tolerance;
                // At the edge of f32 the last rounding decides between its largest value and infinity.
                let edge = exact > 3.402_82e38 && value >= 3.402_81e38;
                assert!(x.is_nan() || near || edge, "{name}({x:e}) is {exact:e}, not {value:e}");
            }
        }
    }

    #[test]
    fn a_curve_of_nan_is_nan() {
        for (name, curve, ..) in CURVES {
            for x in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0xffff_ffff)] {
                assert!(curve(x).is_nan(), "{name} of {:#x}", x.to_bits());
            }
        }
    }

    #[test]
    fn odd_curves_keep_the_sign_of_zero() {
        assert_eq!(tanh(-0.0).to_bits(), (-0.0_f32).to_bits());
        assert_eq!(tanh(0.0).to_bits(), 0);
    }
}
