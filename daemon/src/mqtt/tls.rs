//! How a TLS connection to a broker is verified and how the gateway proves who it is.
//!
//! Trusts the configured authority alone, or the system's where none is configured; never skips verification.
//! Read anew for each connection, so renewed certificates are used without a restart.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

use crate::config::settings::TlsSettings;

/// Why no TLS connection can be made with these settings.
#[derive(Debug)]
pub enum TlsError {
    /// A PEM file cannot be read.
    Pem(PathBuf, pem::Error),
    /// A PEM file holds no certificate.
    NoCertificate(PathBuf),
    /// An authority cannot be used as one.
    Authority(PathBuf, rustls::Error),
    /// The system has no authorities.
    NoSystemRoots,
    /// One of the client's certificate and key is missing.
    Incomplete(&'static str),
    /// Certificate and key cannot be used together.
    Client(PathBuf, rustls::Error),
    /// The cryptography cannot serve the protocol versions.
    Protocol(rustls::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem(path, _) => write!(f, "cannot read `{}` as PEM", path.display()),
            Self::NoCertificate(path) => write!(f, "`{}` holds no certificate", path.display()),
            Self::Authority(path, _) => {
                write!(f, "a certificate in `{}` cannot be used as an authority", path.display())
            }
            Self::NoSystemRoots => f.write_str(
                "the system has no certificate authorities: install `ca-certificates` or set `ca_file`",
            ),
            Self::Incomplete(name) => {
                write!(f, "a client certificate needs both files: set `{name}` as well")
            }
            Self::Client(path, _) => {
                write!(f, "the client certificate `{}` cannot be used with its key", path.display())
            }
            Self::Protocol(_) => f.write_str("no TLS version can be offered"),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Pem(_, error) => Some(error),
            Self::Authority(_, error) | Self::Client(_, error) | Self::Protocol(error) => Some(error),
            Self::NoCertificate(_) | Self::NoSystemRoots | Self::Incomplete(_) => None,
        }
    }
}

/// Builds the client's side of TLS from the settings.
///
/// *Errors*: name the file; the caller tries again later.
pub fn client_config(settings: &TlsSettings) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match &settings.ca_file {
        Some(path) => roots_of_file(path)?,
        None => roots_of_system()?,
    };
    let builder = builder_of(roots)?;
    let mut config = match (&settings.certificate_file, &settings.key_file) {
        (None, None) => builder.with_no_client_auth(),
        (Some(_), None) => return Err(TlsError::Incomplete("key_file")),
        (None, Some(_)) => return Err(TlsError::Incomplete("certificate_file")),
        (Some(certificate), Some(key)) => {
            let chain = certificates_of_file(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::Pem(key.clone(), error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| TlsError::Client(certificate.clone(), error))?
        }
    };
    config.alpn_protocols = settings.alpn.iter().map(|name| name.clone().into_bytes()).collect();
    Ok(Arc::new(config))
}

/// Builds the client's side of TLS with these authorities alone.
///
/// *Errors*: the cryptography cannot serve the protocol versions.
pub fn client_config_of(roots: RootCertStore) -> Result<ClientConfig, TlsError> {
    builder_of(roots).map(|builder| builder.with_no_client_auth())
}

fn builder_of(roots: RootCertStore) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Protocol)?;
    Ok(builder.with_root_certificates(roots))
}

fn certificates_of_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |error| TlsError::Pem(path.to_owned(), error);
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate(path.to_owned()));
    }
    Ok(certificates)
}

fn roots_of_file(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_of_file(path)? {
        roots.add(certificate).map_err(|error| TlsError::Authority(path.to_owned(), error))?;
    }
    Ok(roots)
}

fn roots_of_system() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if usable == 0 { Err(TlsError::NoSystemRoots) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunlin_kit::error_chain::Chain;
    use std::io::Write;

    #[test]
    fn errors_name_the_file_or_the_setting() {
        let mut empty = tempfile::NamedTempFile::new().unwrap();
        empty.write_all(b"no certificate here\n").unwrap();
        let name = empty.path().display().to_string();
        let settings = |ca: &str| TlsSettings { ca_file: Some(ca.into()), ..TlsSettings::default() };
        for (settings, expected) in
            [(settings("/nonexistent/ca.pem"), "/nonexistent/ca.pem"), (settings(&name), name.as_str())]
        {
            let error = client_config(&settings).unwrap_err();
            assert!(Chain(&error).to_string().contains(expected), "{}", Chain(&error));
        }
    }
}
