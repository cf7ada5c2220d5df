//! What the link makes of an answer beside the statement: settings, refusals, silence, and how long to wait then.
//!
//! Shows each outcome on the board and logs it once. Decides by the pure parts; believes nothing that `course` has not checked.

use std::time::{Duration, Instant};

use dunlin_kit::backoff::random_unit;
use dunlin_kit::clock;
use dunlin_kit::error_chain::Chain;
use dunlin_protocol::refusal::Refusal as WireRefusal;
use dunlin_protocol::report::SettingsReport;
use dunlin_protocol::{DeviceState, ExchangeAnswer, Form, RefusalCode};

use super::{Course, UNKNOWN_MAX};
use crate::link::link_board::SettingsShown;
use crate::link::reaction::{Deed, Patience, Reaction, Warrant, reaction};
use crate::link::rhythm::Heeded;
use crate::link::server_repository::ServerRepository;
use crate::link::settings_offer::Taking;

impl Course {
    /// Returns how long to wait after a part of an answer was taken or not.
    pub(super) fn waited(&mut self, part: &str, taken: Result<(), String>) -> Duration {
        match taken {
            Ok(()) => self.wait(Patience::AsTold, Some(Duration::ZERO), None),
            Err(words) => {
                self.say(part, &words);
                self.parts.board.change(|report| report.last_error = Some(words));
                self.wait(Patience::BackOff, None, None)
            }
        }
    }

    /// Takes the server's settings, where the answer brings any.
    pub(super) fn take_settings(&mut self, answer: &ExchangeAnswer) -> Result<(), String> {
        let (Some(offer), Some(remote)) = (&answer.settings, &self.remote) else { return Ok(()) };
        let status = self.parts.status.report(clock::monotonic_micros());
        let taking = Taking {
            desk: &self.parts.remote_settings,
            source: &ServerRepository::new(remote.clone()),
            request: &self.parts.request,
            brokers: status.brokers.values().filter(|broker| broker.connected).count(),
        };
        taking.take(offer).map_err(|error| Chain(&error).to_string())
    }

    pub(super) fn show_settings(&self, of_server: &SettingsReport) {
        let shown = (of_server.revision > 0).then(|| SettingsShown {
            revision: of_server.revision,
            state: of_server.state.as_str().to_owned(),
            detail: of_server.detail.as_ref().map(|detail| detail.as_str().to_owned()),
        });
        self.parts.board.change(|report| report.settings = shown);
    }

    pub(super) fn refused_signed(&mut self, refusal: &WireRefusal, told: Duration) -> Duration {
        let code = &refusal.code;
        let Reaction { patience, deed, .. } = reaction(code, Warrant::Signed);
        self.say(code.as_str(), &format!("{code}: the server refuses this gateway ({})", refusal.words));
        if let (Deed::RiseAbove, Some(highest), Some(counter)) = (deed, refusal.highest, &mut self.counter) {
            counter.rise_above(highest.get());
        }
        self.wait(patience, Some(told), None)
    }

    pub(super) fn refused_unsigned(
        &mut self,
        code: &RefusalCode,
        words: &str,
        retry_after: Option<Duration>,
    ) -> Duration {
        let Reaction { patience, deed, .. } = reaction(code, Warrant::Unsigned);
        self.parts.outgoing.refused(code);
        self.say(code.as_str(), &format!("{code}: {words}"));
        match deed {
            Deed::PlainForm => self.form = Form::Plain,
            Deed::EnrolAfterADay => {
                let since = *self.unknown_since.get_or_insert_with(Instant::now);
                let has_token = self.settings.fleet.token_file.as_deref().is_some_and(|path| path.exists());
                if has_token && since.elapsed() >= UNKNOWN_MAX {
                    return self.enrol();
                }
            }
            Deed::None | Deed::RiseAbove => {}
        }
        self.wait(patience, None, retry_after)
    }

    pub(super) fn wait(
        &mut self,
        patience: Patience,
        told: Option<Duration>,
        retry_after: Option<Duration>,
    ) -> Duration {
        self.rhythm.wait_after(Heeded { patience, told, retry_after }, random_unit())
    }

    pub(super) fn answered(&mut self, state: &DeviceState) {
        if self.last_said != state.as_str() {
            state.as_str().clone_into(&mut self.last_said);
            tracing::info!(%state, "the fleet server answers");
        }
        let revision = self.life.as_ref().map_or(0, |life| life.desired_revision);
        self.parts.board.change(|report| {
            state.as_str().clone_into(&mut report.state);
            report.answers += 1;
            report.failures = 0;
            report.answered_at_us = Some(clock::monotonic_micros());
            report.last_error = None;
            report.desired_revision = revision;
        });
    }

    /// Notes a refusal by its code, and logs it once.
    pub(super) fn say(&mut self, code: &str, words: &str) {
        self.is_heard = false;
        if self.last_said != words {
            words.clone_into(&mut self.last_said);
            tracing::warn!(code, words, "the fleet server");
        }
        self.parts.board.change(|report| {
            code.clone_into(&mut report.state);
            report.failures += 1;
            report.last_error = Some(words.to_owned());
        });
    }

    /// Notes that nothing came, and logs it once.
    pub(super) fn failed(&mut self, words: &str, patience: Patience) -> Duration {
        self.is_heard = false;
        if self.last_said != words {
            words.clone_into(&mut self.last_said);
            tracing::warn!(words, "no answer of the fleet server; models run on");
        }
        self.parts.board.change(|report| {
            report.failures += 1;
            report.last_error = Some(words.to_owned());
        });
        self.wait(patience, None, None)
    }
}
