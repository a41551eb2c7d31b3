//! Decides which requests the edge gets: the whole policy without a clock, a request or chance.
//!
//! Time and random numbers come in as arguments, and what is said about an answer is the error that the
//! caller would get. So the tests below need no server, and [`Policy`](super::Policy) is left with doing.

use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::{Hash, Time};

use super::super::error::{Breach, EdgeError, Reach, Task};
use super::super::options::PolicyOptions;
use super::breaker::{Breaker, Pass};
use super::budget::Budget;
use super::recent::Recent;
use super::stats::{EdgeState, EdgeStats};

/// Codes of a 403 that blame the credentials and nothing else. Any other 403 may be all that S3 says of
/// a missing blob to a key, or to the public, that must not list.
const CERTAIN_CODES: [&str; 5] =
    ["SignatureDoesNotMatch", "InvalidAccessKeyId", "NotSignedUp", "ExpiredToken", "InvalidToken"];

/// Says what a request asks for: what fails twice in this form is a repetition, whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) enum Ask {
    /// A blob's length.
    Size(Hash),
    /// Its group list.
    GroupList(Hash),
    /// Its bytes from here on.
    Bytes(Hash, u64),
    /// Part of a push. Nothing of it is answered from memory.
    Push,
}

/// Names what an edge can be without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Missing {
    Blob(Hash),
    List(Hash),
}

impl Missing {
    fn of(ask: Ask) -> Option<Self> {
        match ask {
            Ask::Size(hash) | Ask::Bytes(hash, _) => Some(Self::Blob(hash)),
            Ask::GroupList(hash) => Some(Self::List(hash)),
            Ask::Push => None,
        }
    }
}

/// Is a request under way; goes back by [`Gate::settle`] or [`Gate::dropped`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Permit {
    ask: Ask,
    task: Task,
    began: Time,
    probe: bool,
    /// Whether bytes came, so that a probe has told what it was to tell.
    answered: bool,
}

/// Says what becomes of a request before it is sent.
#[derive(Debug)]
pub(super) enum Verdict {
    Go(Permit),
    /// The edge said a moment ago that it has no such thing.
    Absent,
    /// Nothing is asked; this is why.
    No(EdgeError),
}

/// Says how a request ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome<'a> {
    Served,
    Absent,
    Failed(&'a EdgeError),
}

/// Tells of a change that a person may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The edge keeps failing and is left alone for so long.
    Opened(Duration),
    /// The edge refuses us and is left alone for so long.
    Stopped(Duration),
    /// The edge is asked as usual again.
    Closed,
}

/// Keeps what the policy knows of one edge.
#[derive(Debug)]
pub(super) struct Gate {
    options: PolicyOptions,
    budget: Budget,
    breaker: Breaker,
    /// Why the breaker is open.
    why: Option<Why>,
    /// Until when the edge asked to be left alone, and with which status.
    pause: Option<(Time, u16)>,
    absent: Recent<Missing, ()>,
    /// The last time that somebody said a blob is there: what was asked before may have missed it.
    announced: Option<Time>,
    failed: Recent<Ask, EdgeError>,
    /// Whether the edge has ever given us anything, if only the word that a blob is missing.
    served: bool,
    /// Refusals that may have meant a missing blob, while nothing was served.
    denials: u32,
    stats: EdgeStats,
}

#[derive(Clone, Debug)]
struct Why {
    error: EdgeError,
    /// Whether a person has to change something.
    stopped: bool,
}

/// Says what a failure means for the edge as a whole.
enum Meaning {
    /// It is failing.
    Fault,
    /// It asked to be left alone for so long.
    Pause(Duration, u16),
    /// It refuses whoever asks.
    Denial,
    /// It refuses whoever asks, or has no such blob and must not say so.
    DenialOrAbsent,
    /// It answered, or the failure is our own.
    Nothing,
}

impl Gate {
    pub(super) fn new(options: PolicyOptions, now: Time) -> Self {
        Self {
            budget: Budget::new(&options, now),
            breaker: Breaker::new(&options),
            why: None,
            pause: None,
            absent: Recent::new(options.absent_keep, options.absent_entries_max),
            announced: None,
            failed: Recent::new(options.repeat_window, options.absent_entries_max),
            served: false,
            denials: 0,
            stats: EdgeStats::default(),
            options,
        }
    }

    /// Judges a request; `again` is one that [`again`](Self::again) allowed and has paid for.
    pub(super) fn admit(&mut self, now: Time, ask: Ask, task: Task, again: bool) -> Verdict {
        if Missing::of(ask).is_some_and(|what| self.absent.find(&what, now).is_some()) {
            self.stats.absent_remembered += 1;
            return Verdict::Absent;
        }
        if let Some((until, status)) = self.pause.filter(|(until, _)| now < *until) {
            self.stats.left_alone += 1;
            return Verdict::No(EdgeError::Busy { task, status, retry_after: Some(until - now) });
        }
        let probe = match self.breaker.pass(now) {
            Pass::Not(left) => {
                self.stats.left_alone += 1;
                return Verdict::No(self.left_alone(task, left));
            }
            Pass::Probe => true,
            Pass::Free => false,
        };
        // A probe is no repetition: somebody has to ask.
        match self.failed.find(&ask, now).filter(|_| !again && !probe) {
            Some(error) if !self.budget.spend(now) => {
                self.stats.over_budget += 1;
                return Verdict::No(error.of_task(task));
            }
            Some(_) => self.stats.retries += 1,
            None if again => {}
            None => self.budget.earn(),
        }
        self.stats.requests += 1;
        Verdict::Go(Permit { ask, task, began: now, probe, answered: false })
    }

    /// Takes in that the first bytes came.
    pub(super) fn answered(&mut self, now: Time, permit: &mut Permit) -> Option<Change> {
        self.served = true;
        self.denials = 0;
        permit.answered = true;
        let probe = std::mem::take(&mut permit.probe);
        probe.then(|| self.back(now)).flatten()
    }

    /// Takes in how a request ended.
    pub(super) fn settle(
        &mut self,
        now: Time,
        permit: &Permit,
        outcome: Outcome<'_>,
    ) -> Option<Change> {
        match outcome {
            Outcome::Served | Outcome::Absent => {
                self.served = true;
                self.denials = 0;
                self.failed.remove(&permit.ask);
                if matches!(outcome, Outcome::Absent) {
                    self.remember_absent(now, permit);
                }
                self.good(now, permit)
            }
            Outcome::Failed(error) => self.failed(now, permit, error),
        }
    }

    /// Takes in that nobody waits for a request any more. Where it had time enough for an answer, that
    /// is how an edge looks that takes requests and never answers: whoever waited had less patience
    /// than our own deadlines.
    pub(super) fn dropped(&mut self, now: Time, permit: &Permit) -> Option<Change> {
        let waited = now - permit.began;
        // How long a write takes is told by its length.
        let silent = permit.ask != Ask::Push && !permit.answered;
        if silent && waited >= self.options.silence_max {
            let error = EdgeError::Stalled { task: permit.task, waited, got: 0 };
            return self.failed(now, permit, &error);
        }
        if permit.probe {
            self.breaker.gone(now);
        }
        None
    }

    /// Decides whether a request that failed for the time being is sent again, and after which pause.
    /// `attempts` have been made. What is allowed is paid for.
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others that pass may pass soon")]
    pub(super) fn again(
        &mut self,
        now: Time,
        error: &EdgeError,
        attempts: u32,
        random: u64,
    ) -> Option<Duration> {
        let soon = match error {
            // Silence took its whole deadline already: whoever waits may know a better source by now.
            EdgeError::Stalled { .. } => false,
            // No share is mounted in a tenth of a second.
            EdgeError::Unreachable { reach, .. } => *reach != Reach::Directory,
            _ => true,
        };
        let asked = error.retry_after().unwrap_or_default();
        if !(soon && error.is_temporary())
            || attempts >= self.options.attempts_max
            || asked > self.options.retry_after_max
            || self.breaker.is_open()
        {
            return None;
        }
        if !self.budget.spend(now) {
            self.stats.over_budget += 1;
            return None;
        }
        self.stats.retries += 1;
        Some(asked + self.backoff(attempts, random))
    }

    /// Forgets that a blob or its list was missing.
    pub(super) fn announced(&mut self, now: Time, hash: Hash) {
        self.announced = Some(now);
        self.absent.remove(&Missing::Blob(hash));
        self.absent.remove(&Missing::List(hash));
    }

    pub(super) fn stats(&mut self, now: Time) -> EdgeStats {
        let stopped = self.why.as_ref().is_some_and(|why| why.stopped);
        let state = match (self.breaker.is_open(), stopped) {
            (false, _) => EdgeState::Serving,
            (true, false) => EdgeState::LeftAlone,
            (true, true) => EdgeState::Stopped,
        };
        EdgeStats { budget: self.budget.tokens(now), state, ..self.stats }
    }

    fn left_alone(&self, task: Task, left: Duration) -> EdgeError {
        match &self.why {
            // Said in the same words each time: it is the user who has to act.
            Some(Why { error, stopped: true }) => error.of_task(task),
            Some(Why { error, stopped: false }) => {
                EdgeError::LeftAlone { task, left, source: Arc::new(error.of_task(task)) }
            }
            None => EdgeError::Busy { task, status: 503, retry_after: Some(left) },
        }
    }

    fn good(&mut self, now: Time, permit: &Permit) -> Option<Change> {
        if permit.probe {
            return self.back(now);
        }
        self.breaker.good(now, false);
        None
    }

    /// Closes the breaker after a probe that went well.
    fn back(&mut self, now: Time) -> Option<Change> {
        self.breaker.good(now, true);
        self.why.take().map(|_| Change::Closed)
    }

    fn failed(&mut self, now: Time, permit: &Permit, error: &EdgeError) -> Option<Change> {
        match meaning(error) {
            Meaning::Nothing => self.good(now, permit),
            Meaning::Pause(pause, status) => {
                let until = (now + pause).max(self.pause.map_or(Time::ZERO, |(until, _)| until));
                self.pause = Some((until, status));
                self.good(now, permit)
            }
            Meaning::Fault => {
                self.stats.failures += 1;
                if error.is_temporary() && permit.ask != Ask::Push {
                    self.failed.set(permit.ask, error.clone(), now);
                }
                let pause = self.breaker.bad(now, permit.began, permit.probe)?;
                self.stats.opened += 1;
                let known = self.why.replace(Why { error: error.clone(), stopped: false });
                // An edge may be away for ever; it is told of once.
                known.is_none().then_some(Change::Opened(pause))
            }
            Meaning::Denial => self.stop(now, error),
            Meaning::DenialOrAbsent if self.served => self.good(now, permit),
            Meaning::DenialOrAbsent => {
                self.denials += 1;
                if permit.probe || self.denials >= self.options.denials_max {
                    return self.stop(now, error);
                }
                None
            }
        }
    }

    fn stop(&mut self, now: Time, error: &EdgeError) -> Option<Change> {
        let known = self.why.replace(Why { error: error.clone(), stopped: true });
        self.breaker.open_for(now, self.options.stop_interval);
        if known.is_some_and(|why| why.stopped) {
            return None;
        }
        self.stats.opened += 1;
        Some(Change::Stopped(self.options.stop_interval))
    }

    fn remember_absent(&mut self, now: Time, permit: &Permit) {
        if self.announced.is_some_and(|announced| permit.began <= announced) {
            return;
        }
        if let Some(what) = Missing::of(permit.ask) {
            self.absent.set(what, (), now);
        }
    }

    /// Returns the pause before the next attempt: any between none and a bound that doubles, so that
    /// those who failed together do not come back together.
    fn backoff(&self, attempts: u32, random: u64) -> Duration {
        let doubled = self.options.backoff.saturating_mul(1 << (attempts.clamp(1, 16) - 1));
        let bound = doubled.min(self.options.backoff_max);
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(random % nanos.max(1))
    }
}

fn meaning(error: &EdgeError) -> Meaning {
    match error {
        EdgeError::Busy { retry_after: Some(pause), status, .. } if !pause.is_zero() => {
            Meaning::Pause(*pause, *status)
        }
        EdgeError::Busy { .. }
        | EdgeError::Unreachable { .. }
        | EdgeError::Stalled { .. }
        | EdgeError::Cut { .. }
        | EdgeError::Refused { .. } => Meaning::Fault,
        EdgeError::Protocol { breach, .. } => match breach {
            // The blob's fault, or that of a single file.
            Breach::TooLarge { .. } | Breach::NotAFile { .. } | Breach::ForeignIndex => {
                Meaning::Nothing
            }
            Breach::WebPage
            | Breach::Status { .. }
            | Breach::WrongRange { .. }
            | Breach::NoLength
            | Breach::Encoded { .. }
            | Breach::RedirectElsewhere
            | Breach::RedirectLoop { .. }
            | Breach::Unintelligible { .. } => Meaning::Fault,
        },
        EdgeError::NotPublic { status, code, .. }
        | EdgeError::BadCredentials { status, code, .. } => {
            let certain = *status != 403 || CERTAIN_CODES.contains(&code.as_str());
            if certain { Meaning::Denial } else { Meaning::DenialOrAbsent }
        }
        EdgeError::ClockSkew { .. } => Meaning::Denial,
        EdgeError::NotFound { .. }
        | EdgeError::Changed { .. }
        | EdgeError::ReadOnly { .. }
        | EdgeError::LeftAlone { .. }
        | EdgeError::Range { .. }
        | EdgeError::WrongList { .. }
        | EdgeError::Config { .. }
        | EdgeError::Io { .. } => Meaning::Nothing,
    }
}

#[cfg(test)]
mod tests;
