//! Behaviour of `load` as a whole: real files, real packages, the complete example and its mutations.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dunlin_drift::privacy::Privacy;
use dunlin_kit::atomic_file;
use dunlin_pipeline::collect::Reporting;
use dunlin_pipeline::refusal::SpecFinding;
use proptest::prelude::*;
use toml::{Table, Value};

use super::reference::EXAMPLE;
use super::settings::{CommitProfile, PublishMode};
use super::{ConfigErrors, LoadRequest, Loaded, effective, findings_to_errors, load};

const MINIMAL: &str = "[mqtt]\nurl = \"mqtt://localhost\"\n\n\
    [[source]]\nname = \"s\"\ntopics = [\"a/b\"]\nformat = \"number\"\nfields.x = {}\n\n\
    [[model]]\nname = \"frost\"\npackage = \"frost\"\n\n\
    [trust]\nroot = \"root.json\"\n";

/// A folder with a configuration, the repository `frost` and the files that the example names.
struct Site(tempfile::TempDir);

impl Site {
    fn new(config: &str) -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        site.write("dunlind.toml", config);
        site.write("frost/metadata/timestamp.json", "");
        site.write("root.json", "");
        site.write("plant-ca.pem", "");
        site.write("mqtt.password", "secret");
        fs::set_permissions(site.path("mqtt.password"), fs::Permissions::from_mode(0o600)).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Without the waits for the disk that a file worth keeping needs.
        fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn request(&self) -> LoadRequest {
        LoadRequest { file: self.path("dunlind.toml"), ..LoadRequest::default() }
    }

    fn load(&self) -> Result<Loaded, ConfigErrors> {
        load(&self.request())
    }

    fn load_with(&self, set: &[&str], environment: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
        let set = set.iter().map(|&text| text.to_owned()).collect();
        let environment = environment.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        load(&LoadRequest { set, environment, ..self.request() })
    }
}

fn errors_of(config: &str) -> Vec<String> {
    let errors = Site::new(config).load().unwrap_err();
    errors
        .0
        .iter()
        .map(|finding| {
            finding
                .to_string()
                .split_once("dunlind.toml:")
                .map_or_else(|| finding.to_string(), |(_, rest)| rest.to_owned())
        })
        .collect()
}

#[test]
fn a_minimal_file_needs_a_url_a_source_and_a_model() {
    let site = Site::new(MINIMAL);
    let loaded = site.load_with(&["gateway=g"], &[]).unwrap();
    let broker = &loaded.settings.brokers[0];
    assert_eq!(
        (broker.host.as_str(), broker.port, broker.client_id.as_str()),
        ("localhost", 1883, "dunlin-g")
    );
    assert_eq!(broker.packet_bytes_max, 1 << 20);
    assert_eq!(loaded.settings.publish.mode, PublishMode::Immediate);
    assert_eq!(loaded.settings.storage.commit, CommitProfile::Auto);
    assert_eq!(loaded.settings.state_dir, Path::new("/var/lib/dunlin"));
    assert_eq!(loaded.settings.models[0].package, Some(site.path("frost")));
    assert_eq!(loaded.settings.trust_root, Some(site.path("root.json")));
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.settings.http.unwrap().to_string(), "127.0.0.1:9464");
}

#[test]
fn the_complete_example_is_accepted_without_a_warning() {
    let loaded = Site::new(EXAMPLE).load().unwrap();
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.settings.brokers[1].port, 8883);
    assert_eq!(loaded.settings.sources[1].broker.as_deref(), Some("plant"));
    assert_eq!(loaded.settings.storage.readings_age_max, Some(Duration::from_secs(30 * 86_400)));
}

#[test]
fn the_effective_configuration_reads_back_as_the_same_and_names_origins() {
    let site = Site::new(EXAMPLE);
    let loaded = site.load_with(&["run.drain=7s"], &[]).unwrap();
    let text = effective::render(&loaded.effective, &loaded.origins);
    assert_eq!(text.parse::<Table>().unwrap(), loaded.effective);
    assert!(text.contains("drain = \"7s\"  # --set run.drain"), "{text}");
    assert!(text.contains("reconnect_max = \"1m\"\n"), "{text}");
    assert!(text.contains("dunlind.toml:1\n"), "{text}");
    site.write("dunlind.toml", &text);
    assert_eq!(site.load().unwrap().effective, loaded.effective);
}

#[test]
fn later_layers_override_earlier_ones() {
    let site = Site::new(MINIMAL);
    site.write("conf.d/10-broker.toml", "[mqtt]\nkeep_alive = \"10s\"\nclient_id = \"a\"\n");
    site.write(
        "conf.d/20-more.toml",
        "[mqtt]\nclient_id = \"b\"\n[[source]]\nname = \"t-2\"\ntopics = [\"c\"]\nformat = \"number\"\n",
    );
    site.write("conf.d/ignored.txt", "nonsense");
    let folder = site.0.path().to_str().unwrap();
    let set =
        ["source.t-2.retained=use", "mqtt.username=1234", "model[0].window.hop=4", "mqtt.credential_file=p"];
    let environment = [
        ("DUNLIN_SOURCE__T_2__SERIES_MAX", "7"),
        ("DUNLIN_MQTT__QOS", "0"),
        ("DUNLIN_MQTT__USERNAME", "overridden"),
        ("DUNLIN_LOG", "{ filter = \"warn\" }"),
        ("DUNLIN_RUN__DRAIN", "1m"),
        ("CREDENTIALS_DIRECTORY", folder),
    ];
    assert!(site.load_with(&set, &environment).unwrap_err().to_string().contains("there is no file `p`"));
    site.write("p", "x");
    let loaded = site.load_with(&set, &environment).unwrap();
    let broker = &loaded.settings.brokers[0];
    assert_eq!((broker.client_id.as_str(), broker.keep_alive), ("b", Duration::from_secs(10)));
    assert_eq!(broker.username.as_deref(), Some("1234"));
    assert_eq!(broker.credential_file, Some(site.path("p")));
    assert_eq!(loaded.settings.sources[1].series_max, 7);
    assert_eq!(loaded.settings.models[0].spec.window.hop, Some(4));
    assert!(loaded.origins.nearest("source[1].topics").to_string().contains("20-more.toml:5"));
    assert_eq!(
        loaded.origins.nearest("source[1].series_max").to_string(),
        "environment variable DUNLIN_SOURCE__T_2__SERIES_MAX"
    );
}

#[test]
fn the_state_folder_comes_from_the_nearest_that_names_it() {
    let site = Site::new(&format!("state_dir = \"state\"\n{MINIMAL}"));
    assert_eq!(site.load().unwrap().settings.state_dir, site.path("state"));
    let request = LoadRequest { state_dir: Some("/x".into()), ..site.request() };
    assert_eq!(load(&request).unwrap().settings.state_dir, Path::new("/x"));
    let systemd = Site::new(MINIMAL).load_with(&[], &[("STATE_DIRECTORY", "/var/lib/a:/b")]).unwrap();
    assert_eq!(systemd.settings.state_dir, Path::new("/var/lib/a"));
}

#[test]
fn all_mistakes_are_said_at_once_with_line_and_hint() {
    let config = "[mqtt]\nurll = \"mqtt://u:hunter2@b\"\nqos = 2\n[storage]\ncommit = \"sometimes\"\nbytes_max = true\n\
        [[source]]\nname = \"a\"\nformat = \"jsn\"\ntopics = [\"x\", 3]\n\
        [source.fields.t]\nrange = [1]\n\
        [[model]]\nname = \"m\"\nsources = [\"b\"]\nwindow = { every = \"10s\", resample = \"3s\", hop = 2 }\n";
    let errors = errors_of(config);
    let text = errors.join("\n");
    for expected in [
        "2: mqtt.urll: unknown key `urll`\n  hint: did you mean `url`?",
        "a password does not belong into the URL",
        "3: mqtt.qos: quality of service 2",
        "5: storage.commit: `sometimes` is no commit profile",
        "6: storage.bytes_max: invalid type: boolean",
        "9: source[0].format: unknown variant `jsn`",
        "did you mean `json`?",
        "10: source[0].topics[1]: invalid type: integer",
        "12: source[0].fields.t.range",
        "15: model[0].sources[0]: there is no source `b`",
        "16: model[0].window.every: `10s` is no multiple",
        "16: model[0].window.hop: counts rows",
    ] {
        assert!(text.contains(expected), "`{expected}` is not in\n{text}");
    }
    assert_eq!(errors.len(), 11, "{text}");
    assert!(!text.contains("hunter2"));
}

#[test]
fn syntax_errors_are_said_with_their_lines() {
    let site = Site::new("[mqtt]\nurl = mqtt\nqos = 1\nqos = 0\n");
    site.write("conf.d/a.toml", "x = [\n");
    let text = site.load().unwrap_err().to_string();
    assert!(
        text.contains("dunlind.toml:2: ") && text.contains("dunlind.toml:4: ") && text.contains("a.toml:"),
        "{text}"
    );
}

/// Single changes of the minimal file, and what must be said of them.
const REFUSED: &[(&str, &str)] = &[
    ("model.frost.output.topic='a/{key}'", "source `s` would read predictions of model `frost`"),
    ("source.s.topics=['dunlin/#']", "would read"),
    ("source.s.topics=['+/{x}/status']", "the gateway's status"),
    ("model.frost.output.topic='{nowhere}'", "`{nowhere}` is none of {gateway}, {model}, {key}"),
    (
        "model.frost.alert={topic='dunlin/{gateway}/predictions/frost/{key}'}",
        "the same topics as predictions of model `frost`",
    ),
    ("model.frost.alert={topic='x', debounce={n=3,m=2}}", "no n-of-m rule"),
    ("model.frost.window={resample='1s'}", "needs `every`"),
    ("model.frost.window={every='1s'}", "needs `resample`"),
    ("model.frost.window={length=0}", "write 1 to 86400 rows"),
    ("model.frost.trigger={on='x', every='1s'}", "more than one of"),
    ("source.s.broker=plant", "there is no broker `plant`"),
    ("source.s.topics=['a/#/b']", "no topic filter"),
    ("source.s.topics=[]", "there is no topic"),
    ("source.s.name='a b'", "other characters"),
    ("gateway='a/b'", "other characters"),
    ("brokers.mqtt.url=mqtt://x", "is the name of the broker in `[mqtt]`"),
    ("brokers.b={url='mqtt://localhost', client_id='dunlin-g-out'}", "also used for broker `mqtt`"),
    ("mqtt.ca_file=x", "no effect on a connection without TLS"),
    ("mqtt={url='mqtts://b', key_file='/nowhere'}", "of no use without `certificate_file`"),
    ("mqtt.password=x", "name that in `credential_file`"),
    ("mqtt.keep_alive=1s", "write `5s` to `18h`"),
    ("mqtt.receive_max=0", "write 1 to 4096"),
    ("http.listen=everywhere", "no address and port"),
    ("log.filter='a=b=c'", "no log filter"),
    ("publish.broker=x", "there is no broker `x`"),
    ("storage.bytes_max=5", "write 1048576"),
    ("inference.tries=0", "write 1 to 100"),
    ("run.drain=1h", "write `0s` to `10m`"),
    ("drift.window=2h", "unknown variant `2h`"),
    ("drift.grace=2d", "write `0s` to `1d`"),
    ("drift.min_n=0", "write 1 to 1000000"),
    ("drift.rare_names=0", "write 1 to 1000000"),
    ("drift.noise_epsilon=0", "write 0.001 to 10"),
    ("drift={noise_epsilon=0.1, noise_budget=0}", "write 0.001 to 1000"),
    ("drift={noise_epsilon=0.1, window='15m', noise_budget=9}", "96 windows a day"),
    ("source=[]", "there is no source"),
    ("nonsense", "key.path=value"),
    ("source.t.name=x", "there is no element `t`"),
    ("mqtt.url.x=1", "is a value, not a table"),
];

#[test]
fn what_does_not_hold_together_is_refused() {
    let site = Site::new(&format!("gateway = \"g\"\n{MINIMAL}"));
    for (option, expected) in REFUSED {
        let text = site.load_with(&[option], &[]).expect_err(option).to_string();
        assert!(text.contains(expected), "{option}: `{expected}` is not in\n{text}");
        assert!(text.contains("  hint: "), "{option}: {text}");
    }
}

#[test]
fn counting_is_on_by_the_hour_and_noise_tells_a_window_once() {
    let site = Site::new(MINIMAL);
    let usual = site.load().unwrap().settings.drift;
    let collect = usual.collect.unwrap();
    assert_eq!((collect.span_us, collect.grace_us, collect.values_min), (3_600_000_000, 900_000_000, 20));
    assert_eq!((collect.reporting, usual.privacy), (Reporting::AtEnd, Privacy::default()));
    let noisy = site.load_with(&["drift={noise_epsilon=0.3, window='1d', min_n=50}"], &[]).unwrap();
    let noisy = noisy.settings.drift;
    assert_eq!(noisy.collect.unwrap().reporting, Reporting::Once);
    assert_eq!((noisy.privacy.epsilon, noisy.privacy.values_min), (Some(0.3), 50));
    let off = site.load_with(&["drift.enabled=false"], &[]).unwrap();
    assert_eq!(off.settings.drift.collect, None);
}

#[test]
fn an_ignore_filter_that_covers_the_output_allows_a_wide_source() {
    let site = Site::new(&format!("gateway = \"g\"\n{MINIMAL}"));
    let wide = "source.s.topics=['#']";
    assert!(site.load_with(&[wide, "source.s.ignore=['dunlin/g/predictions/#']"], &[]).is_err());
    site.load_with(&[wide, "source.s.ignore=['dunlin/#']"], &[]).unwrap();
}

#[test]
fn two_models_on_one_topic_and_two_names_alike_are_refused() {
    let more = "[[model]]\nname = \"frost\"\npackage = \"frost\"\n[[source]]\nname = \"s\"\ntopics = [\"q\"]\nformat = \"json\"\n";
    let text = errors_of(&format!("{MINIMAL}{more}")).join("\n");
    for expected in ["there is another model `frost`", "there is another source `s`", "the same topics"] {
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_secret_that_everybody_may_read_is_a_warning() {
    let site = Site::new(EXAMPLE);
    fs::set_permissions(site.path("mqtt.password"), fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = site.load().unwrap().warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].to_string().contains("hint: chmod 0600"), "{}", warnings[0]);
}

#[test]
fn a_package_that_went_away_is_a_warning() {
    let loaded = Site::new(MINIMAL).load_with(&["model.frost.package=/nowhere"], &[]).unwrap();
    let text = loaded.warnings[0].to_string();
    assert!(text.contains("there is no bundle or repository `/nowhere`"), "{text}");
}

#[test]
fn findings_of_the_pipeline_get_their_lines() {
    let loaded = Site::new(EXAMPLE).load().unwrap();
    let line = 1 + EXAMPLE.lines().position(|line| line.starts_with("humidity = { pointer")).unwrap();
    let finding = SpecFinding::new("source[0].fields.humidity.pointer", "is no pointer");
    let text = findings_to_errors(vec![finding], &loaded.origins).to_string();
    assert!(
        text.ends_with(&format!("dunlind.toml:{line}: source[0].fields.humidity.pointer: is no pointer")),
        "{text}"
    );
}

/// Lines of the example with a key whose names the configuration knows, and that key.
fn known_keys() -> Vec<(usize, &'static str)> {
    let mut free = false;
    let mut keys = Vec::new();
    for (index, line) in EXAMPLE.lines().enumerate() {
        if line.starts_with('[') {
            // In these tables the operator chooses the keys.
            free = ["[source.fields]", "[model.inputs]", "[model.missing]"].contains(&line);
        } else if let Some((key, _)) = line.split_once(" = ")
            && !free
        {
            keys.push((index, key));
        }
    }
    keys
}

#[test]
fn a_misspelled_key_is_named_with_its_line_and_the_right_one() {
    for (index, key) in known_keys() {
        let (head, tail) = key.split_at(key.len().div_ceil(2));
        for wrong in [format!("{head}q{tail}"), format!("{key}x")] {
            let lines = EXAMPLE.lines().enumerate();
            let config: String = lines
                .map(|(i, line)| {
                    if i == index {
                        format!("{line}\n").replacen(key, &wrong, 1)
                    } else {
                        format!("{line}\n")
                    }
                })
                .collect();
            let errors = errors_of(&config);
            assert_eq!(errors.len(), 1, "{key}: {errors:?}");
            let expected = format!("unknown key `{wrong}`\n  hint: did you mean `{key}`?");
            assert!(
                errors[0].starts_with(&format!("{}: ", index + 1)) && errors[0].ends_with(&expected),
                "{errors:?}"
            );
        }
    }
}

#[test]
fn every_needed_key_can_be_stood_in_for() {
    for key in ["url", "name", "topics", "format", "topic"] {
        let config: String = EXAMPLE
            .lines()
            .filter(|line| !line.starts_with(&format!("{key} = ")))
            .map(|line| format!("{line}\n"))
            .collect();
        let errors = errors_of(&config);
        assert!(!errors.is_empty() || key == "topic");
        assert!(errors.iter().all(|error| error.contains(&format!("key `{key}` is missing"))), "{errors:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_mutation_of_a_file_panics(
        at in 0..EXAMPLE.len(),
        cut in 0_usize..30,
        insert in "[\\[\\]{}\"'=.,#a-z0-9\n é\u{0}-]{0,6}",
    ) {
        let (mut start, mut end) = (at, (at + cut).min(EXAMPLE.len()));
        while !EXAMPLE.is_char_boundary(start) { start -= 1; }
        while !EXAMPLE.is_char_boundary(end) { end += 1; }
        let config = format!("{}{insert}{}", &EXAMPLE[..start], &EXAMPLE[end..]);
        match Site::new(&config).load() {
            Ok(loaded) => prop_assert!(!effective::render(&loaded.effective, &loaded.origins).is_empty()),
            Err(errors) => prop_assert!(!errors.0.is_empty()),
        }
    }

    #[test]
    fn no_option_panics(key in "(mqtt|source|model|storage)?[.\\[\\]\"0-9a-z_ ]{0,12}", value in ".{0,12}") {
        let _ = Site::new(MINIMAL).load_with(&[&format!("{key}={value}")], &[]);
    }

    #[test]
    fn a_value_of_any_type_anywhere_is_used_or_refused(index in 0_usize..60, value in prop::sample::select(vec![
        "0", "-1", "9223372036854775807", "1.5", "nan", "true", "\"\"", "\"x\"", "[]", "[1]", "[[]]", "{}", "{ x = 1 }", "1979-05-27",
    ])) {
        let keys = known_keys();
        let (index, key) = keys[index % keys.len()];
        let config: String = EXAMPLE
            .lines()
            .enumerate()
            .map(|(i, line)| if i == index { format!("{key} = {value}\n") } else { format!("{line}\n") })
            .collect();
        if let Err(errors) = Site::new(&config).load() {
            prop_assert!(errors.0.iter().all(|finding| finding.hint.is_some()), "{errors}");
        }
    }
}

/// Compares a generated file in `docs/` with what is generated, or writes it anew when asked to.
fn check_docs(name: &str, generated: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        atomic_file::write(&path, generated.as_bytes()).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == generated, "docs/{name} is out of date: run this test with UPDATE_DOCS=1");
}

#[test]
fn docs_hold_the_reference_that_the_types_give() {
    check_docs("configuration.md", &super::reference_markdown());
}

#[test]
fn docs_hold_the_schema_that_the_types_give() {
    check_docs("dunlind.schema.json", &super::schema_json());
}

#[test]
fn the_reference_describes_every_key() {
    for (number, line) in super::reference_markdown().lines().enumerate() {
        if line.starts_with("| `") {
            assert!(!line.ends_with("|  |"), "line {}: {line}", number + 1);
        }
    }
    let value = Value::try_from(EXAMPLE.parse::<Table>().unwrap()).unwrap();
    assert!(value.get("mqtt").is_some());
}
