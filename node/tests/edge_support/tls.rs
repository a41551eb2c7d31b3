//! TLS with a certificate of this machine that only who is told to trusts, and HTTP/2 behind it.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Valid for `localhost` and 127.0.0.1 from 2020 to 2120. The key is a secret of nobody.
const CERTIFICATE: &str = include_str!("tls/certificate.pem");
const KEY: &str = include_str!("tls/key.pem");

/// Returns the file that says whom to trust.
pub(crate) fn certificate_file() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/edge_support/tls/certificate.pem"].iter().collect()
}

/// Makes what speaks TLS and offers these protocols.
pub(crate) fn acceptor(protocols: &[&str]) -> TlsAcceptor {
    TlsAcceptor::from(Arc::new(server_config(protocols)))
}

/// Says how a server speaks TLS that offers these protocols.
pub(crate) fn server_config(protocols: &[&str]) -> ServerConfig {
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).expect("PEM");
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate");
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}
