//! Which CA certificates are trusted.

use std::path::Path;
use std::sync::Arc;

use rumqttc::TlsConfiguration;
use rumqttc::tokio_rustls::rustls::crypto::ring;
use rumqttc::tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
use rumqttc::tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::MqttError;

/// TLS that trusts the certificates in `ca_file`, else those of the system (`SSL_CERT_FILE` first).
pub(super) fn client(ca_file: Option<&Path>) -> Result<TlsConfiguration, MqttError> {
    let mut roots = RootCertStore::empty();
    // A certificate that cannot be parsed must not make the others useless.
    if let Some(path) = ca_file {
        let pem = std::fs::read(path).map_err(|source| MqttError::CaFile { path: path.into(), source })?;
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
        if roots.is_empty() {
            return Err(MqttError::NoCertificate { path: path.into() });
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(MqttError::NoSystemCertificates);
        }
    }
    // Named, because the process-wide default is ambiguous once another crate turns on a second provider.
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| MqttError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConfiguration::Rustls(Arc::new(config)))
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
        for content in ["no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&path, content).unwrap();
            let error = client(Some(&path)).unwrap_err();
            assert!(matches!(error, MqttError::NoCertificate { .. }) && error.is_configuration(), "{error}");
        }
    }
}
