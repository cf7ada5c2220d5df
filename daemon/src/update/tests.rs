//! What the update's tests share: rules that small counts decide.

use std::time::Duration;

use super::machine::Rules;
use crate::config::settings::UpdateSettings;

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
