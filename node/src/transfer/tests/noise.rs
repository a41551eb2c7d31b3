//! Responses that are nearly right: nothing of them panics, and nothing wrong is stored.

use blobmesh_protocol::blob::group_count;

use super::*;

/// How many responses are mutilated.
const RESPONSES: u64 = 400;

/// Steps SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Returns the frames of an honest response, the last groups compressed as far as they shrink.
fn frames_of(list: &GroupList, bytes: &[u8]) -> Vec<Vec<u8>> {
    let groups = group_count(list.size()) as usize;
    let part = |index: usize| {
        let part = &bytes[index * GROUP_BYTES..bytes.len().min((index + 1) * GROUP_BYTES)];
        group(index as u64, 0, part)
    };
    let mut frames = vec![head(list.size())];
    if groups > 1 {
        frames.extend([list_frame(list), part(groups - 1)]);
    }
    frames.extend((0..groups.max(2) - 1).map(part));
    frames.push(frame_of(END, &[]));
    frames
}

/// Changes a response in one to three places: most often near the beginning of a frame, where its
/// header and its numbers are.
fn mutilate(mut frames: Vec<Vec<u8>>, seed: u64) -> Vec<u8> {
    let mut state = seed;
    for _ in 0..=next(&mut state) % 3 {
        let at = next(&mut state) as usize % frames.len();
        let byte = next(&mut state) as usize % 24;
        match next(&mut state) % 6 {
            0 => frames[at].truncate(byte),
            1 => frames.swap(0, at),
            2 => frames.push(frames[at].clone()),
            3 => {
                let cut = byte.min(frames[at].len());
                frames[at].drain(..cut);
            }
            _ => {
                let change = next(&mut state) as u8;
                if let Some(byte) = frames[at].get_mut(byte) {
                    *byte ^= change;
                }
            }
        }
    }
    frames.concat()
}

#[tokio::test]
async fn nearly_right_responses_panic_nobody_and_store_nothing_wrong() {
    let to = TestStore::new();
    for seed in 0..RESPONSES {
        let mut bytes = noise([9, 700, 2 * GROUP_BYTES + 9, 5 * GROUP_BYTES][seed as usize % 4]);
        bytes.iter_mut().zip(seed.to_le_bytes()).for_each(|(byte, seed)| *byte = seed);
        let list = list_of(&bytes);
        let (ours, theirs) = duplex(1 << 20);
        let script = mutilate(frames_of(&list, &bytes), seed);
        let serving = tokio::spawn(async move {
            let mut io = FrameIo::new(theirs);
            io.read().await.expect("readable").expect("a request");
            io.write(&script).await.ok();
            io.close().await.ok();
        });
        let report = Arc::new(Recorder::default());
        let fetched =
            requester::fetch(&Pipe::of(ours), list.hash(), &to.store, SIZE_MAX, report).await;
        serving.await.expect("no panic");
        assert!(!matches!(fetched, Err(FetchError::Worker)), "{seed}: a thread panicked");
        let stored = to.bytes_of(list.hash());
        assert_eq!(stored.is_some(), fetched.is_ok(), "{seed}: {fetched:?}");
        assert!(stored.is_none_or(|stored| stored == bytes), "{seed}: wrong bytes");
    }
}
