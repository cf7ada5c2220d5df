//! Each operator against a slow, plain one written from its text; graphs between quantisers; hostile attributes.

use proptest::prelude::*;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
};
use tract_onnx::prelude::{Framework, InferenceModelExt};
use tract_onnx::tract_core::internal::*;

use super::super::super::EngineError;
use super::super::super::tract::{build_error, catching, run_error};
use super::super::testing::{float, int, ints, node, run_node, value};
use super::fuse;

/// Runs a graph whose first inputs are given and the others constants, after [`fuse`].
pub(super) fn run_graph(
    nodes: Vec<NodeProto>,
    inputs: &[(&str, Tensor)],
    constants: &[(&str, Tensor)],
    output: &str,
) -> Result<Tensor, EngineError> {
    run_windows(nodes, inputs, constants, output, false)
}

/// Runs a graph whose inputs hold windows along their first axis, if that is asked for.
pub(super) fn run_windows(
    mut nodes: Vec<NodeProto>,
    inputs: &[(&str, Tensor)],
    constants: &[(&str, Tensor)],
    output: &str,
    are_windows: bool,
) -> Result<Tensor, EngineError> {
    catching(|| {
        for (position, node) in nodes.iter_mut().enumerate() {
            node.name = format!("node{position}");
        }
        let mut graph = GraphProto {
            input: inputs.iter().map(|(name, tensor)| value(name, tensor)).collect(),
            output: vec![ValueInfoProto { name: output.to_owned(), ..ValueInfoProto::default() }],
            initializer: constants.iter().map(|(name, tensor)| constant(name, tensor)).collect(),
            node: nodes,
            ..GraphProto::default()
        };
        fuse(&mut graph, 17);
        crate::engine::rewrite::keep(&mut graph, &[output]);
        assert!(!are_windows || !super::are_mixed(&mut graph, true), "windows are mixed");
        let opset = |domain: &str, version| OperatorSetIdProto { domain: domain.to_owned(), version };
        let proto = ModelProto {
            ir_version: 8,
            opset_import: vec![opset("", 17), opset("com.microsoft", 1)],
            graph: Some(graph),
            ..ModelProto::default()
        };
        let model = super::super::onnx().model_for_proto_model(&proto).map_err(build_error)?;
        let plan = model.into_optimized().and_then(IntoRunnable::into_runnable).map_err(build_error)?;
        let inputs = inputs.iter().map(|(_, tensor)| tensor.clone().into_tvalue()).collect();
        Ok(plan.run(inputs).map_err(run_error)?.remove(0).into_tensor())
    })
}

fn constant(name: &str, tensor: &Tensor) -> TensorProto {
    let element = match tensor.datum_type() {
        DatumType::F32 => DataType::Float,
        DatumType::U8 => DataType::Uint8,
        DatumType::I8 => DataType::Int8,
        DatumType::I32 => DataType::Int32,
        DatumType::I64 => DataType::Int64,
        other => panic!("no constants of {other:?}"),
    };
    TensorProto {
        name: name.to_owned(),
        dims: tensor.shape().iter().map(|&length| length as i64).collect(),
        data_type: element as i32,
        raw_data: tensor.as_bytes().to_vec(),
        ..TensorProto::default()
    }
}

pub(super) fn wired(
    operator: &str,
    inputs: &[&str],
    output: &str,
    attributes: Vec<AttributeProto>,
) -> NodeProto {
    let mut made = node(operator, 0, 0, attributes);
    made.input = inputs.iter().map(|&name| name.to_owned()).collect();
    made.output = vec![output.to_owned()];
    made
}

/// Runs one node with its first input given and all others constants `c1`, `c2`…
fn run_one(
    operator: &str,
    attributes: Vec<AttributeProto>,
    input: Tensor,
    constants: Vec<Tensor>,
) -> Result<Tensor, EngineError> {
    let names: Vec<String> = (1..=constants.len()).map(|i| format!("c{i}")).collect();
    let all: Vec<&str> = std::iter::once("x").chain(names.iter().map(String::as_str)).collect();
    let constants: Vec<(&str, Tensor)> = names.iter().map(String::as_str).zip(constants).collect();
    run_graph(vec![wired(operator, &all, "y", attributes)], &[("x", input)], &constants, "y")
}

/// `saturate(round(value) + zero)`, ties to even, in double precision.
fn quantum(value: f64, zero: i64, (low, high): (i64, i64)) -> i64 {
    (value.round_ties_even().clamp(-1e9, 1e9) as i64 + zero).clamp(low, high)
}

const UNSIGNED: (i64, i64) = (0, 255);

pub(super) fn longs(tensor: &Tensor) -> Vec<i64> {
    let cast = tensor.cast_to::<i64>().unwrap();
    cast.try_as_plain_ram().unwrap().as_slice::<i64>().unwrap().to_vec()
}

pub(super) fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec()
}

pub(super) fn octets(shape: &[usize], values: &[i64], is_signed: bool) -> Tensor {
    if is_signed {
        Tensor::from_shape(shape, &values.iter().map(|&v| v as i8).collect::<Vec<_>>()).unwrap()
    } else {
        Tensor::from_shape(shape, &values.iter().map(|&v| v as u8).collect::<Vec<_>>()).unwrap()
    }
}

/// Numbers of a type with many extremes, repeated from a seed.
pub(super) fn numbers(seed: u64, count: usize, is_signed: bool) -> Vec<i64> {
    let mut state = seed | 1;
    let (low, high) = if is_signed { (-128, 127) } else { UNSIGNED };
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match state >> 61 {
                0 => low,
                1 | 2 => high,
                _ => low + (state >> 33) as i64 % 256,
            }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn values_are_quantised_by_the_scale_of_their_channel(
        values in prop::collection::vec(-300.0_f32..300.0, 12),
        scales in prop::collection::vec(0.01_f32..4.0, 3),
        zeros in prop::collection::vec(0_u8.., 3),
    ) {
        let input = Tensor::from_shape(&[2, 3, 2], &values).unwrap();
        let outputs =
            run_one("QuantizeLinear", vec![int("axis", -2)], input, vec![tensor1(&scales), tensor1(&zeros)]);
        let expected: Vec<i64> = values
            .iter()
            .enumerate()
            .map(|(i, value)| {
                let place = i / 2 % 3;
                quantum(f64::from(value / scales[place]), i64::from(zeros[place]), UNSIGNED)
            })
            .collect();
        prop_assert_eq!(longs(&outputs.unwrap()), expected);
    }

    #[test]
    fn numbers_are_dequantised_by_blocks(seed: u64, scales in prop::collection::vec(0.01_f32..4.0, 6)) {
        let integers = numbers(seed, 15, true);
        let scale = Tensor::from_shape(&[3, 2], &scales).unwrap();
        let attributes = vec![int("axis", 1), int("block_size", 3)];
        let output =
            run_one("DequantizeLinear", attributes, octets(&[3, 5], &integers, true), vec![scale]).unwrap();
        let expected: Vec<f32> =
            (0..15).map(|i| integers[i] as f32 * scales[i / 5 * 2 + i % 5 / 3]).collect();
        prop_assert_eq!(floats(&output), expected);
    }

    #[test]
    fn matrix_products_are_exact_for_any_length(
        seed: u64, rows in 1_usize..4, length in 1_usize..1_500, columns in 1_usize..5,
        a_signed: bool, b_signed: bool, a_zero in 0_i64..128, b_zero in 0_i64..128,
    ) {
        let a = numbers(seed, rows * length, a_signed);
        let b = numbers(seed ^ 99, length * columns, b_signed);
        let zero = |zero, is_signed| octets(&[], &[zero], is_signed);
        let constants =
            vec![octets(&[length, columns], &b, b_signed), zero(a_zero, a_signed), zero(b_zero, b_signed)];
        let output = run_one("MatMulInteger", vec![], octets(&[rows, length], &a, a_signed), constants).unwrap();
        let expected: Vec<i64> = (0..rows * columns)
            .map(|i| {
                let (row, column) = (i / columns, i % columns);
                (0..length).map(|k| (a[row * length + k] - a_zero) * (b[k * columns + column] - b_zero)).sum()
            })
            .collect();
        prop_assert_eq!(longs(&output), expected);
    }

    #[test]
    fn products_of_two_computed_factors_are_exact(seed: u64, length in 1_usize..600, zero in 0_u8..) {
        let (a, b) = (numbers(seed, 2 * length, false), numbers(seed ^ 7, length * 2, false));
        let given = [
            octets(&[2, length], &a, false), octets(&[length, 2], &b, false), tensor0(zero), tensor0(7_u8),
        ];
        let output = run_node(node("MatMulInteger", 4, 1, vec![]), &given).unwrap().remove(0);
        let expected: Vec<i64> = (0..4)
            .map(|i| {
                let term = |k: usize| (a[i / 2 * length + k] - i64::from(zero)) * (b[k * 2 + i % 2] - 7);
                (0..length).map(term).sum()
            })
            .collect();
        prop_assert_eq!(longs(&output), expected);
    }

    #[test]
    fn a_gemm_adds_its_bias_and_rounds_by_column(
        seed: u64, length in 1_usize..40, bias in prop::collection::vec(-40_000_000_i32..40_000_000, 3),
        scales in prop::collection::vec(0.001_f32..0.1, 3), y_zero in 0_u8..,
    ) {
        let a = numbers(seed, 2 * length, false);
        let b = numbers(seed ^ 5, 3 * length, true);
        let constants = vec![
            tensor0(0.5_f32), tensor0(10_u8), octets(&[3, length], &b, true), tensor1(&scales),
            tensor1(&[0_i8, 0, 0]), tensor1(&bias), tensor0(3.0_f32), tensor0(y_zero),
        ];
        let output =
            run_one("QGemm", vec![int("transB", 1)], octets(&[2, length], &a, false), constants).unwrap();
        for (i, got) in longs(&output).into_iter().enumerate() {
            let (row, column) = (i / 3, i % 3);
            let products: i64 = (0..length).map(|k| (a[row * length + k] - 10) * b[column * length + k]).sum();
            let sum = products + i64::from(bias[column]);
            let exact = sum as f64 * 0.5 * f64::from(scales[column]) / 3.0;
            let expected = quantum(exact, i64::from(y_zero), UNSIGNED);
            // The product of the scales is rounded to `f32`: only next to a tie the numbers may differ.
            let is_tie = (exact.fract().abs() - 0.5).abs() < 1e-6 * exact.abs().max(1.0);
            prop_assert!(got == expected || is_tie && (got - expected).abs() == 1, "{got} {expected} {exact}");
        }
    }

    #[test]
    fn convolutions_pad_with_the_zero_point(
        seed: u64, group in 1_usize..3, stride in 1_usize..3, dilation in 1_usize..3, pad in 0_usize..3,
        x_zero in 0_i64..256, w_zeros in prop::collection::vec(-128_i64..128, 4),
    ) {
        let (channels, height, width) = (4, 6, 5);
        let x = numbers(seed, 2 * channels * height * width, false);
        let within = channels / group;
        let w = numbers(seed ^ 3, 4 * within * 6, true);
        let reach = |kernel: usize| (kernel - 1) * dilation + 1;
        let (out_h, out_w) =
            ((height + 2 * pad - reach(3)) / stride + 1, (width + 2 * pad - reach(2)) / stride + 1);
        let (step, apart, edge) = (stride as i64, dilation as i64, pad as i64);
        let attributes = vec![
            int("group", group as i64), ints("strides", &[step; 2]), ints("dilations", &[apart; 2]),
            ints("pads", &[edge; 4]), ints("kernel_shape", &[3, 2]),
        ];
        let constants = vec![
            octets(&[4, within, 3, 2], &w, true), octets(&[], &[x_zero], false), octets(&[4], &w_zeros, true),
        ];
        let input = octets(&[2, channels, height, width], &x, false);
        let output = run_one("ConvInteger", attributes, input, constants).unwrap();
        let mut expected = Vec::new();
        for i in 0..2 * 4 * out_h * out_w {
            let (n, o) = (i / (4 * out_h * out_w), i / (out_h * out_w) % 4);
            let (oh, ow) = (i / out_w % out_h, i % out_w);
            let mut sum = 0;
            for tap in 0..within * 6 {
                let (c, kh, kw) = (tap / 6, tap / 2 % 3, tap % 2);
                let (h, w_at) = (oh * stride + kh * dilation, ow * stride + kw * dilation);
                if (pad..height + pad).contains(&h) && (pad..width + pad).contains(&w_at) {
                    let channel = o / (4 / group) * within + c;
                    let at = ((n * channels + channel) * height + h - pad) * width + w_at - pad;
                    sum += (x[at] - x_zero) * (w[o * within * 6 + tap] - w_zeros[o]);
                }
            }
            expected.push(sum);
        }
        prop_assert_eq!(longs(&output), expected);
    }

    #[test]
    fn pools_average_what_is_under_the_window(
        seed: u64, stride in 1_i64..3, pad in 0_i64..2, counts in 0_i64..2, is_signed: bool,
    ) {
        let x = numbers(seed, 2 * 5 * 6, is_signed);
        let attributes = vec![
            ints("kernel_shape", &[3, 2]), ints("strides", &[stride; 2]), ints("pads", &[pad; 4]),
            int("count_include_pad", counts),
        ];
        let zero = |value: i64| octets(&[], &[value], is_signed);
        let constants = vec![tensor0(0.13_f32), zero(17), tensor0(0.07_f32), zero(3)];
        let output = run_one("QLinearAveragePool", attributes, octets(&[1, 2, 5, 6], &x, is_signed), constants);
        let output = output.unwrap();
        let range = if is_signed { (-128, 127) } else { UNSIGNED };
        let (out_h, out_w) = (output.shape()[2], output.shape()[3]);
        prop_assert_eq!(out_h as i64, (5 + 2 * pad - 3) / stride + 1);
        for (i, got) in longs(&output).into_iter().enumerate() {
            let (c, oh, ow) = (i / (out_h * out_w), (i / out_w % out_h) as i64, (i % out_w) as i64);
            let (mut sum, mut count) = (0, 0);
            for h in (oh * stride - pad).max(0)..(oh * stride - pad + 3).min(5) {
                for w in (ow * stride - pad).max(0)..(ow * stride - pad + 2).min(6) {
                    sum += x[c * 30 + (h * 6 + w) as usize] - 17;
                    count += 1;
                }
            }
            let exact = sum as f64 * 0.13 / f64::from(if counts == 1 { 6 } else { count }) / 0.07;
            let is_near = (-1..=1).any(|off| {
                let beside = quantum(exact + f64::from(off) * 1e-4, 3, range);
                beside == got
            });
            prop_assert!(is_near, "{got} for {exact}");
        }
    }

    #[test]
    fn a_global_pool_is_the_mean_of_the_image(seed: u64) {
        let x = numbers(seed, 3 * 35, false);
        let constants = vec![tensor0(0.02_f32), tensor0(9_u8), tensor0(0.011_f32), tensor0(100_u8)];
        let output =
            run_one("QLinearGlobalAveragePool", vec![], octets(&[1, 3, 5, 7], &x, false), constants).unwrap();
        for (got, image) in longs(&output).into_iter().zip(x.chunks(35)) {
            let exact = image.iter().map(|x| x - 9).sum::<i64>() as f64 * 0.02 / 35.0 / 0.011;
            prop_assert!((-1..=1).any(|off| quantum(exact + f64::from(off) * 1e-4, 100, UNSIGNED) == got));
        }
    }

    #[test]
    fn sums_and_products_broadcast_and_saturate(seed: u64, is_product: bool, by_row: bool) {
        let a = numbers(seed, 12, true);
        let b = numbers(seed ^ 77, if by_row { 4 } else { 12 }, true);
        let zero = |value: i64| octets(&[], &[value], true);
        let b_shape: &[usize] = if by_row { &[4] } else { &[3, 4] };
        let constants = vec![
            tensor0(0.11_f32), zero(5), octets(b_shape, &b, true), tensor0(0.07_f32), zero(-3),
            tensor0(0.09_f32), zero(11),
        ];
        let operator = if is_product { "QLinearMul" } else { "QLinearAdd" };
        let output = run_one(operator, vec![], octets(&[3, 4], &a, true), constants).unwrap();
        for (i, got) in longs(&output).into_iter().enumerate() {
            let (a, b) = ((a[i] - 5) as f64 * 0.11, (b[i % b.len()] + 3) as f64 * 0.07);
            let exact = if is_product { a * b } else { a + b } / 0.09;
            let range = (-128, 127);
            prop_assert!(
                (-1..=1).any(|off| quantum(exact + f64::from(off) * 1e-3, 11, range) == got),
                "{got} for {exact}"
            );
        }
    }

    #[test]
    fn a_softmax_is_one_along_its_axis(seed: u64, is_signed: bool) {
        let x = numbers(seed, 2 * 4 * 3, is_signed);
        let low = if is_signed { -128 } else { 0 };
        let zero = |value: i64| octets(&[], &[value], is_signed);
        let constants = vec![tensor0(0.05_f32), zero(7), tensor0(1.0_f32 / 256.0), zero(low)];
        let attributes = vec![int("axis", 1), int("opset", 13)];
        let output = run_one("QLinearSoftmax", attributes, octets(&[2, 4, 3], &x, is_signed), constants);
        let got = longs(&output.unwrap());
        for (i, got) in got.into_iter().enumerate() {
            let first = i / 12 * 12 + i % 3;
            let power = |at: usize| ((x[at] - 7) as f64 * 0.05).exp();
            let share = power(i) / (0..4).map(|k| power(first + k * 3)).sum::<f64>();
            let expected = ((share * 256.0).round() as i64 + low).min(low + 255);
            prop_assert!((got - expected).abs() <= 1, "{got} for {share}");
        }
    }

    #[test]
    fn tables_are_the_functions(seed: u64, slope in -0.5_f32..0.5) {
        let x = numbers(seed, 300, false);
        let constants = || vec![tensor0(0.05_f32), tensor0(120_u8), tensor0(0.03_f32), tensor0(60_u8)];
        let near = |got: i64, exact: f64| {
            (-1..=1).any(|off| quantum(exact / 0.03 + f64::from(off) * 1e-4, 60, UNSIGNED) == got)
        };
        for count in [10, 300] {
            let input = || octets(&[count], &x[..count], false);
            let value = |i: usize| (x[i] - 120) as f64 * 0.05;
            let leaky = run_one("QLinearLeakyRelu", vec![float("alpha", slope)], input(), constants()).unwrap();
            for (i, got) in longs(&leaky).into_iter().enumerate() {
                let value = value(i);
                let exact = if value < 0.0 { value * f64::from(slope) } else { value };
                prop_assert!(near(got, exact));
            }
            let sigmoid = run_one("QLinearSigmoid", vec![], input(), constants()).unwrap();
            for (i, got) in longs(&sigmoid).into_iter().enumerate() {
                prop_assert!(near(got, 1.0 / (1.0 + (-value(i)).exp())));
            }
        }
    }

    #[test]
    fn hostile_windows_are_errors(
        kernel in prop::collection::vec(-2_i64..5, 0..4), strides in prop::collection::vec(-1_i64..4, 0..4),
        pads in prop::collection::vec(-1_i64..9, 0..6), dilations in prop::collection::vec(-1_i64..1 << 40, 0..3),
        group in -1_i64..5, huge: bool,
    ) {
        let kernel: Vec<i64> = kernel.into_iter().map(|k| if huge { k << 60 } else { k }).collect();
        let window = || vec![ints("kernel_shape", &kernel), ints("strides", &strides), ints("pads", &pads)];
        let x = octets(&[1, 2, 5, 4], &numbers(1, 40, false), false);
        let pool = vec![tensor0(0.1_f32), tensor0(1_u8), tensor0(0.1_f32), tensor0(1_u8)];
        let pooled = run_one("QLinearAveragePool", window(), x.clone(), pool);
        let mut attributes = window();
        attributes.extend([int("group", group), ints("dilations", &dilations)]);
        let weights = octets(&[2, 2, 3, 2], &numbers(2, 24, false), false);
        let convolved = run_one("ConvInteger", attributes, x, vec![weights, tensor0(1_u8), tensor0(1_u8)]);
        for result in [pooled, convolved] {
            let is_refused = !matches!(result, Err(EngineError::Panicked(_) | EngineError::Memory(_)));
            prop_assert!(is_refused, "{:?}", result);
        }
    }

    #[test]
    fn parameters_of_any_shape_are_taken_or_refused(
        scales in 0_usize..5, zeros in 0_usize..5, axis in -4_i64..4, block in -1_i64..4, rank in 0_usize..3,
    ) {
        let shape = &[2, 3, 4][..rank];
        let x = octets(shape, &numbers(3, shape.iter().product(), false), false);
        let attributes = || vec![int("axis", axis), int("block_size", block)];
        let constants = || vec![tensor1(&vec![0.5_f32; scales]), tensor1(&vec![1_u8; zeros])];
        let dequantised = run_one("DequantizeLinear", attributes(), x.clone(), constants());
        let mut product = vec![octets(&[3, 2], &[1; 6], false)];
        product.extend([tensor1(&vec![1_u8; zeros]), tensor1(&vec![1_u8; scales])]);
        let multiplied = run_one("MatMulInteger", vec![], x.clone(), product);
        let mut concat = constants();
        concat.extend(constants());
        let joined = run_one("QLinearConcat", vec![int("axis", axis)], x, concat);
        for result in [dequantised, multiplied, joined] {
            prop_assert!(!matches!(result, Err(EngineError::Panicked(_))), "{:?}", result);
        }
    }
}

#[test]
fn half_way_numbers_go_to_the_even_one_and_extremes_saturate() {
    let input = tensor1(&[0.5_f32, 1.5, -0.5, -1.5, 1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY]);
    let output = run_one("QuantizeLinear", vec![], input, vec![tensor0(1.0_f32), tensor0(3_i8)]).unwrap();
    assert_eq!(output, tensor1(&[3_i8, 5, 3, 1, 127, -128, 127, -128]));
}

#[test]
fn a_range_of_nothing_is_quantised_by_a_scale_of_one() {
    let outputs = run_node(node("DynamicQuantizeLinear", 1, 3, vec![]), &[tensor1(&[0.0_f32; 4])]).unwrap();
    assert_eq!(outputs, [tensor1(&[0_u8; 4]), tensor0(1.0_f32), tensor0(0_u8)]);
}

#[test]
fn parts_on_other_grids_are_moved_to_the_output_s() {
    let constants = [
        ("scale", tensor0(1.0_f32)),
        ("zero", tensor0(5_u8)),
        ("halves", tensor0(0.5_f32)),
        ("first", tensor1(&[15_u8, 25])),
    ];
    let inputs = ["scale", "zero", "first", "halves", "zero", "x", "scale", "zero"];
    let joined = wired("QLinearConcat", &inputs, "y", vec![int("axis", 0)]);
    let output = run_graph(vec![joined], &[("x", tensor1(&[7_u8]))], &constants, "y").unwrap();
    assert_eq!(output, tensor1(&[10_u8, 15, 7]));
}

#[test]
fn unknown_attributes_are_refused() {
    let constants = vec![tensor0(1.0_f32), tensor0(0_u8), tensor0(1.0_f32), tensor0(0_u8)];
    let x = octets(&[1, 1, 2, 2], &[1, 2, 3, 4], false);
    let error = run_one("QLinearGlobalAveragePool", vec![int("channels_last", 1)], x, constants).unwrap_err();
    assert!(error.to_string().contains("`channels_last` is not computed here"), "{error}");
}
