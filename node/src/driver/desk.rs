//! Where the driver sits: its own task has it most of the time, and whoever has one thing to tell it may do so on
//! the spot.
//!
//! A get of a small blob is some microseconds of work, and was a chain of tasks that wake each other: who asks, the
//! driver, the neighbour's task, the connection, and back. The runtime has a fourth task in a row run by another
//! thread, and to wake that one takes longer than the work. So where one get is under way and the driver has
//! nothing else to do, whoever has news for it is the driver for a moment. Where there are more of them, events
//! take their turns, which costs each of them less. Nobody waits for another here but the driver's own task, for
//! the time of one event.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::Driver;
use super::event::Event;

/// Holds the driver while it runs.
pub(super) struct Desk {
    driver: Mutex<Option<Driver>>,
    events: mpsc::Sender<Event>,
    /// How many wait for a get of their own.
    gets: AtomicUsize,
    /// Told when something is to be done earlier than the driver's task waits for.
    earlier: Notify,
    /// The driver's tasks are tasks of this runtime, whoever begins them.
    runtime: Handle,
}

impl Desk {
    /// Makes a desk of the runtime that the caller is in.
    pub(super) fn new(events: mpsc::Sender<Event>) -> Self {
        let (driver, gets, earlier) = (Mutex::default(), AtomicUsize::new(0), Notify::new());
        Self { driver, events, gets, earlier, runtime: Handle::current() }
    }

    pub(super) fn seat(&self, driver: Driver) {
        *self.lock() = Some(driver);
    }

    /// Ends the driver's work; none where it has ended.
    pub(super) fn close(&self) -> Option<Driver> {
        self.lock().take()
    }

    /// Does something with the driver, in its own task; none where it has ended.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Driver) -> T) -> Option<T> {
        self.lock().as_mut().map(act)
    }

    /// Counts somebody who waits for a get, until what is returned is dropped.
    pub(super) fn begin_get(&self) -> GetUnderWay<'_> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        GetUnderWay(&self.gets)
    }

    /// Returns whether one waits for a get, and nobody else does.
    pub(super) fn is_quiet(&self) -> bool {
        self.gets.load(Ordering::Relaxed) == 1
    }

    /// Tells the driver of an event: at once if it is quiet and has nothing to do, else in its turn. Waits while too many are
    /// told; cancelled then, it told nothing.
    pub(super) async fn tell(&self, event: Event) -> Result<(), mpsc::error::SendError<Event>> {
        match self.tell_at_once(event) {
            None => Ok(()),
            Some(event) => self.events.send(event).await,
        }
    }

    /// Returns the event where the driver is busy, or has ended.
    fn tell_at_once(&self, event: Event) -> Option<Event> {
        let others_wait = self.events.capacity() < self.events.max_capacity();
        if others_wait || !self.is_quiet() {
            return Some(event);
        }
        let mut seat = match self.driver.try_lock() {
            Ok(seat) => seat,
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => return Some(event),
        };
        let Some(driver) = seat.as_mut() else { return Some(event) };
        let _entered = self.runtime.enter();
        driver.handle_event(event);
        driver.drain();
        if is_earlier(driver.wake(), driver.waits_until) {
            self.earlier.notify_one();
        }
        None
    }

    /// Waits until something is to be done earlier than was said. Cancel safe.
    pub(super) async fn earlier(&self) {
        self.earlier.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Driver>> {
        let mut seat = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        if self.driver.is_poisoned() {
            // Whoever told it something panicked over it: what it holds may be half done.
            *seat = None;
        }
        seat
    }
}

/// Is somebody who waits for a get.
pub(super) struct GetUnderWay<'a>(&'a AtomicUsize);

impl Drop for GetUnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

fn is_earlier(wake: Option<Instant>, waits_until: Option<Instant>) -> bool {
    wake.is_some_and(|wake| waits_until.is_none_or(|until| wake < until))
}
