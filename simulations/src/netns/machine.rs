//! How busy this machine is: all hosts share its processors, and then those are the limit and not the wires.

use std::{fs, time::Duration};

/// Is what the processors did since the machine started, in ticks of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Processors {
    busy: u64,
    idle: u64,
}

impl Processors {
    /// Reads the counters. A machine without them has done nothing.
    pub(super) fn now() -> Self {
        fs::read_to_string("/proc/stat").map(|text| Self::read(&text)).unwrap_or_default()
    }

    /// Returns the share of all processors' time that was used since `before`, whoever used it.
    pub(super) fn load_since(self, before: Self) -> f64 {
        let busy = self.busy.saturating_sub(before.busy);
        super::metric::share(busy, busy + self.idle.saturating_sub(before.idle))
    }

    fn read(text: &str) -> Self {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "));
        let ticks = line.into_iter().flat_map(str::split_whitespace).flat_map(str::parse::<u64>);
        // user, nice, system, idle, iowait, irq, softirq, steal; then guests, whom user counts already.
        ticks.take(8).enumerate().fold(Self::default(), |sum, (column, ticks)| match column {
            3 | 4 => Self { idle: sum.idle + ticks, ..sum },
            _ => Self { busy: sum.busy + ticks, ..sum },
        })
    }
}

/// Reads the processor time of a process out of its line in `/proc/PID/stat`.
pub(super) fn processor_time(stat: &str) -> Duration {
    // The name before is in brackets and may hold anything. After it, user and system are the 12th and 13th.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2).flat_map(str::parse::<u64>).sum::<u64>();
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_millis(ticks.saturating_mul(1_000) / per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_that_of_user_and_system() {
        let second = rustix::param::clock_ticks_per_second();
        let stat = format!("7 (a) b) S 1 1 1 0 -1 4 5 6 7 8 {second} {second} 9 9 20");
        assert_eq!(processor_time(&stat), Duration::from_secs(2));
        assert_eq!(processor_time(""), Duration::ZERO);
    }

    #[test]
    fn load_is_what_was_used_between_two_readings() {
        let before = Processors::read("cpu  10 0 10 70 10 0 0 0 5 5\ncpu0 1 1 1 1\n");
        assert_eq!(before, Processors { busy: 20, idle: 80 });
        let after = Processors::read("cpu  20 5 20 90 10 5 5 5 99 99\n");
        assert!((after.load_since(before) - 40.0 / 60.0).abs() < 1e-9);
        assert_eq!(Processors::read("").load_since(before).to_bits(), 0.0_f64.to_bits());
    }
}
