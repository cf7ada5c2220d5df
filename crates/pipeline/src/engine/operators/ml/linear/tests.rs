//! Linear models against sums in double precision, and attributes that do not fit each other.

use super::super::super::testing::{floats as floats_attribute, int, ints, node, run_node, text, texts};
use super::super::rows::tensor;
use super::*;
use proptest::prelude::*;

fn singles(tensor: &Tensor) -> Vec<f32> {
    tensor.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec()
}

fn reference(input: &[f32], coefficients: &[f32], intercepts: &[f32]) -> Vec<Vec<f64>> {
    let columns = coefficients.len() / intercepts.len();
    let score = |row: &[f32], target: usize| {
        let weights = &coefficients[target * columns..(target + 1) * columns];
        let products = row.iter().zip(weights).map(|(x, weight)| f64::from(*x) * f64::from(*weight));
        products.sum::<f64>() + f64::from(intercepts[target])
    };
    input
        .chunks(columns)
        .map(|row| (0..intercepts.len()).map(|target| score(row, target)).collect())
        .collect()
}

fn model() -> impl Strategy<Value = (usize, usize, Vec<f32>, Vec<f32>, Vec<f32>)> {
    (1..20_usize, 1..6_usize).prop_flat_map(|(columns, targets)| {
        // Quarters, so that sums are exact and ties happen.
        let number = || (-8..9_i32).prop_map(|n| n as f32 / 4.0);
        (
            Just(columns),
            Just(targets),
            proptest::collection::vec(number(), columns * targets),
            proptest::collection::vec(number(), targets),
            proptest::collection::vec(number(), columns * 3),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn the_label_is_that_of_the_first_highest_sum((columns, targets, coefficients, intercepts, input) in model(), kind in 0..3_usize) {
        let transform = ["NONE", "SOFTMAX", "LOGISTIC"][kind];
        let names: Vec<String> = (0..targets.max(2)).map(|class| format!("class {class}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let classifier = node("LinearClassifier", 1, 2, vec![
            floats_attribute("coefficients", &coefficients), floats_attribute("intercepts", &intercepts),
            texts("classlabels_strings", &names), text("post_transform", transform), int("multi_class", 1),
        ]);
        let outputs = run_node(classifier, &[tensor(&[3, columns], input.clone()).unwrap()]).unwrap();
        let labels = outputs[0].try_as_plain_ram().unwrap().as_slice::<String>().unwrap().to_vec();
        let found = singles(&outputs[1]);
        for (row, scores) in reference(&input, &coefficients, &intercepts).iter().enumerate() {
            let (best, want): (usize, Vec<f64>) = if targets == 1 {
                let second = 1.0 / (1.0 + (-scores[0]).exp());
                let pair = if kind == 2 { vec![1.0 - second, second] } else { vec![1.0 - scores[0], scores[0]] };
                (usize::from(scores[0] > 0.0), pair)
            } else {
                let best = scores.iter().position(|x| scores.iter().all(|y| x >= y)).unwrap();
                let sum: f64 = scores.iter().map(|x| x.exp()).sum();
                let transformed = scores.iter().map(|x| match kind {
                    0 => *x,
                    1 => x.exp() / sum,
                    _ => 1.0 / (1.0 + (-x).exp()),
                });
                (best, transformed.collect())
            };
            prop_assert_eq!(&labels[row], names[best]);
            for (want, found) in want.iter().zip(&found[row * want.len()..]) {
                prop_assert!((want - f64::from(*found)).abs() <= 1e-5 * want.abs().max(1.0), "{want} {found}");
            }
        }
    }

    #[test]
    fn targets_are_sums((columns, targets, coefficients, intercepts, input) in model(), doubled: bool) {
        let regressor = node("LinearRegressor", 1, 1, vec![
            floats_attribute("coefficients", &coefficients), floats_attribute("intercepts", &intercepts), int("targets", targets as i64),
        ]);
        let given = tensor(&[3, columns], input.clone()).unwrap();
        let given = if doubled { given.cast_to::<f64>().unwrap().into_owned() } else { given };
        let found = singles(&run_node(regressor, &[given]).unwrap()[0]);
        let want: Vec<f32> = reference(&input, &coefficients, &intercepts).concat().iter().map(|x| *x as f32).collect();
        prop_assert_eq!(found, want);
    }

    #[test]
    fn attributes_that_do_not_fit_are_errors(
        coefficients in 0..9_usize, intercepts in 0..4_usize, labels in 0..4_usize, targets in prop_oneof![-2..5_i64, any::<i64>()],
        columns in 1..4_usize,
    ) {
        let input = tensor(&[1, columns], vec![1.0_f32; columns]).unwrap();
        let (weights, offsets) = (vec![1.0; coefficients], vec![0.0; intercepts]);
        let integers: Vec<i64> = (0..labels as i64).collect();
        let classifier = run_node(node("LinearClassifier", 1, 2, vec![
            floats_attribute("coefficients", &weights), floats_attribute("intercepts", &offsets), ints("classlabels_ints", &integers),
        ]), std::slice::from_ref(&input));
        let fits = intercepts > 0 && coefficients == columns * intercepts && labels == intercepts.max(2);
        prop_assert_eq!(classifier.is_ok(), fits);
        let regressor = run_node(node("LinearRegressor", 1, 1, vec![
            floats_attribute("coefficients", &weights), floats_attribute("intercepts", &offsets), int("targets", targets),
        ]), &[input]);
        let fits = targets > 0 && i128::from(targets) * columns as i128 == coefficients as i128
            && (intercepts == 0 || intercepts as i64 == targets);
        prop_assert_eq!(regressor.is_ok(), fits);
    }
}

#[test]
fn a_row_without_numbers_has_the_first_label() {
    let classifier = node(
        "LinearClassifier",
        1,
        2,
        vec![
            floats_attribute("coefficients", &[1.0, 2.0]),
            floats_attribute("intercepts", &[0.0, 1.0]),
            ints("classlabels_ints", &[7, 9]),
        ],
    );
    let outputs = run_node(classifier, &[tensor2(&[[f32::NAN], [1.0]])]).unwrap();
    assert_eq!(outputs[0], tensor1(&[7_i64, 9]));
}
