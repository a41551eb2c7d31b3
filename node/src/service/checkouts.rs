//! Trees of the store become directories.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::Hash;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Inner;
use crate::control::api::{CheckoutOptions, CheckoutReport, Exchange, Failure};

/// How many checkouts work at once, each with a few threads; others wait.
const AT_ONCE_MAX: u32 = 4;
/// How many pulls check out what came while the rest is on its way; they hold threads for as long as that takes, and
/// others check out after.
const EARLY_MAX: u32 = 2;
/// How many blobs are written to files of users at once, each by a thread; others wait.
const EXPORTS_MAX: u32 = 64;
/// How long the end of a node waits for those that were told to stop.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Are the places of those that write to directories of users: of checkouts, and of gets to a file.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    early: Arc<Semaphore>,
    exports: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        let places = |max| Arc::new(Semaphore::new(usize::try_from(max).unwrap_or(1)));
        Self { all: places(AT_ONCE_MAX), early: places(EARLY_MAX), exports: places(EXPORTS_MAX) }
    }
}

impl Places {
    /// Waits for the place of one that writes a blob to a file.
    pub(super) async fn of_export(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.exports).acquire_owned().await.ok()
    }

    /// Waits until nobody works any more, for some seconds at most.
    pub(super) async fn wait(&self) {
        let all = async {
            tokio::join!(
                self.all.acquire_many(AT_ONCE_MAX),
                self.early.acquire_many(EARLY_MAX),
                self.exports.acquire_many(EXPORTS_MAX)
            )
        };
        if tokio::time::timeout(END_WITHIN, all).await.is_err() {
            tracing::warn!("a checkout did not end in time; the next one there clears up");
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Inner {
    pub(super) async fn check_out(
        &self,
        _root: Hash,
        _dir: PathBuf,
        _wanted: CheckoutOptions,
        _exchange: &Exchange,
    ) -> Result<CheckoutReport, Failure> {
        use crate::control::api::Trouble;
        Err(Failure::new(Trouble::Other, "checkouts need Linux"))
    }
}

#[cfg(target_os = "linux")]
pub(super) use linux::{CheckingOut, report};

#[cfg(target_os = "linux")]
mod linux {
    use futures::FutureExt as _;
    use futures::future::BoxFuture;
    use tokio::sync::mpsc;
    use tokio::time::{Instant, interval};

    use super::*;
    use crate::compute;
    use crate::control::api::{Event, Progress};
    use crate::driver::describe;
    use crate::stop::StopOnDrop;
    use crate::tree::{
        self, CheckedOut, CheckoutError, Options, Recovered, Supply, checkout, checkout_meanwhile,
    };

    /// How often progress is told.
    const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

    impl Inner {
        /// Checks a tree out. Dropping the future has the work stop soon: then the directory is as it was, unless
        /// its last step had begun, which is done to its end.
        pub(in crate::service) async fn check_out(
            &self,
            root: Hash,
            dir: PathBuf,
            wanted: CheckoutOptions,
            exchange: &Exchange,
        ) -> Result<CheckoutReport, Failure> {
            let began = Instant::now();
            let place = Arc::clone(&self.checkouts.all).acquire_owned().await.ok();
            let mut work = self.checking_out((root, dir, wanted), place, None);
            let done = work.done_told(&exchange.events).await?;
            Ok(report(done, began.elapsed()))
        }

        /// Begins to check a tree out while blobs of it are on their way; none where too many do that.
        pub(in crate::service) fn check_out_early(
            &self,
            root: Hash,
            dir: PathBuf,
            wanted: CheckoutOptions,
            supply: &Supply,
        ) -> Result<CheckingOut, CheckoutOptions> {
            match Arc::clone(&self.checkouts.early).try_acquire_owned() {
                Ok(place) => {
                    let what = (root, dir, wanted);
                    Ok(self.checking_out(what, Some(place), Some(supply.clone())))
                }
                Err(_) => Err(wanted),
            }
        }

        fn checking_out(
            &self,
            (root, dir, wanted): (Hash, PathBuf, CheckoutOptions),
            place: Option<OwnedSemaphorePermit>,
            supply: Option<Supply>,
        ) -> CheckingOut {
            let CheckoutOptions { force, copy, hard_link, verify } = wanted;
            let options = Options { force, hard_link, verify, copy };
            let progress = Arc::new(tree::Progress::default());
            let ends = EndOfWait(StopOnDrop::default(), supply.clone());
            let (store, told, stop) = (self.store.clone(), Arc::clone(&progress), ends.0.wish());
            let work = compute::run(move || {
                // Held by the work, and not by who waits for it.
                let _place = place;
                match supply {
                    Some(supply) => {
                        checkout_meanwhile(&store, &root, &dir, &options, &told, &stop, &supply)
                    }
                    None => checkout(&store, &root, &dir, &options, &told, &stop),
                }
            });
            CheckingOut { work: work.boxed(), progress, _ends: ends }
        }
    }

    /// Is a checkout at work. Dropping it has the work stop soon.
    pub(in crate::service) struct CheckingOut {
        work: BoxFuture<'static, Result<Result<CheckedOut, CheckoutError>, compute::WorkerLost>>,
        progress: Arc<tree::Progress>,
        _ends: EndOfWait,
    }

    impl CheckingOut {
        /// Waits for its end. Cancel safe; not to be called again once it has returned.
        pub(in crate::service) async fn done(&mut self) -> Result<CheckedOut, Failure> {
            Ok((&mut self.work).await??)
        }

        /// Does the same, and tells how much is written.
        pub(in crate::service) async fn done_told(
            &mut self,
            events: &mpsc::Sender<Event>,
        ) -> Result<CheckedOut, Failure> {
            let progress = Arc::clone(&self.progress);
            tokio::select! {
                biased;
                done = self.done() => done,
                never = tell_written(&progress, events) => match never {},
            }
        }
    }

    /// Stops the work when nobody waits for it any more, also where it waits for its supply.
    struct EndOfWait(StopOnDrop, Option<Supply>);

    impl Drop for EndOfWait {
        fn drop(&mut self) {
            self.0.wish().stop();
            if let Some(supply) = &self.1 {
                supply.end();
            }
        }
    }

    /// Tells how much is written until it is dropped.
    async fn tell_written(
        progress: &tree::Progress,
        events: &mpsc::Sender<Event>,
    ) -> std::convert::Infallible {
        let mut pace = interval(PROGRESS_INTERVAL);
        loop {
            pace.tick().await;
            let (done, total) = progress.bytes();
            let total = (total > 0).then_some(total);
            let progress =
                Progress { phase: "write".to_owned(), done, total, files: None, peers: 0 };
            // A reader that is behind misses some: the next one says more.
            events.try_send(Event::Progress(progress)).ok();
        }
    }

    /// Tells of a checkout, and what it took beside other work.
    pub(in crate::service) fn report(done: CheckedOut, took: Duration) -> CheckoutReport {
        let CheckedOut { added, changed, removed, bytes, ways, recovered, left } = done;
        CheckoutReport {
            added,
            changed,
            removed,
            bytes,
            reflinked: ways.reflinked,
            kernel_copied: ways.kernel_copied,
            copied: ways.copied,
            hard_linked: ways.hard_linked,
            recovered: recovered.map(|recovered| told(&recovered)),
            left: left.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect(),
            seconds: took.as_secs_f64(),
        }
    }

    /// Says which tree an interrupted checkout has left.
    fn told(recovered: &Recovered) -> String {
        match recovered {
            Recovered::Undone => {
                "an interrupted checkout had changed nothing, and was cleared away".to_owned()
            }
            Recovered::Finished { root, left } => {
                let text =
                    format!("an interrupted checkout of {} was finished first", root.fmt_short());
                match left {
                    0 => text,
                    left => format!("{text}, but for {left} paths that were changed since"),
                }
            }
        }
    }

    impl From<CheckoutError> for Failure {
        fn from(error: CheckoutError) -> Self {
            if let CheckoutError::AfterRecovery { recovered, error } = error {
                return Self::from(*error).cause(told(&recovered));
            }
            let failure = Self::new(error.kind(), describe(&error));
            error.details().into_iter().fold(failure, Self::cause)
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn end_waits_for_gets_to_files_too() {
        let places = Places::default();
        let writes = places.of_export().await;
        let mut end = Box::pin(places.wait());
        assert!((&mut end).now_or_never().is_none());
        drop(writes);
        assert!(end.now_or_never().is_some());
    }
}
