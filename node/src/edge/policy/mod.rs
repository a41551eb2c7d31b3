//! How often the edge is asked, and when it is left alone: one policy for all that a node asks of it.
//!
//! Between the callers and a backend, [`Policy::run`] sends each request at most a few times and only
//! while nothing of its answer was handed on; the [`gate`] decides. All clones of an [`Edge`](super::Edge)
//! share one policy, so that many gets that fail together do not add up to a storm.
//!
//! The resolver repeats failed fetches as well, knowing nothing of requests. So repetitions are counted
//! where requests are made: asking again for what failed a moment ago is a repetition whoever does it, and
//! is paid out of the same budget. Once that is used up, the answer is the error of the last time, and no
//! request is made. Nothing here knows peers or tiers.

mod breaker;
mod budget;
mod gate;
mod recent;
mod stats;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blobmesh_protocol::{Hash, Time};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::error::{EdgeError, Task};
use super::options::PolicyOptions;
pub(super) use gate::Ask;
use gate::{Change, Gate, Outcome, Permit, Verdict};
pub use stats::{EdgeState, EdgeStats};

/// Guards one edge.
#[derive(Debug)]
pub(super) struct Policy {
    gate: Mutex<Gate>,
    start: Instant,
}

impl Policy {
    pub(super) fn new(options: PolicyOptions) -> Self {
        Self { gate: Mutex::new(Gate::new(options, Time::ZERO)), start: Instant::now() }
    }

    /// Makes a request by `attempt`, again where that is allowed, and returns what it gave with a
    /// flight that tells the policy how it went on.
    ///
    /// Dropping the future drops the attempt; one that had no answer for long counts as a failure.
    pub(super) async fn run<T, F>(
        self: &Arc<Self>,
        ask: Ask,
        task: Task,
        attempt: impl Fn() -> F + Send,
    ) -> Result<(T, Flight), EdgeError>
    where
        F: Future<Output = Result<T, EdgeError>> + Send,
    {
        let mut attempts = 0;
        loop {
            let flight = self.admit(ask, task, attempts > 0)?;
            attempts += 1;
            let error = match attempt().await {
                Ok(given) => return Ok((given, flight)),
                Err(error) => error,
            };
            flight.failed(&error);
            let random = getrandom::u64().unwrap_or_default();
            let pause = self.gate().again(self.now(), &error, attempts, random);
            let Some(pause) = pause else { return Err(error) };
            sleep(pause).await;
        }
    }

    /// Forgets that a blob was missing.
    pub(super) fn announced(&self, hash: Hash) {
        self.gate().announced(self.now(), hash);
    }

    pub(super) fn stats(&self) -> EdgeStats {
        self.gate().stats(self.now())
    }

    fn admit(self: &Arc<Self>, ask: Ask, task: Task, again: bool) -> Result<Flight, EdgeError> {
        let verdict = self.gate().admit(self.now(), ask, task, again);
        match verdict {
            Verdict::Go(permit) => {
                Ok(Flight { policy: Arc::clone(self), permit: Some(permit), answered: false })
            }
            Verdict::Absent => Err(EdgeError::NotFound { task }),
            Verdict::No(error) => Err(error),
        }
    }

    fn now(&self) -> Time {
        Time::ZERO + self.start.elapsed()
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Is a request under way; dropped without a word, nobody waits for it any more.
#[derive(Debug)]
pub(super) struct Flight {
    policy: Arc<Policy>,
    /// None once it was told how it ended.
    permit: Option<Permit>,
    answered: bool,
}

impl Flight {
    /// Tells that bytes came; only the first of them are news.
    pub(super) fn answered(&mut self) {
        if std::mem::replace(&mut self.answered, true) {
            return;
        }
        let (policy, now) = (&self.policy, self.policy.now());
        let change = self.permit.as_mut().and_then(|permit| policy.gate().answered(now, permit));
        tell(change, None);
    }

    /// Tells that all came.
    pub(super) fn served(self) {
        self.settle(Outcome::Served);
    }

    /// Tells what went wrong.
    pub(super) fn failed(self, error: &EdgeError) {
        let absent = matches!(error, EdgeError::NotFound { .. });
        self.settle(if absent { Outcome::Absent } else { Outcome::Failed(error) });
    }

    fn settle(mut self, outcome: Outcome<'_>) {
        let Some(permit) = self.permit.take() else { return };
        let change = self.policy.gate().settle(self.policy.now(), &permit, outcome);
        let error = if let Outcome::Failed(error) = outcome { Some(error) } else { None };
        tell(change, error);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let change = self.policy.gate().dropped(self.policy.now(), &permit);
        tell(change, None);
    }
}

fn tell(change: Option<Change>, error: Option<&EdgeError>) {
    let error = error.map(tracing::field::display);
    match change {
        None => {}
        Some(Change::Opened(pause)) => {
            let pause_ms = millis(pause);
            warn!(pause_ms, error, "the edge keeps failing and is left alone");
        }
        Some(Change::Stopped(pause)) => {
            let pause_ms = millis(pause);
            warn!(pause_ms, error, "the edge refuses this node and is not asked any more");
        }
        Some(Change::Closed) => info!("the edge is back"),
    }
}

fn millis(pause: std::time::Duration) -> u64 {
    u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)
}
