//! Who is a neighbour where more come than there are places.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests pick out the outputs they are about")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
mod support;

use blobmesh_protocol::Config;
use blobmesh_protocol::engine::{DropReason, Input};
use blobmesh_protocol::wire::message::Message;
use support::{Rig, hash, peer};

fn config() -> Config {
    Config { provider_search: false, ..Config::default() }
}

/// A node with `places` places, all taken in the order of the names from 1.
fn full(places: u8) -> Rig {
    let mut rig = Rig::listening(Config { neighbours_max: usize::from(places), ..config() });
    (1..=places).for_each(|n| {
        rig.silent_neighbour(n);
    });
    rig
}

fn is_neighbour(rig: &Rig, n: u8) -> bool {
    rig.engine.neighbours().iter().any(|info| info.peer == peer(n))
}

#[test]
fn newcomers_find_places_whoever_came_first_and_a_quarter_keeps_theirs() {
    const PLACES: u8 = 16;
    let mut rig = full(PLACES);
    for n in PLACES + 1..=250 {
        let welcome = rig.engine.has_room_for(peer(n));
        rig.tell(Input::Connected { peer: peer(n) });
        assert_eq!(is_neighbour(&rig, n), welcome, "as was said");
        assert_eq!(rig.take_drop(peer(n)), (!welcome).then_some(DropReason::Full));
        assert_eq!(rig.engine.neighbours().len(), usize::from(PLACES));
    }
    assert!((1..=PLACES / 4).all(|n| is_neighbour(&rig, n)), "nobody pushes these out");
    let late = (PLACES + 1..=250).filter(|n| is_neighbour(&rig, *n)).count();
    assert!(late >= usize::from(PLACES / 2), "{late} of those who came late");
    // Whoever was turned away is again, and whoever had to go: the weights are what they were.
    let others = (1..=250).filter(|n| !is_neighbour(&rig, *n)).collect::<Vec<_>>();
    for n in others {
        assert!(!rig.engine.has_room_for(peer(n)));
    }
}

#[test]
fn two_nodes_agree_on_whether_they_are_neighbours() {
    // Each of two ranks the other by the same weight: who is among the heaviest of one is so for the other as often.
    let mut agreed = 0;
    for n in 20..120 {
        let mut both = [(n, n + 100), (n + 100, n)].into_iter().map(|(me, other)| {
            let mut rig = Rig::of(peer(me), Config { neighbours_max: 4, ..config() });
            (1..=8).for_each(|n| {
                rig.silent_neighbour(n);
            });
            rig.engine.has_room_for(peer(other))
        });
        agreed += usize::from(both.next() == both.next());
    }
    assert!(agreed > 60, "{agreed} of 100; chance alone would give half");
}

#[test]
fn each_node_has_places_for_others_of_those_who_came() {
    const PLACES: u8 = 16;
    let places_of = |me: u8| -> Vec<u8> {
        let mut rig = Rig::of(peer(me), Config { neighbours_max: usize::from(PLACES), ..config() });
        (1..=200).for_each(|n| rig.tell(Input::Connected { peer: peer(n) }));
        (PLACES / 4 + 1..=200).filter(|n| is_neighbour(&rig, *n)).collect()
    };
    let (mine, other) = (places_of(201), places_of(202));
    assert_eq!((mine.len(), other.len()), (12, 12));
    let both = mine.iter().filter(|n| other.contains(n)).count();
    assert!(
        both < 6,
        "of 12: a site whose nodes all want the same few is no mesh: {mine:?}, {other:?}"
    );
}

#[test]
fn neighbour_that_goes_for_another_is_forgotten_at_once() {
    let mut rig = full(4);
    let want = rig.get(hash(1));
    let newcomer = (5..=250).find(|n| rig.engine.has_room_for(peer(*n))).expect("one of weight");
    rig.tell(Input::Connected { peer: peer(newcomer) });
    let gone = (1..=4).find(|n| !is_neighbour(&rig, *n)).expect("one had to go");
    assert_eq!(rig.take_drop(peer(gone)), Some(DropReason::Full));
    rig.outputs.clear();
    // What it still says is not heard, and its end is no news.
    rig.say(peer(gone), Message::Ask { id: 1, hash: hash(1) });
    rig.tell(Input::Disconnected { peer: peer(gone) });
    assert_eq!(rig.take_messages(peer(gone)), vec![]);
    assert!(rig.take_end(want).is_none());
    assert_eq!(rig.engine.neighbours().len(), 4);
}
