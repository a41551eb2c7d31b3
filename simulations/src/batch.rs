//! Runs of plans on several threads: the cells of a sweep, each with its seeds.
//!
//! Threads only run worlds; whoever holds the [`Batch`] takes the outcomes, in the order in which they
//! end, and does all writing. So there is one owner of every file, and to stop is to drop the batch and
//! to end the process: a world cannot be stopped, and needs no clean-up.
//!
//! Outcomes wait in a channel with room for one: a sweep needs memory for the runs under way and for
//! one that is being written, however long it is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::outcome::Outcome;
use crate::plan::{Cell, Plan, WorkloadKind};
use crate::world::{Progress, RunError, RunOptions, run_plan};

/// Is one run that ended.
#[derive(Debug)]
pub struct Finished {
    /// The number of its cell.
    pub cell: usize,
    /// The plan that it ran: the cell's, with its seed.
    pub plan: Plan,
    /// How long it took in real time.
    pub wall: Duration,
    /// What it came to.
    pub outcome: Result<Outcome, RunError>,
}

/// Tells what became of waiting.
#[derive(Debug)]
pub enum Next {
    /// A run ended.
    Ended(Box<Finished>),
    /// None has ended yet.
    Waiting,
    /// All ended, and were taken.
    Done,
    /// A thread is gone and its run with it, which only a fault of this program explains.
    Lost,
}

/// Says how many threads there are.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    /// How many runs go on at once at most; one at least.
    pub jobs: usize,
    /// How many threads work at all of them: those beyond one for each run are shared among the runs that go
    /// on at once.
    pub threads: usize,
}

/// Is a number of runs under way.
#[derive(Debug)]
pub struct Batch {
    shared: Arc<Shared>,
    ended: Receiver<Box<Finished>>,
    taken: u64,
    threads: usize,
}

#[derive(Debug)]
struct Shared {
    cells: Vec<Cell>,
    seeds: u64,
    options: RunOptions,
    /// The number of the next run: cell by cell, seed by seed.
    next: AtomicU64,
    done: AtomicU64,
    events: AtomicU64,
    /// How far each run is that is under way, by its number.
    running: Mutex<BTreeMap<u64, (f64, Progress)>>,
}

impl Batch {
    /// Starts the runs of all cells, each with the plan's seed and the `seeds - 1` after it.
    pub fn start(cells: Vec<Cell>, seeds: u32, options: RunOptions, shares: Shares) -> Self {
        let total = (cells.len() as u64).saturating_mul(u64::from(seeds));
        let most = usize::try_from(total).unwrap_or(usize::MAX);
        let jobs = shares.jobs.clamp(1, most.max(1));
        let options = RunOptions { threads: (shares.threads / jobs).max(1), ..options };
        let threads = jobs * options.threads;
        let shared = Arc::new(Shared {
            cells,
            seeds: u64::from(seeds),
            options,
            next: AtomicU64::new(0),
            done: AtomicU64::new(0),
            events: AtomicU64::new(0),
            running: Mutex::default(),
        });
        let (tell, ended) = sync_channel(1);
        for _ in 0..jobs {
            let (shared, tell) = (Arc::clone(&shared), tell.clone());
            thread::spawn(move || shared.work(&tell));
        }
        Self { shared, ended, taken: 0, threads }
    }

    /// Returns how many threads work at the runs.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Waits so long for a run to end.
    pub fn next(&mut self, wait: Duration) -> Next {
        if self.taken == self.shared.total() {
            return Next::Done;
        }
        match self.ended.recv_timeout(wait) {
            Ok(finished) => {
                self.taken += 1;
                Next::Ended(finished)
            }
            Err(RecvTimeoutError::Timeout) => Next::Waiting,
            Err(RecvTimeoutError::Disconnected) => Next::Lost,
        }
    }

    /// Returns how many runs there are.
    pub fn total(&self) -> u64 {
        self.shared.total()
    }

    /// Returns how far all is.
    pub fn state(&self) -> State {
        self.shared.state()
    }
}

/// Tells how far a batch is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct State {
    /// Runs that ended.
    pub done: u64,
    /// The share of all that is done, 0 to 1.
    pub share: f64,
    /// Events handled.
    pub events: u64,
    /// Virtual time of the run that is furthest.
    pub at: Duration,
}

impl Shared {
    fn total(&self) -> u64 {
        self.cells.len() as u64 * self.seeds
    }

    fn work(&self, tell: &SyncSender<Box<Finished>>) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.total() {
                return;
            }
            let Some(finished) = self.run(number) else { return };
            // Whoever took the outcomes has gone.
            if tell.send(Box::new(finished)).is_err() {
                return;
            }
        }
    }

    fn run(&self, number: u64) -> Option<Finished> {
        let cell = usize::try_from(number.checked_div(self.seeds)?).ok()?;
        let plan = &self.cells.get(cell)?.plan;
        let plan = Plan { seed: plan.seed.wrapping_add(number % self.seeds), ..plan.clone() };
        let (started, gets) = (Instant::now(), gets_planned(&plan));
        let outcome = run_plan(&plan, &self.options, |progress| {
            self.running().insert(number, (share(&progress, gets), progress));
        });
        let last = self.running().remove(&number).map_or(0, |(_, progress)| progress.events);
        let events = outcome.as_ref().map_or(last, |outcome| outcome.events);
        self.events.fetch_add(events, Ordering::Relaxed);
        self.done.fetch_add(1, Ordering::Relaxed);
        Some(Finished { cell, plan, wall: started.elapsed(), outcome })
    }

    fn state(&self) -> State {
        let done = self.done.load(Ordering::Relaxed);
        let running = self.running();
        let parts: f64 = running.values().map(|(share, _)| share).sum();
        let events: u64 = running.values().map(|(_, progress)| progress.events).sum();
        let at = running.values().map(|(_, progress)| progress.now).max().unwrap_or_default();
        let total = self.total().max(1);
        State {
            done,
            share: ((done as f64 + parts) / total as f64).min(1.0),
            events: self.events.load(Ordering::Relaxed) + events,
            at,
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, (f64, Progress)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns how much of a run is done: a run ends with the last get, or else at the plan's end.
fn share(progress: &Progress, gets: f64) -> f64 {
    let time = progress.now.as_secs_f64() / progress.end.as_secs_f64().max(1e-9);
    let ended = if gets > 0.0 { progress.gets.0 as f64 / gets } else { 0.0 };
    time.max(ended).min(1.0)
}

/// Returns about how many gets a plan wants; nodes that end take some of theirs with them.
fn gets_planned(plan: &Plan) -> f64 {
    let of = |workload: &crate::plan::Workload| {
        let nodes = plan.groups.get(workload.group.0).map_or(0, |group| group.count) as f64;
        match &workload.kind {
            WorkloadKind::PullSet { blobs, share, .. } => {
                nodes * share * plan.blobs.get(blobs.0).map_or(0, |set| set.count) as f64
            }
            WorkloadKind::Zipf { gets, .. } => nodes * *gets as f64,
            WorkloadKind::Add { .. } => 0.0,
            WorkloadKind::Trace { gets } => gets.len() as f64,
        }
    };
    plan.workloads.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Source, cells};

    const PLAN: &str = r#"
        name = "small"
        [[group]]
        name = "node"
        count = 3
        [edge]
        [[blobs]]
        name = "image"
        size = "1MB"
        [[workload]]
        kind = "pull_set"
        [sweep]
        "group.node.count" = [2, 3, 4]
    "#;

    fn batch(seeds: u32, jobs: usize) -> Batch {
        shared(seeds, Shares { jobs, threads: 1 })
    }

    fn shared(seeds: u32, shares: Shares) -> Batch {
        let source = Source::parse("small.toml", PLAN).unwrap();
        Batch::start(cells(&source).unwrap(), seeds, RunOptions::default(), shares)
    }

    /// Takes all outcomes: cell, seed and hash, in the order of cells and seeds.
    fn all(mut batch: Batch) -> Vec<(usize, u64, String)> {
        let mut taken = Vec::new();
        loop {
            match batch.next(Duration::from_secs(60)) {
                Next::Ended(run) => {
                    taken.push((run.cell, run.plan.seed, run.outcome.unwrap().event_log_hash));
                }
                Next::Done => break,
                wrong @ (Next::Waiting | Next::Lost) => panic!("{wrong:?}"),
            }
        }
        let state = batch.state();
        assert_eq!((state.done, state.share.to_bits()), (batch.total(), 1.0_f64.to_bits()));
        taken.sort();
        taken
    }

    #[test]
    fn every_cell_runs_with_every_seed_once() {
        let places: Vec<(usize, u64)> = all(batch(2, 4)).iter().map(|run| (run.0, run.1)).collect();
        assert_eq!(places, [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]);
    }

    #[test]
    fn the_number_of_threads_changes_no_outcome() {
        let one = all(batch(2, 1));
        assert_eq!(one, all(batch(2, 5)));
        assert_eq!(one, all(shared(2, Shares { jobs: 1, threads: 3 })));
    }

    #[test]
    fn runs_that_go_on_at_once_share_the_threads() {
        let threads = |jobs, threads| {
            let batch = shared(1, Shares { jobs, threads });
            (batch.shared.options.threads, batch.threads())
        };
        // Three runs: no more go on at once.
        assert_eq!(threads(1, 4), (4, 4));
        assert_eq!(threads(2, 4), (2, 4));
        assert_eq!(threads(64, 4), (1, 3));
        assert_eq!(threads(64, 64), (21, 63));
        assert_eq!(threads(2, 1), (1, 2));
        assert_eq!(threads(0, 0), (1, 1));
    }

    #[test]
    fn what_nobody_takes_does_not_keep_threads() {
        let batch = batch(50, 2);
        let shared = Arc::downgrade(&batch.shared);
        drop(batch);
        while shared.strong_count() > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn gets_are_counted_before_they_are_made() {
        let plan = Source::parse("small.toml", PLAN).unwrap().plan().unwrap();
        assert_eq!(gets_planned(&plan).to_bits(), 3.0_f64.to_bits());
    }
}
