//! `swarm`: many who want one blob get it in about the time that its holder needs to send it once.
//!
//! One holder with a slow uplink and eight getters with fast wires on one LAN, who all get the same blob at
//! the same moment. Then holders whose uplinks are the limit: two must bring a blob twice as fast as one.
//!
//! What was received twice is told by the wires and not by the nodes: whatever came down the getters' wires
//! beyond the blob in full TCP packets counts as a duplicate, requests, gossip and acknowledgements too.

use std::time::{Duration, Instant};

use super::{
    Experiment, Trial, lan,
    specs::{LATE_SHARE, NODES_PROCESSOR_S, PROCESSOR_LOAD, RELAY_PROCESSOR_S},
};
use crate::netns::{
    error::Error,
    lab::Topology,
    machine::Processors,
    metric::{Bound, MetricSpec, share},
    process::Node,
    relay::{Counters, Layout, Link, Rate, TCP_SHARE},
};

/// The experiment.
pub static EXPERIMENT: Experiment = Experiment {
    name: "swarm",
    about: "eight nodes get one blob in about the time that its only holder needs to send it once",
    topology: Topology::Relay(layout),
    nodes: 9..=9,
    metrics: &[
        FINISH_OVER_LINK_TIME,
        UPLINK_COPIES,
        DUPLICATE_SHARE,
        FINISH_MEDIAN_S,
        FINISH_MAX_S,
        LINK_TIME_S,
        LAN_BYTES_SHARE,
        PROCESSOR_LOAD,
        NODES_PROCESSOR_S,
        RELAY_PROCESSOR_S,
        LATE_SHARE,
        TWO_HOLDER_GAIN,
        ONE_HOLDER_S,
        TWO_HOLDERS_S,
    ],
    run,
};

const DELAY: Duration = Duration::from_micros(200);
const GETTER_RATE: Rate = Rate::mbit(1_000);
const UPLINK_RATE: Rate = Rate::mbit(200);

/// The uplink of each holder where one is compared with two.
const CAPPED_RATE: Rate = Rate::mbit(100);

const FINISH_OVER_LINK_TIME: MetricSpec = MetricSpec {
    name: "finish_over_link_time",
    unit: "ratio",
    bound: Some(Bound::AtMost(1.3)),
    about: "`finish_max_s` over `link_time_s`",
};
const UPLINK_COPIES: MetricSpec = MetricSpec {
    name: "uplink_copies",
    unit: "ratio",
    bound: Some(Bound::AtMost(1.2)),
    about: "bytes that left the holder's host meanwhile, headers included, over those of the blob",
};
const DUPLICATE_SHARE: MetricSpec = MetricSpec {
    name: "duplicate_share",
    unit: "share",
    bound: Some(Bound::AtMost(0.01)),
    about: "bytes that came down the getters' wires beyond eight blobs in full TCP packets",
};
const FINISH_MEDIAN_S: MetricSpec = MetricSpec {
    name: "finish_median_s",
    unit: "s",
    bound: None,
    about: "the median of the getters' times, each from the common start to its command's end",
};
const FINISH_MAX_S: MetricSpec =
    MetricSpec { name: "finish_max_s", unit: "s", bound: None, about: "the last getter's time" };
const LINK_TIME_S: MetricSpec = MetricSpec {
    name: "link_time_s",
    unit: "s",
    bound: None,
    about: "the blob's bytes alone at the rate of the holder's uplink",
};
const LAN_BYTES_SHARE: MetricSpec = MetricSpec {
    name: "lan_bytes_share",
    unit: "share",
    bound: Some(Bound::AtLeast(0.99)),
    about: "bytes of eight blobs that the getters' receipts say came from peers",
};
const TWO_HOLDER_GAIN: MetricSpec = MetricSpec {
    name: "two_holder_gain",
    unit: "ratio",
    bound: Some(Bound::AtLeast(1.9)),
    about: "`one_holder_s` over `two_holders_s`",
};
const ONE_HOLDER_S: MetricSpec = MetricSpec {
    name: "one_holder_s",
    unit: "s",
    bound: None,
    about: "a get of half the length from one holder with 100 Mbit/s, the command's start to its end",
};
const TWO_HOLDERS_S: MetricSpec = MetricSpec {
    name: "two_holders_s",
    unit: "s",
    bound: None,
    about: "a get of another such blob from two such holders",
};

fn layout(nodes: u8) -> Layout {
    let mut layout = Layout::lan(nodes, Link::new(GETTER_RATE, DELAY));
    if let Some(holder) = layout.sites.first_mut().and_then(|site| site.hosts.first_mut()) {
        *holder = uplink(UPLINK_RATE);
    }
    layout
}

fn uplink(rate: Rate) -> Link {
    Link { up: Some(rate), ..Link::new(GETTER_RATE, DELAY) }
}

fn run(trial: &mut Trial<'_, '_>) -> Result<(), Error> {
    crowd(trial)?;
    two_holders(trial)
}

/// Has all getters get one blob at once.
fn crowd(trial: &mut Trial<'_, '_>) -> Result<(), Error> {
    trial.report.step("nodes find each other");
    let nodes = lan::start(trial, 1..=trial.nodes, "")?;
    let (holders, getters) = nodes.split_at(1);
    let Some(holder) = holders.first() else { return Err(Error::NoHost { number: 1 }) };
    let hash = trial.add(&holder.home, trial.blob_bytes, 1)?;
    lan::know(trial, getters, holders, 1)?;

    trial.report.step("all others get a blob of n1 at once");
    trial.touch_memory(trial.blob_bytes * u64::from(trial.nodes - 1))?;
    let network = trial.setting.lab.network()?;
    let (before, load, took) = (network.counters()?, Processors::now(), lan::processor_s(&nodes)?);
    let (gets, ()) = lan::get_at_once(getters, &hash, Instant::now(), || Ok(()))?;
    let (after, load) = (network.counters()?, Processors::now().load_since(load));
    let took = lan::processor_s(&nodes)? - took;
    let relay = after.pace.processor_time.saturating_sub(before.pace.processor_time);

    let mut times: Vec<Duration> = gets.iter().map(|got| got.took).collect();
    times.sort();
    let last = times.last().copied().unwrap_or_default().as_secs_f64();
    let median = times.get(times.len() / 2).copied().unwrap_or_default().as_secs_f64();
    let link_time = UPLINK_RATE.time_of(trial.blob_bytes).as_secs_f64();
    let wanted = trial.blob_bytes * u64::from(trial.nodes - 1);
    let peers = gets.iter().filter_map(|got| got.receipt.as_ref()).map(|receipt| receipt.tier.lan);
    let (sent, came) = passed(&before, &after);
    let late = after.pace.late_frames - before.pace.late_frames;
    for (metric, value) in [
        (&FINISH_OVER_LINK_TIME, last / link_time),
        (&UPLINK_COPIES, share(sent, trial.blob_bytes)),
        (&DUPLICATE_SHARE, (share(came, wanted) * TCP_SHARE - 1.0).max(0.0)),
        (&FINISH_MEDIAN_S, median),
        (&FINISH_MAX_S, last),
        (&LINK_TIME_S, link_time),
        (&LAN_BYTES_SHARE, share(peers.sum(), wanted)),
        (&PROCESSOR_LOAD, load),
        (&NODES_PROCESSOR_S, took),
        (&RELAY_PROCESSOR_S, relay.as_secs_f64()),
        (&LATE_SHARE, share(late, after.pace.frames - before.pace.frames)),
    ] {
        trial.report.record(metric, value)?;
    }
    nodes.into_iter().try_for_each(Node::stop)
}

/// Returns the bytes that went up the first host's wire and those that came down all others.
fn passed(before: &Counters, after: &Counters) -> (u64, u64) {
    let sent = |counters: &Counters| counters.hosts.first().map_or(0, |wire| wire.up.bytes);
    let came = |counters: &Counters| {
        counters.hosts.iter().skip(1).map(|wire| wire.down.bytes).sum::<u64>()
    };
    (sent(after).saturating_sub(sent(before)), came(after).saturating_sub(came(before)))
}

/// Gets a blob that one capped holder has, and then one that two have.
fn two_holders(trial: &mut Trial<'_, '_>) -> Result<(), Error> {
    trial.report.step("one node gets a blob of one holder, and another of two");
    for number in [1, 2] {
        let host = trial.setting.lab.host(number)?;
        let link = uplink(CAPPED_RATE);
        trial.setting.lab.network()?.set_link(host, link, trial.setting.stop)?;
    }
    let nodes = lan::start(trial, 1..=3, "-capped")?;
    let (holders, getters) = nodes.split_at(2);
    let mut times = Vec::new();
    for (seed, holders) in [(2, holders.get(..1)), (3, Some(holders))] {
        let holders = holders.unwrap_or_default();
        let mut hash = String::new();
        for holder in holders {
            hash = trial.add(&holder.home, trial.blob_bytes / 2, seed)?;
        }
        // The first holder has both blobs by then, the second only the last.
        let first = holders.get(..1).unwrap_or_default();
        lan::know(trial, getters, first, seed - 1)?;
        lan::know(trial, getters, holders, 1)?;
        let (gets, ()) = lan::get_at_once(getters, &hash, Instant::now(), || Ok(()))?;
        let took = gets.iter().filter(|got| got.receipt.is_some()).map(|got| got.took).max();
        times.push(took.map_or(f64::NAN, |took| took.as_secs_f64()));
    }
    if let [one, two] = times[..] {
        trial.report.record(&TWO_HOLDER_GAIN, one / two)?;
        trial.report.record(&ONE_HOLDER_S, one)?;
        trial.report.record(&TWO_HOLDERS_S, two)?;
    }
    nodes.into_iter().try_for_each(Node::stop)
}
