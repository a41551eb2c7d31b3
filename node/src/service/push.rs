//! Uploads to the edge.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{GROUP_LEN, GroupList};
use bytes::{Bytes, BytesMut};

use super::blobs::tell_progress;
use super::{Inner, parse_all};
use crate::compute;
use crate::control::api::{Answer, Exchange, Failure, Trouble};
use crate::driver::describe;
use crate::edge::{Edge, EdgeError};
use crate::store::{BlobReader, Store, StoreError};

impl Inner {
    pub(super) async fn push(
        &self,
        hashes: &[String],
        exchange: &Exchange,
    ) -> Result<Answer, Failure> {
        let hashes = parse_all(hashes)?;
        let Some(edge) = &self.edge else {
            return Err(Failure::new(Trouble::EdgeReadOnly, "no edge is configured"));
        };
        let wanted = hashes.clone();
        let sizes = compute::store(&self.store, move |store| sizes(store, &wanted)).await?;
        let total: u64 = sizes.iter().sum();
        let done = Arc::new(AtomicU64::new(0));
        let work = push_all(&self.store, edge, &hashes, &done);
        tokio::select! {
            biased;
            pushed = work => pushed,
            never = tell_progress("push", &done, Some(total), &exchange.events) => match never {},
        }
    }
}

/// Returns the sizes of blobs that are all in the store.
fn sizes(store: &Store, hashes: &[Hash]) -> Result<Vec<u64>, StoreError> {
    let size = |hash: &Hash| Ok(store.find(hash)?.ok_or(StoreError::Absent { hash: *hash })?.size);
    hashes.iter().map(size).collect()
}

async fn push_all(
    store: &Store,
    edge: &Edge,
    hashes: &[Hash],
    done: &Arc<AtomicU64>,
) -> Result<Answer, Failure> {
    let (mut uploaded, mut existed, mut bytes, mut before) = (0, 0, 0, 0);
    for hash in hashes {
        let hash = *hash;
        let (reader, list) = compute::store(store, move |store| open(store, hash)).await?;
        let size = reader.size();
        let count = Arc::clone(done);
        let progress = move |written| count.store(before + written, Ordering::Relaxed);
        let source = source_of(reader);
        let pushed = edge.push(&hash, size, &list, source, progress).await.map_err(failure)?;
        if pushed.existed {
            existed += 1;
        } else {
            uploaded += 1;
            bytes += size;
        }
        before += size;
        done.store(before, Ordering::Relaxed);
    }
    Ok(Answer::Pushed { uploaded, existed, bytes })
}

fn open(store: &Store, hash: Hash) -> Result<(BlobReader, Arc<GroupList>), StoreError> {
    let reader = store.open_blob(&hash)?.ok_or(StoreError::Absent { hash })?;
    let list = reader.list()?;
    Ok((reader, list))
}

/// Gives an upload its bytes, group by verified group: what has rotted is not pushed.
fn source_of(reader: BlobReader) -> impl FnMut(u64, usize) -> io::Result<Bytes> + Send + 'static {
    let mut group = Vec::new();
    move |offset, len| {
        let end = offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        let mut bytes = BytesMut::with_capacity(len);
        for index in offset / GROUP_LEN..end.div_ceil(GROUP_LEN) {
            reader.read_group(index, &mut group).map_err(io::Error::other)?;
            let start = index * GROUP_LEN;
            let from = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
            let to = usize::try_from(end - start).unwrap_or(usize::MAX).min(group.len());
            bytes.extend_from_slice(group.get(from..to).unwrap_or_default());
        }
        Ok(bytes.freeze())
    }
}

fn failure(error: EdgeError) -> Failure {
    Failure::new(error.trouble(), describe(&error))
}
