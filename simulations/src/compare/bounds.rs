//! How far two results may be apart.

use std::collections::BTreeMap;

use crate::outcome::METRICS;

/// What the simulator is held to against real nodes, and so the default.
const DEFAULT: [(&str, f64); 5] = [
    ("finish.p50", 0.15),
    ("finish.p95", 0.25),
    ("local.bytes", 0.03),
    ("lan.bytes", 0.03),
    ("edge.bytes", 0.03),
];

/// The bytes of each tier.
pub(super) const TIERS: [&str; 3] = ["local.bytes", "lan.bytes", "edge.bytes"];

/// Is what errors and distances may be.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounds {
    metrics: BTreeMap<&'static str, f64>,
    distance: Option<f64>,
    tiers_of_all: bool,
}

/// Says what is wrong with a bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBound {
    /// There is no such metric.
    #[error("there is no metric {metric}; the README lists them")]
    Metric {
        /// What was named.
        metric: String,
    },
    /// It is not a share.
    #[error("{text:?} is not METRIC=SHARE with a share as 0.15 or 15%")]
    Share {
        /// What was written.
        text: String,
    },
}

impl Default for Bounds {
    fn default() -> Self {
        Self { metrics: BTreeMap::from(DEFAULT), distance: None, tiers_of_all: false }
    }
}

impl Bounds {
    /// Takes `METRIC=SHARE`, as `finish.p50=10%` or `finish.p50=0.1`, in place of what was.
    ///
    /// # Errors
    /// [`BadBound`].
    pub fn set(&mut self, text: &str) -> Result<(), BadBound> {
        let bad = || BadBound::Share { text: text.to_owned() };
        let (metric, share) = text.split_once('=').ok_or_else(bad)?;
        let known = METRICS.iter().find(|known| known.0 == metric);
        let metric = known.ok_or_else(|| BadBound::Metric { metric: metric.to_owned() })?.0;
        let (number, over) = share.strip_suffix('%').map_or((share, 1.0), |number| (number, 100.0));
        let share = number.trim().parse::<f64>().map_err(|_| bad())? / over;
        if !share.is_finite() || share < 0.0 {
            return Err(bad());
        }
        self.metrics.insert(metric, share);
        Ok(())
    }

    /// Keeps the bounds of these metrics and of no other.
    #[must_use]
    pub fn only(mut self, metrics: &[&str]) -> Self {
        self.metrics.retain(|metric, _| metrics.contains(metric));
        self
    }

    /// Has the bytes of a tier be off by a share of the bytes of all tiers, and not of its own: where a tier
    /// carries next to nothing, how much next to nothing is decides nothing.
    #[must_use]
    pub fn with_tiers_of_all(self) -> Self {
        Self { tiers_of_all: true, ..self }
    }

    /// Returns whether the error of this metric is a share of the bytes of all tiers.
    pub(super) fn is_of_all(&self, metric: &str) -> bool {
        self.tiers_of_all && TIERS.contains(&metric)
    }

    /// Takes what a Kolmogorov-Smirnov distance may be; by default nothing bounds it.
    pub fn with_distance(self, distance: Option<f64>) -> Self {
        Self { distance, ..self }
    }

    /// Returns what a distance may be.
    pub fn distance(&self) -> Option<f64> {
        self.distance
    }

    /// Returns what the error of a metric may be.
    pub fn of(&self, metric: &str) -> Option<f64> {
        self.metrics.get(metric).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_a_share_or_per_cent() {
        let mut bounds = Bounds::default();
        bounds.set("finish.p50=10%").unwrap();
        bounds.set("asks=0.5").unwrap();
        assert_eq!((bounds.of("finish.p50"), bounds.of("asks")), (Some(0.1), Some(0.5)));
        assert_eq!((bounds.of("finish.p95"), bounds.of("gets")), (Some(0.25), None));
    }

    #[test]
    fn a_bad_bound_is_told() {
        for text in
            ["finish.p50", "finish.p50=", "finish.p50=-1", "finish.p50=NaN", "finish.p50=x%"]
        {
            assert!(matches!(Bounds::default().set(text), Err(BadBound::Share { .. })), "{text}");
        }
        let error = Bounds::default().set("finish.p51=1%").unwrap_err();
        assert_eq!(error.to_string(), "there is no metric finish.p51; the README lists them");
    }
}
