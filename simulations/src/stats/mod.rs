//! The statistics that reports and comparisons state, and no more.
//!
//! Everything here is a pure function of the numbers it is given, so a report made twice is the
//! same twice: the bootstrap takes a seed. Values that are no number are for the caller to leave
//! out; sorting is by `f64::total_cmp`, so they cannot panic. An empty sample has no statistic, and
//! says so with `None`.
//!
//! Percentiles are nearest-rank: the least value that at least this share of the sample does not
//! exceed. So each is a value that was measured, and the same for whole and broken numbers.

mod bootstrap;
mod interval;
mod rank;
mod sample;

pub use bootstrap::median_interval;
pub use interval::{Interval, mean_interval, proportion_interval, student_t_975};
pub use rank::{MannWhitney, mann_whitney, spearman};
pub use sample::{Cdf, ks_distance, mean, median, percentile, sorted};
