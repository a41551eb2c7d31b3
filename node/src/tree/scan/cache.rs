//! What the last scan of a directory found, so that unchanged files are not read again.
//!
//! A file is taken for unchanged if device, inode, length, and the times of its last change and of its inode's
//! are those it had when it was read. A change could hide only within the moment that such a time
//! stands for: the kernel's clock has ticks of some milliseconds, and some file systems count seconds. So a file is
//! not remembered whose times are no older than that when its reading began, and the next scan reads it
//! again. (Times of a server whose clock is behind ours can deceive this; those of one that is ahead only cost a
//! reading.)
//!
//! One file for each directory that was scanned, replaced after each scan, with a hash of its own: a damaged
//! one, or none, costs a reading of everything. It says nothing about whether the blobs are still in the store.

use std::fs::{self, Metadata};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blobmesh_protocol::Hash;

const MAGIC: [u8; 8] = *b"BMSCAN\0\x01";
/// Magic and the hash of what follows.
const HEADER_LEN: usize = 40;
/// Five numbers and a hash.
const ENTRY_LEN: usize = 72;
/// How many directories are remembered; the one that was scanned longest ago goes.
const REMEMBERED_MAX: usize = 64;
/// The longest time for which a file system with fine times may give the same one.
const TICK: Duration = Duration::from_millis(20);
/// The same for one that counts seconds, or two.
const COARSE_TICK: Duration = Duration::from_secs(2);

/// Tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stat {
    device: u64,
    inode: u64,
    size: u64,
    /// In nanoseconds since 1970.
    modified: i64,
    changed: i64,
}

impl Stat {
    pub(super) fn of(meta: &Metadata) -> Self {
        let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000) + nanos;
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified: nanos(meta.mtime(), meta.mtime_nsec()),
            changed: nanos(meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// As [`of`](Self::of), of what a look into a directory found.
    pub(super) fn of_entry(stat: &rustix::fs::Stat) -> Self {
        let nanos = |seconds: i64, nanos: u64| {
            seconds.saturating_mul(1_000_000_000) + i64::try_from(nanos).unwrap_or(0)
        };
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: nanos(stat.st_mtime, stat.st_mtime_nsec),
            changed: nanos(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// Returns the length in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Returns whether every change since `read` must have given the file another time.
    pub(super) fn is_settled(&self, read: SystemTime) -> bool {
        let coarse = [self.modified, self.changed].iter().all(|time| time % 1_000_000_000 == 0);
        let tick = if coarse { COARSE_TICK } else { TICK };
        let settled = read.checked_sub(tick).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let settled = settled.and_then(|time| i64::try_from(time.as_nanos()).ok());
        settled.is_some_and(|settled| self.modified.max(self.changed) < settled)
    }

    fn encode(&self, hash: &Hash, out: &mut Vec<u8>) {
        for number in [self.device, self.inode, self.size] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.modified.to_le_bytes());
        out.extend_from_slice(&self.changed.to_le_bytes());
        out.extend_from_slice(hash.as_bytes());
    }

    fn decode(bytes: &[u8; ENTRY_LEN]) -> Option<(Self, Hash)> {
        let (numbers, hash) = bytes.split_at_checked(40)?;
        let number = |index: usize| {
            let bytes = numbers.get(index * 8..index * 8 + 8)?;
            bytes.try_into().ok()
        };
        let stat = Self {
            device: u64::from_le_bytes(number(0)?),
            inode: u64::from_le_bytes(number(1)?),
            size: u64::from_le_bytes(number(2)?),
            modified: i64::from_le_bytes(number(3)?),
            changed: i64::from_le_bytes(number(4)?),
        };
        Some((stat, Hash::from_bytes(hash.try_into().ok()?)))
    }
}

/// Holds what the last scan found.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// In the order of the states.
    entries: Vec<(Stat, Hash)>,
    /// None where nothing was read.
    hash: Option<Hash>,
}

impl Cache {
    /// Reads what is remembered of the directory `root`; nothing where that fails.
    pub(super) fn load(memory: &Path, root: &Path) -> Self {
        let bytes = fs::read(path_of(memory, root)).unwrap_or_default();
        decode(&bytes).unwrap_or_default()
    }

    /// Returns the hash of all that is remembered, if anything is.
    pub(super) fn hash(&self) -> Option<Hash> {
        self.hash
    }

    /// Returns how many files are remembered.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the blob that a file of this state was.
    pub(super) fn find(&self, stat: &Stat) -> Option<Hash> {
        let index = self.entries.binary_search_by(|(known, _)| known.cmp(stat)).ok()?;
        self.entries.get(index).map(|(_, hash)| *hash)
    }
}

/// Gathers what this scan finds.
#[derive(Debug, Default)]
pub(super) struct Memory {
    entries: Vec<(Stat, Hash)>,
}

impl Memory {
    pub(super) fn remember(&mut self, stat: Stat, hash: Hash) {
        self.entries.push((stat, hash));
    }

    /// Returns how many files there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Writes it down for the next scan of `root`; returns the hash of all of it.
    pub(super) fn save(mut self, memory: &Path, root: &Path) -> io::Result<Hash> {
        self.entries.sort_unstable();
        fs::DirBuilder::new().recursive(true).create(memory)?;
        forget_oldest(memory)?;
        let path = path_of(memory, root);
        let new = path.with_extension(format!("new-{}", std::process::id()));
        let (bytes, hash) = encode(&self.entries);
        let written = fs::File::create(&new).and_then(|mut file| file.write_all(&bytes));
        let saved = written.and_then(|()| fs::rename(&new, &path));
        saved.map(|()| hash).inspect_err(|_| {
            fs::remove_file(&new).ok();
        })
    }
}

fn path_of(memory: &Path, root: &Path) -> PathBuf {
    memory.join(Hash::of(root.as_os_str().as_bytes()).to_hex())
}

fn encode(entries: &[(Stat, Hash)]) -> (Vec<u8>, Hash) {
    let mut bytes = Vec::with_capacity(HEADER_LEN + ENTRY_LEN * entries.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[0; 32]);
    entries.iter().for_each(|(stat, hash)| stat.encode(hash, &mut bytes));
    let hash = Hash::of(&bytes[HEADER_LEN..]);
    bytes[MAGIC.len()..HEADER_LEN].copy_from_slice(hash.as_bytes());
    (bytes, hash)
}

/// Reads what was written; none for anything else.
fn decode(bytes: &[u8]) -> Option<Cache> {
    let (header, body) = bytes.split_at_checked(HEADER_LEN)?;
    let hash = Hash::of(body);
    if header[..MAGIC.len()] != MAGIC || header[MAGIC.len()..] != *hash.as_bytes() {
        return None;
    }
    let (entries, rest) = body.as_chunks::<ENTRY_LEN>();
    if !rest.is_empty() {
        return None;
    }
    let entries: Option<Vec<_>> = entries.iter().map(Stat::decode).collect();
    let entries = entries.filter(|entries| entries.is_sorted())?;
    Some(Cache { entries, hash: Some(hash) })
}

/// Keeps the number of remembered directories below the bound, by one that is to come.
fn forget_oldest(memory: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(memory)?.flatten() {
        files.push((entry.metadata()?.modified()?, entry.path()));
    }
    files.sort_unstable();
    let excess = (files.len() + 1).saturating_sub(REMEMBERED_MAX);
    for (_, path) in files.into_iter().take(excess) {
        fs::remove_file(path).ok();
    }
    Ok(())
}
