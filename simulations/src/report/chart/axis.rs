//! Axes: from numbers to places, and the numbers worth a tick.

use crate::report::format::{Unit, digits};

/// About how many ticks an axis has.
const TICKS: f64 = 5.0;
/// The most ticks that are ever made.
const TICKS_MAX: usize = 24;

/// Is an axis of a picture.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    /// What it measures.
    pub(crate) title: String,
    /// The unit of its ticks; empty where they have their own.
    pub(crate) unit: &'static str,
    low: f64,
    high: f64,
    logarithmic: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Makes an axis from 0 to at least `most`, which ends on a tick.
    pub(crate) fn from_zero(title: &str, unit: Unit, most: f64) -> Self {
        let most = if most > 0.0 && most.is_finite() { most } else { 1.0 };
        let (size, name) = unit.step(most);
        let step = nice_step(most / size / TICKS);
        let count = (1..TICKS_MAX).find(|count| *count as f64 * step >= most / size * 0.999_999);
        let values = (0..=count.unwrap_or(TICKS_MAX)).map(|index| index as f64 * step);
        // A count has no unit of its own to stand in a title, so each tick has its `k`.
        let (name, each) = if unit == Unit::Count { ("", name) } else { (name, "") };
        let text = |value: f64| match (value, each) {
            (0.0, _) | (_, "") => tick_text(value, step),
            _ => format!("{}\u{a0}{each}", tick_text(value, step)),
        };
        let ticks: Vec<_> = values.map(|value| (value * size, text(value))).collect();
        let high = ticks.last().map_or(most, |tick| tick.0);
        Self {
            title: with_unit(title, name),
            unit: name,
            low: 0.0,
            high,
            logarithmic: false,
            ticks,
        }
    }

    /// Makes an axis from 0 that ends at `most`, not at a tick: for time, which ends where it ends.
    pub(crate) fn until(title: &str, unit: Unit, most: f64) -> Self {
        let mut axis = Self::from_zero(title, unit, most);
        if most > 0.0 && most.is_finite() {
            axis.high = most;
            axis.ticks.retain(|tick| tick.0 <= most);
        }
        axis
    }

    /// Makes a logarithmic axis; both ends are above 0.
    pub(crate) fn logarithmic(title: &str, unit: Unit, low: f64, high: f64) -> Self {
        let high = high.max(low * 1.001);
        let decades = (high / low).log10();
        let steps: &[f64] = if decades > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let first = low.log10().floor();
        let powers = (0..TICKS_MAX).map(|index| 10f64.powf(first + index as f64));
        let all = powers.flat_map(|power| steps.iter().map(move |step| step * power));
        let ticks = all
            .take_while(|value| *value <= high * 1.000_001)
            .filter(|value| *value >= low * 0.999_999)
            .map(|value| (value, unit.show(value)))
            .collect();
        Self { title: title.to_owned(), unit: "", low, high, logarithmic: true, ticks }
    }

    /// Makes an axis with a tick at each of these values, which ascend.
    pub(crate) fn with_ticks(title: &str, ticks: Vec<(f64, String)>, logarithmic: bool) -> Self {
        let low = ticks.first().map_or(0.0, |tick| tick.0);
        let high = ticks.last().map_or(1.0, |tick| tick.0);
        Self { title: title.to_owned(), unit: "", low, high, logarithmic, ticks }
    }

    /// Returns how far along the axis a value is, 0 to 1; values beyond its ends are at them.
    pub(crate) fn share_of(&self, value: f64) -> f64 {
        let (low, high, value) = match self.logarithmic {
            true => (self.low.ln(), self.high.ln(), value.max(self.low).ln()),
            false => (self.low, self.high, value),
        };
        if high > low { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 }
    }

    /// Returns the ticks with their labels.
    pub(crate) fn ticks(&self) -> &[(f64, String)] {
        &self.ticks
    }
}

fn with_unit(title: &str, name: &str) -> String {
    if name.is_empty() { title.to_owned() } else { format!("{title} ({name})") }
}

/// Returns the least of 1, 2 and 5 times a power of ten that is not below `least`.
fn nice_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= least * 0.999_999).unwrap_or(10.0 * power)
}

fn tick_text(value: f64, step: f64) -> String {
    match step {
        _ if step >= 1.0 || value == 0.0 => digits(value.round()),
        _ if step >= 0.1 => format!("{value:.1}"),
        _ if step >= 0.01 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.ticks().iter().map(|tick| tick.1.as_str()).collect()
    }

    #[test]
    fn an_axis_from_zero_ends_on_a_tick_in_one_unit() {
        let axis = Axis::from_zero("bytes", Unit::Bytes, 9.3 * f64::from(1 << 30));
        assert_eq!(axis.title, "bytes (GiB)");
        assert_eq!(texts(&axis), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(axis.share_of(5.0 * f64::from(1 << 30)), 0.5);
    }

    #[test]
    fn thousands_are_on_the_ticks_of_counts() {
        let axis = Axis::from_zero("nodes", Unit::Count, 10_000.0);
        assert_eq!(axis.title, "nodes");
        assert_eq!(
            texts(&axis),
            ["0", "2\u{a0}k", "4\u{a0}k", "6\u{a0}k", "8\u{a0}k", "10\u{a0}k"]
        );
    }

    #[test]
    fn a_logarithmic_axis_has_ticks_inside_its_ends() {
        let axis = Axis::logarithmic("time", Unit::Seconds, 0.15, 12.0);
        let shown: Vec<_> = texts(&axis).iter().map(|text| text.replace('\u{a0}', " ")).collect();
        assert_eq!(shown, ["200 ms", "500 ms", "1 s", "2 s", "5 s", "10 s"]);
        assert!((axis.share_of(0.15), axis.share_of(12.0)) == (0.0, 1.0));
    }

    #[test]
    fn an_axis_of_nothing_is_still_an_axis() {
        for most in [0.0, f64::NAN, f64::INFINITY, -1.0] {
            let axis = Axis::from_zero("gets", Unit::Count, most);
            assert!(axis.ticks().len() >= 2 && axis.share_of(0.5).is_finite());
        }
    }
}
