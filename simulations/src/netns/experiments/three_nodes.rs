//! `three-nodes`: the main job on one LAN.
//!
//! All nodes sit on one bridge and know nothing of each other but the mesh key. They find each other
//! by mDNS; a blob added on the first is got on the second from its neighbour and then from its own
//! store; the last node starts again from nothing, after the add, and finds the blob too. Then all
//! multicast is dropped: a node without an address finds nobody, one with `--peer` does.

use std::time::{Duration, Instant};

use super::{ASK_PAUSE, Experiment, Trial};
use crate::netns::{
    blob,
    client::Receipt,
    error::Error,
    lab::{HOSTS_MAX, Topology},
    metric::{Bound, MetricSpec, one_if, share},
    process::{Home, Node},
};

/// The experiment.
pub static EXPERIMENT: Experiment = Experiment {
    name: "three-nodes",
    about: "nodes of one LAN find each other by mDNS and move a blob through the LAN tier",
    topology: Topology::Bridge,
    nodes: 3..=HOSTS_MAX,
    metrics: &[
        DISCOVER_S,
        LAN_BYTES_SHARE,
        LAN_GET_S,
        LAN_GET_RATE,
        SECOND_GET_LOCAL_SHARE,
        LATE_NODE_FOUND,
        FOUND_WHEN_MUTED,
        PEER_FLAG_WITHOUT_MULTICAST,
    ],
    run,
};

/// How long nodes may look for each other before the experiment gives up: far above the bound.
const DISCOVER_LIMIT: Duration = Duration::from_secs(30);

/// How long a node without `--peer` must find nobody on a muted network: the bound of discovery.
const MUTED_WAIT: Duration = Duration::from_secs(3);

/// The length of the blob that moves on the muted network: a few hundred groups.
const MUTED_BLOB_BYTES_MAX: u64 = 16 << 20;

const DISCOVER_S: MetricSpec = MetricSpec {
    name: "discover_s",
    unit: "s",
    bound: Some(Bound::AtMost(3.0)),
    about: "from the last node's ready file until every node lists all others",
};
const LAN_BYTES_SHARE: MetricSpec = MetricSpec {
    name: "lan_bytes_share",
    unit: "share",
    bound: Some(Bound::Exactly(1.0)),
    about: "bytes of the first get on n2 that came from peers",
};
const LAN_GET_S: MetricSpec = MetricSpec {
    name: "lan_get_s",
    unit: "s",
    bound: None,
    about: "the first get on n2, from the start of the command to its end",
};
const LAN_GET_RATE: MetricSpec = MetricSpec {
    name: "lan_get_rate",
    unit: "MiB/s",
    bound: None,
    about: "the blob's length over `lan_get_s`; all nodes share one machine",
};
const SECOND_GET_LOCAL_SHARE: MetricSpec = MetricSpec {
    name: "second_get_local_share",
    unit: "share",
    bound: Some(Bound::Exactly(1.0)),
    about: "bytes of the second get on n2, into a file, that came from its own store",
};
const LATE_NODE_FOUND: MetricSpec = MetricSpec {
    name: "late_node_found",
    unit: "bool",
    bound: Some(Bound::Exactly(1.0)),
    about: "whether a node that started after the add gets the blob from peers, with the right bytes",
};
const FOUND_WHEN_MUTED: MetricSpec = MetricSpec {
    name: "found_when_muted",
    unit: "bool",
    bound: Some(Bound::Exactly(0.0)),
    about: "whether a node without `--peer` finds anybody in 3 s while multicast is dropped",
};
const PEER_FLAG_WITHOUT_MULTICAST: MetricSpec = MetricSpec {
    name: "peer_flag_without_multicast",
    unit: "bool",
    bound: Some(Bound::Exactly(1.0)),
    about: "whether a node with `--peer` gets a blob from that peer while multicast is dropped",
};

fn run(trial: &mut Trial<'_, '_>) -> Result<(), Error> {
    let lan = discover(trial)?;
    transfer(trial, lan)?;
    muted(trial)
}

/// Holds the running nodes.
struct Lan<'a> {
    /// Names no address: it was made before a node ran.
    ticket: String,
    n1: Node<'a>,
    n2: Node<'a>,
    /// From n3 on; the last one is stopped before the add.
    others: Vec<Node<'a>>,
}

impl<'a> Lan<'a> {
    /// Starts n1, which makes the mesh, and then all others at once; all are ready at the return.
    fn start(trial: &Trial<'a, '_>) -> Result<Self, Error> {
        let home = trial.home(1, "")?;
        let ticket = home.invite()?;
        let mut n1 = home.start(&[])?;
        n1.ready()?;
        let homes = (2..=trial.nodes).map(|number| {
            let home = trial.home(number, "")?;
            home.join(&ticket).map(|()| home)
        });
        let homes = homes.collect::<Result<Vec<Home<'a>>, Error>>()?;
        let mut homes = homes.iter();
        let mut n2 = homes.next().ok_or(Error::NoHost { number: 2 })?.start(&[])?;
        let others = homes.map(|home| home.start(&[]));
        let mut others = others.collect::<Result<Vec<Node<'a>>, Error>>()?;
        n2.ready()?;
        others.iter_mut().try_for_each(Node::ready)?;
        Ok(Self { ticket, n1, n2, others })
    }

    fn nodes(&self) -> impl Iterator<Item = &Node<'a>> + Clone {
        [&self.n1, &self.n2].into_iter().chain(&self.others)
    }

    /// Returns whether every node lists all others as peers.
    fn all_see_all(&self) -> Result<bool, Error> {
        for node in self.nodes() {
            let rows = node.home.peers()?;
            let mut others = self.nodes().filter(|other| other.peer != node.peer);
            if !others.all(|other| rows.iter().any(|row| row.peer == other.peer)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn stop(self) -> Result<(), Error> {
        self.n1.stop()?;
        self.n2.stop()?;
        self.others.into_iter().try_for_each(Node::stop)
    }
}

/// Starts all nodes and waits until they know each other.
fn discover<'a>(trial: &mut Trial<'a, '_>) -> Result<Lan<'a>, Error> {
    trial.report.step("nodes find each other by mDNS");
    let lan = Lan::start(trial)?;
    let ready = Instant::now();
    trial
        .setting
        .stop
        .until("discovery", DISCOVER_LIMIT, ASK_PAUSE, || Ok(lan.all_see_all()?.then_some(())))?;
    trial.report.record(&DISCOVER_S, ready.elapsed().as_secs_f64())?;
    Ok(lan)
}

/// Adds a blob on n1, gets it on n2, and on the last node, which starts late and from nothing.
fn transfer<'a>(trial: &mut Trial<'a, '_>, mut lan: Lan<'a>) -> Result<(), Error> {
    if let Some(last) = lan.others.pop() {
        last.stop()?;
    }
    trial.report.step("n2 gets a blob of n1, twice");
    let hash = trial.add(&lan.n1.home, trial.blob_bytes, 1)?;
    first_get(trial, &lan.n2.home, &hash)?;
    let (receipt, right) = get_into_file(&lan.n2.home, &hash)?;
    let local = receipt.map_or(0.0, |receipt| receipt.share_of(|tier| tier.local));
    trial.report.record(&SECOND_GET_LOCAL_SHARE, if right { local } else { 0.0 })?;

    trial.report.step("a node that starts after the add gets it too");
    let home = trial.home(trial.nodes, "-late")?;
    home.join(&lan.ticket)?;
    let mut late = home.start(&[])?;
    late.ready()?;
    let found = meets(trial, &late, &lan.n1)? && {
        let (receipt, right) = get_into_file(&late.home, &hash)?;
        right && receipt.is_some_and(|receipt| receipt.is_all(|tier| tier.lan))
    };
    trial.report.record(&LATE_NODE_FOUND, one_if(found))?;
    late.stop()?;
    lan.stop()
}

fn first_get(trial: &mut Trial<'_, '_>, home: &Home<'_>, hash: &str) -> Result<(), Error> {
    let started = Instant::now();
    let receipt = home.get(hash, None)?;
    let seconds = started.elapsed().as_secs_f64();
    let lan = receipt.map_or(0.0, |receipt| receipt.share_of(|tier| tier.lan));
    trial.report.record(&LAN_BYTES_SHARE, lan)?;
    trial.report.record(&LAN_GET_S, seconds)?;
    trial.report.record(&LAN_GET_RATE, share(trial.blob_bytes, 1 << 20) / seconds)
}

/// Gets a blob into a file; returns the receipt, and whether the file has the right bytes.
fn get_into_file(home: &Home<'_>, hash: &str) -> Result<(Option<Receipt>, bool), Error> {
    let output = home.file(".output");
    let Some(receipt) = home.get(hash, Some(&output))? else { return Ok((None, false)) };
    let right = blob::hash_of(&output)? == hash;
    std::fs::remove_file(&output).map_err(Error::file("remove", &output))?;
    Ok((Some(receipt), right))
}

/// Drops multicast everywhere; two fresh nodes do not meet until one is told the other's address.
fn muted(trial: &mut Trial<'_, '_>) -> Result<(), Error> {
    trial.report.step("all multicast is dropped");
    for host in trial.setting.lab.hosts() {
        trial.setting.lab.mute_multicast(host, trial.setting.stop)?;
    }
    let home = trial.home(1, "-muted")?;
    let ticket = home.invite()?;
    let mut n1 = home.start(&[])?;
    n1.ready()?;
    let home = trial.home(2, "-muted")?;
    home.join(&ticket)?;
    let mut n2 = home.start(&[])?;
    n2.ready()?;
    trial.setting.stop.pause(MUTED_WAIT)?;
    let met = lists(&n1, &n2)? || lists(&n2, &n1)?;
    trial.report.record(&FOUND_WHEN_MUTED, one_if(met))?;
    n2.stop()?;

    trial.report.step("n2 is told the address of n1");
    let home = trial.home(2, "-told")?;
    home.join(&ticket)?;
    let mut told = home.start(&["--peer", &n1.home.multiaddress()])?;
    told.ready()?;
    let hash = trial.add(&n1.home, trial.blob_bytes.min(MUTED_BLOB_BYTES_MAX), 2)?;
    let found = meets(trial, &told, &n1)? && {
        let receipt = told.home.get(&hash, None)?;
        receipt.is_some_and(|receipt| receipt.is_all(|tier| tier.lan))
    };
    trial.report.record(&PEER_FLAG_WITHOUT_MULTICAST, one_if(found))?;
    told.stop()?;
    n1.stop()
}

/// Waits until `node` lists `other`; a wait in vain is a no, not an error.
fn meets(trial: &Trial<'_, '_>, node: &Node<'_>, other: &Node<'_>) -> Result<bool, Error> {
    let met = trial
        .setting
        .stop
        .within(DISCOVER_LIMIT, ASK_PAUSE, || Ok(lists(node, other)?.then_some(())))?;
    Ok(met.is_some())
}

fn lists(node: &Node<'_>, other: &Node<'_>) -> Result<bool, Error> {
    Ok(node.home.peers()?.iter().any(|row| row.peer == other.peer))
}
