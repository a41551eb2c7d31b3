//! Metrics, the bounds they are held to, and the verdict over all of them.

use std::fmt;

use serde::{Serialize, Serializer};

/// Declares a metric of an experiment: its name, unit, bound and meaning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MetricSpec {
    /// The name, unique within the experiment, with the unit last where it has one.
    pub name: &'static str,
    /// The unit, such as `s`, `MiB/s`, `share` (0 to 1), `ratio`, `bool` (0 or 1), `count`.
    pub unit: &'static str,
    /// What the value must be; none for a figure that only informs.
    pub bound: Option<Bound>,
    /// What is measured, from when to when.
    pub about: &'static str,
}

/// Bounds a value. Values are compared as they are, without a tolerance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// The value is at most this.
    AtMost(f64),
    /// The value is exactly this: for counts, booleans and shares of whole bytes.
    Exactly(f64),
    /// The value is at least this.
    AtLeast(f64),
}

impl Bound {
    /// Returns whether `value` is within the bound; a NaN never is.
    #[expect(clippy::float_cmp, reason = "shares of equal byte counts and booleans are exact")]
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::Exactly(wanted) => value == wanted,
            Self::AtLeast(least) => value >= least,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "<= {most}"),
            Self::Exactly(wanted) => write!(f, "= {wanted}"),
            Self::AtLeast(least) => write!(f, ">= {least}"),
        }
    }
}

/// Holds one measurement, as it is reported: one JSON line each.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metric {
    /// The experiment's name.
    pub experiment: &'static str,
    /// The metric's name.
    pub metric: &'static str,
    /// The value; none when the experiment ended before it was measured.
    #[serde(serialize_with = "whole_without_fraction")]
    pub value: Option<f64>,
    /// The unit of the value.
    pub unit: &'static str,
    /// The bound as text, such as `<= 3`; none for a figure that only informs.
    pub bound: Option<String>,
    /// Whether the value is within the bound. A metric without a bound always holds; one with a
    /// bound that was not measured never does.
    pub holds: bool,
}

impl Metric {
    /// Judges a value by its specification.
    pub fn new(experiment: &'static str, spec: &MetricSpec, value: Option<f64>) -> Self {
        let holds = spec.bound.is_none_or(|bound| value.is_some_and(|value| bound.holds(value)));
        Self {
            experiment,
            metric: spec.name,
            value,
            unit: spec.unit,
            bound: spec.bound.map(|bound| bound.to_string()),
            holds,
        }
    }
}

/// Writes 1 and not 1.0, so that a share of 1 reads as the bound `= 1` does.
#[expect(clippy::cast_possible_truncation, reason = "only whole numbers below 2^53 are cast")]
fn whole_without_fraction<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    match *value {
        Some(whole) if whole.fract() == 0.0 && whole.abs() < WHOLE_MAX => {
            to.serialize_i64(whole as i64)
        }
        Some(value) if value.is_finite() => to.serialize_f64(value),
        Some(_) | None => to.serialize_none(),
    }
}

/// Converts a yes or no to the value of a `bool` metric.
pub fn one_if(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

/// Returns `part` of `whole` as a share; none of nothing is 0.
#[expect(clippy::cast_precision_loss, reason = "equal counts give exactly 1, which is what counts")]
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: MetricSpec =
        MetricSpec { name: "wait_s", unit: "s", bound: Some(Bound::AtMost(3.0)), about: "a wait" };

    #[test]
    fn bounds_at_their_edges() {
        for (bound, value, holds) in [
            (Bound::AtMost(3.0), 3.0, true),
            (Bound::AtMost(3.0), 3.001, false),
            (Bound::AtLeast(3.0), 3.0, true),
            (Bound::AtLeast(3.0), 2.999, false),
            (Bound::Exactly(1.0), 1.0, true),
            (Bound::Exactly(1.0), 0.999_999, false),
            (Bound::AtMost(3.0), f64::NAN, false),
        ] {
            assert_eq!(bound.holds(value), holds, "{value} {bound}");
        }
    }

    #[test]
    fn metric_that_was_not_measured_does_not_hold() {
        assert!(!Metric::new("x", &SPEC, None).holds);
        assert!(Metric::new("x", &MetricSpec { bound: None, ..SPEC }, None).holds);
    }

    #[test]
    fn json_line_has_the_promised_fields() {
        let line = serde_json::to_string(&Metric::new("x", &SPEC, Some(1.0))).unwrap();
        assert_eq!(
            line,
            r#"{"experiment":"x","metric":"wait_s","value":1,"unit":"s","bound":"<= 3","holds":true}"#
        );
        let line = serde_json::to_string(&Metric::new("x", &SPEC, Some(3.25))).unwrap();
        assert!(line.contains(r#""value":3.25,"#) && line.contains(r#""holds":false"#), "{line}");
    }

    #[test]
    fn share_is_one_only_for_all_bytes() {
        assert_eq!(share(256 << 20, 256 << 20).to_bits(), 1.0_f64.to_bits());
        assert!(share((256 << 20) - 1, 256 << 20) < 1.0);
        assert_eq!(share(0, 0).to_bits(), 0.0_f64.to_bits());
    }
}
