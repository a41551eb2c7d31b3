//! `two-nodes-shaped`: a get is about as fast as the wires let it be.
//!
//! Two nodes of one LAN whose wires carry 100 Mbit/s and take 10 ms. Blobs are added on one and got on
//! the other, one after another; the time of a get is compared with that of the blob's bytes on the wire.
//! Unlike a rate on unshaped links, this is no figure of the machine: the wires are the limit.

use std::time::{Duration, Instant};

use super::{ASK_PAUSE, Experiment, Trial, specs::LATE_SHARE};
use crate::netns::{
    error::Error,
    lab::Topology,
    metric::{Bound, MetricSpec, share},
    process::Node,
    relay::{Counters, Layout, Link, Rate},
};

/// The experiment.
pub static EXPERIMENT: Experiment = Experiment {
    name: "two-nodes-shaped",
    about: "a get over wires of 100 Mbit/s and 10 ms is about as fast as those let it be",
    topology: Topology::Relay(layout),
    nodes: 2..=2,
    metrics: &[
        GET_OVER_LINK_TIME,
        GET_S,
        LINK_TIME_S,
        LAN_BYTES_SHARE,
        WIRE_OVER_BLOB,
        TEXT_GET_OVER_LINK_TIME,
        TEXT_WIRE_SHARE,
        LATE_SHARE,
    ],
    run,
};

const RATE: Rate = Rate::mbit(100);
const DELAY: Duration = Duration::from_millis(10);

/// The length of a blob: a second and a third on the wire.
const BLOB_BYTES_MAX: u64 = 16 << 20;

/// The length of a text: five seconds and a third on the wire if it went raw.
const TEXT_BYTES_MAX: u64 = 64 << 20;

/// How many blobs are got, for a median.
const GETS: u64 = 5;

/// How long the nodes may take to find each other.
const DISCOVER_LIMIT: Duration = Duration::from_secs(30);

const GET_OVER_LINK_TIME: MetricSpec = MetricSpec {
    name: "get_over_link_time",
    unit: "ratio",
    bound: Some(Bound::AtMost(1.5)),
    about: "`get_s` over `link_time_s`",
};
const GET_S: MetricSpec = MetricSpec {
    name: "get_s",
    unit: "s",
    bound: None,
    about: "the median of five gets, each from the start of the command to its end",
};
const LINK_TIME_S: MetricSpec = MetricSpec {
    name: "link_time_s",
    unit: "s",
    bound: None,
    about: "the blob's bytes alone at the rate of the wire",
};
const LAN_BYTES_SHARE: MetricSpec = MetricSpec {
    name: "lan_bytes_share",
    unit: "share",
    bound: Some(Bound::Exactly(1.0)),
    about: "bytes of all gets that came from the peer",
};
const WIRE_OVER_BLOB: MetricSpec = MetricSpec {
    name: "wire_over_blob",
    unit: "ratio",
    bound: Some(Bound::AtMost(1.1)),
    about: "bytes that left the first host meanwhile over those of the blobs",
};
const TEXT_GET_OVER_LINK_TIME: MetricSpec = MetricSpec {
    name: "text_get_over_link_time",
    unit: "ratio",
    bound: Some(Bound::AtMost(0.35)),
    about: "a get of a text of 64 MiB over the time of its bytes alone at the rate of the wire",
};
const TEXT_WIRE_SHARE: MetricSpec = MetricSpec {
    name: "text_wire_share",
    unit: "share",
    bound: Some(Bound::AtMost(0.25)),
    about: "bytes that left the first host meanwhile over those of the text",
};

fn layout(nodes: u8) -> Layout {
    Layout::lan(nodes, Link::new(RATE, DELAY))
}

fn run(trial: &mut Trial<'_, '_>) -> Result<(), Error> {
    trial.report.step("two nodes find each other");
    let (n1, n2) = start(trial)?;
    let bytes = trial.blob_bytes.min(BLOB_BYTES_MAX);
    let before = trial.setting.lab.network()?.counters()?;
    trial.report.step("n2 gets five blobs of n1");
    let (mut times, mut lan) = (Vec::new(), 0);
    for seed in 1..=GETS {
        let hash = trial.add(&n1.home, bytes, seed)?;
        let started = Instant::now();
        let receipt = n2.home.get(&hash, None)?;
        times.push(started.elapsed());
        lan += receipt.map_or(0, |receipt| receipt.tier.lan);
    }
    let after = trial.setting.lab.network()?.counters()?;
    let text = get_text(trial, &n1, &n2)?;
    times.sort();
    let median = times.get(times.len() / 2).copied().unwrap_or_default().as_secs_f64();
    let link_time = RATE.time_of(bytes).as_secs_f64();
    trial.report.record(&GET_OVER_LINK_TIME, median / link_time)?;
    trial.report.record(&GET_S, median)?;
    trial.report.record(&LINK_TIME_S, link_time)?;
    trial.report.record(&LAN_BYTES_SHARE, share(lan, bytes * GETS))?;
    let on_wire = sent(&after).saturating_sub(sent(&before));
    trial.report.record(&WIRE_OVER_BLOB, share(on_wire, bytes * GETS))?;
    trial.report.record(&TEXT_GET_OVER_LINK_TIME, text.over_link_time)?;
    trial.report.record(&TEXT_WIRE_SHARE, text.wire_share)?;
    trial.report.record(&LATE_SHARE, share(after.pace.late_frames, after.pace.frames))?;
    n2.stop()?;
    n1.stop()
}

/// Returns the bytes that left the first host.
fn sent(counters: &Counters) -> u64 {
    counters.hosts.first().map_or(0, |wire| wire.up.bytes)
}

struct Text {
    over_link_time: f64,
    wire_share: f64,
}

/// Gets a text of n1 on n2.
fn get_text(trial: &mut Trial<'_, '_>, n1: &Node<'_>, n2: &Node<'_>) -> Result<Text, Error> {
    trial.report.step("n2 gets a text of n1, which compresses");
    let bytes = trial.blob_bytes.min(TEXT_BYTES_MAX);
    let hash = trial.add_text(&n1.home, bytes, GETS + 1)?;
    let before = trial.setting.lab.network()?.counters()?;
    let started = Instant::now();
    n2.home.get(&hash, None)?;
    let took = started.elapsed();
    let after = trial.setting.lab.network()?.counters()?;
    Ok(Text {
        over_link_time: took.as_secs_f64() / RATE.time_of(bytes).as_secs_f64(),
        wire_share: share(sent(&after).saturating_sub(sent(&before)), bytes),
    })
}

/// Starts both nodes and waits until each lists the other.
fn start<'a>(trial: &Trial<'a, '_>) -> Result<(Node<'a>, Node<'a>), Error> {
    let home = trial.home(1, "")?;
    let ticket = home.invite()?;
    let mut n1 = home.start(&[])?;
    n1.ready()?;
    let home = trial.home(2, "")?;
    home.join(&ticket)?;
    let mut n2 = home.start(&[])?;
    n2.ready()?;
    trial.setting.stop.until("discovery", DISCOVER_LIMIT, ASK_PAUSE, || {
        for (node, other) in [(&n1, &n2), (&n2, &n1)] {
            if !node.home.peers()?.iter().any(|row| row.peer == other.peer) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })?;
    Ok((n1, n2))
}
