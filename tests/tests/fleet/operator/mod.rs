//! The operator's program against the real server: adoption and keys, what programs read of it, sticks to and fro.
//!
//! Runs `dunlin` as people do; what gateways make of it is judged by the verifier or by a real daemon.

mod adopting;
mod output;
mod settings;
mod sticks;

use std::net::SocketAddr;
use std::path::Path;

use dunlin_e2e::Outcome;
use dunlin_e2e::fleet_server::{FleetServer, ServerPlan};
use dunlin_e2e::key_files::KeyPlan;
use dunlin_e2e::operator::Operator;
use serde_json::Value;
use tempfile::TempDir;

use crate::device::request;

/// A server that runs, and an operator with keys who is logged in.
pub(crate) struct Office {
    pub(crate) folder: TempDir,
    pub(crate) operator: Operator,
    pub(crate) server: FleetServer,
}

impl Office {
    /// Makes keys and starts a server that nobody adopted yet.
    pub(crate) fn open(plan: KeyPlan) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let server = ServerPlan::new(folder.path())?.start()?;
        let operator = Operator::in_folder(folder.path())?.with_config(&folder.path().join("config"));
        operator.found(plan)?;
        let office = Self { folder, operator, server };
        office.log_in()?;
        Ok(office)
    }

    /// Makes keys and starts a server that speaks for them.
    pub(crate) fn adopted() -> Outcome<Self> {
        let office = Self::open(KeyPlan::default())?;
        office.operator.with_pass(&["server", "adopt", "--reason", "first"])?;
        Ok(office)
    }

    fn log_in(&self) -> Outcome<()> {
        let token = self.server.plan().data.join("keys/admin.token");
        let token = token.to_string_lossy();
        self.operator.run(&["login", &self.server.url(), "--token-file", &token]).map(drop)
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Returns what a command prints as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Outcome<Value> {
        let printed = self.operator.run(&[arguments, &["-o", "json"]].concat())?;
        Ok(serde_json::from_str(&printed)?)
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.server.plan().port))
    }

    /// Returns the server's files as a gateway fetches them.
    fn source(&self) -> impl FnMut(&str, u64) -> Option<Vec<u8>> + use<> {
        let address = self.address();
        move |path, _| {
            let reply = request(address, "GET", path, "", b"").ok()?;
            (reply.status == 200).then_some(reply.body)
        }
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}
