//! Products of packed weights with rows of values, on tract's matrix kernels.
//!
//! Packs a matrix once and multiplies it again and again without an allocation. Never looks at what the numbers mean.
//! The only part of the operators that calls what Rust cannot check.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::tract_linalg::mmm::{
    AsInputValue, EagerPackedInput, FusedSpec, MMMInputValue, MatMatMul, Query, ScratchSpace,
};
use tract_onnx::tract_core::tract_linalg::pack::PackedFormat;
use tract_onnx::tract_core::tract_linalg::{BinOp, MmmDispatch};

/// A matrix `[rows, depth]`, packed for the kernel that this machine runs best.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    kernel: Box<dyn MatMatMul>,
    packing: usize,
    packed: Box<dyn MMMInputValue>,
    rows: usize,
    depth: usize,
}

/// The buffers of one product, kept from run to run.
pub(super) struct Product {
    right: Right,
    scratch: Box<dyn ScratchSpace>,
    columns: usize,
}

enum Right {
    /// A buffer that is filled anew for each product.
    Kept(PackedFormat, EagerPackedInput),
    /// The kernel packs in a way of its own: a buffer a product.
    Fresh,
}

impl Weights {
    /// Packs a matrix for products with `columns` vectors at once.
    ///
    /// *Shape*: `matrix` is `[rows, depth]`.
    pub(super) fn pack(matrix: &Tensor, columns: usize) -> TractResult<Self> {
        let &[rows, depth] = matrix.shape() else { bail!("weights of rank {}", matrix.rank()) };
        let query = Query {
            // An extractor would unpack the weights at each run.
            allow_extractor: false,
            ..Query::plain(f32::datum_type(), Some(rows), Some(depth), Some(columns))
        };
        let (kernel, packing, _) =
            MmmDispatch::native().pick(&query).context("no kernel for a matrix product")?;
        let packed = kernel.packings()[packing].0.prepare_one(matrix, 1, 0)?;
        Ok(Self { kernel, packing, packed, rows, depth })
    }

    /// Returns buffers for products with `columns` vectors.
    #[expect(unsafe_code, reason = "tract's kernels make their own scratch space")]
    pub(super) fn product(&self, columns: usize) -> TractResult<Product> {
        let format = &self.kernel.packings()[self.packing].1;
        let right = match format.downcast_ref::<PackedFormat>() {
            Some(format) => Right::Kept(format.clone(), format.new_packed_buffer(self.depth, columns)?),
            None => Right::Fresh,
        };
        // SAFETY: no condition is named: it makes an empty space, which each run fills anew, and a run with a kernel that
        // asks for a space of another type is an error.
        let scratch = unsafe { self.kernel.allocate_scratch_space() };
        Ok(Product { right, scratch, columns })
    }
}

impl Product {
    /// Multiplies weights with the rows of `right`, adds the bias and writes the results to `target`.
    ///
    /// *Shape*: `right` is `[columns, depth]`, contiguous; `bias` is `[rows]`; `target` is `[columns, rows]`.
    ///
    /// *Errors*: a shape is another.
    #[expect(unsafe_code, reason = "tract's kernels take raw pointers and leave the checks to their callers")]
    pub(super) fn run(
        &mut self,
        weights: &Weights,
        right: &Tensor,
        bias: &Tensor,
        target: &mut Tensor,
    ) -> TractResult<()> {
        let is_operand =
            right.datum_type() == f32::datum_type() && right.shape() == [self.columns, weights.depth];
        ensure!(is_operand, "operand of shape {:?}", right.shape());
        let kernel = &weights.kernel;
        let fresh;
        let right: &dyn MMMInputValue = match &mut self.right {
            Right::Kept(format, buffer) => {
                // Releases of tract do not look whether the operands are in the kernel's own form.
                let needed = kernel.packings()[weights.packing].1.downcast_ref::<PackedFormat>();
                ensure!(needed == Some(&*format), "buffers of other weights");
                format.repack_tensor_view(buffer, &right.view(), 1, 0)?;
                buffer
            }
            Right::Fresh => {
                fresh = kernel.packings()[weights.packing].1.prepare_one(right, 1, 0)?;
                &*fresh
            }
        };
        ensure!(
            right.k() == weights.depth && right.mn() == self.columns,
            "operand packed for another product"
        );
        let is_target =
            target.datum_type() == f32::datum_type() && target.shape() == [self.columns, weights.rows];
        ensure!(is_target, "target of shape {:?}", target.shape());
        let is_bias = bias.datum_type() == f32::datum_type() && bias.shape() == [weights.rows];
        ensure!(is_bias, "bias of shape {:?}", bias.shape());
        let target = target.view_mut();
        let product = FusedSpec::AddMatMul {
            a: AsInputValue::Borrowed(&*weights.packed),
            b: AsInputValue::Borrowed(right),
            packing: weights.packing,
        };
        // SAFETY: `target` is a view of a tensor that is borrowed mutably until the end of this function; it is of f32 and,
        // as checked above, has the columns and rows that the run is told, so that nothing is written beside it. Both
        // operands are in the forms of this packing (the weights since `pack`, the other as checked or just made) and
        // have the same depth; the bias is checked to have a value a row.
        unsafe {
            let store = kernel.c_view(Some(1), Some(0)).wrap(&target);
            let steps = [product, FusedSpec::BinPerRow(bias.view(), BinOp::Add), FusedSpec::Store(store)];
            kernel.run_with_scratch_space(weights.rows, self.columns, &mut *self.scratch, &steps)
        }
    }
}
