//! Windows that are ready for a model, and what becomes of them.
//!
//! Plain values between the stages: the ready window goes to an engine, the prediction to the publisher and the
//! store. A prediction's id is a function of its content, so one that is made twice has the same id.

use std::fmt;

use dunlin_model_package::Digest;
use serde::{Deserialize, Serialize};

/// Number of a lane in the running configuration: those of model `n` are `2n` and `2n + 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelIndex(pub u16);

/// Number of an instance: one model on one series key, given when its first reading is accepted and kept for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceId(pub u32);

/// What makes an instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InstanceIdentity {
    /// Name of the model.
    pub model: String,
    /// Version of its package.
    pub version: String,
    /// Digest of its package.
    pub package: Digest,
    /// Key tags and their values, in the order of the model's `key`.
    pub key: Vec<(String, String)>,
    /// Names and value counts of the outputs, in order: how a stored prediction's values are read.
    pub outputs: Vec<(String, u32)>,
    /// Labels a prediction of this instance can have; stored predictions hold a position in it.
    pub labels: Vec<String>,
}

/// A 128-bit id: the first half of SHA-256 over package digest, model name, key and window end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PredictionId(pub [u8; 16]);

impl PredictionId {
    /// Computes the id of the prediction of this instance for the window that ends at `window_end_us`.
    #[must_use]
    pub fn of(identity: &InstanceIdentity, window_end_us: i64) -> Self {
        Self::from_instance(&instance_digest(identity), window_end_us)
    }

    /// Computes the id from the instance's digest, for callers that keep it.
    #[must_use]
    pub fn from_instance(instance: &Digest, window_end_us: i64) -> Self {
        let full = Digest::of_parts(&[instance.as_bytes(), &window_end_us.to_le_bytes()]);
        let mut id = [0; 16];
        id.copy_from_slice(&full.as_bytes()[..16]);
        Self(id)
    }
}

/// Returns the digest that names an instance in prediction ids.
#[must_use]
pub fn instance_digest(identity: &InstanceIdentity) -> Digest {
    let mut parts: Vec<&[u8]> = vec![identity.package.as_bytes(), identity.model.as_bytes()];
    for (tag, value) in &identity.key {
        parts.extend([tag.as_bytes(), value.as_bytes()]);
    }
    Digest::of_parts(&parts)
}

impl fmt::Display for PredictionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Quality flags of a prediction, a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QualityFlags(pub u16);

impl QualityFlags {
    /// A value was held from an earlier reading.
    pub const HELD_VALUE: Self = Self(1);
    /// A value is a constant that stands in for a missing one, or NaN.
    pub const SUBSTITUTED_VALUE: Self = Self(1 << 1);
    /// A feature lies outside the range seen in training.
    pub const OUT_OF_TRAINING_RANGE: Self = Self(1 << 2);
    /// An event time came from the arrival of the message.
    pub const ARRIVAL_TIME: Self = Self(1 << 3);
    /// The model abstained.
    pub const ABSTAINED: Self = Self(1 << 4);
    /// An output was not finite or not of the declared shape: no valid prediction.
    pub const INVALID_OUTPUT: Self = Self(1 << 5);
    /// The model could not be run on this window: no valid prediction.
    pub const INFERENCE_FAILED: Self = Self(1 << 6);

    /// The package runs beside the one that serves: kept and compared, never published.
    pub const SHADOW: Self = Self(1 << 7);
    /// The sensor of an input was faulty, or its value a jump that nothing explained yet.
    pub const FAULTY_INPUT: Self = Self(1 << 8);

    const NAMES: [(Self, &'static str); 9] = [
        (Self::HELD_VALUE, "held_value"),
        (Self::SUBSTITUTED_VALUE, "substituted_value"),
        (Self::OUT_OF_TRAINING_RANGE, "out_of_training_range"),
        (Self::ARRIVAL_TIME, "arrival_time"),
        (Self::ABSTAINED, "abstained"),
        (Self::INVALID_OUTPUT, "invalid_output"),
        (Self::INFERENCE_FAILED, "inference_failed"),
        (Self::SHADOW, "shadow"),
        (Self::FAULTY_INPUT, "faulty_input"),
    ];

    /// Adds the flags of `other`.
    pub const fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Tells whether all flags of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Tells whether the prediction has outputs that may be used.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 & (Self::INVALID_OUTPUT.0 | Self::INFERENCE_FAILED.0) == 0
    }

    /// Returns the names of the flags that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| name)
    }
}

/// Which window a prediction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowHead {
    /// The model's lane.
    pub model: ModelIndex,
    /// The instance.
    pub instance: InstanceId,
    /// Event time of the window's last row, in microseconds since 1970.
    pub window_end_us: i64,
    /// What is known of the window's quality.
    pub flags: QualityFlags,
}

/// A full window, ready for the model.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadyWindow {
    /// Which window it is.
    pub head: WindowHead,
    /// *Shape*: the model's inputs one after the other, each row-major in the layout of its manifest entry without
    /// the batch axis.
    pub values: Vec<f32>,
}

/// What became of a window.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Which window it was, with the flags of the inference added.
    pub head: WindowHead,
    /// Its id.
    pub id: PredictionId,
    /// *Shape*: the outputs one after the other, flattened row-major; empty when the prediction is not valid.
    pub outputs: Vec<f32>,
    /// Position in the instance's labels.
    pub label: Option<u16>,
    /// A change of the alert's state that is to be published.
    pub alert: Option<AlertChange>,
}

/// A change of an alert's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AlertChange {
    /// The debounced condition holds now.
    Raised,
    /// It holds no longer.
    Cleared,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_depends_on_package_model_key_and_time_alone() {
        let identity = InstanceIdentity {
            model: "m".into(),
            version: "1".into(),
            package: Digest::of(b"p"),
            key: vec![("room".into(), "a".into())],
            outputs: vec![],
            labels: vec![],
        };
        let id = PredictionId::of(&identity, 5);
        assert_eq!(
            id,
            PredictionId::of(
                &InstanceIdentity { version: "2".into(), labels: vec!["x".into()], ..identity.clone() },
                5
            )
        );
        assert_ne!(id, PredictionId::of(&identity, 6));
        assert_ne!(
            id,
            PredictionId::of(
                &InstanceIdentity { key: vec![("room".into(), "b".into())], ..identity.clone() },
                5
            )
        );
        assert_ne!(id, PredictionId::of(&InstanceIdentity { model: "n".into(), ..identity }, 5));
    }

    #[test]
    fn flags_have_names() {
        let mut flags = QualityFlags::HELD_VALUE;
        flags.insert(QualityFlags::INVALID_OUTPUT);
        assert_eq!(flags.names().collect::<Vec<_>>(), ["held_value", "invalid_output"]);
        assert!(!flags.is_valid());
    }
}
