//! What neighbours are told, whom they are to believe, adverts and admission.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests pick out the outputs they are about")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
mod support;

use blobmesh_protocol::engine::{DropReason, Input, LookResult, Output, ServeVerdict};
use blobmesh_protocol::filter::{FilterFrame, PeerFilter};
use blobmesh_protocol::id::ServeId;
use blobmesh_protocol::wire::message::{AskResult, Hello, Message};
use blobmesh_protocol::{Config, Hash};
use support::{MS, Rig, SIZE, hash, peer};

/// Follows what one neighbour is told.
fn learn(rig: &mut Rig, n: u8, known: &mut Option<PeerFilter>) -> usize {
    let messages = rig.take_messages(peer(n));
    for message in &messages {
        match message {
            Message::Filter(frame) => {
                *known = Some(PeerFilter::accept(frame.clone()).expect("our own filter"));
            }
            Message::FilterDelta(delta) => {
                known.as_mut().expect("a filter first").apply(delta).expect("it fits");
            }
            _ => {}
        }
    }
    messages.len()
}

fn hold(rig: &mut Rig, hash: Hash) {
    rig.tell(Input::Held { hash, advertise: false });
}

#[test]
fn neighbour_is_greeted_with_hello_then_the_whole_filter() {
    let mut rig = Rig::new();
    hold(&mut rig, hash(1));
    rig.silent_neighbour(1);
    let messages = rig.take_messages(peer(1));
    assert!(matches!(messages[0], Message::Hello(_)));
    assert!(matches!(messages[1], Message::Filter(_)));
    assert_eq!(messages.len(), 2);
}

#[test]
fn first_changes_go_out_at_once_and_a_stream_of_them_together() {
    let mut rig = Rig::with(Config { gossip_burst: 2, ..Config::default() });
    rig.silent_neighbour(1);
    let mut known = None;
    learn(&mut rig, 1, &mut known);
    for n in [0, 1] {
        hold(&mut rig, hash(n));
        rig.pass(MS);
        assert_eq!(learn(&mut rig, 1, &mut known), 1, "at once");
    }
    (2..50).for_each(|n| hold(&mut rig, hash(n)));
    rig.pass(MS);
    assert_eq!(learn(&mut rig, 1, &mut known), 0, "the rest waits");
    rig.pass(Config::default().gossip_interval);
    assert_eq!(learn(&mut rig, 1, &mut known), 1, "and travels together");
    let known = known.expect("a filter");
    assert!((0..50).all(|n| known.may_hold(&hash(n))));
    rig.pass(3 * Config::default().gossip_interval);
    for n in 50..54 {
        hold(&mut rig, hash(n));
        rig.pass(MS);
    }
    let mut known = Some(known);
    assert_eq!(learn(&mut rig, 1, &mut known), 2, "the burst came back, and no more than it");
}

#[test]
fn what_comes_in_one_moment_is_told_at_once_and_together() {
    let mut rig = Rig::with(Config::default());
    rig.silent_neighbour(1);
    let mut known = None;
    learn(&mut rig, 1, &mut known);
    (0..200).for_each(|n| hold(&mut rig, hash(n)));
    rig.pass(MS);
    assert_eq!(learn(&mut rig, 1, &mut known), 1, "far more than the burst has messages");
    let known = known.expect("a filter");
    assert!((0..200).all(|n| known.may_hold(&hash(n))));
}

#[test]
fn filter_that_outgrew_its_size_is_sent_whole() {
    let mut rig = Rig::new();
    rig.silent_neighbour(1);
    let mut known = None;
    let hashes: Vec<Hash> = (0..3_000u32).map(|n| Hash::of(&n.to_le_bytes())).collect();
    hashes.iter().for_each(|hash| hold(&mut rig, *hash));
    rig.pass(Config::default().gossip_interval);
    learn(&mut rig, 1, &mut known);
    let known = known.expect("a filter");
    assert!(hashes.iter().all(|hash| known.may_hold(hash)), "no false negative");
}

#[test]
fn evicted_blobs_leave_the_filter_in_the_end() {
    let mut rig = Rig::new();
    rig.silent_neighbour(1);
    (0..100).for_each(|n| hold(&mut rig, hash(n)));
    (0..90).for_each(|n| rig.tell(Input::Gone { hash: hash(n) }));
    rig.pass(Config::default().filter_refresh + MS);
    let mut known = None;
    learn(&mut rig, 1, &mut known);
    let known = known.expect("a filter");
    assert!((90..100).all(|n| known.may_hold(&hash(n))));
    let left = (0..90).filter(|n| known.may_hold(&hash(*n))).count();
    assert!(left <= 3, "{left} of 90 evicted blobs still in the filter");
}

#[test]
fn quiet_node_confirms_its_filter() {
    let mut rig = Rig::new();
    rig.silent_neighbour(1);
    rig.take_messages(peer(1));
    rig.pass(Config::default().filter_refresh);
    let messages = rig.take_messages(peer(1));
    assert!(matches!(&messages[..], [Message::FilterDelta(delta)] if delta.prefixes.is_empty()));
}

#[test]
fn delta_that_does_not_fit_asks_for_the_whole_filter() {
    let mut rig = Rig::new();
    rig.neighbour(1, &[hash(1)]);
    rig.take_messages(peer(1));
    let delta = blobmesh_protocol::filter::FilterDelta {
        generation: 9,
        from_sequence: 4,
        prefixes: vec![[1; 8]],
    };
    rig.say(peer(1), Message::FilterDelta(delta));
    assert_eq!(rig.take_messages(peer(1)), vec![Message::FilterRequest]);
    rig.say(peer(1), Message::FilterRequest);
    assert!(matches!(rig.take_messages(peer(1))[..], [Message::Filter(_)]));
}

#[test]
fn hostile_filters_are_refused_and_their_sender_is_still_asked() {
    let frame =
        |hashes, bits: Vec<u8>| FilterFrame { generation: 1, sequence: 1, count: 1, hashes, bits };
    let all_ones = frame(7, vec![0xff; 1_024]);
    for hostile in [frame(7, Vec::new()), frame(0, vec![1; 8]), frame(255, vec![1; 8]), all_ones] {
        let mut rig = Rig::new();
        rig.silent_neighbour(1);
        rig.say(peer(1), Message::Filter(hostile));
        assert_eq!(rig.engine.stats().filters_refused, 1);
        rig.get(hash(1));
        assert!(rig.take_ask(peer(1), hash(1)).is_some(), "no filter is no evidence");
    }
}

#[test]
fn filter_that_lies_too_often_is_asked_last() {
    let mut rig = Rig::with(Config { provider_search: false, ..Config::default() });
    let judged_after = u8::try_from(Config::default().filter_judged_after).expect("small");
    let claimed: Vec<Hash> = (0..60).map(hash).collect();
    let liar = rig.neighbour(1, &claimed);
    for n in 0..judged_after {
        rig.get(hash(n));
        rig.answer(liar, hash(n), AskResult::Absent);
    }
    let honest = rig.neighbour(2, &claimed);
    rig.get(hash(50));
    assert_eq!(rig.take_ask(liar, hash(50)), None, "not while somebody better may answer");
    rig.answer(honest, hash(50), AskResult::Absent);
    assert!(rig.take_ask(liar, hash(50)).is_some(), "but before the blob is said to be nowhere");
    rig.pass(Config::default().filter_ignored_for);
    let still = blobmesh_protocol::filter::FilterDelta {
        generation: 1,
        from_sequence: 0,
        prefixes: Vec::new(),
    };
    rig.say(liar, Message::FilterDelta(still));
    rig.get(hash(51));
    assert!(rig.take_ask(liar, hash(51)).is_some(), "it gets another chance");
}

#[test]
fn few_lies_among_many_truths_are_forgiven() {
    let mut rig = Rig::with(Config { provider_search: false, ..Config::default() });
    let claimed: Vec<Hash> = (0..60).map(hash).collect();
    let mostly_right = rig.neighbour(1, &claimed);
    for n in 0..20 {
        rig.get(hash(n));
        let have = AskResult::Have { size: SIZE };
        rig.answer(mostly_right, hash(n), if n % 5 == 0 { AskResult::Absent } else { have });
    }
    let other = rig.neighbour(2, &claimed);
    rig.get(hash(50));
    assert!(
        rig.take_ask(mostly_right, hash(50)).is_some() && rig.take_ask(other, hash(50)).is_some()
    );
}

/// Two engines whose messages take 10 ms: a stream of adds must not make the receiver ask for the
/// whole filter again and again.
#[test]
fn stream_of_adds_is_followed_by_deltas() {
    let (mut adder, mut receiver) = (Rig::new(), Rig::new());
    let blob = |n: u32| Hash::of(&n.to_le_bytes());
    adder.silent_neighbour(9);
    (0..40).for_each(|n| hold(&mut adder, blob(n)));
    adder.silent_neighbour(1);
    receiver.tell(Input::Connected { peer: peer(2) });
    let (mut to_receiver, mut to_adder) = (Vec::new(), Vec::new());
    let mut wholes = 0;
    for n in 40..1_040 {
        hold(&mut adder, blob(n));
        adder.pass(10 * MS);
        receiver.pass(10 * MS);
        for message in std::mem::replace(&mut to_receiver, adder.take_messages(peer(1))) {
            wholes += u32::from(matches!(message, Message::Filter(_)));
            receiver.say(peer(2), message);
        }
        for message in std::mem::replace(&mut to_adder, receiver.take_messages(peer(2))) {
            adder.say(peer(1), message);
        }
    }
    assert!(wholes < 5, "{wholes} whole filters in 10 s");
    assert_eq!(receiver.engine.stats().filters_refused, 0);
}

#[test]
fn question_is_answered_from_the_store_or_at_once_when_the_blob_cannot_be_held() {
    let mut rig = Rig::new();
    rig.neighbour(1, &[]);
    hold(&mut rig, hash(1));
    rig.take_messages(peer(1));
    rig.say(peer(1), Message::Ask { id: 5, hash: hash(2) });
    let absent = Message::Answer { id: 5, result: AskResult::Absent };
    assert_eq!(rig.take_messages(peer(1)), vec![absent]);
    rig.say(peer(1), Message::Ask { id: 6, hash: hash(1) });
    let look = rig.take_look(hash(1));
    rig.tell(Input::Looked { look, result: LookResult::Whole { size: SIZE } });
    let have = Message::Answer { id: 6, result: AskResult::Have { size: SIZE } };
    assert_eq!(rig.take_messages(peer(1)), vec![have]);
}

#[test]
fn flood_of_questions_is_answered_busy_beyond_the_bound() {
    let mut rig = Rig::with(Config { resolutions_max: 10, ..Config::default() });
    rig.neighbour(1, &[]);
    hold(&mut rig, hash(1));
    rig.take_messages(peer(1));
    (0..15).for_each(|id| rig.say(peer(1), Message::Ask { id, hash: hash(1) }));
    let busy = |message: &Message| {
        matches!(message, Message::Answer { result: AskResult::Busy { .. }, .. })
    };
    assert_eq!(rig.take_messages(peer(1)).iter().filter(|message| busy(message)).count(), 5);
}

#[test]
fn neighbours_beyond_the_bound_are_turned_away() {
    let mut rig = Rig::with(Config { neighbours_max: 2, ..Config::default() });
    (1..=9).for_each(|n| rig.tell(Input::Connected { peer: peer(n) }));
    let dropped = (1..=9).filter(|n| rig.take_drop(peer(*n)) == Some(DropReason::Full)).count();
    assert_eq!((dropped, rig.engine.neighbours().len()), (7, 2));
}

#[test]
fn neighbour_of_another_version_or_without_manners_is_dropped() {
    let mut rig = Rig::new();
    rig.tell(Input::Connected { peer: peer(1) });
    let future = Hello { version_min: 900, version_max: 999, features: 0 };
    rig.say(peer(1), Message::Hello(future));
    assert_eq!(rig.take_drop(peer(1)), Some(DropReason::Version));
    rig.tell(Input::Connected { peer: peer(2) });
    rig.say(peer(2), Message::Ask { id: 1, hash: hash(1) });
    assert_eq!(rig.take_drop(peer(2)), Some(DropReason::Malformed));
}

#[test]
fn neighbour_that_does_not_greet_is_dropped() {
    let mut rig = Rig::new();
    rig.tell(Input::Connected { peer: peer(1) });
    rig.silent_neighbour(2);
    rig.pass(Config::default().hello_timeout);
    assert_eq!(rig.take_drop(peer(1)), Some(DropReason::Malformed));
    assert_eq!(rig.take_drop(peer(2)), None);
}

#[test]
fn flood_of_filter_requests_gets_one_filter_an_interval() {
    let mut rig = Rig::new();
    rig.neighbour(1, &[]);
    rig.take_messages(peer(1));
    (0..100).for_each(|_| rig.say(peer(1), Message::FilterRequest));
    assert_eq!(rig.take_messages(peer(1)).len(), 1);
    rig.pass(Config::default().filter_interval);
    rig.say(peer(1), Message::FilterRequest);
    assert_eq!(rig.take_messages(peer(1)).len(), 1);
}

#[test]
fn newcomer_during_a_burst_can_follow_what_comes_after() {
    let mut rig = Rig::with(Config { gossip_burst: 0, ..Config::default() });
    rig.silent_neighbour(1);
    hold(&mut rig, hash(1));
    rig.silent_neighbour(2);
    hold(&mut rig, hash(2));
    rig.pass(Config::default().gossip_interval);
    for n in [1, 2] {
        let mut known = None;
        learn(&mut rig, n, &mut known);
        let known = known.expect("a filter");
        assert!(known.may_hold(&hash(1)) && known.may_hold(&hash(2)), "neighbour {n}");
    }
}

#[test]
fn goodbye_forgets_the_neighbour_at_once() {
    let mut rig = Rig::new();
    let leaving = rig.neighbour(1, &[hash(1)]);
    rig.say(leaving, Message::Goodbye);
    rig.get(hash(1));
    assert_eq!(rig.take_ask(leaving, hash(1)), None);
}

#[test]
fn adverts_go_out_in_a_burst_then_at_a_rate_then_again() {
    let config = Config { adverts_burst: 4, adverts_per_s: 2, ..Config::default() };
    let mut rig = Rig::with(config.clone());
    (0..10).for_each(|n| rig.tell(Input::Held { hash: hash(n), advertise: true }));
    assert_eq!(rig.take_provides().len(), 4, "the burst");
    rig.pass(1_000 * MS);
    assert_eq!(rig.take_provides().len(), 2, "two a second");
    rig.pass(2_000 * MS);
    assert_eq!(rig.take_provides().len(), 4, "and the rest");
    rig.pass(config.advert_interval);
    assert_eq!(rig.take_provides().len(), 10, "all again after the interval");
    rig.tell(Input::Gone { hash: hash(3) });
    let ended = rig.outputs.iter().any(|output| matches!(output, Output::Unprovide { .. }));
    assert!(ended, "what is gone is not advertised");
}

#[test]
fn adverts_beyond_the_bound_and_fetched_blobs_are_left_to_the_filters() {
    let mut rig = Rig::with(Config { adverts_max: 3, ..Config::default() });
    (0..5).for_each(|n| rig.tell(Input::Held { hash: hash(n), advertise: true }));
    hold(&mut rig, hash(9));
    assert_eq!(rig.take_provides().len(), 3);
    assert_eq!(rig.engine.stats().adverts_refused, 2);
    let mut quiet = Rig::with(Config { adverts: false, ..Config::default() });
    quiet.tell(Input::Held { hash: hash(1), advertise: true });
    assert_eq!(quiet.take_provides(), Vec::new());
}

#[test]
fn requests_beyond_the_bounds_are_turned_away_until_others_end() {
    let config = Config { serves_max: 3, serves_per_peer_max: 2, ..Config::default() };
    let mut rig = Rig::with(config);
    let ask = |rig: &mut Rig, serve, n| {
        rig.tell(Input::ServeAsked { serve: ServeId(serve), peer: peer(n) });
        match rig.outputs.pop() {
            Some(Output::Serve { verdict, .. }) => verdict == ServeVerdict::Admit,
            other => panic!("expected a verdict, got {other:?}"),
        }
    };
    assert!(ask(&mut rig, 1, 1) && ask(&mut rig, 2, 1));
    assert!(!ask(&mut rig, 3, 1), "two at once for one peer");
    assert!(ask(&mut rig, 4, 2));
    assert!(!ask(&mut rig, 5, 3), "three at once in all");
    rig.tell(Input::ServeEnded { serve: ServeId(1) });
    assert!(ask(&mut rig, 6, 3));
}
