//! Measures an edge, for `doctor`: how far away it is, and what one connection brings and what four do.
//!
//! Few requests, since somebody pays for them: nine for the distance, twelve for the rate and at most 64 MiB.
//! The rates are taken in turns and the better one of each counts, so that a cache of the edge that fills
//! on the way, or a moment of other traffic, does not decide. Whatever comes is thrown away unverified.

use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::Hash;
use futures::future::{join_all, try_join_all};
use reqwest::Version;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::answer::Failure;
use super::blob_path;
use super::diagnose::{Finding, nobodys_blob};
use super::error::{EdgeError, Reach};
use super::http::resolve;
use super::remote::Remote;

/// How often each way is gone to tell how long it is.
const TRIES: usize = 3;
/// How many connections are compared to one.
const CONNECTIONS: u64 = 4;
/// How often both rates are taken.
const ROUNDS: usize = 2;
/// How much one rate is taken of at most.
const LEN_MAX: u64 = 16 << 20;
/// Of less than this, the way to the edge takes longer than the bytes do.
const LEN_MIN: u64 = 1 << 20;
/// How long one rate is taken at most.
const TIME_MAX: Duration = Duration::from_secs(5);
/// From how many times the rate of one connection on several are worth their cost.
const GAIN_MIN: f64 = 1.3;

/// Measures the edge, with the blob that it is known to have.
pub(super) async fn measure(remote: &Remote, blob: Option<Hash>) -> Vec<Finding> {
    let distance = match distance(remote).await {
        Ok(distance) => Finding::ok("distance", distance),
        Err(failure) => {
            let hint = "see what the other checks of the edge say";
            return vec![Finding::warn("distance", failure.to_string(), hint)];
        }
    };
    let rate = match blob {
        Some(hash) => rate(remote, &hash).await,
        None => Finding::ok("rate", "not measured: name a blob of the edge with --edge-blob HASH"),
    };
    vec![distance, rate]
}

/// Tells how long connection, TLS and the first byte take, and which HTTP was spoken.
async fn distance(remote: &Remote) -> Result<String, Failure> {
    let (mut tcp, mut cold, mut warm) = (Vec::new(), Vec::new(), Vec::new());
    let mut version = Version::HTTP_11;
    for _ in 0..TRIES {
        tcp.push(connect(remote).await?);
        let fresh = remote.with_fresh_connections().map_err(|error| Failure::Unreachable {
            reach: Reach::Connect,
            source: Arc::new(error),
        })?;
        cold.push(ask(&fresh).await?.0);
        let (took, spoken) = ask(&fresh).await?;
        warm.push(took);
        version = spoken;
    }
    let [tcp, cold, warm] = [tcp, cold, warm].map(median);
    let tls = match remote.base().scheme() {
        "https" => format!(", TLS {}", millis(cold.saturating_sub(warm + tcp))),
        _ => String::new(),
    };
    let (tcp, warm) = (millis(tcp), millis(warm));
    Ok(format!("connection {tcp}{tls}, first byte {warm} by {version:?} (medians of {TRIES})"))
}

/// Makes a connection and drops it.
async fn connect(remote: &Remote) -> Result<Duration, Failure> {
    let (base, options) = (remote.base(), remote.http().options());
    let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = base.port_or_known_default().unwrap_or_default();
    let start = Instant::now();
    let connected = timeout(options.connect_timeout, async {
        TcpStream::connect(&resolve(host, port).await?[..]).await
    });
    match connected.await {
        Ok(Ok(_)) => Ok(start.elapsed()),
        Ok(Err(error)) => {
            Err(Failure::Unreachable { reach: Reach::Connect, source: Arc::new(error) })
        }
        Err(_) => Err(Failure::Stalled { waited: options.connect_timeout, got: 0 }),
    }
}

/// Asks for what is not there, and returns how long the answer took, and by which HTTP it came.
async fn ask(remote: &Remote) -> Result<(Duration, Version), Failure> {
    let start = Instant::now();
    let answer = remote.probe(&blob_path(&nobodys_blob())).await?;
    let (took, version) = (start.elapsed(), answer.version());
    // Read to its end, so that the connection can be used again.
    remote.http().refusal(answer, remote.is_signed()).await;
    Ok((took, version))
}

/// Compares what one connection brings to what four do.
async fn rate(remote: &Remote, hash: &Hash) -> Finding {
    let size = match remote.size(hash).await {
        Ok(size) => size,
        Err(error) => return unmeasured(&error),
    };
    if size < LEN_MIN {
        let text = format!("not measured: blob {} has only {size} bytes", hash.fmt_short());
        return Finding::warn("rate", text, "name a blob of 16 MiB or more");
    }
    let len = size.min(LEN_MAX);
    let (mut one, mut four) = (0.0_f64, 0.0_f64);
    for _ in 0..ROUNDS {
        for (connections, best) in [(1, &mut one), (CONNECTIONS, &mut four)] {
            match rate_of(remote, hash, len, connections).await {
                Ok(rate) => *best = best.max(rate),
                Err(error) => return unmeasured(&error),
            }
        }
    }
    let gain = four / one.max(f64::MIN_POSITIVE);
    let text = format!(
        "{} by one connection, {} by {CONNECTIONS} at once ({gain:.1} times)",
        mib_s(one),
        mib_s(four)
    );
    let advice = if gain >= GAIN_MIN {
        "large blobs come faster in ranges at once: what limits is the distance, or a bound for each connection"
    } else {
        "one connection fills the way: ranges at once bring nothing here"
    };
    Finding::ok("rate", format!("{text}; {advice}"))
}

fn unmeasured(error: &EdgeError) -> Finding {
    Finding::warn("rate", error.to_string(), "name a blob that the edge has, or push one")
}

/// Reads the first bytes in so many ranges at once, and returns how many came a second.
async fn rate_of(
    remote: &Remote,
    hash: &Hash,
    len: u64,
    connections: u64,
) -> Result<f64, EdgeError> {
    // As a get does where one connection is slow: over HTTP/2 all of them would be one.
    let remote = &if connections > 1 { remote.apart() } else { remote.clone() };
    // Connections are there before: their cost is told as the distance.
    join_all((0..connections).map(|_| ask(remote))).await;
    let part = len / connections;
    let start = Instant::now();
    let parts = (0..connections).map(|index| read(remote, hash, index * part, part, start));
    let got: u64 = try_join_all(parts).await?.into_iter().sum();
    let seconds = start.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "at most 16 MiB")]
    Ok(got as f64 / seconds.max(1e-6))
}

/// Reads a range until its end or until the time is over, and returns how much came.
async fn read(
    remote: &Remote,
    hash: &Hash,
    from: u64,
    len: u64,
    start: Instant,
) -> Result<u64, EdgeError> {
    let mut body = remote.read(hash, Some(from..from + len)).await?;
    let mut got = 0;
    while start.elapsed() < TIME_MAX
        && let Some(bytes) = body.chunk().await?
    {
        got += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    }
    Ok(got)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn mib_s(rate: f64) -> String {
    format!("{:.1} MiB/s", rate / f64::from(1 << 20))
}
