//! `adversaries`: bad peers cost a get hardly more than going straight to the edge.
//!
//! A getter has an edge far away and some peers that are no help: dead, slow, lying, coming and going, or
//! silent. In turn `curl` and a node get the same blob of the edge, from the same host. Each get has fresh
//! nodes, so that none bears a grudge or has learned; its file is written too, as curl's is.
//!
//! Both come through the same door of the edge: TLS and HTTP/2, as from R2 and most others. That a lone get
//! is fast through the other one, too, plain HTTP/1.1, is measured beside it.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{
    Experiment, Trial, lan,
    office::{self, Edge, Original, Rivals, median, milliseconds},
    specs::{FAILED, LATE_SHARE, WRONG_BYTES},
};
use crate::netns::{
    edge::Door,
    error::Error,
    lab::{Host, Topology},
    metric::{Bound, MetricSpec, share},
    process::Node,
    relay::{Layout, Link, Rate, Side},
};

/// The experiment.
pub static EXPERIMENT: Experiment = Experiment {
    name: "adversaries",
    about: "peers that are dead, slow, lying, flapping or silent cost a get at most 5 % or 50 ms against curl",
    topology: Topology::Relay(layout),
    nodes: 4..=31,
    metrics: &[
        EXTRA_MS_NONE,
        EXTRA_MS_DEAD,
        EXTRA_MS_SLOW,
        EXTRA_MS_LYING,
        EXTRA_MS_FLAPPING,
        EXTRA_MS_SILENT,
        EXTRA_MS_NONE_HTTP1,
        CURL_S,
        EXTRA_LIMIT_MS,
        EXTRA_OVER_LIMIT_NONE,
        EXTRA_OVER_LIMIT_DEAD,
        EXTRA_OVER_LIMIT_SLOW,
        EXTRA_OVER_LIMIT_LYING,
        EXTRA_OVER_LIMIT_FLAPPING,
        EXTRA_OVER_LIMIT_SILENT,
        EXTRA_OVER_LIMIT_NONE_HTTP1,
        CURL_HTTP1_S,
        ASKED_SHARE,
        FAILED,
        WRONG_BYTES,
        LATE_SHARE,
    ],
    run,
};

const LAN_RATE: Rate = Rate::mbit(1_000);
const LAN_DELAY: Duration = Duration::from_micros(100);
const LINK: Link = Link::new(LAN_RATE, LAN_DELAY);

/// Round trips to the edge take 50 ms, those of the LAN aside.
const UPLINK: Link = Link { down: Some(Rate::mbit(200)), ..Link::slow(Duration::from_millis(25)) };

/// The uplink of a slow peer: 64 KiB in a second.
const SLOW_RATE: Rate = Rate::kbit(524);

/// The uplink of a peer that comes and goes: slow enough that the blob is not got before it goes first.
const FLAPPING_RATE: Rate = Rate::mbit(50);

/// How long a flapping peer is there, and how long it is gone.
const FLAP: Duration = Duration::from_secs(1);
const FLAP_PAUSE: Duration = Duration::from_millis(5);

/// How often curl and a node get the blob, for each adversary.
const PAIRS: u8 = 5;

/// The blob is this part of the usual one: 64 MiB.
const BLOB_PART: u64 = 4;

/// How long a get may take.
const GET_LIMIT: Duration = Duration::from_secs(60);

/// What a get may take longer than curl at least, and as a share of curl's time.
const LIMIT_MS: f64 = 50.0;
const LIMIT_SHARE: f64 = 0.05;

/// What the getter's peers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adversary {
    None,
    Dead,
    Slow,
    Lying,
    Flapping,
    Silent,
}

/// Is what gets are compared with curl beside, and where their extra time is told.
struct Cell {
    adversary: Adversary,
    door: Door,
    step: &'static str,
    extra: &'static MetricSpec,
    over_limit: &'static MetricSpec,
}

const CELLS: [Cell; 7] = [
    Cell {
        adversary: Adversary::None,
        door: Door::Tls,
        step: "no peers",
        extra: &EXTRA_MS_NONE,
        over_limit: &EXTRA_OVER_LIMIT_NONE,
    },
    Cell {
        adversary: Adversary::Dead,
        door: Door::Tls,
        step: "all peers are cut off",
        extra: &EXTRA_MS_DEAD,
        over_limit: &EXTRA_OVER_LIMIT_DEAD,
    },
    Cell {
        adversary: Adversary::Slow,
        door: Door::Tls,
        step: "all peers are slow",
        extra: &EXTRA_MS_SLOW,
        over_limit: &EXTRA_OVER_LIMIT_SLOW,
    },
    Cell {
        adversary: Adversary::Lying,
        door: Door::Tls,
        step: "all filters lie",
        extra: &EXTRA_MS_LYING,
        over_limit: &EXTRA_OVER_LIMIT_LYING,
    },
    Cell {
        adversary: Adversary::Flapping,
        door: Door::Tls,
        step: "all peers flap",
        extra: &EXTRA_MS_FLAPPING,
        over_limit: &EXTRA_OVER_LIMIT_FLAPPING,
    },
    Cell {
        adversary: Adversary::Silent,
        door: Door::Tls,
        step: "the holder is silent",
        extra: &EXTRA_MS_SILENT,
        over_limit: &EXTRA_OVER_LIMIT_SILENT,
    },
    Cell {
        adversary: Adversary::None,
        door: Door::Plain,
        step: "no peers, and an edge without HTTP/2",
        extra: &EXTRA_MS_NONE_HTTP1,
        over_limit: &EXTRA_OVER_LIMIT_NONE_HTTP1,
    },
];

const EXTRA_MS_NONE: MetricSpec = extra(
    "extra_ms_none",
    "a get into a file over curl's of the same pair, the median of five pairs: without peers",
);
const EXTRA_MS_DEAD: MetricSpec = extra(
    "extra_ms_dead",
    "the same with peers that hold the blob and are cut off, without a word, right before",
);
const EXTRA_MS_SLOW: MetricSpec =
    extra("extra_ms_slow", "the same with peers that hold the blob and send 64 KiB a second");
const EXTRA_MS_LYING: MetricSpec =
    extra("extra_ms_lying", "the same with peers whose filters have the blob, which they lost");
const EXTRA_MS_FLAPPING: MetricSpec = extra(
    "extra_ms_flapping",
    "the same with peers that hold the blob, send 50 Mbit/s, and are there every other second",
);
const EXTRA_MS_SILENT: MetricSpec = extra(
    "extra_ms_silent",
    "the same with one peer that holds the blob, and is stopped while its kernel goes on to accept",
);
const EXTRA_MS_NONE_HTTP1: MetricSpec = extra(
    "extra_ms_none_http1",
    "as `extra_ms_none`, node and curl both by plain HTTP/1.1: ranges at once are connections",
);
const CURL_S: MetricSpec = MetricSpec {
    name: "curl_s",
    unit: "s",
    bound: None,
    about: "`curl -o` of the same blob from the same host by HTTP/2, the median of all pairs",
};
const CURL_HTTP1_S: MetricSpec = MetricSpec {
    name: "curl_http1_s",
    unit: "s",
    bound: None,
    about: "the same by plain HTTP/1.1",
};
const EXTRA_LIMIT_MS: MetricSpec = MetricSpec {
    name: "extra_limit_ms",
    unit: "ms",
    bound: None,
    about: "5 % of `curl_s`, and 50 at least",
};
const EXTRA_OVER_LIMIT_NONE: MetricSpec =
    over_limit("extra_over_limit_none", "`extra_ms_none` over `extra_limit_ms`");
const EXTRA_OVER_LIMIT_DEAD: MetricSpec =
    over_limit("extra_over_limit_dead", "`extra_ms_dead` over `extra_limit_ms`");
const EXTRA_OVER_LIMIT_SLOW: MetricSpec =
    over_limit("extra_over_limit_slow", "`extra_ms_slow` over `extra_limit_ms`");
const EXTRA_OVER_LIMIT_LYING: MetricSpec =
    over_limit("extra_over_limit_lying", "`extra_ms_lying` over `extra_limit_ms`");
const EXTRA_OVER_LIMIT_FLAPPING: MetricSpec =
    over_limit("extra_over_limit_flapping", "`extra_ms_flapping` over `extra_limit_ms`");
const EXTRA_OVER_LIMIT_SILENT: MetricSpec =
    over_limit("extra_over_limit_silent", "`extra_ms_silent` over `extra_limit_ms`");
const EXTRA_OVER_LIMIT_NONE_HTTP1: MetricSpec = over_limit(
    "extra_over_limit_none_http1",
    "`extra_ms_none_http1` over 5 % of `curl_http1_s`, and 50 ms at least",
);
const ASKED_SHARE: MetricSpec = MetricSpec {
    name: "asked_share",
    unit: "share",
    bound: None,
    about: "gets with peers in which `why` names one that was asked: the adversaries were met",
};

const fn extra(name: &'static str, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "ms", bound: None, about }
}

const fn over_limit(name: &'static str, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "ratio", bound: Some(Bound::AtMost(1.0)), about }
}

fn layout(nodes: u8) -> Layout {
    office::layout(nodes, LINK, UPLINK)
}

fn run(trial: &mut Trial<'_, '_>) -> Result<(), Error> {
    let edge = Edge::start(trial)?;
    let original = edge.push(trial, trial.blob_bytes / BLOB_PART, 1)?;
    let mut seen = Seen::default();
    let rivals = Rivals::new(trial)?;
    let mut extras = Vec::new();
    for cell in &CELLS {
        trial.report.step(cell.step);
        let mut extra_ms = Vec::new();
        for pair in 1..=PAIRS.min(trial.repeats_max) {
            set_wires(trial, cell.adversary.uplink())?;
            let curl_time = rivals.get_by_curl(trial, cell.door, &original, GET_LIMIT)?;
            let get_time = get_beside(trial, (&rivals, cell), pair, &original, &mut seen)?;
            seen.curl_s_of(cell.door).push(curl_time.as_secs_f64());
            extra_ms.push(
                get_time.map_or(f64::NAN, |time| milliseconds(time) - milliseconds(curl_time)),
            );
        }
        let extra_ms = median(extra_ms);
        trial.report.record(cell.extra, extra_ms)?;
        extras.push((cell, extra_ms));
    }
    tell(trial, seen, extras)
}

fn tell(trial: &mut Trial<'_, '_>, seen: Seen, extras: Vec<(&Cell, f64)>) -> Result<(), Error> {
    let (curl_s, curl_http1_s) = (median(seen.curl_s), median(seen.curl_http1_s));
    trial.report.record(&CURL_S, curl_s)?;
    trial.report.record(&EXTRA_LIMIT_MS, limit_ms(curl_s))?;
    for (cell, extra_ms) in extras {
        let limit_ms = limit_ms(if cell.door == Door::Tls { curl_s } else { curl_http1_s });
        trial.report.record(cell.over_limit, extra_ms / limit_ms)?;
    }
    trial.report.record(&CURL_HTTP1_S, curl_http1_s)?;
    trial.report.record(&ASKED_SHARE, share(seen.asked, seen.with_peers))?;
    trial.report.record(&FAILED, share(seen.failed, 1))?;
    trial.report.record(&WRONG_BYTES, share(seen.wrong_bytes, 1))?;
    let pace = trial.setting.lab.network()?.counters()?.pace;
    trial.report.record(&LATE_SHARE, share(pace.late_frames, pace.frames))
}

/// Returns what a get may take longer than curl.
fn limit_ms(curl_s: f64) -> f64 {
    (LIMIT_SHARE * curl_s * 1_000.0).max(LIMIT_MS)
}

/// Is what was seen of all gets.
#[derive(Default)]
struct Seen {
    curl_s: Vec<f64>,
    curl_http1_s: Vec<f64>,
    with_peers: u64,
    asked: u64,
    failed: u64,
    wrong_bytes: u64,
}

impl Seen {
    fn curl_s_of(&mut self, door: Door) -> &mut Vec<f64> {
        match door {
            Door::Tls => &mut self.curl_s,
            Door::Plain => &mut self.curl_http1_s,
        }
    }
}

impl Adversary {
    /// Returns the rate at which peers send.
    const fn uplink(self) -> Rate {
        match self {
            Self::Slow => SLOW_RATE,
            Self::Flapping => FLAPPING_RATE,
            Self::None | Self::Dead | Self::Lying | Self::Silent => LAN_RATE,
        }
    }

    /// Returns how many of so many peers run, and how many of these hold the blob.
    const fn peers(self, peers: u8) -> (u8, usize) {
        match self {
            Self::None => (0, 0),
            Self::Silent => (peers, 1),
            Self::Dead | Self::Slow | Self::Lying | Self::Flapping => (peers, peers as usize),
        }
    }
}

/// Has a fresh node get the blob beside adversaries; returns how long its command took, none where it failed.
fn get_beside(
    trial: &Trial<'_, '_>,
    (rivals, cell): (&Rivals, &Cell),
    pair: u8,
    original: &Original,
    seen: &mut Seen,
) -> Result<Option<Duration>, Error> {
    let adversary = cell.adversary;
    let (peers, holders) = adversary.peers(trial.nodes - 1);
    let suffix = format!("-{adversary:?}-{:?}-{pair}", cell.door).to_lowercase();
    // The wires are those of the get only: peers that meet over slow ones would be slow to begin.
    set_wires(trial, LAN_RATE)?;
    let flags = rivals.flags(cell.door);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut nodes = lan::start_with(trial, 1..=1 + peers, &suffix, &flags)?;
    let peers = nodes.split_off(1);
    let holders = peers.get(..holders).unwrap_or_default();
    holders.iter().try_for_each(|holder| original.add_to(holder))?;
    lan::know(trial, &nodes, holders, 1)?;
    set_wires(trial, adversary.uplink())?;

    let Some(getter) = nodes.first() else { return Err(Error::NoHost { number: 1 }) };
    strike(trial, adversary, holders, original)?;
    let output = getter.home.file(".output");
    let started = Instant::now();
    let (got, took) = std::thread::scope(|scope| {
        let get = scope.spawn(|| {
            let got = getter.home.try_get(&original.hash, Some(&output), GET_LIMIT);
            (got, started.elapsed())
        });
        if adversary == Adversary::Flapping {
            flap(trial, holders, started, || get.is_finished())?;
        }
        let (got, took) = get.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok::<_, Error>((got?, took))
    })?;
    if got.is_some() {
        seen.wrong_bytes += original.wrong_bytes_in(&output)?;
    }
    seen.failed += u64::from(got.is_none());
    if !peers.is_empty() {
        seen.with_peers += 1;
        seen.asked += u64::from(got.is_some() && getter.home.why(&original.hash)?.asked() > 0);
    }
    trial.setting.lab.network()?.heal(Side::Site(1), Side::Everyone)?;
    nodes.into_iter().chain(peers).try_for_each(Node::discard)?;
    Ok(got.map(|_| took))
}

/// Gives all peers' wires a rate upwards.
fn set_wires(trial: &Trial<'_, '_>, up: Rate) -> Result<(), Error> {
    for number in 2..=trial.nodes {
        let host = trial.setting.lab.host(number)?;
        let link = Link { up: Some(up), ..LINK };
        trial.setting.lab.network()?.set_link(host, link, trial.setting.stop)?;
    }
    Ok(())
}

/// Makes holders what the adversary is, right before a get.
fn strike(
    trial: &Trial<'_, '_>,
    adversary: Adversary,
    holders: &[Node<'_>],
    original: &Original,
) -> Result<(), Error> {
    match adversary {
        Adversary::None | Adversary::Slow | Adversary::Flapping => Ok(()),
        Adversary::Dead => cut(trial, holders.iter().map(|holder| holder.home.host), true),
        Adversary::Lying => holders.iter().try_for_each(|holder| {
            // A filter cannot forget one blob, and is made anew only now and then.
            let words = ["rm", &original.hash];
            holder.home.run(&words, b"", GET_LIMIT)?.success().map(drop)
        }),
        Adversary::Silent => holders.iter().try_for_each(|holder| holder.signal(Signal::STOP)),
    }
}

/// Cuts holders off and lets them come back every second, until the get is over.
fn flap(
    trial: &Trial<'_, '_>,
    holders: &[Node<'_>],
    started: Instant,
    over: impl Fn() -> bool,
) -> Result<(), Error> {
    let mut is_cut = false;
    while !over() {
        trial.setting.stop.pause(FLAP_PAUSE)?;
        let cuts = started.elapsed().as_nanos() / FLAP.as_nanos() % 2 == 1;
        if cuts != is_cut {
            is_cut = cuts;
            cut(trial, holders.iter().map(|holder| holder.home.host), cuts)?;
        }
    }
    Ok(())
}

fn cut<'a>(
    trial: &Trial<'_, '_>,
    hosts: impl Iterator<Item = &'a Host>,
    cuts: bool,
) -> Result<(), Error> {
    let network = trial.setting.lab.network()?;
    for host in hosts {
        if cuts {
            network.partition(Side::Host(host), Side::Everyone)?;
        } else {
            network.heal(Side::Host(host), Side::Everyone)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_a_share_of_curl_and_fifty_milliseconds_at_least() {
        assert!((limit_ms(3.0) - 150.0).abs() < 1e-9);
        assert!((limit_ms(0.1) - 50.0).abs() < 1e-9);
        let bound = EXTRA_OVER_LIMIT_DEAD.bound.unwrap();
        assert!(bound.holds(150.0 / limit_ms(3.0)) && !bound.holds(151.0 / limit_ms(3.0)));
        assert!(bound.holds(-20.0 / limit_ms(3.0)), "faster than curl");
        assert!(!bound.holds(f64::NAN / limit_ms(3.0)), "a get that failed");
    }
}
