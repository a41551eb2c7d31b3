//! The cells of a validation: how many nodes, how fast and how far, what they want, and whether one is
//! killed.

use std::time::Duration;

use crate::{
    compare::Bounds,
    output::Settings,
    plan::{Plan, PlanError, Source},
};

const CROWD: &str = include_str!("cell.toml");
const KILL: &str = include_str!("kill.toml");
const SERIES: &str = include_str!("series.toml");

/// The time from node to node on a LAN.
const NEAR: Duration = Duration::from_micros(200);

/// What is bounded in each cell of a crowd, and in each of a series.
const CROWD_METRICS: [&str; 5] =
    ["finish.p50", "finish.p95", "local.bytes", "lan.bytes", "edge.bytes"];
const SERIES_METRICS: [&str; 5] =
    ["fetch.p50", "fetch.p95", "local.bytes", "lan.bytes", "edge.bytes"];

/// What the times of single gets may be off by: as much as those of whole nodes.
const FETCH_BOUNDS: [&str; 2] = ["fetch.p50=15%", "fetch.p95=25%"];

/// Says what the getters of a cell want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// All at once one blob that needs the holder's wire for seconds: rates decide.
    Crowd,
    /// One after another many blobs of a few groups: round trips decide.
    Series,
}

/// Is one cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// How many nodes, the holder included.
    pub nodes: u64,
    /// What every wire carries.
    pub rate_mbit: u64,
    /// How long a packet takes from node to node.
    pub latency: Duration,
    /// What the getters want.
    pub load: Load,
    /// Whether the first getter is killed for two seconds.
    pub kill: bool,
    /// Whether the cell is held out of the calibration.
    pub held_out: bool,
}

impl Cell {
    /// Returns all cells. Each value of each axis is as often held out as not.
    pub fn all() -> Vec<Self> {
        [Self::crowds(), Self::series()].concat()
    }

    fn crowds() -> Vec<Self> {
        let mut cells = Vec::new();
        for (by_nodes, nodes) in [2, 4, 8].into_iter().enumerate() {
            for (by_rate, rate_mbit) in [100, 500].into_iter().enumerate() {
                for (by_kill, kill) in [false, true].into_iter().enumerate() {
                    let held_out = (by_nodes + by_rate + by_kill) % 2 == 1;
                    let (latency, load) = (NEAR, Load::Crowd);
                    cells.push(Self { nodes, rate_mbit, latency, load, kill, held_out });
                }
            }
        }
        cells
    }

    fn series() -> Vec<Self> {
        let mut cells = Vec::new();
        for (by_nodes, nodes) in [2, 4].into_iter().enumerate() {
            for (by_latency, millis) in [5, 20].into_iter().enumerate() {
                let held_out = (by_nodes + by_latency) % 2 == 1;
                let (latency, load) = (Duration::from_millis(millis), Load::Series);
                cells.push(Self { nodes, rate_mbit: 100, latency, load, kill: false, held_out });
            }
        }
        cells
    }

    /// Returns the length of a blob. That of a crowd is so long that the holder's wire alone needs 6, 12 or
    /// 18 seconds for all getters.
    pub fn bytes(&self) -> u64 {
        if self.load == Load::Series {
            return 128 << 10;
        }
        let seconds = match self.nodes {
            0..=2 => 6,
            3..=4 => 12,
            _ => 18,
        };
        self.rate_mbit * 125_000 * seconds / (self.nodes - 1).max(1)
    }

    /// Returns what is bounded in the cell, the time in the middle and that of the slow first. Of a series
    /// it is the single get: between two of them a user starts a process, which is none of the mesh's time.
    pub fn metrics(&self) -> [&'static str; 5] {
        match self.load {
            Load::Crowd => CROWD_METRICS,
            Load::Series => SERIES_METRICS,
        }
    }

    /// Returns what may be off by how much in the cell; the bytes of a tier by a share of all. What a killed
    /// node has kept of a blob hangs on the moment at which it last had no fetch of it: a few bytes or none.
    pub fn bounds(&self) -> Bounds {
        let mut bounds = Bounds::default();
        for bound in FETCH_BOUNDS {
            // A test holds that these are bounds.
            let _set = bounds.set(bound);
        }
        bounds.only(&self.metrics()).with_tiers_of_all()
    }

    /// Returns what the cell sets, as results name it.
    pub fn settings(&self) -> Settings {
        let word = if self.kill { "yes" } else { "no" };
        [
            ("nodes", self.nodes.to_string()),
            ("rate", format!("\"{}Mbps\"", self.rate_mbit)),
            ("latency", format!("\"{}us\"", self.latency.as_micros())),
            ("kill", format!("\"{word}\"")),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    /// Returns the cell in words.
    pub fn name(&self) -> String {
        let kill = if self.kill { ", one killed" } else { "" };
        match self.load {
            Load::Crowd => format!("{} nodes, {} Mbit/s{kill}", self.nodes, self.rate_mbit),
            Load::Series => {
                format!("{} nodes, small blobs, {} ms", self.nodes, self.latency.as_millis())
            }
        }
    }

    /// Returns the plan's text.
    pub fn text(&self) -> String {
        let text = match self.load {
            Load::Crowd => CROWD,
            Load::Series => SERIES,
        };
        if self.kill { format!("{text}{KILL}") } else { text.to_owned() }
    }

    /// Makes the plan of a seed.
    ///
    /// # Errors
    /// None with the text that this program has; a test makes them all.
    pub fn plan(&self, seed: u64) -> Result<Plan, PlanError> {
        let mut source = Source::parse("validation", &self.text())?;
        let rate = format!("{}Mbps", self.rate_mbit);
        for setting in [
            format!("seed={seed}"),
            format!("site.lan.latency={}us", self.latency.as_micros()),
            format!("group.getter.count={}", self.nodes - 1),
            format!("group.holder.bandwidth={rate}"),
            format!("group.getter.bandwidth={rate}"),
            format!("blobs.blob.size={}B", self.bytes()),
        ] {
            source.set(&setting)?;
        }
        source.plan()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{netns::replay::cast, script::Script};

    #[test]
    fn every_cell_is_a_plan_that_can_be_replayed() {
        for cell in Cell::all() {
            let plan = cell.plan(7).unwrap();
            let layout = cast::layout_of(&plan, &Script::of(&plan), 12 << 30).unwrap();
            assert_eq!(layout.sites[0].hosts.len() as u64, cell.nodes, "{cell:?}");
            assert_eq!(layout.sites[0].hosts[0].delay * 2, cell.latency);
            assert_eq!(plan.faults.len(), usize::from(cell.kill));
            assert_eq!(plan.seed, 7);
        }
    }

    #[test]
    fn every_cell_bounds_its_own_times_and_all_tiers() {
        for cell in Cell::all() {
            let bounds = cell.bounds();
            let [median, slow, bytes @ ..] = cell.metrics();
            assert_eq!((bounds.of(median), bounds.of(slow)), (Some(0.15), Some(0.25)), "{cell:?}");
            assert!(bytes.iter().all(|metric| bounds.of(metric) == Some(0.03)), "{cell:?}");
            let other = if median == "fetch.p50" { "finish.p50" } else { "fetch.p50" };
            assert_eq!(bounds.of(other), None);
        }
    }

    #[test]
    fn half_of_the_cells_of_each_rate_and_number_are_held_out() {
        let cells = Cell::all();
        assert_eq!(cells.len(), 16);
        let half = |of: &dyn Fn(&Cell) -> bool| {
            let (all, out) = cells
                .iter()
                .filter(|cell| of(cell))
                .fold((0, 0), |(all, out), cell| (all + 1, out + usize::from(cell.held_out)));
            assert!(all > 0 && out * 2 == all, "{out} of {all}");
        };
        for nodes in [2, 4, 8] {
            half(&|cell| cell.nodes == nodes);
        }
        for rate in [100, 500] {
            half(&|cell| cell.rate_mbit == rate);
        }
        for millis in [5, 20] {
            half(&|cell| cell.latency.as_millis() == millis);
        }
        half(&|cell| cell.load == Load::Crowd);
        half(&|cell| cell.kill);
    }
}
