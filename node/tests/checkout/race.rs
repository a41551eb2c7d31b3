//! Somebody who may write to the stage or to the checkout puts links in the way while a tree is written.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use blobmesh_protocol::Hash;

use super::support::*;

/// Replaces directories by links to another one, again and again, until it is told to stop; returns how often.
fn swap(places: &[std::path::PathBuf], outside: &Path, stop: &AtomicBool) -> u64 {
    let mut swaps = 0;
    while !stop.load(Ordering::Relaxed) {
        for (number, place) in places.iter().enumerate() {
            let aside = outside.with_file_name(format!("aside{number}"));
            if fs::rename(place, &aside).is_ok() {
                swaps += u64::from(symlink(outside, place).is_ok());
                fs::remove_file(place).ok();
                fs::rename(&aside, place).ok();
            }
        }
    }
    swaps
}

#[test]
fn links_swapped_in_while_a_tree_is_written_lead_nowhere() {
    let room = Room::new();
    let (first, second) = (many(400), edited(many(400)));
    let roots = [room.put_tree(&first), room.put_tree(&second)];
    let outside = fs::read_dir(room.path("outside")).expect("list").count();
    let stage = room.path("place").join(format!(".blobmesh-{}", &Hash::of(b"out").to_hex()[..16]));
    let own = room.out().join(".blobmesh/stage");
    let mut places: Vec<_> = (0..7).map(|number| stage.join(format!("d{number}"))).collect();
    places.extend((0..7).map(|number| room.out().join(format!("d{number}"))));
    places.push(own);
    let stop = AtomicBool::new(false);
    let swaps = std::thread::scope(|scope| {
        let swapper = scope.spawn(|| swap(&places, &room.path("outside"), &stop));
        for number in 0..60 {
            // It may fail: somebody takes directories away. It must not be led out.
            room.force(&roots[number % 2]).ok();
            if number % 4 == 3 {
                fs::remove_dir_all(room.out()).ok();
            }
        }
        stop.store(true, Ordering::Relaxed);
        swapper.join().expect("the swapper")
    });
    assert!(swaps > 0, "nothing was put to the test");
    assert_eq!(fs::read_dir(room.path("outside")).expect("list").count(), outside);
    assert_eq!(fs::read(room.path("outside/file")).expect("read"), b"outside/file");
    assert_eq!(fs::read_dir(room.path("outside/inner")).expect("list").count(), 1);
}

/// Changes every file of a tree.
fn edited(mut tree: Tree) -> Tree {
    for spec in tree.values_mut() {
        match spec {
            Spec::Dir(inner) => *inner = edited(std::mem::take(inner)),
            Spec::File(bytes) => bytes.push(b'!'),
            Spec::Program(_) | Spec::Link(_) => {}
        }
    }
    tree
}
