//! A profile drawn with characters: histograms, quantiles, and how far its own blocks were from it.
//!
//! Pure: a profile and a width in, lines out. Bars are densities: bins have about equal counts, so that their counts would
//! draw a straight line.

use dunlin_drift::bins::{Bins, quantile};
use dunlin_drift::reference::{Blocks, Reference};
use dunlin_drift::scores::missing_share;
use dunlin_model_package::profile::{FeatureProfile, Profile};
use dunlin_trust::time::UnixTime;

use crate::print::{Style, shown};

/// Rows of a histogram.
const ROWS: usize = 4;
/// Most columns of a histogram: more tell nothing that 21 bins do not.
const BARS_MAX: usize = 72;
/// Fewest columns that anything is drawn in.
const COLUMNS_MIN: usize = 32;
/// Part of the range between the outer cut points that is drawn beyond them.
const BEYOND: f64 = 0.35;
/// Shares at which blocks' scores are shown.
const BLOCK_SHARES: [f64; 3] = [0.5, 0.95, 1.0];
/// Shares at which values are shown, in per cent.
const VALUE_SHARES: [u32; 5] = [5, 25, 50, 75, 95];

/// What is drawn with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// Blocks of Unicode, eight heights a character.
    Blocks,
    /// Characters of ASCII, three heights.
    Ascii,
}

impl Ink {
    const fn heights(self) -> &'static [char] {
        match self {
            Self::Blocks => &[' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
            Self::Ascii => &[' ', '.', ':', '#'],
        }
    }

    const fn bar(self) -> char {
        match self {
            Self::Blocks => '█',
            Self::Ascii => '#',
        }
    }
}

/// How it is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Columns of the terminal.
    pub columns: usize,
    /// What is drawn with.
    pub ink: Ink,
    /// Scores of peers and what is usual too.
    pub all: bool,
}

/// Parts of a line with their styles.
pub type Line = Vec<(Style, String)>;

/// Draws a profile.
#[must_use]
pub fn draw(profile: &Profile, view: &View) -> Vec<Line> {
    let view = View { columns: view.columns.max(COLUMNS_MIN), ..*view };
    let mut lines = head(profile, &view);
    for (name, feature) in &profile.features {
        lines.push(Line::new());
        let unit = feature.unit.as_deref().unwrap_or_default();
        lines.push(vec![(Style::Strong, name.clone()), (Style::Plain, format!("  {unit}"))]);
        lines.extend(body(&feature.reference, unit, &view));
        if view.all {
            lines.extend(usual(feature, unit, &view));
        }
    }
    for (name, reference) in &profile.outputs {
        lines.push(Line::new());
        lines.push(vec![(Style::Strong, name.clone()), (Style::Plain, "  output".to_owned())]);
        lines.extend(body(reference, "", &view));
    }
    if let Some(together) = &profile.together {
        lines.push(Line::new());
        let text = format!(
            "{} of {} components of {}",
            together.subspace.components.len(),
            together.features.len(),
            together.features.join(", ")
        );
        lines.push(vec![(Style::Strong, "together".to_owned()), (Style::Plain, format!("  {text}"))]);
        for (name, reference) in
            [("T2, within the components", &together.t2), ("Q, from the components", &together.q)]
        {
            lines.push(faint(format!("  {name}")));
            lines.extend(blocks("blocks", &reference.blocks));
        }
    }
    lines.into_iter().map(|line| cut(line, view.columns)).collect()
}

fn head(profile: &Profile, view: &View) -> Vec<Line> {
    let made_of = &profile.made_of;
    let time = |us: i64| UnixTime(us.div_euclid(1_000_000));
    let mut lines = wrapped(
        &[
            format!("{} readings of {} series", made_of.rows, made_of.series),
            format!("{} to {}", time(made_of.from_us), time(made_of.to_us)),
        ],
        "",
        view,
    );
    if !profile.metrics.is_empty() {
        let metric = |(name, value): (&String, &f64)| format!("{name} {}", number(*value));
        lines.extend(wrapped(&profile.metrics.iter().map(metric).collect::<Vec<_>>(), "", view));
    }
    if let Some(scores) = &profile.scores {
        let text = format!("estimates from `{}` wrong by {:.1} points", scores.output, scores.error * 100.0);
        lines.extend(wrapped(&[text, "on held-back blocks".to_owned()], "", view));
    }
    lines
}

fn body(reference: &Reference, unit: &str, view: &View) -> Vec<Line> {
    let mut lines = match (&reference.bins, range(reference)) {
        (Bins::Edges(edges), Some(range)) => histogram(reference, edges, range, unit, view),
        (Bins::Names(names), _) => bars(reference, names, view),
        (Bins::Edges(_), None) => Vec::new(),
    };
    let values: u64 = reference.counts.iter().sum();
    let missing = missing_share(&reference.summary()) * 100.0;
    lines.push(faint(format!("  {values} values, {} % missing", number(missing))));
    lines.extend(blocks("blocks", &reference.blocks));
    if view.all && !reference.peers.is_empty() {
        lines.extend(blocks("peers", &reference.peers));
    }
    lines
}

/// Returns the lowest and the highest value.
fn range(reference: &Reference) -> Option<(f64, f64)> {
    let (scale, sums) = (reference.scale?, reference.sums?);
    Some((scale.value(f64::from(sums.low)), scale.value(f64::from(sums.high))))
}

/// Returns the bins as low end, high end and count.
fn bins(reference: &Reference, edges: &[f64], (low, high): (f64, f64)) -> Vec<(f64, f64, f64)> {
    let begins = std::iter::once(low.min(edges[0])).chain(edges.iter().copied());
    let last = edges[edges.len() - 1];
    let ends = edges.iter().copied().chain(std::iter::once(high.max(last)));
    begins.zip(ends).zip(&reference.counts).map(|((from, to), count)| (from, to, *count as f64)).collect()
}

fn histogram(
    reference: &Reference,
    edges: &[f64],
    (low, high): (f64, f64),
    unit: &str,
    view: &View,
) -> Vec<Line> {
    if edges.is_empty() {
        return Vec::new();
    }
    let bins = bins(reference, edges, (low, high));
    let step = reference.scale.map_or(0.0, |scale| scale.step);
    let inner = edges[edges.len() - 1] - edges[0];
    let (from, to) = if inner > 0.0 {
        ((edges[0] - BEYOND * inner).max(low), (edges[edges.len() - 1] + BEYOND * inner).min(high))
    } else {
        (low, high)
    };
    let columns = (view.columns - 4).min(BARS_MAX);
    let (from, to) = if to > from { (from, to) } else { (from - 0.5, from + 0.5) };
    let heights = densities(&bins, from, to, columns);
    let mut lines: Vec<Line> =
        rows(&heights, view.ink).into_iter().map(|row| vec![(Style::Drawn, format!("  {row}"))]).collect();
    let (begin, end) = (whole(from, step), whole(to, step));
    let gap = columns.saturating_sub(begin.chars().count() + end.chars().count());
    lines.push(vec![(Style::Faint, format!("  {begin}{}{end}", " ".repeat(gap.max(1))))]);
    let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
    let mut texts = vec![format!("min {}", whole(low, step))];
    for share in VALUE_SHARES {
        texts.push(format!("{share} % {}", number(value_at(&bins, f64::from(share) / 100.0))));
    }
    texts.push(format!("max {}{unit}", whole(high, step)));
    lines.extend(wrapped(&texts, "  ", view));
    lines
}

/// Returns the density in each of some columns, from 0 to 1: values are taken as even within a bin.
fn densities(bins: &[(f64, f64, f64)], from: f64, to: f64, columns: usize) -> Vec<f64> {
    let width = (to - from) / columns as f64;
    let mut heights = vec![0.0; columns];
    for (begin, end, count) in bins {
        for (column, height) in heights.iter_mut().enumerate() {
            let (left, right) = (from + width * column as f64, from + width * (column + 1) as f64);
            let shared = end.min(right) - begin.max(left);
            if shared > 0.0 {
                *height += count * shared / (end - begin);
            } else if begin == end && (left..right).contains(begin) {
                *height += count;
            }
        }
    }
    let highest = heights.iter().copied().fold(0.0, f64::max);
    heights.iter().map(|height| if highest > 0.0 { height / highest } else { 0.0 }).collect()
}

/// Returns the rows of a drawing, the upper first.
fn rows(heights: &[f64], ink: Ink) -> Vec<String> {
    let marks = ink.heights();
    let steps = (marks.len() - 1) as f64;
    let mark = |height: f64, row: usize| {
        let filled = (height * ROWS as f64 - row as f64).clamp(0.0, 1.0);
        // What is there at all shows in the lowest row.
        let least = f64::from(u8::from(row == 0 && height > 0.0));
        marks[((filled * steps).round().max(least)) as usize]
    };
    (0..ROWS).rev().map(|row| heights.iter().map(|height| mark(*height, row)).collect()).collect()
}

/// Returns the value below which a share of the values lies.
fn value_at(bins: &[(f64, f64, f64)], share: f64) -> f64 {
    let whole: f64 = bins.iter().map(|(_, _, count)| count).sum();
    let mut left = whole * share;
    for (begin, end, count) in bins {
        if left <= *count && *count > 0.0 {
            return begin + (end - begin) * left / count;
        }
        left -= count;
    }
    bins.last().map_or(f64::NAN, |(_, end, _)| *end)
}

fn bars(reference: &Reference, names: &[String], view: &View) -> Vec<Line> {
    const NAME_MAX: usize = 20;
    let whole = reference.counts.iter().sum::<u64>().max(1) as f64;
    let short = |name: &str| shown(name).chars().take(NAME_MAX).collect::<String>();
    let names = names.iter().map(|name| short(name)).chain(std::iter::once("(others)".to_owned()));
    let longest = (view.columns - 4).min(BARS_MAX).saturating_sub(NAME_MAX + 9);
    let mut lines = Vec::new();
    for (name, count) in names.zip(&reference.counts) {
        let share = *count as f64 / whole;
        let bar: String =
            std::iter::repeat_n(view.ink.bar(), (share * longest as f64).round() as usize).collect();
        lines.push(vec![
            (Style::Plain, format!("  {name:NAME_MAX$} {:>6.2} % ", share * 100.0)),
            (Style::Drawn, bar),
        ]);
    }
    lines
}

/// Returns the table of blocks' scores by length.
fn blocks(title: &str, all: &std::collections::BTreeMap<u64, Blocks>) -> Vec<Line> {
    let mut lines = vec![faint(format!(
        "  {title:7}  scores  {:>19}  {:>19}  {:>17}",
        "PSI 50/95/100 %", "distance/sd", "missing %"
    ))];
    for (span_s, blocks) in all {
        let of = |scores: &[f32], factor: f64| {
            let sorted: Vec<f64> = scores.iter().map(|score| f64::from(*score) * factor).collect();
            if sorted.is_empty() {
                return "-".to_owned();
            }
            BLOCK_SHARES.map(|share| number(quantile(&sorted, share))).join(" ")
        };
        // Of categories there is no distance, but the share that moved.
        let distance = if blocks.wasserstein_sd.iter().any(|score| *score > 0.0) {
            &blocks.wasserstein_sd
        } else {
            &blocks.ks
        };
        lines.push(vec![(
            Style::Plain,
            format!(
                "  {:7}  {:>6}  {:>19}  {:>19}  {:>17}",
                span_text(*span_s),
                blocks.psi.len(),
                of(&blocks.psi, 1.0),
                of(distance, 1.0),
                of(&blocks.missing, 100.0)
            ),
        )]);
    }
    lines
}

fn usual(feature: &FeatureProfile, unit: &str, view: &View) -> Vec<Line> {
    let mut texts = Vec::new();
    if let Some((low, high)) = feature.range {
        texts.push(format!("the sensor says {} to {} {unit}", number(low), number(high)));
    }
    if let Some(usual) = feature.usual {
        texts.push(format!("a reading every {} s", number(usual.interval_us as f64 / 1e6)));
        texts.push(format!("changes by {}, at most {}", number(usual.change_mean), number(usual.change_max)));
        texts.push(format!("{} equal ones in a row", usual.run));
    }
    wrapped(&texts, "  ", view)
}

fn faint(text: String) -> Line {
    vec![(Style::Faint, text)]
}

/// Returns texts beside each other, in as many lines as they take.
fn wrapped(texts: &[String], indent: &str, view: &View) -> Vec<Line> {
    let mut lines: Vec<String> = Vec::new();
    for text in texts {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 2 + text.chars().count() <= view.columns => {
                line.push_str("  ");
                line.push_str(text);
            }
            _ => lines.push(format!("{indent}{text}")),
        }
    }
    lines.into_iter().map(|line| vec![(Style::Plain, line)]).collect()
}

/// Cuts a line that is too long.
fn cut(line: Line, columns: usize) -> Line {
    let mut left = columns;
    line.into_iter()
        .map(|(style, part)| {
            // Counted as it is shown: what a terminal would obey is written out.
            let short: String = shown(&part).chars().take(left).collect();
            left -= short.chars().count();
            (style, short)
        })
        .collect()
}

/// Returns the length of a block as people say it.
#[must_use]
pub fn span_text(span_s: u64) -> String {
    match span_s {
        s if s.is_multiple_of(86_400) => format!("{} d", s / 86_400),
        s if s.is_multiple_of(3_600) => format!("{} h", s / 3_600),
        s if s.is_multiple_of(60) => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

/// Returns a number that is known to a step: without the digits below it.
fn whole(value: f64, step: f64) -> String {
    let decimals = (-step.log10()).floor();
    if !(0.0..=12.0).contains(&decimals) {
        return number(value);
    }
    let text = format!("{value:.0$}", decimals as usize);
    number(text.parse().unwrap_or(value))
}

/// Returns a number with four digits that count, without zeros at its end.
#[must_use]
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 || !value.is_finite() {
        return if value.is_finite() { "0".to_owned() } else { "-".to_owned() };
    }
    if !(1e-3..1e7).contains(&size) {
        return format!("{value:.2e}");
    }
    let decimals = (3 - size.log10().floor() as i32).max(0) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
#[path = "chart/tests.rs"]
mod tests;
