//! The kernels of products and convolutions against plain sums, over shapes around the widths of vectors and blocks.

use proptest::prelude::*;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::super::testing::{int, ints};
use super::numbers::whole;
use super::tests::{floats, longs, numbers, octets, run_graph, run_windows, wired};

/// A convolution's lengths: windows, channels and outputs of a group, groups; then of each spatial axis.
#[derive(Debug, Clone)]
struct Lengths {
    windows: usize,
    within: usize,
    outputs: usize,
    groups: usize,
    axes: Vec<Axis>,
}

#[derive(Debug, Clone, Copy)]
struct Axis {
    length: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    before: usize,
    after: usize,
}

impl Axis {
    fn out(self) -> usize {
        (self.length + self.before + self.after - (self.kernel - 1) * self.dilation - 1) / self.stride + 1
    }
}

fn axis() -> impl Strategy<Value = Axis> {
    let parts = (1_usize..40, 1_usize..5, 1_usize..4, 1_usize..4, 0_usize..5, 0_usize..5);
    parts.prop_filter_map("a kernel beyond the image", |(length, kernel, stride, dilation, before, after)| {
        let fits = length + before + after > (kernel - 1) * dilation;
        fits.then_some(Axis { length, kernel, stride, dilation, before, after })
    })
}

fn lengths() -> impl Strategy<Value = Lengths> {
    let parts = (1_usize..6, 1_usize..4, 1_usize..7, 1_usize..4, prop::collection::vec(axis(), 1..3));
    parts.prop_map(|(windows, within, outputs, groups, axes)| Lengths {
        windows,
        within,
        outputs,
        groups,
        axes,
    })
}

impl Lengths {
    fn product(&self, of: impl Fn(&Axis) -> usize) -> usize {
        self.axes.iter().map(of).product()
    }

    fn shape(&self, first: [usize; 2], of: impl Fn(&Axis) -> usize) -> Vec<usize> {
        first.into_iter().chain(self.axes.iter().map(of)).collect()
    }

    fn input(&self) -> Vec<usize> {
        self.shape([self.windows, self.within * self.groups], |axis| axis.length)
    }

    fn weights(&self) -> Vec<usize> {
        self.shape([self.outputs * self.groups, self.within], |axis| axis.kernel)
    }

    fn node(&self, operator: &str, inputs: &[&str], output: &str) -> NodeProto {
        let of =
            |of: &dyn Fn(&Axis) -> usize| self.axes.iter().map(|axis| of(axis) as i64).collect::<Vec<_>>();
        let pads = [of(&|axis| axis.before), of(&|axis| axis.after)].concat();
        let attributes = vec![
            int("group", self.groups as i64),
            ints("strides", &of(&|axis| axis.stride)),
            ints("dilations", &of(&|axis| axis.dilation)),
            ints("pads", &pads),
        ];
        wired(operator, inputs, output, attributes)
    }

    /// Where in an image a tap of an output's window lies, unless that is padding.
    fn place(&self, mut place: usize, mut tap: usize) -> Option<usize> {
        let (mut start, mut pitch, mut is_inside) = (0, 1, true);
        for axis in self.axes.iter().rev() {
            let at = place % axis.out() * axis.stride + tap % axis.kernel * axis.dilation;
            (place, tap) = (place / axis.out(), tap / axis.kernel);
            is_inside &= (axis.before..axis.length + axis.before).contains(&at);
            start += at.saturating_sub(axis.before) * pitch;
            pitch *= axis.length;
        }
        is_inside.then_some(start)
    }

    /// The sums of products from the definition, of centred numbers.
    fn sums(&self, x: &[i64], w: &[i64]) -> Vec<i64> {
        let (image, out) = (self.product(|axis| axis.length), self.product(|axis| axis.out()));
        let (taps, channels) = (self.product(|axis| axis.kernel), self.within * self.groups);
        let outputs = self.outputs * self.groups;
        let sum = |i: usize| {
            let (place, output, window) = (i % out, i / out % outputs, i / out / outputs);
            let first = window * channels + output / self.outputs * self.within;
            let terms = (0..self.within * taps).filter_map(|term| {
                let from = self.place(place, term % taps)?;
                Some(x[(first + term / taps) * image + from] * w[output * self.within * taps + term])
            });
            terms.sum()
        };
        (0..self.windows * outputs * out).map(sum).collect()
    }
}

fn rounded(value: f32, zero: i64) -> i64 {
    (value.round_ties_even().clamp(-1e6, 1e6) as i64 + zero).clamp(0, 255)
}

/// Centred numbers of windows, each on the grid of its own range, and its unit.
fn ranged(values: &[f32], window: usize) -> (Vec<i64>, Vec<f32>) {
    let mut units = Vec::new();
    let mut all = Vec::new();
    for values in values.chunks(window) {
        let low = values.iter().copied().fold(0.0, f32::min);
        let high = values.iter().copied().fold(0.0, f32::max);
        let unit = if low == high { 1.0 } else { (high - low) / 255.0 };
        let zero = (-low / unit).clamp(0.0, 255.0).round_ties_even() as i64;
        units.push(unit);
        all.extend(values.iter().map(|value| rounded(value / unit, zero) - zero));
    }
    (all, units)
}

/// Numbers of both signs, of another size in each window.
fn spread(seed: u64, count: usize, window: usize) -> Vec<f32> {
    let size = |i: usize| 0.1 + (i / window) as f32;
    numbers(seed, count, true).iter().enumerate().map(|(i, &n)| n as f32 * 0.37 * size(i)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn convolutions_are_exact_for_all_lengths(lengths in lengths(), seed: u64, zero in 0_i64..256) {
        let x = numbers(seed, lengths.input().iter().product(), false);
        let w = numbers(seed ^ 3, lengths.weights().iter().product(), true);
        let node = lengths.node("ConvInteger", &["x", "w", "z"], "y");
        let constants = [("w", octets(&lengths.weights(), &w, true)), ("z", octets(&[], &[zero], false))];
        let input = octets(&lengths.input(), &x, false);
        let output = run_graph(vec![node], &[("x", input)], &constants, "y").unwrap();
        let centred: Vec<i64> = x.iter().map(|x| x - zero).collect();
        prop_assert_eq!(longs(&output), lengths.sums(&centred, &w));
    }

    #[test]
    fn convolutions_round_each_sum_once(
        lengths in lengths(), seed: u64, large: bool, y_zero in 0_i64..256, y_scale in 0.5_f32..200.0,
    ) {
        let x = numbers(seed, lengths.input().iter().product(), false);
        let w = numbers(seed ^ 3, lengths.weights().iter().product(), true);
        let outputs = lengths.outputs * lengths.groups;
        let bias: Vec<i32> =
            numbers(seed ^ 9, outputs, true).iter().map(|&n| n as i32 * if large { 900_001 } else { 77 }).collect();
        let scales: Vec<f32> = (0..outputs).map(|i| 0.01 + i as f32 * 0.003).collect();
        let names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"];
        let constants = [
            ("xs", tensor0(0.25_f32)), ("xz", tensor0(9_u8)), ("w", octets(&lengths.weights(), &w, true)),
            ("ws", tensor1(&scales)), ("wz", octets(&[outputs], &vec![0; outputs], true)),
            ("ys", tensor0(y_scale)), ("yz", octets(&[], &[y_zero], false)), ("b", tensor1(&bias)),
        ];
        let node = lengths.node("QLinearConv", &names, "y");
        let input = octets(&lengths.input(), &x, false);
        let output = run_graph(vec![node], &[("x", input)], &constants, "y").unwrap();
        let centred: Vec<i64> = x.iter().map(|x| x - 9).collect();
        let out = lengths.product(|axis| axis.out());
        for (i, (got, sum)) in longs(&output).into_iter().zip(lengths.sums(&centred, &w)).enumerate() {
            let channel = i / out % outputs;
            let total = (sum + i64::from(bias[channel])) as f32;
            prop_assert_eq!(got, rounded(total * (0.25 * scales[channel] / y_scale), y_zero));
        }
    }

    #[test]
    fn rows_of_any_count_go_through_weights_of_any_count(
        seed: u64, rows in 1_usize..40, depth in 1_usize..300, columns in 1_usize..70, large: bool, zero in 0_u8..,
    ) {
        let a = numbers(seed, rows * depth, false);
        let b = numbers(seed ^ 5, columns * depth, true);
        let bias: Vec<i32> =
            numbers(seed ^ 9, columns, true).iter().map(|&n| n as i32 * if large { 900_001 } else { 77 }).collect();
        let scales: Vec<f32> = (0..columns).map(|i| 0.01 + i as f32 * 0.003).collect();
        let constants = [
            ("as", tensor0(0.5_f32)), ("az", tensor0(zero)), ("b", octets(&[columns, depth], &b, true)),
            ("bs", tensor1(&scales)), ("bz", octets(&[columns], &vec![0; columns], true)), ("c", tensor1(&bias)),
            ("ys", tensor0(30.0_f32)), ("yz", tensor0(100_u8)),
        ];
        let names = ["a", "as", "az", "b", "bs", "bz", "c", "ys", "yz"];
        let node = wired("QGemm", &names, "y", vec![int("transB", 1)]);
        let input = octets(&[rows, depth], &a, false);
        let output = run_graph(vec![node], &[("a", input)], &constants, "y").unwrap();
        for (i, got) in longs(&output).into_iter().enumerate() {
            let (row, column) = (i / columns, i % columns);
            let term = |k: usize| (a[row * depth + k] - i64::from(zero)) * b[column * depth + k];
            let total = (0..depth).map(term).sum::<i64>() + i64::from(bias[column]);
            prop_assert_eq!(got, rounded(total as f32 * (0.5 * scales[column] / 30.0), 100));
        }
    }

    #[test]
    fn a_window_of_a_dense_layer_is_quantised_by_its_own_range(
        seed: u64, windows in 1_usize..40, rows in 1_usize..4, depth in 1_usize..40, columns in 1_usize..40,
    ) {
        let x = spread(seed, windows * rows * depth, rows * depth);
        let w = numbers(seed ^ 5, depth * columns, true);
        let scales: Vec<f32> = (0..columns).map(|i| 0.01 + i as f32 * 0.003).collect();
        let bias: Vec<f32> = (0..columns).map(|i| i as f32 * 0.7 - 3.0).collect();
        let mut ranged_node = wired("DynamicQuantizeLinear", &["x"], "q", vec![]);
        ranged_node.output = ["q", "s", "z"].map(str::to_owned).to_vec();
        let nodes = vec![
            ranged_node,
            wired("Mul", &["s", "ws"], "u", vec![]),
            wired("MatMulInteger", &["q", "w", "z"], "p", vec![]),
            wired("Cast", &["p"], "f", vec![int("to", 1)]),
            wired("Mul", &["f", "u"], "m", vec![]),
            wired("Add", &["m", "b"], "y", vec![]),
        ];
        let constants = [("w", octets(&[depth, columns], &w, true)), ("ws", tensor1(&scales)), ("b", tensor1(&bias))];
        let input = Tensor::from_shape(&[windows, rows, depth], &x).unwrap();
        let output = run_windows(nodes, &[("x", input)], &constants, "y", true).unwrap();
        let (centred, units) = ranged(&x, rows * depth);
        for (i, got) in floats(&output).into_iter().enumerate() {
            let (row, column) = (i / columns, i % columns);
            let total: i64 = (0..depth).map(|k| centred[row * depth + k] * w[k * columns + column]).sum();
            prop_assert_eq!(got, total as f32 * (units[row / rows] * scales[column]) + bias[column]);
        }
    }

    #[test]
    fn a_window_of_a_convolution_is_quantised_by_its_own_range(lengths in lengths(), seed: u64) {
        let window = lengths.input()[1..].iter().product();
        let x = spread(seed, lengths.windows * window, window);
        let w = numbers(seed ^ 5, lengths.weights().iter().product(), true);
        let outputs = lengths.outputs * lengths.groups;
        let bias: Vec<f32> = (0..outputs).map(|i| i as f32 * 0.7 - 3.0).collect();
        let mut ranged_node = wired("DynamicQuantizeLinear", &["x"], "q", vec![]);
        ranged_node.output = ["q", "s", "z"].map(str::to_owned).to_vec();
        let nodes = vec![
            wired("Reshape", &["b", "b.shape"], "b.spread", vec![]),
            ranged_node,
            wired("Mul", &["s", "ws"], "u", vec![]),
            lengths.node("ConvInteger", &["q", "w", "z"], "p"),
            wired("Cast", &["p"], "f", vec![int("to", 1)]),
            wired("Mul", &["f", "u"], "m", vec![]),
            wired("Add", &["m", "b.spread"], "y", vec![]),
        ];
        let spread_shape: Vec<i64> = [1, -1].into_iter().chain(lengths.axes.iter().map(|_| 1)).collect();
        let constants = [
            ("w", octets(&lengths.weights(), &w, true)), ("ws", tensor0(0.02_f32)), ("b", tensor1(&bias)),
            ("b.shape", tensor1(&spread_shape)),
        ];
        let input = Tensor::from_shape(&lengths.input(), &x).unwrap();
        let output = run_windows(nodes, &[("x", input)], &constants, "y", true).unwrap();
        let (centred, units) = ranged(&x, window);
        let out = lengths.product(|axis| axis.out());
        for (i, (got, sum)) in floats(&output).into_iter().zip(lengths.sums(&centred, &w)).enumerate() {
            let (channel, at) = (i / out % outputs, i / out / outputs);
            prop_assert_eq!(got, sum as f32 * (units[at] * 0.02) + bias[channel]);
        }
    }

    #[test]
    fn the_highest_number_under_a_window_is_kept(
        seed: u64, is_signed: bool, columns in axis(), rows in prop::option::of(axis()), images in 1_usize..4,
    ) {
        let axes: Vec<Axis> = rows.into_iter().chain([columns]).map(|axis| Axis {
            dilation: 1, before: axis.before.min(axis.kernel - 1), after: axis.after.min(axis.kernel - 1), ..axis
        }).collect();
        prop_assume!(axes.iter().all(|axis| axis.length + axis.before + axis.after >= axis.kernel));
        let lengths = Lengths { windows: images, within: 2, outputs: 1, groups: 1, axes };
        let of = |of: &dyn Fn(&Axis) -> usize| lengths.axes.iter().map(|axis| of(axis) as i64).collect::<Vec<_>>();
        let attributes = vec![
            ints("kernel_shape", &of(&|axis| axis.kernel)), ints("strides", &of(&|axis| axis.stride)),
            ints("pads", &[of(&|axis| axis.before), of(&|axis| axis.after)].concat()),
        ];
        let x = numbers(seed, lengths.input().iter().product(), is_signed);
        let input = octets(&lengths.input(), &x, is_signed);
        let node = wired("QuantisedMaxPool", &["x"], "y", attributes);
        let output = run_graph(vec![node], &[("x", input)], &[], "y").unwrap();
        let (image, out) = (lengths.product(|axis| axis.length), lengths.product(|axis| axis.out()));
        let taps = lengths.product(|axis| axis.kernel);
        for (i, got) in longs(&output).into_iter().enumerate() {
            let first = i / out * image;
            let highest = (0..taps).filter_map(|tap| lengths.place(i % out, tap)).map(|at| x[first + at]).max();
            prop_assert_eq!(Some(got), highest.or(Some(if is_signed { -128 } else { 0 })));
        }
    }

    #[test]
    fn whole_numbers_are_themselves(number in -(1_i32 << 24)..=1 << 24) {
        prop_assert_eq!(whole(number as f32), number);
    }
}

#[test]
fn windows_are_mixed_where_the_first_axis_is_not_theirs_for_certain() {
    use super::are_mixed;
    use tract_onnx::pb::{GraphProto, TensorProto};
    let graph = |between: NodeProto| GraphProto {
        input: vec![super::super::testing::value("x", &Tensor::zero::<f32>(&[1, 4, 4]).unwrap())],
        node: vec![between, wired("DynamicQuantizeMatMul", &["a", "w", "s"], "y", vec![])],
        initializer: vec![
            TensorProto { name: "w".to_owned(), dims: vec![4, 4], ..TensorProto::default() },
            TensorProto { name: "s".to_owned(), ..TensorProto::default() },
            TensorProto { name: "shape".to_owned(), dims: vec![2], ..TensorProto::default() },
        ],
        ..GraphProto::default()
    };
    let relu = || wired("Relu", &["x"], "a", vec![]);
    assert!(!are_mixed(&mut graph(relu()), true));
    assert!(are_mixed(&mut graph(relu()), false));
    assert!(are_mixed(&mut graph(wired("Transpose", &["x"], "a", vec![ints("perm", &[1, 0, 2])])), true));
    assert!(are_mixed(&mut graph(wired("Reshape", &["x", "shape"], "a", vec![])), true));
    assert!(are_mixed(&mut graph(wired("DynamicQuantizeLinear", &["x"], "a", vec![])), true));
    assert!(!are_mixed(&mut graph(wired("Add", &["x", "w"], "a", vec![])), true));
}

#[test]
fn what_a_graph_is_rewritten_to_is_refused_in_a_file() {
    use tract_onnx::pb::{GraphProto, ModelProto, OperatorSetIdProto};
    let refused = |node: NodeProto| {
        let graph = GraphProto { node: vec![node], ..GraphProto::default() };
        let opset_import = vec![OperatorSetIdProto { version: 17, ..OperatorSetIdProto::default() }];
        let model = ModelProto { graph: Some(graph), opset_import, ..ModelProto::default() };
        super::super::check(&model, &super::super::onnx()).is_err()
    };
    assert!(!refused(wired("ConvInteger", &["x", "w"], "y", vec![])));
    assert!(refused(wired("ConvInteger", &["x", "w", "s"], "y", vec![int(super::convolution::RANGED, 1)])));
    for operator in super::INNER {
        assert!(refused(wired(operator, &["x"], "y", vec![])));
    }
}
