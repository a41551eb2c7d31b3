//! Trees that are odd and legal come out bit by bit, fresh and where another tree was.

use std::collections::BTreeMap;
use std::fs;

use super::support::*;

/// Is a tree, and what is odd about it.
type Odd = (String, Tree);

fn odd_names() -> Vec<Odd> {
    let mut trees: Vec<Odd> = Vec::new();
    let names: [&[u8]; 34] = [
        b" ",
        b"a b",
        b" lead",
        b"trail ",
        b"new\nline",
        b"\ttab",
        b"\r",
        b"\x01\x02",
        b"\x7f",
        b"\xff\xfe",
        b"caf\xe9",
        "🦀🦀".as_bytes(),
        "名前".as_bytes(),
        "\u{202e}rtl".as_bytes(),
        b"-rf",
        b"--help",
        b"...",
        b"..a",
        b".hidden",
        b"a.",
        b"back\\slash",
        b"C:",
        b"*",
        b"?",
        b"$(reboot)",
        b"`id`",
        b"'",
        b"\"",
        b"~",
        b"CON",
        b"%00",
        b"#",
        b"|",
        b"\xf0\x9f",
    ];
    for name in names {
        let inner: Tree = BTreeMap::from([(name.to_vec(), file("inner"))]);
        let twice =
            BTreeMap::from([(name.to_vec(), Spec::Dir(inner)), (b"z".to_vec(), link(name))]);
        trees.push((format!("the name {:?}", name.escape_ascii().to_string()), twice));
    }
    let long = |byte: u8| vec![byte; 255];
    let inner = BTreeMap::from([(long(0xee), file("x"))]);
    let tree = BTreeMap::from([(long(b'n'), Spec::Dir(inner))]);
    trees.push(("names of 255 bytes".into(), tree));
    trees
}

fn odd_shapes() -> Vec<Odd> {
    let mut trees: Vec<Odd> = Vec::new();
    trees.push(("nothing".into(), Tree::new()));
    for len in [0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 1 << 20] {
        trees.push((
            format!("a file of {len} bytes"),
            tree([("f", file(vec![3; len])), ("x", Spec::Program(vec![4; len]))]),
        ));
    }
    let mut sparse = vec![0; 4 << 20];
    sparse[3 << 20] = 1;
    trees.push(("a file that is nearly all zeros".into(), tree([("sparse", file(sparse))])));
    for depth in [1, 60, 127] {
        let deep = (0..depth).fold(file("deep"), |inner, _| dir([("d", inner)]));
        trees.push((format!("{depth} directories in each other"), tree([("down", deep)])));
    }
    let same = |number: usize| (format!("copy{number:03}").into_bytes(), file("the same"));
    trees.push(("one blob a hundred times".into(), (0..100).map(same).collect()));
    let hollow = |number: usize| (format!("dir{number:03}").into_bytes(), dir([]));
    trees.push(("empty directories".into(), (0..100).map(hollow).collect()));
    let mut target = b"x/".repeat(2047);
    target.push(b'y');
    trees.push(("a link of 4,095 bytes".into(), tree([("l", link(target))])));
    trees.push((
        "links that lead nowhere, here and in a circle".into(),
        tree([
            ("dangling", link("no/where")),
            ("here", link(".")),
            ("circle", link("circle")),
            ("sub", dir([("up", link("..")), ("down", link("../sub/up"))])),
        ]),
    ));
    trees.push((
        "a file where the last tree had directories".into(),
        tree([("sub", file("file")), ("down", link("sub"))]),
    ));
    trees.push((
        "a directory where the last tree had files".into(),
        tree([("sub", dir([("down", file("x"))])), ("down", dir([("sub", file("y"))]))]),
    ));
    trees.push(("many files".into(), many(2000)));
    trees
}

#[test]
fn odd_trees_come_out_bit_by_bit() {
    let trees = [odd_names(), odd_shapes()].concat();
    let room = Room::new();
    let switched = room.path("place/out");
    for (about, expected) in &trees {
        let root = room.put_tree(expected);
        let fresh = room.path("place/fresh");
        room.check_out_to(&fresh, &root, &Default::default()).expect(about);
        assert_holds(&fresh, expected);
        fs::remove_dir_all(&fresh).expect("remove");
        room.check_out_to(&switched, &root, &Default::default()).expect(about);
        assert_holds(&switched, expected);
    }
    assert!(trees.len() >= 48, "{}", trees.len());
}
