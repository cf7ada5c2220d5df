//! The JSON Schema of all messages, for those who write another agent or check one.
//!
//! Made from the types; says what is written. Readers take more: unknown members, and values from the future.

use schemars::JsonSchema;

use crate::enrolment::{EnrollAnswer, EnrollRequest};
use crate::exchange::{ExchangeAnswer, ExchangeRequest};
use crate::refusal::Problem;
use crate::results::{Results, ResultsAnswer};
use crate::token::TokenClaim;

/// What travels; one of them is a payload or a body.
#[derive(JsonSchema)]
#[schemars(rename = "Dunlin device protocol, version 1", untagged)]
#[expect(dead_code, reason = "the schema is made of the types alone")]
enum Messages {
    /// A device's wish to be enrolled.
    EnrollRequest(EnrollRequest),
    /// The server's answer to it.
    EnrollAnswer(EnrollAnswer),
    /// A device's question.
    ExchangeRequest(ExchangeRequest),
    /// The server's answer to it.
    ExchangeAnswer(ExchangeAnswer),
    /// A part of a device's results by file.
    Results(Results),
    /// The server's answer to it.
    ResultsAnswer(ResultsAnswer),
    /// A refusal that is not signed.
    Problem(Problem),
    /// What an enrolment token says.
    TokenClaim(TokenClaim),
}

/// Returns the JSON Schema.
#[must_use]
pub fn protocol_schema_json() -> String {
    let mut text = format!("{:#}", schemars::schema_for!(Messages).to_value());
    text.push('\n');
    text
}
