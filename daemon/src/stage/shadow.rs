//! Compares what two packages make of the same windows.
//!
//! Pure. Pairs predictions by place and window end, in whatever order they come; never keeps more than its bounds: the
//! oldest without a partner go. Stands beside the path of predictions, which does not wait for it.

use std::collections::{BTreeMap, HashMap};

use dunlin_pipeline::compiled_model::CompiledModel;
use dunlin_pipeline::lane::Place;
use dunlin_pipeline::prediction::{Prediction, WindowHead};

/// Most predictions that wait for their partner: as many windows as may be with the slots.
const WAITING_MAX: usize = 4_096;
/// Most output values that wait: 1 MB.
const VALUES_MAX: usize = 256 * 1_024;

/// Which of the two packages a prediction is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that serves.
    Serving,
    /// The one beside it.
    Shadow,
}

/// How two predictions for one window compare.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Same label, or outputs within the tolerance where there are no labels.
    pub agree: bool,
    /// Largest difference of an output, relative to `max(1, |serving|)`; infinite where their number differs.
    pub difference: f64,
}

/// A prediction that waits for its partner.
#[derive(Debug)]
struct Waiting {
    side: Side,
    at: (Place, i64),
    /// `None` where it is not valid: there is nothing to compare.
    outputs: Option<Vec<f32>>,
    label: Option<u16>,
}

/// The pairs of one model.
#[derive(Debug)]
pub struct ShadowPairs {
    /// Position among the serving package's labels, by position among the shadow's.
    labels: Vec<Option<u16>>,
    tolerance: f64,
    waiting: BTreeMap<u64, Waiting>,
    by_window: HashMap<(Place, i64), u64>,
    values: usize,
    next: u64,
}

impl ShadowPairs {
    /// Returns the comparison of a package with the one that serves; its own golden tolerance counts.
    #[must_use]
    pub fn new(serving: &CompiledModel, shadow: &CompiledModel) -> Self {
        let served = serving.post.labels();
        let position = |label: &String| served.iter().position(|known| known == label);
        let labels = shadow.post.labels().iter().map(|label| position(label).map(|found| found as u16));
        Self::of(labels.collect(), shadow.binding.manifest.golden_tolerance)
    }

    fn of(labels: Vec<Option<u16>>, tolerance: f64) -> Self {
        Self { labels, tolerance, waiting: BTreeMap::new(), by_window: HashMap::new(), values: 0, next: 0 }
    }

    /// Takes a prediction; compares it where its partner is there and both are valid.
    pub fn add(&mut self, side: Side, place: Place, prediction: &Prediction) -> Option<Comparison> {
        let WindowHead { window_end_us, flags, .. } = prediction.head;
        let at = (place, window_end_us);
        let outputs = flags.is_valid().then_some(prediction.outputs.as_slice());
        let partner = self.by_window.get(&at).and_then(|number| self.waiting.get(number));
        if partner.is_some_and(|partner| partner.side != side) {
            let partner = self.by_window.get(&at).copied().and_then(|number| self.remove(number))?;
            let (theirs, own) = (partner.outputs.as_deref()?, outputs?);
            return Some(match side {
                Side::Shadow => self.compare((theirs, partner.label), (own, prediction.label)),
                Side::Serving => self.compare((own, prediction.label), (theirs, partner.label)),
            });
        }
        let label = prediction.label;
        self.keep(Waiting { side, at, outputs: outputs.map(<[f32]>::to_vec), label });
        None
    }

    fn compare(
        &self,
        (serving, served): (&[f32], Option<u16>),
        (shadow, label): (&[f32], Option<u16>),
    ) -> Comparison {
        let difference = if serving.len() == shadow.len() {
            let pairs = serving.iter().map(|value| f64::from(*value)).zip(shadow);
            pairs.map(|(a, b)| (a - f64::from(*b)).abs() / a.abs().max(1.0)).fold(0.0, f64::max)
        } else {
            f64::INFINITY
        };
        let agree = if served.is_none() && label.is_none() {
            difference <= self.tolerance
        } else {
            let known = label.and_then(|label| self.labels.get(usize::from(label)).copied().flatten());
            known.is_some() && known == served
        };
        Comparison { agree, difference }
    }

    fn keep(&mut self, waiting: Waiting) {
        if let Some(earlier) = self.by_window.get(&waiting.at).copied() {
            self.remove(earlier);
        }
        self.values += waiting.outputs.as_ref().map_or(0, Vec::len);
        self.by_window.insert(waiting.at, self.next);
        self.waiting.insert(self.next, waiting);
        self.next += 1;
        while self.waiting.len() > WAITING_MAX || self.values > VALUES_MAX {
            let Some(oldest) = self.waiting.keys().next().copied() else { break };
            self.remove(oldest);
        }
    }

    fn remove(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&number)?;
        self.by_window.remove(&waiting.at);
        self.values -= waiting.outputs.as_ref().map_or(0, Vec::len);
        Some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunlin_model_package::Digest;
    use dunlin_pipeline::prediction::{InstanceId, InstanceIdentity, ModelIndex, PredictionId, QualityFlags};
    use proptest::prelude::*;

    fn place(key: u32) -> Place {
        Place::of(&InstanceIdentity {
            model: "m".into(),
            version: "1".into(),
            package: Digest::of(b"p"),
            key: vec![("id".into(), key.to_string())],
            outputs: vec![],
            labels: vec![],
        })
    }

    fn prediction(window_end_us: i64, outputs: &[f32], label: Option<u16>) -> Prediction {
        let flags = if outputs.is_empty() { QualityFlags::INFERENCE_FAILED } else { QualityFlags::default() };
        let head = WindowHead { model: ModelIndex(0), instance: InstanceId(0), window_end_us, flags };
        Prediction { head, id: PredictionId([0; 16]), outputs: outputs.to_vec(), label, alert: None }
    }

    /// Key and window end; the output of either side, or nothing where it failed.
    type Window = ((u32, i64), [Option<f32>; 2]);

    /// One prediction of either side for each of so many windows; failed ones are empty.
    fn windows() -> impl Strategy<Value = Vec<Window>> {
        let value = prop::option::weighted(0.8, -10.0..10.0_f32);
        let windows = prop::collection::btree_map((0..3_u32, 0..50_i64), (value.clone(), value), 0..60);
        windows.prop_map(|found| found.into_iter().map(|(at, (a, b))| (at, [a, b])).collect())
    }

    proptest! {
        #[test]
        fn every_window_that_both_answered_is_compared_once_in_any_order(
            windows in windows(), picks in prop::collection::vec(any::<prop::sample::Index>(), 120)
        ) {
            let mut pairs = ShadowPairs::of(Vec::new(), 0.5);
            let mut waiting: Vec<_> = windows.iter().flat_map(|(at, [serving, shadow])| {
                [(*at, Side::Serving, *serving), (*at, Side::Shadow, *shadow)]
            }).collect();
            let mut found = Vec::new();
            for pick in picks.iter().cycle() {
                if waiting.is_empty() {
                    break;
                }
                let ((key, end), side, value) = waiting.swap_remove(pick.index(waiting.len()));
                let outputs: Vec<f32> = value.into_iter().collect();
                found.extend(pairs.add(side, place(key), &prediction(end, &outputs, None)));
            }
            let mut expected: Vec<f64> = windows.iter().filter_map(|(_, [serving, shadow])| {
                let (serving, shadow) = (f64::from((*serving)?), f64::from((*shadow)?));
                Some((serving - shadow).abs() / serving.abs().max(1.0))
            }).collect();
            prop_assert!(found.iter().all(|one| one.agree == (one.difference <= 0.5)));
            let mut differences: Vec<f64> = found.iter().map(|one| one.difference).collect();
            differences.sort_by(f64::total_cmp);
            expected.sort_by(f64::total_cmp);
            prop_assert_eq!(differences, expected);
            prop_assert!(pairs.waiting.is_empty() && pairs.by_window.is_empty() && pairs.values == 0);
        }
    }

    #[test]
    fn what_finds_no_partner_is_bounded_and_the_newest_stay() {
        for (width, kept) in [(1, WAITING_MAX), (100, VALUES_MAX / 100)] {
            let mut pairs = ShadowPairs::of(Vec::new(), 0.0);
            let outputs = vec![1.0; width];
            let last = 2 * WAITING_MAX as i64;
            for end in 0..=last {
                pairs.add(Side::Serving, place(0), &prediction(end, &outputs, None));
                assert!(pairs.waiting.len() <= kept && pairs.values <= VALUES_MAX);
            }
            assert_eq!((pairs.waiting.len(), pairs.by_window.len()), (kept, kept));
            let found = pairs.add(Side::Shadow, place(0), &prediction(last, &outputs, None));
            assert_eq!(found, Some(Comparison { agree: true, difference: 0.0 }));
        }
    }

    #[test]
    fn labels_are_compared_by_their_text_and_outweigh_the_outputs() {
        // The shadow's label 0 is the serving package's label 1; its label 1 is unknown there.
        let mut pairs = ShadowPairs::of(vec![Some(1), None], 1e-6);
        let mut compare = |end, served, label, shadow: &[f32]| {
            pairs.add(Side::Serving, place(0), &prediction(end, &[1.0], served));
            pairs.add(Side::Shadow, place(0), &prediction(end, shadow, label)).unwrap()
        };
        assert!(compare(1, Some(1), Some(0), &[5.0]).agree);
        assert!(!compare(2, Some(0), Some(0), &[1.0]).agree);
        assert!(!compare(3, Some(1), Some(1), &[1.0]).agree);
        assert!(!compare(4, Some(1), None, &[1.0]).agree);
        let other_width = compare(5, None, None, &[1.0, 2.0]);
        assert_eq!((other_width.agree, other_width.difference), (false, f64::INFINITY));
    }
}
