//! Float operators between quantisers: what they yield as operators on integers, and what stays as it is.
//!
//! The graphs named after tract are minimal ones that tract 0.23.9 alone runs wrongly.

use proptest::prelude::*;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::super::testing::{int, ints};
use super::tests::{floats, longs, numbers, octets, run_graph, wired};

/// Runs `x` (quantised numbers) through a DequantizeLinear, the nodes from `x.f` to `y.f`, and a QuantizeLinear.
fn between(
    nodes: Vec<NodeProto>,
    x: Tensor,
    (x_scale, x_zero): (f32, Tensor),
    (y_scale, y_zero): (f32, Tensor),
    more: &[(&str, Tensor)],
) -> Tensor {
    let mut all = vec![wired("DequantizeLinear", &["x", "x.scale", "x.zero"], "x.f", vec![])];
    all.extend(nodes);
    all.push(wired("QuantizeLinear", &["y.f", "y.scale", "y.zero"], "y", vec![]));
    let mut constants = vec![
        ("x.scale", tensor0(x_scale)),
        ("x.zero", x_zero),
        ("y.scale", tensor0(y_scale)),
        ("y.zero", y_zero),
    ];
    constants.extend_from_slice(more);
    run_graph(all, &[("x", x)], &constants, "y").unwrap()
}

/// tract takes a softmax for an operation on single numbers and makes a table of 256 entries of the three nodes: the
/// softmax of all 256 numbers there are.
#[test]
fn a_softmax_between_quantisers_is_over_its_row() {
    let softmax = wired("Softmax", &["x.f"], "y.f", vec![int("axis", 1)]);
    let x = octets(&[2, 3], &[0, 0, 0, 100, 0, 0], true);
    let grid = |scale| (scale, tensor0(0_i8));
    let output = between(vec![softmax], x, grid(0.1), grid(1.0 / 100.0), &[]);
    assert_eq!(longs(&output), [33, 33, 33, 100, 0, 0]);
}

/// tract fills its table by the type of the output and then gives it numbers of the type of the input, which fails.
#[test]
fn unsigned_numbers_become_signed_ones() {
    let tanh = wired("Tanh", &["x.f"], "y.f", vec![]);
    let x = octets(&[4], &[0, 100, 140, 255], false);
    let output = between(vec![tanh], x, (0.05, tensor0(120_u8)), (0.01, tensor0(-20_i8)), &[]);
    assert_eq!(longs(&output), [-120, -96, 56, 80]);
}

/// tract adds the zero point to a rounded number that is already the largest integer of 32 bits, which wraps.
#[test]
fn numbers_far_outside_saturate_on_their_side() {
    let quantise = wired("QuantizeLinear", &["x", "scale", "zero"], "y", vec![]);
    let constants = [("scale", tensor0(0.01_f32)), ("zero", tensor0(128_u8))];
    let output = run_graph(vec![quantise], &[("x", tensor1(&[1e9_f32, -1e9]))], &constants, "y").unwrap();
    assert_eq!(longs(&output), [255, 0]);
}

/// tract multiplies with the scale's inverse, which is beside the quotient next to a tie.
#[test]
fn values_are_divided_by_the_scale() {
    let quantise = wired("QuantizeLinear", &["x", "scale", "zero"], "y", vec![]);
    let scale = 0.003_f32;
    let values: Vec<f32> = (0..200).map(|i| (i as f32 + 0.5) * scale).collect();
    let constants = [("scale", tensor0(scale)), ("zero", tensor0(0_u8))];
    let output = run_graph(vec![quantise], &[("x", tensor1(&values))], &constants, "y").unwrap();
    let expected: Vec<i64> = values.iter().map(|value| (value / scale).round_ties_even() as i64).collect();
    assert_eq!(longs(&output), expected);
}

#[test]
fn a_relu_that_saturation_does_not_make_redundant_is_kept() {
    let weights = wired("DequantizeLinear", &["w", "w.scale", "w.zero"], "w.f", vec![]);
    let product = wired("MatMul", &["x.f", "w.f"], "p", vec![]);
    let relu = wired("Relu", &["p"], "y.f", vec![]);
    let more =
        [("w", octets(&[1, 2], &[1, -1], true)), ("w.scale", tensor0(1.0_f32)), ("w.zero", tensor0(0_i8))];
    let x = octets(&[1, 1], &[50], false);
    let output =
        between(vec![weights, product, relu], x, (1.0, tensor0(0_u8)), (1.0, tensor0(100_u8)), &more);
    assert_eq!(longs(&output), [150, 100]);
}

#[test]
fn a_bias_in_other_units_is_added_as_it_is() {
    let weights = wired("DequantizeLinear", &["w", "w.scale", "w.zero"], "w.f", vec![]);
    let bias = wired("DequantizeLinear", &["b", "b.scale"], "b.f", vec![]);
    let gemm = wired("Gemm", &["x.f", "w.f", "b.f"], "y.f", vec![]);
    let more = [
        ("w", octets(&[1, 1], &[3], true)),
        ("w.scale", tensor0(0.5_f32)),
        ("w.zero", tensor0(0_i8)),
        ("b", tensor1(&[4_i32])),
        ("b.scale", tensor1(&[10.0_f32])),
    ];
    let x = octets(&[1, 1], &[6], false);
    let output = between(vec![weights, bias, gemm], x, (1.0, tensor0(0_u8)), (1.0, tensor0(0_u8)), &more);
    assert_eq!(longs(&output), [49]);
}

#[test]
fn a_product_that_is_not_quantised_again_stays_a_float() {
    let nodes = vec![
        wired("DequantizeLinear", &["x", "s", "z"], "x.f", vec![]),
        wired("DequantizeLinear", &["w", "w.s", "w.z"], "w.f", vec![int("axis", 1)]),
        wired("MatMul", &["x.f", "w.f"], "y", vec![]),
    ];
    let constants = [
        ("s", tensor0(0.5_f32)),
        ("z", tensor0(2_u8)),
        ("w", octets(&[2, 2], &[1, 2, 3, -4], true)),
        ("w.s", tensor1(&[0.25_f32, 2.0])),
        ("w.z", tensor1(&[0_i8, 0])),
    ];
    let output = run_graph(nodes, &[("x", octets(&[1, 2], &[4, 3], false))], &constants, "y").unwrap();
    assert_eq!(floats(&output), [0.625, 0.0]);
}

/// Runs 3 of `u8` through nodes from `x.f` to `y.f`, a product with 1 and a bias of 0.4 among them, in quarters.
///
/// ONNX Runtime 1.32 rounds a bias of floats to whole steps of the factors' scales, so the sum is 3 and not 3.4.
fn quarters(nodes: Vec<NodeProto>, more: &[(&str, Tensor)]) -> i64 {
    let bias = [("b", tensor1(&[0.4_f32]))];
    let x = octets(&[1, 1], &[3], false);
    let output =
        between(nodes, x, (1.0, tensor0(0_u8)), (0.25, tensor0(0_u8)), &[more, bias.as_slice()].concat());
    longs(&output)[0]
}

fn unit_weights() -> (NodeProto, [(&'static str, Tensor); 3]) {
    let node = wired("DequantizeLinear", &["w", "w.scale", "w.zero"], "w.f", vec![]);
    (node, [("w", octets(&[1, 1], &[1], true)), ("w.scale", tensor0(1.0_f32)), ("w.zero", tensor0(0_i8))])
}

#[test]
fn a_bias_of_floats_is_rounded_to_steps_of_the_factors() {
    let (weights, more) = unit_weights();
    let gemm = wired("Gemm", &["x.f", "w.f", "b"], "y.f", vec![]);
    assert_eq!(quarters(vec![weights.clone(), gemm], &more), 12);
    let gemm = wired("Gemm", &["x.f", "w.f", "b"], "g", vec![]);
    let relu = wired("Relu", &["g"], "y.f", vec![]);
    assert_eq!(quarters(vec![weights, gemm, relu], &more), 12);
}

#[test]
fn a_bias_of_floats_is_kept_where_its_sum_is_not_quantised() {
    let (weights, more) = unit_weights();
    let gemm = wired("Gemm", &["x.f", "w.f", "b"], "g", vec![]);
    let absolute = wired("Abs", &["g"], "y.f", vec![]);
    assert_eq!(quarters(vec![weights, gemm, absolute], &more), 14);
}

#[test]
fn weights_quantised_in_the_graph_by_a_scale_computed_there_are_constants() {
    let nodes = vec![
        wired("Abs", &["w"], "w.abs", vec![]),
        wired("ReduceMax", &["w.abs"], "w.max", vec![ints("axes", &[1]), int("keepdims", 0)]),
        wired("Div", &["w.max", "steps"], "w.scale", vec![]),
        wired("QuantizeLinear", &["w", "w.scale", "w.zero"], "w.q", vec![int("axis", 0)]),
        wired("DequantizeLinear", &["w.q", "w.scale", "w.zero"], "w.f", vec![int("axis", 0)]),
        wired("Gemm", &["x.f", "w.f", "b"], "y.f", vec![int("transB", 1)]),
    ];
    let w = Tensor::from_shape(&[1, 1], &[1.0_f32]).unwrap();
    let more = [("w", w), ("steps", tensor0(1.0_f32)), ("w.zero", tensor1(&[0_i8]))];
    assert_eq!(quarters(nodes, &more), 12);
}

#[test]
fn dequantised_numbers_that_are_only_moved_stay_integers_for_the_product_behind() {
    let (weights, more) = unit_weights();
    let reshape = wired("Reshape", &["x.f", "shape"], "m.0", vec![]);
    let transpose = wired("Transpose", &["m.0"], "m.1", vec![ints("perm", &[1, 0])]);
    let gemm = wired("Gemm", &["m.1", "w.f", "b"], "y.f", vec![]);
    let shaped = [more.as_slice(), &[("shape", tensor1(&[1_i64, 1]))]].concat();
    assert_eq!(quarters(vec![weights.clone(), reshape, transpose, gemm], &shaped), 12);
    // ONNX Runtime moves no dequantiser past a Flatten: the product behind is one of floats, whose bias is not rounded.
    let flatten = wired("Flatten", &["x.f"], "m.0", vec![]);
    let gemm = wired("Gemm", &["m.0", "w.f", "b"], "y.f", vec![]);
    assert_eq!(quarters(vec![weights, flatten, gemm], &more), 14);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn a_convolution_with_pools_between_quantisers_is_within_a_quantum_of_floats(seed: u64, x_zero: u8) {
        let x = numbers(seed, 2 * 8, false);
        let w = numbers(seed ^ 1, 3 * 2 * 3, true);
        let nodes = vec![
            wired("DequantizeLinear", &["w", "w.scale", "w.zero"], "w.f", vec![int("axis", 0)]),
            wired("Conv", &["x.f", "w.f"], "c", vec![ints("pads", &[1, 1])]),
            wired("QuantizeLinear", &["c", "c.scale", "c.zero"], "c.q", vec![]),
            wired("DequantizeLinear", &["c.q", "c.scale", "c.zero"], "c.f", vec![]),
            wired("MaxPool", &["c.f"], "m", vec![ints("kernel_shape", &[2]), ints("strides", &[2])]),
            wired("QuantizeLinear", &["m", "c.scale", "c.zero"], "m.q", vec![]),
            wired("DequantizeLinear", &["m.q", "c.scale", "c.zero"], "m.f", vec![]),
            wired("GlobalAveragePool", &["m.f"], "y.f", vec![]),
        ];
        let scales = [0.02_f32, 0.01, 0.03];
        let more = [
            ("w", octets(&[3, 2, 3], &w, true)), ("w.scale", tensor1(&scales)), ("w.zero", tensor1(&[0_i8; 3])),
            ("c.scale", tensor0(0.5_f32)), ("c.zero", tensor0(128_u8)),
        ];
        let input = octets(&[1, 2, 8], &x, false);
        let output = between(nodes, input, (0.1, tensor0(x_zero)), (0.5, tensor0(128_u8)), &more);
        for (o, got) in longs(&output).into_iter().enumerate() {
            let convolved = |at: i64| {
                let taps = (0..6).map(|tap| (tap / 3, at + tap % 3 - 1, w[o * 6 + tap as usize]));
                let inside = taps.filter(|(_, place, _)| (0..8).contains(place));
                let sum: i64 = inside.map(|(c, place, w)| (x[(c * 8 + place) as usize] - i64::from(x_zero)) * w).sum();
                ((sum as f64 * 0.1 * f64::from(scales[o]) / 0.5).round() + 128.0).clamp(0.0, 255.0)
            };
            let pooled: f64 = (0..4).map(|i| convolved(2 * i).max(convolved(2 * i + 1))).sum::<f64>() / 4.0;
            prop_assert!((got as f64 - pooled).abs() <= 1.5, "{got} for {pooled}");
        }
    }
}
