//! The cells of a validation: how many nodes, how fast their wires, and whether one is killed.

use crate::{
    output::Settings,
    plan::{Plan, PlanError, Source},
};

const PLAN: &str = include_str!("cell.toml");
const KILL: &str = include_str!("kill.toml");

/// Is one cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// How many nodes, the holder included.
    pub nodes: u64,
    /// What every wire carries.
    pub rate_mbit: u64,
    /// Whether the first getter is killed for two seconds.
    pub kill: bool,
    /// Whether the cell is held out of the calibration.
    pub held_out: bool,
}

impl Cell {
    /// Returns all cells. Each value of each axis is as often held out as not.
    pub fn all() -> Vec<Self> {
        let mut cells = Vec::new();
        for (by_nodes, nodes) in [2, 4, 8].into_iter().enumerate() {
            for (by_rate, rate_mbit) in [100, 500].into_iter().enumerate() {
                for (by_kill, kill) in [false, true].into_iter().enumerate() {
                    let held_out = (by_nodes + by_rate + by_kill) % 2 == 1;
                    cells.push(Self { nodes, rate_mbit, kill, held_out });
                }
            }
        }
        cells
    }

    /// Returns the blob's length: so that the holder's wire alone needs 6, 12 or 18 seconds for all
    /// getters.
    pub fn bytes(&self) -> u64 {
        let seconds = match self.nodes {
            0..=2 => 6,
            3..=4 => 12,
            _ => 18,
        };
        self.rate_mbit * 125_000 * seconds / (self.nodes - 1).max(1)
    }

    /// Returns what the cell sets, as results name it.
    pub fn settings(&self) -> Settings {
        let word = if self.kill { "yes" } else { "no" };
        [
            ("nodes", self.nodes.to_string()),
            ("rate", format!("\"{}Mbps\"", self.rate_mbit)),
            ("kill", format!("\"{word}\"")),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    /// Returns the plan's text.
    pub fn text(&self) -> String {
        if self.kill { format!("{PLAN}{KILL}") } else { PLAN.to_owned() }
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
            assert_eq!(plan.faults.len(), usize::from(cell.kill));
            assert_eq!(plan.seed, 7);
        }
    }

    #[test]
    fn half_of_the_cells_of_each_rate_and_number_are_held_out() {
        let cells = Cell::all();
        assert_eq!(cells.len(), 12);
        let half = |of: &dyn Fn(&Cell) -> bool| {
            let (all, out) = cells
                .iter()
                .filter(|cell| of(cell))
                .fold((0, 0), |(all, out), cell| (all + 1, out + usize::from(cell.held_out)));
            assert_eq!(out * 2, all);
        };
        for nodes in [2, 4, 8] {
            half(&|cell| cell.nodes == nodes);
        }
        for rate in [100, 500] {
            half(&|cell| cell.rate_mbit == rate);
        }
        half(&|cell| cell.kill);
    }
}
