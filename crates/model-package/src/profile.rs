//! The reference profile: what a model's inputs and outputs were like when it was trained, in the signed package.
//!
//! Reads, writes and checks `profile.json` (schema 1): counts, sums and scores of blocks, never a series of readings.
//! [`making`] makes one; the statistics are those of `dunlin-drift`.

use std::collections::BTreeMap;
use std::fmt;

use dunlin_drift::faults::Usual;
use dunlin_drift::quality::Calibration;
use dunlin_drift::reference::{Reference, ReferenceError};
use dunlin_drift::subspace::Subspace;
use dunlin_kit::digest::Digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::expression::FeatureExpression;
use crate::manifest::{Manifest, OutputSpec, shown};

pub mod labels;
pub mod making;

/// Name of the profile's file in a package.
pub const PROFILE_FILE: &str = "profile.json";
/// The version of the profile's format that this build reads and writes.
pub const SCHEMA: u32 = 1;
/// Longest profile: 64 features with all scores of blocks take about 2 MiB.
pub const PROFILE_BYTES_MAX: u64 = 4 << 20;
/// Most features, and most outputs, that a profile describes.
pub const FEATURES_MAX: usize = 64;
/// Most expected metrics.
const METRICS_MAX: usize = 32;
/// Longest name and unit in bytes.
const NAME_BYTES_MAX: usize = 128;

/// What a model's inputs and outputs were like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Version of the profile's format: 1.
    pub schema: u32,
    /// What it was made of.
    pub made_of: MadeOf,
    /// Fields that the model's features come from, by name.
    pub features: BTreeMap<String, FeatureProfile>,
    /// The model's outputs, by name; a vector's values as `name[position]`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, Reference>,
    /// How the features move together; left out where there is one feature alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub together: Option<TogetherProfile>,
    /// What the model's scores are worth; left out where there were no labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<ScoreProfile>,
    /// Metrics that the model had on data that it was not trained on, by name, as in `accuracy` or `mae`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
}

/// What a profile was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MadeOf {
    /// Readings.
    pub rows: u64,
    /// Series: sensors, machines, gateways.
    pub series: u64,
    /// Time of the first, in microseconds since 1970.
    pub from_us: i64,
    /// Time of the last.
    pub to_us: i64,
}

/// What one field was like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeatureProfile {
    /// Unit of the values, as the manifest's feature has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Values outside of this are the sensor's fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(f64, f64)>,
    /// Histogram and scores of blocks.
    pub reference: Reference,
    /// What a sound sensor does; left out for categories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usual: Option<Usual>,
}

/// How features move together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TogetherProfile {
    /// Fields in the order of the components' values.
    pub features: Vec<String>,
    /// The components.
    pub subspace: Subspace,
    /// Distances within the components, as if they were a feature.
    pub t2: Reference,
    /// Distances from the components.
    pub q: Reference,
}

/// What the scores of a model are worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScoreProfile {
    /// The output that is the score.
    pub output: String,
    /// How often the model was right, by its score.
    pub calibration: Calibration,
    /// How wrong estimates from such scores were on data that they were not made of. *Range*: 0 to 1.
    pub error: f64,
}

/// Why a profile cannot be used.
#[derive(Debug)]
pub enum ProfileError {
    /// It is of a later version of the format: which.
    Newer(u32),
    /// It is no JSON of a profile.
    Json(serde_json::Error),
    /// A feature or output has no sound reference.
    Reference {
        /// Its name.
        name: String,
        /// What is wrong with it.
        source: ReferenceError,
    },
    /// Another part is not sound: which.
    Part(String),
    /// It describes something that the model does not have.
    Foreign {
        /// What kind of thing.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What the model has instead.
        known: String,
    },
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer(schema) => {
                write!(
                    f,
                    "`{PROFILE_FILE}` is of format {schema}; this build reads format {SCHEMA}: install a newer one"
                )
            }
            Self::Json(_) => {
                write!(f, "`{PROFILE_FILE}` is no profile; make it anew with `dunlin profile build`")
            }
            Self::Reference { name, .. } => {
                write!(f, "`{PROFILE_FILE}` has no sound reference of `{}`", shown(name))
            }
            Self::Foreign { kind, name, known } => write!(
                f,
                "`{PROFILE_FILE}` describes {kind} `{}`, which the model does not have (it has {known}); make it anew with `dunlin profile build` for this package",
                shown(name)
            ),
            Self::Part(part) => {
                write!(
                    f,
                    "`{part}` of `{PROFILE_FILE}` is not sound; make it anew with `dunlin profile build`"
                )
            }
        }
    }
}

impl std::error::Error for ProfileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Json(source) => Some(source),
            Self::Reference { source, .. } => Some(source),
            Self::Newer(_) | Self::Part(_) | Self::Foreign { .. } => None,
        }
    }
}

impl Profile {
    /// Reads and checks a profile.
    ///
    /// *Errors*: see [`ProfileError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ProfileError> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let version: Version = serde_json::from_slice(bytes).map_err(ProfileError::Json)?;
        if version.schema > SCHEMA {
            return Err(ProfileError::Newer(version.schema));
        }
        let profile: Self = serde_json::from_slice(bytes).map_err(ProfileError::Json)?;
        profile.require_sound()?;
        Ok(profile)
    }

    /// Returns the profile as it stands in a package.
    ///
    /// *Errors*: it holds a number that JSON does not have.
    pub fn to_json(&self) -> Result<Vec<u8>, ProfileError> {
        serde_json::to_vec(self).map_err(ProfileError::Json)
    }

    /// Returns the SHA-256 by which windows name the profile that they were counted by.
    ///
    /// *Errors*: as [`Profile::to_json`].
    pub fn digest(&self) -> Result<Digest, ProfileError> {
        Ok(Digest::of(&self.to_json()?))
    }

    /// Checks that everything the profile describes is the manifest's: fields of its features, and its outputs. A profile need
    /// not describe all of them.
    ///
    /// *Errors*: [`ProfileError::Foreign`] with the first that is not.
    pub fn require_fits(&self, manifest: &Manifest) -> Result<(), ProfileError> {
        let fields = fields_of(manifest);
        let outputs: Vec<String> = manifest
            .outputs
            .iter()
            .take(FEATURES_MAX)
            .flat_map(|output| (0..output.values().min(FEATURES_MAX)).map(|at| output_name(output, at)))
            .collect();
        let foreign = |kind, name: &str, known: &[String]| {
            let known: Vec<String> = known.iter().map(|known| format!("`{}`", shown(known))).collect();
            Err(ProfileError::Foreign { kind, name: name.to_owned(), known: known.join(", ") })
        };
        if let Some(name) = self.features.keys().find(|name| !fields.contains(name)) {
            return foreign("field", name, &fields);
        }
        if let Some(name) = self.outputs.keys().find(|name| !outputs.contains(name)) {
            return foreign("output", name, &outputs);
        }
        match &self.scores {
            Some(scores)
                if !outputs.contains(&scores.output)
                    && !manifest.outputs.iter().any(|output| output.name == scores.output) =>
            {
                foreign("score", &scores.output, &outputs)
            }
            _ => Ok(()),
        }
    }

    /// Checks that all parts are sound and belong together.
    ///
    /// *Errors*: see [`ProfileError`].
    pub fn require_sound(&self) -> Result<(), ProfileError> {
        let part = |part: &str| Err(ProfileError::Part(part.to_owned()));
        if self.schema != SCHEMA {
            return part("schema");
        }
        if self.features.is_empty() || self.features.len() > FEATURES_MAX || self.outputs.len() > FEATURES_MAX
        {
            return part("features");
        }
        let features = self.features.iter().map(|(name, feature)| (name.as_str(), &feature.reference));
        let outputs = self.outputs.iter().map(|(name, reference)| (name.as_str(), reference));
        let together = self.together.iter().flat_map(|together| [("t2", &together.t2), ("q", &together.q)]);
        for (name, reference) in features.chain(outputs).chain(together) {
            if name.is_empty() || name.len() > NAME_BYTES_MAX {
                return part(&shown(name));
            }
            let wrong = |source| ProfileError::Reference { name: name.to_owned(), source };
            reference.require_sound().map_err(wrong)?;
        }
        if let Some(name) =
            self.features.iter().find_map(|(name, feature)| (!feature.is_sound()).then_some(name))
        {
            return part(&shown(name));
        }
        if self.together.as_ref().is_some_and(|together| !together.is_sound(&self.features)) {
            return part("together");
        }
        if self.scores.as_ref().is_some_and(|scores| !scores.is_sound()) {
            return part("scores");
        }
        if self.metrics.len() > METRICS_MAX || self.metrics.values().any(|value| !value.is_finite()) {
            return part("metrics");
        }
        Ok(())
    }
}

/// Returns the fields that a manifest's features are computed of, each once, in the order of the features.
#[must_use]
pub fn fields_of(manifest: &Manifest) -> Vec<String> {
    let mut fields: Vec<String> = Vec::new();
    for feature in manifest.inputs.iter().flat_map(|input| &input.features) {
        // What is no expression needs one in the configuration, and its field is not known here.
        if let Ok(FeatureExpression { field, .. }) = feature.name.parse()
            && !fields.contains(&field)
        {
            fields.push(field);
        }
    }
    fields
}

/// Returns the name of a value of an output in a profile: the output's, or `name[position]` where it has several.
#[must_use]
pub fn output_name(output: &OutputSpec, position: usize) -> String {
    if output.values() == 1 { output.name.clone() } else { format!("{}[{position}]", output.name) }
}

impl FeatureProfile {
    fn is_sound(&self) -> bool {
        let is_usual = |usual: &Usual| {
            usual.interval_us >= 0
                && [usual.change_max, usual.change_mean]
                    .iter()
                    .all(|change| change.is_finite() && *change >= 0.0)
        };
        self.unit.as_ref().is_none_or(|unit| unit.len() <= NAME_BYTES_MAX)
            && self.range.is_none_or(|(low, high)| low.is_finite() && high.is_finite() && low < high)
            && self.usual.as_ref().is_none_or(is_usual)
    }
}

impl TogetherProfile {
    fn is_sound(&self, features: &BTreeMap<String, FeatureProfile>) -> bool {
        self.subspace.is_sound()
            && self.features.len() == self.subspace.means.len()
            && self.features.iter().all(|name| features.contains_key(name))
    }
}

impl ScoreProfile {
    fn is_sound(&self) -> bool {
        (1..=NAME_BYTES_MAX).contains(&self.output.len())
            && self.calibration.is_sound()
            && (0.0..=1.0).contains(&self.error)
    }
}

#[cfg(test)]
mod tests {
    use dunlin_drift::reference::{Reading, SPANS_S};

    use super::*;

    fn wave(scale: f64) -> Vec<Reading<f64>> {
        (0..5_000i64).map(|n| (n * 60_000_000, Some((n as f64 / 300.0).sin() * scale + 20.0))).collect()
    }

    fn profile() -> Profile {
        let of = |scale: f64| Reference::of_numbers(&[wave(scale)], &SPANS_S).unwrap();
        let feature = |scale: f64| FeatureProfile {
            unit: Some("Cel".to_owned()),
            range: Some((-40.0, 85.0)),
            reference: of(scale),
            usual: Usual::of(&[wave(scale)]),
        };
        let rows: Vec<[f64; 2]> =
            wave(1.0).iter().zip(wave(3.0)).map(|(one, other)| [one.1.unwrap(), other.1.unwrap()]).collect();
        let subspace = Subspace::of(rows.iter().map(<[f64; 2]>::as_slice)).unwrap();
        Profile {
            schema: SCHEMA,
            made_of: MadeOf { rows: 5_000, series: 1, from_us: 0, to_us: 4_999 * 60_000_000 },
            features: BTreeMap::from([("air".to_owned(), feature(1.0)), ("oil".to_owned(), feature(3.0))]),
            outputs: BTreeMap::from([("y".to_owned(), of(0.1))]),
            together: Some(TogetherProfile {
                features: vec!["air".to_owned(), "oil".to_owned()],
                subspace,
                t2: of(1.0),
                q: of(0.5),
            }),
            scores: Some(ScoreProfile {
                output: "y".to_owned(),
                calibration: Calibration::default(),
                error: 0.02,
            }),
            metrics: BTreeMap::from([("accuracy".to_owned(), 0.97)]),
        }
    }

    #[test]
    fn a_profile_is_read_as_it_was_written_and_keeps_its_digest() {
        let profile = profile();
        let read = Profile::parse(&profile.to_json().unwrap()).unwrap();
        assert!(read == profile);
        assert_eq!(read.digest().unwrap(), profile.digest().unwrap());
    }

    #[test]
    fn a_profile_from_the_future_is_refused_by_its_version() {
        let error = Profile::parse(br#"{"schema": 2, "more": true}"#).unwrap_err();
        assert!(error.to_string().contains("format 2"), "{error}");
    }

    #[test]
    fn what_is_not_sound_is_named() {
        let mut wrong = vec![profile(); 6];
        wrong[0].features.clear();
        wrong[1].features.get_mut("oil").unwrap().range = Some((1.0, 1.0));
        wrong[2].features.get_mut("air").unwrap().reference.counts.pop();
        wrong[3].together.as_mut().unwrap().features[0] = "water".to_owned();
        wrong[4].scores.as_mut().unwrap().error = f64::NAN;
        wrong[5].metrics.insert("mae".to_owned(), f64::INFINITY);
        let named = ["features", "oil", "air", "together", "scores", "metrics"];
        for (profile, name) in wrong.iter().zip(named) {
            let message = profile.require_sound().unwrap_err().to_string();
            assert!(message.contains(&format!("`{name}`")), "{message}");
        }
    }
}
