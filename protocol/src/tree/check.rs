//! Whether a tree may be written to a disk.
//!
//! A manifest comes from whoever made it. Its encoding excludes names that lead elsewhere and two
//! entries of one name; what is looked at here needs the whole tree, or knowledge of the places where it
//! may be written:
//!
//! * **Names that mean harm.** `.git` is refused at every depth, whatever it is and in every guise that
//!   some file system takes for it: its hooks and configuration are executed by the next git command
//!   in the directory. So is `.blobmesh`, the state of a checkout.
//! * **Names that clash.** Where case or normalisation does not count, one entry would replace another,
//!   or be written through it if that one is a symbolic link. Whoever knows that the file system tells
//!   them apart may [allow](Rules::clashes) clashes, but for those of links.
//! * **Links that lead outside.** Targets are relative, and `..` stands before all names only. No entry
//!   is below a link, so a link's directory is where its path says; climbing from there up to the
//!   root and going down from there, even through other links of which the same is true, never leaves the
//!   tree. Behind a name, `..` would be that of wherever a link leads.
//! * **Depth and length** of paths. (The number of entries is bounded by the manifests' own totals.)
//!
//! All of this before anything is written, and again for nobody: a tree is what its hash says.

use super::fold::{fold, is_reserved};
use super::name::write_escaped;
use super::source::{load_below, load_root};
use super::{Entry, LoadError, Node, TREE_DEPTH_MAX, TREE_PATH_MAX, Totals, TreeSource};
use crate::blob::Hash;

/// Says what is accepted beyond what is safe everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Whether names may clash that differ in case or normalisation, as file systems of Linux tell
    /// them apart.
    pub clashes: bool,
    /// Whether symbolic links may lead anywhere: nothing is written through them, but whoever follows
    /// them later leaves the tree.
    pub outside_links: bool,
}

/// Names an entry that must not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unsafe tree entry \"{}\": {reason}", escaped(path))]
pub struct UnsafeEntry {
    /// Where it is, from the root.
    pub path: Box<[u8]>,
    /// Why not.
    pub reason: Reason,
}

/// Says why an entry must not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Programs obey what has this name.
    #[error("the name is reserved, or some file system takes it for one that is")]
    Reserved,
    /// Another entry of the directory has the same name for some file system.
    #[error("some file system takes it for \"{}\"", escaped(other))]
    Clash {
        /// The other's name.
        other: Box<[u8]>,
    },
    /// A symbolic link begins at the root of the file system.
    #[error("it links to \"{}\", which is not relative", escaped(target))]
    LinkAbsolute {
        /// The link's target.
        target: Box<[u8]>,
    },
    /// A symbolic link leads out of the tree.
    #[error("it links to \"{}\", which is outside of the tree", escaped(target))]
    LinkOutside {
        /// The link's target.
        target: Box<[u8]>,
    },
    /// A symbolic link goes up after it has gone down, so that nobody can tell where.
    #[error("it links to \"{}\", which has a .. behind a name", escaped(target))]
    LinkTwisted {
        /// The link's target.
        target: Box<[u8]>,
    },
    /// There are too many directories above it.
    #[error("it is deeper than {TREE_DEPTH_MAX}")]
    Depth,
    /// Its path is too long.
    #[error("its path has {len} bytes, more than {TREE_PATH_MAX}")]
    Path {
        /// The path's length in bytes.
        len: usize,
    },
}

/// Says why a tree must not be written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError<E: std::error::Error + 'static> {
    /// A manifest is missing or malformed.
    #[error(transparent)]
    Load(#[from] LoadError<E>),
    /// An entry is unsafe.
    #[error(transparent)]
    Unsafe(#[from] UnsafeEntry),
}

/// Checks all of a tree, and returns what is in it.
///
/// Holds the manifests from the root to where it is, and loads none of the files. Work is bounded by
/// [`TREE_ENTRIES_MAX`](super::TREE_ENTRIES_MAX): a tree that names one subtree many times holds what it
/// says so many times.
///
/// # Errors
/// [`CheckError`] of the first trouble, in the order of the paths.
pub fn check<S>(root: &Hash, rules: Rules, source: &mut S) -> Result<Totals, CheckError<S::Error>>
where
    S: TreeSource,
    S::Error: std::error::Error + 'static,
{
    let manifest = load_root(root, source)?;
    let totals = manifest.totals().map_err(|source| LoadError::Manifest { hash: *root, source })?;
    let mut walk = Walk { rules, path: Vec::new(), open: Vec::new() };
    walk.enter(manifest.entries)?;
    while let Some(entry) = walk.next() {
        walk.check_place()?;
        match entry.node {
            Node::File { .. } => {}
            Node::Symlink { target } => walk.check_link(target, walk.open.len() - 1)?,
            Node::Dir(entries) => walk.enter(entries)?,
            Node::Tree { hash, totals } => {
                walk.enter(load_below(&hash, &totals, source)?.entries)?
            }
        }
    }
    Ok(totals)
}

/// Checks the entries of one directory at `path`, the root's being empty, and not what is in them: for whoever
/// makes a tree directory by directory.
///
/// # Errors
/// [`UnsafeEntry`], the first of them.
pub fn check_directory(path: &[u8], entries: &[Entry], rules: Rules) -> Result<(), UnsafeEntry> {
    let mut walk = Walk { rules, path: path.to_vec(), open: Vec::new() };
    walk.check_names(entries)?;
    let depth = match path {
        [] => 0,
        path => path.split(|byte| *byte == b'/').count(),
    };
    for entry in entries {
        if let Node::Symlink { target } = &entry.node {
            walk.path.truncate(path.len());
            push_name(&mut walk.path, entry);
            walk.check_link(target.clone(), depth)?;
        }
    }
    Ok(())
}

/// Is somewhere in a tree.
struct Walk {
    rules: Rules,
    /// The path of the last entry.
    path: Vec<u8>,
    /// The directories from the root to it.
    open: Vec<Open>,
}

struct Open {
    /// How much of the path is the directory's.
    path_len: usize,
    left: std::vec::IntoIter<Entry>,
}

impl Walk {
    /// Begins the directory that the last entry is.
    fn enter(&mut self, entries: Vec<Entry>) -> Result<(), UnsafeEntry> {
        self.check_names(&entries)?;
        self.open.push(Open { path_len: self.path.len(), left: entries.into_iter() });
        Ok(())
    }

    /// Goes to the next entry.
    fn next(&mut self) -> Option<Entry> {
        loop {
            let directory = self.open.last_mut()?;
            if let Some(entry) = directory.left.next() {
                self.path.truncate(directory.path_len);
                push_name(&mut self.path, &entry);
                return Some(entry);
            }
            self.open.pop();
        }
    }

    fn check_place(&self) -> Result<(), UnsafeEntry> {
        if self.open.len() > TREE_DEPTH_MAX {
            return Err(self.refuse(Reason::Depth));
        }
        if self.path.len() > TREE_PATH_MAX {
            return Err(self.refuse(Reason::Path { len: self.path.len() }));
        }
        Ok(())
    }

    /// Checks the names of one directory, the last entry.
    fn check_names(&self, entries: &[Entry]) -> Result<(), UnsafeEntry> {
        if let Some(entry) = entries.iter().find(|entry| is_reserved(entry.name.as_bytes())) {
            return Err(self.refuse_in(entry, Reason::Reserved));
        }
        let mut keys: Vec<_> =
            entries.iter().map(|entry| (fold(entry.name.as_bytes()), entry)).collect();
        keys.sort_by(|(one, _), (other, _)| one.cmp(other));
        for pair in keys.windows(2) {
            let [(one_key, one), (other_key, other)] = pair else { continue };
            let link = [one, other].iter().any(|e| matches!(e.node, Node::Symlink { .. }));
            if one_key == other_key && (link || !self.rules.clashes) {
                let other = other.name.as_bytes().into();
                return Err(self.refuse_in(one, Reason::Clash { other }));
            }
        }
        Ok(())
    }

    /// Checks the last entry, which links to `target` from so many directories below the root.
    fn check_link(&self, target: Box<[u8]>, depth: usize) -> Result<(), UnsafeEntry> {
        if self.rules.outside_links {
            return Ok(());
        }
        if target.first() == Some(&b'/') {
            return Err(self.refuse(Reason::LinkAbsolute { target }));
        }
        let mut above = depth;
        let mut named = false;
        for part in target.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." if named => return Err(self.refuse(Reason::LinkTwisted { target })),
                b".." if above == 0 => return Err(self.refuse(Reason::LinkOutside { target })),
                b".." => above -= 1,
                _ => named = true,
            }
        }
        Ok(())
    }

    fn refuse(&self, reason: Reason) -> UnsafeEntry {
        UnsafeEntry { path: self.path.clone().into(), reason }
    }

    /// Refuses an entry of the directory that is the last entry.
    fn refuse_in(&self, entry: &Entry, reason: Reason) -> UnsafeEntry {
        let mut path = self.path.clone();
        push_name(&mut path, entry);
        UnsafeEntry { path: path.into(), reason }
    }
}

fn push_name(path: &mut Vec<u8>, entry: &Entry) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(entry.name.as_bytes());
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    write_escaped(bytes, &mut text).ok();
    text
}
