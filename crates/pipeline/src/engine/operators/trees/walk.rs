//! Follows rows through trees, several at a time in step, so that the processor waits for none of them alone.
//!
//! Answers the questions of branches. Never adds up anything. Every walk ends: the steps are bounded by the depth of
//! the trees.

use super::forest::{Forest, Node, SET, TAIL_SHIFT, Tree};
use super::numbers::Real;

/// Walks that go in step: enough to hide the latency of a step (about 15 cycles) behind the others.
pub(super) const LANES: usize = 8;

/// How the questions of an ensemble are answered.
pub(super) trait Asker<T> {
    /// Returns whether a row goes to the true child.
    fn is_true<X: Real + From<T>>(value: X, node: &Node<T>, forest: &Forest<T>) -> bool;
}

/// All branches ask "at most", and no value is missing.
pub(super) struct AtMost;

impl<T: Real> Asker<T> for AtMost {
    #[inline(always)]
    fn is_true<X: Real + From<T>>(value: X, node: &Node<T>, _: &Forest<T>) -> bool {
        value <= X::from(node.threshold)
    }
}

/// All branches ask "less than", and no value is missing.
pub(super) struct Less;

impl<T: Real> Asker<T> for Less {
    #[inline(always)]
    fn is_true<X: Real + From<T>>(value: X, node: &Node<T>, _: &Forest<T>) -> bool {
        value < X::from(node.threshold)
    }
}

/// Branches ask whatever they want of any value.
pub(super) struct Mixed;

impl<T: Real> Asker<T> for Mixed {
    #[inline(always)]
    fn is_true<X: Real + From<T>>(value: X, node: &Node<T>, forest: &Forest<T>) -> bool {
        if node.tail & SET != 0 {
            return in_set(value, node, forest);
        }
        let threshold = X::from(node.threshold);
        let relation =
            if value.is_missing() { 3 } else { u32::from(value >= threshold) + u32::from(value > threshold) };
        (node.tail >> relation) & 1 == 1
    }
}

#[inline(never)]
fn in_set<T: Real, X: Real + From<T>>(value: X, node: &Node<T>, forest: &Forest<T>) -> bool {
    if value.is_missing() {
        return node.tail & u32::from(super::sketch::MISSING) != 0;
    }
    // A leaf has all relations and never the mark of a set: the number above is that of a set.
    let set = (node.tail >> TAIL_SHIFT) as usize;
    let values = &forest.set_values[forest.set_starts[set] as usize..forest.set_starts[set + 1] as usize];
    let at = values.partition_point(|member| X::from(*member) < value);
    values.get(at).is_some_and(|member| X::from(*member) == value)
}

/// Walks one tree by one row; returns where it ends.
#[inline]
pub(super) fn walk_one<T: Real, X: Real + From<T>, A: Asker<T>>(
    forest: &Forest<T>,
    tree: &Tree,
    row: &[X],
) -> u32 {
    let mut at = tree.root;
    for _ in 0..tree.farthest {
        let next = step::<T, X, A>(forest, at, row);
        if next == at {
            break;
        }
        at = next;
    }
    at
}

/// Walks on from given nodes, each lane with its row; `nearest` steps are made by all, at most `farthest` by any.
#[inline(always)]
pub(super) fn walk_lanes<'a, T: Real, X: Real + From<T>, A: Asker<T>>(
    forest: &Forest<T>,
    mut at: [u32; LANES],
    nearest: u32,
    farthest: u32,
    row: impl Fn(usize) -> &'a [X],
) -> [u32; LANES] {
    for _ in 0..nearest {
        for (lane, at) in at.iter_mut().enumerate() {
            *at = step::<T, X, A>(forest, *at, row(lane));
        }
    }
    for _ in nearest..farthest {
        let mut moved = 0;
        for (lane, at) in at.iter_mut().enumerate() {
            let next = step::<T, X, A>(forest, *at, row(lane));
            moved |= next ^ *at;
            *at = next;
        }
        if moved == 0 {
            break;
        }
    }
    at
}

#[inline(always)]
fn step<T: Real, X: Real + From<T>, A: Asker<T>>(forest: &Forest<T>, at: u32, row: &[X]) -> u32 {
    let node = &forest.nodes[at as usize];
    let yes = A::is_true(row[node.feature as usize], node, forest);
    node.first.wrapping_add(u32::from(!yes))
}
