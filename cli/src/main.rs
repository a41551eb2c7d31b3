//! The `blobmesh` program; everything is in the library, so that tests can use its constants.

use std::process::ExitCode;

fn main() -> ExitCode {
    blobmesh_cli::main()
}
