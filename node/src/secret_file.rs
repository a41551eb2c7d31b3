//! Files that hold one secret of 32 bytes: the identity and the mesh key.
//!
//! A secret file is 64 lower-case hex digits and a line feed, in a regular file that only its owner
//! may read. It is created whole or not at all and never overwritten, so that two processes that start
//! at once on one home agree on the secret. Its contents never appear in an error.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

/// The length of every secret in bytes.
pub const SECRET_BYTES: usize = 32;

/// Says why a secret file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The file cannot be read or made.
    #[error("cannot use secret file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others than the owner may read or write the file.
    #[error("secret file {} has mode {mode:03o}, it must be 600", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The path names something that is not a regular file.
    #[error("secret file {} is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file does not hold 64 hex digits.
    #[error("secret file {} must hold 64 hex digits and nothing else", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
}

impl SecretFileError {
    /// Returns whether the file does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Returns whether the file to be made exists already.
    pub fn is_already_there(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
    }
}

/// Reads the secret in `path`.
///
/// # Errors
/// When the file is missing, unreadable, readable by others, or does not hold 64 hex digits.
pub(crate) fn load(path: &Path) -> Result<[u8; SECRET_BYTES], SecretFileError> {
    let failed = |source| SecretFileError::Io { path: path.to_owned(), source };
    let format = || SecretFileError::Format { path: path.to_owned() };
    let file = File::open(path).map_err(failed)?;
    check_mode(path, &file)?;
    // One byte more than a valid file can have tells a longer file from a valid one.
    let mut text = Vec::with_capacity(2 * SECRET_BYTES + 3);
    file.take(2 * SECRET_BYTES as u64 + 3).read_to_end(&mut text).map_err(failed)?;
    let digits = text.strip_suffix(b"\n").unwrap_or(&text);
    let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
    let bytes = HEXLOWER_PERMISSIVE.decode(digits).map_err(|_| format())?;
    bytes.try_into().map_err(|_| format())
}

/// Writes `secret` to a new file `path`, durably, and leaves an existing file alone.
///
/// # Errors
/// When the file exists ([`SecretFileError::is_already_there`]) or cannot be written.
pub(crate) fn store_new(path: &Path, secret: &[u8; SECRET_BYTES]) -> Result<(), SecretFileError> {
    store(path, secret).map_err(|source| SecretFileError::Io { path: path.to_owned(), source })
}

/// Reads the secret in `path`, or makes the file with what `generate` returns.
///
/// # Errors
/// As [`load`], and when the file cannot be made.
pub(crate) fn load_or_create<E: From<SecretFileError>>(
    path: &Path,
    generate: impl FnOnce() -> Result<[u8; SECRET_BYTES], E>,
) -> Result<[u8; SECRET_BYTES], E> {
    match load(path) {
        Err(error) if error.is_not_found() => {}
        outcome => return Ok(outcome?),
    }
    let secret = generate()?;
    match store_new(path, &secret) {
        Ok(()) => Ok(secret),
        // Another process was faster: its secret counts.
        Err(error) if error.is_already_there() => Ok(load(path)?),
        Err(error) => Err(error.into()),
    }
}

fn store(path: &Path, secret: &[u8; SECRET_BYTES]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = directory.join(temporary_name()?);
    let outcome = write_then_link(&temporary, path, secret);
    let removed = fs::remove_file(&temporary);
    outcome.and(removed)?;
    sync_directory(directory)
}

/// A link appears whole and fails when the name is taken, which a rename does not.
fn write_then_link(temporary: &Path, path: &Path, secret: &[u8; SECRET_BYTES]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(temporary)?;
    let mut text = HEXLOWER.encode(secret);
    text.push('\n');
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::hard_link(temporary, path)
}

fn temporary_name() -> io::Result<String> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(format!(".secret-{}.tmp", HEXLOWER.encode(&random)))
}

#[cfg(unix)]
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_directory: &Path) -> io::Result<()> {
    Ok(())
}

fn check_mode(path: &Path, file: &File) -> Result<(), SecretFileError> {
    let metadata =
        file.metadata().map_err(|source| SecretFileError::Io { path: path.to_owned(), source })?;
    if !metadata.is_file() {
        return Err(SecretFileError::NotAFile { path: path.to_owned() });
    }
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
        if mode & 0o077 != 0 {
            return Err(SecretFileError::Mode { path: path.to_owned(), mode });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn never() -> Result<[u8; 32], SecretFileError> {
        panic!("the file exists, nothing may be generated")
    }

    #[test]
    fn a_secret_is_made_once_and_then_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let made = load_or_create(&path, || Ok::<_, SecretFileError>([7; 32])).unwrap();
        assert_eq!(made, [7; 32]);
        assert_eq!(load_or_create(&path, never).unwrap(), [7; 32]);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", "07".repeat(32)));
        let names = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(names, 1, "no temporary file is left");
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        store_new(&path, &[1; 32]).unwrap();
        assert!(store_new(&path, &[2; 32]).unwrap_err().is_already_there());
        assert_eq!(load(&path).unwrap(), [1; 32]);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        store_new(&path, &[1; 32]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for mode in [0o640, 0o604, 0o660, 0o644, 0o777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = load(&path).unwrap_err();
            assert!(matches!(error, SecretFileError::Mode { mode: found, .. } if found == mode));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(load(&path).unwrap(), [1; 32], "an owner may make it read-only");
    }

    #[test]
    fn files_of_another_shape_are_refused_without_showing_them() {
        let directory = tempfile::tempdir().unwrap();
        let digits = "ab".repeat(32);
        let cases = [
            String::new(),
            digits[..63].to_owned(),
            format!("{digits}a"),
            format!("{digits}\n\n"),
            format!("{digits}\n{digits}"),
            digits.replace('b', "g"),
            "é".repeat(32),
        ];
        for (number, text) in cases.iter().enumerate() {
            let path = directory.path().join(number.to_string());
            store_new(&path, &[0; 32]).unwrap();
            fs::write(&path, text).unwrap();
            let error = load(&path).unwrap_err();
            assert!(matches!(error, SecretFileError::Format { .. }), "{text:?}: {error}");
            assert!(!error.to_string().contains("abab"), "{error}");
        }
        for text in [digits.clone(), format!("{digits}\n"), format!("{digits}\r\n")] {
            let path = directory.path().join("good");
            fs::write(&path, text).unwrap();
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            }
            assert_eq!(load(&path).unwrap(), [0xab; 32]);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_directory_is_not_a_secret_file() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let error = load(directory.path()).unwrap_err();
        assert!(matches!(error, SecretFileError::NotAFile { .. }), "{error}");
        let missing = load(&directory.path().join("missing")).unwrap_err();
        assert!(missing.is_not_found());
    }
}
