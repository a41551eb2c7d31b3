//! Reading blobs out of packs, and the index that leads to them.

use std::sync::Arc;

use blobmesh_protocol::Hash;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream};
use tokio::time::Instant;
use tracing::debug;

use super::format::{self, Entry, Place, Segment, SegmentName};
use super::index::{Head, worth_holding};
use super::shelf::{Pack, Way};
use super::{HEAD_PATH, pack_path, segment_path};
use crate::edge::error::{Action, Breach, EdgeError, Task};
use crate::edge::object::{Object, Wanted};
use crate::edge::policy::Ask;
use crate::edge::{Edge, files};

/// How many segments are read at once.
const SEGMENTS_AT_ONCE: usize = 8;

impl Edge {
    /// Returns what the index that is known says of a blob.
    pub(in crate::edge) fn indexed(&self, hash: &Hash) -> Option<Entry> {
        self.packs.index().find(hash)
    }

    /// Reads a blob out of its pack, and checks its hash. None where the index that is known does not say that it lies
    /// in one, or was wrong to say so.
    ///
    /// # Errors
    /// What may pass; whatever else is wrong with a pack or the index is no reason to fail.
    pub(in crate::edge) async fn packed(&self, task: Task) -> Result<Option<Bytes>, EdgeError> {
        let Some(entry) = self.indexed(&task.hash) else { return Ok(None) };
        let Place::Pack { pack, len, offset } = entry.place else { return Ok(None) };
        let way = self.packs.shelf().way(&pack);
        let found = match way {
            Way::Useless => return Ok(None),
            Way::Held(held) => held.member(&task.hash),
            Way::Alone => self.member(task, pack, (offset, entry.size, len)).await?,
            Way::Whole => {
                let held = self.pack(task, pack, len).await?;
                held.and_then(|held| held.member(&task.hash))
            }
        };
        if found.is_none() {
            debug!(hash = task.hash.fmt_short(), pack = pack.fmt_short(), "the index is wrong");
        }
        Ok(found)
    }

    /// Looks at the index again, after a miss, unless somebody did lately. That it cannot be read is no reason to
    /// fail.
    pub(in crate::edge) async fn look_after_miss(&self) {
        if !self.packs.index().is_due(Instant::now()) {
            return;
        }
        if let Err(error) = self.look().await {
            debug!(%error, "the index of the edge cannot be read");
        }
    }

    /// Looks at the index again, with one request where nothing has changed.
    pub(super) async fn look(&self) -> Result<(), EdgeError> {
        let edge = self.clone();
        self.packs.looking.join((), || async move { edge.look_once().await }.boxed()).await
    }

    async fn look_once(&self) -> Result<(), EdgeError> {
        let task = index_task();
        let tag = match &self.packs.index().head {
            Head::Known { tag } => tag.clone(),
            Head::Unknown | Head::Absent | Head::Foreign => None,
        };
        let len_max = u64::try_from(format::head_len_max()).unwrap_or(u64::MAX);
        let wanted = Wanted { unless: tag.as_deref(), ..Wanted::whole(HEAD_PATH, len_max) };
        let asked = self.object(Ask::Push, task, &wanted).await;
        let now = Instant::now();
        match asked {
            Ok(None) => self.packs.index().is_as_before(now),
            Ok(Some(head)) => return self.take_head(head).await,
            Err(EdgeError::NotFound { .. }) => {
                self.packs.index().learn(Head::Absent, (Vec::new(), Vec::new()), true, now);
            }
            Err(error) => {
                self.packs.index().is_silent(now);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes in a head, and reads those of its segments that are not held.
    async fn take_head(&self, Object { bytes, tag }: Object) -> Result<(), EdgeError> {
        let names = match format::segments(&bytes) {
            Ok(names) => names,
            Err(error) => {
                debug!(%error, "the head of the edge's index is not usable");
                let (none, now) = ((Vec::new(), Vec::new()), Instant::now());
                self.packs.index().learn(Head::Foreign, none, true, now);
                return Ok(());
            }
        };
        let read = stream::iter(worth_holding(&names)).map(|name| async move {
            let held = self.packs.index().held(&name);
            match held {
                Some(held) => Ok(Some(held)),
                None => self.segment(&name).await,
            }
        });
        let read: Vec<_> = read.buffered(SEGMENTS_AT_ONCE).collect().await;
        let all = read.iter().all(Result::is_ok);
        let segments = read.into_iter().filter_map(|read| read.ok().flatten()).collect();
        self.packs.index().learn(Head::Known { tag }, (names, segments), all, Instant::now());
        self.packs.shelf().forgive();
        Ok(())
    }

    /// Reads a segment; none where it is not there or not what its name says.
    async fn segment(&self, name: &SegmentName) -> Result<Option<Arc<Segment>>, EdgeError> {
        let hash = name.hash;
        let path = segment_path(&hash);
        let wanted = Wanted::whole(&path, name.len);
        let task = index_task();
        let read = match self.object(Ask::Bytes(hash, 0), task, &wanted).await {
            Ok(Some(Object { bytes, .. })) => {
                let read = files::blocking(move || Ok(Segment::read(hash, bytes))).await;
                read.map_err(|error| EdgeError::io(task, None, error))?
            }
            Err(error) if error.is_temporary() => return Err(error),
            Ok(None) | Err(_) => return Ok(None),
        };
        match read {
            Ok(segment) => Ok(Some(Arc::new(segment))),
            Err(error) => {
                debug!(segment = hash.fmt_short(), %error, "a segment of the index is not usable");
                Ok(None)
            }
        }
    }

    /// Reads one blob out of a pack.
    async fn member(
        &self,
        task: Task,
        pack: Hash,
        (offset, size, len): (u32, u64, u32),
    ) -> Result<Option<Bytes>, EdgeError> {
        let start = u64::from(offset);
        let bytes = match size {
            0 => Some(Bytes::new()),
            _ => {
                let path = pack_path(&pack);
                let wanted = Wanted::part(&path, start..start + size);
                match self.object(Ask::Bytes(pack, start), task, &wanted).await {
                    // An edge that knows no ranges gives all of it.
                    Err(EdgeError::Protocol { breach: Breach::TooLarge { .. }, .. }) => {
                        let held = self.pack(task, pack, len).await?;
                        return Ok(held.and_then(|held| held.member(&task.hash)));
                    }
                    read => self.usable(pack, read)?,
                }
            }
        };
        let Some(bytes) = bytes else { return Ok(None) };
        let hash = task.hash;
        let right = files::blocking(move || Ok((Hash::of(&bytes) == hash).then_some(bytes))).await;
        right.map_err(|error| EdgeError::io(task, None, error))
    }

    /// Reads a whole pack, once for all who want something of it, and keeps it.
    async fn pack(&self, task: Task, hash: Hash, len: u32) -> Result<Option<Arc<Pack>>, EdgeError> {
        let edge = self.clone();
        let read = async move { edge.read_pack(task, hash, len).await };
        let read = self.packs.fetching.join(hash, || read.boxed()).await;
        read.map_err(|error| error.of_task(task))
    }

    async fn read_pack(
        &self,
        task: Task,
        hash: Hash,
        len: u32,
    ) -> Result<Option<Arc<Pack>>, EdgeError> {
        // Never closed.
        let _way = self.packs.ways.acquire().await.ok();
        let path = pack_path(&hash);
        let wanted = Wanted::whole(&path, u64::from(len));
        let read = self.object(Ask::Bytes(hash, 0), task, &wanted).await;
        let file = self.usable(hash, read)?;
        let Some(file) = file else { return Ok(None) };
        let read = files::blocking(move || Ok(Pack::read(file))).await;
        match read.map_err(|error| EdgeError::io(task, None, error))? {
            Ok(pack) => {
                let pack = Arc::new(pack);
                self.packs.shelf().keep(hash, Arc::clone(&pack));
                Ok(Some(pack))
            }
            Err(error) => {
                debug!(pack = hash.fmt_short(), %error, "a pack is not usable");
                self.packs.shelf().is_useless(hash);
                Ok(None)
            }
        }
    }

    /// Returns what was read of a pack; none where that cannot be had, which is remembered.
    fn usable(
        &self,
        pack: Hash,
        read: Result<Option<Object>, EdgeError>,
    ) -> Result<Option<Bytes>, EdgeError> {
        match read {
            Ok(object) => Ok(object.map(|object| object.bytes)),
            Err(error) if error.is_temporary() => Err(error),
            Err(error) => {
                debug!(pack = pack.fmt_short(), %error, "a pack cannot be read");
                self.packs.shelf().is_useless(pack);
                Ok(None)
            }
        }
    }

    /// Reads an object that is no blob; none where it is as before.
    async fn object(
        &self,
        ask: Ask,
        task: Task,
        wanted: &Wanted<'_>,
    ) -> Result<Option<Object>, EdgeError> {
        let read = || self.backend.object(task, wanted);
        let (object, flight) = self.policy.run(ask, task, read).await?;
        flight.served();
        Ok(object)
    }
}

/// Names work on the index, which is about no blob.
pub(super) fn index_task() -> Task {
    Task { action: Action::Index, hash: Hash::from_bytes([0; 32]) }
}
