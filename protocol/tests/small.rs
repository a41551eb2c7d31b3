//! Small requests: what the engine decides about them, one behaviour a test, in virtual time.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests pick out the outputs they are about")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
mod support;

use std::time::Duration;

use blobmesh_protocol::engine::receipt::{AskedAnswer, Found, Note, Receipt};
use blobmesh_protocol::engine::{
    DropReason, FetchOutcome, Input, LookResult, Output, Source, WantError,
};
use blobmesh_protocol::id::{FetchId, PeerId, WantId};
use blobmesh_protocol::wire::message::{AskResult, Hello, Message};
use blobmesh_protocol::{Config, Hash};
use support::{MS, Rig, hash, peer};

/// The length of the small blobs of these tests.
const LEN: u64 = 5_000;
const ANY_LEN: u64 = u64::MAX;

fn complete() -> FetchOutcome {
    FetchOutcome::Complete { size: LEN }
}

fn failed() -> FetchOutcome {
    FetchOutcome::Failed { detail: "connection reset".to_owned() }
}

fn wrong() -> FetchOutcome {
    FetchOutcome::WrongBytes { detail: "the bytes are not the blob's".to_owned() }
}

/// Takes the small request that a get led to without a look into the store.
fn small(rig: &mut Rig, to: PeerId, of: Hash) -> FetchId {
    assert!(rig.take_ask(to, of).is_none(), "no question beside it");
    rig.take_small(to, of).expect("a small request").0
}

fn end(rig: &mut Rig, want: WantId) -> (Result<(), WantError>, Receipt) {
    rig.take_end(want).expect("ended")
}

fn looks(rig: &Rig) -> usize {
    rig.outputs.iter().filter(|output| matches!(output, Output::Look { .. })).count()
}

/// Answers that the store has nothing, and that the DHT knows nobody.
fn nothing_else(rig: &mut Rig, of: Hash) {
    rig.look(of, LookResult::Absent);
    if let Some(query) = rig.take_search() {
        rig.tell(Input::ProvidersEnded { query });
    }
}

#[test]
fn likely_neighbour_is_asked_for_the_blob_itself_and_nobody_for_anything_else() {
    let mut rig = Rig::new();
    let holder = rig.small_neighbour(1, &[hash(1)]);
    let other = rig.small_neighbour(2, &[hash(2)]);
    let want = rig.want(hash(1), None);
    assert_eq!(looks(&rig), 0, "what is not held whole is not looked for first");
    let (fetch, keep) = rig.take_small(holder, hash(1)).expect("asked");
    assert!(keep);
    rig.pass(2 * MS);
    rig.end(fetch, complete());
    let (result, receipt) = end(&mut rig, want);
    assert_eq!((result, receipt.found), (Ok(()), Some(Found::Lan)));
    assert_eq!((receipt.size, receipt.bytes_lan, receipt.took), (Some(LEN), LEN, 2 * MS));
    assert_eq!((receipt.neighbours, receipt.skipped), (2, vec![other]));
    assert_eq!(receipt.asked[0].answer, Some(AskedAnswer::Have));
    assert_eq!(receipt.asked[0].after, 2 * MS);
    assert!(rig.take_ask(holder, hash(1)).is_none() && rig.take_search().is_none());
    assert_eq!(rig.engine.stats().small_sent, 1);
    assert_eq!(rig.engine.resolutions(), 0);
    let told = rig.take_messages(other);
    assert!(!told.is_empty(), "the blob is gossiped like any other");
}

#[test]
fn blob_that_may_be_held_is_looked_for_first() {
    let mut rig = Rig::new();
    let holder = rig.small_neighbour(1, &[hash(1)]);
    rig.tell(Input::Held { hash: hash(1), advertise: false });
    let want = rig.want(hash(1), None);
    assert!(rig.take_small(holder, hash(1)).is_none());
    rig.look(hash(1), LookResult::Whole { size: LEN });
    assert_eq!(end(&mut rig, want).1.found, Some(Found::Local));
}

#[test]
fn neighbour_that_does_not_answer_small_requests_or_may_not_hold_the_blob_gets_none() {
    for config in [Config::default(), Config { small_per_peer_max: 0, ..Config::default() }] {
        let (off, held) = (config.small_per_peer_max == 0, [hash(1)]);
        let mut rig = Rig::with(config);
        let old = rig.neighbour(1, &[hash(1)]);
        let new = rig.small_neighbour(2, if off { &held } else { &[] });
        rig.get(hash(1));
        assert!(rig.take_small(old, hash(1)).is_none() && rig.take_small(new, hash(1)).is_none());
        assert!(rig.take_ask(old, hash(1)).is_some());
    }
}

#[test]
fn false_positive_is_counted_and_the_next_neighbour_is_asked() {
    let mut rig = Rig::new();
    let liar = rig.small_neighbour(1, &[hash(1)]);
    let holder = rig.small_neighbour(2, &[hash(1)]);
    let want = rig.want(hash(1), None);
    let fetch = small(&mut rig, liar, hash(1));
    rig.end(fetch, FetchOutcome::Absent);
    assert_eq!(rig.engine.stats().asks_wasted, 1);
    assert_eq!(looks(&rig), 0);
    let fetch = small(&mut rig, holder, hash(1));
    rig.end(fetch, complete());
    let receipt = end(&mut rig, want).1;
    let answers: Vec<_> = receipt.asked.iter().map(|asked| asked.answer).collect();
    assert_eq!(answers, [Some(AskedAnswer::Absent), Some(AskedAnswer::Have)]);
}

#[test]
fn filter_that_lies_again_and_again_is_no_longer_believed() {
    let mut rig = Rig::with(Config { provider_search: false, ..Config::default() });
    let hashes: Vec<Hash> = (0..20).map(hash).collect();
    let liar = rig.small_neighbour(1, &[&hashes[..], &[hash(99)]].concat());
    for hash in hashes {
        let want = rig.want(hash, None);
        let fetch = small(&mut rig, liar, hash);
        rig.end(fetch, FetchOutcome::Absent);
        nothing_else(&mut rig, hash);
        assert_eq!(end(&mut rig, want).0, Err(WantError::NotFound));
    }
    rig.get(hash(99));
    assert!(rig.take_small(liar, hash(99)).is_none());
    assert!(rig.take_ask(liar, hash(99)).is_some(), "it is asked last, and nobody else is there");
}

#[test]
fn absent_everywhere_ends_like_a_blob_that_nobody_has() {
    let mut rig = Rig::new();
    let neighbour = rig.small_neighbour(1, &[hash(1)]);
    let want = rig.want(hash(1), None);
    let fetch = small(&mut rig, neighbour, hash(1));
    rig.end(fetch, FetchOutcome::Absent);
    nothing_else(&mut rig, hash(1));
    let fetch = rig.take_fetch(Source::Edge).expect("the edge is next");
    rig.end(fetch, FetchOutcome::Absent);
    assert_eq!(end(&mut rig, want).0, Err(WantError::NotFound));
    assert!(rig.take_small(neighbour, hash(1)).is_none(), "it is not asked twice");
}

#[test]
fn long_blob_goes_the_ordinary_way_from_who_said_so() {
    let mut rig = Rig::new();
    let holder = rig.small_neighbour(1, &[hash(1)]);
    let want = rig.want(hash(1), None);
    let fetch = small(&mut rig, holder, hash(1));
    rig.end(fetch, FetchOutcome::Large { size: support::SIZE });
    assert!(rig.take_fetch(Source::Peer(holder)).is_none(), "first the store: it may have a part");
    rig.look(hash(1), LookResult::Absent);
    let fetch = rig.take_fetch(Source::Peer(holder)).expect("fetched without a question");
    assert!(rig.take_ask(holder, hash(1)).is_none());
    rig.complete(fetch);
    let (result, receipt) = end(&mut rig, want);
    assert_eq!((result, receipt.found), (Ok(()), Some(Found::Lan)));
    assert_eq!(receipt.asked.len(), 1);
}

#[test]
fn neighbours_that_contradict_each_other_on_the_length_are_not_asked_in_turn_for_ever() {
    let mut rig = Rig::with(Config { provider_search: false, ..Config::default() });
    let liar = rig.neighbour(1, &[hash(1)]);
    let honest = rig.silent_neighbour(2);
    rig.say(honest, Message::Hello(Hello::ours()));
    let want = rig.get(hash(1));
    rig.answer(liar, hash(1), AskResult::Have { size: LEN });
    rig.answer(honest, hash(1), AskResult::Have { size: LEN });
    let wrong = rig.take_fetch(Source::Peer(liar)).expect("the first that answered");
    rig.end(wrong, FetchOutcome::Absent);
    let fetch = small(&mut rig, honest, hash(1));
    rig.end(fetch, FetchOutcome::Large { size: support::SIZE });
    assert!(rig.take_small(honest, hash(1)).is_none(), "not once more");
    let fetch = rig.take_fetch(Source::Peer(honest)).expect("the ordinary way");
    rig.complete(fetch);
    assert_eq!(end(&mut rig, want).0, Ok(()));
}

#[test]
fn long_claim_that_breaks_the_rules_spends_the_neighbour() {
    for size in [0, 1, 65_536, Config::default().blob_bytes_max + 1] {
        let mut rig = Rig::with(Config { provider_search: false, ..Config::default() });
        let neighbour = rig.small_neighbour(1, &[hash(1)]);
        let want = rig.want(hash(1), None);
        let fetch = small(&mut rig, neighbour, hash(1));
        rig.end(fetch, FetchOutcome::Large { size });
        nothing_else(&mut rig, hash(1));
        assert_eq!(rig.take_fetch(Source::Peer(neighbour)), None, "{size}");
        assert_eq!(end(&mut rig, want).0, Err(WantError::NotFound), "{size}");
    }
}

#[test]
fn part_of_a_long_blob_that_the_store_has_is_gone_on_with() {
    let mut rig = Rig::new();
    let holder = rig.small_neighbour(1, &[hash(1)]);
    rig.want(hash(1), None);
    let fetch = small(&mut rig, holder, hash(1));
    rig.end(fetch, FetchOutcome::Large { size: 1 << 20 });
    let mut groups = blobmesh_protocol::blob::GroupSet::new(16);
    groups.insert(15);
    rig.look(hash(1), LookResult::Part { size: 1 << 20, held: 65_536, groups });
    assert!(rig.take_fetch(Source::Peer(holder)).is_some());
}

#[test]
fn busy_neighbour_is_asked_again_for_the_blob_itself_when_it_said() {
    let mut rig = Rig::with(Config { provider_search: false, ..Config::default() });
    let holder = rig.small_neighbour(1, &[hash(1)]);
    let want = rig.want(hash(1), None);
    let fetch = small(&mut rig, holder, hash(1));
    rig.end(fetch, FetchOutcome::Busy { retry_after: 200 * MS });
    rig.look(hash(1), LookResult::Absent);
    rig.pass(199 * MS);
    assert!(rig.take_small(holder, hash(1)).is_none(), "not before it said");
    rig.pass(101 * MS);
    let fetch = small(&mut rig, holder, hash(1));
    rig.end(fetch, complete());
    assert_eq!(end(&mut rig, want).0, Ok(()));
}

#[test]
fn wrong_bytes_ban_the_neighbour_for_every_hash() {
    let mut rig = Rig::new();
    let liar = rig.small_neighbour(1, &[hash(1), hash(2)]);
    let holder = rig.small_neighbour(2, &[hash(1), hash(2)]);
    // The least that is under way, then the nearest: one request each.
    let wants = [rig.want(hash(1), None), rig.want(hash(2), None)];
    let first = small(&mut rig, liar, hash(1));
    let second = small(&mut rig, holder, hash(2));
    rig.end(first, wrong());
    assert_eq!(rig.take_drop(liar), Some(DropReason::WrongBytes));
    let again = small(&mut rig, holder, hash(1));
    rig.end(again, complete());
    rig.end(second, complete());
    let receipt = end(&mut rig, wants[0]).1;
    assert!(receipt.notes.contains(&Note::Banned { peer: liar }));
    assert_eq!(end(&mut rig, wants[1]).0, Ok(()));
    assert_eq!(rig.engine.stats().bans, 1);
}

#[test]
fn requests_out_at_one_neighbour_are_bounded_and_the_others_take_their_turn() {
    let mut rig = Rig::with(Config { small_per_peer_max: 3, ..Config::default() });
    let hashes: Vec<Hash> = (0..10).map(hash).collect();
    let holder = rig.small_neighbour(1, &hashes);
    let wants: Vec<WantId> = hashes.iter().map(|hash| rig.want(*hash, None)).collect();
    let mut out: Vec<FetchId> = Vec::new();
    for done in 0..hashes.len() {
        out.extend(hashes.iter().filter_map(|hash| rig.take_small(holder, *hash)).map(|of| of.0));
        assert_eq!(out.len(), 3.min(hashes.len() - done), "{done} are done");
        rig.end(out.remove(0), complete());
    }
    assert!(wants.into_iter().all(|want| rig.take_end(want).is_some_and(|end| end.0.is_ok())));
}

#[test]
fn requests_are_spread_over_those_who_are_likely_to_hold_the_blobs() {
    let mut rig = Rig::new();
    let hashes: Vec<Hash> = (0..10).map(hash).collect();
    let holders: Vec<PeerId> = (1..=2).map(|n| rig.small_neighbour(n, &hashes)).collect();
    for hash in &hashes {
        rig.want(*hash, None);
    }
    let of = |holder: &PeerId| hashes.iter().filter(|hash| rig_has(&rig, *holder, **hash)).count();
    assert_eq!(holders.iter().map(of).collect::<Vec<_>>(), [5, 5]);
}

fn rig_has(rig: &Rig, to: PeerId, of: Hash) -> bool {
    rig.outputs.iter().any(|output| {
        matches!(output, Output::FetchSmall { hash, peer, .. } if *peer == to && *hash == of)
    })
}

#[test]
fn silent_neighbour_is_hedged_like_one_that_does_not_answer_a_question() {
    let mut rig = Rig::new();
    let silent = rig.small_neighbour(1, &[hash(1)]);
    let other = rig.neighbour(2, &[hash(1)]);
    let want = rig.want(hash(1), None);
    let fetch = small(&mut rig, silent, hash(1));
    let delay = Config::default().hedge_initial;
    rig.pass(delay - MS);
    assert_eq!(looks(&rig), 0, "the LAN has its time");
    rig.pass(MS);
    rig.look(hash(1), LookResult::Absent);
    let edge = rig.take_fetch(Source::Edge).expect("the edge beside it");
    assert!(rig.take_ask(other, hash(1)).is_some(), "and the others are asked");
    assert!(rig.take_search().is_some(), "and the DHT");
    rig.end(fetch, complete());
    assert_eq!(end(&mut rig, want).1.found, Some(Found::Lan));
    assert!(rig.take_stop(edge));
}

#[test]
fn neighbour_that_answers_others_is_waited_for() {
    let mut rig = Rig::new();
    let hashes: Vec<Hash> = (0..20).map(hash).collect();
    let holder = rig.small_neighbour(1, &hashes);
    let last = *hashes.last().expect("twenty");
    for hash in &hashes {
        rig.want(*hash, None);
    }
    for hash in &hashes[..19] {
        rig.pass(20 * MS);
        let fetch = small(&mut rig, holder, *hash);
        rig.end(fetch, complete());
    }
    assert_eq!(looks(&rig), 0, "no hedge in 380 ms, since something came every 20");
    rig.pass(Config::default().first_group_hedge + 2 * MS);
    assert_eq!(looks(&rig), 1, "then it was silent for too long");
    rig.look(last, LookResult::Absent);
    assert!(rig.take_fetch(Source::Edge).is_some());
}

/// Has a neighbour be asked for one blob that it never gives, and for another each 20 ms, which it gives until it is asked
/// no more; returns the want and the fetch of the first.
fn passed_over(time: Duration) -> (Rig, WantId, FetchId) {
    let mut rig = Rig::with(Config { edge: true, provider_search: false, ..Config::default() });
    let hashes: Vec<Hash> = (0..=255).map(hash).collect();
    let holder = rig.small_neighbour(1, &hashes);
    let want = rig.want(hashes[0], None);
    let kept = small(&mut rig, holder, hashes[0]);
    let rounds = usize::try_from(time.as_millis() / 20).expect("few");
    for next in hashes[1..].iter().cycle().take(rounds) {
        rig.tell(Input::Gone { hash: *next });
        rig.want(*next, None);
        let Some((fetch, _)) = rig.take_small(holder, *next) else { break };
        rig.pass(20 * MS);
        rig.end(fetch, complete());
    }
    (rig, want, kept)
}

#[test]
fn neighbour_that_answers_all_but_one_request_does_not_keep_it_from_the_edge() {
    let stall = Config::default().stall_timeout;
    let (rig, ..) = passed_over(stall - 20 * MS);
    assert_eq!(looks(&rig), 0, "it may have had much to answer before");
    let (mut rig, want, kept) = passed_over(stall + 200 * MS);
    rig.look(hash(0), LookResult::Absent);
    let edge = rig.take_fetch(Source::Edge).expect("the edge is asked beside it");
    rig.complete(edge);
    assert_eq!(end(&mut rig, want).1.found, Some(Found::Edge));
    assert!(rig.take_stop(kept));
}

#[test]
fn request_that_is_passed_over_for_long_is_given_up() {
    let stall = Config::default().stall_timeout;
    let (mut rig, _, kept) = passed_over(9 * stall);
    assert!(!rig.take_stop(kept));
    let (mut rig, _, kept) = passed_over(14 * stall);
    assert!(rig.take_stop(kept));
    assert_eq!(rig.engine.stats().stalls, 1);
}

#[test]
fn neighbour_with_much_to_answer_is_given_the_time_of_a_source_and_what_waits_for_it_is_not_asked()
{
    let mut rig = Rig::with(Config { small_per_peer_max: 2, edge: true, ..Config::default() });
    let hashes: Vec<Hash> = (0..3).map(hash).collect();
    let slow = rig.small_neighbour(1, &hashes);
    let wants: Vec<WantId> = hashes.iter().map(|hash| rig.want(*hash, None)).collect();
    let out = [small(&mut rig, slow, hashes[0]), small(&mut rig, slow, hashes[1])];
    rig.pass(Config::default().first_group_hedge - MS);
    assert_eq!(looks(&rig), 0);
    rig.pass(2 * MS);
    assert_eq!(looks(&rig), 3, "the one that waits for room, too");
    for hash in &hashes {
        rig.look(*hash, LookResult::Absent);
        assert!(rig.take_fetch(Source::Edge).is_some(), "the edge beside it");
        assert!(rig.take_ask(slow, *hash).is_none());
    }
    rig.end(out[0], complete());
    let last = small(&mut rig, slow, hashes[2]);
    rig.end(out[1], complete());
    rig.end(last, complete());
    assert!(wants.into_iter().all(|want| rig.take_end(want).is_some_and(|end| end.0.is_ok())));
}

#[test]
fn silence_of_a_node_that_is_held_up_is_not_its_sources_but_for_a_bound() {
    let stall = Config::default().stall_timeout;
    let mut rig = Rig::with(Config { provider_search: false, ..Config::default() });
    let holder = rig.small_neighbour(1, &[hash(1)]);
    rig.want(hash(1), None);
    let fetch = small(&mut rig, holder, hash(1));
    rig.pass(Config::default().hedge_initial);
    rig.look(hash(1), LookResult::Absent);
    let held_up_for = |rig: &mut Rig, time: Duration| {
        for _ in 0..time.as_millis() / 500 {
            rig.pass(500 * MS);
            rig.tell(Input::HeldUp);
        }
    };
    held_up_for(&mut rig, 2 * stall);
    rig.pass(stall - MS);
    assert!(!rig.take_stop(fetch), "it has the time of a stall from there");
    rig.pass(2 * MS);
    assert!(rig.take_stop(fetch));
    assert_eq!(rig.engine.stats().stalls, 1);

    rig.pass(Config::default().backoff_initial);
    let fetch = rig.take_fetch(Source::Peer(holder)).expect("another try");
    held_up_for(&mut rig, 5 * stall);
    assert!(rig.take_stop(fetch), "a dead one is found, however long the node is held up");
}

#[test]
fn request_that_is_never_answered_is_given_up_and_the_neighbour_rests() {
    let mut rig = Rig::with(Config { provider_search: false, ..Config::default() });
    let holder = rig.small_neighbour(1, &[hash(1), hash(2)]);
    let want = rig.want(hash(1), None);
    let fetch = small(&mut rig, holder, hash(1));
    rig.pass(Config::default().hedge_initial);
    rig.look(hash(1), LookResult::Absent);
    rig.pass(Config::default().stall_timeout);
    assert!(rig.take_stop(fetch));
    assert_eq!(rig.engine.stats().stalls, 1);
    rig.pass(Config::default().backoff_initial);
    let fetch = rig.take_fetch(Source::Peer(holder)).expect("now on a stream of its own");
    rig.complete(fetch);
    let receipt = end(&mut rig, want).1;
    assert_eq!(receipt.asked[0].answer, Some(AskedAnswer::Timeout));
    rig.get(hash(2));
    assert!(rig.take_small(holder, hash(2)).is_none());
    assert!(rig.take_ask(holder, hash(2)).is_some(), "it is asked first for a while");
    rig.pass(Config::default().small_rest);
    rig.tell(Input::Gone { hash: hash(1) });
    rig.want(hash(1), None);
    assert!(rig.take_small(holder, hash(1)).is_some(), "and then no more");
}

#[test]
fn neighbour_that_answers_late_is_asked_for_small_blobs_again() {
    let mut rig = Rig::with(Config { provider_search: false, ..Config::default() });
    let holder = rig.small_neighbour(1, &[hash(1), hash(2)]);
    let want = rig.want(hash(1), None);
    let fetch = small(&mut rig, holder, hash(1));
    rig.pass(Config::default().hedge_initial);
    rig.look(hash(1), LookResult::Absent);
    rig.pass(Config::default().stall_timeout);
    assert!(rig.take_stop(fetch));
    rig.tell(Input::Stored { fetch, hash: hash(1) });
    rig.look(hash(1), LookResult::Whole { size: 1_000 });
    assert_eq!(end(&mut rig, want).0, Ok(()));
    rig.want(hash(2), None);
    assert!(rig.take_small(holder, hash(2)).is_some(), "it was slow, and is not broken");
}

#[test]
fn failed_request_is_tried_again_on_a_stream_of_its_own() {
    let mut rig = Rig::with(Config { provider_search: false, ..Config::default() });
    let holder = rig.small_neighbour(1, &[hash(1)]);
    let want = rig.want(hash(1), None);
    let fetch = small(&mut rig, holder, hash(1));
    rig.end(fetch, failed());
    rig.look(hash(1), LookResult::Absent);
    rig.pass(Config::default().backoff_initial);
    let fetch = rig.take_fetch(Source::Peer(holder)).expect("another attempt");
    rig.complete(fetch);
    assert_eq!(end(&mut rig, want).0, Ok(()));
}

#[test]
fn those_who_wait_for_a_neighbour_go_elsewhere_when_it_goes() {
    let config = Config { small_per_peer_max: 1, provider_search: false, ..Config::default() };
    let mut rig = Rig::with(config);
    let holder = rig.small_neighbour(1, &[hash(1), hash(2)]);
    let wants = [rig.want(hash(1), None), rig.want(hash(2), None)];
    let fetch = small(&mut rig, holder, hash(1));
    rig.tell(Input::Disconnected { peer: holder });
    nothing_else(&mut rig, hash(2));
    assert_eq!(end(&mut rig, wants[1]).0, Err(WantError::NotFound));
    rig.end(fetch, failed());
    assert!(rig.take_end(wants[0]).is_none(), "an attempt is left");
}

#[test]
fn get_and_small_request_of_one_hash_share_a_resolution() {
    let mut rig = Rig::new();
    let holder = rig.small_neighbour(1, &[hash(1)]);
    let first = rig.want(hash(1), None);
    let second = rig.want(hash(1), None);
    let fetch = small(&mut rig, holder, hash(1));
    assert!(rig.take_small(holder, hash(1)).is_none(), "one request");
    rig.end(fetch, complete());
    assert_eq!((end(&mut rig, first).0, end(&mut rig, second).0), (Ok(()), Ok(())));
}

#[test]
fn question_that_finds_a_small_blob_is_followed_by_a_small_request() {
    let mut rig = Rig::new();
    let holder = rig.silent_neighbour(1);
    rig.say(holder, Message::Hello(Hello::ours()));
    let want = rig.get(hash(1));
    rig.answer(holder, hash(1), AskResult::Have { size: LEN });
    let fetch = small(&mut rig, holder, hash(1));
    assert_eq!(rig.take_fetch(Source::Peer(holder)), None);
    rig.end(fetch, complete());
    assert_eq!(end(&mut rig, want).1.asked.len(), 1);
}

#[test]
fn word_of_a_long_blob_ends_small_requests_for_it() {
    let mut rig = Rig::new();
    let silent = rig.small_neighbour(1, &[hash(1)]);
    let holder = rig.neighbour(2, &[hash(1)]);
    rig.want(hash(1), None);
    let fetch = small(&mut rig, silent, hash(1));
    rig.pass(Config::default().hedge_initial);
    rig.look(hash(1), LookResult::Absent);
    rig.answer(holder, hash(1), AskResult::Have { size: 8 << 20 });
    assert!(rig.take_stop(fetch));
    assert!(rig.take_ask(silent, hash(1)).is_some(), "it is asked whether it holds the blob, too");
}

#[test]
fn provider_that_says_the_blob_is_long_while_a_small_request_is_out_is_fetched_from() {
    let mut rig = Rig::new();
    let holder = rig.silent_neighbour(1);
    rig.say(holder, Message::Hello(Hello::ours()));
    let want = rig.get(hash(1));
    let query = rig.take_search().expect("nobody is likely to hold it");
    rig.tell(Input::Providers { query, peers: vec![holder] });
    let (request, _) = rig.take_small(holder, hash(1)).expect("a record names it, too");
    rig.answer(holder, hash(1), AskResult::Have { size: 200_000 });
    assert!(rig.take_stop(request));
    rig.tell(Input::ProvidersEnded { query });
    let fetch = rig.take_fetch(Source::Peer(holder)).expect("it holds the blob");
    rig.complete(fetch);
    assert_eq!(end(&mut rig, want).0, Ok(()));
}

#[test]
fn read_ends_with_bytes_that_are_not_stored_and_are_not_gossiped() {
    let mut rig = Rig::new();
    let holder = rig.small_neighbour(1, &[hash(1)]);
    rig.take_messages(holder);
    let want = rig.read(hash(1), ANY_LEN);
    let (fetch, keep) = rig.take_small(holder, hash(1)).expect("asked");
    assert!(!keep);
    rig.end(fetch, FetchOutcome::Read { size: LEN });
    let (result, receipt) = end(&mut rig, want);
    assert_eq!((result, receipt.found, receipt.bytes_lan), (Ok(()), Some(Found::Lan), LEN));
    assert_eq!(rig.take_messages(holder).len(), 0);
    rig.read(hash(1), ANY_LEN);
    assert!(rig.take_small(holder, hash(1)).is_some(), "it is asked for again");
}

#[test]
fn get_that_joins_a_read_has_the_blob_asked_for_again_to_keep_it() {
    let mut rig = Rig::new();
    let holder = rig.small_neighbour(1, &[hash(1)]);
    let read = rig.read(hash(1), ANY_LEN);
    let get = rig.want(hash(1), None);
    let (fetch, _) = rig.take_small(holder, hash(1)).expect("asked");
    rig.end(fetch, FetchOutcome::Read { size: LEN });
    assert_eq!(end(&mut rig, read).0, Ok(()));
    assert!(rig.take_end(get).is_none());
    rig.look(hash(1), LookResult::Absent);
    let (fetch, keep) = rig.take_small(holder, hash(1)).expect("asked again");
    assert!(keep);
    rig.end(fetch, complete());
    assert_eq!(end(&mut rig, get).0, Ok(()));
}

#[test]
fn read_of_a_blob_longer_than_is_of_use_is_refused() {
    let mut rig = Rig::new();
    let holder = rig.small_neighbour(1, &[hash(1), hash(2)]);
    let want = rig.read(hash(1), LEN - 1);
    let fetch = small(&mut rig, holder, hash(1));
    rig.end(fetch, FetchOutcome::Read { size: LEN });
    assert_eq!(end(&mut rig, want).0, Err(WantError::TooLarge));
    let want = rig.read(hash(2), LEN);
    let fetch = small(&mut rig, holder, hash(2));
    rig.end(fetch, FetchOutcome::Large { size: 1 << 20 });
    rig.look(hash(2), LookResult::Absent);
    assert_eq!(end(&mut rig, want).0, Err(WantError::TooLarge));
    assert_eq!(rig.take_fetch(Source::Edge), None, "nothing is fetched for it");
}

#[test]
fn read_of_a_long_blob_that_is_of_use_comes_by_the_store() {
    let mut rig = Rig::new();
    let holder = rig.small_neighbour(1, &[hash(1)]);
    let want = rig.read(hash(1), support::SIZE);
    let fetch = small(&mut rig, holder, hash(1));
    rig.end(fetch, FetchOutcome::Large { size: support::SIZE });
    rig.look(hash(1), LookResult::Absent);
    let fetch = rig.take_fetch(Source::Peer(holder)).expect("the ordinary way");
    rig.complete(fetch);
    assert_eq!(end(&mut rig, want).0, Ok(()));
}

/// Blobs are stored many together, and told of when all of them are.
#[test]
fn blob_that_its_request_has_stored_before_anybody_was_told_was_not_there_before() {
    let mut rig = Rig::new();
    let holder = rig.small_neighbour(1, &[hash(1)]);
    let want = rig.want(hash(1), None);
    let fetch = small(&mut rig, holder, hash(1));
    rig.pass(Config::default().stall_timeout);
    assert!(rig.take_stop(fetch));
    rig.look(hash(1), LookResult::Whole { size: 10 });
    let (result, receipt) = end(&mut rig, want);
    assert_eq!((result, receipt.found), (Ok(()), Some(Found::Lan)));
    assert_eq!((receipt.bytes_local, receipt.bytes_lan), (0, 10));
}

#[test]
fn get_that_is_taken_back_stops_its_request_and_frees_its_room() {
    let mut rig = Rig::with(Config { small_per_peer_max: 1, ..Config::default() });
    let holder = rig.small_neighbour(1, &[hash(1), hash(2)]);
    let want = rig.want(hash(1), None);
    rig.want(hash(2), None);
    let fetch = small(&mut rig, holder, hash(1));
    assert!(rig.take_small(holder, hash(2)).is_none());
    rig.tell(Input::Cancel { want });
    assert!(rig.take_stop(fetch));
    assert!(rig.take_small(holder, hash(2)).is_some());
    // The answer that was on its way is stored all the same.
    rig.tell(Input::Stored { fetch, hash: hash(1) });
    rig.end(fetch, complete());
    assert_eq!(rig.engine.resolutions(), 1);
    assert_eq!(peer(1), holder);
}
