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
    gate.breaker =
        Breaker::new(&PolicyOptions { breaker_row: 1000, breaker_window_min: 1000, ..options() });
    let mut requests = 0;
    for _ in 0..50 {
        // As the engine does: the same fetch again and again.
        for _ in 0..3 {
            requests += sent(&mut gate, at(0), Ask::Bytes(hash(1), 0), &busy(None));
        }
    }
    assert_eq!(requests, 1 + 2, "one request and what the floor pays for");
    let error = no(&mut gate, at(0), Ask::Bytes(hash(1), 0));
    assert!(matches!(error, EdgeError::Busy { status: 503, .. }), "what it failed by: {error:?}");
    assert_eq!(gate.stats(at(0)).retries, 2);
    assert!(gate.stats(at(0)).over_budget > 0);
    go(&mut gate, at(0), Ask::Bytes(hash(1), 4 << 20));
    go(&mut gate, at(20_000), Ask::Bytes(hash(1), 0));
}

#[test]
fn a_hundred_failing_requests_cost_ten_repetitions() {
    let mut gate = gate();
    gate.breaker =
        Breaker::new(&PolicyOptions { breaker_row: 1000, breaker_window_min: 1000, ..options() });
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
