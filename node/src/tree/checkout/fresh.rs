//! A tree where there was nothing: made beside its place, and renamed there whole.
//!
//! What is being made lies in a directory named after the target's name, which is locked while somebody works on it.
//! Whoever finds it unlocked removes it: it was left behind by a process that was killed.

use std::borrow::Cow;
use std::io;

use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::Change;

use super::error::CheckoutError;
use super::stage::{Maker, Staged};
use super::state::{self, State};
use super::target::Target;
use super::{now, rows_of};
use crate::tree::beneath::{Dir, Replace};

/// Makes the tree whose listing `changes` is at a target where nothing is; says whether something that was left behind
/// was removed.
pub(super) fn make(
    target: &Target,
    root: &Hash,
    changes: Vec<Change>,
    maker: &Maker<'_>,
) -> Result<bool, CheckoutError> {
    let (stage, removed) = Stage::begin(target)?;
    let staged: Vec<Staged<'_>> = changes
        .iter()
        .filter_map(|change| {
            let item = change.new.as_ref()?;
            Some(Staged { at: Cow::Borrowed(&change.path), path: &change.path, item })
        })
        .collect();
    let stamps = maker.make(&stage.dir, &staged)?;
    // A long listing is not kept twice.
    drop(staged);
    let state = State { root: *root, noted: now(), rows: rows_of(changes, stamps) };
    let remember = || -> io::Result<()> {
        stage.dir.make_dir(state::DIR)?;
        state.save(&stage.dir.open_below(state::DIR)?)
    };
    remember().map_err(CheckoutError::io("write", state::DIR))?;
    if maker.stop.is_wanted() {
        return Err(CheckoutError::Stopped);
    }
    stage.publish()?;
    Ok(removed)
}

/// Is a directory that becomes the checkout's, or is removed.
#[derive(Debug)]
struct Stage<'a> {
    target: &'a Target,
    name: Vec<u8>,
    dir: Dir,
    published: bool,
}

impl<'a> Stage<'a> {
    /// Makes the stage of a target, and removes one that was left behind.
    fn begin(target: &'a Target) -> Result<(Self, bool), CheckoutError> {
        let busy = || CheckoutError::Busy { path: target.path.clone() };
        let fail = |action| CheckoutError::io_at(action, &target.path);
        // As long a name as the target's may not be had twice.
        let name = format!(".blobmesh-{}", &Hash::of(&target.name).to_hex()[..16]).into_bytes();
        let mut removed = false;
        loop {
            match target.parent.make_dir(&name) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !removed => {
                    let left =
                        target.parent.open_below(&name).map_err(fail("open a stage beside"))?;
                    if !left.lock().map_err(fail("lock a stage beside"))? {
                        return Err(busy());
                    }
                    target.parent.remove_all(&name).map_err(fail("remove a stage beside"))?;
                    removed = true;
                }
                // Somebody is quicker than we are.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(busy()),
                Err(error) => return Err(fail("make a stage beside")(error)),
            }
        }
        let dir = target.parent.open_below(&name).map_err(fail("open a stage beside"))?;
        if !dir.lock().map_err(fail("lock a stage beside"))? {
            return Err(busy());
        }
        Ok((Self { target, name, dir, published: false }, removed))
    }

    fn publish(mut self) -> Result<(), CheckoutError> {
        let Target { parent, name, path, .. } = self.target;
        match parent.rename(&self.name, parent, name, Replace::Never) {
            Ok(()) => {
                self.published = true;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(CheckoutError::NotACheckout { path: path.clone() })
            }
            Err(error) => Err(CheckoutError::io_at("rename a stage to", path)(error)),
        }
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = self.target.parent.remove_all(&self.name)
        {
            tracing::warn!(%error, "a stage was left behind; the next checkout there removes it");
        }
    }
}
