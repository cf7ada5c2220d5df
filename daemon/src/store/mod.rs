//! The gateway's two databases: the telemetry log and the small state beside it. The only home of rusqlite.
//!
//! Never decides what a reading means and never waits for a broker or a model. The stage sends steps to the
//! writer's thread; queries and the publisher's catch-up read by connections of their own.
//!
//! The log is one row a transaction (`batch`): its readings and predictions in one compact body under a checksum.
//! `body` frames the contents, `batch` the row, `tables` what stands beside it, `ledger` what was given up, `open` brings a folder up, `salvage`
//! rescues a damaged one, `writer` runs commits by `policy`, `retention` and `reserve` keep them in bounds.
//!
//! `outbox` numbers what travels to a fleet server beside predictions, `numbers` keeps numbers from being used twice,
//! `outbox_reader` reads them all, `uploads` keeps receipts and spending in the state.

pub mod batch;
pub mod body;
pub mod clock_fix;
pub mod error;
pub mod fleet;
pub mod fleet_settings;
pub mod folder_lock;
pub mod ledger;
mod numbers;
pub mod open;
pub mod outbox;
pub mod outbox_reader;
pub mod outbox_windows;
pub mod policy;
pub mod queue;
pub mod reader;
pub mod reserve;
pub mod retention;
mod salvage;
mod schema;
pub mod slots;
#[cfg(test)]
pub(crate) mod spoiled;
pub mod state;
mod tables;
pub mod trust;
pub mod uploads;
mod wire;
pub mod writer;

pub use error::{FailureClass, StoreError};
pub use fleet::{FleetLife, FleetStore};
pub use fleet_settings::SettingsStore;
pub use folder_lock::FolderLock;
pub use open::{DeliveryMark, Moment, Recovery, Store};
pub use outbox::SettledNumbers;
pub use reader::StoreReader;
pub use salvage::SalvageReport;
pub use slots::{StoredModels, StoredRelease};
pub use state::{LastStop, StateDatabase};
pub use trust::TrustStore;
pub use uploads::UploadStore;
pub use writer::{WriterCommand, WriterSettings, spawn_writer};

/// File name of the telemetry log inside the state folder.
pub const TELEMETRY_FILE: &str = "telemetry.db";
/// File name of the state database inside the state folder.
pub const STATE_FILE: &str = "state.db";

#[cfg(test)]
mod tests;
