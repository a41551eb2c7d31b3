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
mod tests {
    use super::super::super::error::Action;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn options() -> PolicyOptions {
        PolicyOptions { budget_floor: 2, budget_percent: 10, ..PolicyOptions::default() }
    }

    fn gate() -> Gate {
        Gate::new(options(), Time::ZERO)
    }

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    fn hash(of: u64) -> Hash {
        Hash::of(&of.to_le_bytes())
    }

    fn task() -> Task {
        Task { action: Action::Read, hash: hash(0) }
    }

    fn busy(retry_after: Option<Duration>) -> EdgeError {
        EdgeError::Busy { task: task(), status: 503, retry_after }
    }

    fn refused() -> EdgeError {
        let source = Arc::new(std::io::Error::other("refused"));
        EdgeError::Unreachable { task: task(), reach: Reach::Connect, source }
    }

    fn denied(status: u16, code: &str) -> EdgeError {
        let (code, message) = (code.to_owned(), String::new());
        EdgeError::BadCredentials { task: task(), status, code, message }
    }

    fn go(gate: &mut Gate, now: Time, ask: Ask) -> Permit {
        let verdict = gate.admit(now, ask, task(), false);
        let Verdict::Go(permit) = verdict else { panic!("{verdict:?}") };
        permit
    }

    fn no(gate: &mut Gate, now: Time, ask: Ask) -> EdgeError {
        let verdict = gate.admit(now, ask, task(), false);
        let Verdict::No(error) = verdict else { panic!("{verdict:?}") };
        error
    }

    /// Sends a request for another blob each time, which ends so.
    fn send(gate: &mut Gate, now: Time, of: u64, outcome: Outcome<'_>) -> Option<Change> {
        let permit = go(gate, now, Ask::Size(hash(of)));
        gate.settle(now, &permit, outcome)
    }

    /// Sends a request until the policy has enough of it, and returns how often it was sent.
    fn sent(gate: &mut Gate, now: Time, ask: Ask, error: &EdgeError) -> u32 {
        let mut attempts = 0;
        while let Verdict::Go(permit) = gate.admit(now, ask, task(), attempts > 0) {
            attempts += 1;
            gate.settle(now, &permit, Outcome::Failed(error));
            if gate.again(now, error, attempts, 0).is_none() {
                break;
            }
        }
        attempts
    }

    #[test]
    fn request_is_made_three_times_at_most_and_pauses_grow() {
        let mut gate = Gate::new(PolicyOptions { budget_floor: 9, ..options() }, Time::ZERO);
        assert_eq!(sent(&mut gate, at(0), Ask::Size(hash(1)), &busy(None)), 3);
        let options = PolicyOptions { attempts_max: 99, budget_floor: 99, ..options() };
        let (initial, max) = (options.backoff, options.backoff_max);
        let mut patient = Gate::new(options, Time::ZERO);
        for (attempts, bound) in [(1, initial), (2, initial * 2), (3, initial * 4), (40, max)] {
            for random in [0, u64::MAX / 3, u64::MAX] {
                let pause = patient.again(at(0), &refused(), attempts, random);
                assert!(pause.is_some_and(|pause| pause < bound), "{attempts}: {pause:?}");
            }
        }
        let spread = [1, 50_000_000].map(|random| patient.again(at(0), &refused(), 1, random));
        assert_ne!(spread[0], spread[1], "the pause is drawn");
    }

    #[test]
    fn only_what_may_pass_is_sent_again() {
        let cut = EdgeError::Cut { task: task(), got: 0, expected: 1, source: None };
        for error in [refused(), cut, busy(None), busy(Some(SECOND))] {
            assert!(gate().again(at(0), &error, 1, 0).is_some(), "{error:?}");
        }
        let source = Arc::new(std::io::Error::other("expired"));
        let page = EdgeError::Protocol { task: task(), breach: Breach::WebPage };
        let final_ones = [
            EdgeError::Unreachable { task: task(), reach: Reach::Tls, source },
            EdgeError::Stalled { task: task(), waited: SECOND, got: 0 },
            EdgeError::NotFound { task: task() },
            busy(Some(Duration::from_secs(9))),
            denied(403, "AccessDenied"),
            page,
        ];
        for error in final_ones {
            assert_eq!(gate().again(at(0), &error, 1, 0), None, "{error:?}");
        }
    }

    #[test]
    fn repetitions_are_paid_for_whoever_makes_them() {
        let mut gate = gate();
        gate.breaker = Breaker::new(&PolicyOptions {
            breaker_row: 1000,
            breaker_window_min: 1000,
            ..options()
        });
        let mut requests = 0;
        for _ in 0..50 {
            // As the engine does: the same fetch again and again.
            for _ in 0..3 {
                requests += sent(&mut gate, at(0), Ask::Bytes(hash(1), 0), &busy(None));
            }
        }
        assert_eq!(requests, 1 + 2, "one request and what the floor pays for");
        let error = no(&mut gate, at(0), Ask::Bytes(hash(1), 0));
        assert!(
            matches!(error, EdgeError::Busy { status: 503, .. }),
            "what it failed by: {error:?}"
        );
        assert_eq!(gate.stats(at(0)).retries, 2);
        assert!(gate.stats(at(0)).over_budget > 0);
        go(&mut gate, at(0), Ask::Bytes(hash(1), 4 << 20));
        go(&mut gate, at(20_000), Ask::Bytes(hash(1), 0));
    }

    #[test]
    fn a_hundred_failing_requests_cost_ten_repetitions() {
        let mut gate = gate();
        gate.breaker = Breaker::new(&PolicyOptions {
            breaker_row: 1000,
            breaker_window_min: 1000,
            ..options()
        });
        let requests: u32 =
            (0..100).map(|of| sent(&mut gate, at(0), Ask::Size(hash(of)), &busy(None))).sum();
        assert_eq!(requests, 100 + 2 + 10);
    }

    #[test]
    fn failing_edge_is_left_alone_and_the_reason_is_told() {
        let mut gate = gate();
        let changes: Vec<_> =
            (0..5).map(|of| send(&mut gate, at(of), of, Outcome::Failed(&refused()))).collect();
        let opened = Some(Change::Opened(options().breaker_pause));
        assert_eq!(changes, [None, None, None, None, opened]);
        let error = no(&mut gate, at(5), Ask::Size(hash(9)));
        let EdgeError::LeftAlone { left, source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*left, options().breaker_pause - Duration::from_millis(1));
        assert!(matches!(**source, EdgeError::Unreachable { .. }));
        assert!(error.is_temporary() && error.trouble() == refused().trouble());
        assert_eq!(gate.stats(at(5)).state, EdgeState::LeftAlone);

        let later = at(4) + options().breaker_pause;
        let told = send(&mut gate, later, 9, Outcome::Failed(&refused()));
        assert_eq!(told, None, "it was told once");
        assert_eq!(gate.stats(later).opened, 2);

        let later = later + options().breaker_pause * 2;
        let permit = go(&mut gate, later, Ask::Size(hash(10)));
        no(&mut gate, later, Ask::Size(hash(11)));
        let back = gate.settle(later, &permit, Outcome::Absent);
        assert_eq!(back, Some(Change::Closed), "a 404 is an answer");
        go(&mut gate, later, Ask::Size(hash(11)));
        assert_eq!(gate.stats(later).state, EdgeState::Serving);
    }

    #[test]
    fn probe_is_over_with_the_first_bytes() {
        let mut gate = gate();
        for of in 0..5 {
            send(&mut gate, at(of), of, Outcome::Failed(&refused()));
        }
        let later = at(4) + options().breaker_pause;
        let mut permit = go(&mut gate, later, Ask::Bytes(hash(9), 0));
        assert_eq!(gate.answered(later, &mut permit), Some(Change::Closed));
        let other = go(&mut gate, later, Ask::Bytes(hash(8), 0));
        assert_eq!(gate.dropped(later + SECOND * 60, &permit), None, "its bytes came");
        gate.settle(later, &other, Outcome::Served);
    }

    #[test]
    fn edge_that_asks_for_a_pause_gets_it() {
        let mut gate = gate();
        assert_eq!(send(&mut gate, at(0), 1, Outcome::Failed(&busy(Some(SECOND * 7)))), None);
        let error = no(&mut gate, at(1000), Ask::Size(hash(2)));
        assert_eq!(error.retry_after(), Some(SECOND * 6));
        // A shorter pause told later does not end the longer one.
        let permit =
            Permit { ask: Ask::Push, task: task(), began: at(0), probe: false, answered: false };
        gate.settle(at(1500), &permit, Outcome::Failed(&busy(Some(SECOND))));
        assert_eq!(no(&mut gate, at(6000), Ask::Size(hash(2))).retry_after(), Some(SECOND));
        go(&mut gate, at(7000), Ask::Size(hash(1)));
        assert_eq!(gate.stats(at(7000)).opened, 0, "it lives");
        assert_eq!(gate.stats(at(7000)).retries, 0, "coming back when asked to is no repetition");
    }

    #[test]
    fn missing_blob_is_remembered_for_a_minute() {
        let mut gate = gate();
        send(&mut gate, at(0), 1, Outcome::Absent);
        let asks = [Ask::Size(hash(1)), Ask::Bytes(hash(1), 0), Ask::Bytes(hash(1), 77)];
        for ask in asks {
            let verdict = gate.admit(at(59_999), ask, task(), false);
            assert!(matches!(verdict, Verdict::Absent), "{ask:?}: {verdict:?}");
        }
        go(&mut gate, at(0), Ask::GroupList(hash(1)));
        go(&mut gate, at(0), Ask::Push);
        go(&mut gate, at(60_000), Ask::Size(hash(1)));
        assert_eq!(gate.stats(at(0)).absent_remembered, 3);
    }

    #[test]
    fn announced_blob_is_asked_for_again_whenever_it_was_missed() {
        let mut gate = gate();
        send(&mut gate, at(0), 1, Outcome::Absent);
        let before = go(&mut gate, at(5), Ask::Size(hash(2)));
        gate.announced(at(10), hash(1));
        go(&mut gate, at(11), Ask::Size(hash(1)));
        gate.settle(at(12), &before, Outcome::Absent);
        go(&mut gate, at(13), Ask::Size(hash(2)));
    }

    #[test]
    fn failures_are_never_remembered_as_missing() {
        let mut gate = gate();
        send(&mut gate, at(0), 1, Outcome::Failed(&busy(None)));
        go(&mut gate, at(0), Ask::Size(hash(1)));
    }

    #[test]
    fn refused_credentials_stop_the_edge_at_once_with_the_same_words() {
        for error in
            [denied(400, "InvalidArgument"), denied(401, ""), denied(403, "SignatureDoesNotMatch")]
        {
            let mut gate = gate();
            let interval = options().stop_interval;
            let stopped = send(&mut gate, at(0), 1, Outcome::Failed(&error));
            assert_eq!(stopped, Some(Change::Stopped(interval)), "{error:?}");
            let again = no(&mut gate, at(1), Ask::Size(hash(2)));
            assert_eq!(again.to_string(), error.to_string());
            assert_eq!(gate.stats(at(1)).state, EdgeState::Stopped);
            let later = at(0) + interval;
            let permit = go(&mut gate, later, Ask::Size(hash(3)));
            no(&mut gate, later, Ask::Size(hash(4)));
            let told = gate.settle(later, &permit, Outcome::Failed(&error));
            assert_eq!(told, None, "it was told once");
            no(&mut gate, later + interval / 2, Ask::Size(hash(4)));
            let permit = go(&mut gate, later + interval, Ask::Size(hash(3)));
            let back = gate.settle(later + interval, &permit, Outcome::Served);
            assert_eq!(back, Some(Change::Closed));
        }
    }

    #[test]
    fn refusal_that_may_mean_missing_stops_only_an_edge_that_never_served() {
        let error = denied(403, "AccessDenied");
        let mut gate = gate();
        let changes: Vec<_> =
            (0..3).map(|of| send(&mut gate, at(of), of, Outcome::Failed(&error))).collect();
        assert_eq!(changes, [None, None, Some(Change::Stopped(options().stop_interval))]);
        let later = at(2) + options().stop_interval;
        send(&mut gate, later, 3, Outcome::Failed(&error));
        no(&mut gate, later, Ask::Size(hash(4)));

        let mut served = self::gate();
        send(&mut served, at(0), 99, Outcome::Served);
        for of in 0..100 {
            assert_eq!(send(&mut served, at(of), of, Outcome::Failed(&error)), None);
        }
    }

    #[test]
    fn silence_that_nobody_waited_out_counts_as_a_failure() {
        let silence = options().silence_max;
        let mut gate = gate();
        for of in 0..5 {
            let began = at(of * 10_000);
            let permit = go(&mut gate, began, Ask::Bytes(hash(of), 0));
            gate.dropped(began + silence, &permit);
        }
        let error = no(&mut gate, at(42_100), Ask::Size(hash(9)));
        let EdgeError::LeftAlone { source, .. } = &error else { panic!("{error:?}") };
        assert!(matches!(**source, EdgeError::Stalled { .. }));

        let mut hedged = self::gate();
        for of in 0..100 {
            let permit = go(&mut hedged, at(of), Ask::Bytes(hash(of), 0));
            hedged.dropped(at(of) + (silence - Duration::from_nanos(1)), &permit);
            let push = go(&mut hedged, at(of), Ask::Push);
            hedged.dropped(at(of) + silence * 100, &push);
        }
        assert_eq!(hedged.stats(at(99)).failures, 0);
    }

    #[test]
    fn mistakes_that_are_of_one_blob_alone_do_not_close_the_edge() {
        let mut gate = gate();
        for of in 0..100 {
            let error = EdgeError::Range { task: task(), start: 9, end: 10, size: Some(3) };
            assert_eq!(send(&mut gate, at(of), of, Outcome::Failed(&error)), None);
        }
    }
}
