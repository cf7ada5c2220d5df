//! Label outputs: outputs whose one value is the class itself and not a score a class.
//!
//! Turns what a model or a training framework says, a text or an integer, into the position in `post.labels`. Never
//! rounds or guesses: what is no label is none.

use std::collections::HashMap;

use crate::manifest::{OutputKind, OutputSpec};

impl OutputSpec {
    /// Returns whether the output is a label: a classification of one value with two or more labels.
    #[must_use]
    pub fn is_label(&self) -> bool {
        self.kind == OutputKind::Classification && self.values() == 1 && self.post.labels.len() >= 2
    }
}

/// The positions of an output's labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelPositions {
    texts: HashMap<String, usize>,
    integers: Integers,
    count: usize,
}

/// What an integer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Integers {
    /// Some label is written as an integer: the integer is a label.
    Labels,
    /// None is: it is the position.
    Positions,
}

impl LabelPositions {
    /// Returns the positions of a label output's labels; `None` for any other output.
    #[must_use]
    pub fn of(output: &OutputSpec) -> Option<Self> {
        if !output.is_label() {
            return None;
        }
        let labels = &output.post.labels;
        let is_integer = |label: &String| label.parse::<i64>().is_ok();
        let integers = if labels.iter().any(is_integer) { Integers::Labels } else { Integers::Positions };
        // The first of equal labels is the one that is shown.
        let texts =
            labels.iter().enumerate().rev().map(|(position, label)| (label.clone(), position)).collect();
        Some(Self { texts, integers, count: labels.len() })
    }

    /// Returns the position of a label by its text.
    #[must_use]
    pub fn of_text(&self, text: &str) -> Option<usize> {
        self.texts.get(text).copied()
    }

    /// Returns the position that an integer stands for: that of the label with its decimal text where labels are
    /// integers, else itself.
    #[must_use]
    pub fn of_integer(&self, integer: i64) -> Option<usize> {
        match self.integers {
            Integers::Labels => self.of_text(&integer.to_string()),
            Integers::Positions => usize::try_from(integer).ok().filter(|position| *position < self.count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Dim, PostProcessing};

    fn positions(labels: &[&str]) -> Option<LabelPositions> {
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        LabelPositions::of(&OutputSpec {
            name: "label".to_owned(),
            kind: OutputKind::Classification,
            shape: vec![Dim::Named("batch".to_owned())],
            unit: None,
            post: PostProcessing { labels, ..PostProcessing::default() },
        })
    }

    #[test]
    fn texts_and_integers_have_the_position_of_their_label() {
        let named = positions(&["sound", "worn"]).unwrap();
        assert_eq!((named.of_text("worn"), named.of_text("Worn")), (Some(1), None));
        assert_eq!((named.of_integer(1), named.of_integer(2), named.of_integer(-1)), (Some(1), None, None));
        let numbered = positions(&["-1", "1"]).unwrap();
        assert_eq!(
            (numbered.of_integer(-1), numbered.of_integer(1), numbered.of_integer(0)),
            (Some(0), Some(1), None)
        );
    }

    #[test]
    fn one_label_makes_no_label_output() {
        assert_eq!(positions(&["only"]), None);
    }
}
