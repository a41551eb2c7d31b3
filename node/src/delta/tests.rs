//! Requester and provider over a pipe, and providers that misbehave.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{BlobHasher, GroupList};
use blobmesh_protocol::compress::Codec;
use blobmesh_protocol::delta::Cutter;
use blobmesh_protocol::delta::map::push_entry;
use blobmesh_protocol::wire::delta::{
    DELTA_REQUEST, DeltaRequest, DeltaWants, Ranges, push_map, push_range,
};
use blobmesh_protocol::wire::frame::{self, FrameHeader};
use blobmesh_protocol::wire::message::{BlobHead, END, GROUP, HEAD, LIST};
use tempfile::TempDir;
use tokio::io::{DuplexStream, duplex};

use super::provider::{Sources, pieces_of, serve};
use super::requester::make;
use super::*;
use crate::lane::Slot;
use crate::small::provider::Admission;
use crate::store::{Store, StoreConfig};
use crate::transfer::provider::ServeError;
use crate::transfer::{FetchError, FrameIo, UploadRate, provider as blob_provider};

const GROUP_LEN: usize = 64 << 10;

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// A base of 20 groups, and the blob: 1,000 bytes inserted near the front, and 3,000 replaced.
fn versions() -> (Vec<u8>, Vec<u8>) {
    let base = bytes(1, 20 * GROUP_LEN);
    let mut blob = base.clone();
    blob[700_000..703_000].copy_from_slice(&bytes(2, 3_000));
    blob.splice(500..500, bytes(3, 1_000));
    (base, blob)
}

fn store(dir: &Path) -> Store {
    Store::open(StoreConfig::new(dir.join("store"), 1 << 30, 1 << 30)).expect("opens").0
}

fn put(store: &Store, bytes: &[u8]) -> Hash {
    let hash = Hash::of(bytes);
    store.put_whole(&hash, bytes).expect("stored");
    hash
}

struct Always;
struct NoSlot;

impl Admission for Always {
    type Slot = NoSlot;

    async fn admit(&mut self) -> Result<NoSlot, Option<Duration>> {
        Ok(NoSlot)
    }
}

impl Slot for NoSlot {
    fn sent(&mut self, _bytes: u64) {}
}

/// A requester with a base, and a provider's store.
struct Two {
    _dirs: [TempDir; 2],
    getter: Store,
    base: Arc<Base>,
    sources: Sources,
}

impl Two {
    fn new(base: &[u8]) -> Self {
        let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
        let [getter, holder] = [&dirs[0], &dirs[1]].map(|dir| store(dir.path()));
        let base = getter.open_blob(&put(&getter, base)).expect("readable").expect("there");
        let maps = Arc::new(Maps::new(holder.dir()));
        let sources = Sources { store: holder, maps, upload: UploadRate::default() };
        Self { _dirs: dirs, getter, base: Arc::new(Base::Blob(base)), sources }
    }

    /// Asks an honest provider.
    async fn make(&self, hash: Hash) -> (Result<(), DeltaError>, Made) {
        let (ours, theirs) = duplex(1 << 20);
        let sources = self.sources.clone();
        let provider = tokio::spawn(async move { serve_all(theirs, &sources).await });
        let made = self.make_over(ours, hash).await;
        provider.await.expect("no panic").expect("served");
        made
    }

    async fn make_over(&self, stream: DuplexStream, hash: Hash) -> (Result<(), DeltaError>, Made) {
        let mut made = Made::default();
        let end = make(stream, hash, &self.base, &self.getter, &mut made).await;
        (end, made)
    }

    /// How many groups of a blob are held.
    fn held(&self, hash: &Hash) -> u64 {
        let partial = self.getter.find_partial(hash).expect("readable");
        partial.map_or(0, |partial| partial.held().held())
    }
}

async fn serve_all(stream: DuplexStream, sources: &Sources) -> Result<(), ServeError> {
    let mut io = FrameIo::new(stream);
    let first = blob_provider::first(&mut io).await?;
    serve(io, first, sources, Always).await
}

#[tokio::test]
async fn blob_is_made_of_its_base_and_its_map_is_made_once() {
    let (base, blob) = versions();
    let two = Two::new(&base);
    let hash = put(&two.sources.store, &blob);
    let (end, made) = two.make(hash).await;
    end.expect("made");
    assert!(made.whole && made.fetched < 80_000, "{made:?}");
    assert_eq!(made.copied + made.fetched, blob.len() as u64);
    let kept = two.sources.store.dir().join("maps").join(hash.to_hex());
    let map = std::fs::read(&kept).expect("the map is kept");
    // One that is damaged is made again; and one that is there is not.
    for wrong in [map[..map.len() - 1].to_vec(), bytes(1, map.len())] {
        std::fs::write(&kept, wrong).expect("written");
        two.getter.remove(&hash, true).expect("removed");
        assert!(two.make(hash).await.1.whole);
        assert!(std::fs::read(&kept).expect("kept") == map);
    }
    let since = || std::fs::metadata(&kept).and_then(|meta| meta.modified()).expect("a time");
    let before = since();
    two.getter.remove(&hash, true).expect("removed");
    assert!(two.make(hash).await.1.whole);
    assert_eq!(since(), before);
}

#[tokio::test]
async fn what_an_earlier_get_has_brought_is_kept_and_its_list_not_asked_for() {
    let (base, blob) = versions();
    let two = Two::new(&base);
    let hash = put(&two.sources.store, &blob);
    let partial = two.getter.partial(list_of(&blob)).expect("begun");
    let last = partial.list().size() / GROUP_LEN as u64;
    for index in [last, 0, 10] {
        let at = usize::try_from(index).expect("few") * GROUP_LEN;
        let group = &blob[at..(at + GROUP_LEN).min(blob.len())];
        assert!(partial.write_group(index, group).expect("right"));
    }
    drop(partial);
    let (end, made) = two.make(hash).await;
    end.expect("made");
    // Both changes lie in groups that are held.
    assert!(made.whole && made.fetched == 0, "{made:?}");
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_and_the_stream_goes_on() {
    let (base, blob) = versions();
    let two = Two::new(&base);
    let (hash, small) = (put(&two.sources.store, &blob), put(&two.sources.store, &blob[..200_000]));
    let (ours, theirs) = duplex(1 << 20);
    let sources = two.sources.clone();
    let provider = tokio::spawn(async move { serve_all(theirs, &sources).await });
    let mut io = FrameIo::new(ours);
    let size = blob.len() as u64;
    let past = size - 1..size + 1;
    for (hash, wants, head) in [
        (small, DeltaWants::List, BlobHead::Refused),
        (small, DeltaWants::Map, BlobHead::Refused),
        (Hash::of(b"nobody"), DeltaWants::Map, BlobHead::Absent),
        (hash, DeltaWants::Bytes(Ranges::new(&[])), BlobHead::Refused),
        (hash, DeltaWants::Bytes(Ranges::new(&[0..1, 1..1])), BlobHead::Refused),
        (hash, DeltaWants::Bytes(Ranges::new(std::slice::from_ref(&past))), BlobHead::Refused),
        (hash, DeltaWants::Edges(Ranges::new(std::slice::from_ref(&past))), BlobHead::Refused),
    ] {
        let request = DeltaRequest { hash, codecs: Codec::ALL, wants };
        io.write(&frame::encode(DELTA_REQUEST, &request).expect("encodes")).await.expect("written");
        let frame = io.read().await.expect("readable").expect("a head");
        assert_eq!((frame.kind, frame.decode::<BlobHead>()), (HEAD, Ok(head)), "{request:?}");
    }
    // Something else than a delta request ends it.
    io.write(&FrameHeader { kind: END, len: 0 }.encode()).await.expect("written");
    assert!(matches!(provider.await.expect("no panic"), Err(ServeError::NoRequest)));
}

#[cfg(unix)]
#[tokio::test]
async fn group_of_the_base_that_has_rotted_is_fetched() {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    let base = bytes(1, 20 * GROUP_LEN);
    let mut blob = base.clone();
    blob.extend(bytes(2, 10));
    let two = Two::new(&base);
    let hash = put(&two.sources.store, &blob);
    let path = two.getter.blob_path(&Hash::of(&base));
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("changed");
    let file = std::fs::File::options().write(true).open(&path).expect("opened");
    file.write_all_at(&[!base[300_000]], 300_000).expect("written");
    let (end, made) = two.make(hash).await;
    end.expect("made");
    assert!(made.whole && (1_000..GROUP_LEN as u64).contains(&made.fetched), "{made:?}");
    let read = two.getter.open_blob(&hash).expect("readable").expect("there");
    let mut group = Vec::new();
    read.read_group(4, &mut group).expect("right");
    assert!(group == blob[4 * GROUP_LEN..5 * GROUP_LEN]);
}

fn list_of(bytes: &[u8]) -> GroupList {
    let mut hasher = BlobHasher::new();
    hasher.update(bytes);
    hasher.finish()
}

/// What a provider does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Misdeed {
    /// Its list has one entry too few.
    ShortList,
    /// Its list is of another blob.
    OtherList,
    /// Its map is noise.
    NoiseMap,
    /// It never ends its map.
    EndlessMap,
    /// Its map is that of the base.
    OtherMap,
    /// The keys of its edges are too many.
    ManyKeys,
    /// The bytes of its ranges are wrong.
    WrongBytes,
    /// A piece of a range is too short.
    ShortPiece,
    /// It says another size, once the list is there.
    OtherSize,
    /// It goes away.
    Gone,
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).expect("short");
    [&FrameHeader { kind, len }.encode(), body].concat()
}

fn map_of(bytes: &[u8]) -> Vec<u8> {
    let mut map = Vec::new();
    let size = bytes.len() as u64;
    Cutter::of(size).cut(bytes, true, |stretch| push_entry(stretch, &mut map));
    map
}

/// Answers one request, as a provider would that does this one thing wrong.
fn answer(wants: &DeltaWants, blob: &[u8], base: &[u8], misdeed: Misdeed) -> Vec<u8> {
    let size = blob.len() as u64;
    let lies = misdeed == Misdeed::OtherSize && !matches!(wants, DeltaWants::List);
    let head = BlobHead::Ok { size: if lies { size + 1 } else { size } };
    let mut frames = frame::encode(HEAD, &head).expect("encodes");
    match wants {
        DeltaWants::List => {
            let of = if misdeed == Misdeed::OtherList { &bytes(9, blob.len()) } else { blob };
            let mut values = list_of(of).values().concat();
            if misdeed == Misdeed::ShortList {
                values.truncate(values.len() - 32);
            }
            frames.extend(framed(LIST, &values));
            let last = blob.len() / GROUP_LEN;
            let prefix = [&(last as u64).to_le_bytes()[..], &[0]].concat();
            frames.extend(framed(GROUP, &[&prefix[..], &blob[last * GROUP_LEN..]].concat()));
        }
        DeltaWants::Map if misdeed == Misdeed::NoiseMap => push_map(&bytes(4, 900), &mut frames),
        DeltaWants::Map if misdeed == Misdeed::EndlessMap => {
            push_map(&map_of(blob).repeat(50), &mut frames);
        }
        DeltaWants::Map if misdeed == Misdeed::OtherMap => {
            let other = [base, &bytes(1, blob.len() - base.len())].concat();
            push_map(&map_of(&other), &mut frames);
        }
        DeltaWants::Map => push_map(&map_of(blob), &mut frames),
        DeltaWants::Edges(ranges) => {
            let cutter = Cutter::of(size);
            let ranges = ranges.within(size, u64::MAX).expect("sensible");
            let of = |range: &std::ops::Range<u64>| {
                blobmesh_protocol::delta::edges::keys_len(range.end - range.start, cutter)
            };
            let extra = u64::from(misdeed == Misdeed::ManyKeys);
            let len = ranges.iter().map(of).sum::<u64>() + extra;
            push_map(&vec![0; usize::try_from(len).expect("few")], &mut frames);
        }
        DeltaWants::Bytes(ranges) => {
            let ranges = ranges.within(size, u64::MAX).expect("sensible");
            for piece in ranges.iter().flat_map(pieces_of) {
                let [from, to] =
                    [piece.start, piece.end].map(|at| usize::try_from(at).expect("short"));
                let mut part = blob[from..to].to_vec();
                part[0] ^= u8::from(misdeed == Misdeed::WrongBytes);
                part.truncate(if misdeed == Misdeed::ShortPiece { 1 } else { part.len() });
                push_range(Codec::Raw, &part, &mut frames);
            }
        }
    }
    frames.extend(framed(END, &[]));
    frames
}

async fn misbehave(stream: DuplexStream, blob: Vec<u8>, base: Vec<u8>, misdeed: Misdeed) {
    let mut io = FrameIo::new(stream);
    while let Ok(Some(frame)) = io.read().await {
        let request: DeltaRequest = frame.decode().expect("a delta request");
        let goes = misdeed == Misdeed::Gone && request.wants == DeltaWants::Map;
        let frames = answer(&request.wants, &blob, &base, misdeed);
        if goes || io.write(&frames).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn providers_that_misbehave_cost_the_delta_and_nothing_wrong_is_kept() {
    let (base, blob) = versions();
    let hash = Hash::of(&blob);
    for misdeed in [
        Misdeed::ShortList,
        Misdeed::OtherList,
        Misdeed::NoiseMap,
        Misdeed::EndlessMap,
        Misdeed::OtherMap,
        Misdeed::ManyKeys,
        Misdeed::WrongBytes,
        Misdeed::ShortPiece,
        Misdeed::OtherSize,
        Misdeed::Gone,
    ] {
        let two = Two::new(&base);
        let (ours, theirs) = duplex(1 << 20);
        let provider = tokio::spawn(misbehave(theirs, blob.clone(), base.clone(), misdeed));
        let (end, made) = two.make_over(ours, hash).await;
        provider.await.expect("no panic");
        assert!(!made.whole, "{misdeed:?}");
        let (groups, held) = (list_of(&blob).values().len() as u64, two.held(&hash));
        match misdeed {
            Misdeed::ShortList | Misdeed::OtherList => {
                assert!(end.is_err() && held == 0, "{misdeed:?} {end:?}");
            }
            // Only what was to be fetched is wrong; the rest is made.
            Misdeed::WrongBytes => {
                end.expect("the get does the rest");
                assert!(held > groups / 2 && held < groups, "{held} of {groups}");
            }
            // The map says that all is as in the base, which no group is but by chance.
            Misdeed::OtherMap => assert!(held < groups, "{held}"),
            Misdeed::NoiseMap | Misdeed::EndlessMap => {
                assert!(matches!(end, Err(DeltaError::Map(_))) && held == 1, "{misdeed:?} {end:?}");
            }
            Misdeed::ManyKeys | Misdeed::ShortPiece | Misdeed::OtherSize | Misdeed::Gone => {
                assert!(matches!(end, Err(DeltaError::Fetch(_))), "{misdeed:?} {end:?}");
                assert!((1..groups).contains(&held), "{misdeed:?} {held}");
            }
        }
        // An honest one makes it whole, of what was kept.
        put(&two.sources.store, &blob);
        assert!(two.make(hash).await.1.whole, "{misdeed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn silent_provider_is_given_up() {
    let (base, blob) = versions();
    let two = Two::new(&base);
    let (ours, _theirs) = duplex(1 << 20);
    let (end, _) = two.make_over(ours, Hash::of(&blob)).await;
    assert!(matches!(end, Err(DeltaError::Fetch(FetchError::Short))), "{end:?}");
}
