//! The swarm over a thousand worlds: every get ends, nobody fetches what is on its way, all links are used.
//!
//! Each seed is a small world of one to three holders and one to eight getters of one blob, with links and
//! delays of its own. In half of them one holder dies, stalls, slows or corrupts. The test prints its worst
//! seeds: `cargo test -p blobmesh-simulations --test swarm -- --nocapture`.

#![allow(clippy::print_stdout, reason = "the worst seeds are what one looks for")]
#![allow(clippy::cast_precision_loss, reason = "sizes far below 2^52 become ratios")]

use std::time::Duration;

use blobmesh_protocol::Config;
use blobmesh_simulations::outcome::Outcome;
use blobmesh_simulations::plan::{
    Behaviour, BlobSet, BlobSetId, Distribution, Fault, FaultKind, Group, GroupId, HeldBy, Metrics,
    Nodes, Part, Plan, Shape, Site, SiteId, Sweep, Workload, WorkloadKind,
};
use blobmesh_simulations::random::Random;
use blobmesh_simulations::world::{RunOptions, run_plan};

const SEEDS: u64 = 1_000;
const MIB: u64 = 1 << 20;
const MILLIS: u64 = 1_000_000;
/// A world without faults ends within so many times its bound, and this much more for finding each other
/// and for the end game.
const FINISH_FACTOR: f64 = 2.5;
const FINISH_GRACE: f64 = 1.6;
/// The share of bytes that may come twice, and the blocks of the end game that each getter may see twice.
const DUPLICATE_SHARE: f64 = 0.01;
const DUPLICATE_BLOCKS: u64 = 2;

/// Is a world, and what it may take at best.
struct Case {
    plan: Plan,
    size: u64,
    getters: usize,
    /// Seconds that the links need, were they used to the full from the first moment.
    bound: f64,
    faulty: bool,
    about: String,
}

#[test]
fn thousand_swarms_end_without_waste_whatever_befalls_a_holder() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let shares: Vec<Tally> = std::thread::scope(|scope| {
        let of_share =
            |share| scope.spawn(move || run_share((0..SEEDS).skip(share).step_by(threads)));
        let running: Vec<_> = (0..threads).map(of_share).collect();
        running.into_iter().map(|share| share.join().expect("a share of the seeds")).collect()
    });
    let worst = |of: fn(&Tally) -> (f64, u64)| {
        shares.iter().map(of).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default()
    };
    let (slowest, most_twice) = (worst(|share| share.slowest), worst(|share| share.most_twice));
    println!("slowest without faults: seed {}, {:.2} times its bound", slowest.1, slowest.0);
    println!("most twice: seed {}, {:.2} blocks a getter", most_twice.1, most_twice.0);
    let faults: Vec<String> = shares.into_iter().flat_map(|share| share.faults).collect();
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}

/// Is what some of the seeds gave: the worst of them, with their seeds, and all that was wrong.
#[derive(Default)]
struct Tally {
    slowest: (f64, u64),
    most_twice: (f64, u64),
    faults: Vec<String>,
}

fn run_share(seeds: impl Iterator<Item = u64>) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds {
        let case = case_of(seed);
        let outcome = run_plan(&case.plan, &RunOptions::default(), |_| ()).expect("a sound plan");
        let (finish, twice) = (finish_of(&outcome), twice_of(&outcome));
        let stretch = (finish - FINISH_GRACE) / case.bound;
        let blocks = twice / (MIB * case.getters as u64) as f64;
        if !case.faulty && stretch > tally.slowest.0 {
            tally.slowest = (stretch, seed);
        }
        if blocks > tally.most_twice.0 {
            tally.most_twice = (blocks, seed);
        }
        let told = faults_of(&case, &outcome).into_iter();
        tally.faults.extend(told.map(|fault| format!("seed {seed} ({}): {fault}", case.about)));
    }
    tally
}

fn finish_of(outcome: &Outcome) -> f64 {
    let ends = outcome.fetches.iter().map(|row| row.start_ns + row.took_ns);
    let first = outcome.fetches.iter().map(|row| row.start_ns).min().unwrap_or(0);
    Duration::from_nanos(ends.max().unwrap_or(0) - first).as_secs_f64()
}

fn twice_of(outcome: &Outcome) -> f64 {
    outcome.summary.get("duplicate.bytes").copied().unwrap_or(0.0)
}

fn faults_of(case: &Case, outcome: &Outcome) -> Vec<String> {
    let mut faults = outcome.violations.clone();
    if outcome.fetches.len() != case.getters {
        faults.push(format!("{} of {} gets", outcome.fetches.len(), case.getters));
    }
    for row in outcome.fetches.iter().filter(|row| row.result != "ok") {
        faults.push(format!("{} ended {} after {} ns", row.node, row.result, row.took_ns));
    }
    let (finish, twice) = (finish_of(outcome), twice_of(outcome));
    let wanted = case.size as f64 * case.getters as f64;
    let blocks = (DUPLICATE_BLOCKS * MIB) as f64 * case.getters as f64;
    if twice > wanted * DUPLICATE_SHARE + blocks {
        faults.push(format!("{twice} bytes twice of {wanted}"));
    }
    if !case.faulty && finish > case.bound * FINISH_FACTOR + FINISH_GRACE {
        faults.push(format!("took {finish:.2} s, {:.2} s at best", case.bound));
    }
    faults
}

/// Makes the world of a seed.
fn case_of(seed: u64) -> Case {
    let mut random = Random::new(seed).fork("swarm", 0);
    let (holders, getters) = (1 + random.index(3), 1 + random.index(8));
    // A few are long; many short ones try more beginnings and ends in the same time.
    let most = if random.chance(0.05) { 48 } else { 8 };
    let size = random.between(4 * MIB, most * MIB);
    let faulty = random.chance(0.5);
    let holder = group("holder", holders, &mut random);
    let getter = group("getter", getters, &mut random);
    let bound = bound_of(size, (&holder, holders), (&getter, getters));
    let faults = if faulty { vec![fault(bound, holders, &mut random)] } else { Vec::new() };
    let plan = Plan {
        name: "swarm".to_owned(),
        about: "a random small swarm".to_owned(),
        seed,
        duration: Duration::from_secs(3_600),
        engine: Config::default(),
        dht: None,
        sites: vec![site(&mut random)],
        groups: vec![holder, getter],
        edge: None,
        blobs: vec![blob(size, holders)],
        workloads: vec![pull(&mut random)],
        faults,
        metrics: Metrics { every: Duration::from_secs(60), filter_looks: 0 },
        asserts: Vec::new(),
        sweep: Sweep::default(),
    };
    let about = format!(
        "{holders} to {getters}, {} MiB, {:?}",
        size / MIB,
        plan.faults.first().map(|f| &f.kind)
    );
    Case { plan, size, getters, bound, faulty, about }
}

/// Returns the seconds that a swarm needs at least: one copy through the holders' uplinks, one through a
/// getter's own link, and all copies through the uplinks of all.
fn bound_of(
    size: u64,
    (holder, holders): (&Group, usize),
    (getter, getters): (&Group, usize),
) -> f64 {
    let rate = |rate: Option<u64>| rate.map_or(f64::INFINITY, |rate| rate as f64);
    let (given, size) = (rate(holder.up) * holders as f64, size as f64);
    let all = given + rate(getter.up) * (getters - 1) as f64;
    (size / given).max(size / rate(getter.down)).max(size * getters as f64 / all)
}

fn site(random: &mut Random) -> Site {
    Site {
        latency: Distribution::uniform(0, random.between(MILLIS / 10, 5 * MILLIS)),
        discovery: Some(Distribution::uniform(0, random.between(1, 100 * MILLIS))),
        ..Site::office("lan")
    }
}

fn group(name: &str, count: usize, random: &mut Random) -> Group {
    Group {
        name: name.to_owned(),
        count,
        site: SiteId(0),
        up: Some(random.between(4, 125) * 1_000_000),
        down: Some(random.between(4, 125) * 1_000_000),
        disk: None,
        hash: None,
        cache: None,
        join: Distribution::constant(0),
        session: None,
        absence: None,
        keeps_store: true,
        engine: None,
    }
}

fn blob(size: u64, copies: usize) -> BlobSet {
    let size = Distribution { shape: Shape::Constant(size), min: size, max: size };
    let held_by = vec![HeldBy { group: GroupId(0), copies, advertised: false }];
    BlobSet { name: "blob".to_owned(), count: 1, size, on_edge: false, held_by }
}

fn pull(random: &mut Random) -> Workload {
    let spread = random.between(1, 500) * MILLIS;
    Workload {
        group: GroupId(1),
        start: Distribution::uniform(1_000 * MILLIS, 1_000 * MILLIS + spread),
        think: Distribution::constant(0),
        parallel: 1,
        timeout: None,
        kind: WorkloadKind::PullSet { blobs: BlobSetId(0), shuffled: false, share: 1.0 },
    }
}

fn fault(bound: f64, holders: usize, random: &mut Random) -> Fault {
    let nodes = Nodes::Group { group: GroupId(0), part: Part::Indexes(0..1) };
    let at = Duration::from_secs_f64(1.0 + random.unit() * bound);
    // Which trouble the others can make good without the one who is in it.
    let kinds = if holders > 1 { 4 } else { 1 };
    let rate = if holders > 1 { 64 << 10 } else { 1_000_000 };
    let kind = match random.below(kinds) {
        0 => FaultKind::Slow { nodes, rate },
        1 => FaultKind::Kill { nodes },
        2 => FaultKind::Malicious { nodes, behaviour: Behaviour::Stall },
        _ => FaultKind::Malicious { nodes, behaviour: Behaviour::Corrupt },
    };
    let lasts = (holders == 1).then(|| Duration::from_secs(10));
    Fault { at, lasts, kind }
}
