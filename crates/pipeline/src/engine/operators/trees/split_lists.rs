//! The attributes of `TreeEnsemble`: splits and leaves in lists apart, tied by position.
//!
//! Checks every length and every reference; nodes that no root reaches and nodes with two parents `forest` refuses.
//!
//! *Source*: ai.onnx.ml 5, TreeEnsemble.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::forest::Forest;
use super::leaves::{Aggregate, Ensemble, Leaves};
use super::node_lists::Stored;
use super::numbers::{Numbers, Real, bytes, ints, tensor};
use super::sketch::{Branch, Child, EQUAL, GREATER, LESS, LeafSharing, MISSING, Sketch, Test};

/// Attributes of the operator.
pub(super) const ATTRIBUTES: [&str; 16] = [
    "aggregate_function",
    "leaf_targetids",
    "leaf_weights",
    "membership_values",
    "n_targets",
    "nodes_falseleafs",
    "nodes_falsenodeids",
    "nodes_featureids",
    "nodes_hitrates",
    "nodes_missing_value_tracks_true",
    "nodes_modes",
    "nodes_splits",
    "nodes_trueleafs",
    "nodes_truenodeids",
    "post_transform",
    "tree_roots",
];

/// The mode of a node that asks for membership.
const MEMBER: u8 = 6;

/// The lists of a node.
pub(super) struct SplitLists<'a> {
    features: &'a [i64],
    modes: Vec<u8>,
    on_true: &'a [i64],
    true_is_leaf: &'a [i64],
    on_false: &'a [i64],
    false_is_leaf: &'a [i64],
    missing: &'a [i64],
    roots: &'a [i64],
    leaf_targets: &'a [i64],
    splits: Numbers,
    members: Numbers,
    leaf_weights: Numbers,
}

impl<'a> SplitLists<'a> {
    /// Reads the lists.
    ///
    /// *Errors*: lists that belong together differ in length.
    pub(super) fn read(node: &'a NodeProto) -> TractResult<Self> {
        let lists = Self {
            features: ints(node, "nodes_featureids")?,
            modes: bytes(node, "nodes_modes")?,
            on_true: ints(node, "nodes_truenodeids")?,
            true_is_leaf: ints(node, "nodes_trueleafs")?,
            on_false: ints(node, "nodes_falsenodeids")?,
            false_is_leaf: ints(node, "nodes_falseleafs")?,
            missing: ints(node, "nodes_missing_value_tracks_true")?,
            roots: ints(node, "tree_roots")?,
            leaf_targets: ints(node, "leaf_targetids")?,
            splits: tensor(node, "nodes_splits")?,
            members: tensor(node, "membership_values")?,
            leaf_weights: tensor(node, "leaf_weights")?,
        };
        let nodes = lists.features.len();
        for (name, length) in [
            ("nodes_modes", lists.modes.len()),
            ("nodes_truenodeids", lists.on_true.len()),
            ("nodes_trueleafs", lists.true_is_leaf.len()),
            ("nodes_falsenodeids", lists.on_false.len()),
            ("nodes_falseleafs", lists.false_is_leaf.len()),
            ("nodes_splits", lists.splits.len()),
        ] {
            ensure!(length == nodes, "`{name}` has {length} values and `nodes_featureids` {nodes}");
        }
        ensure!(
            lists.missing.is_empty() || lists.missing.len() == nodes,
            "`nodes_missing_value_tracks_true` has {} values and `nodes_featureids` {nodes}",
            lists.missing.len()
        );
        let (weights, targets) = (lists.leaf_weights.len(), lists.leaf_targets.len());
        ensure!(weights == targets, "`leaf_weights` has {weights} values and `leaf_targetids` {targets}");
        ensure!(u32::try_from(nodes.max(weights)).is_ok(), "it has more nodes than 2^32");
        let double = lists.splits.is_double();
        ensure!(
            lists.leaf_weights.is_double() == double
                && (lists.members.len() == 0 || lists.members.is_double() == double),
            "`nodes_splits`, `leaf_weights` and `membership_values` are not of one type"
        );
        Ok(lists)
    }

    /// Returns the number of weights.
    pub(super) fn weights(&self) -> usize {
        self.leaf_targets.len()
    }

    /// Returns the ensemble for a number of targets.
    ///
    /// *Errors*: the lists make no trees, or a leaf is of no target.
    pub(super) fn into_stored(self, targets: usize, aggregate: Aggregate) -> TractResult<Stored> {
        Ok(match self.splits {
            Numbers::Single(_) => Stored::Single(self.into_ensemble(targets, aggregate)?),
            Numbers::Double(_) => Stored::Double(self.into_ensemble(targets, aggregate)?),
        })
    }

    fn into_ensemble<T: Real>(mut self, targets: usize, aggregate: Aggregate) -> TractResult<Ensemble<T>> {
        let splits: Vec<T> = std::mem::replace(&mut self.splits, Numbers::none()).into_vec();
        let members: Vec<T> = std::mem::replace(&mut self.members, Numbers::none()).into_vec();
        let weights: Vec<T> = std::mem::replace(&mut self.leaf_weights, Numbers::none()).into_vec();
        let leaves = self.leaf_targets.len();
        let entry = |(leaf, target): (u32, &i64)| {
            let target = u32::try_from(*target).ok().filter(|target| (*target as usize) < targets);
            target.map(|target| (leaf, target))
        };
        let entries: Option<Vec<(u32, u32)>> = (0..).zip(self.leaf_targets).map(entry).collect();
        let Some(entries) = entries else { bail!("`leaf_targetids` has a target beyond {targets}") };
        let (sets, branches) = self.branches(&splits, &members)?;
        let roots = self.roots.iter().map(|root| self.root(*root)).collect::<TractResult<Vec<_>>>()?;
        let sketch =
            Sketch { branches, roots, leaves: u32::try_from(leaves)?, sets, sharing: LeafSharing::Allowed };
        Ok(Ensemble {
            forest: Forest::of(sketch)?,
            leaves: Leaves::of(leaves, targets, &entries, weights),
            aggregate,
            targets,
        })
    }

    #[expect(clippy::type_complexity, reason = "sets, and branches that name them")]
    fn branches<T: Real>(&self, splits: &[T], members: &[T]) -> TractResult<(Vec<Vec<T>>, Vec<Branch<T>>)> {
        let mut sets: Vec<Vec<T>> = Vec::new();
        let mut members = members.iter();
        let mut branches = Vec::with_capacity(splits.len());
        for (node, mode) in self.modes.iter().enumerate() {
            let missing = match self.missing.get(node) {
                Some(1) => MISSING,
                None | Some(0) => 0,
                Some(other) => bail!("`nodes_missing_value_tracks_true` holds {other}"),
            };
            let test = if *mode == MEMBER {
                let set: Vec<T> =
                    members.by_ref().take_while(|member| !member.is_missing()).copied().collect();
                ensure!(!set.is_empty(), "`membership_values` has no values for node {node}");
                sets.push(set);
                Test::Set { set: u32::try_from(sets.len() - 1)?, relations: missing }
            } else {
                Test::Threshold { threshold: splits[node], relations: relations(*mode)? | missing }
            };
            let on_true = self.child(node, self.on_true[node], self.true_is_leaf[node])?;
            let on_false = self.child(node, self.on_false[node], self.false_is_leaf[node])?;
            // A tree of one leaf is written as a node of which both sides lead there, and any column.
            let asked = if on_true == on_false { 0 } else { self.features[node] };
            let Ok(feature) = u32::try_from(asked) else { bail!("node {node} asks for column {asked}") };
            branches.push(Branch { feature, test, on_true, on_false });
        }
        ensure!(members.next().is_none(), "`membership_values` has more sets than there are nodes for them");
        Ok((sets, branches))
    }

    fn child(&self, node: usize, position: i64, is_leaf: i64) -> TractResult<Child> {
        let within = |length: usize| u32::try_from(position).ok().filter(|at| (*at as usize) < length);
        let child = match is_leaf {
            0 => within(self.features.len()).map(Child::Branch),
            1 => within(self.leaf_targets.len()).map(Child::Leaf),
            other => bail!("`nodes_trueleafs` or `nodes_falseleafs` holds {other}"),
        };
        child.ok_or_else(|| format_err!("node {node} leads to position {position}, which is not there"))
    }

    fn root(&self, position: i64) -> TractResult<Child> {
        let node = u32::try_from(position).ok().filter(|node| (*node as usize) < self.features.len());
        let Some(node) = node else { bail!("`tree_roots` names node {position}, which is not there") };
        Ok(Child::Branch(node))
    }
}

fn relations(mode: u8) -> TractResult<u8> {
    Ok(match mode {
        0 => LESS | EQUAL,
        1 => LESS,
        2 => GREATER | EQUAL,
        3 => GREATER,
        4 => EQUAL,
        5 => LESS | GREATER | MISSING,
        other => bail!("`nodes_modes` has {other}, no mode of this operator"),
    })
}
