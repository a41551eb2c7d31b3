//! Blobs to move: bytes that do not compress, and text that does, the same in every run, with a hash of our own.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::Path,
};

use super::error::Error;

/// Separates these bytes from every other use of BLAKE3.
const CONTEXT: &str = "blobmesh-simulations 2026-11 bytes of a blob in a network namespace";

/// How many bytes are made and hashed at a time.
const STEP_BYTES: usize = 1 << 20;

/// Writes a blob of `bytes` bytes that only `seed` determines; returns its hash, 64 hex digits.
///
/// # Errors
/// [`Error::File`] when it cannot be written.
pub(super) fn write(path: &Path, bytes: u64, seed: u64) -> Result<String, Error> {
    let noise = |step: &mut [u8], source: &mut blake3::OutputReader, _| source.fill(step);
    write_to(path, bytes, seed, noise).map_err(Error::file("write", path))
}

/// Writes a blob of `bytes` bytes of text like that of a log; returns its hash, 64 hex digits.
///
/// # Errors
/// [`Error::File`] when it cannot be written.
pub(super) fn write_text(path: &Path, bytes: u64, seed: u64) -> Result<String, Error> {
    let lines = |step: &mut [u8], source: &mut blake3::OutputReader, from: u64| {
        let mut text = Vec::with_capacity(step.len() + LINE_BYTES_MAX);
        let mut line = from / LINE_BYTES_MAX as u64;
        while text.len() < step.len() {
            text.extend_from_slice(line_of(line, source).as_bytes());
            line += 1;
        }
        step.copy_from_slice(&text[..step.len()]);
    };
    write_to(path, bytes, seed, lines).map_err(Error::file("write", path))
}

/// The most bytes of a line.
const LINE_BYTES_MAX: usize = 96;

fn line_of(number: u64, source: &mut blake3::OutputReader) -> String {
    let mut dice = [0; 6];
    source.fill(&mut dice);
    let [node, id @ .., took] = dice;
    let id = u32::from_le_bytes(id);
    format!(
        "{number:010} INFO node-{:02}: served blob {id:08x} to a peer in {took} ms\n",
        node % 16
    )
}

/// Hashes a file; returns 64 hex digits.
///
/// # Errors
/// [`Error::File`] when it cannot be read.
pub(super) fn hash_of(path: &Path) -> Result<String, Error> {
    hash_file(path).map_err(Error::file("read", path))
}

/// Counts the bytes in which two files differ; what one has beyond the other's end differs.
///
/// # Errors
/// [`Error::File`] when one cannot be read.
pub(super) fn differing(path: &Path, other: &Path) -> Result<u64, Error> {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let open = |path: &Path| File::open(path).map_err(Error::file("open", path));
    let (mut left, mut right) = (open(path)?, open(other)?);
    let mut differing = 0;
    loop {
        read_step(&mut left, &mut a).map_err(Error::file("read", path))?;
        read_step(&mut right, &mut b).map_err(Error::file("read", other))?;
        if a.is_empty() && b.is_empty() {
            return Ok(differing);
        }
        let unequal = a.iter().zip(&b).filter(|(a, b)| a != b).count();
        differing += (unequal + a.len().abs_diff(b.len())) as u64;
    }
}

fn read_step(file: &mut File, buffer: &mut Vec<u8>) -> io::Result<usize> {
    buffer.clear();
    file.take(STEP_BYTES as u64).read_to_end(buffer)
}

/// Writes what `fill` makes of the seed's random bytes, step by step from an offset.
fn write_to(
    path: &Path,
    bytes: u64,
    seed: u64,
    mut fill: impl FnMut(&mut [u8], &mut blake3::OutputReader, u64),
) -> io::Result<String> {
    let mut source = blake3::Hasher::new_derive_key(CONTEXT);
    let mut source = source.update(&seed.to_le_bytes()).finalize_xof();
    let mut file = File::create_new(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; STEP_BYTES];
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
        let step = &mut buffer[..length];
        fill(step, &mut source, bytes - left);
        hasher.update(step);
        file.write_all(step)?;
        left -= length as u64;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn hash_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; STEP_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            length => hasher.update(&buffer[..length]),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_blob_has_the_named_hash_and_length_at_every_boundary() {
        let directory = tempfile::tempdir().unwrap();
        let step = STEP_BYTES as u64;
        for bytes in [0, 1, step - 1, step, step + 1, 2 * step] {
            let path = directory.path().join(bytes.to_string());
            let hash = write(&path, bytes, 1).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);
            assert_eq!(hash_of(&path).unwrap(), hash);
        }
    }

    #[test]
    fn text_is_lines_of_the_length_asked_for_and_the_same_again() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (directory.path().join("one"), directory.path().join("other"));
        let bytes = STEP_BYTES as u64 + 100;
        assert_eq!(write_text(&one, bytes, 1).unwrap(), write_text(&other, bytes, 1).unwrap());
        let text = std::fs::read_to_string(&one).unwrap();
        assert_eq!(text.len() as u64, bytes);
        assert!(text.lines().filter(|line| line.contains(" INFO node-")).count() > 10_000);
        assert!(text.lines().all(|line| line.len() < LINE_BYTES_MAX));
    }

    #[test]
    fn differing_bytes_are_counted_and_missing_ones_too() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let original = vec![7; STEP_BYTES + 3];
        let mut other = original.clone();
        (other[1], other[STEP_BYTES]) = (0, 0);
        other.push(7);
        let (original, other) = (file("original", &original), file("other", &other));
        assert_eq!(differing(&original, &original).unwrap(), 0);
        assert_eq!(differing(&original, &other).unwrap(), 3);
        assert_eq!(differing(&other, &original).unwrap(), 3);
    }

    #[test]
    fn seed_decides_the_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let hash = |name: &str, seed| write(&directory.path().join(name), 100, seed).unwrap();
        assert_eq!(hash("one", 1), hash("same", 1));
        assert_ne!(hash("two", 2), hash("three", 3));
    }
}
