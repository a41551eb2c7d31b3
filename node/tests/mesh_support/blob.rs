//! Blobs and the frames that carry them, written by hand so that they can be written wrong.

use std::ops::Deref;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{BlobHasher, GROUP_LEN, GroupList};
use blobmesh_protocol::wire::frame::{self, FrameHeader};
use blobmesh_protocol::wire::message::{BlobHead, BlobRequest, END, GROUP, HEAD, LIST};

/// The length of a group in bytes.
pub const GROUP_BYTES: usize = 64 * 1024;

/// A blob with its group list.
#[derive(Clone, Debug)]
pub struct Blob {
    pub bytes: Vec<u8>,
    pub list: GroupList,
}

impl Blob {
    /// Makes the blob of a number; bytes of it do not compress.
    pub fn new(number: u32, len: usize) -> Self {
        let mut key = *b"blobs of the tests, by number   ";
        key[28..].copy_from_slice(&number.to_le_bytes());
        let mut bytes = vec![0; len];
        blake3::Hasher::new_keyed(&key).finalize_xof().fill(&mut bytes);
        let mut hasher = BlobHasher::new();
        hasher.update(&bytes);
        Self { list: hasher.finish(), bytes }
    }

    pub fn hash(&self) -> Hash {
        self.list.hash()
    }

    pub fn last(&self) -> usize {
        self.list.values().len() - 1
    }

    /// Returns the bytes of one group.
    pub fn part(&self, index: usize) -> &[u8] {
        &self.bytes[index * GROUP_BYTES..self.bytes.len().min((index + 1) * GROUP_BYTES)]
    }

    /// Returns the frame of one group, as it should be.
    pub fn group(&self, index: usize) -> Vec<u8> {
        group(index as u64, 0, self.part(index))
    }

    pub fn list_frame(&self) -> Vec<u8> {
        frame_of(LIST, self.list.values().as_flattened())
    }

    /// Returns head, list and last group of a shorter blob that merges to the same hash: inner nodes
    /// of the tree passed off as groups. The blob must have four groups or a little more.
    pub fn forged_short(&self) -> Vec<u8> {
        use blake3::hazmat::{Mode, merge_subtrees_non_root};
        let values = self.list.values();
        let left = merge_subtrees_non_root(
            &merge_subtrees_non_root(&values[0], &values[1], Mode::Hash),
            &merge_subtrees_non_root(&values[2], &values[3], Mode::Hash),
            Mode::Hash,
        );
        let list = frame_of(LIST, [left, values[4]].as_flattened());
        let size = GROUP_LEN + self.part(4).len() as u64;
        [head(size), list, group(1, 0, self.part(4)), group(0, 0, self.part(0)), end()].concat()
    }
}

/// A blob that somebody requested.
#[derive(Clone, Copy, Debug)]
pub struct Requested<'a> {
    blob: &'a Blob,
    /// Whether the group list was requested too; whoever has it already takes it for a breach.
    with_list: bool,
}

impl<'a> Requested<'a> {
    pub fn new(blob: &'a Blob, request: &BlobRequest) -> Self {
        Self { blob, with_list: request.with_list }
    }

    /// Returns what an honest provider sends first: the head, and where requested the list and the
    /// last group.
    pub fn opening(&self) -> Vec<u8> {
        let head = head(self.list.size());
        if !self.with_list || self.last() == 0 {
            return head;
        }
        [head, self.list_frame(), self.group(self.last())].concat()
    }

    /// Returns all that an honest provider sends of the whole blob.
    pub fn response(&self) -> Vec<u8> {
        let groups = (0..=self.last()).flat_map(|index| self.group(index)).collect();
        [self.opening(), groups, end()].concat()
    }
}

impl Deref for Requested<'_> {
    type Target = Blob;

    fn deref(&self) -> &Blob {
        self.blob
    }
}

pub fn head(size: u64) -> Vec<u8> {
    head_of(&BlobHead::Ok { size })
}

pub fn head_of(head: &BlobHead) -> Vec<u8> {
    frame::encode(HEAD, head).expect("encodes")
}

pub fn group(index: u64, codec: u8, payload: &[u8]) -> Vec<u8> {
    frame_of(GROUP, &[&index.to_le_bytes()[..], &[codec], payload].concat())
}

pub fn end() -> Vec<u8> {
    frame_of(END, &[])
}

/// Frames any body as any kind, whatever the bounds say.
pub fn frame_of(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).expect("a body of a test");
    [&FrameHeader { kind, len }.encode()[..], body].concat()
}
