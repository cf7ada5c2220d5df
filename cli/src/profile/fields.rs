//! The fields that a package's features are computed of: how they are named in data, in which unit, and what a sensor can say.
//!
//! Joins the manifest with the sources that the configuration, or the golden vectors' header, describes. Reads no data.

use std::collections::BTreeMap;

use dunlin_model_package::feature_spec::{FieldSpec, SourceSpec};
use dunlin_model_package::profile::making::FieldKnowledge;
use dunlin_model_package::unit::{Conversion, conversion};
use dunlin_model_package::{Aggregate, FeatureExpression, Manifest, ModelSpec};

/// A field of the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Its name in the manifest's features.
    pub name: String,
    /// Its name in the sources: another one where the configuration's `inputs` say so.
    pub read_as: String,
    /// Unit of the profile: the manifest's, else that of the sources.
    pub unit: Option<String>,
    /// Values outside of this are the sensor's fault, in the profile's unit.
    pub range: Option<(f64, f64)>,
    /// Numbers that mean that there is no value, as they stand in data.
    pub missing: Vec<f64>,
    /// Numbers for texts and truth values.
    pub map: BTreeMap<String, f64>,
    /// From a source's unit to the profile's, by the source's name.
    pub conversions: BTreeMap<String, Conversion>,
}

impl Field {
    /// Returns what a profile says of the field beside its readings.
    #[must_use]
    pub fn knowledge(&self) -> FieldKnowledge {
        FieldKnowledge { unit: self.unit.clone(), range: self.range }
    }
}

/// Returns the fields of a package's features, in the order of the features.
///
/// *Errors*: a source's unit that cannot be converted into the manifest's, or a feature that is no expression.
pub fn fields(manifest: &Manifest, sources: &[SourceSpec], model: &ModelSpec) -> Result<Vec<Field>, String> {
    let mut found: Vec<Field> = Vec::new();
    for input in &manifest.inputs {
        let given = model.inputs.get(&input.name);
        for (position, feature) in input.features.iter().enumerate() {
            let read = given.and_then(|texts| texts.get(position)).unwrap_or(&feature.name);
            let parse = |text: &str| text.parse::<FeatureExpression>().map_err(|error| error.to_string());
            let (of_manifest, of_source) = (parse(&feature.name)?, parse(read)?);
            let level = !matches!(of_manifest.aggregate, Aggregate::Count(_) | Aggregate::Slope(_));
            let unit = feature.unit.clone().filter(|_| level);
            match found.iter_mut().find(|field| field.name == of_manifest.field) {
                Some(field) => field.unit = field.unit.take().or(unit),
                None => found.push(Field {
                    name: of_manifest.field,
                    read_as: of_source.field,
                    unit,
                    range: None,
                    missing: Vec::new(),
                    map: BTreeMap::new(),
                    conversions: BTreeMap::new(),
                }),
            }
        }
    }
    let is_read =
        |source: &&SourceSpec| model.sources.as_ref().is_none_or(|names| names.contains(&source.name));
    let read: Vec<&SourceSpec> = sources.iter().filter(is_read).collect();
    for field in &mut found {
        join(field, &read)?;
    }
    Ok(found)
}

/// Adds what the sources say of a field.
fn join(field: &mut Field, sources: &[&SourceSpec]) -> Result<(), String> {
    let of_sources: Vec<(&SourceSpec, &FieldSpec)> =
        sources.iter().filter_map(|source| Some((*source, source.fields.get(&field.read_as)?))).collect();
    if field.unit.is_none() {
        field.unit = of_sources.iter().find_map(|(_, spec)| spec.unit.clone());
    }
    let mut ranges = Vec::new();
    for (source, spec) in &of_sources {
        let converted = match (&spec.unit, &field.unit) {
            (Some(from), Some(to)) => conversion(from, to).ok_or_else(|| {
                format!(
                    "field `{}`: `{from}` of source `{}` cannot be converted to `{to}`",
                    field.name, source.name
                )
            })?,
            _ => Conversion::IDENTITY,
        };
        field.conversions.insert(source.name.clone(), converted);
        ranges.push(spec.range.map(|[low, high]| (converted.apply(low), converted.apply(high))));
        field.map.extend(spec.map.iter().map(|(text, value)| (text.clone(), converted.apply(*value))));
        // What is scaled was another number in the payload than in data.
        if spec.scale.is_none() && spec.offset.is_none() {
            field.missing.extend(&spec.missing_values);
        }
    }
    let widest = |one: (f64, f64), other: (f64, f64)| (one.0.min(other.0), one.1.max(other.1));
    // A source without a range lets everything through.
    field.range =
        ranges.into_iter().collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().reduce(widest));
    Ok(())
}
