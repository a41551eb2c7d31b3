//! Manifests, made from the bottom up.

use std::path::{Path, PathBuf};

use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::{Entry, Manifest, ManifestError, Name, Node, Totals};

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

    /// Ends the root and returns the tree's hash, what is in it and how many manifests it has.
    pub(super) fn finish(self, batch: &Batch) -> Result<(Hash, Totals, u64), ScanError> {
        let refuse = |source| ScanError::Tree { path: PathBuf::from("the directory"), source };
        let manifest = Manifest::new(self.root).map_err(refuse)?;
        let totals = manifest.totals().map_err(refuse)?;
        let hash = batch.put(&manifest.encode())?;
        Ok((hash, totals, self.manifests + 1))
    }

    fn push(&mut self, name: Name, node: Node) {
        let entries = self.open.last_mut().map_or(&mut self.root, |(_, entries)| entries);
        entries.push(Entry { name, node });
    }

    fn leave(&mut self, path: &Path, batch: &Batch) -> Result<(), ScanError> {
        let refuse = |source: ManifestError| ScanError::Tree { path: path.to_owned(), source };
        let Some((name, entries)) = self.open.pop() else { return Ok(()) };
        let sealed = Manifest::new(entries).and_then(Manifest::seal).map_err(refuse)?;
        if let Some(manifest) = sealed.manifest {
            batch.put(&manifest)?;
            self.manifests += 1;
        }
        self.push(name, sealed.node);
        Ok(())
    }
}
