//! Hashing and verification: what a byte costs on the way into a store and out of a stream.

use std::hint::black_box;

use blobmesh_protocol::blob::{BlobHasher, GROUP_LEN, GroupList, ProvisionalList};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const BLOB_LEN: usize = 64 << 20;

/// The pieces in which an importer reads, and those that show what small ones cost.
const PIECES: [(&str, usize); 3] =
    [("pieces of 1 MiB", 1 << 20), ("pieces of 16 KiB", 16 << 10), ("pieces of 1 KiB", 1 << 10)];

fn blob() -> Vec<u8> {
    (0..251u8).cycle().take(BLOB_LEN).collect()
}

fn list_of(blob: &[u8], piece: usize) -> GroupList {
    let mut hasher = BlobHasher::new();
    blob.chunks(piece).for_each(|piece| hasher.update(piece));
    hasher.finish()
}

fn hash(criterion: &mut Criterion) {
    let blob = blob();
    let mut group = criterion.benchmark_group("hash 64 MiB");
    group.throughput(Throughput::Bytes(BLOB_LEN as u64)).sample_size(10);
    for (name, piece) in PIECES {
        group.bench_function(name, |bench| bench.iter(|| list_of(black_box(&blob), piece)));
    }
    group.finish();
}

fn verify(criterion: &mut Criterion) {
    let blob = blob();
    let list = list_of(&blob, 1 << 20);
    let groups = || (0u64..).zip(blob.chunks(1 << 16));
    let mut group = criterion.benchmark_group("verify");
    group.throughput(Throughput::Bytes(GROUP_LEN));
    group.bench_function("one group", |bench| {
        bench.iter(|| list.verify(black_box(500), &blob[500 << 16..501 << 16]));
    });
    group.throughput(Throughput::Bytes(BLOB_LEN as u64)).sample_size(10);
    group.bench_function("all groups of 64 MiB", |bench| {
        bench.iter(|| groups().filter(|(index, bytes)| list.verify(*index, bytes).is_ok()).count());
    });
    group.throughput(Throughput::Elements(list.values().len() as u64));
    group.bench_function("list of 64 MiB, by group", |bench| {
        bench.iter(|| ProvisionalList::check(list.hash(), list.size(), list.values().to_vec()));
    });
    group.finish();
}

criterion_group!(benches, hash, verify);
criterion_main!(benches);
