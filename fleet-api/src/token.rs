//! Tokens of people and programs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Looks.
    Viewer,
    /// Rolls out, labels, enrols.
    Operator,
    /// All of it, and tokens, policies, revocation.
    Admin,
}

impl Scope {
    /// Returns the word on the wire and in the database.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Returns the scope of a word.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator, Self::Admin].into_iter().find(|scope| scope.word() == word)
    }
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiToken {
    /// Its id.
    pub id: String,
    /// Who or what uses it.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// The gateways that there are for it, as a label query; `*` for all.
    pub devices: String,
    /// When it was made.
    pub created: String,
    /// Who made it.
    pub created_by: String,
    /// When it ends by itself.
    pub expires: Option<String>,
    /// When it was used last, to a minute.
    pub used: Option<String>,
    /// When it was revoked.
    pub revoked: Option<String>,
}

/// A token to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApiToken {
    /// Who or what is to use it.
    #[schema(min_length = 1, max_length = 64, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// The gateways that there are for it, as a label query.
    #[serde(default = "all")]
    #[schema(max_length = 2048, format = "label-query")]
    pub devices: String,
    /// After how many seconds it ends by itself.
    #[serde(default)]
    #[schema(minimum = 60, maximum = 315_360_000)]
    pub expires_s: Option<u64>,
    /// Why.
    #[serde(default)]
    #[schema(max_length = 500, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub reason: String,
}

fn all() -> String {
    "*".to_owned()
}

/// A token that was made: the only time that its text is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IssuedApiToken {
    /// The token.
    #[serde(flatten)]
    pub token: ApiToken,
    /// What goes after `Authorization: Bearer`.
    pub text: String,
}
