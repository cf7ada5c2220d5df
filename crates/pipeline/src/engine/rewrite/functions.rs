//! Local functions of a model: each call is replaced by the nodes of its function, before anything else sees the graph.
//!
//! Inputs and outputs get the names of the call, all other names a prefix of their own; attributes that refer to the
//! function's are filled in. Refuses what could mean something else once it is inlined: recursion, operators that changed
//! between the operator sets of function and model, attributes that the function does not declare. Never changes a node
//! of the graph itself, apart from the calls.
//!
//! ONNX calls a function the fallback of the operator of its name: one that the engine has, in the version that the model
//! imports, goes before the function, as in ONNX Runtime.
//!
//! *Source*: ONNX, `docs/IR.md`, Functions; `onnx.proto`, `FunctionProto`.

mod body;
mod operator_sets;
mod unread;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};

use prost::Message;
use tract_onnx::Onnx;
use tract_onnx::pb::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto};

use super::super::{EngineError, limits, operators};
use body::Body;

/// Deepest calls of functions in functions: exporters that keep a module a function reach about ten, and each level
/// costs a stack frame for every graph it is nested in.
const CALL_DEPTH_MAX: usize = 32;
/// Most nodes that are met, calls and the nodes of all called bodies: a graph with more nodes is beyond the limits, and
/// calls of functions without nodes would else cost time without end.
const VISITED_MAX: usize = limits::NODES_MAX;
/// Most bytes that copies may take beyond one of the whole file: three KiB for each of [`VISITED_MAX`] nodes, ten times
/// what nodes without constants take. A file with large constants in its functions holds them once.
const COPIED_BYTES_MAX: usize = VISITED_MAX * 3 * 1_024;
/// Longest part of a prefix that names the call.
const LABEL_CHARS: usize = 64;
/// Longest name in an error.
const NAME_CHARS: usize = 128;

/// Replaces the calls of a model's local functions by their nodes, and drops the functions. `file` are the bytes that
/// the model was decoded from.
///
/// *Errors*: a function that cannot be inlined as it is meant, with its name and why; more nodes, bytes or depth than
/// the limits allow.
pub(in super::super) fn inline(
    model: &mut ModelProto,
    file: &[u8],
    engine: &Onnx,
) -> Result<(), EngineError> {
    if model.functions.is_empty() {
        return Ok(());
    }
    let defaults = unread::complete(model, file)?;
    let functions = std::mem::take(&mut model.functions);
    let library = Library::new(functions, defaults, model, engine)?;
    let Some(graph) = &mut model.graph else { return Ok(()) };
    let mut taken = BTreeSet::new();
    reserve_names(graph, &mut taken);
    let mut inliner = Inliner {
        library: &library,
        imports: &mut model.opset_import,
        checked: HashSet::new(),
        path: Vec::new(),
        taken,
        calls: 0,
        budget: Budget { nodes: VISITED_MAX, bytes: file.len().saturating_add(COPIED_BYTES_MAX) },
    };
    graph.node = inliner.expand(std::mem::take(&mut graph.node), 1)?;
    Ok(())
}

/// Returns the one name of a domain: the default one has two.
fn plain_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// A function with the attributes that have defaults.
struct Function {
    proto: FunctionProto,
    defaults: Vec<AttributeProto>,
}

impl Function {
    /// Returns its name with its domain, for errors.
    fn shown(&self) -> String {
        let name = match plain_domain(self.proto.domain()) {
            "" => self.proto.name().to_owned(),
            domain => format!("{domain}.{}", self.proto.name()),
        };
        name.chars().take(NAME_CHARS).collect()
    }

    fn refused<T>(&self, why: &str) -> Result<T, EngineError> {
        Err(EngineError::Unsupported(vec![format!("local function `{}` ({why})", self.shown())]))
    }
}

/// The functions of a model, by domain and name.
struct Library {
    functions: Vec<Function>,
    positions: HashMap<(String, String), usize>,
}

impl Library {
    fn new(
        functions: Vec<FunctionProto>,
        defaults: Vec<Vec<AttributeProto>>,
        model: &ModelProto,
        engine: &Onnx,
    ) -> Result<Self, EngineError> {
        let mut library = Self { functions: Vec::with_capacity(functions.len()), positions: HashMap::new() };
        for (proto, defaults) in functions.into_iter().zip(defaults) {
            let key = (plain_domain(proto.domain()).to_owned(), proto.name().to_owned());
            let position = library.functions.len();
            let function = Function { proto, defaults };
            if library.positions.insert(key, position).is_some() {
                return function.refused("it is defined twice");
            }
            library.functions.push(function);
        }
        library.positions.retain(|(domain, name), _| !is_operator(domain, name, model, engine));
        Ok(library)
    }

    fn called(&self, node: &NodeProto) -> Option<usize> {
        self.positions.get(&(plain_domain(&node.domain).to_owned(), node.op_type.clone())).copied()
    }
}

/// Tells whether the engine has an operator of this name, in the version that the model imports.
fn is_operator(domain: &str, name: &str, model: &ModelProto, engine: &Onnx) -> bool {
    let Some(version) = imported(&model.opset_import, domain) else { return false };
    let node = NodeProto { op_type: name.to_owned(), domain: domain.to_owned(), ..NodeProto::default() };
    !operator_sets::came_after(domain, name, version)
        && operators::refusal(&node, &GraphProto::default(), model, engine).is_none()
}

/// Returns the version of a domain's operator set.
fn imported(imports: &[OperatorSetIdProto], domain: &str) -> Option<i64> {
    imports.iter().find(|import| plain_domain(&import.domain) == domain).map(|import| import.version)
}

/// What may still be visited and copied.
struct Budget {
    nodes: usize,
    bytes: usize,
}

impl Budget {
    fn visit(&mut self) -> Result<(), EngineError> {
        let Some(left) = self.nodes.checked_sub(1) else {
            return Err(EngineError::Limit(format!(
                "it has more than {VISITED_MAX} nodes once its local functions are inlined"
            )));
        };
        self.nodes = left;
        Ok(())
    }

    fn copy(&mut self, bytes: usize) -> Result<(), EngineError> {
        let Some(left) = self.bytes.checked_sub(bytes) else {
            return Err(EngineError::Limit("its local functions are too large to be inlined".to_owned()));
        };
        self.bytes = left;
        Ok(())
    }
}

struct Inliner<'m> {
    library: &'m Library,
    imports: &'m mut Vec<OperatorSetIdProto>,
    /// Functions that were found to be sound.
    checked: HashSet<usize>,
    /// The functions that are being inlined, outermost first.
    path: Vec<usize>,
    /// Numbers of calls whose prefix begins a name of the file.
    taken: BTreeSet<u64>,
    calls: u64,
    budget: Budget,
}

impl Inliner<'_> {
    /// Returns nodes without calls; `depth` counts the graphs around them, themselves included.
    fn expand(&mut self, nodes: Vec<NodeProto>, depth: usize) -> Result<Vec<NodeProto>, EngineError> {
        if depth > limits::SUBGRAPH_DEPTH_MAX {
            return Err(EngineError::Limit(format!(
                "a graph is nested deeper than {} once its local functions are inlined",
                limits::SUBGRAPH_DEPTH_MAX
            )));
        }
        let mut expanded = Vec::with_capacity(nodes.len());
        for mut node in nodes {
            self.budget.visit()?;
            for attribute in &mut node.attribute {
                for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                    graph.node = self.expand(std::mem::take(&mut graph.node), depth + 1)?;
                }
            }
            match self.library.called(&node) {
                Some(position) => expanded.extend(self.call(&node, position, depth)?),
                None => expanded.push(node),
            }
        }
        Ok(expanded)
    }

    fn call(
        &mut self,
        node: &NodeProto,
        position: usize,
        depth: usize,
    ) -> Result<Vec<NodeProto>, EngineError> {
        let function = &self.library.functions[position];
        if self.path.contains(&position) {
            return function.refused("it calls itself");
        }
        if self.path.len() == CALL_DEPTH_MAX {
            return function.refused(&format!("it is called more than {CALL_DEPTH_MAX} functions deep"));
        }
        if self.checked.insert(position) {
            body::check(function)?;
            self.check_operators(function, &function.proto.node)?;
        }
        let prefix = self.prefix(node);
        let nodes = Body::of(function, node, &prefix, &mut self.budget)?.nodes()?;
        self.path.push(position);
        let expanded = self.expand(nodes, depth);
        self.path.pop();
        expanded
    }

    /// Returns a prefix that begins no other name: its number is that of one call, and begins no name of the file.
    fn prefix(&mut self, node: &NodeProto) -> String {
        self.calls += 1;
        while self.taken.contains(&self.calls) {
            self.calls += 1;
        }
        let name = if node.name.is_empty() { &node.op_type } else { &node.name };
        let label: String = name.chars().take(LABEL_CHARS).collect();
        format!("{PREFIX}{}.{label}.", self.calls)
    }

    /// Refuses operators that may mean something else in the model's operator sets than in the function's; imports sets
    /// that the model lacks.
    fn check_operators(&mut self, function: &Function, nodes: &[NodeProto]) -> Result<(), EngineError> {
        for node in nodes {
            for graph in
                node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
            {
                self.check_operators(function, &graph.node)?;
            }
            if self.library.called(node).is_some() {
                continue;
            }
            let domain = plain_domain(&node.domain);
            let shown: String = node.op_type.chars().take(NAME_CHARS).collect();
            let Some(own) = imported(&function.proto.opset_import, domain) else {
                return function.refused(&format!("it imports no operator set for its operator `{shown}`"));
            };
            match imported(self.imports, domain) {
                None => self.imports.push(OperatorSetIdProto { domain: domain.to_owned(), version: own }),
                Some(version) if !operator_sets::is_same(domain, &node.op_type, own, version) => {
                    return function.refused(&format!(
                        "its operator `{shown}` is of operator set {own} and may mean something else in operator set \
                         {version}, which the model imports"
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// How the prefix of a call begins; its number and a full stop follow.
const PREFIX: &str = "call";

/// Takes the numbers of calls whose prefix begins a name of a graph.
fn reserve_names(graph: &GraphProto, taken: &mut BTreeSet<u64>) {
    let mut reserve = |name: &str| {
        let number = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.'));
        taken.extend(number.and_then(|(number, _)| number.parse::<u64>().ok()));
    };
    graph.input.iter().chain(&graph.output).for_each(|value| reserve(&value.name));
    graph.initializer.iter().for_each(|tensor| reserve(&tensor.name));
    for node in &graph.node {
        reserve(&node.name);
        node.input.iter().chain(&node.output).for_each(|name| reserve(name));
    }
    let attributes = graph.node.iter().flat_map(|node| &node.attribute);
    for graph in attributes.flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs)) {
        reserve_names(graph, taken);
    }
}

/// Returns the bytes that a message takes.
fn bytes_of(message: &impl Message) -> usize {
    message.encoded_len()
}
