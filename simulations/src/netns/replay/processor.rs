//! How much processor time a replay takes, and how busy the machine is, whoever keeps it so.
//!
//! Ours is this process with the commands and nodes that it started, dead or alive. Where the nodes go
//! before all others, as root may order, ours is what a replay's figures hang on; else the machine's.

use rustix::{param::clock_ticks_per_second, process::Pid};
use std::time::Instant;

/// Is a moment from which processor time is counted.
#[derive(Clone, Debug)]
pub(crate) struct Busy {
    began: Instant,
    machine: Option<Sums>,
    own_ticks: u64,
}

/// Is the shares of all processor time since then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shares {
    /// What ours took.
    pub(crate) own: f64,
    /// What was not idle; 1 where the system does not tell, as what cannot be shown to be idle is not taken
    /// for it.
    pub(crate) machine: f64,
}

/// Sums up processor time since the machine started, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sums {
    idle: u64,
    all: u64,
}

impl Busy {
    /// Begins to count; `nodes` are those that run now.
    pub(crate) fn begin(nodes: &[Pid]) -> Self {
        Self { began: Instant::now(), machine: machine(), own_ticks: own_ticks(nodes) }
    }

    /// Returns the shares; `nodes` are those that run now. One that began to run since counts whole, and one
    /// that ended is among our dead.
    pub(crate) fn shares(&self, nodes: &[Pid]) -> Shares {
        let processors = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let ticks = own_ticks(nodes).saturating_sub(self.own_ticks) as f64;
        let seconds = self.began.elapsed().as_secs_f64().max(1e-3);
        let own = ticks / clock_ticks_per_second().max(1) as f64 / seconds / processors;
        let machine = self.machine.zip(machine()).map_or(1.0, |(from, to)| share(from, to));
        Shares { own, machine }
    }
}

fn share(from: Sums, to: Sums) -> f64 {
    let all = to.all.saturating_sub(from.all);
    let idle = to.idle.saturating_sub(from.idle);
    if all == 0 { 0.0 } else { 1.0 - idle as f64 / all as f64 }
}

fn machine() -> Option<Sums> {
    sums(&std::fs::read_to_string("/proc/stat").ok()?)
}

/// Reads the first line: user, nice, system, idle, iowait, irq, softirq, steal, and guests, who are
/// counted as users already.
fn sums(text: &str) -> Option<Sums> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|t| t.parse().ok()).collect();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some(Sums { idle, all: ticks.iter().sum() })
}

/// Adds up this process, its children that were reaped, and nodes that run.
fn own_ticks(nodes: &[Pid]) -> u64 {
    let of = |name: &str, fields: &[usize]| {
        let text = std::fs::read_to_string(format!("/proc/{name}/stat")).unwrap_or_default();
        ticks(&text, fields)
    };
    let alive = nodes.iter().map(|pid| of(&pid.as_raw_nonzero().to_string(), &[11, 12]));
    of("self", &[11, 12, 13, 14]) + alive.sum::<u64>()
}

/// Adds up fields of a process's line, counted from that after its name, which may hold anything.
fn ticks(text: &str, fields: &[usize]) -> u64 {
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let words: Vec<&str> = rest.split_whitespace().collect();
    let of = |field: &usize| words.get(*field).and_then(|word| word.parse::<u64>().ok());
    fields.iter().filter_map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_a_disk_is_idle_and_stolen_time_is_not() {
        let from = sums("cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 1 2 3 4\n").unwrap();
        let to = sums("cpu  20 0 20 130 20 0 0 10 7 7\n").unwrap();
        assert!((share(from, to) - 0.3).abs() < 1e-9);
        assert_eq!(sums("intr 1\n"), None);
    }

    #[test]
    fn time_of_a_process_is_read_behind_any_name() {
        let line = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0";
        assert_eq!(ticks(line, &[11, 12]), 120);
        assert_eq!(ticks(line, &[11, 12, 13, 14]), 127);
        assert_eq!(ticks("", &[11]), 0);
    }
}
