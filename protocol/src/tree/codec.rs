//! The bytes of a manifest.
//!
//! ```text
//! manifest   = "BMTREE" 0x00 version(1) directory
//! directory  = count, then so many entries in the order of their names
//! entry      = kind (1 byte), length of the name, name, and then by kind
//!   0 file, 1 executable file    size, hash (32 bytes)
//!   2 symbolic link              length of the target, target
//!   3 directory in place         directory
//!   4 tree                       hash (32 bytes), files, bytes, entries
//! ```
//!
//! Numbers are LEB128 in the fewest bytes. Nothing is accepted that would be encoded otherwise, but for
//! one thing that is not to be seen here: that a tree is long enough to be one. Neither direction calls
//! itself: how deep bytes nest is for whoever sent them to say.

use super::manifest::check_target;
use super::{
    Entry, MANIFEST_BYTES_MAX, Manifest, Name, NameError, Node, SYMLINK_TARGET_MAX, TREE_DEPTH_MAX,
    TREE_ENTRIES_MAX, TREE_INLINE_MAX, Totals,
};
use crate::blob::Hash;

/// What every manifest begins with, before the version.
pub const MANIFEST_MAGIC: [u8; 7] = *b"BMTREE\0";
/// The version of the format.
pub const MANIFEST_VERSION: u8 = 1;
/// The length of magic and version in bytes.
pub const HEADER_LEN: usize = 8;

/// The shortest entry in bytes: an empty directory with a name of one byte.
const ENTRY_LEN_MIN: usize = 4;

const FILE: u8 = 0;
const EXECUTABLE: u8 = 1;
const SYMLINK: u8 = 2;
const DIR: u8 = 3;
const TREE: u8 = 4;

/// Says why bytes are no manifest, or entries none that can be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// There are too many bytes.
    #[error("a manifest has {len} bytes, more than {MANIFEST_BYTES_MAX}")]
    TooLong {
        /// How many there are.
        len: u64,
    },
    /// The bytes do not begin as a manifest's do.
    #[error("the blob is no manifest of a tree")]
    NotManifest,
    /// The manifest is of a version that this program does not know.
    #[error("the manifest has version {found}, not {MANIFEST_VERSION}")]
    UnknownVersion {
        /// The version.
        found: u8,
    },
    /// The bytes end too early.
    #[error("the manifest ends within an entry, at byte {at}")]
    Truncated {
        /// Where more bytes were to come.
        at: usize,
    },
    /// A number is too large, or in more bytes than it takes.
    #[error("the manifest has a malformed number at byte {at}")]
    Number {
        /// Where the number begins.
        at: usize,
    },
    /// An entry is of no kind that there is.
    #[error("the manifest has an entry of unknown kind {found} at byte {at}")]
    Kind {
        /// The kind.
        found: u8,
        /// Where it stands.
        at: usize,
    },
    /// A name is none.
    #[error("unsafe tree entry: {source}")]
    Name {
        /// Why not.
        source: NameError,
    },
    /// A name is there twice, or not in its place.
    #[error("unsafe tree entry \"{name}\": it is there twice or out of order")]
    Order {
        /// The name.
        name: Name,
    },
    /// A symbolic link has no target that could be one.
    #[error(
        "unsafe tree entry: a symbolic link's target of {len} bytes is empty, longer than {SYMLINK_TARGET_MAX} bytes or has a NUL in it"
    )]
    Target {
        /// The target's length in bytes.
        len: usize,
    },
    /// There are more entries than a tree may have.
    #[error("the tree has {found} entries, more than {TREE_ENTRIES_MAX}")]
    Entries {
        /// How many there are, as far as is known.
        found: u64,
    },
    /// The sizes of the files add up to more than a number holds.
    #[error("the tree has more bytes than can be counted")]
    Bytes,
    /// Directories are nested too deep.
    #[error("the tree is deeper than {TREE_DEPTH_MAX} directories")]
    Depth,
    /// A directory is given in place that is too long for that.
    #[error("a directory of {len} bytes is given in place, which is for at most {TREE_INLINE_MAX}")]
    InPlace {
        /// Its length in bytes.
        len: usize,
    },
    /// A directory has a manifest of its own that is too short for that.
    #[error(
        "a directory of {len} bytes has a manifest of its own, which is for more than {TREE_INLINE_MAX}"
    )]
    NotInPlace {
        /// Its length in bytes.
        len: usize,
    },
    /// A manifest holds something else than its parent says.
    #[error("the tree has {} entries and {} bytes of files, its parent says {} and {}", found.entries, found.bytes, claimed.entries, claimed.bytes)]
    Totals {
        /// What the parent says.
        claimed: Totals,
        /// What there is.
        found: Totals,
    },
    /// The bytes go on behind the last entry.
    #[error("the manifest has {extra} bytes behind its last entry")]
    Trailing {
        /// How many.
        extra: usize,
    },
}

/// Encodes `entries` as a manifest.
pub(super) fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN + 64 * entries.len());
    out.extend_from_slice(&MANIFEST_MAGIC);
    out.push(MANIFEST_VERSION);
    push_len(entries.len(), &mut out);
    let mut open = vec![entries.iter()];
    while let Some(directory) = open.last_mut() {
        let Some(entry) = directory.next() else {
            open.pop();
            continue;
        };
        push_entry(entry, &mut out);
        if let Node::Dir(inner) = &entry.node {
            push_len(inner.len(), &mut out);
            open.push(inner.iter());
        }
    }
    out
}

/// Appends `entry` up to what is in it, if it is a directory in place.
fn push_entry(entry: &Entry, out: &mut Vec<u8>) {
    out.push(match &entry.node {
        Node::File { executable: false, .. } => FILE,
        Node::File { executable: true, .. } => EXECUTABLE,
        Node::Symlink { .. } => SYMLINK,
        Node::Dir(_) => DIR,
        Node::Tree { .. } => TREE,
    });
    push_bytes(entry.name.as_bytes(), out);
    match &entry.node {
        Node::File { hash, size, .. } => {
            push_number(*size, out);
            out.extend_from_slice(hash.as_bytes());
        }
        Node::Symlink { target } => push_bytes(target, out),
        Node::Dir(_) => {}
        Node::Tree { hash, totals } => {
            out.extend_from_slice(hash.as_bytes());
            push_number(totals.files, out);
            push_number(totals.bytes, out);
            push_number(totals.entries, out);
        }
    }
}

fn push_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    push_len(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn push_len(len: usize, out: &mut Vec<u8>) {
    push_number(u64::try_from(len).unwrap_or(u64::MAX), out);
}

fn push_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(0x80 | (number & 0x7f) as u8);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

/// Decodes a manifest's entries.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Entry>, ManifestError> {
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if len > MANIFEST_BYTES_MAX {
        return Err(ManifestError::TooLong { len });
    }
    let mut reader = Reader { bytes, at: 0, entries: 0 };
    reader.header()?;
    let entries = reader.directories()?;
    match bytes.len() - reader.at {
        0 => {}
        extra => return Err(ManifestError::Trailing { extra }),
    }
    let manifest = Manifest { entries };
    // Entries of trees count, too, and sizes must add up.
    manifest.totals()?;
    Ok(manifest.entries)
}

/// A directory that is being read.
struct Open {
    /// Its name, where it has a parent here.
    name: Option<Name>,
    /// Where its body begins.
    start: usize,
    /// How many entries are to come.
    left: usize,
    entries: Vec<Entry>,
}

/// What an entry begins.
enum Begun {
    Whole(Entry),
    Dir(Name),
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// How many entries the directories so far have, read or not.
    entries: u64,
}

impl<'a> Reader<'a> {
    fn header(&mut self) -> Result<(), ManifestError> {
        if self.take(MANIFEST_MAGIC.len()).ok() != Some(&MANIFEST_MAGIC[..]) {
            return Err(ManifestError::NotManifest);
        }
        match self.byte()? {
            MANIFEST_VERSION => Ok(()),
            found => Err(ManifestError::UnknownVersion { found }),
        }
    }

    /// Reads a directory and those in place below it.
    fn directories(&mut self) -> Result<Vec<Entry>, ManifestError> {
        let mut outer: Vec<Open> = Vec::new();
        let mut current = self.open(None)?;
        loop {
            if current.left > 0 {
                current.left -= 1;
                match self.entry(current.entries.last())? {
                    Begun::Whole(entry) => current.entries.push(entry),
                    Begun::Dir(name) => {
                        let inner = self.open(Some(name))?;
                        // The entries of `current` are at this depth, those of `inner` one deeper.
                        let depth = outer.len() + 1;
                        if inner.left > 0 && depth >= TREE_DEPTH_MAX {
                            return Err(ManifestError::Depth);
                        }
                        outer.push(std::mem::replace(&mut current, inner));
                    }
                }
                continue;
            }
            let Some(parent) = outer.pop() else { return Ok(current.entries) };
            let done = std::mem::replace(&mut current, parent);
            let len = self.at - done.start;
            if len > TREE_INLINE_MAX {
                return Err(ManifestError::InPlace { len });
            }
            if let Some(name) = done.name {
                current.entries.push(Entry { name, node: Node::Dir(done.entries) });
            }
        }
    }

    /// Begins a directory. What is allocated for all directories of a manifest is bounded by
    /// [`TREE_ENTRIES_MAX`], and for each by what its bytes could hold.
    fn open(&mut self, name: Option<Name>) -> Result<Open, ManifestError> {
        let start = self.at;
        let count = self.number()?;
        self.entries = self.entries.saturating_add(count);
        if self.entries > TREE_ENTRIES_MAX {
            return Err(ManifestError::Entries { found: self.entries });
        }
        let left = usize::try_from(count).unwrap_or(usize::MAX);
        if left > (self.bytes.len() - self.at) / ENTRY_LEN_MIN {
            return Err(ManifestError::Truncated { at: self.bytes.len() });
        }
        Ok(Open { name, start, left, entries: Vec::with_capacity(left) })
    }

    /// Reads an entry that comes after `previous`.
    fn entry(&mut self, previous: Option<&Entry>) -> Result<Begun, ManifestError> {
        let at = self.at;
        let kind = self.byte()?;
        if kind > TREE {
            return Err(ManifestError::Kind { found: kind, at });
        }
        let name = self.len().and_then(|len| self.take(len))?;
        let name = Name::new(name).map_err(|source| ManifestError::Name { source })?;
        if previous.is_some_and(|previous| previous.name >= name) {
            return Err(ManifestError::Order { name });
        }
        let node = match kind {
            SYMLINK => {
                let target = self.len().and_then(|len| self.take(len))?;
                check_target(target)?;
                Node::Symlink { target: target.into() }
            }
            DIR => return Ok(Begun::Dir(name)),
            TREE => {
                let hash = self.hash()?;
                let (files, bytes, entries) = (self.number()?, self.number()?, self.number()?);
                Node::Tree { hash, totals: Totals { files, bytes, entries } }
            }
            _ => {
                let size = self.number()?;
                Node::File { hash: self.hash()?, size, executable: kind == EXECUTABLE }
            }
        };
        Ok(Begun::Whole(Entry { name, node }))
    }

    fn hash(&mut self) -> Result<Hash, ManifestError> {
        let bytes = self.take(32)?;
        let bytes = bytes.try_into().map_err(|_| ManifestError::Truncated { at: self.at })?;
        Ok(Hash::from_bytes(bytes))
    }

    fn len(&mut self) -> Result<usize, ManifestError> {
        self.number().map(|len| usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// Reads a number of at most 64 bits in as few bytes as it takes.
    fn number(&mut self) -> Result<u64, ManifestError> {
        let start = self.at;
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    break;
                }
                return Ok(number);
            }
        }
        Err(ManifestError::Number { at: start })
    }

    fn byte(&mut self) -> Result<u8, ManifestError> {
        let byte = *self.bytes.get(self.at).ok_or(ManifestError::Truncated { at: self.at })?;
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], ManifestError> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or(ManifestError::Truncated { at: self.bytes.len() })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }
}
