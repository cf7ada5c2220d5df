//! What a release's manifest says of gateways: where it runs, how fast it must be, what has to be fetched.
//!
//! Reads manifests that were verified before they were kept.

use std::collections::BTreeMap;

use dunlin_model_package::manifest::Manifest;
use dunlin_protocol::DeviceReport;

use crate::store::releases::Release;

/// The key of a budget for boards that have none of their own.
const ANY_BOARD: &str = "any";

/// What is asked of a gateway by a release.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Package {
    pub(super) model: String,
    pub(super) version: String,
    /// When the owner named it no more.
    pub(super) is_removed: bool,
    /// Processor architectures; any where there is none.
    architectures: Vec<String>,
    /// By class of board, p99 of an inference in us.
    p99_us: BTreeMap<String, f64>,
    pub(super) resident_bytes: u64,
    /// Files by their SHA-256, with their sizes.
    pub(super) files: BTreeMap<String, u64>,
}

impl Package {
    pub(super) fn of(release: &Release) -> Self {
        let mut package = Self {
            model: release.model.clone(),
            version: release.version.clone(),
            is_removed: release.removed_ms.is_some(),
            ..Self::default()
        };
        // One that cannot be read asks nothing: gateways judge for themselves.
        let Ok(manifest) = Manifest::parse(&release.manifest) else { return package };
        let us = |span: &dunlin_model_package::span::Span| span.as_duration().as_secs_f64() * 1e6;
        package.p99_us = manifest.budgets.p99.iter().map(|(class, span)| (class.clone(), us(span))).collect();
        package.resident_bytes = manifest.budgets.resident_bytes;
        package.files = manifest.blobs.values().map(|blob| (blob.sha256.to_string(), blob.bytes)).collect();
        package.files.insert(release.digest.clone(), release.manifest.len() as u64);
        package.architectures = manifest.requirements.architectures;
        package
    }

    /// Returns the budget on boards of a class, else on those with such a processor, else on any: as gateways do.
    pub(super) fn p99_us(&self, class: &str, architecture: &str) -> Option<f64> {
        [class, architecture, ANY_BOARD].into_iter().find_map(|key| self.p99_us.get(key).copied())
    }

    /// Returns why a gateway can never run it, as far as it reported.
    pub(super) fn unfit(&self, report: Option<&DeviceReport>) -> Option<String> {
        let Some(report) = report else {
            return Some("the gateway has not reported what it is".to_owned());
        };
        let architecture = report.facts.architecture.to_string();
        if !self.architectures.is_empty() && !self.architectures.contains(&architecture) {
            return Some(format!(
                "its processor is `{architecture}`; the package is for {}",
                self.architectures.join(", ")
            ));
        }
        let is_it = |name: &dunlin_protocol::Name| name.as_str() == self.model;
        let is_wanted =
            report.facts.models.iter().any(is_it) || report.models.iter().any(|model| is_it(&model.model));
        (!is_wanted).then(|| format!("its configuration has no model `{}`", self.model))
    }
}
