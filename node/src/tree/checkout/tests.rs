//! Switches that end between two of their steps, and files that change meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use blobmesh_protocol::tree::{Entry, Manifest, Name, Node, diff};

use super::load::Manifests;
use super::plan::Planner;
use super::state::State;
use super::*;
use crate::store::StoreConfig;
use crate::tree::beneath::{Dir, LACKS_NOREPLACE};

struct Room {
    dir: tempfile::TempDir,
    store: Store,
}

/// Describes a tree: paths with bytes, a target behind `->`, or a directory by a slash at the end.
type Spec = &'static [(&'static str, &'static str)];

const OLD: Spec = &[
    ("changed", "old"),
    ("dir/gone", "gone"),
    ("dir/kept", "kept"),
    ("dir/sub/deep", "deep"),
    ("link", "->kept"),
    ("to-dir", "a file"),
    ("to-file/inner", "inner"),
];
const NEW: Spec = &[
    ("changed", "new"),
    ("dir/kept", "kept"),
    ("link", "->changed"),
    ("new/one", "1"),
    ("new/two/three", "3"),
    ("to-dir/inner", "inner"),
    ("to-file", "a file"),
];

impl Room {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = StoreConfig::new(dir.path().join("store"), 1 << 24, 1 << 20);
        Self { store: Store::open(config).expect("open").0, dir }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn put(&self, bytes: &[u8]) -> Hash {
        let hash = Hash::of(bytes);
        self.store.put_whole(&hash, bytes).expect("put");
        hash
    }

    fn put_tree(&self, spec: Spec) -> Hash {
        let entries = self.entries(spec.iter().map(|(path, text)| (*path, *text)).collect());
        self.put(&Manifest::new(entries).expect("a manifest").encode())
    }

    fn entries(&self, spec: Vec<(&'static str, &'static str)>) -> Vec<Entry> {
        let mut dirs: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        let mut entries = Vec::new();
        for (path, text) in spec {
            match path.split_once('/') {
                Some((name, rest)) => dirs.entry(name).or_default().push((rest, text)),
                None => entries.push((path, self.leaf(text))),
            }
        }
        entries.extend(dirs.into_iter().map(|(name, spec)| (name, Node::Dir(self.entries(spec)))));
        entries.sort_by_key(|(name, _)| *name);
        let name = |name: &str| Name::new(name.as_bytes()).expect("a name");
        entries.into_iter().map(|(path, node)| Entry { name: name(path), node }).collect()
    }

    fn leaf(&self, text: &str) -> Node {
        match text.strip_prefix("->") {
            Some(target) => Node::Symlink { target: target.as_bytes().into() },
            None => {
                let (hash, size) = (self.put(text.as_bytes()), text.len() as u64);
                Node::File { hash, size, executable: false }
            }
        }
    }

    /// Puts a tree of directories `0000` and so on, each with so many entries that `node` makes.
    fn put_wide(
        &self,
        dirs: usize,
        each: usize,
        node: impl Fn(usize, usize) -> (String, Node),
    ) -> Hash {
        let entry = |(name, node): (String, Node)| {
            let name = Name::new(name.as_bytes()).expect("a name");
            Entry { name, node }
        };
        let dir = |number: usize| {
            let entries = (0..each).map(|n| entry(node(number, n))).collect();
            let sealed = Manifest::new(entries).and_then(Manifest::seal).expect("sealed");
            if let Some(bytes) = sealed.manifest {
                self.put(&bytes);
            }
            entry((format!("{number:04}"), sealed.node))
        };
        let manifest = Manifest::new((0..dirs).map(dir).collect()).expect("a manifest");
        self.put(&manifest.encode())
    }

    fn check_out(&self, root: &Hash) -> Result<CheckedOut, CheckoutError> {
        let (options, progress) = (Options::default(), Progress::default());
        checkout(&self.store, root, &self.out(), &options, &progress, &Stop::default())
    }

    fn assert_holds(&self, spec: Spec) {
        let mut found = BTreeMap::new();
        note(&self.out(), &self.out(), &mut found);
        let expected: BTreeMap<String, String> =
            spec.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        assert_eq!(found, expected);
    }
}

fn note(root: &Path, at: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(at).expect("list").flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
        if entry.file_name() == ".blobmesh" {
            continue;
        }
        let text = if kind.is_dir() {
            note(root, &path, found);
            continue;
        } else if kind.is_symlink() {
            format!("->{}", fs::read_link(&path).expect("a link").display())
        } else {
            fs::read_to_string(&path).expect("read")
        };
        let name = path.strip_prefix(root).expect("below").to_string_lossy().into_owned();
        found.insert(name, text);
    }
}

/// Does a switch up to its journal, and then so many of its steps; returns how many there are.
fn switch_up_to(room: &Room, new: &Hash, steps_done: usize, force: bool) -> usize {
    let dir = Dir::open(&room.out()).expect("open");
    let own = journal::open_own(&dir).expect("open").expect("free");
    let state = State::load(&own).expect("load").expect("a state");
    let mut manifests = Manifests::of(&room.store);
    manifests.check(new).expect("safe");
    let manifest = manifests.load_root(new).expect("loaded");
    let changes = diff(state.manifest(), manifest, &mut manifests).expect("a difference");
    let (stop, ways, options, progress) =
        (Stop::default(), Ways::default(), Options::default(), Progress::default());
    let plan = Planner::new(&dir, &state, force, &stop).plan(&changes).expect("a plan");
    assert_eq!(plan.in_the_way, 0);
    own.make_dir(journal::STAGE).expect("a stage");
    let stage = own.open_below(journal::STAGE).expect("open");
    let maker = Maker::new(&room.store, &ways, &options, &progress, &stop);
    let stamps = maker.make(&stage, &plan.staged).expect("staged");
    let made: Vec<_> = plan.staged.iter().map(|staged| staged.path).zip(stamps).collect();
    let rows = switch::rows_after(&state, &changes, &made);
    let next = State { root: *new, noted: now(), rows };
    journal::begin(&own, &plan.steps, &next).expect("a journal");
    let done = steps_done.min(plan.steps.len());
    let left = journal::do_steps(&dir, &own, &plan.steps[..done]).expect("done");
    assert!(left.is_empty());
    plan.steps.len()
}

#[test]
fn switch_that_ended_between_any_two_steps_is_finished_by_the_next() {
    for steps_done in 0.. {
        let room = Room::new();
        let (old, new) = (room.put_tree(OLD), room.put_tree(NEW));
        room.check_out(&old).expect("checked out");
        let steps = switch_up_to(&room, &new, steps_done, false);
        // In turn the next is one of the same tree, and one back.
        let next = if steps_done % 2 == 0 { (new, NEW) } else { (old, OLD) };
        let done = room.check_out(&next.0).expect("finished");
        assert_eq!(done.recovered, Some(Recovered::Finished { root: new, left: 0 }));
        room.assert_holds(next.1);
        assert_eq!(room.check_out(&next.0).expect("nothing to do").recovered, None);
        if steps_done == steps {
            assert!(steps >= 10, "{steps} steps put little to the test");
            return;
        }
    }
}

#[test]
fn file_systems_that_cannot_rename_to_free_names_only_hold_checkouts_too() {
    LACKS_NOREPLACE.set(true);
    let room = Room::new();
    let (old, new) = (room.put_tree(OLD), room.put_tree(NEW));
    room.check_out(&old).expect("made");
    room.assert_holds(OLD);
    room.check_out(&new).expect("switched");
    room.assert_holds(NEW);
    let names = fs::read_dir(room.dir.path()).expect("list").count();
    assert_eq!(names, 2, "no stage beside the store and the directory");
}

#[test]
fn file_that_got_its_place_by_a_link_and_kept_its_other_name_has_it() {
    let room = Room::new();
    let (old, new) = (room.put_tree(OLD), room.put_tree(NEW));
    room.check_out(&old).expect("checked out");
    switch_up_to(&room, &new, 0, false);
    let stage = room.out().join(".blobmesh/stage");
    let place = room.out().join("to-file");
    fs::remove_dir_all(&place).expect("it made room");
    let linked = fs::read_dir(&stage).expect("list").flatten().any(|entry| {
        let is_staged = fs::read(entry.path()).is_ok_and(|bytes| bytes == b"a file");
        is_staged && fs::hard_link(entry.path(), &place).is_ok()
    });
    assert!(linked);
    let done = room.check_out(&new).expect("finished");
    assert_eq!(done.recovered, Some(Recovered::Finished { root: new, left: 0 }));
    room.assert_holds(NEW);
}

#[test]
fn forced_switch_that_ended_between_any_two_steps_is_finished_by_the_next() {
    for steps_done in 0.. {
        let room = Room::new();
        let (old, new) = (room.put_tree(OLD), room.put_tree(NEW));
        room.check_out(&old).expect("checked out");
        fs::remove_file(room.out().join("changed")).expect("remove");
        fs::create_dir_all(room.out().join("changed/into/a")).expect("directories");
        fs::write(room.out().join("new"), "in the way").expect("write");
        fs::rename(room.out().join("to-dir"), room.out().join("changed/file")).expect("rename");
        std::os::unix::fs::symlink("changed", room.out().join("to-dir")).expect("a link");
        let steps = switch_up_to(&room, &new, steps_done, true);
        let done = room.check_out(&new).expect("finished");
        assert_eq!(done.recovered, Some(Recovered::Finished { root: new, left: 0 }));
        room.assert_holds(NEW);
        if steps_done == steps {
            return;
        }
    }
}

#[test]
fn interrupted_switch_is_finished_also_where_the_next_one_is_refused() {
    let room = Room::new();
    let (old, new) = (room.put_tree(OLD), room.put_tree(NEW));
    room.check_out(&old).expect("checked out");
    switch_up_to(&room, &new, 3, false);
    fs::write(room.out().join("dir/gone"), "mine").expect("write");
    let refused = room.check_out(&old).expect_err("somebody's file is in the way");
    let CheckoutError::AfterRecovery { recovered, error } = refused else { panic!("{refused}") };
    assert!(matches!(recovered, Recovered::Finished { root, .. } if root == new));
    assert_eq!(error.details(), ["dir/gone"]);
    assert_eq!(fs::read(room.out().join("dir/gone")).expect("read"), b"mine");
}

#[test]
fn what_changed_between_an_interruption_and_its_end_is_left_alone() {
    let room = Room::new();
    let (old, new) = (room.put_tree(OLD), room.put_tree(NEW));
    room.check_out(&old).expect("checked out");
    switch_up_to(&room, &new, 0, false);
    for name in ["changed", "dir/gone", "new"] {
        fs::write(room.out().join(name), "mine").expect("write");
    }
    let done = room.check_out(&new);
    let recovered = match done {
        Ok(done) => done.recovered,
        Err(CheckoutError::AfterRecovery { recovered, .. }) => Some(recovered),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(recovered, Some(Recovered::Finished { root: new, left: 3 }));
    for name in ["changed", "dir/gone", "new"] {
        assert_eq!(fs::read(room.out().join(name)).expect("read"), b"mine", "{name}");
    }
}

#[test]
fn switch_that_ended_before_its_journal_has_changed_nothing() {
    let room = Room::new();
    let (old, new) = (room.put_tree(OLD), room.put_tree(NEW));
    room.check_out(&old).expect("checked out");
    fs::create_dir_all(room.out().join(".blobmesh/stage/3/half")).expect("a stage");
    fs::write(room.out().join(".blobmesh/state.next"), "half").expect("write");
    fs::write(room.out().join(".blobmesh/journal.begun"), "half").expect("write");
    room.assert_holds(OLD);
    let done = room.check_out(&new).expect("checked out");
    assert_eq!(done.recovered, Some(Recovered::Undone));
    room.assert_holds(NEW);
    assert_eq!(fs::read_dir(room.out().join(".blobmesh")).expect("list").count(), 1);
}

#[test]
fn file_changed_within_the_tick_of_its_stamp_is_not_taken_for_untouched() {
    let room = Room::new();
    let (old, new) = (room.put_tree(OLD), room.put_tree(NEW));
    room.check_out(&old).expect("checked out");
    let dir = Dir::open(&room.out()).expect("open");
    let own = dir.open_below(state::DIR).expect("open");
    let mut state = State::load(&own).expect("load").expect("a state");
    fs::write(room.out().join("changed"), "ime").expect("another text of the same length");
    // As a clock would have it that has not gone on between the two.
    let (_, stamp) = dir.stamp(b"changed").expect("stat").expect("there");
    state.row_mut(b"changed").expect("a row").stamp = stamp;
    state.noted = stamp.changed;
    state.save(&own).expect("save");
    let refused = room.check_out(&new).expect_err("it was changed");
    assert_eq!(refused.details(), ["changed"]);
}

#[test]
fn manifests_and_the_listing_of_a_large_tree_are_held_in_parts() {
    let room = Room::new();
    let file = |hash| Node::File { hash, size: 0, executable: false };
    let root = room.put_wide(40, 500, |dir, n| (format!("{dir:04}{n:0200}"), file(Hash::of(b""))));
    let mut manifests = Manifests::of(&room.store);
    let totals = manifests.check(&root).expect("safe");
    assert!(manifests.kept_bytes() <= load::KEPT_BYTES_MAX, "{}", manifests.kept_bytes());
    assert!(manifests.kept_bytes() > load::KEPT_BYTES_MAX / 2, "the tree has more than is kept");
    let mut lens = Vec::new();
    let listed = manifests.list(&root, |changes| {
        lens.push(changes.len());
        Ok(())
    });
    listed.expect("listed");
    assert_eq!(lens.iter().sum::<usize>() as u64, totals.entries);
    assert!(lens.len() > 2 && lens.iter().all(|len| *len <= load::LISTED_MAX), "{lens:?}");
}

#[test]
fn tree_longer_than_what_is_listed_at_once_is_made_whole() {
    let room = Room::new();
    let link = |target: &[u8]| Node::Symlink { target: target.into() };
    let deep = || Entry { name: Name::new(b"deep").expect("a name"), node: link(b"../..") };
    let node = |_, n: usize| match n % 4 {
        0 => (format!("dir{n:03}"), Node::Dir(vec![deep()])),
        1 => (format!("link{n:03}"), link(b"file")),
        _ => {
            let (hash, executable) = (Hash::of(b""), n % 4 == 2);
            (format!("file{n:03}"), Node::File { hash, size: 0, executable })
        }
    };
    let root = room.put_wide(101, 100, node);
    let done = room.check_out(&root).expect("made");
    assert_eq!(done.added, 101 * 100);
    let mut found = BTreeMap::new();
    note(&room.out(), &room.out(), &mut found);
    assert_eq!(found.len(), 101 * 100);
    assert_eq!(found.get("0100/dir096/deep").map(String::as_str), Some("->../.."));
    let own = Dir::open(&room.out()).and_then(|dir| dir.open_below(state::DIR)).expect("open");
    let state = State::load(&own).expect("load").expect("a state");
    assert_eq!(state.rows.len(), 101 + 101 * 125);
    assert_eq!(room.check_out(&root).expect("again").added, 0);
}
