//! Trees of the store become directories.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::Hash;
use tokio::sync::Semaphore;

use super::Inner;
use crate::control::api::{CheckoutReport, Exchange, Failure};

/// How many checkouts work at once, each with a few threads; others wait.
const AT_ONCE_MAX: u32 = 4;
/// How long the end of a node waits for those that were told to stop.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Says how a tree is to be checked out.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) force: bool,
    pub(super) copy: Vec<String>,
    pub(super) hard_link: bool,
    pub(super) verify: bool,
}

/// Are the places of checkouts that work.
#[derive(Debug)]
pub(super) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        let places = usize::try_from(AT_ONCE_MAX).unwrap_or(1);
        Self(Arc::new(Semaphore::new(places)))
    }
}

impl Places {
    /// Waits until nobody works any more, for some seconds at most.
    pub(super) async fn wait(&self) {
        let all = self.0.acquire_many(AT_ONCE_MAX);
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
        _wanted: Wanted,
        _exchange: &Exchange,
    ) -> Result<CheckoutReport, Failure> {
        use crate::control::api::Trouble;
        Err(Failure::new(Trouble::Other, "checkouts need Linux"))
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use tokio::sync::mpsc;
    use tokio::time::{Instant, interval};

    use super::*;
    use crate::compute;
    use crate::control::api::{Event, Progress};
    use crate::driver::describe;
    use crate::tree::{self, CheckedOut, CheckoutError, Options, Recovered, Stop, checkout};

    /// How often progress is told.
    const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

    impl Inner {
        /// Checks a tree out. Dropping the future has the work stop soon: then the directory is as it was, unless
        /// its last step had begun, which is done to its end.
        pub(in crate::service) async fn check_out(
            &self,
            root: Hash,
            dir: PathBuf,
            wanted: Wanted,
            exchange: &Exchange,
        ) -> Result<CheckoutReport, Failure> {
            let began = Instant::now();
            let Wanted { force, copy, hard_link, verify } = wanted;
            let options = Options { force, hard_link, verify, copy };
            let place = Arc::clone(&self.checkouts.0).acquire_owned().await;
            let progress = Arc::new(tree::Progress::default());
            let stopper = Stopper(Stop::default());
            let work = {
                let (store, progress, stop) =
                    (self.store.clone(), Arc::clone(&progress), stopper.0.clone());
                compute::run(move || {
                    // Held by the work, and not by who waits for it.
                    let _place = place;
                    checkout(&store, &root, &dir, &options, &progress, &stop)
                })
            };
            let done = tokio::select! {
                biased;
                done = work => done?,
                never = tell_written(&progress, &exchange.events) => match never {},
            };
            Ok(report(done?, began.elapsed().as_secs_f64()))
        }
    }

    /// Stops the work when nobody waits for it any more.
    struct Stopper(Stop);

    impl Drop for Stopper {
        fn drop(&mut self) {
            self.0.stop();
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

    fn report(done: CheckedOut, seconds: f64) -> CheckoutReport {
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
            seconds,
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
