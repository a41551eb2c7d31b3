//! What this node can give of a blob: all of it, or the groups that a fetch of its own has brought.

use std::sync::Arc;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{GROUP_LEN, GroupList, GroupSet};
use blobmesh_protocol::compress::{
    Codec, Compressor, PROBE_SAMPLE_LEN, Probe, probe, probe_offsets,
};
use blobmesh_protocol::wire::message::BlobRequest;

use super::provider::plan;
use crate::store::{BlobReader, Partial, Store, StoreError};

/// Is what can be served of a blob.
pub(crate) enum Holding {
    /// All of it.
    Whole(BlobReader),
    /// The groups that a fetch of our own has brought so far.
    Part(Partial),
}

impl Holding {
    /// Finds a blob, or a part of one that has all that is asked for.
    pub(crate) fn find(store: &Store, request: &BlobRequest) -> Result<Option<Self>, StoreError> {
        let hash = &request.hash;
        if let Some(reader) = open(store, hash)? {
            return Ok(Some(Self::Whole(reader)));
        }
        let partial = if request.runs.is_empty() { None } else { store.find_partial(hash)? };
        Ok(partial.map(Self::Part).filter(|part| part.has(request)))
    }

    /// Returns whether all that is asked for is held; of a part nothing is that makes no sense. Which groups there are of a
    /// whole blob is for the provider to check.
    pub(crate) fn has(&self, request: &BlobRequest) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Part(_) if request.runs.is_empty() => false,
            Self::Part(_) if plan(request, self.size()).is_none() => false,
            Self::Part(partial) => holds(&partial.held(), request),
        }
    }

    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Whole(reader) => reader.size(),
            Self::Part(partial) => partial.list().size(),
        }
    }

    pub(crate) fn list(&self) -> Result<Arc<GroupList>, StoreError> {
        match self {
            Self::Whole(reader) => reader.list(),
            Self::Part(partial) => Ok(partial.list()),
        }
    }

    /// Reads a group, which is checked once by this process; an error if it is not held any more.
    pub(crate) fn read_group(&self, index: u64, buf: &mut Vec<u8>) -> Result<(), StoreError> {
        match self {
            Self::Whole(reader) => reader.read_group(index, buf),
            Self::Part(partial) if partial.read_group(index, buf)? => Ok(()),
            Self::Part(partial) => Err(StoreError::Absent { hash: partial.list().hash() }),
        }
    }

    /// Reads groups in a row, the first of them `first`, into `buf`, which is exactly as long as they are.
    pub(crate) fn read_run(&self, first: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        match self {
            Self::Whole(reader) => reader.read_run(first, buf),
            Self::Part(partial) if partial.read_run(first, buf)? => Ok(()),
            Self::Part(partial) => Err(StoreError::Absent { hash: partial.list().hash() }),
        }
    }

    /// Makes what compresses groups for a requester of these codecs. Of a part the first group that was
    /// asked for stands for all.
    pub(crate) fn compressor(&self, codecs: u8, first: u64) -> Result<Compressor, StoreError> {
        match self {
            Self::Whole(reader) => compressor(reader, codecs),
            Self::Part(_) if codecs & Codec::Lz4.bit() == 0 => {
                Ok(Compressor::new(Probe::Incompressible, codecs))
            }
            Self::Part(_) => {
                let mut sample = Vec::new();
                self.read_group(first, &mut sample)?;
                sample.truncate(PROBE_SAMPLE_LEN);
                Ok(Compressor::new(probe(std::iter::once(&sample[..])), codecs))
            }
        }
    }
}

/// Returns whether all groups that are asked for are held, and the last one if it is to prove the list.
fn holds(held: &GroupSet, request: &BlobRequest) -> bool {
    let proves = !request.with_list || held.contains(held.groups().saturating_sub(1));
    proves
        && request.runs.iter().all(|(start, count)| {
            let end = start.saturating_add(*count);
            end <= held.groups() && (*start..end).all(|group| held.contains(group))
        })
}

/// Opens a blob with its list, `None` if it is not there or has rotted. A list that is lost is made
/// anew of all the blob's bytes: who waits for it has had no promise yet, and goes elsewhere.
fn open(store: &Store, hash: &Hash) -> Result<Option<BlobReader>, StoreError> {
    let Some(reader) = store.open_blob(hash)? else { return Ok(None) };
    match reader.list() {
        Ok(_) => Ok(Some(reader)),
        Err(StoreError::Rot { .. } | StoreError::Absent { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes what compresses a blob's groups for a requester of these codecs, as far as a probe says that it
/// is worth it.
fn compressor(reader: &BlobReader, codecs: u8) -> Result<Compressor, StoreError> {
    let is_wanted = codecs & Codec::Lz4.bit() != 0;
    let probe = if is_wanted { probe_blob(reader)? } else { Probe::Incompressible };
    Ok(Compressor::new(probe, codecs))
}

fn probe_blob(reader: &BlobReader) -> Result<Probe, StoreError> {
    let mut samples: Vec<Vec<u8>> = Vec::new();
    for offset in probe_offsets(reader.size()) {
        let mut sample = Vec::new();
        reader.read_group(offset / GROUP_LEN, &mut sample)?;
        sample.truncate(PROBE_SAMPLE_LEN);
        samples.push(sample);
    }
    Ok(probe(samples.iter().map(Vec::as_slice)))
}

#[cfg(test)]
mod tests {
    use blobmesh_protocol::blob::BlobHasher;
    use blobmesh_protocol::wire::lane::{LaneOffer, LaneToken, TAKES_LANE};
    use blobmesh_protocol::wire::message::{BlobHead, END, HEAD, LANE_OFFER};
    use tokio::io::duplex;

    use super::*;
    use crate::store::StoreConfig;
    use crate::transfer::{FrameIo, UploadRate, provider};

    const GROUP: usize = 64 * 1024;

    /// Returns a store that holds groups 4 and 5 of eight, and the blob's hash.
    fn part(dir: &std::path::Path) -> (Store, Hash) {
        let bytes: Vec<u8> = (0..251u8).cycle().take(8 * GROUP).collect();
        let mut hasher = BlobHasher::new();
        hasher.update(&bytes);
        let store = Store::open(StoreConfig::new(dir.join("store"), 1 << 30, 1 << 30));
        let store = store.expect("opens").0;
        let partial = store.partial(hasher.finish()).expect("a partial");
        for index in [4, 5, 7] {
            let group = &bytes[index * GROUP..(index + 1) * GROUP];
            partial.write_group(u64::try_from(index).expect("small"), group).expect("written");
        }
        (store, Hash::of(&bytes))
    }

    fn request(hash: Hash, runs: Vec<(u64, u64)>) -> BlobRequest {
        let codecs = Codec::ALL | TAKES_LANE;
        BlobRequest { hash, with_list: false, codecs, runs }
    }

    #[tokio::test]
    async fn part_whose_first_group_is_missing_offers_lanes() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, hash) = part(dir.path());
        let _held = store.find_partial(&hash).expect("readable").expect("held");
        let (ours, theirs) = duplex(1 << 20);
        let (mut ours, mut theirs) = (FrameIo::new(ours), FrameIo::new(theirs));
        let offer = |bytes| {
            assert_eq!(bytes, 8 * 64 * 1024, "who asks for a range in the middle comes again");
            let tokens = vec![LaneToken::from_bytes([1; 16])];
            Some(LaneOffer { port: 1, tokens })
        };
        let upload = UploadRate::default();
        let request = request(hash, vec![(4, 2)]);
        let served = provider::serve(&mut theirs, request, (&store, &upload), offer);
        assert_eq!(served.await.expect("served"), 0);
        let head = ours.read().await.expect("readable").expect("a head");
        assert_eq!(head.decode::<BlobHead>(), Ok(BlobHead::Ok { size: 8 * 64 * 1024 }));
        let mut kinds = vec![head.kind];
        while let Some(frame) = ours.read().await.expect("readable") {
            kinds.push(frame.kind);
        }
        assert_eq!(kinds, [HEAD, LANE_OFFER, END]);
    }

    #[test]
    fn part_has_what_it_holds_and_a_run_comes_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, hash) = part(dir.path());
        let find = |runs| Holding::find(&store, &request(hash, runs)).expect("readable");
        assert!(find(vec![(4, 3)]).is_none() && find(vec![]).is_none());
        assert!(find(vec![(u64::MAX, 2)]).is_none() && find(vec![(8, 1)]).is_none());
        let part = find(vec![(4, 2), (7, 1)]).expect("held");
        let mut bytes = vec![0; 2 * GROUP];
        part.read_run(4, &mut bytes).expect("held");
        let expected: Vec<u8> = (0..251u8).cycle().take(6 * GROUP).collect();
        assert!(bytes[..] == expected[4 * GROUP..]);
        for (first, len) in [(3, GROUP), (5, 2 * GROUP), (5, GROUP - 1), (8, GROUP), (u64::MAX, 1)]
        {
            assert!(part.read_run(first, &mut vec![0; len]).is_err(), "{first}, {len}");
        }
    }
}
