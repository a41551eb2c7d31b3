//! The programs that blobmesh is measured beside: where they are, how they are had, and how they are run.
//!
//! Nothing is installed unless it was asked for. What is missing is told, with the line that brings it.

pub mod iroh;
pub mod torrent;

use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::run;

/// Where administrators' commands are, also when the user's PATH does not say so.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/bin"];

/// Is a program that a work needs beside blobmesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rival {
    /// `rsync`, as daemon and client.
    Rsync,
    /// `nginx`, with TLS and HTTP/2.
    Nginx,
    /// `curl`, which fetches from nginx.
    Curl,
    /// `openssl`, which makes nginx's certificate.
    Openssl,
    /// `git`.
    Git,
    /// libtorrent with its Python face.
    Libtorrent,
    /// iroh-blobs, in a program around it.
    Iroh,
}

impl Rival {
    /// Returns the Debian package that brings it; none for what is built.
    fn package(self) -> Option<&'static str> {
        match self {
            Self::Rsync => Some("rsync"),
            Self::Nginx => Some("nginx-light"),
            Self::Curl => Some("curl"),
            Self::Openssl => Some("openssl"),
            Self::Git => Some("git"),
            Self::Libtorrent => Some("python3-libtorrent"),
            Self::Iroh => None,
        }
    }

    /// Returns the line that brings it.
    pub fn how(self) -> String {
        match self.package() {
            Some(package) => format!("apt-get install --no-install-recommends {package}"),
            None => "`versus --install` builds it under the target directory".to_owned(),
        }
    }
}

impl std::fmt::Display for Rival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rsync => "rsync",
            Self::Nginx => "nginx",
            Self::Curl => "curl",
            Self::Openssl => "openssl",
            Self::Git => "git",
            Self::Libtorrent => "libtorrent",
            Self::Iroh => "iroh-blobs",
        })
    }
}

/// Knows where rivals are.
#[derive(Clone, Debug)]
pub struct Rivals {
    directories: Vec<PathBuf>,
    /// Where rivals are built.
    built: PathBuf,
}

impl Rivals {
    /// Looks in the PATH, in the system's directories, and for what is built below `target`.
    pub fn new(target: &Path) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let system = SYSTEM_DIRECTORIES.map(PathBuf::from);
        let directories = std::env::split_paths(&path).chain(system).collect();
        Self { directories, built: target.join("rivals") }
    }

    /// Returns the program of a rival where it is there: for libtorrent a Python that has it.
    pub fn find(&self, rival: Rival) -> Option<PathBuf> {
        match rival {
            Rival::Libtorrent => self.commands("python3").find(|python| torrent::is_in(python)),
            Rival::Iroh => Some(iroh::program(&self.built)).filter(|program| program.is_file()),
            Rival::Rsync | Rival::Nginx | Rival::Curl | Rival::Openssl | Rival::Git => {
                self.commands(&rival.to_string()).next()
            }
        }
    }

    /// Returns the programs of several rivals where all are there.
    pub fn find_all<const N: usize>(&self, rivals: [Rival; N]) -> Option<[PathBuf; N]> {
        let found: Vec<_> = rivals.iter().filter_map(|rival| self.find(*rival)).collect();
        found.try_into().ok()
    }

    /// Installs a rival: by apt, or by building it.
    ///
    /// # Errors
    /// When that fails.
    pub fn install(&self, rival: Rival) -> io::Result<()> {
        let Some(package) = rival.package() else { return iroh::build(&self.built) };
        let apt = |args: &[&str]| {
            let mut command = Command::new("apt-get");
            run(command.args(args).env("DEBIAN_FRONTEND", "noninteractive")).map(drop)
        };
        apt(&["update"])?;
        apt(&["install", "-y", "--no-install-recommends", package])
    }

    /// Returns what a rival says of its version.
    pub fn version(&self, rival: Rival) -> Option<String> {
        let program = self.find(rival)?;
        let args: &[&str] = match rival {
            Rival::Iroh => return Some(iroh::VERSION.to_owned()),
            Rival::Libtorrent => &["-c", "import libtorrent; print(libtorrent.__version__)"],
            Rival::Nginx => &["-v"],
            Rival::Openssl => &["version"],
            Rival::Rsync | Rival::Curl | Rival::Git => &["--version"],
        };
        let output = Command::new(program).args(args).output().ok()?;
        // nginx says it on stderr.
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).lines().next().map(|line| line.trim().to_owned())
    }

    fn commands(&self, name: &str) -> impl Iterator<Item = PathBuf> {
        let candidates: Vec<_> = self.directories.iter().map(|path| path.join(name)).collect();
        candidates.into_iter().filter(|path| path.is_absolute() && path.is_file())
    }
}

/// Returns a port that nobody listens on: nobody else takes it in the moment before the rival does, or the
/// bench fails.
///
/// # Errors
/// When there is none.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Returns whether somebody listens on a port.
pub fn is_open(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_directories(directories: &[&Path], built: &Path) -> Rivals {
        let directories = directories.iter().map(|path| path.to_path_buf()).collect();
        Rivals { directories, built: built.to_owned() }
    }

    #[test]
    fn first_directory_that_has_a_rival_wins() {
        let rooms = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let rivals = in_directories(&[rooms[0].path(), rooms[1].path()], rooms[0].path());
        assert_eq!(rivals.find(Rival::Rsync), None);
        std::fs::write(rooms[1].path().join("rsync"), "").unwrap();
        assert_eq!(rivals.find(Rival::Rsync), Some(rooms[1].path().join("rsync")));
        std::fs::write(rooms[0].path().join("rsync"), "").unwrap();
        assert_eq!(rivals.find(Rival::Rsync), Some(rooms[0].path().join("rsync")));
        assert_eq!(rivals.find_all([Rival::Rsync, Rival::Nginx]), None);
    }

    #[test]
    fn python_without_libtorrent_is_none() {
        use std::os::unix::fs::PermissionsExt;
        let room = tempfile::tempdir().unwrap();
        let python = room.path().join("python3");
        let rivals = in_directories(&[room.path()], room.path());
        for (script, is_there) in [("#!/bin/sh\nexit 1\n", false), ("#!/bin/sh\nexit 0\n", true)] {
            std::fs::write(&python, script).unwrap();
            std::fs::set_permissions(&python, PermissionsExt::from_mode(0o755)).unwrap();
            assert_eq!(rivals.find(Rival::Libtorrent).is_some(), is_there);
        }
    }

    #[test]
    fn each_rival_says_how_it_is_had() {
        assert!(Rival::Nginx.how().ends_with("nginx-light"));
        assert!(Rival::Iroh.how().contains("--install"));
    }
}
