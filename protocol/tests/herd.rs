//! The herd: what is asked of the edge when neighbours want the same, and what their claims may cause.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests pick out the outputs they are about")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
mod support;

use std::ops::Range;
use std::time::Duration;

use blobmesh_protocol::blob::{GROUP_LEN, GroupSet};
use blobmesh_protocol::engine::receipt::Note;
use blobmesh_protocol::engine::{FetchOutcome, Input, LookResult, Output, Source, WantError};
use blobmesh_protocol::id::{FetchId, PeerId, WantId};
use blobmesh_protocol::wire::message::{AskResult, CLAIMS_MAX, Message};
use blobmesh_protocol::{Config, Time};
use support::{MS, Rig, hash, peer};

/// Four ranges of 64 groups, in blocks of 16.
const SIZE: u64 = 16 << 20;
const GROUPS: u64 = SIZE / GROUP_LEN;
const RANGE: u64 = 64;
/// The first request is for two ranges.
const FIRST: u64 = 2 * RANGE;
const PAUSE: Duration = Duration::from_millis(8);
/// What belongs to neighbours is left to them for no longer than this, as long as ranges take less than a second.
const OWNER_PATIENCE: Duration = Duration::from_millis(120);
const EVERYTHING: (u64, u64) = (0, u64::MAX);

fn config() -> Config {
    Config { edge: true, provider_search: false, edge_pause: PAUSE, ..Config::default() }
}

/// A node that wants a blob of which its neighbours hold nothing, and has found that out.
fn cold(neighbours: u8) -> (Rig, WantId) {
    let mut rig = Rig::listening(config());
    for n in 1..=neighbours {
        rig.neighbour(n, &[]);
    }
    let want = rig.get(hash(1));
    (rig, want)
}

fn claims(runs: &[(u64, u64)]) -> Message {
    Message::Claims { hash: hash(1), seeks: false, done: 0, runs: runs.to_vec() }
}

fn seeks() -> Message {
    Message::Claims { hash: hash(1), seeks: true, done: 0, runs: Vec::new() }
}

fn groups(runs: &[(u64, u64)]) -> Message {
    Message::Groups { hash: hash(1), size: SIZE, follows: true, runs: runs.to_vec() }
}

/// Takes the runs that a neighbour was told of, each time.
fn take_claims(rig: &mut Rig, to: PeerId) -> Vec<Vec<(u64, u64)>> {
    let words = rig.take_messages(to).into_iter().filter_map(|message| match message {
        Message::Claims { seeks: false, runs, .. } => Some(runs),
        _ => None,
    });
    words.collect()
}

/// A node that wants a blob of which a neighbour said that it holds it all.
fn beside_a_holder() -> (Rig, PeerId) {
    let mut rig = Rig::listening(Config { edge_pause: Duration::ZERO, ..config() });
    let holder = rig.neighbour(1, &[hash(1)]);
    rig.get(hash(1));
    rig.answer(holder, hash(1), AskResult::Have { size: SIZE });
    (rig, holder)
}

/// Takes the one range that the edge was asked for.
fn take_range(rig: &mut Rig) -> (FetchId, Range<u64>) {
    let asked = rig.take_fetches(Source::Edge);
    let [(fetch, Some(groups))] = &asked[..] else { panic!("one range: {asked:?}") };
    (*fetch, groups.clone())
}

fn give(rig: &mut Rig, fetch: FetchId, groups: Range<u64>) {
    let bytes = (groups.end - groups.start) * GROUP_LEN;
    rig.tell(Input::Progress { fetch, bytes, groups, size: SIZE });
}

/// A node that holds the first block and so the list, among others that fetch the blob.
fn proven(partners: u8) -> Rig {
    holding(16, partners)
}

/// A node that holds the first so many groups and the list, among others that fetch the blob.
fn holding(first: u64, partners: u8) -> Rig {
    let mut rig = Rig::listening(config());
    for n in 1..=partners {
        rig.neighbour(n, &[]);
    }
    rig.want(hash(1), None);
    let mut held = GroupSet::new(GROUPS);
    for group in 0..first {
        held.insert(group);
    }
    rig.look(hash(1), LookResult::Part { size: SIZE, held: first * GROUP_LEN, groups: held });
    (1..=partners).for_each(|n| rig.say(peer(n), groups(&[])));
    rig
}

#[test]
fn edge_is_asked_after_neighbours_were_told_and_listened_to() {
    let (mut rig, want) = cold(2);
    assert_eq!(rig.take_messages(peer(1)).last(), Some(&seeks()));
    assert_eq!(rig.take_messages(peer(2)).last(), Some(&seeks()));
    rig.pass(PAUSE / 2 - MS);
    assert!(rig.take_fetches(Source::Edge).is_empty(), "not before half of the pause");
    rig.pass(PAUSE / 2 + MS);
    let (fetch, range) = take_range(&mut rig);
    assert_eq!(range, 0..FIRST);
    assert_eq!(take_claims(&mut rig, peer(1)), [[(0, FIRST)]]);
    rig.end(fetch, FetchOutcome::Absent);
    assert_eq!(take_claims(&mut rig, peer(1)), [[]], "nobody waits for what is not there");
    rig.pass(Config::default().word_time);
    assert_eq!(rig.take_end(want).expect("ended").0, Err(WantError::NotFound));
}

#[test]
fn node_without_neighbours_asks_at_once() {
    let (mut rig, _) = cold(0);
    assert_eq!(take_range(&mut rig).1, 0..FIRST);
}

#[test]
fn what_a_neighbour_claims_is_left_to_it_as_long_as_it_says_so() {
    let (mut rig, _) = cold(2);
    rig.say(peer(1), claims(&[EVERYTHING]));
    for _ in 0..20 {
        rig.pass(Config::default().claim_ttl / 4);
        rig.say(peer(1), claims(&[EVERYTHING]));
    }
    assert!(rig.take_fetches(Source::Edge).is_empty(), "ten seconds, and it goes on");
    rig.pass(Duration::from_secs(9));
    assert!(
        rig.take_fetches(Source::Edge).is_empty(),
        "it held for ten seconds, and so for ten more"
    );
    rig.pass(Duration::from_secs(1));
    assert_eq!(take_range(&mut rig).1, 0..FIRST, "it says nothing any more");
}

#[test]
fn claim_that_brought_something_for_long_is_waited_for_as_long_again() {
    let mut rig = proven(1);
    let runs = vec![(16, GROUPS - 16)];
    let word = |done| Message::Claims { hash: hash(1), seeks: false, done, runs: runs.clone() };
    for done in 0..=8 {
        rig.say(peer(1), word(done));
        rig.pass(Duration::from_secs(1));
    }
    rig.pass(Duration::from_millis(6_900));
    assert!(rig.take_fetches(Source::Edge).is_empty(), "it brought groups for eight seconds");
    rig.pass(Duration::from_millis(200));
    assert!(!rig.take_fetches(Source::Edge).is_empty());
}

#[test]
fn claim_is_told_again_the_more_rarely_the_longer_it_holds() {
    let (mut rig, _) = cold(2);
    rig.pass(PAUSE);
    let (fetch, range) = take_range(&mut rig);
    take_claims(&mut rig, peer(1));
    rig.say(peer(1), seeks());
    // Whose end is looked for as well.
    rig.say(peer(2), claims(&[(GROUPS - RANGE, RANGE)]));
    let mut told = take_claims(&mut rig, peer(1)).len();
    for second in 0..30 {
        give(&mut rig, fetch, second..second + 1);
        rig.pass(Duration::from_secs(1));
        told += take_claims(&mut rig, peer(1)).len();
    }
    assert!(range.end > 30, "it is not whole");
    assert!((8..=11).contains(&told), "told {told} times: at 0, 1, 2, 3, 4.5, 6.8, 10, 15, 23 s");
}

#[test]
fn claim_that_brings_nothing_ends_though_it_is_told_again() {
    let (mut rig, _) = cold(2);
    for _ in 0..6 {
        assert!(rig.take_fetches(Source::Edge).is_empty());
        rig.say(peer(1), claims(&[(0, RANGE)]));
        rig.pass(Config::default().claim_patience / 6);
    }
    assert_eq!(take_range(&mut rig).1, 0..FIRST);
}

#[test]
fn claim_ends_with_its_owner_or_when_it_is_taken_back() {
    for ends in [Input::Disconnected { peer: peer(1) }, message(1, claims(&[]))] {
        let (mut rig, _) = cold(2);
        rig.say(peer(1), claims(&[(0, RANGE)]));
        rig.pass(PAUSE);
        assert!(rig.take_fetches(Source::Edge).is_empty());
        rig.tell(ends);
        assert_eq!(rig.take_fetches(Source::Edge).len(), 1);
    }
}

fn message(from: u8, message: Message) -> Input {
    Input::Message { peer: peer(from), message }
}

#[test]
fn of_two_who_claim_the_same_one_gives_way_unless_something_came() {
    let (mut yielded, mut kept) = (0, 0);
    for n in 1..=32 {
        let mut rig = Rig::of(peer(100), config());
        rig.tell(Input::Settled);
        let other = rig.neighbour(n, &[]);
        rig.get(hash(1));
        rig.pass(PAUSE);
        let (fetch, _) = take_range(&mut rig);
        if n % 2 == 0 {
            give(&mut rig, fetch, 0..1);
        }
        rig.say(other, claims(&[(0, RANGE)]));
        let stopped = rig.take_stop(fetch);
        assert!(!(stopped && n % 2 == 0), "what came is not given up");
        (yielded, kept) = (yielded + u32::from(stopped), kept + u32::from(!stopped && n % 2 != 0));
    }
    assert!(yielded > 3 && kept > 3, "{yielded} of 16 gave way");
}

#[test]
fn who_gives_way_says_so_in_the_receipt_and_asks_again_when_the_other_fails() {
    let mut others = 1..=32;
    let (mut rig, want, other) = others
        .find_map(|n| {
            let mut rig = Rig::listening(config());
            let other = rig.neighbour(n, &[]);
            let want = rig.get(hash(1));
            rig.pass(PAUSE);
            let (fetch, _) = take_range(&mut rig);
            rig.say(other, claims(&[(0, RANGE)]));
            rig.take_stop(fetch).then_some((rig, want, other))
        })
        .expect("one in two goes before us");
    rig.say(other, claims(&[]));
    let (fetch, _) = take_range(&mut rig);
    rig.end(fetch, FetchOutcome::Complete { size: 9 });
    let receipt = rig.take_end(want).expect("ended").1;
    assert!(receipt.notes.contains(&Note::Yielded { peer: other }), "{:?}", receipt.notes);
}

#[test]
fn claim_that_was_overheard_before_the_blob_was_wanted_is_waited_for() {
    let mut rig = Rig::listening(config());
    (1..=2).for_each(|n| {
        rig.neighbour(n, &[]);
    });
    rig.say(peer(1), claims(&[(0, FIRST)]));
    rig.pass(10 * MS);
    rig.get(hash(1));
    rig.pass(Config::default().claim_ttl / 2);
    assert_eq!(rig.take_fetches(Source::Edge), []);
    rig.pass(Config::default().claim_ttl);
    assert_eq!(rig.take_fetches(Source::Edge).len(), 1, "its owner fell silent");
}

#[test]
fn claim_that_was_taken_back_or_is_old_or_of_one_who_left_is_not_waited_for() {
    let taken_back = |rig: &mut Rig| rig.say(peer(1), claims(&[]));
    let old = |rig: &mut Rig| rig.pass(Config::default().claim_ttl);
    let left = |rig: &mut Rig| rig.tell(Input::Disconnected { peer: peer(1) });
    let ends: [&dyn Fn(&mut Rig); 3] = [&taken_back, &old, &left];
    for (case, end) in ends.into_iter().enumerate() {
        let mut rig = Rig::listening(config());
        (1..=2).for_each(|n| {
            rig.neighbour(n, &[]);
        });
        rig.say(peer(1), claims(&[(0, FIRST)]));
        end(&mut rig);
        rig.get(hash(1));
        rig.pass(PAUSE);
        assert_eq!(rig.take_fetches(Source::Edge).len(), 1, "case {case}");
    }
}

#[test]
fn first_range_is_left_to_whoever_has_bytes_of_it_already() {
    for n in 1..=16 {
        // The weight of peer 0 for the first range is the least there is.
        let mut rig = Rig::of(peer(99), config());
        rig.tell(Input::Settled);
        let other = rig.neighbour(n, &[]);
        rig.get(hash(1));
        rig.pass(PAUSE);
        let (fetch, _) = take_range(&mut rig);
        let runs = vec![(0, FIRST)];
        rig.say(other, Message::Claims { hash: hash(1), seeks: false, done: 1, runs });
        assert!(rig.take_stop(fetch), "neighbour {n}, whatever it weighs");
    }
}

#[test]
fn of_two_whom_the_edge_gave_something_one_keeps_the_range() {
    let keeps = |n: &u8| {
        let mut rig = Rig::of(peer(99), config());
        rig.tell(Input::Settled);
        let other = rig.neighbour(*n, &[]);
        rig.get(hash(1));
        rig.pass(PAUSE);
        let (fetch, range) = take_range(&mut rig);
        rig.tell(Input::Progress { fetch, bytes: GROUP_LEN, groups: range.start..1, size: SIZE });
        rig.end(fetch, FetchOutcome::Failed { detail: "cut".to_owned() });
        rig.pass(5_000 * MS);
        let (fetch, _) = rig.take_fetches(Source::Edge).pop().expect("asked again");
        let runs = vec![(0, GROUPS)];
        rig.say(other, Message::Claims { hash: hash(1), seeks: false, done: 1, runs });
        !rig.take_stop(fetch)
    };
    let kept = (1..=16).filter(keeps).count();
    assert!((1..16).contains(&kept), "{kept} of 16, by their weights");
}

#[test]
fn partners_that_are_silent_for_a_moment_cost_the_edge_nothing() {
    let mut rig = holding(GROUPS - 16, 2);
    rig.say(peer(1), groups(&[(0, GROUPS)]));
    rig.pass(400 * MS);
    assert_eq!(rig.take_fetches(Source::Edge), []);
    rig.pass(400 * MS);
    assert_eq!(rig.take_fetches(Source::Edge).len(), 1, "longer than a moment");
}

#[test]
fn what_a_neighbour_claims_is_left_to_it_though_partners_are_slow() {
    let mut rig = holding(GROUPS - 16, 2);
    rig.say(peer(1), groups(&[(0, GROUPS)]));
    rig.say(peer(2), claims(&[(GROUPS - 16, 16)]));
    rig.pass(1_400 * MS);
    assert_eq!(rig.take_fetches(Source::Edge), []);
    rig.pass(Config::default().claim_ttl);
    assert_eq!(rig.take_fetches(Source::Edge).len(), 1, "its lease is over");
}

#[test]
fn who_seeks_hears_what_is_claimed() {
    let (mut rig, _) = cold(2);
    rig.pass(PAUSE);
    let (fetch, _) = take_range(&mut rig);
    rig.take_messages(peer(2));
    rig.say(peer(2), seeks());
    assert_eq!(take_claims(&mut rig, peer(2)), [[(0, FIRST)]]);
    give(&mut rig, fetch, 0..16);
    let told = rig.take_messages(peer(2));
    assert!(told.iter().any(|message| matches!(message, Message::Groups { .. })), "{told:?}");
}

#[test]
fn lone_node_asks_for_more_ranges_at_once_where_they_are_quick_and_for_each_group_once() {
    for (took, at_once) in [(100 * MS, 4), (200 * MS, 2)] {
        let short = RANGE / 2;
        let mut rig = Rig::listening(Config { edge_range_bytes: short * GROUP_LEN, ..config() });
        rig.get(hash(1));
        let (first, range) = take_range(&mut rig);
        give(&mut rig, first, 0..16);
        let (_, second) = take_range(&mut rig);
        rig.pass(took);
        give(&mut rig, first, 16..range.end);
        rig.end(first, FetchOutcome::Part);
        let more = rig.take_fetches(Source::Edge);
        assert_eq!(more.len() + 1, at_once, "{more:?}");
        let mut groups: Vec<u64> = range.chain(second).collect();
        groups.extend(more.iter().flat_map(|(_, groups)| groups.clone().expect("a range")));
        groups.sort_unstable();
        assert!(groups.into_iter().eq(0..short * (2 + at_once as u64)), "{more:?}");
    }
}

#[test]
fn lone_node_asks_for_the_next_range_before_the_last_two_end_together() {
    let mut rig = Rig::listening(config());
    rig.get(hash(1));
    let (first, range) = take_range(&mut rig);
    give(&mut rig, first, 0..1);
    let (second, next) = take_range(&mut rig);
    // Nothing is known of the edge's speed, and a range less than both of them is still to come.
    give(&mut rig, first, 1..range.end - RANGE / 2);
    give(&mut rig, second, next.start..next.start + RANGE / 2);
    assert!(rig.take_fetches(Source::Edge).is_empty(), "a whole range");
    give(&mut rig, second, next.start + RANGE / 2..next.start + RANGE / 2 + 1);
    assert_eq!(take_range(&mut rig).1, next.end..next.end + RANGE);
}

/// Takes how often a connection to the edge was to be made ahead.
fn take_prepared(rig: &mut Rig) -> usize {
    let before = rig.outputs.len();
    rig.outputs.retain(|output| !matches!(output, Output::PrepareEdge));
    before - rig.outputs.len()
}

#[test]
fn connection_to_the_edge_is_made_while_the_lan_has_its_time_and_not_again_soon() {
    let mut rig = Rig::listening(config());
    for n in 1..=3 {
        rig.small_neighbour(n, &[hash(1), hash(2), hash(3)]);
    }
    rig.want(hash(1), None);
    rig.pass(Config::default().hedge_min - MS);
    assert_eq!(take_prepared(&mut rig), 0);
    rig.pass(MS);
    assert_eq!(take_prepared(&mut rig), 1);
    rig.pass(Duration::from_secs(1));
    rig.want(hash(2), None);
    rig.pass(Duration::from_secs(1));
    assert_eq!(take_prepared(&mut rig), 0, "one is made in ten seconds");
    rig.pass(Duration::from_secs(8));
    rig.want(hash(3), None);
    rig.pass(Config::default().hedge_min);
    assert_eq!(take_prepared(&mut rig), 1);
}

#[test]
fn connection_to_the_edge_is_made_when_all_holders_pause_and_before_it_is_asked() {
    let (mut rig, quick) = beside_a_holder();
    let lan = rig.take_fetch(Source::Peer(quick)).expect("fetched");
    for group in 0..20 {
        give(&mut rig, lan, group..group + 1);
        rig.pass(10 * MS);
    }
    assert_eq!(take_prepared(&mut rig), 0);
    while rig.take_fetches(Source::Edge).is_empty() && take_prepared(&mut rig) == 0 {
        rig.pass(MS);
    }
    rig.pass(10 * MS);
    assert!(rig.take_fetches(Source::Edge).is_empty(), "it is asked later");
    rig.pass(100 * MS);
    assert!(!rig.take_fetches(Source::Edge).is_empty());
    assert_eq!(take_prepared(&mut rig), 0, "once is enough");
}

#[test]
fn no_connection_to_the_edge_is_made_where_the_lan_gives_in_time_or_there_is_no_edge() {
    let (mut rig, quick) = beside_a_holder();
    let lan = rig.take_fetch(Source::Peer(quick)).expect("fetched");
    give(&mut rig, lan, 0..1);
    rig.pass(40 * MS);
    assert_eq!(take_prepared(&mut rig), 0);
    let mut rig = Rig::listening(Config { edge: false, ..config() });
    rig.small_neighbour(1, &[hash(1)]);
    rig.want(hash(1), None);
    rig.pass(Duration::from_secs(1));
    assert_eq!(take_prepared(&mut rig), 0);
}

#[test]
fn ranges_that_others_claim_or_hold_are_not_asked_for() {
    let mut rig = proven(6);
    rig.say(peer(1), claims(&[(RANGE, RANGE)]));
    rig.say(peer(2), groups(&[(2 * RANGE, 16)]));
    rig.pass(PAUSE + OWNER_PATIENCE);
    let (fetch, range) = take_range(&mut rig);
    let free = |group: u64| {
        !(RANGE..2 * RANGE).contains(&group) && !(2 * RANGE..2 * RANGE + 16).contains(&group)
    };
    assert!(range.clone().all(|group| group >= 16 && free(group)), "{range:?}");
    assert_eq!(
        take_claims(&mut rig, peer(3)).last(),
        Some(&vec![(range.start, range.end - range.start)])
    );
    // One that failed is told of at once, so that somebody else may try.
    rig.end(fetch, FetchOutcome::Failed { detail: "cut".to_owned() });
    assert_eq!(take_claims(&mut rig, peer(3)), [[]]);
}

#[test]
fn range_that_came_stays_claimed_until_word_of_it_has_gone_round() {
    let mut rig = proven(6);
    rig.pass(Config::default().hedge_initial + PAUSE + OWNER_PATIENCE);
    let (fetch, range) = take_range(&mut rig);
    rig.pass(100 * MS);
    give(&mut rig, fetch, range.clone());
    rig.end(fetch, FetchOutcome::Part);
    rig.pass(OWNER_PATIENCE);
    let (_, next) = take_range(&mut rig);
    let last = take_claims(&mut rig, peer(1)).pop().expect("told of the next one");
    let run = |range: &Range<u64>| (range.start, range.end - range.start);
    assert!(last.contains(&run(&range)) && last.contains(&run(&next)), "{last:?}");
}

#[test]
fn edge_without_a_list_is_claimed_whole() {
    let (mut rig, want) = cold(2);
    rig.pass(PAUSE);
    let (fetch, _) = take_range(&mut rig);
    rig.take_messages(peer(1));
    rig.tell(Input::Unlisted { fetch });
    assert_eq!(take_claims(&mut rig, peer(1)), [[EVERYTHING]]);
    rig.tell(Input::Progress { fetch, bytes: SIZE, groups: 0..GROUPS, size: SIZE });
    assert!(rig.take_fetches(Source::Edge).is_empty());
    rig.end(fetch, FetchOutcome::Complete { size: SIZE });
    assert_eq!(rig.take_end(want).expect("ended").0, Ok(()));
}

#[test]
fn words_that_break_the_rules_or_are_of_nothing_wanted_change_nothing() {
    let many: Vec<(u64, u64)> = (0..=CLAIMS_MAX as u64).map(|n| (2 * n, 1)).collect();
    for runs in [&[(5, 0)][..], &[(5, 5), (9, 1)], &[(u64::MAX, 2)], &many] {
        let (mut rig, _) = cold(1);
        rig.say(peer(1), claims(runs));
        rig.pass(PAUSE);
        assert_eq!(rig.take_fetches(Source::Edge).len(), 1, "{runs:?}");
    }
    let mut rig = Rig::listening(config());
    rig.neighbour(1, &[]);
    rig.outputs.clear();
    rig.say(peer(1), claims(&[EVERYTHING]));
    rig.say(peer(1), seeks());
    assert!(rig.outputs.is_empty(), "{:?}", rig.outputs);
}

#[test]
fn node_without_an_edge_waits_for_those_who_bring_the_blob() {
    let mut rig = Rig::listening(Config { edge: false, ..config() });
    rig.neighbour(1, &[]);
    rig.want(hash(1), None);
    rig.say(peer(1), claims(&[EVERYTHING]));
    rig.look(hash(1), LookResult::Absent);
    rig.pass(Config::default().claim_ttl - MS);
    assert_eq!(rig.engine.resolutions(), 1);
    rig.pass(MS);
    assert_eq!(rig.engine.resolutions(), 0, "nobody brings it");
}

#[test]
fn lan_that_gives_bytes_late_lets_the_edge_go() {
    let (mut rig, late) = beside_a_holder();
    let lan = rig.take_fetch(Source::Peer(late)).expect("fetched");
    rig.pass(Config::default().first_group_hedge);
    let (edge, _) = take_range(&mut rig);
    rig.tell(Input::Progress { fetch: lan, bytes: GROUP_LEN, groups: 0..1, size: SIZE });
    assert!(rig.take_stop(edge));
    rig.pass(PAUSE);
    assert!(rig.take_fetches(Source::Edge).is_empty(), "the holder is quick now");
}

#[test]
fn holders_that_say_nothing_cost_the_edge_no_more_than_the_hedge() {
    let config = Config { provider_search: true, ..config() };
    let mut rig = Rig::listening(config);
    let silent: Vec<PeerId> = (1..=3).map(|n| rig.small_neighbour(n, &[hash(1)])).collect();
    rig.want(hash(1), None);
    let began = rig.now;
    while !rig.outputs.iter().any(of_edge) && rig.now < began + Duration::from_secs(1) {
        rig.pass(MS);
        if rig.outputs.iter().any(|output| matches!(output, Output::Look { .. })) {
            rig.look(hash(1), LookResult::Absent);
        }
        if let Some(query) = rig.take_search() {
            rig.tell(Input::Providers { query, peers: silent.clone() });
        }
    }
    assert_eq!(take_range(&mut rig).1, 0..FIRST);
    // Nor do those whom the DHT names then: to ask them is one question more.
    let took = rig.now - began;
    assert!(took <= Config::default().hedge_initial + PAUSE + MS, "{took:?}");
}

fn of_edge(output: &Output) -> bool {
    matches!(output, Output::Fetch { source: Source::Edge, .. })
}

#[test]
fn edge_helps_holders_that_are_much_slower_than_it_would_be() {
    let (mut rig, slow) = beside_a_holder();
    let lan = rig.take_fetch(Source::Peer(slow)).expect("fetched");
    // A group every 80 ms, in time for the first one: 0.8 MB/s, 20 s for all.
    for group in 0..5 {
        rig.pass(80 * MS);
        give(&mut rig, lan, group..group + 1);
    }
    let asked = rig.take_fetches(Source::Edge);
    let behind = |groups: &Option<Range<u64>>| groups.as_ref().is_some_and(|run| run.start >= 3);
    assert!(!asked.is_empty() && asked.iter().all(|(_, groups)| behind(groups)), "{asked:?}");
}

#[test]
fn edge_that_helps_slow_holders_is_not_let_go_by_what_they_give() {
    let (mut rig, slow) = beside_a_holder();
    let mut lan = rig.take_fetches(Source::Peer(slow));
    for group in 0..8 {
        rig.pass(80 * MS);
        // From the middle on it is asked for ranges, as the edge brings others.
        lan.extend(rig.take_fetches(Source::Peer(slow)));
        let (fetch, groups) = lan.last().cloned().expect("asked");
        let at = groups.map_or(group, |groups| groups.start + group);
        give(&mut rig, fetch, at..at + 1);
    }
    let asked = rig.take_fetches(Source::Edge);
    assert!(!asked.is_empty() && lan.len() > 1, "{asked:?}, {lan:?}");
    // It gave nothing yet, either.
    assert!(asked.into_iter().all(|(edge, _)| !rig.take_stop(edge)));
}

#[test]
fn edge_that_gives_goes_on_until_holders_have_shown_that_they_are_quick() {
    let (mut rig, late) = beside_a_holder();
    rig.take_fetch(Source::Peer(late)).expect("fetched");
    rig.pass(Config::default().first_group_hedge);
    let (edge, first) = take_range(&mut rig);
    // The list is proven, and the holder is asked for ranges of which nothing is known yet.
    give(&mut rig, edge, first.start..first.start + 1);
    let (_, second) = take_range(&mut rig);
    assert!(second.start >= first.end, "{second:?}");
}

#[test]
fn at_the_end_the_edge_brings_all_that_slow_holders_still_do() {
    let (mut rig, slow) = beside_a_holder();
    rig.take_fetch(Source::Peer(slow)).expect("fetched");
    rig.pass(Config::default().first_group_hedge);
    // It gives nothing more, and the edge a range in 50 ms.
    let (mut brought, mut requests) = (GroupSet::new(GROUPS), 0);
    for _ in 0..100 {
        for (edge, groups) in rig.take_fetches(Source::Edge) {
            rig.pass(50 * MS);
            requests += 1;
            let groups = groups.expect("a range");
            for group in groups.clone() {
                brought.insert(group);
            }
            give(&mut rig, edge, groups);
            rig.end(edge, FetchOutcome::Part);
        }
        if brought.is_full() {
            break;
        }
        rig.pass(10 * MS);
    }
    assert!(brought.is_full(), "{:?}", brought.missing());
    assert!(rig.now < Time::ZERO + 500 * MS && requests <= 6, "{requests} requests, {:?}", rig.now);
}

#[test]
fn edge_stays_out_where_holders_are_quick_enough() {
    let (mut rig, quick) = beside_a_holder();
    let lan = rig.take_fetch(Source::Peer(quick)).expect("fetched");
    // 6.5 MB/s: the edge might be a little quicker, and costs.
    for group in 0..GROUPS - 1 {
        rig.pass(10 * MS);
        give(&mut rig, lan, group..group + 1);
    }
    assert!(rig.take_fetches(Source::Edge).is_empty());
}

#[test]
fn claim_told_in_other_words_lasts_no_longer() {
    let (mut rig, _) = cold(2);
    for n in 0..6 {
        assert!(rig.take_fetches(Source::Edge).is_empty());
        rig.say(peer(1), claims(&[(0, RANGE + n)]));
        rig.pass(Config::default().claim_patience / 6);
    }
    assert_eq!(take_range(&mut rig).1, 0..FIRST);
}

#[test]
fn who_brings_everything_lets_nothing_of_it_go() {
    for n in 1..=200 {
        let mut rig = Rig::of(peer(100), config());
        rig.tell(Input::Settled);
        let other = rig.neighbour(n, &[]);
        rig.get(hash(1));
        rig.pass(PAUSE);
        let (fetch, _) = take_range(&mut rig);
        rig.tell(Input::Unlisted { fetch });
        rig.say(other, claims(&[(0, RANGE)]));
        assert!(!rig.take_stop(fetch), "{n}");
    }
}

#[test]
fn of_two_who_bring_everything_one_lets_go_unless_it_began_long_before() {
    for (waits, lets_go) in [(MS, 1), (Config::default().claim_ttl, 0)] {
        let stopped = |me: u8, other: u8| {
            let mut rig = Rig::of(peer(me), config());
            rig.tell(Input::Settled);
            let other = rig.neighbour(other, &[]);
            rig.get(hash(1));
            rig.pass(PAUSE);
            let (fetch, _) = take_range(&mut rig);
            rig.tell(Input::Unlisted { fetch });
            rig.pass(waits);
            rig.say(other, claims(&[EVERYTHING]));
            usize::from(rig.take_stop(fetch))
        };
        assert_eq!(stopped(1, 2) + stopped(2, 1), lets_go, "after {waits:?}");
    }
}

#[test]
fn who_lets_a_range_go_again_and_again_asks_for_it_after_a_pause() {
    let (mut rig, _) = cold(1);
    rig.pass(PAUSE);
    let goes_first =
        Message::Claims { hash: hash(1), seeks: false, done: 1, runs: vec![(0, FIRST)] };
    let let_go = |rig: &mut Rig| {
        let (fetch, _) = take_range(rig);
        rig.say(peer(1), goes_first.clone());
        assert!(rig.take_stop(fetch), "it is left to whom the edge gave something");
        rig.say(peer(1), claims(&[]));
    };
    for _ in 0..4 {
        let_go(&mut rig);
    }
    let_go(&mut rig);
    assert!(rig.take_fetches(Source::Edge).is_empty(), "five times in a row is a circle");
    rig.pass(PAUSE);
    take_range(&mut rig);
}
