//! Entries of a tree, made beneath a directory that nobody looks at yet.
//!
//! Directories come first, then files by several threads, then symbolic links: nothing of a tree is ever written
//! through one. A file costs an open of its blob, its creation, and one call that gives it its bytes; it is neither
//! looked up, synced nor given a mode after.

use std::borrow::Cow;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write as _};

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::group_count;
use blobmesh_protocol::tree::{Change, Item};

use super::error::CheckoutError;
use super::load::{Lacking, Manifests};
use super::state::{name_of, parent_of};
use super::supply::Supply;
use super::{Options, Progress, pool};
use crate::stop::Stop;
use crate::store::{Lendable, Lent, Store, StoreError};
use crate::tree::beneath::{Dir, Stamp};
use crate::tree::pattern::Pattern;
use crate::tree::ways::{Source, Way, Ways};

/// Of so many groups of 64 KiB one is hashed, chosen by chance, where not all are.
pub(super) const SAMPLE_ONE_IN: u64 = 64;
/// How many groups of one file are sampled at most.
const SAMPLES_MAX: u64 = 256;
/// How many files of one directory a thread takes at once, and how many bytes.
const PIECE_FILES_MAX: usize = 64;
const PIECE_BYTES_MAX: u64 = 8 << 20;

/// Is an entry to be made.
#[derive(Debug)]
pub(super) struct Staged<'a> {
    /// Where, beneath the directory of the stage.
    pub(super) at: Cow<'a, [u8]>,
    /// Its path in the tree.
    pub(super) path: &'a [u8],
    /// What.
    pub(super) item: &'a Item,
}

/// Is what entries are made with.
#[derive(Debug)]
pub(super) struct Maker<'a> {
    pub(super) store: &'a Store,
    pub(super) ways: &'a Ways,
    pub(super) options: &'a Options,
    pub(super) progress: &'a Progress,
    pub(super) stop: &'a Stop,
    /// Says what is still on its way; without it all is there.
    pub(super) supply: Option<&'a Supply>,
    copies: Vec<Pattern>,
    chance: RandomState,
}

impl<'a> Maker<'a> {
    pub(super) fn new(
        store: &'a Store,
        ways: &'a Ways,
        options: &'a Options,
        progress: &'a Progress,
        stop: &'a Stop,
    ) -> Self {
        let copies = options.copy.iter().map(|text| Pattern::new(text)).collect();
        let (supply, chance) = (None, RandomState::new());
        Self { store, ways, options, progress, stop, supply, copies, chance }
    }

    /// Checks that the store has every blob that `changes` ask for, unless some are on their way: then it was looked
    /// which of them are there.
    pub(super) fn check_blobs(&self, changes: &[Change]) -> Result<(), CheckoutError> {
        let lacking = Lacking::default();
        if self.supply.is_none() {
            lacking.look(self.store, changes, self.stop)?;
        }
        lacking.end()
    }

    /// Does the same for all of a tree.
    pub(super) fn check_tree(
        &self,
        root: &Hash,
        manifests: &mut Manifests<'_>,
    ) -> Result<(), CheckoutError> {
        let lacking = Lacking::default();
        if self.supply.is_none() {
            manifests.list(root, |changes| lacking.look(self.store, changes, self.stop))?;
        }
        lacking.end()
    }

    /// Makes entries, each directory before what is in it, and returns how the files look, in the order of `items`.
    pub(super) fn make(
        &self,
        root: &Dir,
        items: &[Staged<'_>],
    ) -> Result<Vec<Option<Stamp>>, CheckoutError> {
        let stamps = self.make_all_but_symlinks(root, items)?;
        self.make_symlinks(root, items)?;
        Ok(stamps)
    }

    /// Does the same, and leaves out symbolic links: they come after all files.
    pub(super) fn make_all_but_symlinks(
        &self,
        root: &Dir,
        items: &[Staged<'_>],
    ) -> Result<Vec<Option<Stamp>>, CheckoutError> {
        self.make_dirs(root, items)?;
        let pieces = pieces_of(items);
        let made = pool::share(&pieces, self.stop, |piece| self.make_files(root, items, piece))?;
        let mut stamps = vec![None; items.len()];
        for (index, stamp) in made.into_iter().flatten() {
            stamps[index] = Some(stamp);
        }
        Ok(stamps)
    }

    fn make_dirs(&self, root: &Dir, items: &[Staged<'_>]) -> Result<(), CheckoutError> {
        // The directories from the root to the last one, each with the length of its path.
        let mut open: Vec<(&[u8], Dir)> = Vec::new();
        for staged in items.iter().filter(|staged| *staged.item == Item::Dir) {
            let fail = || CheckoutError::io("make", staged.path);
            let parent = parent_of(&staged.at);
            while open.last().is_some_and(|(path, _)| *path != parent) {
                open.pop();
            }
            if open.is_empty() && !parent.is_empty() {
                // It was made before these items.
                open.push((parent, root.open_below(parent).map_err(fail())?));
            }
            let above = open.last().map_or(root, |(_, dir)| dir);
            above.make_dir(name_of(&staged.at)).map_err(fail())?;
            let dir = above.open_below(name_of(&staged.at)).map_err(fail())?;
            open.push((&staged.at, dir));
            if self.stop.is_wanted() {
                return Err(CheckoutError::Stopped);
            }
        }
        Ok(())
    }

    /// Makes the symbolic links among some entries.
    pub(super) fn make_symlinks(
        &self,
        root: &Dir,
        items: &[Staged<'_>],
    ) -> Result<(), CheckoutError> {
        let mut here = Here::new(root);
        for staged in items {
            let Item::Symlink { target } = staged.item else { continue };
            let dir = here.of(parent_of(&staged.at));
            let made = dir.and_then(|dir| dir.make_symlink(name_of(&staged.at), target));
            made.map_err(CheckoutError::io("link", staged.path))?;
        }
        Ok(())
    }

    /// Makes the files of one piece, which are all in one directory.
    fn make_files(
        &self,
        root: &Dir,
        items: &[Staged<'_>],
        piece: &[usize],
    ) -> Result<Vec<(usize, Stamp)>, CheckoutError> {
        let Some(first) = piece.first() else { return Ok(Vec::new()) };
        self.await_blobs(items, piece)?;
        let parent = parent_of(&items[*first].at);
        let dir = root.open_below(parent).map_err(CheckoutError::io("open", parent))?;
        let mut stamps = Vec::with_capacity(piece.len());
        let mut bytes = 0;
        for index in piece {
            if self.stop.is_wanted() {
                return Err(CheckoutError::Stopped);
            }
            stamps.push((*index, self.make_file(&dir, &items[*index])?));
            bytes += size_of(items[*index].item);
        }
        self.progress.add(bytes);
        Ok(stamps)
    }

    /// Waits until the store has the blobs of a piece.
    fn await_blobs(&self, items: &[Staged<'_>], piece: &[usize]) -> Result<(), CheckoutError> {
        let Some(supply) = self.supply else { return Ok(()) };
        let hashes = piece.iter().filter_map(|index| match items[*index].item {
            Item::File { hash, .. } => Some(hash),
            Item::Dir | Item::Symlink { .. } => None,
        });
        if supply.wait(hashes, self.stop) { Ok(()) } else { Err(CheckoutError::Stopped) }
    }

    fn make_file(&self, dir: &Dir, staged: &Staged<'_>) -> Result<Stamp, CheckoutError> {
        let Item::File { hash, size, executable } = staged.item else {
            // Pieces are of files.
            return Err(CheckoutError::Worker);
        };
        let name = name_of(&staged.at);
        if *size > 0 {
            self.sample(staged, hash, *size)?;
        }
        if self.options.hard_link && self.may_link(staged, *size, *executable) {
            if self.options.verify {
                self.verify(staged, hash)?;
            }
            if dir.link_from(&self.store.blob_path(hash), name).is_ok() {
                self.ways.count(Way::HardLink);
                let found = dir.stamp(name).map_err(CheckoutError::io("read", staged.path))?;
                let (_, stamp) = found.ok_or(CheckoutError::Worker)?;
                return Ok(stamp);
            }
        }
        let file =
            dir.create(name, *executable).map_err(CheckoutError::io("create", staged.path))?;
        if *size > 0 {
            self.fill(&file, staged, hash, *size)?;
        }
        Stamp::of_file(&file).map_err(CheckoutError::io("read", staged.path))
    }

    fn may_link(&self, staged: &Staged<'_>, size: u64, executable: bool) -> bool {
        // The mode of a store's file says what the store promises for it.
        size > 0 && !executable && !self.is_real_copy(staged)
    }

    fn is_real_copy(&self, staged: &Staged<'_>) -> bool {
        self.copies.iter().any(|pattern| pattern.matches(staged.path))
    }

    fn fill(
        &self,
        file: &File,
        staged: &Staged<'_>,
        hash: &Hash,
        size: u64,
    ) -> Result<(), CheckoutError> {
        let blob = |source| CheckoutError::Blob { path: staged.path.to_vec(), source };
        let lent = self.store.lend(hash, size).map_err(blob)?;
        let Some(lent) = lent else { return Err(self.not_lent(staged, hash, size)) };
        let source = match &lent {
            Lent::File(source) => Source::whole(source, size),
            Lent::Packed(member) => {
                let (source, from) = member.place();
                Source::part(source, from, size)
            }
            Lent::Bytes(bytes) => return self.write(file, staged, hash, bytes),
        };
        let real = self.is_real_copy(staged);
        if !self.options.verify {
            let filled = self.ways.fill(file, source, real, self.stop);
            return filled.map_err(|error| self.unfilled(staged, hash, error));
        }
        let written = self.ways.fill_hashing(file, source, real, self.stop);
        let written = written.map_err(|error| self.unfilled(staged, hash, error))?;
        if written == *hash { Ok(()) } else { self.verify(staged, hash) }
    }

    /// Makes the error of a blob that is not there: one that just came may have another length than the tree says.
    fn not_lent(&self, staged: &Staged<'_>, hash: &Hash, size: u64) -> CheckoutError {
        let (path, hash) = (staged.path.to_vec(), *hash);
        match self.store.is_lendable(&hash, size) {
            Ok(Lendable::OtherLength { found }) => {
                CheckoutError::Length { path, hash, size, found }
            }
            Ok(Lendable::Yes | Lendable::Absent) => {
                CheckoutError::Blob { path, source: StoreError::Absent { hash } }
            }
            Err(source) => CheckoutError::Blob { path, source },
        }
    }

    fn write(
        &self,
        mut file: &File,
        staged: &Staged<'_>,
        hash: &Hash,
        bytes: &[u8],
    ) -> Result<(), CheckoutError> {
        if self.options.verify && Hash::of(bytes) != *hash {
            return self.verify(staged, hash);
        }
        file.write_all(bytes).map_err(CheckoutError::io("write", staged.path))?;
        self.ways.count(Way::Copy);
        Ok(())
    }

    /// Makes the error of a copy; a blob that was cut short is one that has rotted.
    fn unfilled(&self, staged: &Staged<'_>, hash: &Hash, error: io::Error) -> CheckoutError {
        if error.kind() == io::ErrorKind::UnexpectedEof
            && let Err(rotten) = self.verify(staged, hash)
        {
            return rotten;
        }
        CheckoutError::io("write", staged.path)(error)
    }

    /// Hashes the blob that the store has; one that is wrong is taken out.
    fn verify(&self, staged: &Staged<'_>, hash: &Hash) -> Result<(), CheckoutError> {
        let rotten = match self.store.verify(hash) {
            Ok(true) => return Ok(()),
            Ok(false) => StoreError::Rot { hash: *hash },
            Err(error) => error,
        };
        Err(CheckoutError::Blob { path: staged.path.to_vec(), source: rotten })
    }

    /// Hashes one in [`SAMPLE_ONE_IN`] groups of what is checked out, so that a store that rots is noticed.
    fn sample(&self, staged: &Staged<'_>, hash: &Hash, size: u64) -> Result<(), CheckoutError> {
        if self.options.verify {
            return Ok(());
        }
        let chance = self.chance.hash_one(staged.path);
        let groups = group_count(size);
        let rest = u64::from(chance % SAMPLE_ONE_IN < groups % SAMPLE_ONE_IN);
        let samples = (groups / SAMPLE_ONE_IN + rest).min(SAMPLES_MAX);
        if samples == 0 {
            return Ok(());
        }
        let check = || -> Result<(), StoreError> {
            let absent = StoreError::Absent { hash: *hash };
            let reader = self.store.open_blob(hash)?.ok_or(absent)?;
            let mut buf = Vec::new();
            (0..samples).try_for_each(|sample| {
                let index = self.chance.hash_one((staged.path, sample)) % groups;
                reader.recheck_group(index, &mut buf)
            })
        };
        check().map_err(|source| CheckoutError::Blob { path: staged.path.to_vec(), source })
    }
}

/// Is the directory of the last entry, kept open for the next.
#[derive(Debug)]
pub(super) struct Here<'a> {
    root: &'a Dir,
    last: Option<(Vec<u8>, Dir)>,
}

impl<'a> Here<'a> {
    pub(super) fn new(root: &'a Dir) -> Self {
        Self { root, last: None }
    }

    /// Returns the directory at a path below the root.
    pub(super) fn of(&mut self, path: &[u8]) -> io::Result<&Dir> {
        let is_last = self.last.as_ref().is_some_and(|(last, _)| last == path);
        if !is_last {
            self.last = None;
        }
        match &mut self.last {
            Some((_, dir)) => Ok(dir),
            none => Ok(&none.insert((path.to_vec(), self.root.open_below(path)?)).1),
        }
    }
}

/// Groups the files among `items` by directory, each piece a handful of them.
fn pieces_of(items: &[Staged<'_>]) -> Vec<Vec<usize>> {
    let mut pieces: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    let mut parent: Option<&[u8]> = None;
    for (index, staged) in items.iter().enumerate() {
        let Item::File { size, .. } = staged.item else { continue };
        let is_next = parent == Some(parent_of(&staged.at)) && bytes < PIECE_BYTES_MAX;
        match pieces.last_mut() {
            Some(piece) if is_next && piece.len() < PIECE_FILES_MAX => piece.push(index),
            _ => {
                pieces.push(vec![index]);
                bytes = 0;
            }
        }
        bytes = bytes.saturating_add(*size);
        parent = Some(parent_of(&staged.at));
    }
    pieces
}

/// Returns what is to be made where there was nothing.
pub(super) fn staged_of<'a>(changes: &'a [Change]) -> Vec<Staged<'a>> {
    let staged = |change: &'a Change| {
        let Change { path, new, .. } = change;
        Some(Staged { at: Cow::Borrowed(&path[..]), path, item: new.as_ref()? })
    };
    changes.iter().filter_map(staged).collect()
}

/// Returns the bytes of a file; none of anything else.
pub(super) fn size_of(item: &Item) -> u64 {
    match item {
        Item::File { size, .. } => *size,
        Item::Symlink { .. } | Item::Dir => 0,
    }
}
