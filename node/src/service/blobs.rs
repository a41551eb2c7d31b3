//! Requests that work on the store alone.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blobmesh_protocol::Hash;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::interval;

use super::{Inner, parse_all};
use crate::compute;
use crate::control::api::{Answer, BlobRow, Event, Exchange, Failure, Input, Progress, Trouble};
use crate::driver::DriverHandle;
use crate::stop::{Stop, StopOnDrop};
use crate::store::{Added, Origin, Store, StoreError};
use crate::tree::closure;

/// How often progress is told.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// Of how many blobs at once the files are looked for that the index does not know; of more its word is enough.
const LOOKED_FOR_MAX: usize = 64;

impl Inner {
    pub(super) async fn add(
        &self,
        path: Option<PathBuf>,
        pin: bool,
        exchange: Exchange,
    ) -> Result<Answer, Failure> {
        let added = match path {
            Some(path) => self.add_file(path, pin, &exchange.events).await?,
            None => self.add_stream(pin, exchange.input).await?,
        };
        let Added { hash, size, existed } = added;
        Ok(Answer::Added { hash: hash.to_hex(), size, existed })
    }

    async fn add_file(
        &self,
        path: PathBuf,
        pin: bool,
        events: &mpsc::Sender<Event>,
    ) -> Result<Added, Failure> {
        if !path.is_absolute() {
            return Err(Failure::new(Trouble::Usage, "the path is not absolute"));
        }
        let done = Arc::new(AtomicU64::new(0));
        let (count, size_of) = (Arc::clone(&done), path.clone());
        let total = compute::run(move || std::fs::metadata(size_of).map(|meta| meta.len()).ok());
        let total = total.await?;
        let driver = self.driver.clone();
        let add = compute::store(&self.store, move |store| {
            let added =
                store.add_file(&path, &mut |bytes| count.store(bytes, Ordering::Relaxed))?;
            welcome(store, driver.as_ref(), added, pin)
        });
        tokio::select! {
            biased;
            added = add => Ok(added?),
            never = tell_progress("hash", &done, total, events) => match never {},
        }
    }

    /// Adds the bytes of the exchange's input, as they come. Of an input that is cut, as by a client that was
    /// killed, nothing is kept.
    async fn add_stream(
        &self,
        pin: bool,
        mut input: mpsc::Receiver<std::io::Result<Input>>,
    ) -> Result<Added, Failure> {
        let (store, driver) = (self.store.clone(), self.driver.clone());
        compute::run(move || {
            let mut writer = store.add_writer()?;
            while let Some(bytes) = next_bytes(&mut input)? {
                writer.write(&bytes)?;
            }
            Ok(welcome(&store, driver.as_ref(), writer.finish()?, pin)?)
        })
        .await?
    }

    pub(super) async fn has(&self, hashes: &[String]) -> Result<Answer, Failure> {
        let hashes = parse_all(hashes)?;
        let sizes = compute::store(&self.store, move |store| {
            if hashes.len() > LOOKED_FOR_MAX {
                return store.sizes(&hashes);
            }
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
        let driver = self.driver.clone();
        let removed: HashSet<Hash> = hashes.iter().copied().collect();
        let freed = compute::store(&self.store, move |store| {
            for hash in &hashes {
                match store.find(hash)? {
                    None => return Err(StoreError::Absent { hash: *hash }),
                    Some(found) if found.pinned && !force => {
                        return Err(StoreError::Pinned { hash: *hash });
                    }
                    Some(_) => {}
                }
            }
            let remove = |hash: &Hash| {
                let freed = store.remove(hash, force)?;
                driver.iter().for_each(|driver| driver.gone(*hash));
                Ok(freed)
            };
            hashes.iter().map(remove).collect::<Result<Vec<_>, StoreError>>()
        });
        let freed = freed.await?;
        self.prefetch.forget(&removed);
        let blobs = super::len_u64(freed.iter().flatten().count());
        Ok(Answer::Removed { bytes: freed.iter().flatten().sum(), blobs })
    }

    pub(super) async fn pin(&self, hashes: &[String]) -> Result<Answer, Failure> {
        let hashes = parse_all(hashes)?;
        let driver = self.driver.clone();
        let pin = move |store: &Store| {
            hashes.iter().try_for_each(|hash| {
                match closure::of_tree(store, hash)? {
                    Some(all) => store.pin_all(&all)?,
                    None => store.pin(hash)?,
                }
                driver.iter().for_each(|driver| driver.held(*hash));
                Ok(())
            })
        };
        compute::store(&self.store, pin).await?;
        Ok(Answer::Done)
    }

    pub(super) async fn unpin(&self, hashes: &[String]) -> Result<Answer, Failure> {
        let hashes = parse_all(hashes)?;
        let unpin = move |store: &Store| hashes.iter().try_for_each(|hash| unpin(store, hash));
        compute::store(&self.store, unpin).await?;
        Ok(Answer::Done)
    }

    pub(super) async fn verify(
        &self,
        hashes: &[String],
        exchange: &Exchange,
    ) -> Result<Answer, Failure> {
        let named = parse_all(hashes)?;
        let driver = self.driver.clone();
        let done = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&done);
        let waits = StopOnDrop::default();
        let stop = waits.wish();
        let work = compute::store(&self.store, move |store| {
            let verified = match named.as_slice() {
                [] => verify_all(store, &count, &stop)?,
                named => verify_named(store, named, &count, &stop)?,
            };
            // Also where it was stopped.
            verified.bad.iter().for_each(|hash| driver.iter().for_each(|d| d.gone(*hash)));
            Ok(verified)
        });
        let Verified { blobs, bytes, bad } = tokio::select! {
            biased;
            verified = work => verified?,
            never = tell_progress("verify", &done, None, &exchange.events) => match never {},
        };
        Ok(Answer::Verified { blobs, bytes, bad: bad.iter().map(Hash::to_hex).collect() })
    }

    pub(super) async fn gc(&self) -> Result<Answer, Failure> {
        let collected = compute::store(&self.store, |store| store.gc()).await?;
        Ok(Answer::Collected { blobs: collected.blobs, bytes: collected.bytes })
    }
}

/// Waits for the next bytes of an input, on a thread that may block; none at its end.
fn next_bytes(
    input: &mut mpsc::Receiver<std::io::Result<Input>>,
) -> Result<Option<Bytes>, Failure> {
    match input.blocking_recv() {
        Some(Ok(Input::Bytes(bytes))) => Ok(Some(bytes)),
        Some(Ok(Input::End)) => Ok(None),
        Some(Err(error)) => {
            Err(Failure::new(Trouble::File, format!("failed to read the input: {error}")))
        }
        None => Err(Failure::new(Trouble::Interrupted, "the input was cut before its end")),
    }
}

/// Tells the mesh of a blob that was added, and pins it if it should be. This is done on the thread that
/// added it: a client that hangs up meanwhile must not leave a blob that nobody hears of.
fn welcome(
    store: &Store,
    driver: Option<&DriverHandle>,
    added: Added,
    pin: bool,
) -> Result<Added, StoreError> {
    if let Some(driver) = driver {
        driver.held(added.hash);
    }
    if pin {
        store.pin(&added.hash)?;
    }
    Ok(added)
}

/// Ends the protection of a blob or of a tree.
fn unpin(store: &Store, hash: &Hash) -> Result<(), StoreError> {
    match closure::to_unpin(store, hash)? {
        Some(all) => store.unpin_all(&all),
        None => store.unpin(hash),
    }
}

#[derive(Debug, Default)]
struct Verified {
    blobs: u64,
    bytes: u64,
    bad: Vec<Hash>,
}

/// Verifies blobs that must all be there, until it is stopped.
fn verify_named(
    store: &Store,
    hashes: &[Hash],
    done: &AtomicU64,
    stop: &Stop,
) -> Result<Verified, StoreError> {
    let mut verified = Verified::default();
    for hash in hashes {
        if stop.is_wanted() {
            break;
        }
        if !verified.add(store, hash, done)? {
            return Err(StoreError::Absent { hash: *hash });
        }
    }
    Ok(verified)
}

/// Verifies what the store holds, until it is stopped; what is evicted before its turn is passed over.
fn verify_all(store: &Store, done: &AtomicU64, stop: &Stop) -> Result<Verified, StoreError> {
    let mut verified = Verified::default();
    for hash in store.hashes()? {
        if stop.is_wanted() {
            break;
        }
        verified.add(store, &hash, done)?;
    }
    Ok(verified)
}

impl Verified {
    /// Verifies one more blob; false if it is not there.
    fn add(&mut self, store: &Store, hash: &Hash, done: &AtomicU64) -> Result<bool, StoreError> {
        let Some(found) = store.find(hash)? else { return Ok(false) };
        match store.verify(hash) {
            Ok(true) => {}
            Ok(false) => self.bad.push(*hash),
            Err(StoreError::Absent { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        self.blobs += 1;
        self.bytes += found.size;
        done.store(self.bytes, Ordering::Relaxed);
        Ok(true)
    }
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
        let progress = Progress { phase: phase.to_owned(), done, total, peers: 0, files: None };
        // A reader that is behind misses some: the next one says more.
        events.try_send(Event::Progress(progress)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreConfig;

    #[test]
    fn verify_that_is_stopped_ends_before_the_next_blob() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = StoreConfig::new(dir.path().join("store"), 1 << 24, 1 << 20);
        let (store, _) = Store::open(config).expect("open");
        let hashes = [b"one", b"two"].map(|bytes| Hash::of(bytes));
        for (hash, bytes) in hashes.iter().zip([b"one", b"two"]) {
            store.put_whole(hash, bytes).expect("put");
        }
        for (is_stopped, blobs) in [(false, 2), (true, 0)] {
            let (done, stop) = (AtomicU64::new(0), Stop::default());
            if is_stopped {
                stop.stop();
            }
            assert_eq!(verify_all(&store, &done, &stop).expect("verified").blobs, blobs);
            let named = verify_named(&store, &hashes, &done, &stop);
            assert_eq!(named.expect("verified").blobs, blobs);
        }
    }
}
