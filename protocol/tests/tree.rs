//! Manifests: one encoding for a tree, every bound, and bytes that mean harm.

use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::codec::{HEADER_LEN, MANIFEST_MAGIC, MANIFEST_VERSION};
use blobmesh_protocol::tree::{
    Entry, MANIFEST_BYTES_MAX, Manifest, ManifestError, Name, NameError, Node, SYMLINK_TARGET_MAX,
    Sealed, TREE_DEPTH_MAX, TREE_ENTRIES_MAX, TREE_INLINE_MAX, Totals,
};
use proptest::prelude::*;

/// Builds a manifest's bytes by hand.
struct Bytes(Vec<u8>);

impl Bytes {
    /// Begins a manifest of `count` entries.
    fn of(count: u64) -> Self {
        let mut bytes = MANIFEST_MAGIC.to_vec();
        bytes.push(MANIFEST_VERSION);
        Self(bytes).number(count)
    }

    fn number(mut self, mut number: u64) -> Self {
        while number >= 0x80 {
            self.0.push(0x80 | u8::try_from(number & 0x7f).expect("seven bits"));
            number >>= 7;
        }
        self.0.push(u8::try_from(number).expect("seven bits"));
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn named(self, kind: u8, name: &[u8]) -> Self {
        let len = u64::try_from(name.len()).expect("short");
        self.raw(&[kind]).number(len).raw(name)
    }

    fn file(self, name: &[u8]) -> Self {
        self.named(0, name).number(3).raw(&[7; 32])
    }

    fn link(self, name: &[u8], target: &[u8]) -> Self {
        let len = u64::try_from(target.len()).expect("short");
        self.named(2, name).number(len).raw(target)
    }

    fn dir(self, name: &[u8], count: u64) -> Self {
        self.named(3, name).number(count)
    }

    fn tree(self, name: &[u8], totals: Totals) -> Self {
        let numbers = self.named(4, name).raw(&[8; 32]).number(totals.files);
        numbers.number(totals.bytes).number(totals.entries)
    }

    fn decode(&self) -> Result<Manifest, ManifestError> {
        Manifest::decode(&self.0)
    }
}

fn name(bytes: &[u8]) -> Name {
    Name::new(bytes).expect("a name")
}

fn file(of: &[u8]) -> Entry {
    let node = Node::File { hash: Hash::of(of), size: 9, executable: false };
    Entry { name: name(of), node }
}

/// A directory of so many files.
fn files(count: usize) -> Manifest {
    let entries = (0..count).map(|index| file(format!("file-{index:06}").as_bytes())).collect();
    Manifest::new(entries).expect("a manifest")
}

/// A directory whose body is of exactly `len` bytes, made so by a symbolic link's target.
fn body_of(len: usize) -> Manifest {
    // Count, kind, length of the name, name, length of the target in two bytes.
    let target = vec![b't'; len - 6].into_boxed_slice();
    let manifest = Manifest::new(vec![Entry { name: name(b"l"), node: Node::Symlink { target } }])
        .expect("a manifest");
    assert_eq!(manifest.encode().len() - HEADER_LEN, len);
    manifest
}

#[test]
fn layout_is_the_one_that_is_written_down() {
    let totals = Totals { files: 3, bytes: 300, entries: 4 };
    let manifest = Manifest::new(vec![
        Entry { name: name(b"t"), node: Node::Tree { hash: Hash::from_bytes([8; 32]), totals } },
        Entry { name: name(b"l"), node: Node::Symlink { target: (*b"f").into() } },
        Entry { name: name(b"d"), node: Node::Dir(Vec::new()) },
        Entry {
            name: name(b"f"),
            node: Node::File { hash: Hash::from_bytes([7; 32]), size: 3, executable: false },
        },
    ])
    .expect("a manifest");
    let expected = Bytes::of(4).dir(b"d", 0).file(b"f").link(b"l", b"f").tree(b"t", totals);
    assert_eq!(manifest.encode(), expected.0);
    assert_eq!(expected.decode(), Ok(manifest.clone()));
    assert_eq!(manifest.totals(), Ok(Totals { files: 4, bytes: 303, entries: 8 }));
}

#[test]
fn empty_tree_has_a_hash() {
    let bytes = Manifest::default().encode();
    assert_eq!(bytes, b"BMTREE\0\x01\0");
    assert_eq!(Manifest::decode(&bytes), Ok(Manifest::default()));
}

#[test]
fn example_of_the_specification_is_right() {
    let run = Node::File { hash: Hash::of(b"#!"), size: 2, executable: true };
    let manifest = Manifest::new(vec![
        Entry { name: name(b"run"), node: run },
        Entry { name: name(b"e"), node: Node::Dir(Vec::new()) },
        Entry { name: name(b"l"), node: Node::Symlink { target: (*b"run").into() } },
    ]);
    let bytes = manifest.expect("a manifest").encode();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = format!("manifest: {hex}\nhash: {}\n", Hash::of(&bytes));
    let specification = include_str!("../SPEC.md");
    assert!(specification.contains(&expected), "{expected}");
}

#[test]
fn bytes_that_are_no_manifest_say_why() {
    let cases = [
        (Vec::new(), ManifestError::NotManifest),
        (b"#!/bin/sh\n".to_vec(), ManifestError::NotManifest),
        (b"BMTREE\0".to_vec(), ManifestError::Truncated { at: 7 }),
        (b"BMTREE\0\x02\0".to_vec(), ManifestError::UnknownVersion { found: 2 }),
        (b"BMTREE\0\x01".to_vec(), ManifestError::Truncated { at: 8 }),
        (Bytes::of(0).raw(&[0]).0, ManifestError::Trailing { extra: 1 }),
        (Bytes::of(1).named(5, b"a").raw(b"\0").0, ManifestError::Kind { found: 5, at: 9 }),
    ];
    for (bytes, expected) in cases {
        assert_eq!(Manifest::decode(&bytes), Err(expected), "{}", bytes.escape_ascii());
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let refused = |bytes: &[u8]| match Bytes::of(1).file(bytes).decode() {
        Err(ManifestError::Name { source }) => source,
        other => panic!("{}: {other:?}", bytes.escape_ascii()),
    };
    assert_eq!(refused(b""), NameError::Empty);
    assert_eq!(refused(&[b'n'; 256]), NameError::TooLong { len: 256 });
    assert_eq!(refused(b".."), NameError::Dots { name: (*b"..").into() });
    assert_eq!(refused(b"."), NameError::Dots { name: (*b".").into() });
    for hostile in [&b"/etc"[..], b"../x", b"a/b", b"a\0b"] {
        assert!(matches!(refused(hostile), NameError::Byte { .. }));
    }
}

#[test]
fn names_come_once_and_in_order() {
    for (one, other) in [(&b"b"[..], &b"a"[..]), (b"a", b"a"), (b"ab", b"a")] {
        let bytes = Bytes::of(2).file(one).file(other);
        assert_eq!(bytes.decode(), Err(ManifestError::Order { name: name(other) }));
        let bytes = Bytes::of(1).dir(b"d", 2).file(one).link(other, b"t");
        assert_eq!(bytes.decode(), Err(ManifestError::Order { name: name(other) }), "in place");
    }
    // The order is that of bytes: no sign, no language, and a directory is like any other entry.
    let entries = vec![file(b"\xff"), file(b"a"), file(b"a.b"), file(b"B"), file(b"a-")];
    let sorted = Manifest::new(entries).expect("a manifest");
    let names: Vec<&[u8]> = sorted.entries.iter().map(|entry| entry.name.as_bytes()).collect();
    assert_eq!(names, [&b"B"[..], b"a", b"a-", b"a.b", b"\xff"]);
    let twice = Manifest::new(vec![file(b"a"), file(b"b"), file(b"a")]);
    assert_eq!(twice, Err(ManifestError::Order { name: name(b"a") }));
}

#[test]
fn targets_of_links_are_bounded() {
    let refused: [&[u8]; 4] = [b"", b"a\0", &[b't'; SYMLINK_TARGET_MAX + 1], &[b't'; 70_000]];
    for target in refused {
        let expected = Err(ManifestError::Target { len: target.len() });
        assert_eq!(Bytes::of(1).link(b"l", target).decode(), expected);
        let entry = Entry { name: name(b"l"), node: Node::Symlink { target: target.into() } };
        assert_eq!(Manifest::new(vec![entry]), expected);
    }
    assert!(Bytes::of(1).link(b"l", &[b't'; SYMLINK_TARGET_MAX]).decode().is_ok());
}

#[test]
fn numbers_have_one_form_and_64_bits() {
    let size = |bytes: &[u8]| Bytes::of(1).named(0, b"a").raw(bytes).raw(&[7; 32]).decode();
    let malformed: [&[u8]; 5] = [
        &[0x80, 0],
        &[0x81, 0x80, 0],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x81, 0],
        &[0x80; 40],
    ];
    for bytes in malformed {
        assert_eq!(size(bytes), Err(ManifestError::Number { at: 12 }), "{bytes:x?}");
    }
    let largest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    let entries = size(&largest).expect("the largest number").entries;
    assert!(matches!(entries[0].node, Node::File { size: u64::MAX, .. }));
}

#[test]
fn claims_of_many_entries_are_refused_before_memory_is_taken() {
    let over = TREE_ENTRIES_MAX + 1;
    for bytes in [Bytes::of(over), Bytes::of(u64::MAX), Bytes::of(1).dir(b"d", u64::MAX)] {
        assert!(matches!(bytes.decode(), Err(ManifestError::Entries { .. })));
    }
    let bytes = Bytes::of(TREE_ENTRIES_MAX);
    assert_eq!(bytes.decode(), Err(ManifestError::Truncated { at: bytes.0.len() }));
    // Many directories that each claim what is allowed.
    let mut bytes = Bytes::of(2);
    for _ in 0..3 {
        bytes = bytes.dir(b"d", TREE_ENTRIES_MAX / 2);
    }
    assert!(matches!(bytes.raw(&[3; 4 << 20]).decode(), Err(ManifestError::Entries { .. })));
}

#[test]
fn claims_of_subtrees_count_and_must_add_up() {
    let entries = |entries| Totals { files: 0, bytes: 0, entries };
    let bytes = Bytes::of(2).file(b"a").tree(b"t", entries(TREE_ENTRIES_MAX - 1));
    assert_eq!(bytes.decode(), Err(ManifestError::Entries { found: TREE_ENTRIES_MAX + 1 }));
    assert!(Bytes::of(2).file(b"a").tree(b"t", entries(TREE_ENTRIES_MAX - 2)).decode().is_ok());
    let bytes = Bytes::of(1).tree(b"t", entries(u64::MAX)).decode();
    assert_eq!(bytes, Err(ManifestError::Entries { found: u64::MAX }));
    let huge = Totals { files: 1, bytes: u64::MAX - 2, entries: 1 };
    let bytes = Bytes::of(2).file(b"a").tree(b"t", huge);
    assert_eq!(bytes.decode(), Err(ManifestError::Bytes));
}

#[test]
fn nesting_is_bounded_and_takes_no_stack() {
    // Each directory holds the next one; the last one is empty.
    let nested = |depth: usize| {
        let mut bytes = Bytes::of(1);
        for level in 1..=depth {
            bytes = bytes.dir(b"d", u64::from(level < depth));
        }
        bytes.decode()
    };
    // A level takes four bytes, so that the outermost one is too long in place before it is too deep.
    let levels_max = TREE_INLINE_MAX / 4 + 1;
    assert!(nested(levels_max - 1).is_ok());
    assert!(matches!(nested(levels_max + 1), Err(ManifestError::InPlace { .. })));
    assert!(matches!(nested(TREE_DEPTH_MAX), Err(ManifestError::InPlace { .. })));
    assert_eq!(nested(TREE_DEPTH_MAX + 1), Err(ManifestError::Depth));
    assert_eq!(nested(200_000), Err(ManifestError::Depth));
}

#[test]
fn directory_is_in_place_or_on_its_own_by_its_length_alone() {
    let Sealed { node, manifest } = body_of(TREE_INLINE_MAX).seal().expect("in bounds");
    assert!(matches!(node, Node::Dir(_)) && manifest.is_none());
    let Sealed { node, manifest } = body_of(TREE_INLINE_MAX + 1).seal().expect("in bounds");
    let manifest = manifest.expect("too long to be given in place");
    let Node::Tree { hash, totals } = node else { panic!("{node:?}") };
    assert_eq!((hash, totals.entries), (Hash::of(&manifest), 1));
    assert_eq!(Manifest::decode_below(&manifest, &totals), Ok(body_of(TREE_INLINE_MAX + 1)));
}

#[test]
fn directory_in_the_wrong_place_is_refused() {
    let in_place = |inner: Manifest| {
        let entry = Entry { name: name(b"d"), node: Node::Dir(inner.entries) };
        Manifest::decode(&Manifest { entries: vec![entry] }.encode())
    };
    assert!(in_place(body_of(TREE_INLINE_MAX)).is_ok());
    let len = TREE_INLINE_MAX + 1;
    assert_eq!(in_place(body_of(len)), Err(ManifestError::InPlace { len }));

    let short = body_of(TREE_INLINE_MAX);
    let totals = short.totals().expect("in bounds");
    let below = Manifest::decode_below(&short.encode(), &totals);
    assert_eq!(below, Err(ManifestError::NotInPlace { len: TREE_INLINE_MAX }));
    assert!(Manifest::decode(&short.encode()).is_ok(), "a root may be short");
}

#[test]
fn manifest_that_is_not_what_its_parent_says_is_refused() {
    let manifest = files(100);
    let found = manifest.totals().expect("in bounds");
    assert_eq!(found, Totals { files: 100, bytes: 900, entries: 100 });
    for claimed in [
        Totals { files: 99, ..found },
        Totals { bytes: 0, ..found },
        Totals { entries: 101, ..found },
    ] {
        let below = Manifest::decode_below(&manifest.encode(), &claimed);
        assert_eq!(below, Err(ManifestError::Totals { claimed, found }));
    }
}

#[test]
fn long_manifests_are_refused_unread() {
    let len = usize::try_from(MANIFEST_BYTES_MAX).expect("64 bits") + 1;
    let bytes = vec![0; len];
    let expected = ManifestError::TooLong { len: MANIFEST_BYTES_MAX + 1 };
    assert_eq!(Manifest::decode(&bytes), Err(expected));
}

fn names() -> impl Strategy<Value = Name> {
    let short = prop::collection::vec(any::<u8>(), 1..8);
    let text = "[a-zA-Z0-9._ -]{1,12}".prop_map(String::into_bytes);
    let long = prop::collection::vec(1..=255_u8, 200..=255);
    prop_oneof![4 => text, 2 => short, 1 => long]
        .prop_filter_map("no name", |bytes| Name::new(&bytes).ok())
}

fn leaves() -> impl Strategy<Value = Node> {
    let totals = (0..500_u64, 0..1_u64 << 40, 0..500_u64)
        .prop_map(|(files, bytes, entries)| Totals { files, bytes, entries });
    prop_oneof![
        4 => (any::<[u8; 32]>(), 0..1_u64 << 45, any::<bool>()).prop_map(|(hash, size, executable)| {
            Node::File { hash: Hash::from_bytes(hash), size, executable }
        }),
        1 => prop::collection::vec(1..=255_u8, 1..300)
            .prop_map(|target| Node::Symlink { target: target.into() }),
        1 => (any::<[u8; 32]>(), totals)
            .prop_map(|(hash, totals)| Node::Tree { hash: Hash::from_bytes(hash), totals }),
    ]
}

/// Directories with others in place, as they come of a scan.
fn manifests() -> impl Strategy<Value = Manifest> {
    let directory = |nodes: BoxedStrategy<Node>| {
        prop::collection::btree_map(names(), nodes, 0..8).prop_map(|entries| {
            let entries = entries.into_iter().map(|(name, node)| Entry { name, node }).collect();
            Manifest::new(entries).expect("names once, in bounds")
        })
    };
    let nodes = leaves().prop_recursive(4, 30, 4, move |inner| {
        directory(inner.boxed()).prop_map(|manifest| manifest.seal().expect("in bounds").node)
    });
    directory(nodes.boxed())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn tree_survives_a_round_trip(manifest in manifests()) {
        let bytes = manifest.encode();
        prop_assert_eq!(Manifest::decode(&bytes), Ok(manifest.clone()));
        prop_assert_eq!(bytes.len() - HEADER_LEN <= TREE_INLINE_MAX,
            manifest.seal().expect("in bounds").manifest.is_none());
    }

    #[test]
    fn order_in_which_entries_come_does_not_matter(manifest in manifests(), turn in any::<usize>()) {
        let mut entries = manifest.entries.clone();
        let by = turn.checked_rem(entries.len()).unwrap_or(0);
        entries.rotate_left(by);
        prop_assert_eq!(Manifest::new(entries), Ok(manifest));
    }

    #[test]
    fn no_prefix_of_a_manifest_is_one(manifest in manifests(), cut in any::<prop::sample::Index>()) {
        let bytes = manifest.encode();
        prop_assert!(Manifest::decode(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn whatever_is_accepted_is_the_one_encoding(
        manifest in manifests(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = manifest.encode();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(read) = Manifest::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    #[test]
    fn no_bytes_panic(body in prop::collection::vec(prop_oneof![0..6_u8, any::<u8>()], 0..200)) {
        let mut bytes = MANIFEST_MAGIC.to_vec();
        bytes.push(MANIFEST_VERSION);
        bytes.extend(body);
        if let Ok(read) = Manifest::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }
}
