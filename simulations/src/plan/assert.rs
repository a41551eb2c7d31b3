//! Asserts: what must hold at the end of a run, written as a bound on a metric or on one over another.

use std::collections::BTreeMap;
use std::fmt;

use super::error::{Problem, list, near, shorten};
use super::units::Quantity;
use super::{Assert, Measure, Relation};
use crate::outcome::METRICS;

/// Says what became of an assert.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It holds.
    Holds,
    /// It does not.
    Fails,
    /// The run did not measure this metric.
    Missing(String),
    /// The metric that is divided by is zero.
    NoRatio(String),
}

/// Is an assert beside what was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked<'a> {
    /// The assert.
    pub assert: &'a Assert,
    /// What was measured, in seconds, bytes or a bare number; none if it could not be.
    pub value: Option<f64>,
    /// Whether it holds.
    pub verdict: Verdict,
}

impl Assert {
    /// Reads an assert: `fetch.p99` or `edge.bytes / unique.bytes`, and `<= 20s`.
    ///
    /// # Errors
    /// An unknown metric, a relation that is none, a value without its unit or with a wrong one.
    pub fn parse(measure: &str, bound: &str) -> Result<Self, Problem> {
        let measure = read_measure(measure)?;
        let (relation, rest) = read_relation(bound)?;
        let value = read_value(rest.trim(), unit(&measure))?;
        let text = format!("{measure} {}", bound.trim());
        Ok(Self { measure, relation, value, text })
    }

    /// Compares the assert with the metrics of a run. Not a number never holds.
    pub fn check(&self, summary: &BTreeMap<&'static str, f64>) -> Checked<'_> {
        let (value, verdict) = match self.measure.of(summary) {
            Ok(value) if self.relation.holds(value, self.value) => (Some(value), Verdict::Holds),
            Ok(value) => (Some(value), Verdict::Fails),
            Err(verdict) => (None, verdict),
        };
        Checked { assert: self, value, verdict }
    }

    /// Returns the unit of what is measured: `s`, `bytes`, `share`, `count`, or `ratio`.
    pub fn unit(&self) -> &'static str {
        unit(&self.measure)
    }
}

impl Checked<'_> {
    /// Says whether the assert holds.
    pub fn holds(&self) -> bool {
        self.verdict == Verdict::Holds
    }
}

impl fmt::Display for Checked<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.assert.text)?;
        match (&self.verdict, self.value) {
            (Verdict::Missing(metric), _) => write!(formatter, ": `{metric}` was not measured"),
            (Verdict::NoRatio(metric), _) => write!(formatter, ": `{metric}` is zero"),
            (verdict, value) => {
                let holds = if *verdict == Verdict::Holds { "holds" } else { "fails" };
                let value = with_unit(value.unwrap_or(f64::NAN), self.assert.unit());
                write!(formatter, ": {holds}, it is {value}")
            }
        }
    }
}

/// Writes a number as asserts write it.
fn with_unit(value: f64, unit: &str) -> String {
    match unit {
        "s" => format!("{value:.6}s"),
        "bytes" => format!("{value:.0}B"),
        _ if value == value.trunc() && value.abs() < 1e15 => format!("{value:.0}"),
        _ => format!("{value:.6}"),
    }
}

impl Measure {
    /// Takes what is measured from the metrics of a run.
    fn of(&self, summary: &BTreeMap<&'static str, f64>) -> Result<f64, Verdict> {
        let metric = |name: &String| {
            summary.get(name.as_str()).copied().ok_or_else(|| Verdict::Missing(name.clone()))
        };
        match self {
            Self::Metric(name) => metric(name),
            Self::Ratio(over, under) => {
                let (value, divisor) = (metric(over)?, metric(under)?);
                if divisor == 0.0 {
                    return Err(Verdict::NoRatio(under.clone()));
                }
                Ok(value / divisor)
            }
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metric(name) => formatter.write_str(name),
            Self::Ratio(over, under) => write!(formatter, "{over} / {under}"),
        }
    }
}

/// The relations; a longer sign before the one that it begins with.
const RELATIONS: &[(&str, Relation)] = &[
    ("<=", Relation::AtMost),
    (">=", Relation::AtLeast),
    ("==", Relation::Equal),
    ("<", Relation::Below),
    (">", Relation::Above),
];

impl Relation {
    /// Compares what was measured with what it must be.
    pub fn holds(self, measured: f64, bound: f64) -> bool {
        match self {
            Self::AtMost => measured <= bound,
            Self::AtLeast => measured >= bound,
            Self::Below => measured < bound,
            Self::Above => measured > bound,
            Self::Equal => {
                measured == bound
                    || (measured - bound).abs() <= 1e-9 * measured.abs().max(bound.abs())
            }
        }
    }
}

fn read_measure(text: &str) -> Result<Measure, Problem> {
    let metric = |name: &str| {
        let name = name.trim();
        if METRICS.iter().any(|(known, ..)| *known == name) {
            return Ok(name.to_owned());
        }
        let known: Vec<&str> = METRICS.iter().map(|(known, ..)| *known).collect();
        Err(Problem::UnknownWord {
            what: "metric",
            word: shorten(name),
            near: near(name, &known),
            allowed: list(&known),
        })
    };
    Ok(match text.split_once('/') {
        Some((over, under)) => Measure::Ratio(metric(over)?, metric(under)?),
        None => Measure::Metric(metric(text)?),
    })
}

fn read_relation(text: &str) -> Result<(Relation, &str), Problem> {
    let text = text.trim_start();
    let known = |(sign, relation): &(&str, Relation)| Some((*relation, text.strip_prefix(sign)?));
    RELATIONS.iter().find_map(known).ok_or_else(|| {
        Problem::Other(format!("`{}` begins with none of <= >= == < >", shorten(text)))
    })
}

fn read_value(text: &str, unit: &str) -> Result<f64, Problem> {
    match unit {
        "s" => Ok(Quantity::Time.parse(text)? as f64 / 1e9),
        "bytes" if text != "0" => Ok(Quantity::Size.parse(text)? as f64),
        _ => {
            // A sign, an exponent, an infinity: nothing that one writes by hand as a bound.
            let plain = text.chars().all(|letter| letter.is_ascii_digit() || letter == '.');
            let value = if plain { text.parse::<f64>().ok() } else { None };
            value.filter(|value| value.is_finite()).ok_or_else(|| {
                let what = "is no number; this is a count or a ratio, which has no unit";
                Problem::Other(format!("`{}` {what}", shorten(text)))
            })
        }
    }
}

fn unit(measure: &Measure) -> &'static str {
    match measure {
        Measure::Metric(name) => {
            METRICS.iter().find(|(known, ..)| known == name).map_or("count", |(_, unit, _)| unit)
        }
        Measure::Ratio(..) => "ratio",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(measure: &str, bound: &str, summary: &[(&'static str, f64)]) -> Verdict {
        let assert = Assert::parse(measure, bound).expect("an assert");
        assert.check(&summary.iter().copied().collect()).verdict
    }

    #[test]
    fn an_assert_compares_a_metric_in_its_unit() {
        let summary = [("fetch.p99", 20.0), ("edge.bytes", 2_000_000.0), ("corrupt.accepted", 0.0)];
        for (measure, bound, expected) in [
            ("fetch.p99", "<= 20s", Verdict::Holds),
            ("fetch.p99", "< 20s", Verdict::Fails),
            ("fetch.p99", ">= 20000ms", Verdict::Holds),
            ("fetch.p99", "> 20s", Verdict::Fails),
            ("edge.bytes", "== 2MB", Verdict::Holds),
            ("edge.bytes", "== 2MiB", Verdict::Fails),
            ("corrupt.accepted", "==0", Verdict::Holds),
        ] {
            assert_eq!(verdict(measure, bound, &summary), expected, "{measure} {bound}");
        }
    }

    #[test]
    fn an_assert_divides_one_metric_by_another() {
        let summary = [("edge.bytes", 12.0), ("unique.bytes", 10.0), ("wanted.bytes", 0.0)];
        let ratio = "edge.bytes / unique.bytes";
        assert_eq!(verdict(ratio, "<= 1.2", &summary), Verdict::Holds);
        assert_eq!(verdict(ratio, "<= 1.19", &summary), Verdict::Fails);
        assert_eq!(
            verdict("edge.bytes/wanted.bytes", "<= 1", &summary),
            Verdict::NoRatio("wanted.bytes".to_owned())
        );
        assert_eq!(
            verdict("edge.bytes / lan.bytes", "<= 1", &summary),
            Verdict::Missing("lan.bytes".to_owned())
        );
    }

    #[test]
    fn not_a_number_holds_nothing() {
        for bound in ["<= 1", ">= 1", "== 1", "< 1", "> 1"] {
            assert_eq!(verdict("asks", bound, &[("asks", f64::NAN)]), Verdict::Fails, "{bound}");
        }
    }

    #[test]
    fn equal_is_equal_to_nine_digits() {
        let summary = [("sent.bytes", 1e12), ("lan.bytes", 1e12 + 100.0)];
        assert_eq!(verdict("lan.bytes / sent.bytes", "== 1", &summary), Verdict::Holds);
        let summary = [("sent.bytes", 1e12), ("lan.bytes", 1e12 + 1e4)];
        assert_eq!(verdict("lan.bytes / sent.bytes", "== 1", &summary), Verdict::Fails);
    }

    #[test]
    fn what_is_no_assert_is_refused() {
        for (measure, bound) in [
            ("fetch.p98", "<= 20s"),
            ("fetch.p99", "<= 20"),
            ("fetch.p99", "20s"),
            ("fetch.p99", "=< 20s"),
            ("fetch.p99", "<= "),
            ("asks", "<= 20s"),
            ("asks", "<= nan"),
            ("asks", "<= -1"),
            ("asks", "<= 1e400"),
            ("asks / ", "<= 1"),
            ("asks / asks / asks", "<= 1"),
            ("edge.bytes / unique.bytes", "<= 1MB"),
        ] {
            assert!(Assert::parse(measure, bound).is_err(), "{measure} {bound}");
        }
    }

    #[test]
    fn what_was_measured_is_printed_with_its_unit() {
        let assert = Assert::parse("fetch.p99", "<= 20s").expect("an assert");
        let told = |value| assert.check(&BTreeMap::from([("fetch.p99", value)])).to_string();
        assert_eq!(told(12.5), "fetch.p99 <= 20s: holds, it is 12.500000s");
        assert_eq!(told(21.0), "fetch.p99 <= 20s: fails, it is 21.000000s");
        assert_eq!(
            assert.check(&BTreeMap::new()).to_string(),
            "fetch.p99 <= 20s: `fetch.p99` was not measured"
        );
    }
}
