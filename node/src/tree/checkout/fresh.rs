//! A tree where there was nothing: made beside its place, and renamed there whole.
//!
//! What is being made lies in a directory named after the target's name, which is locked while somebody works on it.
//! Whoever finds it unlocked removes it: it was left behind by a process that was killed.

use std::io;

use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::Item;

use super::error::CheckoutError;
use super::load::Manifests;
use super::now;
use super::stage::{Maker, Staged, staged_of};
use super::state::{self, StateWriter};
use super::target::Target;
use crate::tree::beneath::{Dir, Replace, Stamp};

/// Tells what came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Made {
    /// How many files and symbolic links there are.
    pub(super) leaves: u64,
    /// Whether something that was left behind was removed.
    pub(super) cleared: bool,
}

/// Makes a tree that was checked at a target where nothing is. However large it is, only a part of its listing is in
/// memory.
pub(super) fn make(
    target: &Target,
    root: &Hash,
    manifests: &mut Manifests<'_>,
    maker: &Maker<'_>,
) -> Result<Made, CheckoutError> {
    let (stage, cleared) = Stage::begin(target)?;
    let remembered =
        |result: io::Result<()>| result.map_err(CheckoutError::io("write", state::DIR));
    remembered(stage.dir.make_dir(state::DIR))?;
    let own = stage.dir.open_below(state::DIR).map_err(CheckoutError::io("open", state::DIR))?;
    let mut state = StateWriter::begin(&own).map_err(CheckoutError::io("write", state::DIR))?;
    let (mut leaves, mut links) = (0, 0);
    manifests.list(root, |changes| {
        let staged = staged_of(changes);
        let stamps = maker.make_all_but_symlinks(&stage.dir, &staged)?;
        for (Staged { path, item, .. }, stamp) in staged.iter().zip(stamps) {
            leaves += u64::from(**item != Item::Dir);
            links += u64::from(matches!(item, Item::Symlink { .. }));
            remembered(state.push(path, item, &stamp.unwrap_or(Stamp::NONE)))?;
        }
        Ok(())
    })?;
    if links > 0 {
        manifests.list(root, |changes| maker.make_symlinks(&stage.dir, &staged_of(changes)))?;
    }
    remembered(state.finish(root, now()))?;
    if maker.stop.is_wanted() {
        return Err(CheckoutError::Stopped);
    }
    stage.publish()?;
    Ok(Made { leaves, cleared })
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
