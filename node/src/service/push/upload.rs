//! One upload: a pack of small blobs, or a blob.

use std::io;
use std::sync::Arc;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{GROUP_LEN, GroupList};
use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;

use super::plan::Item;
use super::tally::Tally;
use crate::compute;
use crate::control::api::Failure;
use crate::driver::describe;
use crate::edge::packs::{Entry, Presence};
use crate::edge::{Edge, EdgeError};
use crate::store::{BlobReader, SmallRead, Store, StoreError};

/// How many bytes uploads hold in memory together, in MiB. A blob counts as far as it is held: up to 64 MiB.
const UPLOADS_MIB_MAX: u32 = 128;
const BLOB_MIB_MAX: u64 = 64;

/// Is what goes up by one upload.
#[derive(Debug)]
pub(super) enum Load {
    Pack(Vec<Item>),
    Blob(Item),
}

/// Is what came of one.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// What the edge has now.
    pub(super) entries: Vec<Entry>,
    pub(super) existed: bool,
    pub(super) packed: bool,
    /// What failed, and whether everything else would.
    pub(super) failures: Vec<(Failure, bool)>,
}

/// Is what every upload needs.
pub(super) struct Upload<'a> {
    store: &'a Store,
    pub(super) edge: &'a Edge,
    /// Gives a permit for each MiB that an upload holds.
    memory: Semaphore,
    pub(super) tally: Tally,
}

impl<'a> Upload<'a> {
    pub(super) fn new(store: &'a Store, edge: &'a Edge, tally: Tally) -> Self {
        Self { store, edge, memory: Semaphore::new(UPLOADS_MIB_MAX as usize), tally }
    }

    pub(super) async fn send(&self, load: Load) -> Sent {
        let bytes = match &load {
            Load::Pack(items) => items.iter().map(|item| item.size).sum(),
            Load::Blob(item) => item.size,
        };
        let mib = bytes.div_ceil(1 << 20).clamp(1, BLOB_MIB_MAX);
        // Never closed.
        let _held = self.memory.acquire_many(u32::try_from(mib).unwrap_or(UPLOADS_MIB_MAX)).await;
        match load {
            Load::Pack(items) => self.pack(items).await,
            Load::Blob(item) => self.blob(item).await,
        }
    }

    /// Sends blobs as a pack, without those that cannot be read.
    async fn pack(&self, items: Vec<Item>) -> Sent {
        let read = compute::store(self.store, move |store| Ok(read_members(store, &items))).await;
        let (members, unread) = match read {
            Ok(read) => read,
            Err(error) => (Vec::new(), vec![error]),
        };
        let failures = unread.into_iter().map(|error| (Failure::from(error), false)).collect();
        let mut sent = Sent { packed: true, failures, ..Sent::default() };
        if members.is_empty() {
            return sent;
        }
        match self.edge.push_pack(members).await {
            Ok(entries) => {
                self.tally.bytes_done(entries.iter().map(|entry| entry.size).sum());
                sent.entries = entries;
            }
            Err(error) => sent.failures.push((failure(&error), is_hopeless(&error))),
        }
        sent
    }

    async fn blob(&self, item: Item) -> Sent {
        let hash = item.hash;
        let (reader, list) = match compute::store(self.store, move |store| open(store, hash)).await
        {
            Ok(open) => open,
            Err(error) => return Sent::failed(Failure::from(error), false),
        };
        let size = reader.size();
        let mut told = 0;
        let progress = |written: u64| {
            self.tally.bytes_done(written.saturating_sub(told));
            told = written.max(told);
        };
        let absent = item.presence == Presence::Absent;
        let pushed = self.edge.push_blob((&hash, size, absent), &list, source_of(reader), progress);
        match pushed.await {
            Ok(pushed) => {
                self.tally.bytes_done(size.saturating_sub(told));
                let entries = vec![Entry::alone(hash, size)];
                Sent { entries, existed: pushed.existed, ..Sent::default() }
            }
            Err(error) => Sent::failed(failure(&error), is_hopeless(&error)),
        }
    }
}

impl Sent {
    fn failed(failure: Failure, hopeless: bool) -> Self {
        Self { failures: vec![(failure, hopeless)], ..Self::default() }
    }
}

/// Reads small blobs, and checks them: what has rotted is not pushed. Returns the failures beside them.
fn read_members(store: &Store, items: &[Item]) -> (Vec<(Hash, Bytes)>, Vec<StoreError>) {
    let (mut members, mut unread) = (Vec::with_capacity(items.len()), Vec::new());
    for Item { hash, size, .. } in items {
        let mut bytes = Vec::new();
        match store.read_passing(hash, *size, &mut bytes) {
            Ok(SmallRead::Whole) => members.push((*hash, Bytes::from(bytes))),
            Ok(_) => unread.push(StoreError::Absent { hash: *hash }),
            Err(error) => unread.push(error),
        }
    }
    (members, unread)
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

/// Returns whether every other upload would fail in the same way.
pub(super) fn is_hopeless(error: &EdgeError) -> bool {
    match error {
        EdgeError::NotPublic { .. }
        | EdgeError::BadCredentials { .. }
        | EdgeError::ClockSkew { .. }
        | EdgeError::ReadOnly { .. }
        | EdgeError::LeftAlone { .. }
        | EdgeError::Config { .. } => true,
        EdgeError::Busy { retry_after, .. } => retry_after.is_some(),
        EdgeError::NotFound { .. }
        | EdgeError::Refused { .. }
        | EdgeError::Changed { .. }
        | EdgeError::Unreachable { .. }
        | EdgeError::Stalled { .. }
        | EdgeError::Cut { .. }
        | EdgeError::Protocol { .. }
        | EdgeError::Range { .. }
        | EdgeError::WrongList { .. }
        | EdgeError::Io { .. } => false,
    }
}

pub(super) fn failure(error: &EdgeError) -> Failure {
    Failure::new(error.trouble(), describe(error))
}
