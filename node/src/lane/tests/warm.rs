//! Lanes that are kept open for the next range.

use super::*;
use crate::lane::warm::WARM_FOR;

/// Fetches some groups over whatever lane is open, and checks that they came.
async fn fetch_warm(holder: &Holder, getter: &Getter, groups: std::ops::Range<u64>) {
    let lane = getter.lanes.warm(holder.peer).expect("a lane is kept");
    let meter = Arc::new(Meter::default());
    let ranges = std::iter::once(groups.clone()).collect();
    let work = Work { ranges, meter: Arc::clone(&meter), ..holder.work() };
    let (got, result) = getter.fetch(work, Door::Warm(lane)).await;
    result.expect("fetched");
    let part = usize::try_from(groups.start).expect("small") * GROUP
        ..(usize::try_from(groups.end).expect("small") * GROUP).min(holder.bytes.len());
    assert!(got[part.clone()] == holder.bytes[part]);
    assert_eq!(meter.read().lanes, 0, "no lane was opened for it");
}

/// Fetches the first group, which opens a lane.
async fn fetch_first(holder: &Holder, getter: &Getter) {
    let work = Work { ranges: std::iter::once(0..1).collect(), ..holder.work() };
    getter.fetch(work, holder.door(getter)).await.1.expect("fetched");
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_follow_each_other_on_one_lane() {
    let (holder, getter) = (Holder::start(noise(200 * GROUP), Mode::Everybody), Getter::new());
    assert!(getter.lanes.warm(holder.peer).is_none(), "nothing is open yet");
    fetch_first(&holder, &getter).await;
    for groups in [3..4, 60..130, 0..200] {
        fetch_warm(&holder, &getter, groups).await;
    }
    assert_eq!(holder.places(), 1);
    drop(getter);
    holder.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lane_that_the_provider_has_closed_leaves_everything_to_the_stream() {
    let (holder, getter) = (Holder::start(noise(20 * GROUP), Mode::Everybody), Getter::new());
    fetch_first(&holder, &getter).await;
    holder.lanes.0.close();
    holder.is_quiet().await;
    let lane = getter.lanes.warm(holder.peer).expect("nobody has told the getter");
    let (_, result) = getter.fetch(holder.work(), Door::Warm(lane)).await;
    let end = result.expect_err("closed");
    assert!(end.is_of_the_way(), "{:?}", end.error);
    assert!(matches!(&end.rest[..], [rest] if *rest == (0..20)), "{:?}", end.rest);
    assert!(getter.lanes.takes(holder.peer), "a new lane may be opened");
    assert!(getter.lanes.warm(holder.peer).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_lanes_are_few_end_in_time_and_with_a_ban() {
    let (holder, getter) = (Holder::start(noise(20 * GROUP), Mode::Everybody), Getter::new());
    let kept = |now| {
        let mut warm = lock(&getter.lanes.0.warm);
        warm.expire(now);
        std::iter::repeat_with(|| warm.take(&holder.peer, now)).take_while(Option::is_some).count()
    };
    let now = Instant::now();
    for _ in 0..3 {
        // Each is opened by hand: a fetch would take the one that is kept.
        fetch_first(&holder, &getter).await;
    }
    assert_eq!(kept(now), 2, "no more than ranges are asked for at once");
    fetch_first(&holder, &getter).await;
    assert_eq!(kept(Instant::now() + WARM_FOR), 0);
    fetch_first(&holder, &getter).await;
    getter.lanes.drop_peer(holder.peer);
    assert_eq!(kept(now), 0, "a banned peer's");
    holder.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lane_that_did_not_bring_everything_is_not_kept() {
    let (holder, getter) = (Holder::start(noise(20 * GROUP), Mode::Everybody), Getter::new());
    let mut other = BlobHasher::new();
    other.update(&vec![1; 3 * GROUP]);
    let work = Work { list: Arc::new(other.finish()), ..holder.work() };
    let work = Work { ranges: std::iter::once(0..3).collect(), ..work };
    getter.fetch(work, holder.door(&getter)).await.1.expect_err("absent");
    assert!(getter.lanes.warm(holder.peer).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn part_of_a_blob_is_served_and_what_is_missing_of_it_is_absent() {
    let (holder, getter) = (Holder::start(noise(2 * GROUP), Mode::Everybody), Getter::new());
    let bytes = noise(40 * GROUP);
    let mut hasher = BlobHasher::new();
    hasher.update(&bytes);
    let partial = holder.store.partial(hasher.finish()).expect("a partial");
    for index in [0, 1, 2, 3, 30, 39] {
        let start = usize::try_from(index).expect("small") * GROUP;
        partial.write_group(index, &bytes[start..start + GROUP]).expect("written");
    }
    let list = partial.list();
    let fetch = async |ranges: std::ops::Range<u64>| {
        let ranges = std::iter::once(ranges).collect();
        let work = Work { list: Arc::clone(&list), ranges, ..holder.work() };
        getter.fetch(work, holder.door(&getter)).await
    };
    let (got, result) = fetch(0..4).await;
    result.expect("held");
    assert!(got[..4 * GROUP] == bytes[..4 * GROUP]);
    let (_, result) = fetch(3..5).await;
    assert!(matches!(result.expect_err("not held").error, FetchError::Absent));
    partial.write_group(4, &bytes[4 * GROUP..5 * GROUP]).expect("written");
    let (got, result) = fetch(3..5).await;
    result.expect("held by now");
    assert!(got[3 * GROUP..5 * GROUP] == bytes[3 * GROUP..5 * GROUP]);
}
