//! Everything the program says: the answer on stdout, talk on stderr.
//!
//! The only place that writes to either. With `--json` the answer is JSON lines, and so are
//! warnings and the error, which is the last line. A reader of stdout that went away ends the
//! command quietly; one of stderr is not missed.

mod progress;
mod receipt;
mod table;
mod usage;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use blobmesh_node::control::api::Failure;
use serde::Serialize;

pub(crate) use self::progress::{Count, Progress, TakeEvents};
pub(crate) use self::receipt::{got_line, got_many_line, receipt_text, tiers};
pub(crate) use self::table::table;
use self::usage::Usage;
use crate::args::{ColorWhen, GlobalArgs};
use crate::error::{CommandError, stdout_error};

/// The version of the JSON lines: raised when a field goes or changes its meaning, not when one is
/// added.
pub const JSON_VERSION: u32 = 1;

/// Says things, in the form the user asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    json: bool,
    quiet: bool,
    color: bool,
    bars: bool,
}

impl Printer {
    /// Makes the printer of these flags, of `NO_COLOR` and of what stderr is.
    pub(crate) fn new(global: &GlobalArgs) -> Self {
        let terminal = io::stderr().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = match global.color {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => terminal && !no_color,
        };
        let bars = terminal && !global.no_progress && !global.quiet && !global.json;
        Self { json: global.json, quiet: global.quiet, color, bars }
    }

    /// Makes the printer for arguments that could not be read.
    pub(crate) fn plain(json: bool) -> Self {
        Self { json, quiet: false, color: false, bars: false }
    }

    /// Returns whether the answer is JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Returns whether stderr may be coloured.
    pub(crate) fn is_colored(&self) -> bool {
        self.color
    }

    /// Prints a line of the answer for people; nothing with `--json`.
    pub(crate) fn answer(&self, text: impl Display) -> Result<(), CommandError> {
        if self.json {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|e| stdout_error(&e))
    }

    /// Prints a JSON line of `kind`; nothing without `--json`.
    pub(crate) fn line(&self, kind: &str, body: &impl Serialize) -> Result<(), CommandError> {
        if !self.json {
            return Ok(());
        }
        write_json(kind, body).map_err(|error| stdout_error(&error))
    }

    /// Prints the bytes of a blob.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), CommandError> {
        io::stdout().lock().write_all(bytes).map_err(|error| stdout_error(&error))
    }

    /// Flushes the bytes of a blob.
    pub(crate) fn flush(&self) -> Result<(), CommandError> {
        io::stdout().lock().flush().map_err(|error| stdout_error(&error))
    }

    /// Talks to people about what goes on, unless they asked for quiet or JSON.
    pub(crate) fn status(&self, text: impl Display) {
        if !self.quiet && !self.json {
            talk(&format!("{text}\n"));
        }
    }

    /// Asks something, without ending the line.
    pub(crate) fn prompt(&self, text: &str) {
        talk(text);
    }

    /// Warns.
    pub(crate) fn warning(&self, text: impl Display) {
        if self.json {
            let body = Message { message: text.to_string() };
            // A reader that went away is found out by the answer, which comes later.
            write_json("warning", &body).ok();
        } else if !self.quiet {
            talk(&format!("{} {text}\n", self.paint("warning:", "33;1")));
        }
    }

    /// Tells why a command failed; silent about a broken pipe.
    pub(crate) fn error(&self, error: &CommandError) {
        self.failure("error", error, error.shown_hint());
    }

    /// Tells why a part of a command's work failed; the error at the end has the hint.
    pub(crate) fn part_failed(&self, error: &CommandError) {
        self.failure("failed", error, None);
    }

    /// Tells people why a part of a command's work failed, of which a JSON line has told.
    pub(crate) fn talk_of_failed(&self, failure: &Failure) {
        talk(&self.failure_text("failed", failure, None));
    }

    fn failure(&self, kind: &str, error: &CommandError, hint: Option<&str>) {
        let CommandError::Failed { failure, .. } = error else { return };
        if self.json {
            let body = ErrorBody {
                code: error.code(),
                kind: failure.kind,
                message: &failure.message,
                causes: &failure.causes,
                hint,
            };
            write_json(kind, &body).ok();
        }
        talk(&self.failure_text(kind, failure, hint));
    }

    fn failure_text(&self, kind: &str, failure: &Failure, hint: Option<&str>) -> String {
        let mut text = format!("{} {}\n", self.paint(&format!("{kind}:"), "31;1"), failure.message);
        for cause in &failure.causes {
            text.push_str(&format!("  {cause}\n"));
        }
        if let Some(hint) = hint {
            text.push_str(&format!("\n{} {hint}\n", self.paint("hint:", "36;1")));
        }
        text
    }

    /// Prints what clap made of arguments it could not read, or of `--help`.
    pub(crate) fn clap(&self, error: &clap::Error) -> u8 {
        let code = u8::try_from(error.exit_code()).unwrap_or(crate::exit::USAGE);
        if self.json && code != crate::exit::DONE {
            let usage = Usage::of(&error.render().to_string());
            let body = ErrorBody {
                code,
                kind: blobmesh_node::control::api::Trouble::Usage,
                message: &usage.message,
                causes: &[],
                hint: Some(usage.hint.as_deref().unwrap_or("see `blobmesh --help`")),
            };
            write_json("error", &body).ok();
        }
        // It decides itself between stdout for help and stderr for errors.
        error.print().ok();
        code
    }

    /// Prints lines of the answer for people, and JSON lines of `kind` with `--json`, all at once.
    pub(crate) fn lines<B: Serialize>(
        &self,
        texts: impl Iterator<Item = impl Display>,
        bodies: impl Iterator<Item = (&'static str, B)>,
    ) -> Result<(), CommandError> {
        let mut out = Vec::new();
        let write = |out: &mut Vec<u8>| -> io::Result<()> {
            if self.json {
                for (kind, body) in bodies {
                    serde_json::to_writer(
                        &mut *out,
                        &Line { kind, version: JSON_VERSION, body: &body },
                    )?;
                    out.push(b'\n');
                }
                return Ok(());
            }
            texts.into_iter().try_for_each(|text| writeln!(out, "{text}"))
        };
        let mut stdout = io::stdout().lock();
        write(&mut out)
            .and_then(|()| stdout.write_all(&out))
            .and_then(|()| stdout.flush())
            .map_err(|error| stdout_error(&error))
    }

    /// Begins to show how many of `parts` are done.
    pub(crate) fn count(&self, verb: &str, parts: usize) -> Count {
        Count::new(*self, verb, parts)
    }

    /// Begins to show the progress of `verb` on `what`.
    pub(crate) fn progress(&self, verb: &str, what: &str) -> Progress {
        Progress::new(*self, verb, what)
    }

    fn paint(&self, text: &str, style: &str) -> String {
        if self.color { format!("\u{1b}[{style}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Writes to stderr; there is nobody to tell when that fails.
fn talk(text: &str) {
    let mut stderr = io::stderr().lock();
    stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()).ok();
}

fn write_json(kind: &str, body: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Line { kind, version: JSON_VERSION, body })?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()
}

#[derive(Serialize)]
struct Line<'a, B> {
    #[serde(rename = "type")]
    kind: &'a str,
    version: u32,
    #[serde(flatten)]
    body: &'a B,
}

#[derive(Serialize)]
struct Message {
    message: String,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: u8,
    kind: blobmesh_node::control::api::Trouble,
    message: &'a str,
    causes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}
