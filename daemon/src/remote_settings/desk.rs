//! Where settings of the fleet server are kept, timed and shown while the daemon runs.
//!
//! Stores each standing before anybody acts on it. The link offers and confirms; the daemon's loop waits here for what is to
//! be run. A trial that is not confirmed in time ends here, whether or not the network or the link's thread works.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dunlin_kit::digest::Digest;
use dunlin_kit::error_chain::Chain;
use dunlin_protocol::Words;
use dunlin_protocol::report::{SettingsReport, SettingsState};
use tokio::sync::watch;
use tokio::time::Instant;

use super::standing::{Event, GivenUp, Named, SettingsFile, Standing};
use crate::store::{FolderLock, SettingsStore, StoreError};

/// Whether the server may set anything here, and how long its settings may take to prove themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettingsRule {
    /// Whether settings of the server are used.
    pub mode: SettingsMode,
    /// Longest time from their use to their confirmation.
    pub confirm_max: Duration,
}

impl Default for SettingsRule {
    fn default() -> Self {
        Self { mode: SettingsMode::Take, confirm_max: Duration::from_secs(5 * 60) }
    }
}

/// Whether settings of the server are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingsMode {
    /// They are.
    Take,
    /// The gateway's own configuration alone counts.
    Refuse,
}

/// When the end of a trial that could not be stored is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// The desk.
#[derive(Debug)]
pub struct SettingsDesk {
    inner: Mutex<Inner>,
    /// Rises with each change of what is to be run.
    orders: watch::Sender<u64>,
    /// Rises with each change that the server is to hear of.
    moves: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    /// None where `state.db` cannot be used: then nothing is taken.
    store: Option<SettingsStore>,
    standing: Standing,
    rule: SettingsRule,
    /// When the present trial is over.
    deadline: Option<Instant>,
    /// The settings that the daemon runs with.
    up: Option<Digest>,
}

impl SettingsDesk {
    /// Opens the desk; where `state.db` cannot be used nothing is taken, and the gateway's own configuration runs.
    #[must_use]
    pub fn open(lock: &FolderLock, rule: SettingsRule) -> Self {
        let opened = SettingsStore::open(lock).and_then(|store| Ok((store.standing()?, store)));
        let (standing, store) = match opened {
            Ok((standing, store)) => (standing, Some(store)),
            Err(error) => {
                tracing::error!(error = %Chain(&error), "settings of the fleet server are not used");
                (Standing::default(), None)
            }
        };
        let inner = Inner { store, standing, rule, deadline: None, up: None };
        Self { inner: Mutex::new(inner), orders: watch::channel(0).0, moves: watch::channel(0).0 }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the rule of a configuration.
    pub fn configure(&self, rule: SettingsRule) {
        self.lock().rule = rule;
    }

    /// Returns the settings to run with.
    #[must_use]
    pub fn in_use(&self) -> Option<SettingsFile> {
        self.lock().standing.in_use().cloned()
    }

    /// Returns what the newest statement names.
    #[must_use]
    pub fn named(&self) -> Option<Named> {
        self.lock().standing.named.clone()
    }

    /// Tells whether settings were tried in vain, and no others came since.
    #[must_use]
    pub fn has_given_up(&self, digest: &Digest) -> bool {
        self.lock().standing.has_given_up(digest)
    }

    /// Tells whether settings are used at all.
    #[must_use]
    pub fn mode(&self) -> SettingsMode {
        self.lock().rule.mode
    }

    /// Tells whether settings wait for their confirmation.
    #[must_use]
    pub fn is_on_trial(&self) -> bool {
        self.lock().standing.trial.is_some()
    }

    /// Returns the settings on trial that the daemon runs with, and as many brokers as when they came: an answer to a
    /// question that is asked from here on confirms them.
    #[must_use]
    pub fn ready_to_confirm(&self, brokers: usize) -> Option<Digest> {
        let inner = self.lock();
        let trial = inner.standing.trial.as_ref()?;
        let is_up = inner.up == Some(trial.file.digest) && brokers >= trial.brokers;
        is_up.then_some(trial.file.digest)
    }

    /// Stores what an event makes of the standing, then has it carried out.
    ///
    /// *Errors*: `state.db` cannot be written; nothing has changed.
    pub fn apply(&self, event: Event) -> Result<(), StoreError> {
        let mut inner = self.lock();
        let next = inner.standing.after(event);
        let is_offer = next.revision != inner.standing.revision;
        if next == inner.standing {
            return Ok(());
        }
        match &mut inner.store {
            Some(store) => store.store(&next, is_offer.then_some(next.revision))?,
            None => return Ok(()),
        }
        let tried = |standing: &Standing| standing.trial.as_ref().map(|trial| trial.file.digest);
        let is_other_run = next.in_use() != inner.standing.in_use();
        if tried(&next) != tried(&inner.standing) {
            inner.deadline = next.trial.as_ref().map(|_| Instant::now() + inner.rule.confirm_max);
        }
        inner.standing = next;
        drop(inner);
        if is_other_run {
            self.orders.send_modify(|count| *count += 1);
        }
        self.moves.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Counts a start of the daemon.
    pub fn note_start(&self) {
        self.apply_logged(Event::Started);
        let mut inner = self.lock();
        inner.deadline = inner.standing.trial.as_ref().map(|_| Instant::now() + inner.rule.confirm_max);
    }

    /// Leaves settings that do not work.
    pub fn give_up(&self, digest: Digest, cause: &str) {
        tracing::error!(settings = %digest, cause, "settings of the fleet server are given up");
        self.apply_logged(Event::Failed { digest, cause: cause.to_owned() });
    }

    /// Notes that the server answered a question that was asked when these settings ran.
    pub fn confirm(&self, digest: Digest) {
        if self.lock().up == Some(digest) {
            tracing::info!(settings = %digest, "the settings of the fleet server are confirmed");
            self.apply_logged(Event::Confirmed(digest));
        }
    }

    /// Notes that the daemon runs with these settings; has it run with others where these are not the ones any more.
    pub fn note_up(&self, settings: Option<Digest>) {
        let mut inner = self.lock();
        inner.up = settings;
        let wanted = inner.standing.in_use().filter(|_| inner.rule.mode == SettingsMode::Take);
        let is_other = wanted.map(|file| file.digest) != settings;
        drop(inner);
        if is_other {
            self.orders.send_modify(|count| *count += 1);
        }
        self.moves.send_modify(|count| *count += 1);
    }

    /// Notes that the daemon changes to another configuration.
    pub fn note_down(&self) {
        self.lock().up = None;
    }

    fn apply_logged(&self, event: Event) {
        if let Err(error) = self.apply(event) {
            tracing::error!(error = %Chain(&error), "what became of settings could not be stored");
        }
    }

    /// Tells of each change of what is to be run, see [`Self::next_order`].
    #[must_use]
    pub fn orders(&self) -> watch::Receiver<u64> {
        self.orders.subscribe()
    }

    /// Tells of each change that the server is to hear of.
    #[must_use]
    pub fn moves(&self) -> watch::Receiver<u64> {
        self.moves.subscribe()
    }

    /// Waits until other settings are to be run; ends a trial that takes too long. Cancel-safe.
    pub async fn next_order(&self, orders: &mut watch::Receiver<u64>) {
        loop {
            let deadline = self.lock().deadline;
            let over = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Ok(()) = orders.changed() => return,
                () = over => self.end_late_trial(),
            }
        }
    }

    fn end_late_trial(&self) {
        let mut inner = self.lock();
        let digest = inner.standing.trial.as_ref().map(|trial| trial.file.digest);
        // Where `state.db` cannot be written it is tried again.
        inner.deadline = digest.map(|_| Instant::now() + AGAIN);
        let Some(digest) = digest else { return };
        let lacking = match inner.up == Some(digest) {
            true => "the fleet server, or a broker, was not reached with them",
            false => "the daemon did not run with them",
        };
        let cause = format!("not confirmed within {:?}: {lacking}", inner.rule.confirm_max);
        drop(inner);
        self.give_up(digest, &cause);
    }

    /// Returns what the server is told; `effective` is the digest of the configuration that runs.
    #[must_use]
    pub fn report(&self, effective: Digest) -> SettingsReport {
        let inner = self.lock();
        report_of(&inner.standing, inner.rule.mode, effective)
    }
}

/// Returns what the server is told of a standing; `effective` is the digest of the configuration that runs.
#[must_use]
pub fn report_of(standing: &Standing, mode: SettingsMode, effective: Digest) -> SettingsReport {
    let Standing { revision, good, trial, failed, .. } = standing;
    let (state, detail) = match (trial, failed, good) {
        _ if mode == SettingsMode::Refuse && *revision > 0 => (SettingsState::Refused, Some(REFUSED_HERE)),
        (Some(_), _, _) => (SettingsState::Trial, None),
        (None, Some(failed), _) => {
            let state = match failed.outcome {
                GivenUp::Reverted => SettingsState::Reverted,
                GivenUp::Refused => SettingsState::Refused,
            };
            (state, Some(failed.cause.as_str()))
        }
        (None, None, Some(_)) => (SettingsState::Confirmed, None),
        (None, None, None) => (SettingsState::Local, None),
    };
    SettingsReport { digest: effective, revision: *revision, state, detail: detail.map(Words::cut) }
}

/// Said where the gateway's own configuration takes no settings.
pub const REFUSED_HERE: &str = "the gateway's own configuration refuses settings: `fleet.settings`";

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: SettingsRule =
        SettingsRule { mode: SettingsMode::Take, confirm_max: Duration::from_secs(300) };

    fn offer(desk: &SettingsDesk, text: &str) -> Digest {
        let digest = Digest::of(text.as_bytes());
        let file = SettingsFile { target: "settings/a.toml".to_owned(), digest, text: text.to_owned() };
        desk.apply(Event::Offered { revision: 4, file, brokers: 1 }).unwrap();
        digest
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_nobody_confirms_ends_by_itself_also_after_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        let desk = SettingsDesk::open(&lock, RULE);
        let mut orders = desk.orders();
        let digest = offer(&desk, "[log]\n");
        desk.next_order(&mut orders).await;
        assert_eq!(desk.in_use().map(|file| file.digest), Some(digest));
        drop(desk);
        let desk = SettingsDesk::open(&lock, RULE);
        desk.note_start();
        let mut orders = desk.orders();
        desk.note_up(Some(digest));
        assert_eq!(desk.report(digest).state, SettingsState::Trial);
        desk.next_order(&mut orders).await;
        assert_eq!((desk.in_use(), desk.report(digest).state), (None, SettingsState::Reverted));
        assert!(SettingsDesk::open(&lock, RULE).has_given_up(&digest));
    }

    #[tokio::test]
    async fn settings_are_confirmed_by_an_answer_with_all_brokers_while_they_run() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        let desk = SettingsDesk::open(&lock, RULE);
        let digest = offer(&desk, "[log]\n");
        assert_eq!(desk.ready_to_confirm(1), None, "it does not run yet");
        desk.confirm(digest);
        desk.note_up(Some(digest));
        assert_eq!(desk.ready_to_confirm(0), None, "a broker is away");
        assert_eq!(desk.ready_to_confirm(1), Some(digest));
        assert!(desk.is_on_trial());
        desk.confirm(digest);
        assert_eq!(desk.report(digest).state, SettingsState::Confirmed);
    }
}
