//! The model package: what a model needs to run, described so that it can be checked before it runs.
//!
//! Holds the manifest, the feature specification (how payloads become inputs), golden vectors and the
//! content-addressed files, with limits on each. Never runs a model, never talks to a network, a broker or a
//! database. Everything downstream (pipeline, daemon) reads these types; nothing here knows of them.

pub mod bundle;
pub mod expression;
pub mod feature_spec;
pub mod golden;
pub mod label_output;
pub mod manifest;
pub mod model_spec;
pub mod package;
pub mod profile;
pub mod profile_window;
pub mod repository_path;
pub mod repository_source;
pub mod span;
pub mod topic;
pub mod unit;

pub use bundle::{BundleError, BundleReader, BundleWriter};
pub use dunlin_kit::digest::{self, Digest};
pub use expression::{Aggregate, FeatureExpression};
pub use feature_spec::{FieldSpec, Format, Retained, SourceSpec, TimeFallback, TimeSpec};
pub use golden::{Golden, GoldenRecord};
pub use label_output::LabelPositions;
pub use manifest::{InputSpec, Manifest, OutputKind, OutputSpec, PostProcessing};
pub use model_spec::{MissingPolicy, ModelSpec, TriggerSpec, WindowSpec};
pub use package::{Blobs, Package, PackageError};
pub use profile::Profile;
pub use repository_path::RepositoryPath;
pub use repository_source::{RepositoryFolder, RepositorySource, SourceError};
pub use span::Span;
pub use topic::{TopicFilter, TopicTemplate};
