//! Which entries a directory has, in the order in which a tree names them.

use std::ffi::OsStr;
use std::fs::{self, FileType};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blobmesh_protocol::tree::{ManifestError, Name, TREE_DEPTH_MAX, TREE_ENTRIES_MAX};

use super::rules::{RULE_FILES, Rules, is_ignored};
use super::{LeftOut, ScanError, ScanOptions, io_error};

/// How many steps make a chunk.
const CHUNK_STEPS: usize = 1024;
/// How many warnings are kept.
const WARNINGS_MAX: usize = 100;
/// What git keeps of a repository. A tree with it would be refused by whoever checks it out: its hooks and its
/// configuration are executed.
const GIT: &[u8] = b".git";
/// What a checkout keeps of itself.
const OURS: &[u8] = b".blobmesh";

/// Is one step of a walk.
#[derive(Debug)]
pub(super) enum Step {
    /// A directory begins.
    Enter(Name),
    /// The directory ends.
    Leave(Arc<Path>),
    /// A symbolic link.
    Link { name: Name, target: Box<[u8]> },
    /// A file.
    File(FileStep),
}

impl Step {
    /// Returns the file, if it is one.
    pub(super) fn file(&self) -> Option<&FileStep> {
        match self {
            Self::File(file) => Some(file),
            Self::Enter(_) | Self::Leave(_) | Self::Link { .. } => None,
        }
    }
}

/// Names a file.
#[derive(Debug)]
pub(super) struct FileStep {
    pub(super) directory: Arc<Path>,
    pub(super) name: Name,
}

impl FileStep {
    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(OsStr::from_bytes(self.name.as_bytes()))
    }
}

/// Holds steps in their order.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) steps: Vec<Step>,
}

impl Chunk {
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Returns how many files it has.
    pub(super) fn files(&self) -> u64 {
        let files = self.steps.iter().filter_map(Step::file).count();
        u64::try_from(files).unwrap_or(u64::MAX)
    }
}

/// Walks through a directory, depth first.
#[derive(Debug)]
pub(super) struct Walk {
    ignore: bool,
    store_dir: PathBuf,
    open: Vec<Open>,
    entries: u64,
    left_out: LeftOut,
}

#[derive(Debug)]
struct Open {
    path: Arc<Path>,
    rules: Rules,
    left: std::vec::IntoIter<(Name, FileType)>,
}

impl Walk {
    /// Begins at the root, which may be a symbolic link to a directory.
    pub(super) fn begin(options: &ScanOptions) -> Result<Self, ScanError> {
        let root = &options.root;
        let root = root.canonicalize().map_err(io_error("read", root))?;
        if !root.is_dir() {
            return Err(ScanError::NotADirectory { path: root });
        }
        if root.starts_with(&options.store_dir) {
            return Err(ScanError::InStore { path: root });
        }
        let mut walk = Self {
            ignore: options.ignore,
            store_dir: options.store_dir.clone(),
            open: Vec::new(),
            entries: 0,
            left_out: LeftOut::default(),
        };
        walk.enter(root.into())?;
        Ok(walk)
    }

    /// Returns the next steps; none at the end.
    pub(super) fn next_chunk(&mut self) -> Result<Chunk, ScanError> {
        let mut chunk = Chunk::default();
        while chunk.steps.len() < CHUNK_STEPS {
            let Some(step) = self.next()? else { break };
            chunk.steps.push(step);
        }
        Ok(chunk)
    }

    /// Returns what was left out so far.
    pub(super) fn into_left_out(self) -> LeftOut {
        self.left_out
    }

    fn next(&mut self) -> Result<Option<Step>, ScanError> {
        loop {
            let Some(open) = self.open.last_mut() else { return Ok(None) };
            let Some((name, kind)) = open.left.next() else {
                let path = Arc::clone(&open.path);
                self.open.pop();
                // The root ends with the walk.
                return Ok((!self.open.is_empty()).then_some(Step::Leave(path)));
            };
            let directory = Arc::clone(&open.path);
            if let Some(step) = self.step(directory, name, kind)? {
                self.entries += 1;
                if self.entries > TREE_ENTRIES_MAX {
                    let source = ManifestError::Entries { found: self.entries };
                    let path =
                        self.open.first().map_or_else(PathBuf::new, |root| root.path.to_path_buf());
                    return Err(ScanError::Tree { path, source });
                }
                return Ok(Some(step));
            }
        }
    }

    /// Makes a step of an entry; none of one that is left out.
    fn step(
        &mut self,
        directory: Arc<Path>,
        name: Name,
        kind: FileType,
    ) -> Result<Option<Step>, ScanError> {
        if name.as_bytes() == GIT {
            self.left_out.git += 1;
            return Ok(None);
        }
        if name.as_bytes() == OURS {
            return Ok(None);
        }
        let file = FileStep { directory, name };
        if self.open.iter().any(|open| !open.rules.is_empty()) {
            let rules = self.open.iter().map(|open| &open.rules);
            if is_ignored(rules, &file.path(), kind.is_dir()) {
                self.left_out.ignored += 1;
                return Ok(None);
            }
        }
        if kind.is_file() {
            return Ok(Some(Step::File(file)));
        }
        let path = file.path();
        if kind.is_dir() {
            if path == self.store_dir {
                self.warn(format!("left out the store {}", path.display()));
                return Ok(None);
            }
            self.enter(path.into())?;
            return Ok(Some(Step::Enter(file.name)));
        }
        if kind.is_symlink() {
            let target = fs::read_link(&path).map_err(io_error("read the link", &path))?;
            let target = target.into_os_string().into_vec().into();
            return Ok(Some(Step::Link { name: file.name, target }));
        }
        self.left_out.special += 1;
        self.warn(format!("left out {} {}", special(kind), path.display()));
        Ok(None)
    }

    fn enter(&mut self, path: Arc<Path>) -> Result<(), ScanError> {
        if self.open.len() > TREE_DEPTH_MAX {
            let source = ManifestError::Depth;
            return Err(ScanError::Tree { path: path.to_path_buf(), source });
        }
        let mut entries = Vec::new();
        for entry in fs::read_dir(&path).map_err(io_error("list", &path))? {
            let entry = entry.map_err(io_error("list", &path))?;
            let kind = entry.file_type().map_err(io_error("read", &entry.path()))?;
            let name = Name::new(entry.file_name().as_bytes());
            let name = name.map_err(|source| ScanError::Tree {
                path: entry.path(),
                source: ManifestError::Name { source },
            })?;
            entries.push((name, kind));
        }
        entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let rules = self.read_rules(&path, &entries)?;
        self.open.push(Open { path, rules, left: entries.into_iter() });
        Ok(())
    }

    fn read_rules(
        &mut self,
        path: &Path,
        entries: &[(Name, FileType)],
    ) -> Result<Rules, ScanError> {
        if !self.ignore {
            return Ok(Rules::default());
        }
        let has = RULE_FILES.map(|rules| {
            let found = entries.binary_search_by(|(name, _)| name.as_bytes().cmp(rules));
            found.is_ok_and(|index| entries[index].1.is_file())
        });
        let mut warnings = Vec::new();
        let rules =
            Rules::read(path, has, &mut warnings).map_err(io_error("read the rules in", path))?;
        warnings.into_iter().for_each(|warning| self.warn(warning));
        Ok(rules)
    }

    fn warn(&mut self, warning: String) {
        if self.left_out.warnings.len() < WARNINGS_MAX {
            self.left_out.warnings.push(warning);
        }
    }
}

/// Says what an entry is that no tree can hold.
fn special(kind: FileType) -> &'static str {
    if kind.is_socket() {
        "the socket"
    } else if kind.is_fifo() {
        "the pipe"
    } else {
        "the device"
    }
}
