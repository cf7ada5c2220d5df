//! The outside programs that the commands use, and how they are installed where they are missing.
//!
//! Finds programs, installs system packages and Python packages. Never changes what is installed already. Every
//! command asks here first.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What replays recorded series, inside the folder that holds them.
const REPLAY_TOOL: &str = "tools/replay.py";

/// Returns the root of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or_else(|| here.clone(), Path::to_path_buf)
}

/// Returns a call of cargo that runs in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Returns where a program is, looking also where administrators' programs are, which users may not have on their path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(beside).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Returns where a program is.
///
/// *Errors*: it is not there; the text names the program.
pub(crate) fn need(program: &str) -> Result<PathBuf, String> {
    find(program).ok_or_else(|| format!("`{program}` is not installed, and could not be installed"))
}

/// Tells whether a command ends with success; its output is not shown.
pub(crate) fn works(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// Installs mosquitto and its clients from the system's packages where one is missing.
///
/// *Errors*: there is no `apt-get`, or it failed; the text says what to install by hand.
pub(crate) fn install_broker() -> Result<(), String> {
    if ["mosquitto", "mosquitto_pub", "mosquitto_sub"].into_iter().all(|program| find(program).is_some()) {
        return Ok(());
    }
    install_packages(&["mosquitto", "mosquitto-clients"])
}

/// Installs a C++ compiler from the system's packages where there is none: libFuzzer is written in it.
///
/// *Errors*: as [`install_broker`].
pub(crate) fn install_cpp_compiler() -> Result<(), String> {
    if std::env::var_os("CXX").is_some() || find("c++").is_some() {
        return Ok(());
    }
    install_packages(&["g++"])
}

/// Installs faketime from the system's packages where it is missing.
///
/// *Errors*: as [`install_broker`].
pub(crate) fn install_faketime() -> Result<(), String> {
    if find("faketime").is_some() { Ok(()) } else { install_packages(&["faketime"]) }
}

/// Installs PostgreSQL's server from the system's packages where it is missing: the fleet's store is tested with it.
///
/// *Errors*: as [`install_broker`].
pub(crate) fn install_postgres() -> Result<(), String> {
    let is_there = |folder: std::fs::DirEntry| folder.path().join("bin/initdb").is_file();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    if versions.into_iter().any(is_there) { Ok(()) } else { install_packages(&["postgresql"]) }
}

fn install_packages(packages: &[&str]) -> Result<(), String> {
    println!("installing {} from the system's packages", packages.join(", "));
    let by_hand = || format!("install {} by hand and try again", packages.join(", "));
    let apt = find("apt-get").ok_or_else(|| format!("there is no apt-get here: {}", by_hand()))?;
    // Without fresh lists a new container knows no packages; with a mirror down the old lists may still do.
    if !apt_get(&apt).args(["-q", "update"]).status().is_ok_and(|status| status.success()) {
        eprintln!("the package lists could not be refreshed; trying with the old ones");
    }
    let installed =
        apt_get(&apt).args(["-q", "install", "--yes", "--no-install-recommends"]).args(packages).status();
    match installed {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("apt-get ended with {status}: {}", by_hand())),
        Err(error) => Err(format!("cannot start apt-get ({error}): {}", by_hand())),
    }
}

fn apt_get(apt: &Path) -> Command {
    let is_root =
        Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    let mut command = if is_root { Command::new(apt) } else { Command::new("sudo") };
    if !is_root {
        command.args(["--preserve-env=DEBIAN_FRONTEND", "--"]).arg(apt);
    }
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Installs cargo-deny where it is missing.
///
/// *Errors*: it could not be built.
pub(crate) fn install_cargo_deny() -> Result<(), String> {
    if works(cargo().args(["deny", "--version"])) {
        return Ok(());
    }
    println!("installing cargo-deny");
    match cargo().args(["install", "cargo-deny", "--locked"]).status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err("cargo-deny could not be installed; run `cargo install cargo-deny --locked`".to_owned()),
    }
}

/// Returns a Python with paho-mqtt for the replay of recorded series, which are not part of the repository: the folder
/// `DUNLIN_SHARED`, or `shared` beside the repository. Makes the environment where there is none.
///
/// *Errors*: why there is none, for a person to read; checks with recorded series are then skipped.
pub(crate) fn replay_python() -> Result<PathBuf, String> {
    let root = root();
    let given = std::env::var_os("DUNLIN_SHARED").map(PathBuf::from);
    let folder = given.or_else(|| Some(root.parent()?.join("shared"))).unwrap_or_default();
    if !folder.join(REPLAY_TOOL).is_file() {
        return Err(format!("no recorded series: `{}` has no {REPLAY_TOOL}", folder.display()));
    }
    let none = |why| format!("no recorded series: {why}");
    environment("venv", "import paho.mqtt.client", &["paho-mqtt>=2,<3"]).map_err(none)
}

/// Returns a Python with scikit-learn and skl2onnx for the tutorial of model packages. Makes the environment where there
/// is none.
///
/// *Errors*: why there is none, for a person to read; the tutorial is then not run.
pub(crate) fn sklearn_python() -> Result<PathBuf, String> {
    environment("sklearn", "import sklearn, skl2onnx", &["scikit-learn>=1.5,<2", "skl2onnx>=1.17,<2"])
}

/// The release of `onnx` whose node tests the list of what is not supported goes with.
pub(crate) const ONNX: &str = "1.23.2";

/// Returns a Python with the `onnx` package, which carries the node tests. Makes the environment where there is none.
///
/// *Errors*: why there is none, for a person to read; the node tests are then not run.
pub(crate) fn onnx_python() -> Result<PathBuf, String> {
    let probe = format!("import onnx; assert onnx.__version__ == '{ONNX}'");
    environment("onnx", &probe, &[&format!("onnx=={ONNX}")])
}

/// Returns the Python of an environment that can do what `probe` says, made of these packages where there is none.
fn environment(name: &str, probe: &str, packages: &[&str]) -> Result<PathBuf, String> {
    environment_at(&root().join(".xtask").join(name), probe, packages)
}

/// Returns the Python of an environment in this folder that can do what `probe` says; these packages are put into it where
/// it cannot.
///
/// *Errors*: why there is none, for a person to read.
pub(crate) fn environment_at(venv: &Path, probe: &str, packages: &[&str]) -> Result<PathBuf, String> {
    let python = venv.join("bin/python");
    let can = |python: &Path| works(Command::new(python).args(["-c", probe]));
    if can(&python) {
        return Ok(python);
    }
    let system = find("python3").ok_or("there is no python3")?;
    let make = || works(Command::new(&system).args(["-m", "venv"]).arg(venv));
    if !make() {
        install_packages(&["python3-venv"])?;
        if !make() {
            return Err("`python3 -m venv` fails".to_owned());
        }
    }
    let installed = works(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages));
    if installed && can(&python) {
        Ok(python)
    } else {
        Err(format!("{} could not be installed", packages.join(", ")))
    }
}
