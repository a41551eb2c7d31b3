//! What a bad peer may do, and what it must lead to at the node that meets it.

use blobmesh_protocol::Hash;
use blobmesh_protocol::filter::{
    FILTER_DELTA_MAX, FILTER_LEN_MAX, FilterDelta, FilterFrame, PeerFilter,
};
use blobmesh_protocol::wire::frame;
use blobmesh_protocol::wire::message::{
    AskResult, BlobHead, END, FILTER, GOODBYE, GROUP, HELLO, Hello, LIST, Message,
};

use super::bad_peer::{Conduct, LanesAt, Said, encode, hello};
use super::blob::{Blob, GROUP_BYTES, Requested, end, frame_of, group, head, head_of};

use Verdict::{Banned, Dropped, Kept, PassedOver};

/// A blob of five groups, the last of them short.
const LONG: usize = 4 * GROUP_BYTES + 9;
/// A blob whose groups come in several batches.
const LONGER: usize = 40 * GROUP_BYTES;
/// A blob of one group.
const SHORT: usize = 1_000;

/// One way to misbehave.
#[derive(Clone, Copy)]
pub struct Misdeed {
    pub what: &'static str,
    /// The length in bytes of the blobs that the bad peer claims to hold.
    pub blob_len: usize,
    pub conduct: Conduct,
    pub place: Place,
    pub verdict: Verdict,
    /// A counter of the node that rises.
    pub counted: Option<&'static str>,
}

/// What a node must make of a bad peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is proven to have sent wrong bytes: it is banned, and no neighbour any more.
    Banned,
    /// It broke the rules, which proves nothing about bytes: it is passed over. How it is punished is
    /// not judged here.
    PassedOver,
    /// It stays a neighbour.
    Kept,
    /// It is no neighbour any more, and not banned.
    Dropped,
}

/// Where a misdeed happens, and so when the node has met with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In what it says first.
    Greeting,
    /// When it is asked.
    Answer,
    /// When it is requested to serve.
    Service,
}

fn service(what: &'static str, verdict: Verdict, serve: fn(&Requested<'_>) -> Said) -> Misdeed {
    let conduct = Conduct { serve, ..Conduct::EMPTY_HANDED };
    Misdeed { what, blob_len: LONG, conduct, place: Place::Service, verdict, counted: None }
}

/// Returns what can be done wrong on a blob stream.
pub fn in_service() -> Vec<Misdeed> {
    // First what takes long.
    [no_bytes(), wrong_lists(), wrong_groups(), broken_frames(), cuts()].concat()
}

/// Returns what can be done wrong on a lane: the list has come before, over a blob stream.
pub fn on_lanes() -> Vec<Misdeed> {
    let on_lane = |deed: Misdeed| Misdeed {
        conduct: Conduct { lanes: LanesAt::Port, ..deed.conduct },
        ..deed
    };
    let has_groups = |deed: &Misdeed| deed.blob_len > GROUP_BYTES;
    let deeds = [no_bytes(), wrong_groups(), broken_frames(), cuts()].concat();
    deeds.into_iter().filter(has_groups).map(on_lane).collect()
}

fn wrong_lists() -> Vec<Misdeed> {
    vec![
        service("a size of all ones", PassedOver, |_| Said::then_close(head(u64::MAX))),
        service("a size one too large", Banned, |blob| {
            let size = blob.list.size() + 1;
            Said::then_close([head(size), blob.list_frame(), blob.group(4), end()].concat())
        }),
        service("a wrong list", Banned, |blob| with_list(blob, &[1; 32 * 5])),
        service("a list too long", PassedOver, |blob| with_list(blob, &[0; 32 * 6])),
        service("a list too short", PassedOver, |blob| {
            with_list(blob, blob.list.values()[..4].as_flattened())
        }),
        service("a list that ends within a value", PassedOver, |blob| with_list(blob, &[0; 33])),
        service("an empty list", PassedOver, |blob| with_list(blob, &[])),
        service("inner nodes for a list", Banned, |blob| Said::then_close(blob.forged_short())),
        service("the last group late", PassedOver, |blob| {
            let opening = [head(blob.list.size()), blob.list_frame()].concat();
            Said::then_close([opening, blob.group(0), blob.group(4), end()].concat())
        }),
    ]
}

fn wrong_groups() -> Vec<Misdeed> {
    let flipped = |blob: &Requested<'_>| {
        let mut flipped = blob.part(1).to_vec();
        flipped[77] ^= 1;
        let rest = (2..blob.last()).flat_map(|index| blob.group(index)).collect();
        after_opening(blob, [blob.group(0), group(1, 0, &flipped), rest, end()].concat())
    };
    let of_one_group = service("wrong bytes of a blob of one group", Banned, |blob| {
        let wrong = group(0, 0, &[7; SHORT]);
        Said::then_close([head(blob.list.size()), wrong, end()].concat())
    });
    vec![
        service("a flipped bit", Banned, flipped),
        Misdeed {
            blob_len: LONGER,
            ..service("a flipped bit early in a longer blob", Banned, flipped)
        },
        Misdeed { blob_len: SHORT, ..of_one_group },
        service("a wrong group and then silence", Banned, |blob| {
            Said::then_silence([blob.opening(), group(1, 0, blob.part(0))].concat())
        }),
        service("garbage for lz4", Banned, |blob| {
            after_opening(blob, group(0, 1, &blob.part(0)[..500]))
        }),
        service("lz4 that grows past the group", Banned, |blob| {
            after_opening(blob, group(0, 1, &lz4_bomb()))
        }),
        service("a codec nobody knows", PassedOver, |blob| {
            after_opening(blob, group(0, 200, blob.part(0)))
        }),
        service("a group past the end", Banned, |blob| {
            after_opening(blob, group(5, 0, blob.part(0)))
        }),
        service("the group of the largest number", Banned, |blob| {
            after_opening(blob, group(u64::MAX, 1, &lz4_bomb()))
        }),
        service("groups without bytes, without end", Banned, |blob| {
            Said::then_repeat(blob.opening(), group(0, 0, &[]).repeat(64))
        }),
    ]
}

fn broken_frames() -> Vec<Misdeed> {
    vec![
        service("a frame longer than any may be", PassedOver, |blob| {
            after_opening(blob, vec![GROUP, 1, 0, 0, 255, 255, 255, 255])
        }),
        service("a frame of a later version", PassedOver, |blob| {
            after_opening(blob, vec![GROUP, 2, 0, 0, 0, 0, 0, 0])
        }),
        service("an end with a body", PassedOver, |blob| after_opening(blob, frame_of(END, &[1]))),
        service("a group without its number", PassedOver, |blob| {
            after_opening(blob, frame_of(GROUP, &[0; 8]))
        }),
        service("a greeting on the blob stream", PassedOver, |_| {
            Said::then_close(frame_of(HELLO, &[1, 1, 0]))
        }),
        service("noise", PassedOver, |blob| Said::then_close(blob.part(0).to_vec())),
        service("a proper request refused", PassedOver, |_| {
            Said::then_close(head_of(&BlobHead::Refused))
        }),
    ]
}

fn cuts() -> Vec<Misdeed> {
    vec![
        service("a cut in the head", Kept, |blob| cut(blob, 5)),
        service("a cut in the list", Kept, |blob| cut(blob, head(blob.list.size()).len() + 40)),
        service("a cut in a group", Kept, |blob| cut(blob, blob.opening().len() + 999)),
        service("a reset in a group", Kept, |blob| {
            Said::then_reset(blob.response()[..blob.opening().len() + 999].to_vec())
        }),
        service("every stream reset", Kept, |_| Said::then_reset(Vec::new())),
        service("every stream closed", Kept, |_| Said::then_close(Vec::new())),
        service("an end too early", Kept, |blob| after_opening(blob, end())),
    ]
}

fn no_bytes() -> Vec<Misdeed> {
    vec![
        service("the blob denied", Kept, |_| Said::then_close(head_of(&BlobHead::Absent))),
        service("busy for weeks", Kept, |_| {
            Said::then_close(head_of(&BlobHead::Busy { retry_after_ms: u32::MAX }))
        }),
        service("silence", Kept, |_| Said::then_silence(Vec::new())),
        service("silence in a frame's header", Kept, |blob| {
            Said::then_silence(blob.response()[..5].to_vec())
        }),
        service("silence after the list", Kept, |blob| Said::then_silence(blob.opening())),
        service("the same group without end", Kept, |blob| {
            Said::then_repeat(blob.opening(), blob.group(4))
        }),
    ]
}

/// Says what `rest` is after an honest beginning.
fn after_opening(blob: &Requested<'_>, rest: Vec<u8>) -> Said {
    Said::then_close([blob.opening(), rest].concat())
}

fn with_list(blob: &Blob, list: &[u8]) -> Said {
    let list = frame_of(LIST, list);
    Said::then_close([head(blob.list.size()), list, blob.group(4), end()].concat())
}

fn cut(blob: &Requested<'_>, at: usize) -> Said {
    Said::then_close(blob.response()[..at].to_vec())
}

/// One literal byte and a match that repeats it a million times: 4 KiB for sixteen groups.
fn lz4_bomb() -> Vec<u8> {
    let mut block = vec![0x1f, b'a', 1, 0];
    block.extend(vec![255; 4_000]);
    block.extend([0, 0x50, 1, 2, 3, 4, 5]);
    block
}

/// Returns what can be answered wrong to a question.
pub fn in_answers() -> Vec<Misdeed> {
    let answer = |what, answer: fn(u32, &Blob) -> Vec<u8>| Misdeed {
        what,
        blob_len: LONG,
        conduct: Conduct { answer, ..Conduct::EMPTY_HANDED },
        place: Place::Answer,
        verdict: Kept,
        counted: None,
    };
    let wasted = |deed| Misdeed { counted: Some("asks_wasted"), ..deed };
    vec![
        answer("no answer", |_, _| Vec::new()),
        answer("busy", |id, _| said(id, AskResult::Busy { retry_after_ms: u32::MAX })),
        wasted(answer("absent, against its filter", |id, _| said(id, AskResult::Absent))),
        wasted(answer("a size above any bound", |id, _| {
            said(id, AskResult::Have { size: u64::MAX })
        })),
        answer("the answer to another question", |id, blob| {
            said(id.wrapping_add(1), AskResult::Have { size: blob.list.size() })
        }),
        answer("the same answer a hundred times", |id, _| {
            said(id, AskResult::Have { size: 1 }).repeat(100)
        }),
    ]
}

fn said(id: u32, result: AskResult) -> Vec<u8> {
    Message::Answer { id, result }.encode().expect("encodes")
}

fn greeting(what: &'static str, verdict: Verdict, greet: fn(FilterFrame) -> Said) -> Misdeed {
    let conduct = Conduct { greet, ..Conduct::EMPTY_HANDED };
    Misdeed { what, blob_len: LONG, conduct, place: Place::Greeting, verdict, counted: None }
}

/// Returns what can be said wrong on a control stream.
pub fn in_greetings() -> Vec<Misdeed> {
    let mut all = bad_filters();
    all.extend(bad_manners());
    all
}

fn bad_manners() -> Vec<Misdeed> {
    let silent = greeting("silence", PassedOver, |_| Said::then_silence(Vec::new()));
    let unread = greeting("half a frame, and reads nothing", Kept, |filter| {
        let filter = encode(&Message::Filter(filter));
        Said::then_silence([hello(), filter[..filter.len() / 2].to_vec()].concat())
    });
    vec![
        Misdeed { conduct: Conduct { reads: false, ..silent.conduct }, ..silent },
        Misdeed { conduct: Conduct { reads: false, ..unread.conduct }, ..unread },
        greeting("no greeting", Dropped, |filter| says([encode(&Message::Filter(filter))])),
        greeting("versions nobody speaks", Dropped, |_| {
            says([encode(&Message::Hello(Hello {
                version_min: 900,
                version_max: 999,
                features: 0,
            }))])
        }),
        greeting("versions upside down", Dropped, |_| {
            says([encode(&Message::Hello(Hello { version_min: 9, version_max: 0, features: 0 }))])
        }),
        greeting("garbage for a greeting", Dropped, |_| says([vec![0xff; 400]])),
        greeting("garbage after the greeting", Dropped, |_| says([hello(), vec![0xff; 400]])),
        greeting("a message with a tail", Dropped, |_| says([hello(), frame_of(GOODBYE, &[1])])),
        greeting("a frame longer than any may be", Dropped, |_| {
            says([hello(), vec![FILTER, 1, 0, 0, 255, 255, 255, 255]])
        }),
        greeting("a message of a later version", Kept, |_| {
            says([hello(), frame_of(0x7f, &[9; 4_000])])
        }),
        greeting("a hundred greetings", Kept, |_| says([hello().repeat(100)])),
        greeting("answers that nobody asked for, without end", Kept, |filter| {
            let opening = [hello(), encode(&Message::Filter(filter))].concat();
            Said::then_repeat(opening, said(7, AskResult::Have { size: 1 }).repeat(50))
        }),
        greeting("questions after a goodbye", Dropped, |_| {
            let ask = Message::Ask { id: 1, hash: Hash::of(b"") };
            says([hello(), encode(&Message::Goodbye), encode(&ask)])
        }),
    ]
}

fn bad_filters() -> Vec<Misdeed> {
    let refused = |what, greet: fn(FilterFrame) -> Said| Misdeed {
        counted: Some("filters_refused"),
        ..greeting(what, Kept, greet)
    };
    vec![
        refused("a filter without bits", |filter| {
            tells(FilterFrame { bits: Vec::new(), ..filter })
        }),
        refused("a filter of no hashes", |filter| tells(FilterFrame { hashes: 0, ..filter })),
        refused("a filter of 255 hashes", |filter| tells(FilterFrame { hashes: 255, ..filter })),
        greeting("a filter of 50 million hashes", Dropped, |filter| {
            let body = (filter.generation, filter.sequence, 1u64, 50_000_000u32, filter.bits);
            says([hello(), frame::encode(FILTER, &body).expect("encodes")])
        }),
        refused("a filter of all ones", |filter| {
            let bits = vec![0xff; filter.bits.len()];
            tells(FilterFrame { bits, count: 1_000, ..filter })
        }),
        refused("a filter of more blobs than bits", |filter| {
            tells(FilterFrame { count: u64::MAX, ..filter })
        }),
        refused("a filter a byte too long", |filter| {
            tells(FilterFrame { bits: vec![0; FILTER_LEN_MAX + 1], ..filter })
        }),
        greeting("a filter a third too long", Dropped, |filter| {
            tells(FilterFrame { bits: vec![0; FILTER_LEN_MAX / 3 * 4], ..filter })
        }),
        refused("a change of a filter never told", |_| says([hello(), delta(1, 0, 1)])),
        refused("a change of another generation", |filter| {
            let wrong = delta(filter.generation + 1, filter.sequence, 1);
            says([hello(), encode(&Message::Filter(filter)), wrong])
        }),
        refused("a change longer than any may be", |filter| {
            let wrong = delta(filter.generation, filter.sequence, FILTER_DELTA_MAX + 1);
            says([hello(), encode(&Message::Filter(filter)), wrong])
        }),
        refused("changes that fill the filter", |filter| {
            let full = delta(filter.generation, filter.sequence, FILTER_DELTA_MAX);
            assert!(PeerFilter::accept(filter.clone()).is_ok(), "it was good before");
            says([hello(), encode(&Message::Filter(filter)), full])
        }),
    ]
}

fn delta(generation: u64, from_sequence: u64, len: usize) -> Vec<u8> {
    let prefix = |number: usize| Hash::of(&number.to_le_bytes()).prefix();
    let prefixes = (0..len).map(prefix).collect();
    encode(&Message::FilterDelta(FilterDelta { generation, from_sequence, prefixes }))
}

fn tells(filter: FilterFrame) -> Said {
    says([hello(), encode(&Message::Filter(filter))])
}

/// Says some frames and then listens.
fn says<const N: usize>(frames: [Vec<u8>; N]) -> Said {
    Said::then_silence(frames.concat())
}
