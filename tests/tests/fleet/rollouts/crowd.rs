//! Simulated gateways that run releases: they do as the director's statement says, and report what became of it.
//!
//! The statement is read and not verified: whether it holds before the verifier is asked elsewhere, of few.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};

use dunlin_e2e::Outcome;
use dunlin_e2e::fleet_owner::ApprovedRelease;
use dunlin_fleet_simulator::Board;
pub(crate) use dunlin_fleet_simulator::Manner;
use dunlin_fleet_simulator::order::Order;
use dunlin_protocol::exchange::{ExchangeAnswer, ExchangeRequest};
use dunlin_protocol::report::Release;
use dunlin_protocol::{Digest, Name};

use crate::device::Device;
use crate::rows::losses;

/// Predictions of a gateway between two questions.
const PREDICTIONS: u64 = 20;

/// A gateway.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    pub(crate) device: Device,
    /// Rows of losses that it sent and has receipts for.
    pub(crate) rows: u64,
    /// Whether it sends rows.
    pub(crate) sends_rows: bool,
    board: Board,
    waiting: Option<ExchangeRequest>,
    ticks: i64,
}

fn release(approved: &ApprovedRelease) -> Release {
    Release {
        digest: approved.digest,
        model: Name::new(approved.note.model.as_str()).unwrap(),
        version: Name::new(approved.note.version.as_str()).unwrap(),
        counter: approved.note.release_counter,
    }
}

impl Deref for Gateway {
    type Target = Board;

    fn deref(&self) -> &Board {
        &self.board
    }
}

impl DerefMut for Gateway {
    fn deref_mut(&mut self) -> &mut Board {
        &mut self.board
    }
}

impl Gateway {
    pub(crate) fn new(device: Device, old: &ApprovedRelease, new: &ApprovedRelease) -> Self {
        let mut board = Board::of_models([super::MODEL]);
        board.install(release(old));
        board.learn(release(new));
        Self { device, rows: 0, sends_rows: false, board, waiting: None, ticks: 0 }
    }

    pub(crate) fn runs(&self) -> Digest {
        self.board.runs(super::MODEL).unwrap().digest
    }

    /// Knows another release, as far as a gateway knows one by its manifest.
    pub(crate) fn learn(&mut self, approved: &ApprovedRelease) {
        self.board.learn(release(approved));
    }

    pub(crate) fn turn_to(&mut self, server: SocketAddr) {
        self.device.turn_to(server);
    }

    /// Exchanges once, and does as it is told; a question without an answer is sent again next time.
    pub(crate) fn live(&mut self) -> Outcome<()> {
        if !self.try_live()? {
            return Err(dunlin_e2e::Failure::new("the server does not answer"));
        }
        Ok(())
    }

    /// Asks, waits for as long as the server lets it, and tells whether there was news.
    pub(crate) fn wait_for_news(&mut self) -> Outcome<bool> {
        let before = self.revision;
        self.try_live_for(50)?;
        Ok(self.revision != before)
    }

    /// The same as [`Self::live`]; tells whether the server answered.
    pub(crate) fn try_live(&mut self) -> Outcome<bool> {
        self.try_live_for(0)
    }

    fn try_live_for(&mut self, wait_seconds: u64) -> Outcome<bool> {
        let question = self.waiting.take().unwrap_or_else(|| self.ask());
        let answer = self.device.send(&question, wait_seconds).and_then(|reply| {
            // A server that ends, or does not have its database, answers with a problem or not at all.
            if reply.status >= 500 { Ok(None) } else { self.device.read::<ExchangeAnswer>(&reply).map(Some) }
        });
        let Ok(Some(answer)) = answer else {
            self.waiting = Some(question);
            return Ok(false);
        };
        answer.require_answer_to(&question).unwrap();
        assert!(answer.refusal.is_none(), "{answer:?}");
        for receipt in answer.receipts.iter() {
            let last = receipt.ranges.iter().map(|range| range.last()).max();
            self.rows = self.rows.max(last.unwrap_or(0));
        }
        if let Some(desired) = &answer.desired {
            self.board.obey(&Order::unverified(desired, &self.board.known).unwrap());
        }
        self.board.hear(&answer);
        self.ticks += 1;
        self.board.predict(PREDICTIONS);
        self.board.go_on(self.ticks);
        Ok(true)
    }

    fn ask(&mut self) -> ExchangeRequest {
        let rows = if self.sends_rows { vec![losses(self.rows + 1, 3)] } else { Vec::new() };
        let mut question = self.device.question(rows);
        self.board.fill(&mut question);
        question
    }
}
