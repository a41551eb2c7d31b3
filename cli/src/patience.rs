//! Waiting for a store that another process holds.

use std::time::{Duration, Instant};

use blobmesh_node::control::api::Trouble;

use crate::error::CommandError;
use crate::output::Printer;

/// How long is waited: a node takes seconds from where it holds the store until it serves, and one that stops eight.
const STORE_FREE_WITHIN: Duration = Duration::from_secs(30);

/// After how long that is said.
const SAID_AFTER: Duration = Duration::from_secs(1);

/// How often is looked for the store meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Waits for the store, and says so.
#[derive(Debug)]
pub(crate) struct Patience {
    printer: Printer,
    since: Instant,
    said: bool,
}

impl Patience {
    /// Begins to count the seconds.
    pub(crate) fn new(printer: Printer) -> Self {
        Self { printer, since: Instant::now(), said: false }
    }

    /// Waits a moment before the next try.
    ///
    /// # Errors
    /// The error of the last one, where it is another than that the store is held, or where that lasts.
    pub(crate) async fn wait(&mut self, error: CommandError) -> Result<(), CommandError> {
        if error.trouble() != Some(Trouble::StoreLocked)
            || self.since.elapsed() >= STORE_FREE_WITHIN
        {
            return Err(error);
        }
        if self.since.elapsed() >= SAID_AFTER && !self.said {
            self.printer.status("another process holds the store: waiting for its end");
            self.said = true;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        Ok(())
    }
}
