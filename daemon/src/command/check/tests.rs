//! Behaviour of `dunlind check` as a whole, with brokers and engines played by closures.

use std::net::TcpListener;

use clap::Parser as _;
use dunlin_model_package::{Blobs, Digest};
use dunlin_trust::sign::Development;

use super::*;
use crate::config::findings_to_errors;
use dunlin_pipeline::refusal::SpecFinding;

#[derive(Debug, clap::Parser)]
struct CommandLine {
    #[command(flatten)]
    args: Args,
}

/// A gateway with one model; its broker is a socket that accepts.
struct Site {
    folder: tempfile::TempDir,
    broker: TcpListener,
}

impl Site {
    fn new() -> Self {
        let site =
            Self { folder: tempfile::tempdir().unwrap(), broker: TcpListener::bind("127.0.0.1:0").unwrap() };
        site.write("root.json", "");
        let port = site.broker.local_addr().unwrap().port();
        site.write("dunlind.toml", &format!(
            "[mqtt]\nurl = \"mqtt://127.0.0.1:{port}\"\n[storage]\nfree_bytes_min = 0\nbytes_max = \"1MiB\"\n\
             [[source]]\nname = \"s\"\ntopics = [\"a\"]\nformat = \"number\"\nfields.x = {{}}\n\
             [[model]]\nname = \"m\"\npackage = \".\"\n[trust]\nroot = \"root.json\"\n"
        ));
        site
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        std::fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn check(&self, options: &[&str], probes: &Probes<'_>) -> (Outcome, String) {
        let folder = self.folder.path();
        let mut line = vec![
            "check".to_owned(),
            "--config".to_owned(),
            folder.join("dunlind.toml").display().to_string(),
        ];
        line.extend(["--state-dir".to_owned(), folder.join("state").display().to_string()]);
        line.extend(options.iter().map(|&option| option.to_owned()));
        let mut out = Vec::new();
        let outcome = check(&CommandLine::parse_from(line).args, probes, Vec::new(), &mut out).unwrap();
        (outcome, String::from_utf8(out).unwrap())
    }
}

/// A package whose files nobody reads.
fn package() -> Package {
    let manifest = serde_json::json!({
        "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": { "length": 1 },
        "inputs": [{ "name": "x", "shape": ["batch", 1], "features": [{ "name": "x" }] }],
        "outputs": [{ "name": "y", "kind": "vector", "shape": ["batch", 1] }],
        "blobs": { "model.onnx": { "sha256": Digest::of(b"model"), "bytes": 5 } }
    });
    let text = manifest.to_string().into_bytes();
    let (evidence, anchor) = Development::new().sign("models/m/1/manifest.json", &text, None);
    Package::without_files(evidence.verify(&anchor, text).unwrap(), Blobs::ByName(".".into())).unwrap()
}

const GOOD: Probes<'static> = Probes {
    compile: &|_| Ok(()),
    package: &|_, _| Ok(Some(package().into())),
    golden_vectors: &|_| Ok(Some(3)),
    broker: &|_| {
        Ok(BrokerReport {
            receive_max: None,
            packet_bytes_max: None,
            qos_max: None,
            retain_available: None,
            session_expiry: None,
        })
    },
    server: &|_| Ok(ServerSeen { is_adopted: true, unix_s: None }),
};

#[test]
fn a_good_gateway_passes_every_section() {
    let (outcome, text) = Site::new().check(&[], &GOOD);
    assert_eq!(outcome, Outcome::Passed, "{text}");
    for expected in [
        "Configuration\n  ✔ ",
        "holds together: 1 sources, 1 models",
        "Packages\n  ✔ model `m` (1): 3 golden predictions agree",
        "Connectivity\n  ✔ broker `mqtt` at 127.0.0.1:",
        "Production readiness\n  ✔ ",
        "✔ secrets are private",
        "0 failed",
    ] {
        assert!(text.contains(expected), "`{expected}` is not in\n{text}");
    }
}

#[test]
fn what_the_broker_and_the_model_lack_is_said_with_a_remedy() {
    let probes = Probes {
        compile: &|_| Ok(()),
        package: &|_, _| Ok(Some(package().into())),
        golden_vectors: &|_| {
            Err(ProbeFailure { message: "differs".to_owned(), remedy: "rebuild it".to_owned() })
        },
        broker: &|_| {
            Ok(BrokerReport {
                receive_max: Some(20),
                qos_max: Some(0),
                session_expiry: Some(Duration::ZERO),
                ..BrokerReport::default()
            })
        },
        ..GOOD
    };
    let (outcome, text) = Site::new().check(&["--set", "http.listen=0.0.0.0:0"], &probes);
    assert_eq!(outcome, Outcome::Failed);
    for expected in [
        "✘ model `m` (1): differs\n      rebuild it",
        "allows 20 messages in flight\n      raise the broker's in-flight window",
        "✘ broker `mqtt` at",
        "grants no QoS 1",
        "keeps the session for 0 s only",
        "! metrics are served to the network",
    ] {
        assert!(text.contains(expected), "`{expected}` is not in\n{text}");
    }
}

#[test]
fn a_broker_that_does_not_answer_is_a_failure_unless_offline() {
    let mut site = Site::new();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mqtt.url=mqtt://{}", gone.local_addr().unwrap());
    drop(std::mem::replace(&mut site.broker, TcpListener::bind("127.0.0.1:0").unwrap()));
    drop(gone);
    let (outcome, text) = site.check(&["--set", &url], &GOOD);
    assert_eq!(outcome, Outcome::Failed, "{text}");
    assert!(text.contains("cannot be reached"), "{text}");
    let (outcome, text) = site.check(&["--set", &url, "--offline"], &GOOD);
    assert_eq!(outcome, Outcome::Passed, "{text}");
}

#[test]
fn the_way_to_the_fleet_server_is_looked_at_where_there_is_one() {
    let site = Site::new();
    assert!(site.check(&[], &GOOD).1.contains("- the gateway belongs to no fleet server"));
    let url = ["--set", "fleet.url=https://fleet.example", "--set", "fleet.metered=true"];
    let ahead = |_: &RemoteSettings| {
        Ok(ServerSeen {
            is_adopted: false,
            unix_s: Some(dunlin_kit::clock::wall_micros() / 1_000_000 + 3_600),
        })
    };
    let (outcome, text) = site.check(&url, &Probes { server: &ahead, ..GOOD });
    assert_eq!(outcome, Outcome::Passed, "{text}");
    for expected in [
        "Fleet server\n  - the gateway's key is made at the first start",
        "! not enrolled yet: the server's operator has to accept the gateway",
        "! https://fleet.example answers, and no owner has adopted it",
        "! the server's clock and this one differ by 3",
        "! each byte costs",
    ] {
        assert!(text.contains(expected), "`{expected}` is not in\n{text}");
    }
    let state = site.folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let device = crate::link::identity::Identity::open(&state).unwrap().device();
    let gone = |_: &RemoteSettings| {
        Err(ProbeFailure { message: "was not reached".to_owned(), remedy: "start it".to_owned() })
    };
    let (outcome, text) = site.check(&url, &Probes { server: &gone, ..GOOD });
    assert_eq!(outcome, Outcome::Failed, "{text}");
    assert!(text.contains("✘ https://fleet.example: was not reached\n      start it"), "{text}");
    assert!(text.contains(&format!("✔ gateway {device}: its key is readable by the daemon alone")), "{text}");
    let key = state.join(crate::link::identity::IDENTITY_FILE);
    std::fs::set_permissions(key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let (outcome, text) = site.check(&[url.as_slice(), &["--offline"]].concat(), &GOOD);
    assert_eq!(outcome, Outcome::Failed, "{text}");
    assert!(text.contains("others can read its key") && text.contains("- the server: left out"), "{text}");
}

#[test]
fn a_bad_configuration_is_refused_as_a_whole() {
    let site = Site::new();
    let (outcome, text) = site.check(&["--set", "mqtt.qoss=1", "--set", "run.drain=x"], &GOOD);
    assert_eq!(outcome, Outcome::BadConfiguration);
    assert!(text.contains("did you mean `qos`?") && text.contains("2 failed"), "{text}");
    let compile = |loaded: &Loaded| {
        Err(findings_to_errors(
            vec![SpecFinding::new("source[0].fields.x.unit", "is unknown")],
            &loaded.origins,
        ))
    };
    let (outcome, text) = site.check(&["--effective"], &Probes { compile: &compile, ..GOOD });
    assert_eq!(outcome, Outcome::BadConfiguration);
    assert!(text.contains("dunlind.toml:10: source[0].fields.x.unit: is unknown"), "{text}");
}

#[test]
fn a_place_of_packages_that_went_away_is_a_failure_where_nothing_else_is_installed() {
    let site = Site::new();
    let line = "dunlind.toml:13: model[0].package: there is no bundle or repository `";
    let text = std::fs::read_to_string(site.folder.path().join("dunlind.toml")).unwrap();
    site.write("dunlind.toml", &text.replace("package = \".\"", "package = \"nowhere\""));
    let (outcome, text) = site.check(&[], &GOOD);
    assert_eq!(outcome, Outcome::Passed, "{text}");
    assert!(text.lines().any(|said| said.starts_with("  ! ") && said.contains(line)), "{text}");
    assert!(text.contains("✔ model `m` (1): 3 golden predictions agree"), "{text}");
    let nothing = Probes { package: &|_, _| Ok(None), ..GOOD };
    let (outcome, text) = site.check(&[], &nothing);
    assert_eq!(outcome, Outcome::Failed, "{text}");
    let told = |said: &str| {
        said.starts_with("  ✘ ") && said.contains(line) && said.contains("no release is installed")
    };
    assert_eq!(text.lines().filter(|said| told(said)).count(), 1, "{text}");
    // Beside what is refused it is told, too.
    let (outcome, text) = site.check(&["--set", "mqtt.qos=7"], &nothing);
    assert_eq!(outcome, Outcome::BadConfiguration, "{text}");
    assert!(text.lines().any(|said| said.starts_with("  ! ") && said.contains(line)), "{text}");
}

#[test]
fn the_json_report_holds_the_same_lines() {
    let (_, text) = Site::new().check(&["--output", "json"], &GOOD);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["outcome"], "passed");
    assert_eq!(report["checks"][0]["section"], "configuration");
    let (_, text) = Site::new().check(&["--output", "json", "--set", "mqtt.qos=7"], &GOOD);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["outcome"], "bad-configuration");
    assert_eq!(report["configuration_errors"][0]["origin"], "--set mqtt.qos");
}

#[test]
fn schema_and_effective_configuration_are_printed_alone() {
    let site = Site::new();
    let (outcome, text) = site.check(&["--schema"], &GOOD);
    assert_eq!(outcome, Outcome::Passed);
    assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["properties"]["mqtt"].is_object());
    let (_, text) = site.check(&["--effective"], &GOOD);
    assert!(text.parse::<toml::Table>().unwrap()["mqtt"]["keep_alive"].is_str(), "{text}");
}
