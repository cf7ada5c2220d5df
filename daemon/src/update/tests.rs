//! What the update's tests share: rules that small counts decide.

use std::time::Duration;

use dunlin_model_package::Digest;
use dunlin_trust::sign::Development;

use super::machine::Rules;
use super::release::Release;
use crate::config::settings::UpdateSettings;
use crate::store::StoredRelease;

/// Settings under which ten predictions decide.
pub(crate) fn settings() -> UpdateSettings {
    UpdateSettings {
        shadow_predictions: 10,
        shadow_time_max: Duration::from_secs(60),
        shadow_agreement_min: 0.9,
        trial_predictions: 10,
        trial_time: Duration::from_secs(5),
        trial_faults_max: 0.01,
    }
}

/// Rules with three tries.
pub(crate) fn rules() -> Rules {
    Rules { update: settings(), tries: 3 }
}

/// Returns a signed release of the model `m` with this counter.
pub(crate) fn signed(counter: u64) -> StoredRelease {
    let manifest = format!("{{\"release_counter\":{counter}}}").into_bytes();
    let (evidence, _) =
        Development::new().sign(&format!("models/m/{counter}/manifest.json"), &manifest, None);
    let digest = Digest::of(&manifest);
    let release = Release { digest, model: "m".to_owned(), version: format!("{counter}.0.0"), counter };
    StoredRelease { release, manifest, evidence }
}
