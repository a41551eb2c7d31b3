//! Processes that are measured: how long something takes, and what processor time it costs whom.

use std::io;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The kernel's clock tick in which `/proc` counts processor time: 100 a second on all of Linux.
const TICKS_PER_S: f64 = 100.0;

/// Is a process that runs in the background; it is killed when it is dropped.
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

    /// Returns the processor seconds of the process and of those of its children that have ended.
    ///
    /// # Errors
    /// Where there is no `/proc`.
    pub fn processor_s(&self) -> io::Result<f64> {
        processor_s(&self.0.id().to_string())
    }

    /// Ends the process and waits for it.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn end(mut self) -> io::Result<()> {
        self.0.kill()?;
        self.0.wait().map(drop)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Runs a process to its end, and returns its output and how long it took.
///
/// # Errors
/// When it cannot be started, or fails; the error holds what it said.
pub fn run(command: &mut Command) -> io::Result<(String, Duration)> {
    let started = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let took = started.elapsed();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(format!("{command:?} failed: {said}")));
    }
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), took))
}

/// Returns the processor seconds of this process's children that have ended.
///
/// # Errors
/// Where there is no `/proc`.
pub fn children_s() -> io::Result<f64> {
    let [_, _, user, system] = times("self")?;
    Ok((user + system) / TICKS_PER_S)
}

fn processor_s(process: &str) -> io::Result<f64> {
    Ok(times(process)?.iter().sum::<f64>() / TICKS_PER_S)
}

/// Reads user and system time of a process, and of its children.
fn times(process: &str) -> io::Result<[f64; 4]> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may hold anything; the times are fields 14 to 17.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let times: Vec<f64> =
        fields.split_whitespace().skip(11).take(4).filter_map(|field| field.parse().ok()).collect();
    times.try_into().map_err(|_| io::Error::other(format!("/proc/{process}/stat has no times")))
}
