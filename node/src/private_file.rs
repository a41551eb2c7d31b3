//! Files of the node's home that only its user may read, and that are replaced whole.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use serde::Serialize;

/// Replaces the file at `path` by `value` as JSON, in one step and in mode 0600.
///
/// Nothing is synced: after a loss of power the file may be the old one, empty or damaged.
///
/// # Errors
/// What the system says; the old file is still there then.
pub(crate) fn replace_json<T: Serialize + ?Sized>(path: &Path, value: &T) -> io::Result<()> {
    let fresh = path.with_extension("json.new");
    // One that an earlier run left keeps its mode, which may let others read what is written.
    if let Err(error) = std::fs::remove_file(&fresh)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&fresh)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    std::fs::rename(&fresh, path)
}
