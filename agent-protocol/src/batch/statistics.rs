//! Statistics in columns: summaries that merge by addition, so that a fleet is the sum of its devices.
//!
//! A row is one figure over one span of time: how many, mean, spread, extremes and, where asked, a sketch of the
//! distribution. Computes nothing itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::column::{Deltas, Indexes};
use super::events::{position_of, text_at};
use super::instance::Instance;
use super::{Columns, Stream, require_lengths, require_within};
use crate::limits::{BINS_MAX, INSTANCES_MAX, ROWS_MAX, TEXTS_MAX};
use crate::list::{List, TooMany};
use crate::text::Words;

/// Growth from one bin of a sketch to the next: a value `v > 0` falls into the bin `ceil(ln v / ln SKETCH_GAMMA)`, and what
/// a bin stands for is right within one percent. *Source*: DDSketch, with a relative accuracy of 1 %.
pub const SKETCH_GAMMA: f64 = 1.01 / 0.99;

/// How many, mean, spread and extremes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// How many values. *Range*: from 1.
    pub count: u64,
    /// Mean.
    pub mean: f64,
    /// Sum of squared differences from the mean.
    #[serde(default)]
    pub m2: f64,
    /// Smallest.
    pub low: f64,
    /// Largest.
    pub high: f64,
}

/// Bins of a sketch: position and count.
type Bins = List<(i32, u64), BINS_MAX>;

/// Statistics in columns.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Statistics {
    /// Whose figures they are.
    pub instances: List<Instance, INSTANCES_MAX>,
    /// Texts that the rows name.
    pub texts: List<Words, TEXTS_MAX>,
    /// Positions in `instances`; null for a figure of the device.
    pub instance: List<Option<u32>, ROWS_MAX>,
    /// What kind of figure, as in `output`, `feature`, `latency_us`: positions in `texts`.
    pub kind: Indexes,
    /// Which output or feature: positions in `texts`.
    pub element: List<Option<u32>, ROWS_MAX>,
    /// Where the span begins, event time in microseconds since 1970. The first, then differences.
    pub from_us: Deltas,
    /// Its length in microseconds.
    pub span_us: List<u64, ROWS_MAX>,
    /// How many values.
    pub count: List<u64, ROWS_MAX>,
    /// Their means.
    pub mean: List<f64, ROWS_MAX>,
    /// Sums of squared differences from the mean.
    pub m2: List<f64, ROWS_MAX>,
    /// The smallest.
    pub low: List<f64, ROWS_MAX>,
    /// The largest.
    pub high: List<f64, ROWS_MAX>,
    /// Sketches, empty where there is none; left out where no row has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bins: Option<List<Bins, ROWS_MAX>>,
}

/// One figure of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StatisticRow<'a> {
    /// Position of its instance; none for a figure of the device.
    pub instance: Option<u32>,
    /// What kind of figure.
    pub kind: &'a str,
    /// Which output or feature.
    pub element: &'a str,
    /// Where the span begins, event time in microseconds since 1970.
    pub from_us: i64,
    /// Its length in microseconds.
    pub span_us: u64,
    /// The figure.
    pub summary: Summary,
    /// The sketch; empty where there is none.
    pub bins: &'a [(i32, u64)],
}

impl Statistics {
    /// Adds an instance; returns its position.
    ///
    /// *Errors*: there are [`INSTANCES_MAX`] already: begin another batch.
    pub fn add_instance(&mut self, instance: Instance) -> Result<u32, TooMany> {
        self.instances.push(instance)?;
        Ok(self.instances.len() as u32 - 1)
    }

    /// Adds a figure.
    ///
    /// *Errors*: the batch or its dictionary is full: begin another.
    pub fn push(&mut self, row: &StatisticRow<'_>) -> Result<(), TooMany> {
        if self.kind.len() >= ROWS_MAX || self.texts.len() + 2 > TEXTS_MAX || row.bins.len() > BINS_MAX {
            return Err(TooMany(ROWS_MAX));
        }
        let kind = position_of(&mut self.texts, if row.kind.is_empty() { "unknown" } else { row.kind })?;
        let element = position_of(&mut self.texts, row.element)?;
        let rows = self.kind.len();
        self.kind.push(kind.unwrap_or_default())?;
        self.instance.push(row.instance)?;
        self.element.push(element)?;
        self.from_us.push(row.from_us);
        self.span_us.push(row.span_us)?;
        let Summary { count, mean, m2, low, high } = row.summary;
        self.count.push(count)?;
        self.mean.push(mean)?;
        self.m2.push(m2)?;
        self.low.push(low)?;
        self.high.push(high)?;
        if !row.bins.is_empty() || self.bins.is_some() {
            let bins = self.bins.get_or_insert_with(|| List::first_of((0..rows).map(|_| Bins::new())));
            bins.push(Bins::first_of(row.bins.iter().copied()))?;
        }
        Ok(())
    }

    /// Returns the rows in order; of columns that are sound.
    pub fn iter(&self) -> impl Iterator<Item = StatisticRow<'_>> {
        (0..self.kind.len()).map_while(|row| {
            let summary = Summary {
                count: *self.count.get(row)?,
                mean: *self.mean.get(row)?,
                m2: *self.m2.get(row)?,
                low: *self.low.get(row)?,
                high: *self.high.get(row)?,
            };
            Some(StatisticRow {
                instance: *self.instance.get(row)?,
                kind: text_at(&self.texts, Some(*self.kind.get(row)?))?,
                element: text_at(&self.texts, *self.element.get(row)?)?,
                from_us: *self.from_us.get(row)?,
                span_us: *self.span_us.get(row)?,
                summary,
                bins: match &self.bins {
                    Some(bins) => bins.get(row)?,
                    None => &[],
                },
            })
        })
    }
}

impl Columns for Statistics {
    const STREAM: Stream = Stream::Statistics;

    fn rows(&self) -> usize {
        self.kind.len()
    }

    fn require_sound(&self) -> Result<(), Words> {
        let rows = self.rows();
        let columns = [
            ("instance", self.instance.len()),
            ("element", self.element.len()),
            ("from_us", self.from_us.len()),
            ("span_us", self.span_us.len()),
            ("count", self.count.len()),
            ("mean", self.mean.len()),
            ("m2", self.m2.len()),
            ("low", self.low.len()),
            ("high", self.high.len()),
            ("bins", self.bins.as_ref().map_or(rows, |bins| bins.len())),
        ];
        require_lengths(rows, &columns)?;
        self.instances.iter().try_for_each(Instance::require_sound)?;
        require_within("instance", self.instance.iter().copied().flatten(), self.instances.len())?;
        require_within("kind", self.kind.iter().copied(), self.texts.len())?;
        require_within("element", self.element.iter().copied().flatten(), self.texts.len())?;
        let wrong = self.iter().find(|row| {
            let Summary { count, mean, m2, low, high } = row.summary;
            let is_finite = [mean, m2, low, high].iter().all(|value| value.is_finite());
            count == 0 || !is_finite || m2 < 0.0 || low > high
        });
        match wrong {
            Some(row) => Err(Words::cut(&format!("a figure of `{}` contradicts itself", row.kind))),
            None => Ok(()),
        }
    }
}
