//! A client of nginx that adds as little as can be: TLS connections that are kept, one GET at a time on each.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CipherSuite, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The longest head of a response that is read.
const HEAD_LEN_MAX: usize = 16 << 10;

/// Makes connections to one server.
#[derive(Clone)]
pub struct Web {
    tls: TlsConnector,
    port: u16,
}

impl std::fmt::Debug for Web {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Web").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Web {
    /// Names the server: its port on loopback, and the file with its certificate.
    ///
    /// # Errors
    /// When the certificate cannot be read.
    pub fn new(port: u16, certificate: &Path) -> io::Result<Self> {
        let certificate = CertificateDer::from_pem_file(certificate).map_err(io::Error::other)?;
        // The cheapest cipher on processors with AES; nginx takes what the client wants.
        let mut crypto = ring::default_provider();
        crypto.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
        let crypto = Arc::new(crypto);
        let config = ClientConfig::builder_with_provider(Arc::clone(&crypto))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Known { certificate, crypto }))
            .with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), port })
    }

    /// Makes a connection.
    ///
    /// # Errors
    /// When that fails.
    pub async fn connect(&self) -> io::Result<Connection> {
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("127.0.0.1").map_err(io::Error::other)?;
        let stream = self.tls.connect(name, tcp).await?;
        Ok(Connection { stream, buffer: Vec::new() })
    }
}

/// Is one connection.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

impl Connection {
    /// Gets a file, and returns its length.
    ///
    /// Dropping the future loses the connection's place: it must not be used any more.
    ///
    /// # Errors
    /// When the connection ends, or the answer is not a file.
    pub async fn get(&mut self, name: &str) -> io::Result<usize> {
        let request = format!("GET /{name} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        self.stream.flush().await?;
        self.buffer.clear();
        let (head_len, body_len) = loop {
            if let Some(found) = head(&self.buffer)? {
                break found;
            }
            self.read().await?;
        };
        while self.buffer.len() < head_len + body_len {
            self.read().await?;
        }
        Ok(body_len)
    }

    async fn read(&mut self) -> io::Result<()> {
        self.buffer.reserve(HEAD_LEN_MAX);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Reads the head of a response: where it ends, and how long the body after it is; none while it is not whole.
fn head(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return match bytes.len() > HEAD_LEN_MAX {
            true => Err(io::Error::other("the head of the response is too long")),
            false => Ok(None),
        };
    };
    let text = String::from_utf8_lossy(&bytes[..end]);
    if !text.starts_with("HTTP/1.1 200") {
        let line = text.lines().next().unwrap_or_default();
        return Err(io::Error::other(format!("the server answered {line}")));
    }
    let len = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let len = len.ok_or_else(|| io::Error::other("the response does not tell its length"))?;
    Ok(Some((end + 4, len)))
}

/// Takes the one certificate that it knows.
#[derive(Debug)]
struct Known {
    certificate: CertificateDer<'static>,
    crypto: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match *certificate == self.certificate {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::General("another certificate".to_owned())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.crypto.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.crypto.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.crypto.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_tells_where_the_body_begins_and_how_long_it_is() {
        let response = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-LENGTH: 12\r\n\r\nbody";
        let whole = response.len() - 4;
        assert_eq!(head(response).unwrap(), Some((whole, 12)));
        assert_eq!(head(&response[..whole]).unwrap(), Some((whole, 12)));
        for len in 0..whole {
            assert_eq!(head(&response[..len]).unwrap(), None);
        }
    }

    #[test]
    fn answer_that_is_no_file_is_an_error() {
        for response in [
            "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\n",
            &"x".repeat(HEAD_LEN_MAX + 1),
        ] {
            assert!(head(response.as_bytes()).is_err(), "{response}");
        }
    }
}
