//! Measures an edge, for `doctor`: how far away it is, what each HTTP brings, and which to choose.
//!
//! Few requests, since somebody pays for them: eighteen for each HTTP at most, and 32 MiB. The rates are taken in turns
//! and the better one of each counts, so that a cache of the edge that fills on the way, or a moment of other traffic,
//! does not decide. Whatever comes is thrown away unverified.

use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::Hash;
use futures::future::{join_all, try_join_all};
use reqwest::Version;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::answer::Failure;
use super::blob_path;
use super::diagnose::{Figures, Finding, nobodys_blob};
use super::error::{EdgeError, Reach};
use super::http::resolve;
use super::options::EdgeHttp;
use super::remote::Remote;

/// How often each way is gone to tell how long it is.
const TRIES: usize = 3;
/// How many ranges are read at once.
const RANGES: u64 = 4;
/// How often the rates are taken.
const ROUNDS: usize = 2;
/// How much one rate is taken of at most.
const LEN_MAX: u64 = 16 << 20;
/// Of less than this, the way to the edge takes longer than the bytes do.
const LEN_MIN: u64 = 1 << 20;
/// How long one rate is taken at most.
const TIME_MAX: Duration = Duration::from_secs(5);
/// From how many times the rate of another way on one is worth choosing.
const GAIN_MIN: f64 = 1.3;
/// Below which rate a get tries whether connections of their own bring more; as [`Spread`](super::spread::Spread) does.
const RATE_FAIR: f64 = 4.0 * 1024.0 * 1024.0;

/// Is one way to read from an edge.
#[derive(Clone, Copy, Debug)]
struct Way {
    check: &'static str,
    http: EdgeHttp,
    /// What is spoken if the edge can do that.
    version: Version,
    /// How many ranges are read at once, and over how many connections.
    ranges: u64,
    connections: u64,
}

const HTTP1: Way = Way {
    check: "http/1.1",
    http: EdgeHttp::Http1,
    version: Version::HTTP_11,
    ranges: RANGES,
    connections: RANGES,
};
const HTTP1_ALONE: Way = Way { ranges: 1, connections: 1, ..HTTP1 };
const HTTP2: Way = Way {
    check: "http/2",
    http: EdgeHttp::Http2,
    version: Version::HTTP_2,
    connections: 1,
    ..HTTP1
};
const HTTP3: Way =
    Way { check: "http/3", http: EdgeHttp::Http3, version: Version::HTTP_3, ..HTTP2 };

/// Is a way that can be gone, and what is known of it.
struct Gone {
    way: Way,
    /// Has connections.
    remote: Remote,
    /// How long the first byte took over a new connection, and over one that was there.
    cold: Duration,
    warm: Duration,
    /// Bytes a second; none before it is measured.
    rate: Option<f64>,
}

/// Measures the edge, with the blob that it is known to have.
pub(super) async fn measure(remote: &Remote, blob: Option<Hash>) -> Vec<Finding> {
    let ways = match remote.base().scheme() {
        "https" => &[HTTP1, HTTP2, HTTP3][..],
        // There is one HTTP, and the question is how many connections.
        _ => &[HTTP1_ALONE, HTTP1],
    };
    let (mut gone, mut not_gone) = (Vec::new(), Vec::new());
    let mut failure = None;
    for way in ways {
        match go(remote, *way).await {
            Ok(Some(way)) => gone.push(way),
            Ok(None) => not_gone.push(not_spoken(remote, way)),
            Err(error) => failure = Some(error),
        }
    }
    let distance = match (distance(remote, &gone).await, failure) {
        (Ok(Some(distance)), _) => distance,
        (Err(failure), _) | (Ok(None), Some(failure)) => {
            let hint = "see what the other checks of the edge say";
            return vec![Finding::warn("distance", failure.to_string(), hint)];
        }
        (Ok(None), None) => return not_gone,
    };
    let rate = match blob {
        Some(hash) => rates(&mut gone, &hash).await,
        None => {
            Err(Finding::ok("rate", "not measured: name a blob of the edge with --edge-blob HASH"))
        }
    };
    let rate = rate.map_or_else(|unmeasured| unmeasured, |()| choose(remote, &gone));
    // Of one HTTP there is nothing to compare but what the rate says.
    let shown = gone.iter().filter(|_| ways.len() > 2).map(shown);
    [distance].into_iter().chain(shown).chain(not_gone).chain([rate]).collect()
}

/// Finds out how long the way takes; `None` where the edge does not speak this HTTP.
async fn go(remote: &Remote, way: Way) -> Result<Option<Gone>, Failure> {
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    loop {
        // Also where HTTP/3 is not built in.
        let Ok(fresh) = remote.by(way.http) else { return Ok(None) };
        let (took, spoken) = ask(&fresh).await?;
        if spoken != way.version {
            return Ok(None);
        }
        cold.push(took);
        warm.push(ask(&fresh).await?.0);
        if cold.len() == TRIES {
            let [cold, warm] = [cold, warm].map(median);
            return Ok(Some(Gone { way, remote: fresh, cold, warm, rate: None }));
        }
    }
}

fn not_spoken(remote: &Remote, way: &Way) -> Finding {
    let is_wanted = remote.http().options().http == way.http;
    if way.http == EdgeHttp::Http3 && !EdgeHttp::HTTP3_IS_BUILT {
        return Finding::ok(way.check, "not measured: it is not built in");
    }
    let text = match way.http {
        EdgeHttp::Http3 => "it does not get through: the edge does not speak it, or UDP is blocked",
        EdgeHttp::Auto | EdgeHttp::Http1 | EdgeHttp::Http2 => "the edge does not speak it",
    };
    match is_wanted {
        true => Finding::warn(way.check, text, "leave edge.http at \"auto\""),
        false => Finding::ok(way.check, text),
    }
}

/// Tells how long connection, TLS and the first byte take, by what a get takes if it is free to choose.
async fn distance(remote: &Remote, gone: &[Gone]) -> Result<Option<Finding>, Failure> {
    let over_tcp = gone.iter().rfind(|gone| gone.way.http != EdgeHttp::Http3);
    let Some(Gone { cold, warm, way, .. }) = over_tcp else { return Ok(None) };
    let mut tcp = Vec::new();
    for _ in 0..TRIES {
        tcp.push(connect(remote).await?);
    }
    let tcp = median(tcp);
    let tls = match remote.base().scheme() {
        "https" => format!(", TLS {}", millis(cold.saturating_sub(*warm + tcp))),
        _ => String::new(),
    };
    let (tcp, first, version) = (millis(tcp), millis(*warm), way.version);
    let text =
        format!("connection {tcp}{tls}, first byte {first} by {version:?} (medians of {TRIES})");
    Ok(Some(Finding::ok("distance", text)))
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

/// Takes the rates of all ways, in turn; tells why not, where that is not possible.
async fn rates(gone: &mut [Gone], hash: &Hash) -> Result<(), Finding> {
    let Some(first) = gone.first() else { return Ok(()) };
    let size = first.remote.size(hash).await.map_err(|error| unmeasured(&error))?;
    if size < LEN_MIN {
        let text = format!("not measured: blob {} has only {size} bytes", hash.fmt_short());
        return Err(Finding::warn("rate", text, "name a blob of 16 MiB or more"));
    }
    for gone in &*gone {
        // Connections are there before: their cost is told as the distance.
        join_all((1..gone.way.connections).map(|_| ask(&gone.remote))).await;
    }
    let len = size.min(LEN_MAX);
    for _ in 0..ROUNDS {
        for gone in &mut *gone {
            let rate = rate_of(gone, hash, len).await.map_err(|error| unmeasured(&error))?;
            gone.rate = Some(gone.rate.map_or(rate, |best| best.max(rate)));
        }
    }
    Ok(())
}

fn unmeasured(error: &EdgeError) -> Finding {
    Finding::warn("rate", error.to_string(), "name a blob that the edge has, or push one")
}

/// Reads the first bytes in the ranges of a way at once, and returns how many came a second.
async fn rate_of(gone: &Gone, hash: &Hash, len: u64) -> Result<f64, EdgeError> {
    let part = len / gone.way.ranges;
    let start = Instant::now();
    let parts =
        (0..gone.way.ranges).map(|index| read(&gone.remote, hash, index * part, part, start));
    let got: u64 = try_join_all(parts).await?.into_iter().sum();
    let seconds = start.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "at most 16 MiB")]
    Ok(got as f64 / seconds.max(1e-6))
}

/// Tells what one way brings.
fn shown(gone: &Gone) -> Finding {
    let Way { check, ranges, connections, .. } = gone.way;
    let mut text = format!("first byte {} cold, {} warm", millis(gone.cold), millis(gone.warm));
    if let Some(rate) = gone.rate {
        let how = match (ranges, connections) {
            (1, _) => "one range".to_owned(),
            (_, 1) => format!("{ranges} ranges at once on one connection"),
            _ => format!("{ranges} ranges at once on {connections} connections"),
        };
        text = format!("{text}; {} by {how}", mib_s(rate));
    }
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is positive, and bytes a second of any machine fit"
    )]
    let bytes_per_s = gone.rate.map(|rate| rate as u64);
    let (cold_us, warm_us) = (micros(gone.cold), micros(gone.warm));
    let figures = Figures { cold_us, warm_us, ranges, connections, bytes_per_s };
    Finding { figures: Some(figures), ..Finding::ok(check, text) }
}

/// Says which HTTP to choose. All of `gone` have a rate.
fn choose(remote: &Remote, gone: &[Gone]) -> Finding {
    let rate = |http| {
        let of = |gone: &&Gone| gone.way.http == http && gone.way.ranges > 1;
        gone.iter().find(of).and_then(|gone| gone.rate)
    };
    let (one, two, three) = (rate(EdgeHttp::Http1), rate(EdgeHttp::Http2), rate(EdgeHttp::Http3));
    if remote.base().scheme() != "https" {
        let alone = gone.first().and_then(|gone| gone.rate).unwrap_or_default();
        return Finding::ok("rate", several(alone, one.unwrap_or_default()));
    }
    let best = best(one, two, three);
    let wanted = remote.http().options().http;
    let text = match best {
        EdgeHttp::Auto | EdgeHttp::Http2 => {
            "edge.http = \"auto\" is right for this edge: nothing else is 1.3 times as fast"
        }
        EdgeHttp::Http1 => {
            "edge.http = \"1\" is right for this edge: connections of their own bring more than one"
        }
        EdgeHttp::Http3 => {
            "edge.http = \"3\" is right for this edge: HTTP/3 brings more than what goes over TCP"
        }
    };
    // To insist on HTTP/2 is to do what is done in any case, but for where packets get lost.
    if wanted == best || (wanted, best) == (EdgeHttp::Http2, EdgeHttp::Auto) {
        return Finding::ok("rate", text);
    }
    Finding::warn("rate", text, format!("it is {} now", name(wanted)))
}

/// Returns the HTTP that brings most, and what is done without being told where that is no gain.
fn best(one: Option<f64>, two: Option<f64>, three: Option<f64>) -> EdgeHttp {
    let [one, three] = [one, three].map(Option::unwrap_or_default);
    let auto = match two {
        // As gets find out by themselves.
        Some(two) if two < RATE_FAIR && one >= two * GAIN_MIN => one,
        Some(two) => two,
        None => one,
    };
    if three >= one.max(auto) * GAIN_MIN {
        EdgeHttp::Http3
    } else if one >= auto * GAIN_MIN {
        EdgeHttp::Http1
    } else {
        EdgeHttp::Auto
    }
}

/// Compares what one connection brings to what several do.
fn several(one: f64, several: f64) -> String {
    let gain = several / one.max(f64::MIN_POSITIVE);
    let advice = if gain >= GAIN_MIN {
        "large blobs come faster in ranges at once: what limits is the distance, or a bound for each connection"
    } else {
        "one connection fills the way: ranges at once bring nothing here"
    };
    format!(
        "{} by one connection, {} by {RANGES} at once ({gain:.1} times); {advice}",
        mib_s(one),
        mib_s(several)
    )
}

fn name(http: EdgeHttp) -> &'static str {
    match http {
        EdgeHttp::Auto => "\"auto\"",
        EdgeHttp::Http1 => "\"1\"",
        EdgeHttp::Http2 => "\"2\"",
        EdgeHttp::Http3 => "\"3\"",
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = 1024.0 * 1024.0;

    #[test]
    fn other_http_is_chosen_only_where_it_brings_clearly_more() {
        let best = |one: f64, two: f64, three: f64| {
            let rate = |rate: f64| (rate > 0.0).then_some(rate * MIB);
            best(rate(one), rate(two), rate(three))
        };
        for (rates, expected) in [
            ((10.0, 10.0, 0.0), EdgeHttp::Auto),
            ((10.0, 10.0, 12.9), EdgeHttp::Auto),
            ((10.0, 10.0, 13.1), EdgeHttp::Http3),
            ((12.9, 10.0, 12.9), EdgeHttp::Auto),
            ((13.1, 10.0, 15.0), EdgeHttp::Http1),
            // A get finds that out by itself.
            ((3.5, 1.0, 3.5), EdgeHttp::Auto),
            ((3.5, 1.0, 4.6), EdgeHttp::Http3),
            ((10.0, 0.0, 0.0), EdgeHttp::Auto),
            ((0.0, 10.0, 0.0), EdgeHttp::Auto),
        ] {
            let (one, two, three) = rates;
            assert_eq!(best(one, two, three), expected, "{rates:?}");
        }
    }
}
