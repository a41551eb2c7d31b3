//! The herd over hundreds of worlds: what a whole office wants crosses its uplink once.
//!
//! Each seed is an office of two to twenty-four nodes that want one blob, of which only the edge has a copy, within
//! a second. In half of them one is killed under way, and in half of them words take long, as between machines that
//! have much to do. The test prints its worst seeds:
//! `cargo test -p blobmesh-simulations --test herd -- --nocapture`.

#![allow(clippy::print_stdout, reason = "the worst seeds are what one looks for")]
#![allow(clippy::cast_precision_loss, reason = "sizes far below 2^52 become ratios")]

use std::time::Duration;

use blobmesh_simulations::outcome::Outcome;
use blobmesh_simulations::plan::{Canned, Source};
use blobmesh_simulations::random::Random;
use blobmesh_simulations::world::{RunOptions, run_plan};

const SEEDS: u64 = 200;
const MIB: u64 = 1 << 20;
/// The range that one node asks the edge for.
const RANGE: u64 = 4 * MIB;
/// The share of the blob that may come from the edge twice, and the ranges that a killed node had under way.
const TWICE_SHARE: f64 = 0.05;
const KILLED_RANGES: u64 = 2;
/// How much longer the last one may take than the uplink alone, and what finding each other and the first list
/// may take beside it.
const FINISH_FACTOR: f64 = 1.4;
const FINISH_GRACE: f64 = 1.5;
/// How long a word takes in the middle of an office, in milliseconds, and of a slow one at most.
const WORD_MS: f64 = 0.25;
const SLOW_WORD_MS: f64 = 40.0;
/// After so many times what a word takes, nearly all have heard it.
const HEARD_WORDS: f64 = 4.0;
/// How many words one after the other a get may wait for.
const WORDS: f64 = 100.0;

struct Case {
    nodes: u64,
    size: u64,
    mbps: u64,
    killed: bool,
    /// How much later than the first the last one begins at most, in seconds.
    spread: f64,
    /// How long a word takes between two nodes, in seconds.
    word: f64,
    text: String,
}

#[test]
fn office_takes_one_copy_from_the_edge_whoever_is_killed() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let shares: Vec<(f64, u64, Vec<String>)> = std::thread::scope(|scope| {
        let of_share =
            |share| scope.spawn(move || run_share((0..SEEDS).skip(share).step_by(threads)));
        let running: Vec<_> = (0..threads).map(of_share).collect();
        running.into_iter().map(|share| share.join().expect("a share of the seeds")).collect()
    });
    let worst = shares.iter().map(|share| (share.0, share.1)).max_by(|a, b| a.0.total_cmp(&b.0));
    println!("most copies without a kill: {worst:?} (copies, seed)");
    let faults: Vec<String> = shares.into_iter().flat_map(|share| share.2).collect();
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}

fn run_share(seeds: impl Iterator<Item = u64>) -> (f64, u64, Vec<String>) {
    let (mut worst, mut worst_seed, mut faults) = (0.0, 0, Vec::new());
    for seed in seeds {
        let case = case_of(seed);
        let plan = Source::parse("herd.toml", &case.text).and_then(|source| source.plan());
        let plan = plan.expect("a sound plan");
        let outcome = run_plan(&plan, &RunOptions::default(), |_| ()).expect("an outcome");
        let copies = of(&outcome, "edge.bytes") / case.size as f64;
        if !case.killed && copies > worst {
            (worst, worst_seed) = (copies, seed);
        }
        let (nodes, mib, mbps, word) = (case.nodes, case.size / MIB, case.mbps, case.word * 1e3);
        let about = format!("{nodes} nodes, {mib} MiB, {mbps} Mbit/s, words of {word:.1} ms");
        let told = faults_of(&case, &outcome).into_iter();
        faults.extend(told.map(|fault| format!("seed {seed} ({about}): {fault}")));
    }
    (worst, worst_seed, faults)
}

fn of(outcome: &Outcome, metric: &str) -> f64 {
    outcome.summary.get(metric).copied().unwrap_or(f64::NAN)
}

fn faults_of(case: &Case, outcome: &Outcome) -> Vec<String> {
    let mut faults = outcome.violations.clone();
    for row in outcome.fetches.iter().filter(|row| row.result != "ok" && row.result != "killed") {
        faults.push(format!("{} ended {} after {} ns", row.node, row.result, row.took_ns));
    }
    let killed = if case.killed { KILLED_RANGES * RANGE } else { 0 };
    // The edge's bytes may come sooner than a word, and what has begun to come is not let go.
    let unheard = if case.word * 1e3 > WORD_MS { RANGE } else { 0 };
    // A short blob is a few blocks: one of them may come twice.
    let bytes_max = case.size as f64 * (1.0 + TWICE_SHARE) + (killed + unheard + MIB) as f64;
    let bytes = of(outcome, "edge.bytes");
    if bytes > bytes_max {
        faults.push(format!("{:.3} copies from the edge", bytes / case.size as f64));
    }
    let ranges = case.size.div_ceil(RANGE) as f64;
    // Those who begin together may ask together: before the first of them can have heard of another.
    let together = (case.word * HEARD_WORDS / case.spread).min(1.0) * case.nodes as f64;
    let requests_max = ranges * 1.1 + 4.0 + together + if case.killed { 4.0 } else { 0.0 };
    let requests = of(outcome, "edge.requests");
    if requests > requests_max {
        faults.push(format!("{requests} requests for {ranges} ranges"));
    }
    let alone = case.size as f64 * 8.0 / (case.mbps as f64 * 1e6);
    let ends = outcome.fetches.iter().map(|row| row.start_ns + row.took_ns).max().unwrap_or(0);
    let first = outcome.fetches.iter().map(|row| row.start_ns).min().unwrap_or(0);
    let took = Duration::from_nanos(ends - first).as_secs_f64();
    let grace = FINISH_GRACE + case.word * WORDS;
    if !case.killed && took > alone * FINISH_FACTOR + grace + case.spread {
        faults.push(format!("took {took:.2} s, {alone:.2} s on the uplink"));
    }
    faults
}

fn case_of(seed: u64) -> Case {
    let mut random = Random::new(seed).fork("herd", 0);
    let nodes = 2 + random.below(23);
    let size = random.between(MIB / 2, 96 * MIB);
    let mbps = random.between(20, 500);
    let killed = random.chance(0.5);
    let (latency, spread) = (random.between(1, 40), random.between(0, 1_000));
    let word_ms = if random.chance(0.5) { random.unit() * SLOW_WORD_MS } else { WORD_MS };
    let alone = size as f64 * 8.0 / (mbps as f64 * 1e6);
    let at = 5.0 + random.unit() * alone;
    let kill =
        format!("[[event]]\nat = \"{at:.3}s\"\nkill = {{ group = \"node\", share = 0.01 }}\n");
    let text = format!(
        "name = \"herd\"\nabout = \"a random office\"\nseed = {seed}\nduration = \"30m\"\n\
         [[site]]\nname = \"office\"\nlatency = {{ dist = \"lognormal\", median = \"{word_ms:.3}ms\", sigma = 0.6, max = \"1s\" }}\n\
         uplink = {{ down = \"{mbps}Mbps\", up = \"{mbps}Mbps\", latency = \"{latency}ms\" }}\n\
         [[group]]\nname = \"node\"\ncount = {nodes}\n[edge]\n[[blobs]]\nname = \"big\"\nsize = \"{size}B\"\n\
         [[workload]]\nkind = \"pull_set\"\nblobs = \"big\"\nstart = {{ dist = \"uniform\", min = \"5s\", max = \"{}ms\" }}\n{}",
        5_000 + spread,
        if killed { kill.as_str() } else { "" },
    );
    Case { nodes, size, mbps, killed, spread: spread as f64 / 1e3, word: word_ms / 1e3, text }
}

/// The most copies of what a site wants that may come from the edge, though a node knows a part of it only.
const SITE_COPIES: f64 = 1.05;

#[test]
fn site_of_more_nodes_than_anybody_knows_takes_one_copy() {
    let mut source = Canned::find("edge-savings").and_then(|canned| canned.source().ok());
    let source = source.as_mut().expect("a canned plan");
    let settings = ["group.node.count=100", "workload.builds.gets=10", "blobs.artefacts.count=200"];
    settings.into_iter().for_each(|setting| source.set(setting).expect(setting));
    let plan = source.plan().expect("it is right");
    let outcome = run_plan(&plan, &RunOptions::default(), |_| ()).expect("an outcome");
    assert_eq!(outcome.violations, Vec::<String>::new());
    assert_eq!(of(&outcome, "gets.failed"), 0.0);
    let copies = of(&outcome, "edge.bytes") / of(&outcome, "unique.bytes");
    assert!(copies <= SITE_COPIES, "{copies:.3} copies");
    let known = of(&outcome, "neighbours.mean");
    assert!((60.0..=64.0).contains(&known), "{known} neighbours");
}

/// The same of a crowd that comes within a second, where nobody has anything yet to tell of but claims.
const CROWD_COPIES: f64 = 1.25;

#[test]
fn crowd_of_more_nodes_than_anybody_knows_takes_one_copy() {
    let mut source = Canned::find("flash-crowd").and_then(|canned| canned.source().ok());
    let source = source.as_mut().expect("a canned plan");
    let settings =
        ["group.runner.count=100", "engine.neighbours_max=24", "blobs.image.size=256MiB"];
    settings.into_iter().for_each(|setting| source.set(setting).expect(setting));
    let plan = source.plan().expect("it is right");
    let outcome = run_plan(&plan, &RunOptions::default(), |_| ()).expect("an outcome");
    assert_eq!(outcome.violations, Vec::<String>::new());
    assert_eq!(of(&outcome, "gets.ok"), 100.0);
    let copies = of(&outcome, "edge.bytes") / of(&outcome, "unique.bytes");
    assert!(copies <= CROWD_COPIES, "{copies:.3} copies");
}
