//! The addresses that came with tickets, kept in `peers.json` of the home directory.

use std::io;
use std::path::{Path, PathBuf};

use blobmesh_node::control::api::{Failure, Trouble};
use serde::{Deserialize, Serialize};

use crate::address::parse_peer;
use crate::error::CommandError;
use crate::files::{read_text, write_whole};

/// How many addresses are remembered; the oldest go first.
const PEERS_MAX: usize = 64;

/// The bound of the file in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

#[derive(Default, Serialize, Deserialize)]
struct Remembered {
    peers: Vec<String>,
}

/// Returns the remembered addresses.
///
/// # Errors
/// `Configuration` when the file is damaged.
pub(super) fn peers(home: &Path) -> Result<Vec<String>, CommandError> {
    let path = path_of(home);
    let text = match read_text(&path, FILE_BYTES_MAX) {
        Ok(text) => text,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(damaged(&path, &error.to_string())),
    };
    let remembered: Remembered =
        serde_json::from_str(&text).map_err(|error| damaged(&path, &error.to_string()))?;
    let checked: Result<_, _> = remembered.peers.iter().map(|peer| parse_peer(peer)).collect();
    checked.map_err(|text| damaged(&path, &text))
}

/// Remembers the addresses of a ticket, in place of those of another mesh where `fresh`.
///
/// Addresses that are none are left out; returns how many were good.
///
/// # Errors
/// When the file cannot be read or written.
pub(crate) fn remember_peers(
    home: &Path,
    addresses: &[String],
    fresh: bool,
) -> Result<usize, CommandError> {
    let good: Vec<String> = addresses.iter().filter_map(|peer| parse_peer(peer).ok()).collect();
    let mut peers = if fresh { Vec::new() } else { peers(home)? };
    peers.retain(|peer| !good.contains(peer));
    peers.extend(good.iter().cloned());
    peers.drain(..peers.len().saturating_sub(PEERS_MAX));
    let path = path_of(home);
    let text = serde_json::to_vec_pretty(&Remembered { peers })
        .map_err(|error| CommandError::file("write", &path, error))?;
    write_whole(&path, &text).map_err(|error| CommandError::file("write", &path, error))?;
    Ok(good.len())
}

fn path_of(home: &Path) -> PathBuf {
    home.join("peers.json")
}

fn damaged(path: &Path, cause: &str) -> CommandError {
    let text = format!("cannot read the peers of tickets in {}", path.display());
    let failure = Failure::new(Trouble::Configuration, text).cause(cause);
    CommandError::from(failure).hint("remove the file; a ticket writes it again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: usize) -> String {
        format!("/ip4/10.0.0.1/tcp/{port}")
    }

    #[test]
    fn addresses_are_kept_once_and_within_the_bound() {
        let home = tempfile::TempDir::new().unwrap();
        assert_eq!(peers(home.path()).unwrap(), Vec::<String>::new());
        let wrong = "not an address".to_owned();
        assert_eq!(remember_peers(home.path(), &[address(1), wrong], false).unwrap(), 1);
        for port in (1..=PEERS_MAX + 1).chain([5]) {
            remember_peers(home.path(), &[address(port)], false).unwrap();
        }
        let kept = peers(home.path()).unwrap();
        assert_eq!(kept.len(), PEERS_MAX);
        assert!(!kept.contains(&address(1)));
        assert_eq!(kept.last(), Some(&address(5)));
        remember_peers(home.path(), &[address(9)], true).unwrap();
        assert_eq!(peers(home.path()).unwrap(), [address(9)]);
    }

    #[test]
    fn damaged_file_is_an_error_and_not_an_empty_list() {
        let home = tempfile::TempDir::new().unwrap();
        for text in ["", "{}", "{\"peers\":[\"nonsense\"]}", "\u{0}"] {
            std::fs::write(path_of(home.path()), text).unwrap();
            assert_eq!(peers(home.path()).unwrap_err().trouble(), Some(Trouble::Configuration));
        }
    }
}
