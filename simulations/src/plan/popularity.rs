//! Popularity: which blob of a set is wanted, where a few are wanted often and most are not.

use crate::random::Random;

/// Draws ranks by the law of Zipf: rank r, from 1, with weight 1/r^s.
///
/// The weights of a finite set are summed up once, 8 bytes for each rank; a draw is a binary search.
/// The sums are made in one order with functions of `libm`, so they are the same on every machine.
#[derive(Clone, Debug)]
pub struct Zipf {
    /// The sum of the weights up to and with each rank.
    sums: Vec<f64>,
}

impl Zipf {
    /// Weighs `count` ranks with the exponent s; 0 makes all as likely.
    pub fn new(count: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let sums = (1..=count)
            .map(|rank| {
                sum += libm::pow(rank as f64, -exponent);
                sum
            })
            .collect();
        Self { sums }
    }

    /// Draws an index, rank 1 being 0; 0 also if there are no ranks.
    pub fn draw(&self, random: &mut Random) -> usize {
        let Some(total) = self.sums.last() else { return 0 };
        let drawn = random.unit() * total;
        // The product may be rounded up to the total, which lies above every rank.
        self.sums.partition_point(|sum| *sum <= drawn).min(self.sums.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u32 = 50_000;

    #[test]
    fn each_rank_is_drawn_by_its_weight() {
        for (count, exponent) in [(10, 0.0), (10, 0.9), (100, 1.0), (5, 2.5)] {
            let zipf = Zipf::new(count, exponent);
            let mut random = Random::new(3);
            let mut counts = vec![0_u32; count];
            (0..DRAWS).for_each(|_| counts[zipf.draw(&mut random)] += 1);
            let total: f64 = (1..=count).map(|rank| (rank as f64).powf(-exponent)).sum();
            for (index, counted) in counts.iter().enumerate() {
                let share = ((index + 1) as f64).powf(-exponent) / total;
                let expected = f64::from(DRAWS) * share;
                let allowed = 5.0 * (expected * (1.0 - share)).sqrt();
                assert!(
                    (f64::from(*counted) - expected).abs() <= allowed,
                    "s = {exponent}: rank {} came {counted} times, expected {expected}",
                    index + 1
                );
            }
        }
    }

    #[test]
    fn a_set_of_one_or_none_is_always_its_first() {
        let mut random = Random::new(3);
        assert_eq!(Zipf::new(1, 1.0).draw(&mut random), 0);
        assert_eq!(Zipf::new(0, 1.0).draw(&mut random), 0);
        // So steep that every weight but the first vanishes.
        assert_eq!(Zipf::new(1_000, 1e6).draw(&mut random), 0);
    }

    #[test]
    fn the_draws_of_a_seed_are_written_in_stone() {
        let zipf = Zipf::new(1_000_000, 0.9);
        let mut random = Random::new(3);
        let drawn: Vec<usize> = (0..6).map(|_| zipf.draw(&mut random)).collect();
        assert_eq!(drawn, [51_088, 156, 683_164, 35_545, 245_063, 181_646]);
    }
}
