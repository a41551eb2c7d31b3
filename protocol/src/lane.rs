//! How long the blobs may be that a provider sends in one message over a lane.
//!
//! Asking for a file of a few groups costs a list, a stream and a partial blob, and one message costs none of them. But who
//! waits for a message waits for all of it, and its groups come from one holder: a lane that is slow sends them group by
//! group.

use std::time::Duration;

use crate::time::rate_of;
use crate::wire::small::{Longest, SMALL_BYTES_MAX};

/// How many bytes a second a lane must take for medium blobs to come in one message: one of 1 MiB then takes at most 100 ms. On
/// a slower one they are told to be large, and come group by group from whoever has them.
const MEDIUM_RATE_MIN: u64 = 10 << 20;
/// How long a medium blob may be while nothing is known of a lane's speed.
const PROBE_LEN_MAX: u64 = 256 << 10;
/// How many bytes that were sent at once tell how fast a lane is.
const RATE_LEN_MIN: usize = 64 << 10;

/// Tells how fast a lane took what was last sent on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speed {
    /// Too little was sent to tell.
    #[default]
    Unknown,
    /// Medium blobs would hold up what comes after them.
    Low,
    /// A medium blob is there within a tenth of a second.
    High,
}

impl Speed {
    /// Takes in how long so many bytes took.
    pub fn sent(&mut self, len: usize, took: Duration) {
        if len >= RATE_LEN_MIN {
            let is_low = rate_of(u64::try_from(len).unwrap_or(u64::MAX), took) < MEDIUM_RATE_MIN;
            *self = if is_low { Self::Low } else { Self::High };
        }
    }

    /// Returns how long the blobs may be that come in one message to who takes these codecs.
    pub fn len_max(self, codecs: u8) -> u64 {
        let longest = Longest::of(codecs).blob_bytes();
        match self {
            Self::Unknown => longest.min(PROBE_LEN_MAX),
            Self::Low => SMALL_BYTES_MAX,
            Self::High => longest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::small::{MEDIUM_BYTES_MAX, TAKES_MEDIUM};

    #[test]
    fn medium_blobs_go_where_the_last_answers_left_quickly() {
        let mut speed = Speed::default();
        assert_eq!(speed.len_max(TAKES_MEDIUM), PROBE_LEN_MAX, "nothing is known");
        let second = Duration::from_secs(1);
        for (len, took, len_max) in [
            (RATE_LEN_MIN - 1, second, PROBE_LEN_MAX),
            (RATE_LEN_MIN, second / 160, MEDIUM_BYTES_MAX),
            (RATE_LEN_MIN, second / 159, SMALL_BYTES_MAX),
            (RATE_LEN_MIN - 1, Duration::ZERO, SMALL_BYTES_MAX),
            (1 << 20, second / 10, MEDIUM_BYTES_MAX),
        ] {
            speed.sent(len, took);
            assert_eq!(speed.len_max(TAKES_MEDIUM), len_max, "{len} in {took:?}");
            assert_eq!(speed.len_max(0), SMALL_BYTES_MAX);
        }
    }
}
