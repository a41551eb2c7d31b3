//! One direction of one wire, in virtual time.
//!
//! A pipe has no buffer of its own: it computes when a frame that enters now comes out at the other
//! end, and who calls it keeps the frame until then. Frames follow each other bit by bit: the next one
//! starts when the one before has left, whatever the caller's clock did meanwhile, so the rate is exact
//! over any stretch in which the pipe is never empty. Frames never overtake each other.

use std::time::Duration;

use super::layout::{Link, Rate};

/// How long frames may wait at the entry of a limited wire before more are dropped: the buffer of an
/// office switch, about twice the round trip of a country.
const QUEUE_TIME: Duration = Duration::from_millis(50);

/// The least a buffer holds: four uncut frames, so that slow wires do not starve TCP.
const QUEUE_BYTES_MIN: u64 = 256 << 10;

/// What passed one direction of a wire, and what did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Bytes on the wire that came out at the other end, Ethernet headers included.
    pub bytes: u64,
    /// Frames that came out; one frame may stand for several packets of a TCP stream.
    pub frames: u64,
    /// Frames lost by chance, as the wire was told.
    pub lost_frames: u64,
    /// Frames dropped because the buffer at the entry was full.
    pub overflow_frames: u64,
}

/// Says what becomes of frames that enter faster than the wire carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overload {
    /// They wait in a bounded buffer, and what finds it full is dropped: a port of a switch.
    Drop,
    /// The caller asks first whether there is room: a host that feeds its own wire.
    Wait,
}

/// Is one direction of a wire.
#[derive(Debug)]
pub(super) struct Pipe {
    rate: Option<Rate>,
    delay: Duration,
    jitter: Duration,
    loss: f64,
    overload: Overload,
    /// When the last bit of all that entered has left this end.
    free_at: Duration,
    /// When the last frame comes out.
    last_out: Duration,
    random: Random,
    /// What passed so far.
    pub flow: Flow,
}

impl Pipe {
    /// Makes a pipe that does nothing to frames.
    pub(super) fn new(overload: Overload, seed: u64) -> Self {
        Self {
            rate: None,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            overload,
            free_at: Duration::ZERO,
            last_out: Duration::ZERO,
            random: Random(seed),
            flow: Flow::default(),
        }
    }

    /// Makes the pipe do what a wire does in one direction, to all frames that enter from now on.
    pub(super) fn set(&mut self, rate: Option<Rate>, link: &Link) {
        self.rate = rate;
        self.delay = link.delay;
        self.jitter = link.jitter;
        self.loss = link.loss;
    }

    /// Returns when a frame that enters at `now` comes out; none for one that does not.
    ///
    /// Moments of calls do not go backwards.
    pub(super) fn send(&mut self, now: Duration, bytes: u64) -> Option<Duration> {
        if self.overload == Overload::Drop && self.is_full(now) {
            self.flow.overflow_frames += 1;
            return None;
        }
        let time = self.rate.map_or(Duration::ZERO, |rate| rate.time_of(bytes));
        self.free_at = self.free_at.max(now) + time;
        // One that is lost has been sent all the same: it took its time on the wire.
        if self.random.share() < self.loss {
            self.flow.lost_frames += 1;
            return None;
        }
        let jitter = self.jitter.mul_f64(self.random.share());
        self.last_out = self.last_out.max(self.free_at + self.delay + jitter);
        self.flow.bytes += bytes;
        self.flow.frames += 1;
        Some(self.last_out)
    }

    /// Returns the time the wire needs for what has entered and not left this end.
    pub(super) fn backlog(&self, now: Duration) -> Duration {
        self.free_at.saturating_sub(now)
    }

    fn is_full(&self, now: Duration) -> bool {
        self.rate.is_some_and(|rate| rate.bytes_in(self.backlog(now)) >= queue_bytes(rate))
    }
}

/// Returns how many bytes the buffer before a wire holds.
fn queue_bytes(rate: Rate) -> u64 {
    rate.bytes_in(QUEUE_TIME).max(QUEUE_BYTES_MIN)
}

/// Is a sequence of numbers that only its seed determines: SplitMix64.
#[derive(Debug)]
struct Random(u64);

impl Random {
    /// Returns the next number from 0 up to and without 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn pipe(link: &Link, overload: Overload) -> Pipe {
        let mut pipe = Pipe::new(overload, 7);
        pipe.set(link.up, link);
        pipe
    }

    #[test]
    fn frames_follow_each_other_bit_by_bit() {
        // 12,500 bytes are 1 ms.
        let mut pipe = pipe(&Link::new(Rate::mbit(100), 10 * MS), Overload::Wait);
        assert_eq!(pipe.send(Duration::ZERO, 12_500), Some(11 * MS));
        assert_eq!(pipe.send(Duration::ZERO, 25_000), Some(13 * MS));
        assert_eq!(pipe.backlog(MS), 2 * MS);
        // After a gap the wire is idle, and what it could have carried is not made up for.
        assert_eq!(pipe.send(50 * MS, 12_500), Some(61 * MS));
    }

    #[test]
    fn full_buffer_drops_and_then_takes_again() {
        let mut pipe = pipe(&Link::new(Rate::mbit(1_000), MS), Overload::Drop);
        // 50 ms at 125,000 bytes a millisecond.
        let taken = (0..1_000).filter(|_| pipe.send(Duration::ZERO, 62_500).is_some()).count();
        assert_eq!(taken, 100);
        assert_eq!(pipe.flow.overflow_frames, 900);
        assert_eq!(pipe.flow.bytes, 6_250_000);
        assert!(pipe.send(MS, 62_500).is_some());
    }

    #[test]
    fn slow_wire_still_has_a_buffer_for_whole_frames() {
        let mut pipe = pipe(&Link::new(Rate::kbit(100), MS), Overload::Drop);
        let taken = (0..10).filter(|_| pipe.send(Duration::ZERO, 65_536).is_some()).count();
        assert_eq!(taken, 4);
    }

    #[test]
    fn waiting_pipe_never_drops() {
        let mut pipe = pipe(&Link::new(Rate::kbit(100), MS), Overload::Wait);
        assert!((0..10).all(|_| pipe.send(Duration::ZERO, 65_536).is_some()));
    }

    #[test]
    fn jitter_keeps_the_order_and_its_bounds() {
        let link = Link { jitter: 5 * MS, ..Link::slow(10 * MS) };
        let mut pipe = pipe(&link, Overload::Wait);
        let (mut last, mut least, mut most) = (Duration::ZERO, Duration::MAX, Duration::ZERO);
        for step in 0..10_000 {
            let now = step * MS;
            let out = pipe.send(now, 100).unwrap();
            assert!(out >= last);
            last = out;
            least = least.min(out.saturating_sub(now));
            most = most.max(out.saturating_sub(now));
        }
        assert!(least >= 10 * MS && least < 11 * MS, "{least:?}");
        assert!(most <= 15 * MS && most > 14 * MS, "{most:?}");
    }

    #[test]
    fn losses_are_as_many_as_told_and_the_same_for_a_seed() {
        let link = Link { loss: 0.02, ..Link::default() };
        let lost = |seed| {
            let mut pipe = Pipe::new(Overload::Wait, seed);
            pipe.set(None, &link);
            let lost = (0..100_000).filter(|_| pipe.send(Duration::ZERO, 1).is_none());
            lost.collect::<Vec<i32>>()
        };
        // Four standard deviations around 2,000.
        assert!((1_823..=2_177).contains(&lost(7).len()), "{}", lost(7).len());
        assert_eq!(lost(7), lost(7));
        assert_ne!(lost(7), lost(8));
    }

    #[test]
    fn all_or_nothing_is_lost_at_the_edges_of_the_range() {
        for (loss, passed) in [(0.0, 1_000), (1.0, 0)] {
            let mut pipe = pipe(&Link { loss, ..Link::default() }, Overload::Wait);
            let came = (0..1_000).filter(|_| pipe.send(Duration::ZERO, 1).is_some()).count();
            assert_eq!(came, passed);
            assert_eq!(pipe.flow.lost_frames, 1_000 - u64::try_from(passed).unwrap());
        }
    }

    #[test]
    fn faster_wire_does_not_let_frames_overtake() {
        let mut pipe = pipe(&Link::slow(100 * MS), Overload::Wait);
        let before = pipe.send(Duration::ZERO, 1).unwrap();
        pipe.set(None, &Link::default());
        assert_eq!(pipe.send(MS, 1), Some(before));
    }
}
