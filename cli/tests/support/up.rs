//! A running node.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Place, Run};

pub(crate) const UP: [&str; 5] = ["up", "--json", "--no-mdns", "--listen", "127.0.0.1:0"];

/// A running node, killed at the end of a test that fails.
pub(crate) struct Up {
    pub(crate) child: Child,
    stdout: BufReader<ChildStdout>,
    /// Its first line: peer, addresses, pid.
    pub(crate) start: Value,
}

impl Up {
    pub(crate) fn start(place: &Place, args: &[&str]) -> Self {
        let mut command = place.command(&[&UP[..], args].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let start = serde_json::from_str(&line).unwrap_or_default();
        Self { child, stdout, start }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Run {
        let mut stdout = String::new();
        std::io::Read::read_to_string(&mut self.stdout, &mut stdout).unwrap();
        let mut stderr = String::new();
        let mut pipe = self.child.stderr.take().unwrap();
        std::io::Read::read_to_string(&mut pipe, &mut stderr).unwrap();
        Run { code: self.child.wait().unwrap().code(), stdout, stderr }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
