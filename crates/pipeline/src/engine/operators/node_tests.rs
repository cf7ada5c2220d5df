//! Runs the node tests that the `onnx` package carries against the engine.
//!
//! Each case is built, optimised and run as a package's graph would be, in a child process with a limit of time and
//! memory. A case may be refused, and then stands in `tests/nodes/unsupported.txt`; none may compute another value than
//! ONNX's own. `cargo xtask nodes` writes the cases and names their folder in `DUNLIN_ONNX_NODES`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use tract_onnx::Onnx;
use tract_onnx::pb::{ModelProto, TensorProto};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::bail;

use super::super::EngineError;
use super::super::tract::{build_error, catching, read_proto, run_error};

/// The folder with the cases.
const FOLDER: &str = "DUNLIN_ONNX_NODES";
/// Where a run writes what it found as a list, to replace the checked-in one.
const WRITTEN: &str = "DUNLIN_ONNX_NODES_WRITE";
/// Set for a child process.
const SHARE: &str = "DUNLIN_ONNX_NODES_SHARE";
const LIST: &str = include_str!("../../../tests/nodes/unsupported.txt");
/// A case takes milliseconds; this is for a machine under load.
const CASE_TIME_MAX: Duration = Duration::from_secs(30);
/// Address space of a child in KiB: the largest case holds 4 MB.
const CHILD_KIB_MAX: u64 = 4 << 20;
/// Longest reason in the list.
const REASON_CHARS: usize = 110;
/// How a line with a result begins among what the test runner prints.
const RESULT: &str = "\u{1}case\t";

#[test]
fn every_node_test_of_onnx_is_right_or_refused() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        eprintln!("skipped: `{FOLDER}` names no folder with the node tests; `cargo xtask nodes` makes one");
        return;
    };
    let names = names(&folder);
    let listed = listed();
    let found = run_all(&names);
    if let Some(file) = std::env::var_os(WRITTEN) {
        write_list(Path::new(&file), &found);
    }
    let mut complaints = String::new();
    for (name, verdict) in &found {
        let is_listed = listed.contains_key(name.as_str());
        let complaint = match verdict {
            Verdict::Right if is_listed => "runs and is right: take it off the list".to_owned(),
            Verdict::Refused(why) if !is_listed => format!("is refused: {why}"),
            Verdict::Wrong(what) => format!("is wrong: {what}"),
            Verdict::Right | Verdict::Refused(_) => continue,
        };
        writeln!(complaints, "{name} {complaint}").unwrap();
    }
    for name in listed.keys().filter(|name| !found.contains_key(**name)) {
        writeln!(complaints, "{name} is listed and is no case").unwrap();
    }
    let right = found.values().filter(|verdict| matches!(verdict, Verdict::Right)).count();
    println!("{right} of {} node tests run", found.len());
    assert!(complaints.is_empty(), "\n{complaints}");
}

#[test]
#[ignore = "a share of the node tests, started by the test of all of them"]
fn a_share_of_the_node_tests() {
    if std::env::var_os(SHARE).is_none() {
        return;
    }
    let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap());
    let engine = super::onnx();
    std::panic::set_hook(Box::new(|_| {}));
    for name in std::io::stdin().lines() {
        let name = name.unwrap();
        let verdict = judge(&engine, &folder, &name);
        println!("{RESULT}{}", verdict.text().replace(['\n', '\t'], " "));
    }
}

#[derive(Debug, Clone)]
enum Verdict {
    Right,
    Refused(String),
    Wrong(String),
}

impl Verdict {
    fn text(&self) -> String {
        match self {
            Self::Right => "right".to_owned(),
            Self::Refused(why) => format!("refused: {why}"),
            Self::Wrong(what) => format!("wrong: {what}"),
        }
    }

    fn parse(text: &str) -> Self {
        if let Some(why) = text.strip_prefix("refused: ") {
            return Self::Refused(why.to_owned());
        }
        match text.strip_prefix("wrong: ") {
            Some(what) => Self::Wrong(what.to_owned()),
            None => Self::Right,
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix(".onnx")?.to_owned()))
        .filter(|name| !name.ends_with(".data"))
        .collect();
    names.sort();
    names
}

fn listed() -> BTreeMap<&'static str, &'static str> {
    let lines = LIST.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.split_once('\t').unwrap_or_else(|| panic!("`{line}` has no reason after a tab")))
        .inspect(|(name, why)| {
            assert!(why.starts_with("refused: "), "`{name}` can be listed as refused only")
        })
        .collect()
}

/// Writes what is not right as the list; wrong cases too, which the list does not take.
fn write_list(file: &Path, found: &BTreeMap<String, Verdict>) {
    let mut list = std::fs::File::create(file).unwrap();
    let header = LIST.lines().take_while(|line| line.starts_with('#'));
    header.for_each(|line| writeln!(list, "{line}").unwrap());
    for (name, verdict) in found.iter().filter(|(_, verdict)| !matches!(verdict, Verdict::Right)) {
        let text = verdict
            .text()
            .replace("the engine does not support ", "")
            .replace("the engine cannot prepare the model: ", "");
        let text = text.replace("; export the model without them", "");
        let short: String = text.chars().take(REASON_CHARS).collect();
        writeln!(list, "{name}\t{}", short.trim_end()).unwrap();
    }
}

/// Runs all cases, a child process a processor.
fn run_all(names: &[String]) -> BTreeMap<String, Verdict> {
    let next = Mutex::new(names.iter());
    let found = Mutex::new(BTreeMap::new());
    let children = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..children {
            scope.spawn(|| {
                let mut worker = None;
                loop {
                    let Some(name) = next.lock().unwrap().next() else { return };
                    let verdict = worker.get_or_insert_with(Worker::start).judge(name);
                    if matches!(verdict, Err(())) {
                        worker = None;
                    }
                    let verdict = verdict.unwrap_or_else(|()| {
                        Verdict::Wrong("it aborted, hung or took all memory".to_owned())
                    });
                    found.lock().unwrap().insert(name.clone(), verdict);
                }
            });
        }
    });
    found.into_inner().unwrap()
}

struct Worker {
    child: Child,
    names: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Worker {
    fn start() -> Self {
        let mut child = Command::new("sh")
            .args(["-c", &format!("ulimit -v {CHILD_KIB_MAX}; exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture"])
            .arg("engine::operators::node_tests::a_share_of_the_node_tests")
            .env(SHARE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // The runner prints the test's name without a line's end before the first result.
            let lines = output.lines().map_while(Result::ok);
            for line in lines.filter_map(|line| Some(line.split_once(RESULT)?.1.to_owned())) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let names = child.stdin.take();
        Self { child, names, lines }
    }

    fn judge(&mut self, name: &str) -> Result<Verdict, ()> {
        writeln!(self.names.as_mut().unwrap(), "{name}").map_err(|_| ())?;
        match self.lines.recv_timeout(CASE_TIME_MAX) {
            Ok(text) => Ok(Verdict::parse(&text)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.names.take());
        if self.lines.recv_timeout(CASE_TIME_MAX).is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Which inputs a case's graph holds as constants: exporters write shapes, axes and weights so, and some operators need
/// them when a plan is made.
#[derive(Debug, Clone, Copy)]
enum Constants {
    None,
    AllButTheFirst,
    All,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Decluttered,
    Optimised,
}

struct Case {
    model: ModelProto,
    inputs: Vec<TensorProto>,
    outputs: Vec<(usize, Tensor)>,
    rtol: f64,
    atol: f64,
}

fn judge(engine: &Onnx, folder: &Path, name: &str) -> Verdict {
    let case = match read(engine, folder, name) {
        Ok(case) => case,
        Err(error) => return Verdict::Refused(format!("{error:#}")),
    };
    let mut refusal = None;
    let mut runs = 0;
    for constants in [Constants::None, Constants::AllButTheFirst, Constants::All] {
        let is_needless = match constants {
            Constants::None => false,
            Constants::AllButTheFirst => case.inputs.len() < 2,
            // Operators that take nothing but parameters, as `Range` does.
            Constants::All => runs > 0 || case.model.graph.as_ref().is_none_or(|graph| graph.node.len() > 1),
        };
        if is_needless {
            continue;
        }
        for stage in [Stage::Optimised, Stage::Decluttered] {
            let outputs = match run(engine, &case, constants, stage) {
                Ok(outputs) => outputs,
                Err(error @ (EngineError::Run(_) | EngineError::Memory(_))) => {
                    return Verdict::Wrong(format!("{constants:?} {stage:?}: {error}"));
                }
                Err(EngineError::Panicked(why)) if why.starts_with(RUNNING) => {
                    return Verdict::Wrong(format!("{constants:?} {stage:?}: {why}"));
                }
                Err(error) => {
                    refusal.get_or_insert_with(|| error.to_string());
                    break;
                }
            };
            if let Err(what) = compare(&case, &outputs) {
                return Verdict::Wrong(format!("{constants:?} {stage:?}: {what:#}"));
            }
            runs += 1;
        }
    }
    match refusal {
        Some(why) if runs == 0 => Verdict::Refused(why),
        _ => Verdict::Right,
    }
}

fn read(engine: &Onnx, folder: &Path, name: &str) -> TractResult<Case> {
    let file = |suffix: &str| -> TractResult<ModelProto> {
        let bytes = std::fs::read(folder.join(format!("{name}{suffix}")))?;
        Ok(read_proto(engine, &bytes)?)
    };
    let model = file(".onnx")?;
    let data = file(".data.onnx")?;
    let tolerance = |key: &str| -> f64 {
        let entry = data.metadata_props.iter().find(|entry| entry.key == key).unwrap();
        entry.value.parse().unwrap()
    };
    let (rtol, atol) = (tolerance("rtol"), tolerance("atol"));
    let graph = model.graph.as_ref().unwrap();
    let mut inputs = Vec::new();
    let mut outputs = Vec::new();
    for mut value in data.graph.unwrap_or_default().initializer {
        let (side, position) = value.name.split_once('/').unwrap();
        let position: usize = position.parse().unwrap();
        if side == "input" {
            value.name = graph.input[position].name.clone();
            inputs.push(value);
        } else {
            let tensor = tract_onnx::tensor::load_tensor(&*engine.provider, &value, None)?;
            outputs.push((position, tensor));
        }
    }
    Ok(Case { model, inputs, outputs, rtol, atol })
}

/// How a panic's text begins here when it came in a run.
const RUNNING: &str = "in the run: ";

fn run(engine: &Onnx, case: &Case, constants: Constants, stage: Stage) -> Result<Vec<Tensor>, EngineError> {
    let mut model = case.model.clone();
    let constant = match constants {
        Constants::None => &[],
        Constants::AllButTheFirst => &case.inputs[1..],
        Constants::All => &case.inputs[..],
    };
    let (plan, inputs) = catching(|| {
        let graph = model.graph.as_mut().unwrap();
        graph.initializer.extend(constant.iter().cloned());
        super::check(&model, engine)?;
        let mut inference = engine.model_for_proto_model(&model).map_err(build_error)?;
        let mut inputs = TVec::new();
        for (position, outlet) in
            inference.input_outlets().map_err(build_error)?.to_vec().into_iter().enumerate()
        {
            let name = &inference.node(outlet.node).name;
            let Some(value) = case.inputs.iter().find(|value| value.name == *name) else {
                return Err(EngineError::Build(format!("input `{name}` is no tensor")));
            };
            let value =
                tract_onnx::tensor::load_tensor(&*engine.provider, value, None).map_err(build_error)?;
            let fact = InferenceFact::dt_shape(value.datum_type(), value.shape());
            inference.set_input_fact(position, fact).map_err(build_error)?;
            inputs.push(value.into_tvalue());
        }
        let typed = match stage {
            Stage::Decluttered => inference.into_typed().and_then(TypedModel::into_decluttered),
            Stage::Optimised => inference.into_optimized(),
        };
        Ok((typed.and_then(IntoRunnable::into_runnable).map_err(build_error)?, inputs))
    })?;
    let outputs = catching(|| plan.run(inputs).map_err(run_error)).map_err(|error| match error {
        EngineError::Panicked(why) => EngineError::Panicked(format!("{RUNNING}{why}")),
        other => other,
    })?;
    Ok(outputs.into_iter().map(IntoTensor::into_tensor).collect())
}

fn compare(case: &Case, found: &[Tensor]) -> TractResult<()> {
    let declared = case.model.graph.as_ref().map_or(0, |graph| graph.output.len());
    if found.len() != declared || case.outputs.is_empty() {
        bail!("{} outputs came of {declared}, {} of them are tensors", found.len(), case.outputs.len());
    }
    for (position, expected) in &case.outputs {
        let found = &found[*position];
        if found.shape() != expected.shape() {
            bail!("output {position} has shape {:?}, not {:?}", found.shape(), expected.shape());
        }
        let is_size = found.datum_type() == TDim::datum_type() && expected.datum_type() == DatumType::I64;
        if found.datum_type().unquantized() != expected.datum_type() && !is_size {
            bail!("output {position} is of {:?}, not {:?}", found.datum_type(), expected.datum_type());
        }
        compare_values(case, *position, expected, found)?;
    }
    Ok(())
}

/// Returns what a sum of some values of a type may be off by, relative to the largest: a value near zero cannot be nearer.
fn rounding(datum_type: DatumType) -> f64 {
    match datum_type {
        DatumType::F16 => 2.0_f64.powi(-9),
        DatumType::F32 => 2.0_f64.powi(-18),
        _ => 2.0_f64.powi(-48),
    }
}

fn compare_values(case: &Case, output: usize, expected: &Tensor, found: &Tensor) -> TractResult<()> {
    let differs = |at: usize, found: &dyn std::fmt::Debug, expected: &dyn std::fmt::Debug| {
        format!("output {output} is {found:?} at {at}, not {expected:?}")
    };
    if expected.datum_type() == String::datum_type() {
        let (expected, found) = (expected.try_as_plain_ram()?, found.try_as_plain_ram()?);
        let pairs = expected.as_slice::<String>()?.iter().zip(found.as_slice::<String>()?).enumerate();
        for (at, (expected, found)) in pairs {
            if expected != found {
                bail!(differs(at, found, expected));
            }
        }
    } else if expected.datum_type().is_float() {
        let (wanted, given) = (expected.cast_to::<f64>()?, found.cast_to::<f64>()?);
        let (wanted, given) = (wanted.try_as_plain_ram()?, given.try_as_plain_ram()?);
        let largest = wanted.as_slice::<f64>()?.iter().filter(|value| value.is_finite());
        let largest = largest.fold(0.0_f64, |largest, value| largest.max(value.abs()));
        let atol = case.atol.max(largest * rounding(expected.datum_type()));
        for (at, (wanted, given)) in
            wanted.as_slice::<f64>()?.iter().zip(given.as_slice::<f64>()?).enumerate()
        {
            let is_close = wanted == given
                || (wanted.is_nan() && given.is_nan())
                || (wanted.is_finite() && (wanted - given).abs() <= atol + case.rtol * wanted.abs());
            if !is_close {
                bail!(differs(at, given, wanted));
            }
        }
    } else {
        let (wanted, given) = (expected.cast_to::<i64>()?, found.cast_to::<i64>()?);
        let (wanted, given) = (wanted.try_as_plain_ram()?, given.try_as_plain_ram()?);
        for (at, (wanted, given)) in
            wanted.as_slice::<i64>()?.iter().zip(given.as_slice::<i64>()?).enumerate()
        {
            if wanted != given {
                bail!(differs(at, given, wanted));
            }
        }
    }
    Ok(())
}
