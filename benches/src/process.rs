//! Processes that are measured: how long something takes, and what it costs whom in processor time and memory.
//!
//! A [`Background`] lives until it is dropped, with all that it started. [`measure`] times some work and
//! tells what both sides spent on it: [`Tree`]s that live on, and commands that run to their end.

use std::io;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::machine::Processors;

/// How often the memory of both sides is looked at. Peaks of processes that live on are the kernel's own and
/// missed by nobody; those of a process that ends may be missed in its last moments.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// The pause between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(2);

/// Is what one run took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Taken {
    /// From the request to the answer.
    pub seconds: f64,
    /// What the side that serves spent.
    pub serving: Cost,
    /// What the side that fetches spent.
    pub fetching: Cost,
    /// The processor seconds that others on this machine took meanwhile.
    pub others_s: f64,
}

/// Is what one side of a run spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Processor seconds, of user and system.
    pub processor_s: f64,
    /// The most memory that was resident, in MiB.
    pub peak_mib: f64,
}

/// Times `work`, and tells what the processes that serve and those that fetch spent meanwhile; commands that
/// the work runs with [`Sides::run`] count as fetching.
///
/// # Errors
/// When the work fails, and where there is no `/proc`.
pub fn measure(
    serving: &[Tree],
    fetching: &[Tree],
    work: impl FnOnce(&Sides) -> io::Result<Duration>,
) -> io::Result<Taken> {
    serving.iter().chain(fetching).for_each(|tree| tree.forget_peak());
    let sides = Sides { commands: Mutex::default() };
    let watched = &sides;
    let spent = || -> io::Result<[f64; 3]> {
        Ok([processor_s(serving), processor_s(fetching) + children_s()?, own_s()?])
    };
    let (before, processors) = (spent()?, Processors::now());
    let (done, is_done) = sync_channel(0);
    let (took, peaks) = std::thread::scope(|threads| {
        let watcher = threads.spawn(move || watched.watch(serving, fetching, &is_done));
        let took = work(&sides);
        drop::<std::sync::mpsc::SyncSender<()>>(done);
        let lost = |_| io::Error::other("a thread panicked");
        took.and_then(|took| Ok((took, watcher.join().map_err(lost)?)))
    })?;
    let all_s = Processors::now().busy_s_since(processors);
    let after = spent()?;
    let [serving_s, fetching_s, own_s] = [0, 1, 2].map(|side| after[side] - before[side]);
    Ok(Taken {
        seconds: took.as_secs_f64(),
        serving: Cost { processor_s: serving_s, peak_mib: peaks[0] },
        fetching: Cost { processor_s: fetching_s, peak_mib: peaks[1] },
        others_s: (all_s - serving_s - fetching_s - own_s).max(0.0),
    })
}

/// Knows the commands that fetch while something is measured.
#[derive(Debug)]
pub struct Sides {
    commands: Mutex<Vec<Tree>>,
}

impl Sides {
    /// Runs a command as [`run`] does; what it spends counts as fetching.
    ///
    /// # Errors
    /// As [`run`].
    pub fn run(&self, command: &mut Command) -> io::Result<(String, Duration)> {
        run_and(command, |tree| self.commands().push(tree))
    }

    /// Returns the peaks of both sides once the work is done.
    fn watch(&self, serving: &[Tree], fetching: &[Tree], done: &Receiver<()>) -> [f64; 2] {
        let mut peaks = [0.0_f64; 2];
        loop {
            let is_over = done.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Disconnected);
            let commands = self.commands().clone();
            let now = [peak_mib(serving), peak_mib(fetching) + peak_mib(&commands)];
            peaks = [peaks[0].max(now[0]), peaks[1].max(now[1])];
            if is_over {
                return peaks;
            }
        }
    }

    fn commands(&self) -> std::sync::MutexGuard<'_, Vec<Tree>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Is a process that runs in the background; it is killed when it is dropped, with all that it started.
#[derive(Debug)]
pub struct Background(Child);

impl Background {
    /// Starts a process with its output thrown away.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Self)
    }

    /// Takes over a process that was started.
    pub fn of(child: Child) -> Self {
        Self(child)
    }

    /// Returns the process with all that descend from it.
    pub fn tree(&self) -> Tree {
        Tree(self.0.id())
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    /// When the process ends before, or `limit` is over; `what` names what was waited for.
    pub fn until(
        &mut self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> io::Result<()> {
        let deadline = Instant::now() + limit;
        while !ready() {
            if let Some(status) = self.0.try_wait()? {
                return Err(io::Error::other(format!("{what}: ended with {status}")));
            }
            if Instant::now() >= deadline {
                return Err(io::Error::other(format!("{what}: not in {limit:?}")));
            }
            std::thread::park_timeout(PAUSE);
        }
        Ok(())
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Errors
    /// When it fails.
    pub fn ended(&mut self) -> io::Result<()> {
        match self.0.wait()? {
            status if status.success() => Ok(()),
            status => Err(io::Error::other(format!("a process ended with {status}"))),
        }
    }

    /// Ends the process and waits for it.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn end(mut self) -> io::Result<()> {
        self.tree().kill();
        self.0.wait().map(drop)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.tree().kill();
            self.0.wait().ok();
        }
    }
}

/// Names a process with all that descend from it.
#[derive(Clone, Copy, Debug)]
pub struct Tree(u32);

impl Tree {
    /// Returns the most memory that was resident since [`forget_peak`](Self::forget_peak) or the start, in
    /// MiB; 0 for a process that has ended.
    pub fn peak_mib(self) -> f64 {
        let of = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/status")).ok();
        self.pids().iter().filter_map(of).filter_map(|status| peak_kib(&status)).sum::<f64>()
            / 1024.0
    }

    /// Has the peaks begin anew.
    pub fn forget_peak(self) {
        for pid in self.pids() {
            // Where it is not allowed, the peak is that since the start: never less.
            std::fs::write(format!("/proc/{pid}/clear_refs"), "5").ok();
        }
    }

    /// Returns the processor seconds of those that live, and of their children that have ended.
    fn processor_s(self) -> f64 {
        self.pids().iter().filter_map(|pid| times(&pid.to_string()).ok()).flatten().sum()
    }

    fn pids(self) -> Vec<u32> {
        let mut pids = vec![self.0];
        let mut at = 0;
        while let Some(pid) = pids.get(at).copied() {
            pids.extend(children(pid));
            at += 1;
        }
        pids
    }

    /// Kills the first before the others, so that it does not replace them.
    fn kill(self) {
        for pid in self.pids() {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            // One that has ended by itself is as good as killed.
            pid.and_then(|pid| kill_process(pid, Signal::KILL).ok());
        }
    }
}

/// Runs a process to its end, and returns its output and how long it took.
///
/// # Errors
/// When it cannot be started, or fails; the error holds what it said.
pub fn run(command: &mut Command) -> io::Result<(String, Duration)> {
    run_and(command, |_| ())
}

fn run_and(command: &mut Command, started: impl FnOnce(Tree)) -> io::Result<(String, Duration)> {
    let at = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let program = command.get_program().to_string_lossy().into_owned();
    let child = command
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    started(Tree(child.id()));
    let output = child.wait_with_output()?;
    let took = at.elapsed();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(format!("{program} ended with {}: {said}", output.status)));
    }
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), took))
}

fn peak_mib(trees: &[Tree]) -> f64 {
    trees.iter().map(|tree| tree.peak_mib()).sum()
}

fn processor_s(trees: &[Tree]) -> f64 {
    trees.iter().map(|tree| tree.processor_s()).sum()
}

/// Returns the processor seconds of this process's children that have ended.
fn children_s() -> io::Result<f64> {
    let [_, _, user, system] = times("self")?;
    Ok(user + system)
}

fn own_s() -> io::Result<f64> {
    let [user, system, _, _] = times("self")?;
    Ok(user + system)
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| numbers(&list)).collect()
}

fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Reads user and system time of a process, and of its children that have ended, in seconds.
fn times(process: &str) -> io::Result<[f64; 4]> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    times_of(&stat).ok_or_else(|| io::Error::other(format!("/proc/{process}/stat has no times")))
}

fn times_of(stat: &str) -> Option<[f64; 4]> {
    // The name, in parentheses, may hold anything; the times are fields 14 to 17.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: Vec<f64> =
        fields.split_whitespace().skip(11).take(4).filter_map(|field| field.parse().ok()).collect();
    let ticks: [f64; 4] = ticks.try_into().ok()?;
    Some(ticks.map(|ticks| ticks / crate::machine::ticks_per_s()))
}

/// Reads the highest resident memory out of a process's status.
fn peak_kib(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let hz = crate::machine::ticks_per_s();
        let stat = format!("7 (a) 1 b) S 1 1 1 0 -1 4 5 6 7 8 {hz} 0 {} 0 9 9", 2.0 * hz);
        assert_eq!(times_of(&stat), Some([1.0, 0.0, 2.0, 0.0]));
        assert_eq!(times_of("7 (a) S 1 1"), None);
    }

    #[test]
    fn peak_is_the_line_of_the_high_water_mark() {
        assert_eq!(peak_kib("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n"), Some(2048.0));
        assert_eq!(peak_kib("Name:\tx\n"), None);
    }

    #[test]
    fn command_that_fails_tells_what_it_said() {
        let error = run(Command::new("sh").args(["-c", "echo no room >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("no room"), "{error}");
    }

    #[test]
    fn work_of_a_grandchild_that_has_ended_counts_as_fetching() {
        let script = "sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; true";
        let taken = measure(&[], &[], |sides| {
            sides.run(Command::new("sh").args(["-c", script])).map(|(_, took)| took)
        });
        let taken = taken.unwrap();
        assert!(taken.fetching.processor_s > 0.0, "{taken:?}");
        assert!(taken.fetching.peak_mib > 0.0, "{taken:?}");
        assert_eq!(taken.serving, Cost::default());
    }

    #[test]
    fn background_takes_what_it_started_with_it() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & wait"]);
        let mut background = Background::start(&mut command).unwrap();
        let tree = background.tree();
        background.until("a child", Duration::from_secs(20), || tree.pids().len() == 2).unwrap();
        let grandchild = tree.pids()[1];
        background.end().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while is_alive(grandchild) {
            assert!(Instant::now() < deadline, "the grandchild lives on");
            std::thread::park_timeout(PAUSE);
        }
    }

    /// Returns whether a process is there, and not one that has ended and waits to be noticed.
    fn is_alive(pid: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(')').map(|(_, fields)| fields.trim());
        state.is_some_and(|state| !state.starts_with(['Z', 'X']))
    }

    #[test]
    fn process_that_ends_is_not_waited_for() {
        let mut background = Background::start(&mut Command::new("true")).unwrap();
        let error = background.until("it", Duration::from_secs(60), || false).unwrap_err();
        assert!(error.to_string().contains("ended with"), "{error}");
    }
}
