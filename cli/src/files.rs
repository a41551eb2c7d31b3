//! The few files the command line itself reads and writes.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use blobmesh_node::control::api::{BaseName, Trouble};
use blobmesh_protocol::Hash;

use crate::error::CommandError;
use crate::units::quoted;

/// Makes the home directory, mode 0700; one that exists stays as it is.
///
/// # Errors
/// When it cannot be made, or is no directory.
pub(crate) fn ensure_home(home: &Path) -> Result<(), CommandError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(home).map_err(|error| {
        CommandError::file("make the home directory", home, error)
            .hint("choose another directory with --home or BLOBMESH_HOME")
    })
}

/// Writes a file that is either whole or absent, readable by its owner only.
///
/// # Errors
/// When the directory cannot be written to.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(name);
    let written = create_private(&beside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        fs::remove_file(&beside).ok();
    }
    written
}

fn create_private(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Reads a text file of at most `len_max` bytes.
///
/// # Errors
/// `InvalidData` for a longer one and for one that is not UTF-8.
pub(crate) fn read_text(path: &Path, len_max: u64) -> io::Result<String> {
    read_all(fs::File::open(path)?, len_max)
}

fn read_all(source: impl Read, len_max: u64) -> io::Result<String> {
    let mut text = String::new();
    let len = source.take(len_max + 1).read_to_string(&mut text)?;
    if u64::try_from(len).is_ok_and(|len| len > len_max) {
        let message = format!("it is longer than {len_max} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(text)
}

/// Is something that can be added, by its absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// A file.
    File(PathBuf),
    /// A directory.
    Directory(PathBuf),
}

/// Checks that a file or a directory can be added.
///
/// # Errors
/// `File` when it cannot be opened, `Usage` when it is a device or a pipe, or a directory whose name is no
/// text.
pub(crate) fn check_input(path: &Path) -> Result<Input, CommandError> {
    // The kind is looked at first: opening a pipe would wait for its writer.
    let metadata = fs::metadata(path).map_err(|e| CommandError::file("read", path, e))?;
    if metadata.is_dir() {
        fs::read_dir(path).map_err(|e| CommandError::file("list", path, e))?;
        let absolute =
            std::path::absolute(path).map_err(|e| CommandError::file("read", path, e))?;
        if absolute.to_str().is_none() {
            let text = format!("the path of directory {} is not UTF-8", path.display());
            return Err(CommandError::usage(text)
                .hint("names in it may be anything; rename it, or a link to it will do"));
        }
        return Ok(Input::Directory(absolute));
    }
    if !metadata.is_file() {
        let text = format!("{} is not a regular file", path.display());
        return Err(
            CommandError::usage(text).hint("`blobmesh add -` adds what it reads from stdin")
        );
    }
    fs::File::open(path).map_err(|e| CommandError::file("read", path, e))?;
    let absolute = std::path::absolute(path).map_err(|e| CommandError::file("read", path, e))?;
    Ok(Input::File(absolute))
}

/// Checks that an output file can be made, before anything is fetched, and returns its absolute path.
///
/// # Errors
/// `OutputExists`, or `OutputDirectoryMissing`; `Usage` for a pipe or a device.
pub(crate) fn check_output(path: &Path, force: bool) -> Result<PathBuf, CommandError> {
    let shown = path.display();
    let absolute =
        std::path::absolute(path).map_err(|_| CommandError::usage("the output's name is empty"))?;
    let Some(directory) = absolute.parent().filter(|_| absolute.file_name().is_some()) else {
        return Err(CommandError::new(
            Trouble::OutputExists,
            format!("output {shown} is a directory"),
        )
        .hint("name the file to write"));
    };
    if !directory.is_dir() {
        let text = format!("the directory of output {shown} does not exist");
        let hint = format!("make it first: mkdir -p {}", directory.display());
        return Err(CommandError::new(Trouble::OutputDirectoryMissing, text).hint(hint));
    }
    match fs::metadata(&absolute) {
        Ok(found) if found.is_dir() => {
            let text = format!("output {shown} is a directory");
            Err(CommandError::new(Trouble::OutputExists, text).hint("name the file to write"))
        }
        Ok(found) if !found.is_file() => {
            let text = format!("output {shown} is no regular file, and would be replaced by one");
            Err(CommandError::usage(text)
                .hint(format!("`blobmesh cat HASH > {shown}` writes into it")))
        }
        // A link that leads nowhere is there, too.
        _ if !force && fs::symlink_metadata(&absolute).is_ok() => {
            Err(CommandError::new(Trouble::OutputExists, format!("output {shown} exists")))
        }
        _ => Ok(absolute),
    }
}

/// Checks the hashes and returns them in lower case.
///
/// # Errors
/// `Usage`, for the first that is none.
pub(crate) fn check_hashes(hashes: &[String]) -> Result<Vec<String>, CommandError> {
    hashes.iter().map(|hash| check_hash(hash)).collect()
}

/// Reads what names an older version of a blob: a hash, or else a file.
///
/// # Errors
/// When it is no hash, and no file that can be read.
pub(crate) fn check_base(text: &str) -> Result<BaseName, CommandError> {
    if let Ok(hash) = check_hash(text) {
        return Ok(BaseName::Blob(hash));
    }
    match check_input(Path::new(text))? {
        Input::File(path) if path.to_str().is_none() => {
            Err(CommandError::usage("the base's name is not UTF-8")
                .hint("rename it, or a link to it will do"))
        }
        Input::File(path) => Ok(BaseName::File(path)),
        Input::Directory(path) => {
            let text = format!("the base {} is a directory", path.display());
            Err(CommandError::usage(text).hint("`blobmesh pull` updates a whole directory"))
        }
    }
}

/// The longest list of hashes that is read: about a million of them.
const LIST_BYTES_MAX: u64 = 64 << 20;

/// Reads a list of hashes, one a line, from a file or from stdin (`-`), and returns them in lower case.
/// Blank lines and those that begin with `#` are skipped.
///
/// # Errors
/// `Usage` with the number of the first line that is no hash, and for an empty list; `File` when it
/// cannot be read.
pub(crate) fn read_list(path: &Path) -> Result<Vec<String>, CommandError> {
    let text = if path.as_os_str() == "-" {
        read_all(io::stdin().lock(), LIST_BYTES_MAX)
    } else {
        read_text(path, LIST_BYTES_MAX)
    };
    let text = text.map_err(|error| CommandError::file("read the list", path, error))?;
    let lines = text.lines().map(str::trim).enumerate();
    let named = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let hashes = named.map(|(index, line)| {
        line.parse::<Hash>().map(|hash| hash.to_hex()).map_err(|error| {
            let text = format!(
                "line {} of {} is no hash: {} ({error})",
                index + 1,
                path.display(),
                quoted(line)
            );
            CommandError::usage(text).hint("a list has one hash of 64 hex digits on each line")
        })
    });
    let hashes: Vec<String> = hashes.collect::<Result<_, _>>()?;
    if hashes.is_empty() {
        return Err(CommandError::usage(format!("{} lists no hash", path.display())));
    }
    Ok(hashes)
}

/// Checks one hash and returns it in lower case.
///
/// # Errors
/// `Usage`, when it is none.
pub(crate) fn check_hash(text: &str) -> Result<String, CommandError> {
    hash_of(text).map(|hash| hash.to_hex())
}

/// Reads one hash.
///
/// # Errors
/// `Usage`, when it is none.
pub(crate) fn hash_of(text: &str) -> Result<Hash, CommandError> {
    text.parse::<Hash>().map_err(|error| {
        CommandError::usage(format!("invalid hash {}: {error}", quoted(text))).hint(
            "`blobmesh add` prints the hash of what it adds, `blobmesh ls` those of the store",
        )
    })
}
