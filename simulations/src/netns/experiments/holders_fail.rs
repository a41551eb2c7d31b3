//! `holders-fail`: a get goes on with the other holders when one of three fails.
//!
//! Three holders with slow uplinks and one getter on one LAN. When a third of a blob's bytes has come down
//! the getter's wire, something happens to the first holder; the rest must come about as fast as the other
//! two can send it, and every byte must be right. Each fault has fresh nodes, so that none bears a grudge.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{
    Experiment, Trial, lan,
    specs::{LATE_SHARE, WRONG_BYTES},
};
use crate::netns::{
    error::Error,
    lab::{Host, Topology},
    metric::{Bound, MetricSpec, share},
    process::Node,
    relay::{Layout, Link, Rate, Side},
};

/// The experiment.
pub static EXPERIMENT: Experiment = Experiment {
    name: "holders-fail",
    about: "a get ends in time and right although one of three holders fails under way",
    topology: Topology::Relay(layout),
    nodes: 4..=4,
    metrics: &[
        WHOLE_OVER_LINK_TIME,
        OVER_REMAINING_DIE,
        OVER_REMAINING_STALL,
        OVER_REMAINING_CUT,
        OVER_REMAINING_SLOW,
        OVER_REMAINING_WRONG,
        WRONG_BYTES,
        LATE_SHARE,
    ],
    run,
};

const DELAY: Duration = Duration::from_micros(200);
const GETTER_RATE: Rate = Rate::mbit(1_000);
const UPLINK_RATE: Rate = Rate::mbit(100);

/// What is left of a holder's uplink that slows down: 64 KiB in a second.
const SLOW_RATE: Rate = Rate::kbit(524);

/// The holders that remain after a fault.
const REMAINING: u64 = 2;

/// The share of a blob that has come when the fault strikes: one in so many bytes.
const STRIKE_PART: u64 = 3;

/// How long a third of a blob may take to come, and how often it is looked.
const STRIKE_LIMIT: Duration = Duration::from_secs(60);
const STRIKE_PAUSE: Duration = Duration::from_millis(2);

/// One byte in so many is changed in a blob that rots: one of each group.
const ROT_STEP: u64 = 64 << 10;

/// What happens to the first holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    Die,
    Stall,
    Cut,
    Slow,
    Wrong,
}

const FAULTS: [(Fault, &str, &MetricSpec); 6] = [
    (Fault::Nothing, "nothing happens", &WHOLE_OVER_LINK_TIME),
    (Fault::Die, "a holder is killed", &OVER_REMAINING_DIE),
    (Fault::Stall, "a holder is stopped, and its connections stay", &OVER_REMAINING_STALL),
    (Fault::Cut, "a holder is cut off", &OVER_REMAINING_CUT),
    (Fault::Slow, "a holder's uplink gets slow", &OVER_REMAINING_SLOW),
    (Fault::Wrong, "a holder's disk changes under it", &OVER_REMAINING_WRONG),
];

const WHOLE_OVER_LINK_TIME: MetricSpec = MetricSpec {
    name: "whole_over_link_time",
    unit: "ratio",
    bound: None,
    about: "a get from three holders without a fault, over the time that their uplinks need for it",
};
const OVER_REMAINING_DIE: MetricSpec = over_remaining(
    "over_remaining_die",
    "from the fault to the end of the get, over the time two uplinks need for what had not come: killed",
);
const OVER_REMAINING_STALL: MetricSpec = over_remaining(
    "over_remaining_stall",
    "the same for a holder whose process is stopped, while its kernel goes on to answer",
);
const OVER_REMAINING_CUT: MetricSpec =
    over_remaining("over_remaining_cut", "the same for a holder whom nothing reaches or leaves");
const OVER_REMAINING_SLOW: MetricSpec =
    over_remaining("over_remaining_slow", "the same for a holder whose uplink falls to 64 KiB/s");
const OVER_REMAINING_WRONG: MetricSpec = over_remaining(
    "over_remaining_wrong",
    "the same for a holder whose blob loses a byte of each group after they were verified, as rot would",
);

const fn over_remaining(name: &'static str, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "ratio", bound: Some(Bound::AtMost(1.5)), about }
}

fn layout(nodes: u8) -> Layout {
    let mut layout = Layout::lan(nodes, Link::new(GETTER_RATE, DELAY));
    let hosts = layout.sites.iter_mut().flat_map(|site| &mut site.hosts);
    for host in hosts.take(usize::from(nodes.saturating_sub(1))) {
        *host = uplink(UPLINK_RATE);
    }
    layout
}

fn uplink(rate: Rate) -> Link {
    Link { up: Some(rate), ..Link::new(GETTER_RATE, DELAY) }
}

fn run(trial: &mut Trial<'_, '_>) -> Result<(), Error> {
    let mut wrong = 0;
    for (seed, (fault, step, metric)) in (1..).zip(FAULTS) {
        trial.report.step(step);
        let (ratio, differing) = get_through(trial, fault, seed)?;
        wrong += differing;
        trial.report.record(metric, ratio)?;
    }
    trial.report.record(&WRONG_BYTES, share(wrong, 1))?;
    let pace = trial.setting.lab.network()?.counters()?.pace;
    trial.report.record(&LATE_SHARE, share(pace.late_frames, pace.frames))
}

/// Has one blob got while a fault strikes; returns the ratio of times, NaN for a get that failed, and how
/// many bytes are wrong.
fn get_through(trial: &mut Trial<'_, '_>, fault: Fault, seed: u64) -> Result<(f64, u64), Error> {
    let bytes = trial.blob_bytes / 2;
    let mut nodes = lan::start(trial, 1..=trial.nodes, &format!("-{fault:?}").to_lowercase())?;
    let getters = nodes.split_off(usize::from(trial.nodes - 1));
    let mut hash = String::new();
    for holder in &nodes {
        hash = trial.add(&holder.home, bytes, seed)?;
    }
    lan::know(trial, &getters, &nodes, 1)?;

    let getter = trial.setting.lab.host(trial.nodes)?;
    let Some(first) = nodes.first() else { return Err(Error::NoHost { number: 1 }) };
    let (started, before) = (Instant::now(), lan::came(trial, getter)?);
    let (gets, struck) = lan::get_at_once(&getters, &hash, started, || {
        if fault == Fault::Nothing {
            return Ok(Struck { at: started, came: 0 });
        }
        let struck = Struck::wait(trial, getter, bytes, before)?;
        strike(trial, fault, first, &hash)?;
        Ok(struck)
    })?;
    let got = gets.first().filter(|got| got.receipt.is_some());
    let took = got.map(|got| got.took.saturating_sub(struck.at - started));
    let ratio = over_link_time(took, bytes.saturating_sub(struck.came), fault);

    let mut wrong = bytes;
    if let (Some(_), Some(getter)) = (got, getters.first()) {
        wrong = lan::wrong_bytes(trial, getter, &hash, (bytes, seed))?;
    }
    heal(trial, first.home.host)?;
    nodes.into_iter().chain(getters).try_for_each(Node::discard)?;
    Ok((ratio, wrong))
}

/// Returns the time a get took from a fault on over that which the remaining uplinks need for the bytes that
/// had not come by then: NaN, which no bound holds for, where it failed or nothing was left to come.
fn over_link_time(took: Option<Duration>, bytes: u64, fault: Fault) -> f64 {
    let holders = if fault == Fault::Nothing { REMAINING + 1 } else { REMAINING };
    let link_time = UPLINK_RATE.time_of(bytes / holders);
    match took {
        Some(took) if !link_time.is_zero() => took.as_secs_f64() / link_time.as_secs_f64(),
        Some(_) | None => f64::NAN,
    }
}

/// Says when a fault struck, and how much had come.
struct Struck {
    at: Instant,
    /// All bytes that had come down the getter's wire, headers included: rather more than of the blob.
    came: u64,
}

impl Struck {
    /// Waits until a part of the blob has come.
    fn wait(trial: &Trial<'_, '_>, getter: &Host, bytes: u64, before: u64) -> Result<Self, Error> {
        trial.setting.stop.until("a part of the blob", STRIKE_LIMIT, STRIKE_PAUSE, || {
            let came = lan::came(trial, getter)?.saturating_sub(before);
            Ok((came >= bytes / STRIKE_PART).then(|| Self { at: Instant::now(), came }))
        })
    }
}

/// Does to a holder what the fault is.
fn strike(trial: &Trial<'_, '_>, fault: Fault, holder: &Node<'_>, hash: &str) -> Result<(), Error> {
    let network = trial.setting.lab.network()?;
    let host = holder.home.host;
    match fault {
        Fault::Nothing => Ok(()),
        Fault::Die => holder.signal(Signal::KILL),
        Fault::Stall => holder.signal(Signal::STOP),
        Fault::Cut => network.partition(Side::Host(host), Side::Everyone),
        Fault::Slow => network.set_link(host, uplink(SLOW_RATE), trial.setting.stop),
        Fault::Wrong => {
            let path = holder.home.blob_file(hash);
            rot(&path).map_err(Error::file("change", &path))
        }
    }
}

/// Undoes to the network what a fault did.
fn heal(trial: &Trial<'_, '_>, host: &Host) -> Result<(), Error> {
    let network = trial.setting.lab.network()?;
    network.heal(Side::Host(host), Side::Everyone)?;
    network.set_link(host, uplink(UPLINK_RATE), trial.setting.stop)
}

/// Changes a byte in each group of a file and leaves its times alone, as a failing disk does: a node that
/// has verified the groups before has no reason to look again.
fn rot(path: &Path) -> std::io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let meta = file.metadata()?;
    let mut at = 0;
    while at < meta.len() {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[!byte[0]], at)?;
        at += ROT_STEP;
    }
    file.set_modified(meta.modified()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPLINK_BYTES_PER_S: u64 = 12_500_000;

    /// Returns whether the bound of a fault holds for a get of 20 s on one uplink that took so long.
    fn holds(fault: Fault, seconds: f64, bytes: u64) -> bool {
        let ratio = over_link_time(Some(Duration::from_secs_f64(seconds)), bytes, fault);
        OVER_REMAINING_DIE.bound.unwrap().holds(ratio)
    }

    #[test]
    fn get_by_the_two_that_remain_holds_and_one_that_waits_or_goes_on_with_one_does_not() {
        let bytes = 20 * UPLINK_BYTES_PER_S;
        assert!(holds(Fault::Die, 10.0, bytes));
        assert!(holds(Fault::Die, 14.9, bytes));
        assert!(!holds(Fault::Die, 20.0, bytes), "one uplink alone");
        assert!(!holds(Fault::Stall, 10.0 + 6.0, bytes), "6 s of silence");
        assert!(!holds(Fault::Nothing, 10.1, bytes), "two of three holders");
    }

    #[test]
    fn get_that_failed_or_was_over_before_the_fault_holds_no_bound() {
        let failed = over_link_time(None, 1 << 20, Fault::Cut);
        let over = over_link_time(Some(Duration::ZERO), 0, Fault::Cut);
        for ratio in [failed, over] {
            assert!(!OVER_REMAINING_CUT.bound.unwrap().holds(ratio), "{ratio}");
        }
    }
}
