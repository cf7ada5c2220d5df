//! How gateways come in: tokens for several, keys that are expected.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Labels;

/// An enrolment token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnrolmentTokenStatus {
    /// Its id.
    pub id: String,
    /// Labels that gateways get by it.
    pub labels: Labels,
    /// When it ends.
    pub expires: String,
    /// How many gateways may still use it.
    pub uses_left: u64,
    /// When it was made.
    pub created: String,
    /// Who made it.
    pub created_by: String,
    /// When it was revoked.
    pub revoked: Option<String>,
}

/// An enrolment token to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEnrolmentToken {
    /// Labels that gateways get by it.
    #[serde(default)]
    #[schema(schema_with = crate::labels_schema)]
    pub labels: Labels,
    /// After how many seconds it ends.
    #[serde(default = "day_s")]
    #[schema(minimum = 60, maximum = 31_536_000)]
    pub expires_s: u64,
    /// How many gateways may use it.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub uses: u64,
    /// Why.
    #[serde(default)]
    #[schema(max_length = 500, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub reason: String,
}

const fn day_s() -> u64 {
    86_400
}

const fn one() -> u64 {
    1
}

/// An enrolment token that was made: the only time that its text is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IssuedEnrolmentToken {
    /// The token.
    #[serde(flatten)]
    pub token: EnrolmentTokenStatus,
    /// What `dunlind enroll` is given.
    pub text: String,
}

/// A gateway that is expected by its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExpectedDevice {
    /// Its id, which follows from its key.
    pub id: String,
    /// Labels that it gets.
    pub labels: Labels,
    /// Since when.
    pub created: String,
    /// Who expects it.
    pub created_by: String,
}

/// A gateway to expect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewExpectedDevice {
    /// Its ed25519 key in hexadecimal.
    #[schema(pattern = "^[0-9a-fA-F]{64}$", format = "ed25519-public-key")]
    pub public_key: String,
    /// Labels that it gets.
    #[serde(default)]
    #[schema(schema_with = crate::labels_schema)]
    pub labels: Labels,
    /// Why.
    #[serde(default)]
    #[schema(max_length = 500, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub reason: String,
}
