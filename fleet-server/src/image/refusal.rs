//! Why an upload of the owner's is not taken: nothing of it is kept then.
//!
//! One value for each thing that the owner does about it.

use std::fmt;

use dunlin_kit::digest::Digest;
use dunlin_trust::Failure;
use dunlin_trust::sign::repository::SignError;

use crate::blobs::BlobError;
use crate::store::StoreError;

/// A refusal.
#[derive(Debug)]
pub enum ImageRefusal {
    /// A gateway would refuse it.
    Untrusted(Failure),
    /// The files contradict each other or what is here.
    Unfit(SignError),
    /// A file has a name that no upload holds.
    Name(String),
    /// Another file of this name is here.
    Taken(String),
    /// The root names another key than this server's.
    NotNamed {
        /// The role.
        role: &'static str,
        /// This server's key in hexadecimal.
        key: String,
    },
    /// There is no image repository yet.
    NoImage,
    /// Manifests or files of packages that are not here.
    Missing(Vec<Digest>),
    /// A manifest is not what the metadata say of it.
    Manifest {
        /// Path of the target.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Somebody else uploads at the same time.
    Raced,
    /// The store failed.
    Store(StoreError),
    /// The blobs cannot be read.
    Blobs(BlobError),
}

impl ImageRefusal {
    /// Returns the code for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Untrusted(failure) => failure.code.as_str(),
            Self::Unfit(_) | Self::Name(_) | Self::Manifest { .. } => "unfit",
            Self::Taken(_) => "taken",
            Self::NotNamed { .. } => "not_named",
            Self::NoImage => "no_image",
            Self::Missing(_) => "missing_blobs",
            Self::Raced => "conflict",
            Self::Store(_) | Self::Blobs(_) => "unavailable",
        }
    }
}

/// Digests that a message names; the others are counted.
const NAMED_MAX: usize = 16;

impl fmt::Display for ImageRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untrusted(failure) => write!(f, "gateways would refuse it: {failure}"),
            Self::Unfit(error) => write!(f, "the files do not fit: {error}"),
            Self::Name(name) => {
                write!(f, "`{}` is no file that the owner signs; send roots and targets", name.escape_debug())
            }
            Self::Taken(name) => {
                write!(f, "there is another file `{name}`; sign the change anew on what the server has")
            }
            Self::NotNamed { role, key } => write!(
                f,
                "the root does not name the server's key {key} alone sufficient for `{role}`; run `dunlin server adopt`"
            ),
            Self::NoImage => f.write_str("there is no image repository yet; upload its root first"),
            Self::Missing(digests) => {
                let named: Vec<_> = digests.iter().take(NAMED_MAX).map(ToString::to_string).collect();
                write!(f, "{} blobs are not here, upload them first: {}", digests.len(), named.join(", "))
            }
            Self::Manifest { path, reason } => write!(f, "the manifest of `{path}` {reason}"),
            Self::Raced => f.write_str("somebody else uploads at the same time; try again"),
            Self::Store(_) => f.write_str("the store failed"),
            Self::Blobs(_) => f.write_str("the blobs cannot be read"),
        }
    }
}

impl std::error::Error for ImageRefusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::Blobs(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Failure> for ImageRefusal {
    fn from(failure: Failure) -> Self {
        Self::Untrusted(failure)
    }
}

impl From<SignError> for ImageRefusal {
    fn from(error: SignError) -> Self {
        match error {
            SignError::Metadata(failure) => Self::Untrusted(failure),
            error => Self::Unfit(error),
        }
    }
}

impl From<StoreError> for ImageRefusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<BlobError> for ImageRefusal {
    fn from(error: BlobError) -> Self {
        Self::Blobs(error)
    }
}
