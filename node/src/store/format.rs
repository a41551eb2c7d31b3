//! `FORMAT`: which directory is a store, of which format, and how one is made.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::files::parent;
use super::lock::StoreLock;
use super::sys;

/// The format this program writes, and the newest it reads.
const FORMAT: u64 = 1;
const FORMAT_PREFIX: &str = "blobmesh-store ";
/// What `FORMAT` is called while it is written.
const NEW: &str = "FORMAT.new";

/// Checks or makes the directory of a store: reads `FORMAT` before anything else and changes nothing when it is not
/// ours. Returns its canonical path, and whether the store is new.
pub(super) fn prepare(root: &Path) -> Result<(PathBuf, bool), StoreError> {
    make_private_dir(root).map_err(StoreError::io("create", root))?;
    let root = root.canonicalize().map_err(StoreError::io("open", root))?;
    let new = !has_format(&root)? && make_store(&root)?;
    Ok((root, new))
}

/// Makes a directory and those above it that only the user may enter.
fn make_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Returns whether a directory is a store of this format, or none yet; else fails.
fn has_format(root: &Path) -> Result<bool, StoreError> {
    let path = root.join("FORMAT");
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(StoreError::io("read", &path)(error)),
    };
    let version = text.trim_end().strip_prefix(FORMAT_PREFIX).and_then(|v| v.parse::<u64>().ok());
    match version {
        Some(FORMAT) => Ok(true),
        Some(found) if found > FORMAT => {
            Err(StoreError::FormatNewer { path: root.to_owned(), found, supported: FORMAT })
        }
        _ => Err(StoreError::NotAStore { path: root.to_owned() }),
    }
}

/// Makes an empty directory a store, under its lock: two that start at once would write through the same name. False
/// where another process has made it one meanwhile.
fn make_store(root: &Path) -> Result<bool, StoreError> {
    // Before the lock, which leaves a file in what may be somebody else's.
    refuse_foreign(root)?;
    let _lock = StoreLock::take(root)?;
    if has_format(root)? {
        return Ok(false);
    }
    write_format(root)?;
    Ok(true)
}

/// Refuses a directory that holds what is not ours.
fn refuse_foreign(root: &Path) -> Result<(), StoreError> {
    // What a start that was cut short in here leaves behind does not count.
    let is_ours = |entry: &fs::DirEntry| entry.file_name() == NEW || entry.file_name() == "lock";
    let mut entries = fs::read_dir(root).map_err(StoreError::io("list", root))?.flatten();
    // All else comes after FORMAT, so that a start that goes on beside us has made it by now.
    if entries.any(|entry| !is_ours(&entry)) && !has_format(root)? {
        return Err(StoreError::NotAStore { path: root.to_owned() });
    }
    Ok(())
}

fn write_format(root: &Path) -> Result<(), StoreError> {
    let (new, path) = (root.join(NEW), root.join("FORMAT"));
    let write = || -> io::Result<()> {
        let mut file = File::create(&new)?;
        writeln!(file, "{FORMAT_PREFIX}{FORMAT}")?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        sys::sync_dir(root)?;
        sys::sync_dir(parent(root))
    };
    write().map_err(StoreError::io("write", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_or_foreign_directories_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let refusal = |text: Option<&str>| {
            let root = dir.path().join("case");
            fs::create_dir_all(&root).expect("create");
            match text {
                Some(text) => fs::write(root.join("FORMAT"), text).expect("write"),
                None => fs::write(root.join("holiday.jpg"), "").expect("write"),
            }
            let refused = prepare(&root).expect_err("refused");
            assert_eq!(fs::read_dir(&root).expect("list").count(), 1, "{text:?}");
            fs::remove_dir_all(&root).expect("remove");
            refused
        };
        let newer = refusal(Some("blobmesh-store 2\n"));
        assert!(matches!(newer, StoreError::FormatNewer { found: 2, supported: 1, .. }));
        for text in ["", "blobmesh-store 0\n", "blobmesh-store x\n", "\u{0}\u{ff}"] {
            assert!(matches!(refusal(Some(text)), StoreError::NotAStore { .. }), "{text:?}");
        }
        assert!(matches!(refusal(None), StoreError::NotAStore { .. }));
    }

    #[test]
    fn start_cut_short_before_the_format_was_named_can_be_repeated() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("FORMAT.new"), "blobm").expect("write");
        prepare(dir.path()).expect("prepare");
        let format = fs::read_to_string(dir.path().join("FORMAT")).expect("read");
        assert_eq!(format, "blobmesh-store 1\n");
    }

    #[test]
    fn store_that_two_make_at_once_is_made_by_one_and_refused_to_none_but_for_its_lock() {
        let dir = tempfile::tempdir().expect("a directory");
        for round in 0..100 {
            let root = dir.path().join(round.to_string());
            let at_once = std::sync::Barrier::new(3);
            let make = || {
                at_once.wait();
                prepare(&root).map(|(_, new)| new)
            };
            let made = std::thread::scope(|scope| {
                let threads = [(); 3].map(|()| scope.spawn(make));
                threads.map(|thread| thread.join().expect("no panic"))
            });
            let is_fair = |made: &Result<bool, StoreError>| {
                matches!(made, Ok(_) | Err(StoreError::Locked { .. }))
            };
            assert!(made.iter().all(is_fair), "{made:?}");
            assert_eq!(made.iter().filter(|made| matches!(made, Ok(true))).count(), 1, "{made:?}");
            assert_eq!(prepare(&root).map(|(_, new)| new).ok(), Some(false));
        }
    }
}
