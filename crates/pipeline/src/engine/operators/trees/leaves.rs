//! What leaves say, added up: the weights of all leaves, and the sums of a block of rows.
//!
//! Walks a block of rows through a forest tree by tree, in the order of the trees, since ONNX Runtime adds in that
//! order and the last bits decide ties. Never makes an output of a sum.

use tract_onnx::tract_core::internal::tract_smallvec::SmallVec;
use tract_onnx::tract_core::internal::*;

use super::forest::{Forest, Question, Tree};
use super::numbers::Real;
use super::walk::{Asker, AtMost, LANES, Less, Mixed, walk_lanes, walk_one};

/// Sums of a block in values: with their flags within a first-level cache beside the top of a tree.
const BLOCK_VALUES: usize = 2_048;
/// Rows of a block at most: those of the largest plan twice.
const BLOCK_ROWS_MAX: usize = 64;
/// From this many rows on, lanes are rows of one tree, else trees of one row.
const LANES_OF_ROWS_MIN: usize = 4;
/// Sums beyond which they are given memory: a row of any usual model, and 32 of one with a target.
const FEW: usize = 32;
/// Up to this many lanes are walked one by one.
const SINGLE_LANES_MAX: usize = 2;

/// How several leaves make one sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aggregate {
    /// Also that of an average, which is divided afterwards.
    Sum,
    Min,
    Max,
}

/// The weights of all leaves.
#[derive(Debug)]
pub(super) enum Leaves<T> {
    /// One weight a leaf, all for the same target.
    One { target: usize, weights: Vec<T> },
    /// A weight a leaf for every target.
    Dense { weights: Vec<T> },
    /// Any, by leaf from `starts[leaf]` to the next.
    Sparse { starts: Vec<u32>, targets: Vec<u32>, weights: Vec<T> },
}

impl<T: Real> Leaves<T> {
    /// Sorts weights by leaf; within a leaf their order stays.
    pub(super) fn of(leaves: usize, targets: usize, entries: &[(u32, u32)], weights: Vec<T>) -> Self {
        let mut starts = vec![0_u32; leaves + 1];
        for (leaf, _) in entries {
            starts[*leaf as usize + 1] += 1;
        }
        for leaf in 0..leaves {
            starts[leaf + 1] += starts[leaf];
        }
        let mut ends = starts.clone();
        let mut sorted = vec![(0_u32, T::default()); entries.len()];
        for ((leaf, target), weight) in entries.iter().zip(weights) {
            let end = &mut ends[*leaf as usize];
            sorted[*end as usize] = (*target, weight);
            *end += 1;
        }
        let single = starts.windows(2).all(|pair| pair[1] - pair[0] == 1);
        if let Some((target, _)) = sorted.first().filter(|_| single)
            && sorted.iter().all(|(other, _)| other == target)
        {
            let weights = sorted.iter().map(|(_, weight)| *weight).collect();
            return Self::One { target: *target as usize, weights };
        }
        let every = sorted.len() == leaves * targets
            && sorted.chunks_exact(targets).zip(starts.windows(2)).all(|(chunk, pair)| {
                (pair[1] - pair[0]) as usize == targets
                    && chunk.iter().enumerate().all(|(target, entry)| entry.0 as usize == target)
            });
        if every {
            return Self::Dense { weights: sorted.iter().map(|(_, weight)| *weight).collect() };
        }
        let targets = sorted.iter().map(|(target, _)| *target).collect();
        Self::Sparse { starts, targets, weights: sorted.into_iter().map(|(_, weight)| weight).collect() }
    }

    /// Returns whether every leaf has a weight for every target.
    pub(super) fn is_dense(&self) -> bool {
        matches!(self, Self::Dense { .. })
    }
}

/// The sums of one row: a value a target, and whether a leaf had a weight for it.
#[derive(Debug)]
pub(super) struct Row<'s, X> {
    pub(super) values: &'s mut [X],
    pub(super) seen: &'s mut [bool],
}

/// Numbers that take no memory of their own while they are few.
type Few<X> = SmallVec<[X; FEW]>;

/// Trees with what their leaves say.
#[derive(Debug)]
pub(super) struct Ensemble<T> {
    pub(super) forest: Forest<T>,
    pub(super) leaves: Leaves<T>,
    pub(super) aggregate: Aggregate,
    pub(super) targets: usize,
}

struct Sums<'s, X> {
    /// By row, then target; one a row where all weights are for one target.
    values: &'s mut [X],
    /// Likewise; of meaning where not every target has a sum from the first tree on.
    seen: &'s mut [bool],
    width: usize,
}

impl<T: Real> Ensemble<T> {
    /// Adds up rows and hands each on.
    ///
    /// *Shape*: `x` is `[row, column]`, with more columns than the highest that is asked for.
    /// *Errors*: those of `each`.
    pub(super) fn evaluate<X: Real + From<T>>(
        &self,
        x: &[X],
        columns: usize,
        mut each: impl FnMut(usize, Row<'_, X>) -> TractResult<()>,
    ) -> TractResult<()> {
        ensure!(columns > self.forest.feature_max as usize, "the input has only {columns} columns");
        let width = if matches!(self.leaves, Leaves::One { .. }) { 1 } else { self.targets };
        let rows_max = (BLOCK_VALUES / width).clamp(1, BLOCK_ROWS_MAX).min((x.len() / columns).max(1));
        let (mut values, mut seen) = (few(X::default(), rows_max * width), few(false, rows_max * width));
        let mut sums = Sums { values: &mut values, seen: &mut seen, width };
        for (index, block) in x.chunks(rows_max * columns).enumerate() {
            if index > 0 {
                sums.values.fill(X::default());
                sums.seen.fill(false);
            }
            // Folded and not left early: a loop without a way out is one of vectors.
            let missing = block.iter().fold(false, |missing, value| missing | value.is_missing());
            match self.forest.question {
                Question::AtMost if !missing => self.add_block::<X, AtMost>(block, columns, &mut sums),
                Question::Less if !missing => self.add_block::<X, Less>(block, columns, &mut sums),
                _ => self.add_block::<X, Mixed>(block, columns, &mut sums),
            }
            self.hand_on(&mut sums, block.len() / columns, index * rows_max, &mut each)?;
        }
        Ok(())
    }

    /// Hands on the rows of a block, which `first` others came before.
    fn hand_on<X: Real>(
        &self,
        sums: &mut Sums<'_, X>,
        rows: usize,
        first: usize,
        each: &mut impl FnMut(usize, Row<'_, X>) -> TractResult<()>,
    ) -> TractResult<()> {
        if let Leaves::One { target, .. } = &self.leaves {
            let (mut values, mut seen) = (few(X::default(), self.targets), few(false, self.targets));
            for (row, sum) in sums.values[..rows].iter().enumerate() {
                values.fill(X::default());
                seen.fill(false);
                values[*target] = *sum;
                seen[*target] = true;
                each(first + row, Row { values: &mut values, seen: &mut seen })?;
            }
            return Ok(());
        }
        if self.leaves.is_dense() {
            sums.seen.fill(true);
        }
        let rows =
            sums.values.chunks_exact_mut(sums.width).zip(sums.seen.chunks_exact_mut(sums.width)).take(rows);
        for (row, (values, seen)) in rows.enumerate() {
            each(first + row, Row { values, seen })?;
        }
        Ok(())
    }

    fn add_block<X: Real + From<T>, A: Asker<T>>(&self, block: &[X], columns: usize, sums: &mut Sums<'_, X>) {
        let rows = block.len() / columns;
        if rows < LANES_OF_ROWS_MIN {
            for (row, values) in block.chunks_exact(columns).enumerate() {
                self.add_row::<X, A>(values, row, sums);
            }
            return;
        }
        for tree in &self.forest.trees {
            for start in (0..rows).step_by(LANES) {
                let lanes = LANES.min(rows - start);
                let slices: [&[X]; LANES] = std::array::from_fn(|lane| {
                    let row = start + lane.min(lanes - 1);
                    &block[row * columns..][..columns]
                });
                let ends = walk_lanes::<T, X, A>(
                    &self.forest,
                    [tree.root; LANES],
                    tree.nearest,
                    tree.farthest,
                    |lane| slices[lane],
                );
                self.add(&ends[..lanes], start, 1, sums);
            }
        }
    }

    fn add_row<X: Real + From<T>, A: Asker<T>>(&self, values: &[X], row: usize, sums: &mut Sums<'_, X>) {
        for group in self.forest.trees.chunks(LANES) {
            if group.len() <= SINGLE_LANES_MAX {
                for tree in group {
                    let end = walk_one::<T, X, A>(&self.forest, tree, values);
                    self.add(&[end], row, 0, sums);
                }
                continue;
            }
            // Idle lanes stay at the leaf of no tree.
            let mut at = [0; LANES];
            for (at, tree) in at.iter_mut().zip(group) {
                *at = tree.root;
            }
            let nearest = if group.len() == LANES { fold(group, |tree| tree.nearest, u32::min) } else { 0 };
            let farthest = fold(group, |tree| tree.farthest, u32::max);
            let ends = walk_lanes::<T, X, A>(&self.forest, at, nearest, farthest, |_| values);
            self.add(&ends[..group.len()], row, 0, sums);
        }
    }

    /// Adds the leaves at given nodes to sums from a row on; `step` is 1 for a row each, 0 for the same row.
    fn add<X: Real + From<T>>(&self, ends: &[u32], row: usize, step: usize, sums: &mut Sums<'_, X>) {
        let leaves = ends.iter().map(|end| self.forest.leaf_at(*end) as usize).enumerate();
        match (&self.leaves, self.aggregate) {
            (Leaves::One { weights, .. }, Aggregate::Sum) => {
                for (lane, leaf) in leaves {
                    sums.values[row + lane * step] += X::from(weights[leaf]);
                }
            }
            (Leaves::Dense { weights }, Aggregate::Sum) => {
                let width = sums.width;
                for (lane, leaf) in leaves {
                    let values = &mut sums.values[(row + lane * step) * width..][..width];
                    for (value, weight) in values.iter_mut().zip(&weights[leaf * width..][..width]) {
                        *value += X::from(*weight);
                    }
                }
            }
            _ => {
                for (lane, leaf) in leaves {
                    self.add_leaf(leaf, (row + lane * step) * sums.width, sums);
                }
            }
        }
    }

    fn add_leaf<X: Real + From<T>>(&self, leaf: usize, at: usize, sums: &mut Sums<'_, X>) {
        match &self.leaves {
            Leaves::One { weights, .. } => self.add_weight(X::from(weights[leaf]), at, sums),
            Leaves::Dense { weights } => {
                for (target, weight) in weights[leaf * self.targets..][..self.targets].iter().enumerate() {
                    self.add_weight(X::from(*weight), at + target, sums);
                }
            }
            Leaves::Sparse { starts, targets, weights } => {
                for entry in starts[leaf] as usize..starts[leaf + 1] as usize {
                    self.add_weight(X::from(weights[entry]), at + targets[entry] as usize, sums);
                }
            }
        }
    }

    fn add_weight<X: Real>(&self, weight: X, at: usize, sums: &mut Sums<'_, X>) {
        let value = &mut sums.values[at];
        let first = !std::mem::replace(&mut sums.seen[at], true);
        match self.aggregate {
            Aggregate::Sum => *value += weight,
            Aggregate::Min if first || weight < *value => *value = weight,
            Aggregate::Max if first || weight > *value => *value = weight,
            Aggregate::Min | Aggregate::Max => {}
        }
    }
}

fn few<X: Clone>(value: X, count: usize) -> Few<X> {
    Few::from_elem(value, count)
}

fn fold(trees: &[Tree], depth: fn(&Tree) -> u32, choose: fn(u32, u32) -> u32) -> u32 {
    trees.iter().map(depth).reduce(choose).unwrap_or(0)
}
