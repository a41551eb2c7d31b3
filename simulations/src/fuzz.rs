//! Random small worlds with trouble in them, for what no experiment thinks of.
//!
//! Every seed is a plan of its own: a few sites and nodes, a few blobs, some of them nowhere, links from
//! slow to fast, caches that are too small, and up to six faults. A world passes when no invariant is
//! broken, every get comes to its end or is still moving, though nodes are killed and cut off under it, and
//! the rows add up. One world in four is calm: nothing befalls it, so what somebody has must be found.
//! What must be true is in `fuzz/laws.rs`. A seed that fails once is kept in `seeds.txt`, and always run first.

mod laws;

use std::time::Duration;

use blobmesh_protocol::Config;

use crate::plan::{
    Behaviour, BlobSet, BlobSetId, Dht, Distribution, Edge, Fault, FaultKind, Group, GroupId,
    HeldBy, Metrics, Nodes, Part, Plan, Shape, Site, SiteId, Sweep, Uplink, Workload, WorkloadKind,
};
use crate::random::Random;
use crate::world::{RunError, RunOptions, run_plan};

/// Seeds whose worlds failed once.
const KEPT_SEEDS: &str = include_str!("seeds.txt");

const MILLIS: u64 = 1_000_000;
const SECONDS: u64 = 1_000 * MILLIS;
/// A world is given so long.
const DURATION: Duration = Duration::from_secs(3_600);

/// Tells of a world that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What was wrong, each in words.
    pub faults: Vec<String>,
}

/// Returns the seeds that failed once.
pub fn kept_seeds() -> Vec<u64> {
    let lines = KEPT_SEEDS.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

/// Runs the world of a seed; `None` if nothing was wrong.
pub fn run_seed(seed: u64) -> Result<Option<Failure>, RunError> {
    let plan = random_plan(seed);
    let outcome = run_plan(&plan, &RunOptions::default(), |_| ())?;
    let mut faults = outcome.violations.clone();
    faults.extend(laws::broken(&plan, &outcome));
    Ok((!faults.is_empty()).then_some(Failure { seed, faults }))
}

/// Makes the plan of a seed.
pub fn random_plan(seed: u64) -> Plan {
    let mut random = Random::new(seed).fork("fuzz", 0);
    let sites: Vec<Site> =
        (0..random.between(1, 3)).map(|index| site(index, &mut random)).collect();
    let groups: Vec<Group> =
        (0..random.between(1, 3)).map(|index| group(index, sites.len(), &mut random)).collect();
    let edge = random.chance(0.7).then(|| edge(&mut random));
    let blobs: Vec<BlobSet> = (0..random.between(1, 3))
        .map(|index| blob_set(index, groups.len(), edge.is_some(), &mut random))
        .collect();
    let workloads = (0..random.between(1, 3))
        .map(|_| workload(groups.len(), blobs.len(), &mut random))
        .collect();
    let faults =
        (0..random.below(7)).map(|_| fault(sites.len(), groups.len(), &mut random)).collect();
    let plan = Plan {
        name: "fuzz".to_owned(),
        about: "a random small world".to_owned(),
        seed,
        duration: DURATION,
        engine: config(&mut random),
        dht: random.chance(0.6).then(|| dht(&mut random)),
        sites,
        groups,
        edge,
        blobs,
        workloads,
        faults,
        metrics: Metrics { every: Duration::from_secs(60), filter_looks: 0 },
        asserts: Vec::new(),
        sweep: Sweep::default(),
    };
    if random.chance(0.25) { calmed(plan) } else { plan }
}

/// Takes from a plan what could be a reason not to find a blob: trouble, loss, nodes that are not there yet
/// or not for long, and ways so slow that a source is thought to have gone.
fn calmed(mut plan: Plan) -> Plan {
    const RATE_MIN: u64 = 8 << 20;
    let faster = |rate: &mut Option<u64>| *rate = rate.map(|rate| rate.max(RATE_MIN));
    let at_most = |of: &mut Distribution, max: u64| of.max = of.max.min(max);
    plan.faults.clear();
    plan.engine.busy_patience = laws::PATIENCE;
    for site in &mut plan.sites {
        site.loss = 0.0;
        site.discovery.iter_mut().for_each(|discovery| at_most(discovery, SECONDS));
        if let Some(uplink) = &mut site.uplink {
            [&mut uplink.up, &mut uplink.down].into_iter().for_each(faster);
            uplink.loss = 0.0;
            at_most(&mut uplink.latency, 50 * MILLIS);
        }
    }
    for group in &mut plan.groups {
        [&mut group.up, &mut group.down].into_iter().for_each(faster);
        (group.session, group.cache) = (None, None);
        at_most(&mut group.join, 5 * SECONDS);
    }
    if let Some(edge) = &mut plan.edge {
        [&mut edge.rate, &mut edge.rate_per_connection].into_iter().for_each(faster);
        edge.error_rate = 0.0;
        at_most(&mut edge.first_byte, SECONDS);
    }
    for workload in &mut plan.workloads {
        workload.start = Distribution::uniform(15 * SECONDS, 25 * SECONDS);
    }
    plan
}

fn site(index: u64, random: &mut Random) -> Site {
    Site {
        name: format!("site-{index}"),
        latency: latency(random, 5 * MILLIS),
        loss: if random.chance(0.2) { random.unit() * 0.05 } else { 0.0 },
        discovery: random.chance(0.9).then(|| latency(random, SECONDS)),
        uplink: random.chance(0.7).then(|| Uplink {
            up: rate(random),
            down: rate(random),
            latency: latency(random, 100 * MILLIS),
            loss: if random.chance(0.2) { random.unit() * 0.05 } else { 0.0 },
        }),
    }
}

fn group(index: u64, sites: usize, random: &mut Random) -> Group {
    let comes_and_goes = random.chance(0.2);
    Group {
        name: format!("group-{index}"),
        count: 1 + random.index(8),
        site: SiteId(random.index(sites)),
        up: rate(random),
        down: rate(random),
        disk: None,
        hash: None,
        cache: random.chance(0.3).then(|| random.between(1, 1 << 24)),
        join: latency(random, 5 * SECONDS),
        session: comes_and_goes.then(|| Distribution::uniform(SECONDS, 60 * SECONDS)),
        absence: (comes_and_goes && random.chance(0.8))
            .then(|| Distribution::uniform(SECONDS, 30 * SECONDS)),
        keeps_store: random.chance(0.7),
        engine: None,
    }
}

fn edge(random: &mut Random) -> Edge {
    Edge {
        first_byte: latency(random, 200 * MILLIS),
        rate_per_connection: rate(random),
        rate: rate(random),
        error_rate: if random.chance(0.3) { random.unit() * 0.5 } else { 0.0 },
    }
}

fn dht(random: &mut Random) -> Dht {
    let (k, alpha) = (1 + random.index(20), 1 + random.index(4));
    Dht { k, alpha, timeout: Duration::from_secs(random.between(1, 10)), ..Dht::default() }
}

fn blob_set(index: u64, groups: usize, edge: bool, random: &mut Random) -> BlobSet {
    let sizes = Distribution { shape: Shape::Uniform, min: 0, max: 1 << random.between(1, 25) };
    let holders = 0..random.below(3);
    let held_by = holders.map(|_| HeldBy {
        group: GroupId(random.index(groups)),
        copies: 1 + random.index(4),
        advertised: random.chance(0.5),
    });
    let held_by = held_by.collect();
    BlobSet {
        name: format!("set-{index}"),
        count: 1 + random.index(12),
        size: sizes,
        held_by,
        on_edge: edge && random.chance(0.6),
    }
}

fn workload(groups: usize, sets: usize, random: &mut Random) -> Workload {
    let blobs = BlobSetId(random.index(sets));
    let kind = match random.below(4) {
        0 => {
            WorkloadKind::Zipf { blobs, exponent: random.unit() * 1.5, gets: random.between(1, 30) }
        }
        1 => WorkloadKind::Add {
            blobs: random.between(1, 40),
            size: Distribution::uniform(0, 1 << 20),
            advertised: random.chance(0.5),
        },
        _ => WorkloadKind::PullSet { blobs, shuffled: random.chance(0.5), share: random.unit() },
    };
    Workload {
        group: GroupId(random.index(groups)),
        start: latency(random, 10 * SECONDS),
        think: latency(random, SECONDS),
        parallel: 1 + random.index(8),
        timeout: random.chance(0.2).then(|| Duration::from_secs(random.between(1, 60))),
        kind,
    }
}

fn fault(sites: usize, groups: usize, random: &mut Random) -> Fault {
    let nodes = |random: &mut Random| Nodes::Group {
        group: GroupId(random.index(groups)),
        part: match random.below(3) {
            0 => Part::All,
            1 => Part::Share(random.unit()),
            _ => Part::Count(1 + random.index(3)),
        },
    };
    let kind = match random.below(8) {
        0 | 1 => FaultKind::Kill { nodes: nodes(random) },
        2 => FaultKind::Partition { a: nodes(random), b: nodes(random) },
        3 => FaultKind::Slow { nodes: nodes(random), rate: random.between(50_000, 1_000_000) },
        4 => FaultKind::EdgeOutage,
        5 => FaultKind::UplinkOutage { site: SiteId(random.index(sites)) },
        6 => FaultKind::DhtOutage,
        _ => FaultKind::Malicious { nodes: nodes(random), behaviour: behaviour(random) },
    };
    Fault {
        at: Duration::from_nanos(random.below(30 * SECONDS)),
        lasts: random.chance(0.8).then(|| Duration::from_nanos(random.below(60 * SECONDS))),
        kind,
    }
}

fn behaviour(random: &mut Random) -> Behaviour {
    match random.below(6) {
        0 => Behaviour::Corrupt,
        1 => Behaviour::Stall,
        2 => Behaviour::FalseHave,
        3 => Behaviour::FullFilter,
        4 => Behaviour::EmptyFilter,
        _ => Behaviour::FalseProvider,
    }
}

/// Makes a configuration whose bounds are small enough to be reached.
fn config(random: &mut Random) -> Config {
    let default = Config::default();
    if random.chance(0.5) {
        return default;
    }
    Config {
        neighbours_max: 1 + random.index(8),
        asks_parallel_max: 1 + random.index(8),
        asks_per_neighbour_max: 1 + random.index(8),
        fetches_per_peer_max: 1 + random.index(4),
        serves_max: 1 + random.index(8),
        serves_per_peer_max: 1 + random.index(4),
        resolutions_max: 1 + random.index(64),
        adverts_max: 1 + random.index(10),
        bans_max: 1 + random.index(3),
        ..default
    }
}

fn latency(random: &mut Random, max: u64) -> Distribution {
    let top = random.between(1, max);
    match random.below(3) {
        0 => Distribution::constant(top),
        1 => Distribution::uniform(0, top),
        _ => Distribution {
            shape: Shape::Lognormal { median: top, sigma: 0.5 },
            min: 0,
            max: max.saturating_mul(10),
        },
    }
}

fn rate(random: &mut Random) -> Option<u64> {
    random.chance(0.8).then(|| 1_000 << random.between(6, 20))
}
