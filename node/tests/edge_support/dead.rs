//! Places where no edge ever answers, each by the system's own means and on this machine only.

use std::net::SocketAddr;
use std::sync::Arc;

use data_encoding::BASE64;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A certificate of `localhost` that was valid on the first day of 2020, and its key, which is a secret of
/// nobody.
const CERTIFICATE: &str = "MIIBYDCCAQWgAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwHhcNMjAwMTAxMDAw\
     MDAwWhcNMjAwMTAyMDAwMDAwWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMB\
     BwNCAAQaWhMHjJ6tHZmmjOtaNjM0Mr2KLDSCvQgTzr1980RQkKHlnap7PnOKkAKIIpqweRl5I950jokmmIle\
     yyRxqD8Ao0gwRjAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCQYDVR0TBAIwADAdBgNVHQ4EFgQUTnwU\
     Jed0Jrp5MJ8OF8P6xDB+7UgwCgYIKoZIzj0EAwIDSQAwRgIhANzH6kOEPenGwVwdzy/w/AejxBP2PWkwP9zz\
     XWbJnqPwAiEAxuVjNN/BVXosrGWmO+MgyfKoqeO1+5n4x6Y/HnLhuu8=";
const KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg6B8mlefP9J9YHpa5FD0cUOAB4alOis1UjFwR\
     NHZqpJqhRANCAAQaWhMHjJ6tHZmmjOtaNjM0Mr2KLDSCvQgTzr1980RQkKHlnap7PnOKkAKIIpqweRl5I950\
     jokmmIleyyRxqD8A";

/// Returns an address at which nobody listens.
pub(crate) async fn refusing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("an address")
}

/// A host that does not answer a connection at all: its queue of connections is full.
pub(crate) struct BlackHole {
    pub(crate) address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    pub(crate) async fn start() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let listener = socket.listen(1).expect("a listener");
        let address = listener.local_addr().expect("an address");
        // Linux takes one more than the queue is long. The rest wait as any other would from then on.
        let mut queued = Vec::new();
        for _ in 0..2 {
            queued.push(TcpStream::connect(address).await.expect("a place in the queue"));
        }
        Self { address, _listener: listener, _queued: queued }
    }
}

/// A host whose certificate has expired.
pub(crate) struct Expired {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Expired {
    pub(crate) async fn start() -> Self {
        let decoded = |text: &str| BASE64.decode(text.as_bytes()).expect("base64");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(decoded(KEY)));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(decoded(CERTIFICATE))], key)
            .expect("a certificate");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                assert!(acceptor.accept(socket).await.is_err(), "the certificate was taken");
            }
        });
        Self { address, task }
    }
}

impl Drop for Expired {
    fn drop(&mut self) {
        self.task.abort();
    }
}
