//! `blobmesh-sim new`: writes a plan that comes with the program, as a start for one's own.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use blobmesh_simulations::plan::{CANNED, Canned};

use super::complain;
use crate::{BAD_PLAN, FAILED};

#[derive(Debug, clap::Args)]
pub(crate) struct New {
    /// The plan's name, as `list` shows it
    name: String,
    /// Where to write it; NAME.toml if absent, stdout if `-`
    file: Option<PathBuf>,
}

pub(crate) fn execute(new: &New) -> ExitCode {
    let Some(canned) = Canned::find(&new.name) else {
        let names: Vec<&str> = CANNED.iter().map(|canned| canned.name).collect();
        complain(&format!("no plan is named {}; there are {}", new.name, names.join(", ")));
        return ExitCode::from(BAD_PLAN);
    };
    let file = new.file.clone().unwrap_or_else(|| PathBuf::from(format!("{}.toml", canned.name)));
    match write(canned, &file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            complain(&format!("{} is there already, and is not overwritten", file.display()));
            ExitCode::from(BAD_PLAN)
        }
        Err(error) => {
            complain(&format!("{}: {error}", file.display()));
            ExitCode::from(FAILED)
        }
    }
}

fn write(canned: &Canned, file: &Path) -> io::Result<()> {
    if file == Path::new("-") {
        let mut output = io::stdout().lock();
        output.write_all(canned.text.as_bytes())?;
        return output.flush();
    }
    File::create_new(file)?.write_all(canned.text.as_bytes())?;
    // Talk goes to stderr; with it closed there is nobody to tell.
    let _unheard = writeln!(io::stderr().lock(), "wrote {}", file.display());
    Ok(())
}
