//! The lock of the store: one process at a time, and the second is told who is the first.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use super::error::StoreError;

/// Holds the store's lock until it is dropped, or until the process ends in any way.
#[derive(Debug)]
pub(super) struct StoreLock {
    /// The lock belongs to the open file (`flock`), so it cannot outlive the process.
    file: File,
}

impl StoreLock {
    /// Takes the lock file of the store in `root` and writes our process id into it.
    pub(super) fn take(root: &Path) -> Result<Self, StoreError> {
        let path = root.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked { path: root.to_owned(), pid: holder(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(StoreError::io("lock", &path)(source)),
        }
        write_pid(&mut file).map_err(StoreError::io("write", &path))?;
        Ok(Self { file })
    }
}

impl Drop for StoreLock {
    fn drop(&mut self) {
        // Closing would do, but for a child that another thread is just starting: until it has become
        // its own program it holds a copy of the open file, and the lock with it.
        self.file.unlock().ok();
    }
}

fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// Reads the holder's process id. It may be about to write it, so an empty file is read again.
fn holder(file: &mut File) -> Option<u32> {
    let deadline = Instant::now() + Duration::from_millis(200);
    loop {
        let mut text = String::new();
        file.rewind().ok()?;
        file.read_to_string(&mut text).ok()?;
        match text.trim().parse() {
            Ok(pid) => return Some(pid),
            Err(_) if Instant::now() >= deadline => return None,
            Err(_) => std::thread::park_timeout(Duration::from_millis(10)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_taker_is_told_the_pid_and_gets_the_lock_after_release() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = StoreLock::take(dir.path()).expect("free");
        let pid = match StoreLock::take(dir.path()) {
            Err(StoreError::Locked { pid, .. }) => pid,
            other => panic!("expected Locked, got {other:?}"),
        };
        assert_eq!(pid, Some(std::process::id()));
        drop(first);
        StoreLock::take(dir.path()).expect("free again");
    }

    #[test]
    fn left_over_pid_of_a_dead_holder_does_not_lock() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("lock"), "4294967295 and more text").expect("write");
        StoreLock::take(dir.path()).expect("nobody holds it");
        let text = std::fs::read_to_string(dir.path().join("lock")).expect("read");
        assert_eq!(text, format!("{}\n", std::process::id()));
    }
}
