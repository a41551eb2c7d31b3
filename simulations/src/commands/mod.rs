//! The subcommands of `blobmesh-sim`, one file each. Only they print.

use std::error::Error;
use std::io::{self, Write};

pub(crate) mod check;
pub(crate) mod compare;
mod conduct;
pub(crate) mod fuzz;
mod interrupt;
pub(crate) mod list;
pub(crate) mod lookups;
pub(crate) mod netns;
pub(crate) mod new;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod sweep;
pub(crate) mod trace;
pub(crate) mod validate;

/// Writes an `error:` line. With stderr closed there is nobody to tell.
pub(crate) fn complain(message: &str) {
    let _unheard = writeln!(io::stderr().lock(), "error: {message}");
}

/// Writes an `error:` line with an error and all its causes.
fn complain_of(error: &dyn Error) {
    complain(&told(error));
}

/// Returns an error with all its causes in one line.
fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
