//! Trees that must not be written are refused before anything is.

use std::fs;

use blobmesh_node::control::api::Trouble::{self, NotATree, TreeIncomplete, UnsafeTree};
use blobmesh_protocol::Hash;

use super::support::*;

const HEADER: &[u8] = b"BMTREE\0\x01";

/// Writes a number as manifests do.
fn number(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
    out
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    [number(bytes.len() as u64), bytes.to_vec()].concat()
}

/// Writes an entry whose name nobody has checked: a file of one byte that is in the store.
fn raw_file(name: &[u8]) -> Vec<u8> {
    sized_file(name, 1, &Hash::of(b"x"))
}

fn sized_file(name: &[u8], size: u64, hash: &Hash) -> Vec<u8> {
    [vec![0], counted(name), number(size), hash.as_bytes().to_vec()].concat()
}

fn raw_link(name: &[u8], target: &[u8]) -> Vec<u8> {
    [vec![2], counted(name), counted(target)].concat()
}

fn raw_dir(name: &[u8], entries: &[Vec<u8>]) -> Vec<u8> {
    [vec![3], counted(name), body(entries)].concat()
}

fn raw_tree(name: &[u8], hash: &Hash, totals: [u64; 3]) -> Vec<u8> {
    let totals = totals.map(number).concat();
    [vec![4], counted(name), hash.as_bytes().to_vec(), totals].concat()
}

fn body(entries: &[Vec<u8>]) -> Vec<u8> {
    [number(entries.len() as u64), entries.concat()].concat()
}

fn manifest(entries: &[Vec<u8>]) -> Vec<u8> {
    [HEADER.to_vec(), body(entries)].concat()
}

/// Is a tree nobody should write: what is wrong with it, its root, and what it ends in.
type Hostile = (String, Vec<u8>, Trouble);

fn hostile_names() -> Vec<Hostile> {
    let names: [&[u8]; 24] = [
        b"",
        b".",
        b"..",
        b"../out",
        b"a/b",
        b"/abs",
        b"/",
        b"a/../../b",
        b"nul\0",
        b"\0",
        &[b'n'; 256],
        b".git",
        b".GIT",
        b".Git ",
        b".git.",
        b"git~1",
        b".git::$INDEX_ALLOCATION",
        ".g\u{200c}it".as_bytes(),
        b".blobmesh",
        b".BlobMesh",
        b"blobme~1",
        b"./x",
        b"x/",
        b"a//b",
    ];
    let mut all = Vec::new();
    for name in names {
        let told = name.escape_ascii().to_string();
        all.push((format!("a file {told:?}"), manifest(&[raw_file(name)]), UnsafeTree));
        let below = manifest(&[raw_dir(b"sub", &[raw_link(name, b"x")])]);
        all.push((format!("a link {told:?} further down"), below, UnsafeTree));
    }
    let clashes: [[&[u8]; 2]; 5] = [
        [b"same", b"same"],
        [b"b", b"a"],
        [b"README", b"readme"],
        ["\u{e9}".as_bytes(), "e\u{301}".as_bytes()],
        ["STRASSE".as_bytes(), "stra\u{df}e".as_bytes()],
    ];
    for [one, other] in clashes {
        let mut entries = vec![raw_file(one), raw_file(other)];
        if one != b"b" {
            entries.sort();
        }
        let told = String::from_utf8_lossy(one).into_owned();
        all.push((format!("a name twice: {told}"), manifest(&entries), UnsafeTree));
    }
    all
}

fn hostile_links() -> Vec<Hostile> {
    let targets: [&[u8]; 12] = [
        b"/etc/passwd",
        b"/",
        b"..",
        b"../outside/file",
        b"../../../../etc",
        b"./..",
        b"a/../../x",
        b"a/..",
        b"",
        b"nul\0",
        &[b't'; 4096],
        b"..//..",
    ];
    let link = |target: &&[u8]| {
        let told: String = target.escape_ascii().to_string().chars().take(30).collect();
        (format!("a link to {told:?}"), manifest(&[raw_link(b"l", target)]), UnsafeTree)
    };
    let mut all: Vec<Hostile> = targets.iter().map(link).collect();
    let through = manifest(&[raw_link(b"a", b"."), raw_dir(b"a", &[raw_file(b"x")])]);
    all.push(("a link and a directory of one name".into(), through, UnsafeTree));
    let through = manifest(&[raw_dir(b"A", &[raw_file(b"x")]), raw_link(b"a", b".")]);
    all.push(("a link that some take for a directory".into(), through, UnsafeTree));
    let up = manifest(&[raw_dir(b"d", &[raw_link(b"l", b"../../x")])]);
    all.push(("a link out from further down".into(), up, UnsafeTree));
    all
}

fn hostile_shapes(room: &Room) -> Vec<Hostile> {
    let deep = |levels: usize| {
        let mut out = HEADER.to_vec();
        for _ in 0..levels {
            out.extend([1, 3, 1, b'd']);
        }
        out.extend(body(&[raw_file(b"f")]));
        out
    };
    let good = manifest(&[raw_file(b"f")]);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    let long_name = [b'p'; 250];
    let mut long = raw_file(b"f");
    for _ in 0..20 {
        long = raw_dir(&long_name, &[long]);
    }
    let many: Vec<Vec<u8>> = (100..300).map(|n: u32| raw_file(n.to_string().as_bytes())).collect();
    let large = room.put(&manifest(&many));
    let small = room.put(&good);
    let claim = |hash: &Hash, totals| manifest(&[raw_tree(b"t", hash, totals)]);
    let absent = Hash::of(b"never stored");
    let lies = [(0, "x"), (2, "x"), (u64::MAX, "x"), (1, "")].map(|(size, bytes)| {
        let root = manifest(&[sized_file(b"f", size, &Hash::of(bytes.as_bytes()))]);
        (format!("a file of {} bytes said to be of {size}", bytes.len()), root, UnsafeTree)
    });
    let mut all = vec![
        ("129 directories in each other".into(), deep(129), UnsafeTree),
        ("10,000 directories in each other".into(), deep(10_000), UnsafeTree),
        ("a path of 5,000 bytes".into(), manifest(&[long]), UnsafeTree),
        ("no manifest".into(), b"just a text".to_vec(), NotATree),
        ("nothing at all".into(), Vec::new(), NotATree),
        ("a newer version".into(), with(&|bytes| bytes[7] = 2), UnsafeTree),
        ("the end is missing".into(), with(&|bytes| bytes.truncate(bytes.len() - 1)), UnsafeTree),
        ("more behind the end".into(), with(&|bytes| bytes.push(0)), UnsafeTree),
        ("an unknown kind".into(), with(&|bytes| bytes[9] = 5), UnsafeTree),
        ("a number too long".into(), [HEADER, &[0x80, 0]].concat(), UnsafeTree),
        ("entries that are not there".into(), [HEADER, &number(1 << 62)].concat(), UnsafeTree),
        ("a million entries and one".into(), claim(&large, [0, 0, 1_000_001]), UnsafeTree),
        ("more bytes than a number holds".into(), claim(&large, [1, u64::MAX, 1]), UnsafeTree),
        ("fewer entries than there are".into(), claim(&large, [200, 200, 199]), UnsafeTree),
        ("a tree that is too short".into(), claim(&small, [1, 1, 1]), UnsafeTree),
        ("a tree that is a file".into(), claim(&Hash::of(b"x"), [1, 1, 1]), UnsafeTree),
        ("a directory that is too long".into(), manifest(&[raw_dir(b"d", &many)]), UnsafeTree),
        ("a tree that is not there".into(), claim(&absent, [1, 1, 1]), TreeIncomplete),
        (
            "a file that is not there".into(),
            manifest(&[sized_file(b"f", 9, &absent)]),
            TreeIncomplete,
        ),
    ];
    all.extend(lies);
    all
}

#[test]
fn hostile_trees_are_refused_and_nothing_is_written() {
    let room = Room::new();
    room.put(b"x");
    room.put(b"");
    let trees = [hostile_names(), hostile_links(), hostile_shapes(&room)].concat();
    let kept = room.path("place/kept");
    let held = tree([("f", file("kept")), ("sub", dir([("f", file("kept"))]))]);
    room.check_out_to(&kept, &room.put_tree(&held), &Default::default()).expect("checked out");
    let before = room.everything();
    for (about, bytes, kind) in &trees {
        let root = room.put(bytes);
        for force in [false, true] {
            let options = blobmesh_node::tree::Options { force, ..Default::default() };
            for out in [room.out(), kept.clone()] {
                let refused = room.check_out_to(&out, &root, &options).expect_err(about);
                assert_eq!(refused.kind(), *kind, "{about}: {refused}");
            }
        }
        assert!(!room.out().exists(), "{about}");
        let after = room.everything();
        let differs = after.iter().find(|(path, told)| before.get(*path) != Some(told));
        // A lock that was taken leaves no trace, and neither does a directory that was made and removed again.
        assert!(
            differs.is_none_or(|(path, _)| path.ends_with(".blobmesh") || path.ends_with("kept")),
            "{about}: {differs:?}"
        );
        assert_eq!(after.len(), before.len(), "{about}");
    }
    assert_holds(&kept, &held);
    assert!(trees.len() >= 60, "{}", trees.len());
    assert_eq!(fs::read_dir(room.path("place")).expect("list").count(), 1);
}
