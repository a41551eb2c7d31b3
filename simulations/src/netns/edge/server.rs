//! The edge's web server: its sockets, TLS, and a task for each connection.

use std::{
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    runtime::{self, Runtime},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{CERTIFICATE, Door, Served, answer::Answers, bucket};
use crate::{
    netns::{error::Error, inside::inside, lab::Host, process::Setting},
    plan,
    random::Random,
};

pub(super) const KEY: &str = include_str!("key.pem");

/// The most connections at once at each door; one more is closed at once.
const CONNECTIONS_MAX: usize = 512;

/// How much of one answer waits for a connection of HTTP/2 to take it. What a client gives up is counted as sent.
const SEND_BUFFER_BYTES: usize = 128 << 10;

/// How many threads serve: as many as the machines that this is made for have processors.
const THREADS: usize = 2;

/// How long the end of the server may take.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Is the running server. Dropping it ends it.
#[derive(Debug)]
pub(in crate::netns) struct EdgeServer {
    answers: Arc<Answers>,
    runtime: Option<Runtime>,
}

impl EdgeServer {
    /// Starts it on a host, at all its doors.
    pub(in crate::netns) fn start(
        setting: Setting<'_>,
        host: &Host,
        spec: &plan::Edge,
        seed: u64,
    ) -> Result<Self, Error> {
        let random = Random::new(seed).fork("edge", 0);
        let answers = Arc::new(Answers::new(bucket(setting), spec.clone(), random));
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .map_err(Error::system("start the edge"))?;
        for door in Door::ALL {
            let address = SocketAddr::from((host.address, door.port()));
            let listener = inside(host, move || {
                let listener = StdListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            })?;
            let _inside = runtime.enter();
            let listener =
                TcpListener::from_std(listener).map_err(Error::system("start the edge"))?;
            let tls = (door == Door::Tls).then(acceptor).transpose()?;
            runtime.spawn(accept(listener, tls, Arc::clone(&answers)));
        }
        Ok(Self { answers, runtime: Some(runtime) })
    }

    /// Returns what all clients asked for and were sent.
    pub(in crate::netns) fn served(&self) -> Served {
        self.answers.served()
    }

    /// Returns what one client asked for and was sent.
    pub(in crate::netns) fn served_to(&self, client: &Host) -> Served {
        self.answers.served_to(IpAddr::V4(client.address))
    }
}

impl Drop for EdgeServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(END_LIMIT);
        }
    }
}

/// Makes what speaks TLS, and offers HTTP/2 first.
fn acceptor() -> Result<TlsAcceptor, Error> {
    let broken =
        |error: String| Error::system("set up the edge's TLS")(std::io::Error::other(error));
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes())
        .map_err(|error| broken(error.to_string()))?;
    let key =
        PrivateKeyDer::from_pem_slice(KEY.as_bytes()).map_err(|error| broken(error.to_string()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(vec![certificate], key));
    let mut config = config.map_err(|error| broken(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Takes connections until the server ends, and theirs with it.
async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, answers: Arc<Answers>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((socket, client)) = accepted else { continue };
                if connections.len() < CONNECTIONS_MAX {
                    connections.spawn(greet(socket, client.ip(), tls.clone(), Arc::clone(&answers)));
                }
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// Serves a connection, behind TLS where the door has it. One that fails is seen at its other end.
async fn greet(socket: TcpStream, client: IpAddr, tls: Option<TlsAcceptor>, answers: Arc<Answers>) {
    let Ok(()) = socket.set_nodelay(true) else { return };
    match tls {
        None => serve(socket, client, Builder::http1_only, answers).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(socket).await {
                serve(stream, client, |builder| builder, answers).await;
            }
        }
    }
}

/// Answers the requests of one connection.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    client: IpAddr,
    versions: impl FnOnce(Builder<TokioExecutor>) -> Builder<TokioExecutor>,
    answers: Arc<Answers>,
) {
    let service = service_fn(move |request| Arc::clone(&answers).answer(client, request));
    let mut builder = versions(Builder::new(TokioExecutor::new()));
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new()).max_send_buf_size(SEND_BUFFER_BYTES);
    let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsConnector;

    use super::*;

    /// Starts a server over a directory at a free port of this machine.
    async fn start(bucket: &Path, tls: Option<TlsAcceptor>) -> (SocketAddr, Arc<Answers>) {
        let spec = plan::Edge::after(plan::Distribution::constant(0));
        let answers = Arc::new(Answers::new(bucket.to_owned(), spec, Random::new(1)));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(accept(listener, tls, Arc::clone(&answers)));
        (address, answers)
    }

    /// Makes a bucket of one blob of ten bytes, and its list.
    fn bucket_of_one() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("blobs")).unwrap();
        fs::write(directory.path().join("blobs/a"), b"0123456789").unwrap();
        fs::write(directory.path().join("blobs/a.groups"), b"list").unwrap();
        directory
    }

    /// Sends requests and returns what came until the server closes.
    async fn exchange(
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        requests: &[&str],
    ) -> String {
        for request in requests {
            stream.write_all(request.as_bytes()).await.unwrap();
        }
        let mut text = Vec::new();
        // TLS that ends without a word is an error after the last byte.
        let _end = stream.read_to_end(&mut text).await;
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn served_range_is_that_of_the_file_and_each_request_is_counted() {
        let directory = bucket_of_one();
        let (address, answers) = start(directory.path(), None).await;
        let text = exchange(
            TcpStream::connect(address).await.unwrap(),
            &[
                "GET /blobs/a HTTP/1.1\r\nHost: e\r\nRange: bytes=2-4\r\n\r\n",
                "GET /blobs/b HTTP/1.1\r\nHost: e\r\n\r\n",
                "HEAD /blobs/a HTTP/1.1\r\nHost: e\r\n\r\n",
                "GET /blobs/a.groups HTTP/1.1\r\nHost: e\r\n\r\n",
                "PUT /blobs/a HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n",
            ],
        )
        .await;
        assert!(text.contains("content-range: bytes 2-4/10\r\n"), "{text}");
        assert!(text.contains("\r\n\r\n234HTTP/1.1 404"), "{text}");
        let wanted = Served { blob_requests: 3, blob_bytes: 3, other_requests: 2, other_bytes: 4 };
        assert_eq!(answers.served(), wanted);
        assert_eq!(answers.served_to(IpAddr::from([127, 0, 0, 1])), wanted);
        assert_eq!((wanted.requests(), wanted.bytes()), (5, 7));
    }

    #[tokio::test]
    async fn client_that_trusts_the_certificate_is_offered_two_versions_of_http() {
        let directory = bucket_of_one();
        let (address, _) = start(directory.path(), Some(acceptor().unwrap())).await;
        for version in ["h2", "http/1.1"] {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap()).unwrap();
            let mut config =
                ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                    .with_safe_default_protocol_versions()
                    .unwrap()
                    .with_root_certificates(roots)
                    .with_no_client_auth();
            config.alpn_protocols = vec![version.as_bytes().to_vec()];
            let socket = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("127.0.0.1").unwrap();
            let stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(version.as_bytes()));
            if version == "http/1.1" {
                let request = "GET /blobs/a HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n";
                assert!(exchange(stream, &[request]).await.ends_with("0123456789"));
            }
        }
    }
}
