//! `dunlin profile build`: readings become the reference profile of a package.
//!
//! An order of events: open the package, read the data into series, run the package's model over them, make the profile,
//! write it whole. Nothing is written before all of it is sound.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use dunlin_model_package::Package;
use dunlin_model_package::profile::making::{self, Material, SeriesReadings};
use dunlin_model_package::profile::{PROFILE_BYTES_MAX, PROFILE_FILE};
use dunlin_pipeline::decode::WrittenTime;

use super::report;
use crate::command::CommandError;
use crate::command::package::build::drafted;
use crate::command::package::configuration::Configuration;
use crate::command::package::{approve, check_failed};
use crate::profile::fields::{self, Field};
use crate::profile::files;
use crate::profile::gathering::{Gathered, Gathering, Table, Times};
use crate::profile::layout::Names;
use crate::profile::run::{self, Predicted};

/// Arguments of `dunlin profile build`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
A file has a row a reading: a column of the time, columns that tell series apart (`--key gateway`), and a column for each \
field of the model, named as in the manifest's features and in their units. What `dunlind export --readings` wrote is taken \
as it is. Give data as the gateways will see them, of some weeks, and of several gateways where there are: blocks of \
15 minutes, an hour and a day say later how far is far. Then: `dunlin package build --profile profile.json`.")]
pub struct BuildArguments {
    /// Readings: CSV, Parquet, or what `dunlind export --readings` wrote
    #[arg(required = true, value_name = "DATA")]
    pub data: Vec<PathBuf>,
    /// The package's folder
    #[arg(long, value_name = "FOLDER", default_value = "package", conflicts_with = "spec")]
    pub package: PathBuf,
    /// A feature specification in place of a package that was built, with --model and --config
    #[arg(long, value_name = "FILE", requires = "config")]
    pub spec: Option<PathBuf>,
    /// The ONNX file for --spec
    #[arg(long, value_name = "FILE", default_value = "model.onnx")]
    pub model: PathBuf,
    /// The configuration with the model's sources; those of the package's golden vectors without it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Column of the time, found by its name without it; several are joined by a space
    #[arg(long, value_name = "COLUMN")]
    pub time: Vec<String>,
    /// How the time is written: auto, rfc3339, unix-s, unix-ms, unix-us, unix-ns, or a strptime pattern
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub time_format: String,
    /// Column that tells series apart; may be given several times. Without it: the columns that are named as the sources' tags
    #[arg(long = "key", value_name = "COLUMN")]
    pub keys: Vec<String>,
    /// A field whose column has another name; may be given several times
    #[arg(long = "column", value_name = "FIELD=COLUMN", value_parser = pair)]
    pub columns: Vec<(String, String)>,
    /// Column of what was right: a class or a number, empty where nobody knows. Data that the model was not trained on
    #[arg(long, value_name = "COLUMN", conflicts_with = "inputs_only")]
    pub label: Option<String>,
    /// A number that means that there is no value; may be given several times
    #[arg(long = "missing", value_name = "NUMBER", allow_negative_numbers = true)]
    pub missing: Vec<f64>,
    /// Only readings at or after this time
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only readings before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Leave a field of the model out; may be given several times
    #[arg(long, value_name = "FIELD")]
    pub without: Vec<String>,
    /// Do not run the model: describe its inputs alone
    #[arg(long)]
    pub inputs_only: bool,
    /// Separator of columns in CSV
    #[arg(long, value_name = "CHARACTER", default_value_t = ',')]
    pub delimiter: char,
    /// File to write the profile to
    #[arg(short, long, value_name = "FILE", default_value = PROFILE_FILE)]
    pub out: PathBuf,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((field, column)) if !field.is_empty() && !column.is_empty() => {
            Ok((field.to_owned(), column.to_owned()))
        }
        _ => Err(format!("`{text}` is not `FIELD=COLUMN`")),
    }
}

/// A package, and how its model is fed.
struct Subject {
    package: Package,
    configuration: Configuration,
    /// Holds the files of a package that is not built yet.
    _scratch: Option<tempfile::TempDir>,
}

/// Builds the profile.
///
/// *Errors*: a file is missing (exit code 3), the arguments make no sense (2), or the data cannot be used (5), with what to do.
pub(super) fn run(args: &BuildArguments) -> Result<(), CommandError> {
    let subject = subject(args)?;
    let configuration = &subject.configuration;
    let manifest = subject.package.manifest();
    let all = fields::fields(manifest, &configuration.sources, &configuration.model)
        .map_err(CommandError::CheckFailed)?;
    let fields = wanted(args, all)?;
    let gathered = gather(args, configuration, &fields)?;
    require_all(&fields, &gathered)?;
    let predicted =
        if args.inputs_only { Predicted::default() } else { predict(args, &subject, &fields, &gathered)? };
    let told = report::Told::of(&gathered, &predicted);
    let material = Material {
        fields: fields.iter().map(|field| (field.name.clone(), field.knowledge())).collect(),
        series: gathered.tables.into_iter().map(|table| series(table, &fields)).collect(),
        predictions: predicted.predictions,
    };
    let (profile, seen) = making::make(manifest, material).map_err(|error| check_failed(&error))?;
    if args.label.is_some() && seen.labelled == 0 {
        return Err(CommandError::CheckFailed(
            "no prediction has a label; a label stands in the row at which a window ends".to_owned(),
        ));
    }
    profile.require_fits(manifest).map_err(|error| check_failed(&error))?;
    let bytes = profile.to_json().map_err(|error| check_failed(&error))?;
    if bytes.len() as u64 > PROFILE_BYTES_MAX {
        let message = format!(
            "the profile takes {} bytes, {PROFILE_BYTES_MAX} at most; leave fields out with `--without`",
            bytes.len()
        );
        return Err(CommandError::CheckFailed(message));
    }
    dunlin_kit::atomic_file::write(&args.out, &bytes)
        .map_err(|error| CommandError::failed(format!("cannot write `{}`", args.out.display()), error))?;
    report::tell(&args.out, bytes.len(), &profile, &seen, &told);
    Ok(())
}

fn subject(args: &BuildArguments) -> Result<Subject, CommandError> {
    if let (Some(spec), Some(config)) = (&args.spec, &args.config) {
        let drafted = drafted(&args.model, spec, config, None)?;
        return Ok(Subject {
            package: drafted.package,
            configuration: drafted.configuration,
            _scratch: Some(drafted.scratch),
        });
    }
    let package = approve(&args.package)?;
    let configuration = match &args.config {
        Some(path) => Configuration::read(path, &package.manifest().name)?,
        None => {
            let golden = package.golden_reader().map_err(|error| check_failed(&error))?;
            let (header, _) = golden.ok_or_else(|| {
                CommandError::CheckFailed(
                    "the package has no golden vectors that name its sources; give the gateway's configuration with `--config`".to_owned(),
                )
            })?;
            Configuration { sources: header.sources, model: header.model }
        }
    };
    Ok(Subject { package, configuration, _scratch: None })
}

fn wanted(args: &BuildArguments, all: Vec<Field>) -> Result<Vec<Field>, CommandError> {
    let unknown = |name: &&String| !all.iter().any(|field| field.name == **name);
    let named = args.without.iter().chain(args.columns.iter().map(|(field, _)| field));
    if let Some(name) = named.into_iter().find(unknown) {
        let known: Vec<String> = all.iter().map(|field| format!("`{}`", field.name)).collect();
        return Err(CommandError::Usage(format!(
            "the model has no field `{name}`; it has {}",
            known.join(", ")
        )));
    }
    let fields: Vec<Field> = all.into_iter().filter(|field| !args.without.contains(&field.name)).collect();
    if fields.is_empty() {
        return Err(CommandError::Usage("all fields are left out".to_owned()));
    }
    Ok(fields)
}

/// Runs the model, which cannot be run without all of its fields.
fn predict(
    args: &BuildArguments,
    subject: &Subject,
    fields: &[Field],
    gathered: &Gathered,
) -> Result<Predicted, CommandError> {
    if !args.without.is_empty() {
        let message = "the model cannot be run without its fields; add `--inputs-only`";
        return Err(CommandError::Usage(message.to_owned()));
    }
    let Configuration { sources, model } = &subject.configuration;
    let predicted = run::predict(&subject.package, sources, model, fields, &gathered.tables)?;
    if !predicted.predictions.is_empty() {
        return Ok(predicted);
    }
    let reasons: Vec<String> =
        predicted.refused.iter().map(|(reason, count)| format!("{count} × {reason}")).collect();
    Err(CommandError::CheckFailed(format!(
        "the data make no window of {} rows ({}); give more, or describe the inputs alone with `--inputs-only`",
        subject.package.manifest().window.length,
        if reasons.is_empty() { "too few rows".to_owned() } else { reasons.join(", ") }
    )))
}

fn gather(
    args: &BuildArguments,
    configuration: &Configuration,
    fields: &[Field],
) -> Result<Gathered, CommandError> {
    let written = |format: &str| WrittenTime::parse(format).map_err(CommandError::Usage);
    let auto = written("auto")?;
    let time = |text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => auto.of_text(text).map(Some).ok_or_else(|| {
            CommandError::Usage(format!("`{text}` is no time; write it as `2026-01-31T12:00:00Z`"))
        }),
    };
    let times = Times { since_us: time(&args.since)?, until_us: time(&args.until)? };
    let names = Names {
        time: args.time.clone(),
        written: written(&args.time_format)?,
        keys: args.keys.clone(),
        tags: run::tags(&configuration.sources),
        columns: args.columns.iter().cloned().collect::<BTreeMap<_, _>>(),
        label: args.label.clone(),
    };
    let delimiter = u8::try_from(args.delimiter).ok().filter(u8::is_ascii).ok_or_else(|| {
        CommandError::Usage(format!("`{}` is no ASCII character to separate columns by", args.delimiter))
    })?;
    let mut gathering = Gathering::new(fields, names, args.missing.clone(), times, written("unix-ms")?);
    for path in &args.data {
        files::read(path, delimiter, &mut gathering)?;
    }
    gathering.require_label().map_err(CommandError::CheckFailed)?;
    Ok(gathering.finish())
}

fn require_all(fields: &[Field], gathered: &Gathered) -> Result<(), CommandError> {
    if gathered.tables.is_empty() && gathered.outside > 0 {
        return Err(CommandError::CheckFailed(format!(
            "there is no reading between `--since` and `--until`; {} row(s) are outside",
            gathered.outside
        )));
    }
    let is_there = |at: usize| gathered.tables.iter().any(|table| table.fields.contains(&at));
    match fields.iter().enumerate().find(|(at, _)| !is_there(*at)) {
        None => Ok(()),
        Some((_, field)) => Err(CommandError::CheckFailed(format!(
            "the data have no value of field `{0}`; name its column with `--column {0}=COLUMN`, or leave it out with `--without {0}`",
            field.name
        ))),
    }
}

fn series(table: Table, fields: &[Field]) -> SeriesReadings {
    let tags: String = table.key.iter().map(|(tag, value)| format!("{tag}={value};")).collect();
    let names = table.fields.iter().map(|field| fields[*field].name.clone());
    SeriesReadings {
        name: format!("{};{tags}", table.source.unwrap_or_default()),
        times_us: table.times_us,
        values: names.zip(table.values).collect(),
    }
}
