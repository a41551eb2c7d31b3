//! What differs between two trees.
//!
//! Both are walked side by side in the order of names. A subtree that has the same hash on both sides is passed over
//! without being loaded: so the cost is that of what changed, and of the directories on the way there. The difference
//! of a tree from the empty one is its listing.

use std::cmp::Ordering;

use super::source::load_below;
use super::{Entry, LoadError, Manifest, Node, TREE_DEPTH_MAX, TREE_PATH_MAX, TreeSource};
use crate::blob::Hash;

/// Is one entry of which the two trees say different things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its path from the root, names separated by `/`.
    pub path: Box<[u8]>,
    /// What the old tree has there.
    pub old: Option<Item>,
    /// What the new tree has there.
    pub new: Option<Item>,
}

/// Is an entry without what is below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A file.
    File {
        /// The blob that is its content.
        hash: Hash,
        /// The blob's length in bytes.
        size: u64,
        /// Whether it may be executed.
        executable: bool,
    },
    /// A symbolic link.
    Symlink {
        /// Where it leads, as it is written.
        target: Box<[u8]>,
    },
    /// A directory.
    Dir,
}

/// Says why two trees could not be compared.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiffError<E> {
    /// A manifest could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError<E>),
    /// A tree is deeper than trees may be.
    #[error("the tree is deeper than {TREE_DEPTH_MAX} directories")]
    Depth,
    /// A path is longer than paths may be.
    #[error("a path of the tree has more than {TREE_PATH_MAX} bytes")]
    Path,
}

/// Returns what differs between two trees, each directory before what is below it, in the order of names; an entry
/// that is a directory on one side only comes with everything below it.
///
/// Manifests of both trees are taken from one `source`, which is asked for those of subtrees that differ.
///
/// # Errors
/// [`DiffError`] that says what could not be compared first.
pub fn diff<S: TreeSource>(
    old: Manifest,
    new: Manifest,
    source: &mut S,
) -> Result<Vec<Change>, DiffError<S::Error>> {
    difference(old, new, source).collect()
}

/// Returns the same, found as it is asked for: what is held are the directories on the way to the last change, and not
/// what came before. It ends with the first error.
pub fn difference<S: TreeSource>(
    old: Manifest,
    new: Manifest,
    source: &mut S,
) -> Difference<'_, S> {
    let open = vec![Open::of(0, old.entries, new.entries)];
    Difference { source, path: Vec::new(), open }
}

/// Finds what differs between two trees: see [`difference`].
#[derive(Debug)]
pub struct Difference<'a, S> {
    source: &'a mut S,
    /// The path of the last entry.
    path: Vec<u8>,
    /// The directories from the root to it.
    open: Vec<Open>,
}

impl<S: TreeSource> Iterator for Difference<'_, S> {
    type Item = Result<Change, DiffError<S::Error>>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(directory) = self.open.last_mut() {
            self.path.truncate(directory.path_len);
            let Some((old, new)) = directory.next() else {
                self.open.pop();
                continue;
            };
            match self.compare(old, new) {
                Ok(None) => {}
                Ok(Some(change)) => return Some(Ok(change)),
                Err(error) => {
                    self.open.clear();
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// Is a directory of both trees that is being compared.
#[derive(Debug)]
struct Open {
    path_len: usize,
    old: std::iter::Peekable<std::vec::IntoIter<Entry>>,
    new: std::iter::Peekable<std::vec::IntoIter<Entry>>,
}

impl Open {
    fn of(path_len: usize, old: Vec<Entry>, new: Vec<Entry>) -> Self {
        let (old, new) = (old.into_iter().peekable(), new.into_iter().peekable());
        Self { path_len, old, new }
    }

    /// Returns what both trees have under the next name.
    fn next(&mut self) -> Option<(Option<Entry>, Option<Entry>)> {
        let order = match (self.old.peek(), self.new.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.name.cmp(&new.name),
        };
        let old = if order.is_le() { self.old.next() } else { None };
        let new = if order.is_ge() { self.new.next() } else { None };
        Some((old, new))
    }
}

impl<S: TreeSource> Difference<'_, S> {
    /// Compares what stands under one name, and goes into it where there is something to be compared.
    fn compare(
        &mut self,
        old: Option<Entry>,
        new: Option<Entry>,
    ) -> Result<Option<Change>, DiffError<S::Error>> {
        let Some(name) = old.as_ref().or(new.as_ref()).map(|entry| entry.name.clone()) else {
            return Ok(None);
        };
        let (old, new) = (old.map(|entry| entry.node), new.map(|entry| entry.node));
        if is_same(old.as_ref(), new.as_ref()) {
            return Ok(None);
        }
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name.as_bytes());
        if self.path.len() > TREE_PATH_MAX {
            return Err(DiffError::Path);
        }
        let items = (old.as_ref().map(Item::of), new.as_ref().map(Item::of));
        if items.0 == Some(Item::Dir) || items.1 == Some(Item::Dir) {
            self.enter(old, new)?;
        }
        let path = || self.path.as_slice().into();
        Ok((items.0 != items.1).then(|| Change { path: path(), old: items.0, new: items.1 }))
    }

    /// Goes into the last entry.
    fn enter(&mut self, old: Option<Node>, new: Option<Node>) -> Result<(), DiffError<S::Error>> {
        let (old, new) = (self.below(old)?, self.below(new)?);
        if self.open.len() >= TREE_DEPTH_MAX && !(old.is_empty() && new.is_empty()) {
            return Err(DiffError::Depth);
        }
        self.open.push(Open::of(self.path.len(), old, new));
        Ok(())
    }

    /// Returns the entries of a directory; none of anything else.
    fn below(&mut self, node: Option<Node>) -> Result<Vec<Entry>, DiffError<S::Error>> {
        Ok(match node {
            Some(Node::Dir(entries)) => entries,
            Some(Node::Tree { hash, totals }) => load_below(&hash, &totals, self.source)?.entries,
            Some(Node::File { .. } | Node::Symlink { .. }) | None => Vec::new(),
        })
    }
}

impl Item {
    fn of(node: &Node) -> Self {
        match node {
            Node::File { hash, size, executable } => {
                Self::File { hash: *hash, size: *size, executable: *executable }
            }
            Node::Symlink { target } => Self::Symlink { target: target.clone() },
            Node::Dir(_) | Node::Tree { .. } => Self::Dir,
        }
    }
}

/// Returns whether there is nothing to be found below either. Directories in place are looked into.
fn is_same(old: Option<&Node>, new: Option<&Node>) -> bool {
    match (old, new) {
        (Some(Node::Tree { hash: old, .. }), Some(Node::Tree { hash: new, .. })) => old == new,
        (Some(Node::Dir(_)), _) | (_, Some(Node::Dir(_))) => false,
        (old, new) => old == new,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::tree::Name;

    /// Gives manifests that were sealed, and counts.
    #[derive(Default)]
    struct Sealed {
        manifests: BTreeMap<Hash, Vec<u8>>,
        loads: usize,
    }

    impl TreeSource for Sealed {
        type Error = ();

        fn load(&mut self, hash: &Hash) -> Result<Vec<u8>, ()> {
            self.loads += 1;
            self.manifests.get(hash).cloned().ok_or(())
        }
    }

    impl Sealed {
        fn dir(&mut self, name: &str, entries: Vec<Entry>) -> Entry {
            let sealed = Manifest::new(entries).expect("a manifest").seal().expect("sealed");
            if let (Node::Tree { hash, .. }, Some(bytes)) = (&sealed.node, sealed.manifest) {
                self.manifests.insert(*hash, bytes);
            }
            entry(name, sealed.node)
        }
    }

    fn entry(name: &str, node: Node) -> Entry {
        Entry { name: Name::new(name.as_bytes()).expect("a name"), node }
    }

    fn file(name: &str, content: &str) -> Entry {
        let (hash, size) = (Hash::of(content.as_bytes()), content.len() as u64);
        entry(name, Node::File { hash, size, executable: false })
    }

    fn link(name: &str, target: &str) -> Entry {
        entry(name, Node::Symlink { target: target.as_bytes().into() })
    }

    fn many(prefix: &str) -> Vec<Entry> {
        (0..100).map(|number| file(&format!("{prefix}{number:03}"), "same")).collect()
    }

    fn root(entries: Vec<Entry>) -> Manifest {
        Manifest::new(entries).expect("a manifest")
    }

    /// Writes changes as `path old>new`.
    fn told(changes: &[Change]) -> Vec<String> {
        let item = |item: &Option<Item>| match item {
            None => "-".to_owned(),
            Some(Item::Dir) => "dir".to_owned(),
            Some(Item::File { size, executable, .. }) => {
                format!("{size}{}", if *executable { "x" } else { "" })
            }
            Some(Item::Symlink { target }) => String::from_utf8_lossy(target).into_owned(),
        };
        let line = |change: &Change| {
            let path = String::from_utf8_lossy(&change.path);
            format!("{path} {}>{}", item(&change.old), item(&change.new))
        };
        changes.iter().map(line).collect()
    }

    #[test]
    fn entries_are_added_removed_and_changed_in_the_order_of_names() {
        let mut source = Sealed::default();
        let old = root(vec![
            file("a", "1"),
            source.dir("dir", vec![file("gone", "12"), file("kept", "1")]),
            file("same", "1"),
            link("to", "a"),
        ]);
        let new = root(vec![
            file("a", "1234"),
            file("b", ""),
            source.dir("dir", vec![file("kept", "1"), file("new", "123")]),
            file("same", "1"),
            link("to", "same"),
        ]);
        let changes = diff(old, new, &mut source).expect("a difference");
        assert_eq!(told(&changes), ["a 1>4", "b ->0", "dir/gone 2>-", "dir/new ->3", "to a>same"]);
    }

    #[test]
    fn executable_bit_alone_is_a_change() {
        let mut program = file("run", "1");
        if let Node::File { executable, .. } = &mut program.node {
            *executable = true;
        }
        let changes =
            diff(root(vec![file("run", "1")]), root(vec![program]), &mut Sealed::default());
        assert_eq!(told(&changes.expect("a difference")), ["run 1>1x"]);
    }

    #[test]
    fn directory_that_becomes_something_else_comes_with_all_that_was_below_it() {
        let mut source = Sealed::default();
        let inner = source.dir("in", vec![file("deep", "1")]);
        let dir = source.dir("x", vec![inner, file("top", "1")]);
        let there = diff(root(vec![dir.clone()]), root(vec![link("x", "y")]), &mut source);
        let expected = ["x dir>y", "x/in dir>-", "x/in/deep 1>-", "x/top 1>-"];
        assert_eq!(told(&there.expect("a difference")), expected);
        let back = diff(root(vec![link("x", "y")]), root(vec![dir]), &mut source);
        let expected = ["x y>dir", "x/in ->dir", "x/in/deep ->1", "x/top ->1"];
        assert_eq!(told(&back.expect("a difference")), expected);
    }

    #[test]
    fn subtrees_of_the_same_hash_are_not_loaded() {
        let mut source = Sealed::default();
        let same = source.dir("same", many("s"));
        let mut entries = many("c");
        let old = root(vec![source.dir("changed", entries.clone()), same.clone()]);
        entries[50] = file("c050", "other");
        let new = root(vec![source.dir("changed", entries), same]);
        assert_eq!(source.manifests.len(), 3, "each is long enough for a manifest of its own");
        let changes = diff(old, new, &mut source).expect("a difference");
        assert_eq!(told(&changes), ["changed/c050 4>5"]);
        assert_eq!(source.loads, 2, "both versions of what changed");
    }

    #[test]
    fn difference_from_nothing_is_the_listing() {
        let mut source = Sealed::default();
        let tree =
            root(vec![source.dir("empty", vec![]), source.dir("full", many("f")), file("z", "")]);
        let listing = diff(Manifest::default(), tree.clone(), &mut source).expect("a listing");
        assert_eq!(listing.len(), 103);
        assert_eq!(told(&listing[..3]), ["empty ->dir", "full ->dir", "full/f000 ->4"]);
        assert_eq!(diff(tree.clone(), tree, &mut source), Ok(Vec::new()));
    }

    #[test]
    fn what_differs_is_found_as_it_is_asked_for_and_ends_with_an_error() {
        let mut source = Sealed::default();
        let tree = root(vec![source.dir("a", many("a")), source.dir("b", many("b"))]);
        let mut found = difference(Manifest::default(), tree.clone(), &mut source);
        assert!(found.by_ref().take(101).all(|change| change.is_ok()), "a, and all in it");
        assert_eq!(found.source.loads, 1, "b was not asked for");
        assert_eq!(found.open.len(), 2, "the root and a");
        assert_eq!(found.by_ref().count(), 101);
        source.manifests.clear();
        let mut found = difference(Manifest::default(), tree, &mut source);
        assert!(matches!(found.next(), Some(Err(DiffError::Load(_)))));
        assert!(found.next().is_none());
    }

    #[test]
    fn trees_that_are_too_deep_or_cannot_be_loaded_are_refused() {
        let mut source = Sealed::default();
        let deep = |levels: usize| {
            let mut node = file("f", "");
            for _ in 0..levels {
                node = entry("d", Node::Dir(vec![node]));
            }
            root(vec![node])
        };
        let listed = diff(Manifest::default(), deep(TREE_DEPTH_MAX - 1), &mut source);
        assert_eq!(listed.map(|changes| changes.len()), Ok(TREE_DEPTH_MAX));
        let refused = diff(Manifest::default(), deep(TREE_DEPTH_MAX), &mut source);
        assert_eq!(refused, Err(DiffError::Depth));
        let lost = source.dir("lost", many("l"));
        source.manifests.clear();
        let refused = diff(Manifest::default(), root(vec![lost]), &mut source);
        assert!(matches!(refused, Err(DiffError::Load(LoadError::Source { .. }))));
    }
}
