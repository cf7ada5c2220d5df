//! That plans give by steps what tract's own state gives, again and again, whatever has failed in between.

use tract_onnx::prelude::Tensor;

use super::*;

/// Operators that random graphs are made of: tract's and ours, with kept outputs and without, in place and not.
const OPERATORS: [&str; 22] = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Max",
    "Min",
    "Relu",
    "Neg",
    "Exp",
    "Log",
    "Less",
    "Greater",
    "Equal",
    "Double",
    "Whole",
    "Joined",
    "Turned",
    "Flat",
    "Scaler",
    "Normalizer",
    "Linear",
    "Trees",
];

/// Returns the nodes that make `to`, of the shape of `[batch, 2]`, from two values of this shape.
fn nodes(operator: &str, a: &str, b: &str, to: &str) -> Vec<Proto> {
    let inner = format!("{to}_inner");
    match operator {
        "Add" | "Sub" | "Mul" | "Div" | "Max" | "Min" => vec![node(operator, &[a, b], &[to])],
        "Less" | "Greater" | "Equal" => {
            vec![node(operator, &[a, b], &[&inner]), with_int(node("Cast", &[&inner], &[to]), "to", F32)]
        }
        "Whole" => vec![
            with_int(node("Cast", &[a], &[&inner]), "to", I64),
            with_int(node("Cast", &[&inner], &[to]), "to", F32),
        ],
        "Joined" => vec![
            with_int(node("Concat", &[a, b], &[&inner]), "axis", 1),
            node("MatMul", &[&inner, "mix"], &[to]),
        ],
        "Double" => vec![
            with_int(node("Cast", &[a], &[&inner]), "to", F64),
            with_int(node("Cast", &[&inner], &[to]), "to", F32),
        ],
        "Turned" => vec![
            with_ints(node("Transpose", &[a], &[&inner]), "perm", &[1, 0]),
            with_ints(node("Transpose", &[&inner], &[to]), "perm", &[1, 0]),
        ],
        "Flat" => vec![node("Reshape", &[a, "flat"], &[&inner]), node("Reshape", &[&inner, "rows"], &[to])],
        "Scaler" => {
            vec![with_floats(with_floats(ml_node("Scaler", &[a], &[to]), "offset", &[0.5]), "scale", &[1.5])]
        }
        "Normalizer" => vec![with_text(ml_node("Normalizer", &[a], &[to]), "norm", "L2")],
        "Linear" => {
            let linear = with_int(ml_node("LinearRegressor", &[a], &[to]), "targets", 2);
            let linear = with_floats(linear, "coefficients", &[0.5, -1.0, 2.0, 0.25]);
            vec![with_floats(linear, "intercepts", &[0.1, -0.1])]
        }
        "Trees" => {
            let trees = with_int(ml_node("TreeEnsembleRegressor", &[a], &[to]), "n_targets", 2);
            let lists: [(&str, &[i64]); 8] = [
                ("nodes_treeids", &[0, 0, 0]),
                ("nodes_nodeids", &[0, 1, 2]),
                ("nodes_featureids", &[1, 0, 0]),
                ("nodes_truenodeids", &[1, 0, 0]),
                ("nodes_falsenodeids", &[2, 0, 0]),
                ("target_treeids", &[0, 0, 0]),
                ("target_nodeids", &[1, 2, 2]),
                ("target_ids", &[0, 0, 1]),
            ];
            let trees = lists.iter().fold(trees, |trees, (name, list)| with_ints(trees, name, list));
            let trees = with_floats(trees, "nodes_values", &[1.0, 0.0, 0.0]);
            let trees = with_floats(trees, "target_weights", &[0.75, -1.5, 3.0]);
            vec![with_texts(trees, "nodes_modes", &["BRANCH_LEQ", "LEAF", "LEAF"])]
        }
        _ => vec![node(operator, &[a], &[to])],
    }
}

/// A graph of random operators with three outputs. The first value is looked up by the input and fails beyond 2.
fn random_graph(picks: &[(usize, usize, usize)], outputs: [usize; 3]) -> Vec<u8> {
    let mut all = vec![
        with_int(node("Cast", &["x"], &["whole"]), "to", I64),
        node("Gather", &["table", "whole"], &["v1"]),
    ];
    let name = |at: usize| if at == 0 { "x".to_owned() } else { format!("v{at}") };
    for (index, (operator, a, b)) in picks.iter().enumerate() {
        let known = index + 2;
        let operator = OPERATORS[operator % OPERATORS.len()];
        all.extend(nodes(operator, &name(a % known), &name(b % known), &name(known)));
    }
    let known = picks.len() + 2;
    for (to, from) in ["p", "q", "r"].into_iter().zip(outputs) {
        all.push(node("Identity", &[&name(1 + from % (known - 1))], &[to]));
    }
    let mix = floats("mix", &[4, 2], &[1.0, 0.5, -1.0, 0.0, 0.25, 2.0, 0.0, -0.5]);
    let constants = [
        mix,
        floats("table", &[3], &[1.0, -2.0, 0.5]),
        longs("flat", &[1], &[-1]),
        longs("rows", &[2], &[-1, 2]),
    ];
    let outputs = ["p", "q", "r"].map(|name| value(name, F32, &[0, 2]));
    let graph = graph(&all, &constants, &[value("x", F32, &[0, 2])], &outputs);
    model(&graph)
}

/// What tract's own state gives, made anew.
fn by_state(engine: &TractEngine, size: usize, windows: &[f32]) -> Vec<f32> {
    let (plan, tensors) = (engine.plan(size).unwrap(), engine.tensors());
    let write = |input: usize, tensor: &mut Tensor| tensors.write_input(input, windows, tensor);
    let results = plan.spawn().unwrap().run(plan.inputs(write).unwrap()).unwrap();
    let mut rows = vec![0.0; size * tensors.output_values()];
    tensors
        .take_outputs(size, &results.iter().map(|result| &**result).collect::<Vec<_>>(), &mut rows)
        .unwrap();
    rows
}

/// Bits, of which those of NaN say nothing.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| if value.is_nan() { u32::MAX } else { value.to_bits() }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn steps_give_bit_by_bit_what_a_state_gives_also_after_runs_that_failed(
        picks in proptest::collection::vec((0..22_usize, 0..64_usize, 0..64_usize), 1..12),
        outputs: [u8; 3],
        runs in proptest::collection::vec((proptest::collection::vec(0.0..2.99_f32, 8), 0..4_u8, proptest::bool::ANY), 2..8),
    ) {
        let manifest = manifest(json!([output("p", &[2]), output("q", &[2]), output("r", &[2])]));
        let file = random_graph(&picks, outputs.map(usize::from));
        let mut engine = TractEngine::load_file(&file, &manifest, 4).unwrap();
        prop_assert!(engine.plan_sizes().all(|size| engine.plan(size).unwrap().is_of_steps()));
        // What no output needs is not run, and cannot fail.
        let reads_table = outputs.iter().any(|output| usize::from(*output) % (picks.len() + 1) == 0);
        let mut kept = vec![7.0; 3];
        for (mut windows, failing, is_single) in runs {
            let size = if is_single { 1 } else { 4 };
            windows.truncate(2 * size);
            if failing == 0 && reads_table {
                let mut bad = windows.clone();
                bad[0] = 9.0;
                prop_assert!(engine.run_into(size, &bad, &mut kept).is_err());
                prop_assert!(kept.is_empty());
            }
            let expected = by_state(&engine, size, &windows);
            engine.run_into(size, &windows, &mut kept).unwrap();
            prop_assert_eq!(bits(&kept), bits(&expected));
            prop_assert_eq!(bits(&engine.run(size, &windows).unwrap()), bits(&expected));
        }
    }
}

#[test]
fn outputs_that_are_inputs_constants_or_given_twice_are_read_before_they_are_written_again() {
    let nodes = [
        node("Identity", &["x"], &["p"]),
        with_floats(ml_node("Scaler", &["x"], &["s"]), "scale", &[2.0]),
        node("Identity", &["s"], &["q"]),
        node("Identity", &["s"], &["r"]),
    ];
    let outputs = ["p", "q", "r"].map(|name| value(name, F32, &[0, 2]));
    let file = model(&graph(&nodes, &[], &[value("x", F32, &[0, 2])], &outputs));
    let manifest = manifest(json!([output("p", &[2]), output("q", &[2]), output("r", &[2])]));
    let mut engine = TractEngine::load_file(&file, &manifest, 4).unwrap();
    for run in 0..4_u8 {
        let [a, b] = [f32::from(run), 10.0];
        let row = [a, b, 2.0 * a, 2.0 * b, 2.0 * a, 2.0 * b];
        assert_eq!(engine.run(1, &[a, b]).unwrap(), row);
        assert_eq!(engine.run(4, &[a, b].repeat(4)).unwrap(), row.repeat(4));
    }
}
