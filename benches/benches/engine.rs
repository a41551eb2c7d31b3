//! Benches of the engine: what one decision costs.
//!
//! `get_from_neighbour` is a whole get as the engine sees it, from the want to its end, with 64
//! neighbours whose filters must be looked through. `add_and_gossip` is a blob that comes in and is
//! told to 64 neighbours.

#![allow(clippy::wildcard_enum_match_arm, reason = "the outputs a get does not wait for")]

use std::hint::black_box;
use std::time::Duration;

use blobmesh_protocol::engine::{FetchOutcome, Input, LookResult, Output};
use blobmesh_protocol::filter::OwnFilter;
use blobmesh_protocol::id::WantId;
use blobmesh_protocol::wire::message::{AskResult, Hello, Message};
use blobmesh_protocol::{Config, Engine, Hash, PeerId, Time};
use criterion::{Criterion, criterion_group, criterion_main};

const NEIGHBOURS: u8 = 64;
const BLOBS_PER_NEIGHBOUR: u32 = 10_000;

fn blob(neighbour: u8, n: u32) -> Hash {
    Hash::of(&[&[neighbour][..], &n.to_le_bytes()].concat())
}

/// Makes an engine with 64 neighbours that hold 10,000 blobs each.
fn engine() -> Engine {
    let me = PeerId::from_bytes([0xff; 32]);
    let mut engine = Engine::new(Config::default(), me, 1, Time::ZERO);
    engine.handle(Time::ZERO, Input::Settled);
    for neighbour in 0..NEIGHBOURS {
        let peer = PeerId::from_bytes([neighbour; 32]);
        let prefixes: Vec<[u8; 8]> =
            (0..BLOBS_PER_NEIGHBOUR).map(|n| blob(neighbour, n).prefix()).collect();
        let filter = OwnFilter::build(1, prefixes.into_iter());
        engine.handle(Time::ZERO, Input::Connected { peer });
        let messages = [Some(Message::Hello(Hello::ours())), filter.frame().map(Message::Filter)];
        for message in messages.into_iter().flatten() {
            engine.handle(Time::ZERO, Input::Message { peer, message });
        }
    }
    while engine.poll_output().is_some() {}
    engine
}

/// Answers whatever the engine asks for, until it asks for nothing more.
fn drive(engine: &mut Engine, now: Time) {
    while let Some(output) = engine.poll_output() {
        match output {
            Output::Look { look, .. } => {
                engine.handle(now, Input::Looked { look, result: LookResult::Absent });
            }
            Output::Send { peer, message: Message::Ask { id, .. } } => {
                let message = Message::Answer { id, result: AskResult::Have { size: 4_096 } };
                engine.handle(now, Input::Message { peer, message });
            }
            Output::Fetch { fetch, .. } => {
                engine.handle(
                    now,
                    Input::Progress { fetch, bytes: 4_096, groups: 0..1, size: 4_096 },
                );
                let outcome = FetchOutcome::Complete { size: 4_096 };
                engine.handle(now, Input::FetchEnded { fetch, outcome });
            }
            other => {
                black_box(other);
            }
        }
    }
}

fn get_from_neighbour(criterion: &mut Criterion) {
    let mut engine = engine();
    let mut n = 0_u64;
    criterion.bench_function("engine/get_from_neighbour", |bencher| {
        bencher.iter(|| {
            n += 1;
            let now = Time::ZERO + Duration::from_micros(n);
            let index = u32::try_from(n % u64::from(BLOBS_PER_NEIGHBOUR)).unwrap_or(0);
            let hash = blob(3, index);
            engine.handle(now, Input::Get { want: WantId(n), hash, timeout: None });
            drive(&mut engine, now);
        });
    });
}

fn add_and_gossip(criterion: &mut Criterion) {
    let mut engine = engine();
    let mut n = 0_u32;
    criterion.bench_function("engine/add_and_gossip", |bencher| {
        bencher.iter(|| {
            n += 1;
            let now = Time::ZERO + Duration::from_millis(u64::from(n));
            engine.handle(now, Input::Held { hash: blob(0xff, n), advertise: false });
            drive(&mut engine, now);
        });
    });
}

criterion_group!(benches, get_from_neighbour, add_and_gossip);
criterion_main!(benches);
