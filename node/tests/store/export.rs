//! Getting blobs out to files.

use std::fs;
use std::path::Path;

use blobmesh_node::control::api::Trouble;
use blobmesh_node::store::StoreError;
use blobmesh_protocol::Hash;

use crate::support::{GROUP, Home, SIZES, bytes_of, fetch, flip_bit};

#[test]
fn every_size_is_exported_as_it_is_whether_added_or_fetched() {
    let home = Home::new();
    let store = home.open();
    for size in SIZES {
        for (seed, fetched) in [(1, false), (2, true)] {
            let bytes = bytes_of(size, seed);
            let hash = if fetched { fetch(&store, &bytes) } else { home.add(&store, &bytes) };
            // The second export finds every group checked and copies in one go.
            for _ in 0..2 {
                let dest = home.beside("out");
                assert_eq!(store.export(&hash, &dest, true).expect("export"), size as u64);
                assert!(fs::read(&dest).expect("read") == bytes, "size {size}");
            }
        }
    }
    assert_eq!(left_in(&home.beside("")), ["out", "source", "store"]);
}

#[cfg(unix)]
#[test]
fn exported_file_can_be_written_to_and_the_store_does_not_notice() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    let store = home.open();
    let bytes = bytes_of(2 * GROUP, 3);
    let hash = home.add(&store, &bytes);
    let dest = home.beside("out");
    store.export(&hash, &dest, false).expect("export");
    let mode = fs::metadata(&dest).expect("stat").permissions().mode();
    assert_eq!(mode & 0o7000, 0);
    assert_eq!(mode & 0o600, 0o600);
    fs::write(&dest, "mine now").expect("write");
    assert!(store.verify(&hash).expect("verify"));
}

#[test]
fn existing_output_is_kept_unless_forced() {
    let home = Home::new();
    let store = home.open();
    let bytes = bytes_of(100, 4);
    let hash = home.add(&store, &bytes);
    let dest = home.beside("out");
    fs::write(&dest, "old").expect("write");
    let refused = store.export(&hash, &dest, false).expect_err("it exists");
    assert_eq!(refused.kind(), Trouble::OutputExists);
    assert_eq!(fs::read_to_string(&dest).expect("read"), "old");
    store.export(&hash, &dest, true).expect("forced");
    assert_eq!(fs::read(&dest).expect("read"), bytes);
    let directory = home.beside("directory");
    fs::create_dir(&directory).expect("create");
    for force in [false, true] {
        let refused = store.export(&hash, &directory, force).expect_err("a directory");
        assert_eq!(refused.kind(), Trouble::OutputExists);
    }
}

#[cfg(unix)]
#[test]
fn pipe_is_not_replaced_by_a_file_not_even_by_force() {
    use std::os::unix::fs::FileTypeExt as _;
    let home = Home::new();
    let store = home.open();
    let hash = home.add(&store, &bytes_of(100, 6));
    let (pipe, link) = (home.beside("pipe"), home.beside("link"));
    let (cwd, mode) = (rustix::fs::CWD, rustix::fs::Mode::from_raw_mode(0o600));
    rustix::fs::mknodat(cwd, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
    std::os::unix::fs::symlink(&pipe, &link).expect("a link");
    for (dest, force) in [(&pipe, false), (&pipe, true), (&link, true)] {
        let refused = store.export(&hash, dest, force).expect_err("a pipe");
        assert_eq!(refused.kind(), Trouble::File, "{}", dest.display());
    }
    assert!(fs::symlink_metadata(&pipe).expect("stat").file_type().is_fifo());
    assert!(fs::symlink_metadata(&link).expect("stat").file_type().is_symlink());
}

#[test]
fn outputs_in_wrong_places_are_refused() {
    let home = Home::new();
    let store = home.open();
    let hash = home.add(&store, &bytes_of(100, 5));
    let kind = |dest: &Path| store.export(&hash, dest, true).expect_err("refused").kind();
    assert_eq!(kind(&home.beside("missing/out")), Trouble::OutputDirectoryMissing);
    assert_eq!(kind(&home.beside("source/out")), Trouble::OutputDirectoryMissing);
    assert_eq!(kind(&home.root().join("blobs").join("out")), Trouble::Usage);
    assert_eq!(kind(&home.root().join("tmp/../out")), Trouble::Usage);
    #[cfg(unix)]
    {
        let link = home.beside("link");
        std::os::unix::fs::symlink(home.root(), &link).expect("link");
        assert_eq!(kind(&link.join("out")), Trouble::Usage);
    }
    let absent = store.export(&Hash::of(b"absent"), &home.beside("out"), false);
    assert_eq!(absent.expect_err("absent").kind(), Trouble::NotFound);
}

#[test]
fn rotten_blob_is_never_exported() {
    let home = Home::new();
    let store = home.open();
    let bytes = bytes_of(4 * GROUP, 6);
    let hash = home.add(&store, &bytes);
    flip_bit(&home.blob_path(&hash), 3 * GROUP);
    let dest = home.beside("out");
    let refused = store.export(&hash, &dest, false).expect_err("rotten");
    assert!(matches!(refused, StoreError::Rot { .. }));
    assert!(!dest.exists());
    assert_eq!(store.find(&hash).expect("find"), None);
    assert_eq!(left_in(&home.beside("")), ["source", "store"]);
}

fn left_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .expect("list")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
