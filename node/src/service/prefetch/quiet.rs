//! Whether a user waits for bytes, and for how long nobody has.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// How long nobody must have waited for bytes before anything is got ahead.
const QUIET: Duration = Duration::from_millis(200);

/// Counts the user's requests that wait for bytes.
#[derive(Debug, Default)]
pub(super) struct Foreground(watch::Sender<Waiting>);

#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    requests: usize,
    /// When the last one ended.
    ended: Option<Instant>,
}

/// Says that a user waits for bytes, until it is dropped.
#[derive(Debug)]
pub(in crate::service) struct Busy<'a>(&'a watch::Sender<Waiting>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| {
            waiting.requests = waiting.requests.saturating_sub(1);
            waiting.ended = Some(Instant::now());
        });
    }
}

impl Foreground {
    /// Says that a user waits for bytes.
    pub(super) fn busy(&self) -> Busy<'_> {
        self.0.send_modify(|waiting| waiting.requests += 1);
        Busy(&self.0)
    }

    /// Waits until nobody has waited for bytes for a while.
    pub(super) async fn quiet(&self) {
        let mut waiting = self.0.subscribe();
        loop {
            // It fails only without the sender, which lives as long as this.
            let nobody = waiting.wait_for(|waiting| waiting.requests == 0).await;
            let ended = nobody.ok().and_then(|waiting| waiting.ended);
            let since = ended.map_or(QUIET, |ended| ended.elapsed());
            if since >= QUIET {
                return;
            }
            tokio::select! {
                () = sleep(QUIET - since) => {}
                _ = waiting.changed() => {}
            }
        }
    }

    /// Waits until somebody waits for bytes.
    pub(super) async fn disturbed(&self) {
        self.0.subscribe().wait_for(|waiting| waiting.requests > 0).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn quiet_begins_a_while_after_the_last_request() {
        let foreground = Foreground::default();
        let first = foreground.busy();
        let started = Instant::now();
        let others = async {
            sleep(Duration::from_secs(1)).await;
            let second = foreground.busy();
            drop(first);
            sleep(Duration::from_secs(1)).await;
            drop(second);
            sleep(QUIET / 2).await;
            drop(foreground.busy());
        };
        tokio::join!(foreground.quiet(), others);
        assert_eq!(started.elapsed(), Duration::from_secs(2) + QUIET / 2 + QUIET);
        foreground.quiet().await;
        assert_eq!(started.elapsed(), Duration::from_secs(2) + QUIET / 2 + QUIET, "still quiet");
    }
}
