//! `http3`: what `doctor` says of an edge that speaks HTTP/1.1, 2 and 3, over a long way with and without loss.
//!
//! Two nodes in offices of their own ask the same edge. Nothing is decided here: the figures say when it is worth
//! choosing, and `EDGE.md` repeats them.

use std::time::Duration;

use serde::Deserialize;

use super::{
    Experiment, Trial,
    office::{Original, median},
    specs::LATE_SHARE,
};
use crate::netns::{
    edge::{self, CaddyServer, Door, Filler},
    error::Error,
    lab::Topology,
    metric::{Bound, MetricSpec, share},
    process::Home,
    relay::{Layout, Link, Rate, Site},
};

/// The experiment.
pub static EXPERIMENT: Experiment = Experiment {
    name: "http3",
    about: "doctor compares HTTP/1.1, 2 and 3 of an edge with round trips of 50 ms, with and without loss",
    topology: Topology::Relay(layout),
    nodes: 2..=2,
    metrics: &[
        HTTP1_RATE,
        HTTP2_RATE,
        HTTP3_RATE,
        HTTP1_FIRST,
        HTTP2_FIRST,
        HTTP3_FIRST,
        HTTP1_LOSSY_RATE,
        HTTP2_LOSSY_RATE,
        HTTP3_LOSSY_RATE,
        HTTP1_LOSSY_FIRST,
        HTTP2_LOSSY_FIRST,
        HTTP3_LOSSY_FIRST,
        COMPARED,
        LATE_SHARE,
    ],
    run,
};

const LINK: Link = Link::new(Rate::mbit(1_000), Duration::from_micros(100));

/// Round trips to the edge take 50 ms; nothing holds back what goes there.
const UPLINK: Link = Link { down: Some(Rate::mbit(200)), ..Link::slow(Duration::from_millis(25)) };

/// What is lost each way on the way to the second office.
const LOSS: f64 = 0.01;

/// What the edge's kernel does about loss, as CUBIC does, which need not be allowed in a namespace.
const CONTROL: &str = "reno";

/// How often each node measures.
const ROUNDS: u8 = 3;

/// The blob is this part of the usual one: 16 MiB.
const BLOB_PART: u64 = 16;

/// How long one measurement may take.
const DOCTOR_LIMIT: Duration = Duration::from_secs(120);

/// What `doctor` calls the three.
const CHECKS: [&str; 3] = ["http/1.1", "http/2", "http/3"];

const HTTP1_RATE: MetricSpec =
    rate("http1_mib_s", "four ranges of the blob at once by HTTP/1.1, a connection each");
const HTTP2_RATE: MetricSpec = rate("http2_mib_s", "the same by HTTP/2, over one connection");
const HTTP3_RATE: MetricSpec = rate("http3_mib_s", "the same by HTTP/3, over one connection");
const HTTP1_FIRST: MetricSpec = milliseconds(
    "http1_first_ms",
    "to the head of a small answer by HTTP/1.1, over a new connection",
);
const HTTP2_FIRST: MetricSpec = milliseconds("http2_first_ms", "the same by HTTP/2");
const HTTP3_FIRST: MetricSpec = milliseconds("http3_first_ms", "the same by HTTP/3");
const HTTP1_LOSSY_RATE: MetricSpec =
    rate("http1_lossy_mib_s", "`http1_mib_s` where frames get lost");
const HTTP2_LOSSY_RATE: MetricSpec = rate("http2_lossy_mib_s", "`http2_mib_s` there");
const HTTP3_LOSSY_RATE: MetricSpec = rate("http3_lossy_mib_s", "`http3_mib_s` there");
const HTTP1_LOSSY_FIRST: MetricSpec =
    milliseconds("http1_lossy_first_ms", "`http1_first_ms` there");
const HTTP2_LOSSY_FIRST: MetricSpec =
    milliseconds("http2_lossy_first_ms", "`http2_first_ms` there");
const HTTP3_LOSSY_FIRST: MetricSpec =
    milliseconds("http3_lossy_first_ms", "`http3_first_ms` there");
const COMPARED: MetricSpec = MetricSpec {
    name: "compared",
    unit: "share",
    bound: Some(Bound::Exactly(1.0)),
    about: "runs of `doctor` that measured all three",
};

const fn rate(name: &'static str, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "MiB/s", bound: None, about }
}

const fn milliseconds(name: &'static str, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "ms", bound: None, about }
}

fn layout(_nodes: u8) -> Layout {
    let office = |uplink| Site { hosts: vec![LINK], uplink };
    let sites = vec![office(UPLINK), office(Link { loss: LOSS, ..UPLINK })];
    Layout { sites, internet: vec![Link::default()], ..Layout::default() }
}

fn run(trial: &mut Trial<'_, '_>) -> Result<(), Error> {
    let setting = trial.setting;
    let host = setting.lab.host(trial.nodes + 1)?;
    edge::control_congestion(setting, host, CONTROL)?;
    let filler = Filler::new(setting, host)?;
    let original = Original::new(trial, trial.blob_bytes / BLOB_PART, 1)?;
    filler.push(&original.path, &original.hash)?;
    let _caddy = CaddyServer::start(setting, host)?;
    let certificate = edge::certificate(setting)?.display().to_string();
    for number in 1..=trial.nodes {
        edge::lead_to(setting, setting.lab.host(number)?, host)?;
    }
    let homes = [trial.home(1, "")?, trial.home(2, "")?];
    let before = setting.lab.network()?.counters()?.pace;
    let mut seen = [Seen::default(), Seen::default()];
    let (mut runs, mut complete) = (0, 0);
    for round in 1..=ROUNDS.min(trial.repeats_max) {
        for (home, seen) in homes.iter().zip(&mut seen) {
            trial.report.step(&format!("round {round}: doctor on {}", home.name));
            runs += 1;
            complete += u64::from(measure(home, &certificate, &original.hash, seen)?);
        }
    }
    let after = setting.lab.network()?.counters()?.pace;
    let specs = [
        ([&HTTP1_RATE, &HTTP2_RATE, &HTTP3_RATE], [&HTTP1_FIRST, &HTTP2_FIRST, &HTTP3_FIRST]),
        (
            [&HTTP1_LOSSY_RATE, &HTTP2_LOSSY_RATE, &HTTP3_LOSSY_RATE],
            [&HTTP1_LOSSY_FIRST, &HTTP2_LOSSY_FIRST, &HTTP3_LOSSY_FIRST],
        ),
    ];
    for ((rates, firsts), seen) in specs.into_iter().zip(seen) {
        for (specs, figures) in [(rates, seen.mib_s), (firsts, seen.first_ms)] {
            for (spec, figures) in specs.into_iter().zip(figures) {
                trial.report.record(spec, median(figures))?;
            }
        }
    }
    trial.report.record(&COMPARED, share(complete, runs))?;
    let late = share(
        after.late_frames.saturating_sub(before.late_frames),
        after.frames.saturating_sub(before.frames),
    );
    trial.report.record(&LATE_SHARE, late)
}

/// Is what one node measured of each HTTP.
#[derive(Default)]
struct Seen {
    mib_s: [Vec<f64>; 3],
    first_ms: [Vec<f64>; 3],
}

/// Is what `doctor` prints of one check, as far as it is of use here.
#[derive(Deserialize)]
struct Finding {
    check: String,
    text: String,
    figures: Option<Figures>,
}

#[derive(Deserialize)]
struct Figures {
    cold_us: u32,
    bytes_per_s: Option<u32>,
}

/// Has `doctor` measure the edge, and takes down what it says; returns whether that is of all three.
fn measure(home: &Home<'_>, certificate: &str, hash: &str, seen: &mut Seen) -> Result<bool, Error> {
    let door = Door::Tls.url();
    let words =
        ["doctor", "--no-mdns", "--edge", door, "--edge-ca", certificate, "--edge-blob", hash];
    // What it says of the host is no concern here: any exit code will do.
    let finished = home.run(&words, b"", DOCTOR_LIMIT)?;
    let findings: Vec<Finding> =
        finished.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if findings.iter().any(|found| found.check == "http/3" && found.text.contains("not built in")) {
        let reason = "blobmesh was built without HTTP/3; build it with --features http3".to_owned();
        return Err(Error::Unavailable { reason });
    }
    let mut complete = true;
    for (index, check) in CHECKS.into_iter().enumerate() {
        let found = findings.iter().find(|found| found.check == check);
        let figures = found.and_then(|found| found.figures.as_ref());
        let rate = figures.and_then(|figures| figures.bytes_per_s);
        complete &= rate.is_some();
        let rate = rate.map_or(f64::NAN, |rate| f64::from(rate) / f64::from(1 << 20));
        let first = figures.map_or(f64::NAN, |figures| f64::from(figures.cold_us) / 1_000.0);
        seen.mib_s[index].push(rate);
        seen.first_ms[index].push(first);
    }
    Ok(complete)
}
