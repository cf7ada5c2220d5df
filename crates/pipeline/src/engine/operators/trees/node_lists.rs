//! The attributes of the two older operators: nodes, leaves and weights in lists, tied by the ids of tree and node.
//!
//! Reads nodes in any order and ids of any value; finds the root of each tree, the one node without a parent. Checks
//! every length and every reference. Memory and time go by the length of the lists.
//!
//! *Source*: ai.onnx.ml 3, TreeEnsembleClassifier and TreeEnsembleRegressor.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::forest::Forest;
use super::leaves::{Aggregate, Ensemble, Leaves};
use super::numbers::{Numbers, Real, ints, list_or_tensor, texts};
use super::sketch::{Branch, Child, EQUAL, GREATER, LESS, LeafSharing, MISSING, Sketch, Test};

/// Attributes that both operators have.
pub(super) const ATTRIBUTES: [&str; 14] = [
    "base_values",
    "base_values_as_tensor",
    "nodes_falsenodeids",
    "nodes_featureids",
    "nodes_hitrates",
    "nodes_hitrates_as_tensor",
    "nodes_missing_value_tracks_true",
    "nodes_modes",
    "nodes_nodeids",
    "nodes_treeids",
    "nodes_truenodeids",
    "nodes_values",
    "nodes_values_as_tensor",
    "post_transform",
];

/// An ensemble in the precision of its attributes.
#[derive(Debug)]
pub(super) enum Stored {
    Single(Ensemble<f32>),
    Double(Ensemble<f64>),
}

/// The lists of a node.
pub(super) struct NodeLists<'a> {
    trees: &'a [i64],
    ids: &'a [i64],
    features: &'a [i64],
    modes: &'a [Vec<u8>],
    on_true: &'a [i64],
    on_false: &'a [i64],
    missing: &'a [i64],
    thresholds: Numbers,
    weight_trees: &'a [i64],
    weight_nodes: &'a [i64],
    /// Of the weights: their class or target.
    pub(super) targets: &'a [i64],
    pub(super) weights: Numbers,
    pub(super) base: Numbers,
}

impl<'a> NodeLists<'a> {
    /// Reads the lists; `prefix` is that of the weights' attributes, `class` or `target`.
    ///
    /// *Errors*: lists that belong together differ in length.
    pub(super) fn read(node: &'a NodeProto, prefix: &str) -> TractResult<Self> {
        let lists = Self {
            trees: ints(node, "nodes_treeids")?,
            ids: ints(node, "nodes_nodeids")?,
            features: ints(node, "nodes_featureids")?,
            modes: texts(node, "nodes_modes")?,
            on_true: ints(node, "nodes_truenodeids")?,
            on_false: ints(node, "nodes_falsenodeids")?,
            missing: ints(node, "nodes_missing_value_tracks_true")?,
            thresholds: list_or_tensor(node, "nodes_values")?,
            weight_trees: ints(node, &format!("{prefix}_treeids"))?,
            weight_nodes: ints(node, &format!("{prefix}_nodeids"))?,
            targets: ints(node, &format!("{prefix}_ids"))?,
            weights: list_or_tensor(node, &format!("{prefix}_weights"))?,
            base: list_or_tensor(node, "base_values")?,
        };
        let nodes = lists.trees.len();
        ensure!(nodes > 0, "`nodes_treeids` is empty");
        for (name, length) in [
            ("nodes_nodeids", lists.ids.len()),
            ("nodes_featureids", lists.features.len()),
            ("nodes_modes", lists.modes.len()),
            ("nodes_truenodeids", lists.on_true.len()),
            ("nodes_falsenodeids", lists.on_false.len()),
            ("nodes_values", lists.thresholds.len()),
        ] {
            ensure!(length == nodes, "`{name}` has {length} values and `nodes_treeids` {nodes}");
        }
        ensure!(
            lists.missing.is_empty() || lists.missing.len() == nodes,
            "`nodes_missing_value_tracks_true` has {} values and `nodes_treeids` {nodes}",
            lists.missing.len()
        );
        for (name, length) in [
            ("treeids", lists.weight_trees.len()),
            ("nodeids", lists.weight_nodes.len()),
            ("weights", lists.weights.len()),
        ] {
            let weights = lists.targets.len();
            ensure!(length == weights, "`{prefix}_{name}` has {length} values and `{prefix}_ids` {weights}");
        }
        ensure!(u32::try_from(nodes.max(lists.targets.len())).is_ok(), "it has more nodes than 2^32");
        Ok(lists)
    }

    /// Returns the ensemble for a number of targets.
    ///
    /// *Errors*: the lists make no trees, or a weight is of no leaf or no target.
    pub(super) fn into_stored(self, targets: usize, aggregate: Aggregate) -> TractResult<Stored> {
        if self.thresholds.is_double() || self.weights.is_double() || self.base.is_double() {
            Ok(Stored::Double(self.into_ensemble(targets, aggregate)?))
        } else {
            Ok(Stored::Single(self.into_ensemble(targets, aggregate)?))
        }
    }

    fn into_ensemble<T: Real>(mut self, targets: usize, aggregate: Aggregate) -> TractResult<Ensemble<T>> {
        let thresholds: Vec<T> = std::mem::replace(&mut self.thresholds, Numbers::none()).into_vec();
        let mut weights: Vec<T> = std::mem::replace(&mut self.weights, Numbers::none()).into_vec();
        let relations = self.modes.iter().map(|mode| relations(mode)).collect::<TractResult<Vec<_>>>()?;
        let index = Index::of(self.trees, self.ids)?;
        let places = places(&relations);
        let leaves = relations.iter().filter(|relations| relations.is_none()).count();
        let mut entries = self.entries(&index, &places, targets)?;
        let mut entry = 0;
        weights.retain(|_| {
            entry += 1;
            entries[entry - 1].is_some()
        });
        let mut entries: Vec<(u32, u32)> = entries.drain(..).flatten().collect();
        if targets == 1 {
            let values = thresholds.iter().zip(&relations).filter(|(_, relations)| relations.is_none());
            let values: Vec<T> = values.map(|(value, _)| *value).collect();
            one_weight_each(&values, aggregate, &mut entries, &mut weights)?;
        }
        let sketch = self.sketch(&index, &relations, &places, &thresholds)?;
        Ok(Ensemble {
            forest: Forest::of(sketch)?,
            leaves: Leaves::of(leaves, targets, &entries, weights),
            aggregate,
            targets,
        })
    }

    /// Returns leaf and target of each weight, none for a weight of a branch: old converters write such, and ONNX
    /// Runtime passes them over.
    fn entries(
        &self,
        index: &Index<'_>,
        places: &[Child],
        targets: usize,
    ) -> TractResult<Vec<Option<(u32, u32)>>> {
        let weights = self.weight_trees.iter().zip(self.weight_nodes).zip(self.targets);
        weights
            .map(|((tree, id), target)| {
                let Some(target) = u32::try_from(*target).ok().filter(|target| (*target as usize) < targets)
                else {
                    bail!("a weight is for target {target} of {targets}");
                };
                let Some(node) = index.find(*tree, *id) else {
                    bail!("a weight is for node {id} of tree {tree}, which is not there");
                };
                Ok(match places[node] {
                    Child::Leaf(leaf) => Some((leaf, target)),
                    Child::Branch(_) => None,
                })
            })
            .collect()
    }

    fn sketch<T: Real>(
        &self,
        index: &Index<'_>,
        relations: &[Option<u8>],
        places: &[Child],
        thresholds: &[T],
    ) -> TractResult<Sketch<T>> {
        let mut has_parent = vec![false; self.ids.len()];
        let mut branches = Vec::new();
        for (node, relations) in relations.iter().enumerate() {
            let Some(relations) = *relations else { continue };
            let mut child = |id: i64| {
                let tree = self.trees[node];
                let Some(child) = index.find_near(node, id) else {
                    bail!("node {} of tree {tree} leads to node {id}, which is not there", self.ids[node]);
                };
                has_parent[child] = true;
                Ok(places[child])
            };
            let on_true = child(self.on_true[node])?;
            let on_false = child(self.on_false[node])?;
            let missing = match self.missing.get(node) {
                Some(1) => MISSING,
                None | Some(0) => 0,
                Some(other) => bail!("`nodes_missing_value_tracks_true` holds {other}"),
            };
            let Ok(feature) = u32::try_from(self.features[node]) else {
                bail!("node {} asks for column {}", self.ids[node], self.features[node]);
            };
            let test = Test::Threshold { threshold: thresholds[node], relations: relations | missing };
            branches.push(Branch { feature, test, on_true, on_false });
        }
        let leaves = places.iter().filter(|place| matches!(place, Child::Leaf(_))).count();
        Ok(Sketch {
            branches,
            roots: index.roots(&has_parent)?.into_iter().map(|root| places[root]).collect(),
            leaves: u32::try_from(leaves).unwrap_or(u32::MAX),
            sets: Vec::new(),
            sharing: LeafSharing::Refused,
        })
    }
}

/// Returns the relations of a mode, none for a leaf. What is missing is not equal, whatever the tracks say.
fn relations(mode: &[u8]) -> TractResult<Option<u8>> {
    Ok(Some(match mode {
        b"LEAF" => return Ok(None),
        b"BRANCH_LEQ" => LESS | EQUAL,
        b"BRANCH_LT" => LESS,
        b"BRANCH_GTE" => GREATER | EQUAL,
        b"BRANCH_GT" => GREATER,
        b"BRANCH_EQ" => EQUAL,
        b"BRANCH_NEQ" => LESS | GREATER | MISSING,
        other => {
            let name: String = String::from_utf8_lossy(other).escape_debug().take(32).collect();
            bail!("`nodes_modes` has `{name}`, no mode of this operator");
        }
    }))
}

/// Numbers branches and leaves, each in the order of the lists.
fn places(relations: &[Option<u8>]) -> Vec<Child> {
    let (mut branches, mut leaves) = (0, 0);
    let place = |relations: &Option<u8>| {
        let (next, child): (&mut u32, fn(u32) -> Child) = match relations {
            Some(_) => (&mut branches, Child::Branch),
            None => (&mut leaves, Child::Leaf),
        };
        *next += 1;
        child(*next - 1)
    };
    relations.iter().map(place).collect()
}

/// With one target ONNX Runtime takes the first weight of a leaf, and for want of one the node's value.
fn one_weight_each<T: Real>(
    values: &[T],
    aggregate: Aggregate,
    entries: &mut Vec<(u32, u32)>,
    weights: &mut Vec<T>,
) -> TractResult<()> {
    let mut weighed = vec![false; values.len()];
    for (leaf, _) in entries.iter() {
        let seen = std::mem::replace(&mut weighed[*leaf as usize], true);
        ensure!(!seen, "leaf {leaf} has several weights for the one target, of which ONNX Runtime takes one");
    }
    for (leaf, value) in values.iter().enumerate().filter(|(leaf, _)| !weighed[*leaf]) {
        ensure!(
            aggregate == Aggregate::Sum && *value == T::default(),
            "leaf {leaf} has no weight, for which ONNX Runtime takes its value"
        );
        entries.push((u32::try_from(leaf)?, 0));
        weights.push(T::default());
    }
    Ok(())
}

/// Finds nodes by the ids of tree and node.
struct Index<'a> {
    trees: &'a [i64],
    ids: &'a [i64],
    /// The nodes by ids.
    order: Vec<u32>,
}

impl<'a> Index<'a> {
    fn of(trees: &'a [i64], ids: &'a [i64]) -> TractResult<Self> {
        let mut order: Vec<u32> = (0..u32::try_from(ids.len())?).collect();
        let key = |node: &u32| (trees[*node as usize], ids[*node as usize]);
        if !order.is_sorted_by_key(key) {
            order.sort_unstable_by_key(key);
        }
        if let Some(pair) = order.windows(2).find(|pair| key(&pair[0]) == key(&pair[1])) {
            let (tree, id) = key(&pair[0]);
            bail!("tree {tree} has two nodes {id}");
        }
        Ok(Self { trees, ids, order })
    }

    fn find(&self, tree: i64, id: i64) -> Option<usize> {
        let key = |node: &u32| (self.trees[*node as usize], self.ids[*node as usize]);
        let found = self.order.binary_search_by_key(&(tree, id), key).ok()?;
        Some(self.order[found] as usize)
    }

    /// Finds a node of the tree of another; at once where the ids of a tree go up by one, as converters write them.
    fn find_near(&self, node: usize, id: i64) -> Option<usize> {
        let guess = i64::try_from(node).ok()?.wrapping_sub(self.ids[node]).wrapping_add(id);
        let guess = usize::try_from(guess).ok().filter(|guess| *guess < self.ids.len());
        match guess {
            Some(guess) if self.ids[guess] == id && self.trees[guess] == self.trees[node] => Some(guess),
            _ => self.find(self.trees[node], id),
        }
    }

    /// Returns the one node without a parent of each tree, the trees in the order of their first nodes.
    fn roots(&self, has_parent: &[bool]) -> TractResult<Vec<usize>> {
        let mut roots = Vec::new();
        for tree in self.order.chunk_by(|a, b| self.trees[*a as usize] == self.trees[*b as usize]) {
            let id = self.trees[tree[0] as usize];
            let mut parentless = tree.iter().filter(|node| !has_parent[**node as usize]);
            let Some(root) = parentless.next() else {
                bail!("tree {id} has no root: every node of it has a parent");
            };
            if let Some(other) = parentless.next() {
                let (root, other) = (self.ids[*root as usize], self.ids[*other as usize]);
                bail!("tree {id} has several roots: no node leads to node {root} nor to node {other}");
            }
            roots.push((tree.iter().min().copied().unwrap_or(*root), *root as usize));
        }
        roots.sort_unstable();
        Ok(roots.into_iter().map(|(_, root)| root).collect())
    }
}
