//! Impairment without netem: delay, jitter, loss, rates and partitions for namespace runs.
//!
//! Each host's only interface is one end of a cable. At the other end, in the lab's switch namespace, a
//! macvtap device in passthru mode hands every frame to this process. One thread of ours reads the
//! frames (`worker`), sends them through the wires of the [`Layout`] in virtual time (`pipe`), and
//! writes them to their receivers when they are due. Who gets what, `switch` decides, which is pure.
//!
//! Macvtap and not TUN/TAP, because its device is opened and no more: TUN/TAP needs an ioctl, so a crate
//! or `unsafe`, and forgets whose bytes a frame holds, so that TCP could not see its wire to be full. The
//! kernel makes the device's node in `/dev` and takes it away with the device, however we end. TCP comes
//! as frames of up to 64 KiB that are not cut into packets yet, with a header that says so; thanks to
//! those one thread carries gigabits, and the experiment `impairment` prints how many. It also prints
//! the error of a rate kept by the kernel's tbf: ours is as small on a quiet machine, so rates are kept
//! here too, where delay, buffers and counters are.
//!
//! **Rates.** A host feeds its own wire as a network card does: what does not fit waits in the host,
//! where TCP sees it. Downwards and in uplinks a bounded buffer drops what it cannot hold.
//!
//! **What always holds.** Frames of one wire never overtake each other; none is early, but for what makes
//! up for the relay's own lateness at a full wire; the bytes of an uplink are those that crossed it. The
//! lateness is counted ([`Pace`]).
//!
//! **What it does not do.** All hosts share this machine's processors, and no wire changes that. Loss
//! hits whole frames, so that hosts send single packets where any wire loses some, which costs
//! much more processor time. Routing is for IPv4 only.

use std::time::Duration;

pub use self::{
    layout::{Layout, Link, Rate, Site},
    network::{Network, Side},
    pipe::Flow,
    switch::Traffic,
    worker::Pace,
};

pub(super) mod frame;
pub(super) mod layout;
mod network;
mod pipe;
mod switch;
mod worker;

/// The share of a full packet's bytes on the wire that TCP's user gets.
pub const TCP_SHARE: f64 = 1_448.0 / 1_514.0;

/// How long one uncut frame may occupy the slowest wire: more would be a burst no network has.
const BURST_TIME: Duration = Duration::from_millis(1);

/// The range of an uncut frame's length: four packets, and what the kernel hands over at most.
const BURST_BYTES: std::ops::RangeInclusive<u64> = 4 * 1_514..=65_536;

/// What passed and what did not since the network was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// The wire of each host, n1 first.
    pub hosts: Vec<Traffic>,
    /// The uplink of each site, that of site 1 first.
    pub uplinks: Vec<Traffic>,
    /// Frames for nobody and frames between hosts that were cut apart.
    pub dropped_frames: u64,
    /// How the relay itself did.
    pub pace: Pace,
}

/// Says how a host must cut TCP into frames for the wires that these may cross.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cutting {
    /// The most bytes of a frame.
    bytes_max: u64,
    /// The most packets a frame may stand for.
    packets_max: u32,
}

impl Cutting {
    /// Returns what suits each host of a layout, n1 first.
    fn all(layout: &Layout) -> Vec<Self> {
        (0..layout.hosts().count()).map(|host| Self::of(layout.wires_from(host))).collect()
    }

    /// Returns what suits all of these wires, each with the rate in the direction of the frames.
    fn of(wires: impl Iterator<Item = (Option<Rate>, f64)>) -> Self {
        let (mut bytes_max, mut packets_max) = (*BURST_BYTES.end(), u32::from(u16::MAX));
        for (rate, loss) in wires {
            if let Some(rate) = rate {
                let burst = rate.bytes_in(BURST_TIME).max(*BURST_BYTES.start());
                bytes_max = bytes_max.min(burst);
            }
            if loss > 0.0 {
                packets_max = 1;
            }
        }
        Self { bytes_max, packets_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_cuts_for_the_wires_that_its_frames_may_cross_and_no_others() {
        let slow = |up, down| Link { up, down, ..Link::default() };
        let site = Site { hosts: vec![Link::default(); 2], ..Site::default() };
        let mut layout =
            Layout { sites: vec![site], internet: vec![Link::default()], ..Layout::default() };
        let bytes_max = |layout: &Layout| -> Vec<u64> {
            Cutting::all(layout).iter().map(|cutting| cutting.bytes_max).collect()
        };
        let (whole, cut) = (65_536, 25_000);
        assert_eq!(bytes_max(&layout), [whole; 3]);
        layout.sites[0].uplink = slow(None, Some(Rate::mbit(200)));
        assert_eq!(bytes_max(&layout), [whole, whole, cut], "into the site");
        layout.sites[0].uplink = slow(Some(Rate::mbit(200)), None);
        assert_eq!(bytes_max(&layout), [cut, cut, whole], "out of the site");
        layout.sites[0].hosts[0] = slow(Some(Rate::mbit(100)), None);
        assert_eq!(bytes_max(&layout), [12_500, cut, whole], "out of a host");
        layout.sites[0].hosts[0] = slow(None, Some(Rate::mbit(100)));
        assert_eq!(bytes_max(&layout), [cut, 12_500, 12_500], "to a host");
        layout.internet.clear();
        assert_eq!(bytes_max(&layout), [whole, 12_500], "nobody is behind the uplink");
    }

    #[test]
    fn where_a_wire_loses_frames_whoever_may_send_over_it_sends_single_packets() {
        let mut layout = Layout::lan(2, Link::default());
        let packets_max = |layout: &Layout| -> Vec<u32> {
            Cutting::all(layout).iter().map(|cutting| cutting.packets_max).collect()
        };
        layout.sites[0].uplink.loss = 0.1;
        assert_eq!(packets_max(&layout), [65_535; 2], "nobody is behind the uplink");
        layout.sites[0].hosts[0].loss = 0.1;
        assert_eq!(packets_max(&layout), [1; 2]);
    }
}
