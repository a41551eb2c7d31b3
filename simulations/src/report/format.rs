//! How numbers are shown to people: three digits that mean something, and a unit.

use crate::outcome::METRICS;

/// Says what a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    Bytes,
    Count,
    /// 0 to 1, shown as per cent.
    Share,
}

impl Unit {
    /// Returns the unit of a metric.
    pub(crate) fn of_metric(name: &str) -> Self {
        match METRICS.iter().find(|metric| metric.0 == name).map(|metric| metric.1) {
            Some("s") => Self::Seconds,
            Some("bytes") => Self::Bytes,
            Some("share") => Self::Share,
            Some(_) | None => Self::Count,
        }
    }

    /// Returns the steps of a unit, the largest first: how much of it one is, and its name.
    fn steps(self) -> &'static [(f64, &'static str)] {
        match self {
            Self::Seconds => &[
                (86400.0, "d"),
                (3600.0, "h"),
                (60.0, "min"),
                (1.0, "s"),
                (1e-3, "ms"),
                (1e-6, "µs"),
            ],
            Self::Bytes => &[
                (1_099_511_627_776.0, "TiB"),
                (1_073_741_824.0, "GiB"),
                (1_048_576.0, "MiB"),
                (1024.0, "KiB"),
                (1.0, "B"),
            ],
            Self::Count => &[(1e9, "G"), (1e6, "M"), (1e4, "k"), (1.0, "")],
            Self::Share => &[(0.01, "%")],
        }
    }

    /// Returns the step for numbers up to `most`: an axis has one for all its ticks.
    pub(crate) fn step(self, most: f64) -> (f64, &'static str) {
        let fits = |step: &&(f64, &str)| match self {
            // Up to 3 minutes people read seconds more easily, up to 3 hours minutes, up to 3 days
            // hours.
            Self::Seconds if step.0 > 1.0 => most.abs() >= 3.0 * step.0,
            Self::Seconds | Self::Bytes | Self::Count | Self::Share => most.abs() >= step.0,
        };
        let steps = self.steps();
        let whole = match self {
            Self::Seconds => (1.0, "s"),
            Self::Bytes => (1.0, "B"),
            Self::Count => (1.0, ""),
            Self::Share => (0.01, "%"),
        };
        let smallest = if most == 0.0 { None } else { steps.last() };
        let (size, name) = steps.iter().find(fits).or(smallest).copied().unwrap_or(whole);
        // `k` counts thousands, but only from ten of them on.
        if name == "k" { (1e3, name) } else { (size, name) }
    }

    /// Shows a number with its unit.
    pub(crate) fn show(self, value: f64) -> String {
        let (size, name) = self.step(value);
        let digits = digits(value / size);
        if name.is_empty() { digits } else { format!("{digits}\u{a0}{name}") }
    }
}

/// Shows a number with three digits that mean something, whole ones whole, and no exponent where it
/// can be helped.
pub(crate) fn digits(value: f64) -> String {
    if value == value.trunc() && value.abs() < 1e15 {
        return rounded(value, 0);
    }
    places(value).map_or_else(|| format!("{value:.2e}"), |places| rounded(value, places))
}

/// Returns how many places after the point show three digits of a number; none where that is too
/// many.
pub(crate) fn places(value: f64) -> Option<usize> {
    match value.abs() {
        size if size >= 99.95 => Some(0),
        size if size >= 9.995 => Some(1),
        size if size >= 0.9995 => Some(2),
        size if size >= 0.09995 => Some(3),
        size if size >= 0.001 => Some(4),
        _ => None,
    }
}

/// Shows a number with this many places after the point.
pub(crate) fn rounded(value: f64, places: usize) -> String {
    grouped(&format!("{value:.places$}"))
}

/// Puts a comma after every third digit of the whole part.
fn grouped(number: &str) -> String {
    let (whole, rest) = number.split_at(number.find('.').unwrap_or(number.len()));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let mut text = sign.to_owned();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        let cases = [
            (Unit::Seconds, 0.0, "0 s"),
            (Unit::Seconds, 0.01234, "12.3 ms"),
            (Unit::Seconds, 1.5, "1.50 s"),
            (Unit::Seconds, 179.0, "179 s"),
            (Unit::Seconds, 600.0, "10 min"),
            (Unit::Seconds, 20_000.0, "5.56 h"),
            (Unit::Bytes, 1024.0, "1 KiB"),
            (Unit::Bytes, 5e9, "4.66 GiB"),
            (Unit::Count, 1234.0, "1,234"),
            (Unit::Count, 123_456.0, "123 k"),
            (Unit::Count, 0.25, "0.250"),
            (Unit::Count, 1e-5, "1.00e-5"),
            (Unit::Share, 0.042, "4.20 %"),
            (Unit::Share, 0.0, "0 %"),
            (Unit::Seconds, -2.5e-3, "-2.50 ms"),
        ];
        for (unit, value, expected) in cases {
            assert_eq!(unit.show(value).replace('\u{a0}', " "), expected);
        }
    }

    #[test]
    fn every_unit_of_a_metric_is_known() {
        assert_eq!(Unit::of_metric("fetch.p50"), Unit::Seconds);
        assert_eq!(Unit::of_metric("edge.bytes"), Unit::Bytes);
        assert_eq!(Unit::of_metric("hit.lan"), Unit::Share);
        let known = ["s", "bytes", "share", "count"];
        assert!(METRICS.iter().all(|metric| known.contains(&metric.1)));
    }
}
