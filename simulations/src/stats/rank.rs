//! Statistics of ranks: Spearman's correlation and the Mann-Whitney test.

use super::mean;

/// Returns Spearman's rank correlation of pairs; ties share the mean of their ranks. `None` with
/// fewer than two pairs, and where one side is all the same.
pub fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    let a = ranks(&pairs.iter().map(|pair| pair.0).collect::<Vec<_>>());
    let b = ranks(&pairs.iter().map(|pair| pair.1).collect::<Vec<_>>());
    let (mean_a, mean_b) = (mean(&a)?, mean(&b)?);
    let both: f64 = a.iter().zip(&b).map(|(a, b)| (a - mean_a) * (b - mean_b)).sum();
    let squares = |ranks: &[f64], mean: f64| ranks.iter().map(|r| (r - mean).powi(2)).sum::<f64>();
    let spread = (squares(&a, mean_a) * squares(&b, mean_b)).sqrt();
    (spread > 0.0).then(|| both / spread)
}

/// Is what the Mann-Whitney test says of two samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MannWhitney {
    /// U of the first sample: pairs in which its value is the larger; ties count half.
    pub u: f64,
    /// The probability of a difference at least as large, were both from one distribution:
    /// two-sided, by the normal approximation with its corrections for ties and continuity. Rough
    /// below eight values.
    pub p: f64,
}

/// Tests whether one of two samples tends to larger values.
pub fn mann_whitney(a: &[f64], b: &[f64]) -> Option<MannWhitney> {
    let (n, m) = (a.len() as f64, b.len() as f64);
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let all: Vec<f64> = a.iter().chain(b).copied().collect();
    let ranks = ranks(&all);
    let u = ranks.iter().take(a.len()).sum::<f64>() - n * (n + 1.0) / 2.0;
    let ties: f64 = runs_of_ties(&all).map(|ties| ties.powi(3) - ties).sum();
    let count = n + m;
    let variance = n * m / 12.0 * (count + 1.0 - ties / (count * (count - 1.0)));
    if variance <= 0.0 {
        return Some(MannWhitney { u, p: 1.0 });
    }
    let z = (((u - n * m / 2.0).abs() - 0.5).max(0.0)) / variance.sqrt();
    Some(MannWhitney { u, p: (2.0 * normal_upper_tail(z)).min(1.0) })
}

/// Returns the rank of each value from 1, in the order of the values; ties share the mean.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<(usize, f64)> = values.iter().copied().enumerate().collect();
    order.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut ranked = Vec::with_capacity(values.len());
    let mut before = 0;
    for tied in order.chunk_by(|a, b| a.1 == b.1) {
        let rank = before as f64 + (tied.len() as f64 + 1.0) / 2.0;
        ranked.extend(tied.iter().map(|(index, _)| (*index, rank)));
        before += tied.len();
    }
    ranked.sort_by_key(|(index, _)| *index);
    ranked.into_iter().map(|(_, rank)| rank).collect()
}

fn runs_of_ties(values: &[f64]) -> impl Iterator<Item = f64> {
    let ascending = super::sorted(values.iter().copied());
    let lengths: Vec<f64> = ascending.chunk_by(|a, b| a == b).map(|run| run.len() as f64).collect();
    lengths.into_iter()
}

/// Returns the probability that a normal value exceeds `z`, which is not below 0, to seven places
/// (Abramowitz and Stegun, 26.2.17).
fn normal_upper_tail(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let powers = [1.330_274_429, -1.821_255_978, 1.781_477_937, -0.356_563_782, 0.319_381_530];
    let polynomial = powers.iter().fold(0.0, |sum, factor| (sum + factor) * t);
    (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * polynomial
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spearman_is_that_of_the_textbook() {
        // Hours of television against intelligence quotient, a common example: -29/165.
        let iq = [106.0, 100.0, 86.0, 101.0, 99.0, 103.0, 97.0, 113.0, 112.0, 110.0];
        let hours = [7.0, 27.0, 2.0, 50.0, 28.0, 29.0, 20.0, 12.0, 6.0, 17.0];
        let pairs: Vec<_> = iq.into_iter().zip(hours).collect();
        assert!((spearman(&pairs).unwrap() + 29.0 / 165.0).abs() < 1e-12);
    }

    #[test]
    fn ties_share_the_mean_of_their_ranks() {
        assert_eq!(ranks(&[10.0, 20.0, 10.0, 5.0]), [2.5, 4.0, 2.5, 1.0]);
        let rho = spearman(&[(1.0, 1.0), (2.0, 2.0), (2.0, 3.0), (3.0, 4.0)]).unwrap();
        assert!((rho - 0.948_683).abs() < 1e-6, "{rho}");
    }

    #[test]
    fn a_side_that_never_varies_has_no_correlation() {
        assert_eq!(spearman(&[(1.0, 5.0), (2.0, 5.0)]), None);
        assert_eq!(spearman(&[]), None);
        assert_eq!(spearman(&[(1.0, 9.0), (2.0, 8.0), (3.0, 1.0)]), Some(-1.0));
    }

    #[test]
    fn the_normal_tail_is_that_of_tables() {
        for (z, tail) in [(0.0, 0.5), (1.0, 0.158_655_3), (1.96, 0.024_997_9), (3.0, 0.001_349_9)] {
            assert!((normal_upper_tail(z) - tail).abs() < 2e-7, "{z}");
        }
    }

    #[test]
    fn mann_whitney_counts_the_pairs_in_which_the_first_is_larger() {
        // The tortoises and hares of Mann and Whitney's test in textbooks: T H H H H H T T T T T H.
        let tortoises = [12.0, 6.0, 5.0, 4.0, 3.0, 2.0];
        let hares = [11.0, 10.0, 9.0, 8.0, 7.0, 1.0];
        assert_eq!(mann_whitney(&tortoises, &hares).unwrap().u, 11.0);
        assert_eq!(mann_whitney(&hares, &tortoises).unwrap().u, 25.0);
    }

    #[test]
    fn mann_whitney_probability_is_that_of_the_published_approximation() {
        // Diabetes ages of men and women in a common example: U = 17 and 3, p = 0.111 with
        // continuity.
        let men = [19.0, 22.0, 16.0, 29.0, 24.0];
        let women = [20.0, 11.0, 17.0, 12.0];
        let found = mann_whitney(&men, &women).unwrap();
        assert_eq!(found.u, 17.0);
        assert!((found.p - 0.1113).abs() < 1e-4, "{found:?}");
    }

    #[test]
    fn samples_of_one_value_do_not_differ() {
        assert_eq!(mann_whitney(&[1.0, 1.0], &[1.0]).unwrap().p, 1.0);
        assert_eq!(mann_whitney(&[], &[1.0]), None);
    }
}
