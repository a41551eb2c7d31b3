//! Runs this very program, and reads its JSON lines.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use blobmesh_node::control::api::{Failure, Trouble};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::error::CommandError;

/// How long one command of the demo may take.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);

/// Knows where this program is.
#[derive(Debug)]
pub(super) struct Program(PathBuf);

/// What a command said and how it ended.
#[derive(Debug)]
pub(super) struct Said {
    /// The exit code; none after a signal.
    pub(super) code: Option<i32>,
    /// The JSON lines.
    pub(super) lines: Vec<Value>,
    /// What it told people.
    pub(super) talk: String,
}

impl Program {
    /// Finds this program.
    pub(super) fn find() -> Result<Self, CommandError> {
        std::env::current_exe().map(Self).map_err(|error| {
            Failure::new(Trouble::Other, "cannot find this program itself")
                .cause(error.to_string())
                .into()
        })
    }

    /// Prepares a command on `home`: nothing of the user's settings reaches it.
    fn command(&self, home: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(&self.0);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BLOBMESH_") {
                command.env_remove(name);
            }
        }
        command.args(args).arg("--home").arg(home).kill_on_drop(true);
        // A Ctrl-C at the terminal is for the demo, which then stops what it started.
        #[cfg(unix)]
        command.process_group(0);
        command
    }

    /// Starts a node that lasts as long as its handle; what it says goes to `log`.
    pub(super) fn start(
        &self,
        home: &Path,
        args: &[&str],
        log: &Path,
    ) -> Result<Child, CommandError> {
        let failed = |error| CommandError::file("start a node with its log in", log, error);
        let out = std::fs::File::create(log).map_err(failed)?;
        let err = out.try_clone().map_err(failed)?;
        let mut command = self.command(home, args);
        command.stdin(Stdio::piped()).stdout(out).stderr(err).spawn().map_err(failed)
    }

    /// Runs a command with `--json` to its end.
    pub(super) async fn run(
        &self,
        home: &Path,
        args: &[&str],
        input: &str,
    ) -> Result<Said, CommandError> {
        let shown = format!("blobmesh {}", args.join(" "));
        let ran = tokio::time::timeout(COMMAND_WITHIN, self.output(home, args, input)).await;
        let output = match ran {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(failed(&shown, &error.to_string())),
            Err(_) => return Err(failed(&shown, "it did not end within a minute")),
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Result<_, _> = text.lines().map(serde_json::from_str).collect();
        Ok(Said {
            code: output.status.code(),
            lines: lines.map_err(|error| failed(&shown, &format!("no JSON lines: {error}")))?,
            talk: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    async fn output(
        &self,
        home: &Path,
        args: &[&str],
        input: &str,
    ) -> std::io::Result<std::process::Output> {
        let mut command = self.command(home, args);
        command.arg("--json").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that reads no input may have ended before.
            stdin.write_all(input.as_bytes()).await.ok();
        }
        child.wait_with_output().await
    }

    /// Runs a command that has to succeed, and returns its lines.
    pub(super) async fn must(
        &self,
        home: &Path,
        args: &[&str],
        input: &str,
    ) -> Result<Vec<Value>, CommandError> {
        let said = self.run(home, args, input).await?;
        match said.code {
            Some(0) => Ok(said.lines),
            _ => Err(failed(&format!("blobmesh {}", args.join(" ")), said.talk.trim())),
        }
    }
}

fn failed(command: &str, cause: &str) -> CommandError {
    let mut failure = Failure::new(Trouble::Other, format!("the demo's `{command}` failed"));
    failure.causes.extend(cause.lines().filter(|line| !line.is_empty()).map(str::to_owned));
    failure.into()
}
