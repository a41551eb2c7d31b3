//! Running one command with a deadline, and never leaving it behind.
//!
//! Input and output go through unlinked temporary files: a full pipe cannot block either side, and
//! no thread is needed to drain one. A command that is late, or whose run is interrupted, is killed
//! and reaped before the error is returned.

use std::{
    ffi::OsStr,
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{error::Error, stop::Stop};

/// How much of a command's output is kept: far above any answer, far below memory.
const OUTPUT_BYTES_MAX: u64 = 16 << 20;

/// How much of a failed command's stderr goes into its error.
const STDERR_CHARS_MAX: usize = 2_000;

/// Tells how a command ended and what it wrote.
#[derive(Debug)]
pub struct Finished {
    /// The command line, for errors.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote on stdout, at most 16 MiB.
    pub stdout: String,
    /// What it wrote on stderr, at most 16 MiB.
    pub stderr: String,
}

impl Finished {
    /// Returns the output of a command that succeeded.
    ///
    /// # Errors
    /// [`Error::Command`] for any exit code but 0.
    pub fn success(self) -> Result<Self, Error> {
        if self.status.success() { Ok(self) } else { Err(self.failure()) }
    }

    /// Makes the error that says the command failed.
    pub fn failure(self) -> Error {
        let stderr = tail(self.stderr.trim(), STDERR_CHARS_MAX);
        Error::Command { command: self.command, status: self.status, stderr }
    }
}

/// Runs `command` with `input` on its stdin and waits for its end, at most for `limit`.
///
/// The command gets a process group of its own, so that a Ctrl-C at the terminal reaches only us.
///
/// # Errors
/// [`Error::Late`] after `limit` and [`Error::Interrupted`] after a signal, both with the command
/// killed; [`Error::System`] when it cannot be started. A command that fails is no error here.
pub fn run(
    mut command: Command,
    input: &[u8],
    limit: Duration,
    stop: &Stop,
) -> Result<Finished, Error> {
    let line = line_of(&command);
    let start = Error::system(format!("run `{line}`"));
    let files = Files::new(input).map_err(Error::system("make temporary files"))?;
    let child = files.attach(&mut command).and_then(|()| command.process_group(0).spawn());
    let mut child = Reaped(child.map_err(start)?);
    let status = child
        .wait(limit, stop)?
        .ok_or_else(|| Error::Late { what: format!("the end of `{line}`"), limit })?;
    let (stdout, stderr) = files.read().map_err(Error::system("read a command's output"))?;
    Ok(Finished { command: line, status, stdout, stderr })
}

/// Returns a command as one would type it, without quotes.
pub(crate) fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Returns the last `chars_max` characters of a text.
fn tail(text: &str, chars_max: usize) -> String {
    let skipped = text.chars().count().saturating_sub(chars_max);
    text.chars().skip(skipped).collect()
}

/// Owns a child process: it is dead and reaped when this is dropped.
#[derive(Debug)]
pub(crate) struct Reaped(pub(crate) Child);

impl Reaped {
    /// Waits for the end at most for `limit`; returns none when the child outlives it.
    pub(crate) fn wait(
        &mut self,
        limit: Duration,
        stop: &Stop,
    ) -> Result<Option<ExitStatus>, Error> {
        let deadline = Instant::now() + limit;
        let ended = pidfd_open(self.pid()?, PidfdFlags::empty())
            .map_err(|error| Error::system("watch a process")(error.into()))?;
        if !stop.readable(ended.as_fd(), deadline)? {
            return Ok(None);
        }
        self.0.wait().map(Some).map_err(Error::system("wait for a process"))
    }

    /// Returns the process id; a child that is not reaped yet keeps it from being used again.
    pub(crate) fn pid(&self) -> Result<Pid, Error> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        pid.ok_or_else(|| Error::system("name a process")(std::io::ErrorKind::InvalidData.into()))
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        // Both are no-ops on a child that was waited for; there is nobody to tell about others.
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Holds the three standard streams of a command.
struct Files {
    stdin: File,
    stdout: File,
    stderr: File,
}

impl Files {
    fn new(input: &[u8]) -> std::io::Result<Self> {
        let mut stdin = tempfile::tempfile()?;
        stdin.write_all(input)?;
        stdin.rewind()?;
        Ok(Self { stdin, stdout: tempfile::tempfile()?, stderr: tempfile::tempfile()? })
    }

    fn attach(&self, command: &mut Command) -> std::io::Result<()> {
        command
            .stdin(Stdio::from(self.stdin.try_clone()?))
            .stdout(Stdio::from(self.stdout.try_clone()?))
            .stderr(Stdio::from(self.stderr.try_clone()?));
        Ok(())
    }

    fn read(self) -> std::io::Result<(String, String)> {
        Ok((text_of(self.stdout)?, text_of(self.stderr)?))
    }
}

fn text_of(mut file: File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, input: &[u8], limit: Duration) -> Result<Finished, Error> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, input, limit, &Stop::never()?)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn late_command_is_killed_and_named() {
        let started = Instant::now();
        let error = sh("exec sleep 300", b"", Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().starts_with("the end of `sh -c exec sleep 300` did not happen"));
        assert!(started.elapsed() < LONG);
    }

    #[test]
    fn output_larger_than_a_pipe_does_not_block() {
        let finished = sh("head -c 300000 /dev/zero | tr '\\0' x", b"", LONG).unwrap();
        assert_eq!(finished.stdout.len(), 300_000);
    }

    #[test]
    fn input_reaches_the_command() {
        assert_eq!(sh("cat", b"a ticket", LONG).unwrap().stdout, "a ticket");
    }

    #[test]
    fn failure_carries_exit_code_and_stderr() {
        let finished = sh("echo why >&2; exit 3", b"", LONG).unwrap();
        assert_eq!(finished.status.code(), Some(3));
        let error = finished.success().unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with(": why"), "{error}");
    }

    #[test]
    fn missing_program_is_named() {
        let command = Command::new("/nonexistent/program");
        let error = run(command, b"", LONG, &Stop::never().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "cannot run `/nonexistent/program`");
    }

    #[test]
    fn tail_counts_characters() {
        assert_eq!(tail("äöü", 2), "öü");
        assert_eq!(tail("äöü", 4), "äöü");
    }
}
