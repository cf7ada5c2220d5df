//! The pipeline and the models without broker and store: for `replay`, `predict` and `check`.
//!
//! Joins the commands' traits with the pipeline's runner; models run in this process, without the daemon's limits.

use std::collections::HashMap;
use std::sync::Arc;

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::Package;
use dunlin_pipeline::engine::{Engine, TractEngine};
use dunlin_pipeline::message::Message;
use dunlin_pipeline::postprocess::{PostProcess, PostState};
use dunlin_pipeline::prediction::InstanceId;
use dunlin_pipeline::runner::{Runner, run_golden};

use super::check::{BrokerReport, ProbeFailure};
use super::predict::{PredictArgs, PredictModel, Predicted};
use super::replay::{ReplayArgs, ReplayPipeline, Replayed};
use super::{CommandError, note, released};
use crate::app;
use crate::config::settings::{BrokerSettings, ModelSettings, Settings};
use crate::config::{ConfigErrors, LoadRequest, Loaded, process_environment};
use crate::link::meter::Meter;
use crate::link::remote::{Remote, RemoteError, RemoteSettings, ServerSeen};
use crate::mqtt::probe::{ProbeError, probe};
use crate::publication::InstanceRenderer;
use crate::stage::publishing::{Topics, publications};
use crate::update::open_release::OpenedRelease;

/// The default place of the configuration.
pub const CONFIG_DEFAULT: &str = "/etc/dunlin/dunlind.toml";

/// The configured pipeline for recorded messages.
pub struct OfflinePipeline {
    runner: Runner,
    topics: Topics,
    renderers: HashMap<InstanceId, Option<InstanceRenderer>>,
    sources: Vec<String>,
}

/// Makes the pipeline of a configuration.
///
/// *Errors*: the configuration is refused, or a model does not load.
pub fn start_pipeline(args: &ReplayArgs) -> Result<OfflinePipeline, CommandError> {
    let request = LoadRequest {
        file: args.config.clone().unwrap_or_else(|| CONFIG_DEFAULT.into()),
        set: args.set.clone(),
        environment: process_environment(),
        state_dir: None,
        overlay: None,
    };
    let mut loaded = app::load(&request)?;
    let mut engines: Vec<Box<dyn Engine>> = Vec::new();
    let mut releases = Vec::new();
    let mut models = Vec::new();
    for model in std::mem::take(&mut loaded.settings.models) {
        match released::of_model(&loaded.settings, &model)? {
            Some(release) => {
                engines.push(Box::new(load_engine(&release.package)?));
                releases.push(Some(release));
                models.push(model);
            }
            None => note(&format!("model `{}` has no release and predicts nothing", model.spec.name)),
        }
    }
    loaded.settings.models = models;
    let core = app::compile(&loaded, &released::serving(&releases)).map_err(|errors| {
        CommandError::Configuration {
            message: format!("the configuration is refused\n{errors}"),
            source: None,
        }
    })?;
    let specs: Vec<_> = loaded.settings.models.iter().map(|model| model.spec.clone()).collect();
    Ok(OfflinePipeline {
        sources: core.sources().iter().map(|source| source.name().to_owned()).collect(),
        topics: Topics::new(&loaded.settings.gateway, &specs),
        renderers: HashMap::new(),
        runner: Runner::new(core, engines),
    })
}

fn load_engine(package: &Package) -> Result<TractEngine, CommandError> {
    TractEngine::load(package, 1).map_err(|error| {
        CommandError::failed(format!("model `{}` does not load", package.manifest().name), error)
    })
}

impl ReplayPipeline for OfflinePipeline {
    fn take(&mut self, message: &Message<'_>, found: &mut Replayed) -> Result<(), CommandError> {
        let (predicted, refusals) = self.runner.take(message);
        for one in predicted {
            let instance = one.prediction.head.instance;
            let renderer =
                self.renderers.entry(instance).or_insert_with(|| self.topics.renderer(&one.identity));
            let Some(renderer) = renderer else { continue };
            let mut made = Vec::new();
            publications(renderer, 0, &one.prediction, &mut made);
            for publication in made {
                found.lines.extend_from_slice(&publication.payload);
                found.lines.push(b'\n');
            }
        }
        let named =
            refusals.into_iter().map(|(source, refusal)| (source.map(|s| self.sources[s].clone()), refusal));
        found.refusals.extend(named);
        Ok(())
    }

    fn finish(&mut self, _: &mut Replayed) -> Result<(), CommandError> {
        // Time moves with events alone: what waits for later messages waits in the daemon too.
        Ok(())
    }
}

/// A package's model for single windows.
pub struct OfflineModel {
    engine: TractEngine,
    post: PostProcess,
}

/// Opens the release that a configured model would run with, for `check`.
///
/// *Errors*: it is not signed under the trusted root, or damaged.
pub fn release_of_model(
    settings: &Settings,
    model: &ModelSettings,
) -> Result<Option<OpenedRelease>, ProbeFailure> {
    released::of_model(settings, model).map_err(|error| ProbeFailure {
        message: Chain(&error).to_string(),
        remedy: "import or build the release again; `docs/trust.md` lists the codes".to_owned(),
    })
}

/// Compiles sources and models of a configuration with the releases there are, for `check`.
///
/// *Errors*: what the pipeline refuses. A release that cannot be opened is told of by its own check.
pub fn compile(loaded: &Loaded) -> Result<(), ConfigErrors> {
    let of_model = |model| released::of_model(&loaded.settings, model).ok().flatten();
    let releases: Vec<_> = loaded.settings.models.iter().map(of_model).collect();
    app::compile(loaded, &released::serving(&releases)).map(drop)
}

/// Opens the release that `predict` names.
///
/// *Errors*: it is not there, or not signed under the given root.
pub fn open_package(args: &PredictArgs) -> Result<OpenedRelease, CommandError> {
    released::open(&args.package, &args.root, args.model.as_deref())
}

/// Loads a package's model.
///
/// *Errors*: the engine refuses it.
pub fn load_model(package: &Package) -> Result<OfflineModel, CommandError> {
    let post = PostProcess::compile(package.manifest(), None)
        .map_err(|reason| CommandError::Failed { message: reason, source: None })?;
    Ok(OfflineModel { engine: load_engine(package)?, post })
}

impl PredictModel for OfflineModel {
    fn predict(&mut self, values: &[f32]) -> Result<Predicted, String> {
        let outputs = self.engine.run(1, values).map_err(|error| Chain(&error).to_string())?;
        // Lines are windows of their own: hysteresis has nothing to hold on to.
        let verdict = self.post.judge(&mut PostState::default(), &outputs, 0);
        let label = verdict.label.and_then(|label| self.post.labels().get(usize::from(label)).cloned());
        Ok(Predicted { outputs, label })
    }
}

/// Runs a package's golden vectors, for `check`.
///
/// *Errors*: what differs, and what to do.
pub fn golden_vectors(package: &Package) -> Result<Option<usize>, ProbeFailure> {
    run_golden(package).map(|report| report.map(|report| report.predictions)).map_err(|error| ProbeFailure {
        message: Chain(&error).to_string(),
        remedy: "build the package again, or report the model if its golden vectors are right".to_owned(),
    })
}

/// Connects to a broker and reads what it announces, for `check`.
///
/// *Errors*: why it cannot be used, and what to do.
pub fn broker(settings: &BrokerSettings) -> Result<BrokerReport, ProbeFailure> {
    let failure = |message: String, remedy: &str| ProbeFailure { message, remedy: remedy.to_owned() };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failure(error.to_string(), "free memory or file descriptors"))?;
    let seen = runtime.block_on(probe(settings, &[], 0));
    let report = seen.map_err(|error| {
        let remedy = match &error {
            ProbeError::Setup(_) => "correct the files named in the broker's table",
            ProbeError::Refused(_) => "correct user, password or client id, or the broker's access rules",
            ProbeError::Unreachable(_) => "start the broker, or correct `url`",
        };
        failure(error.to_string(), remedy)
    })?;
    Ok(BrokerReport {
        receive_max: Some(report.receive_max),
        packet_bytes_max: report.packet_bytes_max,
        qos_max: Some(report.qos_max),
        retain_available: Some(report.retain_available),
        session_expiry: report
            .session_expiry
            .map(|seconds| std::time::Duration::from_secs(u64::from(seconds))),
    })
}

/// Asks the fleet server for the director's first root, which it has for anybody once an owner has adopted it.
///
/// *Errors*: the server is not reached, or something else answers.
pub fn server(settings: &RemoteSettings) -> Result<ServerSeen, ProbeFailure> {
    let seen = Remote::open(settings, Arc::<Meter>::default()).and_then(|remote| remote.see());
    seen.map_err(|error| {
        let remedy = match &error {
            RemoteError::Tls(_) | RemoteError::Client(_) => "correct `fleet.ca_file` and `fleet.proxy`",
            RemoteError::Foreign(_) | RemoteError::TooLong(_) => {
                "correct `fleet.url`, or sign in at the portal of this network"
            }
            _ => "check `fleet.url`, name resolution, firewall and proxy, and whether the server runs",
        };
        ProbeFailure { message: Chain(&error).to_string(), remedy: remedy.to_owned() }
    })
}
