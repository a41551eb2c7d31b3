//! Manifests, made from the bottom up.

use std::path::{Path, PathBuf};

use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::{
    Entry, Manifest, ManifestError, Name, Node, Rules, Totals, UnsafeEntry, check_directory,
};

use super::ScanError;
use super::walk::{Chunk, Step};
use crate::store::Batch;

/// Holds the directories that have begun and not ended.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// The entries of the root so far.
    root: Vec<Entry>,
    /// The directories from the root to the last one, with what they have so far.
    open: Vec<(Name, Vec<Entry>)>,
    manifests: u64,
    /// The first entry that a checkout would refuse.
    refused: Option<UnsafeEntry>,
}

/// Tells what the root has become.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) hash: Hash,
    pub(super) totals: Totals,
    /// How many manifests the tree has.
    pub(super) manifests: u64,
    /// The first entry that a checkout would refuse.
    pub(super) refused: Option<UnsafeEntry>,
}

impl Assembler {
    /// Takes the steps of a chunk, and the nodes of its files in their order.
    pub(super) fn take(
        &mut self,
        chunk: Chunk,
        nodes: Vec<Node>,
        batch: &Batch,
    ) -> Result<(), ScanError> {
        let mut nodes = nodes.into_iter();
        for step in chunk.steps {
            match step {
                Step::Enter(name) => self.open.push((name, Vec::new())),
                Step::Link { name, target } => self.push(name, Node::Symlink { target }),
                Step::File(file) => {
                    if let Some(node) = nodes.next() {
                        self.push(file.name, node);
                    }
                }
                Step::Leave(path) => self.leave(&path, batch)?,
            }
        }
        Ok(())
    }

    /// Ends the root.
    pub(super) fn finish(mut self, batch: &Batch) -> Result<Root, ScanError> {
        let refuse = |source| ScanError::Tree { path: PathBuf::from("the directory"), source };
        let manifest = Manifest::new(std::mem::take(&mut self.root)).map_err(refuse)?;
        self.check(&manifest.entries);
        let totals = manifest.totals().map_err(refuse)?;
        let hash = batch.put(&manifest.encode())?;
        Ok(Root { hash, totals, manifests: self.manifests + 1, refused: self.refused })
    }

    /// Looks for an entry of the directory that is open which a checkout would refuse.
    fn check(&mut self, entries: &[Entry]) {
        if self.refused.is_none() {
            let names: Vec<&[u8]> = self.open.iter().map(|(name, _)| name.as_bytes()).collect();
            self.refused = check_directory(&names.join(&b'/'), entries, Rules::default()).err();
        }
    }

    fn push(&mut self, name: Name, node: Node) {
        let entries = self.open.last_mut().map_or(&mut self.root, |(_, entries)| entries);
        entries.push(Entry { name, node });
    }

    fn leave(&mut self, path: &Path, batch: &Batch) -> Result<(), ScanError> {
        let refuse = |source: ManifestError| ScanError::Tree { path: path.to_owned(), source };
        let Some((_, entries)) = self.open.last_mut() else { return Ok(()) };
        let entries = std::mem::take(entries);
        self.check(&entries);
        let Some((name, _)) = self.open.pop() else { return Ok(()) };
        let sealed = Manifest::new(entries).and_then(Manifest::seal).map_err(refuse)?;
        if let Some(manifest) = sealed.manifest {
            batch.put(&manifest)?;
            self.manifests += 1;
        }
        self.push(name, sealed.node);
        Ok(())
    }
}
