//! How clients of the edge are made: what they trust, resolve, say of themselves and take ahead.
//!
//! Proxies of the environment are not used, no cookie is kept, no encoding is asked for. Redirects are followed within
//! one origin, [`REDIRECTS_MAX`](super::redirect::REDIRECTS_MAX) times, and never for signed requests. Names that resolve to
//! link-local addresses do not resolve.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderValue, USER_AGENT};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Url};

use super::redirect::redirect;
use crate::edge::error::{Cause, ConfigError};
use crate::edge::location::is_forbidden;
use crate::edge::options::{EdgeHttp, EdgeOptions};

/// How many idle connections to the edge are kept, for as many parallel range reads.
const IDLE_MAX: usize = 16;
/// How long an idle connection is kept: shorter than the usual minute of servers, so that we close
/// first and no request meets a closing connection.
pub(in crate::edge) const IDLE_TIMEOUT: Duration = Duration::from_secs(45);
/// How much of a file of certificates is read; a system's whole collection is a fifth of it.
const CA_FILE_LEN_MAX: u64 = 1 << 20;
/// Says how many bytes the edge may send over HTTP/2 or 3 ahead of whoever reads.
#[derive(Clone, Copy, Debug)]
pub(in crate::edge) struct Windows {
    /// Of one answer.
    pub(in crate::edge) stream: u32,
    /// Of all of them together.
    pub(in crate::edge) connection: u32,
}

impl Windows {
    /// Of what somebody waits for. The defaults of HTTP/2 are 64 KiB, which at 50 ms is 1.3 MB/s.
    pub(in crate::edge) const FULL: Self = Self { stream: 16 << 20, connection: 64 << 20 };
    /// Of what nobody waits for: whoever begins to wait meets no more than that on the link, which is 21 ms of 200 Mbit/s.
    /// At 50 ms it brings 10 MB/s.
    pub(super) const GENTLE: Self = Self { stream: 512 << 10, connection: 512 << 10 };
}

pub(super) fn build(builder: ClientBuilder) -> Result<Client, ConfigError> {
    builder.build().map_err(|error| ConfigError::Client { source: Arc::new(error) })
}

/// Makes what all clients of an edge have in common.
pub(super) fn client(
    base: &Url,
    redirects: bool,
    options: &EdgeOptions,
    trusted: Option<&[Certificate]>,
) -> ClientBuilder {
    let builder = Client::builder()
        .default_headers(default_headers())
        .no_proxy()
        .referer(false)
        .connect_timeout(options.connect_timeout)
        .pool_max_idle_per_host(IDLE_MAX)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .dns_resolver(Arc::new(Resolver))
        .redirect(if redirects { Policy::custom(redirect) } else { Policy::none() });
    match (base.scheme(), trusted) {
        // Certificates are not read for an edge that uses none: they may be missing.
        ("http", _) => builder.tls_certs_only([]),
        (_, Some(trusted)) => builder.tls_certs_only(trusted.iter().cloned()),
        (_, None) => builder,
    }
}

/// Returns what every request says.
pub(in crate::edge) fn default_headers() -> HeaderMap {
    let agent = concat!("blobmesh/", env!("CARGO_PKG_VERSION"));
    let headers = [(ACCEPT, "*/*"), (ACCEPT_ENCODING, "identity"), (USER_AGENT, agent)];
    headers.into_iter().map(|(name, text)| (name, HeaderValue::from_static(text))).collect()
}

/// Returns whether an edge is spoken to in HTTP/1.1 only.
pub(super) fn is_old(base: &Url, options: &EdgeOptions) -> bool {
    base.scheme() == "http" || options.http == EdgeHttp::Http1
}

/// Has the answers that a client reads share a connection, where the edge can do that: it is TLS that offers HTTP/2.
pub(super) fn shared(
    builder: ClientBuilder,
    base: &Url,
    options: &EdgeOptions,
    windows: Windows,
) -> ClientBuilder {
    if is_old(base, options) {
        builder.http1_only()
    } else {
        multiplexed(builder, options, windows)
    }
}

/// Has a client speak HTTP/2 where it is offered, and find out when a connection is dead.
fn multiplexed(builder: ClientBuilder, options: &EdgeOptions, windows: Windows) -> ClientBuilder {
    builder
        .http2_initial_stream_window_size(windows.stream)
        .http2_initial_connection_window_size(windows.connection)
        .http2_keep_alive_interval(options.life_interval)
        .http2_keep_alive_timeout(options.life_interval)
        // One that is idle is not worth a packet.
        .http2_keep_alive_while_idle(false)
}

/// Reads the certificates that an edge must be shown to have, at least one.
pub(super) fn trusted(path: &Path) -> Result<Vec<Certificate>, ConfigError> {
    let wrong = |error: Cause| ConfigError::Certificates { path: path.to_owned(), source: error };
    let trusted = Certificate::from_pem_bundle(&trusted_pem(path)?)
        .map_err(|error| wrong(Arc::new(error)))?;
    if trusted.is_empty() {
        return Err(wrong(Arc::new(io::Error::other("there is no certificate in PEM in it"))));
    }
    Ok(trusted)
}

/// Reads what a file of certificates holds.
pub(in crate::edge) fn trusted_pem(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let mut text = Vec::new();
    let file = File::open(path);
    file.and_then(|file| file.take(CA_FILE_LEN_MAX).read_to_end(&mut text)).map_err(|error| {
        ConfigError::Certificates { path: path.to_owned(), source: Arc::new(error) }
    })?;
    Ok(text)
}

/// Resolves names by the system, without the addresses that no edge has.
#[derive(Debug)]
struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move { Ok(Box::new(resolve(name.as_str(), 0).await?.into_iter()) as Addrs) })
    }
}

/// Returns the addresses of a host that an edge can have, at least one.
pub(in crate::edge) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((host, port)).await?;
    let usable: Vec<SocketAddr> = found.filter(|address| !is_forbidden(address.ip())).collect();
    if usable.is_empty() {
        return Err(io::Error::other("the name has no address that an edge can have"));
    }
    Ok(usable)
}
