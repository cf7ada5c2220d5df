//! tract's plainest operators on a few values, without the making of a tensor for each.
//!
//! Recognises sums, products, casts and changes of shape of known small tensors in an optimised graph, and runs them as
//! kernels that write into outputs that a plan keeps. Computes every value as tract does, and knows no operator whose
//! numbers tract computes in a way of its own.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::binary::{BinMiniOp, OptBinByScalar, OptBinUnicast, TypedBinOp};
use tract_onnx::tract_core::ops::cast::Cast;
use tract_onnx::tract_core::ops::change_axes::{AxisOp, IntoShape};
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
    let count = values(output).filter(|count| (1..=VALUES_MAX).contains(count))?;
    match inputs {
        [input] => unary(op, input, output, count),
        [a, b] => {
            let operator = Operator::of(mini(op)?)?;
            let is_float = [DatumType::F32, DatumType::F64].contains(&output.datum_type);
            // What is not one value has as many as the output: its axes then only differ in those of length one.
            let fits = |fact: &TypedFact| {
                fact.datum_type == output.datum_type
                    && matches!(values(fact), Some(n) if n == 1 || n == count)
            };
            (is_float && fits(a) && fits(b)).then(|| kernel(Work::Both(operator), output))
        }
        _ => None,
    }
}

fn unary(op: &dyn TypedOp, input: &TypedFact, output: &TypedFact, count: usize) -> Option<Arc<dyn Kernel>> {
    if values(input) != Some(count) {
        return None;
    }
    let is_shape = op.is::<IntoShape>()
        || matches!(op.downcast_ref(), Some(AxisOp::Add(_) | AxisOp::Rm(_) | AxisOp::Reshape(..)));
    let is_cast = op.downcast_ref::<Cast>().is_some_and(|cast| cast.to == output.datum_type);
    let types = (input.datum_type, output.datum_type);
    let known = match types {
        (
            DatumType::F32 | DatumType::F64 | DatumType::I64,
            DatumType::F32 | DatumType::F64 | DatumType::I64,
        ) => (is_shape && types.0 == types.1) || is_cast,
        (DatumType::Bool, DatumType::F32) => is_cast,
        _ => false,
    };
    known.then(|| kernel(Work::Copy, output))
}

fn kernel(work: Work, output: &TypedFact) -> Arc<dyn Kernel> {
    Arc::new(Small { work, output: output.without_value() })
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

#[derive(Debug, Clone, Copy)]
enum Operator {
    Add,
    Sub,
    Mul,
    Div,
}

impl Operator {
    fn of(op: &dyn BinMiniOp) -> Option<Self> {
        if op.is::<Add>() {
            Some(Self::Add)
        } else if op.is::<Sub>() {
            Some(Self::Sub)
        } else if op.is::<Mul>() {
            Some(Self::Mul)
        } else {
            op.is::<Div>().then_some(Self::Div)
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Work {
    /// An operator on two inputs, of which one may be a single value.
    Both(Operator),
    /// The same values, in another shape or of another type.
    Copy,
}

#[derive(Debug)]
struct Small {
    work: Work,
    output: TypedFact,
}

impl Kernel for Small {
    fn name(&self) -> &'static str {
        match self.work {
            Work::Both(Operator::Add) => "Add",
            Work::Both(Operator::Sub) => "Sub",
            Work::Both(Operator::Mul) => "Mul",
            Work::Both(Operator::Div) => "Div",
            Work::Copy => "Copy",
        }
    }

    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.output.clone()))
    }

    fn writes_outputs(&self) -> bool {
        true
    }

    fn run_into(&self, inputs: &[&Tensor], outputs: &mut [&mut Tensor]) -> TractResult<()> {
        let [output] = outputs else { bail!("it makes one output") };
        match (self.work, inputs) {
            (Work::Both(operator), [a, b]) if self.output.datum_type == DatumType::F32 => {
                both::<f32>(operator, a, b, output)
            }
            (Work::Both(operator), [a, b]) => both::<f64>(operator, a, b, output),
            (Work::Copy, [input]) => copy(input, output),
            _ => bail!("it was not made for {} inputs", inputs.len()),
        }
    }
}

fn both<T>(operator: Operator, a: &Tensor, b: &Tensor, output: &mut Tensor) -> TractResult<()>
where
    T: Datum
        + Copy
        + std::ops::Add<Output = T>
        + std::ops::Sub<Output = T>
        + std::ops::Mul<Output = T>
        + std::ops::Div<Output = T>,
{
    let (a, b) = (a.try_as_plain_ram()?, b.try_as_plain_ram()?);
    let (a, b) = (a.as_slice::<T>()?, b.as_slice::<T>()?);
    let mut output = output.try_as_plain_ram_mut()?;
    let output = output.as_slice_mut::<T>()?;
    match operator {
        Operator::Add => pairs(a, b, output, |a, b| a + b),
        Operator::Sub => pairs(a, b, output, |a, b| a - b),
        Operator::Mul => pairs(a, b, output, |a, b| a * b),
        Operator::Div => pairs(a, b, output, |a, b| a / b),
    }
}

fn pairs<T: Copy>(a: &[T], b: &[T], output: &mut [T], compute: impl Fn(T, T) -> T) -> TractResult<()> {
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
