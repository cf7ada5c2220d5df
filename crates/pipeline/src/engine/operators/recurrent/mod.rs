//! LSTM, GRU and RNN, with all that ONNX defines for them in f32.
//!
//! tract runs them as a loop of small operators and passes over `direction = reverse`, `clip`, `activations` and
//! `input_forget`; these take the whole sequence at once and every attribute. Types other than f32 are refused.

mod activation;
mod cell;
mod form;
mod gru;
mod lstm;
mod panels;
mod rnn;
mod sequence;
#[cfg(test)]
mod tests;
mod walk;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::TractResult;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::Builder;
use super::kernel::built;
use form::Kind;
use sequence::Recurrent;

/// All of them.
pub(super) const OPERATORS: &[(&str, Builder)] = &[("LSTM", lstm), ("GRU", gru), ("RNN", rnn)];

type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

fn lstm(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    built(Recurrent::new(form::read(node, Kind::Lstm)?))
}

fn gru(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    built(Recurrent::new(form::read(node, Kind::Gru)?))
}

fn rnn(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    built(Recurrent::new(form::read(node, Kind::Rnn)?))
}
