//! `dunlin package build`: an ONNX file, a feature specification and sample payloads become a package.
//!
//! An order of events: draft the manifest, approve the draft, run the samples, compare with the training framework,
//! write the folder and run its golden vectors once more. Nothing is written before everything agreed.

use std::path::{Path, PathBuf};

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::manifest::FrameworkEvidence;
use dunlin_model_package::package::{BLOB_BYTES_MAX, GOLDEN_FILE, MODEL_FILE};
use dunlin_model_package::profile::{PROFILE_BYTES_MAX, PROFILE_FILE, Profile};
use dunlin_model_package::{Digest, Manifest, Package};
use dunlin_pipeline::engine::{OnnxFile, TractEngine};
use dunlin_pipeline::runner::run_golden;

use super::arrays::read_rows;
use super::configuration::Configuration;
use super::draft::{Origin, blob, draft};
use super::evidence::{Comparison, input_columns, output_columns};
use super::samples::{SampleRun, read_messages, refusals_text};
use super::spec::PackageSpec;
use super::{MANIFEST_FILE, approve, check_failed, init, published, read, samples};
use crate::command::CommandError;
use crate::print;

/// Longest training source or data that is hashed: read as a whole.
const TRAINING_BYTES_MAX: u64 = 4 << 30;

/// Arguments of `dunlin package build`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Write a commented package.toml for this ONNX file, and nothing else
    #[arg(long, value_name = "MODEL")]
    pub init: Option<PathBuf>,
    /// The ONNX file
    #[arg(long, value_name = "FILE", default_value = "model.onnx")]
    pub model: PathBuf,
    /// The feature specification
    #[arg(long, value_name = "FILE", default_value = "package.toml")]
    pub spec: PathBuf,
    /// The configuration whose sources and model the samples are read with
    #[arg(long, value_name = "FILE", default_value = "dunlind.toml")]
    pub config: PathBuf,
    /// Recorded messages, one JSON object a line; `-` is standard input
    #[arg(long, value_name = "FILE", default_value = "samples.ndjson")]
    pub samples: PathBuf,
    /// Use only so many of the recorded messages
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    pub samples_max: usize,
    /// Outputs of the training framework (.npz, .npy, .csv), for the samples' windows or for --evidence-inputs
    #[arg(long, value_name = "FILE")]
    pub evidence: Option<PathBuf>,
    /// Inputs that the training framework made these outputs of (.npz, .npy, .csv)
    #[arg(long, value_name = "FILE", requires = "evidence")]
    pub evidence_inputs: Option<PathBuf>,
    /// Largest difference from the evidence, relative to max(1, |expected|)
    #[arg(long, value_name = "NUMBER", default_value_t = 1e-4)]
    pub tolerance: f64,
    /// The reference profile that `dunlin profile build` made
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// Folder of the repository whose last release of this model is counted on from
    #[arg(long, value_name = "FOLDER")]
    pub repository: Option<PathBuf>,
    /// Folder that the package is written to
    #[arg(short, long, value_name = "FOLDER", default_value = "package")]
    pub out: PathBuf,
}

/// Builds the package.
///
/// *Errors*: a file is missing (exit code 3), or the package is refused (5), with all that is known to be wrong.
pub(super) fn run(args: &Args) -> Result<(), CommandError> {
    if let Some(model) = &args.init {
        return init::run(model, &args.spec);
    }
    let Drafted { scratch: _scratch, package, mut manifest, configuration, model } =
        drafted(&args.model, &args.spec, &args.config, args.repository.as_deref())?;
    let profile = args.profile.as_deref().map(|path| read_profile(path, &manifest)).transpose()?;
    let run = samples::run(&package, &configuration, read_messages(&args.samples, args.samples_max)?)?;
    manifest.evidence = compare(args, &package, &run)?;
    fill_ranges(&mut manifest, &run.ranges);

    let golden = run.golden.to_bytes();
    manifest.blobs.insert(GOLDEN_FILE.to_owned(), blob(&golden));
    if let Some(profile) = &profile {
        manifest.blobs.insert(PROFILE_FILE.to_owned(), blob(profile));
    }
    let bytes = manifest_bytes(&manifest);
    Manifest::parse(&bytes).map_err(|error| CommandError::CheckFailed(error.to_string()))?;
    std::fs::create_dir_all(&args.out)
        .map_err(|error| CommandError::failed(format!("cannot make `{}`", args.out.display()), error))?;
    written(&args.out.join(MODEL_FILE), &model)?;
    written(&args.out.join(GOLDEN_FILE), &golden)?;
    if let Some(profile) = &profile {
        written(&args.out.join(PROFILE_FILE), profile)?;
    }
    written(&args.out.join(MANIFEST_FILE), &bytes)?;
    let package = approve(&args.out)?;
    let report =
        run_golden(&package).map_err(|error| CommandError::CheckFailed(Chain(&error).to_string()))?;
    tell(&args.out, &package, &run, report.map_or(0, |report| report.predictions));
    Ok(())
}

/// A package under construction: approved by a key of this process, in a folder that goes with it.
pub(in crate::command) struct Drafted {
    /// Its folder.
    pub(in crate::command) scratch: tempfile::TempDir,
    /// The package, without golden vectors.
    pub(in crate::command) package: Package,
    /// Its manifest.
    pub(in crate::command) manifest: Manifest,
    /// How its model is fed.
    pub(in crate::command) configuration: Configuration,
    /// The ONNX file.
    pub(in crate::command) model: Vec<u8>,
}

/// Drafts the package of an ONNX file, a feature specification and a configuration.
///
/// *Errors*: a file is missing (exit code 3), or the package is refused (5).
pub(in crate::command) fn drafted(
    model: &Path,
    spec_path: &Path,
    config: &Path,
    repository: Option<&Path>,
) -> Result<Drafted, CommandError> {
    let spec = PackageSpec::read(spec_path)?;
    let configuration = Configuration::read(config, &spec.name)?;
    let model = read(model, BLOB_BYTES_MAX)?;
    let mut file = OnnxFile::read(&model).map_err(|error| CommandError::CheckFailed(error.to_string()))?;
    let origin = origin(spec_path, repository, &spec)?;
    let manifest = draft(&spec, &configuration, &origin, &mut file, &model).map_err(|found| {
        CommandError::CheckFailed(format!("the package is refused:\n  {}", found.join("\n  ")))
    })?;
    let scratch =
        tempfile::tempdir().map_err(|error| CommandError::failed("cannot make a temporary folder", error))?;
    written(&scratch.path().join(MODEL_FILE), &model)?;
    written(&scratch.path().join(MANIFEST_FILE), &manifest_bytes(&manifest))?;
    let package = approve(scratch.path())?;
    Ok(Drafted { scratch, package, manifest, configuration, model })
}

fn written(path: &Path, bytes: &[u8]) -> Result<(), CommandError> {
    dunlin_kit::atomic_file::write(path, bytes)
        .map_err(|error| CommandError::failed(format!("cannot write `{}`", path.display()), error))
}

/// Reads a profile that is to go into the package, and checks that it is of this model.
fn read_profile(path: &Path, manifest: &Manifest) -> Result<Vec<u8>, CommandError> {
    let bytes = read(path, PROFILE_BYTES_MAX)?;
    let profile = Profile::parse(&bytes).map_err(|error| check_failed(&error))?;
    profile.require_fits(manifest).map_err(|error| check_failed(&error))?;
    Ok(bytes)
}

fn origin(spec_path: &Path, repository: Option<&Path>, spec: &PackageSpec) -> Result<Origin, CommandError> {
    let last = match (repository, spec.release_counter) {
        (Some(repository), None) => published::release_counter(repository, &spec.name)?,
        _ => 0,
    };
    let beside = |path: &Option<PathBuf>| {
        let path = path.as_ref().map(|path| spec_path.parent().unwrap_or(Path::new("")).join(path));
        path.map(|path| read(&path, TRAINING_BYTES_MAX).map(|bytes| Digest::of(&bytes))).transpose()
    };
    Ok(Origin {
        release_counter: spec.release_counter.unwrap_or(last.saturating_add(1)),
        source_digest: beside(&spec.source)?,
        training_data_digest: beside(&spec.training_data)?,
    })
}

/// Compares with what the training framework says, where it says something.
fn compare(
    args: &Args,
    package: &Package,
    run: &SampleRun,
) -> Result<Option<FrameworkEvidence>, CommandError> {
    let Some(outputs) = &args.evidence else { return Ok(None) };
    let manifest = package.manifest();
    let expected = read_rows(outputs, &output_columns(manifest))?;
    let comparison = Comparison::new(manifest, args.tolerance);
    let Some(inputs) = &args.evidence_inputs else {
        return comparison.windows(&expected, &run.windows).map(Some);
    };
    let inputs = read_rows(inputs, &input_columns(manifest))?;
    let mut engine =
        TractEngine::load(package, 1).map_err(|error| CommandError::CheckFailed(error.to_string()))?;
    comparison.tensors(&inputs, &expected, &mut engine).map(Some)
}

/// Gives each feature without a range that of the samples.
fn fill_ranges(manifest: &mut Manifest, ranges: &[[f64; 2]]) {
    let features = manifest.inputs.iter_mut().flat_map(|input| &mut input.features);
    for (feature, [low, high]) in features.zip(ranges) {
        if feature.range.is_none() && low <= high {
            feature.range = Some([shortest(*low), shortest(*high)]);
        }
    }
}

/// Returns the shortest decimal number that a model sees as this value: what the payload said, and not its neighbour in
/// single precision, which could lie beyond it.
fn shortest(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}

fn manifest_bytes(manifest: &Manifest) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(manifest).expect("a manifest has only texts as keys");
    bytes.push(b'\n');
    bytes
}

fn tell(out: &Path, package: &Package, run: &SampleRun, golden: usize) {
    let manifest = package.manifest();
    print::line(&format!(
        "{} {} (release {}) in `{}`",
        manifest.name,
        manifest.version,
        manifest.release_counter,
        out.display()
    ));
    print::line(&format!(
        "  {golden} golden predictions of {} messages",
        run.golden.records.len() - run.windows.len()
    ));
    if manifest.blobs.contains_key(PROFILE_FILE) {
        print::line("  with a reference profile: `dunlin profile show` draws it");
    }
    if !run.refusals.is_empty() {
        print::note(&format!("note: not every message was used{}", refusals_text(&run.refusals)));
    }
    let invalid = run.windows.iter().filter(|window| window.outputs.is_empty()).count();
    if invalid > 0 {
        print::note(&format!(
            "warning: {invalid} window(s) have outputs that are not finite, which no gateway publishes"
        ));
    }
    match &manifest.evidence {
        Some(evidence) => print::line(&format!(
            "  agrees with the training framework in {} row(s), worst difference {:.1e}",
            evidence.rows, evidence.worst
        )),
        None => print::note(
            "warning: nobody has compared the model with its training framework, and engines can be silently wrong; \
             give --evidence, and --evidence-inputs where it is not for the samples",
        ),
    }
}
