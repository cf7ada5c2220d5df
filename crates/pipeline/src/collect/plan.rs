//! A profile joined with a model: which field is counted where, by which bins, and what is usual of it.
//!
//! Made once a package. Holds no state, and never fails: what the model does not have of the profile is not counted, and
//! its summary stays empty.

use std::sync::Arc;

use dunlin_drift::bins::Bins;
use dunlin_drift::faults::Usual;
use dunlin_drift::moments::Scale;
use dunlin_drift::quality::score_bin;
use dunlin_drift::reference::Reference;
use dunlin_drift::subspace::Subspace;
use dunlin_drift::summary::{Flaw, Summary};
use dunlin_kit::digest::Digest;
use dunlin_model_package::Aggregate;
use dunlin_model_package::manifest::Manifest;
use dunlin_model_package::profile::{Profile, TogetherProfile};
use dunlin_model_package::profile_window::Shape;
use dunlin_model_package::unit::Conversion;

use crate::compiled_model::{Column, FieldUse};

/// Standard deviations of a scale's steps, see [`Scale::of`].
const STEPS_PER_SD: f64 = 256.0;

/// A profile, as a model's readings and predictions are counted by it.
#[derive(Debug, PartialEq)]
pub struct Plan {
    /// The profile's digest.
    pub profile: Digest,
    pub(crate) features: Vec<FeaturePlan>,
    pub(crate) outputs: Vec<OutputPlan>,
    pub(crate) together: Option<TogetherPlan>,
    pub(crate) score: Option<Pick>,
    /// How the summaries of a window are read, in their order.
    pub(crate) shapes: Arc<[Shape]>,
    /// By summary: how a value is counted.
    pub(crate) counters: Vec<Counter>,
    /// By the model's field: the position of its feature.
    by_field: Vec<Option<u16>>,
}

/// A field and what is usual of it.
#[derive(Debug, PartialEq)]
pub(crate) struct FeaturePlan {
    pub(crate) name: String,
    pub(crate) range: Option<(f64, f64)>,
    pub(crate) usual: Option<Usual>,
    /// From the source's unit to the profile's.
    pub(crate) conversion: Conversion,
    /// One standard deviation of the reference; none for categories.
    pub(crate) spread: Option<f64>,
}

/// An output and where its values stand.
#[derive(Debug, PartialEq)]
pub(crate) struct OutputPlan {
    pub(crate) pick: Pick,
    /// For names: the bin of each of the model's labels.
    pub(crate) labels: Vec<usize>,
}

/// Where a number stands in a prediction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pick {
    /// At this position of the outputs.
    At(usize),
    /// The largest of these: the score of the class that was predicted.
    Largest(std::ops::Range<usize>),
    /// Nowhere: the package has no such output.
    Nowhere,
}

/// Features that are looked at together.
#[derive(Debug, PartialEq)]
pub(crate) struct TogetherPlan {
    pub(crate) subspace: Subspace,
    /// Positions of features, in the order of the components' values.
    pub(crate) features: Vec<u16>,
    /// Positions of the two summaries.
    pub(crate) within: u16,
    pub(crate) from: u16,
}

/// How a value is counted.
#[derive(Debug, PartialEq)]
pub(crate) enum Counter {
    /// Into the bin between two cut points, and into the moments.
    Number(Bins, Scale),
    /// Into the bin of the category that is written as this number; others into the last.
    Name(Vec<f64>),
    /// Into the bin of a score.
    Score,
}

impl Counter {
    fn of(reference: &Reference) -> Self {
        match (&reference.bins, reference.scale) {
            (Bins::Edges(_), Some(scale)) => Self::Number(reference.bins.clone(), scale),
            (Bins::Names(names), _) => {
                Self::Name(names.iter().map(|name| name.parse().unwrap_or(f64::NAN)).collect())
            }
            // A sound reference of numbers has a scale.
            (Bins::Edges(_), None) => Self::Number(reference.bins.clone(), Scale::of(0.0, 1.0)),
        }
    }

    /// Counts a value.
    pub(crate) fn add(&self, summary: &mut Summary, value: f64) {
        let bin = match self {
            Self::Number(bins, scale) => return summary.add_number(value, bins, scale),
            Self::Name(_) | Self::Score if !value.is_finite() => return summary.add_flaw(Flaw::Missing),
            Self::Name(numbers) => {
                numbers.iter().position(|number| *number == value).unwrap_or(numbers.len())
            }
            Self::Score => score_bin(value),
        };
        if let Some(count) = summary.counts.get_mut(bin) {
            *count += 1;
        }
    }
}

impl Plan {
    /// Joins a profile with a model's fields, columns, outputs and labels.
    pub(crate) fn new(
        profile: &Profile,
        fields: &[FieldUse],
        columns: &[Column],
        (manifest, labels): (&Manifest, &[String]),
    ) -> Self {
        let field_of = |name: &str| fields.iter().position(|field| field.name == name);
        let features: Vec<FeaturePlan> = profile
            .features
            .iter()
            .map(|(name, feature)| FeaturePlan {
                name: name.clone(),
                range: feature.range,
                usual: feature.usual,
                conversion: field_of(name).map_or(Conversion::IDENTITY, |field| conversion(columns, field)),
                spread: feature.reference.scale.map(|scale| scale.step * STEPS_PER_SD),
            })
            .collect();
        let positions = |name: &str| profile.features.keys().position(|known| known == name);
        let by_field =
            fields.iter().map(|field| positions(&field.name).map(|position| position as u16)).collect();
        let outputs = profile.outputs.iter();
        let outputs: Vec<OutputPlan> = outputs
            .map(|(name, reference)| OutputPlan {
                pick: pick(manifest, name),
                labels: match &reference.bins {
                    Bins::Names(_) => labels.iter().map(|label| reference.bins.of_name(label)).collect(),
                    Bins::Edges(_) => Vec::new(),
                },
            })
            .collect();
        let parts = (features.len() + outputs.len()) as u16;
        let together = profile.together.as_ref().map(|together| TogetherPlan {
            subspace: together.subspace.clone(),
            features: together.features.iter().filter_map(|name| Some(positions(name)? as u16)).collect(),
            within: parts,
            from: parts + 1,
        });
        let references = profile.features.values().map(|feature| &feature.reference);
        let distances = profile.together.iter().flat_map(|TogetherProfile { t2, q, .. }| [t2, q]);
        let mut counters: Vec<Counter> =
            references.chain(profile.outputs.values()).chain(distances).map(Counter::of).collect();
        counters.extend(profile.scores.iter().map(|_| Counter::Score));
        Self {
            // A profile that was read can be written.
            profile: profile.digest().unwrap_or_else(|_| Digest::of(b"")),
            score: profile.scores.as_ref().map(|scores| pick(manifest, &scores.output)),
            shapes: profile.parts().map(|(_, shape)| shape).collect(),
            features,
            outputs,
            together,
            counters,
            by_field,
        }
    }

    /// Returns one by which nothing is counted any more: for windows of a profile that is gone.
    pub(crate) const fn of_shapes(profile: Digest, shapes: Arc<[Shape]>) -> Self {
        Self {
            profile,
            features: Vec::new(),
            outputs: Vec::new(),
            together: None,
            score: None,
            shapes,
            counters: Vec::new(),
            by_field: Vec::new(),
        }
    }

    /// Returns the position of the feature that a field of the model is.
    pub(crate) fn feature_of(&self, field: usize) -> Option<u16> {
        self.by_field.get(field).copied().flatten()
    }

    /// Returns the position of the summary of scores.
    pub(crate) fn score_position(&self) -> usize {
        self.counters.len() - 1
    }
}

/// Returns how a field's values become those of the profile: as its plain columns do.
fn conversion(columns: &[Column], field: usize) -> Conversion {
    let keeps_unit = |aggregate: Aggregate| {
        use Aggregate::{Lag, Last, Max, Mean, Min, Value};
        matches!(aggregate, Value | Last | Lag(_) | Mean(_) | Min(_) | Max(_))
    };
    let plain = columns.iter().find(|column| column.field == field && keeps_unit(column.aggregate));
    plain.map_or(Conversion::IDENTITY, |column| column.conversion)
}

/// Returns where an output of the profile stands: by its name, or as `name[position]`.
fn pick(manifest: &Manifest, name: &str) -> Pick {
    let mut start = 0;
    for output in &manifest.outputs {
        let end = start + output.values();
        if output.name == name {
            return if end == start + 1 { Pick::At(start) } else { Pick::Largest(start..end) };
        }
        let position = name.strip_prefix(output.name.as_str()).and_then(|rest| rest.strip_prefix('['));
        let position = position.and_then(|rest| rest.strip_suffix(']')?.parse::<usize>().ok());
        if let Some(position) = position.filter(|position| start + position < end) {
            return Pick::At(start + position);
        }
        start = end;
    }
    Pick::Nowhere
}

impl Pick {
    /// Returns the number of a prediction.
    pub(crate) fn of(&self, outputs: &[f32]) -> Option<f64> {
        let found = match self {
            Self::At(position) => *outputs.get(*position)?,
            Self::Largest(range) => outputs.get(range.clone())?.iter().copied().fold(f32::NAN, f32::max),
            Self::Nowhere => return None,
        };
        Some(f64::from(found))
    }
}
