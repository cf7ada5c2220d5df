//! Trees as the attributes describe them, in one form for all three operators: branches, leaves and roots by position.
//!
//! Holds what was read and merges chains of equalities into sets; whether it is a forest at all `forest` finds out.

use std::fmt;

use super::numbers::Real;

/// Goes to the true child if the value is less than the threshold.
pub(super) const LESS: u8 = 1;
/// Likewise if it is equal.
pub(super) const EQUAL: u8 = 2;
/// Likewise if it is greater.
pub(super) const GREATER: u8 = 4;
/// Likewise if it is missing, which is NaN.
pub(super) const MISSING: u8 = 8;

/// What a node leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Child {
    /// A position among the branches.
    Branch(u32),
    /// A number of a leaf.
    Leaf(u32),
}

impl fmt::Display for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Branch(position) => write!(f, "branch {position}"),
            Self::Leaf(number) => write!(f, "leaf {number}"),
        }
    }
}

/// A node that asks for one feature.
#[derive(Debug, Clone, Copy)]
pub(super) struct Branch<T> {
    pub(super) feature: u32,
    /// The threshold, or for a set the position of the set.
    pub(super) test: Test<T>,
    pub(super) on_true: Child,
    pub(super) on_false: Child,
}

/// The question of a branch.
#[derive(Debug, Clone, Copy)]
pub(super) enum Test<T> {
    /// Whether one of the relations (a sum of [`LESS`] and its like) holds to the threshold.
    Threshold { threshold: T, relations: u8 },
    /// Whether the value is in the set at this position; [`MISSING`] as for thresholds, no other relation.
    Set { set: u32, relations: u8 },
}

/// Whether a leaf may be named by several branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeafSharing {
    /// The leaves are nodes of a tree.
    Refused,
    /// The leaves are a list apart.
    Allowed,
}

/// All trees.
#[derive(Debug)]
pub(super) struct Sketch<T> {
    pub(super) branches: Vec<Branch<T>>,
    /// In the order in which their sums are added.
    pub(super) roots: Vec<Child>,
    pub(super) leaves: u32,
    pub(super) sets: Vec<Vec<T>>,
    pub(super) sharing: LeafSharing,
}

impl<T: Real> Sketch<T> {
    /// Makes one branch with a set of each chain of equalities on one feature that share their true child.
    ///
    /// Converters of LightGBM write categories so, the only shared children that ONNX Runtime takes.
    /// Returns which branches are gone into another.
    pub(super) fn merge_chains(&mut self) -> Vec<bool> {
        let mut absorbed = vec![false; self.branches.len()];
        let mut parents = vec![0_u8; self.branches.len()];
        for branch in &self.branches {
            for child in [branch.on_true, branch.on_false] {
                if let Child::Branch(position) = child {
                    let count = &mut parents[position as usize];
                    *count = count.saturating_add(1);
                }
            }
        }
        let follower =
            |position: usize| self.chained(position).filter(|next| parents[*next] == 1 && *next != position);
        let followers: Vec<Option<usize>> = (0..self.branches.len()).map(follower).collect();
        let mut follows = vec![false; self.branches.len()];
        followers.iter().flatten().for_each(|next| follows[*next] = true);
        // A chain that closes to a ring has no start and stays, to be refused as unreachable.
        for start in (0..self.branches.len()).filter(|start| !follows[*start]) {
            self.merge_chain(start, &followers, &mut absorbed);
        }
        absorbed
    }

    fn merge_chain(&mut self, start: usize, followers: &[Option<usize>], absorbed: &mut [bool]) {
        let Test::Threshold { relations, .. } = self.branches[start].test else { return };
        if followers[start].is_none() {
            return;
        }
        let mut values = Vec::new();
        let mut last = start;
        let mut next = Some(start);
        while let Some(position) = next {
            if let Test::Threshold { threshold, .. } = self.branches[position].test {
                values.push(threshold);
            }
            absorbed[position] = position != start;
            last = position;
            next = followers[position];
        }
        let set = u32::try_from(self.sets.len()).unwrap_or(u32::MAX);
        self.sets.push(values);
        self.branches[start].test = Test::Set { set, relations: relations & MISSING };
        self.branches[start].on_false = self.branches[last].on_false;
    }

    fn chained(&self, position: usize) -> Option<usize> {
        let branch = &self.branches[position];
        let Child::Branch(next) = branch.on_false else { return None };
        let other = &self.branches[next as usize];
        let equality = |branch: &Branch<T>| match branch.test {
            Test::Threshold { relations, .. } if relations & !MISSING == EQUAL => Some(relations),
            _ => None,
        };
        let relations = equality(branch)?;
        let alike = equality(other) == Some(relations)
            && other.feature == branch.feature
            && other.on_true == branch.on_true;
        alike.then_some(next as usize)
    }
}
