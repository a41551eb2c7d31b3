//! Neighbours of neighbours: who holds a blob that no neighbour has, and what a name may cause.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests pick out the outputs they are about")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
mod support;

use std::time::Duration;

use blobmesh_protocol::Config;
use blobmesh_protocol::engine::receipt::{Found, Note};
use blobmesh_protocol::engine::{FetchOutcome, Input, Source};
use blobmesh_protocol::id::{PeerId, WantId};
use blobmesh_protocol::wire::message::{AskResult, Hello, Message};
use support::{MS, Rig, SIZE, hash, peer};

const PAUSE: Duration = Duration::from_millis(8);
/// A peer that is no neighbour.
const STRANGER: u8 = 99;
/// The questions that are out on behalf of one seeker, or to one neighbour, and all of them.
const QUESTIONS: (usize, usize) = (32, 256);

fn config() -> Config {
    Config { edge: true, provider_search: false, edge_pause: PAUSE, ..Config::default() }
}

/// A node that wants a blob of which its neighbours hold nothing, and has told them that it is about to ask the edge.
fn seeker(neighbours: u8) -> (Rig, WantId) {
    let mut rig = Rig::listening(config());
    for n in 1..=neighbours {
        rig.neighbour(n, &[]);
    }
    let want = rig.get(hash(1));
    (rig, want)
}

fn seeks(n: u8) -> Message {
    Message::Claims { hash: hash(n), seeks: true, done: 0, runs: Vec::new() }
}

fn near(holder: PeerId) -> Message {
    Message::Near { hash: hash(1), holder }
}

/// A node with a neighbour 1 that takes names, and others that hold a blob.
fn asked(holders: u8) -> Rig {
    let mut rig = Rig::listening(config());
    rig.small_neighbour(1, &[]);
    (2..2 + holders).for_each(|n| {
        rig.neighbour(n, &[hash(1)]);
    });
    rig.outputs.clear();
    rig
}

fn named(rig: &mut Rig, to: PeerId) -> Vec<PeerId> {
    let messages = rig.take_messages(to).into_iter().filter_map(|message| match message {
        Message::Near { hash: of, holder } if of == hash(1) => Some(holder),
        _ => None,
    });
    messages.collect()
}

#[test]
fn holder_that_a_neighbour_names_is_fetched_from_and_the_edge_is_not() {
    let (mut rig, want) = seeker(2);
    assert!(rig.take_messages(peer(1)).contains(&seeks(1)));
    rig.pass(MS);
    rig.say(peer(1), near(peer(STRANGER)));
    let fetch = rig.take_fetch(Source::Peer(peer(STRANGER))).expect("it is fetched from");
    rig.pass(PAUSE * 2);
    assert_eq!(rig.take_fetch(Source::Edge), None);
    rig.complete(fetch);
    let (result, receipt) = rig.take_end(want).expect("an end");
    assert_eq!((result, receipt.found), (Ok(()), Some(Found::Lan)));
    assert_eq!(receipt.notes, vec![Note::Named { holder: peer(STRANGER), by: peer(1) }]);
    assert_eq!(receipt.bytes_edge, 0);
}

#[test]
fn named_holder_that_gives_nothing_has_half_the_time_of_a_neighbour() {
    let (mut rig, _) = seeker(1);
    rig.say(peer(1), near(peer(STRANGER)));
    assert!(rig.take_fetch(Source::Peer(peer(STRANGER))).is_some());
    let patience = config().first_group_hedge / 2;
    rig.pass(patience - MS);
    assert_eq!(rig.take_fetch(Source::Edge), None, "it is early");
    rig.pass(MS);
    assert!(rig.take_fetch(Source::Edge).is_some(), "the edge is asked beside it");
}

#[test]
fn neighbour_that_named_nobody_of_use_is_not_believed_for_a_while() {
    let (mut rig, _) = seeker(2);
    rig.say(peer(1), near(peer(STRANGER)));
    let fetch = rig.take_fetch(Source::Peer(peer(STRANGER))).expect("it is fetched from");
    rig.end(fetch, FetchOutcome::Absent);
    rig.say(peer(1), near(peer(98)));
    assert_eq!(rig.take_fetch(Source::Peer(peer(98))), None, "it lied a moment ago");
    rig.say(peer(2), near(peer(97)));
    assert!(rig.take_fetch(Source::Peer(peer(97))).is_some(), "another is believed");
    rig.pass(Duration::from_secs(60));
    rig.get(hash(2));
    rig.say(peer(1), Message::Near { hash: hash(2), holder: peer(98) });
    assert!(rig.take_fetch(Source::Peer(peer(98))).is_some(), "that is long ago");
}

#[test]
fn edge_is_asked_at_once_when_a_named_holder_has_nothing() {
    let (mut rig, _) = seeker(1);
    rig.say(peer(1), near(peer(STRANGER)));
    let fetch = rig.take_fetch(Source::Peer(peer(STRANGER))).expect("it is fetched from");
    rig.pass(PAUSE);
    assert_eq!(rig.take_fetch(Source::Edge), None);
    rig.end(fetch, FetchOutcome::Absent);
    assert!(rig.take_fetch(Source::Edge).is_some());
}

#[test]
fn names_that_nobody_asked_for_change_nothing() {
    let mut rig = Rig::listening(config());
    let holder = rig.neighbour(1, &[hash(1)]);
    rig.say(holder, near(peer(STRANGER)));
    rig.get(hash(1));
    rig.say(holder, near(peer(STRANGER)));
    assert_eq!(rig.take_fetch(Source::Peer(peer(STRANGER))), None, "the edge is not due");
    rig.answer(holder, hash(1), AskResult::Absent);
    rig.say(peer(77), near(peer(STRANGER)));
    assert_eq!(rig.take_fetch(Source::Peer(peer(STRANGER))), None, "it is no neighbour");
    rig.say(holder, near(peer(0)));
    assert_eq!(rig.take_fetch(Source::Peer(peer(0))), None, "that is the node itself");
}

#[test]
fn many_names_of_one_blob_are_not_tried() {
    let (mut rig, _) = seeker(9);
    let mut tried = 0;
    for n in 1..=9 {
        let holder = peer(100 + n);
        rig.say(peer(n), near(holder));
        if let Some(fetch) = rig.take_fetch(Source::Peer(holder)) {
            tried += 1;
            rig.end(fetch, FetchOutcome::Absent);
        }
    }
    assert_eq!(tried, 4);
}

#[test]
fn seeker_is_told_of_a_neighbour_that_says_it_holds_the_blob() {
    let mut rig = asked(1);
    rig.say(peer(1), seeks(1));
    assert_eq!(named(&mut rig, peer(1)), vec![], "nothing is said on the word of a filter");
    rig.answer(peer(2), hash(1), AskResult::Have { size: SIZE });
    assert_eq!(named(&mut rig, peer(1)), vec![peer(2)]);
}

#[test]
fn seeker_is_told_at_once_of_what_is_held_here() {
    let mut rig = asked(1);
    rig.tell(Input::Held { hash: hash(1), advertise: false });
    rig.say(peer(1), seeks(1));
    assert_eq!(named(&mut rig, peer(1)), vec![peer(0)]);
    assert_eq!(rig.take_ask(peer(2), hash(1)), None);
}

#[test]
fn next_of_three_is_asked_where_a_filter_erred() {
    let mut rig = asked(5);
    rig.say(peer(1), seeks(1));
    let mut asked = Vec::new();
    for n in [2, 3, 4, 5, 6] {
        if let Some(id) = rig.take_ask(peer(n), hash(1)) {
            asked.push(n);
            let result =
                if n == 3 { AskResult::Busy { retry_after_ms: 9 } } else { AskResult::Absent };
            rig.say(peer(n), Message::Answer { id, result });
        }
    }
    assert_eq!(asked, vec![2, 3, 4]);
    assert_eq!(named(&mut rig, peer(1)), vec![]);
}

#[test]
fn nobody_is_asked_for_one_who_takes_no_names_or_is_the_only_holder() {
    let mut rig = asked(1);
    rig.silent_neighbour(8);
    rig.say(peer(8), seeks(1));
    assert_eq!(rig.take_ask(peer(2), hash(1)), None, "an old peer");
    rig.say(peer(2), Message::Hello(Hello::ours()));
    rig.say(peer(2), seeks(1));
    assert_eq!(rig.take_ask(peer(2), hash(1)), None, "it is not asked for itself");
    rig.say(peer(1), Message::Claims { hash: hash(1), seeks: false, done: 0, runs: Vec::new() });
    assert_eq!(rig.take_ask(peer(2), hash(1)), None, "it does not seek");
}

#[test]
fn questions_for_seekers_are_bounded_and_forgotten_in_time() {
    let (of_one, of_all) = QUESTIONS;
    let mut rig = Rig::listening(config());
    // Three hold the first third of the blobs each, three the second, three the last.
    for n in 0..9 {
        let held: Vec<_> = (0..85).map(|i| hash(n / 3 * 85 + i)).collect();
        rig.neighbour(2 + n, &held);
    }
    let seekers: Vec<PeerId> = (100..120).map(|n| rig.small_neighbour(n, &[])).collect();
    rig.outputs.clear();
    let asks = |rig: &mut Rig| -> Vec<usize> {
        let of = |n| rig.take_messages(peer(n)).into_iter();
        let is_ask = |message: &Message| matches!(message, Message::Ask { .. });
        (2..11).map(of).map(|messages| messages.filter(is_ask).count()).collect()
    };
    (0..85).for_each(|n| rig.say(peer(100), seeks(n)));
    assert_eq!(asks(&mut rig).iter().sum::<usize>(), of_one, "of one seeker");
    for seeker in seekers.iter().skip(1) {
        (0..255).for_each(|n| rig.say(*seeker, seeks(n)));
    }
    let asked = asks(&mut rig);
    assert_eq!(asked.iter().sum::<usize>(), of_all - of_one, "of all");
    assert!(asked.iter().all(|of_one_neighbour| *of_one_neighbour <= of_one), "{asked:?}");
    rig.pass(config().ask_timeout);
    rig.say(peer(100), seeks(1));
    assert_eq!(asks(&mut rig).iter().sum::<usize>(), 1, "nobody answered in time");
}

#[test]
fn answer_is_of_no_use_once_the_seeker_or_who_was_asked_is_gone() {
    let mut rig = asked(1);
    rig.say(peer(1), seeks(1));
    let id = rig.take_ask(peer(2), hash(1)).expect("a question");
    rig.tell(Input::Disconnected { peer: peer(1) });
    rig.small_neighbour(1, &[]);
    rig.say(peer(2), Message::Answer { id, result: AskResult::Have { size: SIZE } });
    assert_eq!(named(&mut rig, peer(1)), vec![], "it seeks no more, as far as is known");
    rig.say(peer(1), seeks(1));
    let id = rig.take_ask(peer(2), hash(1)).expect("a question");
    rig.say(peer(STRANGER), Message::Answer { id, result: AskResult::Have { size: SIZE } });
    rig.say(peer(1), Message::Answer { id, result: AskResult::Have { size: SIZE } });
    assert_eq!(named(&mut rig, peer(1)), vec![], "another answers");
}

#[test]
fn filter_that_lies_to_those_who_ask_for_others_is_judged_too() {
    let mut rig = Rig::listening(config());
    rig.small_neighbour(1, &[]);
    let hashes: Vec<_> = (0..=255).map(hash).collect();
    rig.neighbour(2, &hashes);
    let judged_after = u8::try_from(config().filter_judged_after).expect("few");
    for n in 0..judged_after {
        rig.say(peer(1), seeks(n));
        rig.answer(peer(2), hash(n), AskResult::Absent);
    }
    rig.say(peer(1), seeks(judged_after));
    assert_eq!(rig.take_ask(peer(2), hash(judged_after)), None, "it is not believed any more");
}
