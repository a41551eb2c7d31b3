//! What a switch is about to do to a directory, written down before it is done.
//!
//! Everything that a switch writes lies in `.blobmesh/stage` before the journal gets its name; what follows are renames
//! and removals, each of which may be done twice. So a checkout that was killed before has changed nothing, and one that
//! was killed after is finished by the next: the journal is read again, and its steps are done again.
//!
//! A step says how what it replaces or removes looked when that was decided. What looks otherwise by then is somebody's
//! work, and is left alone.

use std::io::{self, Read as _};

use super::state::{
    self, Reader, State, name_of, parent_of, push_bytes, push_stamp, sealed, unsealed, write_whole,
};
use crate::tree::beneath::{Dir, Kind, Replace, Stamp};

/// Where everything lies that is to get its place.
pub(super) const STAGE: &[u8] = b"stage";
const JOURNAL: &[u8] = b"journal";
const JOURNAL_BEGUN: &[u8] = b"journal.begun";
/// What the directory will remember once all is done.
const STATE_NEXT: &[u8] = b"state.next";

const MAGIC: &[u8; 8] = b"BMSWTCH\x01";

/// Is one thing to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A file or symbolic link goes, if it looks so.
    Remove { path: Box<[u8]>, expected: Stamp },
    /// An entry goes with all that is below it: somebody forced that.
    RemoveAll { path: Box<[u8]> },
    /// A directory goes, if it is empty.
    RemoveDir { path: Box<[u8]> },
    /// There is to be a directory.
    MakeDir { path: Box<[u8]> },
    /// What lies in the stage under a number gets its place.
    Place { number: u64, path: Box<[u8]>, expected: Expected },
}

/// Says what may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// Nothing: nothing was there.
    Nothing,
    /// A file or symbolic link that looks so.
    Entry(Stamp),
    /// Whatever is there: somebody forced that.
    Anything,
}

/// Writes down what is to be done and what is to be remembered after; from then on it will be done.
pub(super) fn begin(own: &Dir, steps: &[Step], next: &State) -> io::Result<()> {
    next.save_as(own, STATE_NEXT)?;
    write_whole(own, JOURNAL_BEGUN, JOURNAL, &encode(steps))
}

/// Does what a journal says and ends it. Returns the paths that were left alone.
pub(super) fn finish(
    root: &Dir,
    own: &Dir,
    steps: &[Step],
    mut next: State,
) -> io::Result<Vec<Box<[u8]>>> {
    let left = do_steps(root, own, steps)?;
    note_places(root, steps, &mut next)?;
    next.save(own)?;
    clear(own)?;
    Ok(left)
}

/// Does what steps say, for the first time or again. Returns the paths that were left alone.
pub(super) fn do_steps(root: &Dir, own: &Dir, steps: &[Step]) -> io::Result<Vec<Box<[u8]>>> {
    let stage = own.open_below(STAGE)?;
    // What goes went before anything came: to remove it again would be to remove what came.
    let is_removed = has_placed(&stage, steps)?;
    let mut left = Vec::new();
    for step in steps {
        let is_done = is_removed && step.is_removal();
        if !is_done && !do_step(root, &stage, step)? {
            left.push(step.path().into());
        }
    }
    Ok(left)
}

/// Reads the journal that an interrupted checkout left behind, and what is to be remembered after; none where there is
/// none.
///
/// # Errors
/// `InvalidData` where one of them is damaged.
pub(super) fn left_behind(own: &Dir) -> io::Result<Option<(Vec<Step>, State)>> {
    let mut bytes = Vec::new();
    match own.open_file(JOURNAL) {
        Ok(mut file) => file.read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let damaged = || io::Error::from(io::ErrorKind::InvalidData);
    let steps = decode(&bytes).ok_or_else(damaged)?;
    let next = State::load_from(own, STATE_NEXT)?.ok_or_else(damaged)?;
    Ok(Some((steps, next)))
}

/// Removes all but the state. The journal goes first: without it nobody asks for the rest.
pub(super) fn clear(own: &Dir) -> io::Result<()> {
    for name in [JOURNAL, JOURNAL_BEGUN, STATE_NEXT, STAGE] {
        own.remove_all(name)?;
    }
    Ok(())
}

/// Returns whether anything has got its place already.
fn has_placed(stage: &Dir, steps: &[Step]) -> io::Result<bool> {
    for step in steps {
        let Step::Place { number, .. } = step else { continue };
        if stage.stamp(number.to_string().as_bytes())?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Step {
    fn is_removal(&self) -> bool {
        matches!(self, Self::Remove { .. } | Self::RemoveAll { .. } | Self::RemoveDir { .. })
    }

    fn path(&self) -> &[u8] {
        match self {
            Self::Remove { path, .. }
            | Self::RemoveAll { path }
            | Self::RemoveDir { path }
            | Self::MakeDir { path }
            | Self::Place { path, .. } => path,
        }
    }
}

/// Does one step, for the first time or again; false where it is not done because somebody was there.
fn do_step(root: &Dir, stage: &Dir, step: &Step) -> io::Result<bool> {
    let path = step.path();
    let above = match (step, root.open_below(parent_of(path))) {
        (Step::MakeDir { .. } | Step::Place { .. }, Err(error)) if is_gone(&error) => {
            match make_dirs(root, parent_of(path))? {
                Some(dir) => dir,
                None => return Ok(false),
            }
        }
        // What is to be removed went with its directory.
        (_, Err(error)) if is_gone(&error) => return Ok(true),
        (_, opened) => opened?,
    };
    let name = name_of(path);
    match step {
        Step::Remove { expected, .. } => match above.stamp(name)? {
            None => Ok(true),
            Some((kind, found)) if kind != Kind::Dir && found.is_of_same(expected) => {
                above.remove_file(name).map(|()| true)
            }
            Some(_) => Ok(false),
        },
        Step::RemoveAll { .. } => above.remove_all(name).map(|()| true),
        Step::RemoveDir { .. } => match above.remove_dir(name) {
            Err(error) if is_gone(&error) => Ok(true),
            // Somebody's files are in it.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(true),
            done => done.map(|()| true),
        },
        Step::MakeDir { .. } => match above.make_dir(name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(above.stamp(name)?.is_some_and(|(kind, _)| kind == Kind::Dir))
            }
            done => done.map(|()| true),
        },
        Step::Place { number, expected, .. } => place(stage, *number, &above, name, expected),
    }
}

fn place(
    stage: &Dir,
    number: u64,
    above: &Dir,
    name: &[u8],
    expected: &Expected,
) -> io::Result<bool> {
    let from = number.to_string().into_bytes();
    // Else it has its place.
    let Some((_, staged)) = stage.stamp(&from)? else { return Ok(true) };
    let found = above.stamp(name)?;
    if found.is_some_and(|(kind, found)| kind != Kind::Dir && found.is_of_same(&staged)) {
        // It has both names: it was cut short where a rename takes two steps.
        return stage.remove_file(&from).map(|()| true);
    }
    let replace = match (expected, found) {
        (_, None) => Replace::Never,
        (Expected::Anything, Some(_)) => Replace::Existing,
        (Expected::Entry(expected), Some((kind, found)))
            if kind != Kind::Dir && found.is_of_same(expected) =>
        {
            Replace::Existing
        }
        (Expected::Nothing | Expected::Entry(_), Some(_)) => return Ok(false),
    };
    match stage.rename(&from, above, name, replace) {
        Err(error) if is_taken(&error) => Ok(false),
        done => done.map(|()| true),
    }
}

/// Makes the directories of a path that are missing, and returns the last; none where something else is in the way.
fn make_dirs(root: &Dir, path: &[u8]) -> io::Result<Option<Dir>> {
    let mut dir = root.open_below(b"")?;
    for name in path.split(|byte| *byte == b'/') {
        match dir.make_dir(name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        dir = match dir.open_below(name) {
            Err(error) if is_gone(&error) => return Ok(None),
            opened => opened?,
        };
    }
    Ok(Some(dir))
}

/// Notes how files look that got their places: a rename changes that.
fn note_places(root: &Dir, steps: &[Step], next: &mut State) -> io::Result<()> {
    for step in steps {
        let Step::Place { path, .. } = step else { continue };
        let Some(row) = next.row_mut(path) else { continue };
        let above = match root.open_below(parent_of(path)) {
            Err(error) if is_gone(&error) => continue,
            opened => opened?,
        };
        match above.stamp(name_of(path))? {
            Some((Kind::File, found)) if found.is_of_same(&row.stamp) => row.stamp = found,
            // It is somebody else's by now.
            _ => {}
        }
    }
    Ok(())
}

/// Returns whether a path leads to nothing, or not through directories.
pub(super) fn is_gone(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

fn is_taken(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, IsADirectory, NotADirectory};
    matches!(error.kind(), AlreadyExists | DirectoryNotEmpty | IsADirectory | NotADirectory)
}

const REMOVE: u8 = 0;
const REMOVE_ALL: u8 = 1;
const REMOVE_DIR: u8 = 2;
const MAKE_DIR: u8 = 3;
const PLACE_NEW: u8 = 4;
const PLACE_OVER: u8 = 5;
const PLACE_ANYHOW: u8 = 6;

fn encode(steps: &[Step]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    for step in steps {
        out.push(match step {
            Step::Remove { .. } => REMOVE,
            Step::RemoveAll { .. } => REMOVE_ALL,
            Step::RemoveDir { .. } => REMOVE_DIR,
            Step::MakeDir { .. } => MAKE_DIR,
            Step::Place { expected: Expected::Nothing, .. } => PLACE_NEW,
            Step::Place { expected: Expected::Entry(_), .. } => PLACE_OVER,
            Step::Place { expected: Expected::Anything, .. } => PLACE_ANYHOW,
        });
        push_bytes(step.path(), &mut out);
        if let Step::Place { number, .. } = step {
            out.extend_from_slice(&number.to_le_bytes());
        }
        if let Step::Remove { expected, .. }
        | Step::Place { expected: Expected::Entry(expected), .. } = step
        {
            push_stamp(expected, &mut out);
        }
    }
    sealed(out)
}

fn decode(bytes: &[u8]) -> Option<Vec<Step>> {
    let mut reader = unsealed(bytes, MAGIC)?;
    let mut steps = Vec::new();
    while !reader.0.is_empty() {
        steps.push(decode_step(&mut reader)?);
    }
    Some(steps)
}

fn decode_step(reader: &mut Reader<'_>) -> Option<Step> {
    let kind = reader.u8()?;
    let path: Box<[u8]> = reader.path()?.into();
    Some(match kind {
        REMOVE => Step::Remove { path, expected: reader.stamp()? },
        REMOVE_ALL => Step::RemoveAll { path },
        REMOVE_DIR => Step::RemoveDir { path },
        MAKE_DIR => Step::MakeDir { path },
        PLACE_NEW | PLACE_OVER | PLACE_ANYHOW => {
            let number = reader.u64()?;
            let expected = match kind {
                PLACE_NEW => Expected::Nothing,
                PLACE_OVER => Expected::Entry(reader.stamp()?),
                _ => Expected::Anything,
            };
            Step::Place { number, path, expected }
        }
        _ => return None,
    })
}

/// Returns the own directory of a checkout, locked; none where somebody else has it.
pub(super) fn open_own(root: &Dir) -> io::Result<Option<Dir>> {
    match root.make_dir(state::DIR) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let own = root.open_below(state::DIR)?;
    Ok(own.lock()?.then_some(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps() -> Vec<Step> {
        let expected =
            Stamp { size: 1, modified: -2, changed: 3, inode: u64::MAX, executable: true };
        let path: Box<[u8]> = b"a/\xff b"[..].into();
        let place = |expected| Step::Place { number: 7, path: path.clone(), expected };
        vec![
            Step::Remove { path: path.clone(), expected },
            Step::RemoveAll { path: path.clone() },
            Step::RemoveDir { path: path.clone() },
            Step::MakeDir { path: path.clone() },
            place(Expected::Nothing),
            place(Expected::Entry(expected)),
            place(Expected::Anything),
        ]
    }

    #[test]
    fn journal_comes_back_and_damage_shows() {
        let bytes = encode(&steps());
        assert_eq!(decode(&bytes), Some(steps()));
        assert_eq!(decode(&encode(&[])), Some(Vec::new()));
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len]), None, "{len} bytes");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x20;
            assert_eq!(decode(&damaged), None, "at {at}");
        }
    }

    #[test]
    fn journal_that_somebody_made_up_leads_nowhere() {
        for path in ["..", "../x", "/etc", "a/../../x", "", "a//b", ".blobmesh/state", "a\0b"] {
            let bytes = encode(&[Step::RemoveAll { path: path.as_bytes().into() }]);
            assert_eq!(decode(&bytes), None, "{path:?}");
        }
    }
}
