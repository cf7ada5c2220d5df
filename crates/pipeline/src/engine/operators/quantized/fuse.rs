//! Turns a float operator between DequantizeLinear and QuantizeLinear into the one on integers.
//!
//! Which ones, and when, follows ONNX Runtime, so that rounding falls where it does there. Whatever does not match
//! stays as it is: floats between the two, which is what the file says. Runs on the decoded graph before anything is
//! built; nodes that nobody reads any more are left for pruning.

use std::collections::HashMap;

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto, attribute_proto};

use super::pooling::THROUGH_UNSIGNED;

/// Largest relative difference between a bias's scale and the product of the scales of its factors.
const BIAS_SCALE_TOLERANCE: f32 = 1e-5;

/// Replaces what can be computed on integers.
pub(in crate::engine) fn fuse(graph: &mut GraphProto, opset: i64) {
    super::constants::quantise(graph, opset);
    super::moves::sink(graph, opset);
    super::biases::round(graph);
    let mut changes = Vec::new();
    let view = View::of(graph);
    for (position, node) in graph.node.iter().enumerate() {
        if let Some(replacement) = view.replacement(node, opset) {
            changes.push((position, replacement));
        }
    }
    for (position, replacement) in changes {
        graph.node[position] = replacement.node;
        // The quantiser's output is made by the new node: its own node must not make it again.
        if let Some(quantiser) = replacement.quantiser {
            graph.node[quantiser].output.clear();
            graph.node[quantiser].input.clear();
            graph.node[quantiser].op_type.clear();
        }
    }
    graph.node.retain(|node| !node.op_type.is_empty());
    super::ranged::join(graph);
    super::maximum::take(graph);
    super::mean::take(graph);
}

struct Replacement {
    node: NodeProto,
    /// The QuantizeLinear whose output the node makes.
    quantiser: Option<usize>,
}

/// A quantised tensor: its values, scale and zero point by name, as an operator on integers takes them.
#[derive(Clone)]
pub(super) struct Quantised<'g> {
    pub(super) values: &'g str,
    pub(super) scale: &'g str,
    zero: &'g str,
    /// ONNX's number of the element type.
    element: i32,
    pub(super) axis: Option<i64>,
}

impl Quantised<'_> {
    fn names(&self) -> [String; 3] {
        [self.values, self.scale, self.zero].map(str::to_owned)
    }
}

/// A graph by names.
pub(super) struct View<'g> {
    pub(super) graph: &'g GraphProto,
    pub(super) makers: HashMap<&'g str, usize>,
    pub(super) readers: HashMap<&'g str, Vec<usize>>,
    pub(super) constants: HashMap<&'g str, &'g TensorProto>,
}

impl<'g> View<'g> {
    pub(super) fn of(graph: &'g GraphProto) -> Self {
        let mut makers = HashMap::new();
        let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut constants: HashMap<&str, &TensorProto> = HashMap::new();
        for (position, node) in graph.node.iter().enumerate() {
            makers.extend(node.output.iter().map(|name| (name.as_str(), position)));
            for name in &node.input {
                readers.entry(name).or_default().push(position);
            }
            if node.op_type == "Constant" {
                let value = node.attribute.iter().find(|attribute| attribute.name == "value");
                if let (Some(name), Some(value)) =
                    (node.output.first(), value.and_then(|value| value.t.as_ref()))
                {
                    constants.insert(name, value);
                }
            }
            // A graph inside a node may read any name: nothing that it could read is taken away.
            for inner in
                node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
            {
                read_inside(inner, &mut |name| readers.entry(name).or_default().extend([position, position]));
            }
        }
        let inputs: Vec<&str> = graph.input.iter().map(|input| input.name.as_str()).collect();
        let fixed = graph.initializer.iter().filter(|tensor| !inputs.contains(&tensor.name.as_str()));
        constants.extend(fixed.map(|tensor| (tensor.name.as_str(), tensor)));
        Self { graph, makers, readers, constants }
    }

    pub(super) fn maker(&self, name: &str) -> Option<&'g NodeProto> {
        self.makers.get(name).map(|&position| &self.graph.node[position])
    }

    pub(super) fn numbers(&self, name: &str) -> Option<Vec<f32>> {
        constant_numbers(self.constants.get(name)?)
    }

    /// Returns what a float tensor was dequantised from, if its scale and zero point are constants.
    pub(super) fn dequantised(&self, name: &str) -> Option<Quantised<'g>> {
        let node = self.maker(name)?;
        (node.op_type == "DequantizeLinear").then_some(())?;
        self.numbers_of(node)
    }

    fn numbers_of(&self, node: &'g NodeProto) -> Option<Quantised<'g>> {
        let [values, scale, zero] = node.input.as_slice() else { return None };
        let zero_point = self.constants.get(zero.as_str())?;
        self.constants.get(scale.as_str())?;
        let plain = |attribute: &AttributeProto| match attribute.name.as_str() {
            "axis" => true,
            "saturate" => attribute.i == 1,
            "block_size" | "output_dtype" | "precision" => attribute.i == 0,
            _ => false,
        };
        node.attribute.iter().all(plain).then_some(())?;
        let axis =
            node.attribute.iter().find(|attribute| attribute.name == "axis").map(|attribute| attribute.i);
        Some(Quantised { values, scale, zero, element: zero_point.data_type, axis })
    }

    /// Returns the same where one scale holds for the whole tensor of 8-bit integers.
    pub(super) fn activation(&self, name: &str) -> Option<Quantised<'g>> {
        let found = self.dequantised(name)?;
        (is_octet(found.element) && self.is_single(&found)).then_some(found)
    }

    fn is_single(&self, numbers: &Quantised<'_>) -> bool {
        [numbers.scale, numbers.zero].iter().all(|name| self.number(name).is_some())
    }

    /// Returns the QuantizeLinear that alone reads an output, behind a Relu or Clip that it makes redundant.
    fn quantiser(&self, name: &str) -> Option<(usize, Quantised<'g>)> {
        let reader = self.only_reader(name)?;
        let node = &self.graph.node[reader];
        if matches!(node.op_type.as_str(), "Relu" | "Clip") && node.input.first().is_some_and(|x| x == name) {
            let behind = self.only_reader(node.output.first()?)?;
            let quantised = self.single_quantiser(behind)?;
            return self.is_redundant(node, &quantised).then_some((behind, quantised));
        }
        Some((reader, self.single_quantiser(reader)?))
    }

    fn single_quantiser(&self, position: usize) -> Option<Quantised<'g>> {
        let node = &self.graph.node[position];
        (node.op_type == "QuantizeLinear").then_some(())?;
        let numbers = self.numbers_of(node)?;
        (is_octet(numbers.element) && self.is_single(&numbers)).then_some(numbers)
    }

    pub(super) fn only_reader(&self, name: &str) -> Option<usize> {
        let is_output = self.graph.output.iter().any(|output| output.name == name);
        match self.readers.get(name).map(Vec::as_slice) {
            Some([reader]) if !is_output => Some(*reader),
            _ => None,
        }
    }

    /// Tells whether saturation alone cuts all that a Relu or Clip cuts.
    fn is_redundant(&self, node: &NodeProto, output: &Quantised<'_>) -> bool {
        let (Some(scale), Some(zero)) = (self.number(output.scale), self.number(output.zero)) else {
            return false;
        };
        let (low, high) =
            if output.element == DataType::Uint8 as i32 { (0.0, 255.0) } else { (-128.0, 127.0) };
        let (lowest, highest) = ((low - zero) * scale, (high - zero) * scale);
        let bound = |at: usize, absent: f32| match node.input.get(at).filter(|name| !name.is_empty()) {
            Some(name) => self.number(name),
            None => Some(absent),
        };
        if node.op_type == "Relu" {
            return lowest >= 0.0;
        }
        let bounds = (bound(1, f32::NEG_INFINITY), bound(2, f32::INFINITY));
        node.attribute.is_empty()
            && matches!(bounds, (Some(least), Some(most)) if least <= lowest && most >= highest)
    }

    pub(super) fn number(&self, name: &str) -> Option<f32> {
        match self.numbers(name)?.as_slice() {
            [number] => Some(*number),
            _ => None,
        }
    }

    fn replacement(&self, node: &'g NodeProto, opset: i64) -> Option<Replacement> {
        if !node.domain.is_empty() && node.domain != "ai.onnx" {
            return None;
        }
        match node.op_type.as_str() {
            "Conv" => self.convolution(node),
            "MatMul" => self.matmul(node),
            "Gemm" => self.gemm(node),
            "AveragePool" | "GlobalAveragePool" | "LeakyRelu" | "Sigmoid" | "Softmax" => {
                self.unary(node, opset)
            }
            "Add" | "Mul" => self.binary(node),
            "Concat" => self.concat(node),
            "Flatten" | "MaxPool" | "Reshape" | "Squeeze" | "Transpose" | "Unsqueeze" => self.moved(node),
            _ => None,
        }
    }

    /// A node of the integer operator in place of `node`, with the quantiser's output.
    fn replaced(
        &self,
        node: &NodeProto,
        operator: &str,
        input: Vec<String>,
        quantiser: Option<usize>,
    ) -> Replacement {
        let output = match quantiser {
            Some(position) => self.graph.node[position].output.clone(),
            None => node.output.clone(),
        };
        let node = NodeProto { op_type: operator.to_owned(), input, output, ..node.clone() };
        Replacement { node, quantiser }
    }

    fn convolution(&self, node: &'g NodeProto) -> Option<Replacement> {
        let (quantiser, output) = self.quantiser(node.output.first()?)?;
        let input = self.activation(node.input.first()?)?;
        let weights = self.weights(node.input.get(1)?, 0)?;
        is_pair(&input, &weights, &output).then_some(())?;
        let mut names = [input.names(), weights.names()].concat();
        names.extend([output.scale.to_owned(), output.zero.to_owned()]);
        if let Some(bias) = node.input.get(2).filter(|name| !name.is_empty()) {
            names.push(self.bias(bias, &input, &weights)?);
        }
        Some(self.replaced(node, "QLinearConv", names, Some(quantiser)))
    }

    /// Returns weights of 8-bit integers with one scale, or one a place of `axis`.
    fn weights(&self, name: &str, axis: i64) -> Option<Quantised<'g>> {
        let found = self.dequantised(name)?;
        is_octet(found.element).then_some(())?;
        let by_axis = found.axis.unwrap_or(1) == axis && self.constants.contains_key(found.values);
        (by_axis || self.is_single(&found)).then_some(found)
    }

    /// Returns the bias as 32-bit integers in units of the product of the factors' scales.
    fn bias(&self, name: &str, input: &Quantised<'_>, weights: &Quantised<'_>) -> Option<String> {
        let bias = self.dequantised_bias(name)?;
        let (scales, by_channel) = (self.numbers(bias.scale)?, self.numbers(weights.scale)?);
        let input = self.number(input.scale)?;
        let count = scales.len().max(by_channel.len());
        let agrees = |i: usize| {
            let expected = input * by_channel[i % by_channel.len()];
            (scales[i % scales.len()] - expected).abs() <= expected.abs() * BIAS_SCALE_TOLERANCE
        };
        (!scales.is_empty() && !by_channel.is_empty() && (0..count).all(agrees))
            .then(|| bias.values.to_owned())
    }

    /// Returns the numbers of a bias; its zero point may be left out.
    fn dequantised_bias(&self, name: &str) -> Option<Quantised<'g>> {
        let node = self.maker(name).filter(|node| node.op_type == "DequantizeLinear")?;
        let (values, scale) = (node.input.first()?, node.input.get(1)?);
        let tensor = self.constants.get(values.as_str())?;
        (tensor.data_type == DataType::Int32 as i32 && tensor.dims.len() == 1).then_some(())?;
        if let Some(zero) = node.input.get(2).filter(|zero| !zero.is_empty()) {
            self.numbers(zero)?.iter().all(|&zero| zero == 0.0).then_some(())?;
        }
        Some(Quantised { values, scale, zero: "", element: tensor.data_type, axis: None })
    }

    fn matmul(&self, node: &'g NodeProto) -> Option<Replacement> {
        let left = self.activation(node.input.first()?)?;
        let name = node.input.get(1)?;
        let rank = self
            .maker(name)
            .and_then(|dq| self.constants.get(dq.input.first()?.as_str()))
            .map(|t| t.dims.len());
        let right = match rank {
            // The columns' axis of a constant matrix.
            Some(2) => self.weights(name, 1).or_else(|| self.weights(name, -1))?,
            _ => self.activation(name)?,
        };
        match self.quantiser(node.output.first()?) {
            Some((quantiser, output)) => {
                is_pair(&left, &right, &output).then_some(())?;
                let mut names = [left.names(), right.names()].concat();
                names.extend([output.scale.to_owned(), output.zero.to_owned()]);
                Some(self.replaced(node, "QLinearMatMul", names, Some(quantiser)))
            }
            None => {
                let [a, a_scale, a_zero] = left.names();
                let [b, b_scale, b_zero] = right.names();
                let names = vec![a, b, a_scale, b_scale, a_zero, b_zero];
                Some(self.replaced(node, "MatMulIntegerToFloat", names, None))
            }
        }
    }

    fn gemm(&self, node: &'g NodeProto) -> Option<Replacement> {
        let attribute = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name);
        let left = self.activation(node.input.first()?)?;
        let columns = i64::from(attribute("transB").is_none_or(|turned| turned.i == 0));
        let right = self.weights(node.input.get(1)?, columns)?;
        let mut names = [left.names(), right.names()].concat();
        match node.input.get(2).filter(|name| !name.is_empty()) {
            Some(bias) => {
                let factors_alone = |name| attribute(name).is_none_or(|factor| factor.f == 1.0);
                (factors_alone("alpha") && factors_alone("beta")).then_some(())?;
                names.push(self.bias(bias, &left, &right)?);
            }
            None => names.push(String::new()),
        }
        let quantiser = self.quantiser(node.output.first()?);
        if let Some((_, output)) = &quantiser {
            is_pair(&left, &right, output).then_some(())?;
            names.extend([output.scale.to_owned(), output.zero.to_owned()]);
        }
        let mut replacement = self.replaced(node, "QGemm", names, quantiser.map(|(position, _)| position));
        replacement.node.attribute.retain(|attribute| attribute.name != "beta");
        Some(replacement)
    }

    fn unary(&self, node: &'g NodeProto, opset: i64) -> Option<Replacement> {
        let input = self.activation(node.input.first()?)?;
        let (quantiser, output) = self.quantiser(node.output.first()?)?;
        (node.input.len() == 1 && input.element == output.element).then_some(())?;
        let attributes: &[&str] = match node.op_type.as_str() {
            "AveragePool" => &[
                "auto_pad",
                "ceil_mode",
                "count_include_pad",
                "kernel_shape",
                "pads",
                "strides",
                "dilations",
            ],
            "LeakyRelu" => &["alpha"],
            "Softmax" => &["axis"],
            _ => &[],
        };
        node.attribute.iter().all(|attribute| attributes.contains(&attribute.name.as_str())).then_some(())?;
        let is_one = |attribute: &AttributeProto| attribute.ints.iter().all(|&i| i == 1);
        node.attribute.iter().all(|a| a.name != "dilations" || is_one(a)).then_some(())?;
        let mut names = input.names().to_vec();
        names.extend([output.scale.to_owned(), output.zero.to_owned()]);
        let operator = format!("QLinear{}", node.op_type);
        let mut replacement = self.replaced(node, &operator, names, Some(quantiser));
        match node.op_type.as_str() {
            "Softmax" => replacement.node.attribute.push(integer("opset", opset)),
            "AveragePool" => replacement.node.attribute.push(integer(THROUGH_UNSIGNED, 1)),
            _ => {}
        }
        Some(replacement)
    }

    fn binary(&self, node: &'g NodeProto) -> Option<Replacement> {
        let (left, right) = (self.activation(node.input.first()?)?, self.activation(node.input.get(1)?)?);
        let (quantiser, output) = self.quantiser(node.output.first()?)?;
        let same = left.element == right.element && left.element == output.element;
        (same && node.attribute.is_empty()).then_some(())?;
        let mut names = [left.names(), right.names()].concat();
        names.extend([output.scale.to_owned(), output.zero.to_owned()]);
        let operator = format!("QLinear{}", node.op_type);
        let mut replacement = self.replaced(node, &operator, names, Some(quantiser));
        replacement.node.attribute.push(integer(THROUGH_UNSIGNED, 1));
        Some(replacement)
    }

    fn concat(&self, node: &'g NodeProto) -> Option<Replacement> {
        let (quantiser, output) = self.quantiser(node.output.first()?)?;
        let mut names = vec![output.scale.to_owned(), output.zero.to_owned()];
        for name in &node.input {
            let part = self.activation(name)?;
            (part.element == output.element).then_some(())?;
            names.extend(part.names());
        }
        Some(self.replaced(node, "QLinearConcat", names, Some(quantiser)))
    }

    /// An operator that only moves or picks values, with the same numbers on both sides: it does so with integers.
    fn moved(&self, node: &'g NodeProto) -> Option<Replacement> {
        let input = self.activation(node.input.first()?)?;
        let reader = self.only_reader(node.output.first()?)?;
        let output = self.single_quantiser(reader)?;
        let same = input.element == output.element
            && self.number(input.scale)? == self.number(output.scale)?
            && self.number(input.zero)? == self.number(output.zero)?
            && self.number(input.scale)? > 0.0;
        (same && node.output.len() == 1).then_some(())?;
        let mut names = node.input.clone();
        names[0] = input.values.to_owned();
        Some(self.replaced(node, &node.op_type, names, Some(reader)))
    }
}

pub(super) fn integer(name: &str, value: i64) -> AttributeProto {
    let kind = attribute_proto::AttributeType::Int as i32;
    AttributeProto { name: name.to_owned(), r#type: kind, i: value, ..AttributeProto::default() }
}

/// Returns the numbers of a small constant: scales, zero points, bounds. 32-bit integers are rounded.
fn constant_numbers(tensor: &TensorProto) -> Option<Vec<f32>> {
    let is = |element: DataType| tensor.data_type == element as i32;
    let raw = &tensor.raw_data;
    let words = || raw.chunks_exact(4).filter_map(|bytes| <[u8; 4]>::try_from(bytes).ok());
    let numbers: Vec<f32> = if is(DataType::Float) {
        if raw.is_empty() { tensor.float_data.clone() } else { words().map(f32::from_le_bytes).collect() }
    } else if is(DataType::Uint8) || is(DataType::Int8) || is(DataType::Int32) {
        if raw.is_empty() {
            tensor.int32_data.iter().map(|&integer| integer as f32).collect()
        } else if is(DataType::Int32) {
            words().map(|bytes| i32::from_le_bytes(bytes) as f32).collect()
        } else if is(DataType::Int8) {
            raw.iter().map(|&byte| f32::from(byte as i8)).collect()
        } else {
            raw.iter().map(|&byte| f32::from(byte)).collect()
        }
    } else {
        return None;
    };
    let count = tensor.dims.iter().try_fold(1_i64, |count, &axis| count.checked_mul(axis))?;
    (i64::try_from(numbers.len()) == Ok(count)).then_some(numbers)
}

fn is_octet(element: i32) -> bool {
    element == DataType::Uint8 as i32 || element == DataType::Int8 as i32
}

/// Unsigned inputs go with weights of either sign, signed ones with signed weights; the output is like the input.
fn is_pair(input: &Quantised<'_>, weights: &Quantised<'_>, output: &Quantised<'_>) -> bool {
    let signed = DataType::Int8 as i32;
    input.element == output.element && (input.element != signed || weights.element == signed)
}

fn read_inside<'g>(graph: &'g GraphProto, read: &mut impl FnMut(&'g str)) {
    for node in &graph.node {
        node.input.iter().for_each(|name| read(name));
        for inner in node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs)) {
            read_inside(inner, read);
        }
    }
    graph.output.iter().for_each(|output| read(&output.name));
}
