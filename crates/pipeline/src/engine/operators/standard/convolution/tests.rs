//! Convolutions and pooling against plain references, written from ONNX's text.

use proptest::prelude::*;
use pulp::WithSimd;
use tract_onnx::pb::AttributeProto;
use tract_onnx::prelude::*;

use super::super::super::super::samples::{self, F32, graph, model, value};
use super::super::super::super::tract::read_proto;
use super::super::super::onnx;
use super::super::super::testing::{int, ints, node, run_node, run_node_with};
use super::*;

/// One axis: input, kernel, stride, dilation, pads.
#[derive(Debug, Clone, Copy)]
struct Side {
    input: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    pads: [usize; 2],
}

impl Side {
    const NONE: Self = Self { input: 1, kernel: 1, stride: 1, dilation: 1, pads: [0, 0] };

    fn output(&self) -> usize {
        (self.input + self.pads[0] + self.pads[1] - (self.kernel - 1) * self.dilation - 1) / self.stride + 1
    }

    /// Returns the input's position, if it is inside.
    fn position(&self, output: usize, k: usize) -> Option<usize> {
        (output * self.stride + k * self.dilation).checked_sub(self.pads[0]).filter(|at| *at < self.input)
    }
}

/// Sizes around the vectors of all machines.
fn side(longest: usize) -> impl Strategy<Value = Side> {
    let sizes = (0..=longest, 1_usize..5, 1_usize..5, 1_usize..4, [0_usize..4, 0_usize..4]);
    sizes.prop_map(|(more, kernel, stride, dilation, pads)| {
        let least = ((kernel - 1) * dilation + 1).saturating_sub(pads[0] + pads[1]).max(1);
        Side { input: least + more, kernel, stride, dilation, pads }
    })
}

fn sides() -> impl Strategy<Value = Vec<Side>> {
    prop_oneof![side(70).prop_map(|side| vec![side]), (side(9), side(20)).prop_map(|(a, b)| vec![a, b])]
}

fn attributes(sides: &[Side]) -> Vec<AttributeProto> {
    let of = |value: fn(&Side) -> usize| sides.iter().map(|side| value(side) as i64).collect::<Vec<_>>();
    vec![
        ints("kernel_shape", &of(|side| side.kernel)),
        ints("strides", &of(|side| side.stride)),
        ints("dilations", &of(|side| side.dilation)),
        ints("pads", &[of(|side| side.pads[0]), of(|side| side.pads[1])].concat()),
    ]
}

/// Calls with each window of each output: the output's place, and the places in kernel and image that are inside.
fn each_window(sides: &[Side], mut with: impl FnMut(usize, &[(usize, usize)])) {
    let [high, wide] = if let [wide] = sides { [Side::NONE, *wide] } else { [sides[0], sides[1]] };
    for row in 0..high.output() {
        for column in 0..wide.output() {
            let mut places = Vec::new();
            for (k, l) in (0..high.kernel).flat_map(|k| (0..wide.kernel).map(move |l| (k, l))) {
                if let (Some(y), Some(x)) = (high.position(row, k), wide.position(column, l)) {
                    places.push((k * wide.kernel + l, y * wide.input + x));
                }
            }
            with(row * wide.output() + column, &places);
        }
    }
}

fn shape(first: [usize; 2], sides: &[Side], length: fn(&Side) -> usize) -> Vec<usize> {
    first.into_iter().chain(sides.iter().map(length)).collect()
}

/// Values that are not too simple, from a seed.
fn values(shape: &[usize], seed: u32) -> Tensor {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_shape(shape, &values).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec()
}

fn is_near(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-4 * b.abs().max(1.0))
}

proptest! {
    #[test]
    fn a_convolution_is_the_sum_of_its_products(
        sides in sides(),
        (batch, groups, in_group, out_group) in (1_usize..4, 1_usize..4, 1_usize..4, 1_usize..14),
        seed in any::<u32>(),
    ) {
        let (channels, outputs) = (groups * in_group, groups * out_group);
        let x = values(&shape([batch, channels], &sides, |side| side.input), seed);
        let weights = values(&shape([outputs, in_group], &sides, |side| side.kernel), seed ^ 0x55);
        let bias = values(&[outputs], seed ^ 0xAAAA);
        let mut attributes = attributes(&sides);
        attributes.push(int("group", groups as i64));
        let inputs = [x.clone(), weights.clone(), bias.clone()];
        let given = run_node_with(node("Conv", 3, 1, attributes), &inputs, &[1, 2]).unwrap().remove(0);

        let (x, weights, bias) = (flat(&x), flat(&weights), flat(&bias));
        let image: usize = sides.iter().map(|side| side.input).product();
        let kernel: usize = sides.iter().map(|side| side.kernel).product();
        let output_shape = shape([batch, outputs], &sides, Side::output);
        let mut expected = vec![0.0; output_shape.iter().product()];
        let output_image = expected.len() / (batch * outputs);
        for (sample, output) in (0..batch).flat_map(|sample| (0..outputs).map(move |output| (sample, output))) {
            each_window(&sides, |at, places| {
                let mut sum = f64::from(bias[output]);
                for channel in 0..in_group {
                    let from = (sample * channels + output / out_group * in_group + channel) * image;
                    let weights = &weights[(output * in_group + channel) * kernel..];
                    let products = places.iter().map(|(k, i)| f64::from(weights[*k]) * f64::from(x[from + i]));
                    sum += products.sum::<f64>();
                }
                expected[(sample * outputs + output) * output_image + at] = sum as f32;
            });
        }
        prop_assert_eq!(given.shape(), &output_shape[..]);
        prop_assert!(is_near(&flat(&given), &expected));
    }

    #[test]
    fn a_pool_is_the_largest_of_a_window_or_its_mean(
        sides in sides(),
        (batch, channels) in (1_usize..4, 1_usize..5),
        seed in any::<u32>(),
    ) {
        // ONNX: pads are smaller than the kernel.
        let within = |side: &Side| Side {
            pads: side.pads.map(|pad| pad.min(side.kernel - 1)),
            input: side.input + side.pads[0] + side.pads[1],
            ..*side
        };
        let sides: Vec<Side> = sides.iter().map(within).collect();
        let x = values(&shape([batch, channels], &sides, |side| side.input), seed);
        let run = |operator: &str| {
            run_node(node(operator, 1, 1, attributes(&sides)), std::slice::from_ref(&x)).unwrap().remove(0)
        };
        let (most, mean) = (run("MaxPool"), run("AveragePool"));
        prop_assert_eq!(most.shape(), &shape([batch, channels], &sides, Side::output)[..]);
        let (x, most, mean) = (flat(&x), flat(&most), flat(&mean));
        let (image, output) = (x.len() / (batch * channels), most.len() / (batch * channels));
        for channel in 0..batch * channels {
            each_window(&sides, |at, places| {
                let values: Vec<f32> = places.iter().map(|(_, i)| x[channel * image + i]).collect();
                if values.is_empty() {
                    return;
                }
                let expected = values.iter().copied().fold(f32::MIN, f32::max);
                assert_eq!(most[channel * output + at], expected);
                let expected = values.iter().sum::<f32>() / values.len() as f32;
                assert!((mean[channel * output + at] - expected).abs() < 1e-5);
            });
        }
    }

    #[test]
    fn a_global_pool_is_the_mean_of_an_image(
        shape in prop::collection::vec(1_usize..40, 3..=4), seed in any::<u32>()
    ) {
        let x = values(&shape, seed);
        let means = run_node(node("GlobalAveragePool", 1, 1, vec![]), std::slice::from_ref(&x)).unwrap().remove(0);
        prop_assert_eq!(&means.shape()[..2], &shape[..2]);
        let image = shape[2..].iter().product::<usize>();
        let mean = |image: &[f32]| image.iter().map(|x| f64::from(*x)).sum::<f64>() / image.len() as f64;
        let expected: Vec<f32> = flat(&x).chunks(image).map(|image| mean(image) as f32).collect();
        prop_assert!(is_near(&flat(&means), &expected));
    }
}

/// Returns what a convolution of 2 channels to 3 and the nodes after it give, and the operators of the plan.
fn chain(nodes: &[samples::Proto], outputs: &[&str]) -> (Vec<Vec<f32>>, Vec<String>) {
    let mut all = vec![samples::node("Conv", &["x", "w", "b"], &["c"])];
    all.extend_from_slice(nodes);
    let constants = [
        samples::floats("w", &[3, 2, 2], &flat(&values(&[12], 3))),
        samples::floats("b", &[3], &[0.1, -0.2, 0.3]),
        samples::floats("low", &[], &[-0.25]),
        samples::floats("high", &[], &[0.5]),
    ];
    let length = |name: &&str| value(name, F32, &[2, 3, 4]);
    let outputs: Vec<samples::Proto> = outputs.iter().map(length).collect();
    let inputs = [value("x", F32, &[2, 2, 5]), value("z", F32, &[2, 3, 4])];
    let proto = read_proto(&onnx(), &model(&graph(&all, &constants, &inputs, &outputs))).unwrap();
    let plan = onnx().model_for_proto_model(&proto).unwrap().into_optimized().unwrap();
    let operators = plan.nodes().iter().map(|node| node.op.name().to_string()).collect();
    let mut x = flat(&values(&[20], 5));
    x[7] = f32::NAN;
    let x = Tensor::from_shape(&[2, 2, 5], &x).unwrap().into_tvalue();
    let given = tvec!(x, values(&[2, 3, 4], 7).into_tvalue());
    let outputs = plan.into_runnable().unwrap().run(given).unwrap();
    (outputs.iter().map(|output| flat(output)).collect(), operators)
}

#[test]
fn a_convolution_with_what_follows_gives_what_they_give_one_by_one() {
    let follow = |activation: &str, from: &str| match activation {
        "Clip" => samples::node("Clip", &[from, "low", "high"], &["y"]),
        other => samples::node(other, &[from], &["y"]),
    };
    for activation in ["Relu", "Clip", "LeakyRelu"] {
        for add in [None, Some(["c", "z"]), Some(["z", "c"])] {
            let mut nodes: Vec<samples::Proto> =
                add.iter().map(|inputs| samples::node("Add", inputs, &["s"])).collect();
            nodes.push(follow(activation, if add.is_some() { "s" } else { "c" }));
            let (joined, operators) = chain(&nodes, &["y"]);
            let is_one = |name: &String| ["Conv", "Source", "Const"].contains(&name.as_str());
            assert!(operators.iter().all(is_one), "{operators:?}");
            // What is an output itself stays apart.
            let apart = if add.is_some() { vec!["y", "c", "s"] } else { vec!["y", "c"] };
            let (apart, operators) = chain(&nodes, &apart);
            assert!(!operators.iter().all(is_one), "{operators:?}");
            for (joined, apart) in joined[0].iter().zip(&apart[0]) {
                let is_same = joined.is_nan() && apart.is_nan() || (joined - apart).abs() < 1e-6;
                assert!(is_same, "{activation} of {add:?}: {joined} is not {apart}");
            }
        }
    }
}

proptest! {
    /// The machine of the tests has one width of vectors; gateways have others.
    #[test]
    fn vectors_of_every_width_give_the_same_sums(
        (rows, columns, kernel, stride, outputs) in (1_usize..5, 1_usize..80, 1_usize..4, 1_usize..3, 1_usize..16),
        seed in any::<u32>(),
    ) {
        let axis = |input: usize| Axis {
            input: input + kernel,
            output: (input + kernel + 1 - kernel) / stride + 1,
            before: 1,
            kernel,
            stride,
            dilation: 1,
        };
        let images = Images { batch: 2, channels: 2, outputs, axes: [axis(rows), axis(columns)], spatial: 2 };
        let weights = flat(&values(&[outputs, 2, kernel, kernel], seed));
        let constants = Constants { groups: 1, weights, bias: flat(&values(&[outputs], seed ^ 1)) };
        let products = constants.products(&images, Finish::Between(-0.5, 2.0)).unwrap();
        let from = flat(&values(&images.input(), seed ^ 2));
        let added = flat(&values(&images.output(), seed ^ 3));
        let run = |width: usize| {
            let (mut into, mut buffers) = (vec![0.0; added.len()], products.buffers());
            let added = Some(&added[..]);
            let work = Convolving {
                products: &products, buffers: &mut buffers, from: &from, added, into: &mut into,
            };
            match width {
                1 => work.with_simd(pulp::Scalar::new()),
                4 => work.with_simd(pulp::Scalar128b),
                8 => work.with_simd(pulp::Scalar256b),
                _ => vectors::in_vectors(work),
            }
            into
        };
        let widest = run(16);
        for width in [1, 4, 8] {
            prop_assert!(is_near(&run(width), &widest), "vectors of {}", width);
        }
    }
}
