//! Rivals that are libraries: a program around each, which does one thing for each line that it is told.
//!
//! Such a program is started, and connected where it connects, before the clock starts, as a node is.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use crate::process::{Background, Tree};

/// How many lines may wait to be heard; further ones wait in the pipe.
const LINES_MAX: usize = 1024;

/// Is a program that is talked with, line by line; it is killed when it is dropped.
#[derive(Debug)]
pub struct Dialogue {
    process: Background,
    said: Receiver<io::Result<String>>,
    to: ChildStdin,
}

impl Dialogue {
    /// Starts a program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let (to, from) = child.stdin.take().zip(child.stdout.take()).ok_or_else(no_pipe)?;
        let process = Background::of(child);
        let (say, said) = sync_channel(LINES_MAX);
        // Ends with the program, or with whoever listens.
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines() {
                if say.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { process, said, to })
    }

    /// Tells the program a line.
    ///
    /// # Errors
    /// When it does not listen any more.
    pub fn say(&mut self, line: &str) -> io::Result<()> {
        self.to.write_all(format!("{line}\n").as_bytes())
    }

    /// Waits for a line that begins with `word`, and returns what follows; other lines are passed over.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn hear(&self, word: &str, limit: Duration) -> io::Result<String> {
        loop {
            let line = self.said.recv_timeout(limit).map_err(|error| {
                io::Error::other(format!("waited for `{word}` of a rival: {error}"))
            })??;
            if let Some(rest) = line.strip_prefix(word) {
                return Ok(rest.trim().to_owned());
            }
        }
    }

    /// Returns the process with all that descend from it.
    pub fn tree(&self) -> Tree {
        self.process.tree()
    }
}

fn no_pipe() -> io::Error {
    io::Error::other("a process without pipes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn line_is_answered_and_others_are_passed_over() {
        let script = "echo noise; read line; echo \"got $line\"";
        let mut dialogue = Dialogue::start(Command::new("sh").args(["-c", script])).unwrap();
        dialogue.say("a b").unwrap();
        assert_eq!(dialogue.hear("got", SOON).unwrap(), "a b");
    }

    #[test]
    fn program_that_ends_or_says_nothing_is_an_error() {
        let ended = Dialogue::start(&mut Command::new("true")).unwrap();
        assert!(ended.hear("ready", SOON).is_err());
        let silent = Dialogue::start(Command::new("sh").args(["-c", "read line"])).unwrap();
        assert!(silent.hear("ready", Duration::from_millis(1)).is_err());
    }
}
