//! File-system work beneath an open directory, and nowhere else.
//!
//! A [`Dir`] is a descriptor, and whatever is made, renamed or removed is named by one component below one. A path of
//! more than one is opened with `openat2` and `RESOLVE_BENEATH`, or component by component where there is no such call.
//! No symbolic link is ever followed, not even one that somebody puts in our way while we work: then the call fails.
//!
//! Modes are 0644 and 0755 less the umask, whatever a manifest says. Nothing here syncs.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    self, AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags, Stat,
    openat, openat2,
};
use rustix::io::Errno;

const FILE_MODE: u32 = 0o644;
const EXECUTABLE_MODE: u32 = 0o755;
const DIR_MODE: u32 = 0o755;

#[cfg(test)]
thread_local! {
    /// Has the renames of a thread go as on a file system that does not know `RENAME_NOREPLACE`.
    pub(super) static LACKS_NOREPLACE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Is an open directory.
#[derive(Debug)]
pub(super) struct Dir(OwnedFd);

/// Is what the file system tells of an entry: enough to see later whether somebody changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The length in bytes.
    pub(super) size: u64,
    /// The last change of the bytes, in nanoseconds since 1970.
    pub(super) modified: i64,
    /// The last change of anything, in nanoseconds since 1970.
    pub(super) changed: i64,
    /// The inode's number.
    pub(super) inode: u64,
    /// Whether the owner may execute it.
    pub(super) executable: bool,
}

/// Says what an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A pipe, socket or device.
    Other,
}

/// Says whether a rename may replace what has the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replace {
    /// It fails with `AlreadyExists`.
    Never,
    /// It does, but for a directory that is not empty.
    Existing,
}

impl Dir {
    /// Opens a directory by its path, whose last component must not be a symbolic link.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?))
    }

    /// Opens a directory below this one by names separated by `/`; this one again by none.
    pub(super) fn open_below(&self, path: &[u8]) -> io::Result<Self> {
        if path.is_empty() {
            return Ok(Self(self.0.try_clone()?));
        }
        for name in path.split(|byte| *byte == b'/') {
            check_name(name)?;
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        match openat2(&self.0, path, flags, Mode::empty(), resolve()) {
            Err(error) if is_unknown_call(error) => self.walk_below(path, flags),
            opened => Ok(Self(opened?)),
        }
    }

    /// Opens component by component, each below the one before.
    fn walk_below(&self, path: &[u8], flags: OFlags) -> io::Result<Self> {
        let mut dir = self.0.try_clone()?;
        for name in path.split(|byte| *byte == b'/') {
            dir = openat(&dir, name, flags, Mode::empty())?;
        }
        Ok(Self(dir))
    }

    /// Makes a directory.
    pub(super) fn make_dir(&self, name: &[u8]) -> io::Result<()> {
        check_name(name)?;
        Ok(fs::mkdirat(&self.0, name, Mode::from_raw_mode(DIR_MODE))?)
    }

    /// Makes an empty file, which must not exist, to be read and written.
    pub(super) fn create(&self, name: &[u8], executable: bool) -> io::Result<File> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        self.open_with(name, flags, if executable { EXECUTABLE_MODE } else { FILE_MODE })
    }

    /// Opens a regular file for reading; waits for nobody.
    pub(super) fn open_file(&self, name: &[u8]) -> io::Result<File> {
        // A pipe must not have us wait for its writer.
        let file = self.open_with(name, OFlags::RDONLY | OFlags::NONBLOCK, 0)?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(Errno::INVAL.into()) }
    }

    fn open_with(&self, name: &[u8], flags: OFlags, mode: u32) -> io::Result<File> {
        check_name(name)?;
        let (flags, mode) = (flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::from_raw_mode(mode));
        match openat2(&self.0, name, flags, mode, resolve()) {
            Err(error) if is_unknown_call(error) => Ok(openat(&self.0, name, flags, mode)?.into()),
            opened => Ok(opened?.into()),
        }
    }

    /// Makes a symbolic link, whose target nobody looks at here.
    pub(super) fn make_symlink(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        check_name(name)?;
        Ok(fs::symlinkat(target, &self.0, name)?)
    }

    /// Gives the file at `path` a further name here; no symbolic link is followed for it.
    pub(super) fn link_from(&self, path: &Path, name: &[u8]) -> io::Result<()> {
        check_name(name)?;
        Ok(fs::linkat(CWD, path, &self.0, name, AtFlags::empty())?)
    }

    /// Renames an entry.
    pub(super) fn rename(
        &self,
        from: &[u8],
        to_dir: &Self,
        to: &[u8],
        replace: Replace,
    ) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        match replace {
            Replace::Existing => Ok(fs::renameat(&self.0, from, &to_dir.0, to)?),
            Replace::Never => match self.rename_no_replace(from, to_dir, to) {
                // The file system does not know the flag: NFS, CephFS and 9p do not.
                Err(Errno::INVAL | Errno::NOSYS) => self.rename_by_link(from, to_dir, to),
                renamed => Ok(renamed?),
            },
        }
    }

    fn rename_no_replace(&self, from: &[u8], to_dir: &Self, to: &[u8]) -> Result<(), Errno> {
        #[cfg(test)]
        if LACKS_NOREPLACE.get() {
            return Err(Errno::INVAL);
        }
        fs::renameat_with(&self.0, from, &to_dir.0, to, RenameFlags::NOREPLACE)
    }

    /// Renames an entry to a free name by a further name, which replaces nothing either. Cut short, it leaves both.
    /// A directory has but one: of what takes its new name after a look, a rename replaces an empty directory at most.
    fn rename_by_link(&self, from: &[u8], to_dir: &Self, to: &[u8]) -> io::Result<()> {
        if !matches!(self.stamp(from)?, Some((Kind::Dir, _))) {
            fs::linkat(&self.0, from, &to_dir.0, to, AtFlags::empty())?;
            return Ok(fs::unlinkat(&self.0, from, AtFlags::empty())?);
        }
        if to_dir.stamp(to)?.is_some() {
            return Err(Errno::EXIST.into());
        }
        match fs::renameat(&self.0, from, &to_dir.0, to) {
            Err(Errno::NOTEMPTY | Errno::NOTDIR) => Err(Errno::EXIST.into()),
            renamed => Ok(renamed?),
        }
    }

    /// Removes anything but a directory.
    pub(super) fn remove_file(&self, name: &[u8]) -> io::Result<()> {
        check_name(name)?;
        Ok(fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    pub(super) fn remove_dir(&self, name: &[u8]) -> io::Result<()> {
        check_name(name)?;
        Ok(fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    /// Removes an entry with all that is below it; does nothing where there is none. No recursion: whoever made
    /// the entry chose its depth.
    pub(super) fn remove_all(&self, name: &[u8]) -> io::Result<()> {
        match self.remove_file(name) {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            done => return done,
        }
        let mut levels = vec![self.begin_removal(name)?];
        while let Some(level) = levels.last_mut() {
            if let Some(below) = level.dirs.pop() {
                let next = level.dir.begin_removal(&below)?;
                levels.push(next);
            } else if let Some(done) = levels.pop() {
                let above = levels.last().map_or(self, |level| &level.dir);
                above.remove_dir(&done.name)?;
            }
        }
        Ok(())
    }

    /// Removes the files of a directory and returns what is left of it.
    fn begin_removal(&self, name: &[u8]) -> io::Result<Removal> {
        let dir = self.open_below(name)?;
        let mut dirs = Vec::new();
        for (name, kind) in dir.list()? {
            match kind {
                Kind::Dir => dirs.push(name),
                Kind::File | Kind::Symlink | Kind::Other => dir.remove_file(&name)?,
            }
        }
        Ok(Removal { name: name.to_vec(), dir, dirs })
    }

    /// Lists the entries, in no order.
    pub(super) fn list(&self) -> io::Result<Vec<(Vec<u8>, Kind)>> {
        let mut entries = Vec::new();
        for entry in fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            // Some file systems do not say.
            let is_unknown = entry.file_type() == FileType::Unknown;
            let found = if is_unknown { self.stamp(name)?.map(|(kind, _)| kind) } else { None };
            if let Some(kind) = found.or((!is_unknown).then(|| Kind::of(entry.file_type()))) {
                entries.push((name.to_vec(), kind));
            }
        }
        Ok(entries)
    }

    /// Tells of an entry, of a symbolic link itself; none where there is none.
    pub(super) fn stamp(&self, name: &[u8]) -> io::Result<Option<(Kind, Stamp)>> {
        check_name(name)?;
        match fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                Ok(Some((Kind::of(FileType::from_raw_mode(stat.st_mode)), Stamp::of(&stat))))
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns what a symbolic link says.
    pub(super) fn read_symlink(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        check_name(name)?;
        Ok(fs::readlinkat(&self.0, name, Vec::new())?.into_bytes())
    }

    /// Takes the lock of this directory, which ends with the descriptor; false where somebody else has it.
    pub(super) fn lock(&self) -> io::Result<bool> {
        match fs::flock(&self.0, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns device and inode, which are no other directory's while this one is open.
    #[cfg(test)]
    pub(super) fn identity(&self) -> io::Result<(u64, u64)> {
        let stat = fs::fstat(&self.0)?;
        Ok((stat.st_dev, stat.st_ino))
    }
}

/// Is a directory that is being removed.
#[derive(Debug)]
struct Removal {
    name: Vec<u8>,
    dir: Dir,
    /// Those below it that are still to be removed.
    dirs: Vec<Vec<u8>>,
}

impl Stamp {
    /// Is the stamp of what is no file.
    pub(super) const NONE: Self =
        Self { size: 0, modified: 0, changed: 0, inode: 0, executable: false };

    /// Returns whether this is the same file with the same bytes, under whatever names.
    pub(super) fn is_of_same(&self, other: &Self) -> bool {
        Self { changed: other.changed, ..*self } == *other
    }

    /// Tells of an open file.
    pub(super) fn of_file(file: &File) -> io::Result<Self> {
        Ok(Self::of(&fs::fstat(file)?))
    }

    fn of(stat: &Stat) -> Self {
        let nanoseconds = |seconds: i64, rest: u64| {
            let rest = i64::try_from(rest).unwrap_or_default();
            seconds.saturating_mul(1_000_000_000).saturating_add(rest)
        };
        Self {
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            changed: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
            inode: stat.st_ino,
            executable: stat.st_mode & 0o100 != 0,
        }
    }
}

impl Kind {
    fn of(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Dir,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Self::Other,
        }
    }
}

fn resolve() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

/// Returns whether a kernel before 5.6, or a filter of system calls, has no `openat2`.
fn is_unknown_call(error: Errno) -> bool {
    matches!(error, Errno::NOSYS | Errno::PERM)
}

/// Checks that a name is one component. Names come checked; that nothing leads out must not hang on that.
fn check_name(name: &[u8]) -> io::Result<()> {
    let is_component = !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/');
    if is_component { Ok(()) } else { Err(Errno::INVAL.into()) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn root() -> (tempfile::TempDir, Dir) {
        let room = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(room.path().join("root/a/b")).expect("directories");
        fs::create_dir(room.path().join("out")).expect("a directory");
        let dir = Dir::open(&room.path().join("root")).expect("open");
        (room, dir)
    }

    #[test]
    fn names_of_other_than_one_component_are_refused_by_every_call() {
        let (room, dir) = root();
        let there = room.path().join("out/file");
        fs::write(&there, "kept").expect("write");
        for name in [&b""[..], b".", b"..", b"a/b", b"/etc", b"../out/file", b"a/", b"x\0y"] {
            assert!(dir.make_dir(name).is_err(), "{name:?}");
            assert!(dir.create(name, false).is_err(), "{name:?}");
            assert!(dir.open_file(name).is_err(), "{name:?}");
            assert!(dir.make_symlink(name, b"a").is_err(), "{name:?}");
            assert!(dir.link_from(&there, name).is_err(), "{name:?}");
            assert!(dir.rename(name, &dir, b"x", Replace::Never).is_err(), "{name:?}");
            assert!(dir.rename(b"a", &dir, name, Replace::Existing).is_err(), "{name:?}");
            assert!(dir.remove_file(name).is_err(), "{name:?}");
            assert!(dir.remove_dir(name).is_err(), "{name:?}");
            assert!(dir.remove_all(name).is_err(), "{name:?}");
            assert!(dir.stamp(name).is_err(), "{name:?}");
        }
        assert_eq!(dir.list().expect("list"), [(b"a".to_vec(), Kind::Dir)]);
        assert_eq!(fs::read(there).expect("read"), b"kept");
    }

    #[test]
    fn paths_lead_neither_up_nor_through_links() {
        let (room, dir) = root();
        symlink(room.path().join("out"), room.path().join("root/a/link")).expect("a link");
        for path in
            [&b".."[..], b"a/..", b"a/../..", b"/", b"a//b", b"a/link", b"a/link/x", b"a/b/"]
        {
            assert!(dir.open_below(path).is_err(), "{path:?}");
        }
        for path in [&b"a/link"[..], b"a/link/x"] {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
            assert!(dir.walk_below(path, flags).is_err(), "{path:?}");
        }
        let below = dir.open_below(b"a/b").expect("open");
        let walked = dir.walk_below(b"a/b", OFlags::DIRECTORY).expect("open");
        assert_eq!(below.identity().expect("stat"), walked.identity().expect("stat"));
        assert!(Dir::open(&room.path().join("root/a/link")).is_err());
    }

    #[test]
    fn files_are_new_and_have_one_of_two_modes() {
        let (room, dir) = root();
        let mode = |name: &str| {
            fs::metadata(room.path().join("root").join(name)).expect("stat").permissions().mode()
        };
        dir.create(b"plain", false).expect("create");
        dir.create(b"program", true).expect("create");
        assert_eq!(mode("plain") & 0o7133, 0);
        assert_eq!(mode("program") & 0o7022, 0);
        assert_eq!((mode("plain") & 0o700, mode("program") & 0o700), (0o600, 0o700));
        symlink("nowhere", room.path().join("root/link")).expect("a link");
        for taken in [&b"plain"[..], b"link", b"a"] {
            let refused = dir.create(taken, false).expect_err("it is there");
            assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists, "{taken:?}");
        }
        assert!(!room.path().join("root/nowhere").exists());
    }

    #[test]
    fn rename_to_a_taken_name_replaces_nothing_with_or_without_a_flag_for_it() {
        for lacks in [false, true] {
            LACKS_NOREPLACE.set(lacks);
            let (room, dir) = root();
            let path = |name: &str| room.path().join("root").join(name);
            fs::create_dir(path("full")).expect("a directory");
            fs::write(path("full/kept"), "kept").expect("write");
            fs::create_dir(path("empty")).expect("a directory");
            fs::write(path("file"), "file").expect("write");
            symlink("nowhere", path("link")).expect("a link");
            for from in [&b"a"[..], b"file", b"link"] {
                for to in [&b"full"[..], b"empty", b"file", b"link"] {
                    if from == to {
                        continue;
                    }
                    let refused = dir.rename(from, &dir, to, Replace::Never).expect_err("taken");
                    assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists, "{from:?} {to:?}");
                }
            }
            let below = dir.open_below(b"full").expect("open");
            for name in [&b"a"[..], b"file", b"link"] {
                dir.rename(name, &below, name, Replace::Never).expect("free");
                assert!(dir.stamp(name).expect("stat").is_none(), "{name:?} {lacks}");
            }
            assert!(path("full/a/b").is_dir());
            assert_eq!(fs::read(path("full/file")).expect("read"), b"file");
            assert_eq!(fs::read_link(path("full/link")).expect("a link"), Path::new("nowhere"));
            assert_eq!(fs::read(path("full/kept")).expect("read"), b"kept");
            let absent = dir.rename(b"none", &below, b"new", Replace::Never).expect_err("absent");
            assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn removal_takes_links_as_such_and_stays_below() {
        let (room, dir) = root();
        fs::write(room.path().join("out/file"), "kept").expect("write");
        let deep = room.path().join("root/a/b").join("d/".repeat(300));
        fs::create_dir_all(&deep).expect("directories");
        fs::write(deep.join("x"), "").expect("write");
        symlink(room.path().join("out"), room.path().join("root/a/out")).expect("a link");
        dir.remove_all(b"a").expect("remove");
        dir.remove_all(b"a").expect("nothing to do");
        assert!(dir.list().expect("list").is_empty());
        assert_eq!(fs::read(room.path().join("out/file")).expect("read"), b"kept");
    }

    #[test]
    fn link_that_takes_the_place_of_an_open_directory_leads_nowhere() {
        let (room, dir) = root();
        let below = dir.open_below(b"a").expect("open");
        fs::rename(room.path().join("root/a"), room.path().join("root/moved")).expect("rename");
        symlink(room.path().join("out"), room.path().join("root/a")).expect("a link");
        below.create(b"file", false).expect("create");
        assert!(room.path().join("root/moved/file").exists());
        assert!(dir.open_below(b"a").is_err() && dir.open_below(b"a/b").is_err());
        assert_eq!(fs::read_dir(room.path().join("out")).expect("list").count(), 0);
    }

    #[test]
    fn pipe_is_no_file_and_is_not_waited_for() {
        let (room, dir) = root();
        let path = room.path().join("root/pipe");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .expect("a pipe");
        assert!(dir.open_file(b"pipe").is_err());
        assert_eq!(dir.stamp(b"pipe").expect("stat").map(|(kind, _)| kind), Some(Kind::Other));
    }
}
