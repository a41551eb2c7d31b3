//! The commands of the operating system that a lab is made with.

use std::path::{Path, PathBuf};

use super::error::Error;

/// Where administrators' commands are, also when root's PATH does not say so.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/bin"];

/// Holds the paths of the commands a lab needs.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    /// `ip` of iproute2: namespaces, links, addresses and routes.
    pub ip: PathBuf,
    /// `nft` of nftables: dropped packets.
    pub nft: PathBuf,
}

impl Tools {
    /// Finds the commands.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when we are not root, or naming the package of a missing command.
    pub(super) fn find() -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            let reason = "they are made by root; try again with sudo".to_owned();
            return Err(Error::Unavailable { reason });
        }
        let directories = directories();
        Ok(Self {
            ip: find(&directories, "ip", "iproute2")?,
            nft: find(&directories, "nft", "nftables")?,
        })
    }
}

/// Finds `curl`, which some experiments compare with.
///
/// # Errors
/// [`Error::Unavailable`] naming its package.
pub(super) fn curl() -> Result<PathBuf, Error> {
    find(&directories(), "curl", "curl")
}

/// Finds `caddy`, the web server that one experiment asks by HTTP/3.
///
/// # Errors
/// [`Error::Unavailable`] naming its package.
pub(super) fn caddy() -> Result<PathBuf, Error> {
    find(&directories(), "caddy", "caddy")
}

/// Finds `git`, which one experiment compares with.
///
/// # Errors
/// [`Error::Unavailable`] naming its package.
pub(super) fn git() -> Result<PathBuf, Error> {
    find(&directories(), "git", "git")
}

/// Finds `rsync`, which one experiment compares with.
///
/// # Errors
/// [`Error::Unavailable`] naming its package.
pub(super) fn rsync() -> Result<PathBuf, Error> {
    find(&directories(), "rsync", "rsync")
}

/// Finds `tc`, which limits what an interface sends.
///
/// # Errors
/// [`Error::Unavailable`] naming its package.
pub(super) fn tc() -> Result<PathBuf, Error> {
    find(&directories(), "tc", "iproute2")
}

fn directories() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(SYSTEM_DIRECTORIES.map(PathBuf::from)).collect()
}

fn find(directories: &[PathBuf], command: &str, package: &str) -> Result<PathBuf, Error> {
    let mut candidates = directories.iter().map(|directory| directory.join(command));
    candidates.find(|candidate| is_file(candidate)).ok_or_else(|| Error::Unavailable {
        reason: format!("the command `{command}` is missing; install the package {package}"),
    })
}

fn is_file(path: &Path) -> bool {
    path.is_absolute() && path.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_command_names_its_package() {
        let empty = tempfile::tempdir().unwrap();
        let error = find(&[empty.path().to_owned()], "nft", "nftables").unwrap_err().to_string();
        assert!(error.ends_with("install the package nftables"), "{error}");
    }

    #[test]
    fn first_directory_with_the_command_wins() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(first.path().join("ip"), "").unwrap();
        std::fs::write(second.path().join("ip"), "").unwrap();
        let directories = [first.path().to_owned(), second.path().to_owned()];
        assert_eq!(find(&directories, "ip", "iproute2").unwrap(), first.path().join("ip"));
    }
}
