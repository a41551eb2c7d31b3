//! HTTP/3: what is read comes over one connection of QUIC, where the node is told to and UDP gets through.
//!
//! Only the transport differs. A request goes in and an answer comes out as over TCP, so that deadlines, redirects,
//! lengths, retries and what is believed of an answer are none of this module's.
//!
//! Where no connection comes about within [`HANDSHAKE_MAX`], or one breaks in a way that asking again would not mend,
//! HTTP/3 rests for [`REST`] and [`Http3::send`] says that it did not send: the caller has TCP. What the matter with
//! certificates or names is, TCP tells as well. A request that was sent and not answered is a failure like any other.
//!
//! It is made of `h3` on `quinn` and not of the feature of the HTTP client: that one needs a compiler flag of whoever
//! builds, and a second crypto library.

mod guard;

use std::error::Error as StdError;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures::Stream;
use futures::future::select_ok;
use futures::stream;
use h3::client::{RequestStream, SendRequest};
use h3::error::{Code, StreamError};
use http::Uri;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Endpoint, IdleTimeout, TransportConfig, VarInt};
use reqwest::header::{CONTENT_LENGTH, HOST, HeaderValue};
use reqwest::{Method, Request, Response, ResponseBuilderExt as _, Url, Version};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info};

use self::guard::{Guarded, GuardedConnection, GuardedOpener};
use super::answer::Failure;
use super::error::{Cause, ConfigError, Reach};
use super::http::{IDLE_TIMEOUT, Windows, default_headers, resolve, trusted_pem};
use super::options::EdgeOptions;

/// How long a connection may take before TCP is gone by: two round trips and a lost packet of a bad link, and a part
/// of what a get waits for bytes.
const HANDSHAKE_MAX: Duration = Duration::from_secs(1);
/// For how long HTTP/3 is not tried again after it did not get through.
const REST: Duration = Duration::from_secs(600);
/// How long the fields of an answer's head may be together.
const HEAD_LEN_MAX: u64 = 64 << 10;
/// How many streams the edge may open to us: the protocol has three, and a few that mean nothing.
const STREAMS_OF_EDGE_MAX: u32 = 8;

/// Is the one connection to an edge, made when it is needed; all clones are the same.
#[derive(Clone, Debug)]
pub(in crate::edge) struct Http3 {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    host: String,
    port: u16,
    config: quinn::ClientConfig,
    /// Locked while a connection is being made, so that whoever needs one waits for it.
    slot: tokio::sync::Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    live: Option<Arc<Live>>,
    rests_until: Option<Instant>,
}

impl Http3 {
    /// Makes what speaks HTTP/3 to the origin of `base`; nothing is sent yet.
    pub(in crate::edge) fn new(base: &Url, options: &EdgeOptions) -> Result<Self, ConfigError> {
        if base.scheme() != "https" {
            return Err(ConfigError::Http3WithoutTls);
        }
        // An address of IPv6 has brackets in a URL and nowhere else.
        let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = base.port_or_known_default().unwrap_or_default();
        let config = quic_config(options)?;
        let slot = tokio::sync::Mutex::default();
        Ok(Self { shared: Arc::new(Shared { host, port, config, slot }) })
    }

    /// Has a connection ready; returns whether there is one.
    pub(in crate::edge) async fn prepare(&self) -> bool {
        self.connection().await.is_some()
    }

    /// Sends a request without a body and returns the head of the answer; `None` where it could not be sent.
    pub(in crate::edge) async fn send(
        &self,
        request: &Request,
    ) -> Result<Option<Response>, Failure> {
        let Some(live) = self.connection().await else { return Ok(None) };
        let head = head_of(request)?;
        let flight = Flight::begin(live);
        let mut requests = flight.live.requests.clone();
        let stream = match requests.send_request(head).await {
            Ok(stream) => stream,
            Err(error) => {
                // It is closed, or the edge said that it will be, as before a restart.
                debug!(%error, "a connection of HTTP/3 takes no more requests");
                self.forget(&flight.live).await;
                return Ok(None);
            }
        };
        flight.answer(request, stream).await.map(Some)
    }

    /// Returns the connection, after it is made where there is none; `None` where HTTP/3 does not get through.
    async fn connection(&self) -> Option<Arc<Live>> {
        let mut slot = self.shared.slot.lock().await;
        if let Some(live) = slot.live.take() {
            match live.fault() {
                None if live.quic.close_reason().is_none() => {
                    return Some(Arc::clone(slot.live.insert(live)));
                }
                None => {}
                Some(fault) => slot.rest(&fault),
            }
        }
        if slot.rests_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let made = timeout(HANDSHAKE_MAX, self.shared.connect()).await;
        match made.unwrap_or_else(|late| Err(late.into())) {
            Ok(live) => Some(Arc::clone(slot.live.insert(Arc::new(live)))),
            Err(error) => {
                slot.rest(&error.to_string());
                None
            }
        }
    }

    /// Has the next request make a connection anew.
    async fn forget(&self, gone: &Arc<Live>) {
        self.shared.slot.lock().await.live.take_if(|live| Arc::ptr_eq(live, gone));
    }
}

impl Slot {
    fn rest(&mut self, why: &str) {
        let minutes = REST.as_secs() / 60;
        info!(why, "HTTP/3 does not get through to the edge: by HTTP/2 or 1.1 for {minutes} min");
        self.rests_until = Some(Instant::now() + REST);
    }
}

type AnyError = Box<dyn StdError + Send + Sync>;

impl Shared {
    async fn connect(&self) -> Result<Live, AnyError> {
        let addresses = resolve(&self.host, self.port).await?;
        // The first of each family at once: one of them may lead nowhere.
        let first = |v4: bool| addresses.iter().find(|address| address.is_ipv4() == v4);
        let dials = [first(true), first(false)].into_iter().flatten();
        let (quic, _others) = select_ok(dials.map(|address| Box::pin(self.dial(*address)))).await?;
        let mut builder = h3::client::builder();
        builder.max_field_section_size(HEAD_LEN_MAX).send_grease(false);
        let guarded = GuardedConnection::new(h3_quinn::Connection::new(quic.clone()));
        let (driver, requests) = builder.build(guarded).await?;
        let state = Arc::new(Mutex::new(State::new()));
        let driving = drive(driver, quic.clone(), Arc::clone(&state));
        let driver = AbortOnDropHandle::new(tokio::spawn(driving));
        Ok(Live { requests, quic, state, _driver: driver })
    }

    async fn dial(&self, address: SocketAddr) -> Result<quinn::Connection, AnyError> {
        let any = match address.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let endpoint = Endpoint::client((any, 0).into())?;
        Ok(endpoint.connect_with(self.config.clone(), address, &self.host)?.await?)
    }
}

/// Is a connection that was made; it ends when nobody has it any more.
struct Live {
    requests: SendRequest<GuardedOpener, Bytes>,
    quic: quinn::Connection,
    state: Arc<Mutex<State>>,
    _driver: AbortOnDropHandle<()>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Live {
    /// Says why the next connection would go the way of this one; none where it is open or just ended.
    fn fault(&self) -> Option<String> {
        use quinn::ConnectionError as E;
        if let Some(fault) = locked(&self.state).fault.clone() {
            return Some(fault);
        }
        let reason = self.quic.close_reason()?;
        let is_fault = match &reason {
            E::VersionMismatch | E::TransportError(_) | E::TimedOut | E::CidsExhausted => true,
            E::ConnectionClosed(close) => close.error_code != quinn::TransportErrorCode::NO_ERROR,
            E::ApplicationClosed(close) => {
                close.error_code.into_inner() != Code::H3_NO_ERROR.value()
            }
            // A server that was started anew, and we ourselves after a while without requests.
            E::Reset | E::LocallyClosed => false,
        };
        is_fault.then(|| reason.to_string())
    }
}

/// Is what is known of a connection beside its protocol.
#[derive(Debug)]
struct State {
    /// Requests that are sent and not read to their end.
    flights: usize,
    /// When the last of them ended.
    idle_since: Instant,
    /// How the edge broke the rules of HTTP/3, so that we closed.
    fault: Option<String>,
}

impl State {
    fn new() -> Self {
        Self { flights: 0, idle_since: Instant::now(), fault: None }
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what a connection needs beside requests, and closes it when it was idle for long.
async fn drive(
    mut driver: h3::client::Connection<GuardedConnection, Bytes>,
    quic: quinn::Connection,
    state: Arc<Mutex<State>>,
) {
    tokio::select! {
        error = driver.wait_idle() => {
            debug!(%error, "a connection of HTTP/3 ended");
            if !error.is_h3_no_error() && is_open_or_ours(&quic) {
                locked(&state).fault = Some(error.to_string());
            }
        }
        () = idle(&state) => quic.close(VarInt::from_u32(0x100), b""),
    }
}

/// Returns whether nobody else has ended a connection.
fn is_open_or_ours(quic: &quinn::Connection) -> bool {
    matches!(quic.close_reason(), None | Some(quinn::ConnectionError::LocallyClosed))
}

/// Returns when there was no request for [`IDLE_TIMEOUT`].
async fn idle(state: &Mutex<State>) {
    loop {
        let left = match &*locked(state) {
            State { flights: 0, idle_since, .. } => {
                IDLE_TIMEOUT.saturating_sub(idle_since.elapsed())
            }
            _ => IDLE_TIMEOUT,
        };
        if left.is_zero() {
            return;
        }
        sleep(left).await;
    }
}

/// Is a request under way, until its answer is read or dropped; it keeps the connection.
struct Flight {
    live: Arc<Live>,
}

impl Flight {
    fn begin(live: Arc<Live>) -> Self {
        locked(&live.state).flights += 1;
        Self { live }
    }

    /// Waits for the head of the answer.
    async fn answer(self, request: &Request, mut stream: Exchange) -> Result<Response, Failure> {
        stream.finish().await.map_err(|error| self.broken(error))?;
        let head = loop {
            let head = stream.recv_response().await.map_err(|error| self.broken(error))?;
            if !head.status().is_informational() {
                break head;
            }
        };
        let (mut head, ()) = head.into_parts();
        let mut first = None;
        if *request.method() == Method::GET && !head.headers.contains_key(CONTENT_LENGTH) {
            first = next(&mut stream).await.map_err(|error| self.broken(error))?;
            if first.is_none() {
                // An answer may end with its head, and need not say that nothing follows.
                head.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
        }
        let body = reqwest::Body::wrap_stream(body(first, stream, self));
        let answer = http::Response::builder()
            .status(head.status)
            .version(Version::HTTP_3)
            .url(request.url().clone())
            .body(body);
        let mut answer = answer.map_err(|error| unreachable(Arc::new(error)))?;
        *answer.headers_mut() = head.headers;
        Ok(Response::from(answer))
    }

    fn broken(&self, error: StreamError) -> Failure {
        self.noticed(&error);
        unreachable(Arc::new(error))
    }

    /// Takes in how an exchange broke: that of a single answer says nothing of the others.
    fn noticed(&self, error: &StreamError) {
        if matches!(error, StreamError::ConnectionError { .. }) && is_open_or_ours(&self.live.quic)
        {
            locked(&self.live.state).fault = Some(error.to_string());
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut state = locked(&self.live.state);
        state.flights = state.flights.saturating_sub(1);
        state.idle_since = Instant::now();
    }
}

type Exchange = RequestStream<Guarded<h3_quinn::BidiStream<Bytes>>, Bytes>;

/// Gives the body of an answer piece by piece, up to its end or the first error.
fn body(
    first: Option<Bytes>,
    stream: Exchange,
    flight: Flight,
) -> impl Stream<Item = Result<Bytes, StreamError>> {
    stream::unfold(Some((first, stream, flight)), |under_way| async {
        let (first, mut stream, flight) = under_way?;
        if let Some(first) = first {
            return Some((Ok(first), Some((None, stream, flight))));
        }
        match next(&mut stream).await.transpose()? {
            Ok(bytes) => Some((Ok(bytes), Some((None, stream, flight)))),
            Err(error) => {
                flight.noticed(&error);
                Some((Err(error), None))
            }
        }
    })
}

async fn next(stream: &mut Exchange) -> Result<Option<Bytes>, StreamError> {
    let piece = stream.recv_data().await?;
    Ok(piece.map(|mut piece| piece.copy_to_bytes(piece.remaining())))
}

/// Makes the head of a request as HTTP/3 has it.
fn head_of(request: &Request) -> Result<http::Request<()>, Failure> {
    let uri: Uri =
        request.url().as_str().parse().map_err(|error| unreachable(Arc::new(error) as Cause))?;
    let mut head = http::Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = uri;
    *head.headers_mut() = default_headers();
    for (name, value) in request.headers() {
        // The authority of the URI says it, and one of them is enough.
        if name != HOST {
            head.headers_mut().insert(name, value.clone());
        }
    }
    Ok(head)
}

fn unreachable(source: Cause) -> Failure {
    Failure::Unreachable { reach: Reach::Connect, source }
}

/// Sets how QUIC is spoken: who is believed, how much may be under way, and when a connection is dead.
fn quic_config(options: &EdgeOptions) -> Result<quinn::ClientConfig, ConfigError> {
    let wrong = |error: Cause| ConfigError::Client { source: error };
    let tls =
        QuicClientConfig::try_from(tls_config(options)?).map_err(|error| wrong(Arc::new(error)))?;
    let silence_max = options.life_interval.saturating_mul(2);
    let silence_max = IdleTimeout::try_from(silence_max).map_err(|error| wrong(Arc::new(error)))?;
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(Windows::FULL.stream.into())
        .receive_window(Windows::FULL.connection.into())
        .max_concurrent_bidi_streams(0_u32.into())
        .max_concurrent_uni_streams(STREAMS_OF_EDGE_MAX.into())
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(options.life_interval))
        .max_idle_timeout(Some(silence_max));
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

fn tls_config(options: &EdgeOptions) -> Result<rustls::ClientConfig, ConfigError> {
    let wrong = |error: rustls::Error| ConfigError::Client { source: Arc::new(error) };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(wrong)?;
    let mut config = match &options.ca_file {
        None => builder.with_platform_verifier().map_err(wrong)?.with_no_client_auth(),
        Some(path) => {
            let pem = trusted_pem(path)?;
            let refuse =
                |error: Cause| ConfigError::Certificates { path: path.clone(), source: error };
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|error| refuse(Arc::new(error)))?;
                roots.add(certificate).map_err(|error| refuse(Arc::new(error)))?;
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![b"h3".to_vec()];
    Ok(config)
}
