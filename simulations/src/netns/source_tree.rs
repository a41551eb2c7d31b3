//! A generated tree of source code: 10,000 files of 4 to 16 KiB in a hundred directories, that compress as code does;
//! and the same tree after a day's work, in which one file in a hundred was edited.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::{Entry, Manifest, ManifestError, Name, Node};

use super::noise::Noise;

/// The lengths of files in bytes, from the least to the most.
const LENGTHS: (u64, u64) = (4 << 10, 16 << 10);
/// Of so many files one is edited.
const EDITED_ONE_IN: u64 = 100;
/// By how much the edits of two versions differ in their seeds: by more than there are files.
const EDITS_APART: u64 = 1 << 32;
/// How many different words there are.
const WORDS: u64 = 4_000;

/// Is a tree in memory.
#[derive(Clone, Debug)]
pub struct SourceTree {
    /// The path of each file and its bytes.
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

impl SourceTree {
    /// Makes a tree of so many files; edited or not.
    pub fn new(count: u64, edited: bool) -> Self {
        let words: Vec<Vec<u8>> = (0..WORDS).map(word).collect();
        let file = |number: u64| {
            let mut noise = Noise::new(1_000 + number);
            let len = usize::try_from(noise.between(LENGTHS.0, LENGTHS.1)).unwrap_or_default();
            let bytes = code(&mut noise, &words, len);
            let (directory, inner) = (number % 10, number / 10 % 10);
            (PathBuf::from(format!("d{directory}/s{inner}/f{number:05}.rs")), bytes)
        };
        let mut tree = Self { files: (0..count).map(file).collect() };
        if edited {
            tree.edit(0);
        }
        tree
    }

    /// Edits one file in a hundred, others with each version, and returns which.
    pub fn edit(&mut self, version: u64) -> Vec<usize> {
        let first = usize::try_from((7 + 13 * version) % EDITED_ONE_IN).unwrap_or_default();
        let step = usize::try_from(EDITED_ONE_IN).unwrap_or(usize::MAX);
        let edited: Vec<usize> = (first..self.files.len()).step_by(step).collect();
        for at in &edited {
            let number = u64::try_from(*at).unwrap_or_default() + version * EDITS_APART;
            edit(&mut self.files[*at].1, number);
        }
        edited
    }

    /// Returns how many bytes the files have.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| u64::try_from(bytes.len()).unwrap_or(0)).sum()
    }

    /// Writes the tree into a directory, over what is there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, to: &Path) -> io::Result<()> {
        self.files.iter().try_for_each(|file| write_file(file, to))
    }

    /// Writes some of the tree's files, over what is there.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn write_some(&self, which: &[usize], to: &Path) -> io::Result<()> {
        which.iter().try_for_each(|at| write_file(&self.files[*at], to))
    }

    /// Returns the first file that a directory has with other bytes.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn differs(&self, dir: &Path) -> io::Result<Option<PathBuf>> {
        for (path, bytes) in &self.files {
            let path = dir.join(path);
            if fs::read(&path)? != *bytes {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Gives all blobs and manifests of the tree to `put`, and returns the tree's hash.
    ///
    /// # Errors
    /// What `put` gives.
    pub fn store(&self, mut put: impl FnMut(&Hash, &[u8]) -> io::Result<()>) -> io::Result<Hash> {
        let mut dirs: std::collections::BTreeMap<
            String,
            std::collections::BTreeMap<String, Vec<Entry>>,
        > = std::collections::BTreeMap::new();
        for (path, bytes) in &self.files {
            let mut names = path.iter().map(|name| name.to_string_lossy().into_owned());
            let (outer, inner) =
                (names.next().unwrap_or_default(), names.next().unwrap_or_default());
            let (hash, size) = (Hash::of(bytes), u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            put(&hash, bytes)?;
            let node = Node::File { hash, size, executable: false };
            let entry = entry(&names.next().unwrap_or_default(), node)?;
            dirs.entry(outer).or_default().entry(inner).or_default().push(entry);
        }
        let mut top = Vec::new();
        for (name, inner) in dirs {
            let mut entries = Vec::new();
            for (name, files) in inner {
                entries.push(entry(&name, seal(files, &mut put)?)?);
            }
            top.push(entry(&name, seal(entries, &mut put)?)?);
        }
        let root = Manifest::new(top).map_err(malformed)?.encode();
        let hash = Hash::of(&root);
        put(&hash, &root)?;
        Ok(hash)
    }
}

fn write_file((path, bytes): &(PathBuf, Vec<u8>), to: &Path) -> io::Result<()> {
    let path = to.join(path);
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, bytes)
}

fn entry(name: &str, node: Node) -> io::Result<Entry> {
    Ok(Entry { name: Name::new(name.as_bytes()).map_err(io::Error::other)?, node })
}

fn seal(
    entries: Vec<Entry>,
    put: &mut impl FnMut(&Hash, &[u8]) -> io::Result<()>,
) -> io::Result<Node> {
    let sealed = Manifest::new(entries).and_then(Manifest::seal).map_err(malformed)?;
    if let Some(bytes) = &sealed.manifest {
        put(&Hash::of(bytes), bytes)?;
    }
    Ok(sealed.node)
}

fn malformed(error: ManifestError) -> io::Error {
    io::Error::other(error)
}

fn word(number: u64) -> Vec<u8> {
    const LETTERS: &[u8] = b"etaoinshrdlucmfwypvbgkjqxz";
    let mut noise = Noise::new(number);
    let letters = [7, 13, 25][usize::try_from(noise.between(0, 2)).unwrap_or(0)];
    let len = noise.between(2, 11);
    let letter = |_| LETTERS[usize::try_from(noise.between(0, letters)).unwrap_or(0)];
    (0..len).map(letter).collect()
}

/// Makes lines of words, a few of which are frequent, as in code; one line in three is there before.
fn code(noise: &mut Noise, words: &[Vec<u8>], len: usize) -> Vec<u8> {
    const BETWEEN: [&[u8]; 8] = [b" = ", b"(", b")", b".", b", ", b"; ", b"::", b" -> "];
    let mut out = Vec::with_capacity(len + 100);
    let mut lines: Vec<(usize, usize)> = Vec::new();
    while out.len() < len {
        let start = out.len();
        if !lines.is_empty() && noise.between(0, 99) < 35 {
            let (from, to) = lines[index(noise, lines.len())];
            out.extend_from_within(from..to);
        } else {
            out.extend(std::iter::repeat_n(b' ', 4 * index(noise, 5)));
            for _ in 0..noise.between(2, 9) {
                // The product of two draws: small numbers are frequent.
                let word = index(noise, words.len()) * index(noise, words.len()) / words.len();
                out.extend_from_slice(&words[word]);
                out.extend_from_slice(BETWEEN[index(noise, BETWEEN.len())]);
            }
            out.push(b'\n');
        }
        lines.push((start, out.len()));
    }
    out.truncate(len);
    out
}

fn index(noise: &mut Noise, len: usize) -> usize {
    let most = u64::try_from(len.saturating_sub(1)).unwrap_or(0);
    usize::try_from(noise.between(0, most)).unwrap_or(0)
}

/// Overwrites a few bytes in two places, and adds a line.
fn edit(bytes: &mut Vec<u8>, number: u64) {
    let mut noise = Noise::new(90_000 + number);
    for _ in 0..2 {
        let at = index(&mut noise, bytes.len() - 60);
        noise.fill(&mut bytes[at..at + 40]);
    }
    let at = index(&mut noise, bytes.len());
    bytes.splice(at..at, *b"    let added = line.that_was_not_there(before);\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edited_tree_differs_in_one_file_of_a_hundred() {
        let (old, new) = (SourceTree::new(300, false), SourceTree::new(300, true));
        let differs = old.files.iter().zip(&new.files).filter(|(old, new)| old != new);
        assert_eq!(differs.count(), 3);
        assert!(old.files.iter().all(|(_, bytes)| (4 << 10..=16 << 10).contains(&bytes.len())));
    }

    #[test]
    fn each_version_edits_other_files_or_others_bytes() {
        let mut tree = SourceTree::new(300, false);
        let before = tree.clone();
        assert_eq!((tree.edit(1), tree.edit(2)), (vec![20, 120, 220], vec![33, 133, 233]));
        let mut twice = before.clone();
        assert_eq!((twice.edit(101), twice.edit(2)), (vec![20, 120, 220], vec![33, 133, 233]));
        assert_ne!(tree.files[20], twice.files[20]);
        assert_eq!(tree.files[21], before.files[21]);
    }

    #[test]
    fn one_other_byte_is_seen() {
        let (tree, dir) = (SourceTree::new(300, false), tempfile::tempdir().unwrap());
        tree.write(dir.path()).unwrap();
        assert_eq!(tree.differs(dir.path()).unwrap(), None);
        let (path, bytes) = &tree.files[299];
        let path = dir.path().join(path);
        fs::write(&path, [&bytes[1..], b"."].concat()).unwrap();
        assert_eq!(tree.differs(dir.path()).unwrap(), Some(path.clone()));
        fs::remove_file(path).unwrap();
        assert!(tree.differs(dir.path()).is_err());
    }

    #[test]
    fn stored_tree_is_complete() {
        let tree = SourceTree::new(300, false);
        let mut blobs = std::collections::BTreeMap::new();
        let root = tree.store(|hash, bytes| {
            blobs.insert(*hash, bytes.to_vec());
            Ok(())
        });
        let manifest = Manifest::decode(&blobs[&root.unwrap()]).unwrap();
        let totals = manifest.totals().unwrap();
        assert_eq!(
            (totals.files, totals.bytes, totals.entries),
            (300, tree.bytes(), 300 + 10 + 100)
        );
    }
}
