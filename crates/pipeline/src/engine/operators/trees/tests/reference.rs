//! Random ensembles against a plain reference, written from the text of ONNX: one row, one tree, one node at a time.
//!
//! Regressors only, with a weight a leaf: there the text leaves nothing open. What it leaves open the recorded outputs
//! of ONNX Runtime settle.

use proptest::prelude::*;
use tract_onnx::prelude::*;

use super::super::super::testing::{floats, int, ints, node, run_node, text, texts};
use super::{doubles, tensor_attribute};

const MODES: [&str; 6] = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"];
const COLUMNS: usize = 3;

#[derive(Debug, Clone)]
enum Tree {
    Leaf {
        target: i64,
        weight: f32,
    },
    Branch {
        feature: i64,
        threshold: f32,
        mode: usize,
        missing: bool,
        on_true: Box<Tree>,
        on_false: Box<Tree>,
    },
}

fn tree(targets: i64) -> impl Strategy<Value = Tree> {
    let number = || prop_oneof![(-4..=4_i8).prop_map(f32::from), -4.0..4.0_f32];
    let leaf = (0..targets, number()).prop_map(|(target, weight)| Tree::Leaf { target, weight });
    leaf.prop_recursive(6, 48, 2, move |inner| {
        let question = (0..COLUMNS as i64, number(), 0..MODES.len(), any::<bool>());
        (question, inner.clone(), inner).prop_map(
            |((feature, threshold, mode, missing), on_true, on_false)| {
                let (on_true, on_false) = (Box::new(on_true), Box::new(on_false));
                Tree::Branch { feature, threshold, mode, missing, on_true, on_false }
            },
        )
    })
}

/// Asks all branches alike, as exporters do.
fn ask_alike(tree: &mut Tree, wanted: usize) {
    if let Tree::Branch { mode, on_true, on_false, .. } = tree {
        *mode = wanted;
        ask_alike(on_true, wanted);
        ask_alike(on_false, wanted);
    }
}

fn leaf(tree: &Tree, row: &[f64]) -> (usize, f64) {
    match tree {
        Tree::Leaf { target, weight } => (*target as usize, f64::from(*weight)),
        Tree::Branch { feature, threshold, mode, missing, on_true, on_false } => {
            let (value, threshold) = (row[*feature as usize], f64::from(*threshold));
            let holds = match MODES[*mode] {
                "BRANCH_LEQ" => value <= threshold,
                "BRANCH_LT" => value < threshold,
                "BRANCH_GTE" => value >= threshold,
                "BRANCH_GT" => value > threshold,
                "BRANCH_EQ" => value == threshold,
                _ => value != threshold,
            };
            leaf(if holds || *missing && value.is_nan() { on_true } else { on_false }, row)
        }
    }
}

/// Sums in double precision: of few small numbers, which single precision adds to within a few roundings.
fn expected(trees: &[Tree], targets: usize, aggregate: &str, base: &[f32], row: &[f64]) -> Vec<f64> {
    let mut sums: Vec<Option<f64>> = vec![None; targets];
    for (target, weight) in trees.iter().map(|tree| leaf(tree, row)) {
        let sum = &mut sums[target];
        *sum = Some(match (*sum, aggregate) {
            (None, _) => weight,
            (Some(sum), "MIN") => sum.min(weight),
            (Some(sum), "MAX") => sum.max(weight),
            (Some(sum), _) => sum + weight,
        });
    }
    let parts = if aggregate == "AVERAGE" { trees.len() as f64 } else { 1.0 };
    // A target without a weight has no base value either, as in ONNX Runtime.
    let finish = |(sum, base): (Option<f64>, &f32)| sum.map_or(0.0, |sum| sum / parts + f64::from(*base));
    sums.into_iter().zip(base).map(finish).collect()
}

#[derive(Default)]
struct Lists {
    trees: Vec<i64>,
    ids: Vec<i64>,
    features: Vec<i64>,
    values: Vec<f32>,
    modes: Vec<&'static str>,
    on_true: Vec<i64>,
    on_false: Vec<i64>,
    missing: Vec<i64>,
    target_trees: Vec<i64>,
    target_nodes: Vec<i64>,
    targets: Vec<i64>,
    weights: Vec<f32>,
}

impl Lists {
    /// Writes the children first, so that roots come last and ids fall.
    fn write(&mut self, tree: &Tree, number: i64) -> i64 {
        let (on_true, on_false) = match tree {
            Tree::Leaf { .. } => (0, 0),
            Tree::Branch { on_true, on_false, .. } => {
                (self.write(on_true, number), self.write(on_false, number))
            }
        };
        let id = -(self.ids.len() as i64);
        self.trees.push(number);
        self.ids.push(id);
        self.on_true.push(on_true);
        self.on_false.push(on_false);
        match tree {
            Tree::Leaf { target, weight } => {
                self.features.push(0);
                self.values.push(0.0);
                self.modes.push("LEAF");
                self.missing.push(0);
                self.target_trees.push(number);
                self.target_nodes.push(id);
                self.targets.push(*target);
                self.weights.push(*weight);
            }
            Tree::Branch { feature, threshold, mode, missing, .. } => {
                self.features.push(*feature);
                self.values.push(*threshold);
                self.modes.push(MODES[*mode]);
                self.missing.push(i64::from(*missing));
            }
        }
        id
    }
}

fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        3 => (-4..=4_i8).prop_map(f32::from),
        3 => -5.0..5.0_f32,
        1 => prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY), Just(-0.0)],
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn regressors_give_what_the_text_of_onnx_says(
        (targets, mut trees) in (1..4_i64).prop_flat_map(|n| (Just(n), prop::collection::vec(tree(n), 1..12))),
        alike in prop::option::of(0..MODES.len()),
        aggregate in prop::sample::select(vec!["SUM", "AVERAGE", "MIN", "MAX"]),
        double in any::<bool>(),
        rows in prop::collection::vec(prop::collection::vec(value(), COLUMNS), 1..20),
    ) {
        if let Some(mode) = alike {
            trees.iter_mut().for_each(|tree| ask_alike(tree, mode));
        }
        let mut lists = Lists::default();
        for (number, tree) in trees.iter().enumerate() {
            lists.write(tree, -(number as i64));
        }
        let base: Vec<f32> = (0..targets).map(|target| target as f32 - 0.5).collect();
        let weights: Vec<f64> = lists.weights.iter().map(|weight| f64::from(*weight)).collect();
        let attributes = vec![
            ints("nodes_treeids", &lists.trees),
            ints("nodes_nodeids", &lists.ids),
            ints("nodes_featureids", &lists.features),
            floats("nodes_values", &lists.values),
            texts("nodes_modes", &lists.modes),
            ints("nodes_truenodeids", &lists.on_true),
            ints("nodes_falsenodeids", &lists.on_false),
            ints("nodes_missing_value_tracks_true", &lists.missing),
            ints("target_treeids", &lists.target_trees),
            ints("target_nodeids", &lists.target_nodes),
            ints("target_ids", &lists.targets),
            if double {
                tensor_attribute("target_weights_as_tensor", doubles(&weights))
            } else {
                floats("target_weights", &lists.weights)
            },
            int("n_targets", targets),
            text("aggregate_function", aggregate),
            floats("base_values", &base),
        ];
        let flat: Vec<f32> = rows.concat();
        let wide: Vec<f64> = flat.iter().map(|value| f64::from(*value)).collect();
        let shape = [rows.len(), COLUMNS];
        let input = if double { tensor1(&wide) } else { tensor1(&flat) }.into_shape(&shape).unwrap();
        let output = run_node(node("TreeEnsembleRegressor", 1, 1, attributes), &[input]).unwrap().remove(0);
        let plain = output.try_as_plain_ram().unwrap();
        let ours = plain.as_slice::<f32>().unwrap();
        for (row, ours) in wide.chunks(COLUMNS).zip(ours.chunks(targets as usize)) {
            let theirs = expected(&trees, targets as usize, aggregate, &base, row);
            for (ours, theirs) in ours.iter().zip(&theirs) {
                prop_assert!((f64::from(*ours) - theirs).abs() < 1e-4, "{} and not {}", ours, theirs);
            }
        }
    }
}
