//! The ceiling of a transfer, one side a process: `ceiling serve FILE` prints its port, and
//! `ceiling fetch PORT SIZE FILE` fetches from it.

#![expect(clippy::print_stdout, reason = "the program's answer")]

use std::io;
use std::path::PathBuf;

use blobmesh_benches::ceiling;
use clap::Parser;

/// Moves a file over TLS, hashes its groups, writes it, and does nothing else.
#[derive(Parser)]
enum Args {
    /// Serve a file until the process is killed.
    Serve {
        /// The file.
        file: PathBuf,
        /// Where the port is written once it serves.
        #[arg(long)]
        ready_file: Option<PathBuf>,
    },
    /// Fetch a file.
    Fetch {
        /// The other side's port.
        port: u16,
        /// The file's length in bytes.
        size: u64,
        /// Where it goes.
        file: PathBuf,
    },
}

fn main() -> io::Result<()> {
    match Args::parse() {
        Args::Serve { file, ready_file } => ceiling::serve(&file, |port| match ready_file {
            Some(ready) => {
                let fresh = ready.with_extension("new");
                std::fs::write(&fresh, port.to_string())?;
                std::fs::rename(fresh, ready)
            }
            None => {
                println!("{port}");
                Ok(())
            }
        }),
        Args::Fetch { port, size, file } => {
            let values = ceiling::fetch(port, size, &file)?;
            println!("{} groups", values.len());
            Ok(())
        }
    }
}
