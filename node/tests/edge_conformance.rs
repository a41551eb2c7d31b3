//! One suite that every edge passes: a directory, a bucket of a real S3 server that checks
//! signatures, and a public URL. What only HTTP can get wrong follows, and what only a bucket can.
#![allow(clippy::cast_possible_truncation, reason = "small values of the tests' own making")]

/// Makes one test of each case for each kind of edge.
macro_rules! conformance {
    ($kind:ident: $($case:ident),+ $(,)?) => {
        mod $kind {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case(super::Place::$kind().await).await;
                }
            )+
        }
    };
}

mod edge_cases;
#[allow(dead_code, reason = "each test file uses its part")]
mod edge_support;

use blobmesh_node::control::api::Trouble;
use blobmesh_node::edge::{Breach, EdgeError, EdgeOptions, Reach};
use blobmesh_protocol::Hash;
use edge_support::blobs::{Blob, GROUP, collect};
use edge_support::place::{Place, quick};

conformance!(directory:
    missing_blob_is_not_found, range_outside_of_the_blob_is_refused, unusable_group_list_counts_as_none,
    blob_above_the_bound_is_refused, wrong_bytes_are_passed_on_for_the_caller_to_verify,
    blobs_of_boundary_sizes_come_back, ranges_come_back_exactly, group_list_comes_back_and_is_proven,
    pushed_blobs_come_back, second_push_uploads_nothing, push_replaces_a_blob_of_the_wrong_size,
    push_adds_a_missing_group_list, failed_source_leaves_no_blob, short_source_leaves_no_blob,
    list_of_another_blob_is_refused, progress_rises_to_the_size,
);
conformance!(s3:
    missing_blob_is_not_found, range_outside_of_the_blob_is_refused, unusable_group_list_counts_as_none,
    blob_above_the_bound_is_refused, wrong_bytes_are_passed_on_for_the_caller_to_verify,
    blobs_of_boundary_sizes_come_back, ranges_come_back_exactly, group_list_comes_back_and_is_proven,
    pushed_blobs_come_back, second_push_uploads_nothing, push_replaces_a_blob_of_the_wrong_size,
    push_adds_a_missing_group_list, failed_source_leaves_no_blob, short_source_leaves_no_blob,
    list_of_another_blob_is_refused, progress_rises_to_the_size,
);
conformance!(s3_h2:
    missing_blob_is_not_found, range_outside_of_the_blob_is_refused, unusable_group_list_counts_as_none,
    blob_above_the_bound_is_refused, wrong_bytes_are_passed_on_for_the_caller_to_verify,
    blobs_of_boundary_sizes_come_back, ranges_come_back_exactly, group_list_comes_back_and_is_proven,
    pushed_blobs_come_back, second_push_uploads_nothing, push_replaces_a_blob_of_the_wrong_size,
    push_adds_a_missing_group_list, failed_source_leaves_no_blob, short_source_leaves_no_blob,
    list_of_another_blob_is_refused, progress_rises_to_the_size,
);
conformance!(public:
    missing_blob_is_not_found, range_outside_of_the_blob_is_refused, unusable_group_list_counts_as_none,
    blob_above_the_bound_is_refused, wrong_bytes_are_passed_on_for_the_caller_to_verify,
    blobs_of_boundary_sizes_come_back, ranges_come_back_exactly, group_list_comes_back_and_is_proven,
    public_url_is_read_only,
);
conformance!(public_h2:
    missing_blob_is_not_found, range_outside_of_the_blob_is_refused, unusable_group_list_counts_as_none,
    blob_above_the_bound_is_refused, wrong_bytes_are_passed_on_for_the_caller_to_verify,
    blobs_of_boundary_sizes_come_back, ranges_come_back_exactly, group_list_comes_back_and_is_proven,
    public_url_is_read_only,
);

async fn missing_blob_is_not_found(place: Place) {
    let hash = Hash::of(b"nobody has this");
    let read = place.edge.read(&hash, None).await;
    assert!(matches!(read, Err(EdgeError::NotFound { .. })), "{read:?}");
    let read = place.edge.read(&hash, Some(5..10)).await;
    assert!(matches!(read, Err(EdgeError::NotFound { .. })), "{read:?}");
    let error = place.edge.size(&hash).await.expect_err("no blob");
    assert!(matches!(error, EdgeError::NotFound { .. }), "{error:?}");
    assert_eq!(error.trouble(), Trouble::NotFound);
    assert!(!error.is_temporary());
    assert!(error.to_string().contains(&hash.fmt_short()), "{error}");
    assert!(place.edge.group_list(&hash, u64::MAX).await.expect("answered").is_none());
}

async fn range_outside_of_the_blob_is_refused(place: Place) {
    let blob = Blob::of_len(1000);
    blob.seed(&place.root).await;
    for range in [1000..1001, 5000..6000, u64::MAX - 1..u64::MAX] {
        let read = place.edge.read(&blob.hash(), Some(range.clone())).await;
        let Err(EdgeError::Range { start, .. }) = read else { panic!("{range:?}: {read:?}") };
        assert_eq!(start, range.start);
    }
    for range in [5..5, 0..0] {
        let read = place.edge.read(&blob.hash(), Some(range)).await;
        assert!(matches!(read, Err(EdgeError::Range { .. })), "an empty range: {read:?}");
    }
}

async fn unusable_group_list_counts_as_none(place: Place) {
    let blob = Blob::of_len(3 * GROUP);
    blob.seed(&place.root).await;
    let file = blob.list.to_file();
    let mut flipped = file.clone();
    flipped[20] ^= 1;
    let too_long = [file.clone(), vec![0; 4 * GROUP]].concat();
    let of_another = Blob::of_len(4 * GROUP).list.to_file();
    for bad in [Vec::new(), file[..40].to_vec(), flipped, too_long, of_another] {
        std::fs::write(place.list_file(&blob.hash()), &bad).expect("written");
        let list = place.edge.group_list(&blob.hash(), blob.size()).await.expect("answered");
        assert!(list.is_none(), "{} bytes", bad.len());
    }
    std::fs::write(place.list_file(&blob.hash()), &file).expect("written");
    let above = place.edge.group_list(&blob.hash(), blob.size() - 1).await.expect("answered");
    assert!(above.is_none(), "a list of a blob above the bound");
    assert!(place.edge.group_list(&blob.hash(), blob.size()).await.expect("answered").is_some());
}

async fn blob_above_the_bound_is_refused(place: Place) {
    let blob = Blob::of_len(1001);
    blob.seed(&place.root).await;
    let edge = place.edge_with(EdgeOptions { blob_bytes_max: 1000, ..quick() });
    for range in [None, Some(0..10)] {
        let error = edge.read(&blob.hash(), range).await.expect_err("above the bound");
        let breach = Breach::TooLarge { size: 1001, size_max: 1000 };
        let EdgeError::Protocol { breach: found, .. } = &error else { panic!("{error:?}") };
        assert_eq!(found.to_string(), breach.to_string());
        assert_eq!(error.trouble(), Trouble::TooLarge);
    }
}

async fn wrong_bytes_are_passed_on_for_the_caller_to_verify(place: Place) {
    let blob = Blob::of_len(100);
    blob.seed(&place.root).await;
    std::fs::write(place.file(&blob.hash()), b"something else").expect("written");
    let body = place.edge.read(&blob.hash(), None).await.expect("answered");
    assert_eq!(collect(body).await.expect("read"), b"something else");
}

async fn blobs_of_boundary_sizes_come_back(place: Place) {
    for len in [0, 1, GROUP - 1, GROUP, GROUP + 1, 4 * GROUP, 5 * GROUP + 7] {
        let blob = Blob::of_len(len);
        blob.seed(&place.root).await;
        assert_eq!(place.edge.size(&blob.hash()).await.expect("a size"), blob.size(), "{len}");
        let body = place.edge.read(&blob.hash(), None).await.expect("a body");
        assert_eq!((body.size, body.range.clone()), (blob.size(), 0..blob.size()), "{len}");
        assert!(collect(body).await.expect("read") == blob.bytes, "{len}");
    }
}

async fn ranges_come_back_exactly(place: Place) {
    let blob = Blob::of_len(2 * GROUP + 100);
    blob.seed(&place.root).await;
    let size = blob.size();
    let wanted = [0..1, 0..size, 1000..70_000, GROUP as u64..2 * GROUP as u64, size - 1..size];
    for range in wanted {
        let body = place.edge.read(&blob.hash(), Some(range.clone())).await.expect("a body");
        assert_eq!((body.size, body.range.clone()), (size, range.clone()));
        let bytes = collect(body).await.expect("read");
        assert!(bytes == blob.bytes[range.start as usize..range.end as usize], "{range:?}");
    }
    let past = place.edge.read(&blob.hash(), Some(size - 10..size + 10)).await.expect("a body");
    assert_eq!(past.range, size - 10..size, "cut at the blob's end");
    assert!(collect(past).await.expect("read") == blob.bytes[size as usize - 10..]);
}

async fn group_list_comes_back_and_is_proven(place: Place) {
    for len in [GROUP + 1, 3 * GROUP + 5] {
        let blob = Blob::of_len(len);
        blob.seed(&place.root).await;
        let list = place.edge.group_list(&blob.hash(), blob.size()).await.expect("answered");
        let list = list.expect("a list");
        let last = list.last_group() as usize * GROUP;
        assert_eq!(list.confirm(&blob.bytes[last..]), Ok(blob.list.clone()), "{len}");
    }
}

async fn pushed_blobs_come_back(place: Place) {
    for len in [0, 1, GROUP + 1, 3_000_000] {
        let blob = Blob::of_len(len);
        assert!(!blob.push(&place.edge).await.expect("pushed").existed, "{len}");
        let body = place.edge.read(&blob.hash(), None).await.expect("a body");
        assert!(collect(body).await.expect("read") == blob.bytes, "{len}");
        // The hash of a short one verifies it whole.
        let list = place.edge.group_list(&blob.hash(), u64::MAX).await.expect("answered");
        assert_eq!(list.is_some(), len > GROUP, "{len}");
        assert!(std::fs::read(place.file(&blob.hash())).expect("a file") == blob.bytes, "{len}");
    }
}

async fn second_push_uploads_nothing(place: Place) {
    let blob = Blob::of_len(GROUP + 1);
    blob.push(&place.edge).await.expect("pushed");
    let before = std::fs::metadata(place.file(&blob.hash())).and_then(|m| m.modified()).ok();
    let source = |_, _| panic!("the bytes are asked for again");
    let again = place.edge.push(&blob.hash(), blob.size(), &blob.list, source, |_| {}).await;
    assert!(again.expect("pushed").existed);
    let after = std::fs::metadata(place.file(&blob.hash())).and_then(|m| m.modified()).ok();
    assert_eq!(before, after);
}

async fn push_replaces_a_blob_of_the_wrong_size(place: Place) {
    let blob = Blob::of_len(5000);
    blob.seed(&place.root).await;
    std::fs::write(place.file(&blob.hash()), b"cut short").expect("written");
    assert!(!blob.push(&place.edge).await.expect("pushed").existed);
    assert!(std::fs::read(place.file(&blob.hash())).expect("a file") == blob.bytes);
}

async fn push_adds_a_missing_group_list(place: Place) {
    let blob = Blob::of_len(2 * GROUP);
    blob.seed(&place.root).await;
    std::fs::remove_file(place.list_file(&blob.hash())).expect("removed");
    assert!(blob.push(&place.edge).await.expect("pushed").existed);
    assert_eq!(std::fs::read(place.list_file(&blob.hash())).expect("a file"), blob.list.to_file());
}

async fn failed_source_leaves_no_blob(place: Place) {
    let blob = Blob::of_len(3_000_000);
    let fails = |_, _| Err(std::io::Error::other("the disk is gone"));
    let push = place.edge.push(&blob.hash(), blob.size(), &blob.list, fails, |_| {}).await;
    let error = push.expect_err("no bytes");
    assert!(matches!(error, EdgeError::Io { path: None, .. }), "{error:?}");
    nothing_is_left(&place, &blob).await;
}

async fn short_source_leaves_no_blob(place: Place) {
    let blob = Blob::of_len(3_000_000);
    let bytes = blob.bytes.clone();
    let short = move |offset: u64, len: usize| {
        let from = offset as usize;
        Ok(bytes.slice(from..(from + len).min(2_500_000)))
    };
    let push = place.edge.push(&blob.hash(), blob.size(), &blob.list, short, |_| {}).await;
    assert!(matches!(push, Err(EdgeError::Io { .. })), "{push:?}");
    nothing_is_left(&place, &blob).await;
}

async fn nothing_is_left(place: &Place, blob: &Blob) {
    let size = place.edge.size(&blob.hash()).await;
    assert!(matches!(size, Err(EdgeError::NotFound { .. })), "{size:?}");
    let file = place.file(&blob.hash());
    let shard = file.parent().expect("a parent");
    let left = std::fs::read_dir(shard).map_or(0, Iterator::count);
    assert_eq!(left, 0, "temporary files are left");
}

async fn list_of_another_blob_is_refused(place: Place) {
    let (blob, other) = (Blob::of_len(10), Blob::of_len(11));
    let unread = |_, _| panic!("the bytes are asked for");
    let push = place.edge.push(&blob.hash(), 10, &other.list, unread, |_| {}).await;
    assert!(matches!(push, Err(EdgeError::WrongList { .. })), "{push:?}");
}

async fn progress_rises_to_the_size(place: Place) {
    let blob = Blob::of_len(11 << 20);
    // The S3 server holds to the 5 MiB that parts have at least.
    let options = EdgeOptions { multipart_above: 5 << 20, part_len: 5 << 20, ..quick() };
    let edge = place.edge_with(options);
    let bytes = blob.bytes.clone();
    let source =
        move |offset: u64, len: usize| Ok(bytes.slice(offset as usize..offset as usize + len));
    let mut told = Vec::new();
    let progress = |done| told.push(done);
    edge.push(&blob.hash(), blob.size(), &blob.list, source, progress).await.expect("pushed");
    assert!(told.is_sorted() && told.len() >= 3, "{told:?}");
    assert_eq!(told.last(), Some(&blob.size()));
}

async fn public_url_is_read_only(place: Place) {
    let error = Blob::of_len(10).push(&place.edge).await.expect_err("read only");
    assert!(matches!(error, EdgeError::ReadOnly { .. }), "{error:?}");
    assert_eq!(error.trouble(), Trouble::EdgeReadOnly);
    assert!(place.front().seen().is_empty(), "nothing was asked");
}

#[tokio::test]
async fn missing_directory_is_unreachable_and_not_empty() {
    let place = Place::directory().await;
    std::fs::remove_dir(&place.root).expect("removed");
    let blob = Blob::of_len(10);
    let size = place.edge.size(&blob.hash()).await;
    let read = place.edge.read(&blob.hash(), None).await.map(|_| ());
    let list = place.edge.group_list(&blob.hash(), 10).await.map(|_| ());
    let push = blob.push(&place.edge).await.map(|_| ());
    for ended in [size.map(|_| ()), read, list, push] {
        let Err(EdgeError::Unreachable { reach: Reach::Directory, .. }) = ended else {
            panic!("{ended:?}");
        };
    }
    assert!(!place.root.exists(), "a share that is not mounted is not made");
}

#[tokio::test]
async fn what_is_not_a_regular_file_is_never_opened() {
    let place = Place::directory().await;
    let hash = Hash::of(b"a directory has this name");
    std::fs::create_dir_all(place.file(&hash)).expect("made");
    let read = place.edge.read(&hash, None).await;
    let Err(EdgeError::Protocol { breach: Breach::NotAFile { .. }, .. }) = read else {
        panic!("{read:?}");
    };
}

#[tokio::test]
async fn file_that_shrinks_while_it_is_read_is_cut() {
    let place = Place::directory().await;
    let blob = Blob::of_len(1_000_000);
    blob.seed(&place.root).await;
    let mut body = place.edge.read(&blob.hash(), None).await.expect("a body");
    let first = body.chunk().await.expect("read").expect("bytes").len() as u64;
    std::fs::write(place.file(&blob.hash()), b"").expect("truncated");
    let error = body.chunk().await.expect_err("cut");
    let EdgeError::Cut { got, expected, .. } = error else { panic!("{error:?}") };
    assert_eq!((got, expected), (first, 1_000_000));
}
