//! The flat layout of an ensemble: every node in 16 bytes, the two children of a node side by side.
//!
//! A walk needs no branch of the processor: the child is `first` plus one if the question is answered no, and a leaf
//! leads back to itself, so that several trees or rows go on in step until the last has arrived. Refuses what is not
//! a forest: a node with two parents, a cycle, a node that no root reaches. Never looks at weights.

use tract_onnx::tract_core::internal::*;

use super::numbers::Real;
use super::sketch::{Child, EQUAL, GREATER, LESS, LeafSharing, MISSING, Sketch, Test};

/// In `Node::tail` beside the relations: `threshold` is of no meaning, the set decides.
pub(super) const SET: u32 = 16;
/// How far the number of a leaf or set stands to the left in `Node::tail`.
pub(super) const TAIL_SHIFT: u32 = 5;
/// Most nodes, so that positions with their flags take four bytes; a file holds fewer.
const NODES_MAX: usize = 1 << (32 - TAIL_SHIFT);

/// A branch or a leaf.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<T> {
    pub(super) threshold: T,
    /// The column; 0 in a leaf.
    pub(super) feature: u32,
    /// The true child; the false child is the next. In a leaf what leads back to the leaf.
    pub(super) first: u32,
    /// The relations that lead to the true child, and above them the number of the leaf or set.
    pub(super) tail: u32,
}

/// Where a tree begins and how far its leaves are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree {
    pub(super) root: u32,
    /// Branches on the shortest way to a leaf.
    pub(super) nearest: u32,
    /// Branches on the longest.
    pub(super) farthest: u32,
}

/// What all branches ask alike, which a walk makes use of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// At most the threshold.
    AtMost,
    /// Less than the threshold.
    Less,
    /// Several.
    Mixed,
}

/// Trees ready to be walked.
#[derive(Debug)]
pub(super) struct Forest<T> {
    /// The first is a leaf of no tree.
    pub(super) nodes: Vec<Node<T>>,
    pub(super) trees: Vec<Tree>,
    pub(super) question: Question,
    /// The values of all sets, each set in rising order.
    pub(super) set_values: Vec<T>,
    /// Where each set begins in `set_values`, and at last their end.
    pub(super) set_starts: Vec<u32>,
    /// The highest column that a branch asks for.
    pub(super) feature_max: u32,
}

impl<T: Real> Forest<T> {
    /// Lays trees out.
    ///
    /// *Errors*: they are no trees.
    pub(super) fn of(mut sketch: Sketch<T>) -> TractResult<Self> {
        let absorbed = sketch.merge_chains();
        ensure!(!sketch.roots.is_empty(), "it has no trees");
        let nodes_max = 2 * sketch.branches.len() + sketch.roots.len() + 2;
        ensure!(
            nodes_max < NODES_MAX && (sketch.leaves as usize) < NODES_MAX && sketch.sets.len() < NODES_MAX,
            "it has more nodes than {NODES_MAX}"
        );
        let question = question(&sketch);
        let mut builder = Builder {
            nodes: Vec::with_capacity(nodes_max),
            seen: absorbed,
            seen_leaves: vec![false; sketch.leaves as usize],
            question,
            sketch: &sketch,
        };
        let idle = builder.leaf(0, 0);
        builder.nodes.resize(1 + sketch.roots.len(), idle);
        let trees = (0..sketch.roots.len()).map(|index| builder.tree(index)).collect::<TractResult<_>>()?;
        let unreached = builder.seen.iter().position(|seen| !seen);
        ensure!(unreached.is_none(), "no root leads to branch {}", unreached.unwrap_or(0));
        let nodes = builder.nodes;
        let feature_max = nodes.iter().map(|node| node.feature).max().unwrap_or(0);
        let (set_values, set_starts) = flat_sets(std::mem::take(&mut sketch.sets));
        Ok(Self { nodes, trees, question, set_values, set_starts, feature_max })
    }

    /// Returns the number of the leaf at a position.
    pub(super) fn leaf_at(&self, position: u32) -> u32 {
        self.nodes[position as usize].tail >> TAIL_SHIFT
    }
}

fn question<T: Real>(sketch: &Sketch<T>) -> Question {
    let is = |wanted: u8| {
        let mut tests = sketch.branches.iter().map(|branch| &branch.test);
        tests.all(|test| matches!(test, Test::Threshold { relations, .. } if relations & !MISSING == wanted))
    };
    if is(LESS | EQUAL) {
        Question::AtMost
    } else if is(LESS) {
        Question::Less
    } else {
        Question::Mixed
    }
}

fn flat_sets<T: Real>(sets: Vec<Vec<T>>) -> (Vec<T>, Vec<u32>) {
    let mut values = Vec::new();
    let mut starts = vec![0];
    for mut set in sets {
        set.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        values.append(&mut set);
        starts.push(u32::try_from(values.len()).unwrap_or(u32::MAX));
    }
    (values, starts)
}

struct Builder<'a, T> {
    nodes: Vec<Node<T>>,
    /// Of the branches.
    seen: Vec<bool>,
    seen_leaves: Vec<bool>,
    question: Question,
    sketch: &'a Sketch<T>,
}

impl<T: Real> Builder<'_, T> {
    fn tree(&mut self, index: usize) -> TractResult<Tree> {
        let root = position(index + 1);
        let mut tree = Tree { root, nearest: u32::MAX, farthest: 0 };
        let mut open = vec![(self.sketch.roots[index], root, 0_u32)];
        while let Some((child, at, depth)) = open.pop() {
            match child {
                Child::Leaf(number) => {
                    tree.nearest = tree.nearest.min(depth);
                    tree.farthest = tree.farthest.max(depth);
                    let leaf = self.shared_leaf(number, at)?;
                    self.nodes[at as usize] = leaf;
                }
                Child::Branch(number) => {
                    let (on_true, on_false) = self.branch(number, at)?;
                    let first = self.nodes[at as usize].first;
                    // The true child's subtree follows its parent at once.
                    open.push((on_false, first + 1, depth + 1));
                    open.push((on_true, first, depth + 1));
                }
            }
        }
        Ok(tree)
    }

    fn branch(&mut self, number: u32, at: u32) -> TractResult<(Child, Child)> {
        let seen = &mut self.seen[number as usize];
        ensure!(!*seen, "two nodes lead to branch {number}, or it leads back to itself");
        *seen = true;
        let branch = &self.sketch.branches[number as usize];
        let (threshold, tail) = match branch.test {
            Test::Threshold { threshold, relations } => {
                ensure!(!threshold.is_missing(), "the threshold of branch {number} is NaN");
                (threshold, u32::from(relations))
            }
            Test::Set { set, relations } => (T::default(), (set << TAIL_SHIFT) | SET | u32::from(relations)),
        };
        let first = position(self.nodes.len());
        self.nodes.resize(self.nodes.len() + 2, self.nodes[0]);
        self.nodes[at as usize] = Node { threshold, feature: branch.feature, first, tail };
        Ok((branch.on_true, branch.on_false))
    }

    fn shared_leaf(&mut self, number: u32, at: u32) -> TractResult<Node<T>> {
        let seen = &mut self.seen_leaves[number as usize];
        ensure!(!*seen || self.sketch.sharing == LeafSharing::Allowed, "two nodes lead to leaf {number}");
        *seen = true;
        Ok(self.leaf(number, at))
    }

    /// A leaf's question has one answer for every value, and that leads to the leaf.
    fn leaf(&self, number: u32, at: u32) -> Node<T> {
        let tail = number << TAIL_SHIFT;
        match self.question {
            Question::Less => Node {
                threshold: T::near(f64::NEG_INFINITY),
                feature: 0,
                // Wraps at the first node alone, to which a false answer adds one again.
                first: at.wrapping_sub(1),
                tail,
            },
            Question::AtMost | Question::Mixed => Node {
                threshold: T::INFINITE,
                feature: 0,
                first: at,
                tail: tail | u32::from(LESS | EQUAL | GREATER | MISSING),
            },
        }
    }
}

fn position(index: usize) -> u32 {
    u32::try_from(index).expect("positions are checked against NODES_MAX")
}
