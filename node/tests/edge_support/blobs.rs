//! Blobs of the tests' own making.

use blobmesh_node::config::EdgeConfig;
use blobmesh_node::edge::{Edge, EdgeBody, EdgeError, EdgeOptions, Pushed};
use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{BlobHasher, GroupList};
use bytes::Bytes;

/// The length of a group.
pub(crate) const GROUP: usize = 65_536;

/// A blob with its list.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) bytes: Bytes,
    pub(crate) list: GroupList,
}

impl Blob {
    /// Makes a blob of `len` bytes; no two lengths share a prefix.
    pub(crate) fn of_len(len: usize) -> Self {
        // The length itself and a counter per KiB, cheap to make without optimisation.
        let mut bytes = vec![len as u8 ^ 0x5a; len];
        for (index, piece) in bytes.chunks_mut(1024).enumerate() {
            let mark = [len.to_le_bytes(), index.to_le_bytes()].concat();
            let marked = mark.len().min(piece.len());
            piece[..marked].copy_from_slice(&mark[..marked]);
        }
        let mut hasher = BlobHasher::new();
        hasher.update(&bytes);
        Self { bytes: Bytes::from(bytes), list: hasher.finish() }
    }

    pub(crate) fn hash(&self) -> Hash {
        self.list.hash()
    }

    pub(crate) fn size(&self) -> u64 {
        self.list.size()
    }

    /// Pushes the blob.
    pub(crate) async fn push(&self, edge: &Edge) -> Result<Pushed, EdgeError> {
        let (bytes, hash) = (self.bytes.clone(), self.hash());
        let source = move |offset: u64, len: usize| {
            let from = offset as usize;
            Ok(bytes.slice(from..from + len))
        };
        edge.push(&hash, self.size(), &self.list, source, |_| {}).await
    }

    /// Writes the blob and its list under `base` by the directory edge.
    pub(crate) async fn seed(&self, base: &std::path::Path) {
        let config = EdgeConfig::Directory { path: base.to_owned() };
        let edge = Edge::new(&config, EdgeOptions::default()).expect("a directory edge");
        self.push(&edge).await.expect("seeded");
    }
}

/// Reads a body to its end.
pub(crate) async fn collect(mut body: EdgeBody) -> Result<Vec<u8>, EdgeError> {
    let mut bytes = Vec::new();
    while let Some(piece) = body.chunk().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}
