//! tract's plainest operators on a few values, without the making of a tensor for each.
//!
//! Recognises sums, products, comparisons, functions, casts, joins and changes of shape of known small tensors in an optimised graph, and runs them as
//! kernels that write into outputs that a plan keeps. Computes every value as tract does, and knows no operator whose
//! numbers tract computes in a way of its own.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::TypedConcat;
use tract_onnx::tract_core::ops::binary::{BinMiniOp, OptBinByScalar, OptBinUnicast, TypedBinOp};
use tract_onnx::tract_core::ops::cast::Cast;
use tract_onnx::tract_core::ops::change_axes::{AxisOp, IntoShape};
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::logic::{CompEq, CompGT, CompLT};
use tract_onnx::tract_core::ops::math::{Add, Div, Mul, Sub};

use super::kernel::Kernel;

/// Most values of an output: beyond them tract's vectors are faster than what a tensor costs (about 0.2 us).
const VALUES_MAX: usize = 256;

/// Returns the kernel for a node of a graph whose shapes are known, where there is one.
pub(in crate::engine) fn of(
    op: &dyn TypedOp,
    inputs: &[&TypedFact],
    outputs: &[&TypedFact],
) -> Option<Arc<dyn Kernel>> {
    let [output] = outputs else { return None };
    if let Some(concat) = op.downcast_ref::<TypedConcat>() {
        return concatenation(concat.axis, inputs, output);
    }
    match inputs {
        [input] => unary(op, input, output),
        [_, _] => pair(Operator::of(mini(op)?)?, inputs, output),
        _ => None,
    }
}

/// Returns the kernel for an operator on two inputs of small known shapes, if it takes them.
pub(in crate::engine) fn pair(
    operator: Operator,
    inputs: &[&TypedFact],
    output: &TypedFact,
) -> Option<Arc<dyn Kernel>> {
    let count = small(output)?;
    let [a, b] = inputs else { return None };
    let datum_type = a.datum_type;
    let is_known = [DatumType::F32, DatumType::F64].contains(&datum_type)
        && output.datum_type == if operator.compares() { DatumType::Bool } else { datum_type };
    // What is not one value has as many as the output: its axes then only differ in those of length one.
    let fits = |fact: &TypedFact| {
        fact.datum_type == datum_type && matches!(values(fact), Some(n) if n == 1 || n == count)
    };
    (is_known && fits(a) && fits(b)).then(|| kernel(Work::Pair(operator), output))
}

fn unary(op: &dyn TypedOp, input: &TypedFact, output: &TypedFact) -> Option<Arc<dyn Kernel>> {
    if values(input) != Some(small(output)?) {
        return None;
    }
    let is_plain =
        |fact: &TypedFact| [DatumType::F32, DatumType::F64, DatumType::I64].contains(&fact.datum_type);
    let is_same = input.datum_type == output.datum_type;
    if let Some(ElementWiseOp(mini, to)) = op.downcast_ref() {
        let known = is_plain(output) && is_same && mini.output_type(input.datum_type).is_none();
        return known.then(|| kernel(Work::Each(mini.clone(), *to), output));
    }
    let is_shape = op.is::<IntoShape>()
        || matches!(op.downcast_ref(), Some(AxisOp::Add(_) | AxisOp::Rm(_) | AxisOp::Reshape(..)));
    let is_cast = op.downcast_ref::<Cast>().is_some_and(|cast| cast.to == output.datum_type);
    let is_known = if is_plain(input) && is_plain(output) {
        (is_shape && is_same) || is_cast
    } else {
        is_cast && (input.datum_type, output.datum_type) == (DatumType::Bool, DatumType::F32)
    };
    is_known.then(|| kernel(Work::Copy, output))
}

fn concatenation(axis: usize, inputs: &[&TypedFact], output: &TypedFact) -> Option<Arc<dyn Kernel>> {
    small(output)?;
    let width = |fact: &TypedFact| {
        let shape = fact.shape.as_concrete()?;
        (fact.datum_type == output.datum_type).then(|| shape[axis..].iter().product())
    };
    let widths: Vec<usize> = inputs.iter().map(|input| width(input)).collect::<Option<_>>()?;
    let is_known = [DatumType::F32, DatumType::F64, DatumType::I64].contains(&output.datum_type)
        && Some(widths.iter().sum()) == width(output);
    is_known.then(|| kernel(Work::Concatenation(widths), output))
}

fn kernel(work: Work, output: &TypedFact) -> Arc<dyn Kernel> {
    Arc::new(Small { work, output: output.clone().without_value() })
}

/// Returns the number of values where there are few.
fn small(fact: &TypedFact) -> Option<usize> {
    values(fact).filter(|count| (1..=VALUES_MAX).contains(count))
}

fn values(fact: &TypedFact) -> Option<usize> {
    fact.shape.as_concrete()?.iter().try_fold(1_usize, |values, length| values.checked_mul(*length))
}

fn mini(op: &dyn TypedOp) -> Option<&dyn BinMiniOp> {
    if let Some(op) = op.downcast_ref::<TypedBinOp>() {
        Some(&*op.0)
    } else if let Some(op) = op.downcast_ref::<OptBinByScalar>() {
        Some(&*op.binop)
    } else {
        Some(&*op.downcast_ref::<OptBinUnicast>()?.binop)
    }
}

/// An operator on two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Operator {
    Add,
    Sub,
    Mul,
    Div,
    /// The larger one, or NaN where one is.
    Max,
    /// The smaller one, or NaN where one is.
    Min,
    Equal,
    Less,
    Greater,
}

impl Operator {
    fn of(op: &dyn BinMiniOp) -> Option<Self> {
        let known: [(bool, Self); 7] = [
            (op.is::<Add>(), Self::Add),
            (op.is::<Sub>(), Self::Sub),
            (op.is::<Mul>(), Self::Mul),
            (op.is::<Div>(), Self::Div),
            (op.is::<CompEq>(), Self::Equal),
            (op.is::<CompLT>(), Self::Less),
            (op.is::<CompGT>(), Self::Greater),
        ];
        known.into_iter().find(|(is_it, _)| *is_it).map(|(_, operator)| operator)
    }

    fn compares(self) -> bool {
        matches!(self, Self::Equal | Self::Less | Self::Greater)
    }
}

#[derive(Debug)]
enum Work {
    /// An operator on two inputs, of which one may be a single value.
    Pair(Operator),
    /// The same values, in another shape or of another type.
    Copy,
    /// tract's function of each value.
    Each(Box<dyn ElementWiseMiniOp>, Option<DatumType>),
    /// Inputs side by side, of so many values a row.
    Concatenation(Vec<usize>),
}

#[derive(Debug)]
struct Small {
    work: Work,
    output: TypedFact,
}

impl Kernel for Small {
    fn name(&self) -> &'static str {
        "Small"
    }

    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.output.clone()))
    }

    fn writes_outputs(&self) -> bool {
        true
    }

    fn run_into(&self, inputs: &[&Tensor], outputs: &mut [&mut Tensor]) -> TractResult<()> {
        let [output] = outputs else { bail!("it makes one output") };
        match (&self.work, inputs) {
            (Work::Pair(operator), [a, b]) if a.datum_type() == DatumType::F32 => {
                of_pair::<f32>(*operator, a, b, output)
            }
            (Work::Pair(operator), [a, b]) => of_pair::<f64>(*operator, a, b, output),
            (Work::Copy, [input]) => copy(input, output),
            (Work::Each(mini, to), [input]) => {
                copy(input, output)?;
                mini.eval_in_place(output, *to)
            }
            (Work::Concatenation(widths), _) => match self.output.datum_type {
                DatumType::F32 => concatenate::<f32>(widths, inputs, output),
                DatumType::F64 => concatenate::<f64>(widths, inputs, output),
                _ => concatenate::<i64>(widths, inputs, output),
            },
            _ => bail!("it was not made for {} inputs", inputs.len()),
        }
    }
}

/// A number with its arithmetic.
trait Number:
    Datum
    + Copy
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
{
}

impl Number for f32 {}
impl Number for f64 {}

fn of_pair<T: Number>(operator: Operator, a: &Tensor, b: &Tensor, output: &mut Tensor) -> TractResult<()> {
    let (a, b) = (a.try_as_plain_ram()?, b.try_as_plain_ram()?);
    let (a, b) = (a.as_slice::<T>()?, b.as_slice::<T>()?);
    let mut output = output.try_as_plain_ram_mut()?;
    if operator.compares() {
        let output = output.as_slice_mut::<bool>()?;
        return match operator {
            Operator::Equal => pairs(a, b, output, |a, b| a == b),
            Operator::Less => pairs(a, b, output, |a, b| a < b),
            _ => pairs(a, b, output, |a, b| a > b),
        };
    }
    let output = output.as_slice_mut::<T>()?;
    match operator {
        Operator::Add => pairs(a, b, output, |a, b| a + b),
        Operator::Sub => pairs(a, b, output, |a, b| a - b),
        Operator::Mul => pairs(a, b, output, |a, b| a * b),
        Operator::Div => pairs(a, b, output, |a, b| a / b),
        // A comparison with NaN is false: of the two the NaN is kept.
        Operator::Max => pairs(a, b, output, |a, b| if b <= a || is_nan(a) { a } else { b }),
        _ => pairs(a, b, output, |a, b| if b >= a || is_nan(a) { a } else { b }),
    }
}

#[expect(clippy::eq_op, reason = "what is no number is not equal to itself")]
fn is_nan<T: PartialOrd>(value: T) -> bool {
    value != value
}

fn pairs<T: Copy, U>(a: &[T], b: &[T], output: &mut [U], compute: impl Fn(T, T) -> U) -> TractResult<()> {
    let count = output.len();
    match (a, b) {
        ([a], [b]) if count == 1 => output[0] = compute(*a, *b),
        ([a], b) if b.len() == count => output.iter_mut().zip(b).for_each(|(c, b)| *c = compute(*a, *b)),
        (a, [b]) if a.len() == count => output.iter_mut().zip(a).for_each(|(c, a)| *c = compute(*a, *b)),
        (a, b) if a.len() == count && b.len() == count => {
            output.iter_mut().zip(a).zip(b).for_each(|((c, a), b)| *c = compute(*a, *b));
        }
        _ => bail!("{} and {} values do not make {count}", a.len(), b.len()),
    }
    Ok(())
}

fn concatenate<T: Datum + Copy>(
    widths: &[usize],
    inputs: &[&Tensor],
    output: &mut Tensor,
) -> TractResult<()> {
    ensure!(widths.len() == inputs.len(), "it was not made for {} inputs", inputs.len());
    let mut output = output.try_as_plain_ram_mut()?;
    let output = output.as_slice_mut::<T>()?;
    let width: usize = widths.iter().sum();
    let mut offset = 0;
    for (input, &own) in inputs.iter().zip(widths) {
        let input = input.try_as_plain_ram()?;
        let input = input.as_slice::<T>()?;
        if own > 0 {
            ensure!(input.len() * width == output.len() * own, "an input has {} values", input.len());
            for (row, values) in output.chunks_exact_mut(width).zip(input.chunks_exact(own)) {
                row[offset..offset + own].copy_from_slice(values);
            }
        }
        offset += own;
    }
    Ok(())
}

fn copy(input: &Tensor, output: &mut Tensor) -> TractResult<()> {
    let into = output.datum_type();
    match input.datum_type() {
        DatumType::F32 if into == DatumType::F32 => put::<f32, f32>(input, output, |value| value),
        DatumType::F64 if into == DatumType::F64 => put::<f64, f64>(input, output, |value| value),
        DatumType::I64 if into == DatumType::I64 => put::<i64, i64>(input, output, |value| value),
        DatumType::F32 if into == DatumType::F64 => put(input, output, |value: f32| f64::from(value)),
        DatumType::F32 => put(input, output, |value: f32| value as i64),
        DatumType::F64 if into == DatumType::F32 => put(input, output, |value: f64| value as f32),
        DatumType::F64 => put(input, output, |value: f64| value as i64),
        DatumType::I64 if into == DatumType::F32 => put(input, output, |value: i64| value as f32),
        DatumType::I64 => put(input, output, |value: i64| value as f64),
        DatumType::Bool => put(input, output, |value: bool| f32::from(u8::from(value))),
        other => bail!("it was not made for {other:?}"),
    }
}

fn put<T: Datum + Copy, U: Datum + Copy>(
    input: &Tensor,
    output: &mut Tensor,
    converted: impl Fn(T) -> U,
) -> TractResult<()> {
    let (input, mut output) = (input.try_as_plain_ram()?, output.try_as_plain_ram_mut()?);
    let (input, output) = (input.as_slice::<T>()?, output.as_slice_mut::<U>()?);
    ensure!(input.len() == output.len(), "{} values do not make {}", input.len(), output.len());
    output.iter_mut().zip(input).for_each(|(into, value)| *into = converted(*value));
    Ok(())
}
