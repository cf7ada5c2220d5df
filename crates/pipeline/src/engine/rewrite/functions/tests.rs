//! Local functions: that a model with calls gives what its functions say, and what is refused.
//!
//! Runs models that are encoded by hand through reading, inlining and the engine; an interpreter that calls functions
//! instead of inlining them tells what must come out.

use proptest::prelude::*;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::*;

use super::super::super::limits::NODES_MAX;
use super::super::super::samples::{
    F32, Proto, floats, graph, ml_node, node, value, with_floats, with_graph, with_int, with_tensor,
};
use super::super::super::tract::read_proto;
use super::super::super::{EngineError, limits, operators};

const LOCAL: &str = "my.domain";
/// The operator set that functions and models import unless a test says otherwise.
const SET: i64 = 17;

fn import(domain: &str, version: i64) -> Proto {
    Proto::default().text(1, domain).int(2, version)
}

fn function_of(domain: &str, name: &str, inputs: &[&str], outputs: &[&str], nodes: &[Proto]) -> Proto {
    let proto = Proto::default().text(1, name).text(10, domain);
    let proto = inputs.iter().fold(proto, |proto, input| proto.text(4, input));
    let proto = outputs.iter().fold(proto, |proto, output| proto.text(5, output));
    nodes.iter().fold(proto, |proto, node| proto.message(7, node))
}

/// A function of [`LOCAL`] that imports the operator set of the model.
fn function(name: &str, inputs: &[&str], outputs: &[&str], nodes: &[Proto]) -> Proto {
    function_of(LOCAL, name, inputs, outputs, nodes).message(9, &import("", SET))
}

fn call(name: &str, inputs: &[&str], outputs: &[&str]) -> Proto {
    node(name, inputs, outputs).text(7, LOCAL)
}

fn with_float(node: Proto, name: &str, value: f32) -> Proto {
    node.message(5, &attribute_float(name, value))
}

fn attribute_float(name: &str, value: f32) -> Proto {
    Proto::default().text(1, name).float(2, value).int(20, 1)
}

/// An attribute that refers to one of the function's.
fn with_reference(node: Proto, name: &str, of: &str) -> Proto {
    node.message(5, &Proto::default().text(1, name).text(21, of).int(20, 1))
}

/// A model of `x` and an output, two values a window, that imports these operator sets beside [`LOCAL`].
fn model_of(sets: &[(&str, i64)], nodes: &[Proto], functions: &[Proto], output: &str) -> Vec<u8> {
    let graph = graph(nodes, &[], &[value("x", F32, &[1, 2])], &[value(output, F32, &[1, 2])]);
    let model = Proto::default().int(1, 10).message(7, &graph).message(8, &import(LOCAL, 1));
    let model =
        sets.iter().fold(model, |model, (domain, version)| model.message(8, &import(domain, *version)));
    functions.iter().fold(model, |model, function| model.message(25, function)).finished()
}

fn model(nodes: &[Proto], functions: &[Proto]) -> Vec<u8> {
    model_of(&[("", SET)], nodes, functions, "y")
}

fn read(model: &[u8]) -> Result<ModelProto, EngineError> {
    let engine = operators::onnx();
    let proto = read_proto(&engine, model)?;
    limits::check(&proto, limits::INITIALISER_BYTES_MAX)?;
    operators::check(&proto, &engine)?;
    Ok(proto)
}

fn outputs_of(proto: &ModelProto, x: &[f32]) -> TractResult<Vec<f32>> {
    let plan = operators::onnx().model_for_proto_model(proto)?.into_optimized()?.into_runnable()?;
    let outputs = plan.run(tvec!(Tensor::from_shape(&[1, 2], x)?.into_tvalue()))?;
    Ok(outputs[0].try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
}

fn run(model: &[u8], x: &[f32]) -> Vec<f32> {
    let proto = read(model).unwrap();
    assert!(proto.functions.is_empty());
    outputs_of(&proto, x).unwrap()
}

fn refusal(model: &[u8]) -> String {
    read(model).expect_err("the model must be refused").to_string()
}

#[test]
fn a_call_gives_what_its_function_says() {
    let double = function("Double", &["a"], &["b"], &[node("Add", &["a", "a"], &["b"])]);
    let quadruple = function(
        "Quadruple",
        &["b"],
        &["a"],
        &[call("Double", &["b"], &["x"]), call("Double", &["x"], &["a"])],
    );
    let unused = function("Unused", &[], &["a"], &[node("Frobnicate", &[], &["a"])]);
    let nodes = [call("Quadruple", &["x"], &["b"]), call("Double", &["b"], &["y"])];
    assert_eq!(run(&model(&nodes, &[quadruple, unused, double]), &[1.0, -3.0]), [8.0, -24.0]);
}

#[test]
fn attributes_come_from_the_call_or_the_default_or_are_left_out() {
    let leaky = with_reference(node("LeakyRelu", &["a"], &["b"]), "alpha", "slope");
    let declared = function("F", &["a"], &["b"], std::slice::from_ref(&leaky)).text(6, "slope");
    let default = function("F", &["a"], &["b"], std::slice::from_ref(&leaky))
        .message(11, &attribute_float("slope", 0.5));
    let plain = call("F", &["x"], &["y"]);
    let given = with_float(plain.clone(), "slope", 0.25);
    let gives =
        |node: &Proto, functions: &[Proto]| run(&model(std::slice::from_ref(node), functions), &[-4.0, 1.0]);
    assert_eq!(gives(&given, std::slice::from_ref(&declared)), [-1.0, 1.0]);
    assert_eq!(gives(&given, std::slice::from_ref(&default)), [-1.0, 1.0]);
    assert_eq!(gives(&plain, std::slice::from_ref(&default)), [-2.0, 1.0]);
    // The operator's own default.
    assert_eq!(gives(&plain, std::slice::from_ref(&declared)), [-0.04, 1.0]);
    // Through a function in between, by other names.
    let between = with_reference(call("F", &["a"], &["b"]), "slope", "outer");
    let between = function("G", &["a"], &["b"], &[between]).text(6, "outer");
    let outer = with_float(call("G", &["x"], &["y"]), "outer", 0.75);
    let functions = [between, default];
    assert_eq!(gives(&outer, &functions), [-3.0, 1.0]);
    assert_eq!(gives(&call("G", &["x"], &["y"]), &functions), [-2.0, 1.0]);
}

#[test]
fn attributes_that_do_not_fit_are_refused() {
    let leaky = with_reference(node("LeakyRelu", &["a"], &["b"]), "alpha", "slope");
    let declared = function("F", &["a"], &["b"], &[leaky]).text(6, "slope");
    let said = |node: Proto| refusal(&model(&[node], std::slice::from_ref(&declared)));
    let plain = || call("F", &["x"], &["y"]);
    let undeclared = said(with_float(plain(), "alpha", 0.25));
    assert!(undeclared.contains("`my.domain.F`") && undeclared.contains("`alpha`"), "{undeclared}");
    let twice = said(with_float(with_float(plain(), "slope", 0.25), "slope", 0.5));
    assert!(twice.contains("`slope`"), "{twice}");
    assert!(said(with_int(plain(), "slope", 1)).contains("another type"));
    assert!(said(with_reference(plain(), "slope", "slope")).contains("without a value"));
}

#[test]
fn a_reference_outside_of_functions_is_refused() {
    for operator in ["LeakyRelu", "Elu"] {
        let nodes = [with_reference(node(operator, &["x"], &["y"]), "alpha", "slope")];
        let unused = function("F", &["a"], &["b"], &[node("Neg", &["a"], &["b"])]).text(6, "slope");
        for functions in [&[][..], &[unused]] {
            let said = refusal(&model(&nodes, functions));
            assert!(said.contains("`alpha` refers to one of a function"), "{said}");
        }
    }
}

#[test]
fn inputs_and_outputs_may_be_missing() {
    let clip = node("Clip", &["a", "low", "high"], &["b"]);
    let limited =
        function("Limited", &["a", "low", "high"], &["more", "b"], &[clip, node("Neg", &["b"], &["more"])]);
    let one = with_float(node("Constant", &[], &["one"]), "value_float", 1.0);
    for (inputs, expected) in [
        (&["x"][..], [-2.0, 3.0]),
        (&["x", "one"], [1.0, 3.0]),
        (&["x", "", "one"], [-2.0, 1.0]),
        (&["x", "one", "one"], [1.0, 1.0]),
    ] {
        let nodes = [one.clone(), call("Limited", inputs, &["", "y"])];
        assert_eq!(run(&model(&nodes, std::slice::from_ref(&limited)), &[-2.0, 3.0]), expected, "{inputs:?}");
    }
    let nodes = [one.clone(), call("Limited", &["x"], &["y"])];
    assert_eq!(run(&model(&nodes, std::slice::from_ref(&limited)), &[-2.0, 3.0]), [2.0, -3.0]);
    let many = [one, call("Limited", &["x", "one", "one", "one"], &["", "y"])];
    assert!(refusal(&model(&many, &[limited])).contains("it has 3 and 2"));
}

#[test]
fn an_output_that_is_an_input_is_handed_on() {
    let same = function("Same", &["a", "b"], &["b", "a"], &[]);
    let both = [call("Same", &["x", ""], &["", "y"])];
    assert_eq!(run(&model(&both, std::slice::from_ref(&same)), &[1.0, 2.0]), [1.0, 2.0]);
    let missing = [call("Same", &["x"], &["y"])];
    assert!(refusal(&model(&missing, &[same])).contains("does not make its output `b`"));
}

#[test]
fn graphs_in_functions_and_calls_in_graphs_see_the_right_names() {
    // `b` is in both branches, and another value outside; the branches read `a` of the function, which is `x` here.
    let scalar = |name: &str| Proto::default().text(1, name);
    let then_branch = graph(&[call("Double", &["a"], &["b"])], &[], &[], &[scalar("b")]);
    let else_branch = graph(
        &[
            with_reference(node("Constant", &[], &["c"]), "value_float", "offset"),
            node("Add", &["a", "c"], &["b"]),
        ],
        &[],
        &[],
        &[scalar("b")],
    );
    let nodes = [
        with_int(node("ReduceMax", &["a"], &["top"]), "keepdims", 0),
        with_float(node("Constant", &[], &["zero"]), "value_float", 0.0),
        node("Greater", &["top", "zero"], &["b_above"]),
        with_graph(
            with_graph(node("If", &["b_above"], &["b"]), "then_branch", &then_branch),
            "else_branch",
            &else_branch,
        ),
    ];
    let choice = function("Choice", &["a"], &["b"], &nodes).text(6, "offset");
    let double = function("Double", &["a"], &["b"], &[node("Add", &["a", "a"], &["b"])]);
    let nodes = [
        with_float(node("Constant", &[], &["a"]), "value_float", 100.0),
        with_float(call("Choice", &["x"], &["b"]), "offset", 0.5),
        with_float(call("Choice", &["b"], &["c"]), "offset", 7.0),
        node("Add", &["c", "a"], &["y"]),
    ];
    let model = model(&nodes, &[choice, double]);
    assert_eq!(run(&model, &[1.0, -3.0]), [104.0, 88.0]);
    assert_eq!(run(&model, &[-1.0, -3.0]), [106.5, 104.5]);
}

#[test]
fn a_graph_that_a_call_gives_reads_the_names_around_the_call() {
    let reference = |name: &str, of: &str| Proto::default().text(1, name).text(21, of).int(20, 5);
    let branches = node("If", &["c"], &["b"])
        .message(5, &reference("then_branch", "body"))
        .message(5, &reference("else_branch", "body"));
    let twice = function("Choose", &["c", "a"], &["b"], &[branches]).text(6, "body");
    let double = function("Double", &["a"], &["b"], &[node("Add", &["a", "a"], &["b"])]);
    let body = graph(&[call("Double", &["a"], &["d"])], &[], &[], &[Proto::default().text(1, "d")]);
    let nodes = [
        with_float(node("Constant", &[], &["zero"]), "value_float", 0.0),
        with_int(node("ReduceMax", &["x"], &["top"]), "keepdims", 0),
        node("Greater", &["top", "zero"], &["c"]),
        node("Neg", &["x"], &["a"]),
        with_graph(call("Choose", &["c", "x"], &["y"]), "body", &body),
    ];
    assert_eq!(run(&model(&nodes, &[twice, double]), &[1.0, -3.0]), [-2.0, 6.0]);
}

#[test]
fn overloads_are_told_apart() {
    let of = |overload: &str, operator: &str| {
        function("F", &["a"], &["b"], &[node(operator, &["a"], &["b"])]).text(13, overload)
    };
    let functions = [of("", "Neg"), of("first", "Exp"), of("second", "Relu")];
    let nodes = [call("F", &["x"], &["a"]).text(8, "second"), call("F", &["a"], &["y"])];
    assert_eq!(run(&model(&nodes, &functions), &[1.0, -3.0]), [-1.0, 0.0]);
    let none = [call("F", &["x"], &["y"]).text(8, "third")];
    assert!(refusal(&model(&none, &functions)).contains("operator `F:third`"));
    assert!(refusal(&model(&none, &[of("", "Neg"), of("", "Exp")])).contains("it is defined twice"));
}

#[test]
fn an_operator_of_the_engine_goes_before_a_function_of_its_name() {
    let double = |domain: &str, name: &str| {
        function_of(domain, name, &["a"], &["b"], &[node("Add", &["a", "a"], &["b"])])
            .message(9, &import("", SET))
    };
    for domain in ["", "ai.onnx"] {
        let relu = [node("Relu", &["x"], &["y"])];
        assert_eq!(run(&model(&relu, &[double(domain, "Relu")]), &[1.0, -3.0]), [1.0, 0.0]);
        // Unknown to ONNX, and known only to later versions than the model imports.
        for name in ["Frobnicate", "Mish"] {
            let nodes = [node(name, &["x"], &["y"])];
            assert_eq!(run(&model(&nodes, &[double(domain, name)]), &[1.0, -3.0]), [2.0, -6.0], "{name}");
        }
    }
    let elsewhere = [call("Relu", &["x"], &["y"])];
    assert_eq!(run(&model(&elsewhere, &[double(LOCAL, "Relu")]), &[1.0, -3.0]), [2.0, -6.0]);
}

#[test]
fn functions_of_other_operator_sets_are_taken_where_their_operators_are_the_same() {
    let of = |nodes: &[Proto], imports: &[(&str, i64)]| {
        let function = function_of(LOCAL, "F", &["a"], &["b"], nodes);
        imports
            .iter()
            .fold(function, |function, (domain, version)| function.message(9, &import(domain, *version)))
    };
    let nodes = [call("F", &["x"], &["y"])];
    let model = |function: &Proto| model(&nodes, std::slice::from_ref(function));
    let neg = [node("Neg", &["a"], &["b"])];
    assert_eq!(run(&model(&of(&neg, &[("ai.onnx", 13)])), &[1.0, 2.0]), [-1.0, -2.0]);
    let softmax = [node("Softmax", &["a"], &["b"])];
    let said = refusal(&model(&of(&softmax, &[("", 12)])));
    for part in ["`my.domain.F`", "`Softmax`", "set 12", "set 17"] {
        assert!(said.contains(part), "{said}");
    }
    let inner = graph(&softmax, &[], &[], &[Proto::default().text(1, "b")]);
    let choice =
        with_graph(with_graph(node("If", &["a"], &["b"]), "then_branch", &inner), "else_branch", &inner);
    assert!(refusal(&model(&of(&[choice], &[("", 12)]))).contains("`Softmax`"));
    assert!(refusal(&model(&of(&neg, &[]))).contains("imports no operator set"));
    assert!(refusal(&model(&of(&neg, &[("", 17), ("ai.onnx", 16)]))).contains("several operator sets"));
    // A domain that the model itself does not import, by functions that must agree.
    let scaler = |name: &str, version: i64| {
        let scaler = ml_node("Scaler", &["a"], &["b"]);
        let scaler = with_floats(with_floats(scaler, "offset", &[1.0, 1.0]), "scale", &[2.0, 2.0]);
        function_of(LOCAL, name, &["a"], &["b"], &[scaler]).message(9, &import("ai.onnx.ml", version))
    };
    let nodes = [call("F", &["x"], &["a"]), call("G", &["a"], &["y"])];
    let both = |one, other| super::tests::model(&nodes, &[scaler("F", one), scaler("G", other)]);
    assert_eq!(run(&both(3, 2), &[1.0, 2.0]), [-2.0, 2.0]);
    assert!(refusal(&both(3, 900)).contains("set 900"));
}

#[test]
fn recursion_is_refused_by_name() {
    let f = function("F", &["a"], &["b"], &[call("G", &["a"], &["b"])]);
    let inner = graph(&[call("F", &["a"], &["b"])], &[], &[], &[Proto::default().text(1, "b")]);
    let choice =
        with_graph(with_graph(node("If", &["a"], &["b"]), "then_branch", &inner), "else_branch", &inner);
    let g = function("G", &["a"], &["b"], &[choice]);
    let said = refusal(&model(&[call("F", &["x"], &["y"])], &[f.clone(), g.clone()]));
    assert!(said.contains("`my.domain.F` (it calls itself)"), "{said}");
    // What nobody calls does not matter.
    assert_eq!(run(&model(&[node("Neg", &["x"], &["y"])], &[f, g]), &[1.0, 2.0]), [-1.0, -2.0]);
}

/// A chain of functions `F0`, `F1`… each of which calls the one before `calls` times.
fn chain(length: usize, calls: usize, last: &[Proto]) -> Vec<Proto> {
    let mut functions = vec![function("F0", &["a"], &["b"], last)];
    for position in 1..length {
        let before = format!("F{}", position - 1);
        let name = |step: usize| if step == 0 { "a".to_owned() } else { format!("v{step}") };
        let nodes: Vec<Proto> = (0..calls)
            .map(|step| {
                let to = if step + 1 == calls { "b".to_owned() } else { name(step + 1) };
                call(&before, &[&name(step)], &[&to])
            })
            .collect();
        functions.push(function(&format!("F{position}"), &["a"], &["b"], &nodes));
    }
    functions
}

#[test]
fn functions_that_grow_without_end_are_refused() {
    let neg = [node("Neg", &["a"], &["b"])];
    let doubling = model(&[call("F30", &["x"], &["y"])], &chain(31, 2, &neg));
    assert!(refusal(&doubling).contains("more than 20000 nodes"));
    // Without a single node at the end.
    let empty = [function("F0", &["a"], &["a"], &[])];
    let empty: Vec<Proto> = empty.into_iter().chain(chain(31, 2, &neg).into_iter().skip(1)).collect();
    assert!(refusal(&model(&[call("F30", &["x"], &["y"])], &empty)).contains("more than 20000 nodes"));
    let deep =
        |length: usize| model(&[call(&format!("F{}", length - 1), &["x"], &["y"])], &chain(length, 1, &neg));
    assert_eq!(run(&deep(32), &[1.0, 2.0]), [-1.0, -2.0]);
    assert!(refusal(&deep(33)).contains("32 functions deep"));
    assert!(refusal(&deep(10_000)).contains("32 functions deep"));
    // As many calls as there are, of one function, one after the other.
    let names: Vec<String> =
        (0..=100_000).map(|step| if step == 0 { "x".to_owned() } else { format!("v{step}") }).collect();
    let calls: Vec<Proto> = names.windows(2).map(|pair| call("F0", &[&pair[0]], &[&pair[1]])).collect();
    assert!(refusal(&model(&calls, &chain(1, 1, &neg))).contains(&format!("more than {NODES_MAX} nodes")));
    // Few nodes with a megabyte each, many times.
    let large =
        with_tensor(node("Constant", &[], &["c"]), "value", &floats("c", &[1, 1 << 18], &vec![0.0; 1 << 18]));
    let large = [large, node("Add", &["a", "c"], &["b"])];
    assert!(refusal(&model(&[call("F12", &["x"], &["y"])], &chain(13, 2, &large))).contains("too large"));
}

#[test]
fn many_inputs_that_nobody_gives_cost_no_time_without_end() {
    let names: Vec<String> = (0..100_000).map(|position| format!("i{position}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let wide = function("Wide", &names, &["b"], &[node("Neg", &["i0"], &["b"])]);
    let steps: Vec<String> =
        (0..10_000).map(|step| if step == 0 { "x".to_owned() } else { format!("v{step}") }).collect();
    let calls: Vec<Proto> = steps.windows(2).map(|pair| call("Wide", &[&pair[0]], &[&pair[1]])).collect();
    assert!(refusal(&model(&calls, &[wide])).contains("too large"));
}

#[test]
fn names_that_are_not_one_thing_are_refused() {
    let refused = |function: Proto, call: Proto| refusal(&model(&[call], &[function]));
    let plain = || call("F", &["x"], &["y"]);
    let neg = |from: &str, to: &str| node("Neg", &[from], &[to]);
    assert!(
        refused(function("F", &["a", "a"], &["b"], &[neg("a", "b")]), plain()).contains("names `a` twice")
    );
    assert!(
        refused(function("F", &["a"], &["b", "b"], &[neg("a", "b")]), plain()).contains("names `b` twice")
    );
    assert!(
        refused(function("F", &["a"], &["b"], &[neg("a", "b"), neg("a", "b")]), plain())
            .contains("makes `b` twice")
    );
    assert!(
        refused(function("F", &["a"], &["b"], &[neg("a", "a"), neg("a", "b")]), plain())
            .contains("makes `a` twice")
    );
    let shadow = graph(&[neg("a", "a")], &[], &[], &[Proto::default().text(1, "a")]);
    let choice =
        with_graph(with_graph(node("If", &["a"], &["b"]), "then_branch", &shadow), "else_branch", &shadow);
    assert!(refused(function("F", &["a"], &["b"], &[choice]), plain()).contains("makes its input `a` again"));
    assert!(
        refused(function("F", &["a"], &["b"], &[neg("a", "c")]), plain())
            .contains("does not make its output `b`")
    );
    let twice =
        function("F", &["a"], &["b"], &[neg("a", "b")]).text(6, "n").message(11, &attribute_float("n", 1.0));
    assert!(refused(twice, plain()).contains("names `n` twice"));
    let same = function("F", &["a"], &["b", "c"], &[neg("a", "b"), neg("a", "c")]);
    assert!(refused(same, call("F", &["x"], &["y", "y"])).contains("makes `y` twice"));
}

#[test]
fn a_function_never_reads_a_value_around_its_call() {
    let nosy = function("F", &["a"], &["b"], &[node("Add", &["a", "secret"], &["b"])]);
    let nodes = [node("Neg", &["x"], &["secret"]), call("F", &["x"], &["y"])];
    let proto = read(&model(&nodes, &[nosy])).unwrap();
    assert!(outputs_of(&proto, &[1.0, 2.0]).is_err());
}

/// A function or graph that is made at random: its steps read any value before them.
#[derive(Debug, Clone)]
struct Program {
    inputs: usize,
    steps: Vec<Step>,
    /// Where the names of its values begin in [`NAMES`].
    names: usize,
}

#[derive(Debug, Clone)]
enum Step {
    Add(usize, usize),
    Sub(usize, usize),
    Leaky(usize, Option<u8>),
    /// The program with this number, below the own one, with these inputs and attribute.
    Call(usize, Vec<usize>, Option<u8>),
    /// One of two values, by a third.
    If(usize, Box<Self>, Box<Self>),
}

/// Names that functions and graph share, some of which begin like the prefixes of calls.
const NAMES: &[&str] = &[
    "a",
    "x",
    "y",
    "call1.f.a",
    "b",
    "call2.",
    "call3.call_f0.a",
    "c",
    "call1.call_f1_a.b",
    "d",
    "call",
    "call4.f",
    "e",
    "f",
    "call5.a",
    "g",
    "h",
    "call18446744073709551615.h",
    "call-1.",
    "i",
    "j",
    "k",
    "l",
    "m",
];

impl Program {
    /// Returns the name of a value; that of the main graph's input is `x`.
    fn name(&self, value: usize) -> String {
        let value = value + self.names;
        format!("{}{}", NAMES[value % NAMES.len()], "'".repeat(value / NAMES.len()))
    }

    fn evaluate(&self, programs: &[Self], inputs: &[Vec<f32>], slope: f32) -> Vec<f32> {
        let mut values = inputs.to_vec();
        for step in &self.steps {
            values.push(step.evaluate(programs, &values, slope));
        }
        values.pop().unwrap()
    }

    fn nodes(&self) -> Vec<Proto> {
        let counts = self.inputs..;
        let nodes =
            counts.zip(&self.steps).flat_map(|(count, step)| step.nodes(self, &self.name(count), count));
        nodes.collect()
    }
}

/// The attribute of a step: of its own, or that of the program around it.
fn slope_of(own: Option<u8>, outer: f32) -> f32 {
    own.map_or(outer, |own| f32::from(own) / 8.0)
}

impl Step {
    fn evaluate(&self, programs: &[Program], values: &[Vec<f32>], slope: f32) -> Vec<f32> {
        let pairs = |a: usize, b: usize| values[a % values.len()].iter().zip(&values[b % values.len()]);
        let one = |a: usize| &values[a % values.len()];
        match self {
            Self::Add(a, b) => pairs(*a, *b).map(|(a, b)| a + b).collect(),
            Self::Sub(a, b) => pairs(*a, *b).map(|(a, b)| a - b).collect(),
            Self::Leaky(a, own) => {
                let slope = slope_of(*own, slope);
                one(*a).iter().map(|a| if *a < 0.0 { a * slope } else { *a }).collect()
            }
            Self::Call(program, inputs, own) => {
                let inputs: Vec<Vec<f32>> = inputs.iter().map(|a| one(*a).clone()).collect();
                programs[*program].evaluate(programs, &inputs, slope_of(*own, slope))
            }
            Self::If(a, yes, no) => {
                let is_above = one(*a).iter().fold(f32::NEG_INFINITY, |top, a| top.max(*a)) > 0.0;
                if is_above {
                    yes.evaluate(programs, values, slope)
                } else {
                    no.evaluate(programs, values, slope)
                }
            }
        }
    }

    /// Returns the nodes of a step that reads the first values of a program.
    fn nodes(&self, program: &Program, output: &str, count: usize) -> Vec<Proto> {
        let name = |value: &usize| program.name(value % count);
        let sloped = |node: Proto, name: &str, own: Option<u8>| match own {
            Some(own) => with_float(node, name, slope_of(Some(own), 0.0)),
            None => with_reference(node, name, "slope"),
        };
        match self {
            Self::Add(a, b) => vec![node("Add", &[&name(a), &name(b)], &[output])],
            Self::Sub(a, b) => vec![node("Sub", &[&name(a), &name(b)], &[output])],
            Self::Leaky(a, own) => vec![sloped(node("LeakyRelu", &[&name(a)], &[output]), "alpha", *own)],
            Self::Call(program, inputs, own) => {
                let names: Vec<String> = inputs.iter().map(name).collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                vec![sloped(call(&format!("F{program}"), &names, &[output]), "slope", *own)]
            }
            Self::If(a, yes, no) => {
                let (top, zero, above) =
                    (format!("{output}.top"), format!("{output}.zero"), format!("{output}.above"));
                let branch = |step: &Self| {
                    let inner = format!("{output}.inner");
                    let nodes = step.nodes(program, &inner, count);
                    graph(&nodes, &[], &[], &[Proto::default().text(1, &inner)])
                };
                let choice = with_graph(node("If", &[&above], &[output]), "then_branch", &branch(yes));
                vec![
                    with_int(node("ReduceMax", &[&name(a)], &[&top]), "keepdims", 0),
                    with_float(node("Constant", &[], &[&zero]), "value_float", 0.0),
                    node("Greater", &[&top, &zero], &[&above]),
                    with_graph(choice, "else_branch", &branch(no)),
                ]
            }
        }
    }
}

/// Steps of the program with this number; the main graph has no attribute to refer to.
fn step(number: usize, inputs_of: Vec<usize>, is_main: Outer) -> BoxedStrategy<Step> {
    let value = 0..32_usize;
    let own = match is_main {
        Outer::Graph => any::<u8>().prop_map(Some).boxed(),
        Outer::Function => proptest::option::of(any::<u8>()).boxed(),
    };
    let pair = (value.clone(), value.clone());
    let mut plain = vec![
        pair.clone().prop_map(|(a, b)| Step::Add(a, b)).boxed(),
        pair.prop_map(|(a, b)| Step::Sub(a, b)).boxed(),
        (value.clone(), own.clone()).prop_map(|(a, own)| Step::Leaky(a, own)).boxed(),
    ];
    if number > 0 {
        let call = (0..number, own, proptest::collection::vec(value.clone(), 3));
        let call = call.prop_map(move |(program, own, mut inputs)| {
            inputs.truncate(inputs_of[program]);
            Step::Call(program, inputs, own)
        });
        plain.extend([call.clone().boxed(), call.boxed()]);
    }
    let simple = proptest::strategy::Union::new(plain).boxed();
    let choice = (value, simple.clone(), simple.clone())
        .prop_map(|(a, yes, no)| Step::If(a, Box::new(yes), Box::new(no)));
    prop_oneof![4 => simple, 1 => choice].boxed()
}

#[derive(Clone, Copy)]
enum Outer {
    Function,
    Graph,
}

/// Functions, each of which calls those before it, and the main graph at the end.
/// Graphs of two functions and the main one nest to the limit.
fn programs() -> impl Strategy<Value = Vec<Program>> {
    (proptest::collection::vec(1..=3_usize, 1..3), any::<u8>()).prop_flat_map(|(inputs, names)| {
        let functions = inputs.len();
        let program = |number: usize| {
            let outer = if number == functions { Outer::Graph } else { Outer::Function };
            let count = inputs.get(number).copied().unwrap_or(1);
            // The main graph's first value is `x`.
            let names = if number == functions { 1 } else { usize::from(names) % 7 + number };
            proptest::collection::vec(step(number, inputs.clone(), outer), 1..6)
                .prop_map(move |steps| Program { inputs: count, steps, names })
        };
        (0..=functions).map(program).collect::<Vec<_>>()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn inlined_functions_give_what_calls_of_them_give(
        programs in programs(),
        x in proptest::array::uniform2(-4.0..4.0_f32),
    ) {
        let (main, functions) = programs.split_last().unwrap();
        let expected = main.evaluate(&programs, &[x.to_vec()], 0.0);
        let mut encoded = Vec::new();
        for (number, program) in functions.iter().enumerate() {
            let inputs: Vec<String> = (0..program.inputs).map(|value| program.name(value)).collect();
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            let output = program.name(program.inputs + program.steps.len() - 1);
            encoded.push(function(&format!("F{number}"), &inputs, &[&output], &program.nodes()).text(6, "slope"));
        }
        let output = main.name(main.inputs + main.steps.len() - 1);
        let found = run(&model_of(&[("", SET)], &main.nodes(), &encoded, &output), &x);
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert!((found - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{found} is not {expected}");
        }
    }
}
