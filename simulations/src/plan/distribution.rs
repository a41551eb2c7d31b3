//! Random quantities: how long, how much, how many.
//!
//! A draw is the same number in every build and on every machine: it is made with basic arithmetic,
//! which is exact by IEEE 754, and with functions of `libm`, which are plain code. The platform's own
//! logarithm may differ in its last bit and is not used.

use std::f64::consts::TAU;

use crate::random::Random;

/// Is a random whole number: nanoseconds or bytes. Every draw lies between `min` and `max`.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// How it spreads.
    pub shape: Shape,
    /// The least that is drawn.
    pub min: u64,
    /// The most that is drawn.
    pub max: u64,
}

/// Says how a random number spreads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// Always the same.
    Constant(u64),
    /// Between `min` and `max`, each as likely.
    Uniform,
    /// Its logarithm is normal.
    Lognormal {
        /// Half of the draws lie below.
        median: u64,
        /// The standard deviation of the logarithm.
        sigma: f64,
    },
    /// Without memory.
    Exponential {
        /// The mean.
        mean: u64,
    },
    /// As sessions of peers are measured.
    Weibull {
        /// The scale; 63 % of the draws lie below.
        scale: u64,
        /// The shape; below 1 there are many short ones and a few long ones.
        shape: f64,
    },
}

/// Is the least that comes of some draws of a stream, one after another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Least {
    /// Their least unit.
    unit: f64,
    /// The least number of the normal distribution that two of them make which follow each other.
    normal: f64,
    /// A first unit of such two that is no larger makes none below that.
    harmless: f64,
}

impl Least {
    /// Is that of no draws.
    pub const NONE: Self = Self { unit: 1.0, normal: 0.0, harmless: 0.0 };

    /// Takes in that two units follow each other.
    pub fn take_in(&mut self, first: f64, second: f64) {
        self.unit = self.unit.min(second);
        if first > self.harmless {
            let normal = normal_of(first, second);
            if normal < self.normal {
                self.normal = normal;
                // Its radius, which the number of the normal distribution is within.
                self.harmless = 1.0 - libm::exp(-normal * normal * 0.5 * (1.0 - 1e-9));
            }
        }
    }

    /// Returns the least of these draws and of others.
    pub fn and(self, other: Self) -> Self {
        Self {
            unit: self.unit.min(other.unit),
            normal: self.normal.min(other.normal),
            harmless: self.harmless.max(other.harmless),
        }
    }
}

impl Distribution {
    /// Makes the distribution that is always `value`.
    pub const fn constant(value: u64) -> Self {
        Self { shape: Shape::Constant(value), min: 0, max: u64::MAX }
    }

    /// Makes the distribution between two values, each as likely.
    pub const fn uniform(min: u64, max: u64) -> Self {
        Self { shape: Shape::Uniform, min, max }
    }

    /// Returns a number that no draw is below of a stream whose draws are bounded so.
    pub fn least_of(&self, least: Least) -> u64 {
        // The functions of `libm` may be wrong in their last bit.
        let lower = |value: f64| whole(value * (1.0 - 1e-9));
        let drawn = match self.shape {
            Shape::Constant(value) => value,
            Shape::Uniform => self.min,
            Shape::Lognormal { median, sigma } if sigma >= 0.0 => {
                lower(median as f64 * libm::exp(sigma * least.normal))
            }
            Shape::Lognormal { .. } => self.min,
            Shape::Exponential { mean } => lower(mean as f64 * waited(least.unit)),
            Shape::Weibull { scale, shape } => {
                lower(scale as f64 * libm::pow(waited(least.unit), 1.0 / shape))
            }
        };
        drawn.max(self.min).min(self.max)
    }

    /// Draws a number. What falls outside of `min` and `max` is moved to the nearer of them, so a low
    /// `max` makes that value frequent; it does not make the rest more frequent.
    pub fn draw(&self, random: &mut Random) -> u64 {
        let drawn = match self.shape {
            Shape::Constant(value) => value,
            Shape::Uniform => random.between(self.min, self.max),
            Shape::Lognormal { median, sigma } => {
                whole(median as f64 * libm::exp(sigma * normal(random)))
            }
            Shape::Exponential { mean } => whole(mean as f64 * exponential(random)),
            Shape::Weibull { scale, shape } => {
                whole(scale as f64 * libm::pow(exponential(random), 1.0 / shape))
            }
        };
        drawn.max(self.min).min(self.max)
    }
}

/// Draws from the normal distribution of mean 0 and deviation 1 by the method of Box and Muller, which
/// takes two draws whatever they are.
fn normal(random: &mut Random) -> f64 {
    let first = random.unit();
    normal_of(first, random.unit())
}

fn normal_of(first: f64, second: f64) -> f64 {
    let radius = libm::sqrt(2.0 * waited(first));
    radius * libm::cos(TAU * second)
}

/// Draws from the exponential distribution of mean 1.
fn exponential(random: &mut Random) -> f64 {
    waited(random.unit())
}

/// Returns the number of the exponential distribution of mean 1 that so large a share of its numbers is below.
fn waited(unit: f64) -> f64 {
    // A unit is below 1, so there is no logarithm of zero.
    -libm::log(1.0 - unit)
}

/// Rounds to the nearest whole number; what is too large becomes the largest.
#[expect(clippy::cast_possible_truncation, reason = "a cast of a float saturates")]
fn whole(value: f64) -> u64 {
    (value + 0.5) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 40_000;

    fn draws(distribution: &Distribution, count: usize) -> Vec<u64> {
        let mut random = Random::new(11);
        (0..count).map(|_| distribution.draw(&mut random)).collect()
    }

    fn wide(shape: Shape) -> Distribution {
        Distribution { shape, min: 0, max: u64::MAX }
    }

    /// Counts the draws below a quantile; five standard deviations of the binomial count are allowed.
    fn holds_quantile(distribution: &Distribution, value: f64, share: f64) {
        let below =
            draws(distribution, DRAWS).iter().filter(|draw| (**draw as f64) < value).count();
        let expected = DRAWS as f64 * share;
        let allowed = 5.0 * (expected * (1.0 - share)).sqrt();
        assert!(
            (below as f64 - expected).abs() <= allowed,
            "{distribution:?}: {below} below {value}, expected {expected} within {allowed}"
        );
    }

    fn holds_mean(distribution: &Distribution, mean: f64, deviation: f64) {
        let sum: f64 = draws(distribution, DRAWS).iter().map(|draw| *draw as f64).sum();
        let measured = sum / DRAWS as f64;
        let allowed = 5.0 * deviation / (DRAWS as f64).sqrt();
        assert!(
            (measured - mean).abs() <= allowed,
            "{distribution:?}: mean {measured}, not {mean}"
        );
    }

    #[test]
    fn a_lognormal_has_its_median_quantiles_and_mean() {
        let (median, sigma) = (1e9, 0.5);
        let lognormal = wide(Shape::Lognormal { median: 1_000_000_000, sigma });
        for (z, share) in [(0.0, 0.5), (1.281_551_6, 0.9), (2.326_347_9, 0.99), (-1.281_551_6, 0.1)]
        {
            holds_quantile(&lognormal, median * f64::exp(sigma * z), share);
        }
        let mean = median * f64::exp(sigma * sigma / 2.0);
        holds_mean(&lognormal, mean, mean * (f64::exp(sigma * sigma) - 1.0).sqrt());
    }

    #[test]
    fn an_exponential_has_its_mean_and_quantiles() {
        let exponential = wide(Shape::Exponential { mean: 1_000_000 });
        holds_mean(&exponential, 1e6, 1e6);
        for share in [0.1_f64, 0.5, 0.9, 0.99] {
            holds_quantile(&exponential, -1e6 * (1.0 - share).ln(), share);
        }
    }

    #[test]
    fn a_weibull_has_its_scale_and_quantiles() {
        for shape in [0.5_f64, 1.0, 3.0] {
            let weibull = wide(Shape::Weibull { scale: 1_000_000, shape });
            holds_quantile(&weibull, 1e6, 1.0 - f64::exp(-1.0));
            for share in [0.1_f64, 0.5, 0.9] {
                holds_quantile(&weibull, 1e6 * (-(1.0 - share).ln()).powf(1.0 / shape), share);
            }
        }
    }

    #[test]
    fn a_uniform_has_its_mean_and_quantiles() {
        let uniform = Distribution::uniform(1_000, 2_000_999);
        holds_mean(&uniform, 1_000_999.5, 577_350.0);
        holds_quantile(&uniform, 1_001_000.0, 0.5);
        holds_quantile(&uniform, 201_000.0, 0.1);
    }

    #[test]
    fn every_draw_lies_between_its_least_and_its_most() {
        let shapes = [
            Shape::Constant(0),
            Shape::Constant(u64::MAX),
            Shape::Uniform,
            Shape::Lognormal { median: 1_000, sigma: 8.0 },
            Shape::Lognormal { median: u64::MAX, sigma: 8.0 },
            Shape::Exponential { mean: u64::MAX },
            Shape::Weibull { scale: 1_000, shape: 0.1 },
        ];
        for shape in shapes {
            let drawn = draws(&Distribution { shape, min: 900, max: 1_100 }, 1_000);
            assert!(drawn.iter().all(|draw| (900..=1_100).contains(draw)), "{shape:?}");
        }
        // The wrong way round is no panic; a plan refuses it.
        assert_eq!(draws(&Distribution::uniform(5, 3), 1), [3]);
    }

    #[test]
    fn no_draw_is_below_the_least_of_its_stream_and_that_is_not_far_below() {
        let million = 1_000_000;
        for shape in [
            Shape::Constant(million),
            Shape::Lognormal { median: million, sigma: 0.4 },
            Shape::Exponential { mean: million },
            Shape::Weibull { scale: million, shape: 0.5 },
        ] {
            for seed in 0..100 {
                let (mut random, mut ahead) = (Random::new(seed), Random::new(seed));
                // Streams are used for other things, too: draws begin anywhere.
                for _ in 0..seed % 3 {
                    random.draw();
                }
                let drawn: Vec<u64> = (0..50).map(|_| wide(shape).draw(&mut random)).collect();
                let (mut least, mut last) = (Least::NONE, 0.0);
                for _ in 0..random.drawn() {
                    let unit = ahead.unit();
                    least.take_in(std::mem::replace(&mut last, unit), unit);
                }
                let (bound, drawn) = (wide(shape).least_of(least), drawn.into_iter().min());
                let drawn = drawn.expect("fifty");
                assert!(bound <= drawn, "{shape:?}, seed {seed}: {bound} {drawn}");
                // Units that belong to no draw may be less than those that do.
                if matches!(shape, Shape::Constant(_) | Shape::Lognormal { .. }) {
                    assert!(bound > drawn / 2, "{shape:?}, seed {seed}: {bound} {drawn}");
                }
            }
        }
        let short = Distribution { shape: Shape::Constant(5), min: 7, max: 9 };
        assert_eq!(
            (short.least_of(Least::NONE), Distribution::uniform(3, 5).least_of(Least::NONE)),
            (7, 3)
        );
    }

    #[test]
    fn the_draws_of_a_seed_are_written_in_stone() {
        let shapes = [
            Shape::Lognormal { median: 1_000_000_000, sigma: 0.4 },
            Shape::Exponential { mean: 1_000_000_000 },
            Shape::Weibull { scale: 1_000_000_000, shape: 0.5 },
        ];
        let drawn: Vec<_> = shapes.iter().map(|shape| draws(&wide(*shape), 3)).collect();
        assert_eq!(
            drawn,
            [
                [790_118_848, 1_132_621_292, 1_410_353_078],
                [450_620_733, 440_843_343, 53_306_138],
                [203_059_045, 194_342_853, 2_841_544],
            ]
        );
    }
}
