//! What a model's scores are worth, and how good it was: from predictions whose labels are known.
//!
//! Pure. Judges the first output that has classes, a threshold or one number. The calibration is made of all labels; its
//! error is that of calibrations made of four fifths of the blocks on the fifth that they have not seen, so that it is no
//! praise of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use dunlin_drift::quality::{CLASSES_MAX, Calibration, Confusion, Hit, SCORE_BINS};
use dunlin_drift::reference::SPANS_S;

use super::{ScoreProfile, output_name};
use crate::manifest::{Manifest, OutputKind, OutputSpec, shown};

/// Fewest labelled predictions: with fewer a metric says more of chance than of the model.
pub const LABELS_MIN: usize = 100;
/// Parts of the blocks, of which each is held back once.
const FOLDS: usize = 5;

/// What was right, as the data say it.
#[derive(Debug, Clone, PartialEq)]
pub enum Label {
    /// A number: the value, or the class where classes are numbered.
    Number(f64),
    /// The name of a class.
    Name(String),
}

/// A prediction and its label.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Labelled<'p> {
    /// End of its window in µs since 1970.
    pub at_us: i64,
    /// *Shape*: the outputs one after the other, all finite.
    pub outputs: &'p [f32],
    /// What was right.
    pub label: &'p Label,
}

/// What labels say of a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JudgedByLabels {
    /// What its scores are worth; none where it has none.
    pub scores: Option<ScoreProfile>,
    /// Metrics by name.
    pub metrics: BTreeMap<String, f64>,
}

/// Why labels cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelsError {
    /// There are too few: how many.
    TooFew(usize),
    /// They are of too short a time to hold some of them back.
    TooShort,
    /// A label is no class of the output.
    Unknown {
        /// The label.
        label: String,
        /// The output.
        output: String,
        /// Its classes.
        classes: String,
    },
    /// The model has no output that a label can be compared with.
    NoOutput,
}

impl fmt::Display for LabelsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFew(count) => write!(
                f,
                "{count} prediction(s) have a label, at least {LABELS_MIN} are needed; a label stands in the row at which a window ends"
            ),
            Self::TooShort => write!(
                f,
                "the labels are of fewer than {FOLDS} blocks of 15 min, so that none can be held back; give labels of a longer time"
            ),
            Self::Unknown { label, output, classes } => {
                write!(f, "`{}` is no class of output `{}`, which has {classes}", shown(label), shown(output))
            }
            Self::NoOutput => f.write_str(
                "the model has no output with classes, a threshold or one number that a label could be compared with",
            ),
        }
    }
}

impl std::error::Error for LabelsError {}

/// What of the outputs is compared with labels.
enum Subject<'m> {
    /// One score a class: the highest is the prediction.
    Scores { output: &'m OutputSpec, start: usize },
    /// The class itself, by position.
    Class { output: &'m OutputSpec, start: usize },
    /// A score with a threshold.
    Threshold { output: &'m OutputSpec, start: usize, above: f64, classes: [String; 2] },
    /// A number.
    Number { start: usize },
}

/// Judges predictions by their labels; nothing where there are no labels.
///
/// *Errors*: see [`LabelsError`].
pub fn judge(
    manifest: &Manifest,
    labelled: &[Labelled<'_>],
    notes: &mut Vec<String>,
) -> Result<JudgedByLabels, LabelsError> {
    if labelled.is_empty() {
        return Ok(JudgedByLabels::default());
    }
    if labelled.len() < LABELS_MIN {
        return Err(LabelsError::TooFew(labelled.len()));
    }
    match subject(manifest).ok_or(LabelsError::NoOutput)? {
        Subject::Number { start } => {
            Ok(JudgedByLabels { scores: None, metrics: number_metrics(labelled, start) })
        }
        subject => judge_classes(&subject, labelled, notes),
    }
}

fn subject(manifest: &Manifest) -> Option<Subject<'_>> {
    let mut start = 0;
    let mut number = None;
    for output in &manifest.outputs {
        let values = output.values();
        if output.is_label() {
            return Some(Subject::Class { output, start });
        }
        if output.kind == OutputKind::Classification && values >= 2 {
            return Some(Subject::Scores { output, start });
        }
        if let Some(threshold) = output.post.threshold.as_ref().filter(|_| values >= 1) {
            let classes = [threshold.otherwise.clone(), threshold.label.clone()];
            return Some(Subject::Threshold { output, start, above: threshold.above, classes });
        }
        if output.kind == OutputKind::Regression && values == 1 {
            number = number.or(Some(Subject::Number { start }));
        }
        start += values;
    }
    number
}

impl Subject<'_> {
    fn classes(&self) -> &[String] {
        match self {
            Self::Scores { output, .. } | Self::Class { output, .. } => &output.post.labels,
            Self::Threshold { classes, .. } => classes,
            Self::Number { .. } => &[],
        }
    }

    fn output(&self) -> Option<&OutputSpec> {
        match self {
            Self::Scores { output, .. } | Self::Class { output, .. } | Self::Threshold { output, .. } => {
                Some(output)
            }
            Self::Number { .. } => None,
        }
    }

    /// Returns the class that was predicted.
    fn predicted(&self, outputs: &[f32]) -> usize {
        match self {
            Self::Scores { output, start } => {
                let scores = outputs[*start..*start + output.values()].iter().enumerate();
                scores
                    .fold(
                        (0, f32::NEG_INFINITY),
                        |best, (class, score)| {
                            if *score > best.1 { (class, *score) } else { best }
                        },
                    )
                    .0
            }
            Self::Class { start, .. } => outputs[*start] as usize,
            Self::Threshold { start, above, .. } => usize::from(f64::from(outputs[*start]) >= *above),
            Self::Number { .. } => 0,
        }
    }

    /// Returns the score, and whether it was a hit; none where the output has no score.
    fn score(&self, outputs: &[f32], class: usize) -> Option<(f64, Hit)> {
        let hit = |is_hit: bool| if is_hit { Hit::Yes } else { Hit::No };
        match self {
            Self::Scores { output, start } if output.values() == 2 => {
                Some((f64::from(outputs[start + 1]), hit(class == 1)))
            }
            Self::Scores { start, .. } => {
                let predicted = self.predicted(outputs);
                Some((f64::from(outputs[start + predicted]), hit(class == predicted)))
            }
            Self::Threshold { start, .. } => Some((f64::from(outputs[*start]), hit(class == 1))),
            Self::Class { .. } | Self::Number { .. } => None,
        }
    }

    /// Returns the name of the output that is the score, and the first bin that predicts a hit.
    fn score_of(&self) -> Option<(String, u32)> {
        let half = SCORE_BINS as u32 / 2;
        match self {
            Self::Scores { output, .. } if output.values() == 2 => Some((output_name(output, 1), half)),
            Self::Scores { output, .. } => Some((output.name.clone(), 0)),
            Self::Threshold { output, above, .. } => {
                let from = (above * SCORE_BINS as f64).ceil().clamp(0.0, SCORE_BINS as f64);
                Some((output_name(output, 0), from as u32))
            }
            Self::Class { .. } | Self::Number { .. } => None,
        }
    }

    /// Returns the class that a label names.
    fn class(&self, label: &Label) -> Result<usize, LabelsError> {
        let classes = self.classes();
        let by_name = |name: &str| classes.iter().position(|class| class == name);
        let by_number = |number: f64| {
            let whole = (number.fract() == 0.0 && number.abs() < 1e9).then_some(number as i64)?;
            // Where classes are written as numbers, a number is one of them; else it is the position.
            if classes.iter().any(|class| class.parse::<i64>().is_ok()) {
                return by_name(&whole.to_string());
            }
            usize::try_from(whole).ok().filter(|position| *position < classes.len())
        };
        let found = match label {
            Label::Number(number) => by_number(*number),
            Label::Name(name) => by_name(name).or_else(|| match name.as_str() {
                "true" | "True" => by_number(1.0),
                "false" | "False" => by_number(0.0),
                _ => by_number(name.parse().ok()?),
            }),
        };
        found.ok_or_else(|| LabelsError::Unknown {
            label: match label {
                Label::Number(number) => number.to_string(),
                Label::Name(name) => name.clone(),
            },
            output: self.output().map(|output| output.name.clone()).unwrap_or_default(),
            classes: classes.iter().map(|class| format!("`{}`", shown(class))).collect::<Vec<_>>().join(", "),
        })
    }
}

fn judge_classes(
    subject: &Subject<'_>,
    labelled: &[Labelled<'_>],
    notes: &mut Vec<String>,
) -> Result<JudgedByLabels, LabelsError> {
    let classes = subject.classes().len();
    let mut confusion = (classes <= CLASSES_MAX).then(|| Confusion::of_classes(classes));
    if confusion.is_none() {
        notes.push(format!("metrics are left out: the model has more than {CLASSES_MAX} classes"));
    }
    let mut scored = Vec::new();
    for one in labelled {
        let class = subject.class(one.label)?;
        if let Some(confusion) = &mut confusion {
            confusion.add(class, subject.predicted(one.outputs));
        }
        scored.extend(subject.score(one.outputs, class).map(|(score, hit)| (one.at_us, score, hit)));
    }
    let mut judged = JudgedByLabels::default();
    if let Some(found) = confusion.and_then(|confusion| confusion.metrics()) {
        let values = [
            ("accuracy", found.accuracy),
            ("precision", found.precision),
            ("recall", found.recall),
            ("f1", found.f1),
            ("mcc", found.mcc),
        ];
        judged.metrics = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    }
    let Some((output, positive_from)) = subject.score_of() else { return Ok(judged) };
    if scored.iter().any(|(_, score, _)| !(-1e-6..=1.0 + 1e-6).contains(score)) {
        notes.push(format!(
            "what scores are worth is left out: `{}` is not between 0 and 1, so that it is no probability",
            shown(&output)
        ));
        return Ok(judged);
    }
    let error = held_back_error(&scored, positive_from).ok_or(LabelsError::TooShort)?;
    let calibration = calibration(scored.iter(), positive_from);
    judged.scores = Some(ScoreProfile { output, calibration, error: error.clamp(0.0, 1.0) });
    Ok(judged)
}

type Scored = (i64, f64, Hit);

fn calibration<'s>(scored: impl Iterator<Item = &'s Scored>, positive_from: u32) -> Calibration {
    let mut calibration = Calibration { positive_from, ..Calibration::default() };
    scored.for_each(|(_, score, hit)| calibration.add(*score, *hit));
    calibration
}

/// Returns how wrong calibrations were on blocks that they were not made of: the mean over the held-back predictions. Blocks
/// are as long as leaves enough of them; none where even the shortest are too few.
fn held_back_error(scored: &[Scored], positive_from: u32) -> Option<f64> {
    let blocks_of = |span_s: u64| {
        let span_us = span_s as i64 * 1_000_000;
        (span_us, scored.iter().map(|(at_us, ..)| at_us.div_euclid(span_us)).collect::<BTreeSet<i64>>())
    };
    let (span_us, blocks) =
        SPANS_S.iter().rev().map(|span_s| blocks_of(*span_s)).find(|(_, blocks)| blocks.len() >= FOLDS)?;
    let ranks: BTreeMap<i64, usize> =
        blocks.into_iter().enumerate().map(|(rank, block)| (block, rank)).collect();
    let fold_of =
        |(at_us, ..): &&Scored| ranks.get(&at_us.div_euclid(span_us)).map_or(0, |rank| rank % FOLDS);
    let (mut sum, mut count) = (0.0, 0.0);
    for fold in 0..FOLDS {
        let made = calibration(scored.iter().filter(|one| fold_of(one) != fold), positive_from);
        let seen = calibration(scored.iter().filter(|one| fold_of(one) == fold), positive_from);
        let held_back = seen.totals.iter().sum::<u64>() as f64;
        if let Some(error) = made.error(&seen) {
            sum += error * held_back;
            count += held_back;
        }
    }
    (count > 0.0).then(|| sum / count)
}

fn number_metrics(labelled: &[Labelled<'_>], start: usize) -> BTreeMap<String, f64> {
    let number = |label: &Label| match label {
        Label::Number(number) => Some(*number),
        Label::Name(name) => name.parse().ok(),
    };
    let pairs: Vec<(f64, f64)> = labelled
        .iter()
        .filter_map(|one| Some((f64::from(one.outputs[start]), number(one.label)?)))
        .filter(|(_, label)| label.is_finite())
        .collect();
    if pairs.is_empty() {
        return BTreeMap::new();
    }
    let mean_of = |of: &dyn Fn(f64, f64) -> f64| {
        pairs.iter().map(|(predicted, label)| of(*predicted, *label)).sum::<f64>() / pairs.len() as f64
    };
    // Computed once and never merged: the steps in which gateways count would round errors that are small beside the labels.
    let mean = mean_of(&|_, label| label);
    let variance = mean_of(&|_, label| (label - mean).powi(2));
    let mean_square = mean_of(&|predicted, label| (predicted - label).powi(2));
    let values = [
        ("mae", Some(mean_of(&|predicted, label| (predicted - label).abs()))),
        ("rmse", Some(mean_square.sqrt())),
        ("bias", Some(mean_of(&|predicted, label| predicted - label))),
        ("r2", (variance > 0.0).then(|| 1.0 - mean_square / variance)),
    ];
    values.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
