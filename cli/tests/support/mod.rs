//! Runs the program in a home of its own, with nothing of the tester's environment.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(unix)]
pub(crate) mod fake_node;
#[cfg(unix)]
pub(crate) mod up;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A temporary directory with a home in it.
pub(crate) struct Place {
    pub(crate) directory: TempDir,
}

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { directory: TempDir::new().unwrap() }
    }

    /// Returns the home, which does not exist before a command makes it.
    pub(crate) fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// Writes a file and returns its path.
    pub(crate) fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Prepares a run in the directory of this place.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blobmesh"));
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("BLOBMESH_") || name_text.starts_with("XDG_") {
                command.env_remove(name);
            }
        }
        command.env("BLOBMESH_HOME", self.home()).env("HOME", self.directory.path());
        command.current_dir(self.directory.path()).args(args).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Run {
        Run::of(self.command(args).output().unwrap())
    }

    pub(crate) fn run_with_env(&self, args: &[&str], env: &[(&str, &str)]) -> Run {
        Run::of(self.command(args).envs(env.iter().copied()).output().unwrap())
    }

    pub(crate) fn run_with_input(&self, args: &[&str], input: &[u8]) -> Run {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that refuses its input may have ended before it is written.
        child.stdin.take().unwrap().write_all(input).ok();
        Run::of(child.wait_with_output().unwrap())
    }
}

impl Run {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Checks that it failed with `code` and exactly one `error:` line, which holds `text`, and
    /// returns the hint.
    #[track_caller]
    pub(crate) fn failed(&self, code: u8, text: &str) -> Option<&str> {
        assert_eq!(self.code, Some(i32::from(code)), "{self:?}");
        let errors: Vec<&str> =
            self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{self:?}");
        assert!(errors[0].contains(text), "{text:?} in {self:?}");
        for word in ["panicked", "RUST_BACKTRACE", "Error {"] {
            assert!(!self.stderr.contains(word), "{self:?}");
        }
        self.stderr.lines().find_map(|line| line.strip_prefix("hint: "))
    }

    /// Checks that it succeeded.
    #[track_caller]
    pub(crate) fn succeeded(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// Returns the JSON lines, each of which has a type and a version.
    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<Value> {
        let lines: Vec<Value> =
            self.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        for line in &lines {
            assert!(line["type"].is_string(), "{line}");
            assert_eq!(line["version"], blobmesh_cli::JSON_VERSION, "{line}");
        }
        lines
    }

    /// Returns the JSON lines but those that tell how far it is: how many of them there are is a matter of
    /// time.
    #[track_caller]
    pub(crate) fn answers(&self) -> Vec<Value> {
        let mut lines = self.lines();
        lines.retain(|line| line["type"] != "progress" && line["type"] != "phase");
        lines
    }
}

/// Returns the names in a directory, sorted.
pub(crate) fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
