//! The bound of what this node sends to peers, in bytes a second.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use blobmesh_protocol::blob::GROUP_LEN;

/// How much may be sent at once after a pause, as the time it would take at the bound.
const BURST: Duration = Duration::from_millis(100);
/// How often who waits for its turn looks whether anybody still wants the bytes.
const TICK: Duration = Duration::from_millis(50);

/// Bounds how fast blobs are served, over lanes and streams together. Clones share it.
///
/// Services take their turns piece by piece in the order in which they ask, so that each gets the same
/// share. Waiting counts as sending: while there is a bound the link is the limit.
#[derive(Clone, Debug, Default)]
pub(crate) struct UploadRate(Option<Arc<Bucket>>);

#[derive(Debug)]
struct Bucket {
    bytes_per_s: u64,
    /// When everything that was granted has been sent at the bound.
    free: Mutex<Instant>,
}

impl UploadRate {
    /// Makes a bound; none for no bound.
    pub(crate) fn new(bytes_per_s: Option<u64>) -> Self {
        let bucket = |bytes_per_s| Bucket { bytes_per_s, free: Mutex::new(Instant::now()) };
        Self(bytes_per_s.map(|rate| Arc::new(bucket(rate.max(1)))))
    }

    /// Returns how many bytes to send at once where `unbound` are best: under a bound a group at a time, so
    /// that nobody waits so long for a turn that it takes us for dead.
    pub(crate) fn piece(&self, unbound: u64) -> u64 {
        if self.0.is_some() { GROUP_LEN } else { unbound }
    }

    /// Waits for the turn of some bytes; false when `goes_on` says that nobody wants them any more. Blocks
    /// its thread.
    pub(crate) fn wait(&self, bytes: usize, goes_on: impl Fn() -> bool) -> bool {
        let Some(bucket) = &self.0 else { return true };
        let turn = bucket.grant(bytes, Instant::now());
        loop {
            let left = turn.saturating_duration_since(Instant::now());
            if left.is_zero() || !goes_on() {
                return goes_on();
            }
            std::thread::park_timeout(left.min(TICK));
        }
    }

    /// Waits for the turn of some bytes without blocking a thread. A turn that is dropped is lost.
    pub(crate) async fn turn(&self, bytes: usize) {
        let Some(bucket) = &self.0 else { return };
        let turn = bucket.grant(bytes, Instant::now());
        tokio::time::sleep_until(turn.into()).await;
    }
}

impl Bucket {
    /// Returns when bytes may be sent that are asked for now.
    fn grant(&self, bytes: usize, now: Instant) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let turn = (*free).max(earliest);
        let nanos = u128::try_from(bytes).unwrap_or(u128::MAX).saturating_mul(1_000_000_000)
            / u128::from(self.bytes_per_s);
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        *free = turn.checked_add(takes).unwrap_or(turn);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn bucket(bytes_per_s: u64, now: Instant) -> Bucket {
        Bucket { bytes_per_s, free: Mutex::new(now) }
    }

    #[test]
    fn turns_follow_each_other_at_the_bound() {
        let now = Instant::now() + Duration::from_secs(10);
        let bucket = bucket(1_000_000, now);
        assert_eq!(bucket.grant(64_000, now), now);
        assert_eq!(bucket.grant(64_000, now), now + 64 * MS);
        assert_eq!(bucket.grant(1, now + 10 * MS), now + 128 * MS, "who asks later goes later");
    }

    #[test]
    fn pause_saves_up_no_more_than_the_burst() {
        let now = Instant::now() + Duration::from_secs(10);
        let bucket = bucket(1_000_000, now);
        let later = now + Duration::from_secs(60);
        let mut sent = 0;
        while bucket.grant(10_000, later) <= later {
            sent += 10_000;
        }
        assert_eq!(sent, 110_000, "a tenth of a second, and the piece that goes over it");
    }

    #[test]
    fn who_is_not_wanted_any_more_does_not_wait_for_its_turn() {
        let rate = UploadRate::new(Some(1));
        assert!(rate.wait(1 << 40, || true), "the first goes at once");
        assert!(!rate.wait(1, || false));
        assert!(UploadRate::default().wait(usize::MAX, || true), "no bound");
    }

    #[test]
    fn absurd_lengths_do_no_harm() {
        let now = Instant::now();
        let bucket = bucket(1, now);
        assert!((0..3).all(|_| bucket.grant(usize::MAX, now) >= now));
    }
}
