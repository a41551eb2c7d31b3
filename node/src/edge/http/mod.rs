//! The HTTP client of the edge, with its deadlines and its distrust.
//!
//! What is read over TLS comes over HTTP/2, where the edge offers it: ranges that are read at once are then one flow,
//! which is never idle between two of them, and do not take the link from each other. Where that one connection is
//! slow they have connections of their own ([`Spread`] decides). HTTP/3 takes the place of HTTP/2 where the node is told
//! so ([`EdgeHttp`]) and while it gets through. What is written goes by HTTP/1.1: parts of an
//! upload gain nothing from one connection, and a full one would hold up the answers that show that it lives.
//!
//! [`client`] makes what sends, [`redirect`] says where a redirect may lead.

mod client;
mod redirect;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};
use reqwest::{Client, Request, Response, Url, Version};
use tokio::time::{Instant, timeout};
use tracing::debug;

pub(super) use self::client::{IDLE_TIMEOUT, Windows, resolve};
use self::client::{build, client, is_old, shared, trusted};
#[cfg(feature = "http3")]
pub(super) use self::client::{default_headers, trusted_pem};
use self::redirect::{check_redirect, redirect_breach, redirection};
use super::answer::{Failure, Refusal};
use super::error::{Cause, ConfigError, Reach, causes};
use super::files;
use super::http3::Http3;
use super::options::{EdgeHttp, EdgeOptions};
use super::pace::{Pace, Sharers};
use super::spare::Spare;
use super::spread::{Reading, Spread};

/// How much of a refusal's body is read for its code and message.
const REFUSAL_LEN_MAX: usize = 8 << 10;

/// Sends requests to one edge.
#[derive(Clone, Debug)]
pub(super) struct Http {
    /// What reads while answers share a connection, as far as the edge can do that.
    together: Client,
    /// What reads otherwise, and writes: a connection for each request under way.
    apart: Client,
    /// What is asked before `together`, where the node is told to.
    three: Option<Http3>,
    spread: Arc<Spread>,
    /// The connection that is made ahead for what reads together, by a client of its own, which is there once it was
    /// needed; none that could not be made.
    spare: Spare,
    maker: Arc<OnceLock<Option<Client>>>,
    /// When the edge last answered, so that there is a connection.
    answered: Arc<Mutex<Option<Instant>>>,
    /// Whether the edge, or how it is asked, leaves nothing but HTTP/1.1.
    is_old: Arc<AtomicBool>,
    /// The bodies that are read now, and those that are written.
    readers: Sharers,
    writers: Sharers,
    base: Url,
    redirects: bool,
    options: EdgeOptions,
    windows: Windows,
}

impl Http {
    /// Makes a client for the origin of `base`; `redirects` tells whether any are followed.
    pub(super) fn new(
        base: &Url,
        redirects: bool,
        options: EdgeOptions,
    ) -> Result<Self, ConfigError> {
        Self::with(base, redirects, options, Windows::FULL)
    }

    fn with(
        base: &Url,
        redirects: bool,
        options: EdgeOptions,
        windows: Windows,
    ) -> Result<Self, ConfigError> {
        // Another part of the process may have installed the same provider before; then it stays.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let trusted = options.ca_file.as_deref().map(trusted).transpose()?;
        let builder = || client(base, redirects, &options, trusted.as_deref());
        let spare = Spare::default();
        let together = shared(builder(), base, &options, windows);
        let together = together.connector_layer(spare.taking());
        let together = build(together)?;
        let apart = match is_old(base, &options) {
            true => together.clone(),
            false => build(builder().http1_only())?,
        };
        let three = match options.http {
            EdgeHttp::Http3 => Some(Http3::new(base, &options)?),
            EdgeHttp::Auto | EdgeHttp::Http1 | EdgeHttp::Http2 => None,
        };
        Ok(Self {
            together,
            apart,
            three,
            spread: Arc::new(Spread::new(options.http == EdgeHttp::Http2)),
            spare,
            maker: Arc::default(),
            answered: Arc::default(),
            is_old: Arc::new(AtomicBool::new(is_old(base, &options))),
            readers: Sharers::default(),
            writers: Sharers::default(),
            base: base.clone(),
            redirects,
            options,
            windows,
        })
    }

    /// Has a connection ready for what reads, unless there is one, and closes it if nobody wants it soon.
    pub(super) async fn prepare(&self) {
        let answered = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let connected = answered.is_some_and(|at| at.elapsed() < IDLE_TIMEOUT);
        if connected || self.spread.is_apart() {
            return;
        }
        if let Some(three) = &self.three
            && Box::pin(three.prepare()).await
        {
            return;
        }
        let connect = async {
            let this = self.clone();
            let maker = files::blocking(move || Ok(this.maker().cloned())).await;
            let Ok(Some(maker)) = maker else { return };
            debug!("a connection to the edge is made ahead");
            // It fails always: at the latest when the connection is there, and before anything is sent. Why is for the
            // request to say that wants one.
            maker.get(self.base.clone()).send().await.err();
        };
        self.spare.prepare(connect).await;
    }

    /// Returns the client that makes the spare connection. To make it takes milliseconds, as certificates
    /// are read; most nodes need none.
    fn maker(&self) -> Option<&Client> {
        let make = || {
            let trusted = self.options.ca_file.as_deref().map(trusted).transpose().ok()?;
            let builder = client(&self.base, self.redirects, &self.options, trusted.as_deref());
            let builder = shared(builder, &self.base, &self.options, self.windows);
            build(builder.connector_layer(self.spare.making())).ok()
        };
        self.maker.get_or_init(make).as_ref()
    }

    /// Makes the same again for another HTTP, with no connection yet.
    pub(super) fn by(&self, http: EdgeHttp) -> Result<Self, ConfigError> {
        Self::new(&self.base, self.redirects, EdgeOptions { http, ..self.options.clone() })
    }

    /// Makes the same again for what nobody waits for: it has a connection of its own, and only a little is ever on its way
    /// there. HTTP/3 has no part in it, and where the edge knows nothing but HTTP/1.1 it is as any other.
    pub(super) fn gently(&self) -> Result<Self, ConfigError> {
        let http = match self.options.http {
            EdgeHttp::Http3 => EdgeHttp::Auto,
            EdgeHttp::Auto | EdgeHttp::Http1 | EdgeHttp::Http2 => self.options.http,
        };
        let options = EdgeOptions { http, ..self.options.clone() };
        let made = Self::with(&self.base, self.redirects, options, Windows::GENTLE)?;
        // That it is slow is no reason to try several connections.
        Ok(Self { spread: Arc::new(Spread::new(true)), ..made })
    }

    /// Returns whether what is asked at once has a connection for each request, and could not share one.
    pub(super) fn is_apart(&self) -> bool {
        self.is_old.load(Ordering::Relaxed)
    }

    pub(super) fn options(&self) -> &EdgeOptions {
        &self.options
    }

    /// Sends a request without a body and returns the head of whatever answer comes.
    pub(super) async fn send(&self, request: Request) -> Result<Response, Failure> {
        let answer = if self.spread.is_apart() {
            self.in_time(self.send_apart(request)).await.flatten()
        } else {
            self.in_turn(self.send_together(request)).await
        }?;
        // Where the connection that was shared is slow, one for each answer is what is wanted.
        let is_old = answer.version() <= Version::HTTP_11 && !self.spread.is_apart();
        self.is_old.store(is_old, Ordering::Relaxed);
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        *answered = Some(Instant::now());
        Ok(answer)
    }

    /// Waits for the head of an answer.
    async fn in_time<T>(&self, exchange: impl Future<Output = T>) -> Result<T, Failure> {
        let limit = self.options.connect_timeout + self.options.first_byte_timeout;
        timeout(limit, exchange).await.map_err(|_| Failure::Stalled { waited: limit, got: 0 })
    }

    /// Waits for the head of an answer as long as the connection that is shared brings others: it may have megabytes to
    /// carry first, of which the edge has rid itself. Their rate is for those to judge who read them.
    async fn in_turn(
        &self,
        exchange: impl Future<Output = Result<Response, Failure>>,
    ) -> Result<Response, Failure> {
        let mut exchange = std::pin::pin!(exchange);
        loop {
            let before = self.spread.shared_bytes();
            match self.in_time(&mut exchange).await {
                Ok(answer) => return answer,
                Err(late) if self.spread.shared_bytes() == before => return Err(late),
                Err(_) => debug!("the answer is waited for behind others"),
            }
        }
    }

    /// Sends a request over the connection that is shared, if the edge can do that.
    async fn send_together(&self, request: Request) -> Result<Response, Failure> {
        match &self.three {
            // In a box, since it is large, and every get would have room for it.
            Some(three) => Box::pin(self.send_by_http3(three, request)).await,
            None => self.told(self.together.execute(request).await),
        }
    }

    /// Sends a request over a connection of its own, if the edge can do that.
    async fn send_apart(&self, request: Request) -> Result<Response, Failure> {
        let again = request.try_clone();
        let answer = self.apart.execute(request).await;
        match (&answer, again) {
            (Err(error), Some(again)) if is_http_2_only(error) => {
                self.spread.has_no_other();
                self.told(self.together.execute(again).await)
            }
            _ => self.told(answer),
        }
    }

    /// Sends a request by HTTP/3 where that gets through, and follows redirects as the clients for TCP do.
    async fn send_by_http3(
        &self,
        three: &Http3,
        mut request: Request,
    ) -> Result<Response, Failure> {
        let mut asked = Vec::new();
        loop {
            let Some(answer) = three.send(&request).await? else {
                return self.told(self.together.execute(request).await);
            };
            let Some(next) = redirection(&answer).filter(|_| self.redirects) else {
                return Ok(answer);
            };
            asked.push(request.url().clone());
            check_redirect(&asked, &next).map_err(|refused| Failure::Breach(refused.breach()))?;
            *request.url_mut() = next;
        }
    }

    /// Says what an exchange over TCP came to.
    fn told(&self, answer: reqwest::Result<Response>) -> Result<Response, Failure> {
        answer.map_err(|error| {
            self.spread.broken_by(&error);
            broken(error)
        })
    }

    /// Begins to read the body of an answer that announces `len` bytes.
    pub(super) fn body(&self, answer: &Response, len: u64) -> Body {
        let shared = matches!(answer.version(), Version::HTTP_2 | Version::HTTP_3);
        Body { reading: Some(Spread::reading(&self.spread, shared)), ..self.begin_body(len) }
    }

    /// Starts a body of which `expected` bytes are announced.
    fn begin_body(&self, expected: u64) -> Body {
        let reader = self.readers.join();
        let pace = Pace::new(self.options.rate_min, self.options.stall_window, reader);
        Body { pace, got: 0, expected, reading: None }
    }

    /// Sends a request whose body counts into `sent` what the transport took of it, until it is
    /// `len`; gives up when the body stalls, or the answer does not come after it.
    pub(super) async fn send_body(
        &self,
        request: Request,
        sent: &AtomicU64,
        len: u64,
    ) -> Result<Response, Failure> {
        let mut exchange = std::pin::pin!(self.apart.execute(request));
        let mut limit = self.options.connect_timeout + self.options.stall_window;
        let writer = self.writers.join();
        let mut pace = Pace::new(self.options.rate_min, self.options.stall_window, writer);
        loop {
            let before = sent.load(Ordering::Relaxed);
            let waiting = pace.wait();
            let answer = timeout(limit, &mut exchange).await;
            drop(waiting);
            if let Ok(answer) = answer {
                return answer.map_err(broken);
            }
            let got = sent.load(Ordering::Relaxed);
            if before == len {
                return Err(Failure::Stalled { waited: limit, got });
            }
            pace.moved(got - before);
            if got == len {
                limit = self.options.write_timeout;
                continue;
            }
            pace.judge().map_err(|slow| Failure::Stalled { waited: slow.waited, got })?;
            limit = self.options.stall_window;
        }
    }

    /// Reads a whole body of at most `len_max` bytes; `None` when it is longer.
    pub(super) async fn collect(
        &self,
        answer: &mut Response,
        len_max: usize,
    ) -> Result<Option<Bytes>, Failure> {
        let mut body = self.begin_body(u64::MAX);
        let mut whole = BytesMut::new();
        while let Some(bytes) = body.next(answer).await? {
            if whole.len() + bytes.len() > len_max {
                return Ok(None);
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(Some(whole.freeze()))
    }

    /// Reads the answer to a write, of at most `len_max` bytes; `None` when it is longer. The edge may begin it long before it
    /// knows what to say, and send white space meanwhile.
    pub(super) async fn collect_answer(
        &self,
        answer: &mut Response,
        len_max: usize,
    ) -> Result<Option<Bytes>, Failure> {
        let limit = self.options.write_timeout;
        let mut whole = BytesMut::new();
        let collect = async {
            while let Some(bytes) = answer.chunk().await.map_err(broken)? {
                if whole.len() + bytes.len() > len_max {
                    return Ok(None);
                }
                whole.extend_from_slice(&bytes);
            }
            Ok(Some(std::mem::take(&mut whole).freeze()))
        };
        let late = |_| Failure::Stalled { waited: limit, got: 0 };
        timeout(limit, collect).await.map_err(late)?
    }

    /// Reads why a request was refused. A body that does not come is no reason to fail again.
    pub(super) async fn refusal(&self, mut answer: Response, signed: bool) -> Refusal {
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = self.collect(&mut answer, REFUSAL_LEN_MAX);
        let body = timeout(self.options.first_byte_timeout, body).await;
        let body = body.ok().and_then(Result::ok).flatten().unwrap_or_default();
        Refusal::read(status, &headers, &body, signed)
    }
}

/// Reads a body under the least rate.
#[derive(Debug)]
pub(super) struct Body {
    pace: Pace,
    got: u64,
    expected: u64,
    /// Takes what came of a blob, to compare connections by; none of what is short.
    reading: Option<Reading>,
}

impl Body {
    /// Decides whether the rest is to be asked for anew, over a connection of its own.
    pub(super) fn leaves(&self) -> bool {
        let left = self.expected.saturating_sub(self.got);
        self.reading.as_ref().is_some_and(|reading| reading.leaves(self.got, left))
    }

    /// Returns the next bytes, `None` at the end. Dropping the call loses no bytes.
    pub(super) async fn next(&mut self, answer: &mut Response) -> Result<Option<Bytes>, Failure> {
        loop {
            let room = self.pace.room();
            let waiting = self.pace.wait();
            let since = Instant::now();
            let read = timeout(room, answer.chunk()).await;
            drop(waiting);
            let mut len = 0;
            if let Ok(Ok(Some(bytes))) = &read {
                len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                self.got = self.got.saturating_add(len);
                self.pace.moved(len);
            }
            if let Some(reading) = &self.reading {
                reading.moved(len, since.elapsed());
            }
            let judged = self.pace.judge();
            match read {
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => return Err(self.cut(error)),
                Ok(Ok(Some(bytes))) if judged.is_ok() => return Ok(Some(bytes)),
                Ok(Ok(Some(_))) | Err(_) => {
                    judged
                        .map_err(|slow| Failure::Stalled { waited: slow.waited, got: self.got })?;
                }
            }
        }
    }

    fn cut(&self, error: reqwest::Error) -> Failure {
        if let Some(reading) = &self.reading {
            reading.broken_by(&error);
        }
        let source: Cause = Arc::new(error.without_url());
        Failure::Cut { got: self.got, expected: self.expected, source: Some(source) }
    }
}

/// Tells what an exchange without an answer means.
fn broken(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    if let Some(breach) = redirect_breach(&error) {
        return Failure::Breach(breach);
    }
    let reach = if error.is_dns() {
        Reach::Name
    } else if causes(&error).any(|cause| cause.is::<rustls::Error>()) {
        Reach::Tls
    } else if error.is_timeout() {
        Reach::Timeout
    } else {
        Reach::Connect
    };
    Failure::Unreachable { reach, source: Arc::new(error) }
}

/// Returns whether TLS ended because the edge does not speak HTTP/1.1.
fn is_http_2_only(error: &reqwest::Error) -> bool {
    use rustls::{AlertDescription::NoApplicationProtocol, Error::AlertReceived};
    let mut errors = causes(error).filter_map(|cause| cause.downcast_ref::<rustls::Error>());
    errors.any(|error| *error == AlertReceived(NoApplicationProtocol))
}
