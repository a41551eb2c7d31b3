//! Reading distributions: a constant as a bare quantity, every other shape as a table.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use super::super::error::{PlanError, Problem, shorten};
use super::super::section::{Field, Key, Keys, Section, TIME_MAX, join};
use super::super::tree::Value;
use super::super::{Distribution, Shape};
use super::{required, says};

/// The largest deviation of a logarithm; e^10 is 22,000 times the median already.
const SIGMA_MAX: f64 = 10.0;
/// The shapes of a Weibull distribution; far outside of what was ever measured.
const WEIBULL_SHAPES: RangeInclusive<f64> = 0.1..=20.0;

impl Field<'_> {
    /// Reads a distribution of times in nanoseconds.
    pub(in super::super) fn times(&self) -> Result<Distribution, PlanError> {
        let most = u64::try_from(TIME_MAX.as_nanos()).unwrap_or(u64::MAX);
        self.distribution(0..=most, &|field| field.nanos())
    }

    /// Reads a distribution of sizes in bytes, each from 1 to `most`.
    pub(in super::super) fn sizes(&self, most: u64) -> Result<Distribution, PlanError> {
        self.distribution(1..=most, &|field| {
            let size = field.size()?;
            if size > most {
                let allowed = format!("up to {most} bytes, as `engine.blob_bytes_max` says");
                return Err(field.fail(Problem::out_of_bounds(shorten(field.text()?), allowed)));
            }
            Ok(size)
        })
    }

    fn distribution(
        &self,
        bounds: RangeInclusive<u64>,
        read: &Reading<'_>,
    ) -> Result<Distribution, PlanError> {
        let Value::Table(table) = &self.node.value else {
            return read(self).map(Distribution::constant);
        };
        let Some(name) = table.get("dist") else {
            let names = "constant, uniform, lognormal, exponential or weibull";
            return Err(self.fail(Problem::Missing { key: "dist", takes: names }));
        };
        let path = join(&self.path, "dist");
        let name = Field { node: Cow::Borrowed(&name.node), path, takes: "the name of a shape" };
        let section = self.section(name.word("shape", SHAPES)?)?;
        let shape = shape(&section, read)?;
        if let Shape::Constant(value) = shape {
            return Ok(Distribution::constant(value));
        }
        let (min, max) = limits(&section, bounds, read)?;
        if min > max {
            return Err(self.fail(Problem::Other("`min` is more than `max`".to_owned())));
        }
        Ok(Distribution { shape, min, max })
    }
}

/// Reads a time or a size.
type Reading<'a> = dyn Fn(&Field<'_>) -> Result<u64, PlanError> + 'a;

fn shape(section: &Section<'_>, read: &Reading<'_>) -> Result<Shape, PlanError> {
    let value = |key| read(&section.field(key)?);
    Ok(match section.keys.header {
        "constant" => Shape::Constant(value("value")?),
        "uniform" => Shape::Uniform,
        "lognormal" => Shape::Lognormal {
            median: value("median")?,
            sigma: section.field("sigma")?.real(0.0..=SIGMA_MAX)?,
        },
        "exponential" => Shape::Exponential { mean: value("mean")? },
        _ => Shape::Weibull {
            scale: value("scale")?,
            shape: section.field("shape")?.real(WEIBULL_SHAPES)?,
        },
    })
}

/// Reads the least and the most of a distribution. A uniform one must say its most.
fn limits(
    section: &Section<'_>,
    bounds: RangeInclusive<u64>,
    read: &Reading<'_>,
) -> Result<(u64, u64), PlanError> {
    if section.has("over") {
        if section.has("min") || section.has("max") {
            let problem = "`over` stands for `max` without `min`; write one or the other";
            return Err(section.fail(Problem::Other(problem.to_owned())));
        }
        return Ok((*bounds.start(), read(&section.field("over")?)?));
    }
    let optional = |key| section.optional(key)?.map(|field| read(&field)).transpose();
    let min = optional("min")?.unwrap_or(*bounds.start());
    let max = if section.keys.header == "uniform" {
        read(&section.field("max")?)?
    } else {
        optional("max")?.unwrap_or(*bounds.end())
    };
    Ok((min, max))
}

const DIST: Key = required("dist", "the name of a shape", "the shape");
const MIN: Key = says("min", "a time or size", "none, or 1 byte", "draws below are moved up to it");
const MAX: Key = says(
    "max",
    "a time or size",
    "366 days, or the largest blob",
    "draws above are moved down to it",
);

pub(in super::super) static CONSTANT: Keys = Keys {
    header: "constant",
    about: "Always the same. `\"10ms\"` is short for `{ dist = \"constant\", value = \"10ms\" }`.",
    parts: &[&[DIST, required("value", "a time or size", "the value")]],
};
pub(in super::super) static UNIFORM: Keys = Keys {
    header: "uniform",
    about: "Each value from `min` to `max` as likely.",
    parts: &[&[
        DIST,
        says("over", "a time or size", "`max` says it", "from the least possible to this"),
        says("min", "a time or size", "none, or 1 byte", "the least"),
        says("max", "a time or size", "`over` says it", "the most"),
    ]],
};
pub(in super::super) static LOGNORMAL: Keys = Keys {
    header: "lognormal",
    about: "Its logarithm is normal: most draws near the median, a few far above.",
    parts: &[&[
        DIST,
        required("median", "a time or size", "half of the draws lie below"),
        required(
            "sigma",
            "a number, 0 to 10",
            "the deviation of the logarithm; 16 % of the draws lie above median * e^sigma",
        ),
        MIN,
        MAX,
    ]],
};
pub(in super::super) static EXPONENTIAL: Keys = Keys {
    header: "exponential",
    about: "Without memory, as arrivals that know nothing of each other.",
    parts: &[&[DIST, required("mean", "a time or size", "the mean"), MIN, MAX]],
};
pub(in super::super) static WEIBULL: Keys = Keys {
    header: "weibull",
    about: "As sessions of peers are measured.",
    parts: &[&[
        DIST,
        required("scale", "a time or size", "63 % of the draws lie below"),
        required("shape", "a number, 0.1 to 20", "below 1: many short ones and a few long ones"),
        MIN,
        MAX,
    ]],
};

/// The shapes by name.
const SHAPES: &[(&str, &Keys)] = &[
    ("constant", &CONSTANT),
    ("uniform", &UNIFORM),
    ("lognormal", &LOGNORMAL),
    ("exponential", &EXPONENTIAL),
    ("weibull", &WEIBULL),
];
