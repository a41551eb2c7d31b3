//! Confidence intervals of means.

use super::mean;

/// Is a range that holds the true value with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The estimate.
    pub middle: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// Returns half the width.
    pub fn half_width(&self) -> f64 {
        (self.high - self.low) / 2.0
    }
}

/// Returns the mean and its 95 % confidence interval by Student's t; a single value is an interval
/// of no width.
pub fn mean_interval(values: &[f64]) -> Option<Interval> {
    let middle = mean(values)?;
    let Some(freedom) = values.len().checked_sub(1).filter(|freedom| *freedom > 0) else {
        return Some(Interval { middle, low: middle, high: middle });
    };
    let squares: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    let error = (squares / freedom as f64 / values.len() as f64).sqrt();
    let half = student_t_975(freedom) * error;
    Some(Interval { middle, low: middle - half, high: middle + half })
}

/// Returns the share of `hits` among `all` and its interval by Wilson's method (Wilson, JASA 1927), which holds
/// for small shares too; `quantile` is that of the normal distribution for the confidence wanted. None of
/// nothing.
pub fn proportion_interval(hits: u64, all: u64, quantile: f64) -> Option<Interval> {
    if all == 0 {
        return None;
    }
    let (all, square) = (all as f64, quantile * quantile);
    let share = hits as f64 / all;
    let centre = share + square / (2.0 * all);
    let spread = quantile * (share * (1.0 - share) / all + square / (4.0 * all * all)).sqrt();
    let [low, high] = [-spread, spread].map(|spread| (centre + spread) / (1.0 + square / all));
    // With no hits the ends meet at zero but for rounding.
    let low = if hits == 0 { 0.0 } else { low };
    Some(Interval { middle: share, low, high: high.min(1.0) })
}

/// The 97.5 % quantiles of Student's t with 1 to 30 degrees of freedom, as printed in tables.
const T_975: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

/// The 97.5 % quantile of the normal distribution.
const NORMAL_975: f64 = 1.959_963_985;

/// Returns the 97.5 % quantile of Student's t; with more than 30 degrees of freedom by the
/// expansion around the normal quantile (Abramowitz and Stegun, 26.7.5), which is right to four
/// places there.
pub fn student_t_975(freedom: usize) -> f64 {
    if let Some(quantile) = freedom.checked_sub(1).and_then(|index| T_975.get(index)) {
        return *quantile;
    }
    if freedom == 0 {
        return f64::INFINITY;
    }
    let (z, freedom) = (NORMAL_975, freedom as f64);
    let first = (z.powi(3) + z) / 4.0;
    let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    z + first / freedom + second / freedom.powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_beyond_the_table_are_those_of_longer_tables() {
        for (freedom, quantile) in [(31, 2.0395), (40, 2.0211), (60, 2.0003), (120, 1.9799)] {
            let ours = student_t_975(freedom);
            assert!((ours - quantile).abs() < 1e-4, "{freedom}: {ours}");
        }
        assert_eq!(student_t_975(1), 12.706);
        assert_eq!(student_t_975(30), 2.042);
    }

    #[test]
    fn the_interval_of_five_values_is_that_of_the_textbook() {
        let found = mean_interval(&[2.0, 4.0, 4.0, 5.0, 10.0]).unwrap();
        // Standard deviation 3, so 2.776 * 3 / sqrt(5).
        assert_eq!(found.middle, 5.0);
        assert!((found.half_width() - 3.7244).abs() < 1e-3, "{found:?}");
    }

    #[test]
    fn the_interval_of_a_share_is_that_of_the_textbook() {
        // Newcombe, Statistics in Medicine 1998, table I: 81 of 263, 15 of 148, none of 20.
        for (hits, all, low, high) in
            [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]
        {
            let found = proportion_interval(hits, all, NORMAL_975).unwrap();
            assert!((found.low - low).abs() < 1e-4, "{found:?}");
            assert!((found.high - high).abs() < 1e-4, "{found:?}");
        }
        assert_eq!(proportion_interval(0, 0, NORMAL_975), None);
    }

    #[test]
    fn one_value_is_its_own_interval_and_none_has_none() {
        assert_eq!(mean_interval(&[3.0]), Some(Interval { middle: 3.0, low: 3.0, high: 3.0 }));
        assert_eq!(mean_interval(&[]), None);
    }
}
