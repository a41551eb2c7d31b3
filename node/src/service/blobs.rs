//! Requests that work on the store alone.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blobmesh_protocol::Hash;
use tokio::sync::mpsc;
use tokio::time::interval;

use super::{Inner, parse_all};
use crate::compute;
use crate::control::api::{Answer, BlobRow, Event, Exchange, Failure, Progress, Trouble};
use crate::store::{Added, Origin, Store, StoreError};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

impl Inner {
    pub(super) async fn add(
        &self,
        path: Option<PathBuf>,
        pin: bool,
        exchange: Exchange,
    ) -> Result<Answer, Failure> {
        let added = match path {
            Some(path) => self.add_file(path, &exchange.events).await?,
            None => self.add_stream(exchange.input).await?,
        };
        if pin {
            compute::store(&self.store, move |store| store.pin(&added.hash)).await?;
        }
        if let Some(driver) = &self.driver {
            driver.held(added.hash).await?;
        }
        let Added { hash, size, existed } = added;
        Ok(Answer::Added { hash: hash.to_hex(), size, existed })
    }

    async fn add_file(
        &self,
        path: PathBuf,
        events: &mpsc::Sender<Event>,
    ) -> Result<Added, Failure> {
        if !path.is_absolute() {
            return Err(Failure::new(Trouble::Usage, "the path is not absolute"));
        }
        let done = Arc::new(AtomicU64::new(0));
        let (count, size_of) = (Arc::clone(&done), path.clone());
        let total = compute::run(move || std::fs::metadata(size_of).map(|meta| meta.len()).ok());
        let total = total.await?;
        let add = compute::store(&self.store, move |store| {
            store.add_file(&path, &mut |bytes| count.store(bytes, Ordering::Relaxed))
        });
        tokio::select! {
            biased;
            added = add => Ok(added?),
            never = tell_progress("hash", &done, total, events) => match never {},
        }
    }

    /// Adds the bytes of the exchange's input, as they come.
    async fn add_stream(
        &self,
        mut input: mpsc::Receiver<std::io::Result<bytes::Bytes>>,
    ) -> Result<Added, Failure> {
        let store = self.store.clone();
        compute::run(move || {
            let mut writer = store.add_writer()?;
            while let Some(bytes) = input.blocking_recv() {
                let unread = |error| {
                    Failure::new(Trouble::File, format!("failed to read the input: {error}"))
                };
                writer.write(&bytes.map_err(unread)?)?;
            }
            Ok(writer.finish()?)
        })
        .await?
    }

    pub(super) async fn has(&self, hashes: &[String]) -> Result<Answer, Failure> {
        let hashes = parse_all(hashes)?;
        let sizes = compute::store(&self.store, move |store| {
            let size = |hash: &Hash| Ok(store.find(hash)?.map(|found| found.size));
            hashes.iter().map(size).collect()
        });
        Ok(Answer::Has { sizes: sizes.await? })
    }

    pub(super) async fn list(&self) -> Result<Answer, Failure> {
        let blobs = compute::store(&self.store, |store| store.list()).await?;
        let mut rows: Vec<BlobRow> = blobs
            .into_iter()
            .map(|(hash, blob)| BlobRow {
                hash: hash.to_hex(),
                size: blob.size,
                pinned: blob.pinned,
                origin: match blob.origin {
                    Origin::Added => "added".to_owned(),
                    Origin::Fetched => "fetched".to_owned(),
                },
                accessed: blob.accessed,
            })
            .collect();
        rows.sort_by(|a, b| a.hash.cmp(&b.hash));
        Ok(Answer::List { blobs: rows })
    }

    /// Removes all of them or, where one is missing or pinned, none.
    pub(super) async fn remove(&self, hashes: &[String], force: bool) -> Result<Answer, Failure> {
        let hashes = parse_all(hashes)?;
        let targets = hashes.clone();
        let freed = compute::store(&self.store, move |store| {
            for hash in &targets {
                match store.find(hash)? {
                    None => return Err(StoreError::Absent { hash: *hash }),
                    Some(found) if found.pinned && !force => {
                        return Err(StoreError::Pinned { hash: *hash });
                    }
                    Some(_) => {}
                }
            }
            targets.iter().map(|hash| store.remove(hash, force)).collect::<Result<Vec<_>, _>>()
        });
        let freed = freed.await?;
        if let Some(driver) = &self.driver {
            for hash in hashes {
                driver.gone(hash).await?;
            }
        }
        let blobs = super::len_u64(freed.iter().flatten().count());
        Ok(Answer::Removed { bytes: freed.iter().flatten().sum(), blobs })
    }

    pub(super) async fn pin(&self, hashes: &[String]) -> Result<Answer, Failure> {
        let hashes = parse_all(hashes)?;
        self.for_each(hashes.clone(), Store::pin).await?;
        if let Some(driver) = &self.driver {
            for hash in hashes {
                driver.held(hash).await?;
            }
        }
        Ok(Answer::Done)
    }

    pub(super) async fn unpin(&self, hashes: &[String]) -> Result<Answer, Failure> {
        self.for_each(parse_all(hashes)?, Store::unpin).await?;
        Ok(Answer::Done)
    }

    pub(super) async fn verify(
        &self,
        hashes: &[String],
        exchange: &Exchange,
    ) -> Result<Answer, Failure> {
        let mut hashes = parse_all(hashes)?;
        if hashes.is_empty() {
            hashes = compute::store(&self.store, |store| store.hashes()).await?;
        }
        let done = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&done);
        let work = compute::store(&self.store, move |store| verify(store, &hashes, &count));
        let (blobs, bytes, bad) = tokio::select! {
            biased;
            verified = work => verified?,
            never = tell_progress("verify", &done, None, &exchange.events) => match never {},
        };
        if let Some(driver) = &self.driver {
            for hash in &bad {
                driver.gone(*hash).await?;
            }
        }
        Ok(Answer::Verified { blobs, bytes, bad: bad.iter().map(Hash::to_hex).collect() })
    }

    pub(super) async fn gc(&self) -> Result<Answer, Failure> {
        let collected = compute::store(&self.store, |store| store.gc()).await?;
        Ok(Answer::Collected { blobs: collected.blobs, bytes: collected.bytes })
    }

    async fn for_each(
        &self,
        hashes: Vec<Hash>,
        work: fn(&Store, &Hash) -> Result<(), StoreError>,
    ) -> Result<(), Failure> {
        let each = move |store: &Store| hashes.iter().try_for_each(|hash| work(store, hash));
        Ok(compute::store(&self.store, each).await?)
    }
}

/// Verifies blobs and returns how many there were, their bytes, and the bad ones.
fn verify(
    store: &Store,
    hashes: &[Hash],
    done: &AtomicU64,
) -> Result<(u64, u64, Vec<Hash>), StoreError> {
    let (mut blobs, mut bytes, mut bad) = (0, 0, Vec::new());
    for hash in hashes {
        let size = store.find(hash)?.ok_or(StoreError::Absent { hash: *hash })?.size;
        if !store.verify(hash)? {
            bad.push(*hash);
        }
        blobs += 1;
        bytes += size;
        done.store(bytes, Ordering::Relaxed);
    }
    Ok((blobs, bytes, bad))
}

/// Tells progress until it is dropped.
pub(super) async fn tell_progress(
    phase: &str,
    done: &AtomicU64,
    total: Option<u64>,
    events: &mpsc::Sender<Event>,
) -> std::convert::Infallible {
    let mut pace = interval(PROGRESS_INTERVAL);
    loop {
        pace.tick().await;
        let done = done.load(Ordering::Relaxed);
        let progress = Progress { phase: phase.to_owned(), done, total, peers: 0 };
        // A reader that is behind misses some: the next one says more.
        events.try_send(Event::Progress(progress)).ok();
    }
}
