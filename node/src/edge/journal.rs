//! What is known of uploads in parts that were interrupted, so that the next push goes on where they ended.
//!
//! One small file an upload, in the node's home: a line that names it, and a line for each part that the edge has
//! taken. Lines are added without a sync: one that is lost is a part that is sent again. A file that is odd in any way
//! is no journal, and neither is one of an upload that the edge may have given up by now.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use blobmesh_protocol::Hash;

/// After this long an upload is begun anew: R2 ends those of seven days.
const AGE_MAX: Duration = Duration::from_secs(6 * 24 * 3600);
/// How many journals there are at most; further uploads have none.
const JOURNALS_MAX: usize = 256;
/// The lengths of what an edge names uploads and parts by, at most.
const UPLOAD_LEN_MAX: usize = 1024;
const PART_LEN_MAX: usize = 256;
/// What is read of a journal at most: 10,000 parts.
const FILE_LEN_MAX: u64 = 4 << 20;
/// Begins the first line; the last digit is the format's version.
const MAGIC: &str = "bmupload1";

/// Says which upload a journal is of.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) hash: Hash,
    /// Where it goes to.
    pub(super) place: String,
    pub(super) size: u64,
    pub(super) part_len: u64,
}

/// Is an upload with the parts that the edge has taken.
#[derive(Debug)]
pub(super) struct Journal {
    /// What the edge names the upload by.
    pub(super) upload: String,
    /// What it names its parts by, by their number.
    pub(super) parts: BTreeMap<usize, String>,
    /// None for an upload that is not remembered.
    file: Option<(PathBuf, File)>,
}

impl Journal {
    /// Makes one that is forgotten with the process.
    pub(super) fn fleeting(upload: String) -> Self {
        Self { upload, parts: BTreeMap::new(), file: None }
    }

    /// Begins a journal below `dir`, which is made where it is missing.
    pub(super) fn begin(
        dir: &Path,
        of: &Subject,
        upload: &str,
        now: SystemTime,
    ) -> io::Result<Self> {
        let fits = is_word(upload, UPLOAD_LEN_MAX) && make_room(dir, now)? < JOURNALS_MAX;
        if !fits {
            return Ok(Self::fleeting(upload.to_owned()));
        }
        let path = dir.join(of.name());
        let staged = dir.join(format!("{}.tmp", of.name()));
        let mut file = private().create(true).truncate(true).open(&staged)?;
        let Subject { size, part_len, .. } = of;
        writeln!(file, "{MAGIC} {} {size} {part_len} {upload}", seconds(now))?;
        file.sync_data()?;
        fs::rename(&staged, &path)?;
        let (upload, parts) = (upload.to_owned(), BTreeMap::new());
        Ok(Self { upload, parts, file: Some((path, file)) })
    }

    /// Takes a journal up; none where there is none of this upload that is young enough.
    pub(super) fn resume(dir: &Path, of: &Subject, now: SystemTime) -> Option<Self> {
        let path = dir.join(of.name());
        let mut text = String::new();
        File::open(&path).ok()?.take(FILE_LEN_MAX).read_to_string(&mut text).ok()?;
        // A line without its end was being written.
        let whole = &text[..=text.rfind('\n')?];
        let mut lines = whole.lines();
        let words: Vec<&str> = lines.next()?.split(' ').collect();
        let [MAGIC, begun, size, part_len, upload] = words[..] else { return None };
        let age = seconds(now).checked_sub(begun.parse().ok()?)?;
        let is_it = size.parse() == Ok(of.size) && part_len.parse() == Ok(of.part_len);
        if !is_it || age >= AGE_MAX.as_secs() || !is_word(upload, UPLOAD_LEN_MAX) {
            return None;
        }
        let parts = lines.map(|line| part(line, of)).collect::<Option<BTreeMap<_, _>>>()?;
        let file = private().append(true).open(&path).ok()?;
        // What was being written stays, and must not run into the next line.
        if whole.len() < text.len() {
            file.set_len(u64::try_from(whole.len()).ok()?).ok()?;
        }
        Some(Self { upload: upload.to_owned(), parts, file: Some((path, file)) })
    }

    /// Remembers a part.
    pub(super) fn took(&mut self, index: usize, part: String) {
        if let Some((_, file)) = &mut self.file {
            // Without it the part is sent again.
            let _written = match is_word(&part, PART_LEN_MAX) {
                true => file.write_all(format!("{index} {part}\n").as_bytes()),
                false => Ok(()),
            };
        }
        self.parts.insert(index, part);
    }

    /// Returns whether the next process knows of it.
    pub(super) fn is_kept(&self) -> bool {
        self.file.is_some()
    }

    /// Forgets the upload. One that stays is found out by the edge not knowing it.
    pub(super) fn end(self) -> io::Result<()> {
        self.file.map_or(Ok(()), |(path, _)| fs::remove_file(path))
    }
}

impl Subject {
    fn name(&self) -> String {
        let place = Hash::of(self.place.as_bytes()).fmt_short();
        format!("{}-{place}", self.hash.to_hex())
    }
}

/// Reads the line of a part.
fn part(line: &str, of: &Subject) -> Option<(usize, String)> {
    let (index, part) = line.split_once(' ')?;
    let index: usize = index.parse().ok()?;
    let count = of.size.div_ceil(of.part_len.max(1));
    let fits = u64::try_from(index).ok()? < count && is_word(part, PART_LEN_MAX);
    fits.then(|| (index, part.to_owned()))
}

/// Makes the directory, removes what is too old in it, and returns how many journals there are.
fn make_room(dir: &Path, now: SystemTime) -> io::Result<usize> {
    fs::create_dir_all(dir)?;
    let mut count = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let age = now.duration_since(entry.metadata()?.modified()?).unwrap_or_default();
        if age >= AGE_MAX {
            fs::remove_file(entry.path())?;
        } else {
            count += 1;
        }
    }
    Ok(count)
}

fn is_word(text: &str, len_max: usize) -> bool {
    !text.is_empty() && text.len() <= len_max && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Opens files that nobody else may read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn subject(size: u64) -> Subject {
        Subject { hash: Hash::of(b"a"), place: "s3://bucket".to_owned(), size, part_len: 10 }
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * 20_000
    }

    /// Makes a journal of three parts in a directory.
    fn begun(dir: &Path) -> PathBuf {
        let mut journal = Journal::begin(dir, &subject(95), "upload-1", now()).expect("begun");
        for index in [0, 7, 9] {
            journal.took(index, format!("\"etag{index}\""));
        }
        dir.join(subject(95).name())
    }

    #[test]
    fn parts_that_were_taken_are_known_to_the_next_process() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("uploads");
        let path = begun(&dir);
        let mut journal = Journal::resume(&dir, &subject(95), now() + DAY).expect("resumed");
        assert_eq!(journal.upload, "upload-1");
        assert_eq!(journal.parts.keys().copied().collect::<Vec<_>>(), [0, 7, 9]);
        assert_eq!(journal.parts[&7], "\"etag7\"");
        journal.took(8, "more".to_owned());
        let journal = Journal::resume(&dir, &subject(95), now()).expect("resumed");
        assert_eq!(journal.parts[&8], "more");
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(
                &fs::metadata(&path).expect("there").permissions(),
            );
            assert_eq!(mode & 0o777, 0o600);
        }
        journal.end().expect("removed");
        assert!(Journal::resume(&dir, &subject(95), now()).is_none());
        assert_eq!(fs::read_dir(&dir).expect("listed").count(), 0);
    }

    #[test]
    fn journal_of_another_upload_or_too_old_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        begun(dir.path());
        let resume = |of, at| Journal::resume(dir.path(), &of, at).is_some();
        assert!(resume(subject(95), now() + DAY * 6 - Duration::from_secs(1)));
        assert!(!resume(subject(95), now() + DAY * 6));
        assert!(!resume(subject(95), now() - DAY), "from the future");
        assert!(!resume(subject(96), now()));
        assert!(!resume(Subject { part_len: 11, ..subject(95) }, now()));
        assert!(!resume(Subject { place: "s3://other".to_owned(), ..subject(95) }, now()));
        assert!(!resume(Subject { hash: Hash::of(b"b"), ..subject(95) }, now()));
    }

    #[test]
    fn damaged_journal_is_none_and_a_torn_line_is_left_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = begun(dir.path());
        let good = fs::read_to_string(&path).expect("read");
        let resume = |text: &[u8]| {
            fs::write(&path, text).expect("written");
            Journal::resume(dir.path(), &subject(95), now())
        };
        let mut torn = resume(&good.as_bytes()[..good.len() - 3]).expect("resumed");
        assert_eq!(torn.parts.len(), 2);
        torn.took(9, "again".to_owned());
        let again = Journal::resume(dir.path(), &subject(95), now()).expect("resumed");
        assert_eq!((again.parts.len(), &again.parts[&9][..]), (3, "again"));
        for bad in ["10 etag\n", "x etag\n", "1\n", "1 e tag\n", "\n", "1 \n", "-1 etag\n"] {
            assert!(resume(format!("{good}{bad}").as_bytes()).is_none(), "{bad:?}");
        }
        for bad in [&b""[..], b"\n", b"bmupload2 1 95 10 upload\n", b"\xff\xff\n", b"bmupload1\n"] {
            assert!(resume(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn there_are_only_so_many_journals_and_old_ones_go() {
        let dir = tempfile::tempdir().expect("a directory");
        for of in 0..JOURNALS_MAX {
            fs::write(dir.path().join(of.to_string()), "").expect("written");
        }
        let today = SystemTime::now();
        let full = Journal::begin(dir.path(), &subject(95), "upload", today).expect("begun");
        assert!(!full.is_kept());
        let later = Journal::begin(dir.path(), &subject(95), "upload", today + DAY * 7);
        assert!(later.expect("begun").is_kept());
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
        let odd = Journal::begin(dir.path(), &subject(95), "a b", today + DAY * 7).expect("begun");
        assert!(!odd.is_kept());
    }
}
