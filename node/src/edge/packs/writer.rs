//! Writing packs, and publishing what lies in them.

use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::Hash;
use bytes::Bytes;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::format::{self, Entry, FormatError, Place, Segment, SegmentName};
use super::index::{Head, Index, to_merge};
use super::reader::index_task;
use super::{HEAD_PATH, SEGMENT_BLOBS_MAX, pack_path, segment_path};
use crate::edge::error::{Action, Breach, EdgeError, Task};
use crate::edge::s3::{Condition, S3Edge};
use crate::edge::{Backend, CACHE_CONTROL, Edge, files};

/// How often the index is published anew when others were faster.
const RACES_MAX: u32 = 10;
/// The bound of the first pause after a lost race, any part of which is drawn; it grows with each.
const RACE_PAUSE: Duration = Duration::from_millis(100);
/// What caches are told of the head: ask each time whether it has changed.
const HEAD_CACHE_CONTROL: &str = "no-cache";

impl Edge {
    /// Returns whether small blobs of a large push go up in packs here: where requests are billed.
    pub(crate) fn has_packs(&self) -> bool {
        matches!(self.backend, Backend::S3(_))
    }

    /// Writes blobs as one pack, and returns what the index is to say of them. Until that is [published](Self::publish)
    /// nobody finds them.
    ///
    /// # Errors
    /// As of a push; [`EdgeError::Io`] where they are too long together.
    pub(crate) async fn push_pack(
        &self,
        members: Vec<(Hash, Bytes)>,
    ) -> Result<Vec<Entry>, EdgeError> {
        let first = members.first().map_or(Hash::from_bytes([0; 32]), |(hash, _)| *hash);
        let task = Task { action: Action::Push, hash: first };
        let made = made(task, move || {
            let file = format::pack(&members)?;
            let (pack, places) = (Hash::of(&file), format::members(&file)?);
            Ok((pack, Bytes::from(file), places))
        });
        let (pack, file, places) = made.await?;
        let len = u32::try_from(file.len()).map_err(|_| wrong(task, FormatError::Length))?;
        let bucket = self.bucket(task)?;
        bucket.put_object(&pack_path(&pack), file, CACHE_CONTROL, (Condition::None, task)).await?;
        let entry = |(hash, range): (Hash, std::ops::Range<usize>)| {
            let offset = u32::try_from(range.start).ok()?;
            let size = u64::try_from(range.len()).ok()?;
            Some(Entry { hash, size, place: Place::Pack { pack, len, offset } })
        };
        Ok(places.into_iter().filter_map(entry).collect())
    }

    /// Adds to the index, with two requests a segment where nobody else does at the same time. What others have added stays.
    ///
    /// Dropping the future leaves the index as it was or with some or all of the entries.
    ///
    /// # Errors
    /// [`EdgeError::Changed`] where others were faster again and again; as of a push.
    pub(crate) async fn publish(&self, entries: &[Entry]) -> Result<(), EdgeError> {
        for entries in entries.chunks(SEGMENT_BLOBS_MAX) {
            self.publish_segment(entries).await?;
        }
        Ok(())
    }

    async fn publish_segment(&self, entries: &[Entry]) -> Result<(), EdgeError> {
        let task = index_task();
        let bucket = self.bucket(task)?;
        let mut written: Vec<Hash> = Vec::new();
        for race in 0..RACES_MAX {
            let index = self.index_to_write(race).await?;
            // The answer to a write that was made may have been lost.
            if index.names.iter().any(|name| written.contains(&name.hash)) {
                return Ok(());
            }
            let (segment, names) = next(task, &index, entries.to_vec()).await?;
            let segment = Arc::new(segment);
            if !written.contains(&segment.hash) {
                let (path, file) = (segment_path(&segment.hash), segment.file().clone());
                bucket.put_object(&path, file, CACHE_CONTROL, (Condition::None, task)).await?;
                written.push(segment.hash);
            }
            let head = format::head(&names).map_err(|error| wrong(task, error))?;
            let condition = match &index.head {
                Head::Known { tag } => Condition::Is(tag.clone().ok_or_else(|| foreign(task))?),
                Head::Unknown | Head::Absent => Condition::Absent,
                Head::Foreign => return Err(foreign(task)),
            };
            let head = Bytes::from(head);
            match bucket.put_object(HEAD_PATH, head, HEAD_CACHE_CONTROL, (condition, task)).await {
                Ok(tag) => {
                    self.published(index, (names, segment), tag);
                    return Ok(());
                }
                Err(EdgeError::Changed { .. }) => debug!(race, "another node was faster"),
                Err(error) => return Err(error),
            }
        }
        Err(EdgeError::Changed { task })
    }

    /// Returns the index that the next one is made of: the one that is known, and after a lost race the new one.
    async fn index_to_write(&self, race: u32) -> Result<Index, EdgeError> {
        if race > 0 {
            let bound = RACE_PAUSE * race;
            let part = u32::from(getrandom::u64().unwrap_or_default().to_le_bytes()[0]);
            sleep(bound * part / 255).await;
        }
        if race > 0 || self.packs.index().head == Head::Unknown {
            self.look().await?;
        }
        Ok(self.packs.index().clone())
    }

    /// Takes in what this node has published.
    fn published(
        &self,
        index: Index,
        (names, segment): (Vec<SegmentName>, Arc<Segment>),
        tag: Option<String>,
    ) {
        let mut segments = index.segments;
        segments.retain(|held| names.iter().any(|name| name.hash == held.hash));
        segments.push(segment);
        let mut known = self.packs.index();
        known.learn(Head::Known { tag }, (names, segments), true, Instant::now());
    }

    fn bucket(&self, task: Task) -> Result<&S3Edge, EdgeError> {
        match &self.backend {
            Backend::S3(bucket) => Ok(bucket),
            Backend::Directory(_) | Backend::Public(_) => Err(EdgeError::ReadOnly { task }),
        }
    }
}

/// Makes the next segment, of new entries and of what is merged with them, and the names of all that count then.
async fn next(
    task: Task,
    index: &Index,
    entries: Vec<Entry>,
) -> Result<(Segment, Vec<SegmentName>), EdgeError> {
    let merged = to_merge(&index.segments, entries.len());
    let gone: Vec<Hash> = merged.iter().map(|segment| segment.hash).collect();
    let segment = made(task, move || {
        let older = merged.iter().rev().flat_map(|segment| segment.entries());
        Segment::build(entries.into_iter().chain(older).collect())
    });
    let segment = segment.await?;
    let stays = |name: &&SegmentName| !gone.contains(&name.hash) && name.hash != segment.hash;
    let mut names: Vec<_> = index.names.iter().filter(stays).copied().collect();
    names.push(SegmentName::of(&segment).map_err(|error| wrong(task, error))?);
    Ok((segment, names))
}

/// Makes a file on a thread that may block.
async fn made<T: Send + 'static>(
    task: Task,
    make: impl FnOnce() -> Result<T, FormatError> + Send + 'static,
) -> Result<T, EdgeError> {
    let made = files::blocking(move || make().map_err(std::io::Error::other)).await;
    made.map_err(|error| EdgeError::io(task, None, error))
}

fn wrong(task: Task, error: FormatError) -> EdgeError {
    EdgeError::io(task, None, std::io::Error::other(error))
}

fn foreign(task: Task) -> EdgeError {
    EdgeError::Protocol { task, breach: Breach::ForeignIndex }
}
