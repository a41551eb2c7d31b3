//! A listener before a real server, which injects faults and remembers what was asked.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_RANGE, IF_MATCH, IF_NONE_MATCH, RANGE};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use s3s::service::S3Service;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::fault::Fault;
use super::tls::acceptor;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type ReplyBody = UnsyncBoxBody<Bytes, BoxError>;
pub(crate) type Reply = Response<ReplyBody>;

/// The real server behind a front.
pub(crate) enum Upstream {
    /// An S3 server that checks signatures.
    S3(S3Service),
    /// A web server over a directory.
    Folder(PathBuf),
}

impl Upstream {
    /// Answers a request as the server does.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Reply {
        match self {
            Self::S3(service) => {
                let reply = service
                    .call(request.map(s3s::Body::from))
                    .await
                    .expect("the S3 server answers");
                reply.map(|body| body.map_err(BoxError::from).boxed_unsync())
            }
            Self::Folder(root) => serve_file(root, &request),
        }
    }
}

/// Listens before an upstream; ends when dropped.
pub(crate) struct Front {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    upstream: Upstream,
    /// Faults of the next requests that the filter lets through, one each.
    faults: Mutex<VecDeque<(Method, Fault)>>,
    /// The fault of every request from now on.
    always: Mutex<Option<Fault>>,
    seen: Mutex<Vec<Parts>>,
    /// How far away the server is.
    delay: Mutex<Duration>,
    /// Connections so far.
    connections: AtomicUsize,
    /// Held by a write under a condition: the S3 server looks first and writes then, which others must not see.
    conditional: tokio::sync::Mutex<()>,
}

impl Front {
    /// Begins to listen on a free port of this machine, for HTTP/1.1 without TLS.
    pub(crate) async fn start(upstream: Upstream) -> Self {
        Self::start_with(upstream, None).await
    }

    /// Begins to listen for TLS, and offers these protocols.
    pub(crate) async fn start_tls(upstream: Upstream, protocols: &[&str]) -> Self {
        Self::start_with(upstream, Some(acceptor(protocols))).await
    }

    async fn start_with(upstream: Upstream, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            upstream,
            faults: Mutex::default(),
            always: Mutex::default(),
            seen: Mutex::default(),
            delay: Mutex::default(),
            connections: AtomicUsize::new(0),
            conditional: tokio::sync::Mutex::default(),
        });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let task = tokio::spawn(accept(listener, tls, Arc::clone(&shared)));
        Self { address, scheme, shared, task }
    }

    /// Returns the URL of the front.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Returns whether the front speaks TLS, with a certificate that is not the system's.
    pub(crate) fn is_tls(&self) -> bool {
        self.scheme == "https"
    }

    /// Returns how many connections were made so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Injects a fault into the next request of that method; faults of one method queue up.
    pub(crate) fn inject(&self, method: Method, fault: Fault) {
        lock(&self.shared.faults).push_back((method, fault));
    }

    /// Injects a fault into every request from now on.
    pub(crate) fn always(&self, fault: Fault) {
        *lock(&self.shared.always) = Some(fault);
    }

    /// Has every answer come so much later from now on; for measurements.
    pub(crate) fn delay(&self, delay: Duration) {
        *lock(&self.shared.delay) = delay;
    }

    /// Returns the heads of the requests so far, in order.
    pub(crate) fn seen(&self) -> Vec<Parts> {
        lock(&self.shared.seen).clone()
    }

    /// Returns how many requests of a method came.
    pub(crate) fn count(&self, method: &Method) -> usize {
        self.seen().iter().filter(|parts| parts.method == *method).count()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Reply {
        let (parts, body) = request.into_parts();
        lock(&self.seen).push(parts.clone());
        let delay = *lock(&self.delay);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let is_conditional =
            [IF_MATCH, IF_NONE_MATCH].iter().any(|name| parts.headers.contains_key(name));
        let request = Request::from_parts(parts, body);
        let _turn = match is_conditional {
            true => Some(self.conditional.lock().await),
            false => None,
        };
        match self.next_fault(request.method()) {
            Some(fault) => fault.answer(request, &self.upstream).await,
            None => self.upstream.answer(request).await,
        }
    }

    fn next_fault(&self, method: &Method) -> Option<Fault> {
        let mut faults = lock(&self.faults);
        let next = faults.iter().position(|(wanted, _)| wanted == method);
        let next = next.and_then(|at| faults.remove(at)).map(|(_, fault)| fault);
        next.or_else(|| lock(&self.always).clone())
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        // The S3 server writes head and body apart, which would wait for each other otherwise.
        socket.set_nodelay(true).expect("a TCP socket");
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        let service = service_fn(move |request| {
            let shared = Arc::clone(&shared);
            async move { Ok::<_, Infallible>(shared.answer(request).await) }
        });
        connections.spawn(async move {
            let mut builder = Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new());
            builder.http2().timer(TokioTimer::new());
            // A connection that a fault breaks ends with an error, as it should.
            match tls {
                None => {
                    let builder = builder.http1_only();
                    let _ended = builder.serve_connection(TokioIo::new(socket), service).await;
                }
                Some(tls) => {
                    let Ok(stream) = tls.accept(socket).await else { return };
                    let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
                }
            }
        });
    }
}

fn serve_file(root: &std::path::Path, request: &Request<Incoming>) -> Reply {
    let path = request.uri().path().trim_start_matches('/');
    let Ok(bytes) = std::fs::read(root.join(path)) else {
        return reply(StatusCode::NOT_FOUND, Bytes::from_static(b"not found"));
    };
    let bytes = Bytes::from(bytes);
    let size = bytes.len();
    let range = request.headers().get(RANGE).and_then(|value| value.to_str().ok());
    let mut answer = match range {
        None => reply(StatusCode::OK, bytes),
        Some(range) => {
            let (first, last) = range["bytes=".len()..].split_once('-').expect("a range");
            let first: usize = first.parse().expect("a number");
            let end = last.parse::<usize>().expect("a number").saturating_add(1).min(size);
            let (status, body, told) = if first >= size {
                (StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new(), format!("bytes */{size}"))
            } else {
                let told = format!("bytes {first}-{}/{size}", end - 1);
                (StatusCode::PARTIAL_CONTENT, bytes.slice(first..end), told)
            };
            let mut answer = reply(status, body);
            answer.headers_mut().insert(CONTENT_RANGE, told.parse().expect("a value"));
            answer
        }
    };
    answer.headers_mut().insert("accept-ranges", "bytes".parse().expect("a value"));
    answer
}

fn reply(status: StatusCode, bytes: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(bytes).map_err(|never| match never {}).boxed_unsync());
    *reply.status_mut() = status;
    reply
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers every connection with the same bytes, whatever is asked, and closes it. For answers that
/// an HTTP server would not let itself send.
pub(crate) struct Raw {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Raw {
    pub(crate) async fn start(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                // A client that goes away before is part of some tests.
                let _ended = answer_raw(&mut socket, answer).await;
            }
        });
        Self { address, task }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer_raw(socket: &mut TcpStream, answer: &[u8]) -> std::io::Result<()> {
    let mut asked = [0; 4096];
    // One read is the whole head: the requests of these tests are small.
    let _len = socket.read(&mut asked).await?;
    socket.write_all(answer).await?;
    socket.shutdown().await
}
