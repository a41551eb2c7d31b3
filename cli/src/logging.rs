//! Where the log goes: to stderr, as much of it as was asked for.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::args::{Arguments, Command};

/// Installs the log of this process.
///
/// `BLOBMESH_LOG` takes filters such as `blobmesh_node=debug,libp2p=info` and wins over `-v`.
pub(crate) fn install(arguments: &Arguments, color: bool) {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .with_env_var("BLOBMESH_LOG");
    let filter = match std::env::var("BLOBMESH_LOG") {
        Ok(filters) if !filters.is_empty() => filter.from_env_lossy(),
        _ => filter.parse_lossy(level(arguments)),
    };
    // Only a second subscriber in one process could fail here, and there is one.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would tell of a stderr that nobody reads by writing to stderr, and panic the task that logs.
        .log_internal_errors(false)
        .with_ansi(color)
        .with_target(arguments.global.verbose > 1)
        .try_init()
        .ok();
}

/// Libraries warn of what is normal to a node, and at debug they drown what it decides: of theirs,
/// only errors are shown below `-vvv`.
fn level(arguments: &Arguments) -> &'static str {
    let serving = matches!(arguments.command, Command::Up(_));
    match (arguments.global.quiet, arguments.global.verbose) {
        (true, _) => "error",
        (false, 0) if !serving => "error,blobmesh=warn",
        (false, 0 | 1) => "error,blobmesh=info",
        (false, 2) => "error,blobmesh=debug",
        (false, _) => "debug,blobmesh=trace",
    }
}
