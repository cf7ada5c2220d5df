//! The operators against plain references, written from ONNX's text.

use proptest::prelude::*;
use tract_onnx::pb::{AttributeProto, NodeProto};
use tract_onnx::prelude::*;

use super::super::super::EngineError;
use super::super::testing::{float, floats, int, ints, node, run_node, run_node_with, text};

/// What a reduction makes of a line.
type OfLine = fn(&[f32]) -> f32;
/// An activation with its attributes and its formula.
type Formula = (&'static str, Vec<AttributeProto>, fn(f64) -> f64);

/// Runs a node whose inputs from `free` on are constants of the file.
fn with_constants(node: NodeProto, inputs: &[Tensor], free: usize) -> Result<Vec<Tensor>, EngineError> {
    run_node_with(node, inputs, &(free..inputs.len()).collect::<Vec<_>>())
}

/// Runs a node and returns its first output.
fn run(operator: &str, attributes: Vec<AttributeProto>, inputs: &[Tensor], outputs: usize) -> Tensor {
    run_node(node(operator, inputs.len(), outputs, attributes), inputs).unwrap().remove(0)
}

fn tensor<T: Datum + Copy>(shape: &[usize], values: &[T]) -> Tensor {
    Tensor::from_shape(shape, values).unwrap()
}

fn flat<T: Datum + Copy>(tensor: &Tensor) -> Vec<T> {
    tensor.try_as_plain_ram().unwrap().as_slice::<T>().unwrap().to_vec()
}

/// Equal, or both NaN, or nearer than a few roundings of f32.
fn same(a: f32, b: f32) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-5 * a.abs().max(1.0)
}

/// Few distinct values, so that there are ties, and all the odd ones.
fn odd() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => (-3_i8..4).prop_map(f32::from),
        2 => -500.0_f32..500.0,
        1 => Just(f32::NAN),
        1 => Just(f32::INFINITY),
        1 => Just(f32::NEG_INFINITY),
    ]
}

/// A tensor of three axes and its values.
fn cube() -> impl Strategy<Value = ([usize; 3], Vec<f32>)> {
    (1_usize..4, 1_usize..6, 1_usize..4)
        .prop_flat_map(|(a, b, c)| (Just([a, b, c]), prop::collection::vec(odd(), a * b * c)))
}

/// Returns the values along the middle axis, for each place before and after it.
fn lines(shape: [usize; 3], values: &[f32]) -> Vec<Vec<f32>> {
    let [a, b, c] = shape;
    let line = |i: usize, k: usize| (0..b).map(move |j| values[(i * b + j) * c + k]).collect();
    (0..a).flat_map(|i| (0..c).map(move |k| (i, k))).map(|(i, k)| line(i, k)).collect()
}

fn log_sum_exp(line: &[f32]) -> f32 {
    let line: Vec<f64> = line.iter().map(|value| f64::from(*value)).collect();
    if line.iter().any(|value| value.is_nan()) {
        return f32::NAN;
    }
    let top = line.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top.is_infinite() {
        return top as f32;
    }
    (top + line.iter().map(|value| (value - top).exp()).sum::<f64>().ln()) as f32
}

fn extreme(line: &[f32], pick: fn(f32, f32) -> f32) -> f32 {
    if line.iter().any(|value| value.is_nan()) {
        f32::NAN
    } else {
        line.iter().copied().reduce(pick).unwrap()
    }
}

proptest! {
    #[test]
    fn reductions_are_those_of_each_line((shape, values) in cube()) {
        let input = [tensor(&shape, &values), tensor1(&[-2_i64])];
        let references: [(&str, OfLine); 3] = [
            ("ReduceLogSumExp", log_sum_exp),
            ("ReduceMax", |line| extreme(line, f32::max)),
            ("ReduceMin", |line| extreme(line, f32::min)),
        ];
        for (operator, reference) in references {
            // As an input from operator set 18 on, which single nodes are tested with.
            let axes = with_constants(node(operator, 2, 1, vec![int("keepdims", 0)]), &input, 1);
            let found: Vec<f32> = flat(&axes.unwrap()[0]);
            let expected: Vec<f32> = lines(shape, &values).iter().map(|line| reference(line)).collect();
            prop_assert!(found.iter().zip(&expected).all(|(a, b)| same(*a, *b)), "{operator}: {found:?}, not {expected:?}");
        }
    }

    #[test]
    fn the_position_of_an_extreme_is_the_first_or_last_best((shape, values) in cube(), last in any::<bool>()) {
        for (operator, sign) in [("ArgMax", 1.0), ("ArgMin", -1.0)] {
            let attributes = vec![int("axis", 1), int("keepdims", 0), int("select_last_index", i64::from(last))];
            let found: Vec<i64> = flat(&run(operator, attributes, &[tensor(&shape, &values)], 1));
            let reference = |line: &Vec<f32>| {
                let is_better = |a: f32, b: f32| sign * a > sign * b || (last && a == b);
                (1..line.len()).fold(0, |best, next| if is_better(line[next], line[best]) { next } else { best }) as i64
            };
            let expected: Vec<i64> = lines(shape, &values).iter().map(reference).collect();
            prop_assert_eq!(&found, &expected);
        }
    }

    #[test]
    fn the_first_of_equal_values_is_taken_first_and_nan_counts_as_largest(
        (shape, values) in cube(), largest in any::<bool>(), part in 0.0_f64..1.0,
    ) {
        let count = (shape[1] as f64 * part) as i64 + 1;
        let input = [tensor(&shape, &values), tensor1(&[count])];
        let attributes = vec![int("axis", 1), int("largest", i64::from(largest))];
        let outputs = with_constants(node("TopK", 2, 2, attributes), &input, 1).unwrap();
        let (found, positions): (Vec<f32>, Vec<i64>) = (flat(&outputs[0]), flat(&outputs[1]));
        let output = [shape[0], count as usize, shape[2]];
        let picked = lines(output, &found);
        let at = lines(output, &positions.iter().map(|at| *at as f32).collect::<Vec<_>>());
        for ((line, picked), at) in lines(shape, &values).iter().zip(&picked).zip(&at) {
            let mut order: Vec<usize> = (0..line.len()).collect();
            let key = |at: &usize| (line[*at].is_nan(), if line[*at].is_nan() { 0.0 } else { line[*at] });
            order.sort_by(|a, b| {
                let by_value = key(a).partial_cmp(&key(b)).unwrap();
                if largest { by_value.reverse() } else { by_value }
            });
            for (rank, position) in order.iter().take(count as usize).enumerate() {
                prop_assert!(same(picked[rank], line[*position]));
                prop_assert_eq!(at[rank] as usize, *position);
            }
        }
    }

    #[test]
    fn a_remainder_has_the_sign_of_its_divisor(
        a in prop::collection::vec(-50_i32..50, 6), b in prop::collection::vec(1_i32..9, 3), sign in any::<bool>(),
    ) {
        let b: Vec<i32> = b.iter().map(|b| if sign { -b } else { *b }).collect();
        // Of different rank, and the shorter one spread.
        let found: Vec<i32> = flat(&run("Mod", vec![], &[tensor(&[2, 3], &a), tensor(&[3], &b)], 1));
        let expected: Vec<i32> = a.iter().zip(b.iter().cycle()).map(|(a, b)| a - b * (f64::from(*a) / f64::from(*b)).floor() as i32).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn extremes_of_several_tensors_keep_nan(a in prop::collection::vec(odd(), 6), b in prop::collection::vec(odd(), 3)) {
        for (operator, pick) in [("Max", f32::max as fn(f32, f32) -> f32), ("Min", f32::min)] {
            let found: Vec<f32> = flat(&run(operator, vec![], &[tensor(&[3], &b), tensor(&[2, 3], &a)], 1));
            let expected: Vec<f32> = a.iter().zip(b.iter().cycle()).map(|(a, b)| extreme(&[*a, *b], pick)).collect();
            prop_assert!(found.iter().zip(&expected).all(|(a, b)| same(*a, *b)), "{found:?}, not {expected:?}");
        }
    }

    #[test]
    fn activations_are_their_formulas_and_nan_stays(values in prop::collection::vec(odd(), 1..40)) {
        let formulas: [Formula; 6] = [
            ("Sigmoid", vec![], |x| 1.0 / (1.0 + (-x).exp())),
            ("Tanh", vec![], f64::tanh),
            ("Softplus", vec![], |x| if x > 30.0 { x } else { x.exp().ln_1p() }),
            ("HardSigmoid", vec![float("alpha", 0.5)], |x| if x.is_nan() { x } else { (0.5 * x + 0.5).clamp(0.0, 1.0) }),
            ("Celu", vec![float("alpha", 0.5)], |x| if x.is_nan() { x } else { x.max(0.0) + (0.5 * ((x / 0.5).exp() - 1.0)).min(0.0) }),
            ("Relu", vec![], |x| if x < 0.0 { 0.0 } else { x }),
        ];
        for (operator, attributes, formula) in formulas {
            // A rectifier of minus infinity is not a number here, where ONNX says zero: the price of the fused kernel.
            let values: Vec<f32> = values.iter().copied().filter(|x| operator != "Relu" || *x != f32::NEG_INFINITY).collect();
            let found: Vec<f32> = flat(&run(operator, attributes, &[tensor1(&values)], 1));
            for (x, y) in values.iter().zip(&found) {
                let expected = formula(f64::from(*x)) as f32;
                prop_assert!(same(*y, expected), "{operator} of {x} is {y}, not {expected}");
            }
        }
    }

    #[test]
    fn logarithms_of_a_softmax_are_finite_where_the_values_are(values in prop::collection::vec(-900.0_f32..900.0, 1..9)) {
        let found: Vec<f32> = flat(&run("LogSoftmax", vec![], &[tensor(&[1, values.len()], &values)], 1));
        let sum = log_sum_exp(&values);
        for (x, y) in values.iter().zip(&found) {
            prop_assert!((y - (x - sum)).abs() <= 1e-3, "{y}, not {}", x - sum);
        }
    }

    #[test]
    fn whole_numbers_of_64_bits_stay_what_they_are(values in prop::collection::vec(any::<i64>(), 1..9)) {
        let found: Vec<i64> = flat(&run("Cast", vec![int("to", 7)], &[tensor1(&values)], 1));
        prop_assert_eq!(&found, &values);
        let wide: Vec<f64> = values.iter().map(|value| (*value >> 12) as f64).collect();
        let found: Vec<i64> = flat(&run("Cast", vec![int("to", 7)], &[tensor1(&wide)], 1));
        prop_assert_eq!(found, values.iter().map(|value| value >> 12).collect::<Vec<_>>());
    }

    #[test]
    fn sums_of_whole_numbers_are_not_cut(values in prop::collection::vec(-(1_i64 << 40)..1 << 40, 1..9)) {
        let found: Vec<i64> = flat(&run("ReduceSum", vec![int("keepdims", 0)], &[tensor1(&values)], 1));
        prop_assert_eq!(found, [values.iter().sum::<i64>()]);
    }

    #[test]
    fn distances_are_those_of_each_pair_for_every_metric_and_type(
        (width, a, b) in (1_usize..20).prop_flat_map(|width| {
            let rows = |most: usize| {
                let counts = (1..most).prop_map(move |rows| rows * width);
                counts.prop_flat_map(|count| prop::collection::vec(-9.0_f64..9.0, count))
            };
            (Just(width), rows(5), rows(40))
        }),
        // With a second table that comes with the run, and a constant one.
        free in 1_usize..3,
    ) {
        let metrics: [Metric; 3] = [
            ("sqeuclidean", |x| x * x, |sum| sum),
            ("euclidean", |x| x * x, f64::sqrt),
            ("cityblock", f64::abs, |sum| sum),
        ];
        for (metric, term, end) in metrics {
            let expected: Vec<f64> = a.chunks(width).flat_map(|x| b.chunks(width).map(move |y| {
                end(x.iter().zip(y).map(|(x, y)| term(x - y)).sum())
            })).collect();
            let tables = [tensor(&[a.len() / width, width], &a), tensor(&[b.len() / width, width], &b)];
            for datum_type in [f32::datum_type(), f64::datum_type()] {
                let inputs = [0, 1].map(|at: usize| tables[at].cast_to_dt(datum_type).unwrap().into_owned());
                let node = node("CDist", 2, 1, vec![text("metric", metric)]);
                let found = with_constants(node, &inputs, free).unwrap().remove(0);
                let found: Vec<f64> = flat(&found.cast_to::<f64>().unwrap());
                let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-5 * b.abs().max(1.0);
                prop_assert!(
                    found.len() == expected.len() && found.iter().zip(&expected).all(near),
                    "{metric}: {found:?}, not {expected:?}"
                );
            }
        }
    }

    #[test]
    fn the_first_of_many_are_those_of_a_sort(values in prop::collection::vec(-4_i8..4, 1..60), count in 1_usize..30, largest in any::<bool>()) {
        let count = count.min(values.len());
        let wide: Vec<f32> = values.iter().map(|value| f32::from(*value)).collect();
        let attributes = vec![int("largest", largest.into()), int("axis", 0)];
        let inputs = [tensor1(&wide), tensor1(&[count as i64])];
        let found = with_constants(node("TopK", 2, 2, attributes), &inputs, 1).unwrap();
        let mut positions: Vec<i64> = (0..values.len() as i64).collect();
        positions.sort_by_key(|&at| {
            let value = i16::from(values[usize::try_from(at).unwrap()]);
            if largest { -value } else { value }
        });
        prop_assert_eq!(flat::<i64>(&found[1]), positions[..count].to_vec());
    }

    #[test]
    fn an_index_from_the_end_is_the_same_place(at in prop::collection::vec((0_i64..3, 0_i64..4), 1..5)) {
        let data: Vec<f32> = (0..12).map(|value| value as f32).collect();
        let data = tensor(&[3, 4], &data);
        let indices = |back: i64| {
            let flat: Vec<i64> = at.iter().flat_map(|(i, j)| [i - 3 * back, j - 4 * back]).collect();
            tensor(&[at.len(), 2], &flat)
        };
        let front = run("GatherND", vec![], &[data.clone(), indices(0)], 1);
        prop_assert_eq!(&run("GatherND", vec![], &[data.clone(), indices(1)], 1), &front);
        prop_assert_eq!(flat::<f32>(&front), at.iter().map(|(i, j)| (i * 4 + j) as f32).collect::<Vec<_>>());
        let updates = tensor1(&vec![-1.0_f32; at.len()]);
        let scattered = run("ScatterND", vec![], &[data.clone(), indices(1), updates], 1);
        for (place, value) in flat::<f32>(&scattered).into_iter().enumerate() {
            let is_hit = at.iter().any(|(i, j)| (i * 4 + j) as usize == place);
            prop_assert_eq!(value, if is_hit { -1.0 } else { place as f32 });
        }
    }

    #[test]
    fn a_position_outside_is_a_row_without_the_second_value(positions in prop::collection::vec(-9_i64..9, 1..6)) {
        let inputs = [tensor1(&positions), tensor0(4_i64), tensor1(&[0.5_f32, 2.0])];
        let found = with_constants(node("OneHot", 3, 1, vec![]), &inputs, 1).unwrap();
let row = |position: &i64| {
            let position = *position;
            (0..4).map(move |at| if position == at || position == at - 4 { 2.0 } else { 0.5 })
        };
        prop_assert_eq!(flat::<f32>(&found[0]), positions.iter().flat_map(row).collect::<Vec<f32>>());
    }

    #[test]
    fn products_of_f64_keep_their_factors(a in prop::collection::vec(-9.0_f64..9.0, 6), b in prop::collection::vec(-9.0_f64..9.0, 6)) {
        let inputs = [tensor(&[2, 3], &a), tensor(&[2, 3], &b), tensor1(&[1.0_f64, -1.0])];
        let attributes = vec![float("alpha", 0.5), float("beta", 2.0), int("transB", 1)];
        let found: Vec<f64> = flat(&run("Gemm", attributes, &inputs, 1));
        let at = |i: usize, j: usize| {
            let product: f64 = (0..3).map(|k| a[i * 3 + k] * b[j * 3 + k]).sum();
            0.5 * product + if j == 0 { 2.0 } else { -2.0 }
        };
        let expected = [at(0, 0), at(0, 1), at(1, 0), at(1, 1)];
        prop_assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-12), "{found:?}, not {expected:?}");
    }

    #[test]
    fn clipping_keeps_nan_and_clips_infinity(values in prop::collection::vec(odd(), 1..9), low in -3.0_f32..0.0, high in 0.0_f32..3.0) {
        let inputs = [tensor1(&values), tensor0(low), tensor0(high)];
        for found in [run("Clip", vec![], &inputs, 1), with_constants(node("Clip", 3, 1, vec![]), &inputs, 1).unwrap().remove(0)] {
            for (x, y) in values.iter().zip(flat::<f32>(&found)) {
                let expected = if x.is_nan() { *x } else { x.clamp(low, high) };
                prop_assert!(same(y, expected), "{x} is {y}, not {expected}");
            }
        }
    }
}

/// What made the probabilities of naive Bayes and of mixtures infinite: far from all data every likelihood is tiny.
#[test]
fn the_logarithm_of_a_sum_of_tiny_likelihoods_is_finite() {
    let input = [tensor(&[1, 3], &[-1_200.0_f32, -1_201.0, -1_190.0]), tensor1(&[1_i64])];
    let node = node("ReduceLogSumExp", 2, 1, vec![int("keepdims", 0)]);
    let found: Vec<f32> = flat(&with_constants(node, &input, 1).unwrap()[0]);
    assert!((found[0] + 1_189.999_9).abs() < 1e-2, "{found:?}");
}

#[test]
fn shifts_beyond_the_width_leave_nothing() {
    let inputs = [tensor1(&[1_u8, 255, 8]), tensor1(&[8_u8, 200, 1])];
    assert_eq!(run("BitShift", vec![text("direction", "LEFT")], &inputs, 1), tensor1(&[0_u8, 0, 16]));
    assert_eq!(run("BitShift", vec![text("direction", "RIGHT")], &inputs, 1), tensor1(&[0_u8, 0, 4]));
}

#[test]
fn a_count_beyond_the_axis_is_refused() {
    let input = [tensor1(&[1.0_f32, 2.0]), tensor1(&[3_i64])];
    let error = with_constants(node("TopK", 2, 2, vec![]), &input, 1).unwrap_err();
    assert!(error.to_string().contains("`k` is 3 and axis 0 has 2 values"), "{error}");
}

#[test]
fn a_tensor_that_only_a_lie_can_ask_for_is_refused_before_it_is_made() {
    let input = [tensor1(&[1_i64]), tensor0(1_i64 << 40), tensor1(&[0_i64, 1])];
    let error = with_constants(node("OneHot", 3, 1, vec![]), &input, 1).unwrap_err();
    assert!(error.to_string().contains("more than 67108864 values"), "{error}");
}

#[test]
fn negative_pads_and_values_of_other_modes_are_refused() {
    let pads = [tensor(&[1, 3], &[1.0_f32, 2.0, 3.0]), tensor1(&[0_i64, -1, 0, 0]), tensor0(1.0_f32)];
    let constant = node("Pad", 2, 1, vec![]);
    let error = with_constants(constant, &pads[..2], 1).unwrap_err().to_string();
    assert!(error.contains("negative pads"), "{error}");
    let reflected = node("Pad", 3, 1, vec![text("mode", "reflect")]);
    let error = with_constants(reflected, &pads, 1).unwrap_err().to_string();
    assert!(error.contains("mode `reflect` with a constant's value"), "{error}");
}

#[test]
fn attributes_that_are_not_known_are_refused() {
    for (operator, attribute) in
        [("Relu", float("alpha", 1.0)), ("ArgMax", ints("axes", &[1])), ("Gemm", floats("gamma", &[1.0]))]
    {
        let error =
            run_node(node(operator, 1, 1, vec![attribute]), &[tensor1(&[1.0_f32])]).unwrap_err().to_string();
        assert!(error.contains("is not known here"), "{error}");
    }
}

/// Returns a tensor's values normalised in parts of `span`, each then multiplied and shifted by what `factor` names.
fn normalised(values: &[f32], span: usize, epsilon: f64, factor: impl Fn(usize) -> (f32, f32)) -> Vec<f32> {
    let mut all = Vec::new();
    for part in values.chunks(span) {
        let mean = part.iter().map(|value| f64::from(*value)).sum::<f64>() / span as f64;
        let variance = part.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / span as f64;
        for value in part {
            let (scale, shift) = factor(all.len());
            let unit = (f64::from(*value) - mean) / (variance + epsilon).sqrt();
            all.push((unit * f64::from(scale) + f64::from(shift)) as f32);
        }
    }
    all
}

fn nearly(found: &[f32], expected: &[f32]) -> bool {
    let near = |a: &f32, b: &f32| (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-4 * b.abs().max(1.0);
    found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| near(a, b))
}

proptest! {
    #[test]
    fn a_normalisation_gives_each_part_its_mean_and_deviation(
        (shape, values) in (1_usize..4, 1_usize..3, 1_usize..3, 1_usize..20).prop_flat_map(|(n, g, c, l)| {
            let value = prop_oneof![20 => -9.0_f32..9.0, 1 => Just(f32::NAN)];
            (Just((n, g, c, l)), prop::collection::vec(value, n * g * c * l))
        }),
        epsilon in 1e-3_f32..0.1,
    ) {
        let (n, groups, each, length) = shape;
        let channels = groups * each;
        let x = tensor(&[n, channels, length], &values);
        let factors = |count: usize| -> (Vec<f32>, Vec<f32>) {
            (0..count).map(|k| (0.5 + k as f32 * 0.25, k as f32 - 1.0)).unzip()
        };
        let attributes = || vec![float("epsilon", epsilon)];
        let wide = f64::from(epsilon);

        let (scale, shift) = factors(length);
        let inputs = [x.clone(), tensor(&[length], &scale), tensor(&[length], &shift)];
        let found = flat::<f32>(&run("LayerNormalization", attributes(), &inputs, 1));
        let expected = normalised(&values, length, wide, |at| (scale[at % length], shift[at % length]));
        prop_assert!(nearly(&found, &expected), "layer: {found:?} is not {expected:?}");
        let found = flat::<f32>(&run("LayerNormalization", attributes(), &inputs[..2], 1));
        let expected = normalised(&values, length, wide, |at| (scale[at % length], 0.0));
        prop_assert!(nearly(&found, &expected), "layer without shift: {found:?} is not {expected:?}");

        let (scale, shift) = factors(channels);
        let of_channel = |at: usize| (scale[at / length % channels], shift[at / length % channels]);
        let inputs = [x.clone(), tensor(&[channels], &scale), tensor(&[channels], &shift)];
        let found = flat::<f32>(&run("InstanceNormalization", attributes(), &inputs, 1));
        let expected = normalised(&values, length, wide, of_channel);
        prop_assert!(nearly(&found, &expected), "instance: {found:?} is not {expected:?}");

        // In operator set 18, which these tests import, a group has a factor.
        let (scale, shift) = factors(groups);
        let of_group = |at: usize| (scale[at / (each * length) % groups], shift[at / (each * length) % groups]);
        let inputs = [x, tensor(&[groups], &scale), tensor(&[groups], &shift)];
        let attributes = vec![float("epsilon", epsilon), int("num_groups", groups as i64)];
        let found = flat::<f32>(&run("GroupNormalization", attributes, &inputs, 1));
        let expected = normalised(&values, each * length, wide, of_group);
        prop_assert!(nearly(&found, &expected), "group: {found:?} is not {expected:?}");
    }
}

/// A metric's name, what it makes of a difference, and of the sum.
type Metric = (&'static str, fn(f64) -> f64, fn(f64) -> f64);

/// An activation's name and formula.
type Shape = (&'static str, fn(f64) -> f64);

/// Of a layer: rows, depth, outputs, and values enough for rows, weights and bias.
fn layer() -> impl Strategy<Value = ([usize; 3], Vec<f32>)> {
    // From less than one of a machine's vectors to more than the most that go together.
    prop_oneof![(1_usize..20, 1_usize..20, 1_usize..45), (1_usize..3, 1_usize..9, 100_usize..180)]
        .prop_flat_map(|(rows, depth, outputs)| {
            let values = rows * depth + depth * outputs + outputs;
            (Just([rows, depth, outputs]), prop::collection::vec(-2.0_f32..2.0, values))
        })
}

proptest! {
    #[test]
    fn a_dense_layer_is_its_sum_of_products_with_its_activation(
        ([rows, depth, outputs], values) in layer(),
        turned in any::<bool>(),
        nan in prop::option::of(any::<prop::sample::Index>()),
        (alpha, beta) in prop_oneof![Just((1.0_f32, 1.0_f32)), (-2.0_f32..2.0, -2.0_f32..2.0)],
    ) {
        let mut values = values;
        if let Some(nan) = nan {
            values[nan.index(rows * depth)] = f32::NAN;
        }
        let (x, rest) = values.split_at(rows * depth);
        let (weights, bias) = rest.split_at(depth * outputs);
        let weight = |k: usize, out: usize| {
            f64::from(if turned { weights[out * depth + k] } else { weights[k * outputs + out] })
        };
        let shape = if turned { [outputs, depth] } else { [depth, outputs] };
        let inputs = [tensor(&[rows, depth], x), tensor(&shape, weights), tensor(&[outputs], bias)];
        let sum = |at: usize| {
            let (row, out) = (at / outputs, at % outputs);
            let products = (0..depth).map(|k| f64::from(x[row * depth + k]) * weight(k, out)).sum::<f64>();
            f64::from(alpha) * products + f64::from(beta) * f64::from(bias[out])
        };
        let activations: [Shape; 4] = [
            ("", |x| x),
            ("Relu", |x| if x < 0.0 { 0.0 } else { x }),
            ("Sigmoid", |x| 1.0 / (1.0 + (-x).exp())),
            ("Tanh", f64::tanh),
        ];
        for (activation, function) in activations {
            let mut attributes = vec![float("alpha", alpha), float("beta", beta), int("transB", turned.into())];
            if !activation.is_empty() {
                attributes.push(text("activation", activation));
            }
            let operator = if activation.is_empty() { "Gemm" } else { "FusedGemm" };
            let expected: Vec<f32> = (0..rows * outputs).map(|at| function(sum(at)) as f32).collect();
            // Weights that are constants, and weights that come with the run.
            for free in [1, 3] {
                let node = node(operator, 3, 1, attributes.clone());
                let found = flat::<f32>(&with_constants(node, &inputs, free).unwrap()[0]);
                prop_assert!(nearly(&found, &expected), "{operator} {activation}: {found:?} is not {expected:?}");
            }
        }
    }
}

#[test]
fn a_fused_layer_with_an_unknown_activation_is_refused() {
    let inputs = [tensor(&[1, 1], &[1.0_f32]), tensor(&[1, 1], &[1.0_f32])];
    for attributes in [vec![text("activation", "Elu")], vec![]] {
        assert!(run_node(node("FusedGemm", 2, 1, attributes), &inputs).is_err());
    }
}
