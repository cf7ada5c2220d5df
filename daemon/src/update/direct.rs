//! The director's word, carried out: a statement is checked, what it takes back is left, what it names is kept and offered.
//!
//! Every release needs the owner's approval, whatever the director says; taking back needs none. First the statement, then
//! withdrawals, which need no network, then the image repository. One that was cut comes again, and changes nothing twice.

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::{RepositoryPath, RepositorySource, SourceError};
use dunlin_protocol::exchange::DirectorFiles;
use dunlin_trust::director::{Assignment, Statement, WithdrawalNote};
use dunlin_trust::metadata::TargetDescription;
use dunlin_trust::time::UnixTime;
use dunlin_trust::{Code, Verified};

use super::approval::{self, Approved};
use super::book::{BookError, ReleaseBook};
use super::import::{Import, ImportError, METADATA_CHECK, kept_refusal, model_check, open_trust};
use super::machine::{Event, Intent, Outcome};
use super::place::ListedSource;
use super::refusal::Refusal;
use super::release::{Cause, Reason, Release};
use super::trust_state::{Interruption, TrustState};
use crate::link::FLEET_PLACE;
use crate::remote_settings::standing::Named;
use crate::store::trust::{Cycle, KeptRelease, Trusted};
use crate::store::{StoreError, StoredRelease};

/// The check of a statement, as its refusals are filed.
pub const STATEMENT_CHECK: &str = "director";

/// Targets that are settings for the gateway and no releases.
const SETTINGS: &str = "settings/";
/// The check of settings, as their refusals are filed.
pub const SETTINGS_CHECK: &str = "settings";

/// A statement as it came.
#[derive(Debug, Clone, Copy)]
pub struct Letter<'a> {
    /// The director's files.
    pub files: &'a DirectorFiles,
    /// The mark of the question that it answers.
    pub nonce: &'a str,
}

impl RepositorySource for Letter<'_> {
    fn length(&self, path: &RepositoryPath) -> Result<Option<u64>, SourceError> {
        Ok(self.file(path).map(|raw| raw.len() as u64))
    }

    fn reader_at(
        &self,
        path: &RepositoryPath,
        offset: u64,
    ) -> Result<Option<Box<dyn std::io::Read + Send>>, SourceError> {
        let rest = |raw: &[u8]| raw.get(offset as usize..).unwrap_or_default().to_owned();
        Ok(self.file(path).map(|raw| Box::new(std::io::Cursor::new(rest(raw))) as _))
    }
}

impl Letter<'_> {
    /// Returns a file by its name; what is in it is the verifier's to judge.
    fn file(&self, path: &RepositoryPath) -> Option<&[u8]> {
        match path {
            RepositoryPath::Timestamp => Some(self.files.timestamp.as_bytes()),
            RepositoryPath::Metadata { role, .. } if role == "snapshot" => {
                Some(self.files.snapshot.as_bytes())
            }
            RepositoryPath::Metadata { role, .. } if role == "targets" => Some(self.files.targets.as_bytes()),
            RepositoryPath::Metadata { role, version } if role == "root" => {
                let is_version = |raw: &&[u8]| root_version(raw) == Some(*version);
                self.files.roots.iter().map(|root| root.as_bytes()).find(is_version)
            }
            _ => None,
        }
    }
}

fn root_version(raw: &[u8]) -> Option<u64> {
    let file: serde_json::Value = serde_json::from_slice(raw).ok()?;
    file.get("signed")?.get("version")?.as_u64()
}

/// What became of a target of the statement.
enum Chosen {
    /// It is to be offered to the slot.
    Offer(Box<Offered>),
    /// It runs already.
    Runs,
}

/// A release that is to be offered.
struct Offered {
    slot: String,
    release: KeptRelease,
    /// Which failure of it is to be forgotten.
    retry_of_ms: Option<i64>,
}

impl Import<'_> {
    /// Takes a statement of the director, which `source` has the approvals of. Returns the settings that it names; `named`
    /// are those of the statement before.
    ///
    /// *Errors*: refused as a whole, and on record; or something failed: then it is to be asked for again. What single
    /// targets are refused for is on record, and no error.
    pub fn direct(
        &mut self,
        letter: &Letter<'_>,
        source: &dyn ListedSource,
        book: &ReleaseBook,
        named: Option<&Named>,
    ) -> Result<Option<Named>, ImportError> {
        let directed = self.follow(letter, source, book, named);
        if let Err(ImportError::Refused(refusal)) = &directed {
            let Refusal { code, object, reason } = refusal;
            tracing::warn!(code, object, reason, "the director's statement is refused");
            let refused = vec![kept_refusal(STATEMENT_CHECK.to_owned(), refusal)];
            if let Err(error) = self.store.save(&Cycle { refused, ..Cycle::default() }) {
                tracing::warn!(error = %Chain(&error), "the refusal of a statement could not be recorded");
            }
        }
        directed
    }

    fn follow(
        &mut self,
        letter: &Letter<'_>,
        source: &dyn ListedSource,
        book: &ReleaseBook,
        named: Option<&Named>,
    ) -> Result<Option<Named>, ImportError> {
        let mut image = open_trust(self.store, self.state_dir, self.root)?;
        let now = image.time(&self.clocks);
        let (director, statement) = self.read_statement(letter, now)?;
        for note in &statement.withdrawn {
            self.withdraw(note, book)?;
        }
        let targets = || statement.targets.iter().filter(|(path, _)| !path.starts_with(SETTINGS));
        let before = image.kept();
        let kept = self.store.releases()?;
        let is_known = |(path, description): (&String, &TargetDescription)| {
            let sha256 = description.hashes.get("sha256");
            kept.iter().any(|kept| {
                kept.approved && kept.evidence.target == *path && sha256 == Some(&kept.digest.to_string())
            })
        };
        let mut passed = vec![STATEMENT_CHECK.to_owned()];
        let settings = statement.targets.iter().find(|(path, _)| path.starts_with(SETTINGS));
        let settings = settings.map(|(path, (description, _))| (path.as_str(), description));
        let are_settings_known = settings.is_none_or(|settings| is_named(named, settings));
        if !are_settings_known || !targets().all(|(path, (description, _))| is_known((path, description))) {
            if let Err(interruption) = image.refresh(source, now) {
                self.keep(&before, &image, Cycle::default())?;
                return Err(self.refresh_failed(interruption));
            }
            passed.push(METADATA_CHECK.to_owned());
        }
        let mut cycle = Cycle { passed, director: Some(director.kept_of_director()), ..Cycle::default() };
        let mut offers = Vec::new();
        for (path, (_, note)) in targets() {
            match self.choose(&mut image, source, &statement, path, now, book) {
                Ok(Chosen::Runs) => cycle.passed.push(model_check(&note.slot)),
                Ok(Chosen::Offer(offered)) => {
                    cycle.passed.push(model_check(&offered.slot));
                    cycle.releases.push(offered.release.clone());
                    offers.push(offered);
                }
                Err(ImportError::Refused(refusal)) => {
                    let Refusal { code, object, reason } = &refusal;
                    tracing::warn!(model = note.slot, code, object, reason, "release refused");
                    cycle.refused.push(kept_refusal(model_check(&note.slot), &refusal));
                }
                Err(error) => return Err(error),
            }
        }
        let named = match settings {
            Some(settings) if is_named(named, settings) => named.cloned(),
            Some(settings) => Some(choose_settings(&mut image, source, settings, now, &mut cycle)?),
            None => None,
        };
        if named.as_ref().is_none_or(|named| named.refused.is_none()) {
            cycle.passed.push(SETTINGS_CHECK.to_owned());
        }
        self.keep(&before, &image, cycle)?;
        offers.iter().try_for_each(|offered| self.offer(offered, book))?;
        Ok(named)
    }

    /// The image repository's refusals are filed as an import's are.
    fn refresh_failed(&mut self, interruption: Interruption) -> ImportError {
        if let Interruption::Refused(refusal) = &interruption {
            let refused = vec![kept_refusal(METADATA_CHECK.to_owned(), refusal)];
            if let Err(error) = self.store.save(&Cycle { refused, ..Cycle::default() }) {
                tracing::warn!(error = %Chain(&error), "the refusal of metadata could not be recorded");
            }
        }
        interruption.into()
    }

    /// Checks the director's files and reads what they say. New roots are kept even where the rest is refused.
    fn read_statement(
        &mut self,
        letter: &Letter<'_>,
        now: UnixTime,
    ) -> Result<(TrustState, Verified<Statement>), ImportError> {
        let kept = self.store.load_of(Trusted::Director)?;
        let kept = kept.ok_or_else(|| Refusal::state_lost("no root of a director is kept; enrol again"))?;
        let mut director = TrustState::load(kept)?;
        let before = director.kept_of_director();
        if let Err(interruption) = director.refresh(letter, now) {
            let after = director.kept_of_director();
            if after != before {
                self.store.save(&Cycle { director: Some(after), ..Cycle::default() })?;
            }
            return Err(interruption.into());
        }
        let statement =
            Statement::read(director.set(), self.device, letter.nonce, now).map_err(Refusal::from)?;
        Ok((director, statement))
    }

    fn withdraw(&mut self, note: &WithdrawalNote, book: &ReleaseBook) -> Result<(), ImportError> {
        let detail = format!("{}: {}", note.rollout, note.reason);
        match book.apply(&note.model, &Event::Withdraw { digest: note.digest, detail }) {
            Ok(Outcome::Changed) => {
                tracing::warn!(model = note.model, release = %note.digest, "the fleet takes a release back");
                Ok(())
            }
            Ok(Outcome::Refused(refusal)) => {
                let object = format!("models/{}", note.model);
                let refusal =
                    Refusal { code: refusal.code().to_owned(), object, reason: refusal.to_string() };
                let refused = vec![kept_refusal(model_check(&note.model), &refusal)];
                Ok(self.store.save(&Cycle { refused, ..Cycle::default() })?)
            }
            // A model that is not configured runs nothing.
            Ok(Outcome::Unchanged) | Err(BookError::UnknownModel(_)) => Ok(()),
            Err(BookError::Store(error)) => Err(error.into()),
            Err(error @ BookError::StateLost(_)) => Err(Refusal::state_lost(error).into()),
        }
    }

    /// Checks one target of the statement, and brings its manifest.
    fn choose(
        &self,
        image: &mut TrustState,
        source: &dyn ListedSource,
        statement: &Verified<Statement>,
        path: &str,
        now: UnixTime,
        book: &ReleaseBook,
    ) -> Result<Chosen, ImportError> {
        let (description, note) = &statement.targets[path];
        let slot = &note.slot;
        if !self.models.contains(slot) {
            let reason =
                format!("is for the slot `{}`, and no model of that name is configured", slot.escape_debug());
            return Err(Refusal::trust(Code::Incompatible, path, reason).into());
        }
        let target = approval::find(image.set_mut(), source, path, now)?;
        let active = book.state(slot).active.map(|active| active.digest.to_string());
        // What was good is above no floor that it raised itself, nor above one of a release that was taken back since.
        let is_active = active.is_some() && active.as_ref() == description.hashes.get("sha256");
        let floor = if is_active { 0 } else { self.floors.get(slot).copied().unwrap_or(0) };
        let assignment =
            Assignment::check(statement, &target, self.device, floor).map_err(Refusal::from)?.into_inner();
        if is_active {
            return Ok(Chosen::Runs);
        }
        let sha256 = target.description.hashes.get("sha256").and_then(|hash| hash.parse().ok());
        let unnamed = || Refusal::trust(Code::Mismatch, path, "is signed without a SHA-256");
        let approved = Approved { note: assignment.release, digest: sha256.ok_or_else(unnamed)?, target };
        self.require_counter(&approved)?;
        let release = match self.store.release(&approved.digest)? {
            Some(kept) => kept,
            None => {
                let file = approval::fetch_manifest(&approved, image.set(), source, self.device)?;
                self.release_of(file, slot)?
            }
        };
        let release = KeptRelease { approved: true, place: Some(FLEET_PLACE.to_owned()), ..release };
        let (slot, retry_of_ms) = (slot.clone(), note.retry_of_ms);
        Ok(Chosen::Offer(Box::new(Offered { slot, release, retry_of_ms })))
    }

    fn offer(&mut self, offered: &Offered, book: &ReleaseBook) -> Result<(), ImportError> {
        let Offered { slot, release, retry_of_ms } = offered;
        // What the fleet took back and names again, it means; and what it names by the very failure. One that came since
        // is another, so that a statement which comes again has nothing tried twice.
        let is_forgiven = |bad: &super::machine::BadRelease| {
            bad.reason == Reason::RolledBack(Cause::Fleet)
                || *retry_of_ms == Some(bad.at_us.div_euclid(1_000))
        };
        let is_meant = book.state(slot).badness(&release.digest).is_some_and(is_forgiven);
        let intent = if is_meant { Intent::Retry } else { Intent::Desired };
        let refusal = match book.offer(slot, &stored(release), intent) {
            Ok(Outcome::Changed | Outcome::Unchanged) => return Ok(()),
            Ok(Outcome::Refused(refusal)) => Refusal {
                code: refusal.code().to_owned(),
                object: release.evidence.target.clone(),
                reason: refusal.to_string(),
            },
            Err(BookError::Store(error)) => return Err(error.into()),
            Err(error) => return Err(Refusal::state_lost(error).into()),
        };
        let refused = vec![kept_refusal(model_check(slot), &refusal)];
        let recorded: Result<(), StoreError> = self.store.save(&Cycle { refused, ..Cycle::default() });
        Ok(recorded?)
    }
}

/// A target of the statement that is settings: its path, and what the director says of it.
type SettingsTarget<'a> = (&'a str, &'a TargetDescription);

/// Tells whether these settings were found with the owner's approval before.
fn is_named(named: Option<&Named>, (path, description): SettingsTarget<'_>) -> bool {
    named.is_some_and(|named| {
        named.refused.is_none()
            && named.target == path
            && description.length == named.length
            && description.hashes.get("sha256") == Some(&named.digest.to_string())
    })
}

/// Searches settings in the image repository: they count where the owner's keys name the same file.
fn choose_settings(
    image: &mut TrustState,
    source: &dyn ListedSource,
    (path, description): SettingsTarget<'_>,
    now: UnixTime,
    cycle: &mut Cycle,
) -> Result<Named, ImportError> {
    let digest = description.hashes.get("sha256").and_then(|hash| hash.parse().ok());
    let unnamed = || Refusal::trust(Code::Mismatch, path, "is named without a SHA-256");
    let digest = digest.ok_or_else(unnamed)?;
    let found = match approval::find(image.set_mut(), source, path, now) {
        Ok(found)
            if found.description.length == description.length
                && found.description.hashes.get("sha256") == description.hashes.get("sha256") =>
        {
            Ok(())
        }
        Ok(_) => {
            Err(Refusal::trust(Code::NotApproved, path, "is another file than the one that the owner signed"))
        }
        Err(Interruption::Refused(refusal)) => Err(refusal),
        Err(interruption) => return Err(interruption.into()),
    };
    let refused = found.err().map(|refusal| {
        let Refusal { code, object, reason } = &refusal;
        tracing::warn!(code, object, reason, "settings refused");
        cycle.refused.push(kept_refusal(SETTINGS_CHECK.to_owned(), &refusal));
        format!("{code}: {object} {reason}")
    });
    Ok(Named { target: path.to_owned(), digest, length: description.length, refused })
}

/// Returns a kept release as the book takes it.
#[must_use]
pub fn stored(release: &KeptRelease) -> StoredRelease {
    StoredRelease {
        release: Release {
            digest: release.digest,
            model: release.model.clone(),
            version: release.version.clone(),
            counter: release.counter,
        },
        manifest: release.manifest.clone(),
        evidence: release.evidence.clone(),
    }
}
