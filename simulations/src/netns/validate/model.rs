//! The models that are held to real nodes: the simulator's own, and some that are wrong on purpose.
//!
//! Each of these is wrong in one thing. Bounds that let one pass would bound nothing.

use std::{fmt, path::Path, time::Instant};

use super::{Cell, Error, finish};
use crate::{
    output::{Keep, Kind, Record, Run, Writer},
    plan::{Plan, PlanError},
    world::{Calibration, RunOptions, run_plan},
};

/// Names a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// The simulator's own.
    Right,
    /// One whose links carry half.
    HalfGoodput,
    /// One whose packets take twice as long.
    DoubleLatency,
}

impl Model {
    /// All models, the right one first.
    pub const ALL: [Self; 3] = [Self::Right, Self::HalfGoodput, Self::DoubleLatency];

    /// Those that are wrong on purpose.
    pub const WRONG: [Self; 2] = [Self::HalfGoodput, Self::DoubleLatency];

    /// Returns what the model is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::HalfGoodput => "half-goodput",
            Self::DoubleLatency => "double-latency",
        }
    }

    fn calibration(self, calibration: &Calibration) -> Calibration {
        let goodput = match self {
            Self::HalfGoodput => calibration.goodput / 2.0,
            Self::Right | Self::DoubleLatency => calibration.goodput,
        };
        Calibration { goodput, ..calibration.clone() }
    }

    fn plan(self, cell: &Cell, seed: u64) -> Result<Plan, PlanError> {
        let latency = match self {
            Self::DoubleLatency => cell.latency * 2,
            Self::Right | Self::HalfGoodput => cell.latency,
        };
        Cell { latency, ..*cell }.plan(seed)
    }

    /// Simulates all cells with these seeds, and writes the results.
    pub(super) fn simulate(
        self,
        calibration: &Calibration,
        seeds: &[u64],
        place: &Path,
    ) -> Result<Record, Error> {
        let begun = Instant::now();
        let mut writer = Writer::create(place, Kind::Sweep)?;
        let calibration = self.calibration(calibration);
        let options = RunOptions { calibration, ..RunOptions::default() };
        for (number, cell) in Cell::all().iter().enumerate() {
            for seed in seeds.iter().copied() {
                let (plan, begun) = (self.plan(cell, seed)?, Instant::now());
                let outcome = &run_plan(&plan, &options, |_| ())?;
                let (settings, wall) = (cell.settings(), begun.elapsed());
                let run =
                    Run { cell: number, settings: &settings, seed, plan: &plan, wall, outcome };
                writer.add(&run, Keep::Rows)?;
            }
        }
        finish(writer, begun.elapsed())
    }
}

impl fmt::Display for Model {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Right => "the model",
            Self::HalfGoodput => "a model of half the goodput",
            Self::DoubleLatency => "a model of twice the latency",
        })
    }
}
