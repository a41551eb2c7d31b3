//! Where the time of a command of ours went, by its own account.

use std::cell::RefCell;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::stats::median;

/// What the node did besides the steps that it names.
const REST: &str = "rest";
/// What the command took besides its request: its start, its way to the node, and its end.
const COMMAND: &str = "command";

/// Gathers the steps of a command that is run again and again.
#[derive(Debug, Default, Serialize)]
pub struct Steps {
    /// The steps of each run, in the order of a run, in seconds.
    runs: RefCell<Vec<Vec<(&'static str, f64)>>>,
}

impl Steps {
    /// Takes in a run: what the command printed with `--json`, how long it took, and which fields are steps, each
    /// with a name for people; all of the last line that tells of `seconds`. Nothing where the command does not tell.
    pub fn take(&self, said: &str, took: Duration, steps: &[(&'static str, &str)]) {
        let lines = said.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let last = lines.into_iter().find(|line| line["seconds"].is_f64());
        let of = |field: &str| last.as_ref().and_then(|last| last[field].as_f64());
        let Some(all) = of("seconds") else { return };
        let named: Vec<_> =
            steps.iter().filter_map(|(name, field)| Some((*name, of(field)?))).collect();
        let rest = all - named.iter().map(|(_, seconds)| seconds).sum::<f64>();
        let ends = [(REST, rest), (COMMAND, took.as_secs_f64() - all)];
        self.runs.borrow_mut().push(named.into_iter().chain(ends).collect());
    }

    /// Says in a line what each step took, in the middle of all runs; nothing where there are none.
    pub fn told(&self, name: &str) -> String {
        let runs = self.runs.borrow();
        let Some(first) = runs.first() else { return String::new() };
        let middle = |at: usize| {
            let seconds = runs.iter().filter_map(|run| run.get(at)).map(|(_, seconds)| *seconds);
            median(seconds).unwrap_or(f64::NAN)
        };
        let steps: Vec<String> = first
            .iter()
            .enumerate()
            .map(|(at, (step, _))| format!("{step} {:.3}", middle(at)))
            .collect();
        format!("{name}, seconds by step: {}", steps.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_add_up_to_the_time_of_the_command() {
        let steps = Steps::default();
        assert_eq!(steps.told("pull"), "");
        let took = Duration::from_millis(1_000);
        let wanted = [("find", "find_s"), ("fetch", "fetch_s")];
        steps.take("no json at all", took, &wanted);
        assert_eq!(steps.told("pull"), "", "it does not tell");
        for find in [0.1, 0.2, 0.3] {
            let said =
                format!("{{\"find_s\":{find},\"fetch_s\":0.4,\"seconds\":0.9}}\n{{\"blobs\":1}}\n");
            steps.take(&said, took, &wanted);
        }
        let told = "pull, seconds by step: find 0.200, fetch 0.400, rest 0.300, command 0.100";
        assert_eq!(steps.told("pull"), told);
    }
}
