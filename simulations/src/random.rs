//! Randomness that is the same in every build and on every machine.
//!
//! All chance of a run comes from one seed. Each part of a world takes a stream of its own by
//! [`fork`](Random::fork), so that one more draw in one place changes nothing in another. There is no
//! other source: no clock, no address, no operating system. Floats are made with basic arithmetic only;
//! whoever needs a logarithm takes it from `libm`, not from the platform.

use std::collections::BTreeSet;

use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng, SeedableRng};

/// Separates these streams from other uses of BLAKE3.
const CONTEXT: &str = "blobmesh-simulations 2026-11 random streams";
/// Where a stream's own draws come from; [`Random::fork`] takes everything else.
const DRAWS: &[u8] = b"draws";

/// Is a stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random {
    /// Names the stream: what it was forked from, and by which label. Draws do not change it.
    key: [u8; 32],
    generator: Pcg64,
    drawn: u64,
}

impl Random {
    /// Starts the stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self::of_key(blake3::derive_key(CONTEXT, &seed.to_le_bytes()))
    }

    /// Returns the stream of this name and number under this one. What was drawn before does not matter:
    /// the same label and index always give the same stream.
    pub fn fork(&self, label: &str, index: u64) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        // The length first, or a label could run into the index of another.
        hasher.update(&(label.len() as u64).to_le_bytes());
        hasher.update(label.as_bytes());
        hasher.update(&index.to_le_bytes());
        Self::of_key(*hasher.finalize().as_bytes())
    }

    fn of_key(key: [u8; 32]) -> Self {
        let seed = blake3::keyed_hash(&key, DRAWS);
        Self { key, generator: Pcg64::from_seed(*seed.as_bytes()), drawn: 0 }
    }

    /// Returns how often [`draw`](Self::draw) was called, by whatever is drawn.
    pub fn drawn(&self) -> u64 {
        self.drawn
    }

    /// Draws any number.
    pub fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.generator.next_u64()
    }

    /// Draws a number below `bound`, each as likely; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        // Lemire's method: the high half of a product, and a new draw where the low half would favour
        // small numbers.
        let uneven = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.draw()) * u128::from(bound);
            let [high, low] = halves(product);
            if low >= uneven {
                return high;
            }
        }
    }

    /// Draws a number from `min` to `max`, both included; `min` if they are the wrong way round.
    pub fn between(&mut self, min: u64, max: u64) -> u64 {
        match max.checked_sub(min).map(|span| span.checked_add(1)) {
            Some(Some(count)) => min + self.below(count),
            Some(None) => self.draw(),
            None => min,
        }
    }

    /// Draws a number from 0 to below 1 with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        // Below 2^53 every whole number is a float, so nothing is rounded here.
        (self.draw() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// Says yes with this probability.
    pub fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    /// Puts a slice into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.index(last + 1);
            items.swap(last, other);
        }
    }

    /// Draws `count` different indexes below `length`, in rising order; all of them if there are no
    /// more.
    pub fn choose(&mut self, count: usize, length: usize) -> Vec<usize> {
        // Floyd's method: each round draws from one index more, and takes the newest one where the
        // drawn one is chosen already.
        let mut chosen = BTreeSet::new();
        for newest in length.saturating_sub(count)..length {
            let drawn = self.index(newest + 1);
            if !chosen.insert(drawn) {
                chosen.insert(newest);
            }
        }
        chosen.into_iter().collect()
    }

    /// Draws an index below `length`; 0 if there is none.
    pub fn index(&mut self, length: usize) -> usize {
        // A draw below a usize is a usize.
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }
}

/// Splits a product into its high and its low half.
fn halves(product: u128) -> [u64; 2] {
    let low = product & u128::from(u64::MAX);
    [product >> 64, low].map(|half| u64::try_from(half).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(mut random: Random, count: usize) -> Vec<u64> {
        (0..count).map(|_| random.draw()).collect()
    }

    #[test]
    fn the_draws_of_a_seed_are_written_in_stone() {
        let seven = Random::new(7);
        assert_eq!(
            draws(seven.clone(), 4),
            [15230607477795394563, 4301706448495983340, 2932245577007850987, 3383626146526655840]
        );
        assert_eq!(draws(seven.fork("host", 3), 2), [7372371840801500794, 14372227929522598228]);
        assert_eq!(seven.clone().unit(), 0.8256528857849867);
    }

    #[test]
    fn streams_differ_by_seed_label_and_index_and_not_by_what_was_drawn_before() {
        let mut root = Random::new(1);
        let before = draws(root.fork("host", 1), 3);
        root.draw();
        assert_eq!(draws(root.fork("host", 1), 3), before);
        for other in [
            root.fork("host", 2),
            root.fork("hosts", 1),
            root.fork("host", 1).fork("host", 1),
            Random::new(2).fork("host", 1),
            Random::new(1),
        ] {
            assert_ne!(draws(other, 3), before);
        }
    }

    #[test]
    fn a_number_below_a_bound_is_each_as_often() {
        let mut random = Random::new(5);
        let mut counts = [0_u32; 7];
        for _ in 0..70_000 {
            counts[random.index(7)] += 1;
        }
        // Ten standard deviations of a count of 10,000.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 926), "{counts:?}");
        assert_eq!((random.below(0), random.below(1)), (0, 0));
        assert!((0..1_000).all(|_| random.below(1 << 63) < 1 << 63));
    }

    #[test]
    fn a_number_between_two_may_be_either_end() {
        let mut random = Random::new(5);
        let drawn: Vec<u64> = (0..100).map(|_| random.between(3, 5)).collect();
        assert!([3, 4, 5].iter().all(|number| drawn.contains(number)));
        assert!(drawn.iter().all(|number| (3..=5).contains(number)));
        assert_eq!((random.between(9, 9), random.between(9, 8)), (9, 9));
        let _any = random.between(0, u64::MAX);
    }

    #[test]
    fn a_chance_of_none_never_comes_and_of_one_always() {
        let mut random = Random::new(5);
        assert!((0..1_000).all(|_| !random.chance(0.0) && random.chance(1.0)));
        let hits = (0..10_000).filter(|_| random.chance(0.25)).count();
        assert!(hits.abs_diff(2_500) < 433, "{hits}");
    }

    #[test]
    fn a_shuffle_keeps_every_item_and_moves_them() {
        let mut items: Vec<u32> = (0..100).collect();
        Random::new(5).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_choice_has_no_index_twice_and_favours_none() {
        let mut random = Random::new(5);
        let mut counts = [0_u32; 10];
        for _ in 0..10_000 {
            let chosen = random.choose(3, 10);
            assert!(chosen.len() == 3 && chosen.is_sorted_by(|a, b| a < b), "{chosen:?}");
            chosen.iter().for_each(|index| counts[*index] += 1);
        }
        assert!(counts.iter().all(|count| count.abs_diff(3_000) < 459), "{counts:?}");
        assert_eq!(random.choose(9, 2), [0, 1]);
        assert!(random.choose(0, 2).is_empty() && random.choose(2, 0).is_empty());
    }
}
