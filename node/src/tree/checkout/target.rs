//! Where a tree may be checked out.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::error::CheckoutError;
use super::state;
use crate::tree::beneath::Dir;

/// Is where a tree is to go.
#[derive(Debug)]
pub(super) struct Target {
    /// The directory that holds the checkout's, without a symbolic link in its path.
    pub(super) parent: Dir,
    /// The name of the checkout's directory in there.
    pub(super) name: Vec<u8>,
    /// Both together.
    pub(super) path: PathBuf,
    /// What is there.
    pub(super) found: Found,
}

/// Says what is at a target.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// A directory that is empty, or holds a checkout.
    Dir(Dir),
}

impl Target {
    /// Looks at a path.
    ///
    /// # Errors
    /// [`CheckoutError`] where nothing may be checked out.
    pub(super) fn at(path: &Path, store: &Path) -> Result<Self, CheckoutError> {
        let refuse = |reason| CheckoutError::Refused { path: path.to_owned(), reason };
        let Some(name) = path.file_name().filter(|_| path.is_absolute()) else {
            return Err(refuse("it is the root of the file system, or has no name"));
        };
        let above = path.parent().unwrap_or(Path::new("/"));
        let above = match above.canonicalize() {
            Ok(above) if above.is_dir() => above,
            Err(error) if !is_missing(&error) => {
                return Err(CheckoutError::io_at("open", above)(error));
            }
            _ => return Err(CheckoutError::ParentMissing { path: above.to_owned() }),
        };
        let real = above.join(name);
        if real.starts_with(store) {
            return Err(refuse("it lies in the store"));
        }
        if store.starts_with(&real) {
            return Err(refuse("the store lies in it"));
        }
        let found = match fs::symlink_metadata(&real) {
            Err(error) if is_missing(&error) => Found::Nothing,
            Err(error) => return Err(CheckoutError::io_at("open", &real)(error)),
            Ok(meta) if meta.is_symlink() => return Err(refuse("it is a symbolic link")),
            Ok(meta) if !meta.is_dir() => return Err(refuse("it is not a directory")),
            Ok(_) => Found::Dir(Dir::open(&real).map_err(CheckoutError::io_at("open", &real))?),
        };
        let parent = Dir::open(&above).map_err(CheckoutError::io_at("open", &above))?;
        let target = Self { parent, name: name.as_bytes().to_vec(), path: real, found };
        target.check_found()?;
        Ok(target)
    }

    fn check_found(&self) -> Result<(), CheckoutError> {
        let Found::Dir(dir) = &self.found else { return Ok(()) };
        let entries = dir.list().map_err(CheckoutError::io_at("list", &self.path))?;
        let is_ours = entries.iter().any(|(name, _)| name == state::DIR);
        if entries.is_empty() || is_ours {
            return Ok(());
        }
        Err(CheckoutError::NotACheckout { path: self.path.clone() })
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
