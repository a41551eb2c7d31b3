//! How the bytes of a blob become a file: by the cheapest way that the two file systems have.
//!
//! A *reflink* shares the blob's blocks until one of the two is written to: nothing is copied, and whoever edits the
//! file does the store no harm. `copy_file_range` has the kernel copy. Reading and writing works everywhere. The first
//! file that goes some way shows whether there is such a way between store and target; it is not tried again after.
//!
//! A *real copy* shares no block from the start, for files that are mapped and written in place, or whose later
//! fragmentation would hurt.
//!
//! A blob may be a part of a file that holds others, too. Then the kernel is asked to copy, which shares whole blocks by
//! itself where it can. Where nothing can be shared, a short blob is read and written: the kernel's way between two files
//! takes longer to begin than such a blob to copy.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::BlobHasher;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::stop::Stop;

/// How much the kernel copies between two looks whether to stop.
const RANGE_LEN: usize = 64 << 20;
/// How much is read and written at once.
pub(super) const BUFFER_LEN: usize = 256 << 10;
/// How long a blob is read and written at most, where the kernel could copy it, and shares nothing.
const SHORT_MAX: u64 = 64 << 10;

thread_local! {
    /// What is read into: a file of ten thousand is not worth an allocation of its own.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Knows the ways between one store and one target, and counts what went which.
#[derive(Debug, Default)]
pub(super) struct Ways {
    no_reflink: AtomicBool,
    /// Set when a part of a file was seen to share blocks.
    shares_parts: AtomicBool,
    no_range: AtomicBool,
    counts: [AtomicU64; 4],
}

/// Is one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Blocks are shared until somebody writes.
    Reflink,
    /// The kernel copied.
    Range,
    /// We read and wrote.
    Copy,
    /// The file is the store's own, under a further name.
    HardLink,
}

/// Is where the bytes of a blob lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    file: &'a File,
    from: u64,
    size: u64,
    /// Whether the file holds nothing else.
    whole: bool,
}

impl<'a> Source<'a> {
    /// Makes the source that is all of a file of `size` bytes.
    pub(super) fn whole(file: &'a File, size: u64) -> Self {
        Self { file, from: 0, size, whole: true }
    }

    /// Makes the source that is `size` bytes of a file.
    pub(super) fn part(file: &'a File, from: u64, size: u64) -> Self {
        Self { file, from, size, whole: false }
    }
}

/// Counts files by the way they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayCounts {
    /// Files that share their blocks with the store.
    pub reflinked: u64,
    /// Files that the kernel copied.
    pub kernel_copied: u64,
    /// Files that were read and written.
    pub copied: u64,
    /// Files that are the store's own.
    pub hard_linked: u64,
}

fn check(stop: &Stop) -> io::Result<()> {
    if stop.is_wanted() { Err(io::Error::other("stopped")) } else { Ok(()) }
}

impl Ways {
    /// Fills an empty file with the bytes of a blob by the best way there is; by a real copy if `real`.
    ///
    /// # Errors
    /// What the operating system gives; `UnexpectedEof` when the source is shorter. The target may hold anything then.
    pub(super) fn fill(
        &self,
        target: &File,
        source: Source<'_>,
        real: bool,
        stop: &Stop,
    ) -> io::Result<()> {
        if !real {
            if self.try_reflink(target, source)? {
                return Ok(());
            }
            let is_short = source.size <= SHORT_MAX && !self.may_share(target, source)?;
            if !is_short && self.try_range(target, source, stop)? {
                return Ok(());
            }
        }
        copy(target, source, stop, |_| ())?;
        self.count(Way::Copy);
        Ok(())
    }

    /// Does the same, and returns the hash of what was written.
    pub(super) fn fill_hashing(
        &self,
        target: &File,
        source: Source<'_>,
        real: bool,
        stop: &Stop,
    ) -> io::Result<Hash> {
        let mut hasher = BlobHasher::new();
        if !real && self.try_reflink(target, source)? {
            read(Source::whole(target, source.size), stop, |piece| hasher.update(piece))?;
        } else {
            copy(target, source, stop, |piece| hasher.update(piece))?;
            self.count(Way::Copy);
        }
        Ok(hasher.finish().hash())
    }

    /// Counts a file that took a way.
    pub(super) fn count(&self, way: Way) {
        self.counts[way as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many files took which way.
    pub(super) fn counts(&self) -> WayCounts {
        let [reflinked, kernel_copied, copied, hard_linked] =
            [0, 1, 2, 3].map(|way: usize| self.counts[way].load(Ordering::Relaxed));
        WayCounts { reflinked, kernel_copied, copied, hard_linked }
    }

    fn try_reflink(&self, target: &File, source: Source<'_>) -> io::Result<bool> {
        if !source.whole || self.no_reflink.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match rustix::fs::ioctl_ficlone(target, source.file) {
            Ok(()) => {
                self.count(Way::Reflink);
                Ok(true)
            }
            Err(error) if is_full(error) => Err(error.into()),
            Err(error) => {
                if is_for_good(error) {
                    self.no_reflink.store(true, Ordering::Relaxed);
                }
                Ok(false)
            }
        }
    }

    /// Returns whether the kernel may share blocks of the source with an empty target. The first part of a file shows it:
    /// all of that file is shared, and given up.
    fn may_share(&self, target: &File, source: Source<'_>) -> io::Result<bool> {
        if self.no_reflink.load(Ordering::Relaxed) {
            return Ok(false);
        }
        if source.whole || self.shares_parts.load(Ordering::Relaxed) {
            return Ok(true);
        }
        match rustix::fs::ioctl_ficlone(target, source.file) {
            Ok(()) => {
                target.set_len(0)?;
                self.shares_parts.store(true, Ordering::Relaxed);
                Ok(true)
            }
            Err(error) if is_full(error) => Err(error.into()),
            Err(error) => {
                let is_never = is_for_good(error);
                self.no_reflink.store(is_never, Ordering::Relaxed);
                Ok(!is_never)
            }
        }
    }

    fn try_range(&self, target: &File, source: Source<'_>, stop: &Stop) -> io::Result<bool> {
        if self.no_range.load(Ordering::Relaxed) {
            return Ok(false);
        }
        // Both files are shared with nobody else's position.
        let Source { file, mut from, size, .. } = source;
        let mut to = 0;
        while to < size {
            check(stop)?;
            let len = usize::try_from(size - to).unwrap_or(RANGE_LEN).min(RANGE_LEN);
            match rustix::fs::copy_file_range(file, Some(&mut from), target, Some(&mut to), len) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if is_full(error) || to > 0 => return Err(error.into()),
                Err(error) => {
                    if is_for_good(error) {
                        self.no_range.store(true, Ordering::Relaxed);
                    }
                    return Ok(false);
                }
            }
        }
        self.count(Way::Range);
        Ok(true)
    }
}

/// Returns whether there is no room, whatever way is taken.
fn is_full(error: Errno) -> bool {
    matches!(error, Errno::NOSPC | Errno::DQUOT | Errno::IO)
}

/// Returns whether the pair of file systems has no such way, and not only this pair of files.
fn is_for_good(error: Errno) -> bool {
    matches!(error, Errno::OPNOTSUPP | Errno::XDEV | Errno::NOTTY | Errno::NOSYS | Errno::PERM)
}

/// Reads and writes bytes, and shows them to `see`.
fn copy(
    target: &File,
    source: Source<'_>,
    stop: &Stop,
    mut see: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut to = target;
    pieces(source, stop, |piece| {
        see(piece);
        to.write_all(piece)
    })
}

/// Reads bytes, and shows them to `see`.
fn read(source: Source<'_>, stop: &Stop, mut see: impl FnMut(&[u8])) -> io::Result<()> {
    pieces(source, stop, |piece| {
        see(piece);
        Ok(())
    })
}

fn pieces(
    Source { file, from, size, .. }: Source<'_>,
    stop: &Stop,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let len_max = usize::try_from(size).unwrap_or(BUFFER_LEN).min(BUFFER_LEN);
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < len_max {
            buffer.resize(len_max, 0);
        }
        let mut left = size;
        while left > 0 {
            check(stop)?;
            let len = usize::try_from(left).unwrap_or(BUFFER_LEN).min(BUFFER_LEN);
            let piece = buffer.get_mut(..len).unwrap_or_default();
            file.read_exact_at(piece, from + (size - left))?;
            take(piece)?;
            left -= u64::try_from(len).unwrap_or(left);
        }
        Ok(())
    })
}

/// Returns the hash of a file's bytes.
pub(super) fn hash_of(file: &File, stop: &Stop) -> io::Result<Hash> {
    let mut hasher = BlobHasher::new();
    read(Source::whole(file, file.metadata()?.len()), stop, |piece| hasher.update(piece))?;
    Ok(hasher.finish().hash())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use super::*;

    fn pair(bytes: &[u8]) -> (File, File) {
        let mut source = tempfile::tempfile().expect("a file");
        source.write_all(bytes).expect("write");
        (tempfile::tempfile().expect("a file"), source)
    }

    fn bytes_of(mut file: &File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.rewind().expect("rewind");
        file.read_to_end(&mut bytes).expect("read");
        bytes
    }

    #[test]
    fn every_way_gives_the_same_bytes() {
        let stop = Stop::default();
        for len in [0, 1, 4095, 4096, BUFFER_LEN - 1, BUFFER_LEN, BUFFER_LEN + 1, 3 << 20] {
            let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
            let size = len as u64;
            for way in 0..5 {
                let ways = Ways::default();
                ways.no_reflink.store(way >= 1, Ordering::Relaxed);
                ways.no_range.store(way >= 2, Ordering::Relaxed);
                let (target, file) = pair(&bytes);
                let source = Source::whole(&file, size);
                if way == 4 {
                    let hash = ways.fill_hashing(&target, source, false, &stop);
                    assert_eq!(hash.expect("fill"), Hash::of(&bytes));
                } else {
                    ways.fill(&target, source, way == 3, &stop).expect("fill");
                }
                assert!(bytes_of(&target) == bytes, "way {way}, {len} bytes");
                let counts = ways.counts();
                let all = counts.reflinked + counts.kernel_copied + counts.copied;
                assert_eq!(all, 1, "way {way}");
                assert!(way < 2 || counts.copied == 1, "way {way}: {counts:?}");
            }
        }
    }

    #[test]
    fn part_of_a_file_is_filled_by_every_way() {
        let stop = Stop::default();
        let bytes: Vec<u8> = (0..=250).cycle().take(3 * BUFFER_LEN).collect();
        let (from, size) = (8192, BUFFER_LEN + 5000);
        for way in 0..4 {
            let ways = Ways::default();
            ways.no_range.store(way >= 1, Ordering::Relaxed);
            let (target, file) = pair(&bytes);
            let source = Source::part(&file, from as u64, size as u64);
            if way == 3 {
                let hash = ways.fill_hashing(&target, source, false, &stop).expect("fill");
                assert_eq!(hash, Hash::of(&bytes[from..from + size]));
            } else {
                ways.fill(&target, source, way == 2, &stop).expect("fill");
            }
            assert!(bytes_of(&target) == bytes[from..from + size], "way {way}");
            assert_eq!(ways.counts().reflinked, 0, "it would be all of the file");
        }
    }

    #[test]
    fn source_that_is_shorter_than_was_said_is_an_error() {
        for (no_range, real) in [(false, false), (true, false), (true, true)] {
            let ways = Ways::default();
            ways.no_reflink.store(true, Ordering::Relaxed);
            ways.no_range.store(no_range, Ordering::Relaxed);
            let (target, source) = pair(b"short");
            let failed = ways
                .fill(&target, Source::whole(&source, 6), real, &Stop::default())
                .expect_err("short");
            assert_eq!(failed.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn way_that_two_file_systems_do_not_have_is_tried_once() {
        // Both are in memory: no reflink, whatever the disk can do.
        let dir = std::path::Path::new("/dev/shm");
        let Ok(target) = tempfile::tempfile_in(dir) else { return };
        let (_, source) = pair(b"x");
        let ways = Ways::default();
        ways.fill(&target, Source::whole(&source, 1), false, &Stop::default()).expect("fill");
        assert!(ways.no_reflink.load(Ordering::Relaxed));
        assert_eq!(bytes_of(&target), b"x");
    }

    #[test]
    fn stopped_copy_ends_early() {
        let stop = Stop::default();
        stop.stop();
        let (target, source) = pair(b"bytes");
        let ways = Ways::default();
        ways.no_reflink.store(true, Ordering::Relaxed);
        assert!(ways.fill(&target, Source::whole(&source, 5), false, &stop).is_err());
        assert!(ways.fill(&target, Source::whole(&source, 5), true, &stop).is_err());
        assert!(hash_of(&source, &stop).is_err());
    }
}
