//! Measures what a machine costs a node beside the wire: the numbers that worlds run on.
//!
//! Two nodes of one LAN, driven through the command line. Short blobs over wires that do nothing tell what
//! a look, a step, a fetch and the end of a get take; large ones over wires of a known rate tell how much of
//! it arrives. Both again over wires of a known delay tell in how many round trips a stream and a lane are
//! opened. A short blob is longer than a group, so that it has a stream of its own and not only an answer; and
//! between two large ones the lanes of the first are given up, so that each opens its own. What a receipt says of a phase is a median over many gets. What is not measured here, as the
//! behaviour of kernels under loss, stays as it is by default; the DHT and dials have a
//! [calibration of their own](super::lookups).

use std::{
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use blobmesh_protocol::blob::GROUP_LEN;
use serde::Deserialize;

use super::{
    blob,
    error::Error,
    lab::Lab,
    probe,
    process::{Home, Node, Setting},
    relay::{Layout, Link, Rate},
    replay::{Busy, Phases},
    stop::Stop,
};
use crate::{stats, world::Calibration};

/// How many short blobs are got.
const SHORT_BLOBS: u64 = 40;

/// The length of a short blob: two groups.
const SHORT_BYTES: u64 = 2 * GROUP_LEN;

/// How many large blobs are got, and their length: three seconds on the wire each.
const LARGE_BLOBS: u64 = 5;
const LARGE_BYTES: u64 = 40_000_000;

/// The rate of the wire for large blobs.
const RATE: Rate = Rate::mbit(100);

/// How many short and how many long blobs are got from afar, and the length of the latter: they come over
/// lanes, within what the window of a new connection allows in a few round trips.
const FAR_SHORT_BLOBS: u64 = 20;
const FAR_LONG_BLOBS: u64 = 5;
const FAR_LONG_BYTES: u64 = 6 << 20;

/// The delay of a wire then, and the round trip of two wires.
const FAR_DELAY: Duration = Duration::from_millis(10);
const FAR_ROUND_TRIP_S: f64 = 0.04;

/// How many round trips of the wires alone are measured.
const ROUND_TRIPS: u32 = 200;

/// How long the nodes may take to find each other, and filters to arrive.
const DISCOVER_LIMIT: Duration = Duration::from_secs(30);
const SETTLE_PAUSE: Duration = Duration::from_secs(3);
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// After this time a node has given up a lane that it does not use: five seconds, and one more.
const COLD_PAUSE: Duration = Duration::from_secs(6);

/// How long a command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// Is what was measured.
#[derive(Clone, Debug)]
pub struct Calibrated {
    /// The numbers, those that were not measured by default.
    pub calibration: Calibration,
    /// What they were computed from: name, value, unit.
    pub measured: Vec<(&'static str, f64, &'static str)>,
    /// The share of processor time that was busy meanwhile.
    pub processor_share: f64,
}

/// Measures this machine.
///
/// # Errors
/// [`Error::Unavailable`] on a machine without namespaces, [`Error::Interrupted`], and others when a step
/// fails. Nothing is left behind.
pub fn calibrate(binary: &Path, stop: &Stop, talk: &mut dyn Write) -> Result<Calibrated, Error> {
    if !binary.is_file() {
        return Err(Error::NoBinary { path: binary.to_owned() });
    }
    let lab = Lab::shaped(&Layout::lan(2, Link::default()), stop)?;
    let bench = Bench::start(Setting { lab: &lab, binary, stop })?;
    let busy = Busy::begin(&bench.pids());
    step(talk, "short blobs over wires that do nothing");
    let short = bench.gets((SHORT_BLOBS, SHORT_BYTES), Duration::ZERO)?;
    let trips = probe::round_trips(lab.host(1)?, lab.host(2)?, ROUND_TRIPS, stop)?;
    let wire = median(trips.iter().map(Duration::as_secs_f64));
    step(talk, "large blobs over wires of 100 Mbit/s");
    for host in lab.hosts() {
        lab.network()?.set_link(host, Link::new(RATE, Duration::ZERO), stop)?;
    }
    let large = bench.gets((LARGE_BLOBS, LARGE_BYTES), COLD_PAUSE)?;
    step(talk, "short and long blobs over wires of 10 ms");
    for host in lab.hosts() {
        lab.network()?.set_link(host, Link::new(Rate::mbit(1_000), FAR_DELAY), stop)?;
    }
    let far = bench.gets((FAR_SHORT_BLOBS, SHORT_BYTES + 1), Duration::ZERO)?;
    let long = bench.gets((FAR_LONG_BLOBS, FAR_LONG_BYTES), COLD_PAUSE)?;
    let shares = busy.shares(&bench.pids());
    let processor_share = if bench.first { shares.own } else { shares.machine };
    bench.stop()?;
    let measured = Measured { short, large, far, long, wire };
    Ok(measured.calibrated(processor_share))
}

/// Is what gets told.
struct Measured {
    short: Vec<Took>,
    large: Vec<Took>,
    far: Vec<Took>,
    long: Vec<Took>,
    /// The round trip of wires that do nothing, in seconds.
    wire: f64,
}

impl Measured {
    fn calibrated(&self, processor_share: f64) -> Calibrated {
        let Self { short, large, far, long, wire } = self;
        let of = |took: &[Took], time: fn(&Took) -> f64| median(took.iter().map(time));
        let (look, store) = (of(short, |t| t.phases.local_s), of(short, |t| t.phases.store_s));
        let (ask, first) = (of(short, |t| t.ask_s), of(short, |t| t.phases.first_group_s));
        // A question and its answer: two ways and two steps.
        let step = ((ask - wire) / 2.0).max(0.0);
        let connect = [short, far].map(|took| of(took, |t| t.connect_s));
        let dial = [large, long].map(|took| of(took, |t| t.lane_s));
        let stream_round_trips = round_trips(connect);
        let before = of(short, |t| t.before_s);
        let fetch = first - before - (f64::from(stream_round_trips) + 1.0) * wire - 2.0 * step;
        let rate = self.large_rate();
        let share = rate * 8.0 / RATE.bits_per_second() as f64;
        let time = |seconds: f64| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default();
        let calibration = Calibration {
            goodput: share.clamp(0.01, 1.0),
            look: time(look),
            finish: time(store),
            step: time(step),
            stream_round_trips,
            fetch: time(fetch),
            // The request that follows the handshake takes one more.
            lane_round_trips: round_trips(dial) + 1,
            lane: time(dial[0]),
            ..Calibration::default()
        };
        let measured = vec![
            ("wire_round_trip", wire * 1e6, "us"),
            ("look", look * 1e6, "us"),
            ("ask", ask * 1e6, "us"),
            ("step", step * 1e6, "us"),
            ("first_group", first * 1e6, "us"),
            ("finish", store * 1e6, "us"),
            ("large_first_group", of(large, |t| t.phases.first_group_s) * 1e6, "us"),
            ("large_finish", of(large, |t| t.phases.store_s) * 1e6, "us"),
            ("large_rate", rate / 1e6, "MB/s"),
            ("goodput", share, "share"),
            ("far_ask", of(far, |t| t.ask_s) * 1e6, "us"),
            ("stream", connect[0] * 1e6, "us"),
            ("far_stream", connect[1] * 1e6, "us"),
            ("far_first_group", of(far, |t| t.phases.first_group_s) * 1e6, "us"),
            ("lane", dial[0] * 1e6, "us"),
            ("far_lane", dial[1] * 1e6, "us"),
        ];
        Calibrated { calibration, measured, processor_share }
    }

    /// Returns the bytes a second of large blobs.
    fn large_rate(&self) -> f64 {
        // From the request on: when the first group is whole, parts of others have come too.
        let time = |took: &Took| took.phases.first_group_s + took.phases.transfer_s - self.wire;
        median(self.large.iter().map(|took| LARGE_BYTES as f64 / time(took).max(1e-9)))
    }
}

/// Returns in how many round trips something was done, by how long it took over wires that do nothing and
/// from afar.
fn round_trips([near, far]: [f64; 2]) -> u32 {
    let trips = ((far - near) / FAR_ROUND_TRIP_S).round();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
    let trips = trips.clamp(0.0, 100.0) as u32;
    trips
}

/// Returns the median; 0 of none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    stats::median(&stats::sorted(values)).unwrap_or(0.0)
}

fn step(talk: &mut dyn Write, text: &str) {
    let _unheard = writeln!(talk, "calibrate: {text}");
}

/// Is two nodes that know each other.
struct Bench<'a> {
    setting: Setting<'a>,
    holder: Node<'a>,
    getter: Node<'a>,
    /// Whether the nodes go before whatever else the machine does.
    first: bool,
}

/// Is where the time of a get went.
struct Took {
    phases: Phases,
    /// From the first question to its answer.
    ask_s: f64,
    /// What small requests took, which a blob of more than a group begins with: they say that it is longer.
    before_s: f64,
    /// To a stream to the source that gave the bytes.
    connect_s: f64,
    /// To the lane to it; 0 without one.
    lane_s: f64,
}

impl<'a> Bench<'a> {
    fn start(setting: Setting<'a>) -> Result<Self, Error> {
        let holder = Home::new(setting, setting.lab.host(1)?, "holder")?;
        let ticket = holder.invite()?;
        let getter = Home::new(setting, setting.lab.host(2)?, "getter")?;
        getter.join(&ticket)?;
        let mut holder = holder.start(&["--no-adverts"])?;
        let mut getter = getter.start(&["--no-adverts"])?;
        let first = holder.hurry() & getter.hurry();
        holder.ready()?;
        getter.ready()?;
        setting.stop.until("discovery", DISCOVER_LIMIT, LOOK_PAUSE, || {
            let rows = getter.home.peers()?;
            Ok(rows.iter().any(|row| row.neighbour && row.peer == holder.peer).then_some(()))
        })?;
        Ok(Self { setting, holder, getter, first })
    }

    fn pids(&self) -> Vec<rustix::process::Pid> {
        [&self.holder, &self.getter].into_iter().filter_map(|node| node.pid().ok()).collect()
    }

    /// Adds blobs on one side, and gets them on the other, one after another.
    fn gets(&self, (count, bytes): (u64, u64), pause: Duration) -> Result<Vec<Took>, Error> {
        let mut hashes = Vec::new();
        for number in 0..count {
            let path = self.setting.lab.path().join("blob");
            hashes.push(blob::write(&path, bytes, bytes.wrapping_mul(31).wrapping_add(number))?);
            self.holder.home.add(&path)?;
            std::fs::remove_file(&path).map_err(Error::file("remove", &path))?;
        }
        // Filters tell of new blobs a moment later; a get before that waits for it.
        self.setting.stop.pause(SETTLE_PAUSE)?;
        let get = |hash: &String| {
            self.setting.stop.pause(pause)?;
            self.get(hash)
        };
        hashes.iter().map(get).collect()
    }

    fn get(&self, hash: &str) -> Result<Took, Error> {
        let started = Instant::now();
        self.getter.home.run(&["get", hash], b"", COMMAND_LIMIT)?.success()?;
        let finished = self.getter.home.run(&["why", hash], b"", COMMAND_LIMIT)?.success()?;
        let lines = finished.stdout.lines().rev();
        let why = lines.filter_map(|line| serde_json::from_str::<Why>(line).ok()).next();
        let why = why.ok_or_else(|| Error::Answer {
            command: finished.command.clone(),
            problem: format!("no receipt, {} s after the get", started.elapsed().as_secs_f64()),
        })?;
        let ask_s = why.asked.first().map_or(0.0, |asked| asked.ms / 1e3);
        let before_s = why.small_s();
        let way = why.fetches.iter().find_map(|fetch| fetch.way);
        let of = |time: fn(&Way) -> f64| way.as_ref().map_or(0.0, time) / 1e3;
        let (connect_s, lane_s) = (of(|way| way.connect_ms), of(|way| way.dial_ms));
        Ok(Took { phases: why.phases, ask_s, before_s, connect_s, lane_s })
    }

    fn stop(self) -> Result<(), Error> {
        self.getter.stop()?;
        self.holder.stop()
    }
}

/// Is what is read of a `why`.
#[derive(Debug, Deserialize)]
struct Why {
    phases: Phases,
    asked: Vec<Asked>,
    fetches: Vec<Fetch>,
}

impl Why {
    /// Returns how long was waited for answers to small requests that gave no byte, in seconds.
    fn small_s(&self) -> f64 {
        let waited = self.fetches.iter().take_while(|fetch| fetch.way.is_none());
        waited.map(|fetch| fetch.ms).sum::<f64>() / 1e3
    }
}

#[derive(Debug, Deserialize)]
struct Fetch {
    ms: f64,
    /// How the bytes came; none of a small request.
    way: Option<Way>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Way {
    connect_ms: f64,
    dial_ms: f64,
}

#[derive(Debug, Deserialize)]
struct Asked {
    ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A get that asked and opened a stream and a lane in these times, and then transferred.
    fn took([ask_s, connect_s, lane_s]: [f64; 3], transfer_s: f64) -> Took {
        let (local_s, first_group_s, store_s) = (3e-5, 3e-3, 2e-3);
        let phases = Phases { local_s, find_s: ask_s, first_group_s, transfer_s, store_s };
        Took { phases, ask_s, before_s: 0.0, connect_s, lane_s }
    }

    #[test]
    fn a_small_request_that_found_a_longer_blob_is_no_part_of_the_fetch() {
        let receipt = r#"{"phases": {"local_s": 0, "find_s": 0, "first_group_s": 0.009, "transfer_s": 0, "store_s": 0},
            "asked": [{"ms": 2}], "fetches": [
            {"ms": 2, "outcome": "large"}, {"ms": 7, "way": {"connect_ms": 1, "dial_ms": 3}}]}"#;
        let why: Why = serde_json::from_str(receipt).expect("a receipt");
        assert!((why.small_s() - 2e-3).abs() < 1e-9);
        let mut short = vec![took([1e-3, 1e-3, 0.0], 0.0)];
        let fetch = |short: Vec<Took>| {
            let (large, far, long) = (Vec::new(), Vec::new(), Vec::new());
            Measured { short, large, far, long, wire: 1e-4 }.calibrated(0.5).calibration.fetch
        };
        let without = fetch(vec![took([1e-3, 1e-3, 0.0], 0.0)]);
        short[0].before_s = 1e-3;
        assert_eq!(without - fetch(short), Duration::from_millis(1));
    }

    #[test]
    fn numbers_are_medians_and_the_wire_is_no_part_of_a_step() {
        let short = [3e-4, 5e-4, 9.0].map(|ask_s| took([ask_s, 1e-3, 0.0], 0.0)).into();
        let seconds = LARGE_BYTES as f64 / 12.5e6;
        let large = vec![took([1e-3, 1e-3, 2e-3], seconds / 0.9 - 2.9e-3)];
        let trip = FAR_ROUND_TRIP_S;
        let far = vec![took([trip, trip + 2e-3, 0.0], 0.0)];
        let long = vec![took([trip, trip, 2.0 * trip + 9e-3], 0.0)];
        let done = Measured { short, large, far, long, wire: 1e-4 }.calibrated(0.5).calibration;
        assert_eq!(done.step, Duration::from_micros(200));
        assert_eq!((done.look, done.finish), (Duration::from_micros(30), Duration::from_millis(2)));
        assert!((done.goodput - 0.9).abs() < 1e-9);
        assert_eq!((done.stream_round_trips, done.lane_round_trips), (1, 3));
        assert_eq!(done.fetch, Duration::from_micros(2_400));
        assert_eq!(done.lane, Duration::from_millis(2));
    }
}
