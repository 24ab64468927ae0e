//! The TLS side of a broker connection: rustls with the ring provider, the system's or a given authority.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::link::LinkError;
use crate::config::MqttConfig;

/// The client configuration for `mqtts://`; reads the PEM files named in `[mqtt]`.
pub(super) fn client_config(mqtt: &MqttConfig) -> Result<Arc<ClientConfig>, LinkError> {
    let builder = builder(mqtt.ca_file.as_deref())?;
    let config = match (&mqtt.client_cert_file, &mqtt.client_key_file) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let key_der = PrivateKeyDer::from_pem_file(key)
                .map_err(|e| tls_error("read the client key", key, e))?;
            builder
                .with_client_auth_cert(chain, key_der)
                .map_err(|e| tls_error("use the client certificate", cert, e))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// The client configuration of one who shows no certificate, as for downloads.
pub(crate) fn anonymous(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, LinkError> {
    Ok(Arc::new(builder(ca_file)?.with_no_client_auth()))
}

fn builder(
    ca_file: Option<&Path>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, LinkError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| tls_error("set TLS up", Path::new("rustls"), e))?
        .with_root_certificates(roots(ca_file)?))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, LinkError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|e| tls_error("trust", path, e))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    if roots.is_empty() {
        let path = ca_file.unwrap_or(Path::new("the system's certificates"));
        return Err(tls_error(
            "find an authority to trust in",
            path,
            "there is none",
        ));
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LinkError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| tls_error("read the certificates in", path, e))
}

fn tls_error(action: &'static str, path: &Path, why: impl ToString) -> LinkError {
    LinkError::Setup {
        action,
        on: path.display().to_string(),
        why: why.to_string(),
    }
}
