//! Scores, metrics and components of random inputs against SciPy and scikit-learn, where a Python has them.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod draws;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use draws::Draws;
use dunlin_drift::moments::Scale;
use dunlin_drift::quality::{Confusion, Errors};
use dunlin_drift::reference::{Reading, Reference};
use dunlin_drift::subspace::Subspace;
use dunlin_drift::summary::Summary;
use serde_json::{Value, json};

/// Cases of each kind.
const CASES: u64 = 60;
/// Largest differences that are rounding: of figures that need no steps, and of those that do.
const EXACT: f64 = 1e-9;
const OF_STEPS: f64 = 0.01;

fn below(draws: &mut Draws, limit: usize) -> usize {
    (draws.even() * limit as f64) as usize
}

fn normals(draws: &mut Draws, count: usize, mean: f64, sd: f64) -> Vec<f64> {
    (0..count).map(|_| mean + sd * draws.normal()).collect()
}

fn reference(values: &[f64]) -> Reference {
    let readings: Vec<Reading<f64>> =
        values.iter().enumerate().map(|(n, value)| (n as i64 * 1_000_000, Some(*value))).collect();
    Reference::of_numbers(&[readings], &[]).unwrap()
}

fn counted(reference: &Reference, values: &[f64]) -> Summary {
    let mut summary = Summary::empty(reference.bins.count());
    values.iter().for_each(|value| summary.add_number(*value, &reference.bins, &reference.scale.unwrap()));
    summary
}

fn sd_of(reference: &Reference) -> f64 {
    reference.summary().moments.variance().unwrap().sqrt() * reference.scale.unwrap().step
}

fn scores(draws: &mut Draws) -> Value {
    let (count, mean) = (50 + below(draws, 2_000), draws.normal() * 30.0);
    let reference = reference(&normals(draws, count, mean, 2.0));
    let (count, mean, sd) = (20 + below(draws, 500), mean + draws.normal(), 1.0 + 2.0 * draws.even());
    let window = counted(&reference, &normals(draws, count, mean, sd));
    let found = reference.scores(&window).unwrap();
    let dunlin_drift::bins::Bins::Edges(edges) = &reference.bins else { return Value::Null };
    let sd = sd_of(&reference);
    json!({
        "edges": edges, "reference": reference.counts, "window": window.counts, "sd": sd, "psi": found.psi, "js": found.js,
        "ks": found.ks, "wasserstein_sd": found.wasserstein_sd, "mean_shift": found.mean_shift_sd * sd,
    })
}

/// Values that moved as a whole: then the histogram and the means say what the values themselves would.
fn moved(draws: &mut Draws) -> Value {
    let one = normals(draws, 2_000, 5.0, 2.0);
    let by = draws.normal() * 8.0;
    let other: Vec<f64> = one.iter().map(|value| value + by).collect();
    let reference = reference(&one);
    let found = reference.scores(&counted(&reference, &other)).unwrap();
    json!({ "one": one, "other": other, "sd": sd_of(&reference), "wasserstein_sd": found.wasserstein_sd })
}

fn classes(draws: &mut Draws) -> Value {
    let (classes, count) = (2 + below(draws, 4), 1 + below(draws, 200));
    let mut confusion = Confusion::of_classes(classes);
    let (mut labels, mut predictions) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let label = below(draws, classes);
        let predicted = if draws.even() < 0.6 { label } else { below(draws, classes) };
        confusion.add(label, predicted);
        labels.push(label);
        predictions.push(predicted);
    }
    let found = confusion.metrics().unwrap();
    json!({
        "classes": classes, "labels": labels, "predicted": predictions, "accuracy": found.accuracy,
        "precision": found.precision, "recall": found.recall, "f1": found.f1, "mcc": found.mcc,
    })
}

fn numbers(draws: &mut Draws) -> Value {
    let count = 20 + below(draws, 300);
    let labels = normals(draws, count, 12.0, 3.0);
    let predicted: Vec<f64> = labels.iter().map(|label| label + 0.2 + draws.normal()).collect();
    let (scale, mut errors) = (Scale::of(12.0, 3.0), Errors::default());
    labels.iter().zip(&predicted).for_each(|(label, predicted)| errors.add(*predicted, *label, &scale));
    let found = errors.metrics(&scale).unwrap();
    json!({ "labels": labels, "predicted": predicted, "mae": found.mae, "rmse": found.rmse, "r2": found.r2 })
}

fn subspaces(draws: &mut Draws) -> Value {
    let features = 2 + below(draws, 7);
    let mixing: Vec<Vec<f64>> = (0..features).map(|_| normals(draws, features, 0.0, 1.0)).collect();
    let rows: Vec<Vec<f64>> = (0..features * 40)
        .map(|_| {
            let free = normals(draws, features, 0.0, 1.0);
            let sum =
                |row: &Vec<f64>| row.iter().zip(&free).map(|(weight, value)| weight * value).sum::<f64>();
            mixing.iter().map(|row| 10.0 + sum(row)).collect()
        })
        .collect();
    let subspace = Subspace::of(rows.iter().map(Vec::as_slice)).unwrap();
    let distances: Vec<_> = rows.iter().map(|row| subspace.distances(row).unwrap()).collect();
    let (t2, q): (Vec<f64>, Vec<f64>) = distances.iter().map(|found| (found.t2, found.q)).unzip();
    json!({ "rows": rows, "variances": subspace.variances, "t2": t2, "q": q })
}

#[test]
fn figures_are_those_of_scipy_and_scikit_learn() {
    let Some(python) = std::env::var_os("DUNLIN_SKLEARN_PYTHON") else {
        println!(
            "skipped: DUNLIN_SKLEARN_PYTHON names no Python with scikit-learn; `cargo xtask test` makes one"
        );
        return;
    };
    let mut draws = Draws(5);
    let mut cases = |make: fn(&mut Draws) -> Value| (0..CASES).map(|_| make(&mut draws)).collect::<Vec<_>>();
    let given = json!({
        "scores": cases(scores), "moved": cases(moved), "classes": cases(classes), "numbers": cases(numbers),
        "subspaces": cases(subspaces),
    });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/against_scipy.py");
    let mut child =
        Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(given.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let worst: BTreeMap<String, f64> = serde_json::from_slice(&output.stdout).unwrap();
    println!("{worst:#?}");
    assert_eq!(worst.len(), 16, "{worst:?}");
    for (name, off) in &worst {
        let is_stepped =
            ["wasserstein of the values themselves", "mae", "rmse", "r2"].contains(&name.as_str());
        // Components are kept with nine digits.
        let is_short = ["variances", "t2", "q"].contains(&name.as_str());
        let limit = if is_stepped {
            OF_STEPS
        } else if is_short {
            1e-6
        } else {
            EXACT
        };
        assert!(*off <= limit, "{name}: {off}");
    }
}
