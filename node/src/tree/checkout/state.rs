//! What a checkout remembers: which tree it is of, and how each of its files looked when it was written.
//!
//! It lies in `.blobmesh/state` in the directory itself, so that it moves with it and belongs to no node. A file whose
//! stamp is still what it was has not been touched since, and may be replaced; any other is hashed before it is called
//! changed. Damage is found by the hash at the end.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;

use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::{
    Entry, Item, Manifest, Name, Node, SYMLINK_TARGET_MAX, TREE_DEPTH_MAX, TREE_ENTRIES_MAX,
    TREE_PATH_MAX,
};

use crate::stop::Stop;
use crate::tree::beneath::{Dir, Kind, Replace, Stamp};
use crate::tree::ways::hash_of;

/// The directory in a checkout that holds what it remembers. No tree has an entry of that name.
pub(super) const DIR: &[u8] = b".blobmesh";
const STATE: &[u8] = b"state";
const STATE_BEGUN: &[u8] = b"state.begun";

const MAGIC: &[u8; 8] = b"BMSTATE\x01";
/// Magic, root, time and number of rows.
const HEADER_LEN: usize = 56;
/// What a row takes at least: kind, length of the path, a path of one byte.
const ROW_LEN_MIN: usize = 4;

/// How much later than its last change a file's stamp must have been noted to be believed: within one tick of the
/// clock that stamps files, a second change would not show. Ticks are 10 ms at most.
const TICK_NS: i64 = 20_000_000;

/// Is what one checkout remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The tree.
    pub(super) root: Hash,
    /// When the stamps were noted, in nanoseconds since 1970.
    pub(super) noted: i64,
    /// Its entries, each directory before what is in it.
    pub(super) rows: Vec<Row>,
}

/// Is one entry that was checked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) path: Box<[u8]>,
    pub(super) item: Item,
    /// How it looked; nothing for what is no file.
    pub(super) stamp: Stamp,
}

/// Orders paths as trees are listed: each directory before what is in it.
pub(super) fn path_order(one: &[u8], other: &[u8]) -> std::cmp::Ordering {
    let names = |path| <[u8]>::split(path, |byte: &u8| *byte == b'/');
    names(one).cmp(names(other))
}

impl State {
    /// Returns the row of a path.
    pub(super) fn row(&self, path: &[u8]) -> Option<&Row> {
        let at = self.rows.binary_search_by(|row| path_order(&row.path, path)).ok()?;
        self.rows.get(at)
    }

    /// Returns the row of a path, to be changed.
    pub(super) fn row_mut(&mut self, path: &[u8]) -> Option<&mut Row> {
        let at = self.rows.binary_search_by(|row| path_order(&row.path, path)).ok()?;
        self.rows.get_mut(at)
    }

    /// Returns the tree that was checked out, all in place.
    pub(super) fn manifest(&self) -> Manifest {
        let mut open: Vec<(&[u8], Vec<Entry>)> = vec![(b"", Vec::new())];
        let close = |open: &mut Vec<(&[u8], Vec<Entry>)>| {
            let Some((path, entries)) = open.pop() else { return };
            if let (Ok(name), Some((_, above))) = (Name::new(name_of(path)), open.last_mut()) {
                above.push(Entry { name, node: Node::Dir(entries) });
            }
        };
        for row in &self.rows {
            while open.len() > 1
                && open.last().is_some_and(|(path, _)| *path != parent_of(&row.path))
            {
                close(&mut open);
            }
            let node = match &row.item {
                Item::Dir => {
                    open.push((&row.path, Vec::new()));
                    continue;
                }
                Item::File { hash, size, executable } => {
                    Node::File { hash: *hash, size: *size, executable: *executable }
                }
                Item::Symlink { target } => Node::Symlink { target: target.clone() },
            };
            if let (Ok(name), Some((_, entries))) = (Name::new(name_of(&row.path)), open.last_mut())
            {
                entries.push(Entry { name, node });
            }
        }
        while open.len() > 1 {
            close(&mut open);
        }
        Manifest { entries: open.pop().map(|(_, entries)| entries).unwrap_or_default() }
    }

    /// Reads the state out of a checkout's own directory; none where there is none.
    ///
    /// # Errors
    /// `InvalidData` where it is damaged.
    pub(super) fn load(own: &Dir) -> io::Result<Option<Self>> {
        Self::load_from(own, STATE)
    }

    /// Reads a state out of a file.
    pub(super) fn load_from(own: &Dir, name: &[u8]) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        match own.open_file(name) {
            Ok(mut file) => file.read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        decode(&bytes).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Replaces the state in one step.
    pub(super) fn save(&self, own: &Dir) -> io::Result<()> {
        self.save_as(own, STATE)
    }

    /// Writes a state under another name, in one step.
    pub(super) fn save_as(&self, own: &Dir, name: &[u8]) -> io::Result<()> {
        let mut writer = StateWriter::begin(own)?;
        self.rows.iter().try_for_each(|row| writer.push(&row.path, &row.item, &row.stamp))?;
        writer.finish_as(&self.root, self.noted, name)
    }
}

/// Writes a state row by row, so that one of a large tree is never in memory.
#[derive(Debug)]
pub(super) struct StateWriter<'a> {
    own: &'a Dir,
    file: BufWriter<File>,
    rows: u64,
    row: Vec<u8>,
}

impl<'a> StateWriter<'a> {
    pub(super) fn begin(own: &'a Dir) -> io::Result<Self> {
        let mut file = BufWriter::new(create_anew(own, STATE_BEGUN)?);
        // What stands there is known at the end.
        file.write_all(&[0; HEADER_LEN])?;
        Ok(Self { own, file, rows: 0, row: Vec::new() })
    }

    /// Appends an entry; each directory comes before what is in it, and nothing twice.
    pub(super) fn push(&mut self, path: &[u8], item: &Item, stamp: &Stamp) -> io::Result<()> {
        self.row.clear();
        encode_row(path, item, stamp, &mut self.row);
        self.rows += 1;
        self.file.write_all(&self.row)
    }

    /// Has the state replace what the directory remembers, in one step.
    pub(super) fn finish(self, root: &Hash, noted: i64) -> io::Result<()> {
        self.finish_as(root, noted, STATE)
    }

    fn finish_as(self, root: &Hash, noted: i64, name: &[u8]) -> io::Result<()> {
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.write_all_at(&header(root, noted, self.rows), 0)?;
        let seal = hash_of(&file, &Stop::default())?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(seal.as_bytes())?;
        self.own.rename(STATE_BEGUN, self.own, name, Replace::Existing)
    }
}

fn header(root: &Hash, noted: i64, rows: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(root.as_bytes());
    out.extend_from_slice(&noted.to_le_bytes());
    out.extend_from_slice(&rows.to_le_bytes());
    out
}

impl Row {
    /// Returns whether the entry `name` of `dir` is still what was written; a file that may have been touched is hashed.
    pub(super) fn is_clean(
        &self,
        noted: i64,
        dir: &Dir,
        found: (Kind, Stamp),
        stop: &Stop,
    ) -> io::Result<bool> {
        let (kind, stamp) = found;
        let is_old = self.stamp.changed.saturating_add(TICK_NS) < noted;
        if matches!(self.item, Item::File { .. })
            && kind == Kind::File
            && stamp == self.stamp
            && is_old
        {
            return Ok(true);
        }
        holds(&self.item, dir, name_of(&self.path), found, stop)
    }
}

/// Returns whether an entry is what `item` says, by its bytes.
pub(super) fn holds(
    item: &Item,
    dir: &Dir,
    name: &[u8],
    (kind, stamp): (Kind, Stamp),
    stop: &Stop,
) -> io::Result<bool> {
    Ok(match item {
        Item::Dir => kind == Kind::Dir,
        Item::Symlink { target } => {
            kind == Kind::Symlink && dir.read_symlink(name)? == target.as_ref()
        }
        Item::File { hash, size, executable } => {
            kind == Kind::File
                && stamp.size == *size
                && stamp.executable == *executable
                && hash_of(&dir.open_file(name)?, stop)? == *hash
        }
    })
}

/// Writes a file that is whole or not there under its name.
pub(super) fn write_whole(own: &Dir, begun: &[u8], name: &[u8], bytes: &[u8]) -> io::Result<()> {
    create_anew(own, begun)?.write_all(bytes)?;
    own.rename(begun, own, name, Replace::Existing)
}

/// Makes a file; one that was begun before goes.
fn create_anew(own: &Dir, begun: &[u8]) -> io::Result<File> {
    match own.remove_file(begun) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    own.create(begun, false)
}

/// Returns the directory of a path; nothing for what is in the root.
pub(super) fn parent_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b"", |at| &path[..at])
}

/// Returns the last name of a path.
pub(super) fn name_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(path, |at| &path[at + 1..])
}

const FILE: u8 = 0;
const EXECUTABLE: u8 = 1;
const SYMLINK: u8 = 2;
const DIRECTORY: u8 = 3;

fn encode_row(path: &[u8], item: &Item, stamp: &Stamp, out: &mut Vec<u8>) {
    out.push(match item {
        Item::File { executable: false, .. } => FILE,
        Item::File { executable: true, .. } => EXECUTABLE,
        Item::Symlink { .. } => SYMLINK,
        Item::Dir => DIRECTORY,
    });
    push_bytes(path, out);
    match item {
        Item::File { hash, size, .. } => {
            out.extend_from_slice(hash.as_bytes());
            out.extend_from_slice(&size.to_le_bytes());
            push_stamp(stamp, out);
        }
        Item::Symlink { target } => push_bytes(target, out),
        Item::Dir => {}
    }
}

/// Appends how a file looked; its length and its executable bit are those of the tree, else it was never right.
pub(super) fn push_stamp(stamp: &Stamp, out: &mut Vec<u8>) {
    out.extend_from_slice(&stamp.size.to_le_bytes());
    out.extend_from_slice(&stamp.modified.to_le_bytes());
    out.extend_from_slice(&stamp.changed.to_le_bytes());
    out.extend_from_slice(&stamp.inode.to_le_bytes());
    out.push(u8::from(stamp.executable));
}

/// Appends at most 65,535 bytes: paths and targets are shorter.
pub(super) fn push_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Appends the hash by which damage is found.
pub(super) fn sealed(mut out: Vec<u8>) -> Vec<u8> {
    let hash = Hash::of(&out);
    out.extend_from_slice(hash.as_bytes());
    out
}

/// Returns a reader of what was sealed behind `magic`; none where it is damaged or something else.
pub(super) fn unsealed<'a>(bytes: &'a [u8], magic: &[u8]) -> Option<Reader<'a>> {
    let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
    if Hash::of(body).as_bytes() != hash {
        return None;
    }
    body.strip_prefix(magic).map(Reader)
}

fn decode(bytes: &[u8]) -> Option<State> {
    let mut reader = unsealed(bytes, MAGIC)?;
    let (root, noted, count) = (reader.hash()?, reader.i64()?, reader.u64()?);
    if count > TREE_ENTRIES_MAX || count > u64::try_from(reader.0.len() / ROW_LEN_MIN).ok()? {
        return None;
    }
    let mut rows: Vec<Row> = Vec::with_capacity(usize::try_from(count).ok()?);
    for _ in 0..count {
        let row = decode_row(&mut reader)?;
        if rows.last().is_some_and(|last| path_order(&last.path, &row.path).is_ge()) {
            return None;
        }
        rows.push(row);
    }
    reader.0.is_empty().then_some(State { root, noted, rows })
}

fn decode_row(reader: &mut Reader<'_>) -> Option<Row> {
    let kind = reader.u8()?;
    let path = reader.path()?.into();
    let (item, stamp) = match kind {
        FILE | EXECUTABLE => {
            let (hash, size) = (reader.hash()?, reader.u64()?);
            (Item::File { hash, size, executable: kind == EXECUTABLE }, reader.stamp()?)
        }
        SYMLINK => {
            let target = reader.bytes().filter(|target| target.len() <= SYMLINK_TARGET_MAX)?;
            (Item::Symlink { target: target.into() }, Stamp::NONE)
        }
        DIRECTORY => (Item::Dir, Stamp::NONE),
        _ => return None,
    };
    Some(Row { path, item, stamp })
}

/// Reads what was written here; none wherever it does not fit.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn i64(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn hash(&mut self) -> Option<Hash> {
        Some(Hash::from_bytes(self.take(32)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = u16::from_le_bytes(self.take(2)?.try_into().ok()?);
        self.take(usize::from(len))
    }

    pub(super) fn stamp(&mut self) -> Option<Stamp> {
        let (size, modified) = (self.u64()?, self.i64()?);
        let (changed, inode, executable) = (self.i64()?, self.u64()?, self.u8()? == 1);
        Some(Stamp { size, modified, changed, inode, executable })
    }

    /// Reads a path as a tree has them: somebody else may have written the file.
    pub(super) fn path(&mut self) -> Option<&'a [u8]> {
        let path = self.bytes().filter(|path| path.len() <= TREE_PATH_MAX)?;
        let mut names = path.split(|byte| *byte == b'/');
        let is_deep = path.iter().filter(|byte| **byte == b'/').count() >= TREE_DEPTH_MAX;
        let reserved = path.split(|byte| *byte == b'/').next() == Some(DIR);
        (!is_deep && !reserved && names.all(|name| Name::new(name).is_ok())).then_some(path)
    }
}
