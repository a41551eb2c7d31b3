//! The swarm: one long blob from many peers at once, and what a peer's word about its groups may cause.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests pick out the outputs they are about")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
mod support;

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use blobmesh_protocol::Config;
use blobmesh_protocol::blob::GROUP_LEN;
use blobmesh_protocol::engine::{FetchOutcome, Input, LookResult, Output, Source, WantError};
use blobmesh_protocol::id::{FetchId, PeerId, WantId};
use blobmesh_protocol::wire::message::{AskResult, Message};
use support::{MS, Rig, hash, peer};

/// Eight blocks of 16 groups.
const SIZE: u64 = 8 << 20;
const GROUPS: u64 = SIZE / GROUP_LEN;
const BLOCK: u64 = 16;
const HAVE: AskResult = AskResult::Have { size: SIZE };

/// Is a range that a source was asked for.
#[derive(Clone, Debug)]
struct Asked {
    fetch: FetchId,
    from: PeerId,
    groups: Range<u64>,
}

/// A node without an edge and a DHT, so that all comes from neighbours.
fn lan_only() -> Rig {
    Rig::with(lan_config())
}

/// A node that asks a lone holder for ranges, too: what a swarm of one does is what each of many does.
fn ranges_config() -> Config {
    Config { edge: true, asks_one_for_all: false, ..Config::default() }
}

fn lan_config() -> Config {
    Config { edge: false, provider_search: false, ..ranges_config() }
}

/// Starts a get of a blob that these neighbours hold, and has them say so.
fn get_from(rig: &mut Rig, holders: &[u8]) -> WantId {
    let holders: Vec<PeerId> = holders.iter().map(|n| rig.neighbour(*n, &[hash(1)])).collect();
    let want = rig.get(hash(1));
    for holder in holders {
        rig.answer(holder, hash(1), HAVE);
    }
    want
}

/// Takes the ranges that peers were asked for.
fn take_ranges(rig: &mut Rig) -> Vec<Asked> {
    let mut asked = Vec::new();
    rig.outputs.retain(|output| match output {
        Output::Fetch { fetch, source: Source::Peer(from), groups: Some(groups), .. } => {
            asked.push(Asked { fetch: *fetch, from: *from, groups: groups.clone() });
            false
        }
        _ => true,
    });
    asked
}

fn take_range(rig: &mut Rig) -> Asked {
    let mut asked = take_ranges(rig);
    assert_eq!(asked.len(), 1, "{asked:?}");
    asked.remove(0)
}

/// Has groups of a fetch come.
fn give(rig: &mut Rig, fetch: FetchId, groups: Range<u64>) {
    let bytes = (groups.end - groups.start) * GROUP_LEN;
    rig.tell(Input::Progress { fetch, bytes, groups, size: SIZE });
}

/// Has all of a range come and its fetch end.
fn deliver(rig: &mut Rig, asked: &Asked) {
    give(rig, asked.fetch, asked.groups.clone());
    rig.end(asked.fetch, FetchOutcome::Part);
}

fn groups_message(follows: bool, runs: &[(u64, u64)]) -> Message {
    Message::Groups { hash: hash(1), size: SIZE, follows, runs: runs.to_vec() }
}

/// Takes what a neighbour was told of the groups of the blob: whether we follow, and the runs.
fn take_words(rig: &mut Rig, to: PeerId) -> Vec<(bool, Vec<(u64, u64)>)> {
    let words = rig.take_messages(to).into_iter().filter_map(|message| match message {
        Message::Groups { hash: of, size: SIZE, follows, runs } if of == hash(1) => {
            Some((follows, runs))
        }
        _ => None,
    });
    words.collect()
}

/// Delivers every range at once, each in a time, until none is asked for; returns them all.
fn deliver_all(rig: &mut Rig, took: Duration) -> Vec<Asked> {
    let mut all = Vec::new();
    loop {
        let asked = take_ranges(rig);
        if asked.is_empty() {
            return all;
        }
        rig.pass(took);
        for range in asked {
            deliver(rig, &range);
            all.push(range);
        }
    }
}

/// Asserts that ranges cover the blob, each group once.
fn assert_once_each(ranges: &[Asked]) {
    let mut groups: Vec<u64> = ranges.iter().flat_map(|asked| asked.groups.clone()).collect();
    groups.sort_unstable();
    assert!(groups.into_iter().eq(0..GROUPS), "{ranges:?}");
}

fn ends(rig: &Rig) -> usize {
    rig.outputs.iter().filter(|output| matches!(output, Output::Ended { .. })).count()
}

#[test]
fn lone_holder_is_asked_in_order_and_for_a_second_range_once_it_is_quick() {
    let mut rig = lan_only();
    get_from(&mut rig, &[1]);
    let first = take_range(&mut rig);
    assert_eq!(first.groups, 0..BLOCK);
    give(&mut rig, first.fetch, 0..1);
    assert!(take_ranges(&mut rig).is_empty(), "nothing is known of its rate");
    rig.pass(50 * MS);
    give(&mut rig, first.fetch, 1..BLOCK);
    rig.end(first.fetch, FetchOutcome::Part);
    let next = take_ranges(&mut rig);
    let ranges: Vec<Range<u64>> = next.into_iter().map(|asked| asked.groups).collect();
    assert_eq!(ranges, [BLOCK..3 * BLOCK, 3 * BLOCK..5 * BLOCK]);
}

#[test]
fn slow_holder_has_one_range_at_a_time() {
    let mut rig = lan_only();
    get_from(&mut rig, &[1]);
    let first = take_range(&mut rig);
    rig.pass(400 * MS);
    deliver(&mut rig, &first);
    assert_eq!(take_range(&mut rig).groups, BLOCK..2 * BLOCK);
}

#[test]
fn holders_share_the_blocks_without_overlap() {
    let mut rig = lan_only();
    get_from(&mut rig, &[1, 2, 3]);
    let ranges = deliver_all(&mut rig, 10 * MS);
    assert_once_each(&ranges);
    for n in [1, 2, 3] {
        assert!(ranges.iter().any(|asked| asked.from == peer(n)), "{ranges:?}");
    }
}

#[test]
fn until_a_first_group_has_proven_the_size_one_holder_is_asked() {
    let mut rig = lan_only();
    get_from(&mut rig, &[1, 2]);
    let first = take_range(&mut rig);
    give(&mut rig, first.fetch, 0..1);
    assert_eq!(take_range(&mut rig).from, peer(2));
}

#[test]
fn partner_is_answered_and_asked_for_what_the_holder_then_need_not_give() {
    let mut rig = lan_only();
    get_from(&mut rig, &[1]);
    let partner = rig.silent_neighbour(9);
    assert_eq!(take_words(&mut rig, partner), [(false, vec![])], "it is told of the get");
    let first = take_range(&mut rig);
    give(&mut rig, first.fetch, 0..1);
    rig.say(partner, groups_message(true, &[(4 * BLOCK, BLOCK)]));
    assert_eq!(take_words(&mut rig, partner).last(), Some(&(true, vec![])), "it is followed");
    let asked = take_range(&mut rig);
    assert_eq!((asked.from, asked.groups.clone()), (partner, 4 * BLOCK..5 * BLOCK));
    deliver(&mut rig, &asked);
    deliver(&mut rig, &first);
    let mut all = deliver_all(&mut rig, 10 * MS);
    // What belongs to the partner is taken from the holder after a while.
    for _ in 0..100 {
        rig.pass(50 * MS);
        all.extend(deliver_all(&mut rig, 10 * MS));
    }
    all.extend([first, asked]);
    assert_once_each(&all);
}

#[test]
fn block_of_a_partner_is_left_to_it_and_taken_after_patience() {
    let mut rig = lan_only();
    get_from(&mut rig, &[1]);
    let partner = rig.silent_neighbour(9);
    rig.say(partner, groups_message(false, &[]));
    let own = deliver_all(&mut rig, 10 * MS);
    let taken: u64 = own.iter().map(|asked| asked.groups.end - asked.groups.start).sum();
    assert!(taken > 0 && taken < GROUPS, "some are the partner's: {own:?}");
    rig.pass(100 * MS);
    assert!(take_ranges(&mut rig).is_empty(), "it is waited for");
    rig.pass(100 * MS);
    assert!(!take_ranges(&mut rig).is_empty(), "and not for ever");
}

/// Starts a get from a holder and a partner that has one block; returns the holder's first range, which has
/// proven the size, and that of the partner.
fn range_of_a_partner(rig: &mut Rig) -> (PeerId, Asked, Asked) {
    get_from(rig, &[1]);
    let partner = rig.silent_neighbour(9);
    rig.say(partner, groups_message(true, &[(GROUPS - BLOCK, BLOCK)]));
    let first = take_range(rig);
    give(rig, first.fetch, 0..1);
    let from_partner = take_ranges(rig).into_iter().find(|asked| asked.from == partner);
    (partner, first, from_partner.expect("a range of the partner"))
}

#[test]
fn blocks_of_a_partner_that_ended_amid_a_range_are_not_waited_for() {
    let mut rig = lan_only();
    let (partner, first, its) = range_of_a_partner(&mut rig);
    // The connection goes before the range is known to have failed.
    rig.tell(Input::Disconnected { peer: partner });
    rig.end(its.fetch, FetchOutcome::Failed { detail: "reset".to_owned() });
    give(&mut rig, first.fetch, 1..BLOCK);
    rig.end(first.fetch, FetchOutcome::Part);
    let mut all = vec![first];
    all.extend(deliver_all(&mut rig, 10 * MS));
    assert_once_each(&all);
    assert!(all.iter().all(|asked| asked.from == peer(1)), "{all:?}");
}

#[test]
fn partner_that_ended_amid_a_range_is_asked_again_once_it_is_back() {
    let mut rig = lan_only();
    let (partner, _first, mut its) = range_of_a_partner(&mut rig);
    for _ in 0..Config::default().attempts_max {
        rig.tell(Input::Disconnected { peer: partner });
        rig.end(its.fetch, FetchOutcome::Failed { detail: "reset".to_owned() });
        rig.pass(Config::default().backoff_initial);
        assert!(take_ranges(&mut rig).iter().all(|asked| asked.from != partner));
        assert_eq!(rig.silent_neighbour(9), partner);
        rig.say(partner, groups_message(true, &[(GROUPS - BLOCK, BLOCK)]));
        let again = take_ranges(&mut rig).into_iter().find(|asked| asked.from == partner);
        its = again.expect("it is asked again");
    }
}

#[test]
fn blocks_of_a_partner_that_is_given_up_are_not_waited_for() {
    let mut rig = lan_only();
    let (partner, first, its) = range_of_a_partner(&mut rig);
    rig.end(its.fetch, FetchOutcome::Misbehaved { detail: "an end".to_owned() });
    give(&mut rig, first.fetch, 1..BLOCK);
    rig.end(first.fetch, FetchOutcome::Part);
    let mut all = vec![first];
    all.extend(deliver_all(&mut rig, 10 * MS));
    assert_once_each(&all);
    assert!(all.iter().all(|asked| asked.from != partner), "{all:?}");
}

#[test]
fn range_of_a_member_that_fails_goes_to_another_once() {
    let outcomes = [
        FetchOutcome::Failed { detail: "cut".to_owned() },
        FetchOutcome::Busy { retry_after: Duration::from_secs(5) },
        FetchOutcome::Absent,
        FetchOutcome::WrongBytes { detail: "group 3".to_owned() },
        FetchOutcome::Misbehaved { detail: "an end".to_owned() },
        FetchOutcome::Refused { detail: "no".to_owned() },
    ];
    for outcome in outcomes {
        let mut rig = lan_only();
        get_from(&mut rig, &[1, 2]);
        let first = take_range(&mut rig);
        give(&mut rig, first.fetch, 0..1);
        let failing = take_range(&mut rig);
        rig.end(failing.fetch, outcome);
        rig.pass(10 * MS);
        give(&mut rig, first.fetch, 1..BLOCK);
        rig.end(first.fetch, FetchOutcome::Part);
        let mut all = vec![first];
        all.extend(deliver_all(&mut rig, 10 * MS));
        assert_once_each(&all);
    }
}

#[test]
fn range_of_a_member_that_stalls_goes_to_another_once() {
    let mut rig = lan_only();
    get_from(&mut rig, &[1, 2]);
    let first = take_range(&mut rig);
    give(&mut rig, first.fetch, 0..1);
    let stalled = take_range(&mut rig);
    for _ in 0..4 {
        rig.pass(Config::default().stall_timeout / 4);
        rig.tell(Input::Progress { fetch: first.fetch, bytes: 0, groups: 0..0, size: SIZE });
    }
    assert!(rig.take_stop(stalled.fetch));
    give(&mut rig, first.fetch, 1..BLOCK);
    rig.end(first.fetch, FetchOutcome::Part);
    let mut all = vec![first];
    loop {
        let asked: Vec<Asked> = take_ranges(&mut rig);
        if asked.is_empty() {
            break;
        }
        asked.iter().for_each(|range| deliver(&mut rig, range));
        all.extend(asked);
    }
    assert_once_each(&all);
}

#[test]
fn last_range_of_a_slow_member_is_doubled_and_the_loser_stopped() {
    let mut rig = lan_only();
    let want = get_from(&mut rig, &[1, 2]);
    let slow = take_range(&mut rig);
    give(&mut rig, slow.fetch, 0..1);
    let others = deliver_all(&mut rig, 10 * MS);
    assert!(others.iter().all(|asked| asked.from == peer(2)), "{others:?}");
    give(&mut rig, slow.fetch, 1..2);
    rig.pass(200 * MS);
    let double = take_range(&mut rig);
    assert_eq!((double.from, double.groups.clone()), (peer(2), 2..BLOCK), "what is missing of it");
    give(&mut rig, double.fetch, double.groups.clone());
    assert!(rig.take_stop(slow.fetch));
    rig.end(double.fetch, FetchOutcome::Complete { size: SIZE });
    assert_eq!(rig.take_end(want).expect("ended").0, Ok(()));
}

#[test]
fn fetch_of_everything_goes_on_in_ranges_once_its_first_group_tells_the_size() {
    let mut rig = Rig::with(Config { edge: false, ..ranges_config() });
    rig.get(hash(1));
    let query = rig.take_search().expect("nobody is near");
    rig.tell(Input::Providers { query, peers: vec![peer(5)] });
    let whole = rig.take_fetch(Source::Peer(peer(5))).expect("everything");
    give(&mut rig, whole, 0..1);
    assert!(rig.take_stop(whole));
    let next = take_range(&mut rig);
    assert_eq!((next.from, next.groups), (peer(5), 1..BLOCK));
}

#[test]
fn fetch_of_everything_of_a_short_blob_stays_one() {
    let mut rig = Rig::with(Config { edge: false, ..ranges_config() });
    rig.get(hash(1));
    let query = rig.take_search().expect("nobody is near");
    rig.tell(Input::Providers { query, peers: vec![peer(5)] });
    let whole = rig.take_fetch(Source::Peer(peer(5))).expect("everything");
    let size = Config::default().swarm_bytes_min - 1;
    rig.tell(Input::Progress { fetch: whole, bytes: GROUP_LEN, groups: 0..1, size });
    assert!(!rig.take_stop(whole));
    assert!(take_ranges(&mut rig).is_empty());
}

#[test]
fn partial_blob_is_continued_with_what_is_missing() {
    let mut rig = lan_only();
    let holder = rig.neighbour(1, &[hash(1)]);
    rig.want(hash(1), None);
    let look = rig.take_look(hash(1));
    let mut groups = blobmesh_protocol::blob::GroupSet::new(GROUPS);
    (0..GROUPS - 3).for_each(|group| {
        groups.insert(group);
    });
    let held = (GROUPS - 3) * GROUP_LEN;
    rig.tell(Input::Looked { look, result: LookResult::Part { size: SIZE, held, groups } });
    rig.answer(holder, hash(1), HAVE);
    assert_eq!(take_range(&mut rig).groups, GROUPS - 3..GROUPS);
}

#[test]
fn followers_are_told_of_new_blocks_and_nobody_else() {
    let mut rig = lan_only();
    get_from(&mut rig, &[1]);
    let (follower, other) = (rig.silent_neighbour(8), rig.silent_neighbour(9));
    rig.say(follower, groups_message(true, &[]));
    rig.say(other, groups_message(false, &[]));
    for peer in [follower, other] {
        take_words(&mut rig, peer);
    }
    let asked = take_range(&mut rig);
    deliver(&mut rig, &asked);
    rig.pass(50 * MS);
    let run = (asked.groups.start, BLOCK);
    assert_eq!(take_words(&mut rig, follower), [(true, vec![run])]);
    assert_eq!(take_words(&mut rig, other), []);
    rig.pass(50 * MS);
    assert_eq!(take_words(&mut rig, follower), [], "no news");
    rig.say(follower, groups_message(false, &[]));
    deliver_all(&mut rig, 10 * MS);
    rig.pass(50 * MS);
    assert_eq!(take_words(&mut rig, follower), [], "it follows no more");
}

#[test]
fn node_that_shares_no_parts_says_nothing_and_still_takes() {
    let mut rig = Rig::with(Config { shares_parts: false, ..lan_config() });
    get_from(&mut rig, &[1]);
    let partner = rig.silent_neighbour(9);
    let first = take_range(&mut rig);
    deliver(&mut rig, &first);
    rig.say(partner, groups_message(true, &[(4 * BLOCK, BLOCK)]));
    rig.pass(Duration::from_secs(5));
    assert_eq!(take_words(&mut rig, partner), []);
    assert_eq!(take_words(&mut rig, peer(1)), []);
    assert!(take_ranges(&mut rig).iter().any(|asked| asked.from == partner));
}

#[test]
fn partner_that_falls_silent_is_let_go() {
    let mut rig = lan_only();
    get_from(&mut rig, &[1]);
    let partner = rig.silent_neighbour(9);
    rig.say(partner, groups_message(false, &[]));
    let first = take_range(&mut rig);
    take_words(&mut rig, partner);
    for _ in 0..5 {
        rig.pass(Duration::from_secs(1));
        rig.tell(Input::Progress { fetch: first.fetch, bytes: 0, groups: 0..0, size: SIZE });
    }
    assert_eq!(
        take_words(&mut rig, partner).last(),
        Some(&(false, vec![])),
        "in the next greeting"
    );
}

#[test]
fn follower_that_told_of_a_block_is_not_told_of_it() {
    let mut rig = lan_only();
    get_from(&mut rig, &[1]);
    let first = take_range(&mut rig);
    let run = (first.groups.start, BLOCK);
    let (knows, lacks) = (rig.silent_neighbour(8), rig.silent_neighbour(9));
    rig.say(knows, groups_message(true, &[run]));
    rig.say(lacks, groups_message(true, &[]));
    for peer in [knows, lacks] {
        take_words(&mut rig, peer);
    }
    deliver(&mut rig, &first);
    rig.pass(50 * MS);
    assert_eq!(take_words(&mut rig, lacks), [(true, vec![run])]);
    assert_eq!(take_words(&mut rig, knows), []);
}

#[test]
fn partner_that_told_of_blocks_and_rests_is_followed_still() {
    let mut rig = lan_only();
    get_from(&mut rig, &[1]);
    let partner = rig.silent_neighbour(9);
    let first = take_range(&mut rig);
    deliver(&mut rig, &first);
    // It has what is here already, and says no more for a while.
    rig.say(partner, groups_message(true, &[(first.groups.start, BLOCK)]));
    let held: Vec<Asked> = take_ranges(&mut rig);
    take_words(&mut rig, partner);
    for _ in 0..5 {
        rig.pass(Duration::from_secs(1));
        for asked in &held {
            let (fetch, groups) = (asked.fetch, 0..0);
            rig.tell(Input::Progress { fetch, bytes: 0, groups, size: SIZE });
        }
    }
    let follows = take_words(&mut rig, partner).last().map(|(follows, _)| *follows);
    assert_eq!(follows, Some(true), "in the next greeting");
    // What it tells then adds to what is known of it, and needs no answer.
    rig.say(partner, groups_message(true, &[(6 * BLOCK, BLOCK)]));
    assert_eq!(take_words(&mut rig, partner), []);
    assert!(take_ranges(&mut rig).iter().any(|asked| asked.from == partner));
}

#[test]
fn long_get_tells_its_neighbours_ever_more_seldom_and_soon_when_another_begins() {
    let mut rig = lan_only();
    let (partner, late) = (rig.silent_neighbour(9), rig.silent_neighbour(8));
    rig.get(hash(1));
    rig.say(partner, groups_message(false, &[(0, BLOCK)]));
    let range = take_range(&mut rig);
    let mut told = Vec::new();
    for second in 0..600_u64 {
        rig.pass(Duration::from_secs(1));
        rig.tell(Input::Progress { fetch: range.fetch, bytes: 0, groups: 0..0, size: SIZE });
        if second % 5 == 0 {
            rig.say(partner, groups_message(false, &[]));
        }
        told.extend(take_words(&mut rig, partner).iter().map(|_| second));
    }
    let gaps: Vec<u64> = told.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() < 30 && gaps.iter().all(|gap| *gap <= 160), "{told:?}");
    assert!(gaps.iter().any(|gap| *gap >= 60), "{told:?}");
    take_words(&mut rig, late);
    rig.say(late, groups_message(false, &[]));
    take_words(&mut rig, late);
    rig.pass(Duration::from_secs(5));
    assert!(!take_words(&mut rig, late).is_empty(), "it hears within the first interval");
}

#[test]
fn swarm_with_nothing_on_its_way_sleeps() {
    let mut rig = lan_only();
    let partner = rig.silent_neighbour(9);
    rig.get(hash(1));
    rig.say(partner, groups_message(true, &[(0, BLOCK)]));
    let range = take_range(&mut rig);
    rig.pass(Duration::from_secs(1));
    let (mut wakes, end) = (0, rig.now + Duration::from_secs(1));
    while let Some((at, why)) = rig.engine.poll_timeout().filter(|(at, _)| *at < end) {
        wakes += u32::from(why.contains("swarm"));
        rig.pass(at - rig.now);
        rig.tell(Input::Progress { fetch: range.fetch, bytes: 0, groups: 0..0, size: SIZE });
    }
    assert!(wakes <= 2, "{wakes} looks in a second");
}

#[test]
fn get_that_only_partners_knew_of_ends_once_they_have_nothing() {
    let mut rig = lan_only();
    let partner = rig.silent_neighbour(9);
    let want = rig.get(hash(1));
    // It is asked, and has not got it.
    rig.answer(partner, hash(1), AskResult::Absent);
    assert_eq!(rig.take_end(want).expect("nobody has it").0, Err(WantError::NotFound));
}

#[test]
fn whatever_becomes_of_the_ranges_a_get_ends_once() {
    for seed in 0..300_u64 {
        let mut rig = lan_only();
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut roll = move |sides: u64| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            dice % sides
        };
        get_from(&mut rig, &[1, 2, 3]);
        let partner = rig.silent_neighbour(9);
        let mut out: Vec<Asked> = Vec::new();
        for _ in 0..400 {
            out.extend(take_ranges(&mut rig));
            rig.outputs.retain(|output| match output {
                Output::StopFetch { fetch } => {
                    out.retain(|asked| asked.fetch != *fetch);
                    false
                }
                _ => true,
            });
            if ends(&rig) > 0 {
                break;
            }
            rig.pass(Duration::from_millis(roll(200)));
            if roll(8) == 0 {
                rig.say(partner, groups_message(roll(2) == 0, &[(roll(GROUPS), roll(40))]));
            }
            if out.is_empty() {
                continue;
            }
            let place = usize::try_from(roll(out.len() as u64)).expect("small");
            let asked = out[place].clone();
            let outcome = match roll(12) {
                0 => FetchOutcome::Failed { detail: String::new() },
                1 => FetchOutcome::Busy { retry_after: 100 * MS },
                2 => FetchOutcome::Absent,
                3 => FetchOutcome::WrongBytes { detail: String::new() },
                4..8 => {
                    give(&mut rig, asked.fetch, asked.groups.start..asked.groups.start + 1);
                    continue;
                }
                _ => {
                    give(&mut rig, asked.fetch, asked.groups.clone());
                    FetchOutcome::Part
                }
            };
            out.remove(place);
            rig.end(asked.fetch, outcome);
        }
        rig.pass(Duration::from_secs(300));
        assert_eq!(ends(&rig), 1, "seed {seed}");
        assert_eq!(rig.engine.resolutions(), 0, "seed {seed}");
    }
}

#[test]
fn word_about_groups_that_makes_no_sense_changes_nothing() {
    let of = |size, runs: &[(u64, u64)]| Message::Groups {
        hash: hash(1),
        size,
        follows: true,
        runs: runs.to_vec(),
    };
    let words = [
        ("another size", of(SIZE + 1, &[(64, 16)])),
        ("no bytes", of(0, &[(64, 16)])),
        ("beyond the bound of blobs", of(u64::MAX, &[(64, 16)])),
        ("past the end", of(SIZE, &[(GROUPS - 16, 17)])),
        ("far past the end", of(SIZE, &[(u64::MAX, u64::MAX)])),
        ("an empty run", of(SIZE, &[(64, 0)])),
        ("overlapping", of(SIZE, &[(64, 32), (80, 32)])),
        ("falling", of(SIZE, &[(96, 16), (64, 16)])),
        ("too many", of(SIZE, &vec![(0, 1); 2_000])),
        ("all, a thousand times", of(SIZE, &vec![(0, GROUPS); 1_000])),
    ];
    for (what, word) in words {
        let mut rig = lan_only();
        get_from(&mut rig, &[1]);
        let liar = rig.silent_neighbour(9);
        let first = take_range(&mut rig);
        give(&mut rig, first.fetch, 0..1);
        rig.say(liar, word);
        assert!(take_ranges(&mut rig).is_empty(), "{what}");
        rig.pass(10 * MS);
        give(&mut rig, first.fetch, 1..BLOCK);
        rig.end(first.fetch, FetchOutcome::Part);
        let mut all = vec![first];
        all.extend(deliver_all(&mut rig, 10 * MS));
        assert_once_each(&all);
    }
}

#[test]
fn word_about_a_blob_that_nobody_wants_is_ignored() {
    let mut rig = lan_only();
    let peer = rig.silent_neighbour(9);
    take_words(&mut rig, peer);
    let before = rig.outputs.len();
    rig.say(peer, groups_message(true, &[(0, GROUPS)]));
    assert_eq!(rig.outputs.len(), before);
    assert_eq!(rig.engine.resolutions(), 0);
}

#[test]
fn stranger_that_never_greeted_is_dropped_for_its_word() {
    let mut rig = lan_only();
    get_from(&mut rig, &[1]);
    let first = take_range(&mut rig);
    give(&mut rig, first.fetch, 0..1);
    rig.tell(Input::Connected { peer: peer(9) });
    rig.say(peer(9), groups_message(true, &[(0, GROUPS)]));
    assert!(rig.take_drop(peer(9)).is_some());
    assert!(take_ranges(&mut rig).is_empty());
}

#[test]
fn partners_are_no_more_than_the_bound_and_a_thousand_words_are_one_answer() {
    let mut rig = Rig::with(Config { partners_max: 3, ..lan_config() });
    get_from(&mut rig, &[1]);
    let first = take_range(&mut rig);
    give(&mut rig, first.fetch, 0..1);
    let peers: Vec<PeerId> = (10..30).map(|n| rig.silent_neighbour(n)).collect();
    let mut asked = BTreeSet::new();
    let mut answers = 0;
    for _ in 0..1_000 {
        for peer in &peers {
            rig.say(*peer, groups_message(true, &[(0, GROUPS)]));
            answers += take_words(&mut rig, *peer).len();
        }
        asked.extend(take_ranges(&mut rig).into_iter().map(|asked| asked.from));
    }
    assert!(answers <= 3 * peers.len(), "{answers} answers");
    assert!(asked.len() <= peers.len(), "{asked:?}");
    let mut following = BTreeSet::new();
    peers.iter().for_each(|peer| drop(take_words(&mut rig, *peer)));
    for _ in 0..5 {
        rig.pass(Duration::from_secs(1));
        rig.tell(Input::Progress { fetch: first.fetch, bytes: 0, groups: 0..0, size: SIZE });
        for peer in &peers {
            if take_words(&mut rig, *peer).iter().any(|(follows, _)| *follows) {
                following.insert(*peer);
            }
        }
    }
    assert!(following.len() <= 3, "{following:?}");
}

#[test]
fn partner_that_was_let_go_amid_a_range_does_not_come_back_as_a_holder() {
    let mut rig = Rig::with(Config { partners_max: 1, ..lan_config() });
    get_from(&mut rig, &[1]);
    let first = take_range(&mut rig);
    give(&mut rig, first.fetch, 0..1);
    let word = groups_message(false, &[(64, BLOCK)]);
    for n in 10..40 {
        let partner = rig.silent_neighbour(n);
        rig.say(partner, word.clone());
    }
    for asked in take_ranges(&mut rig) {
        rig.end(asked.fetch, FetchOutcome::Failed { detail: "cut".to_owned() });
    }
    rig.pass(Duration::from_secs(1));
    let again: BTreeSet<PeerId> = take_ranges(&mut rig).iter().map(|asked| asked.from).collect();
    assert!(again.len() <= 1, "{again:?}");
}

#[test]
fn groups_that_came_behind_a_stopped_fetch_are_known_once_their_range_is_stored() {
    let mut rig = lan_only();
    get_from(&mut rig, &[1]);
    let first = take_range(&mut rig);
    rig.pass(90 * MS);
    deliver(&mut rig, &first);
    let stalled = take_ranges(&mut rig);
    rig.pass(Config::default().stall_timeout);
    assert!(stalled.iter().all(|asked| rig.take_stop(asked.fetch)));
    rig.pass(Duration::from_secs(1));
    // What had come is in the store: nothing of it comes again, and it is nobody's fault.
    for asked in take_ranges(&mut rig) {
        rig.end(asked.fetch, FetchOutcome::Part);
    }
    let rest = deliver_all(&mut rig, 10 * MS);
    assert!(rest.iter().all(|asked| asked.groups.start >= 3 * BLOCK), "{rest:?}");
    assert_eq!(rest.last().map(|asked| asked.groups.end), Some(GROUPS));
}

#[test]
fn length_that_a_liar_told_is_corrected_by_a_holder_or_the_first_group() {
    for before in [true, false] {
        let mut rig = lan_only();
        let (holder, liar) = (rig.neighbour(1, &[hash(1)]), rig.silent_neighbour(9));
        rig.get(hash(1));
        let lie = Message::Groups { hash: hash(1), size: SIZE * 8, follows: true, runs: vec![] };
        if before {
            rig.say(liar, lie);
            rig.answer(holder, hash(1), HAVE);
        } else {
            rig.answer(holder, hash(1), AskResult::Have { size: SIZE * 8 });
            let first = take_range(&mut rig);
            give(&mut rig, first.fetch, 0..1);
            assert!(rig.take_stop(first.fetch));
        }
        let mut all = deliver_all(&mut rig, 10 * MS);
        if !before {
            assert_eq!(all[0].groups.start, 1);
            all[0].groups.start = 0;
        }
        assert_once_each(&all);
    }
}

#[test]
fn blob_that_turns_out_short_is_fetched_as_one() {
    let mut rig = lan_only();
    get_from(&mut rig, &[1]);
    let first = take_range(&mut rig);
    let size = Config::default().swarm_bytes_min - 1;
    rig.tell(Input::Progress { fetch: first.fetch, bytes: GROUP_LEN, groups: 0..1, size });
    assert!(rig.take_stop(first.fetch));
    assert!(rig.take_fetch(Source::Peer(peer(1))).is_some());
}

#[test]
fn hash_that_waits_for_a_peer_gets_its_turn_when_a_doubled_range_is_stopped() {
    let mut rig = Rig::with(Config { fetches_per_peer_max: 1, ..lan_config() });
    get_from(&mut rig, &[1, 2]);
    let slow = take_range(&mut rig);
    give(&mut rig, slow.fetch, 0..1);
    let mut double = None;
    while double.is_none() {
        for asked in take_ranges(&mut rig) {
            if asked.groups.start < BLOCK {
                double = Some(asked);
            } else {
                deliver(&mut rig, &asked);
            }
        }
        rig.pass(100 * MS);
        give(&mut rig, slow.fetch, 1..2);
    }
    // Another blob, which only the slow one holds.
    rig.neighbour(1, &[hash(1), hash(2)]);
    rig.get(hash(2));
    rig.answer(peer(1), hash(2), AskResult::Have { size: 1_000 });
    assert!(rig.take_fetch(Source::Peer(peer(1))).is_none(), "no room");
    let double = double.expect("doubled");
    give(&mut rig, double.fetch, double.groups.clone());
    assert!(rig.take_stop(slow.fetch));
    assert!(rig.take_fetch(Source::Peer(peer(1))).is_some(), "its turn");
}

#[test]
fn partners_that_lack_the_same_do_not_keep_each_other_waiting() {
    let mut rig = lan_only();
    let want = get_from(&mut rig, &[1]);
    let first = take_range(&mut rig);
    deliver(&mut rig, &first);
    let partners: Vec<PeerId> = (10..14).map(|n| rig.silent_neighbour(n)).collect();
    rig.say(partners[3], groups_message(true, &[]));
    for asked in take_ranges(&mut rig) {
        rig.end(asked.fetch, FetchOutcome::Absent);
    }
    assert!(rig.take_end(want).is_none(), "a partner may have more");
    for round in 0..20 {
        let partner = partners[round % partners.len()];
        rig.say(partner, groups_message(true, &[(first.groups.start, BLOCK)]));
        rig.pass(Duration::from_secs(1));
    }
    assert!(rig.take_end(want).is_some(), "nobody has anything new");
}

#[test]
fn ranges_that_stall_together_are_one_failure() {
    let mut rig = lan_only();
    get_from(&mut rig, &[1]);
    let first = take_range(&mut rig);
    deliver(&mut rig, &first);
    for _ in 0..2 {
        let stalled = take_ranges(&mut rig);
        assert!(stalled.len() > 1, "{stalled:?}");
        rig.pass(Config::default().stall_timeout);
        assert!(stalled.iter().all(|asked| rig.take_stop(asked.fetch)));
        rig.pass(Duration::from_secs(1));
    }
    assert!(!take_ranges(&mut rig).is_empty(), "a third attempt");
}

#[test]
fn late_range_of_one_member_does_not_start_the_edge_beside_others() {
    let mut rig = Rig::with(ranges_config());
    get_from(&mut rig, &[1, 2]);
    let first = take_range(&mut rig);
    give(&mut rig, first.fetch, 0..1);
    let late = take_range(&mut rig);
    for group in 1..15 {
        rig.pass(10 * MS);
        give(&mut rig, first.fetch, group..group + 1);
    }
    assert!(!rig.take_stop(late.fetch));
    assert!(rig.take_fetch(Source::Edge).is_none());
}

#[test]
fn edge_does_not_wait_for_a_lone_holder_that_is_busy() {
    let mut rig = Rig::with(ranges_config());
    get_from(&mut rig, &[1]);
    let first = take_range(&mut rig);
    rig.end(first.fetch, FetchOutcome::Busy { retry_after: Duration::from_secs(5) });
    rig.pass(Duration::from_secs(1));
    assert!(rig.take_fetch(Source::Edge).is_some());
}

#[test]
fn ended_range_leaves_no_timer() {
    let mut rig = lan_only();
    get_from(&mut rig, &[1]);
    let first = take_range(&mut rig);
    let partner = rig.silent_neighbour(9);
    rig.say(partner, groups_message(false, &[]));
    give(&mut rig, first.fetch, 0..1);
    rig.end(first.fetch, FetchOutcome::Absent);
    let end = rig.now + Duration::from_secs(2);
    while let Some((at, why)) = rig.engine.poll_timeout().filter(|(at, _)| *at < end) {
        assert!(!why.contains("fetch") && !why.contains("first group"), "{why}");
        rig.pass(at - rig.now);
    }
}

#[test]
fn blocks_of_a_partner_that_left_are_fetched_at_once() {
    let mut rig = lan_only();
    get_from(&mut rig, &[1]);
    let partner = rig.silent_neighbour(9);
    rig.say(partner, groups_message(false, &[]));
    let mut all = deliver_all(&mut rig, 10 * MS);
    rig.tell(Input::Disconnected { peer: partner });
    rig.pass(50 * MS);
    all.extend(deliver_all(&mut rig, 10 * MS));
    assert_once_each(&all);
}

#[test]
fn lone_holder_is_asked_for_everything_until_somebody_else_holds_or_fetches_it() {
    for fetches in [false, true] {
        let lone = Config { asks_one_for_all: true, ..lan_config() };
        let mut rig = Rig::with(lone);
        let holder = rig.neighbour(1, &[hash(1)]);
        let other = rig.neighbour(2, &[]);
        let want = rig.get(hash(1));
        rig.answer(holder, hash(1), HAVE);
        assert_eq!(take_ranges(&mut rig).len(), 0, "all of it is asked for");
        let whole = rig.take_fetch(Source::Peer(holder)).expect("one fetch of everything");
        give(&mut rig, whole, 0..16);
        assert!(!rig.take_stop(whole));
        let runs: &[(u64, u64)] = if fetches { &[] } else { &[(32, 32)] };
        rig.say(other, groups_message(false, runs));
        assert!(rig.take_stop(whole), "it goes on in ranges");
        assert!(!take_ranges(&mut rig).is_empty());
        assert_eq!(rig.take_end(want), None);
    }
}

#[test]
fn room_of_a_fetch_that_goes_on_in_ranges_is_for_who_waits_for_it() {
    let one = Config { asks_one_for_all: true, fetches_per_peer_max: 1, ..lan_config() };
    let mut rig = Rig::with(one);
    let holder = rig.neighbour(9, &[hash(1), hash(2)]);
    let partner = rig.silent_neighbour(1);
    for n in [1, 2] {
        rig.get(hash(n));
        rig.answer(holder, hash(n), HAVE);
    }
    let whole = rig.take_fetch(Source::Peer(holder)).expect("a fetch of everything");
    assert_eq!(rig.take_fetch(Source::Peer(holder)), None, "the second waits for room");
    give(&mut rig, whole, 0..GROUPS - BLOCK);
    rig.say(partner, groups_message(true, &[(GROUPS - BLOCK, BLOCK)]));
    assert!(rig.take_stop(whole), "it goes on in ranges");
    assert_eq!(take_range(&mut rig).from, partner, "of which none is the holder's");
    assert!(rig.take_fetch(Source::Peer(holder)).is_some(), "the second has its room");
}

#[test]
fn end_that_failed_after_all_came_is_told_by_another() {
    let mut rig = lan_only();
    let want = get_from(&mut rig, &[1, 2]);
    let first = take_range(&mut rig);
    give(&mut rig, first.fetch, 0..1);
    let second = take_range(&mut rig);
    give(&mut rig, second.fetch, 0..GROUPS);
    let ends = [first, second].map(|asked| asked.fetch);
    for fetch in ends {
        if !rig.take_stop(fetch) {
            rig.end(fetch, FetchOutcome::Failed { detail: "cut".to_owned() });
        }
    }
    assert_eq!(rig.take_end(want), None, "nobody has said that the blob is whole");
    let again = take_range(&mut rig);
    assert_eq!(again.groups, GROUPS - 1..GROUPS);
    rig.pass(10 * MS);
    assert!(take_ranges(&mut rig).is_empty(), "once is enough");
    rig.end(again.fetch, FetchOutcome::Complete { size: SIZE });
    assert_eq!(rig.take_end(want).expect("ended").0, Ok(()));
}
