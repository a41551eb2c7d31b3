//! What a manifest says.

use super::codec::{self, ManifestError};
use super::{MANIFEST_BYTES_MAX, Name, SYMLINK_TARGET_MAX, TREE_ENTRIES_MAX, TREE_INLINE_MAX};
use crate::blob::Hash;

/// Is one entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name there.
    pub name: Name,
    /// What it is.
    pub node: Node,
}

/// Is what stands under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A file.
    File {
        /// The blob that is its content.
        hash: Hash,
        /// The blob's length in bytes: a claim until the blob is at hand.
        size: u64,
        /// Whether it may be executed.
        executable: bool,
    },
    /// A symbolic link.
    Symlink {
        /// Where it leads, as it is written: 1 to 4,095 bytes without NUL.
        target: Box<[u8]>,
    },
    /// A directory that is given in place, its entries in the order of their names.
    Dir(Vec<Entry>),
    /// A directory that another manifest describes.
    Tree {
        /// The manifest.
        hash: Hash,
        /// What is in it: a claim until the manifest is at hand.
        totals: Totals,
    },
}

/// Counts what is below a directory, itself not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Files.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Files, symbolic links and directories.
    pub entries: u64,
}

/// Describes one directory, and those below it that are given in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The entries in the order of their names, each name once.
    pub entries: Vec<Entry>,
}

/// Is a directory as its parent names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// What stands in the parent: [`Node::Dir`] or [`Node::Tree`].
    pub node: Node,
    /// The manifest that `node` names, where it names one: the blob to be stored.
    pub manifest: Option<Vec<u8>>,
}

impl Manifest {
    /// Makes a manifest of `entries` in whatever order.
    ///
    /// # Errors
    /// [`ManifestError`] for a name that is there twice, a symbolic link without a target or with one
    /// that is none, more entries or bytes than a tree may have.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, ManifestError> {
        entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(ManifestError::Order { name: pair[1].name.clone() });
        }
        for entry in &entries {
            if let Node::Symlink { target } = &entry.node {
                check_target(target)?;
            }
        }
        let manifest = Self { entries };
        manifest.totals()?;
        Ok(manifest)
    }

    /// Returns the one encoding of this manifest.
    ///
    /// What is not in order, or has a directory in place that is too long for that, is encoded as it is
    /// and refused by [`decode`](Self::decode); [`new`](Self::new) and [`seal`](Self::seal) make neither.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&self.entries)
    }

    /// Reads a manifest: all of `bytes`, and only if they are its one encoding.
    ///
    /// Memory grows with what is read, up to [`TREE_ENTRIES_MAX`] entries.
    ///
    /// # Errors
    /// [`ManifestError`] that says what is wrong first.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        codec::decode(bytes).map(|entries| Self { entries })
    }

    /// Reads the manifest that a [`Node::Tree`] with these `totals` names.
    ///
    /// # Errors
    /// As for [`decode`](Self::decode); [`ManifestError::Totals`] where it holds something else than
    /// its parent says, [`ManifestError::NotInPlace`] where it had to be given in place there.
    pub fn decode_below(bytes: &[u8], totals: &Totals) -> Result<Self, ManifestError> {
        let manifest = Self::decode(bytes)?;
        if bytes.len() - codec::HEADER_LEN <= TREE_INLINE_MAX {
            return Err(ManifestError::NotInPlace { len: bytes.len() - codec::HEADER_LEN });
        }
        let found = manifest.totals()?;
        if found != *totals {
            return Err(ManifestError::Totals { claimed: *totals, found });
        }
        Ok(manifest)
    }

    /// Returns what is below this directory, as far as this manifest and its claims say.
    ///
    /// # Errors
    /// [`ManifestError::Entries`] and [`ManifestError::Bytes`] where that is more than a tree may have.
    pub fn totals(&self) -> Result<Totals, ManifestError> {
        let mut totals = Totals::default();
        let mut open: Vec<&[Entry]> = vec![&self.entries];
        while let Some(entries) = open.pop() {
            for entry in entries {
                totals = totals.with(&entry.node)?;
                if let Node::Dir(inner) = &entry.node {
                    open.push(inner);
                }
            }
        }
        Ok(totals)
    }

    /// Makes of this directory what its parent holds: itself in place where it is short, or a tree and
    /// the manifest that describes it.
    ///
    /// # Errors
    /// [`ManifestError::Entries`], [`ManifestError::Bytes`] and [`ManifestError::TooLong`] where it is
    /// larger than a tree may be.
    pub fn seal(self) -> Result<Sealed, ManifestError> {
        let totals = self.totals()?;
        let bytes = self.encode();
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if bytes.len() - codec::HEADER_LEN <= TREE_INLINE_MAX {
            return Ok(Sealed { node: Node::Dir(self.entries), manifest: None });
        }
        if len > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLong { len });
        }
        let node = Node::Tree { hash: Hash::of(&bytes), totals };
        Ok(Sealed { node, manifest: Some(bytes) })
    }
}

impl Totals {
    /// Returns these totals with one more entry, and with what is below it if it is a tree. What is
    /// below a directory in place is not added.
    fn with(self, node: &Node) -> Result<Self, ManifestError> {
        let more = match node {
            Node::File { size, .. } => Self { files: 1, bytes: *size, entries: 1 },
            Node::Symlink { .. } | Node::Dir(_) => Self { entries: 1, ..Self::default() },
            Node::Tree { totals, .. } => {
                Self { entries: totals.entries.saturating_add(1), ..*totals }
            }
        };
        let bytes = self.bytes.checked_add(more.bytes).ok_or(ManifestError::Bytes)?;
        let entries = self.entries.saturating_add(more.entries);
        if entries > TREE_ENTRIES_MAX {
            return Err(ManifestError::Entries { found: entries });
        }
        Ok(Self { files: self.files.saturating_add(more.files), bytes, entries })
    }
}

/// Checks that `target` can be a symbolic link's.
pub(super) fn check_target(target: &[u8]) -> Result<(), ManifestError> {
    if target.is_empty() || target.len() > SYMLINK_TARGET_MAX || target.contains(&0) {
        return Err(ManifestError::Target { len: target.len() });
    }
    Ok(())
}
