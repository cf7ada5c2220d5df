//! Where a PostgreSQL is and how the way to it is protected, from the address that operators write.
//!
//! TLS is verified or not done at all: a connection that anybody may answer is no better than a plain one. Speaks no SQL.
//!
//! *Source*: `sslmode` and `sslrootcert` are libpq's, of which `prefer` and `allow` protect nothing and are refused.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use postgres::config::{Host, SslMode};
use postgres::{Client, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::StoreError;

/// A database's address.
#[derive(Clone)]
pub(super) struct Address {
    /// How it is reached; `sslmode` is one of `disable` and `require`.
    pub(super) config: Config,
    tls: MakeRustlsConnect,
}

impl Address {
    /// Reads an address. Without `sslmode` a server on this machine is spoken to plainly, and any other by TLS.
    ///
    /// *Errors*: it is none, or the authorities cannot be read.
    pub(super) fn parse(url: &str) -> Result<Self, StoreError> {
        let reading = "read the database's address";
        let Wish { rest, mode, root_file } = Wish::of(url);
        let mut config: Config = rest.parse().map_err(StoreError::unavailable(reading))?;
        let mode = match mode.as_deref() {
            Some("disable") => SslMode::Disable,
            Some("require" | "verify-ca" | "verify-full") => SslMode::Require,
            Some(other) => {
                let words = format!("`sslmode={other}` protects nothing: write `disable` or `verify-full`");
                return Err(StoreError::Unavailable { doing: reading, source: words.into() });
            }
            None if config.get_hosts().iter().all(is_here) => SslMode::Disable,
            None => SslMode::Require,
        };
        config.ssl_mode(mode);
        let roots = match root_file {
            Some(file) => roots_of(&file)?,
            None => {
                let mut roots = RootCertStore::empty();
                // What the system has besides certificates that can be read is no matter of ours.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                roots
            }
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(StoreError::unavailable("set up TLS"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { config, tls: MakeRustlsConnect::new(client) })
    }

    /// Connects.
    ///
    /// *Errors*: nobody answers, or somebody who cannot be verified.
    pub(super) fn connect(&self) -> Result<Client, StoreError> {
        self.config.connect(self.tls.clone()).map_err(StoreError::unavailable("reach the database"))
    }
}

/// What an address says, apart from what the client of PostgreSQL reads.
struct Wish {
    rest: String,
    mode: Option<String>,
    root_file: Option<PathBuf>,
}

impl Wish {
    fn of(url: &str) -> Self {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut wish = Self { rest: base.to_owned(), mode: None, root_file: None };
        let mut kept = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", mode)) => wish.mode = Some(mode.to_owned()),
                Some(("sslrootcert", file)) => wish.root_file = Some(PathBuf::from(file)),
                _ => kept.push(pair),
            }
        }
        if !kept.is_empty() {
            wish.rest = format!("{base}?{}", kept.join("&"));
        }
        wish
    }
}

/// Tells whether nobody stands between this machine and the host.
fn is_here(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        Host::Unix(_) => true,
    }
}

fn roots_of(file: &Path) -> Result<RootCertStore, StoreError> {
    let failed = |words: &dyn std::fmt::Display| StoreError::Unavailable {
        doing: "read the authorities of `sslrootcert`",
        source: format!("`{}`: {words}", file.display()).into(),
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| failed(&error))? {
        let certificate = certificate.map_err(|error| failed(&error))?;
        roots.add(certificate).map_err(|error| failed(&error))?;
    }
    if roots.is_empty() {
        return Err(failed(&"it holds no certificate"));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(url: &str) -> Result<SslMode, String> {
        let address = Address::parse(url).map_err(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            source.unwrap_or_default()
        })?;
        Ok(address.config.get_ssl_mode())
    }

    #[test]
    fn a_server_elsewhere_is_verified_unless_the_operator_says_otherwise() {
        for (url, mode) in [
            ("postgres://d@127.0.0.1:5432/fleet", SslMode::Disable),
            ("postgres://d@localhost/fleet", SslMode::Disable),
            ("postgres://d@[::1]/fleet", SslMode::Disable),
            ("postgres:///fleet?host=/run/postgresql", SslMode::Disable),
            ("postgres://d@db.example/fleet", SslMode::Require),
            ("postgres://d@localhost,db.example/fleet", SslMode::Require),
            ("postgres://d@db.example/fleet?sslmode=disable", SslMode::Disable),
            ("postgres://d@localhost/fleet?sslmode=verify-full&connect_timeout=3", SslMode::Require),
        ] {
            assert_eq!(mode_of(url), Ok(mode), "{url}");
        }
        assert!(mode_of("postgres://d@db.example/fleet?sslmode=prefer").unwrap_err().contains("verify-full"));
    }

    #[test]
    fn authorities_that_cannot_be_read_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::File::create(&empty).unwrap();
        for file in [empty, folder.path().join("missing.pem")] {
            let said = mode_of(&format!("postgres://d@db.example/f?sslrootcert={}", file.display()));
            assert!(said.unwrap_err().contains(&file.display().to_string()));
        }
    }
}
