//! The memory of lanes: buffers of one size, as many as the configuration allows, given back when they
//! are dropped.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The length of a buffer in bytes: 16 groups. What the file system likes best to be given at once.
pub(crate) const BUFFER_LEN: usize = 1 << 20;
/// How long a lane waits for a buffer; then the bytes go another way. It is less than the time after
/// which the engine takes the source for a dead one.
pub(super) const BUFFER_WAIT: Duration = Duration::from_secs(2);

/// The part of a pool that is only for what comes, a quarter of it.
const KEPT_PART: usize = 4;

/// Is a pool of buffers; clones share it. Memory is taken when a buffer is first needed, and kept.
#[derive(Clone, Debug)]
pub(crate) struct Buffers(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    state: Mutex<State>,
    /// How many are for what comes only.
    kept: usize,
    returned: Condvar,
}

#[derive(Debug)]
struct State {
    idle: Vec<Box<[u8]>>,
    /// How many more may be made.
    unmade: usize,
}

impl State {
    /// Returns how many are not in use.
    fn free(&self) -> usize {
        self.idle.len() + self.unmade
    }
}

impl Buffers {
    /// Makes a pool of at most `bytes_max` bytes, and of two buffers at least: one lane needs one to
    /// fill while the other is written.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let unmade = (bytes_max / BUFFER_LEN).max(2);
        let kept = unmade / KEPT_PART;
        let state = Mutex::new(State { idle: Vec::new(), unmade });
        Self(Arc::new(Pool { state, kept, returned: Condvar::new() }))
    }

    /// Takes a buffer for what comes, with bytes of no meaning in it; none if all stay in use for so long.
    pub(crate) fn take(&self, patience: Duration) -> Option<Buffer> {
        self.take_leaving(0, patience)
    }

    /// Takes one for what is sent: those who take it slowly leave some to what comes.
    pub(crate) fn take_to_send(&self, patience: Duration) -> Option<Buffer> {
        self.take_leaving(self.0.kept, patience)
    }

    fn take_leaving(&self, kept: usize, patience: Duration) -> Option<Buffer> {
        let deadline = Instant::now() + patience;
        let mut state = self.0.lock();
        loop {
            if state.free() > kept {
                let bytes = state.idle.pop();
                if bytes.is_none() {
                    state.unmade -= 1;
                }
                drop(state);
                let bytes = bytes.unwrap_or_else(|| vec![0; BUFFER_LEN].into_boxed_slice());
                return Some(Buffer { bytes, pool: Arc::clone(&self.0) });
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let waited = self.0.returned.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Is a buffer of [`BUFFER_LEN`] bytes that goes back to its pool.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    pool: Arc<Pool>,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").finish_non_exhaustive()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.pool.lock().idle.push(bytes);
        // The first who waits may have to leave it to another.
        self.pool.returned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_buffers_are_out_than_the_bound_and_each_comes_back() {
        let buffers = Buffers::new(3 * BUFFER_LEN + 1);
        let held: Vec<_> = (0..3).map(|_| buffers.take(Duration::ZERO).expect("room")).collect();
        assert!(buffers.take(Duration::ZERO).is_none());
        let other = buffers.clone();
        let waiting = std::thread::spawn(move || other.take(Duration::from_secs(20)).is_some());
        drop(held);
        assert!(waiting.join().expect("no panic"));
        assert_eq!(buffers.0.lock().idle.len(), 3);
    }

    #[test]
    fn what_is_sent_leaves_a_quarter_of_the_buffers_to_what_comes() {
        let buffers = Buffers::new(8 * BUFFER_LEN);
        let sent: Vec<_> = std::iter::from_fn(|| buffers.take_to_send(Duration::ZERO)).collect();
        assert_eq!(sent.len(), 6);
        let came: Vec<_> = std::iter::from_fn(|| buffers.take(Duration::ZERO)).collect();
        assert_eq!(came.len(), 2);
        drop(sent);
        assert!(buffers.take_to_send(Duration::ZERO).is_some());
    }

    #[test]
    fn smallest_pool_has_two_buffers() {
        let buffers = Buffers::new(0);
        let (one, two) = (buffers.take(Duration::ZERO), buffers.take(Duration::ZERO));
        assert!(one.is_some_and(|one| one.len() == BUFFER_LEN) && two.is_some());
    }
}
