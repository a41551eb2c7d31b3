//! How many bytes a list may still bring.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::driver::GetProgress;

/// Is what is left of a list's budget, in bytes.
#[derive(Debug)]
pub(super) struct Budget(AtomicU64);

/// Is what one get has taken of a budget. Dropped before its end it spends what had come by then; the rest goes back.
#[derive(Debug)]
pub(super) struct Share<'a> {
    budget: &'a Budget,
    taken: u64,
    /// What has come; none once it is spent.
    told: Option<watch::Receiver<GetProgress>>,
}

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.left() == 0
    }

    /// Begins a share of a get whose progress is told.
    pub(super) fn share(&self, told: watch::Receiver<GetProgress>) -> Share<'_> {
        Share { budget: self, taken: 0, told: Some(told) }
    }

    fn left(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Changes what is left, at once; not where `change` says no.
    fn change(&self, change: impl Fn(u64) -> Option<u64>) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).is_ok()
    }
}

impl Share<'_> {
    /// Takes so many bytes, all or none.
    pub(super) fn take(&mut self, bytes: u64) -> bool {
        let taken = self.budget.change(|left| left.checked_sub(bytes));
        self.taken += if taken { bytes } else { 0 };
        taken
    }

    /// Spends what came; of a short blob, whose length nobody knew before, perhaps more than was left.
    pub(super) fn spend(mut self, bytes: u64) {
        self.told = None;
        self.end(bytes);
    }

    fn end(&mut self, bytes: u64) {
        let taken = std::mem::take(&mut self.taken);
        self.budget.change(|left| Some(left.saturating_add(taken).saturating_sub(bytes)));
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let Some(told) = self.told.take() else { return };
        let GetProgress { lan, edge, unverified, .. } = *told.borrow();
        self.end(lan + edge + unverified);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_taken_whole_and_what_is_not_spent_goes_back() {
        let (budget, nothing) = (Budget::new(100), watch::Sender::default());
        let share = || budget.share(nothing.subscribe());
        let mut dropped = share();
        assert!(dropped.take(60) && !share().take(41) && share().take(40));
        drop(dropped);
        assert_eq!(budget.left(), 100);
        let mut resumed = share();
        assert!(resumed.take(100) && budget.is_used_up());
        resumed.spend(30);
        assert_eq!(budget.left(), 70);
        share().spend(71);
        assert!(budget.is_used_up());
    }

    #[test]
    fn a_get_that_is_dropped_has_spent_what_came() {
        let (budget, told) = (Budget::new(100), watch::Sender::default());
        let mut dropped = budget.share(told.subscribe());
        assert!(dropped.take(60));
        let progress = GetProgress { size: Some(60), lan: 10, edge: 20, unverified: 5 };
        told.send_replace(progress);
        drop(dropped);
        assert_eq!(budget.left(), 65);
    }
}
