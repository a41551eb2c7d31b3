//! `herd`: an office in which everybody wants the same blob costs the edge one copy, and hardly more time.
//!
//! Sixteen cold nodes behind one uplink get a blob of the edge within a second; before them one node alone
//! does, in the same lab, so that all bounds are ratios. Then the same with a blob that has no group list,
//! so that no part of it can be verified before the whole is there. At last the case of a CI farm: five
//! jobs, a slow uplink, with blobmesh and without.
//!
//! `herd-kill` kills the node that has most bytes of the edge when nearly a third has come.
//!
//! What the edge gave is told by its server: requests of any kind, and the bytes of bodies that it handed to
//! its kernel. Of an answer that a node gives up these are more than what crossed the uplink, never less.

use std::{
    ops::RangeInclusive,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{
    Experiment, Trial, lan,
    office::{self, Cost, Edge, Ended, Original, Stretch},
    specs::{self, LATE_SHARE, NODES_PROCESSOR_S, PROCESSOR_LOAD, RELAY_PROCESSOR_S, WRONG_BYTES},
};
use crate::{
    netns::{
        edge::{self, Served},
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
    name: "herd",
    about: "an office that wants one blob at once takes one copy from the edge, in about the time of one node",
    topology: Topology::Relay(layout),
    nodes: 16..=31,
    metrics: &[
        ALONE_S,
        ALONE_REQUESTS,
        EDGE_BYTES_RATIO,
        EDGE_REQUESTS_RATIO,
        LAST_OVER_ALONE,
        LAST_S,
        UPLINK_COPIES,
        PROCESSOR_LOAD,
        NODES_PROCESSOR_S,
        RELAY_PROCESSOR_S,
        LATE_SHARE,
        ALONE_WITHOUT_GROUPS_S,
        LAST_OVER_ALONE_WITHOUT_GROUPS,
        LAST_WITHOUT_GROUPS_S,
        EDGE_BYTES_RATIO_WITHOUT_GROUPS,
        FIVE_JOBS_EDGE_COPIES,
        FIVE_JOBS_S,
        FIVE_JOBS_OFF_EDGE_COPIES,
        FIVE_JOBS_OFF_S,
        FIVE_JOBS_SPEEDUP,
        FAILED,
        WRONG_BYTES,
    ],
    run,
};

/// The same while the node that did most for the others dies: `herd --kill`.
pub static KILL: Experiment = Experiment {
    name: "herd-kill",
    about: "a herd goes on when the node that has most bytes of the edge is killed under way",
    topology: Topology::Relay(layout),
    nodes: 16..=31,
    metrics: &[
        EDGE_BYTES_RATIO_KILLED,
        KILLED_BYTES_SHARE,
        LAST_KILLED_S,
        UPLINK_COPIES,
        PROCESSOR_LOAD,
        LATE_SHARE,
        FAILED,
        WRONG_BYTES,
    ],
    run: run_kill,
};

const LINK: Link = Link::new(Rate::mbit(1_000), Duration::from_micros(100));

/// Round trips to the edge take 20 ms.
const UPLINK: Link = uplink(Rate::mbit(200));

/// 4 MB/s.
const FARM_UPLINK: Link = uplink(Rate::kbit(32_000));

/// Makes an uplink of a rate into the office. Out of it go requests and acknowledgements, which need none; and
/// where there is none, nodes may hand longer frames to the relay, which has enough to do.
const fn uplink(down: Rate) -> Link {
    Link { down: Some(down), ..Link::slow(Duration::from_millis(10)) }
}

/// Within this time all nodes begin.
const SPREAD: Duration = Duration::from_secs(1);

/// How long a get may take: sixteen copies through the uplink, each for its own.
const HERD_LIMIT: Duration = Duration::from_secs(240);

/// The same of five jobs, which have an uplink of a sixth.
const FARM_LIMIT: Duration = Duration::from_secs(540);

const JOBS: u8 = 5;

/// The parts of the herd's blob that are 340 MB where that has 256 MiB.
const FARM_PARTS: (u64, u64) = (81, 64);

/// Without blobmesh jobs get a blob of one byte in so many: five copies of the whole would take seven minutes
/// in which nothing but the uplink is measured.
const OFF_PART: u64 = 8;

/// The part of the blob in percent that the edge has sent when a node is killed.
const KILL_PERCENT: u64 = 30;
const KILL_PAUSE: Duration = Duration::from_millis(5);

const ALONE_S: MetricSpec = MetricSpec {
    name: "alone_s",
    unit: "s",
    bound: None,
    about: "one cold node gets the blob while nobody else wants it, its command's start to its end",
};
const ALONE_REQUESTS: MetricSpec = MetricSpec {
    name: "alone_requests",
    unit: "count",
    bound: None,
    about: "what that node asked of the edge: ranges, lengths and group lists, each a request",
};
const EDGE_BYTES_RATIO: MetricSpec = MetricSpec {
    name: "edge_bytes_ratio",
    unit: "ratio",
    bound: Some(Bound::AtMost(1.05)),
    about: "bytes of bodies that the edge sent to all nodes of the herd over those of the blob",
};
const EDGE_REQUESTS_RATIO: MetricSpec = MetricSpec {
    name: "edge_requests_ratio",
    unit: "ratio",
    bound: Some(Bound::AtMost(1.1)),
    about: "requests of all nodes of the herd over `alone_requests`",
};
const LAST_OVER_ALONE: MetricSpec = MetricSpec {
    name: "last_over_alone",
    unit: "ratio",
    bound: Some(Bound::AtMost(1.4)),
    about: "`last_s` over `alone_s`",
};
const LAST_S: MetricSpec = MetricSpec {
    name: "last_s",
    unit: "s",
    bound: None,
    about: "from the first node's command to the end of the last one's",
};
const UPLINK_COPIES: MetricSpec = MetricSpec {
    name: "uplink_copies",
    unit: "ratio",
    bound: None,
    about: "bytes that came through the uplink for the herd, headers included, over those of the blob",
};
const ALONE_WITHOUT_GROUPS_S: MetricSpec = MetricSpec {
    name: "alone_without_groups_s",
    unit: "s",
    bound: None,
    about: "as `alone_s`, of a second blob that the edge has without a group list",
};
const LAST_OVER_ALONE_WITHOUT_GROUPS: MetricSpec = MetricSpec {
    name: "last_over_alone_without_groups",
    unit: "ratio",
    bound: Some(Bound::AtMost(2.2)),
    about: "`last_without_groups_s` over `alone_without_groups_s`",
};
const LAST_WITHOUT_GROUPS_S: MetricSpec = MetricSpec {
    name: "last_without_groups_s",
    unit: "s",
    bound: None,
    about: "as `last_s`, of the second blob",
};
const EDGE_BYTES_RATIO_WITHOUT_GROUPS: MetricSpec = MetricSpec {
    name: "edge_bytes_ratio_without_groups",
    unit: "ratio",
    bound: None,
    about: "as `edge_bytes_ratio`, of the second blob",
};
const FIVE_JOBS_EDGE_COPIES: MetricSpec = MetricSpec {
    name: "five_jobs_edge_copies",
    unit: "ratio",
    bound: Some(Bound::AtMost(1.05)),
    about: "bytes that the edge sent to five nodes that want 340 MB at once, over those of the blob",
};
const FIVE_JOBS_S: MetricSpec = MetricSpec {
    name: "five_jobs_s",
    unit: "s",
    bound: None,
    about: "from the start of the five commands to the end of the last one, through 4 MB/s",
};
const FIVE_JOBS_OFF_EDGE_COPIES: MetricSpec = MetricSpec {
    name: "five_jobs_off_edge_copies",
    unit: "ratio",
    bound: None,
    about: "the same of five nodes that know nobody, and of a blob of an eighth",
};
const FIVE_JOBS_OFF_S: MetricSpec = MetricSpec {
    name: "five_jobs_off_s",
    unit: "s",
    bound: None,
    about: "the time of these five, for an eighth",
};
const FIVE_JOBS_SPEEDUP: MetricSpec = MetricSpec {
    name: "five_jobs_speedup",
    unit: "ratio",
    bound: Some(Bound::AtLeast(4.0)),
    about: "eight times `five_jobs_off_s` over `five_jobs_s`",
};
const FAILED: MetricSpec = MetricSpec {
    about: "gets of all the above that did not end well, that of a killed node aside",
    ..specs::FAILED
};
const EDGE_BYTES_RATIO_KILLED: MetricSpec = MetricSpec {
    name: "edge_bytes_ratio_killed",
    unit: "ratio",
    bound: Some(Bound::AtMost(1.15)),
    about: "bytes that the edge sent to all nodes over those of the blob, the killed node's included",
};
const KILLED_BYTES_SHARE: MetricSpec = MetricSpec {
    name: "killed_bytes_share",
    unit: "share",
    bound: None,
    about: "bytes of the blob that the edge had sent to the killed node by then",
};
const LAST_KILLED_S: MetricSpec = MetricSpec {
    name: "last_killed_s",
    unit: "s",
    bound: None,
    about: "from the first node's command to the end of the last surviving one's",
};

fn layout(nodes: u8) -> Layout {
    office::layout(nodes, LINK, UPLINK)
}

fn run(trial: &mut Trial<'_, '_>) -> Result<(), Error> {
    let edge = Edge::start(trial)?;
    let mut ends = Ends::default();
    let original = edge.push(trial, trial.blob_bytes, 1)?;
    with_groups(trial, &edge, &original, &mut ends)?;
    let original = edge.put(trial, trial.blob_bytes, 2)?;
    without_groups(trial, &edge, &original, &mut ends)?;
    five_jobs(trial, &edge, &mut ends)?;
    ends.tell(trial)
}

/// Counts what no get may do.
#[derive(Default)]
struct Ends {
    failed: u64,
    wrong_bytes: u64,
}

impl Ends {
    fn add(&mut self, herd: &Herd) {
        self.failed += herd.failed;
        self.wrong_bytes += herd.wrong_bytes;
    }

    fn tell(&self, trial: &mut Trial<'_, '_>) -> Result<(), Error> {
        trial.report.record(&FAILED, share(self.failed, 1))?;
        trial.report.record(&WRONG_BYTES, share(self.wrong_bytes, 1))
    }
}

fn with_groups(
    trial: &mut Trial<'_, '_>,
    edge: &Edge<'_>,
    original: &Original,
    ends: &mut Ends,
) -> Result<(), Error> {
    trial.report.step("one node gets a blob of the edge alone");
    let alone = Herd::run(trial, (edge, original), &Want::of(1..=1, "-alone"))?;
    ends.add(&alone);
    trial.report.record(&ALONE_S, alone.last_s)?;
    trial.report.record(&ALONE_REQUESTS, share(alone.served.requests(), 1))?;

    trial.report.step("all cold nodes get it within a second");
    let herd = Herd::run(trial, (edge, original), &Want::within(1..=trial.nodes, "-herd"))?;
    ends.add(&herd);
    let Cost { load, nodes_s, relay_s, late_share, uplink_bytes } = herd.cost;
    for (metric, value) in [
        (&EDGE_BYTES_RATIO, herd.copies),
        (&EDGE_REQUESTS_RATIO, share(herd.served.requests(), alone.served.requests())),
        (&LAST_OVER_ALONE, herd.last_s / alone.last_s),
        (&LAST_S, herd.last_s),
        (&UPLINK_COPIES, share(uplink_bytes, original.bytes)),
        (&PROCESSOR_LOAD, load),
        (&NODES_PROCESSOR_S, nodes_s),
        (&RELAY_PROCESSOR_S, relay_s),
        (&LATE_SHARE, late_share),
    ] {
        trial.report.record(metric, value)?;
    }
    Ok(())
}

fn without_groups(
    trial: &mut Trial<'_, '_>,
    edge: &Edge<'_>,
    original: &Original,
    ends: &mut Ends,
) -> Result<(), Error> {
    trial.report.step("the same with a blob that has no group list");
    let alone = Herd::run(trial, (edge, original), &Want::of(1..=1, "-alone-bare"))?;
    let herd = Herd::run(trial, (edge, original), &Want::within(1..=trial.nodes, "-herd-bare"))?;
    ends.add(&alone);
    ends.add(&herd);
    for (metric, value) in [
        (&ALONE_WITHOUT_GROUPS_S, alone.last_s),
        (&LAST_OVER_ALONE_WITHOUT_GROUPS, herd.last_s / alone.last_s),
        (&LAST_WITHOUT_GROUPS_S, herd.last_s),
        (&EDGE_BYTES_RATIO_WITHOUT_GROUPS, herd.copies),
    ] {
        trial.report.record(metric, value)?;
    }
    Ok(())
}

fn five_jobs(trial: &mut Trial<'_, '_>, edge: &Edge<'_>, ends: &mut Ends) -> Result<(), Error> {
    trial.report.step("five jobs get 340 MB through 4 MB/s");
    trial.setting.lab.network()?.set_uplink(1, FARM_UPLINK, trial.setting.stop)?;
    let (parts, of) = FARM_PARTS;
    let bytes = trial.blob_bytes / of * parts;
    let original = edge.push(trial, bytes, 3)?;
    let want = Want { limit: FARM_LIMIT, ..Want::of(1..=JOBS, "-job") };
    let on = Herd::run(trial, (edge, &original), &want)?;
    ends.add(&on);
    trial.report.record(&FIVE_JOBS_EDGE_COPIES, on.copies)?;
    trial.report.record(&FIVE_JOBS_S, on.last_s)?;

    trial.report.step("five jobs that know nobody get an eighth of it");
    let original = edge.push(trial, bytes / OFF_PART, 4)?;
    let want = Want { limit: FARM_LIMIT, is_mesh: false, ..Want::of(1..=JOBS, "-job-off") };
    let off = Herd::run(trial, (edge, &original), &want)?;
    ends.add(&off);
    trial.report.record(&FIVE_JOBS_OFF_EDGE_COPIES, off.copies)?;
    trial.report.record(&FIVE_JOBS_OFF_S, off.last_s)?;
    trial.report.record(&FIVE_JOBS_SPEEDUP, off.last_s * share(OFF_PART, 1) / on.last_s)
}

fn run_kill(trial: &mut Trial<'_, '_>) -> Result<(), Error> {
    let edge = Edge::start(trial)?;
    let original = edge.push(trial, trial.blob_bytes, 1)?;
    trial.report.step("all cold nodes get a blob within a second, and one is killed");
    let want = Want { kills: true, ..Want::within(1..=trial.nodes, "-herd") };
    let herd = Herd::run(trial, (&edge, &original), &want)?;
    // A herd of which nobody was killed shows nothing.
    let killed = herd.killed_bytes.map_or(f64::NAN, |bytes| share(bytes, original.bytes));
    let copies = if killed.is_nan() { f64::NAN } else { herd.copies };
    for (metric, value) in [
        (&EDGE_BYTES_RATIO_KILLED, copies),
        (&KILLED_BYTES_SHARE, killed),
        (&LAST_KILLED_S, herd.last_s),
        (&UPLINK_COPIES, share(herd.cost.uplink_bytes, original.bytes)),
        (&PROCESSOR_LOAD, herd.cost.load),
        (&LATE_SHARE, herd.cost.late_share),
    ] {
        trial.report.record(metric, value)?;
    }
    let mut ends = Ends::default();
    ends.add(&herd);
    ends.tell(trial)
}

/// Says who wants a blob, and when.
struct Want {
    hosts: RangeInclusive<u8>,
    suffix: &'static str,
    spread: Duration,
    limit: Duration,
    /// Whether the nodes are of one mesh and find each other.
    is_mesh: bool,
    /// Whether one is killed under way.
    kills: bool,
}

impl Want {
    /// Makes the want of nodes that begin at once.
    const fn of(hosts: RangeInclusive<u8>, suffix: &'static str) -> Self {
        let (spread, limit) = (Duration::ZERO, HERD_LIMIT);
        Self { hosts, suffix, spread, limit, is_mesh: true, kills: false }
    }

    /// Makes the want of nodes that begin within a second.
    const fn within(hosts: RangeInclusive<u8>, suffix: &'static str) -> Self {
        Self { spread: SPREAD, ..Self::of(hosts, suffix) }
    }

    /// Draws when each node begins, the same in every run: the first at once.
    fn moments(&self) -> Vec<Duration> {
        let random = Random::new(1).fork("begin", 0);
        let spread = u64::try_from(self.spread.as_nanos()).unwrap_or(u64::MAX);
        let draw = |host| Duration::from_nanos(random.fork("host", host).below(spread));
        let moments: Vec<Duration> = self.hosts.clone().map(u64::from).map(draw).collect();
        let first = moments.iter().min().copied().unwrap_or_default();
        moments.into_iter().map(|moment| moment.saturating_sub(first)).collect()
    }
}

/// Is how a blob was got by all who wanted it.
struct Herd {
    /// From the first command's start to the last one's end in seconds; NaN where one failed.
    last_s: f64,
    /// What the edge served meanwhile.
    served: Served,
    /// The edge's bytes over the blob's.
    copies: f64,
    failed: u64,
    wrong_bytes: u64,
    /// What the killed node had got from the edge; none where nobody was killed.
    killed_bytes: Option<u64>,
    cost: Cost,
}

/// Says which node was killed.
struct Killed {
    index: usize,
    /// What it had got from the edge by then.
    bytes: u64,
}

impl Herd {
    /// Has fresh nodes get a blob of the edge, and removes them.
    fn run(
        trial: &Trial<'_, '_>,
        (edge, original): (&Edge<'_>, &Original),
        want: &Want,
    ) -> Result<Self, Error> {
        let nodes = start(trial, want)?;
        trial.touch_memory(original.bytes * want.hosts.len() as u64)?;
        let (before, stretch) = (edge.served(), Stretch::begin(trial, &nodes)?);
        let began = Instant::now();
        let (ended, killed) = get_all(trial, &nodes, (edge, original), want)?;
        let (served, cost) = (edge.served().since(&before), stretch.end(trial, &nodes)?);
        let victim = killed.as_ref().map(|killed| killed.index);
        let survived = |index: usize| Some(index) != victim;
        let survivors = || (0..).zip(&ended).filter(|(index, _)| survived(*index));
        let failed = survivors().filter(|(_, ended)| ended.receipt.is_none()).count();
        let last = survivors().map(|(_, ended)| ended.at).max().unwrap_or(began);
        let mut wrong_bytes = 0;
        for (index, node) in (0..).zip(nodes) {
            if survived(index) {
                wrong_bytes += original.wrong_bytes_at(&node)?;
            }
            node.discard()?;
        }
        Ok(Self {
            last_s: if failed == 0 { (last - began).as_secs_f64() } else { f64::NAN },
            served,
            copies: share(served.bytes(), original.bytes),
            failed: failed as u64,
            wrong_bytes,
            killed_bytes: killed.map(|killed| killed.bytes),
            cost,
        })
    }
}

/// Starts the nodes, and waits until they know each other or are to know nobody. The edge speaks HTTP/2, as R2 and most others
/// do: where each request is a connection, a lone node makes four of them, and a herd one for each range.
fn start<'a>(trial: &Trial<'a, '_>, want: &Want) -> Result<Vec<Node<'a>>, Error> {
    let flags = office::tls_flags(&edge::certificate(trial.setting)?);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    if want.is_mesh {
        return lan::start_with(trial, want.hosts.clone(), want.suffix, &flags);
    }
    let flags = [&flags[..], &["--no-mdns"]].concat();
    let nodes = want.hosts.clone().map(|host| trial.home(host, want.suffix)?.start(&flags));
    let mut nodes = nodes.collect::<Result<Vec<Node<'a>>, Error>>()?;
    nodes.iter_mut().try_for_each(Node::ready)?;
    Ok(nodes)
}

/// Has all nodes get a blob, each at its moment; returns how each get ended, and who was killed after how many
/// bytes of the edge.
fn get_all(
    trial: &Trial<'_, '_>,
    nodes: &[Node<'_>],
    (edge, original): (&Edge<'_>, &Original),
    want: &Want,
) -> Result<(Vec<Ended>, Option<Killed>), Error> {
    let (began, stop, over) = (Instant::now(), trial.setting.stop, AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let gets: Vec<_> = nodes
            .iter()
            .zip(want.moments())
            .map(|(node, moment)| {
                let over = &over;
                scope.spawn(move || {
                    let waited = stop.pause(moment.saturating_sub(began.elapsed()));
                    let got =
                        waited.and_then(|()| node.home.try_get(&original.hash, None, want.limit));
                    over.fetch_add(1, Ordering::Relaxed);
                    Ok(Ended { receipt: got?, at: Instant::now() })
                })
            })
            .collect();
        let killed = if want.kills {
            kill_one(trial, nodes, (edge, original), || over.load(Ordering::Relaxed))
        } else {
            Ok(None)
        };
        let ended = gets
            .into_iter()
            .map(|get| get.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let ended = ended.collect::<Result<Vec<Ended>, Error>>()?;
        Ok((ended, killed?))
    })
}

/// Kills the node that has most bytes of the edge when that has sent a part of the blob; nobody when all gets
/// are over before.
fn kill_one(
    trial: &Trial<'_, '_>,
    nodes: &[Node<'_>],
    (edge, original): (&Edge<'_>, &Original),
    over: impl Fn() -> usize,
) -> Result<Option<Killed>, Error> {
    // No client of this edge has asked for anything before.
    let part = original.bytes / 100 * KILL_PERCENT;
    let come = trial.setting.stop.within(HERD_LIMIT, KILL_PAUSE, || {
        let come = edge.served().blob_bytes >= part;
        Ok((come || over() == nodes.len()).then_some(come))
    })?;
    if come != Some(true) {
        return Ok(None);
    }
    let bytes = nodes.iter().map(|node| edge.served_to(node.home.host).blob_bytes);
    let Some((bytes, index)) = bytes.zip(0..).max() else { return Ok(None) };
    if let Some(node) = nodes.get(index) {
        node.signal(Signal::KILL)?;
    }
    Ok(Some(Killed { index, bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_a_herd_begin_within_a_second_and_the_same_in_every_run() {
        let moments = Want::within(1..=16, "").moments();
        assert_eq!(moments, Want::within(1..=16, "").moments());
        assert_eq!(moments.iter().min(), Some(&Duration::ZERO));
        assert!(moments.iter().all(|moment| *moment < SPREAD));
        assert!(moments.iter().any(|moment| *moment > SPREAD / 2));
        assert_eq!(Want::of(1..=2, "").moments(), [Duration::ZERO; 2]);
    }
}
