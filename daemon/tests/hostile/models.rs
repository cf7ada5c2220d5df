//! Hostile ONNX files: what a careless or a malicious owner could sign.
//!
//! Writes protobuf by hand, wrong on purpose; every model takes `x` `[batch, 2]` and claims to give `y` `[batch, 2]`.
//! Runs nothing.

use crate::samples::*;

/// A model `x → y` of these nodes and constants.
fn of(nodes: &[Proto], constants: &[Proto]) -> Vec<u8> {
    model(&graph(nodes, constants, &[value("x", F32, &[0, 2])], &[value("y", F32, &[0, 2])]))
}

fn cast(from: &str, to: &str, dtype: i64) -> Proto {
    with_int(node("Cast", &[from], &[to]), "to", dtype)
}

/// `y = x + the largest value of what `nodes` name `big``: makes it needed.
fn using(mut nodes: Vec<Proto>, constants: &[Proto]) -> Vec<u8> {
    nodes.push(cast("big", "float", F32));
    nodes.push(with_int(node("ReduceMax", &["float"], &["top"]), "keepdims", 0));
    nodes.push(node("Add", &["x", "top"], &["y"]));
    of(&nodes, constants)
}

/// A chain in which an image of `x` meets a node with an odd attribute.
fn on_image(operator: &str, inputs: &[&str], attributes: &[(&str, &[i64])], constants: &[Proto]) -> Vec<u8> {
    let mut all = vec![longs("square", &[4], &[-1, 1, 1, 2])];
    all.extend_from_slice(constants);
    let odd = attributes
        .iter()
        .fold(node(operator, inputs, &["big"]), |node, (name, values)| with_ints(node, name, values));
    using(vec![node("Reshape", &["x", "square"], &["image"]), odd], &all)
}

/// Operators whose attributes or constants no engine can obey, by name.
#[expect(clippy::too_many_lines, reason = "a table of models")]
pub(crate) fn odd_operators() -> Vec<(&'static str, Vec<u8>)> {
    let kernel = floats("k", &[1, 1, 1, 1], &[1.0]);
    let conv = |attribute: &str, values: &[i64]| {
        on_image("Conv", &["image", "k"], &[(attribute, values)], std::slice::from_ref(&kernel))
    };
    let pool = |name: &str, values: &[i64]| {
        on_image("MaxPool", &["image"], &[("kernel_shape", &[1, 1]), (name, values)], &[])
    };
    let ints = |operator: &str, inputs: &[&str], constants: &[Proto]| {
        using(vec![node(operator, inputs, &["big"])], constants)
    };
    vec![
        ("conv stride 0", conv("strides", &[0, 0])),
        ("conv stride -1", conv("strides", &[-1, -1])),
        ("conv dilation 0", conv("dilations", &[0, 0])),
        ("conv dilation 2^40", conv("dilations", &[1 << 40, 1 << 40])),
        ("conv padding 2^40", conv("pads", &[1 << 40; 4])),
        ("conv padding negative", conv("pads", &[-9; 4])),
        (
            "conv kernel of another rank",
            on_image("Conv", &["image", "k"], &[], &[floats("k", &[1, 1], &[1.0])]),
        ),
        ("pool stride 0", pool("strides", &[0, 0])),
        ("pool kernel 0", on_image("MaxPool", &["image"], &[("kernel_shape", &[0, 0])], &[])),
        ("pool kernel 2^40", on_image("MaxPool", &["image"], &[("kernel_shape", &[1 << 40, 1])], &[])),
        (
            "transpose of axis 77",
            using(vec![with_ints(node("Transpose", &["x"], &["big"]), "perm", &[77, 0])], &[]),
        ),
        (
            "transpose of one axis twice",
            using(vec![with_ints(node("Transpose", &["x"], &["big"]), "perm", &[0, 0])], &[]),
        ),
        (
            "concat over axis 99",
            using(vec![with_int(node("Concat", &["x", "x"], &["big"]), "axis", 99)], &[]),
        ),
        ("flatten at axis -77", using(vec![with_int(node("Flatten", &["x"], &["big"]), "axis", -77)], &[])),
        (
            "softmax over axis 2^62",
            using(vec![with_int(node("Softmax", &["x"], &["big"]), "axis", 1 << 62)], &[]),
        ),
        (
            "slice with step 0",
            ints(
                "Slice",
                &["x", "s", "e", "a", "p"],
                &[
                    longs("s", &[1], &[0]),
                    longs("e", &[1], &[2]),
                    longs("a", &[1], &[1]),
                    longs("p", &[1], &[0]),
                ],
            ),
        ),
        (
            "range with step 0",
            ints(
                "Range",
                &["s", "e", "p"],
                &[longs("s", &[], &[0]), longs("e", &[], &[9]), longs("p", &[], &[0])],
            ),
        ),
        ("reshape to another size", ints("Reshape", &["x", "s"], &[longs("s", &[2], &[7, 7])])),
        ("reshape with two free axes", ints("Reshape", &["x", "s"], &[longs("s", &[2], &[-1, -1])])),
        ("reshape to negative axes", ints("Reshape", &["x", "s"], &[longs("s", &[2], &[-5, i64::MIN])])),
        ("squeeze of an axis that is not there", ints("Squeeze", &["x", "s"], &[longs("s", &[1], &[9])])),
        (
            "gather from beyond a constant",
            ints("Gather", &["t", "i"], &[floats("t", &[3], &[1.0; 3]), longs("i", &[1], &[1 << 40])]),
        ),
        ("gemm of sizes that do not fit", ints("Gemm", &["x", "w"], &[floats("w", &[7, 7], &[0.0; 49])])),
        (
            "einsum that is no equation",
            using(vec![with_text(node("Einsum", &["x", "x"], &["big"]), "equation", "((->,,...")], &[]),
        ),
        ("top 2^62", ints("TopK", &["x", "k"], &[longs("k", &[1], &[1 << 62])])),
        ("one-hot of depth 2^38", {
            let nodes = vec![cast("x", "i", I64), node("OneHot", &["i", "d", "v"], &["big"])];
            using(nodes, &[longs("d", &[], &[1 << 38]), floats("v", &[2], &[0.0, 1.0])])
        }),
        ("remainder of a division by a constant 0", {
            let nodes = vec![cast("x", "i", I64), node("Mod", &["i", "zero"], &["big"])];
            using(nodes, &[longs("zero", &[1], &[0])])
        }),
        ("division of integers by a constant 0", {
            let nodes = vec![cast("x", "i", I64), node("Div", &["i", "zero"], &["big"])];
            using(nodes, &[longs("zero", &[1], &[0])])
        }),
        ("division of the least integer by -1", {
            let nodes = vec![
                cast("x", "i", I64),
                node("Mul", &["i", "none"], &["zero"]),
                node("Add", &["zero", "least"], &["l"]),
                node("Div", &["l", "minus"], &["big"]),
            ];
            using(
                nodes,
                &[longs("none", &[1], &[0]), longs("least", &[1], &[i64::MIN]), longs("minus", &[1], &[-1])],
            )
        }),
        ("shift by 200 bits", {
            let shift = with_text(node("BitShift", &["i", "n"], &["big"]), "direction", "LEFT");
            using(vec![cast("x", "i", I64), shift], &[longs("n", &[1], &[200])])
        }),
    ]
}

/// Tensors that fit no memory, made of a few bytes, by name.
pub(crate) fn giant_tensors() -> Vec<(&'static str, Vec<u8>)> {
    const HUGE: i64 = 1 << 38;
    let ints = |operator: &str, inputs: &[&str], constants: &[Proto]| {
        using(vec![node(operator, inputs, &["big"])], constants)
    };
    let mut doubling: Vec<Proto> = Vec::new();
    for round in 0..40 {
        let (from, to) =
            (if round == 0 { "x".to_owned() } else { format!("c{round}") }, format!("c{}", round + 1));
        doubling.push(with_int(node("Concat", &[&from, &from], &[&to]), "axis", 1));
    }
    doubling.push(node("Identity", &["c40"], &["big"]));
    vec![
        ("constant of 2^38", ints("ConstantOfShape", &["s"], &[longs("s", &[1], &[HUGE])])),
        (
            "constant of a size beyond 64 bits",
            ints("ConstantOfShape", &["s"], &[longs("s", &[3], &[1 << 32; 3])]),
        ),
        ("constant of negative size", ints("ConstantOfShape", &["s"], &[longs("s", &[1], &[-HUGE])])),
        ("expansion to 2^38", ints("Expand", &["x", "s"], &[longs("s", &[4], &[1 << 19, 1 << 19, 1, 2])])),
        ("2^38 tiles", ints("Tile", &["x", "s"], &[longs("s", &[2], &[1, HUGE])])),
        (
            "range to 2^38",
            ints(
                "Range",
                &["s", "e", "p"],
                &[longs("s", &[], &[0]), longs("e", &[], &[HUGE]), longs("p", &[], &[1])],
            ),
        ),
        ("padding of 2^38", ints("Pad", &["x", "s"], &[longs("s", &[4], &[0, HUGE, 0, HUGE])])),
        ("padding of -2^38", ints("Pad", &["x", "s"], &[longs("s", &[4], &[0, -HUGE, 0, -HUGE])])),
        ("resize by 2^30", {
            let nodes = vec![
                node("Reshape", &["x", "square"], &["image"]),
                node("Resize", &["image", "", "scales"], &["big"]),
            ];
            using(
                nodes,
                &[
                    longs("square", &[4], &[-1, 1, 1, 2]),
                    floats("scales", &[4], &[1.0, 1.0, (1 << 30) as f32, (1 << 30) as f32]),
                ],
            )
        }),
        ("a tensor doubled forty times", using(doubling, &[])),
        ("an outer product of 2^36", {
            let line = || node("ConstantOfShape", &["s"], &["line"]);
            let nodes = vec![
                line(),
                node("Reshape", &["line", "up"], &["column"]),
                node("Mul", &["line", "column"], &["big"]),
            ];
            using(nodes, &[longs("s", &[1], &[1 << 18]), longs("up", &[2], &[-1, 1])])
        }),
        (
            "a constant tensor of 2^40 in its header",
            of(&[node("Add", &["x", "w"], &["y"])], &[tensor("w", F32, &[1 << 40], &[])]),
        ),
        (
            "constants of twenty million empty strings",
            of(&[node("Add", &["x", "w"], &["y"])], &[tensor("w", 8, &[20_000_000], &[])]),
        ),
    ]
}

/// Work without end in a small file, by name.
pub(crate) fn endless_work() -> Vec<(&'static str, Vec<u8>)> {
    const SIDE: i64 = 1_536;
    // Nothing here depends on the input: an engine may try to work it out while it loads.
    let mut constant = vec![node("ConstantOfShape", &["side"], &["m0"])];
    for round in 0..200 {
        constant.push(node(
            "MatMul",
            &[&format!("m{round}"), &format!("m{round}")],
            &[&format!("m{}", round + 1)],
        ));
    }
    constant.push(node("Identity", &["m200"], &["big"]));
    let zero = Proto::default().text(8, "v").int(1, 1).int(2, F32).bytes(9, &0.0_f32.to_le_bytes());
    constant[0] = with_tensor(node("ConstantOfShape", &["side"], &["m0"]), "value", &zero);

    let step = graph(
        &[node("MatMul", &["state", "state"], &["next"]), node("Identity", &["turn"], &["seen"])],
        &[],
        &[value("state", F32, &[512, 512]), value("turn", F32, &[1])],
        &[value("next", F32, &[512, 512]), value("seen", F32, &[1])],
    );
    let scan = with_int(
        with_graph(node("Scan", &["start", "turns"], &["end", "trace"]), "body", &step),
        "num_scan_inputs",
        1,
    );
    let scanning = vec![
        with_int(node("ReduceMax", &["x"], &["largest"]), "keepdims", 0),
        with_tensor(node("ConstantOfShape", &["square"], &["zeros"]), "value", &zero),
        node("Add", &["zeros", "largest"], &["start"]),
        with_tensor(node("ConstantOfShape", &["many"], &["turns"]), "value", &zero),
        scan,
        node("Identity", &["end"], &["big"]),
    ];
    let trips = graph(
        &[node("Identity", &["on"], &["again"]), node("Add", &["v", "v"], &["w"])],
        &[],
        &[value("trip", I64, &[]), value("on", BOOL, &[]), value("v", F32, &[2])],
        &[value("again", BOOL, &[]), value("w", F32, &[2])],
    );
    let looping = with_graph(node("Loop", &["trips", "", "x"], &["y"]), "body", &trips);
    let wide_kernel = with_ints(node("Conv", &["image", "k"], &["big"]), "kernel_shape", &[1_024, 1_024]);
    vec![
        ("products of constant matrices", using(constant, &[longs("side", &[2], &[SIDE, SIDE])])),
        ("products of matrices at every run", endless(300)),
        (
            "a scan of a million turns",
            using(scanning, &[longs("square", &[2], &[512, 512]), longs("many", &[2], &[1 << 20, 1])]),
        ),
        ("a loop of 2^40 trips", of(&[looping], &[longs("trips", &[], &[1 << 40])])),
        ("a convolution with a million weights", {
            let nodes = vec![
                with_int(node("ReduceMax", &["x"], &["largest"]), "keepdims", 0),
                with_tensor(node("ConstantOfShape", &["picture"], &["blank"]), "value", &zero),
                node("Add", &["blank", "largest"], &["image"]),
                with_tensor(node("ConstantOfShape", &["weights"], &["k"]), "value", &zero),
                wide_kernel,
            ];
            using(
                nodes,
                &[
                    longs("picture", &[4], &[1, 1, 2_048, 2_048]),
                    longs("weights", &[4], &[1, 1, 1_024, 1_024]),
                ],
            )
        }),
        ("nineteen thousand nodes in a row", {
            let mut nodes: Vec<Proto> = vec![node("Identity", &["x"], &["n0"])];
            nodes.extend((0..19_000).map(|n| node("Neg", &[&format!("n{n}")], &[&format!("n{}", n + 1)])));
            nodes.push(node("Neg", &["n19000"], &["y"]));
            of(&nodes, &[])
        }),
    ]
}

/// Graphs that are no graphs, by name.
#[expect(clippy::too_many_lines, reason = "a table of models")]
pub(crate) fn broken_graphs() -> Vec<(&'static str, Vec<u8>)> {
    let (input, output) = ([value("x", F32, &[0, 2])], [value("y", F32, &[0, 2])]);
    let with_io = |input: Proto, output: Proto| {
        model(&graph(&[node("Identity", &["x"], &["y"])], &[], &[input], &[output]))
    };
    let same = || graph(&[node("Identity", &["x"], &["y"])], &[], &input, &output);
    let mut nested = graph(&[node("Identity", &["x"], &["y"])], &[], &[], &output);
    for _ in 0..12 {
        let choice = with_graph(node("If", &["yes"], &["y"]), "then_branch", &nested);
        nested = graph(&[with_graph(choice, "else_branch", &nested_leaf())], &[], &[], &output);
    }
    let mut deep = Proto::default();
    for _ in 0..5_000 {
        deep = Proto::default().message(1, &Proto::default().message(5, &Proto::default().message(6, &deep)));
    }
    let sparse = Proto::default()
        .message(1, &floats("w", &[1], &[1.0]))
        .message(2, &longs("i", &[1], &[0]))
        .int(3, 1 << 40);
    vec![
        ("a hundred thousand nodes", of(&vec![node("Neg", &["x"], &["y"]); 100_000], &[])),
        (
            "two nodes that need each other",
            of(
                &[node("Neg", &["b"], &["a"]), node("Neg", &["a"], &["b"]), node("Add", &["x", "a"], &["y"])],
                &[],
            ),
        ),
        ("a node that needs itself", of(&[node("Add", &["x", "y"], &["y"])], &[])),
        ("one name given twice", of(&[node("Neg", &["x"], &["y"]), node("Abs", &["x"], &["y"])], &[])),
        (
            "a constant with the input's name",
            of(&[node("Identity", &["x"], &["y"])], &[floats("x", &[1, 2], &[1.0, 2.0])]),
        ),
        ("an input that nobody gives", of(&[node("Add", &["x", "ghost"], &["y"])], &[])),
        ("an output that nobody makes", of(&[node("Neg", &["x"], &["z"])], &[])),
        ("no node at all", of(&[], &[])),
        ("no graph at all", Proto::default().int(1, 8).finished()),
        ("a node without inputs", of(&[node("Add", &[], &["y"])], &[])),
        ("a node with a thousand inputs", of(&[node("Neg", &["x"; 1_000], &["y"])], &[])),
        ("an input of another type", with_io(value("x", F64, &[0, 2]), value("y", F32, &[0, 2]))),
        ("an input of another rank", with_io(value("x", F32, &[0, 2, 1, 1]), value("y", F32, &[0, 2]))),
        ("an input of texts", with_io(value("x", 8, &[0, 2]), value("y", 8, &[0, 2]))),
        ("an output of 64 axes", with_io(value("x", F32, &[0, 2]), value("y", F32, &[1; 64]))),
        ("an output of negative size", with_io(value("x", F32, &[0, 2]), value("y", F32, &[0, -2]))),
        ("an output of 2^62", with_io(value("x", F32, &[0, 2]), value("y", F32, &[0, 1 << 62]))),
        ("an axis named by brackets", with_io(named_axis(&"(".repeat(100_000)), value("y", F32, &[0, 2]))),
        ("an axis named by a few brackets", with_io(named_axis(&"(".repeat(127)), value("y", F32, &[0, 2]))),
        ("a constant of 64 axes", of(&[node("Add", &["x", "w"], &["y"])], &[floats("w", &[1; 64], &[1.0])])),
        (
            "a constant of negative size",
            of(&[node("Add", &["x", "w"], &["y"])], &[floats("w", &[-2], &[1.0, 2.0])]),
        ),
        (
            "a constant shorter than its shape",
            of(&[node("Add", &["x", "w"], &["y"])], &[tensor("w", F32, &[2], &[0; 3])]),
        ),
        (
            "a constant longer than its shape",
            of(&[node("Add", &["x", "w"], &["y"])], &[tensor("w", F32, &[2], &[0; 4_000])]),
        ),
        (
            "a constant of an unknown type",
            of(&[node("Add", &["x", "w"], &["y"])], &[tensor("w", 999, &[2], &[0; 8])]),
        ),
        ("a constant of texts", of(&[node("Add", &["x", "w"], &["y"])], &[tensor("w", 8, &[2], &[0; 8])])),
        ("a sparse constant", model(&same().message(15, &sparse))),
        ("data in /etc/passwd", of(&[node("Add", &["x", "w"], &["y"])], &[elsewhere("/etc/passwd")])),
        (
            "data in a folder above",
            of(&[node("Add", &["x", "w"], &["y"])], &[elsewhere("../../../../etc/passwd")]),
        ),
        ("data in a link beside the model", of(&[node("Add", &["x", "w"], &["y"])], &[elsewhere("link")])),
        ("an operator of another domain", of(&[node("Neg", &["x"], &["y"]).text(7, "com.evil")], &[])),
        ("an operator nobody knows", of(&[node("Frobnicate", &["x"], &["y"])], &[])),
        ("an operator with a megabyte of name", of(&[node(&"Q".repeat(1 << 20), &["x"], &["y"])], &[])),
        (
            "an operator with a terminal's commands",
            of(&[node("\u{1b}]0;owned\u{7}\u{1b}[2J", &["x"], &["y"])], &[]),
        ),
        ("operator set 2^62", model_of(&same(), "", 1 << 62)),
        ("operator set -1", model_of(&same(), "", -1)),
        ("graphs nested twelve deep", model(&nested)),
        ("graphs nested five thousand deep", Proto::default().int(1, 8).message(7, &deep).finished()),
        ("a function of its own", {
            let function = Proto::default().text(1, "Neg").message(7, &node("Neg", &["x"], &["y"]));
            Proto::default().int(1, 8).message(7, &same()).message(25, &function).finished()
        }),
        ("an output of three values", of(&[with_int(node("Concat", &["x", "x"], &["y"]), "axis", 1)], &[])),
        ("an output of as many values as there are zeros", {
            of(&[node("NonZero", &["x"], &["places"]), cast("places", "y", F32)], &[])
        }),
    ]
}

fn nested_leaf() -> Proto {
    graph(&[node("Identity", &["x"], &["y"])], &[], &[], &[value("y", F32, &[0, 2])])
}

/// `x` with a first axis of this name.
fn named_axis(name: &str) -> Proto {
    let shape =
        Proto::default().message(1, &Proto::default().text(2, name)).message(1, &Proto::default().int(1, 2));
    let tensor = Proto::default().int(1, F32).message(2, &shape);
    Proto::default().text(1, "x").message(2, &Proto::default().message(1, &tensor))
}

/// A constant whose data lie in another file.
fn elsewhere(path: &str) -> Proto {
    let entry = Proto::default().text(1, "location").text(2, path);
    Proto::default().int(1, 2).int(2, F32).text(8, "w").message(13, &entry).int(14, 1)
}

/// Bytes that are no protobuf, by name.
pub(crate) fn broken_files() -> Vec<(&'static str, Vec<u8>)> {
    let whole = weighted_sum();
    let cut = |part: usize| whole[..whole.len() * part / 4].to_vec();
    vec![
        ("an empty file", Vec::new()),
        ("a quarter of a file", cut(1)),
        ("half a file", cut(2)),
        ("three quarters of a file", cut(3)),
        ("a file without its last byte", whole[..whole.len() - 1].to_vec()),
        ("a megabyte of continued numbers", vec![0xff; 1 << 20]),
        ("a graph of 2^63 announced bytes", [&[0x3a][..], &[0xff; 8], &[0x7f]].concat()),
        ("a graph of 4 GiB announced bytes", vec![0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        ("groups without end", vec![0x0b; 100_000]),
        ("a text that is no model", b"#!/bin/sh\nreboot\n".to_vec()),
        ("zeros", vec![0; 4_096]),
    ]
}

/// Models that keep golden vectors of small values and are wrong on others, with a live window that shows it.
pub(crate) fn late_faults() -> Vec<(&'static str, Vec<u8>, [f32; 2])> {
    let reshaped = of(
        &[
            node("ReduceMax", &["x"], &["top"])
                .message(5, &Proto::default().text(1, "keepdims").int(3, 0).int(20, 2)),
            cast("top", "times", I64),
            node("Reshape", &["times", "line"], &["count"]),
            node("Concat", &["ones", "count"], &["repeats"])
                .message(5, &Proto::default().text(1, "axis").int(3, 0).int(20, 2)),
            node("Tile", &["x", "repeats"], &["y"]),
        ],
        &[longs("line", &[1], &[1]), longs("ones", &[1], &[1])],
    );
    vec![
        ("divides by the live value", integer_division(), [0.0, 1.0]),
        ("looks up the live value", lookup(), [7.0, 1.0]),
        ("takes memory by the live value", memory_bomb(1 << 20), [1_000.0, 1.0]),
        ("takes time by the live value", endless_above_a_hundred(300), [200.0, 1.0]),
        ("is no number at the live value", not_a_number(), [0.0, 1.0]),
        ("has a shape by the live value", reshaped, [3.0, 1.0]),
    ]
}
