//! What of a summary may leave the gateway: not the few, not the rare, and where asked not the exact.
//!
//! Pure; numbers from chance are passed in. Says nothing of raw readings: they are in no summary.
//!
//! *Source*: the two-sided geometric mechanism, Ghosh, Roughgarden and Sundararajan (2009).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bins::Bins;
use crate::moments::Moments;
use crate::summary::Summary;

/// What may leave the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Privacy {
    /// Summaries of fewer values are held back, and merged with the next.
    pub values_min: u64,
    /// Names of categories that were seen less often are counted with the others.
    pub name_min: u64,
    /// Privacy loss of one summary (ε): counts get noise; left out for none. *Range*: above 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
}

impl Default for Privacy {
    fn default() -> Self {
        Self { values_min: 20, name_min: 10, epsilon: None }
    }
}

impl Privacy {
    /// Returns what may leave of a summary; none where it is of too few values. `chance` gives numbers between 0 and 1, evenly.
    ///
    /// With noise the sums and extremes stay behind, since each of them is exact: mean and distance come from the bins alone.
    #[must_use]
    pub fn released(
        &self,
        summary: &Summary,
        bins: &Bins,
        chance: &mut impl FnMut() -> f64,
    ) -> Option<Summary> {
        if summary.values() < self.values_min {
            return None;
        }
        let mut released = summary.clone();
        if let (Bins::Names(_), Some((others, named))) = (bins, released.counts.split_last_mut()) {
            for count in named.iter_mut().filter(|count| **count < self.name_min) {
                *others += std::mem::take(count);
            }
        }
        if let Some(epsilon) = self.epsilon {
            for count in released.counts.iter_mut().chain(&mut released.flaws) {
                *count = count.saturating_add_signed(noise(epsilon, chance));
            }
            released.moments = Moments::default();
        }
        Some(released)
    }
}

/// Returns a whole number that falls off on both sides by e^−ε: what hides whether one reading was there.
fn noise(epsilon: f64, chance: &mut impl FnMut() -> f64) -> i64 {
    let mut one_sided = || (chance().max(f64::MIN_POSITIVE).ln() / -epsilon.max(1e-6)).floor() as i64;
    one_sided() - one_sided()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::Draws;
    use crate::summary::tests::{normal, of};

    #[test]
    fn few_values_stay_and_rare_names_are_others() {
        let (bins, _) = normal();
        let mut draws = Draws(1);
        let mut chance = || draws.even();
        assert_eq!(Privacy::default().released(&of(&[0.0; 19]), &bins, &mut chance), None);
        let whole = of(&[0.0; 20]);
        assert_eq!(Privacy::default().released(&whole, &bins, &mut chance), Some(whole));
        let names = Bins::Names(vec!["open".to_owned(), "jammed".to_owned()]);
        let mut summary = Summary::empty(3);
        summary.counts = vec![50, 9, 2];
        let released = Privacy::default().released(&summary, &names, &mut chance).unwrap();
        assert_eq!(released.counts, [50, 0, 11]);
    }

    #[test]
    fn noise_is_even_falls_off_as_said_and_leaves_nothing_exact() {
        let (bins, epsilon) = (normal().0, 0.5);
        let mut draws = Draws(2);
        let drawn: Vec<i64> = (0..100_000).map(|_| noise(epsilon, &mut || draws.even())).collect();
        let share =
            |value: i64| drawn.iter().filter(|drawn| **drawn == value).count() as f64 / drawn.len() as f64;
        let keep = f64::exp(-epsilon);
        for value in -4..=4i64 {
            // P(k) = (1 − α) / (1 + α) α^|k|.
            let expected = (1.0 - keep) / (1.0 + keep) * keep.powi(value.unsigned_abs() as i32);
            assert!((share(value) - expected).abs() < 0.005, "{value}: {} {expected}", share(value));
        }
        let privacy = Privacy { epsilon: Some(epsilon), ..Privacy::default() };
        let released = privacy.released(&of(&[0.0; 200]), &bins, &mut || draws.even()).unwrap();
        assert_eq!(released.moments, Moments::default());
        assert!((150..260).contains(&released.values()), "{released:?}");
    }
}
