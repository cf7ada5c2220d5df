//! `cargo xtask fuzz`: builds the fuzz targets with coverage, runs them for a while, and tells what they found.
//!
//! Each file of a `src/bin` folder below `fuzz/` is a target. Inputs that led somewhere stay under `target/fuzz/corpus`,
//! so that a later run goes on from there; nothing of it is checked in. Never judges an input itself: the targets do.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::step::Outcome;
use crate::{demo, seeds, tools};

/// How coverage is measured: what libFuzzer reads is left in the programs by the compiler's own pass.
const COVERAGE: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
/// How long all targets together run where nothing else is said.
const TOTAL_TIME: Duration = Duration::from_secs(600);
/// How long each target runs in `cargo xtask test`.
const STRETCH_TIME: Duration = Duration::from_secs(2);
/// Targets at a time: the smallest machine that builds has two processors.
const AT_A_TIME: usize = 2;
/// Longest time of one input: a thousand times what a parser takes.
const INPUT_SECONDS_MAX: &str = "10";
/// Most memory of a target, and of one allocation, in MiB: a parser's input is a few kilobytes.
const MEMORY_MIB_MAX: &str = "1024";
const ALLOCATION_MIB_MAX: &str = "256";
/// Longest input in bytes that is made up.
const INPUT_BYTES_MAX: &str = "8192";
/// Lines of a log that are shown of a failure.
const LOG_LINES: usize = 30;

/// A package of targets.
struct Package {
    name: &'static str,
    folder: &'static str,
    /// Whether it is built quickly enough to be part of every test.
    is_quick: bool,
}

/// Each depends on as little as its targets need: the engine and the daemon's libraries take minutes to build once more.
const PACKAGES: [Package; 3] = [
    Package { name: "fuzz-formats", folder: "fuzz", is_quick: true },
    Package { name: "fuzz-pipeline", folder: "fuzz/pipeline", is_quick: false },
    Package { name: "fuzz-daemon", folder: "fuzz/daemon", is_quick: false },
];

/// One target.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    name: String,
    package: &'static str,
    is_quick: bool,
}

/// What is asked for on the command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    targets: Vec<String>,
    time: Option<Duration>,
    input: Option<PathBuf>,
}

/// Runs the targets that are named, or all, for a time that they share; or one target on one input.
///
/// *Errors*: something cannot be built, or a target found something; the text says what, and how to see it again.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let request = parse(arguments)?;
    let all = targets()?;
    let known = || all.iter().map(|target| target.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(unknown) = request.targets.iter().find(|name| all.iter().all(|target| target.name != **name))
    {
        return Err(format!("`{unknown}` is no target; there are {}", known()));
    }
    let is_chosen = |target: &Target| request.targets.is_empty() || request.targets.contains(&target.name);
    let chosen: Vec<Target> = all.iter().filter(|target| is_chosen(target)).cloned().collect();
    tools::install_cpp_compiler()?;
    build(&chosen)?;
    match (&request.input, chosen.as_slice()) {
        (None, _) => {
            let total = request.time.unwrap_or(TOTAL_TIME);
            let lanes = AT_A_TIME.min(chosen.len()).max(1) as u32;
            run_all(&chosen, total * lanes / chosen.len().max(1) as u32)
        }
        (Some(input), [target]) => crate::succeed(Command::new(program(target)?).arg(input)),
        _ => Err("`--input FILE` takes exactly one target before it".to_owned()),
    }
}

/// Runs the targets that build quickly for a short while each.
pub(crate) fn stretch() -> Outcome {
    if let Err(why) = tools::install_cpp_compiler() {
        return Outcome::Skipped(format!("libFuzzer needs a C++ compiler: {why}"));
    }
    let outcome = targets().and_then(|all| {
        let quick: Vec<Target> = all.into_iter().filter(|target| target.is_quick).collect();
        build(&quick)?;
        run_all(&quick, STRETCH_TIME)
    });
    outcome.map_or_else(Outcome::Failed, |()| Outcome::Passed)
}

fn parse(arguments: &[String]) -> Result<Request, String> {
    let usage = "usage: cargo xtask fuzz [TARGET…] [--for 10m | --input FILE]";
    let mut request = Request::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--for" => request.time = Some(demo::duration(rest.next().ok_or(usage)?)?),
            "--input" => request.input = Some(PathBuf::from(rest.next().ok_or(usage)?)),
            flag if flag.starts_with('-') => return Err(usage.to_owned()),
            name => request.targets.push(name.to_owned()),
        }
    }
    Ok(request)
}

/// Returns all targets, by name.
fn targets() -> Result<Vec<Target>, String> {
    let mut found = Vec::new();
    for Package { name, folder, is_quick } in &PACKAGES {
        let folder = tools::root().join(folder).join("src/bin");
        let entries =
            fs::read_dir(&folder).map_err(|error| format!("cannot read `{}`: {error}", folder.display()))?;
        let names = entries.filter_map(|entry| {
            let file = entry.ok()?.file_name().into_string().ok()?;
            file.strip_suffix(".rs").map(str::to_owned)
        });
        found.extend(names.map(|target| Target { name: target, package: name, is_quick: *is_quick }));
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn build(chosen: &[Target]) -> Result<(), String> {
    let host = host()?;
    for package in PACKAGES {
        let bins: Vec<&Target> = chosen.iter().filter(|target| target.package == package.name).collect();
        if bins.is_empty() {
            continue;
        }
        println!("building {} targets of {}", bins.len(), package.name);
        let mut cargo = tools::cargo();
        // Naming the machine keeps the flags from build scripts and macros, which have no libFuzzer.
        cargo.args(["build", "--quiet", "--manifest-path", "fuzz/Cargo.toml", "--target", &host]);
        cargo.args(["-p", package.name]);
        for target in bins {
            cargo.args(["--bin", &target.name]);
        }
        crate::succeed(cargo.env("RUSTFLAGS", COVERAGE).env("CARGO_TARGET_DIR", folder()))?;
    }
    Ok(())
}

/// Returns the machine's name as the compiler has it.
fn host() -> Result<String, String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").current_dir(tools::root()).output();
    let text = output.map_err(|error| format!("cannot start rustc: {error}"))?.stdout;
    let text = String::from_utf8_lossy(&text);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc does not say which machine this is".to_owned())
}

fn folder() -> PathBuf {
    tools::root().join("target/fuzz")
}

fn program(target: &Target) -> Result<PathBuf, String> {
    Ok(folder().join(host()?).join("debug").join(&target.name))
}

/// Runs targets, two at a time, each for `time`; all run, even after one has found something.
fn run_all(chosen: &[Target], time: Duration) -> Result<(), String> {
    let seconds = time.as_secs().max(1);
    println!("running {} targets for {seconds} s each, {AT_A_TIME} at a time", chosen.len());
    let waiting = Mutex::new(VecDeque::from_iter(chosen));
    let failures = Mutex::new(Vec::new());
    let next = || waiting.lock().expect("no target panics here").pop_front();
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(target) = next() {
                    match run_one(target, seconds) {
                        Ok(line) => println!("{:<16} {line}", target.name),
                        Err(why) => {
                            println!("{:<16} FAILED", target.name);
                            failures.lock().expect("no target panics here").push(why);
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no target panicked here");
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n\n")) }
}

/// Runs a target; returns what it did in a line.
fn run_one(target: &Target, seconds: u64) -> Result<String, String> {
    let name = &target.name;
    let places = ["corpus", "artifacts", "seeds", "logs"].map(|place| folder().join(place).join(name));
    let [corpus, artifacts, seeds, _] = &places;
    let io = |error: std::io::Error| format!("{name}: cannot prepare `{}`: {error}", folder().display());
    let _ = fs::remove_dir_all(seeds);
    for place in &places {
        fs::create_dir_all(place).map_err(io)?;
    }
    let log = places[3].join("log");
    let dictionary = places[3].join("dictionary");
    let seed = seeds::of(name);
    for (index, bytes) in seed.inputs.iter().enumerate() {
        write(&seeds.join(format!("{index:04}")), bytes).map_err(io)?;
    }
    write(&dictionary, seeds::dictionary(&seed.words).as_bytes()).map_err(io)?;
    let output = File::create(&log).map_err(io)?;
    let status = Command::new(program(target)?)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
        .arg(format!("-malloc_limit_mb={ALLOCATION_MIB_MAX}"))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(format!("-dict={}", dictionary.display()))
        .args(["-print_final_stats=1", "-use_value_profile=1"])
        .args([corpus, seeds])
        .current_dir(tools::root())
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(io)?)
        .stderr(output)
        .status()
        .map_err(|error| format!("{name}: cannot be started: {error}"))?;
    let text = String::from_utf8_lossy(&fs::read(&log).map_err(io)?).into_owned();
    if status.success() { Ok(summary(&text)) } else { Err(failure(name, &log, &text)) }
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    File::create(path)?.write_all(bytes)
}

/// Returns the runs, their speed, the coverage and the memory that libFuzzer reports.
fn summary(log: &str) -> String {
    let stat = |name: &str| {
        let line = log.lines().rev().find(|line| line.starts_with("stat::") && line.contains(name));
        line.and_then(|line| line.split_whitespace().last()).unwrap_or("?").to_owned()
    };
    let coverage = log.lines().rev().find_map(|line| line.split_once(" cov: ")?.1.split(' ').next());
    format!(
        "{:>9} runs, {:>6} a second, {:>5} places reached, {:>4} MiB",
        stat("number_of_executed_units"),
        stat("average_exec_per_sec"),
        coverage.unwrap_or("?"),
        stat("peak_rss_mb")
    )
}

/// Tells what a target found and how to see it again.
fn failure(name: &str, log: &Path, text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let start = lines.iter().position(|line| line.contains("panicked at") || line.contains("ERROR: "));
    let start = start.unwrap_or(lines.len().saturating_sub(LOG_LINES));
    let shown: String = lines[start..].iter().take(LOG_LINES).map(|line| format!("  {line}\n")).collect();
    let unit =
        text.lines().rev().find_map(|line| line.split_once("Test unit written to ").map(|(_, path)| path));
    let again = match unit {
        Some(path) => format!("input: {path}\nagain: cargo xtask fuzz {name} --input {path}"),
        None => format!("no input was kept; the whole log is `{}`", log.display()),
    };
    format!("{name} found something:\n{shown}{again}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn targets_time_and_input_are_read_and_other_words_refused() {
        let request = parse(&words("manifest golden --for 90s")).unwrap();
        assert_eq!(request.targets, ["manifest", "golden"]);
        assert_eq!(request.time, Some(Duration::from_secs(90)));
        assert_eq!(parse(&words("--for 10m")).unwrap().time, Some(TOTAL_TIME));
        assert_eq!(parse(&words("a --input x")).unwrap().input, Some(PathBuf::from("x")));
        for wrong in ["--for", "--for 0s", "--for 1d", "--input", "--jobs 2"] {
            assert!(parse(&words(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_target_has_a_package_and_its_own_name() {
        let all = targets().unwrap();
        assert!(all.iter().any(|target| target.name == "evidence"));
        assert!(all.windows(2).all(|pair| pair[0].name != pair[1].name));
        for package in PACKAGES {
            assert!(all.iter().any(|target| target.package == package.name), "{}", package.name);
        }
    }

    #[test]
    fn a_failure_names_the_input_and_the_command_that_runs_it_again() {
        let log = "#12 NEW cov: 7\nthread '<unnamed>' panicked at src/x.rs:1:2:\nwrong\n\
                   artifact_prefix='a/'; Test unit written to a/crash-1\n";
        let text = failure("manifest", Path::new("log"), log);
        assert!(text.contains("wrong") && !text.contains("#12"));
        assert!(text.ends_with("again: cargo xtask fuzz manifest --input a/crash-1"));
    }
}
