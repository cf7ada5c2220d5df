//! Whose rows they are: a model's package on one series key.
//!
//! An entry of a batch's dictionary. The id of a prediction follows from it and the window's end, and so never travels.

use dunlin_kit::digest::Digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::{CLASSES_MAX, OUTPUT_VALUES_MAX, OUTPUTS_MAX, TAGS_MAX};
use crate::list::{List, is_default};
use crate::text::{Name, TagValue, Words};

/// One model's package on one series key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Instance {
    /// The model, by its name in the device's configuration.
    pub model: Name,
    /// Version of the package, for people.
    #[serde(default, skip_serializing_if = "is_default")]
    pub version: Name,
    /// SHA-256 of the package's manifest.
    pub package: Digest,
    /// Tags and values of the series key, in the model's order.
    #[serde(default, skip_serializing_if = "is_default")]
    pub key: List<(Name, TagValue), TAGS_MAX>,
    /// Names of the outputs and how many values each has, in order.
    #[serde(default, skip_serializing_if = "is_default")]
    pub outputs: List<(Name, u32), OUTPUTS_MAX>,
    /// Labels that a prediction can have.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: List<Name, CLASSES_MAX>,
}

impl Instance {
    /// Returns how many values a valid prediction has.
    #[must_use]
    pub fn values(&self) -> usize {
        self.outputs.iter().fold(0, |sum: usize, (_, count)| sum.saturating_add(*count as usize))
    }

    pub(super) fn require_sound(&self) -> Result<(), Words> {
        if self.values() > OUTPUT_VALUES_MAX {
            let words = format!("an instance of `{}` has more than {OUTPUT_VALUES_MAX} values", self.model);
            return Err(Words::cut(&words));
        }
        Ok(())
    }
}

/// Returns the id of a prediction: 128 bits of SHA-256 over package, model, key and window end, as the gateway publishes
/// it beside the prediction.
#[must_use]
pub fn prediction_id(instance: &Instance, window_end_us: i64) -> [u8; 16] {
    let mut parts: Vec<&[u8]> = vec![instance.package.as_bytes(), instance.model.as_bytes()];
    for (tag, value) in &instance.key {
        parts.extend([tag.as_bytes(), value.as_bytes()]);
    }
    let named = Digest::of_parts(&parts);
    let full = Digest::of_parts(&[named.as_bytes(), &window_end_us.to_le_bytes()]);
    let mut id = [0; 16];
    id.copy_from_slice(&full.as_bytes()[..16]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `dunlind` publishes for this instance.
    #[test]
    fn the_id_is_the_one_that_gateways_publish() {
        let name = |text: &str| Name::new(text).unwrap();
        let instance = Instance {
            model: name("m"),
            version: name("1"),
            package: Digest::of(b"p"),
            key: List::first_of([(name("room"), TagValue::new("a").unwrap())]),
            outputs: List::new(),
            labels: List::new(),
        };
        let id: String = prediction_id(&instance, 5).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(id, "b65f498988f9e24d3754e0907a018d08");
    }
}
