//! Whether answers that are written at once are compressed together, and what becomes of that.
//!
//! A small blob alone is not worth a codec, but a hundred of them share their words. Over a fast link it costs more than
//! it saves; where few are asked for, it costs nothing that anybody would notice. So the first bytes after a rest are
//! compressed, and what follows only where the bytes leave slowly. Slow may as well be the requester's disk, or a processor
//! that has other work: what does not leave much faster for being compressed goes raw again. A requester that can tell its own
//! backlog from a slow link says so itself: its answers are compressed as long as it takes that.

use std::time::Duration;

use super::{Codec, PROBE_SAMPLE_LEN, Probe, Zstd, pace::Effort, probe, probe_offsets};
use crate::time::rate_of;

/// How many bytes are compressed after a rest, however fast they leave: some 3 ms of work.
const EAGER_BYTES: u64 = 1 << 20;
/// Over how many bytes it is measured how fast they leave.
const WINDOW_BYTES: u64 = 2 << 20;
/// How many bytes a second leave a link that is worth the work: somewhat more than 1 Gbit/s carries.
const SLOW_BYTES_PER_SECOND: u64 = 150_000_000;
/// How many bytes a second leave one that is worth more work on fewer bytes.
const VERY_SLOW_BYTES_PER_SECOND: u64 = 50_000_000;
/// Over how many windows a rate is taken before it counts: one may be slow by chance.
const JUDGED_WINDOWS: u32 = 2;
/// How many windows after a change say nothing of it: what lay in buffers before leaves in them, and what is waited for
/// between them was asked for before.
const SETTLING_WINDOWS: u32 = 2;
/// How much older windows count for less with each new one: by half, since the first ones of a link are as fast as its buffers
/// are long.
const FADING: u32 = 2;
/// How many windows go raw after compression was of no use for the first time; each time it is twice as many.
const HOLD_WINDOWS: u32 = 16;
const HOLD_WINDOWS_MAX: u32 = 1_024;
/// How many per cent of what left raw must leave compressed: a fifth more, or the link is not what it waits for.
const GAIN_MIN: u64 = 120;
/// How few bytes are not worth a codec.
const LEN_MIN: usize = 1_024;
/// The per cent of their length to which answers must shrink.
const KEEPS_MAX: usize = 95;

/// Compresses what is written at once to one requester.
///
/// Keeps zstd's state of about 1 MiB once it was used.
pub struct Bundler {
    takes_zstd: bool,
    /// Whether the requester takes no codec while answers wait for it.
    tells_backlog: bool,
    eager_left: u64,
    /// How hard what is behind the first bytes is compressed; none that it goes raw.
    effort: Option<Effort>,
    /// The bytes of the window that is not full yet, and how long they took.
    window: (u64, Duration),
    /// Those of the windows since the last change, the older ones counting less, and how many these are.
    recent: (u64, Duration),
    windows: u32,
    /// How many bytes a second left while they went raw.
    raw_rate: u64,
    /// How many windows go raw whatever they are like, and how many it will be next.
    hold: u32,
    hold_next: u32,
    /// Set when what was waited for is nobody's fault.
    has_rested: bool,
    zstd: Zstd,
}

impl Default for Bundler {
    fn default() -> Self {
        Self {
            takes_zstd: false,
            tells_backlog: false,
            eager_left: EAGER_BYTES,
            effort: None,
            window: (0, Duration::ZERO),
            recent: (0, Duration::ZERO),
            windows: 0,
            raw_rate: 0,
            hold: 0,
            hold_next: HOLD_WINDOWS,
            has_rested: true,
            zstd: Zstd::default(),
        }
    }
}

impl Bundler {
    /// Says what the requester takes, by the [bits](Codec::bit) of codecs. Without zstd everything goes raw.
    pub fn set_codecs(&mut self, codecs: u8) {
        self.takes_zstd = codecs & Codec::Zstd.bit() != 0;
    }

    /// Says whether the requester takes no codec while answers wait for it and not for the link.
    pub fn set_tells_backlog(&mut self, tells_backlog: bool) {
        self.tells_backlog = tells_backlog;
    }

    /// Returns whether [`encode`](Self::encode) would try so many bytes, so that who may not work that long asks
    /// somebody else to.
    pub fn would_try(&self, len: usize) -> bool {
        self.takes_zstd && len >= LEN_MIN && self.effort_now().is_some()
    }

    /// Appends `answers` to `out`, encoded; returns the codec, or [`Codec::Raw`], and nothing is appended, where they
    /// are to go as they are.
    pub fn encode(&mut self, answers: &[u8], out: &mut Vec<u8>) -> Codec {
        let Some(effort) = self.effort_now().filter(|_| self.would_try(answers.len())) else {
            return Codec::Raw;
        };
        let len = u64::try_from(answers.len()).unwrap_or(u64::MAX);
        self.eager_left = self.eager_left.saturating_sub(len);
        let sample = |at: u64| {
            let rest =
                usize::try_from(at).ok().and_then(|at| answers.get(at..)).unwrap_or_default();
            &rest[..rest.len().min(PROBE_SAMPLE_LEN)]
        };
        if probe(probe_offsets(len).map(sample)) == Probe::Incompressible {
            return Codec::Raw;
        }
        let start = out.len();
        // Where that is not enough, it is not worth it.
        let room = answers.len() / 100 * KEEPS_MAX;
        out.resize(start + room, 0);
        let encoded = self.zstd.at(effort).and_then(|zstd| {
            zstd.compress_to_buffer(answers, out.get_mut(start..).unwrap_or_default()).ok()
        });
        out.truncate(start + encoded.unwrap_or(0));
        if encoded.is_some() { Codec::Zstd } else { Codec::Raw }
    }

    /// Tells how many bytes of answers left, as they were before they were encoded, and how long that took together with
    /// what was waited for before, while the requester wanted more.
    pub fn left(&mut self, bytes: u64, took: Duration) {
        let took = if std::mem::take(&mut self.has_rested) { Duration::ZERO } else { took };
        self.window.0 = self.window.0.saturating_add(bytes);
        self.window.1 = self.window.1.saturating_add(took);
        if self.window.0 < WINDOW_BYTES || self.eager_left > 0 {
            return;
        }
        let (bytes, took) = std::mem::take(&mut self.window);
        self.windows = self.windows.saturating_add(1);
        if self.effort.is_some() && self.windows <= SETTLING_WINDOWS {
            return;
        }
        self.recent.0 = (self.recent.0 - self.recent.0 / u64::from(FADING)).saturating_add(bytes);
        self.recent.1 = (self.recent.1 - self.recent.1 / FADING).saturating_add(took);
        self.choose(rate_of(self.recent.0, self.recent.1), rate_of(bytes, took));
    }

    /// Tells that the requester wanted nothing for a while: what comes next is something else.
    pub fn rested(&mut self) {
        (self.eager_left, self.window) = (EAGER_BYTES, Default::default());
        self.has_rested = true;
    }

    /// Chooses what is done with the next window, where so many bytes a second left lately, and in the last one.
    fn choose(&mut self, rate: u64, last: u64) {
        if self.tells_backlog {
            let very = rate < VERY_SLOW_BYTES_PER_SECOND;
            self.effort = Some(if very { Effort::Zstd3 } else { Effort::Zstd1 });
            return;
        }
        if self.effort.is_some() {
            let is_judged = self.windows >= SETTLING_WINDOWS + JUDGED_WINDOWS;
            if is_judged && rate < self.raw_rate.saturating_mul(GAIN_MIN) / 100 {
                self.turn_to(None);
                self.hold = self.hold_next;
                self.hold_next = (2 * self.hold_next).min(HOLD_WINDOWS_MAX);
            }
            return;
        }
        if self.hold > 0 {
            self.hold -= 1;
            return;
        }
        if self.windows >= JUDGED_WINDOWS && rate < SLOW_BYTES_PER_SECOND {
            // While a buffer fills they leave faster than they will.
            self.raw_rate = rate.min(last);
            let very = rate < VERY_SLOW_BYTES_PER_SECOND;
            self.turn_to(Some(if very { Effort::Zstd3 } else { Effort::Zstd1 }));
        }
    }

    /// Begins to measure another effort.
    fn turn_to(&mut self, effort: Option<Effort>) {
        (self.effort, self.recent, self.windows) = (effort, Default::default(), 0);
    }

    fn effort_now(&self) -> Option<Effort> {
        let lasting =
            if self.tells_backlog { self.effort.or(Some(Effort::Zstd1)) } else { self.effort };
        if self.eager_left > 0 { Some(Effort::Zstd3) } else { lasting }
    }
}

impl std::fmt::Debug for Bundler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (takes_zstd, effort) = (self.takes_zstd, self.effort_now());
        f.debug_struct("Bundler").field("takes_zstd", &takes_zstd).field("effort", &effort).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::decode_group;
    use super::*;

    const RUN: usize = 256 << 10;

    fn text(len: usize) -> Vec<u8> {
        (0u32..).flat_map(|n| format!("line {n} of a source\n").into_bytes()).take(len).collect()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
        bytes
    }

    fn bundler() -> Bundler {
        let mut bundler = Bundler::default();
        bundler.set_codecs(Codec::ALL);
        bundler
    }

    /// Sends runs of text that leave at a rate, and returns for each whether it was compressed.
    fn send(bundler: &mut Bundler, runs: usize, bytes_per_second: u64) -> Vec<bool> {
        let text = text(RUN);
        let micros = RUN as u64 * 1_000_000 / bytes_per_second;
        let run = |_| {
            let coded = bundler.encode(&text, &mut Vec::new()) == Codec::Zstd;
            bundler.left(RUN as u64, Duration::from_micros(micros));
            coded
        };
        (0..runs).map(run).collect()
    }

    #[test]
    fn what_is_compressed_comes_out_as_it_was() {
        for len in [LEN_MIN, 10_000, RUN + 65_536] {
            let (answers, mut out) = (text(len), vec![7]);
            assert_eq!(bundler().encode(&answers, &mut out), Codec::Zstd, "{len}");
            let mut decoded = vec![0; len];
            assert_eq!(decode_group(Codec::Zstd, &out[1..], &mut decoded), Ok(()));
            assert!(out[0] == 7 && decoded == answers, "{len}");
        }
    }

    #[test]
    fn what_does_not_shrink_is_short_or_not_taken_goes_raw() {
        let mut out = vec![7];
        assert_eq!(bundler().encode(&noise(RUN), &mut out), Codec::Raw);
        assert_eq!(bundler().encode(&text(LEN_MIN - 1), &mut out), Codec::Raw);
        // The samples do, but the whole does not.
        let mut mixed = noise(RUN);
        for at in probe_offsets(RUN as u64) {
            let at = usize::try_from(at).expect("small");
            mixed[at..at + 1_000].fill(0);
        }
        assert_eq!(bundler().encode(&mixed, &mut out), Codec::Raw);
        let mut without = Bundler::default();
        for codecs in [0, Codec::Raw.bit(), Codec::Lz4.bit()] {
            without.set_codecs(codecs);
            assert!(!without.would_try(RUN));
            assert_eq!(without.encode(&text(RUN), &mut out), Codec::Raw);
        }
        assert_eq!(out, [7]);
    }

    #[test]
    fn first_bytes_after_a_rest_are_compressed_and_others_of_a_fast_link_are_not() {
        let mut bundler = bundler();
        let fast = 1_000_000_000;
        assert_eq!(send(&mut bundler, 40, fast), [[true; 4].as_slice(), &[false; 36]].concat());
        bundler.rested();
        assert_eq!(send(&mut bundler, 5, fast), [true, true, true, true, false]);
    }

    #[test]
    fn slow_link_gets_fewer_bytes_while_that_helps() {
        let mut bundler = bundler();
        let coded = send(&mut bundler, 18, SLOW_BYTES_PER_SECOND * 3 / 4);
        assert_eq!(coded[..16], [[true; 4].as_slice(), &[false; 12]].concat());
        assert_eq!(coded[16..], [true; 2]);
        // It helps: three times as many leave.
        assert!(send(&mut bundler, 100, 3 * SLOW_BYTES_PER_SECOND).iter().all(|coded| *coded));
        // It does no longer.
        let still = SLOW_BYTES_PER_SECOND * 4 / 5;
        let coded = send(&mut bundler, 60, still);
        let first_raw = coded.iter().position(|coded| !coded).expect("it is given up");
        assert!(first_raw <= 32, "{coded:?}");
        assert!(coded[first_raw..].iter().all(|coded| !coded), "and not tried again at once");
        let slow = SLOW_BYTES_PER_SECOND / 2;
        let mut trials = [0, 1].map(|_| {
            let raw = (0..).position(|_| send(&mut bundler, 1, slow)[0]).expect("tried again");
            send(&mut bundler, 32, slow);
            raw
        });
        trials.sort_unstable();
        assert!(trials[1] > trials[0] + 64, "later each time: {trials:?}");
    }

    #[test]
    fn what_was_on_its_way_at_a_change_does_not_count_against_it() {
        let mut bundler = bundler();
        let slow = SLOW_BYTES_PER_SECOND * 3 / 4;
        // A buffer takes the first ones.
        send(&mut bundler, 8, 4 * slow);
        assert!((0..32).any(|_| send(&mut bundler, 1, slow)[0]), "it is tried");
        // A buffer full of raw bytes leaves first.
        assert!(send(&mut bundler, 15, slow / 2).iter().all(|coded| *coded));
        assert!(send(&mut bundler, 100, 2 * slow).iter().all(|coded| *coded));
        // One window that is slow by chance is not enough either.
        assert!(send(&mut bundler, 8, slow).iter().all(|coded| *coded));
        assert!(send(&mut bundler, 100, 2 * slow).iter().all(|coded| *coded));
    }

    #[test]
    fn requester_that_tells_its_backlog_gets_what_it_takes() {
        let (mut bundler, fast) = (bundler(), 1_000_000_000);
        bundler.set_tells_backlog(true);
        assert!(send(&mut bundler, 100, fast).iter().all(|coded| *coded));
        assert_eq!(bundler.effort_now(), Some(Effort::Zstd1));
        bundler.set_codecs(Codec::Raw.bit());
        assert!(
            send(&mut bundler, 100, VERY_SLOW_BYTES_PER_SECOND / 2).iter().all(|coded| !*coded)
        );
        bundler.set_codecs(Codec::ALL);
        assert!(send(&mut bundler, 1, fast)[0], "at once");
        assert_eq!(bundler.effort_now(), Some(Effort::Zstd3));
    }

    #[test]
    fn time_of_a_rest_is_no_sign_of_a_slow_link() {
        let mut bundler = bundler();
        for _ in 0..10 {
            bundler.rested();
            bundler.encode(&text(RUN), &mut Vec::new());
            bundler.left(RUN as u64, Duration::from_secs(100));
            // A window in all.
            send(&mut bundler, 7, 1_000_000_000);
            assert_eq!(bundler.effort, None);
        }
    }

    #[test]
    fn slower_the_link_the_fewer_bytes() {
        let rates =
            [SLOW_BYTES_PER_SECOND, SLOW_BYTES_PER_SECOND * 3 / 4, VERY_SLOW_BYTES_PER_SECOND / 2];
        let sent = rates.map(|rate| {
            let mut bundler = bundler();
            send(&mut bundler, 18, rate);
            let (text, mut out) = (text(RUN), Vec::new());
            let codec = bundler.encode(&text, &mut out);
            let mut decoded = vec![0; if codec == Codec::Raw { 0 } else { RUN }];
            assert_eq!(decode_group(codec, &out, &mut decoded), Ok(()));
            assert!(codec == Codec::Raw || decoded == text);
            (bundler.effort, codec)
        });
        assert_eq!(
            sent,
            [
                (None, Codec::Raw),
                (Some(Effort::Zstd1), Codec::Zstd),
                (Some(Effort::Zstd3), Codec::Zstd),
            ]
        );
    }
}
