//! Bytes to be moved: the same in every run, and not to be compressed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::BlobHasher;
use blobmesh_simulations::netns::noise::Noise;

use crate::process::run;

/// How much is made at once.
const PIECE_LEN: usize = 1 << 20;
/// How many files lie in one directory.
const DIRECTORY_LEN: u64 = 100;

/// Is a file that was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// Where it is.
    pub path: PathBuf,
    /// Its path below the directory it was made in, for URLs.
    pub name: String,
    /// Its hash.
    pub hash: Hash,
    /// Its length in bytes.
    pub len: u64,
}

/// Writes `len` bytes of noise to `to`, and returns their hash.
///
/// # Errors
/// When they cannot be written.
pub fn write_noise(mut noise: Noise, len: u64, to: &mut impl Write) -> io::Result<Hash> {
    let mut hasher = BlobHasher::new();
    let mut piece = vec![0; PIECE_LEN];
    let mut left = len;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(PIECE_LEN).min(PIECE_LEN);
        let piece = &mut piece[..now];
        noise.fill(piece);
        to.write_all(piece)?;
        hasher.update(piece);
        left -= u64::try_from(now).unwrap_or(left);
    }
    Ok(hasher.finish().hash())
}

/// Makes one file of `len` bytes.
///
/// # Errors
/// When it cannot be written.
pub fn make(path: &Path, number: u64, len: u64) -> io::Result<Made> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    let mut file = File::create(path)?;
    let hash = write_noise(Noise::new(number), len, &mut file)?;
    file.sync_all()?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Made { path: path.to_owned(), name, hash, len })
}

/// Makes `count` files of `least` to `most` bytes, a hundred a directory.
///
/// # Errors
/// When they cannot be written.
pub fn make_many(root: &Path, count: u64, (least, most): (u64, u64)) -> io::Result<Vec<Made>> {
    let mut lengths = Noise::new(count);
    let mut buffer = Vec::new();
    let mut all = Vec::new();
    for number in 0..count {
        let directory = format!("d{:03}", number / DIRECTORY_LEN);
        if number % DIRECTORY_LEN == 0 {
            fs::create_dir_all(root.join(&directory))?;
        }
        let len = lengths.between(least, most);
        buffer.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        Noise::new(number).fill(&mut buffer);
        let name = format!("{directory}/f{number:06}");
        let path = root.join(&name);
        fs::write(&path, &buffer)?;
        all.push(Made { path, name, hash: Hash::of(&buffer), len });
    }
    Ok(all)
}

/// Fails where two directories differ in a file, but for what git and blobmesh keep in one.
///
/// # Errors
/// When they do.
pub fn same_files(one: &Path, other: &Path) -> io::Result<()> {
    let mut command = Command::new("diff");
    run(command
        .args(["-r", "-q", "--no-dereference", "-x", ".git", "-x", ".blobmesh"])
        .arg(one)
        .arg(other))
    .map(drop)
}

/// Returns the hash of a file.
///
/// # Errors
/// When it cannot be read.
pub fn hash_of(path: &Path) -> io::Result<Hash> {
    let mut hasher = BlobHasher::new();
    each_piece(path, |piece| hasher.update(piece))?;
    Ok(hasher.finish().hash())
}

/// Reads a file, so that it is in the page cache.
///
/// # Errors
/// When it cannot be read.
pub fn warm(path: &Path) -> io::Result<()> {
    each_piece(path, |_| ())
}

fn each_piece(path: &Path, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut file = File::open(path).map_err(named)?;
    let mut piece = vec![0; PIECE_LEN];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(()),
            len => take(&piece[..len]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_has_the_bytes_and_the_hash_that_are_told() {
        let room = tempfile::tempdir().unwrap();
        let len = 3 * (1 << 20) + 5;
        let made = make(&room.path().join("a").join("b"), 7, len).unwrap();
        let bytes = fs::read(&made.path).unwrap();
        assert_eq!((bytes.len() as u64, Hash::of(&bytes)), (len, made.hash));
        assert_eq!(hash_of(&made.path).unwrap(), made.hash);
        let other = make(&room.path().join("c"), 8, len).unwrap();
        assert_ne!(other.hash, made.hash);
    }

    #[test]
    fn many_files_differ_and_keep_to_their_lengths() {
        let room = tempfile::tempdir().unwrap();
        let made = make_many(room.path(), 250, (40, 160)).unwrap();
        assert!(made.iter().all(|made| (40..=160).contains(&made.len)));
        assert!(made.iter().all(|made| made.path == room.path().join(&made.name)));
        let mut hashes: Vec<_> = made.iter().map(|made| made.hash.to_hex()).collect();
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), 250);
        assert_eq!(hash_of(&made[249].path).unwrap(), made[249].hash);
    }
}
