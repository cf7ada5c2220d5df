//! From readings and predictions to a reference profile.
//!
//! Pure: sorted columns in, a profile and what was seen of them out. Judges each series by the fault classifier of the
//! gateway first, so that a reference holds what a gateway would count: faulty readings are in no reference. Reads no file and
//! runs no model; whoever does brings what came of it.

use std::collections::BTreeMap;
use std::fmt;

use dunlin_drift::faults::{Usual, Watch};
use dunlin_drift::reference::{Reading, Reference, ReferenceError, SPANS_S};
use dunlin_drift::subspace::{FEATURES_MAX as TOGETHER_FEATURES_MAX, Subspace};
use dunlin_drift::summary::Flaw;

use super::labels::{self, Label, Labelled, LabelsError};
use super::{FEATURES_MAX, FeatureProfile, MadeOf, Profile, ProfileError, SCHEMA, TogetherProfile};
use crate::manifest::{Manifest, shown};

/// Fewest blocks of a length that calibrate windows of it: of fewer no rare score can be told from a usual one.
pub const BLOCKS_MIN: usize = 20;
/// Most values that components are made of: 64 MiB. Of more, every so-maniest reading is taken.
const TOGETHER_VALUES_MAX: usize = 8 << 20;

/// Readings of one series in the order of time, each time once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SeriesReadings {
    /// Which series: source, tags and values. Only tells series apart.
    pub name: String,
    /// Times in µs since 1970.
    pub times_us: Vec<i64>,
    /// Values by field, one a time, in the unit of the field; NaN where there is none. A field that is not of this series is
    /// not here.
    pub values: BTreeMap<String, Vec<f64>>,
}

/// What is known of a field beside its readings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FieldKnowledge {
    /// Unit of its values.
    pub unit: Option<String>,
    /// Values outside of this are the sensor's fault.
    pub range: Option<(f64, f64)>,
}

/// Predictions of one instance of the model, in the order of time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InstancePredictions {
    /// Which instance. Only tells instances apart.
    pub name: String,
    /// Ends of the windows in µs since 1970.
    pub times_us: Vec<i64>,
    /// *Shape*: the outputs of a prediction one after the other; NaN where it is not valid.
    pub outputs: Vec<f32>,
    /// What was right at these times, where it is known; empty where nothing is.
    pub labels: Vec<Option<Label>>,
}

/// What a profile is made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Material {
    /// The fields to describe.
    pub fields: BTreeMap<String, FieldKnowledge>,
    /// Their readings.
    pub series: Vec<SeriesReadings>,
    /// Predictions of the package's model over these readings; empty where it was not run.
    pub predictions: Vec<InstancePredictions>,
}

/// What was seen of one field.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FieldSeen {
    /// Values in the reference.
    pub values: u64,
    /// Readings by what was wrong with them; those are not in the reference, missing ones apart.
    pub flaws: BTreeMap<Flaw, u64>,
    /// Blocks with scores by length in seconds.
    pub blocks: BTreeMap<u64, usize>,
}

/// What was seen while a profile was made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// By field.
    pub fields: BTreeMap<String, FieldSeen>,
    /// Predictions.
    pub predictions: u64,
    /// Labelled ones among them.
    pub labelled: u64,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

/// Why no profile could be made.
#[derive(Debug)]
pub enum MakingError {
    /// There are no readings.
    Empty,
    /// There are too many fields: how many.
    Fields(usize),
    /// A field or output has no reference.
    Reference {
        /// Its name.
        name: String,
        /// Why.
        source: ReferenceError,
    },
    /// Labels cannot be used.
    Labels(LabelsError),
    /// What was made is not sound: values beyond what can be summed.
    Profile(ProfileError),
}

impl fmt::Display for MakingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there are no readings; give data of at least some days"),
            Self::Fields(count) => {
                write!(
                    f,
                    "there are {count} fields; a profile describes at most {FEATURES_MAX}: leave some out"
                )
            }
            Self::Reference { name, .. } => {
                write!(f, "`{}` has too little data for a reference; give more, or leave it out", shown(name))
            }
            Self::Labels(_) => f.write_str("the labels cannot be used"),
            Self::Profile(_) => f.write_str("the data hold values that no profile can hold"),
        }
    }
}

impl std::error::Error for MakingError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Empty | Self::Fields(_) => None,
            Self::Reference { source, .. } => Some(source),
            Self::Labels(source) => Some(source),
            Self::Profile(source) => Some(source),
        }
    }
}

/// Makes a profile. Series and instances may come in any order: the profile is the same.
///
/// *Errors*: see [`MakingError`]; the profile that is returned is sound.
pub fn make(manifest: &Manifest, mut material: Material) -> Result<(Profile, Seen), MakingError> {
    material.series.retain(|series| !series.times_us.is_empty());
    material.series.sort_by(|one, other| {
        one.name.cmp(&other.name).then_with(|| one.values.keys().cmp(other.values.keys()))
    });
    material.predictions.sort_by(|one, other| one.name.cmp(&other.name));
    let made_of = made_of(&material.series).ok_or(MakingError::Empty)?;
    if !(1..=FEATURES_MAX).contains(&material.fields.len()) {
        return Err(MakingError::Fields(material.fields.len()));
    }
    let mut seen = Seen::default();
    let mut features = BTreeMap::new();
    for (name, knowledge) in &material.fields {
        let (feature, field_seen) = feature(name, knowledge, &mut material.series)?;
        features.insert(name.clone(), feature);
        seen.fields.insert(name.clone(), field_seen);
    }
    let together = together(&material.series, &mut seen.notes);
    let outputs = outputs(manifest, &material.predictions, &mut seen)?;
    let labelled = labelled(manifest, &material.predictions);
    seen.labelled = labelled.len() as u64;
    let judged = labels::judge(manifest, &labelled, &mut seen.notes).map_err(MakingError::Labels)?;
    let profile = Profile {
        schema: SCHEMA,
        made_of,
        features,
        outputs,
        together,
        scores: judged.scores,
        metrics: judged.metrics,
    };
    profile.require_sound().map_err(MakingError::Profile)?;
    Ok((profile, seen))
}

fn made_of(series: &[SeriesReadings]) -> Option<MadeOf> {
    Some(MadeOf {
        rows: series.iter().map(|series| series.times_us.len() as u64).sum(),
        series: series.len() as u64,
        from_us: series.iter().filter_map(|series| series.times_us.first()).min().copied()?,
        to_us: series.iter().filter_map(|series| series.times_us.last()).max().copied()?,
    })
}

/// Makes a feature's profile, and takes what is not sound out of the series' values.
fn feature(
    name: &str,
    knowledge: &FieldKnowledge,
    all: &mut [SeriesReadings],
) -> Result<(FeatureProfile, FieldSeen), MakingError> {
    let mut seen = FieldSeen::default();
    let is_outside = |value: f64| knowledge.range.is_some_and(|(low, high)| !(low..=high).contains(&value));
    let readings: Vec<Vec<Reading<f64>>> = all
        .iter()
        .filter_map(|series| {
            let values = series.values.get(name)?.iter().map(|value| value.is_finite().then_some(*value));
            let read = series.times_us.iter().copied().zip(values);
            Some(read.filter(|(_, value)| !value.is_some_and(is_outside)).collect())
        })
        .collect();
    let usual = Usual::of(&readings);
    drop(readings);
    let mut sound = Vec::new();
    for series in all.iter_mut() {
        if let Some(values) = series.values.get_mut(name) {
            sound.push(judge(&series.times_us, values, usual, is_outside, &mut seen.flaws));
        }
    }
    let wrong = |source| MakingError::Reference { name: name.to_owned(), source };
    let reference = Reference::of_numbers(&sound, &SPANS_S).map_err(wrong)?;
    seen.values = reference.counts.iter().sum();
    seen.blocks = reference.blocks.iter().map(|(span, blocks)| (*span, blocks.psi.len())).collect();
    let (unit, range) = (knowledge.unit.clone(), knowledge.range);
    Ok((FeatureProfile { unit, range, reference, usual }, seen))
}

/// Returns the readings of a series that a gateway would count: sound ones and missing ones. Values that are not sound become
/// NaN.
fn judge(
    times_us: &[i64],
    values: &mut [f64],
    usual: Option<Usual>,
    is_outside: impl Fn(f64) -> bool,
    flaws: &mut BTreeMap<Flaw, u64>,
) -> Vec<Reading<f64>> {
    let mut count = |flaw: Flaw| *flaws.entry(flaw).or_default() += 1;
    let mut unsound: Vec<usize> = Vec::new();
    let mut watch = usual.map(Watch::new);
    for (place, (at_us, value)) in times_us.iter().zip(values.iter()).enumerate() {
        if !value.is_finite() {
            count(Flaw::Missing);
        } else if is_outside(*value) {
            count(Flaw::OutOfRange);
            unsound.push(place);
        } else if let Some(watch) = &mut watch {
            watch.take(*at_us, Some(*value), None, &mut |judged| {
                let Some(flaw) = judged.flaw else { return };
                count(flaw);
                // A gap is between readings, and no reading.
                if let (Some(_), Ok(place)) = (judged.value, times_us.binary_search(&judged.at_us)) {
                    unsound.push(place);
                }
            });
        }
    }
    unsound.sort_unstable();
    let mut sound = Vec::with_capacity(times_us.len());
    let mut wrong = unsound.iter().copied().peekable();
    for (place, (at_us, value)) in times_us.iter().zip(values.iter_mut()).enumerate() {
        if wrong.next_if_eq(&place).is_some() {
            *value = f64::NAN;
        } else {
            sound.push((*at_us, value.is_finite().then_some(*value)));
        }
    }
    sound
}

/// Returns how fields move together that come in one reading: of the largest set of fields that a series has.
fn together(all: &[SeriesReadings], notes: &mut Vec<String>) -> Option<TogetherProfile> {
    let mut sets: BTreeMap<Vec<&String>, usize> = BTreeMap::new();
    for series in all {
        *sets.entry(series.values.keys().collect()).or_default() += series.times_us.len();
    }
    let largest = |one: &(&Vec<&String>, &usize), other: &(&Vec<&String>, &usize)| {
        (one.0.len(), one.1).cmp(&(other.0.len(), other.1)).then_with(|| other.0.cmp(one.0))
    };
    let (features, _) = sets.iter().max_by(largest)?;
    let features: Vec<String> = features.iter().map(|name| (*name).clone()).collect();
    if features.len() < 2 {
        return None;
    }
    let none = |why: &str, notes: &mut Vec<String>| {
        notes.push(format!("how the fields move together is left out: {why}"));
        None
    };
    if features.len() > TOGETHER_FEATURES_MAX {
        return none("there are too many of them", notes);
    }
    let columns: Vec<(&[i64], Vec<&[f64]>)> = all
        .iter()
        .filter_map(|series| {
            let columns = features.iter().map(|name| series.values.get(name).map(Vec::as_slice));
            Some((series.times_us.as_slice(), columns.collect::<Option<Vec<_>>>()?))
        })
        .collect();
    let Some(subspace) = subspace(&columns, features.len()) else {
        return none("too few readings have all of them", notes);
    };
    let (t2, q) = distances(&columns, &subspace);
    let (Ok(t2), Ok(q)) = (Reference::of_numbers(&t2, &SPANS_S), Reference::of_numbers(&q, &SPANS_S)) else {
        return none("too few readings have all of them", notes);
    };
    Some(TogetherProfile { features, subspace, t2, q })
}

fn subspace(columns: &[(&[i64], Vec<&[f64]>)], features: usize) -> Option<Subspace> {
    let rows: usize = columns.iter().map(|(times, _)| times.len()).sum();
    let stride = rows.saturating_mul(features).div_ceil(TOGETHER_VALUES_MAX).max(1);
    let mut complete: Vec<f64> = Vec::with_capacity(rows.div_ceil(stride) * features);
    let mut taken = 0usize;
    for (times, columns) in columns {
        for place in 0..times.len() {
            if columns.iter().all(|column| column[place].is_finite()) {
                if taken.is_multiple_of(stride) {
                    complete.extend(columns.iter().map(|column| column[place]));
                }
                taken += 1;
            }
        }
    }
    Subspace::of(complete.chunks_exact(features))
}

type Distances = Vec<Vec<Reading<f64>>>;

/// Returns the distances of all complete readings, by series: within the components, and from them.
fn distances(columns: &[(&[i64], Vec<&[f64]>)], subspace: &Subspace) -> (Distances, Distances) {
    let (mut all_t2, mut all_q) = (Vec::new(), Vec::new());
    let mut row = Vec::with_capacity(subspace.means.len());
    for (times, columns) in columns {
        let (mut t2, mut q) = (Vec::new(), Vec::new());
        for (place, at_us) in times.iter().enumerate() {
            row.clear();
            row.extend(columns.iter().map(|column| column[place]));
            if let Some(found) = subspace.distances(&row) {
                t2.push((*at_us, Some(found.t2)));
                q.push((*at_us, Some(found.q)));
            }
        }
        all_t2.push(t2);
        all_q.push(q);
    }
    (all_t2, all_q)
}

/// Returns the references of the outputs: numbers by value, labels by name.
fn outputs(
    manifest: &Manifest,
    all: &[InstancePredictions],
    seen: &mut Seen,
) -> Result<BTreeMap<String, Reference>, MakingError> {
    let mut found = BTreeMap::new();
    seen.predictions = all.iter().map(|instance| instance.times_us.len() as u64).sum();
    if all.is_empty() {
        return Ok(found);
    }
    let width = manifest.output_values();
    let mut start = 0;
    for output in &manifest.outputs {
        let values = output.values();
        if found.len() + values > FEATURES_MAX {
            seen.notes.push(format!(
                "output `{}` is left out: a profile describes at most {FEATURES_MAX} values of outputs",
                shown(&output.name)
            ));
            start += values;
            continue;
        }
        for position in 0..values {
            let name = super::output_name(output, position);
            let column = |instance: &InstancePredictions| -> Vec<Reading<f64>> {
                let values =
                    instance.outputs.chunks_exact(width.max(1)).map(|row| f64::from(row[start + position]));
                let values = values.map(|value| value.is_finite().then_some(value));
                instance.times_us.iter().copied().zip(values).collect()
            };
            let columns: Vec<Vec<Reading<f64>>> = all.iter().map(column).collect();
            let reference = if output.is_label() {
                Reference::of_names(&names(&columns, &output.post.labels), &SPANS_S)
            } else {
                Reference::of_numbers(&columns, &SPANS_S)
            };
            let wrong = |source| MakingError::Reference { name: name.clone(), source };
            found.insert(name.clone(), reference.map_err(wrong)?);
        }
        start += values;
    }
    Ok(found)
}

fn names(columns: &[Vec<Reading<f64>>], labels: &[String]) -> Vec<Vec<Reading<String>>> {
    let name = |value: f64| labels.get(value as usize).cloned();
    let named = |(at_us, value): &Reading<f64>| (*at_us, value.and_then(name));
    columns.iter().map(|column| column.iter().map(named).collect()).collect()
}

fn labelled<'p>(manifest: &Manifest, all: &'p [InstancePredictions]) -> Vec<Labelled<'p>> {
    let width = manifest.output_values().max(1);
    let mut found = Vec::new();
    for instance in all {
        let rows = instance.outputs.chunks_exact(width);
        for ((at_us, outputs), label) in instance.times_us.iter().zip(rows).zip(&instance.labels) {
            if let Some(label) = label
                && outputs.iter().all(|value| value.is_finite())
            {
                found.push(Labelled { at_us: *at_us, outputs, label });
            }
        }
    }
    found
}

#[cfg(test)]
#[path = "making/tests.rs"]
mod tests;
