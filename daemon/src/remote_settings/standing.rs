//! Where settings of the fleet server stand: named, on trial, good, or given up.
//!
//! Pure: events come in, a new standing goes out, and the caller stores it before it acts. Whatever moment the power goes,
//! the stored standing says what to run, and it comes to an end: each start of a trial is counted. Judges no content.

use dunlin_kit::digest::Digest;
use serde::{Deserialize, Serialize};

/// Starts of settings on trial, the first one included: a power cut may happen to come twice.
pub const TRIES: u32 = 3;

/// What the newest statement names, with the owner's approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Path of the target.
    pub target: String,
    /// SHA-256 of the file.
    pub digest: Digest,
    /// Its length in bytes.
    pub length: u64,
    /// Why the owner's keys do not approve it, where they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A file of settings that was fetched and checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsFile {
    /// Path of the target.
    pub target: String,
    /// SHA-256 of the text.
    pub digest: Digest,
    /// The settings, as TOML.
    pub text: String,
}

/// Settings on trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The settings.
    pub file: SettingsFile,
    /// Starts with them so far.
    pub starts: u32,
    /// Brokers that were connected when they came.
    pub brokers: usize,
}

/// Why settings are not in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GivenUp {
    /// They did not prove themselves.
    Reverted,
    /// They were refused before use.
    Refused,
}

/// Settings that were given up last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Which.
    pub digest: Digest,
    /// How.
    pub outcome: GivenUp,
    /// Why.
    pub cause: String,
}

/// Where settings stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    /// Revision of the newest settings that were taken or refused.
    pub revision: u64,
    /// What the newest statement names.
    pub named: Option<Named>,
    /// Settings that are confirmed.
    pub good: Option<SettingsFile>,
    /// Settings that are in use and not yet confirmed.
    pub trial: Option<Trial>,
    /// The newest settings, where they were given up.
    pub failed: Option<Failed>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A statement was taken; it names these settings, or none.
    Named(Option<Named>),
    /// The server offers settings that were fetched and pass every check.
    Offered {
        /// The offer's revision.
        revision: u64,
        /// The settings.
        file: SettingsFile,
        /// Brokers that are connected.
        brokers: usize,
    },
    /// The server offers settings that are refused.
    Refused {
        /// The offer's revision.
        revision: u64,
        /// SHA-256 of the file.
        digest: Digest,
        /// Why.
        cause: String,
    },
    /// The daemon starts.
    Started,
    /// The daemon runs with these settings, and the server answered since.
    Confirmed(Digest),
    /// These settings, which are in use, do not work.
    Failed {
        /// Which.
        digest: Digest,
        /// Why.
        cause: String,
    },
}

impl Standing {
    /// Returns the settings to run with; none: those of the gateway's own configuration alone.
    #[must_use]
    pub fn in_use(&self) -> Option<&SettingsFile> {
        self.trial.as_ref().map(|trial| &trial.file).or(self.good.as_ref())
    }

    /// Tells whether settings were tried in vain: they are not tried again until others came.
    #[must_use]
    pub fn has_given_up(&self, digest: &Digest) -> bool {
        let is_it = |failed: &Failed| failed.digest == *digest && failed.outcome == GivenUp::Reverted;
        self.failed.as_ref().is_some_and(is_it)
    }

    /// Returns where settings stand after an event.
    #[must_use]
    pub fn after(&self, event: Event) -> Self {
        let mut next = self.clone();
        match event {
            Event::Named(named) => next.name(named),
            Event::Offered { revision, file, brokers } => next.take(revision, file, brokers),
            Event::Refused { revision, digest, cause } => {
                next.revision = revision;
                next.failed = Some(Failed { digest, outcome: GivenUp::Refused, cause });
            }
            Event::Started => {
                if let Some(trial) = &mut next.trial {
                    trial.starts += 1;
                    if trial.starts > TRIES {
                        let digest = trial.file.digest;
                        let cause = format!("the daemon was started {TRIES} times without a confirmation");
                        next.give_up(digest, cause);
                    }
                }
            }
            Event::Confirmed(digest) => {
                if let Some(trial) = next.trial.take_if(|trial| trial.file.digest == digest) {
                    next.good = Some(trial.file);
                }
            }
            Event::Failed { digest, cause } => next.give_up(digest, cause),
        }
        next
    }

    fn name(&mut self, named: Option<Named>) {
        if named.is_none() {
            // The server wants the gateway to run on its own configuration. What was tried in vain stays known.
            (self.good, self.trial) = (None, None);
            self.failed.take_if(|failed| failed.outcome == GivenUp::Refused);
        }
        self.named = named;
    }

    fn take(&mut self, revision: u64, file: SettingsFile, brokers: usize) {
        self.revision = revision;
        if self.has_given_up(&file.digest) {
            return;
        }
        self.failed = None;
        if self.good.as_ref().is_some_and(|good| good.digest == file.digest) {
            self.trial = None;
            return;
        }
        // The same ones under another revision go on with their trial: its starts stay counted.
        match &mut self.trial {
            Some(trial) if trial.file.digest == file.digest => {}
            trial => *trial = Some(Trial { file, starts: 1, brokers }),
        }
    }

    fn give_up(&mut self, digest: Digest, cause: String) {
        let tried = self.trial.take_if(|trial| trial.file.digest == digest).is_some();
        let is_good = self.good.take_if(|good| !tried && good.digest == digest).is_some();
        if tried || is_good {
            self.failed = Some(Failed { digest, outcome: GivenUp::Reverted, cause });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(number: u8) -> SettingsFile {
        let text = format!("[log]\nfilter = \"l{number}\"\n");
        let digest = Digest::of(text.as_bytes());
        SettingsFile { target: format!("settings/{number}.toml"), digest, text }
    }

    fn offered(revision: u64, number: u8) -> Event {
        Event::Offered { revision, file: file(number), brokers: 1 }
    }

    fn failed(number: u8) -> Event {
        Event::Failed { digest: file(number).digest, cause: "no answer".to_owned() }
    }

    fn confirmed(number: u8) -> Event {
        Event::Confirmed(file(number).digest)
    }

    /// What runs, what is good, and what was given up, by number.
    fn summary(standing: &Standing) -> (Option<u8>, Option<u8>, Option<u8>) {
        let number = |digest: &Digest| (0..9).find(|number| file(*number).digest == *digest).unwrap();
        (
            standing.in_use().map(|file| number(&file.digest)),
            standing.good.as_ref().map(|file| number(&file.digest)),
            standing.failed.as_ref().map(|failed| number(&failed.digest)),
        )
    }

    #[test]
    fn settings_are_kept_or_left_by_what_happens() {
        let refused = Event::Refused { revision: 2, digest: file(2).digest, cause: "bad".to_owned() };
        let start = Event::Started;
        type Row = (&'static str, Vec<Event>, (Option<u8>, Option<u8>, Option<u8>));
        let table: Vec<Row> = vec![
            ("offered", vec![offered(1, 1)], (Some(1), None, None)),
            ("confirmed", vec![offered(1, 1), confirmed(1)], (Some(1), Some(1), None)),
            ("others confirm nothing", vec![offered(1, 1), confirmed(2)], (Some(1), None, None)),
            ("reverted to the file", vec![offered(1, 1), failed(1)], (None, None, Some(1))),
            (
                "back to the good",
                vec![offered(1, 1), confirmed(1), offered(2, 2), failed(2)],
                (Some(1), Some(1), Some(2)),
            ),
            ("not twice", vec![offered(1, 1), failed(1), offered(2, 1)], (None, None, Some(1))),
            (
                "after others",
                vec![offered(1, 1), failed(1), offered(2, 2), confirmed(2), offered(3, 1)],
                (Some(1), Some(2), None),
            ),
            ("refused", vec![offered(1, 1), confirmed(1), refused], (Some(1), Some(1), Some(2))),
            (
                "the good again",
                vec![offered(1, 1), confirmed(1), offered(2, 2), offered(3, 1)],
                (Some(1), Some(1), None),
            ),
            ("third start", vec![offered(1, 1), start.clone(), start.clone()], (Some(1), None, None)),
            ("fourth start", vec![offered(1, 1), start.clone(), start.clone(), start], (None, None, Some(1))),
            (
                "named no more",
                vec![offered(1, 1), confirmed(1), offered(2, 2), Event::Named(None)],
                (None, None, None),
            ),
            ("good that fits no more", vec![offered(1, 1), confirmed(1), failed(1)], (None, None, Some(1))),
            ("late failure", vec![offered(1, 1), offered(2, 2), failed(1)], (Some(2), None, None)),
        ];
        for (name, events, expected) in table {
            let standing =
                events.into_iter().fold(Standing::default(), |standing, event| standing.after(event));
            assert_eq!(summary(&standing), expected, "{name}");
        }
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            (1_u64..50, 0_u8..4).prop_map(|(revision, number)| offered(revision, number)),
            (1_u64..50, 0_u8..4).prop_map(|(revision, number)| Event::Refused {
                revision,
                digest: file(number).digest,
                cause: "bad".to_owned(),
            }),
            (0_u8..4).prop_map(confirmed),
            (0_u8..4).prop_map(failed),
            Just(Event::Started),
            Just(Event::Named(None)),
        ];
        proptest::collection::vec(event, 0..60)
    }

    proptest! {
        #[test]
        fn whenever_the_power_goes_a_trial_ends_and_what_was_good_runs_then(events in events()) {
            let mut standing = Standing::default();
            for event in events {
                let before = standing.clone();
                standing = standing.after(event.clone());
                let stored = serde_json::to_string(&standing).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Standing>(&stored).unwrap(), &standing);
                // Nothing becomes good but what was on trial and was confirmed.
                if standing.good != before.good && standing.good.is_some() {
                    let is_confirmation = matches!(event, Event::Confirmed(_));
                    prop_assert!(is_confirmation && before.trial.is_some_and(|trial| Some(trial.file) == standing.good));
                }
                // Restarted again and again, it comes to rest with what was good.
                let rested = (0..TRIES).fold(standing.clone(), |standing, _| standing.after(Event::Started));
                prop_assert!(rested.trial.is_none());
                prop_assert_eq!(&rested.good, &standing.good);
                if let Some(trial) = &standing.trial {
                    let again = rested.after(Event::Offered { revision: 99, file: trial.file.clone(), brokers: 0 });
                    prop_assert!(again.trial.is_none(), "tried again");
                }
            }
        }
    }
}
