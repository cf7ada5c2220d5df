//! What a gateway and the fleet server say to each other: ids, the signed envelope, messages of version 1, receipts.
//!
//! Pure: bytes come in and go out; never opens a socket or a file, reads a clock or takes randomness. A leaf of the
//! workspace, used by `dunlind`, `dunlin-fleet` and `dunlin`. The words of it all are in `docs/protocol.md`.

pub mod batch;
pub mod enrolment;
pub mod envelope;
pub mod exchange;
pub mod health;
pub mod id;
pub mod json;
pub mod key;
pub mod limits;
pub mod list;
pub mod message;
mod open_enum;
pub mod ranges;
pub mod refusal;
pub mod report;
pub mod results;
pub mod routes;
pub mod schema;
pub mod text;
pub mod token;
mod verified;
pub mod words;

pub use batch::{Batch, BatchError, Stream};
pub use dunlin_kit::digest::Digest;
pub use enrolment::{DeviceState, EnrollAnswer, EnrollRequest, Enrolment, Facts};
pub use envelope::{Envelope, EnvelopeError, Payload};
pub use exchange::{ExchangeAnswer, ExchangeRequest};
pub use health::Health;
pub use id::{Counter, DeviceId, Incarnation, Nonce, RolloutId, ServerId, StartId, TokenId};
pub use key::PublicKey;
pub use list::{List, Map};
pub use message::{Form, Message, MessageError};
pub use ranges::{Range, Ranges};
pub use refusal::{Problem, RefusalCode};
pub use report::DeviceReport;
pub use text::{Name, Text, Words};
pub use token::{EnrolmentToken, ProofKey};
pub use verified::Verified;
