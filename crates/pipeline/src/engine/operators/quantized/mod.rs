//! Operators on 8-bit integers, as the quantisers of ONNX Runtime and PyTorch write them.
//!
//! Computes every product of integers exactly, in `f32` as far as its sums are whole numbers below 2^24, and rounds as
//! ONNX Runtime does on x86-64. Never lets tract fuse what it fuses wrongly: its own operators of these names are not
//! used. [`fuse::fuse`] turns float operators between DequantizeLinear and QuantizeLinear into the ones here.

mod assembly;
mod biases;
mod constants;
mod convolution;
mod convolve;
mod dense;
mod dynamic;
mod elementwise;
mod ending;
mod finish;
mod fuse;
#[cfg(test)]
mod fuse_tests;
#[cfg(test)]
mod kernel_tests;
mod linear;
mod lookup;
mod lstm;
mod matmul;
mod maximum;
mod mean;
mod moves;
mod numbers;
mod planes;
mod pooling;
mod products;
mod ranged;
mod softmax;
#[cfg(test)]
mod tests;
mod windows;

pub(in crate::engine) use fuse::fuse;
pub(in crate::engine) use windows::are_mixed;

use super::Builder;

/// Those that a graph is rewritten to, and that no file holds.
pub(super) const INNER: [&str; 2] = [maximum::OPERATOR, mean::OPERATOR];

/// All of them.
pub(super) const OPERATORS: &[(&str, Builder)] = &[
    ("ConvInteger", convolution::integer),
    ("DequantizeLinear", linear::dequantize),
    ("DynamicQuantizeLinear", dynamic::linear),
    ("DynamicQuantizeLSTM", lstm::build),
    ("DynamicQuantizeMatMul", matmul::dynamic),
    ("MatMulInteger", matmul::integer),
    ("MatMulIntegerToFloat", matmul::integer_to_float),
    ("QGemm", matmul::gemm),
    ("QLinearAdd", elementwise::add),
    ("QLinearAveragePool", pooling::average),
    ("QLinearConcat", lookup::concat),
    ("QLinearConv", convolution::linear),
    ("QLinearGlobalAveragePool", pooling::global_average),
    ("QLinearLeakyRelu", lookup::leaky_relu),
    ("QLinearMatMul", matmul::linear),
    ("QLinearMul", elementwise::mul),
    ("QLinearSigmoid", lookup::sigmoid),
    ("QLinearSoftmax", softmax::build),
    ("QLinearWhere", lookup::choose),
    ("QuantizeLinear", linear::quantize),
    (maximum::OPERATOR, maximum::build),
    (mean::OPERATOR, mean::build),
];
