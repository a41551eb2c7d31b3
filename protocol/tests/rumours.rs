//! Claims of those who are no neighbours: who hears of them, and what one may cause.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests pick out the outputs they are about")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
mod support;

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use blobmesh_protocol::Config;
use blobmesh_protocol::blob::{GROUP_LEN, GroupSet};
use blobmesh_protocol::engine::{Input, LookResult, Output};
use blobmesh_protocol::id::PeerId;
use blobmesh_protocol::wire::message::Message;
use support::{MS, Rig, hash, peer};

const SIZE: u64 = 256 << 20;
const GROUPS: u64 = SIZE / GROUP_LEN;
const RANGE: u64 = 64;
/// Places for neighbours; all of them are taken unless a test says otherwise.
const PLACES: u8 = 8;
/// Others that each node chooses to tell; those who chose it hear of it, too.
const CHOSEN: usize = 3;
/// So many words go to some others, too, and to how many.
const EARLY_WORDS: u64 = 8;
const EARLY: usize = CHOSEN + 4;
/// Ranges that a crowd brings at once.
const CROWD_RANGES: u64 = 32;
/// How long a node lets others begin, and how long a crowd is believed that brings nothing.
const TURN: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(3);
/// After this time who told of what did not come is not believed any more.
const RUMOUR_PATIENCE: Duration = Duration::from_secs(20);
/// For so long after it sought a node takes those who tell it something to answer that.
const ECHO: Duration = Duration::from_millis(500);
/// For so long after its last word a neighbour is thought to want the blob still.
const SEEKER_TTL: Duration = Duration::from_secs(30);
/// Peers that are no neighbours.
const STRANGER: u8 = 99;
const OTHER: u8 = 98;

fn config() -> Config {
    Config {
        edge: true,
        provider_search: false,
        edge_pause: Duration::ZERO,
        neighbours_max: usize::from(PLACES),
        ..Config::default()
    }
}

fn groups(runs: &[(u64, u64)]) -> Message {
    Message::Groups { hash: hash(1), size: SIZE, follows: true, runs: runs.to_vec() }
}

fn rumour(owner: u8, first: u64, len: u64) -> Message {
    Message::Rumour { hash: hash(1), owner: peer(owner), done: 0, run: (first, len) }
}

fn claims(runs: &[(u64, u64)]) -> Message {
    Message::Claims { hash: hash(1), seeks: false, done: 0, runs: runs.to_vec() }
}

/// A node that holds the first block and so the list, among so many neighbours that fetch the blob too.
fn among(neighbours: u8) -> Rig {
    let mut rig = Rig::listening(config());
    for n in 1..=neighbours {
        rig.small_neighbour(n, &[]);
    }
    rig.want(hash(1), None);
    let mut held = GroupSet::new(GROUPS);
    assert!((0..RANGE).all(|group| held.insert(group)));
    let held = LookResult::Part { size: SIZE, held: RANGE * GROUP_LEN, groups: held };
    rig.look(hash(1), held);
    (1..=neighbours).for_each(|n| rig.say(peer(n), groups(&[])));
    rig
}

/// Takes who was told rumours, and of what.
fn take_rumours(rig: &mut Rig) -> Vec<(PeerId, PeerId, (u64, u64))> {
    let mut told = Vec::new();
    rig.outputs.retain(|output| match output {
        Output::Send { peer, message: Message::Rumour { owner, run, .. } } => {
            told.push((*peer, *owner, *run));
            false
        }
        _ => true,
    });
    told
}

/// Has each neighbour but the last tell a thing, so many that further ones are no early words.
fn tell_early(rig: &mut Rig) {
    for n in 0..EARLY_WORDS {
        let by = u8::try_from(n).expect("few") % (PLACES - 1) + 1;
        rig.say(peer(by), rumour(STRANGER, (n + 1) * 64, 64));
    }
}

/// Says that strangers bring all ranges but for those of `free`.
fn all_claimed_but(rig: &mut Rig, by: u8, free: Range<u64>) {
    for (n, first) in (0..GROUPS).step_by(64).enumerate() {
        if !free.contains(&first) {
            let owner = 100 + u8::try_from(n % 100).expect("below a hundred");
            rig.say(peer(by), rumour(owner, first, RANGE));
        }
    }
}

#[test]
fn claim_is_passed_on_once_to_some_of_those_who_want_the_blob() {
    let mut rig = among(PLACES);
    rig.say(peer(1), claims(&[(64, 64)]));
    let told = take_rumours(&mut rig);
    assert!((EARLY - 1..=EARLY).contains(&told.len()), "{told:?}");
    assert!(
        told.iter().all(|(to, owner, run)| *to != peer(1) && (*owner, *run) == (peer(1), (64, 64)))
    );
    rig.say(peer(1), claims(&[(64, 64), (256, 64)]));
    let again = take_rumours(&mut rig);
    assert!(
        !again.is_empty() && again.iter().all(|told| told.2 == (256, 64)),
        "what is new, and nothing else"
    );
    rig.say(peer(2), rumour(1, 64, 64));
    assert_eq!(take_rumours(&mut rig), [], "it was heard before");
}

#[test]
fn rumour_is_passed_on_once_but_not_to_whom_it_is_about_or_from() {
    let mut rig = among(PLACES);
    rig.say(peer(2), rumour(3, 128, 64));
    let told = take_rumours(&mut rig);
    assert!((EARLY - 2..=EARLY).contains(&told.len()), "{told:?}");
    assert!(told.iter().all(|(to, ..)| ![peer(2), peer(3)].contains(to)), "{told:?}");
    rig.say(peer(4), rumour(3, 128, 64));
    rig.say(peer(4), rumour(0, 192, 64));
    assert_eq!(take_rumours(&mut rig), [], "known, and about this node itself");
}

#[test]
fn who_told_a_rumour_hears_of_those_that_follow() {
    let mut rig = among(PLACES);
    rig.pass(ECHO + MS);
    tell_early(&mut rig);
    tell_early(&mut rig);
    take_rumours(&mut rig);
    rig.say(peer(PLACES), rumour(OTHER, 1_024, 64));
    let told: BTreeSet<_> = take_rumours(&mut rig).into_iter().map(|(to, ..)| to).collect();
    assert_eq!(told, (1..PLACES).map(peer).collect());
}

#[test]
fn who_has_said_nothing_for_long_is_told_nothing_more() {
    let mut rig = among(PLACES);
    (1..=PLACES).for_each(|n| rig.say(peer(n), claims(&[])));
    rig.pass(ECHO + MS);
    tell_early(&mut rig);
    tell_early(&mut rig);
    for _ in 0..4 {
        rig.pass(SEEKER_TTL / 4);
        (5..=PLACES).for_each(|n| rig.say(peer(n), groups(&[])));
    }
    take_rumours(&mut rig);
    // Of what the others told nothing came, so that they are not believed.
    rig.say(peer(PLACES), claims(&[(1_024, 64)]));
    let told: BTreeSet<_> = take_rumours(&mut rig).into_iter().map(|(to, ..)| to).collect();
    assert_eq!(told, (5..PLACES).map(peer).collect());
}

#[test]
fn who_answers_a_seeker_is_no_link_for_that() {
    let mut rig = Rig::listening(config());
    (1..=PLACES).for_each(|n| {
        rig.small_neighbour(n, &[]);
    });
    rig.get(hash(1));
    // Asks whom to wait for.
    assert!(rig.outputs.iter().any(|output| matches!(
        output,
        Output::Send { message: Message::Claims { seeks: true, .. }, .. }
    )));
    tell_early(&mut rig);
    tell_early(&mut rig);
    take_rumours(&mut rig);
    rig.say(peer(1), rumour(OTHER, 1_024, 64));
    assert!(take_rumours(&mut rig).len() <= CHOSEN);
}

#[test]
fn who_told_more_of_what_came_than_of_what_did_not_is_believed_when_the_edge_stands_still() {
    for (came, believed) in [(40, true), (10, false)] {
        let mut rig = among(PLACES);
        all_claimed_but(&mut rig, 1, 0..0);
        rig.say(peer(2), groups(&[(64, came * RANGE)]));
        rig.pass(PATIENCE);
        rig.pass(RUMOUR_PATIENCE);
        (1..=PLACES).for_each(|n| rig.say(peer(n), groups(&[])));
        let asked = rig.take_ranges_of_edge();
        let is_free = |first: &u64| asked.iter().all(|(_, range)| !range.contains(first));
        let first =
            (64 + came * RANGE..).step_by(64).find(is_free).expect("one that is not asked for");
        take_rumours(&mut rig);
        rig.say(peer(1), rumour(OTHER, first, RANGE));
        assert_eq!(!take_rumours(&mut rig).is_empty(), believed, "{came} of 64 came");
    }
}

#[test]
fn node_with_room_for_more_neighbours_tells_and_believes_no_rumour() {
    let mut rig = among(PLACES - 2);
    rig.say(peer(1), claims(&[(64, 64)]));
    all_claimed_but(&mut rig, 2, 0..0);
    assert_eq!(take_rumours(&mut rig), []);
    rig.pass(TURN);
    assert!(!rig.take_ranges_of_edge().is_empty(), "all there are would be neighbours");
}

#[test]
fn runs_that_mean_nothing_change_nothing() {
    let mut rig = among(PLACES);
    rig.say(peer(1), rumour(STRANGER, 64, 0));
    rig.say(peer(1), rumour(STRANGER, u64::MAX, 2));
    let unknown = Message::Rumour { hash: hash(2), owner: peer(STRANGER), done: 0, run: (0, 64) };
    rig.say(peer(1), unknown);
    assert_eq!(take_rumours(&mut rig), []);
}

#[test]
fn what_somebody_far_away_brings_is_not_asked_for() {
    let mut rig = among(PLACES);
    all_claimed_but(&mut rig, 1, 640..704);
    // Fewer than a crowd brings at once: the rest of them have come.
    let spread: Vec<(u64, u64)> = vec![(1_280, GROUPS - 1_280)];
    rig.say(peer(2), groups(&spread));
    rig.pass(TURN * 2);
    let asked = rig.take_ranges_of_edge();
    let [(_, range)] = &asked[..] else { panic!("one range: {asked:?}") };
    assert_eq!(*range, 640..704);
}

#[test]
fn nobody_joins_a_crowd_that_brings_as_much_as_it_can() {
    for (ranges, asks) in [(CROWD_RANGES - 1, true), (CROWD_RANGES, false)] {
        let mut rig = among(PLACES);
        for n in 0..ranges {
            rig.say(peer(1), rumour(STRANGER, (n + 1) * RANGE, RANGE));
        }
        rig.pass(TURN * 2);
        assert_eq!(!rig.take_ranges_of_edge().is_empty(), asks, "{ranges} ranges");
    }
}

#[test]
fn crowd_that_brings_nothing_is_believed_for_a_while_and_who_told_of_it_not_again() {
    let mut rig = among(PLACES);
    all_claimed_but(&mut rig, 1, 0..0);
    rig.pass(PATIENCE - TURN);
    assert_eq!(rig.take_ranges_of_edge(), []);
    rig.pass(TURN * 3);
    let mut asked = rig.take_ranges_of_edge();
    assert_eq!(asked.len(), 1, "it is asked all the same");
    take_rumours(&mut rig);
    let first = (64..).step_by(64).find(|first| *first != asked[0].1.start).expect("another");
    rig.say(peer(1), rumour(OTHER, first, 64));
    assert!(!take_rumours(&mut rig).is_empty(), "it may still come");
    rig.pass(RUMOUR_PATIENCE);
    (1..=PLACES).for_each(|n| rig.say(peer(n), groups(&[])));
    asked.extend(rig.take_ranges_of_edge());
    let is_free = |first: &u64| asked.iter().all(|(_, range)| !range.contains(first));
    let first = (64..).step_by(64).find(is_free).expect("one that is not asked for");
    rig.say(peer(1), rumour(OTHER, first, 64));
    assert_eq!(take_rumours(&mut rig), [], "not from this one");
    rig.say(peer(2), rumour(OTHER, first, 64));
    assert!(!take_rumours(&mut rig).is_empty(), "from another");
}

#[test]
fn of_two_far_apart_who_claim_the_same_one_at_most_lets_go() {
    let claimed = |owner: u8, me: u8| {
        let mut rig = Rig::of(peer(me), config());
        rig.tell(Input::Settled);
        for n in 1..=PLACES {
            rig.small_neighbour(n, &[]);
        }
        rig.get(hash(1));
        rig.pass(MS * 10);
        let asked = rig.take_ranges_of_edge();
        let [(fetch, _)] = asked[..] else { panic!("the first range: {asked:?}") };
        rig.say(peer(1), rumour(owner, 0, 128));
        rig.take_stop(fetch)
    };
    let (a, b) = (claimed(STRANGER, OTHER), claimed(OTHER, STRANGER));
    assert!(a ^ b, "{a} {b}");
}
