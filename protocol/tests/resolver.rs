//! The resolver's decisions, one behaviour a test, in virtual time.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests pick out the outputs they are about")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use blobmesh_protocol::engine::receipt::{AskedAnswer, Found, Note};
use blobmesh_protocol::engine::{
    DropReason, FetchOutcome, Input, LookResult, Output, Source, WantError,
};
use blobmesh_protocol::filter::OwnFilter;
use blobmesh_protocol::id::{PeerId, WantId};
use blobmesh_protocol::wire::message::{AskResult, Message};
use blobmesh_protocol::{Config, Time};
use support::{MS, Rig, SIZE, hash, peer};

const HAVE: AskResult = AskResult::Have { size: SIZE };

fn failed() -> FetchOutcome {
    FetchOutcome::Failed { detail: "connection reset".to_owned() }
}

fn wrong() -> FetchOutcome {
    FetchOutcome::WrongBytes { detail: "group 0 has a wrong hash".to_owned() }
}

#[test]
fn blob_of_the_store_is_found_without_asking_anybody() {
    let mut rig = Rig::new();
    let neighbour = rig.neighbour(1, &[hash(1)]);
    let want = rig.want(hash(1), None);
    let look = rig.take_look(hash(1));
    rig.tell(Input::Looked { look, result: LookResult::Whole { size: SIZE } });
    let (result, receipt) = rig.take_end(want).expect("ended");
    assert_eq!(result, Ok(()));
    assert_eq!((receipt.found, receipt.bytes_local), (Some(Found::Local), SIZE));
    assert_eq!(rig.take_ask(neighbour, hash(1)), None);
}

#[test]
fn neighbour_whose_filter_says_maybe_is_asked_and_fetched_from() {
    let mut rig = Rig::new();
    let holder = rig.neighbour(1, &[hash(1)]);
    let other = rig.neighbour(2, &[hash(2)]);
    let want = rig.get(hash(1));
    assert_eq!(rig.take_ask(other, hash(1)), None, "its filter rules the blob out");
    rig.pass(2 * MS);
    rig.answer(holder, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(holder)).expect("fetched from the holder");
    rig.pass(3 * MS);
    rig.complete(fetch);
    let (result, receipt) = rig.take_end(want).expect("ended");
    assert_eq!(result, Ok(()));
    assert_eq!(receipt.found, Some(Found::Lan));
    assert_eq!((receipt.bytes_lan, receipt.bytes_edge), (SIZE, 0));
    assert_eq!(receipt.skipped, vec![other]);
    assert_eq!((receipt.phases.find, receipt.phases.first_group), (2 * MS, 3 * MS));
    assert_eq!(rig.take_fetch(Source::Edge), None);
}

#[test]
fn blob_nobody_has_is_not_found_and_every_filter_is_respected() {
    let mut rig = Rig::with(Config::default());
    rig.neighbour(1, &[hash(1)]);
    rig.neighbour(2, &[hash(2)]);
    let want = rig.get(hash(9));
    let query = rig.take_search().expect("the DHT is searched");
    rig.tell(Input::ProvidersEnded { query });
    rig.pass(Config::default().word_time - MS);
    assert!(rig.take_end(want).is_none(), "one of them may just have added it");
    rig.pass(MS);
    let (result, receipt) = rig.take_end(want).expect("ended");
    assert_eq!(result, Err(WantError::NotFound));
    assert_eq!((receipt.neighbours, receipt.asked.len(), receipt.skipped.len()), (2, 0, 2));
}

/// Two engines in one process are quicker than word of what one of them added.
#[test]
fn blob_that_a_neighbour_added_a_moment_before_is_waited_for() {
    let mut rig = Rig::with(Config::default());
    let adder = rig.neighbour(1, &[]);
    let want = rig.get(hash(1));
    let query = rig.take_search().expect("searched");
    rig.tell(Input::ProvidersEnded { query });
    rig.pass(Config::default().gossip_interval);
    let delta = blobmesh_protocol::filter::FilterDelta {
        generation: 1,
        from_sequence: 0,
        prefixes: vec![hash(1).prefix()],
    };
    rig.say(adder, Message::FilterDelta(delta));
    rig.answer(adder, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(adder)).expect("fetch");
    rig.complete(fetch);
    assert_eq!(rig.take_end(want).expect("ended").0, Ok(()));
}

#[test]
fn nobody_is_waited_for_where_no_filter_was_in_the_way() {
    let mut rig = Rig::with(Config::default());
    let empty = rig.neighbour(1, &[hash(1)]);
    let want = rig.get(hash(1));
    rig.answer(empty, hash(1), AskResult::Absent);
    let query = rig.take_search().expect("searched");
    rig.tell(Input::ProvidersEnded { query });
    assert_eq!(rig.take_end(want).expect("ended at once").0, Err(WantError::NotFound));
}

#[test]
fn neighbour_without_a_filter_is_asked() {
    let mut rig = Rig::new();
    let silent = rig.silent_neighbour(1);
    rig.get(hash(1));
    assert!(rig.take_ask(silent, hash(1)).is_some());
}

#[test]
fn filter_that_was_not_confirmed_in_time_is_no_evidence() {
    let mut rig = Rig::new();
    let quiet = rig.neighbour(1, &[hash(2)]);
    rig.pass(Config::default().filter_ttl + MS);
    rig.get(hash(1));
    assert!(rig.take_ask(quiet, hash(1)).is_some(), "an old negative skips nobody");
}

#[test]
fn gets_of_one_hash_share_one_resolution() {
    let mut rig = Rig::new();
    let holder = rig.neighbour(1, &[hash(1)]);
    let first = rig.get(hash(1));
    rig.pass(MS);
    let second = rig.want(hash(1), None);
    rig.answer(holder, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(holder)).expect("one fetch");
    rig.complete(fetch);
    assert_eq!(rig.take_end(first).expect("ended").0, Ok(()));
    let (result, receipt) = rig.take_end(second).expect("ended with the first");
    assert_eq!(result, Ok(()));
    assert!(receipt.notes.contains(&Note::Joined));
    assert_eq!(rig.engine.resolutions(), 0);
}

#[test]
fn edge_is_started_when_the_lan_has_nothing() {
    let mut rig = Rig::new();
    rig.neighbour(1, &[hash(2)]);
    let want = rig.get(hash(1));
    assert_eq!(rig.take_fetch(Source::Edge), None, "the DHT has its time first");
    let query = rig.take_search().expect("searched");
    rig.tell(Input::ProvidersEnded { query });
    let fetch = rig.take_fetch(Source::Edge).expect("the edge at once");
    rig.complete(fetch);
    let (result, receipt) = rig.take_end(want).expect("ended");
    assert_eq!((result, receipt.found), (Ok(()), Some(Found::Edge)));
    assert_eq!((receipt.bytes_lan, receipt.bytes_edge), (0, SIZE));
}

#[test]
fn edge_is_hedged_when_a_neighbour_does_not_answer() {
    let mut rig = Rig::new();
    rig.neighbour(1, &[hash(1)]);
    let want = rig.get(hash(1));
    rig.pass(Config::default().hedge_initial - MS);
    assert_eq!(rig.take_fetch(Source::Edge), None, "not before the hedge");
    rig.pass(MS);
    let fetch = rig.take_fetch(Source::Edge).expect("hedged");
    rig.complete(fetch);
    let receipt = rig.take_end(want).expect("ended").1;
    assert!(receipt.notes.iter().any(|note| matches!(note, Note::HedgeFired { .. })));
}

#[test]
fn hedge_delay_follows_what_answers_took() {
    let mut rig = Rig::new();
    let slow = rig.neighbour(1, &(0..40).map(hash).collect::<Vec<_>>());
    for n in 0..20 {
        rig.get(hash(n));
        rig.pass(40 * MS);
        rig.answer(slow, hash(n), HAVE);
        let fetch = rig.take_fetch(Source::Peer(slow)).expect("fetch");
        rig.complete(fetch);
    }
    rig.outputs.clear();
    rig.get(hash(30));
    rig.pass(39 * MS);
    assert_eq!(rig.take_fetch(Source::Edge), None);
    rig.pass(2 * MS);
    assert!(rig.take_fetch(Source::Edge).is_some(), "40 ms is what answers take here");
}

#[test]
fn edge_without_a_byte_is_let_go_when_the_lan_gives_one() {
    let mut rig = Rig::new();
    let late = rig.neighbour(1, &[hash(1)]);
    let want = rig.get(hash(1));
    rig.pass(60 * MS);
    let edge = rig.take_fetch(Source::Edge).expect("hedged");
    rig.answer(late, hash(1), HAVE);
    let lan = rig.take_fetch(Source::Peer(late)).expect("the LAN joins the race");
    rig.tell(Input::Progress { fetch: lan, bytes: 10, groups: 0..0, size: SIZE });
    assert!(rig.take_stop(edge));
    rig.end(lan, FetchOutcome::Complete { size: SIZE });
    assert_eq!(rig.take_end(want).expect("ended").1.found, Some(Found::Lan));
}

#[test]
fn holder_that_gives_no_first_group_has_the_edge_started_beside_it() {
    let mut rig = Rig::new();
    let stuck = rig.neighbour(1, &[hash(1)]);
    let want = rig.get(hash(1));
    rig.answer(stuck, hash(1), HAVE);
    let lan = rig.take_fetch(Source::Peer(stuck)).expect("fetch");
    rig.pass(Config::default().first_group_hedge);
    let edge = rig.take_fetch(Source::Edge).expect("started beside it");
    rig.complete(edge);
    assert!(rig.take_stop(lan), "the loser is stopped");
    assert_eq!(rig.take_end(want).expect("ended").1.found, Some(Found::Edge));
}

#[test]
fn fetch_that_found_everything_stored_leaves_the_credit_to_who_brought_it() {
    let mut rig = Rig::new();
    let late = rig.neighbour(1, &[hash(1)]);
    let want = rig.get(hash(1));
    rig.answer(late, hash(1), HAVE);
    let lan = rig.take_fetch(Source::Peer(late)).expect("fetch");
    rig.pass(Config::default().first_group_hedge);
    let edge = rig.take_fetch(Source::Edge).expect("started beside it");
    rig.tell(Input::Progress { fetch: edge, bytes: SIZE, groups: 0..2, size: SIZE });
    rig.end(lan, FetchOutcome::Complete { size: SIZE });
    assert_eq!(rig.take_end(want).expect("ended").1.found, Some(Found::Edge));
}

#[test]
fn fetch_that_found_stored_what_a_stopped_one_brought_says_that_it_came_from_the_lan() {
    let mut rig = Rig::with(Config::default());
    let (stuck, next) = (rig.small_neighbour(1, &[hash(1)]), rig.neighbour(2, &[hash(1)]));
    let want = rig.want(hash(1), None);
    let (stopped, _) = rig.take_small(stuck, hash(1)).expect("asked ahead");
    rig.pass(Config::default().stall_timeout);
    assert!(rig.take_stop(stopped));
    rig.look(hash(1), LookResult::Absent);
    rig.answer(next, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(next)).expect("the next holder");
    rig.end(fetch, FetchOutcome::Complete { size: SIZE });
    let receipt = rig.take_end(want).expect("ended").1;
    assert_eq!(receipt.found, Some(Found::Lan));
    assert_eq!((receipt.bytes_local, receipt.bytes_lan), (0, SIZE));
    let bytes: Vec<_> = receipt.fetches.iter().map(|row| (row.fetch, row.bytes)).collect();
    assert_eq!(bytes, [(stopped, SIZE), (fetch, 0)], "of the one that was stopped");
}

#[test]
fn edge_that_found_stored_what_a_neighbour_brought_late_is_credited_with_nothing() {
    let mut rig = Rig::new();
    let stuck = rig.small_neighbour(1, &[hash(1)]);
    let want = rig.want(hash(1), None);
    let (stopped, _) = rig.take_small(stuck, hash(1)).expect("asked ahead");
    rig.pass(Config::default().first_group_hedge);
    rig.look(hash(1), LookResult::Absent);
    let edge = rig.take_fetch(Source::Edge).expect("beside it");
    rig.pass(Config::default().stall_timeout);
    assert!(rig.take_stop(stopped));
    rig.end(edge, FetchOutcome::Complete { size: SIZE });
    let receipt = rig.take_end(want).expect("ended").1;
    assert_eq!((receipt.bytes_lan, receipt.bytes_edge), (SIZE, 0));
}

#[test]
fn fetch_that_found_stored_what_nobody_brought_is_credited_with_nothing() {
    let mut rig = Rig::with(Config::default());
    let holder = rig.neighbour(1, &[hash(1)]);
    let want = rig.get(hash(1));
    rig.answer(holder, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(holder)).expect("fetch");
    rig.end(fetch, FetchOutcome::Complete { size: SIZE });
    let receipt = rig.take_end(want).expect("ended").1;
    assert_eq!((receipt.bytes_local, receipt.bytes_lan, receipt.bytes_edge), (0, 0, 0));
}

#[test]
fn stalled_holder_is_dropped_for_the_next_one() {
    let mut rig = Rig::with(Config::default());
    let stuck = rig.neighbour(1, &[hash(1)]);
    let good = rig.neighbour(2, &[hash(1)]);
    let want = rig.get(hash(1));
    rig.answer(stuck, hash(1), HAVE);
    rig.answer(good, hash(1), HAVE);
    let first = rig.take_fetch(Source::Peer(stuck)).expect("fetch");
    rig.tell(Input::Progress { fetch: first, bytes: 10, groups: 0..0, size: SIZE });
    rig.pass(Config::default().stall_timeout - MS);
    assert_eq!(rig.take_fetch(Source::Peer(good)), None, "one peer at a time");
    rig.pass(MS);
    assert!(rig.take_stop(first));
    let second = rig.take_fetch(Source::Peer(good)).expect("the next holder");
    rig.complete(second);
    let receipt = rig.take_end(want).expect("ended").1;
    assert!(receipt.notes.contains(&Note::Stalled { source: Source::Peer(stuck) }));
    assert_eq!(receipt.fetches.len(), 2);
}

#[test]
fn progress_keeps_a_slow_holder_alive() {
    let mut rig = Rig::with(Config::default());
    let slow = rig.neighbour(1, &[hash(1)]);
    rig.get(hash(1));
    rig.answer(slow, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(slow)).expect("fetch");
    for _ in 0..10 {
        rig.pass(Config::default().stall_timeout - MS);
        rig.tell(Input::Progress { fetch, bytes: 1, groups: 0..0, size: SIZE });
    }
    assert!(!rig.take_stop(fetch));
}

#[test]
fn peer_that_sends_wrong_bytes_is_banned_and_the_get_succeeds_elsewhere() {
    let mut rig = Rig::new();
    let liar = rig.neighbour(1, &[hash(1), hash(2)]);
    let want = rig.get(hash(1));
    rig.answer(liar, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(liar)).expect("fetch");
    rig.end(fetch, wrong());
    assert_eq!(rig.take_drop(liar), Some(DropReason::WrongBytes));
    let query = rig.take_search().expect("searched");
    rig.tell(Input::ProvidersEnded { query });
    let edge = rig.take_fetch(Source::Edge).expect("the edge instead");
    rig.complete(edge);
    let (result, receipt) = rig.take_end(want).expect("ended");
    assert_eq!(result, Ok(()));
    assert!(receipt.notes.contains(&Note::Banned { peer: liar }));
    // It comes back, and is turned away.
    rig.tell(Input::Disconnected { peer: liar });
    rig.tell(Input::Connected { peer: liar });
    assert_eq!(rig.take_drop(liar), Some(DropReason::Banned));
}

#[test]
fn peer_that_breaks_the_wire_is_not_asked_again_and_not_banned() {
    let mut rig = Rig::with(Config { provider_search: false, ..Config::default() });
    let clumsy = rig.neighbour(1, &[hash(1), hash(2)]);
    let want = rig.get(hash(1));
    rig.answer(clumsy, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(clumsy)).expect("fetch");
    rig.end(fetch, FetchOutcome::Misbehaved { detail: "out of turn".to_owned() });
    assert_eq!(rig.take_end(want).expect("ended").0, Err(WantError::Unreachable));
    assert_eq!(rig.take_drop(clumsy), None);
    rig.get(hash(2));
    assert!(rig.take_ask(clumsy, hash(2)).is_some(), "it may do better with another blob");
}

#[test]
fn wrong_bytes_from_the_only_source_are_a_verification_failure() {
    let mut rig = Rig::with(Config { provider_search: false, ..Config::default() });
    let liar = rig.neighbour(1, &[hash(1)]);
    let want = rig.get(hash(1));
    rig.answer(liar, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(liar)).expect("fetch");
    rig.end(fetch, wrong());
    assert_eq!(rig.take_end(want).expect("ended").0, Err(WantError::WrongBytes));
}

#[test]
fn one_liar_does_not_hide_that_an_honest_source_could_not_be_reached() {
    let mut rig = Rig::with(Config { edge: true, provider_search: false, ..Config::default() });
    let liar = rig.neighbour(1, &[hash(1)]);
    let want = rig.get(hash(1));
    rig.answer(liar, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(liar)).expect("fetch");
    rig.end(fetch, wrong());
    while let Some(fetch) = rig.take_fetch(Source::Edge) {
        rig.end(fetch, failed());
        rig.pass(Config::default().backoff_max);
    }
    assert_eq!(rig.take_end(want).expect("ended").0, Err(WantError::Unreachable));
}

#[test]
fn failing_edge_is_tried_again_a_bounded_number_of_times() {
    let mut rig = Rig::with(Config { edge: true, provider_search: false, ..Config::default() });
    let want = rig.get(hash(1));
    for _ in 0..Config::default().attempts_max {
        let fetch = rig.take_fetch(Source::Edge).expect("an attempt");
        rig.end(fetch, failed());
        rig.pass(Config::default().backoff_max);
    }
    assert_eq!(rig.take_fetch(Source::Edge), None);
    assert_eq!(rig.take_end(want).expect("ended").0, Err(WantError::Unreachable));
}

#[test]
fn busy_source_is_tried_again_after_it_said_and_for_as_long_as_patience_lasts() {
    let config = Config { provider_search: false, ..Config::default() };
    let mut rig = Rig::with(config.clone());
    let busy = rig.neighbour(1, &[hash(1)]);
    let want = rig.get(hash(1));
    rig.answer(busy, hash(1), HAVE);
    let mut attempts = 0;
    let started = rig.now;
    while let Some(fetch) = rig.take_fetch(Source::Peer(busy)) {
        attempts += 1;
        rig.end(fetch, FetchOutcome::Busy { retry_after: 900 * MS });
        rig.pass(899 * MS);
        assert_eq!(rig.take_fetch(Source::Peer(busy)), None, "not before it said");
        rig.pass(config.backoff_initial + MS);
    }
    assert!(attempts > 30, "{attempts} attempts: busy is no failure");
    assert!(rig.now - started >= config.busy_patience);
    assert_eq!(rig.take_end(want).expect("ended").0, Err(WantError::Unreachable));
}

#[test]
fn neighbour_too_busy_to_answer_is_fetched_from_later() {
    let mut rig = Rig::with(Config { provider_search: false, ..Config::default() });
    let busy = rig.neighbour(1, &[hash(1)]);
    let want = rig.get(hash(1));
    rig.answer(busy, hash(1), AskResult::Busy { retry_after_ms: 200 });
    assert!(rig.take_end(want).is_none());
    rig.pass(400 * MS);
    let fetch = rig.take_fetch(Source::Peer(busy)).expect("tried later");
    rig.complete(fetch);
    assert_eq!(rig.take_end(want).expect("ended").0, Ok(()));
}

#[test]
fn refusing_edge_is_not_asked_twice_and_named_as_the_cause() {
    let mut rig = Rig::with(Config { edge: true, provider_search: false, ..Config::default() });
    let want = rig.get(hash(1));
    let fetch = rig.take_fetch(Source::Edge).expect("edge");
    rig.end(fetch, FetchOutcome::Refused { detail: "400".to_owned() });
    assert_eq!(rig.take_end(want).expect("ended").0, Err(WantError::Refused));
}

#[test]
fn not_found_and_unreachable_are_told_apart() {
    let config = Config { edge: true, provider_search: false, ..Config::default() };
    let mut rig = Rig::with(config);
    let silent = rig.neighbour(1, &[hash(1)]);
    let want = rig.get(hash(1));
    rig.pass(Config::default().hedge_initial);
    let edge = rig.take_fetch(Source::Edge).expect("hedged");
    rig.end(edge, FetchOutcome::Absent);
    assert!(rig.take_end(want).is_none(), "the neighbour may still answer");
    rig.pass(Config::default().ask_timeout);
    assert!(rig.take_end(want).is_none(), "a fetch is given more time than a question");
    rig.pass(Duration::from_secs(7));
    let (result, receipt) = rig.take_end(want).expect("ended");
    assert_eq!(result, Err(WantError::Unreachable), "a neighbour that may hold it said nothing");
    assert_eq!(receipt.asked[0].answer, Some(AskedAnswer::Timeout));
    assert_eq!(receipt.asked[0].peer, silent);
}

/// Gets a blob that one neighbour probably holds, which lets the question pass.
fn asked_in_vain(rig: &mut Rig) -> (PeerId, WantId) {
    let silent = rig.neighbour(1, &[hash(1)]);
    let want = rig.get(hash(1));
    assert!(rig.take_ask(silent, hash(1)).is_some());
    rig.pass(Config::default().ask_timeout - MS);
    assert_eq!(rig.take_fetch(Source::Peer(silent)), None);
    (silent, want)
}

#[test]
fn neighbour_that_let_a_question_pass_is_fetched_from_where_nothing_else_is_left() {
    let config = Config { provider_search: false, ..Config::default() };
    let mut rig = Rig::with(config);
    let (silent, want) = asked_in_vain(&mut rig);
    rig.pass(MS + Config::default().backoff_initial);
    let fetch = rig.take_fetch(Source::Peer(silent)).expect("it may only have been slow");
    rig.complete(fetch);
    let (result, receipt) = rig.take_end(want).expect("ended");
    assert_eq!((result, receipt.found), (Ok(()), Some(Found::Lan)));
}

#[test]
fn neighbour_that_is_dead_is_fetched_from_a_bounded_number_of_times() {
    let config = Config { provider_search: false, ..Config::default() };
    let mut rig = Rig::with(config);
    let (silent, want) = asked_in_vain(&mut rig);
    let mut fetches = 0;
    while rig.take_end(want).is_none() {
        rig.pass(100 * MS);
        fetches += rig.take_fetches(Source::Peer(silent)).len();
        assert!(fetches < 10);
    }
    assert_eq!(fetches, 2, "the question was the first of three attempts");
}

#[test]
fn many_neighbours_that_let_a_question_pass_are_not_all_fetched_from() {
    let config = Config { provider_search: false, ..Config::default() };
    let mut rig = Rig::with(config);
    let silent: Vec<_> = (1..=20).map(|n| rig.neighbour(n, &[hash(1)])).collect();
    let want = rig.get(hash(1));
    let mut fetched = BTreeSet::<PeerId>::new();
    while rig.take_end(want).is_none() {
        rig.pass(100 * MS);
        fetched.extend(silent.iter().filter(|peer| rig.take_fetch(Source::Peer(**peer)).is_some()));
        assert!(rig.now < Time::ZERO + Duration::from_secs(60));
    }
    assert_eq!(fetched.len(), 4);
}

#[test]
fn neighbour_that_is_silent_for_all_gets_is_not_fetched_from_for_long() {
    let config = Config { provider_search: false, ..Config::default() };
    let mut rig = Rig::with(config);
    let hashes: Vec<_> = (1..=60).map(hash).collect();
    let silent = rig.neighbour(1, &hashes);
    let wants: Vec<_> = hashes.iter().map(|hash| rig.get(*hash)).collect();
    rig.pass(Duration::from_secs(15));
    let ended = wants.into_iter().filter(|want| rig.take_end(*want).is_some()).count();
    let fetches = rig.take_fetches(Source::Peer(silent)).len();
    assert!(fetches < 2 * hashes.len() && ended > 0, "{fetches} fetches, {ended} ended");
}

#[test]
fn neighbour_that_went_after_it_let_a_question_pass_is_not_fetched_from() {
    let config = Config { edge: true, provider_search: false, ..Config::default() };
    let mut rig = Rig::with(config);
    let (silent, want) = asked_in_vain(&mut rig);
    let edge = rig.take_fetch(Source::Edge).expect("hedged");
    rig.pass(MS);
    rig.tell(Input::Disconnected { peer: silent });
    rig.end(edge, FetchOutcome::Absent);
    assert_eq!(rig.take_end(want).expect("ended").0, Err(WantError::Unreachable));
}

#[test]
fn provider_named_by_the_dht_is_fetched_from_without_a_question() {
    let mut rig = Rig::with(Config::default());
    let want = rig.get(hash(1));
    let query = rig.take_search().expect("searched");
    rig.tell(Input::Providers { query, peers: vec![peer(0), peer(5)] });
    let fetch = rig.take_fetch(Source::Peer(peer(5))).expect("fetched from the provider");
    rig.complete(fetch);
    let (result, receipt) = rig.take_end(want).expect("ended");
    assert_eq!((result, receipt.found), (Ok(()), Some(Found::Dht)));
    assert_eq!(receipt.search.map(|search| search.providers), Some(1), "we are not a provider");
}

/// Whoever adds a directory advertises its root at once, and word of the rest may come a moment later.
#[test]
fn neighbour_that_gives_what_its_filter_rules_out_is_asked_for_more() {
    let mut rig = Rig::with(Config::default());
    let adder = rig.neighbour(1, &[]);
    let root = rig.get(hash(1));
    let query = rig.take_search().expect("searched");
    let waiting = rig.get(hash(2));
    let rest = rig.take_search().expect("searched");
    rig.tell(Input::Providers { query, peers: vec![adder] });
    let fetch = rig.take_fetch(Source::Peer(adder)).expect("fetched from the provider");
    assert_eq!(rig.take_ask(adder, hash(2)), None, "nothing is known yet");
    rig.complete(fetch);
    assert_eq!(rig.take_end(root).expect("ended").0, Ok(()));
    rig.tell(Input::ProvidersEnded { query: rest });
    // What waits is asked for, too.
    rig.answer(adder, hash(2), HAVE);
    let fetch = rig.take_fetch(Source::Peer(adder)).expect("fetched");
    rig.complete(fetch);
    assert_eq!(rig.take_end(waiting).expect("ended").0, Ok(()));
    rig.get(hash(3));
    assert!(rig.take_ask(adder, hash(3)).is_some(), "what comes later, too");
    // Its word counts again.
    let delta = blobmesh_protocol::filter::FilterDelta {
        generation: 1,
        from_sequence: 0,
        prefixes: [1, 2, 3].map(|n| hash(n).prefix()).to_vec(),
    };
    rig.say(adder, Message::FilterDelta(delta));
    rig.get(hash(4));
    assert_eq!(rig.take_ask(adder, hash(4)), None);
}

#[test]
fn filter_that_was_behind_rules_out_again_after_a_while() {
    let mut rig = Rig::with(Config::default());
    let adder = rig.neighbour(1, &[]);
    rig.get(hash(1));
    let query = rig.take_search().expect("searched");
    rig.tell(Input::Providers { query, peers: vec![adder] });
    let fetch = rig.take_fetch(Source::Peer(adder)).expect("fetched from the provider");
    rig.complete(fetch);
    rig.pass(Duration::from_secs(2));
    rig.get(hash(2));
    assert_eq!(rig.take_ask(adder, hash(2)), None);
}

#[test]
fn dht_that_never_ends_does_not_hold_up_the_failure_for_ever() {
    let mut rig = Rig::with(Config::default());
    let want = rig.get(hash(1));
    rig.pass(Config::default().provider_search_timeout);
    assert_eq!(rig.take_end(want).expect("ended").0, Err(WantError::NotFound));
}

#[test]
fn node_that_still_looks_for_neighbours_does_not_say_not_found() {
    let mut rig = Rig::unsettled(Config { provider_search: false, ..Config::default() });
    let want = rig.get(hash(1));
    rig.pass(Duration::from_secs(1));
    assert!(rig.take_end(want).is_none());
    let late = rig.neighbour(1, &[hash(1)]);
    rig.answer(late, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(late)).expect("the neighbour that came");
    rig.complete(fetch);
    assert_eq!(rig.take_end(want).expect("ended").0, Ok(()));
    let nowhere = rig.get(hash(2));
    rig.tell(Input::Settled);
    rig.pass(Config::default().word_time);
    assert_eq!(rig.take_end(nowhere).expect("ended").0, Err(WantError::NotFound));
}

#[test]
fn blob_added_by_a_skipped_neighbour_during_the_get_is_found() {
    let mut rig = Rig::with(Config::default());
    let adder = rig.neighbour(1, &[]);
    let want = rig.get(hash(1));
    assert_eq!(rig.take_ask(adder, hash(1)), None);
    let delta = blobmesh_protocol::filter::FilterDelta {
        generation: 1,
        from_sequence: 0,
        prefixes: vec![hash(1).prefix()],
    };
    rig.say(adder, Message::FilterDelta(delta));
    rig.answer(adder, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(adder)).expect("fetch");
    rig.complete(fetch);
    let receipt = rig.take_end(want).expect("ended").1;
    assert!(receipt.notes.contains(&Note::FilterChanged { peer: adder }));
    assert!(receipt.skipped.is_empty());
}

#[test]
fn want_ends_at_its_deadline_and_takes_its_fetch_along() {
    let mut rig = Rig::with(Config::default());
    let holder = rig.neighbour(1, &[hash(1)]);
    let want = rig.want(hash(1), Some(20 * MS));
    let look = rig.take_look(hash(1));
    rig.tell(Input::Looked { look, result: LookResult::Absent });
    rig.answer(holder, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(holder)).expect("fetch");
    rig.pass(20 * MS);
    assert_eq!(rig.take_end(want).expect("ended").0, Err(WantError::TimedOut));
    assert!(rig.take_stop(fetch));
    assert_eq!(rig.engine.resolutions(), 0);
}

#[test]
fn cancelled_want_leaves_the_others_running() {
    let mut rig = Rig::with(Config::default());
    let holder = rig.neighbour(1, &[hash(1)]);
    let first = rig.get(hash(1));
    let second = rig.want(hash(1), None);
    rig.tell(Input::Cancel { want: first });
    assert_eq!(rig.take_end(first).expect("ended").0, Err(WantError::Cancelled));
    rig.answer(holder, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(holder)).expect("still fetched");
    rig.complete(fetch);
    assert_eq!(rig.take_end(second).expect("ended").0, Ok(()));
    rig.tell(Input::Cancel { want: WantId(99) });
}

#[test]
fn holder_that_disconnects_is_replaced() {
    let mut rig = Rig::with(Config { provider_search: false, ..Config::default() });
    let first = rig.neighbour(1, &[hash(1)]);
    let second = rig.neighbour(2, &[hash(1)]);
    let want = rig.get(hash(1));
    rig.tell(Input::Disconnected { peer: first });
    rig.answer(second, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(second)).expect("fetch");
    rig.complete(fetch);
    let receipt = rig.take_end(want).expect("ended").1;
    assert_eq!(receipt.asked[0].answer, Some(AskedAnswer::Gone));
}

#[test]
fn claim_of_more_bytes_than_the_bound_is_not_believed() {
    let mut rig = Rig::with(Config { provider_search: false, ..Config::default() });
    let boaster = rig.neighbour(1, &[hash(1)]);
    let want = rig.get(hash(1));
    rig.answer(boaster, hash(1), AskResult::Have { size: u64::MAX });
    assert_eq!(rig.take_fetch(Source::Peer(boaster)), None);
    assert_eq!(rig.take_end(want).expect("ended").0, Err(WantError::NotFound));
}

#[test]
fn full_disk_ends_the_get_at_once() {
    let mut rig = Rig::new();
    let holder = rig.neighbour(1, &[hash(1)]);
    let want = rig.get(hash(1));
    rig.answer(holder, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(holder)).expect("fetch");
    rig.end(fetch, FetchOutcome::StoreFailed { detail: "no space".to_owned() });
    assert_eq!(rig.take_end(want).expect("ended").0, Err(WantError::StoreFailed));
    assert_eq!(rig.take_fetch(Source::Edge), None, "no other source can help");
}

#[test]
fn gets_beyond_the_bound_fail_as_busy() {
    let config = Config { resolutions_max: 2, wants_per_hash_max: 1, ..Config::default() };
    let mut rig = Rig::with(config);
    let wants: Vec<WantId> = (0..3).map(|n| rig.want(hash(n), None)).collect();
    assert_eq!(rig.take_end(wants[2]).expect("ended").0, Err(WantError::TooMany));
    let again = rig.want(hash(0), None);
    assert_eq!(rig.take_end(again).expect("ended").0, Err(WantError::TooMany));
    assert!(rig.take_end(wants[0]).is_none());
}

#[test]
fn answers_to_nothing_are_ignored() {
    let mut rig = Rig::with(Config::default());
    let peer = rig.neighbour(1, &[hash(1)]);
    for id in [0, 1, u32::MAX] {
        rig.say(peer, Message::Answer { id, result: HAVE });
    }
    assert_eq!(rig.take_fetch(Source::Peer(peer)), None);
}

#[test]
fn timers_of_an_ended_get_do_not_reach_the_next_one() {
    let mut rig = Rig::with(Config { provider_search: false, ..Config::default() });
    let neighbour = rig.neighbour(1, &[hash(1)]);
    let first = rig.get(hash(1));
    rig.answer(neighbour, hash(1), AskResult::Absent);
    assert_eq!(rig.take_end(first).expect("ended").0, Err(WantError::NotFound));
    rig.pass(Config::default().ask_timeout - MS);
    let second = rig.get(hash(1));
    rig.pass(2 * MS);
    assert!(rig.take_end(second).is_none(), "the second question has its own second");
    rig.answer(neighbour, hash(1), HAVE);
    assert!(rig.take_fetch(Source::Peer(neighbour)).is_some());
}

#[test]
fn peer_named_twice_is_fetched_from_once_and_not_after_it_is_spent() {
    let mut rig = Rig::with(Config::default());
    let named = rig.silent_neighbour(1);
    rig.get(hash(1));
    let query = rig.take_search().expect("searched");
    rig.tell(Input::Providers { query, peers: vec![named] });
    let fetch = rig.take_fetch(Source::Peer(named)).expect("fetched");
    rig.answer(named, hash(1), HAVE);
    rig.end(fetch, FetchOutcome::Absent);
    assert_eq!(rig.take_fetch(Source::Peer(named)), None, "it said that it has nothing");
    rig.tell(Input::Disconnected { peer: named });
    let back = rig.neighbour(1, &[hash(1)]);
    assert_eq!(rig.take_ask(back, hash(1)), None, "nor after it came back");
}

#[test]
fn blob_that_is_added_here_during_a_get_ends_it() {
    let mut rig = Rig::with(Config::default());
    let want = rig.get(hash(1));
    rig.tell(Input::Held { hash: hash(1), advertise: true });
    let look = rig.take_look(hash(1));
    rig.tell(Input::Looked { look, result: LookResult::Whole { size: SIZE } });
    let (result, receipt) = rig.take_end(want).expect("ended");
    assert_eq!((result, receipt.found), (Ok(()), Some(Found::Local)));
    assert_eq!((receipt.size, receipt.bytes_local), (Some(SIZE), SIZE));
}

#[test]
fn blob_that_came_and_went_during_a_get_changes_nothing() {
    let mut rig = Rig::with(Config::default());
    let want = rig.get(hash(1));
    rig.tell(Input::Held { hash: hash(1), advertise: true });
    let look = rig.take_look(hash(1));
    rig.tell(Input::Looked { look, result: LookResult::Absent });
    let query = rig.take_search().expect("searched once");
    assert_eq!(rig.take_search(), None);
    rig.tell(Input::ProvidersEnded { query });
    assert_eq!(rig.take_end(want).expect("ended").0, Err(WantError::NotFound));
}

/// The word that a fetch stored a blob may come after its get has ended and the next has begun.
#[test]
fn late_word_of_an_earlier_fetch_does_not_end_the_next_get_without_its_size() {
    let mut rig = Rig::with(Config::default());
    let holder = rig.neighbour(1, &[hash(1)]);
    rig.get(hash(1));
    rig.answer(holder, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(holder)).expect("fetch");
    rig.complete(fetch);
    let again = rig.want(hash(1), None);
    rig.tell(Input::Stored { fetch, hash: hash(1) });
    assert!(rig.take_end(again).is_none(), "the store is being looked into");
    let look = rig.take_look(hash(1));
    rig.tell(Input::Looked { look, result: LookResult::Whole { size: SIZE } });
    let receipt = rig.take_end(again).expect("ended").1;
    assert_eq!((receipt.size, receipt.bytes_local), (Some(SIZE), SIZE));
}

#[test]
fn fetch_that_was_stopped_and_stored_all_the_same_ends_the_get() {
    let mut rig = Rig::with(Config::default());
    let (stuck, next) = (rig.neighbour(1, &[hash(1)]), rig.neighbour(2, &[hash(1)]));
    let want = rig.get(hash(1));
    rig.answer(stuck, hash(1), HAVE);
    rig.answer(next, hash(1), HAVE);
    let stopped = rig.take_fetch(Source::Peer(stuck)).expect("fetch");
    rig.tell(Input::Progress { fetch: stopped, bytes: 10, groups: 0..0, size: SIZE });
    rig.pass(Config::default().stall_timeout);
    assert!(rig.take_stop(stopped));
    let running = rig.take_fetch(Source::Peer(next)).expect("the next holder");
    rig.tell(Input::Stored { fetch: running, hash: hash(1) });
    assert!(rig.take_end(want).is_none(), "a fetch that runs reports its own end");
    rig.tell(Input::Stored { fetch: stopped, hash: hash(1) });
    let look = rig.take_look(hash(1));
    rig.tell(Input::Looked { look, result: LookResult::Whole { size: SIZE } });
    let (result, receipt) = rig.take_end(want).expect("ended");
    assert_eq!(result, Ok(()));
    assert!(rig.take_stop(running));
    // It was not there before: a neighbour has brought it.
    assert_eq!(receipt.found, Some(Found::Lan));
    assert_eq!((receipt.bytes_local, receipt.bytes_lan), (0, SIZE));
    let of_stopped = receipt.fetches.iter().find(|row| row.fetch == stopped).expect("its row");
    assert_eq!(of_stopped.bytes, SIZE);
}

#[test]
fn questions_to_one_neighbour_are_bounded_and_the_rest_wait_their_turn() {
    let config = Config { asks_per_neighbour_max: 3, provider_search: false, ..Config::default() };
    let mut rig = Rig::with(config);
    let wants: Vec<WantId> = (0..10).map(|n| rig.get(hash(n))).collect();
    // Wants that nobody can answer yet would have ended: they wait for the neighbour.
    assert!(wants.iter().all(|want| rig.take_end(*want).is_some()), "nobody to ask");
    let only = rig.silent_neighbour(1);
    let wants: Vec<WantId> = (0..10).map(|n| rig.get(hash(n))).collect();
    let asked = |rig: &mut Rig| (0..10).filter(|n| rig.take_ask(only, hash(*n)).is_some()).count();
    assert_eq!(asked(&mut rig), 3);
    rig.pass(Config::default().ask_timeout);
    assert_eq!(asked(&mut rig), 3, "as questions end, the next ones go out");
    rig.pass(10 * Config::default().ask_timeout);
    assert!(wants.iter().all(|want| rig.take_end(*want).is_some()), "every get ends");
}

#[test]
fn fetches_from_one_peer_are_bounded_and_all_get_their_turn() {
    let config = Config { fetches_per_peer_max: 2, edge: true, ..Config::default() };
    let mut rig = Rig::with(config);
    let held: Vec<_> = (0..6).map(hash).collect();
    let only = rig.neighbour(1, &held);
    let wants: Vec<WantId> = held.iter().map(|hash| rig.get(*hash)).collect();
    held.iter().for_each(|hash| rig.answer(only, *hash, HAVE));
    let mut done = 0;
    loop {
        let running: Vec<_> = std::iter::from_fn(|| rig.take_fetch(Source::Peer(only))).collect();
        assert!(running.len() <= 2, "two at once");
        rig.pass(90 * MS);
        assert_eq!(rig.take_fetch(Source::Edge), None, "a queue at a holder is no reason to hedge");
        let Some(fetch) = running.first() else { break };
        done += 1;
        rig.complete(*fetch);
        running.iter().skip(1).for_each(|fetch| {
            done += 1;
            rig.complete(*fetch);
        });
    }
    assert_eq!(done, 6);
    assert!(wants.iter().all(|want| rig.take_end(*want).is_some_and(|end| end.0.is_ok())));
}

#[test]
fn banned_peer_is_used_for_no_other_hash_either() {
    let mut rig = Rig::with(Config { provider_search: false, ..Config::default() });
    let liar = rig.neighbour(1, &[hash(1), hash(2), hash(3), hash(4)]);
    let wants: Vec<WantId> = (1..=4).map(|n| rig.get(hash(n))).collect();
    (1..=3).for_each(|n| rig.answer(liar, hash(n), HAVE));
    let fetches: Vec<_> = std::iter::from_fn(|| rig.take_fetch(Source::Peer(liar))).collect();
    rig.end(fetches[2], failed());
    rig.end(fetches[0], wrong());
    assert!(rig.take_stop(fetches[1]), "a running fetch is stopped");
    rig.answer(liar, hash(4), HAVE);
    rig.tell(Input::Disconnected { peer: liar });
    rig.pass(Duration::from_secs(2));
    assert_eq!(rig.take_fetch(Source::Peer(liar)), None);
    assert!(wants.iter().all(|want| rig.take_end(*want).is_some_and(|end| end.0.is_err())));
}

#[test]
fn banned_peer_is_no_provider() {
    let mut rig = Rig::with(Config::default());
    let liar = rig.neighbour(1, &[hash(1)]);
    rig.get(hash(1));
    rig.answer(liar, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(liar)).expect("fetch");
    rig.end(fetch, wrong());
    rig.outputs.clear();
    rig.get(hash(2));
    let query = rig.take_search().expect("searched");
    rig.tell(Input::Providers { query, peers: vec![liar] });
    assert_eq!(rig.take_fetch(Source::Peer(liar)), None);
}

#[test]
fn neighbours_word_goes_before_silent_providers() {
    let mut rig = Rig::with(Config::default());
    let neighbour = rig.silent_neighbour(1);
    rig.get(hash(1));
    let query = rig.take_search().expect("searched");
    rig.tell(Input::Providers { query, peers: (10..26).map(peer).collect() });
    rig.answer(neighbour, hash(1), HAVE);
    rig.pass(Config::default().first_group_hedge);
    assert!(rig.take_fetch(Source::Peer(neighbour)).is_some(), "beside the one that is late");
}

#[test]
fn providers_are_bounded_over_all_events_of_a_search() {
    let mut rig = Rig::with(Config::default());
    rig.get(hash(1));
    let query = rig.take_search().expect("searched");
    let mut fetched = 0;
    for round in 0..10 {
        let named = (0..16).map(|n| peer(10 + round * 16 + n)).collect();
        rig.tell(Input::Providers { query, peers: named });
        let fetches =
            |rig: &mut Rig| (10..=170).find_map(|n| rig.take_fetch(Source::Peer(peer(n))));
        while let Some(fetch) = fetches(&mut rig) {
            fetched += 1;
            rig.end(fetch, FetchOutcome::Absent);
        }
    }
    assert_eq!(fetched, Config::default().providers_max);
}

#[test]
fn neighbour_that_gains_the_blob_after_its_answer_is_asked_once_more() {
    let mut rig = Rig::with(Config::default());
    let late = rig.silent_neighbour(1);
    rig.get(hash(1));
    rig.answer(late, hash(1), AskResult::Absent);
    for again in [true, false] {
        let filter = OwnFilter::build(1, std::iter::once(hash(1).prefix()));
        rig.say(late, Message::Filter(filter.frame().expect("not too full")));
        let asked = rig.take_ask(late, hash(1));
        assert_eq!(asked.is_some(), again);
        if let Some(id) = asked {
            rig.say(late, Message::Answer { id, result: AskResult::Absent });
        }
    }
}

#[test]
fn sign_of_life_keeps_a_fetch_and_is_not_its_first_byte() {
    let mut rig = Rig::new();
    let slow = rig.neighbour(1, &[hash(1)]);
    rig.get(hash(1));
    rig.answer(slow, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(slow)).expect("fetch");
    for _ in 0..4 {
        rig.pass(Config::default().stall_timeout - MS);
        rig.tell(Input::Progress { fetch, bytes: 0, groups: 0..0, size: SIZE });
    }
    assert!(!rig.take_stop(fetch));
    assert!(rig.take_fetch(Source::Edge).is_some(), "the edge was started beside it");
}

#[test]
fn edge_that_was_let_go_comes_back_when_the_lan_fails() {
    let mut rig = Rig::with(Config { edge: true, provider_search: false, ..Config::default() });
    let fickle = rig.neighbour(1, &[hash(1)]);
    let want = rig.get(hash(1));
    rig.pass(60 * MS);
    let edge = rig.take_fetch(Source::Edge).expect("hedged");
    rig.answer(fickle, hash(1), HAVE);
    let lan = rig.take_fetch(Source::Peer(fickle)).expect("fetch");
    rig.tell(Input::Progress { fetch: lan, bytes: 10, groups: 0..0, size: SIZE });
    assert!(rig.take_stop(edge));
    rig.end(lan, FetchOutcome::Absent);
    let again = rig.take_fetch(Source::Edge).expect("again");
    rig.complete(again);
    assert_eq!(rig.take_end(want).expect("ended").0, Ok(()));
}

#[test]
fn search_that_found_nobody_is_repeated_once_the_node_has_settled() {
    let mut rig = Rig::unsettled(Config::default());
    let want = rig.get(hash(1));
    let first = rig.take_search().expect("searched");
    rig.tell(Input::ProvidersEnded { query: first });
    assert!(rig.take_end(want).is_none());
    rig.tell(Input::Settled);
    let second = rig.take_search().expect("searched again, now with peers");
    rig.tell(Input::Providers { query: second, peers: vec![peer(5)] });
    assert!(rig.take_fetch(Source::Peer(peer(5))).is_some());
}

#[test]
fn node_that_still_looks_for_neighbours_gives_the_lan_more_time_before_the_edge() {
    let config = Config { edge: true, provider_search: false, ..Config::default() };
    let mut rig = Rig::unsettled(config.clone());
    rig.get(hash(1));
    rig.pass(config.hedge_unsettled - MS);
    assert_eq!(rig.take_fetch(Source::Edge), None);
    rig.pass(MS);
    assert!(rig.take_fetch(Source::Edge).is_some());
}

#[test]
fn node_that_began_to_look_for_neighbours_before_the_get_has_looked_by_then() {
    let config = Config { edge: true, provider_search: false, ..Config::default() };
    let mut rig = Rig::unsettled(config.clone());
    rig.pass(config.hedge_unsettled);
    rig.get(hash(1));
    rig.pass(config.hedge_min - MS);
    assert_eq!(rig.take_fetch(Source::Edge), None);
    rig.pass(MS);
    assert!(rig.take_fetch(Source::Edge).is_some());
}

#[test]
fn edge_waits_for_answers_only_where_somebody_may_answer() {
    let config = Config { edge: true, ..Config::default() };
    for (neighbours, waits) in [(0, config.hedge_min), (1, config.hedge_initial)] {
        let mut rig = Rig::with(config.clone());
        for n in 1..=neighbours {
            rig.neighbour(n, &[hash(1)]);
        }
        rig.get(hash(1));
        rig.pass(waits - MS);
        assert_eq!(rig.take_fetch(Source::Edge), None, "{neighbours} neighbours");
        // Neighbours are told before, and listened to.
        rig.pass(MS + config.edge_pause);
        assert!(rig.take_fetch(Source::Edge).is_some(), "{neighbours} neighbours");
    }
}

#[test]
fn nobody_else_is_asked_once_a_holder_is_known() {
    let config = Config { asks_parallel_max: 1, provider_search: false, ..Config::default() };
    let mut rig = Rig::with(config);
    let both = [rig.neighbour(1, &[hash(1)]), rig.neighbour(2, &[hash(1)])];
    rig.get(hash(1));
    let out: Vec<_> =
        both.into_iter().filter_map(|peer| Some((peer, rig.take_ask(peer, hash(1))?))).collect();
    let [(first, id)] = out[..] else { panic!("one question at a time, not {out:?}") };
    rig.say(first, Message::Answer { id, result: HAVE });
    assert!(rig.take_fetch(Source::Peer(first)).is_some());
    assert!(both.into_iter().all(|peer| rig.take_ask(peer, hash(1)).is_none()));
}

#[test]
fn search_is_ended_with_the_get_that_needed_it() {
    let mut rig = Rig::with(Config::default());
    rig.get(hash(1));
    let query = rig.take_search().expect("searched");
    let late = rig.neighbour(1, &[hash(1)]);
    rig.answer(late, hash(1), HAVE);
    let fetch = rig.take_fetch(Source::Peer(late)).expect("fetch");
    rig.complete(fetch);
    let stopped =
        |output: &Output| matches!(output, Output::StopFindProviders { query: of } if *of == query);
    assert!(rig.outputs.iter().any(stopped));
}
