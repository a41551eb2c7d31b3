//! An alarm for deadlines that mostly move on before they are due.
//!
//! To set a timer for a moment before all others costs the runtime a system call, and wakes a thread that
//! sleeps until the next of them; to set a later one costs a lock. Whoever waits for answers sets a deadline
//! for each and hardly ever meets one: here the timer stays where it is while deadlines move on, and is looked
//! at again when it is due.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// Wakes one task at one deadline at a time.
#[derive(Debug)]
pub(crate) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    /// Whether the timer runs; it is due no later than the deadline.
    runs: bool,
}

impl Alarm {
    /// Makes an alarm that is not set.
    pub(crate) fn new() -> Self {
        Self { sleep: Box::pin(sleep_until(Instant::now())), runs: false }
    }

    /// Waits until a deadline. Cancel safe.
    pub(crate) async fn at(&mut self, deadline: Instant) {
        std::future::poll_fn(|cx| self.poll(deadline, cx)).await;
    }

    /// Does something that is to be done by a deadline; none if it was not. What is done at once in any case
    /// sets no timer.
    pub(crate) async fn limit<T>(
        &mut self,
        deadline: Instant,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.at(deadline) => None,
        }
    }

    fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if !self.runs || deadline < self.sleep.deadline() {
                self.sleep.as_mut().reset(deadline);
                self.runs = true;
            }
            ready!(self.sleep.as_mut().poll(cx));
            self.runs = false;
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn deadline_is_met_wherever_the_one_before_was() {
        let mut alarm = Alarm::new();
        let start = Instant::now();
        for (first, then) in [(10, 30), (30, 10), (10, 10)] {
            let (first, then) = (Instant::now() + MS * first, Instant::now() + MS * then);
            // One that is not waited for to its end leaves its timer behind.
            tokio::select! {
                biased;
                () = alarm.at(first) => panic!("it is not due"),
                () = std::future::ready(()) => {}
            }
            alarm.at(then).await;
            assert_eq!(Instant::now(), then);
        }
        assert_eq!(start.elapsed(), MS * 50);
        alarm.at(start).await;
        assert_eq!(start.elapsed(), MS * 50, "a deadline that is past");
    }

    #[tokio::test(start_paused = true)]
    async fn deadlines_that_move_on_leave_the_timer_where_it_is() {
        let mut alarm = Alarm::new();
        let first = Instant::now() + MS * 100;
        for _ in 0..10 {
            let deadline = Instant::now() + MS * 100;
            assert_eq!(alarm.limit(deadline, tokio::time::sleep(MS * 5)).await, Some(()));
            assert_eq!(alarm.sleep.deadline(), first);
        }
        let deadline = Instant::now() + MS * 100;
        assert_eq!(alarm.limit(deadline, pending::<()>()).await, None);
        assert_eq!(Instant::now(), deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_is_done_at_once_sets_no_timer() {
        let mut alarm = Alarm::new();
        let deadline = Instant::now();
        assert_eq!(alarm.limit(deadline, std::future::ready(7)).await, Some(7));
        assert!(!alarm.runs);
    }
}
