//! Finding out what an edge has of many blobs, without a request for each.
//!
//! The index knows what was pushed in packs and beside them. What it does not know may have been pushed by itself, or
//! by another program: where many such blobs are asked for, the first page of a listing shows how many pages all of it
//! has, and where that is less than asking for each blob, the rest is listed, too.

use std::collections::HashMap;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::GROUP_LEN;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tracing::debug;

use super::PACKED_BYTES_MAX;
use super::format::{Entry, Place};
use super::reader::index_task;
use crate::edge::error::EdgeError;
use crate::edge::s3::{Page, S3Edge};
use crate::edge::{Backend, Edge, group_file_len};

/// A page of a listing costs what so many questions do, by R2's prices; fewer long blobs than two pages' worth are
/// asked for one by one.
const QUESTIONS_A_PAGE: usize = 12;
const LONG_MIN: usize = 2 * QUESTIONS_A_PAGE;
/// A page of a listing is worth being spared so many uploads of small blobs in packs, about 1 MiB.
const SMALL_A_PAGE: usize = 100;
/// The pages of a listing at most, whatever they would spare.
const PAGES_MAX: usize = 2_000;
/// Up to so many pages the listing is cut by one digit of the hashes, above by two; these are listed at once.
const PAGES_BY_DIGIT_MAX: usize = 64;
const LISTED_AT_ONCE: usize = 16;

/// Says what is known of a blob at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It is there, with its group list, and the index says so.
    Indexed,
    /// It is there, with its group list.
    Here,
    /// It is not, or not as it should be.
    Absent,
    /// Nobody has looked.
    Unknown,
}

impl Edge {
    /// Returns what is known of blobs of these lengths, with one request for the index, and where there are many that
    /// it does not know, some for a listing. With `packs` a blob in a pack is there.
    ///
    /// # Errors
    /// Those of the index. That nothing can be listed is no reason to fail.
    pub(crate) async fn survey(
        &self,
        blobs: &[(Hash, u64)],
        packs: bool,
    ) -> Result<Vec<Presence>, EdgeError> {
        let Backend::S3(bucket) = &self.backend else {
            return Ok(vec![Presence::Unknown; blobs.len()]);
        };
        self.look().await?;
        let found: Vec<_> = {
            let index = self.packs.index();
            let is_there = |(hash, size): &(Hash, u64)| {
                let counts = |entry: &Entry| packs || entry.place == Place::Alone;
                index.find(hash).is_some_and(|entry| entry.size == *size && counts(&entry))
            };
            blobs.iter().map(is_there).collect()
        };
        let unknown = blobs.iter().zip(&found).filter(|(_, found)| !**found);
        let mut listing = Listing::of(unknown.map(|(blob, _)| *blob), packs);
        listing.run(bucket).await;
        let presence = |(blob, found): (&(Hash, u64), bool)| {
            if found { Presence::Indexed } else { listing.presence(blob) }
        };
        Ok(blobs.iter().zip(found).map(presence).collect())
    }
}

/// Is what a listing is to find, and has found.
#[derive(Debug)]
struct Listing {
    /// The blobs sought, with what lies at their names: the lengths of blob and group list.
    sought: HashMap<Hash, (Option<u64>, Option<u64>)>,
    /// How many pages it may have.
    pages_max: usize,
    done: bool,
}

impl Listing {
    fn of(blobs: impl Iterator<Item = (Hash, u64)>, packs: bool) -> Self {
        let (mut sought, mut long, mut small) = (HashMap::new(), 0, 0);
        for (hash, size) in blobs {
            let is_small = packs && size <= PACKED_BYTES_MAX;
            *(if is_small { &mut small } else { &mut long }) += 1;
            sought.insert(hash, (None, None));
        }
        let questions = if long < LONG_MIN { 0 } else { long };
        let spared = questions / QUESTIONS_A_PAGE + small / SMALL_A_PAGE;
        Self { sought, pages_max: spared.min(PAGES_MAX), done: false }
    }

    /// Lists as far as it is worth it.
    async fn run(&mut self, bucket: &S3Edge) {
        if self.pages_max == 0 {
            return;
        }
        match self.list(bucket).await {
            Ok(done) => self.done = done,
            Err(error) => debug!(%error, "the edge cannot be listed"),
        }
    }

    /// Lists everything, and returns whether that was worth it.
    async fn list(&mut self, bucket: &S3Edge) -> Result<bool, EdgeError> {
        let first = bucket.list("blobs/", None, index_task()).await?;
        let pages = pages_of(&first);
        self.take(&first);
        if first.next.is_none() {
            return Ok(true);
        }
        if pages > self.pages_max {
            debug!(pages, worth = self.pages_max, "the edge has too much to be listed");
            return Ok(false);
        }
        let digits = if pages <= PAGES_BY_DIGIT_MAX { 1 } else { 2 };
        let parts = (0..1_u32 << (4 * digits)).map(|part| format!("blobs/{part:0digits$x}"));
        let pages_max = self.pages_max;
        let lists = stream::iter(parts).map(|part| async move {
            // Hashes spread evenly: a part that has all the pages is none of ours.
            let (mut pages, mut next) = (Vec::new(), None);
            loop {
                let page = bucket.list(&part, next, index_task()).await?;
                next = page.next.clone();
                pages.push(page);
                if next.is_none() || pages.len() > pages_max {
                    return Ok::<_, EdgeError>(pages);
                }
            }
        });
        let mut lists = lists.buffer_unordered(LISTED_AT_ONCE);
        let mut whole = true;
        while let Some(pages) = lists.try_next().await? {
            whole &= pages.last().is_some_and(|page| page.next.is_none());
            pages.iter().for_each(|page| self.take(page));
        }
        Ok(whole)
    }

    fn take(&mut self, page: &Page) {
        for (path, len) in &page.objects {
            let Some((hash, is_list)) = named(path) else { continue };
            if let Some((blob, list)) = self.sought.get_mut(&hash) {
                *(if is_list { list } else { blob }) = Some(*len);
            }
        }
    }

    fn presence(&self, (hash, size): &(Hash, u64)) -> Presence {
        match self.sought.get(hash) {
            Some((Some(blob), list)) if blob == size => {
                let listed = *size <= GROUP_LEN || *list == Some(group_file_len(*size));
                if listed { Presence::Here } else { Presence::Unknown }
            }
            Some(_) if self.done => Presence::Absent,
            _ => Presence::Unknown,
        }
    }
}

/// Guesses how many pages the whole listing has, of how far into all hashes the first one leads.
fn pages_of(first: &Page) -> usize {
    let last = first.objects.last().and_then(|(path, _)| named(path));
    match (first.next.is_some(), last) {
        (false, _) => 1,
        (true, None) => usize::MAX,
        (true, Some((hash, _))) => {
            let [high, low, ..] = *hash.as_bytes();
            (1 << 16) / ((usize::from(high) << 8) + usize::from(low) + 1) + 1
        }
    }
}

/// Returns which blob a path below the base is of, and whether it is its list.
fn named(path: &str) -> Option<(Hash, bool)> {
    let name = path.strip_prefix("blobs/")?;
    let (name, is_list) = match name.strip_suffix(".groups") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let (shard, rest) = name.split_once('/')?;
    let fits = shard.len() == 2 && rest.len() == 62;
    let hash = fits.then(|| format!("{shard}{rest}").parse().ok())??;
    Some((hash, is_list))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(hash: &Hash) -> String {
        format!("blobs/{}", hash.sharded_path())
    }

    fn page(paths: &[String], more: bool) -> Page {
        let objects = paths.iter().map(|path| (path.clone(), 100)).collect();
        Page { objects, next: more.then(|| "more".to_owned()) }
    }

    #[test]
    fn names_of_blobs_and_lists_are_read_and_others_passed_over() {
        let hash = Hash::of(b"a");
        assert_eq!(named(&path(&hash)), Some((hash, false)));
        assert_eq!(named(&format!("{}.groups", path(&hash))), Some((hash, true)));
        let hex = hash.to_hex();
        for odd in ["", "blobs/", "blobs/ab", "packs/ab/cd", &format!("blobs/{hex}")] {
            assert_eq!(named(odd), None, "{odd}");
        }
        let cut = path(&hash);
        assert_eq!(named(&cut[..cut.len() - 1]), None);
        assert_eq!(named(&format!("{cut}.tmp")), None);
    }

    #[test]
    fn pages_are_guessed_by_how_far_the_first_one_leads() {
        let hash = |high: u8, low: u8| {
            let mut bytes = [0; 32];
            (bytes[0], bytes[1]) = (high, low);
            Hash::from_bytes(bytes)
        };
        assert_eq!(pages_of(&page(&[path(&hash(0, 1))], false)), 1);
        assert_eq!(pages_of(&page(&[path(&hash(0xff, 0xff))], true)), 2);
        assert_eq!(pages_of(&page(&[path(&hash(0x0f, 0xff))], true)), 17);
        assert_eq!(pages_of(&page(&["blobs/odd".to_owned()], true)), usize::MAX);
    }

    #[test]
    fn blob_counts_as_there_with_its_length_and_its_list() {
        let blobs: Vec<_> = (1..40_u64).map(|of| (Hash::of(&of.to_le_bytes()), 100_000)).collect();
        let mut listing = Listing::of(blobs.iter().copied(), true);
        assert_eq!(listing.pages_max, 3);
        let put = |listing: &mut Listing, path: String, len: u64| {
            listing.take(&Page { objects: vec![(path, len)], next: None });
        };
        let [whole, bare, short, ..] = blobs[..] else { panic!("forty") };
        for (of, len) in [(whole, 100_000), (bare, 100_000), (short, 99_999)] {
            put(&mut listing, path(&of.0), len);
        }
        put(&mut listing, format!("{}.groups", path(&whole.0)), group_file_len(100_000));
        put(&mut listing, format!("{}.groups", path(&short.0)), group_file_len(100_000));
        assert_eq!(listing.presence(&whole), Presence::Here);
        assert_eq!(listing.presence(&blobs[9]), Presence::Unknown, "it may be on another page");
        listing.done = true;
        assert_eq!(listing.presence(&bare), Presence::Unknown, "its list is missing");
        assert_eq!(listing.presence(&short), Presence::Absent);
        assert_eq!(listing.presence(&blobs[9]), Presence::Absent);
    }

    #[test]
    fn few_blobs_are_not_worth_a_listing() {
        let blobs =
            |count: u64, size| (0..count).map(move |of| (Hash::of(&of.to_le_bytes()), size));
        assert_eq!(Listing::of(blobs(23, 1 << 20), true).pages_max, 0);
        assert_eq!(Listing::of(blobs(24, 1 << 20), true).pages_max, 2);
        assert_eq!(Listing::of(blobs(99, 100), true).pages_max, 0);
        assert_eq!(Listing::of(blobs(1000, 100), true).pages_max, 10);
        assert_eq!(Listing::of(blobs(1000, 100), false).pages_max, 83, "each would be a question");
    }
}
