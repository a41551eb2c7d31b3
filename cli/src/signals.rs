//! The signals that end a command.

#[cfg(unix)]
use blobmesh_node::control::api::Failure;
use blobmesh_node::control::api::Trouble;

use crate::error::CommandError;

/// Waits for SIGINT and SIGTERM (Ctrl-C elsewhere).
///
/// Once made, these signals no longer end the process by themselves.
#[derive(Debug)]
pub(crate) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// Takes over the signals.
    ///
    /// # Errors
    /// `Other`, when the system refuses.
    pub(crate) fn new() -> Result<Self, CommandError> {
        use tokio::signal::unix::{SignalKind, signal};
        let watch = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(Trouble::Other, "cannot watch for signals").cause(error.to_string())
            })
        };
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
        })
    }

    /// Waits for the next signal. Cancel safe.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

impl Signals {
    /// Works until it is done or the next signal comes, which drops the work.
    ///
    /// # Errors
    /// `Interrupted`, after a signal.
    pub(crate) async fn or<T>(&mut self, work: impl Future<Output = T>) -> Result<T, CommandError> {
        tokio::select! {
            biased;
            () = self.next() => Err(CommandError::new(Trouble::Interrupted, "interrupted")),
            done = work => Ok(done),
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    /// Takes over the signals.
    #[expect(clippy::unnecessary_wraps, reason = "the same shape as on Unix")]
    pub(crate) fn new() -> Result<Self, CommandError> {
        Ok(Self {})
    }

    /// Waits for the next signal. Cancel safe.
    pub(crate) async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
