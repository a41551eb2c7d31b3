//! Runs: groups in a row that were checked before they reach the store, to be written at once.
//!
//! Checking and writing are done by different threads where bytes come fast. A [`CheckedRun`] can only
//! be made by checking each group in it, so that the thread that writes need not believe anybody.

use std::ops::{DerefMut, Range};
use std::sync::Arc;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{GroupList, group_count, group_len};

use super::error::StoreError;

/// Holds groups in a row of one blob, all of them checked against its list.
#[derive(Debug)]
pub struct CheckedRun<B> {
    list: Arc<GroupList>,
    first: u64,
    /// The group that comes next.
    next: u64,
    /// The bytes of the groups so far.
    len: usize,
    buffer: B,
}

impl<B: DerefMut<Target = [u8]>> CheckedRun<B> {
    /// Begins a run at group `first`, to be collected in `buffer`.
    pub fn begin(list: Arc<GroupList>, first: u64, buffer: B) -> Self {
        Self { list, first, next: first, len: 0, buffer }
    }

    /// Returns where the bytes of the next group belong, exactly as long as the group; none when the
    /// buffer or the blob has no room for it.
    pub fn space(&mut self) -> Option<&mut [u8]> {
        if self.next >= group_count(self.list.size()) {
            return None;
        }
        let len = group_len(self.list.size(), self.next);
        self.buffer.get_mut(self.len..self.len.checked_add(len)?)
    }

    /// Checks what was put into the [`space`](Self::space) and takes it in.
    ///
    /// # Errors
    /// [`StoreError::BadGroup`]; the run is what it was before.
    pub fn accept(&mut self) -> Result<(), StoreError> {
        let (next, hash, list) = (self.next, self.list.hash(), Arc::clone(&self.list));
        let refused = |source| StoreError::BadGroup { hash, source };
        let Some(space) = self.space() else {
            // What the list says of a group that is not there.
            return list.verify(next, &[]).map_err(refused);
        };
        let len = space.len();
        list.verify(next, space).map_err(refused)?;
        self.next += 1;
        self.len += len;
        Ok(())
    }
}

impl<B> CheckedRun<B> {
    /// Returns the blob's hash.
    pub fn hash(&self) -> Hash {
        self.list.hash()
    }

    /// Returns which groups the run has.
    pub fn groups(&self) -> Range<u64> {
        self.first..self.next
    }

    /// Returns whether the run has no groups yet.
    pub fn is_empty(&self) -> bool {
        self.first == self.next
    }
}

impl<B: DerefMut<Target = [u8]>> CheckedRun<B> {
    /// Returns the bytes of the run's groups.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use blobmesh_protocol::blob::{BlobHasher, GROUP_LEN};

    use super::*;

    fn blob(len: usize) -> (Vec<u8>, Arc<GroupList>) {
        let bytes: Vec<u8> = (0..251u8).cycle().take(len).collect();
        let mut hasher = BlobHasher::new();
        hasher.update(&bytes);
        (bytes, Arc::new(hasher.finish()))
    }

    #[test]
    fn run_takes_right_groups_up_to_its_room_and_no_wrong_one() {
        let group = usize::try_from(GROUP_LEN).expect("small");
        let (bytes, list) = blob(3 * group + 5);
        let mut run = CheckedRun::begin(Arc::clone(&list), 1, vec![0; 2 * group + 1]);
        run.space().expect("room").copy_from_slice(&bytes[..group]);
        assert!(matches!(run.accept(), Err(StoreError::BadGroup { .. })), "group 0's bytes");
        assert!(run.is_empty() && run.bytes().is_empty());
        for index in 1..3 {
            run.space().expect("room").copy_from_slice(&bytes[index * group..(index + 1) * group]);
            run.accept().expect("right");
        }
        assert!(run.space().is_none(), "one byte is too little for the last group");
        assert_eq!((run.groups(), run.bytes()), (1..3, &bytes[group..3 * group]));
    }

    #[test]
    fn last_group_is_short_and_nothing_follows_it() {
        let group = usize::try_from(GROUP_LEN).expect("small");
        let (bytes, list) = blob(3 * group + 5);
        let mut run = CheckedRun::begin(list, 3, vec![0; 2 * group]);
        run.space().expect("room").copy_from_slice(&bytes[3 * group..]);
        run.accept().expect("right");
        assert!(run.space().is_none());
        assert!(matches!(run.accept(), Err(StoreError::BadGroup { .. })));
        assert_eq!(run.bytes().len(), 5);
    }

    #[test]
    fn group_of_the_largest_number_has_no_place() {
        let (_, list) = blob(1);
        let mut run = CheckedRun::begin(list, u64::MAX, vec![0; 9]);
        assert!(run.space().is_none() && run.accept().is_err());
    }
}
