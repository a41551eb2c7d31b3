//! `resume`: a node that is killed in the middle of a get goes on where it stopped.
//!
//! A holder and a getter on one LAN. The getter's node is killed with SIGKILL when a part of the blob has
//! come down its wire, is started again in the same home, and gets the blob again. What came down the wire
//! beyond one blob came twice.

use std::time::Duration;

use super::{Experiment, Trial, lan, specs::WRONG_BYTES};
use crate::netns::{
    error::Error,
    lab::Topology,
    metric::{Bound, MetricSpec},
    process::Node,
    relay::{Layout, Link, Rate, TCP_SHARE},
};

/// The experiment.
pub static EXPERIMENT: Experiment = Experiment {
    name: "resume",
    about: "a get whose node is killed goes on where it stopped",
    topology: Topology::Relay(layout),
    nodes: 2..=2,
    metrics: &[TWICE_MIB_20, TWICE_MIB_40, TWICE_MIB_60, TWICE_MIB_80, FINISHED, WRONG_BYTES],
    run,
};

const RATE: Rate = Rate::mbit(1_000);
const DELAY: Duration = Duration::from_micros(200);

/// How long the killed share of a blob may take to come.
const STRIKE_LIMIT: Duration = Duration::from_secs(120);
/// How often the wire is looked at meanwhile: a thousandth of a second carries 0.1 MiB.
const STRIKE_PAUSE: Duration = Duration::from_millis(1);
/// How long the client of a killed node may take to notice.
const CLIENT_LIMIT: Duration = Duration::from_secs(60);

const MIB: f64 = (1 << 20) as f64;

const TWICE_MIB_20: MetricSpec =
    twice("twice_mib_20", "bytes of the blob that came twice: killed when 20 % had come");
const TWICE_MIB_40: MetricSpec = twice("twice_mib_40", "the same at 40 %");
const TWICE_MIB_60: MetricSpec = twice("twice_mib_60", "the same at 60 %");
const TWICE_MIB_80: MetricSpec = twice("twice_mib_80", "the same at 80 %");
const FINISHED: MetricSpec = MetricSpec {
    name: "finished",
    unit: "count",
    bound: Some(Bound::Exactly(4.0)),
    about: "gets that a killed node ended after its restart",
};

const fn twice(name: &'static str, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "MiB", bound: Some(Bound::AtMost(64.0)), about }
}

fn layout(nodes: u8) -> Layout {
    Layout::lan(nodes, Link::new(RATE, DELAY))
}

fn run(trial: &mut Trial<'_, '_>) -> Result<(), Error> {
    let (mut finished, mut wrong) = (0, 0);
    let cases =
        [(20, &TWICE_MIB_20), (40, &TWICE_MIB_40), (60, &TWICE_MIB_60), (80, &TWICE_MIB_80)];
    for (seed, (percent, metric)) in (1..).zip(cases) {
        trial.report.step(&format!("n2 gets a blob and is killed at {percent} %"));
        let outcome = kill_and_resume(trial, percent, seed)?;
        finished += u32::from(outcome.finished);
        wrong += outcome.wrong_bytes;
        trial.report.record(metric, outcome.twice_mib)?;
    }
    trial.report.record(&FINISHED, f64::from(finished))?;
    trial.report.record(&WRONG_BYTES, wrong as f64)
}

/// Says what came of one kill.
struct Outcome {
    twice_mib: f64,
    finished: bool,
    wrong_bytes: u64,
}

fn kill_and_resume(trial: &mut Trial<'_, '_>, percent: u64, seed: u64) -> Result<Outcome, Error> {
    // Long enough that a fifth of it is more than a crash may cost.
    let bytes = trial.blob_bytes * 2;
    let mut nodes = lan::start(trial, 1..=2, &format!("-{percent}"))?;
    let getters = nodes.split_off(1);
    let hash = match nodes.first() {
        Some(holder) => trial.add(&holder.home, bytes, seed)?,
        None => return Err(Error::NoHost { number: 1 }),
    };
    lan::know(trial, &getters, &nodes, 1)?;
    let host = trial.setting.lab.host(2)?;
    let before = lan::came(trial, host)?;

    let homes = getters.into_iter().map(|getter| {
        std::thread::scope(|scope| {
            let home = getter.home.clone();
            // Its end is that of the node it talks to: an error, however it is told.
            let words = ["get", &hash];
            let client = scope.spawn(move || home.run(&words, b"", CLIENT_LIMIT));
            let part = bytes / 100 * percent;
            trial.setting.stop.until("a part of the blob", STRIKE_LIMIT, STRIKE_PAUSE, || {
                let came = lan::came(trial, host)?.saturating_sub(before);
                Ok((came >= part).then_some(()))
            })?;
            let home = getter.kill();
            client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok(home)
        })
    });
    let homes = homes.collect::<Result<Vec<_>, Error>>()?;
    let restarted = homes.iter().map(|home| home.start(&[]));
    let mut restarted = restarted.collect::<Result<Vec<Node<'_>>, Error>>()?;
    restarted.iter_mut().try_for_each(Node::ready)?;
    lan::know(trial, &restarted, &nodes, 1)?;

    let Some(getter) = restarted.first() else { return Err(Error::NoHost { number: 2 }) };
    let finished = getter.home.get(&hash, None)?.is_some();
    let twice_mib = twice_mib(lan::came(trial, host)?.saturating_sub(before), bytes);
    let wrong_bytes =
        if finished { lan::wrong_bytes(trial, getter, &hash, (bytes, seed))? } else { bytes };
    nodes.into_iter().chain(restarted).try_for_each(Node::discard)?;
    Ok(Outcome { twice_mib, finished, wrong_bytes })
}

/// Returns how much of a blob of `bytes` bytes came twice where `came` bytes came down a wire, headers
/// included. Requests, gossip and acknowledgements count too.
fn twice_mib(came: u64, bytes: u64) -> f64 {
    (came as f64 * TCP_SHARE - bytes as f64) / MIB
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_twice_is_what_came_beyond_one_blob_in_full_packets() {
        // 1,514 bytes on the wire for 1,448 of TCP's user.
        let wire = |bytes: u64| bytes * 1_514 / 1_448;
        let blob = 512 << 20;
        assert!(twice_mib(wire(blob), blob).abs() < 0.001);
        assert!((twice_mib(wire(blob + (65 << 20)), blob) - 65.0).abs() < 0.001);
        let bound = TWICE_MIB_20.bound.unwrap();
        assert!(bound.holds(twice_mib(wire(blob + (64 << 20)) - 1_000, blob)));
        assert!(!bound.holds(twice_mib(wire(blob * 2), blob)), "all of it anew");
    }
}
