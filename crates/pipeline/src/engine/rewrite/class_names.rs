//! The names of classes that a file holds: found by walking from an output back to the classifier that made it.
//!
//! Finds them in a classifier's attributes, in those of a `ZipMap`, in a `LabelEncoder` or in a list that a label is taken
//! from. Never guesses: where a node on the way may change which column is which class, there are no names.

use std::collections::{BTreeSet, HashMap};

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto};

/// Longest way back: exporters write fewer nodes behind a classifier.
const STEPS_MAX: usize = 64;
/// Most names of one output: the values that a prediction may have.
const NAMES_MAX: usize = dunlin_model_package::manifest::OUTPUT_VALUES_MAX;

/// Operators that leave columns where they are; their first input is the one with the columns.
const KEEPING_COLUMNS: [&str; 15] = [
    "Identity",
    "Cast",
    "Normalizer",
    "LpNormalization",
    "Softmax",
    "LogSoftmax",
    "Exp",
    "Log",
    "Sub",
    "Div",
    "Clip",
    "Sigmoid",
    "Squeeze",
    "Reshape",
    "Flatten",
];
/// Operators that make labels and scores, in this order, of features.
const CLASSIFIERS: [&str; 3] = ["LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier"];

/// Returns the classes of each output that has some, by the output's name; of a graph as it was read, maps included.
pub(in super::super) fn class_names(graph: &GraphProto) -> HashMap<String, Vec<String>> {
    let walk = Walk::new(graph);
    let mut found = HashMap::new();
    for output in &graph.output {
        let elements = walk.elements(&output.name);
        let names = elements.iter().map(|element| (element, walk.names(element)));
        let is_sequence = elements.len() != 1 || elements[0] != output.name;
        for (position, (element, names)) in names.enumerate() {
            let name = if is_sequence { format!("{}.{position}", output.name) } else { output.name.clone() };
            let names = names.or_else(|| walk.names_of_sibling(element));
            found.extend(
                names.filter(|names| (1..=NAMES_MAX).contains(&names.len())).map(|names| (name, names)),
            );
        }
    }
    found
}

struct Walk<'g> {
    graph: &'g GraphProto,
    makers: HashMap<&'g str, (&'g NodeProto, usize)>,
    constants: HashMap<&'g str, &'g TensorProto>,
}

impl<'g> Walk<'g> {
    fn new(graph: &'g GraphProto) -> Self {
        let mut makers = HashMap::new();
        let mut constants: HashMap<&str, &TensorProto> =
            graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        for node in &graph.node {
            makers.extend(
                node.output.iter().enumerate().map(|(position, name)| (name.as_str(), (node, position))),
            );
            if node.op_type == "Constant"
                && let (Some(name), Some(value)) = (node.output.first(), attribute(node, "value"))
            {
                constants.extend(value.t.as_ref().map(|tensor| (name.as_str(), tensor)));
            }
        }
        Self { graph, makers, constants }
    }

    /// Returns the tensors of a sequence, or the name itself.
    fn elements(&self, name: &'g str) -> Vec<&'g str> {
        match self.makers.get(name) {
            Some((node, _)) if node.op_type == "SequenceConstruct" => {
                node.input.iter().map(String::as_str).take(NAMES_MAX).collect()
            }
            _ => vec![name],
        }
    }

    fn names(&self, output: &'g str) -> Option<Vec<String>> {
        let mut name = output;
        for _ in 0..STEPS_MAX {
            let (node, position) = self.makers.get(name)?;
            match node.op_type.as_str() {
                "ZipMap" => {
                    if let Some(names) = listed(node, &["classlabels_strings", "classlabels_int64s"]) {
                        return Some(names);
                    }
                }
                "LabelEncoder" => return listed(node, &["values_strings", "values_int64s"]),
                "ArrayFeatureExtractor" | "Gather" => {
                    return texts(self.constants.get(node.input.first()?.as_str())?);
                }
                operator if CLASSIFIERS.contains(&operator) => {
                    let is_of_pairs = operator == "SVMClassifier" && is_of_pairs(node);
                    return if *position == 1 && is_of_pairs { None } else { labels(node) };
                }
                operator if KEEPING_COLUMNS.contains(&operator) => {}
                _ => return None,
            }
            name = node.input.first()?;
        }
        None
    }

    /// Returns the names that a label output takes by the position of the highest of these scores.
    fn names_of_sibling(&self, scores: &'g str) -> Option<Vec<String>> {
        let columns = self.same_columns(scores);
        self.graph.output.iter().filter(|other| other.name != scores).find_map(|other| {
            let mut name = other.name.as_str();
            let mut names = None;
            for _ in 0..STEPS_MAX {
                let (node, _) = self.makers.get(name)?;
                let next = match node.op_type.as_str() {
                    "ArrayFeatureExtractor" | "Gather" if names.is_none() => {
                        names = texts(self.constants.get(node.input.first()?.as_str())?);
                        node.input.get(1)?
                    }
                    "ArgMax" => {
                        let judged = self.same_columns(node.input.first()?);
                        return names.filter(|_| !judged.is_disjoint(&columns));
                    }
                    operator if KEEPING_COLUMNS.contains(&operator) => node.input.first()?,
                    _ => return None,
                };
                name = next;
            }
            None
        })
    }

    /// Returns the names of all tensors on the way back whose columns are those of this one.
    fn same_columns(&self, name: &'g str) -> BTreeSet<&'g str> {
        let mut found = BTreeSet::from([name]);
        let mut name = name;
        while found.len() < STEPS_MAX {
            let Some((node, _)) = self.makers.get(name) else { break };
            let is_keeping = node.op_type == "ZipMap" || KEEPING_COLUMNS.contains(&node.op_type.as_str());
            let Some(input) = node.input.first().filter(|_| is_keeping) else { break };
            if !found.insert(input) {
                break;
            }
            name = input;
        }
        found
    }
}

/// Whether the scores of a support vector machine are of pairs of classes and not of classes.
fn is_of_pairs(node: &NodeProto) -> bool {
    let has = |name: &str| attribute(node, name).is_some_and(|found| !found.floats.is_empty());
    has("support_vectors") && !has("prob_a") && labels(node).is_some_and(|labels| labels.len() > 2)
}

fn labels(node: &NodeProto) -> Option<Vec<String>> {
    listed(node, &["classlabels_strings", "classlabels_ints", "classlabels_int64s"])
}

fn attribute<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

/// Returns the first of these lists that is not empty, as texts.
fn listed(node: &NodeProto, names: &[&str]) -> Option<Vec<String>> {
    names.iter().filter_map(|name| attribute(node, name)).find_map(|found| {
        if found.strings.is_empty() {
            (!found.ints.is_empty()).then(|| found.ints.iter().map(i64::to_string).collect())
        } else {
            found.strings.iter().map(|text| String::from_utf8(text.clone()).ok()).collect()
        }
    })
}

/// Returns the elements of a constant as texts.
fn texts(tensor: &TensorProto) -> Option<Vec<String>> {
    let raw = &tensor.raw_data;
    match DataType::try_from(tensor.data_type).ok()? {
        DataType::String => {
            tensor.string_data.iter().map(|text| String::from_utf8(text.clone()).ok()).collect()
        }
        DataType::Int64 if raw.is_empty() => Some(tensor.int64_data.iter().map(i64::to_string).collect()),
        DataType::Int64 => {
            Some(raw.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b).to_string()).collect())
        }
        DataType::Int32 if raw.is_empty() => Some(tensor.int32_data.iter().map(i32::to_string).collect()),
        DataType::Int32 => {
            Some(raw.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).to_string()).collect())
        }
        _ => None,
    }
}
