//! Which certificates are believed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rumqttc::TlsConfiguration;
use rumqttc::tokio_rustls::rustls::crypto::ring;
use rumqttc::tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
use rumqttc::tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::MqttError;

/// Where distributions keep the bundle of CA certificates; the first that exists is taken.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Ubuntu, JetPack
    "/etc/pki/tls/certs/ca-bundle.crt",   // Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",             // openSUSE
    "/etc/ssl/cert.pem",                  // Alpine
];

/// TLS that believes the certificates in `ca_file`, else those of the system (`SSL_CERT_FILE` first).
pub(super) fn client(ca_file: Option<&Path>) -> Result<TlsConfiguration, MqttError> {
    let roots = match ca_file {
        Some(path) => read(path)?,
        None => read(&system_bundle().ok_or(MqttError::NoSystemCertificates)?)?,
    };
    // Named, not the process-wide default: another crate may never turn on a second one and make the choice ambiguous.
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| MqttError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConfiguration::Rustls(Arc::new(config)))
}

fn system_bundle() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    named.into_iter().chain(SYSTEM_BUNDLES.iter().map(PathBuf::from)).find(|path| path.is_file())
}

fn read(path: &Path) -> Result<RootCertStore, MqttError> {
    let pem = std::fs::read(path).map_err(|source| MqttError::CaFile { path: path.into(), source })?;
    let mut roots = RootCertStore::empty();
    // One certificate that cannot be parsed must not make a bundle of a hundred useless.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    if roots.is_empty() {
        return Err(MqttError::NoCertificate { path: path.into() });
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_missing_and_a_wrong_file_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        assert!(matches!(client(Some(&path)), Err(MqttError::CaFile { .. })));
        std::fs::write(&path, "no certificate").unwrap();
        assert!(matches!(client(Some(&path)), Err(MqttError::NoCertificate { .. })));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(matches!(client(Some(&path)), Err(MqttError::NoCertificate { .. })));
    }
}
