//! Settings that the server offers: fetched by hash, checked like any configuration, and handed over for their trial.
//!
//! Takes those alone that the director's statement names and the owner's keys approve. What is refused is told to the server
//! and changes nothing. Runs nothing: the daemon's loop does.

use std::fmt;
use std::io::{self, Read as _};

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::{Digest, RepositoryPath, RepositorySource, SourceError};
use dunlin_protocol::exchange::SettingsOffer;

use crate::app;
use crate::config::LoadRequest;
use crate::config::overlay::SETTINGS_BYTES_MAX;
use crate::remote_settings::SettingsDesk;
use crate::remote_settings::desk::{REFUSED_HERE, SettingsMode};
use crate::remote_settings::standing::{Event, Named, SettingsFile};
use crate::store::StoreError;

/// Why an offer was neither taken nor refused; it comes again.
#[derive(Debug)]
pub enum OfferError {
    /// No statement that was taken names them.
    Unnamed(String),
    /// The file did not come.
    Fetch(SourceError),
    /// The file broke off.
    Read(io::Error),
    /// What came is another file: the place that gave it is not asked again at once.
    Foreign(String),
    /// `state.db` cannot be written.
    Store(StoreError),
}

impl fmt::Display for OfferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unnamed(target) => {
                write!(f, "the settings `{}` are named by no statement", target.escape_debug())
            }
            Self::Fetch(_) | Self::Read(_) => f.write_str("the settings cannot be fetched"),
            Self::Foreign(target) => {
                write!(f, "mismatch: what came for `{}` is another file", target.escape_debug())
            }
            Self::Store(_) => f.write_str("the settings cannot be stored"),
        }
    }
}

impl std::error::Error for OfferError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Fetch(error) => Some(error),
            Self::Read(error) => Some(error),
            Self::Store(error) => Some(error),
            Self::Unnamed(_) | Self::Foreign(_) => None,
        }
    }
}

/// What settings are taken with.
#[derive(Debug, Clone, Copy)]
pub struct Taking<'a, S> {
    /// Where they stand.
    pub desk: &'a SettingsDesk,
    /// Where files come from.
    pub source: &'a S,
    /// What the gateway's own configuration is loaded from.
    pub request: &'a LoadRequest,
    /// Brokers that are connected.
    pub brokers: usize,
}

impl<S: RepositorySource> Taking<'_, S> {
    /// Takes or refuses an offer; either is stored.
    ///
    /// *Errors*: neither was done, and the offer has to come again.
    pub fn take(&self, offer: &SettingsOffer) -> Result<(), OfferError> {
        let target = offer.target.as_str();
        let is_it = |named: &Named| named.target == target && named.digest == offer.digest;
        let named = self.desk.named().filter(is_it);
        let named = named.ok_or_else(|| OfferError::Unnamed(target.to_owned()))?;
        if self.desk.mode() == SettingsMode::Refuse {
            return self.refuse(offer, REFUSED_HERE.to_owned());
        }
        if let Some(why) = named.refused {
            return self.refuse(offer, why);
        }
        if named.length > SETTINGS_BYTES_MAX {
            return self.refuse(offer, format!("is longer than {SETTINGS_BYTES_MAX} bytes"));
        }
        let present = self.desk.in_use().filter(|file| file.digest == offer.digest);
        let text = match present {
            Some(file) => file.text,
            None => match String::from_utf8(self.fetch(&named)?) {
                Ok(text) => text,
                Err(_) => return self.refuse(offer, "is not UTF-8 text".to_owned()),
            },
        };
        let file = SettingsFile { target: target.to_owned(), digest: offer.digest, text };
        if let Err(error) = app::load(&app::with_settings(self.request, &file)) {
            return self.refuse(offer, Chain(&error).to_string());
        }
        tracing::info!(target, revision = offer.revision, "settings of the fleet server are taken");
        self.apply(Event::Offered { revision: offer.revision, file, brokers: self.brokers })
    }

    fn refuse(&self, offer: &SettingsOffer, cause: String) -> Result<(), OfferError> {
        let SettingsOffer { revision, target, digest } = offer;
        tracing::warn!(target = target.as_str(), cause, "settings of the fleet server are refused");
        self.apply(Event::Refused { revision: *revision, digest: *digest, cause })
    }

    fn apply(&self, event: Event) -> Result<(), OfferError> {
        self.desk.apply(event).map_err(OfferError::Store)
    }

    fn fetch(&self, named: &Named) -> Result<Vec<u8>, OfferError> {
        let foreign = || OfferError::Foreign(named.target.clone());
        let path = RepositoryPath::Blob(named.digest);
        let reader = self.source.reader_at(&path, 0).map_err(OfferError::Fetch)?.ok_or_else(foreign)?;
        let mut raw = Vec::new();
        reader.take(named.length + 1).read_to_end(&mut raw).map_err(OfferError::Read)?;
        let is_it = raw.len() as u64 == named.length && Digest::of(&raw) == named.digest;
        if is_it { Ok(raw) } else { Err(foreign()) }
    }
}
