//! `edge-loss`: one connection to the edge is given up where several are faster.
//!
//! Between node and edge packets get lost, and the edge's kernel takes that for a sign of too much traffic (Reno;
//! CUBIC, the default of most servers, does as well). One connection is then far slower than the link. Fresh nodes, in turn with curl, get a blob
//! through both doors: HTTP/1.1, where ranges at once have a connection each from the beginning, and HTTP/2,
//! where the node has to find out that it should have several.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Experiment, Trial, lan,
    office::{self, Edge, Original, Rivals, median},
    specs::{FAILED, WRONG_BYTES},
};
use crate::netns::{
    edge::{self, Door},
    error::Error,
    lab::Topology,
    metric::{Bound, MetricSpec, share},
    process::Node,
    relay::{Layout, Link, Rate},
};

/// The experiment.
pub static EXPERIMENT: Experiment = Experiment {
    name: "edge-loss",
    about: "where packets get lost, a get over HTTP/2 gives up its one connection for several",
    topology: Topology::Relay(layout),
    nodes: 1..=31,
    metrics: &[CURL_S, HTTP1_S, HTTP2_S, HTTP2_OVER_HTTP1, HTTP2_OVER_CURL, FAILED, WRONG_BYTES],
    run,
};

const LINK: Link = Link::new(Rate::mbit(1_000), Duration::from_micros(100));

/// Round trips to the edge take 20 ms, and one frame in a hundred is lost each way.
const UPLINK: Link =
    Link { down: Some(Rate::mbit(200)), loss: 0.01, ..Link::slow(Duration::from_millis(10)) };

/// What the edge's kernel does about loss. Others need not be allowed in a namespace.
const CONTROL: &str = "reno";

/// How often each of them gets the blob.
const ROUNDS: u8 = 3;

/// The blob is this part of the usual one: 16 MiB.
const BLOB_PART: u64 = 16;

/// How long a get may take.
const GET_LIMIT: Duration = Duration::from_secs(170);

const CURL_S: MetricSpec =
    seconds("curl_s", "`curl -o` by HTTP/2, one connection, the median of three");
const HTTP1_S: MetricSpec =
    seconds("http1_s", "a get into a file by plain HTTP/1.1, the median of three");
const HTTP2_S: MetricSpec = seconds(
    "http2_s",
    "the same by TLS where HTTP/2 is offered, each from a node that knows nothing yet",
);
const HTTP2_OVER_HTTP1: MetricSpec = MetricSpec {
    name: "http2_over_http1",
    unit: "ratio",
    bound: None,
    about: "`http2_s` over `http1_s`",
};
const HTTP2_OVER_CURL: MetricSpec = MetricSpec {
    name: "http2_over_curl",
    unit: "ratio",
    bound: Some(Bound::AtMost(1.0)),
    about: "`http2_s` over `curl_s`",
};

const fn seconds(name: &'static str, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "s", bound: None, about }
}

fn layout(nodes: u8) -> Layout {
    office::layout(nodes, LINK, UPLINK)
}

fn run(trial: &mut Trial<'_, '_>) -> Result<(), Error> {
    edge::control_congestion(trial.setting, trial.setting.lab.host(trial.nodes + 1)?, CONTROL)?;
    let edge = Edge::start(trial)?;
    let original = edge.push(trial, trial.blob_bytes / BLOB_PART, 1)?;
    let rivals = Rivals::new(trial)?;
    let mut seen = Seen::default();
    for round in 1..=ROUNDS.min(trial.repeats_max) {
        trial.report.step(&format!("round {round}: curl, then a node by each door"));
        let took = rivals.get_by_curl(trial, Door::Tls, &original, GET_LIMIT)?;
        seen.curl_s.push(took.as_secs_f64());
        seen.http1_s.push(get(trial, (&rivals, Door::Plain), round, &original, &mut seen.ends)?);
        seen.http2_s.push(get(trial, (&rivals, Door::Tls), round, &original, &mut seen.ends)?);
    }
    let [curl_s, http1_s, http2_s] = [seen.curl_s, seen.http1_s, seen.http2_s].map(median);
    for (metric, value) in [
        (&CURL_S, curl_s),
        (&HTTP1_S, http1_s),
        (&HTTP2_S, http2_s),
        (&HTTP2_OVER_HTTP1, http2_s / http1_s),
        (&HTTP2_OVER_CURL, http2_s / curl_s),
        (&FAILED, share(seen.ends.failed, 1)),
        (&WRONG_BYTES, share(seen.ends.wrong_bytes, 1)),
    ] {
        trial.report.record(metric, value)?;
    }
    Ok(())
}

#[derive(Default)]
struct Seen {
    curl_s: Vec<f64>,
    http1_s: Vec<f64>,
    http2_s: Vec<f64>,
    ends: Ends,
}

/// Counts what no get may do.
#[derive(Default)]
struct Ends {
    failed: u64,
    wrong_bytes: u64,
}

/// Has a fresh node get the blob into a file; returns the seconds that its command took, NaN where it failed.
fn get(
    trial: &Trial<'_, '_>,
    (rivals, door): (&Rivals, Door),
    round: u8,
    original: &Original,
    ends: &mut Ends,
) -> Result<f64, Error> {
    let flags = rivals.flags(door);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let suffix = format!("-{door:?}-{round}").to_lowercase();
    let nodes = lan::start_with(trial, 1..=1, &suffix, &flags)?;
    let Some(node) = nodes.first() else { return Err(Error::NoHost { number: 1 }) };
    let output = node.home.file(".output");
    let took = time_of_get(node, original, &output)?;
    match took {
        Some(_) => ends.wrong_bytes += original.wrong_bytes_in(&output)?,
        None => ends.failed += 1,
    }
    nodes.into_iter().try_for_each(Node::discard)?;
    Ok(took.map_or(f64::NAN, |took| took.as_secs_f64()))
}

fn time_of_get(
    node: &Node<'_>,
    original: &Original,
    output: &Path,
) -> Result<Option<Duration>, Error> {
    let started = Instant::now();
    let got = node.home.try_get(&original.hash, Some(output), GET_LIMIT)?;
    Ok(got.map(|_| started.elapsed()))
}
