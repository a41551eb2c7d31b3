//! What is left out of a tree because its owner says so.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// The files that say what is left out; what the later one says counts more, whatever the directory.
pub(super) const RULE_FILES: [&[u8]; 2] = [b".gitignore", b".blobmeshignore"];
/// The longest of them in bytes.
const RULES_BYTES_MAX: u64 = 4 << 20;

/// Holds the rules of one directory.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// As in [`RULE_FILES`].
    files: [Option<Gitignore>; 2],
}

impl Rules {
    /// Reads the rules that a directory holds, of the files that its listing has.
    ///
    /// # Errors
    /// When a file cannot be read. Lines that make no sense are passed over, as git does, and told of in
    /// `warnings`.
    pub(super) fn read(
        directory: &Path,
        has: [bool; 2],
        warnings: &mut Vec<String>,
    ) -> io::Result<Self> {
        let mut rules = Self::default();
        for (index, name) in [".gitignore", ".blobmeshignore"].into_iter().enumerate() {
            if has[index] {
                rules.files[index] = Some(read_file(directory, name, warnings)?);
            }
        }
        Ok(rules)
    }

    /// Returns whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.files.iter().all(Option::is_none)
    }
}

/// Says whether the rules of the directories from the root on leave out `path`. The rule of the deepest directory
/// counts, and of its rules the last.
pub(super) fn is_ignored<'a>(
    rules: impl DoubleEndedIterator<Item = &'a Rules> + Clone,
    path: &Path,
    is_dir: bool,
) -> bool {
    for index in (0..RULE_FILES.len()).rev() {
        for directory in rules.clone().rev() {
            let Some(file) = &directory.files[index] else { continue };
            match file.matched(path, is_dir) {
                Match::None => {}
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
            }
        }
    }
    false
}

fn read_file(directory: &Path, name: &str, warnings: &mut Vec<String>) -> io::Result<Gitignore> {
    let path = directory.join(name);
    let mut bytes = Vec::new();
    File::open(&path)?.take(RULES_BYTES_MAX).read_to_end(&mut bytes)?;
    let mut builder = GitignoreBuilder::new(directory);
    let text = String::from_utf8_lossy(&bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    for (index, line) in text.lines().enumerate() {
        if let Err(error) = builder.add_line(None, line) {
            warnings.push(format!("line {} of {} is no rule: {error}", index + 1, path.display()));
        }
    }
    builder.build().map_err(io::Error::other)
}
