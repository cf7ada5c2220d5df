//! The brokers: addresses, identifiers, and the files that authenticate and protect their connections.
//!
//! Looks whether files are there, and who may read them; never reads a secret, never connects.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use dunlin_model_package::Span;

use super::LoadRequest;
use super::file::{BrokerTable, ConfigFile};
use super::finding::Findings;
use super::origin::Origins;
use super::resolve::{check_name, number_in, span_in, subscription_qos};
use super::settings::{BrokerSettings, TlsSettings};

/// Name of the broker of `[mqtt]`.
pub(super) const DEFAULT_BROKER: &str = "mqtt";
/// Suffix that the publishing connection adds to the client identifier.
const OUT_SUFFIX: &str = "-out";
/// The longest client identifier of which a broker has to take any (MQTT 5, section 3.1.3.1, allows more).
const CLIENT_ID_BYTES_MAX: usize = 256;
/// QoS 1 messages in flight; as many as `flow::DELIVERIES` holds.
const RECEIVE_MAX: u64 = crate::flow::DELIVERIES as u64;
const PACKET_BYTES_MIN: u64 = 1 << 10;
/// The largest MQTT packet (MQTT 5, section 1.5.5).
const PACKET_BYTES_MAX: u64 = 256 << 20;

/// Turns the broker tables into settings, that of `[mqtt]` first, and fills in their client identifiers.
pub(super) fn resolve(
    file: &mut ConfigFile,
    gateway: &str,
    request: &LoadRequest,
    origins: &Origins,
    findings: &mut Findings<'_>,
) -> Vec<BrokerSettings> {
    let folders = Folders::of(request, origins);
    let mut settings = Vec::new();
    match &mut file.mqtt {
        Some(table) => {
            table.client_id.get_or_insert_with(|| format!("dunlin-{gateway}"));
            settings.push(broker(DEFAULT_BROKER, "mqtt", table, &folders, findings));
        }
        None => findings.error(
            "mqtt",
            "there is no `[mqtt]` table",
            "add `[mqtt]` with `url = \"mqtt://localhost:1883\"`",
        ),
    }
    for (name, table) in &mut file.brokers {
        let path = format!("brokers.{name}");
        if let Err(why) = check_name(name) {
            findings.error(&path, format!("`{name}` {why}"), "choose another name");
        }
        if name == DEFAULT_BROKER {
            let hint = "choose another name";
            findings.error(&path, "`mqtt` is the name of the broker in `[mqtt]`", hint);
        }
        table.client_id.get_or_insert_with(|| format!("dunlin-{gateway}-{name}"));
        settings.push(broker(name, &path, table, &folders, findings));
    }
    check_client_ids(&settings, findings);
    settings
}

fn path_of(broker: &BrokerSettings) -> String {
    if broker.name == DEFAULT_BROKER { "mqtt".to_owned() } else { format!("brokers.{}", broker.name) }
}

/// Two connections with one identifier throw each other out without end.
fn check_client_ids(brokers: &[BrokerSettings], findings: &mut Findings<'_>) {
    for (index, broker) in brokers.iter().enumerate() {
        let taken = brokers[..index].iter().find(|other| {
            let (a, b) = (&other.client_id, &broker.client_id);
            (&other.host, other.port) == (&broker.host, broker.port)
                && (a == b || *a == format!("{b}{OUT_SUFFIX}") || *b == format!("{a}{OUT_SUFFIX}"))
        });
        if let Some(other) = taken {
            let message = format!(
                "client identifier `{}` is also used for broker `{}` at the same address",
                broker.client_id, other.name
            );
            let hint = "give one of them another `client_id`, or use one broker for both";
            findings.error(&format!("{}.client_id", path_of(broker)), message, hint);
        }
    }
}

/// Where file names of the configuration are looked up.
pub(super) struct Folders<'o> {
    origins: &'o Origins,
    credentials: Option<PathBuf>,
}

impl<'o> Folders<'o> {
    /// Returns the folders of a request.
    pub(super) fn of(request: &LoadRequest, origins: &'o Origins) -> Self {
        Self { origins, credentials: request.variable("CREDENTIALS_DIRECTORY").map(PathBuf::from) }
    }

    /// Returns the file that a name at `path` means.
    pub(super) fn locate(&self, path: &str, name: &str) -> PathBuf {
        self.origins.folder_of(path).join(name)
    }

    /// The same, for a secret that systemd may have passed in.
    pub(super) fn locate_secret(&self, path: &str, name: &str) -> PathBuf {
        match &self.credentials {
            Some(folder) if folder.join(name).is_file() => folder.join(name),
            _ => self.locate(path, name),
        }
    }
}

fn broker(
    name: &str,
    path: &str,
    table: &BrokerTable,
    folders: &Folders<'_>,
    findings: &mut Findings<'_>,
) -> BrokerSettings {
    let url_path = format!("{path}.url");
    let address = parse_url(&table.url).unwrap_or_else(|(message, hint)| {
        findings.error(&url_path, message, hint);
        Address { host: "localhost".to_owned(), port: 1883, tls: !tls_keys(table).is_empty() }
    });
    let client_id = table.client_id.clone().unwrap_or_default();
    if client_id.is_empty()
        || client_id.len() > CLIENT_ID_BYTES_MAX
        || client_id.chars().any(char::is_control)
    {
        let message = format!("is not 1 to {CLIENT_ID_BYTES_MAX} bytes of printable text");
        findings.error(
            &format!("{path}.client_id"),
            message,
            "remove the key for the default, or write a name",
        );
    }
    let tls = tls(path, &address, table, folders, findings);
    let credential_file = table.credential_file.as_deref().map(|name| {
        let path = format!("{path}.credential_file");
        let file = folders.locate_secret(&path, name);
        check_secret(&path, &file, findings);
        file
    });
    if table.username.is_some() && credential_file.is_none() {
        let hint = "add `credential_file` with the password in its first line";
        findings.warning(&format!("{path}.username"), "a user name without a password", hint);
    }
    let span = |findings: &mut Findings<'_>, key: &str, span: Span, min: i64, max: i64| {
        let (min, max) = (Span::from_secs(min), Span::from_secs(max));
        span_in(findings, &format!("{path}.{key}"), span, min, max).as_duration()
    };
    // Keep-alive is 16 bits of seconds; 18 hours is the next whole hour below.
    let keep_alive = span(findings, "keep_alive", table.keep_alive, 5, 18 * 3_600);
    let reconnect_max = span(findings, "reconnect_max", table.reconnect_max, 1, 3_600);
    let receive_path = format!("{path}.receive_max");
    let packet_path = format!("{path}.packet_bytes_max");
    BrokerSettings {
        name: name.to_owned(),
        host: address.host,
        port: address.port,
        tls,
        client_id,
        username: table.username.clone(),
        credential_file,
        keep_alive,
        session_expiry: table.session_expiry.as_duration(),
        receive_max: number_in(findings, &receive_path, table.receive_max.into(), 1, RECEIVE_MAX) as u16,
        packet_bytes_max: number_in(
            findings,
            &packet_path,
            table.packet_bytes_max.0,
            PACKET_BYTES_MIN,
            PACKET_BYTES_MAX,
        ) as u32,
        qos: subscription_qos(table.qos),
        reconnect_max,
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Address {
    host: String,
    port: u16,
    tls: bool,
}

/// Takes a broker's URL apart. The messages never repeat it: a password may stand in it.
fn parse_url(url: &str) -> Result<Address, (String, String)> {
    let form = "write `mqtt://host:port` or `mqtts://host:port`".to_owned();
    let (scheme, rest) =
        url.split_once("://").ok_or_else(|| ("the URL has no scheme".to_owned(), form.clone()))?;
    let tls = match scheme {
        "mqtt" | "tcp" => false,
        "mqtts" | "ssl" | "tls" => true,
        _ => return Err(("the URL's scheme is neither `mqtt` nor `mqtts`".to_owned(), form)),
    };
    if let Some((user, _)) = rest.rsplit_once('@') {
        let hint =
            "name the user in `username` and the file with the password in `credential_file`".to_owned();
        return Err(match user.contains(':') {
            true => ("a password does not belong into the URL, where others can read it".to_owned(), hint),
            false => ("a user name does not belong into the URL".to_owned(), hint),
        });
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err(("the URL has a path".to_owned(), form));
    }
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or("none"))),
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(("the URL has no host".to_owned(), form));
    }
    let port = match port {
        None if tls => 8883,
        None => 1883,
        Some(text) => text
            .parse::<u16>()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| ("the URL's port is not a number from 1 to 65535".to_owned(), form))?,
    };
    Ok(Address { host: host.to_owned(), port, tls })
}

/// Returns the keys of the table that only TLS has a use for.
fn tls_keys(table: &BrokerTable) -> Vec<&'static str> {
    let given = [
        ("ca_file", table.ca_file.is_some()),
        ("certificate_file", table.certificate_file.is_some()),
        ("key_file", table.key_file.is_some()),
        ("alpn", !table.alpn.is_empty()),
    ];
    given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect()
}

fn tls(
    path: &str,
    address: &Address,
    table: &BrokerTable,
    folders: &Folders<'_>,
    findings: &mut Findings<'_>,
) -> Option<TlsSettings> {
    if !address.tls {
        for key in tls_keys(table) {
            let message = "has no effect on a connection without TLS";
            findings.error(&format!("{path}.{key}"), message, "write `mqtts://` in `url`, or remove the key");
        }
        return None;
    }
    let pair = [("certificate_file", &table.certificate_file), ("key_file", &table.key_file)];
    for (given, missing) in [(pair[0], pair[1]), (pair[1], pair[0])] {
        if given.1.is_some() && missing.1.is_none() {
            let message = format!("is of no use without `{}`", missing.0);
            findings.error(&format!("{path}.{}", given.0), message, format!("add `{}`", missing.0));
        }
    }
    if table.alpn.iter().any(|name| name.is_empty() || name.len() > 255) {
        findings.error(
            &format!("{path}.alpn"),
            "a protocol is not 1 to 255 bytes long",
            "write `[\"mqtt\"]`",
        );
    }
    let mut plain = |key: &str, name: &Option<String>| {
        let path = format!("{path}.{key}");
        name.as_deref().map(|name| {
            let file = folders.locate(&path, name);
            check_file(&path, &file, findings);
            file
        })
    };
    let ca_file = plain("ca_file", &table.ca_file);
    let certificate_file = plain("certificate_file", &table.certificate_file);
    let key_file = table.key_file.as_deref().map(|name| {
        let path = format!("{path}.key_file");
        let file = folders.locate_secret(&path, name);
        check_secret(&path, &file, findings);
        file
    });
    Some(TlsSettings { ca_file, certificate_file, key_file, alpn: table.alpn.clone() })
}

pub(super) fn check_file(path: &str, file: &Path, findings: &mut Findings<'_>) -> bool {
    let found = file.is_file();
    if !found {
        let message = format!("there is no file `{}`", file.display());
        findings.error(path, message, "a relative name is meant relative to the file that names it");
    }
    found
}

pub(super) fn check_secret(path: &str, file: &Path, findings: &mut Findings<'_>) {
    if check_file(path, file, findings) && is_world_readable(file) {
        let message = format!("`{}` can be read by every user of this machine", file.display());
        findings.warning(path, message, format!("chmod 0600 {}", file.display()));
    }
}

/// Tells whether every user of the machine may read a file.
#[must_use]
pub(crate) fn is_world_readable(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_give_host_port_and_tls() {
        for (url, host, port, tls) in [
            ("mqtt://broker", "broker", 1883, false),
            ("mqtt://127.0.0.1:1884/", "127.0.0.1", 1884, false),
            ("mqtts://broker.example", "broker.example", 8883, true),
            ("mqtt://[::1]:99", "::1", 99, false),
        ] {
            assert_eq!(parse_url(url), Ok(Address { host: host.to_owned(), port, tls }), "{url}");
        }
    }

    #[test]
    fn a_url_that_is_refused_is_never_repeated() {
        for url in [
            "broker:1883",
            "http://hunter2",
            "mqtt://u:hunter2@b",
            "mqtt://hunter2@b",
            "mqtt://",
            "mqtt://b:0",
            "mqtt://b:hunter2",
            "mqtt://b/hunter2",
            "mqtt://[::1]hunter2",
        ] {
            let (message, hint) = parse_url(url).unwrap_err();
            assert!(!message.contains("hunter2") && !hint.contains("hunter2"), "{url}: {message}");
        }
        assert!(parse_url("mqtt://u:p@b").unwrap_err().1.contains("credential_file"));
    }
}
