//! What this gateway is, as it tells a server: names, processor, board, system, programs.
//!
//! Reads a few files of the system; sends nothing. What is longer than the protocol takes is cut.

use std::fs;

use dunlin_kit::clock;
use dunlin_protocol::exchange::Clock;
use dunlin_protocol::list::Labels;
use dunlin_protocol::{Facts, List, Name};

use super::settings::LinkSettings;
use crate::board::BoardClass;
use crate::update::compatibility::ENGINE;

/// Versions of the protocol that are spoken.
const PROTOCOLS: [u32; 1] = [1];

/// Returns what this gateway is.
#[must_use]
pub fn facts_of(settings: &LinkSettings) -> Facts {
    let system = nix::sys::utsname::uname().ok();
    let host = system.as_ref().map(|system| system.nodename().to_string_lossy().into_owned());
    let board = fs::read_to_string("/proc/device-tree/model").unwrap_or_default();
    Facts {
        gateway: name(&settings.gateway),
        hostname: name(&host.unwrap_or_default()),
        architecture: name(std::env::consts::ARCH),
        board: name(board.trim_end_matches('\0').trim()),
        board_class: name(BoardClass::of_this_board().name()),
        os: name(&os_name()),
        agent: name("dunlind"),
        agent_version: name(env!("CARGO_PKG_VERSION")),
        engine: name(ENGINE),
        processors: std::thread::available_parallelism().map_or(0, |count| count.get() as u32),
        memory_bytes: memory_bytes("MemTotal:"),
        protocols: List::first_of(PROTOCOLS),
        models: List::first_of(settings.models.iter().map(|model| name(model))),
    }
}

/// Returns the labels that the gateway claims.
#[must_use]
pub fn labels_of(settings: &LinkSettings) -> Labels {
    let mut labels = Labels::default();
    for (label, value) in &settings.fleet.labels {
        // The configuration allows no more than fit.
        let _ = labels.insert(name(label), name(value));
    }
    labels
}

/// Returns what this gateway's clocks say now.
#[must_use]
pub fn clock_of() -> Clock {
    Clock {
        boot: name(&clock::boot_id()),
        mono_ms: (clock::monotonic_micros() / 1_000).unsigned_abs(),
        wall_ms: clock::wall_micros() / 1_000,
        synchronised: is_synchronised(),
    }
}

/// Returns a text as a name, cut where it is too long, without control characters.
#[must_use]
pub fn name(text: &str) -> Name {
    Name::cut(text)
}

/// Returns a line of `/proc/meminfo`, in bytes; 0 where there is none.
#[must_use]
pub fn memory_bytes(line: &str) -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let found = meminfo.lines().find_map(|text| text.strip_prefix(line));
    let kilobytes = found.and_then(|text| text.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0).saturating_mul(1_024)
}

/// Tells whether the system says that its clock is synchronised: systemd's word. Other services leave no such mark, so that
/// a clock of theirs counts as one that runs freely.
#[must_use]
pub fn is_synchronised() -> bool {
    clock::is_plausible(clock::wall_micros())
        && fs::exists("/run/systemd/timesync/synchronized").unwrap_or(false)
}

fn os_name() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    pretty.map(|text| text.trim_matches('"').to_owned()).unwrap_or_default()
}
