//! Where the control socket lies in the file system, and who may open it.
//!
//! The socket is bound in a private directory beside its place and renamed into it once its mode is
//! 0600: there is no moment at which it is wider, and none at which a name without a listener
//! replaces one with a listener. Two nodes that start at once are told apart by the store's lock,
//! not here.

#[cfg(not(unix))]
pub use self::portable::Listener;
#[cfg(not(unix))]
pub(super) use self::portable::{Stream, connect};
#[cfg(unix)]
pub use self::unix::Listener;
#[cfg(unix)]
pub(super) use self::unix::{Stream, connect};

#[cfg(unix)]
mod unix {
    use std::fs;
    use std::io;
    use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
    use std::path::{Path, PathBuf};

    use tokio::net::{UnixListener, UnixStream};

    use super::super::ControlError;

    /// One side of a control connection.
    pub(crate) type Stream = UnixStream;

    /// How long a socket's path may be; the kernel's own bound is 108 bytes with a final zero.
    const PATH_LEN_MAX: usize = 100;

    /// Owns a bound control socket, and removes it at its end.
    #[derive(Debug)]
    pub struct Listener {
        inner: UnixListener,
        path: PathBuf,
        /// Device and inode, so that a successor's socket is not removed in place of ours.
        identity: (u64, u64),
    }

    impl Listener {
        /// Binds the control socket at `path`, mode 0600; a socket nobody listens at is replaced.
        ///
        /// # Errors
        /// [`ControlError::Live`] when a node serves it, [`ControlError::NotASocket`] when something
        /// else has the name, [`ControlError::Bind`] otherwise.
        pub async fn bind(path: &Path) -> Result<Self, ControlError> {
            if connect(path).await?.is_some() {
                return Err(ControlError::Live { path: path.to_owned() });
            }
            Self::bind_over(path)
                .map_err(|source| ControlError::Bind { path: path.to_owned(), source })
        }

        fn bind_over(path: &Path) -> io::Result<Self> {
            let private = PrivateDirectory::beside(path)?;
            let place = private.path.join("s");
            let inner = {
                let short = ShortPath::of(&place)?;
                UnixListener::bind(&short.path)?
            };
            fs::set_permissions(&place, fs::Permissions::from_mode(0o600))?;
            let metadata = fs::symlink_metadata(&place)?;
            fs::rename(&place, path)?;
            let identity = (metadata.dev(), metadata.ino());
            Ok(Self { inner, path: path.to_owned(), identity })
        }

        pub(crate) async fn accept(&self) -> io::Result<Stream> {
            let (stream, _) = self.inner.accept().await?;
            Ok(stream)
        }
    }

    impl Drop for Listener {
        fn drop(&mut self) {
            let ours = fs::symlink_metadata(&self.path)
                .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
            if ours {
                // A socket that stays is found stale at the next start.
                fs::remove_file(&self.path).ok();
            }
        }
    }

    /// Connects to the socket at `path`; none when there is none or nobody listens.
    pub(crate) async fn connect(path: &Path) -> Result<Option<Stream>, ControlError> {
        let failed = |source| ControlError::Connect { path: path.to_owned(), source };
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() => {}
            Ok(_) => return Err(ControlError::NotASocket { path: path.to_owned() }),
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        }
        let short = ShortPath::of(path).map_err(failed)?;
        match UnixStream::connect(&short.path).await {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn is_absent(error: &io::Error) -> bool {
        use io::ErrorKind::{ConnectionRefused, NotADirectory, NotFound};
        matches!(error.kind(), ConnectionRefused | NotADirectory | NotFound)
    }

    /// A directory of mode 0700 that only lives while the socket is bound in it.
    struct PrivateDirectory {
        path: PathBuf,
    }

    impl PrivateDirectory {
        fn beside(path: &Path) -> io::Result<Self> {
            let path = path.with_extension(format!("{}.tmp", std::process::id()));
            // Left over by a process of the same number that was killed at this very point.
            fs::remove_file(path.join("s")).ok();
            fs::remove_dir(&path).ok();
            fs::DirBuilder::new().mode(0o700).create(&path)?;
            Ok(Self { path })
        }
    }

    impl Drop for PrivateDirectory {
        fn drop(&mut self) {
            fs::remove_file(self.path.join("s")).ok();
            fs::remove_dir(&self.path).ok();
        }
    }

    /// A name of a socket that is short enough for the kernel.
    struct ShortPath {
        path: PathBuf,
        /// Keeps the number in `path` valid.
        _directory: Option<fs::File>,
    }

    impl ShortPath {
        fn of(path: &Path) -> io::Result<Self> {
            if path.as_os_str().len() <= PATH_LEN_MAX {
                return Ok(Self { path: path.to_owned(), _directory: None });
            }
            Self::through_descriptor(path)
        }

        #[cfg(target_os = "linux")]
        fn through_descriptor(path: &Path) -> io::Result<Self> {
            use std::os::fd::AsRawFd;
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let directory = fs::File::open(parent)?;
            let path =
                Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
            Ok(Self { path, _directory: Some(directory) })
        }

        #[cfg(not(target_os = "linux"))]
        fn through_descriptor(path: &Path) -> io::Result<Self> {
            let text = format!("the path has {} bytes, over 100", path.as_os_str().len());
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
    }
}

#[cfg(not(unix))]
mod portable {
    use std::io;
    use std::path::Path;

    use super::super::ControlError;

    /// Stands for a control connection, of which there are none.
    pub(crate) type Stream = tokio::io::DuplexStream;

    /// Stands for a control socket, of which there are none on this platform.
    #[derive(Debug)]
    pub struct Listener(());

    impl Listener {
        /// Refuses: there is no control socket on this platform yet.
        ///
        /// # Errors
        /// [`ControlError::Unsupported`], always.
        #[expect(clippy::unused_async, reason = "the same shape as on Unix")]
        pub async fn bind(_path: &Path) -> Result<Self, ControlError> {
            Err(ControlError::Unsupported)
        }

        pub(crate) async fn accept(&self) -> io::Result<Stream> {
            std::future::pending().await
        }
    }

    /// Finds nobody: no node can listen on this platform.
    #[expect(clippy::unused_async, reason = "the same shape as on Unix")]
    pub(crate) async fn connect(_path: &Path) -> Result<Option<Stream>, ControlError> {
        Ok(None)
    }
}
