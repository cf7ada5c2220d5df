//! What all operators of our own ask of a node's attributes.
//!
//! Refuses attributes that nobody here reads, so that none is passed over in silence. Reading single ones is tract's
//! part, their meaning the kernels'.

use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::TractResult;
use tract_onnx::tract_core::internal::bail;

/// Refuses a node with other attributes than these, or with one of them twice.
///
/// *Errors*: the first such attribute, by name.
pub(super) fn require_only(node: &NodeProto, known: &[&str]) -> TractResult<()> {
    for (position, attribute) in node.attribute.iter().enumerate() {
        let name: String = attribute.name.chars().take(64).collect();
        if !known.contains(&attribute.name.as_str()) {
            bail!("attribute `{name}` is not known here");
        }
        if node.attribute[..position].iter().any(|other| other.name == attribute.name) {
            bail!("attribute `{name}` occurs twice");
        }
    }
    Ok(())
}
