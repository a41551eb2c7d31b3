//! Which blobs a tree consists of.

use std::collections::BTreeSet;

use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::codec::MANIFEST_MAGIC;
use blobmesh_protocol::tree::source::{load_below, load_root};
use blobmesh_protocol::tree::{Entry, LoadError, Node};

use super::source::StoreSource;
use crate::store::{Store, StoreError};

/// Is one blob of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Where the tree has it, first of all places; of the root itself empty.
    pub(crate) path: Vec<u8>,
    /// The blob.
    pub(crate) hash: Hash,
    /// Its length in bytes, as the tree has it; none of a manifest.
    pub(crate) size: Option<u64>,
}

/// Returns the manifests that those at `paths` name: the next level of a tree.
///
/// # Errors
/// [`LoadError`] for one that is not in the store or is no manifest. Whether one is what the one above it says, is for a
/// check of the whole.
pub(crate) fn level_below(
    store: &Store,
    level: &[Part],
) -> Result<Vec<Part>, LoadError<StoreError>> {
    let mut below = Vec::new();
    for part in level {
        let manifest = load_root(&part.hash, &mut StoreSource(store))?;
        let mut open = vec![(part.path.clone(), manifest.entries)];
        while let Some((above, entries)) = open.pop() {
            for Entry { name, node } in entries {
                let path = || join(&above, name.as_bytes());
                match node {
                    Node::Dir(entries) => open.push((path(), entries)),
                    Node::Tree { hash, .. } => below.push(Part { path: path(), hash, size: None }),
                    Node::File { .. } | Node::Symlink { .. } => {}
                }
            }
        }
    }
    Ok(below)
}

fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    if above.is_empty() { name.to_vec() } else { [above, name].join(&b'/') }
}

/// Returns a tree and all blobs that it consists of, each once; none where the blob is no tree, or is not in the
/// store. Files need not be there.
///
/// # Errors
/// [`StoreError::Absent`] where a manifest of it is missing.
pub(crate) fn of_tree(store: &Store, root: &Hash) -> Result<Option<Vec<Hash>>, StoreError> {
    let mut blobs = BTreeSet::new();
    if !looks_like_tree(store, root)? || !gather(store, root, &mut blobs)? {
        return Ok(None);
    }
    Ok(Some(blobs.into_iter().collect()))
}

/// Is what one manifest names, in any of the directories that it gives in place.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Below {
    /// Manifests of directories.
    pub(crate) manifests: Vec<Hash>,
    /// Blobs of files.
    pub(crate) files: Vec<Hash>,
}

/// Returns what a manifest names; none where the blob is no manifest.
///
/// # Errors
/// [`StoreError::Absent`] where it is not in the store.
pub(crate) fn below(store: &Store, root: &Hash) -> Result<Option<Below>, StoreError> {
    if !looks_like_tree(store, root)? {
        return Ok(None);
    }
    let mut open = match load_root(root, &mut StoreSource(store)) {
        Ok(manifest) => vec![manifest.entries],
        Err(LoadError::Manifest { .. }) => return Ok(None),
        Err(LoadError::Source { source, .. }) => return Err(source),
    };
    let mut below = Below::default();
    while let Some(entries) = open.pop() {
        for Entry { node, .. } in entries {
            match node {
                Node::File { hash, .. } => below.files.push(hash),
                Node::Symlink { .. } => {}
                Node::Dir(entries) => open.push(entries),
                Node::Tree { hash, .. } => below.manifests.push(hash),
            }
        }
    }
    Ok(Some(below))
}

/// Returns what need not be pinned once a tree is not: itself and what it consists of, without what other
/// pinned trees have. None where the blob is no tree.
///
/// # Errors
/// [`StoreError::Absent`] where a manifest of the tree is missing.
pub(crate) fn to_unpin(store: &Store, root: &Hash) -> Result<Option<Vec<Hash>>, StoreError> {
    let Some(mut blobs) = of_tree(store, root)? else { return Ok(None) };
    let mut others = BTreeSet::new();
    for pin in store.pins() {
        if blobs.binary_search(&pin).is_err()
            && !others.contains(&pin)
            && looks_like_tree(store, &pin)?
        {
            match gather(store, &pin, &mut others) {
                // One that is not whole protects what of it is here.
                Ok(_) | Err(StoreError::Absent { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    blobs.retain(|hash| !others.contains(hash));
    Ok(Some(blobs))
}

/// Says whether a blob begins as manifests do; false where it is not in the store.
fn looks_like_tree(store: &Store, hash: &Hash) -> Result<bool, StoreError> {
    let Some(reader) = store.open_blob(hash)? else { return Ok(false) };
    let mut group = Vec::new();
    match reader.read_group(0, &mut group) {
        Ok(()) => Ok(group.starts_with(&MANIFEST_MAGIC)),
        Err(StoreError::Rot { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gathers a tree's blobs; false where it is none after all.
fn gather(store: &Store, root: &Hash, blobs: &mut BTreeSet<Hash>) -> Result<bool, StoreError> {
    let mut source = StoreSource(store);
    let mut open = match load_root(root, &mut source) {
        Ok(manifest) => vec![manifest.entries],
        Err(LoadError::Manifest { .. }) => return Ok(false),
        Err(LoadError::Source { source, .. }) => return Err(source),
    };
    blobs.insert(*root);
    while let Some(entries) = open.pop() {
        for Entry { node, .. } in entries {
            match node {
                Node::File { hash, .. } => {
                    blobs.insert(hash);
                }
                Node::Symlink { .. } => {}
                Node::Dir(entries) => open.push(entries),
                // One that was met before has nothing new.
                Node::Tree { hash, .. } if blobs.contains(&hash) => {}
                Node::Tree { hash, totals } => match load_below(&hash, &totals, &mut source) {
                    Ok(manifest) => {
                        blobs.insert(hash);
                        open.push(manifest.entries);
                    }
                    Err(LoadError::Manifest { .. }) => return Ok(false),
                    Err(LoadError::Source { source, .. }) => return Err(source),
                },
            }
        }
    }
    Ok(true)
}
