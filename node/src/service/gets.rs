//! Gets: through the driver into the store, and from there to wherever the user wants the bytes.

use std::path::PathBuf;
use std::time::Duration;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::group_count;
use blobmesh_protocol::engine::WantError;
use bytes::Bytes;
use futures::FutureExt as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Inner, parse};
use crate::compute;
use crate::control::api::{
    Answer, BaseName, Event, Exchange, Failure, Progress, Receipt, TierBytes, Trouble,
};
use crate::driver::{GetEnded, GetProgress};
use crate::service::reports;
use crate::stop::StopOnDrop;
use crate::store::{BlobReader, Export, StoreError};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// How long it is waited for more of a blob that is copied to a file while it comes: briefly where it comes quickly.
const FOLLOW_PAUSE_MIN: Duration = Duration::from_millis(5);
const FOLLOW_PAUSE_MAX: Duration = Duration::from_millis(100);
/// How many groups of a blob are read at once when its bytes are sent to the user: 1 MiB.
const CAT_GROUPS: u64 = 16;

/// Says how a blob is wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) output: Option<PathBuf>,
    pub(super) force: bool,
    pub(super) timeout_ms: Option<u64>,
    pub(super) base: Option<BaseName>,
    /// Whether the store keeps nothing that it did not hold before.
    pub(super) no_store: bool,
}

impl Inner {
    pub(super) async fn get_to(
        &self,
        hash: &str,
        wanted: Wanted,
        exchange: &Exchange,
    ) -> Result<Answer, Failure> {
        let Wanted { output, force, timeout_ms, base, no_store } = wanted;
        let (hash, began) = (parse(hash)?, tokio::time::Instant::now());
        let mut export = match output {
            Some(output) => Some(self.begin_export(hash, output, force).await?),
            None => None,
        };
        // What only changes its name is not copied ahead.
        export.iter_mut().filter(|_| no_store).for_each(Export::wait_for_all);
        let timeout = timeout_ms.map(Duration::from_millis);
        let delta = match base {
            Some(base) => self.delta_of(hash, base, timeout).await?,
            None => None,
        };
        let is_of_base = delta.as_ref().is_some_and(|delta| delta.whole);
        let mut receipt = match &delta {
            Some(delta) if delta.whole => delta.receipt(hash),
            Some(_) | None => {
                let left = timeout.map(|timeout| timeout.saturating_sub(began.elapsed()));
                let (ended, end) = oneshot::channel();
                let get = self.get(hash, left, exchange).inspect(|_| drop(ended));
                let (got, followed) = tokio::join!(get, self.follow(export.take(), end));
                export = followed?;
                got?
            }
        };
        if let Some(delta) = delta {
            delta.tell(&mut receipt);
        }
        if let Some(export) = export {
            let started = tokio::time::Instant::now();
            let leaves = no_store && (is_of_base || receipt.found != "local");
            self.finish_export(export, leaves).await?;
            let took = started.elapsed().as_secs_f64();
            receipt.phases.store_s += took;
            receipt.seconds += took;
        }
        self.receipts.insert(receipt.clone());
        Ok(Answer::Got(Box::new(receipt)))
    }

    pub(super) async fn cat(
        &self,
        hash: &str,
        timeout_ms: Option<u64>,
        exchange: &Exchange,
    ) -> Result<Answer, Failure> {
        let hash = parse(hash)?;
        let timeout = timeout_ms.map(Duration::from_millis);
        let _held = self.store.hold([hash]);
        let receipt = self.get(hash, timeout, exchange).await?;
        let reader = compute::store(&self.store, move |store| store.open_blob(&hash)).await?;
        let mut reader = reader.ok_or(StoreError::Absent { hash })?;
        let groups = group_count(reader.size());
        for first in (0..groups).step_by(usize::try_from(CAT_GROUPS).unwrap_or(1)) {
            let last = (first + CAT_GROUPS).min(groups);
            let (returned, bytes) = compute::run(move || read_groups(reader, first, last)).await?;
            reader = returned;
            let bytes = bytes?;
            if !bytes.is_empty() && exchange.events.send(Event::Bytes(bytes)).await.is_err() {
                return Err(Failure::new(Trouble::Interrupted, "nobody takes the bytes"));
            }
        }
        Ok(Answer::Got(Box::new(receipt)))
    }

    /// Begins to write a blob to a file: an output that cannot be written is refused before anything is fetched for it.
    async fn begin_export(
        &self,
        hash: Hash,
        output: PathBuf,
        force: bool,
    ) -> Result<Export, Failure> {
        if !output.is_absolute() {
            return Err(Failure::new(Trouble::Usage, "the output's path is not absolute"));
        }
        let begun =
            compute::store(&self.store, move |store| store.begin_export(&hash, &output, force));
        Ok(begun.await?)
    }

    /// Copies what comes of a blob to its output, until `end` is dropped.
    async fn follow(
        &self,
        mut export: Option<Export>,
        mut end: oneshot::Receiver<()>,
    ) -> Result<Option<Export>, Failure> {
        let mut pause = FOLLOW_PAUSE_MIN;
        while let Some(mut following) = export.take_if(|export| export.follows()) {
            if timeout(pause, &mut end).await.is_ok() {
                return Ok(Some(following));
            }
            let place = self.checkouts.of_export().await;
            let work = compute::run(move || {
                let copied = following.follow();
                drop(place);
                (following, copied)
            });
            let (followed, copied) = work.await.map_err(|_| StoreError::Closed)?;
            export = Some(followed);
            pause = if copied { FOLLOW_PAUSE_MIN } else { (2 * pause).min(FOLLOW_PAUSE_MAX) };
        }
        Ok(export)
    }

    /// Writes what is left of a blob to its file; `leaves` says that the store is to keep none of it. Dropping the future stops that soon, and then nothing is left of it.
    async fn finish_export(&self, export: Export, leaves: bool) -> Result<(), Failure> {
        let place = self.checkouts.of_export().await;
        let waits = StopOnDrop::default();
        let stop = waits.wish();
        let work = compute::run(move || {
            // Held by the work, and not by who waits for it.
            let _place = place;
            if leaves { export.finish_and_leave(&stop) } else { export.finish(&stop) }
        });
        work.await.map_err(|_| StoreError::Closed)??;
        Ok(())
    }

    /// Gets a blob into the store and keeps the receipt, also of a failure.
    async fn get(
        &self,
        hash: Hash,
        timeout: Option<Duration>,
        exchange: &Exchange,
    ) -> Result<Receipt, Failure> {
        let Some(driver) = &self.driver else { return self.get_offline(hash).await };
        let (progress, watched) = watch::channel(GetProgress::default());
        let ended = tokio::select! {
            biased;
            ended = driver.get(hash, timeout, progress) => ended?,
            never = tell_progress(watched, &exchange.events) => match never {},
        };
        let mut receipt = reports::receipt(&ended, self.edge.is_some());
        if ended.result.is_ok() {
            receipt.notes.extend(self.prefetch.used_by_get(&hash));
        }
        self.receipts.insert(receipt.clone());
        match ended.result {
            Ok(()) => Ok(receipt),
            Err(why) => Err(failure(hash, why, &receipt, ended)),
        }
    }

    async fn get_offline(&self, hash: Hash) -> Result<Receipt, Failure> {
        let found = compute::store(&self.store, move |store| store.find(&hash)).await?;
        let Some(found) = found else {
            let what = format!("blob {} is not in the store", hash.fmt_short());
            return Err(Failure::new(Trouble::NoNode, what));
        };
        let tier = TierBytes { local: found.size, ..TierBytes::default() };
        let (hash, size) = (hash.to_hex(), Some(found.size));
        Ok(Receipt { hash, size, found: "local".to_owned(), tier, ..Receipt::default() })
    }
}

/// Reads groups on a thread that may block, and hands the reader back.
fn read_groups(
    reader: BlobReader,
    first: u64,
    last: u64,
) -> (BlobReader, Result<Bytes, StoreError>) {
    let mut bytes = Vec::new();
    let mut group = Vec::new();
    for index in first..last {
        if let Err(error) = reader.read_group(index, &mut group) {
            return (reader, Err(error));
        }
        bytes.extend_from_slice(&group);
    }
    (reader, Ok(bytes.into()))
}

/// Tells progress until it is dropped, a few times a second and only when there is some.
async fn tell_progress(
    mut watched: watch::Receiver<GetProgress>,
    events: &mpsc::Sender<Event>,
) -> std::convert::Infallible {
    let mut pace = interval(PROGRESS_INTERVAL);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        let progress = *watched.borrow_and_update();
        let phase = match progress {
            GetProgress { lan: 0, edge: 0, unverified: 0, .. } => "find",
            // Only the edge sends what cannot be verified as it comes.
            GetProgress { edge: 0, unverified: 0, .. } => "lan",
            GetProgress { .. } => "edge",
        };
        let done = progress.lan + progress.edge + progress.unverified;
        let total = progress.size;
        let peers = u64::from(progress.lan > 0);
        let event =
            Event::Progress(Progress { phase: phase.to_owned(), done, total, peers, files: None });
        // A reader that is behind misses some: the next one says more.
        events.try_send(event).ok();
        if watched.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Puts a failed get into words: one cause per tier, in their order.
pub(super) fn failure(hash: Hash, why: WantError, receipt: &Receipt, ended: GetEnded) -> Failure {
    let blob = hash.fmt_short();
    let of_source = |message: String, or: Trouble| match ended.failure {
        Some(failure) => failure,
        None => Failure::new(or, message),
    };
    let mut failure = match why {
        WantError::NotFound => {
            Failure::new(Trouble::NotFound, format!("blob {blob} was not found"))
        }
        WantError::WrongBytes => Failure::new(
            Trouble::WrongBytes,
            format!("blob {blob} was offered with wrong bytes only"),
        ),
        WantError::Refused => of_source(format!("blob {blob} was refused"), Trouble::EdgeRefused),
        WantError::Unreachable => Failure::new(
            Trouble::Unreachable,
            format!("blob {blob} was not found, and not every tier could be asked"),
        ),
        WantError::TimedOut => Failure::new(
            Trouble::Unreachable,
            format!("blob {blob} did not come in the time allowed"),
        ),
        WantError::Cancelled => {
            Failure::new(Trouble::Interrupted, format!("get of blob {blob} was cancelled"))
        }
        WantError::StoreFailed => {
            of_source(format!("blob {blob} could not be stored"), Trouble::StoreDamaged)
        }
        WantError::TooLarge => {
            Failure::new(Trouble::TooLarge, format!("blob {blob} is longer than was asked for"))
        }
        WantError::TooMany => Failure::new(
            Trouble::Unreachable,
            format!("blob {blob} was not asked for: too many gets at once"),
        ),
    };
    failure.causes.extend(reports::tiers(receipt));
    failure
}
