//! Labels of classes as a classifier's attributes hold them: texts or integers.
//!
//! *Source*: ai.onnx.ml, `classlabels_strings` and `classlabels_ints`.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::rows::tensor;

/// The labels of a classifier, in the order of its classes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ClassLabels {
    Texts(Vec<String>),
    Integers(Vec<i64>),
}

impl ClassLabels {
    /// Reads the labels of a node.
    ///
    /// *Errors*: there are none, or both kinds.
    pub(super) fn read(node: &NodeProto) -> TractResult<Self> {
        let texts: Vec<String> = node.get_attr_opt_vec("classlabels_strings")?.unwrap_or_default();
        let integers: Vec<i64> = node.get_attr_opt_vec("classlabels_ints")?.unwrap_or_default();
        match (texts.is_empty(), integers.is_empty()) {
            (false, true) => Ok(Self::Texts(texts)),
            (true, false) => Ok(Self::Integers(integers)),
            (true, true) => bail!("neither `classlabels_strings` nor `classlabels_ints` names a class"),
            (false, false) => bail!("`classlabels_strings` and `classlabels_ints` both name classes"),
        }
    }

    /// Returns how many there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Integers(integers) => integers.len(),
        }
    }

    /// Returns the element type of a tensor of labels.
    pub(super) fn datum_type(&self) -> DatumType {
        match self {
            Self::Texts(_) => String::datum_type(),
            Self::Integers(_) => i64::datum_type(),
        }
    }

    /// Returns what writes labels into a tensor of theirs.
    ///
    /// *Errors*: the tensor is of another type.
    pub(super) fn writer<'l>(&'l self, into: &'l mut Tensor) -> TractResult<LabelWriter<'l>> {
        Ok(LabelWriter { labels: self, into: into.try_as_plain_ram_mut()? })
    }

    /// Returns the labels at these positions as a tensor of one axis.
    pub(super) fn at(&self, positions: &[usize]) -> TractResult<TValue> {
        let shape = [positions.len()];
        Ok(match self {
            Self::Texts(texts) => tensor(&shape, positions.iter().map(|&at| texts[at].clone()).collect())?,
            Self::Integers(integers) => tensor(&shape, positions.iter().map(|&at| integers[at]).collect())?,
        }
        .into_tvalue())
    }
}

/// Writes labels row by row.
pub(super) struct LabelWriter<'l> {
    labels: &'l ClassLabels,
    into: PlainViewMut<'l>,
}

impl LabelWriter<'_> {
    /// Writes the label at a position as that of a row.
    ///
    /// *Errors*: the tensor has no such row.
    pub(super) fn write(&mut self, row: usize, position: usize) -> TractResult<()> {
        let beyond = "a label of a row that there is not";
        match self.labels {
            ClassLabels::Texts(texts) => {
                self.into
                    .as_slice_mut::<String>()?
                    .get_mut(row)
                    .context(beyond)?
                    .clone_from(&texts[position]);
            }
            ClassLabels::Integers(integers) => {
                *self.into.as_slice_mut::<i64>()?.get_mut(row).context(beyond)? = integers[position];
            }
        }
        Ok(())
    }
}
