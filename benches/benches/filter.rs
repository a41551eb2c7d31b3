//! Filters: what it costs to keep our own, to ask a neighbour's, and to check one that arrives.

use std::hint::black_box;

use blobmesh_protocol::Hash;
use blobmesh_protocol::filter::{FilterFrame, OwnFilter, PeerFilter};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const COUNTS: [u64; 2] = [10_000, 1_000_000];

/// How many different hashes a bench of single operations goes through.
const ASKED: u64 = 4_096;

fn hashes(from: u64, count: u64) -> Vec<Hash> {
    (from..from + count).map(|number| Hash::of(&number.to_le_bytes())).collect()
}

fn own(hashes: &[Hash]) -> OwnFilter {
    let prefixes: Vec<_> = hashes.iter().map(Hash::prefix).collect();
    OwnFilter::build(1, prefixes.into_iter())
}

fn frame(own: &OwnFilter) -> FilterFrame {
    own.frame().expect("a filter within its capacity is gossiped")
}

fn build_and_insert(criterion: &mut Criterion) {
    for count in COUNTS {
        let held = hashes(0, count);
        let added: Vec<_> = hashes(count, ASKED).iter().map(Hash::prefix).collect();
        let mut group = criterion.benchmark_group(format!("own filter of {count}"));
        group.throughput(Throughput::Elements(count)).sample_size(10);
        group.bench_function("build", |bench| bench.iter(|| own(black_box(&held))));
        group.throughput(Throughput::Elements(ASKED));
        group.bench_function("insert", |bench| {
            let insert_all = |mut filter: OwnFilter| {
                added.iter().filter(|prefix| filter.insert(**prefix)).count()
            };
            bench.iter_batched(|| own(&held), insert_all, BatchSize::LargeInput);
        });
        group.finish();
    }
}

fn ask(criterion: &mut Criterion) {
    for count in COUNTS {
        let held = hashes(0, count);
        let peer = PeerFilter::accept(frame(&own(&held))).expect("an honest filter");
        let absent = hashes(count, ASKED);
        let mut group = criterion.benchmark_group(format!("neighbour's filter of {count}"));
        group.throughput(Throughput::Elements(ASKED));
        let asked = usize::try_from(ASKED).unwrap_or(usize::MAX);
        for (name, hashes) in [("hit", &held[..asked]), ("miss", &absent[..])] {
            group.bench_function(format!("may_hold, {name}"), |bench| {
                bench.iter(|| hashes.iter().filter(|hash| peer.may_hold(black_box(hash))).count());
            });
        }
        group.finish();
    }
}

fn accept(criterion: &mut Criterion) {
    for count in COUNTS {
        let frame = frame(&own(&hashes(0, count)));
        let mut group = criterion.benchmark_group(format!("frame of a filter of {count}"));
        group.throughput(Throughput::Bytes(frame.bits.len() as u64));
        group.bench_function("accept", |bench| {
            bench.iter_batched(|| frame.clone(), PeerFilter::accept, BatchSize::LargeInput);
        });
        group.finish();
    }
}

criterion_group!(benches, build_and_insert, ask, accept);
criterion_main!(benches);
