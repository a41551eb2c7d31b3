//! A few threads that share a list of work, and end together.
//!
//! Small files are bound by what the file system does for each, which two threads do in about half of the time and
//! eight no faster (2 cores; four on larger machines).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::error::CheckoutError;
use crate::stop::Stop;

/// How many threads work at most.
const THREADS_MAX: usize = 4;
/// How many items a thread takes at once where each is little work.
const PIECE_LEN: usize = 128;
/// Below so many pieces one thread does all.
const PIECES_MIN: usize = 2;

/// Calls `work` with every item, from several threads, in no order; the first error ends all.
pub(super) fn each<T: Sync>(
    items: &[T],
    stop: &Stop,
    work: impl Fn(&T) -> Result<(), CheckoutError> + Sync,
) -> Result<(), CheckoutError> {
    let pieces: Vec<&[T]> = items.chunks(PIECE_LEN).collect();
    share(&pieces, stop, |piece| piece.iter().try_for_each(&work)).map(drop)
}

/// Has threads take pieces in their order until there are none; returns what each piece came to, in no order.
///
/// # Errors
/// The first error that a piece gave; [`CheckoutError::Stopped`] when that was wanted.
pub(super) fn share<P: Sync, R: Send>(
    pieces: &[P],
    stop: &Stop,
    work: impl Fn(&P) -> Result<R, CheckoutError> + Sync,
) -> Result<Vec<R>, CheckoutError> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let take = || {
        let mut done = Vec::new();
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            if failed.load(Ordering::Relaxed) {
                break;
            }
            let result = if stop.is_wanted() { Err(CheckoutError::Stopped) } else { work(piece) };
            match result {
                Ok(result) => done.push(result),
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    // A copy that was stopped fails in its own words.
                    return Err(if stop.is_wanted() { CheckoutError::Stopped } else { error });
                }
            }
        }
        Ok(done)
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).clamp(2, THREADS_MAX);
    if pieces.len() < PIECES_MIN {
        return take();
    }
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(pieces.len())).map(|_| scope.spawn(take)).collect();
        let mut all = take();
        for other in others {
            let result = other.join().unwrap_or(Err(CheckoutError::Worker));
            all = match (all, result) {
                (Ok(mut all), Ok(more)) => {
                    all.extend(more);
                    Ok(all)
                }
                (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            };
        }
        all
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn every_item_is_worked_on_once() {
        for len in [0, 1, PIECE_LEN, 10 * PIECE_LEN + 1] {
            let items: Vec<usize> = (0..len).collect();
            let seen = Mutex::new(Vec::new());
            let note = |item: &usize| {
                seen.lock().expect("lock").push(*item);
                Ok(())
            };
            each(&items, &Stop::default(), note).expect("done");
            let mut seen = seen.into_inner().expect("lock");
            seen.sort_unstable();
            assert_eq!(seen, items);
        }
    }

    #[test]
    fn first_error_ends_the_work_and_a_stop_does() {
        let pieces: Vec<usize> = (0..1000).collect();
        let done = AtomicUsize::new(0);
        let result = share(&pieces, &Stop::default(), |piece| {
            done.fetch_add(1, Ordering::Relaxed);
            if *piece >= 10 { Err(CheckoutError::Worker) } else { Ok(()) }
        });
        assert!(matches!(result, Err(CheckoutError::Worker)));
        assert!(done.into_inner() <= 10 + THREADS_MAX);
        let stop = Stop::default();
        stop.stop();
        assert!(matches!(share(&pieces, &stop, |_| Ok(())), Err(CheckoutError::Stopped)));
    }
}
