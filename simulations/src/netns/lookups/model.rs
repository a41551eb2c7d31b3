//! The same searches in a world, and what of its numbers they set.

use std::time::Duration;

use blobmesh_protocol::{Config, Hash, engine::receipt::Found};

use super::{LookupCell, Lookups, Searches, compare};
use crate::{
    plan::{self, Distribution, Site},
    stats,
    world::{Calibration, Ended, NodeIndex, NodeSpec, World},
};

/// With how many seeds each cell is simulated: each has nodes of other names.
const SEEDS: u64 = 4;

/// What real nodes' users do, which `mesh` says: searches of each node, pauses, blobs.
const WARM_SEARCHES: usize = 3;
const FILL_PAUSE: Duration = Duration::from_secs(12);
const QUIET_PAUSE: Duration = Duration::from_secs(101);
const VAIN_OF: usize = 2;
const BLOB_BYTES: u64 = 8 << 10;

/// How long a user takes between two commands.
const TYPING: Duration = Duration::from_millis(30);

/// How long a get may take in a world, and how often it is looked whether it has ended.
const GET_LIMIT: Duration = Duration::from_secs(30);
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// How often a range that holds a number is halved.
const HALVINGS: u32 = 12;

/// What the processor may take of a question and of a dial.
const PROCESSOR_TIME_MAX: Duration = Duration::from_millis(50);

/// In how many round trips a dial may be done.
const DIAL_ROUND_TRIPS: std::ops::RangeInclusive<u32> = 1..=6;

/// Names a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupModel {
    /// The simulator's own.
    Right,
    /// One whose packets take twice as long.
    DoubleLatency,
    /// One in which a new connection costs nothing.
    FreeDials,
}

impl LookupModel {
    /// All models, the right one first.
    pub const ALL: [Self; 3] = [Self::Right, Self::DoubleLatency, Self::FreeDials];

    /// Returns what the model is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::DoubleLatency => "double-latency",
            Self::FreeDials => "free-dials",
        }
    }

    /// Has the nodes of a cell search in worlds.
    pub(super) fn searches(self, cell: &LookupCell, calibration: &Calibration) -> Searches {
        let mut searches = Searches::default();
        for seed in 1..=SEEDS {
            let mut mesh = self.mesh(cell, seed, calibration);
            mesh.warm(&mut searches);
            mesh.cold(&mut searches);
        }
        searches
    }

    fn mesh(self, cell: &LookupCell, seed: u64, calibration: &Calibration) -> Mesh {
        let factor = if self == Self::DoubleLatency { 2 } else { 1 };
        let latency = Distribution::constant(cell.latency_us * 1_000 * factor);
        let mut calibration = calibration.clone();
        if self == Self::FreeDials {
            (calibration.dial, calibration.dial_round_trips) = (Duration::ZERO, 0);
        }
        let mut world = World::calibrated(seed, calibration);
        world.add_site(&Site { latency, ..Site::office("lan") });
        world.set_dht(&plan::Dht::default());
        let config = Config { edge: false, ..Config::default() };
        let nodes: Vec<NodeIndex> =
            (0..cell.nodes).map(|_| world.add_node(NodeSpec::new(config.clone()))).collect();
        if let Some((first, others)) = nodes.split_first() {
            others.iter().for_each(|other| world.link(*first, *other));
        }
        world.run_for(FILL_PAUSE);
        Mesh { world, nodes, seed }
    }
}

/// Is a world whose nodes know each other by the DHT alone, but for the first, whom all know.
struct Mesh {
    world: World,
    nodes: Vec<NodeIndex>,
    seed: u64,
}

impl Mesh {
    /// Has every node search in vain, over connections that it has.
    fn warm(&mut self, searches: &mut Searches) {
        for node in self.nodes.clone() {
            self.search_in_vain(node);
            for _ in 0..WARM_SEARCHES {
                searches.warm.extend(self.search_in_vain(node));
            }
        }
    }

    /// Has every node search in vain or get an advertised blob, after all connections were idle.
    fn cold(&mut self, searches: &mut Searches) {
        let hashes: Vec<Hash> =
            (1_u64..).zip(self.nodes.iter().skip(1)).map(|(number, _)| self.hash(number)).collect();
        for (node, hash) in self.nodes.clone().into_iter().skip(1).zip(&hashes) {
            self.world.add_blob(node, *hash, BLOB_BYTES);
        }
        self.world.run_for(QUIET_PAUSE);
        for (number, node) in self.nodes.clone().into_iter().enumerate() {
            if number % VAIN_OF == 0 {
                searches.cold.extend(self.search_in_vain(node));
            } else if let Some(hash) = hashes.get((number + hashes.len() / 2) % hashes.len().max(1))
            {
                self.get(node, *hash, searches);
            }
        }
    }

    fn search_in_vain(&mut self, node: NodeIndex) -> Option<f64> {
        let ended = self.ended(node, self.hash(0))?;
        let search = ended.receipt.search.filter(|search| search.ended)?;
        Some(search.took.as_secs_f64())
    }

    fn get(&mut self, node: NodeIndex, hash: Hash, searches: &mut Searches) {
        searches.gets += 1;
        let Some(ended) = self.ended(node, hash) else { return };
        if ended.receipt.found == Some(Found::Dht) {
            searches.found += 1;
            searches.named.push(ended.receipt.phases.find.as_secs_f64());
            searches.first_group.push(ended.receipt.phases.first_group.as_secs_f64());
        }
    }

    /// Has a node want a blob, and waits for the end.
    fn ended(&mut self, node: NodeIndex, hash: Hash) -> Option<Ended> {
        self.world.run_for(TYPING);
        self.world.get(node, hash);
        let until = self.world.now() + GET_LIMIT;
        while self.world.now() < until {
            self.world.run_for(LOOK_PAUSE);
            if let Some(ended) = self.world.take_ended().pop() {
                return Some(ended);
            }
        }
        None
    }

    /// Returns the hash of a blob by its number; nobody has number 0.
    fn hash(&self, number: u64) -> Hash {
        let text = format!("blob {number} of seed {}", self.seed);
        Hash::from_bytes(*blake3::hash(text.as_bytes()).as_bytes())
    }
}

/// Sets what the processor takes of a question and of a dial, and in how many round trips one is done, by the
/// cells that are not held out: so that the median errors of searches over connections and of those without
/// are none, and those of single cells small.
pub fn fitted(lookups: &Lookups, calibration: &Calibration) -> Calibration {
    let cells = lookups.cells.iter().filter(|measured| !measured.cell.held_out).cloned();
    let calibrating = Lookups { cells: cells.collect(), ..lookups.clone() };
    let question = halved(|question| {
        let tried = Calibration { question, ..calibration.clone() };
        middle(&errors(&calibrating, &tried, "warm"))
    });
    let with_question = Calibration { question, ..calibration.clone() };
    let with_dial = |dial_round_trips| {
        let of = |dial| Calibration { dial, dial_round_trips, ..with_question.clone() };
        of(halved(|dial| middle(&errors(&calibrating, &of(dial), "cold"))))
    };
    let worst = |tried: &Calibration| {
        errors(&calibrating, tried, "cold").into_iter().map(f64::abs).fold(0.0, f64::max)
    };
    let tried = DIAL_ROUND_TRIPS.map(with_dial);
    let best = tried.min_by(|one, other| worst(one).total_cmp(&worst(other)));
    best.unwrap_or(with_question)
}

fn errors(lookups: &Lookups, calibration: &Calibration, name: &str) -> Vec<f64> {
    let rows = compare(lookups, calibration, LookupModel::Right);
    let of = |quantities: Vec<super::Quantity>| {
        quantities.into_iter().find(|quantity| quantity.name == name).map(|found| found.error())
    };
    rows.into_iter().filter_map(|row| of(row.quantities)).collect()
}

fn middle(errors: &[f64]) -> f64 {
    stats::median(&stats::sorted(errors.iter().copied())).unwrap_or(0.0)
}

/// Finds the time at which a rising error is none.
fn halved(error: impl Fn(Duration) -> f64) -> Duration {
    let (mut low, mut high) = (Duration::ZERO, PROCESSOR_TIME_MAX);
    for _ in 0..HALVINGS {
        let middle = (low + high) / 2;
        if error(middle) > 0.0 { high = middle } else { low = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_found_at_which_a_rising_error_is_none() {
        for micros in [0, 700, 20_000] {
            let wanted = Duration::from_micros(micros);
            let found = halved(|time| time.as_secs_f64() - wanted.as_secs_f64());
            assert!(found.abs_diff(wanted) <= Duration::from_micros(20), "{found:?}");
        }
        assert!(halved(|_| -1.0) > PROCESSOR_TIME_MAX - Duration::from_micros(20), "it is bounded");
    }
}
