//! Reading whole blobs, and what is known of those that were read lately.
//!
//! Every group is checked against the group list the first time it is read after the blob's file was
//! last seen to change, so rot on the disk and what a power cut did to a fetched blob are found here,
//! and never served. A blob that fails is taken out of `blobs/`.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::sync::{Arc, Mutex};

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{
    BlobHasher, GROUP_LEN, GroupError, GroupList, GroupSet, ProvisionalList, group_count,
    group_len, group_offset,
};

use super::catalog::Located;
use super::error::StoreError;
use super::files::{Class, Files};
use super::hot::Hot;
use super::index::{Home, Row};
use super::packs::{Member, Spot};
use super::space::Lease;
use super::sys::{self, lock};
use super::{Inner, Store};

/// How many blobs are remembered after their last reader has gone.
const RECENT_MAX: usize = 1024;
/// How many bytes of lists and sets they may take together.
const RECENT_BYTES_MAX: u64 = 16 << 20;
/// How much is read at once when a whole blob is hashed.
const HASH_BUFFER_LEN: usize = 1 << 20;

/// Tells whether a file is still the one it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileMark {
    len: u64,
    inode: u64,
    modified: Option<std::time::SystemTime>,
}

impl FileMark {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self { len: meta.len(), inode: sys::inode(meta), modified: meta.modified().ok() }
    }
}

/// Tells whether bytes lie where they did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    File(FileMark),
    Index,
    /// A place in a pack is written once.
    Pack(Spot),
}

/// Holds what is known of one blob's bytes: its list, and which groups were found right.
#[derive(Debug)]
pub(super) struct Known {
    /// The bytes this is known of.
    mark: Mark,
    size: u64,
    list: Mutex<Option<Arc<GroupList>>>,
    verified: Mutex<GroupSet>,
}

impl Known {
    fn new(mark: Mark, size: u64) -> Arc<Self> {
        let verified = Mutex::new(GroupSet::new(group_count(size)));
        Arc::new(Self { mark, size, list: Mutex::new(None), verified })
    }

    /// Makes what is known of a blob whose groups in `verified` were all checked just now.
    pub(super) fn checked(mark: FileMark, list: Arc<GroupList>, verified: GroupSet) -> Arc<Self> {
        let size = list.size();
        let list = Mutex::new(Some(list));
        Arc::new(Self { mark: Mark::File(mark), size, list, verified: Mutex::new(verified) })
    }

    /// Returns the bytes of memory this may take.
    fn weight(&self) -> u64 {
        256 + group_count(self.size).saturating_mul(33)
    }
}

/// Remembers the blobs that were read lately.
#[derive(Debug, Default)]
pub(super) struct Recent {
    blobs: Mutex<RecentBlobs>,
    /// The bytes of small ones.
    pub(super) hot: Hot,
}

#[derive(Debug, Default)]
struct RecentBlobs {
    known: HashMap<Hash, (Arc<Known>, u64)>,
    weight: u64,
    turn: u64,
}

impl Recent {
    /// Returns what is known of a blob, if its bytes are those it is known of.
    fn of(&self, hash: &Hash, mark: Mark, size: u64) -> Arc<Known> {
        let mut blobs = lock(&self.blobs);
        blobs.turn += 1;
        let turn = blobs.turn;
        if let Some((known, used)) = blobs.known.get_mut(hash)
            && known.mark == mark
            && known.size == size
        {
            *used = turn;
            return Arc::clone(known);
        }
        let known = Known::new(mark, size);
        blobs.insert(*hash, Arc::clone(&known));
        known
    }

    /// Remembers a blob that was checked while it was written.
    pub(super) fn insert(&self, hash: Hash, known: Arc<Known>) {
        lock(&self.blobs).insert(hash, known);
    }

    /// Forgets a blob whose file is replaced or removed.
    pub(super) fn forget(&self, hash: &Hash) {
        lock(&self.blobs).remove(hash);
        self.hot.forget(hash);
    }
}

impl RecentBlobs {
    fn insert(&mut self, hash: Hash, known: Arc<Known>) {
        self.remove(&hash);
        self.weight += known.weight();
        self.turn += 1;
        self.known.insert(hash, (known, self.turn));
        while self.known.len() > RECENT_MAX || self.weight > RECENT_BYTES_MAX {
            let oldest = self.known.iter().min_by_key(|(_, (_, used))| *used);
            let Some(oldest) = oldest.map(|(hash, _)| *hash).filter(|oldest| *oldest != hash)
            else {
                break;
            };
            // Its readers keep their own hold on it.
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, hash: &Hash) {
        if let Some((known, _)) = self.known.remove(hash) {
            self.weight = self.weight.saturating_sub(known.weight());
        }
    }
}

/// Reads one whole blob, and keeps it from being evicted while it lives.
///
/// Many threads may read through one reader. It goes on to read the same bytes when the blob is
/// removed meanwhile.
#[derive(Debug)]
pub struct BlobReader {
    inner: Arc<Inner>,
    hash: Hash,
    bytes: Bytes,
    known: Arc<Known>,
    _lease: Lease,
}

/// Is where the bytes lie.
#[derive(Debug)]
enum Bytes {
    File(File),
    Inline(Vec<u8>),
    Packed(Member),
}

impl Store {
    /// Opens a blob for reading and notes the access; none if it is not in the store.
    ///
    /// Costs a look into the index and an open; nothing is hashed before it is read.
    pub fn open_blob(&self, hash: &Hash) -> Result<Option<BlobReader>, StoreError> {
        let reader = self.inner.open_blob(hash)?;
        if reader.is_some() {
            self.inner.catalog.touch(hash);
        }
        Ok(reader)
    }

    /// Hashes a whole blob again. False when its bytes were wrong: it is then out of the store.
    ///
    /// # Errors
    /// [`StoreError::Absent`] if the blob is not in the store.
    pub fn verify(&self, hash: &Hash) -> Result<bool, StoreError> {
        let Some(reader) = self.inner.open_blob(hash)? else {
            return Err(StoreError::Absent { hash: *hash });
        };
        match reader.rehash() {
            Ok(list) => {
                *lock(&reader.known.list) = Some(Arc::new(list));
                Ok(true)
            }
            Err(StoreError::Rot { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Inner {
    /// Opens a blob without noting an access.
    pub(super) fn open_blob(
        self: &Arc<Self>,
        hash: &Hash,
    ) -> Result<Option<BlobReader>, StoreError> {
        self.ensure_open()?;
        let Some(row) = self.find_row(hash)? else { return Ok(None) };
        // First the lease, then the bytes: between them nobody can evict.
        let lease = Lease::take(&self.leases, *hash);
        let Some((bytes, mark)) = self.open_bytes(hash, &row)? else { return Ok(None) };
        let known = self.recent.of(hash, mark, row.size);
        let inner = Arc::clone(self);
        Ok(Some(BlobReader { inner, hash: *hash, bytes, known, _lease: lease }))
    }

    fn open_bytes(&self, hash: &Hash, row: &Row) -> Result<Option<(Bytes, Mark)>, StoreError> {
        match row.home {
            Home::File => self.open_file(hash, row),
            Home::Index => {
                let bytes = self.inline_of(hash, row);
                if bytes.is_none() {
                    self.drop_lost(hash);
                }
                Ok(bytes.map(|bytes| (Bytes::Inline(bytes), Mark::Index)))
            }
            Home::Pack(_) => {
                let member = self.open_member(hash)?;
                Ok(member.filter(|member| member.len() == row.size).map(|member| {
                    let mark = Mark::Pack(member.spot());
                    (Bytes::Packed(member), mark)
                }))
            }
        }
    }

    /// Opens a blob that lies in a pack, as its row says at the moment; none if it does not lie in one.
    pub(super) fn open_member(&self, hash: &Hash) -> Result<Option<Member>, StoreError> {
        let packs = self.catalog.packs();
        let failed = |error| StoreError::io("read", &self.catalog.files().path("packs"))(error);
        loop {
            let age = packs.age();
            let known = packs.known(hash);
            let Some((spot, size)) = known.or_else(|| self.spot_of(hash)) else { return Ok(None) };
            let believed = known.is_some() || packs.believes(hash, spot, size).map_err(failed)?;
            let member = packs.open(spot, size).map_err(failed)?.filter(|_| believed);
            // Where something went meanwhile, it may have been this, and the blocks are nobody's.
            if packs.age() == age || self.spot_of(hash) == Some((spot, size)) {
                return Ok(member);
            }
        }
    }

    /// Returns where a blob lies, and its length, if its row says that it is in a pack.
    fn spot_of(&self, hash: &Hash) -> Option<(Spot, u64)> {
        let row = self.catalog.row(hash)?;
        match row.home {
            Home::Pack(spot) => Some((spot, row.size)),
            Home::File | Home::Index => None,
        }
    }

    fn open_file(&self, hash: &Hash, row: &Row) -> Result<Option<(Bytes, Mark)>, StoreError> {
        let path = self.catalog.files().blob(hash);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("open", &path)(error)),
        };
        let meta = file.metadata().map_err(StoreError::io("read", &path))?;
        let whole = meta.len() == row.size;
        Ok(whole.then(|| (Bytes::File(file), Mark::File(FileMark::of(&meta)))))
    }

    /// Returns the bytes of a blob that lie in the index, if they have the right length.
    fn inline_of(&self, hash: &Hash, row: &Row) -> Option<Vec<u8>> {
        let bytes = self.catalog.inline(hash)?;
        (u64::try_from(bytes.len()) == Ok(row.size)).then_some(bytes)
    }

    /// Returns the row of a blob that is really there, and drops one that is not.
    pub(super) fn find_row(&self, hash: &Hash) -> Result<Option<Row>, StoreError> {
        match self.catalog.locate(hash)? {
            Located::Here(row) => Ok(Some(row)),
            Located::Absent => Ok(None),
            Located::Lost(_) => {
                self.drop_lost(hash);
                Ok(None)
            }
        }
    }

    /// Drops a blob whose bytes are gone or cut short, as a power cut leaves fetched ones.
    fn drop_lost(&self, hash: &Hash) {
        if self.ensure_open().is_err() {
            return;
        }
        let stripe = self.catalog.stripe(hash);
        // Somebody may have stored it again since we looked.
        let lost = match self.catalog.locate_held(hash) {
            Ok(Located::Here(row))
                if row.home == Home::Index && self.inline_of(hash, &row).is_none() =>
            {
                Some(row)
            }
            Ok(Located::Lost(row)) => Some(row),
            Ok(Located::Here(_) | Located::Absent) | Err(_) => None,
        };
        if let Some(row) = lost {
            tracing::warn!(blob = %hash.fmt_short(), "a blob was cut short and is dropped");
            if row.home == Home::File {
                self.catalog.files().set_aside(hash, row.class == Class::Durable);
            }
            self.catalog.forget(hash, &row);
            self.recent.forget(hash);
        }
        drop(stripe);
        if lost.is_some() {
            self.tell_gone(hash);
        }
    }

    /// Takes a blob with wrong bytes out of the store, unless it was replaced since.
    fn condemn(&self, hash: &Hash, mark: Mark) {
        if self.ensure_open().is_err() {
            // The files belong to the next holder of the lock, who will find it too.
            return;
        }
        let stripe = self.catalog.stripe(hash);
        let row = self.catalog.row(hash);
        let same = match mark {
            Mark::Index => row.is_some_and(|row| row.home == Home::Index),
            Mark::Pack(spot) => row.is_some_and(|row| row.home == Home::Pack(spot)),
            Mark::File(mark) => fs::metadata(self.catalog.files().blob(hash))
                .is_ok_and(|meta| FileMark::of(&meta) == mark),
        };
        if same {
            tracing::warn!(blob = %hash.fmt_short(), "a blob has rotted and is taken out");
            if matches!(mark, Mark::File(_)) {
                let keep = row.is_none_or(|row| row.class == Class::Durable);
                self.catalog.files().set_aside(hash, keep);
            }
            if let Some(row) = row {
                self.catalog.forget(hash, &row);
            }
            self.recent.forget(hash);
        }
        drop(stripe);
        if same {
            self.tell_gone(hash);
        }
    }
}

impl BlobReader {
    /// Names the blob.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Returns the blob's length in bytes.
    pub fn size(&self) -> u64 {
        self.known.size
    }

    /// Returns the blob's group list; read from its outboard, or made again from its bytes.
    ///
    /// # Errors
    /// [`StoreError::Rot`] if the bytes are not the blob's.
    pub fn list(&self) -> Result<Arc<GroupList>, StoreError> {
        // Held while it is made, so that many readers of a large blob hash it once.
        let mut known = lock(&self.known.list);
        if let Some(list) = known.as_ref() {
            return Ok(Arc::clone(list));
        }
        let list = match self.read_outboard()? {
            Some(list) => list,
            None => self.rebuild_outboard()?,
        };
        let list = Arc::new(list);
        *known = Some(Arc::clone(&list));
        Ok(list)
    }

    /// Reads group `index` into `buf`, which gets the group's length. The first read of a group
    /// checks it.
    ///
    /// # Errors
    /// [`StoreError::Rot`] if the bytes are not the blob's, [`StoreError::BadGroup`] if there is no
    /// such group. `buf` holds nothing of the blob then.
    pub fn read_group(&self, index: u64, buf: &mut Vec<u8>) -> Result<(), StoreError> {
        let groups = group_count(self.size());
        if index >= groups {
            buf.clear();
            let source = GroupError::Index { index, groups };
            return Err(StoreError::BadGroup { hash: self.hash, source });
        }
        let checked = self.read_unchecked(index, buf).and_then(|()| self.check(index, buf));
        if checked.is_err() {
            buf.clear();
        }
        checked
    }

    /// Reads groups in a row, from `first` on, as many as fill `buf`: all of them whole, or the blob's
    /// last group at the end. The first read of a group checks it.
    ///
    /// # Errors
    /// As [`read_group`](Self::read_group); `buf` may hold anything then.
    pub fn read_run(&self, first: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        let group = usize::try_from(GROUP_LEN).unwrap_or(usize::MAX);
        self.read_at(group_offset(first), buf)?;
        for (index, bytes) in (first..).zip(buf.chunks(group)) {
            if bytes.len() != group_len(self.size(), index) {
                let groups = group_count(self.size());
                let source = GroupError::Index { index, groups };
                return Err(StoreError::BadGroup { hash: self.hash, source });
            }
            self.check(index, bytes)?;
        }
        Ok(())
    }

    /// Fills `buf` from `offset` on, and checks nothing: for who checks what comes of it.
    ///
    /// # Errors
    /// [`StoreError::BadGroup`] for what is past the end.
    pub(crate) fn read_unchecked_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        if offset.checked_add(len).is_none_or(|end| end > self.size()) {
            let (index, groups) = (offset / GROUP_LEN, group_count(self.size()));
            let source = GroupError::Index { index, groups };
            return Err(StoreError::BadGroup { hash: self.hash, source });
        }
        self.read_at(offset, buf)
    }

    /// Checks every group that was not read before.
    ///
    /// # Errors
    /// [`StoreError::Rot`] if any byte is wrong.
    pub fn verify_all(&self) -> Result<(), StoreError> {
        self.verify_while(|| true).map(drop)
    }

    /// Does the same as long as it is to `go_on`; returns whether it came to its end.
    pub(super) fn verify_while(&self, go_on: impl Fn() -> bool) -> Result<bool, StoreError> {
        let missing = lock(&self.known.verified).missing();
        let mut buf = Vec::new();
        for index in missing.into_iter().flatten() {
            if !go_on() {
                return Ok(false);
            }
            self.read_group(index, &mut buf)?;
        }
        Ok(true)
    }

    /// Has the next read of a group check it again.
    pub(super) fn forget_check(&self, index: u64) {
        lock(&self.known.verified).remove(index);
    }

    /// Returns whether every group has been checked.
    pub(super) fn is_verified(&self) -> bool {
        lock(&self.known.verified).is_full()
    }

    /// Returns the file of the blob; none for one that has none of its own.
    pub(super) fn file(&self) -> Option<&File> {
        match &self.bytes {
            Bytes::File(file) => Some(file),
            Bytes::Inline(_) | Bytes::Packed(_) => None,
        }
    }

    fn check(&self, index: u64, bytes: &[u8]) -> Result<(), StoreError> {
        if lock(&self.known.verified).contains(index) {
            return Ok(());
        }
        if self.list()?.verify(index, bytes).is_err() {
            return Err(self.rot());
        }
        lock(&self.known.verified).insert(index);
        Ok(())
    }

    fn read_unchecked(&self, index: u64, buf: &mut Vec<u8>) -> Result<(), StoreError> {
        buf.resize(group_len(self.size(), index), 0);
        self.read_at(group_offset(index), buf)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        let read = match &self.bytes {
            Bytes::File(file) => sys::read_exact_at(file, buf, offset),
            Bytes::Inline(bytes) => read_slice_at(bytes, buf, offset),
            Bytes::Packed(member) => member.read_exact_at(buf, offset),
        };
        match read {
            // Cut short since it was opened.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.rot()),
            read => {
                let path = || self.inner.catalog.files().blob(&self.hash);
                read.map_err(|error| StoreError::io("read", &path())(error))
            }
        }
    }

    /// Reads the list from the outboard; none when it is missing or damaged, or the last group is.
    fn read_outboard(&self) -> Result<Option<GroupList>, StoreError> {
        let last = group_count(self.size()) - 1;
        let provisional = if last == 0 {
            ProvisionalList::check(self.hash, self.size(), Vec::new()).ok()
        } else {
            let path = self.inner.catalog.files().outboard(&self.hash);
            let file = fs::read(path).ok();
            file.and_then(|file| ProvisionalList::from_file(self.hash, &file, self.size()).ok())
        };
        let Some(provisional) = provisional else { return Ok(None) };
        let mut buf = Vec::new();
        self.read_unchecked(last, &mut buf)?;
        Ok(provisional.confirm(&buf).ok())
    }

    fn rebuild_outboard(&self) -> Result<GroupList, StoreError> {
        let list = self.rehash()?;
        if let Err(error) = write_outboard(self.inner.catalog.files(), &list) {
            tracing::debug!(%error, "the outboard was not written; it is made again when needed");
        }
        Ok(list)
    }

    /// Hashes the whole blob.
    fn rehash(&self) -> Result<GroupList, StoreError> {
        let mut hasher = BlobHasher::new();
        let mut buf = vec![0; HASH_BUFFER_LEN];
        let mut offset = 0;
        while offset < self.size() {
            let left = usize::try_from(self.size() - offset).unwrap_or(usize::MAX);
            let piece = &mut buf[..left.min(HASH_BUFFER_LEN)];
            self.read_at(offset, piece)?;
            hasher.update(piece);
            offset += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        }
        let list = hasher.finish();
        if list.hash() == self.hash { Ok(list) } else { Err(self.rot()) }
    }

    fn rot(&self) -> StoreError {
        self.inner.condemn(&self.hash, self.known.mark);
        StoreError::Rot { hash: self.hash }
    }
}

/// Writes a blob's outboard, lazily; a blob of one group needs none.
pub(super) fn write_outboard(files: &Files, list: &GroupList) -> Result<(), StoreError> {
    if list.size() <= GROUP_LEN {
        return Ok(());
    }
    files.replace(&files.outboard(&list.hash()), &list.to_file(), Class::Cache)
}

fn read_slice_at(bytes: &[u8], buf: &mut [u8], offset: u64) -> io::Result<()> {
    let range = usize::try_from(offset).ok().and_then(|from| {
        let to = from.checked_add(buf.len())?;
        bytes.get(from..to)
    });
    buf.copy_from_slice(range.ok_or(io::ErrorKind::UnexpectedEof)?);
    Ok(())
}
