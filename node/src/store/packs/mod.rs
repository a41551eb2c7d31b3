//! Packs: small fetched blobs that came together share a file.
//!
//! A file for each of ten thousand small blobs costs more than their bytes do. Those that come in batches are appended
//! to a pack instead: a [`table`] of what follows, then the blobs, each at the beginning of a block, so that a
//! file system can share its blocks with a checked-out file and give them back alone. A row of the index says where
//! a blob lies; from the tables those rows can be made again.
//!
//! **Only the cache.** What lies in a pack can be fetched again: it is not synced before the store is closed, and
//! checked by its hash as every fetched blob. A blob that is added or pinned gets a file of its own. While the index is out of use, nothing
//! in packs is found.
//!
//! **A pack is written from front to end, once.** A member that goes is marked in its table and its blocks are
//! given back; when the last one goes, so does the file. Blocks that somebody reads are given back after he has
//! ended. A pack of an earlier run is not written any further.

mod table;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use blobmesh_protocol::Hash;

use self::table::{BLOCK_LEN, TABLE_LEN, blocks_of};
use super::sys::{self, lock};

pub(super) use self::table::MEMBERS_MAX;

/// How many blobs that come together are worth a table.
pub(super) const MEMBERS_MIN: usize = 4;
/// How long a pack grows. Its blocks are counted in 16 bits.
const PACK_BYTES_MAX: u64 = 64 << 20;
/// Of how many blobs it is remembered where they lie, at some 100 bytes each; then all are forgotten.
const KNOWN_MAX: usize = 16_384;
/// How many packs are kept open.
const OPEN_MAX: usize = 64;

/// Is a place in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Spot {
    /// The pack's number.
    pub(super) pack: u32,
    /// The block of the table that names the member.
    pub(super) head: u16,
    /// Its number in that table.
    pub(super) entry: u8,
    /// The first block of its bytes.
    pub(super) block: u16,
}

impl Spot {
    /// The length of what [`encode`](Self::encode) makes.
    pub(super) const LEN: usize = 9;

    /// Writes the place for the index.
    pub(super) fn encode(&self) -> [u8; Self::LEN] {
        let [p0, p1, p2, p3] = self.pack.to_le_bytes();
        let [h0, h1] = self.head.to_le_bytes();
        let [b0, b1] = self.block.to_le_bytes();
        [p0, p1, p2, p3, h0, h1, self.entry, b0, b1]
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let [p0, p1, p2, p3, h0, h1, entry, b0, b1] = *bytes else { return None };
        Some(Self {
            pack: u32::from_le_bytes([p0, p1, p2, p3]),
            head: u16::from_le_bytes([h0, h1]),
            entry,
            block: u16::from_le_bytes([b0, b1]),
        })
    }

    fn offset(&self) -> u64 {
        u64::from(self.block) * BLOCK_LEN
    }
}

/// Holds the packs of one store.
#[derive(Debug)]
pub(super) struct Packs {
    dir: PathBuf,
    /// The number of the first pack of this run.
    first: u32,
    /// Whether the packs of earlier runs were closed properly.
    clean: bool,
    filling: Mutex<Filling>,
    state: Mutex<State>,
    /// Counts members that went.
    age: AtomicU64,
    /// Whether the last blob that was lent, or looked for to be, lay in a pack.
    lent: AtomicBool,
    /// Where blobs lie that came lately, so that a checkout of them asks no index.
    known: Mutex<HashMap<Hash, (Spot, u64)>>,
}

/// Is the pack that is being written, if there is one.
#[derive(Debug)]
struct Filling {
    pack: Option<(u32, Arc<File>)>,
    /// How many blocks it has.
    blocks: u64,
    next: u32,
    /// Whether the file system gives single blocks back.
    is_possible: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Packs that are open.
    open: HashMap<u32, Open>,
    turn: u64,
    /// Members that are read at the moment.
    uses: HashMap<Spot, Use>,
    /// How many members are left of packs that are full and of which some went.
    left: HashMap<u32, usize>,
    /// The pack that is being written.
    filling: Option<u32>,
}

/// Is an open pack.
#[derive(Debug)]
struct Open {
    file: Arc<File>,
    /// When it was used last.
    used: u64,
    /// How many bytes it was seen to have; it only grows.
    len: u64,
}

#[derive(Debug, Default)]
struct Use {
    readers: usize,
    /// Set when its blocks are to be given back.
    gone: bool,
}

impl Packs {
    /// Finds the packs in `dir`, which exists. `clean` says whether the last run closed the store.
    pub(super) fn load(dir: PathBuf, clean: bool) -> io::Result<Arc<Self>> {
        let first = numbers(&dir)?.last().map_or(0, |last| last.saturating_add(1));
        let filling = Filling { pack: None, blocks: 0, next: first, is_possible: true };
        let (filling, state) = (Mutex::new(filling), Mutex::default());
        let (age, lent) = (AtomicU64::new(0), AtomicBool::new(false));
        let known = Mutex::default();
        Ok(Arc::new(Self { dir, first, clean, filling, state, age, lent, known }))
    }

    /// Writes verified blobs of 1 byte to a group, at most [`MEMBERS_MAX`], behind each other, and returns where they lie.
    ///
    /// # Errors
    /// What the operating system gives; nothing is in a pack then. `Unsupported` where blocks cannot be given back.
    pub(super) fn append(&self, members: &[(Hash, &[u8])]) -> io::Result<Vec<Spot>> {
        let mut filling = lock(&self.filling);
        let blocks = 1 + members.iter().map(|(_, bytes)| blocks_of(len_u64(bytes))).sum::<u64>();
        let (pack, file) = self.open_filling(&mut filling, blocks)?;
        if let Err(error) = write(&file, members, filling.blocks * BLOCK_LEN) {
            // Nobody would ever let go of those whose table is written.
            if let Err(error) = file.set_len(filling.blocks * BLOCK_LEN) {
                tracing::debug!(%error, pack, "a part of a pack is nobody's");
            }
            // Behind what was cut short no table would be found.
            self.seal(&mut filling);
            return Err(error);
        }
        let head = filling.blocks;
        filling.blocks += blocks;
        Ok(spots(pack, head, members.iter().map(|(_, bytes)| len_u64(bytes))).collect())
    }

    /// Returns a pack with room for some blocks.
    fn open_filling(&self, filling: &mut Filling, blocks: u64) -> io::Result<(u32, Arc<File>)> {
        if (filling.blocks + blocks) * BLOCK_LEN > PACK_BYTES_MAX {
            self.seal(filling);
        }
        if let Some((pack, file)) = &filling.pack {
            return Ok((*pack, Arc::clone(file)));
        }
        if !filling.is_possible {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let pack = filling.next;
        let path = self.path(pack);
        let file = create(&path)?;
        // On an empty file this says whether it can be done, and does nothing.
        if let Err(error) = sys::punch_hole(&file, 0, BLOCK_LEN) {
            filling.is_possible = false;
            fs::remove_file(&path).ok();
            return Err(error);
        }
        filling.next = pack.checked_add(1).ok_or(io::ErrorKind::Unsupported)?;
        let file = Arc::new(file);
        (filling.pack, filling.blocks) = (Some((pack, Arc::clone(&file))), 0);
        let mut state = lock(&self.state);
        state.filling = Some(pack);
        state.keep(pack, &file);
        Ok((pack, file))
    }

    /// Ends the pack that is being written.
    fn seal(&self, filling: &mut Filling) {
        let Some((pack, file)) = filling.pack.take() else { return };
        filling.blocks = 0;
        let mut state = lock(&self.state);
        state.filling = None;
        self.count(&mut state, pack, &file);
    }

    /// Counts what is left of a full pack, and removes one of which nothing is.
    fn count(&self, state: &mut State, pack: u32, file: &File) {
        let left = Walk::of(pack, file).filter(|(_, entry)| !entry.gone).count();
        if left == 0 {
            self.remove(state, pack);
        } else {
            state.left.insert(pack, left);
        }
    }

    fn remove(&self, state: &mut State, pack: u32) {
        state.open.remove(&pack);
        state.left.remove(&pack);
        if let Err(error) = fs::remove_file(self.path(pack)) {
            tracing::debug!(%error, pack, "an empty pack was not removed");
        }
    }

    /// Returns a moment before a row is read that says where a member lies: see [`open`](Self::open).
    pub(super) fn age(&self) -> u64 {
        self.age.load(Ordering::Acquire)
    }

    /// Opens a member of `len` bytes, whose blocks are not given back while it is open; none where the pack is
    /// gone or too short. The bytes are not checked. If the [age](Self::age) is not the one from before its row was
    /// read, it may have gone between the two, and its row must be read again.
    pub(super) fn open(self: &Arc<Self>, spot: Spot, len: u64) -> io::Result<Option<Member>> {
        let mut state = lock(&self.state);
        let Some(file) = self.file(&mut state, spot.pack)? else { return Ok(None) };
        if !state.reaches(spot, len)? {
            return Ok(None);
        }
        state.uses.entry(spot).or_default().readers += 1;
        Ok(Some(Member { packs: Arc::clone(self), file, spot, len }))
    }

    /// Returns whether there is a pack that is long enough for a member of `len` bytes.
    pub(super) fn covers(&self, spot: Spot, len: u64) -> io::Result<bool> {
        let mut state = lock(&self.state);
        Ok(self.file(&mut state, spot.pack)?.is_some() && state.reaches(spot, len)?)
    }

    /// Returns whether the tables say that a member lies at a place.
    pub(super) fn names(&self, hash: &Hash, spot: Spot, len: u64) -> io::Result<bool> {
        let Some(file) = self.file(&mut lock(&self.state), spot.pack)? else { return Ok(false) };
        let mut here = Walk::at(spot.pack, &file, spot.head).take(MEMBERS_MAX);
        let named = here.find(|(at, _)| *at == spot);
        Ok(named.is_some_and(|(_, entry)| {
            entry.hash == *hash && u64::from(entry.len) == len && !entry.gone
        }))
    }

    /// Returns whether the bytes at a place are those of a blob.
    pub(super) fn is_right(self: &Arc<Self>, hash: &Hash, spot: Spot, len: u64) -> bool {
        let Ok(Some(member)) = self.open(spot, len) else { return false };
        member.read().is_ok_and(|bytes| Hash::of(&bytes) == *hash)
    }

    /// Returns whether a row may be believed that says where a blob lies: after an unclean end rows may be older than
    /// packs, and the number of a pack that went may have been given anew.
    pub(super) fn believes(&self, hash: &Hash, spot: Spot, len: u64) -> io::Result<bool> {
        if self.clean { Ok(true) } else { self.names(hash, spot, len) }
    }

    /// Returns the number of the first pack of this run.
    pub(super) fn first(&self) -> u32 {
        self.first
    }

    /// Returns the number of the pack that comes next.
    pub(super) fn next(&self) -> u32 {
        lock(&self.filling).next
    }

    /// Returns where the packs of this run lie.
    pub(super) fn of_this_run(&self) -> io::Result<Vec<PathBuf>> {
        let numbers = numbers(&self.dir)?.into_iter().filter(|pack| *pack >= self.first);
        Ok(numbers.map(|pack| self.path(pack)).collect())
    }

    /// Returns whether a blob that is lent is to be looked for in packs before its file is: those of a tree lie
    /// where the one before lay, and to look for what is not there is dear.
    pub(super) fn lends(&self) -> bool {
        self.lent.load(Ordering::Relaxed)
    }

    /// Notes whether a blob that was lent lay in a pack.
    pub(super) fn lent(&self, here: bool) {
        self.lent.store(here, Ordering::Relaxed);
    }

    /// Remembers where a blob lies that has its row.
    pub(super) fn learn(&self, hash: &Hash, spot: Spot, len: u64) {
        let mut known = lock(&self.known);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(*hash, (spot, len));
    }

    /// Returns where a blob lies, and its length, if that is remembered.
    pub(super) fn known(&self, hash: &Hash) -> Option<(Spot, u64)> {
        lock(&self.known).get(hash).copied()
    }

    /// Lets a member go that no row speaks of any more; nothing where another blob lies.
    pub(super) fn free(&self, hash: &Hash, spot: Spot, len: u64) {
        // Another member may hold the same blob.
        let mut known = lock(&self.known);
        if known.get(hash).is_some_and(|(at, _)| *at == spot) {
            known.remove(hash);
        }
        drop(known);
        self.age.fetch_add(1, Ordering::AcqRel);
        let freed = self.free_held(&mut lock(&self.state), hash, spot, len);
        if let Err(error) = freed {
            tracing::debug!(%error, pack = spot.pack, "blocks of a pack were not given back");
        }
    }

    fn free_held(&self, state: &mut State, hash: &Hash, spot: Spot, len: u64) -> io::Result<()> {
        let Some(file) = self.file(state, spot.pack)? else { return Ok(()) };
        let table_at = u64::from(spot.head) * BLOCK_LEN;
        let (mut named, gone_at) = ([0; 32], table_at + table::gone_at(spot.entry));
        sys::read_exact_at(&file, &mut named, table_at + table::hash_at(spot.entry))?;
        let mut gone = [0];
        sys::read_exact_at(&file, &mut gone, gone_at)?;
        // A row that outlived its pack in a crash may speak of a place that is somebody else's now.
        if named != *hash.as_bytes() || gone != [0] {
            return Ok(());
        }
        if state.filling != Some(spot.pack) && !state.left.contains_key(&spot.pack) {
            self.count(state, spot.pack, &file);
        }
        sys::write_all_at(&file, &[1], gone_at)?;
        if let Some(left) = state.left.get_mut(&spot.pack) {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.remove(state, spot.pack);
                return Ok(());
            }
        }
        match state.uses.get_mut(&spot) {
            Some(used) => used.gone = true,
            None => give_back(&file, spot, len)?,
        }
        Ok(())
    }

    /// Calls `visit` with every member that is not gone, pack by pack, until it returns false. Passes over the packs of
    /// this run: whoever has appended to them is just giving the members their rows.
    pub(super) fn for_each_earlier(
        &self,
        mut visit: impl FnMut(Hash, Spot, u64) -> bool,
    ) -> io::Result<()> {
        for pack in numbers(&self.dir)?.into_iter().filter(|pack| *pack < self.first) {
            let Some(file) = self.file(&mut lock(&self.state), pack)? else { continue };
            for (spot, entry) in Walk::of(pack, &file) {
                if !entry.gone && !visit(entry.hash, spot, u64::from(entry.len)) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Removes the full packs of which nothing is left.
    pub(super) fn remove_empty(&self) -> io::Result<()> {
        for pack in numbers(&self.dir)? {
            let mut state = lock(&self.state);
            if state.filling == Some(pack) || state.left.contains_key(&pack) {
                continue;
            }
            if let Some(file) = self.file(&mut state, pack)? {
                self.count(&mut state, pack, &file);
            }
        }
        Ok(())
    }

    /// Returns an open pack; none if there is no such file.
    fn file(&self, state: &mut State, pack: u32) -> io::Result<Option<Arc<File>>> {
        state.turn += 1;
        let turn = state.turn;
        if let Some(open) = state.open.get_mut(&pack) {
            open.used = turn;
            return Ok(Some(Arc::clone(&open.file)));
        }
        match OpenOptions::new().read(true).write(true).open(self.path(pack)) {
            Ok(file) => {
                let file = Arc::new(file);
                state.keep(pack, &file);
                Ok(Some(file))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn path(&self, pack: u32) -> PathBuf {
        self.dir.join(format!("{pack:08x}"))
    }
}

impl State {
    /// Keeps a pack open, and closes the one that was used least lately if there are too many.
    fn keep(&mut self, pack: u32, file: &Arc<File>) {
        self.open.insert(pack, Open { file: Arc::clone(file), used: self.turn, len: 0 });
        if self.open.len() > OPEN_MAX {
            let oldest = self.open.iter().min_by_key(|(_, open)| open.used);
            if let Some(oldest) = oldest.map(|(pack, _)| *pack).filter(|oldest| *oldest != pack) {
                self.open.remove(&oldest);
            }
        }
    }

    /// Returns whether an open pack is long enough for a member of `len` bytes.
    fn reaches(&mut self, spot: Spot, len: u64) -> io::Result<bool> {
        let Some(open) = self.open.get_mut(&spot.pack) else { return Ok(false) };
        let end = spot.offset().saturating_add(len);
        if open.len < end {
            open.len = open.file.metadata()?.len();
        }
        Ok(open.len >= end)
    }
}

/// Is a blob in a pack that is open for reading.
#[derive(Debug)]
pub(super) struct Member {
    packs: Arc<Packs>,
    file: Arc<File>,
    spot: Spot,
    len: u64,
}

impl Member {
    /// Returns where it lies.
    pub(super) fn spot(&self) -> Spot {
        self.spot
    }

    /// Returns its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the file that holds it, and from which byte on.
    pub(super) fn place(&self) -> (&File, u64) {
        (&self.file, self.spot.offset())
    }

    /// Reads all of it.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or(0)];
        self.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Fills `buf` from an offset in the blob.
    ///
    /// # Errors
    /// `UnexpectedEof` where that reaches beyond the blob's end.
    pub(super) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if offset.saturating_add(len_u64(buf)) > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        sys::read_exact_at(&self.file, buf, self.spot.offset() + offset)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut state = lock(&self.packs.state);
        let Some(used) = state.uses.get_mut(&self.spot) else { return };
        used.readers = used.readers.saturating_sub(1);
        if used.readers > 0 {
            return;
        }
        let gone = used.gone;
        state.uses.remove(&self.spot);
        if gone && let Err(error) = give_back(&self.file, self.spot, self.len) {
            tracing::debug!(%error, "blocks of a pack were not given back");
        }
    }
}

/// Goes over the members that the tables of a pack name, up to the first block that is no table.
struct Walk<'a> {
    pack: u32,
    file: &'a File,
    blocks: u64,
    next: u64,
    table: std::vec::IntoIter<(Spot, table::Entry)>,
}

impl<'a> Walk<'a> {
    fn of(pack: u32, file: &'a File) -> Self {
        Self::at(pack, file, 0)
    }

    /// Begins with the table in a block.
    fn at(pack: u32, file: &'a File, head: u16) -> Self {
        let blocks = file.metadata().map_or(0, |meta| meta.len().div_ceil(BLOCK_LEN));
        // What lies beyond could not be named.
        let blocks = blocks.min(PACK_BYTES_MAX / BLOCK_LEN);
        Self { pack, file, blocks, next: u64::from(head), table: Vec::new().into_iter() }
    }

    fn next_table(&mut self) -> Option<()> {
        if self.next >= self.blocks {
            return None;
        }
        let mut block = vec![0; usize::try_from(BLOCK_LEN).ok()?];
        sys::read_exact_at(self.file, &mut block, self.next * BLOCK_LEN).ok()?;
        let entries = table::decode(&block)?;
        let lens = entries.iter().map(|entry| u64::from(entry.len));
        let end = self.next + 1 + lens.clone().map(blocks_of).sum::<u64>();
        // A table whose members were cut short names those that are there.
        let spots =
            spots(self.pack, self.next, lens).filter(|spot| u64::from(spot.block) < self.blocks);
        let named: Vec<_> = spots.zip(entries.iter().copied()).collect();
        (self.next, self.table) = (end, named.into_iter());
        Some(())
    }
}

impl Iterator for Walk<'_> {
    type Item = (Spot, table::Entry);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(member) = self.table.next() {
                return Some(member);
            }
            self.next_table()?;
        }
    }
}

/// Returns where the members behind a table lie, by their lengths. A pack is so short that all numbers fit.
fn spots(pack: u32, head: u64, lens: impl Iterator<Item = u64>) -> impl Iterator<Item = Spot> {
    let mut block = head + 1;
    lens.zip(0..u8::MAX).filter_map(move |(len, entry)| {
        let at = block;
        block += blocks_of(len);
        let (head, block) = (u16::try_from(head).ok()?, u16::try_from(at).ok()?);
        Some(Spot { pack, head, entry, block })
    })
}

/// Writes a table and its members, each padded to whole blocks.
fn write(file: &File, members: &[(Hash, &[u8])], offset: u64) -> io::Result<()> {
    static ZEROS: [u8; TABLE_LEN] = [0; TABLE_LEN];
    let lens = members.iter().map(|(hash, bytes)| (*hash, u32::try_from(bytes.len()).unwrap_or(0)));
    let table = table::encode(lens);
    let mut pieces = Vec::with_capacity(1 + 2 * members.len());
    pieces.push(IoSlice::new(&table));
    for (_, bytes) in members {
        pieces.push(IoSlice::new(bytes));
        let padding = bytes.len().next_multiple_of(ZEROS.len()) - bytes.len();
        pieces.push(IoSlice::new(&ZEROS[..padding]));
    }
    sys::write_all_vectored_at(file, &mut pieces, offset)
}

fn give_back(file: &File, spot: Spot, len: u64) -> io::Result<()> {
    sys::punch_hole(file, spot.offset(), blocks_of(len) * BLOCK_LEN)
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Returns the numbers of the packs in a directory, in rising order; other names are passed over.
fn numbers(dir: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().filter(|name| name.len() == 8);
        numbers.extend(number.and_then(|name| u32::from_str_radix(name, 16).ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn len_u64(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
