//! `impairment`: the shaped network does what its layout says.
//!
//! No node runs: the figures are of the relay itself, by sockets of ours on four hosts. Two of them share
//! a LAN, a third is in another one, and the fourth stands in the internet, as an edge would. Other
//! experiments rest on what is bounded here.

use std::time::Duration;

use super::{Experiment, Trial, specs::LATE_SHARE};
use crate::netns::{
    command,
    error::Error,
    lab::{Host, Topology},
    metric::{Bound, MetricSpec, share},
    probe::{self, Datagrams, Stream},
    relay::{Layout, Link, Network, Rate, Side, Site, TCP_SHARE},
    stop::Stop,
    tools,
};

/// The experiment.
pub static EXPERIMENT: Experiment = Experiment {
    name: "impairment",
    about: "delay, jitter, loss, rates and partitions of the namespace runs are what they are told to be",
    topology: Topology::Relay(layout),
    nodes: 4..=4,
    metrics: &[
        RTT_10_EXCESS_MS,
        RTT_10_MEDIAN_EXCESS_MS,
        RTT_50_EXCESS_MS,
        RTT_50_MEDIAN_EXCESS_MS,
        EARLY_TRIPS,
        RATE_100_ERROR,
        RATE_200_ERROR,
        RATE_500_ERROR,
        SLOW_RECEIVER_ERROR,
        SHARED_UPLINK_ERROR,
        UNCOUNTED_BYTES,
        LOSS_DEVIATIONS,
        REORDERED,
        JITTER_SPREAD_MS,
        PASSED_WHEN_CUT,
        PASSED_WHEN_HEALED,
        MULTICAST_IN_SITE,
        MULTICAST_BETWEEN_SITES,
        LATE_SHARE,
        LATEST_MS,
        UNLIMITED_MBIT,
        UNLIMITED_PROCESSOR_S,
        SINGLE_PACKETS_MBIT,
        KERNEL_500_ERROR,
    ],
    run,
};

/// How long a command of the kernel's own limits may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// How many round trips are measured.
const TRIPS: u32 = 100;

/// How long a TCP connection may find its rate, and how long it is measured then.
const WARM_UP: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(3);

/// How far a rate may be off. On a quiet machine it is a tenth of that; one whose processors others use
/// keeps even the kernel's own limit no better.
const RATE_ERROR_MAX: f64 = 0.15;

/// What is lost, and of how many: 400, with a standard deviation of 20.
const LOSS: f64 = 0.02;
const LOSS_FRAMES: u32 = 20_000;

/// How long datagrams are waited for: where none is to come it is in vain, and long enough for a few.
const COME_LIMIT: Duration = Duration::from_secs(2);
const COME_IN_VAIN_LIMIT: Duration = Duration::from_millis(200);

const JITTER: Duration = Duration::from_millis(5);

const MS: Duration = Duration::from_millis(1);

const RTT_10_EXCESS_MS: MetricSpec = MetricSpec {
    name: "rtt_10_excess_ms",
    unit: "ms",
    bound: Some(Bound::AtMost(1.0)),
    about: "the shortest of 100 round trips on a LAN whose wires make 10 ms, beyond those",
};
const RTT_10_MEDIAN_EXCESS_MS: MetricSpec = MetricSpec {
    name: "rtt_10_median_excess_ms",
    unit: "ms",
    bound: None,
    about: "their median, which on a busy machine also tells how late the prober was woken",
};
const RTT_50_EXCESS_MS: MetricSpec = MetricSpec {
    name: "rtt_50_excess_ms",
    unit: "ms",
    bound: Some(Bound::AtMost(1.0)),
    about: "the shortest of 100 round trips through an uplink and wires that make 50 ms, beyond those",
};
const RTT_50_MEDIAN_EXCESS_MS: MetricSpec =
    MetricSpec { name: "rtt_50_median_excess_ms", unit: "ms", bound: None, about: "their median" };
const EARLY_TRIPS: MetricSpec = MetricSpec {
    name: "early_trips",
    unit: "count",
    bound: Some(Bound::Exactly(0.0)),
    about: "round trips of both that were shorter than the wires make them",
};
const RATE_100_ERROR: MetricSpec = MetricSpec {
    name: "rate_100_error",
    unit: "share",
    bound: Some(Bound::AtMost(RATE_ERROR_MAX)),
    about: "what one TCP stream got of a wire of 100 Mbit/s, against what such a wire gives",
};
const RATE_200_ERROR: MetricSpec = MetricSpec {
    name: "rate_200_error",
    unit: "share",
    bound: Some(Bound::AtMost(RATE_ERROR_MAX)),
    about: "the same at 200 Mbit/s",
};
const RATE_500_ERROR: MetricSpec = MetricSpec {
    name: "rate_500_error",
    unit: "share",
    bound: Some(Bound::AtMost(RATE_ERROR_MAX)),
    about: "the same at 500 Mbit/s",
};
const SLOW_RECEIVER_ERROR: MetricSpec = MetricSpec {
    name: "slow_receiver_error",
    unit: "share",
    bound: Some(Bound::AtMost(RATE_ERROR_MAX)),
    about: "the same at 100 Mbit/s, which is the receiver's wire: its buffer drops what is too fast",
};
const SHARED_UPLINK_ERROR: MetricSpec = MetricSpec {
    name: "shared_uplink_error",
    unit: "share",
    bound: Some(Bound::AtMost(RATE_ERROR_MAX)),
    about: "what two hosts together got of an uplink of 100 Mbit/s with 20 ms, each by TCP",
};
const UNCOUNTED_BYTES: MetricSpec = MetricSpec {
    name: "uncounted_bytes",
    unit: "count",
    bound: Some(Bound::Exactly(0.0)),
    about: "bytes the edge got that the uplink's counters do not show, or the reverse",
};
const LOSS_DEVIATIONS: MetricSpec = MetricSpec {
    name: "loss_deviations",
    unit: "sigma",
    bound: Some(Bound::AtMost(4.0)),
    about: "lost ones of 20,000 datagrams at a loss of 2 %, from 400, in standard deviations",
};
const REORDERED: MetricSpec = MetricSpec {
    name: "reordered",
    unit: "count",
    bound: Some(Bound::Exactly(0.0)),
    about: "datagrams that came after a later one, of 2,000 with a jitter of 5 ms",
};
const JITTER_SPREAD_MS: MetricSpec = MetricSpec {
    name: "jitter_spread_ms",
    unit: "ms",
    bound: Some(Bound::AtLeast(4.0)),
    about: "the 99th less the 1st percentile of how long those took",
};
const PASSED_WHEN_CUT: MetricSpec = MetricSpec {
    name: "passed_when_cut",
    unit: "count",
    bound: Some(Bound::Exactly(0.0)),
    about: "datagrams that passed in either direction between cut hosts, and from a site to a cut internet",
};
const PASSED_WHEN_HEALED: MetricSpec = MetricSpec {
    name: "passed_when_healed",
    unit: "count",
    bound: Some(Bound::Exactly(300.0)),
    about: "datagrams of the same 300 that passed after the cuts were healed",
};
const MULTICAST_IN_SITE: MetricSpec = MetricSpec {
    name: "multicast_in_site",
    unit: "count",
    bound: Some(Bound::Exactly(20.0)),
    about: "of 20 datagrams to the group of mDNS, those that reached the neighbour on the LAN",
};
const MULTICAST_BETWEEN_SITES: MetricSpec = MetricSpec {
    name: "multicast_between_sites",
    unit: "count",
    bound: Some(Bound::Exactly(0.0)),
    about: "of 20 such datagrams, those that reached another site",
};
const LATEST_MS: MetricSpec = MetricSpec {
    name: "latest_ms",
    unit: "ms",
    bound: None,
    about: "how late the latest of them was",
};
const UNLIMITED_MBIT: MetricSpec = MetricSpec {
    name: "unlimited_mbit",
    unit: "Mbit/s",
    bound: None,
    about: "one TCP stream through wires that do nothing: what the relay carries at most",
};
const UNLIMITED_PROCESSOR_S: MetricSpec = MetricSpec {
    name: "unlimited_processor_s",
    unit: "s/GiB",
    bound: None,
    about: "processor time of the relay for it",
};
const SINGLE_PACKETS_MBIT: MetricSpec = MetricSpec {
    name: "single_packets_mbit",
    unit: "Mbit/s",
    bound: None,
    about: "the same where a wire may lose frames, so that each packet is one",
};

const KERNEL_500_ERROR: MetricSpec = MetricSpec {
    name: "kernel_500_error",
    unit: "share",
    bound: None,
    about: "as `rate_500_error`, where the kernel's tbf limits the sender and the relay does not",
};

/// Two hosts on a LAN, one on another, and one in the internet.
fn layout(_nodes: u8) -> Layout {
    let site = |hosts| Site { hosts: vec![Link::default(); hosts], ..Site::default() };
    Layout { sites: vec![site(2), site(1)], internet: vec![Link::default()], seed: 1 }
}

fn run(trial: &mut Trial<'_, '_>) -> Result<(), Error> {
    let lab = trial.setting.lab;
    let hosts = Hosts { n1: lab.host(1)?, n2: lab.host(2)?, n3: lab.host(3)?, edge: lab.host(4)? };
    let wires = Wires { network: lab.network()?, stop: trial.setting.stop, hosts };
    delays(trial, &wires)?;
    rates(trial, &wires)?;
    uplink(trial, &wires)?;
    losses(trial, &wires)?;
    order(trial, &wires)?;
    partitions(trial, &wires)?;
    multicast(trial, &wires)?;
    lateness(trial, &wires)?;
    limits(trial, &wires)
}

#[derive(Clone, Copy)]
struct Hosts<'a> {
    n1: &'a Host,
    n2: &'a Host,
    n3: &'a Host,
    edge: &'a Host,
}

/// Is the network and what every step needs of it.
struct Wires<'a> {
    network: &'a Network,
    stop: &'a Stop,
    hosts: Hosts<'a>,
}

impl Wires<'_> {
    fn set(&self, host: &Host, link: Link) -> Result<(), Error> {
        self.network.set_link(host, link, self.stop)
    }

    /// Gives all wires back what they were.
    fn reset(&self) -> Result<(), Error> {
        let Hosts { n1, n2, n3, edge } = self.hosts;
        for host in [n1, n2, n3, edge] {
            self.set(host, Link::default())?;
        }
        self.network.set_uplink(1, Link::default(), self.stop)
    }

    /// Measures what TCP gets between pairs of hosts together, as a share of what `rate` gives.
    fn error_of(&self, rate: Rate, pairs: &[(&Host, &Host)]) -> Result<f64, Error> {
        let bits = self.bits_per_second(pairs)?;
        Ok((bits / (share(rate.bits_per_second(), 1) * TCP_SHARE) - 1.0).abs())
    }

    fn bits_per_second(&self, pairs: &[(&Host, &Host)]) -> Result<f64, Error> {
        let streams = pairs.iter().map(|(from, to)| Stream::between(from, to));
        let mut streams = streams.collect::<Result<Vec<Stream>, Error>>()?;
        let (bytes, time) = probe::bytes_through(&mut streams, WARM_UP, MEASURED, self.stop)?;
        Ok(share(bytes, 1) * 8.0 / time.as_secs_f64())
    }

    /// Returns how many of 300 datagrams on three ways pass.
    fn passed(&self, wait: Duration) -> Result<usize, Error> {
        let Hosts { n1, n2, edge, .. } = self.hosts;
        let mut passed = 0;
        for (from, to) in [(n1, n2), (n2, n1), (n2, edge)] {
            let mut datagrams = Datagrams::between(from, to)?;
            passed += datagrams.burst(100, MS, wait, self.stop)?.len();
        }
        Ok(passed)
    }
}

fn delays(trial: &mut Trial<'_, '_>, wires: &Wires<'_>) -> Result<(), Error> {
    trial.report.step("round trips over wires with delay");
    let Hosts { n1, n2, edge, .. } = wires.hosts;
    let quarter = 10 * MS / 4;
    for host in [n1, n2, edge] {
        wires.set(host, Link::slow(quarter))?;
    }
    wires.network.set_uplink(1, Link::slow(20 * MS), wires.stop)?;
    let mut early = 0;
    let on_lan = (n2, 10 * MS, &RTT_10_EXCESS_MS, &RTT_10_MEDIAN_EXCESS_MS);
    let beyond = (edge, 50 * MS, &RTT_50_EXCESS_MS, &RTT_50_MEDIAN_EXCESS_MS);
    for (to, made, shortest, median) in [on_lan, beyond] {
        let mut trips = probe::round_trips(n1, to, TRIPS, wires.stop)?;
        trips.sort();
        early += trips.partition_point(|trip| *trip < made);
        // Where none came back, the metrics stay without a value.
        for (metric, trip) in [(shortest, trips.first()), (median, trips.get(trips.len() / 2))] {
            let Some(trip) = trip else { continue };
            let excess = trip.as_secs_f64() - made.as_secs_f64();
            trial.report.record(metric, excess * 1_000.0)?;
        }
    }
    trial.report.record(&EARLY_TRIPS, count(early))?;
    wires.reset()
}

fn rates(trial: &mut Trial<'_, '_>, wires: &Wires<'_>) -> Result<(), Error> {
    let Hosts { n1, n2, .. } = wires.hosts;
    for (metric, mbit) in [(&RATE_100_ERROR, 100), (&RATE_200_ERROR, 200), (&RATE_500_ERROR, 500)] {
        trial.report.step(&format!("TCP over a wire of {mbit} Mbit/s"));
        let link = Link::new(Rate::mbit(mbit), MS);
        wires.set(n1, link)?;
        wires.set(n2, link)?;
        trial.report.record(metric, wires.error_of(Rate::mbit(mbit), &[(n1, n2)])?)?;
    }
    trial.report.step("TCP to a receiver with a slower wire");
    let slow = Link::new(Rate::mbit(100), 5 * MS);
    wires.set(n1, Link::default())?;
    wires.set(n2, slow)?;
    trial.report.record(&SLOW_RECEIVER_ERROR, wires.error_of(Rate::mbit(100), &[(n1, n2)])?)?;
    wires.reset()
}

/// Two hosts fill their site's uplink; what it counted is what the edge got.
fn uplink(trial: &mut Trial<'_, '_>, wires: &Wires<'_>) -> Result<(), Error> {
    trial.report.step("TCP of two hosts through one uplink");
    let Hosts { n1, n2, edge, .. } = wires.hosts;
    let rate = Rate::mbit(100);
    wires.network.set_uplink(1, Link::new(rate, 20 * MS), wires.stop)?;
    let error = wires.error_of(rate, &[(n1, edge), (n2, edge)])?;
    trial.report.record(&SHARED_UPLINK_ERROR, error)?;
    // Frames may still be under way; the connections are closed, so they become fewer until none is.
    let counted = || -> Result<u64, Error> {
        let counters = wires.network.counters()?;
        let (uplink, edge) = (counters.uplinks.first(), counters.hosts.get(3));
        let (Some(uplink), Some(edge)) = (uplink, edge) else { return Ok(u64::MAX) };
        Ok(uplink.up.bytes.abs_diff(edge.down.bytes))
    };
    wires.stop.within(Duration::from_secs(5), 20 * MS, || Ok((counted()? == 0).then_some(())))?;
    trial.report.record(&UNCOUNTED_BYTES, share(counted()?, 1))?;
    wires.reset()
}

fn losses(trial: &mut Trial<'_, '_>, wires: &Wires<'_>) -> Result<(), Error> {
    trial.report.step("datagrams over a wire that loses some");
    let Hosts { n1, n2, .. } = wires.hosts;
    wires.set(n1, Link { loss: LOSS, ..Link::default() })?;
    let mut datagrams = Datagrams::between(n1, n2)?;
    let gap = Duration::from_micros(50);
    let came = datagrams.burst(LOSS_FRAMES, gap, COME_IN_VAIN_LIMIT, wires.stop)?.len();
    let all = f64::from(LOSS_FRAMES);
    let deviation = (all * LOSS * (1.0 - LOSS)).sqrt();
    let off = (all - count(came) - all * LOSS).abs() / deviation;
    trial.report.record(&LOSS_DEVIATIONS, off)?;
    wires.reset()
}

fn order(trial: &mut Trial<'_, '_>, wires: &Wires<'_>) -> Result<(), Error> {
    trial.report.step("datagrams over a wire with jitter");
    let Hosts { n1, n2, .. } = wires.hosts;
    wires.set(n1, Link { jitter: JITTER, ..Link::slow(MS) })?;
    let mut datagrams = Datagrams::between(n1, n2)?;
    let came = datagrams.burst(2_000, MS, COME_LIMIT, wires.stop)?;
    let pairs = came.iter().zip(came.iter().skip(1));
    let reordered = pairs.filter(|((_, a), (_, b))| b.number < a.number).count();
    trial.report.record(&REORDERED, count(reordered))?;
    let mut times: Vec<Duration> = came.iter().map(|(sent, got)| got.at - *sent).collect();
    times.sort();
    let (low, high) = (times.get(times.len() / 100), times.get(times.len() * 99 / 100));
    if let (Some(low), Some(high)) = (low, high) {
        trial.report.record(&JITTER_SPREAD_MS, (*high - *low).as_secs_f64() * 1_000.0)?;
    }
    wires.reset()
}

fn partitions(trial: &mut Trial<'_, '_>, wires: &Wires<'_>) -> Result<(), Error> {
    trial.report.step("datagrams between hosts and sites that are cut apart, and healed");
    let Hosts { n1, n2, .. } = wires.hosts;
    let cuts = [(Side::Host(n1), Side::Host(n2)), (Side::Site(1), Side::Internet)];
    for (a, b) in cuts {
        wires.network.partition(a, b)?;
    }
    trial.report.record(&PASSED_WHEN_CUT, count(wires.passed(COME_IN_VAIN_LIMIT)?))?;
    for (a, b) in cuts {
        wires.network.heal(a, b)?;
    }
    trial.report.record(&PASSED_WHEN_HEALED, count(wires.passed(COME_LIMIT)?))
}

fn multicast(trial: &mut Trial<'_, '_>, wires: &Wires<'_>) -> Result<(), Error> {
    trial.report.step("multicast within a site and between sites");
    let Hosts { n1, n2, n3, .. } = wires.hosts;
    let in_site = (&MULTICAST_IN_SITE, n2, COME_LIMIT);
    let between = (&MULTICAST_BETWEEN_SITES, n3, COME_IN_VAIN_LIMIT);
    for (metric, to, wait) in [in_site, between] {
        let came = Datagrams::multicast(n1, to)?.burst(20, MS, wait, wires.stop)?;
        trial.report.record(metric, count(came.len()))?;
    }
    Ok(())
}

fn lateness(trial: &mut Trial<'_, '_>, wires: &Wires<'_>) -> Result<(), Error> {
    let pace = wires.network.counters()?.pace;
    trial.report.record(&LATE_SHARE, share(pace.late_frames, pace.frames))?;
    trial.report.record(&LATEST_MS, pace.latest.as_secs_f64() * 1_000.0)
}

/// Finds out where the relay itself is the limit.
fn limits(trial: &mut Trial<'_, '_>, wires: &Wires<'_>) -> Result<(), Error> {
    trial.report.step("TCP over wires that do nothing");
    let Hosts { n1, n2, .. } = wires.hosts;
    let before = wires.network.counters()?;
    let bits = wires.bits_per_second(&[(n1, n2)])?;
    let after = wires.network.counters()?;
    trial.report.record(&UNLIMITED_MBIT, bits / 1e6)?;
    let sent = |counters: &crate::netns::relay::Counters| {
        counters.hosts.first().map_or(0, |wire| wire.up.bytes)
    };
    let time = after.pace.processor_time.saturating_sub(before.pace.processor_time);
    let gibibytes = share(sent(&after).saturating_sub(sent(&before)), 1 << 30);
    trial.report.record(&UNLIMITED_PROCESSOR_S, time.as_secs_f64() / gibibytes)?;

    trial.report.step("TCP in single packets");
    wires.set(wires.hosts.n3, Link { loss: f64::EPSILON, ..Link::default() })?;
    let bits = wires.bits_per_second(&[(n1, n2)])?;
    trial.report.record(&SINGLE_PACKETS_MBIT, bits / 1e6)?;
    wires.reset()?;
    kernel(trial, wires)
}

/// Measures what the relay's rates are to be compared with.
fn kernel(trial: &mut Trial<'_, '_>, wires: &Wires<'_>) -> Result<(), Error> {
    trial.report.step("TCP over a wire whose rate the kernel limits");
    let Hosts { n1, n2, .. } = wires.hosts;
    for host in [n1, n2] {
        wires.set(host, Link::slow(MS))?;
    }
    // A kernel without it, or a machine without `tc`, leaves the figure out.
    let Ok(tc) = tools::tc() else { return Ok(()) };
    let mut command = trial.setting.lab.command(n1, &tc);
    let words = "qdisc add dev eth0 root tbf rate 500mbit burst 64kb latency 50ms";
    command.args(words.split(' '));
    if command::run(command, b"", COMMAND_LIMIT, wires.stop)?.success().is_err() {
        return Ok(());
    }
    trial.report.record(&KERNEL_500_ERROR, wires.error_of(Rate::mbit(500), &[(n1, n2)])?)
}

fn count(things: usize) -> f64 {
    share(things as u64, 1)
}
