//! The frames of SPEC.md: that the specification shows the bytes which this crate sends and takes.
//!
//! The specification is read here, so that neither it nor the code can change alone.

use blobmesh_protocol::blob::{BlobHasher, GroupList, ProvisionalList, group_len};
use blobmesh_protocol::compress::{Codec, decode_group};
use blobmesh_protocol::delta::STRETCHES_MAX;
use blobmesh_protocol::filter::{FilterDelta, FilterFrame, PeerFilter};
use blobmesh_protocol::wire::delta::{
    DELTA_REQUEST, DeltaRequest, DeltaWants, MAP, RANGE, RANGES_BYTES_MAX, RANGES_MAX, Ranges,
    push_map, push_range,
};
use blobmesh_protocol::wire::frame::{self, Frame, FrameError, FrameHeader, FrameReader};
use blobmesh_protocol::wire::lane::{
    LANE_ALPN, LANE_TOKENS_MAX, LaneOffer, LaneOpen, LaneToken, TAKES_LANE,
};
use blobmesh_protocol::wire::message::{
    ANSWER, ASK, AskResult, BlobHead, BlobRequest, CLAIMS, CLAIMS_MAX, END, FILTER, FILTER_DELTA,
    FILTER_REQUEST, GOODBYE, GROUP, GROUP_PREFIX_LEN, GROUPS, HEAD, HELLO, Hello, LANE_OFFER,
    LANE_OPEN, LIST, Message, NEAR, REQUEST, RUMOUR, RUNS_MAX, body_len_max,
};
use blobmesh_protocol::wire::small::{
    BUNDLE_LEN_MAX, CODED_PACK, CodedPack, Longest, PACK_BLOBS_MAX, SMALL_ANSWER, SMALL_BLOB,
    SMALL_BUNDLE, SMALL_PACK, SMALL_REQUEST, SmallAnswer, SmallPack, SmallRequest, SmallResult,
    bundle_head, open_bundle, push_small_blob, split_small_blob,
};
use blobmesh_protocol::{Config, Hash, PeerId};

const SPEC: &str = include_str!("../SPEC.md");

/// Every kind there is, by its name in the specification.
const KINDS: [(u8, &str, &str); 27] = [
    (HELLO, "Hello", "control"),
    (FILTER, "Filter", "control"),
    (FILTER_DELTA, "FilterDelta", "control"),
    (FILTER_REQUEST, "FilterRequest", "control"),
    (ASK, "Ask", "control"),
    (ANSWER, "Answer", "control"),
    (GOODBYE, "Goodbye", "control"),
    (GROUPS, "Groups", "control"),
    (CLAIMS, "Claims", "control"),
    (NEAR, "Near", "control"),
    (RUMOUR, "Rumour", "control"),
    (REQUEST, "BlobRequest", "blob, lane"),
    (HEAD, "BlobHead", "blob, lane"),
    (LIST, "list piece", "blob, lane"),
    (GROUP, "group", "blob, lane"),
    (END, "end", "blob, lane"),
    (LANE_OFFER, "LaneOffer", "blob"),
    (SMALL_REQUEST, "SmallRequest", "blob"),
    (SMALL_ANSWER, "SmallAnswer", "blob, lane"),
    (SMALL_BLOB, "small blob", "blob, lane"),
    (DELTA_REQUEST, "DeltaRequest", "blob"),
    (MAP, "map piece", "blob"),
    (RANGE, "range piece", "blob"),
    (SMALL_PACK, "SmallPack", "blob, lane"),
    (CODED_PACK, "CodedPack", "blob, lane"),
    (SMALL_BUNDLE, "bundle", "blob, lane"),
    (LANE_OPEN, "LaneOpen", "lane"),
];

/// A kind that no version has assigned.
const UNKNOWN: u8 = 0x7f;

/// An LZ4 block by its format: a literal `a`, a match of 62 bytes at distance 1, a literal `b`.
const AB_BLOCK: [u8; 7] = [0x1f, b'a', 1, 0, 62 - 4 - 15, 0x10, b'b'];

#[test]
fn specification_shows_every_frame_byte_by_byte() {
    let control = control_vectors().into_iter().map(|(name, message)| (name, encode(&message)));
    let lines: Vec<_> = control
        .chain(blob_vectors())
        .map(|(name, bytes)| format!("{name}: {}", hex(&bytes)))
        .collect();
    let lines = lines.join("\n");
    assert!(listed_frames() == lines, "SPEC.md should list these frames:\n{lines}\n");
}

#[test]
fn every_kind_has_a_frame_in_the_specification() {
    for (kind, name, _) in KINDS {
        let frames =
            listed_frames().lines().filter(|line| line.contains(&format!(": {kind:02x}01")));
        assert!(frames.count() > 0, "no frame of kind {kind:#04x}, {name}");
    }
}

#[test]
fn control_frames_of_the_specification_decode_to_their_messages() {
    for (name, message) in control_vectors() {
        let frame = listed_frame(&name);
        assert_eq!(Message::decode(frame.kind, &frame.body), Ok(Some(message)), "{name}");
    }
}

#[test]
fn filter_of_the_specification_is_accepted_and_its_delta_continues_it() {
    let mut filter = PeerFilter::accept(filter_frame()).expect("a filter within its bounds");
    assert!(!filter.may_hold(&Hash::from_bytes([0xff; 32])));
    // With one byte of bits there is no room for more: the delta without its prefixes.
    filter.apply(&FilterDelta { prefixes: Vec::new(), ..filter_delta() }).expect("it continues");
    let gap = filter.apply(&FilterDelta { from_sequence: 6, ..filter_delta() });
    assert!(gap.expect_err("it does not continue").is_stale());
}

#[test]
fn blob_of_one_group_in_the_specification_verifies() {
    let request: BlobRequest = decode("BlobRequest for ab, with list, raw and lz4, all");
    assert_eq!(decode::<BlobHead>("BlobHead Ok for ab"), BlobHead::Ok { size: 64 });
    let (index, codec, payload) = group_of(&listed_frame("group 0 of ab in lz4"));
    let mut bytes = vec![0; group_len(64, index)];
    decode_group(codec, &payload, &mut bytes).expect("a block of 64 bytes");
    assert_eq!(bytes, ab());
    assert_eq!(Hash::of(&bytes), request.hash);
    assert_eq!(listed_frame("end").body, []);
}

#[test]
fn list_in_the_specification_is_proven_by_its_last_group() {
    let request: BlobRequest = decode("BlobRequest for blob 65537, with list, raw, run (1, 1)");
    let BlobHead::Ok { size } = decode("BlobHead Ok for blob 65537") else {
        panic!("the blob is there")
    };
    let piece = listed_frame("list piece of blob 65537");
    let (values, rest) = piece.body.as_chunks::<32>();
    assert_eq!((values.len(), rest), (2, &[][..]));
    let list = ProvisionalList::check(request.hash, size, values.to_vec()).expect("it merges");
    let (index, codec, payload) = group_of(&listed_frame("group 1 of blob 65537, raw"));
    assert_eq!((index, codec), (list.last_group(), Codec::Raw));
    assert_eq!(list.confirm(&payload).as_ref(), Ok(&list_of(&blob(65_537))));
}

#[test]
fn small_request_and_its_answers_in_the_specification_are_what_they_say() {
    let request: SmallRequest = decode("SmallRequest {128, ab}");
    assert_eq!(request, small_request());
    let pack: SmallPack = decode("SmallPack {128, with a lane, [ab, ab]}");
    assert_eq!(pack, small_pack());
    assert_eq!(pack.requests().expect("allowed").next(), Some(request));
    let coded: CodedPack = decode("CodedPack {raw and lz4, 128, with a lane, [ab, ab]}");
    assert_eq!(coded, coded_pack());
    let bundle = listed_frame("bundle of small blob {1, 65 of a}, in lz4");
    let bundle = open_bundle(&bundle.body, Longest::Small);
    assert_eq!(bundle.expect("right"), bundled());
    assert_eq!(number(row_of("bytes that a bundle decodes to")[1]), u64::from(BUNDLE_LEN_MAX));
    let medium = Longest::Medium;
    let row = |name| number(row_of(name)[1]);
    let longest = row("bytes that a bundle with medium blobs decodes to");
    assert_eq!(longest, u64::from(medium.bundle_len()));
    assert_eq!(row("bytes of a medium blob"), medium.blob_bytes());
    assert!(SPEC.contains("Bit 3: it takes CodedPacks"));
    let answer = listed_frame("small blob {128, ab}");
    let (id, bytes) = split_small_blob(&answer.body).expect("a number");
    assert_eq!((id, Hash::of(bytes)), (request.id, request.hash));
    let large: SmallAnswer = decode("SmallAnswer {4294967295, Large 65537}");
    assert_eq!(large.result, SmallResult::Large { size: 65_537 });
    assert!(SPEC.contains("Bit 0: the sender answers small requests"));
    assert!(SPEC.contains("Bit 2: it takes many small requests as one message"));
}

#[test]
fn delta_requests_of_the_specification_decode_to_what_they_say() {
    let request: DeltaRequest =
        decode("DeltaRequest {blob 65537, raw and lz4, Bytes [0 to 1, 300 to 302]}");
    assert_eq!(request.wants, ranges());
    let DeltaWants::Bytes(named) = request.wants else { panic!("ranges are asked for") };
    assert_eq!(named.within(302, 3), Some(vec![0..1, 300..302]));
    assert_eq!(number(row_of("ranges in a DeltaRequest")[1]), RANGES_MAX as u64);
    assert_eq!(number(row_of("bytes that one DeltaRequest asks for")[1]), RANGES_BYTES_MAX);
    assert_eq!(number(row_of("stretches of a map")[1]), STRETCHES_MAX);
    assert!(SPEC.contains("Bit 1: it answers delta requests"));
}

#[test]
fn lane_frames_of_the_specification_decode_to_what_they_say() {
    assert_eq!(decode::<LaneOffer>("LaneOffer {4001, [00 to 0f]}"), lane_offer());
    assert_eq!(decode::<LaneOpen>("LaneOpen {00 to 0f}"), LaneOpen { token: lane_token() });
    let alpn = std::str::from_utf8(LANE_ALPN).expect("text");
    assert!(SPEC.contains(&format!("`{alpn}`")), "{alpn}");
    assert_eq!(number(row_of("tokens in a LaneOffer")[1]), LANE_TOKENS_MAX as u64);
}

#[test]
fn specification_names_the_bound_of_every_kind() {
    for (kind, name, stream) in KINDS {
        let row = row_of(&format!("{kind:#04x}"));
        assert!(row[1].trim_start_matches('[').starts_with(name), "{kind:#04x}: {row:?}");
        assert_eq!(row[2], stream, "{name}");
        assert_eq!(number(row[3]), u64::from(body_len_max(kind)), "{name}");
    }
    let unknown = number(row_of("all others")[3]);
    assert_eq!(unknown, u64::from(body_len_max(UNKNOWN)));
    assert_eq!(number(row_of("runs in Claims")[1]), CLAIMS_MAX as u64);
    assert_eq!(number(row_of("blobs in a SmallPack")[1]), PACK_BLOBS_MAX as u64);
    for what in ["runs in a BlobRequest", "runs in Groups"] {
        assert_eq!(number(row_of(what)[1]), RUNS_MAX as u64);
    }
}

#[test]
fn body_one_byte_over_the_bound_of_its_kind_is_refused() {
    for kind in KINDS.map(|(kind, ..)| kind).into_iter().chain([UNKNOWN]) {
        let max = body_len_max(kind);
        let decode = |len| FrameHeader::decode(FrameHeader { kind, len }.encode(), body_len_max);
        assert_eq!(decode(max), Ok(FrameHeader { kind, len: max }));
        let error = FrameError::TooLong { len: u64::from(max) + 1, max, kind };
        assert_eq!(decode(max + 1), Err(error));
    }
}

#[test]
fn control_stream_skips_unknown_kinds_and_those_of_blob_streams() {
    for kind in
        [0, 0x0c, 0x0f, REQUEST, HEAD, LIST, GROUP, END, LANE_OFFER, SMALL_REQUEST, SMALL_ANSWER]
            .into_iter()
            .chain([
                SMALL_BLOB,
                DELTA_REQUEST,
                MAP,
                RANGE,
                SMALL_PACK,
                CODED_PACK,
                SMALL_BUNDLE,
                0x1f,
                LANE_OPEN,
                UNKNOWN,
                0xff,
            ])
    {
        assert_eq!(Message::decode(kind, &[1, 2, 3]), Ok(None), "{kind:#04x}");
    }
}

#[test]
fn messages_without_fields_refuse_a_body() {
    for kind in [FILTER_REQUEST, GOODBYE] {
        let trailing = Err(FrameError::Trailing { extra: 1 });
        assert_eq!(Message::decode(kind, &[0]), trailing, "{kind:#04x}");
    }
}

#[test]
fn specification_names_the_defaults_of_the_configuration() {
    let config = Config::default();
    let defaults = [
        ("neighbours_max", config.neighbours_max.to_string()),
        ("asks_parallel_max", config.asks_parallel_max.to_string()),
        ("ask_timeout", format!("{:?}", config.ask_timeout)),
        ("small_per_peer_max", config.small_per_peer_max.to_string()),
        ("small_rest", format!("{:?}", config.small_rest)),
        ("resolutions_max", config.resolutions_max.to_string()),
        ("blob_bytes_max", config.blob_bytes_max.to_string()),
        ("swarm_bytes_min", config.swarm_bytes_min.to_string()),
        ("fetches_per_hash_max", config.fetches_per_hash_max.to_string()),
        ("partners_max", config.partners_max.to_string()),
        ("edge_range_bytes", config.edge_range_bytes.to_string()),
        ("edge_ranges_max", config.edge_ranges_max.to_string()),
        ("edge_pause", format!("{:?}", config.edge_pause)),
        ("claim_ttl", format!("{:?}", config.claim_ttl)),
        ("claim_patience", format!("{:?}", config.claim_patience)),
        ("shares_parts", config.shares_parts.to_string()),
        ("gossip_interval", format!("{:?}", config.gossip_interval)),
        ("word_time", format!("{:?}", config.word_time)),
        ("gossip_burst", config.gossip_burst.to_string()),
        ("hello_timeout", format!("{:?}", config.hello_timeout)),
        ("filter_interval", format!("{:?}", config.filter_interval)),
        ("filter_refresh", format!("{:?}", config.filter_refresh)),
        ("filter_ttl", format!("{:?}", config.filter_ttl)),
        ("filter_judged_after", config.filter_judged_after.to_string()),
        ("filter_ignored_for", format!("{:?}", config.filter_ignored_for)),
        ("stall_timeout", format!("{:?}", config.stall_timeout)),
        ("attempts_max", config.attempts_max.to_string()),
        ("backoff_initial", format!("{:?}", config.backoff_initial)),
        ("backoff_max", format!("{:?}", config.backoff_max)),
        ("serves_max", config.serves_max.to_string()),
        ("serves_per_peer_max", config.serves_per_peer_max.to_string()),
        ("busy_retry_after", format!("{:?}", config.busy_retry_after)),
        ("ban", format!("{:?}", config.ban)),
    ];
    for (name, default) in defaults {
        assert_eq!(row_of(&format!("`{name}`"))[1], default, "{name}");
    }
}

/// One message of every kind of a control stream, and every variant of an answer.
fn control_vectors() -> Vec<(String, Message)> {
    let hash = Hash::of(&[]);
    let answer = |id, result| Message::Answer { id, result };
    let two = list_of(&blob(65_537)).hash();
    let groups = |follows, runs| Message::Groups { hash: two, size: 65_537, follows, runs };
    let claims = |seeks, done, runs| Message::Claims { hash: two, seeks, done, runs };
    let vectors = [
        ("Hello {1, 1, 63}", Message::Hello(Hello::ours())),
        ("Filter {300, 5, 1, 2, 01}", Message::Filter(filter_frame())),
        (
            "FilterDelta {300, 5, [0001020304050607, ffffffffffffffff]}",
            Message::FilterDelta(filter_delta()),
        ),
        ("FilterRequest", Message::FilterRequest),
        ("Ask {128, blob 0}", Message::Ask { id: 128, hash }),
        ("Answer {128, Have 65537}", answer(128, AskResult::Have { size: 65_537 })),
        ("Answer {0, Absent}", answer(0, AskResult::Absent)),
        (
            "Answer {4294967295, Busy 200}",
            answer(u32::MAX, AskResult::Busy { retry_after_ms: 200 }),
        ),
        ("Goodbye", Message::Goodbye),
        ("Groups {blob 65537, 65537, true, [(0, 1)]}", groups(true, vec![(0, 1)])),
        ("Groups {blob 65537, 65537, false, []}", groups(false, Vec::new())),
        ("Claims {blob 65537, true, 0, []}", claims(true, 0, Vec::new())),
        ("Claims {blob 65537, false, 3, [(64, 64)]}", claims(false, 3, vec![(64, 64)])),
        ("Near {blob 0, 32 times 07}", Message::Near { hash, holder: PeerId::from_bytes([7; 32]) }),
        (
            "Rumour {blob 0, 32 times 07, 3, (64, 64)}",
            Message::Rumour { hash, owner: PeerId::from_bytes([7; 32]), done: 3, run: (64, 64) },
        ),
    ];
    vectors.map(|(name, message)| (name.to_owned(), message)).into()
}

/// Two exchanges and the heads of those that came to nothing.
fn blob_vectors() -> Vec<(String, Vec<u8>)> {
    let (ab, two) = (list_of(&ab()), list_of(&blob(65_537)));
    let request = |list: &GroupList, codecs, runs| {
        encode_as(REQUEST, &BlobRequest { hash: list.hash(), with_list: true, codecs, runs })
    };
    let head = |head: BlobHead| encode_as(HEAD, &head);
    let both = Codec::Raw.bit() | Codec::Lz4.bit();
    let vectors = [
        ("BlobRequest for ab, with list, raw and lz4, all", request(&ab, both, Vec::new())),
        ("BlobHead Ok for ab", head(BlobHead::Ok { size: ab.size() })),
        ("group 0 of ab in lz4", group(0, Codec::Lz4, &AB_BLOCK)),
        (
            "BlobRequest for blob 65537, with list, raw, run (1, 1)",
            request(&two, Codec::Raw.bit(), vec![(1, 1)]),
        ),
        ("BlobHead Ok for blob 65537", head(BlobHead::Ok { size: two.size() })),
        ("list piece of blob 65537", framed(LIST, &two.values().concat())),
        ("group 1 of blob 65537, raw", group(1, Codec::Raw, &blob(65_537)[65_536..])),
        ("end", framed(END, &[])),
        ("BlobHead Absent", head(BlobHead::Absent)),
        ("BlobHead Busy 200", head(BlobHead::Busy { retry_after_ms: 200 })),
        ("BlobHead Refused", head(BlobHead::Refused)),
        (
            "BlobRequest for blob 65537, with list, raw or by a lane, all",
            request(&two, Codec::Raw.bit() | TAKES_LANE, Vec::new()),
        ),
        ("SmallRequest {128, ab}", encode_as(SMALL_REQUEST, &small_request())),
        ("SmallPack {128, with a lane, [ab, ab]}", encode_as(SMALL_PACK, &small_pack())),
        (
            "CodedPack {raw and lz4, 128, with a lane, [ab, ab]}",
            encode_as(CODED_PACK, &coded_pack()),
        ),
        ("bundle of small blob {1, 65 of a}, in lz4", bundle()),
        ("small blob {128, ab}", small_blob(128)),
        ("SmallAnswer {0, Absent}", small_answer(0, SmallResult::Absent)),
        ("SmallAnswer {1, Busy 200}", small_answer(1, SmallResult::Busy { retry_after_ms: 200 })),
        (
            "SmallAnswer {4294967295, Large 65537}",
            small_answer(u32::MAX, SmallResult::Large { size: 65_537 }),
        ),
        ("DeltaRequest {blob 65537, raw and lz4, List}", delta_request(DeltaWants::List)),
        ("DeltaRequest {blob 65537, raw and lz4, Map}", delta_request(DeltaWants::Map)),
        ("DeltaRequest {blob 65537, raw and lz4, Edges [1 to 3]}", delta_request(edges())),
        (
            "DeltaRequest {blob 65537, raw and lz4, Bytes [0 to 1, 300 to 302]}",
            delta_request(ranges()),
        ),
        ("map piece 01 02 03", map_piece()),
        ("range piece, raw, 19", range_piece()),
        ("LaneOffer {4001, [00 to 0f]}", encode_as(LANE_OFFER, &lane_offer())),
        ("LaneOpen {00 to 0f}", encode_as(LANE_OPEN, &LaneOpen { token: lane_token() })),
    ];
    vectors.map(|(name, bytes)| (name.to_owned(), bytes)).into()
}

fn delta_request(wants: DeltaWants) -> Vec<u8> {
    let codecs = Codec::Raw.bit() | Codec::Lz4.bit();
    let hash = list_of(&blob(65_537)).hash();
    encode_as(DELTA_REQUEST, &DeltaRequest { hash, codecs, wants })
}

fn edges() -> DeltaWants {
    DeltaWants::Edges(Ranges::new(std::slice::from_ref(&(1..3))))
}

fn ranges() -> DeltaWants {
    DeltaWants::Bytes(Ranges::new(&[0..1, 300..302]))
}

fn map_piece() -> Vec<u8> {
    let mut frames = Vec::new();
    push_map(&[1, 2, 3], &mut frames);
    frames
}

fn range_piece() -> Vec<u8> {
    let mut frames = Vec::new();
    push_range(Codec::Raw, &[0x19], &mut frames);
    frames
}

fn small_request() -> SmallRequest {
    SmallRequest { id: 128, hash: Hash::of(&ab()) }
}

fn small_pack() -> SmallPack {
    SmallPack { first: 128, takes_lane: true, hashes: vec![Hash::of(&ab()); 2] }
}

fn coded_pack() -> CodedPack {
    CodedPack { codecs: Codec::Raw.bit() | Codec::Lz4.bit(), pack: small_pack() }
}

/// A small blob of 65 times `a`.
fn bundled() -> Vec<u8> {
    let mut frames = Vec::new();
    push_small_blob(1, &[b'a'; 65], &mut frames);
    frames
}

/// An LZ4 block by its format: the 13 bytes up to the first `a`, a match of 59 bytes at distance 1, five times `a`.
fn bundle() -> Vec<u8> {
    let (frames, mut block) = (bundled(), vec![0xdf]);
    block.extend(&frames[..13]);
    block.extend([1, 0, 59 - 4 - 15, 0x50]);
    block.extend([b'a'; 5]);
    let mut bundle = bundle_head(Codec::Lz4, frames.len(), block.len()).to_vec();
    bundle.extend(block);
    bundle
}

fn small_answer(id: u32, result: SmallResult) -> Vec<u8> {
    encode_as(SMALL_ANSWER, &SmallAnswer { id, result })
}

fn small_blob(id: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    push_small_blob(id, &ab(), &mut frame);
    frame
}

fn lane_token() -> LaneToken {
    LaneToken::from_bytes(std::array::from_fn(|at| u8::try_from(at).expect("below 16")))
}

fn lane_offer() -> LaneOffer {
    LaneOffer { port: 4001, tokens: vec![lane_token()] }
}

fn filter_frame() -> FilterFrame {
    FilterFrame { generation: 300, sequence: 5, count: 1, hashes: 2, bits: vec![1] }
}

fn filter_delta() -> FilterDelta {
    let prefixes = vec![[0, 1, 2, 3, 4, 5, 6, 7], [0xff; 8]];
    FilterDelta { generation: 300, from_sequence: 5, prefixes }
}

fn ab() -> Vec<u8> {
    let mut bytes = vec![b'a'; 64];
    bytes[63] = b'b';
    bytes
}

fn blob(size: usize) -> Vec<u8> {
    (0..251u8).cycle().take(size).collect()
}

fn list_of(bytes: &[u8]) -> GroupList {
    let mut hasher = BlobHasher::new();
    hasher.update(bytes);
    hasher.finish()
}

fn encode(message: &Message) -> Vec<u8> {
    message.encode().expect("encode")
}

fn encode_as(kind: u8, body: &impl serde::Serialize) -> Vec<u8> {
    frame::encode(kind, body).expect("encode")
}

/// Frames bulk bytes, which postcard has no part in.
fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).expect("short");
    [&FrameHeader { kind, len }.encode(), body].concat()
}

fn group(index: u64, codec: Codec, payload: &[u8]) -> Vec<u8> {
    framed(GROUP, &[&index.to_le_bytes()[..], &[codec.number()], payload].concat())
}

/// Reads a group by the specification's picture: index, codec, payload.
fn group_of(frame: &Frame) -> (u64, Codec, Vec<u8>) {
    assert_eq!(frame.kind, GROUP);
    let (index, rest) = frame.body.split_first_chunk().expect("an index");
    let (codec, payload) = rest.split_first().expect("a codec");
    assert_eq!(frame.body.len() - payload.len(), GROUP_PREFIX_LEN as usize);
    (u64::from_le_bytes(*index), Codec::try_from(*codec).expect("known"), payload.to_vec())
}

/// Returns the lines of the specification's frames.
fn listed_frames() -> &'static str {
    let (_, part) = SPEC.split_once("\n### 15.2 Frames\n").expect("part 15.2");
    let (_, block) = part.split_once("```text\n").expect("a block of frames");
    let (listed, _) = block.split_once("```").expect("the block's end");
    listed.trim_end()
}

/// Reads a frame of the specification as a stream would bring it.
fn listed_frame(name: &str) -> Frame {
    let hex = listed_frames().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let bytes = unhex(hex.unwrap_or_else(|| panic!("SPEC.md has no frame {name}")));
    let mut reader = FrameReader::new(body_len_max);
    let mut input = &bytes[..];
    let frame = reader.poll_frame(&mut input).expect("within its bounds").expect("whole");
    assert!(input.is_empty(), "{name} goes on behind its frame");
    frame
}

fn decode<T: serde::de::DeserializeOwned>(name: &str) -> T {
    listed_frame(name).decode().expect(name)
}

/// Returns the cells of the one table row of the specification that begins with `first`.
fn row_of(first: &str) -> Vec<&'static str> {
    let start = format!("| {first} |");
    let mut rows = SPEC.lines().filter(|line| line.starts_with(&start));
    let row = rows.next().unwrap_or_else(|| panic!("SPEC.md has no row {first}"));
    assert_eq!(rows.next(), None, "SPEC.md has two rows {first}");
    row.trim_matches('|').split('|').map(str::trim).collect()
}

fn number(cell: &str) -> u64 {
    cell.replace(',', "").parse().expect("a number")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}
