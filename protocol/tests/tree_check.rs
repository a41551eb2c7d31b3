//! Trees that must not be written to a disk, and odd ones that must be.

use std::collections::BTreeMap;

use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::{
    CheckError, Entry, LoadError, Manifest, ManifestError, Name, Node, Reason, Rules,
    TREE_DEPTH_MAX, TREE_ENTRIES_MAX, Totals, TreeSource, check, check_directory,
};

/// Holds manifests in memory, and counts what is loaded.
#[derive(Default)]
struct Map {
    manifests: BTreeMap<Hash, Vec<u8>>,
    loads: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not here")]
struct Missing;

impl TreeSource for Map {
    type Error = Missing;

    fn load(&mut self, hash: &Hash) -> Result<Vec<u8>, Missing> {
        self.loads += 1;
        self.manifests.get(hash).cloned().ok_or(Missing)
    }
}

impl Map {
    fn put(&mut self, bytes: Vec<u8>) -> Hash {
        let hash = Hash::of(&bytes);
        self.manifests.insert(hash, bytes);
        hash
    }

    fn root(&mut self, entries: Vec<Entry>) -> Hash {
        self.put(manifest(entries).encode())
    }

    /// Puts a directory where it belongs, in place or on its own.
    fn dir(&mut self, name: &[u8], entries: Vec<Entry>) -> Entry {
        let sealed = manifest(entries).seal().expect("in bounds");
        sealed.manifest.map(|bytes| self.put(bytes));
        entry(name, sealed.node)
    }

    /// Puts a directory so deep below others.
    fn below(&mut self, levels: usize, name: &[u8], entries: Vec<Entry>) -> Vec<Entry> {
        (0..levels).fold(entries, |entries, _| vec![self.dir(name, entries)])
    }
}

fn manifest(entries: Vec<Entry>) -> Manifest {
    Manifest::new(entries).expect("well formed")
}

fn entry(name: &[u8], node: Node) -> Entry {
    Entry { name: Name::new(name).expect("a name"), node }
}

fn file(name: &[u8]) -> Entry {
    entry(name, Node::File { hash: Hash::of(name), size: 1, executable: false })
}

fn link(name: &[u8], target: &[u8]) -> Entry {
    entry(name, Node::Symlink { target: target.into() })
}

fn files(count: usize) -> Vec<Entry> {
    (0..count).map(|index| file(format!("file-{index:06}").as_bytes())).collect()
}

/// Says which entry is refused, and why, in the words of the user.
fn refusal(map: &mut Map, root: &Hash, rules: Rules) -> String {
    match check(root, rules, map) {
        Ok(totals) => format!("accepted: {totals:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn names_that_programs_obey_are_refused_at_every_depth() {
    let names: [&[u8]; 9] = [
        b".git",
        b".GIT",
        b".Git.",
        b"git~1",
        b".git::$INDEX_ALLOCATION",
        b".blobmesh",
        b".BLOBMESH ",
        ".g\u{200c}it".as_bytes(),
        ".gi\u{fe0f}t".as_bytes(),
    ];
    for name in names {
        for (levels, node) in [
            (0, file(b"x").node),
            (1, Node::Dir(vec![file(b"hooks")])),
            (5, Node::Symlink { target: (*b"x").into() }),
        ] {
            let mut map = Map::default();
            let entries = map.below(levels, b"d", vec![entry(name, node)]);
            let root = map.root(entries);
            let refused = check(&root, Rules { clashes: true, outside_links: true }, &mut map);
            let Err(CheckError::Unsafe(refused)) = refused else { panic!("{refused:?}") };
            assert_eq!(refused.reason, Reason::Reserved);
            assert!(refused.path.ends_with(name) && refused.path.len() == 2 * levels + name.len());
        }
    }
}

#[test]
fn refusals_name_the_entry_and_the_reason() {
    let cases: [(Vec<Entry>, &str); 12] = [
        (
            vec![file(b".git")],
            "\".git\": the name is reserved, or some file system takes it for one that is",
        ),
        (vec![file(b"A"), file(b"a")], "\"A\": some file system takes it for \"a\""),
        (
            vec![file("é".as_bytes()), file("e\u{301}".as_bytes())],
            "\"e\u{301}\": some file system takes it for \"é\"",
        ),
        (
            vec![file("STRASSE".as_bytes()), file("straße".as_bytes())],
            "\"STRASSE\": some file system takes it for \"straße\"",
        ),
        (
            vec![link(b"l", b"/etc/passwd")],
            "\"l\": it links to \"/etc/passwd\", which is not relative",
        ),
        (vec![link(b"l", b"//x")], "\"l\": it links to \"//x\", which is not relative"),
        (vec![link(b"l", b"..")], "\"l\": it links to \"..\", which is outside of the tree"),
        (
            vec![link(b"l", b"./../x")],
            "\"l\": it links to \"./../x\", which is outside of the tree",
        ),
        (
            vec![link(b"l", b"a/../../x")],
            "\"l\": it links to \"a/../../x\", which has a .. behind a name",
        ),
        (
            vec![link(b"l", b"a/../b")],
            "\"l\": it links to \"a/../b\", which has a .. behind a name",
        ),
        (
            vec![link(b"l", b"\x1b[2J/..")],
            "\"l\": it links to \"\\u{1b}[2J/..\", which has a .. behind a name",
        ),
        (
            vec![link(b"l\n", b"..\n/../..")],
            "\"l\\n\": it links to \"..\\n/../..\", which has a .. behind a name",
        ),
    ];
    for (entries, expected) in cases {
        let mut map = Map::default();
        let root = map.root(entries);
        let said = refusal(&mut map, &root, Rules::default());
        assert_eq!(said, format!("unsafe tree entry {expected}"));
    }
}

#[test]
fn links_climb_to_the_root_and_no_further() {
    for levels in 0..4 {
        for climbs in 0..6 {
            let mut map = Map::default();
            let target = [b"../".repeat(climbs), b"x".to_vec()].concat();
            let entries = map.below(levels, b"d", vec![link(b"l", &target)]);
            let root = map.root(entries);
            let checked = check(&root, Rules::default(), &mut map);
            assert_eq!(checked.is_ok(), climbs <= levels, "{climbs} from {levels}");
            // Whoever makes the tree is told the same, directory by directory.
            let path = vec!["d"; levels].join("/");
            let made = check_directory(path.as_bytes(), &[link(b"l", &target)], Rules::default());
            assert_eq!(made.err().map(CheckError::Unsafe), checked.err());
            assert!(
                check(&root, Rules { outside_links: true, ..Rules::default() }, &mut map).is_ok()
            );
        }
    }
}

/// `p/q/a` leads to the root, so that `a/../x` would be outside and looks as if it were beside `a`.
#[test]
fn link_through_a_link_cannot_climb() {
    let mut map = Map::default();
    let inner = vec![link(b"a", b"../.."), link(b"b", b"a/../x")];
    let q = map.dir(b"q", inner);
    let p = map.dir(b"p", vec![q]);
    let root = map.root(vec![p]);
    let said = refusal(&mut map, &root, Rules::default());
    assert_eq!(
        said,
        "unsafe tree entry \"p/q/b\": it links to \"a/../x\", which has a .. behind a name"
    );
}

#[test]
fn clash_is_accepted_on_demand_but_not_of_a_link() {
    let allowed = Rules { clashes: true, ..Rules::default() };
    let mut map = Map::default();
    let dir = map.dir(b"A", vec![file(b"x")]);
    let harmless = map.root(vec![file(b"a"), dir.clone()]);
    assert!(check(&harmless, Rules::default(), &mut map).is_err());
    assert!(check(&harmless, allowed, &mut map).is_ok());
    // `A/x` would be written through `a`.
    let through = map.root(vec![link(b"a", b"d"), dir]);
    assert!(check(&through, allowed, &mut map).is_err());
}

#[test]
fn clash_in_a_large_directory_far_below_is_found() {
    let mut map = Map::default();
    let mut entries = files(3_000);
    entries.push(file(b"FILE-002999"));
    let entries = map.below(40, b"some-directory", entries);
    let root = map.root(entries);
    let Err(CheckError::Unsafe(refused)) = check(&root, Rules::default(), &mut map) else {
        panic!("it clashes")
    };
    assert!(refused.path.ends_with(b"/some-directory/FILE-002999"));
    assert_eq!(refused.reason, Reason::Clash { other: (*b"file-002999").into() });
}

#[test]
fn depth_and_length_of_paths_are_bounded_across_manifests() {
    // Far more than fits in place, so that each level is a manifest of its own.
    let deep = |levels: usize| {
        let mut map = Map::default();
        let mut entries = files(1);
        for _ in 0..levels {
            let mut level = files(100);
            level.push(map.dir(b"d", entries));
            entries = level;
        }
        let root = map.root(entries);
        check(&root, Rules::default(), &mut map)
    };
    assert!(deep(TREE_DEPTH_MAX - 1).is_ok());
    let Err(CheckError::Unsafe(refused)) = deep(TREE_DEPTH_MAX) else { panic!("too deep") };
    assert_eq!(refused.reason, Reason::Depth);

    // Sixteen names of 255 bytes and sixteen slashes are 4,096 bytes.
    let long = |last: &[u8]| {
        let mut map = Map::default();
        let entries = map.below(16, &[b'n'; 255], vec![file(last)]);
        let root = map.root(entries);
        check(&root, Rules::default(), &mut map)
    };
    let Err(CheckError::Unsafe(refused)) = long(b"x") else { panic!("too long") };
    assert_eq!(refused.reason, Reason::Path { len: 4_097 });
    let mut map = Map::default();
    let entries = map.below(15, &[b'n'; 255], vec![file(&[b'x'; 255])]);
    let root = map.root(entries);
    assert!(check(&root, Rules::default(), &mut map).is_ok());
}

#[test]
fn missing_and_malformed_manifests_are_named() {
    let mut map = Map::default();
    let nowhere = Hash::of(b"nowhere");
    let loaded = check(&nowhere, Rules::default(), &mut map);
    assert_eq!(loaded, Err(LoadError::Source { hash: nowhere, source: Missing }.into()));
    let script = map.put(b"#!/bin/sh".to_vec());
    let loaded = check(&script, Rules::default(), &mut map);
    let malformed = LoadError::Manifest { hash: script, source: ManifestError::NotManifest };
    assert_eq!(loaded, Err(malformed.into()));
    let totals = Totals { files: 1, bytes: 1, entries: 1 };
    let root = map.root(vec![entry(b"t", Node::Tree { hash: script, totals })]);
    assert!(matches!(check(&root, Rules::default(), &mut map), Err(CheckError::Load(_))));
}

#[test]
fn lie_about_what_is_below_is_found_where_it_is_told() {
    let mut map = Map::default();
    let inner = map.root(files(200));
    let claimed = Totals { files: 1, bytes: 1, entries: 1 };
    let root = map.root(vec![entry(b"t", Node::Tree { hash: inner, totals: claimed })]);
    let found = Totals { files: 200, bytes: 200, entries: 200 };
    let source = ManifestError::Totals { claimed, found };
    let checked = check(&root, Rules::default(), &mut map);
    assert_eq!(checked, Err(LoadError::Manifest { hash: inner, source }.into()));
}

/// Each level holds the one below a hundred times: a few KiB that would be 10^10 entries.
#[test]
fn tree_that_unfolds_is_refused_by_its_own_count() {
    let mut map = Map::default();
    let mut node = manifest(files(100)).seal().expect("in bounds");
    let mut refused = None;
    for _ in 0..5 {
        node.manifest.map(|bytes| map.put(bytes));
        let many = (0..100).map(|index| entry(format!("{index:03}").as_bytes(), node.node.clone()));
        match Manifest::new(many.collect()) {
            Ok(next) => node = next.seal().expect("in bounds"),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    assert!(matches!(refused, Some(ManifestError::Entries { found }) if found > TREE_ENTRIES_MAX));

    // With claims that are too small it is refused at the first manifest that is loaded.
    let Node::Tree { hash, .. } = node.node else { panic!("many entries") };
    let modest = Totals { files: 1, bytes: 1, entries: 1 };
    let lies = (0..100)
        .map(|index| entry(format!("{index:03}").as_bytes(), Node::Tree { hash, totals: modest }));
    let root = map.root(lies.collect());
    map.loads = 0;
    assert!(check(&root, Rules::default(), &mut map).is_err());
    assert_eq!(map.loads, 2);
}

#[test]
fn odd_trees_are_trees() {
    let mut map = Map::default();
    let mut entries = vec![
        file(b"-rf"),
        file(b" "),
        file(b"a\nb"),
        file(b"\xff\xfe"),
        file("🙂".as_bytes()),
        file(b"..."),
        file(b".gitignore"),
        file(b"*"),
        file(&[b'n'; 255]),
        file(b"con"),
        file(b"a:b"),
        file(b"\\"),
        link(b"l", b"nowhere"),
        link(b"m", b"."),
        link(b"n", b"./l"),
        link(b"o", b"\xff/-/ "),
        link(b"self", b"self"),
        link(b"slash", b"d/"),
        entry(b"empty", Node::Dir(Vec::new())),
    ];
    let deep = map.below(60, b"d", vec![link(b"up", &b"../".repeat(60))]);
    entries.push(map.dir(b"deep", deep));
    entries.push(map.dir(b"large", files(5_000)));
    let root = map.root(entries);
    let totals = check(&root, Rules::default(), &mut map).expect("all of it is legal");
    assert_eq!(totals.files, 12 + 5_000);
    let empty = map.root(Vec::new());
    assert_eq!(check(&empty, Rules::default(), &mut map), Ok(Totals::default()));
}
