//! How much may be asked again.
//!
//! A token bucket, as in Finagle's retry budgets: each request earns a part of a token, each repetition
//! costs a whole one. So an edge that fails is asked only so much more than one that works, however many
//! callers it fails. A node that asks little would never earn a token; it gets a few by time.

use std::time::Duration;

use blobmesh_protocol::Time;

use super::super::options::PolicyOptions;

/// What one repetition costs; parts of a token are counted in thousandths.
const TOKEN: u64 = 1000;

/// Counts what may be asked again.
#[derive(Debug)]
pub(super) struct Budget {
    /// What one request earns, in thousandths of a token.
    earned: u64,
    floor: u64,
    max: u64,
    floor_interval: Duration,
    held: u64,
    /// Since when a token of the floor is due.
    since: Time,
}

impl Budget {
    /// Starts with the floor.
    pub(super) fn new(options: &PolicyOptions, now: Time) -> Self {
        let floor = u64::from(options.budget_floor) * TOKEN;
        Self {
            earned: u64::from(options.budget_percent) * TOKEN / 100,
            floor,
            max: u64::from(options.budget_max).saturating_mul(TOKEN).max(floor),
            floor_interval: options.budget_floor_interval,
            held: floor,
            since: now,
        }
    }

    /// Counts a request that repeats nothing.
    pub(super) fn earn(&mut self) {
        self.held = self.held.saturating_add(self.earned).min(self.max);
    }

    /// Pays for a repetition; false where there is nothing left to pay with.
    pub(super) fn spend(&mut self, now: Time) -> bool {
        self.refill(now);
        let paid = self.held.checked_sub(TOKEN);
        self.held = paid.unwrap_or(self.held);
        paid.is_some()
    }

    /// Returns the whole tokens held.
    pub(super) fn tokens(&mut self, now: Time) -> u64 {
        self.refill(now);
        self.held / TOKEN
    }

    /// Gives what time gives, up to the floor.
    fn refill(&mut self, now: Time) {
        let interval = self.floor_interval.as_nanos().max(1);
        let due = u64::try_from((now - self.since).as_nanos() / interval).unwrap_or(u64::MAX);
        if due == 0 {
            return;
        }
        // What is left of the last interval is forgotten: this is a floor, not a clock.
        self.since = now;
        let lifted = self.held.saturating_add(due.saturating_mul(TOKEN)).min(self.floor);
        self.held = self.held.max(lifted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn budget() -> Budget {
        let options = PolicyOptions {
            budget_percent: 10,
            budget_floor: 3,
            budget_max: 5,
            budget_floor_interval: INTERVAL,
            ..PolicyOptions::default()
        };
        Budget::new(&options, Time::ZERO)
    }

    fn spent(budget: &mut Budget, now: Time) -> usize {
        (0..100).take_while(|_| budget.spend(now)).count()
    }

    #[test]
    fn fresh_budget_pays_for_the_floor_and_no_more() {
        assert_eq!(spent(&mut budget(), Time::ZERO), 3);
    }

    #[test]
    fn ten_requests_earn_one_repetition() {
        let mut budget = budget();
        spent(&mut budget, Time::ZERO);
        (0..9).for_each(|_| budget.earn());
        assert!(!budget.spend(Time::ZERO), "nine do not");
        budget.earn();
        assert!(budget.spend(Time::ZERO));
        assert!(!budget.spend(Time::ZERO));
    }

    #[test]
    fn good_times_are_saved_for_up_to_the_maximum() {
        let mut budget = budget();
        (0..1000).for_each(|_| budget.earn());
        assert_eq!(spent(&mut budget, Time::ZERO), 5);
    }

    #[test]
    fn time_fills_the_floor_and_never_beyond() {
        let mut budget = budget();
        spent(&mut budget, Time::ZERO);
        let almost = Time::ZERO + (INTERVAL - Duration::from_nanos(1));
        assert!(!budget.spend(almost));
        assert_eq!(spent(&mut budget, Time::ZERO + INTERVAL), 1);
        assert_eq!(spent(&mut budget, Time::ZERO + INTERVAL * 100), 3);
        (0..1000).for_each(|_| budget.earn());
        assert_eq!(spent(&mut budget, Time::ZERO + INTERVAL * 200), 5, "what was earned is kept");
    }
}
