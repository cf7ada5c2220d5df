//! The fleet server as this gateway would meet it: identity, enrolment, the way there, its clock, the data budget.
//!
//! Reads the state folder and sends one GET without an identity; enrols nothing, makes no key and changes nothing.

use std::os::unix::fs::PermissionsExt as _;

use dunlin_kit::clock;
use dunlin_kit::error_chain::Chain;

use super::report::{Report, Section};
use super::{Args, Probes};
use crate::config::settings::Settings;
use crate::link::enrolment::read_token;
use crate::link::identity::{IDENTITY_FILE, Identity};
use crate::link::remote::RemoteSettings;
use crate::store::FleetLife;
use crate::store::fleet::read_life;

/// Difference of the clocks that is worth a word: metadata that last for days bear it, and rows of two gateways no longer
/// stand in their order.
const CLOCK_DIFFERENCE_MAX_S: u64 = 60;

/// Checks the link to the fleet server, where there is to be one.
pub(super) fn check(settings: &Settings, args: &Args, probes: &Probes<'_>, report: &mut Report) {
    let life = read_life(&settings.state_dir);
    let enrolled_at = life.as_ref().ok().and_then(|life| Some(life.as_ref()?.url.clone()));
    let token = settings.fleet.token_file.as_deref().filter(|path| path.exists()).map(read_token);
    let of_token = token.as_ref().and_then(|token| token.as_ref().ok());
    let known = enrolled_at.or_else(|| of_token.map(|token| token.claim().server_url.to_string()));
    let remote = RemoteSettings::of(&settings.fleet, known.as_deref());
    if remote.is_none() && settings.fleet.token_file.is_none() && life.is_ok() {
        report.skip(Section::Fleet, "the gateway belongs to no fleet server");
        return;
    }
    check_identity(settings, report);
    match life {
        Ok(Some(life)) => tell_life(&life, report),
        Ok(None) => {
            let expires_s = of_token.map(|token| token.claim().expires_s);
            let refused = token.as_ref().and_then(|token| token.as_ref().err());
            match (expires_s, refused) {
                (Some(expires_s), _) => check_token(expires_s, report),
                (None, Some(error)) => report.fail(
                    Section::Fleet,
                    format!("not enrolled, and the enrolment token cannot be used: {}", Chain(error)),
                    "have the server's operator make a new one, and name its file in `fleet.token_file`",
                ),
                (None, None) => check_without_token(settings, report),
            }
        }
        Err(error) => report.fail(
            Section::Fleet,
            format!("the enrolment cannot be read: {}", Chain(&error)),
            "run this as the daemon's user; a damaged `state.db` is brought back from a backup",
        ),
    }
    match remote {
        Some(_) if args.offline => {
            report.skip(Section::Fleet, "the server: left out, since `--offline` was asked for");
        }
        Some(remote) => check_server(&remote, probes, report),
        None => {}
    }
    check_budget(settings, report);
}

fn check_identity(settings: &Settings, report: &mut Report) {
    let path = settings.state_dir.join(IDENTITY_FILE);
    match Identity::read(&settings.state_dir) {
        Ok(Some(identity)) => {
            let mode = path.metadata().map_or(0, |metadata| metadata.permissions().mode());
            let who = format!("gateway {}", identity.device());
            if mode & 0o077 == 0 {
                report.pass(Section::Fleet, format!("{who}: its key is readable by the daemon alone"));
            } else {
                let message = format!("{who}: others can read its key: `{}`", path.display());
                let remedy = format!(
                    "chmod 0600 {}; whoever may have a copy is this gateway to the server: revoke it there, and enrol with \
                     a new state folder",
                    path.display()
                );
                report.fail(Section::Fleet, message, remedy);
            }
        }
        Ok(None) => report.skip(Section::Fleet, "the gateway's key is made at the first start"),
        Err(error) => {
            let remedy = "run this as the daemon's user, or bring the key back from a backup";
            report.fail(Section::Fleet, Chain(&error).to_string(), remedy);
        }
    }
}

fn tell_life(life: &FleetLife, report: &mut Report) {
    report.pass(Section::Fleet, format!("enrolled at {} ({})", life.url, life.server));
}

fn check_token(expires_s: u64, report: &mut Report) {
    let now_us = clock::wall_micros();
    let is_over = clock::is_plausible(now_us) && expires_s < now_us.unsigned_abs() / 1_000_000;
    if is_over {
        let remedy = "have the server's operator make a new one";
        report.fail(Section::Fleet, "not enrolled, and the enrolment token is over", remedy);
    } else {
        report.pass(Section::Fleet, "not enrolled yet: the daemon enrols by its token at the first start");
    }
}

fn check_without_token(settings: &Settings, report: &mut Report) {
    if settings.trust_root.is_some() {
        let remedy = "compare the six words and accept the gateway there, or announce its key with \
                      `dunlind enroll --show-key` and `dunlin devices expect`";
        report.warn(
            Section::Fleet,
            "not enrolled yet: the server's operator has to accept the gateway",
            remedy,
        );
    } else {
        let remedy = "name an enrolment token in `fleet.token_file`, or the owner's root in `trust.root`";
        report.fail(Section::Fleet, "not enrolled, and there is nothing to enrol with", remedy);
    }
}

fn check_server(remote: &RemoteSettings, probes: &Probes<'_>, report: &mut Report) {
    let seen = match (probes.server)(remote) {
        Ok(seen) => seen,
        Err(failure) => {
            let message = format!("{}: {}", remote.server, failure.message);
            report.fail(Section::Fleet, message, failure.remedy);
            return;
        }
    };
    if seen.is_adopted {
        report.pass(Section::Fleet, format!("{} answers", remote.server));
    } else {
        let remedy = "run `dunlin server adopt`; until then no gateway can enrol";
        report.warn(
            Section::Fleet,
            format!("{} answers, and no owner has adopted it", remote.server),
            remedy,
        );
    }
    let Some(server_s) = seen.unix_s else { return };
    let difference_s = server_s.abs_diff(clock::wall_micros() / 1_000_000);
    if difference_s <= CLOCK_DIFFERENCE_MAX_S {
        report.pass(Section::Fleet, format!("the server's clock and this one differ by {difference_s} s"));
    } else {
        report.warn(
            Section::Fleet,
            format!("the server's clock and this one differ by {difference_s} s"),
            "set up NTP on both; times of this gateway's rows are by its own clock",
        );
    }
}

fn check_budget(settings: &Settings, report: &mut Report) {
    match settings.fleet.upload.budget_bytes {
        Some(bytes) => report.pass(Section::Fleet, format!("the data budget is {bytes} bytes a month")),
        None if settings.fleet.metered => report.warn(
            Section::Fleet,
            "each byte costs (`fleet.metered`), and there is no data budget",
            "set a limit, as in `fleet.data_budget = \"20MB/month\"`",
        ),
        None => report.pass(Section::Fleet, "the data budget is unlimited"),
    }
}
