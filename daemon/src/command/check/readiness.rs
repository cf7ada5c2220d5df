//! Production readiness: what works on the bench and fails in the field.
//!
//! Looks at clock, disk, permissions, addresses and the service unit; changes nothing.

use std::path::{Path, PathBuf};

use dunlin_kit::clock;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::report::{Report, Section};
use crate::config::is_world_readable;
use crate::config::settings::Settings;

const SECTION: Section = Section::Readiness;
/// Present where systemd is the init process (sd_booted(3)).
const SYSTEMD_RUNS: &str = "/run/systemd/system";
/// Where a service unit may be, the first that exists counts (systemd.unit(5)).
const UNITS: [&str; 3] = [
    "/etc/systemd/system/dunlind.service",
    "/usr/lib/systemd/system/dunlind.service",
    "/lib/systemd/system/dunlind.service",
];

/// Checks the gateway around the daemon.
pub(super) fn check(settings: &Settings, report: &mut Report) {
    check_clock(report);
    let folder = nearest_folder(&settings.state_dir);
    check_writable(&settings.state_dir, &folder, report);
    check_disk(settings, &folder, report);
    check_secrets(settings, report);
    check_http(settings, report);
    check_watchdog(report);
}

fn check_clock(report: &mut Report) {
    if clock::is_plausible(clock::wall_micros()) {
        report.pass(SECTION, "the clock is set");
    } else {
        let remedy = "set up NTP or a real-time clock: until the clock is set, readings without a time of their own are \
                      dated by the time since boot";
        report.warn(SECTION, "the clock is not set: it shows a time before this program was built", remedy);
    }
}

/// Returns the folder itself, or the nearest above it that exists.
fn nearest_folder(folder: &Path) -> PathBuf {
    let found = folder.ancestors().find(|ancestor| ancestor.is_dir());
    found.unwrap_or(Path::new(".")).to_owned()
}

fn check_writable(state_dir: &Path, folder: &Path, report: &mut Report) {
    let shown = state_dir.display();
    if access(folder, AccessFlags::W_OK | AccessFlags::X_OK).is_ok() {
        report.pass(SECTION, format!("the state folder `{shown}` can be written"));
    } else {
        let remedy = format!("run this as the daemon's user, or `chown dunlin {}`", folder.display());
        report.fail(SECTION, format!("the state folder `{shown}` cannot be written"), remedy);
    }
}

fn check_disk(settings: &Settings, folder: &Path, report: &mut Report) {
    const MIB: u64 = 1 << 20;
    let free = match statvfs(folder) {
        Ok(stat) => stat.blocks_available().saturating_mul(stat.fragment_size()),
        Err(error) => {
            let message = format!("free space of `{}` cannot be read: {error}", folder.display());
            report.warn(SECTION, message, "check the file system");
            return;
        }
    };
    let storage = &settings.storage;
    let message = format!("{} MiB of the file system are free", free / MIB);
    if free <= storage.free_bytes_min {
        let remedy = format!(
            "free more than {} MiB, or lower `storage.free_bytes_min`; until then the oldest rows go at once",
            storage.free_bytes_min / MIB
        );
        report.fail(SECTION, message, remedy);
    } else if free - storage.free_bytes_min < storage.bytes_max {
        let remedy =
            "the quota `storage.bytes_max` does not fit; rows go when `storage.free_bytes_min` is reached";
        report.warn(SECTION, message, remedy);
    } else {
        report.pass(SECTION, format!("{message}, the quota fits"));
    }
}

fn check_secrets(settings: &Settings, report: &mut Report) {
    let files = settings.brokers.iter().flat_map(|broker| {
        let key = broker.tls.as_ref().and_then(|tls| tls.key_file.as_deref());
        broker.credential_file.as_deref().into_iter().chain(key)
    });
    let open: Vec<String> =
        files.filter(|file| is_world_readable(file)).map(|file| file.display().to_string()).collect();
    if open.is_empty() {
        report.pass(SECTION, "secrets are private");
    } else {
        let remedy = format!("chmod 0600 {}", open.join(" "));
        report.warn(SECTION, format!("every user can read `{}`", open.join("`, `")), remedy);
    }
}

fn check_http(settings: &Settings, report: &mut Report) {
    match settings.http {
        None => report.skip(SECTION, "metrics are not served"),
        Some(address) if address.ip().is_loopback() => {
            report.pass(SECTION, format!("metrics are served to this machine alone, at {address}"));
        }
        Some(address) => report.warn(
            SECTION,
            format!("metrics are served to the network, at {address}, to everybody"),
            "listen on 127.0.0.1 and let a proxy with authentication forward them",
        ),
    }
}

fn check_watchdog(report: &mut Report) {
    if !Path::new(SYSTEMD_RUNS).exists() {
        let message = "no systemd: nothing would restart a daemon that hangs";
        report.warn(SECTION, message, "run the daemon under systemd with `dunlind.service`");
        return;
    }
    let unit = UNITS.iter().find_map(|path| std::fs::read_to_string(path).ok().map(|text| (path, text)));
    match unit {
        Some((path, text)) if text.lines().any(sets_watchdog) => {
            report.pass(SECTION, format!("the watchdog is set in `{path}`"));
        }
        Some((path, _)) => {
            report.warn(SECTION, format!("`{path}` sets no watchdog"), "add `WatchdogSec=30` to `[Service]`");
        }
        None => {
            let remedy = "install the package, or copy `systemd/system/dunlind.service`";
            report.warn(SECTION, "the service `dunlind.service` is not installed", remedy);
        }
    }
}

fn sets_watchdog(line: &str) -> bool {
    line.strip_prefix("WatchdogSec=").is_some_and(|value| !matches!(value.trim(), "" | "0"))
}
