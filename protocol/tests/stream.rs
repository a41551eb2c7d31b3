//! What a lone node asks of an edge where each request under way is a connection.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests pick out the outputs they are about")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
mod support;

use std::ops::Range;
use std::time::Duration;

use blobmesh_protocol::Config;
use blobmesh_protocol::blob::GROUP_LEN;
use blobmesh_protocol::engine::{FetchOutcome, Input, Output, Source};
use blobmesh_protocol::id::{FetchId, PeerId};
use blobmesh_protocol::wire::message::{AskResult, Message};
use support::{MS, Rig, hash, peer};

/// Sixteen ranges of 64 groups, in blocks of 16.
const SIZE: u64 = 64 << 20;
const GROUPS: u64 = SIZE / GROUP_LEN;
const RANGE: u64 = 64;
const BLOCK: u64 = 16;
/// The first request is for two ranges.
const FIRST: u64 = 2 * RANGE;
/// What a block takes at 200 Mbit/s.
const QUICK: Duration = Duration::from_millis(42);

/// A node with so many neighbours that know nothing of the blob, and an edge whose requests have connections of their own.
fn apart(neighbours: u8) -> Rig {
    let config = Config {
        edge: true,
        provider_search: false,
        edge_pause: Duration::ZERO,
        ..Config::default()
    };
    let mut rig = Rig::listening(config);
    for n in 1..=neighbours {
        rig.neighbour(n, &[]);
    }
    rig.tell(Input::EdgeApart { apart: true });
    rig.get(hash(1));
    rig
}

/// Takes the one range that the edge was asked for.
fn take_range(rig: &mut Rig) -> (FetchId, Range<u64>) {
    let asked = rig.take_ranges_of_edge();
    let [(fetch, groups)] = &asked[..] else { panic!("one range: {asked:?}") };
    (*fetch, groups.clone())
}

/// Gives groups block by block, each of which takes so long.
fn give(rig: &mut Rig, fetch: FetchId, groups: Range<u64>, block_time: Duration) {
    let mut at = groups.start;
    while at < groups.end {
        let end = (at + BLOCK).min(groups.end);
        rig.pass(block_time);
        let bytes = (end - at) * GROUP_LEN;
        rig.tell(Input::Progress { fetch, bytes, groups: at..end, size: SIZE });
        at = end;
    }
}

/// A node with a neighbour, to which the first ranges came, and that asked for more.
fn streaming() -> (Rig, FetchId, Range<u64>) {
    let mut rig = apart(1);
    let (first, range) = take_range(&mut rig);
    give(&mut rig, first, range, QUICK);
    rig.end(first, FetchOutcome::Part);
    let (stream, groups) = take_range(&mut rig);
    (rig, stream, groups)
}

/// Returns what a neighbour was told last that is claimed.
fn told(rig: &mut Rig, to: PeerId) -> Option<Vec<(u64, u64)>> {
    let words = rig.take_messages(to).into_iter().filter_map(|message| match message {
        Message::Claims { seeks: false, runs, .. } => Some(runs),
        _ => None,
    });
    words.collect::<Vec<_>>().pop()
}

fn fetches_too() -> Message {
    Message::Groups { hash: hash(1), size: SIZE, follows: true, runs: Vec::new() }
}

#[test]
fn lone_node_asks_for_all_the_rest_at_once_and_for_nothing_beside_it() {
    for neighbours in [0, 1] {
        let mut rig = apart(neighbours);
        let (first, range) = take_range(&mut rig);
        assert_eq!(range, 0..FIRST);
        give(&mut rig, first, range, QUICK);
        assert!(
            rig.take_ranges_of_edge().is_empty(),
            "another connection would take the link from it"
        );
        rig.end(first, FetchOutcome::Part);
        let (stream, groups) = take_range(&mut rig);
        assert_eq!(groups, FIRST..GROUPS);
        give(&mut rig, stream, groups, QUICK);
        assert!(rig.take_ranges_of_edge().is_empty());
        rig.end(stream, FetchOutcome::Complete { size: SIZE });
        assert_eq!(rig.engine.resolutions(), 0);
    }
}

#[test]
fn edge_that_turns_out_to_share_a_connection_is_asked_for_ranges_at_once() {
    let mut rig = apart(1);
    let (first, _) = take_range(&mut rig);
    rig.tell(Input::EdgeApart { apart: false });
    give(&mut rig, first, 0..BLOCK, QUICK);
    assert_eq!(take_range(&mut rig).1, FIRST..FIRST + RANGE);
}

#[test]
fn connection_that_is_slow_gets_another_beside_it_and_no_more() {
    let mut rig = apart(1);
    let (first, range) = take_range(&mut rig);
    // A range in less than a second, and the next one in more.
    give(&mut rig, first, 0..RANGE, 240 * MS);
    assert!(rig.take_ranges_of_edge().is_empty());
    give(&mut rig, first, RANGE..FIRST - BLOCK, 400 * MS);
    let (_, second) = take_range(&mut rig);
    assert_eq!(second, FIRST..FIRST + RANGE);
    give(&mut rig, first, range.end - BLOCK..range.end, 400 * MS);
    rig.end(first, FetchOutcome::Part);
    assert_eq!(take_range(&mut rig).1, second.end..second.end + RANGE);
}

#[test]
fn stream_that_becomes_slow_is_cut_at_the_end_of_a_range() {
    let (mut rig, stream, groups) = streaming();
    let slow_from = groups.start + 4 * RANGE;
    give(&mut rig, stream, groups.start..slow_from, QUICK);
    assert!(rig.take_ranges_of_edge().is_empty());
    give(&mut rig, stream, slow_from..slow_from + BLOCK, Duration::from_secs(2));
    let (_, second) = take_range(&mut rig);
    assert_eq!(second, slow_from + RANGE..slow_from + 2 * RANGE);
    give(&mut rig, stream, slow_from + BLOCK..second.start, QUICK);
    assert!(rig.take_stop(stream), "it would bring what another brings");
    assert_eq!(take_range(&mut rig).1, second.end..second.end + RANGE);
}

#[test]
fn stream_is_cut_when_a_neighbour_fetches_the_blob_too_and_the_rest_left_unclaimed() {
    let (mut rig, stream, groups) = streaming();
    give(&mut rig, stream, groups.start..groups.start + BLOCK, QUICK);
    rig.take_messages(peer(1));
    rig.say(peer(1), fetches_too());
    let cut = groups.start..groups.start + RANGE;
    let claims = told(&mut rig, peer(1)).expect("told");
    let claimed: u64 = claims.iter().map(|(_, count)| count).sum();
    assert!(
        claimed <= FIRST + 2 * RANGE,
        "the ends of both requests, and a range of its own: {claims:?}"
    );
    give(&mut rig, stream, cut.start + BLOCK..cut.end, QUICK);
    assert!(rig.take_stop(stream));
    let asked = rig.take_ranges_of_edge();
    assert!(asked.iter().all(|(_, range)| range.end - range.start <= RANGE), "{asked:?}");
}

#[test]
fn stream_is_cut_when_a_holder_is_found() {
    let (mut rig, stream, groups) = streaming();
    give(&mut rig, stream, groups.start..groups.start + BLOCK, QUICK);
    let holder = rig.neighbour(2, &[hash(1)]);
    rig.answer(holder, hash(1), AskResult::Have { size: SIZE });
    give(&mut rig, stream, groups.start + BLOCK..groups.start + 2 * BLOCK, QUICK);
    let lan: Vec<Range<u64>> = rig
        .outputs
        .iter()
        .filter_map(|output| match output {
            Output::Fetch { source: Source::Peer(_), groups, .. } => groups.clone(),
            _ => None,
        })
        .collect();
    assert!(
        !lan.is_empty() && lan.iter().all(|range| range.start >= groups.start + RANGE),
        "{lan:?}"
    );
    give(&mut rig, stream, groups.start + 2 * BLOCK..groups.start + RANGE, QUICK);
    assert!(rig.take_stop(stream));
}

#[test]
fn stream_that_breaks_is_taken_up_where_it_was() {
    let (mut rig, stream, groups) = streaming();
    let broke = groups.start + 5 * RANGE + BLOCK;
    give(&mut rig, stream, groups.start..broke, QUICK);
    rig.end(stream, FetchOutcome::Failed { detail: "cut".to_owned() });
    let asked = (0..100).find_map(|_| {
        rig.pass(10 * MS);
        rig.take_ranges_of_edge().pop()
    });
    assert_eq!(asked.expect("asked again").1, broke..GROUPS);
}

#[test]
fn stream_that_was_cut_and_brings_the_last_groups_of_all_tells_that_the_blob_is_whole() {
    let (mut rig, stream, groups) = streaming();
    give(&mut rig, stream, groups.start..groups.start + BLOCK, QUICK);
    rig.say(peer(1), fetches_too());
    let others = groups.start + RANGE..GROUPS;
    rig.pass(Duration::from_secs(1));
    let ranges = rig.take_ranges_of_edge();
    let (other, _) = ranges.first().cloned().expect("the rest is asked for beside it");
    give(&mut rig, other, others, QUICK);
    give(&mut rig, stream, groups.start + BLOCK..groups.start + RANGE, QUICK);
    assert!(!rig.take_stop(stream), "who else would say so?");
    rig.end(stream, FetchOutcome::Complete { size: SIZE });
    assert_eq!(rig.engine.resolutions(), 0);
}
