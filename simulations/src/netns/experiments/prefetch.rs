//! `prefetch`: what is got ahead keeps nobody waiting who wants something now.
//!
//! A node gets small blobs of an edge that is 50 ms away, one after another and with pauses: first while nothing else
//! is under way, then while it works through a long list of a prefetch, which fills the uplink in every pause. Times
//! are those of receipts: from the command's arrival at the node to the end of the get.

use std::time::Duration;

use super::{
    Experiment, Trial, lan,
    office::{self, Edge, Original, median, slowest_but_one},
    specs::{FAILED, LATE_SHARE},
};
use crate::{
    netns::{
        edge,
        error::Error,
        lab::Topology,
        metric::{Bound, MetricSpec, share},
        process::Node,
        relay::{Layout, Link, Rate},
    },
    random::Random,
};

/// The experiment.
pub static EXPERIMENT: Experiment = Experiment {
    name: "prefetch",
    about: "what is got ahead costs 99 of 100 small gets beside it at most 50 ms",
    topology: Topology::Relay(layout),
    nodes: 1..=1,
    metrics: &[
        ALONE_P50_MS,
        ALONE_P99_MS,
        BESIDE_P50_MS,
        BESIDE_P99_MS,
        PREFETCH_EXTRA_P99_MS,
        AHEAD_SHARE,
        AHEAD_MIB,
        FAILED,
        LATE_SHARE,
    ],
    run,
};

const LINK: Link = Link::new(Rate::mbit(1_000), Duration::from_micros(100));

/// Round trips to the edge take 50 ms, those of the LAN aside.
const UPLINK: Link = Link { down: Some(Rate::mbit(200)), ..Link::slow(Duration::from_millis(25)) };

/// The length of a blob that somebody waits for.
const BLOB_BYTES: u64 = 64 << 10;

/// How many of them are got in each of the two parts.
const GETS: u8 = 100;

/// What is got ahead is so many blobs of half the usual length: more than fits into all pauses.
const AHEAD_BLOBS: u64 = 8;
const AHEAD_PART: u64 = 2;

/// A get begins so long after the one before it ended, drawn evenly: a prefetch goes on after 0.2 s of them, so that
/// it is met as it begins, and at its full rate.
const PAUSES_MS: std::ops::Range<u64> = 250..900;

const LIMIT: Duration = Duration::from_secs(30);

const ALONE_P50_MS: MetricSpec =
    time("alone_p50_ms", "the median of 100 gets of 64 KiB, with nothing beside them");
const ALONE_P99_MS: MetricSpec = time("alone_p99_ms", "the slowest but one of them");
const BESIDE_P50_MS: MetricSpec =
    time("beside_p50_ms", "the median of 100 such gets beside a prefetch");
const BESIDE_P99_MS: MetricSpec = time("beside_p99_ms", "the slowest but one of them");
const PREFETCH_EXTRA_P99_MS: MetricSpec = MetricSpec {
    bound: Some(Bound::AtMost(50.0)),
    ..time("prefetch_extra_p99_ms", "`beside_p99_ms` less `alone_p99_ms`")
};
const AHEAD_SHARE: MetricSpec = MetricSpec {
    name: "ahead_share",
    unit: "share",
    bound: Some(Bound::AtLeast(0.9)),
    about: "gets beside the prefetch in the pause before which the edge gave something ahead: they met it",
};
const AHEAD_MIB: MetricSpec = MetricSpec {
    name: "ahead_mib",
    unit: "MiB",
    bound: None,
    about: "what the edge gave ahead in these pauses",
};

const fn time(name: &'static str, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "ms", bound: None, about }
}

fn layout(nodes: u8) -> Layout {
    office::layout(nodes, LINK, UPLINK)
}

fn run(trial: &mut Trial<'_, '_>) -> Result<(), Error> {
    let edge = Edge::start(trial)?;
    let gets = u64::from(GETS.min(trial.repeats_max));
    let blobs = |first: u64| -> Result<Vec<Original>, Error> {
        (first..first + gets).map(|seed| edge.put(trial, BLOB_BYTES, seed)).collect()
    };
    let (alone, beside) = (blobs(1_000)?, blobs(2_000)?);
    let ahead = (1..=AHEAD_BLOBS).map(|seed| edge.push(trial, trial.blob_bytes / AHEAD_PART, seed));
    let ahead = ahead.collect::<Result<Vec<_>, _>>()?;
    let flags = office::tls_flags(&edge::certificate(trial.setting)?);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut nodes = lan::start_with(trial, 1..=1, "", &flags)?;
    let Some(node) = nodes.pop() else { return Err(Error::NoHost { number: 1 }) };

    let mut seen = Seen::default();
    trial.report.step("gets with nothing beside them");
    let alone_ms = seen.get_all(trial, &edge, &node, &alone)?;
    trial.report.step("gets beside a prefetch");
    let mut words = vec!["prefetch"];
    words.extend(ahead.iter().map(|blob| blob.hash.as_str()));
    node.home.run(&words, b"", LIMIT)?.success()?;
    seen.met = Vec::new();
    let beside_ms = seen.get_all(trial, &edge, &node, &beside)?;

    let (alone_p99, beside_p99) =
        (slowest_but_one(alone_ms.clone()), slowest_but_one(beside_ms.clone()));
    let met = seen.met.iter().filter(|bytes| **bytes > 0).count() as u64;
    let pace = trial.setting.lab.network()?.counters()?.pace;
    for (metric, value) in [
        (&ALONE_P50_MS, median(alone_ms)),
        (&ALONE_P99_MS, alone_p99),
        (&BESIDE_P50_MS, median(beside_ms)),
        (&BESIDE_P99_MS, beside_p99),
        (&PREFETCH_EXTRA_P99_MS, beside_p99 - alone_p99),
        (&AHEAD_SHARE, share(met, gets)),
        (&AHEAD_MIB, share(seen.met.iter().sum(), 1 << 20)),
        (&FAILED, share(seen.failed, 1)),
        (&LATE_SHARE, share(pace.late_frames, pace.frames)),
    ] {
        trial.report.record(metric, value)?;
    }
    node.stop()
}

/// Is what was seen of gets.
#[derive(Default)]
struct Seen {
    /// The bytes of blobs that the edge gave in the pause before each.
    met: Vec<u64>,
    failed: u64,
}

impl Seen {
    /// Gets blobs one after another; returns the milliseconds of each, NaN of one that failed.
    fn get_all(
        &mut self,
        trial: &Trial<'_, '_>,
        edge: &Edge<'_>,
        node: &Node<'_>,
        blobs: &[Original],
    ) -> Result<Vec<f64>, Error> {
        let mut random = Random::new(1).fork("pauses", 0);
        let times = blobs.iter().map(|blob| {
            let before = edge.served();
            let pause = PAUSES_MS.start + random.draw() % (PAUSES_MS.end - PAUSES_MS.start);
            trial.setting.stop.pause(Duration::from_millis(pause))?;
            self.met.push(edge.served().since(&before).blob_bytes);
            let receipt = node.home.try_get(&blob.hash, None, LIMIT)?;
            self.failed += u64::from(receipt.is_none());
            Ok(receipt.map_or(f64::NAN, |receipt| receipt.seconds * 1_000.0))
        });
        times.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_is_fifty_milliseconds_and_holds_for_no_get_that_failed() {
        let bound = PREFETCH_EXTRA_P99_MS.bound.unwrap();
        assert!(bound.holds(50.0) && !bound.holds(50.1));
        assert!(!bound.holds(slowest_but_one(vec![1.0, f64::NAN, f64::NAN]) - 1.0));
    }
}
