//! The handshake of lanes: TLS 1.3 with the nodes' own ed25519 keys as raw public keys (RFC 7250).
//!
//! There are no certificates, no names and no authorities: each side knows which key it wants to see.
//! A requester dials one peer and takes no other's key; a provider takes those keys for which a token
//! is out, so that a stranger fails before a byte of its is read.
//!
//! Nothing of a session is kept: no tickets, no resumption, no early data, because a resumed session
//! would not prove the keys again.

use std::fmt;
use std::sync::Arc;

use blobmesh_protocol::PeerId;
use blobmesh_protocol::wire::lane::{LANE_ALPN, peer_of_raw_key, raw_key_of};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption, UnbufferedClientConnection};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    ServerConfig, ServerConnection, SignatureScheme, SupportedCipherSuite,
};

use crate::identity::Identity;

/// What precedes the 32 bytes of a secret in a PKCS #8 ed25519 key (RFC 8410).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Makes the connections of one node's lanes.
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    key: Arc<CertifiedKey>,
    server: Arc<ServerConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Makes the handshakes of `identity`; as a provider it takes those peers that `expects` names.
    pub(super) fn new(
        identity: &Identity,
        expects: impl Fn(&PeerId) -> bool + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let provider = Arc::new(crypto());
        let key = Arc::new(raw_key(identity)?);
        let algorithms = provider.signature_verification_algorithms;
        let verifier = Keys { expects: Box::new(expects), algorithms };
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(&key))));
        server.alpn_protocols = vec![LANE_ALPN.to_vec()];
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.max_early_data_size = 0;
        Ok(Self { provider, key, server: Arc::new(server) })
    }

    /// Begins a handshake as the provider.
    pub(super) fn accept(&self) -> Result<ServerConnection, Error> {
        ServerConnection::new(Arc::clone(&self.server))
    }

    /// Begins one as a provider that breaks the rules: it goes on to talk of tickets once the handshake is over, in many
    /// small records.
    #[cfg(test)]
    pub(super) fn accept_talkative(&self) -> Result<ServerConnection, Error> {
        let mut server = ServerConfig::clone(&self.server);
        server.send_tls13_tickets = 1;
        server.session_storage = rustls::server::ServerSessionMemoryCache::new(1);
        server.max_fragment_size = Some(32);
        ServerConnection::new(Arc::new(server))
    }

    /// Begins a handshake as a requester that takes the key of `peer` only.
    pub(super) fn connect(&self, peer: PeerId) -> Result<UnbufferedClientConnection, Error> {
        let algorithms = self.provider.signature_verification_algorithms;
        let verifier = Keys { expects: Box::new(move |found| *found == peer), algorithms };
        let resolver = AlwaysResolvesClientRawPublicKeys::new(Arc::clone(&self.key));
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(resolver));
        client.alpn_protocols = vec![LANE_ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        // Keys are what counts; the name is never sent.
        let name =
            ServerName::try_from("lane.invalid").map_err(|_| Error::General(String::new()))?;
        UnbufferedClientConnection::new(Arc::new(client), name)
    }
}

/// Returns the peer whose key a finished handshake has proven, and none unless both sides named the
/// protocol of lanes.
pub(super) fn proven_peer(connection: &rustls::CommonState) -> Option<PeerId> {
    if connection.alpn_protocol() != Some(LANE_ALPN) {
        return None;
    }
    let [key] = connection.peer_certificates()? else { return None };
    peer_of_raw_key(key)
}

/// Puts the ciphers first that this processor is fast at. AES with the processor's instructions makes
/// 1.8 times the rate of ChaCha20; without them it is slower, and leaks its key by its timing.
fn crypto() -> CryptoProvider {
    let mut provider = ring::default_provider();
    let fast: &[CipherSuite] = match has_aes() {
        true => &[
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS13_AES_256_GCM_SHA384,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        false => &[CipherSuite::TLS13_CHACHA20_POLY1305_SHA256],
    };
    let rank = |suite: &SupportedCipherSuite| {
        fast.iter().position(|fast| *fast == suite.suite()).unwrap_or(fast.len())
    };
    provider.cipher_suites.sort_by_key(rank);
    provider
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

fn raw_key(identity: &Identity) -> Result<CertifiedKey, Error> {
    let pkcs8 = [&PKCS8_PREFIX[..], &identity.secret()].concat();
    let signer = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8))?;
    Ok(CertifiedKey::new(vec![CertificateDer::from(raw_key_of(&identity.peer()))], signer))
}

/// Checks the other side's key, in both directions.
struct Keys {
    expects: Box<dyn Fn(&PeerId) -> bool + Send + Sync>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys {
    fn check(&self, key: &[u8], others: &[CertificateDer<'_>]) -> Result<(), Error> {
        let peer = peer_of_raw_key(key).filter(|_| others.is_empty());
        let peer = peer.ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if (self.expects)(&peer) {
            return Ok(());
        }
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn check_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }
}

/// TLS 1.2 is never offered; asked all the same, nothing is taken.
fn never_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("lanes speak TLS 1.3".to_owned()))
}

impl ServerCertVerifier for Keys {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        never_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Keys {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        never_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
