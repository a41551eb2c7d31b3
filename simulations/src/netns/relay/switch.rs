//! Where frames go and when they arrive: the switches of all sites and the router between them.
//!
//! Pure: it is told the time and handed frames, and it hands back frames when they are due. Within a
//! site it is a switch that knows every address; a frame for a site's gateway is routed by its IPv4
//! destination, through the uplinks of both sites. Multicast and broadcast reach the own site only.
//! A router's manners are not kept: the time to live stays, and nobody is told of unreachable hosts.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

use super::{
    frame::{self, Mac},
    layout::{INTERNET, Layout, Link, gateway_of, site_of},
    pipe::{Flow, Overload, Pipe},
};

/// How far ahead a host may fill its own wire: the ring of a network card. It hides that the relay is
/// woken late, so the wire never idles while the host has something to send.
const RING_TIME: Duration = Duration::from_millis(2);

/// How much idle time of its wire a host makes up for when the relay came late to frames that waited: more
/// than machines that others use make it wait.
const CATCH_UP_TIME: Duration = Duration::from_millis(50);

/// The most bytes of frames that are under way at once; more are dropped. A second of 500 Mbit/s.
const HELD_BYTES_MAX: usize = 64 << 20;

/// Names a host by its place in the layout, from 0.
pub(super) type HostIndex = usize;

/// What passed a wire, seen from the host or the site that it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the host, or out of the site.
    pub up: Flow,
    /// To the host, or into the site.
    pub down: Flow,
}

/// Is both directions of a wire.
#[derive(Debug)]
struct Wire {
    up: Pipe,
    down: Pipe,
}

impl Wire {
    fn new(feed: Overload, link: &Link, seed: u64) -> Self {
        let (up, down) = (Pipe::new(feed, seed), Pipe::new(Overload::Drop, !seed));
        let mut wire = Self { up, down };
        wire.set(link);
        wire
    }

    fn set(&mut self, link: &Link) {
        self.up.set(link.up, link);
        self.down.set(link.down, link);
    }

    fn traffic(&self) -> Traffic {
        Traffic { up: self.up.flow, down: self.down.flow }
    }
}

/// Says which hosts a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Host(HostIndex),
    /// Everybody else in the sender's site.
    Site,
}

/// Says what a frame that is under way comes to next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The switch of the sender's site.
    Switch(Target),
    /// The internet, behind the uplink of the sender's site.
    Internet(HostIndex),
    /// The switch of the receiver's site.
    Port(HostIndex),
    /// The receiver.
    Host(HostIndex),
}

/// Is a frame under way.
#[derive(Debug)]
struct Passage {
    at: Duration,
    /// Orders frames of one moment by their arrival.
    number: u64,
    from: HostIndex,
    stage: Stage,
    frame: Arc<[u8]>,
    wire_bytes: u64,
}

impl PartialEq for Passage {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Passage {}

impl PartialOrd for Passage {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Passage {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Is a frame that has arrived.
#[derive(Debug)]
pub(super) struct Arrival {
    /// Who receives it.
    pub to: HostIndex,
    /// When it is to be there.
    pub at: Duration,
    /// The frame, with its virtio header.
    pub frame: Arc<[u8]>,
}

/// Holds all wires and the frames under way.
#[derive(Debug)]
pub(super) struct Switch {
    addresses: Vec<Ipv4Addr>,
    hosts: Vec<Wire>,
    /// The uplinks of site 1 and so on.
    uplinks: Vec<Wire>,
    /// Who cannot reach whom: each pair in both orders.
    cuts: BTreeSet<(HostIndex, HostIndex)>,
    passages: BinaryHeap<Reverse<Passage>>,
    held_bytes: usize,
    passages_ever: u64,
    /// Frames for nobody, between cut hosts, or beyond what may be held.
    pub dropped_frames: u64,
}

impl Switch {
    /// Makes the switch of a layout that was checked.
    pub(super) fn new(layout: &Layout) -> Self {
        // Wires differ in the high bits, so that layouts with seeds in a row share no sequence.
        let seeds = (1_u64..).map(|wire| layout.seed ^ (wire << 32));
        let hosts = layout.hosts().zip(seeds.clone());
        let uplinks = layout.sites.iter().zip(seeds.skip(usize::from(u8::MAX)));
        Self {
            addresses: layout.hosts().map(|(address, _)| address).collect(),
            hosts: hosts.map(|((_, link), seed)| Wire::new(Overload::Wait, &link, seed)).collect(),
            uplinks: uplinks
                .map(|(site, seed)| Wire::new(Overload::Drop, &site.uplink, seed))
                .collect(),
            cuts: BTreeSet::new(),
            passages: BinaryHeap::new(),
            held_bytes: 0,
            passages_ever: 0,
            dropped_frames: 0,
        }
    }

    /// Returns the host that has an address.
    pub(super) fn find(&self, address: Ipv4Addr) -> Option<HostIndex> {
        self.addresses.iter().position(|host| *host == address)
    }

    /// Returns the hosts of a site.
    pub(super) fn hosts_of(&self, site: u8) -> impl Iterator<Item = HostIndex> {
        let hosts = self.addresses.iter().enumerate();
        hosts.filter(move |(_, address)| site_of(**address) == site).map(|(host, _)| host)
    }

    /// Gives a host's wire other properties; does nothing for a host there is not.
    pub(super) fn set_host(&mut self, host: HostIndex, link: &Link) {
        if let Some(wire) = self.hosts.get_mut(host) {
            wire.set(link);
        }
    }

    /// Gives a site's uplink other properties; returns whether there is one.
    pub(super) fn set_uplink(&mut self, site: u8, link: &Link) -> bool {
        self.uplink(site).map(|wire| wire.set(link)).is_some()
    }

    /// Keeps frames between two hosts from arriving, in both directions, or lets them again.
    pub(super) fn cut(&mut self, a: HostIndex, b: HostIndex, cut: bool) {
        for pair in [(a, b), (b, a)] {
            if cut && a != b {
                self.cuts.insert(pair);
            } else {
                self.cuts.remove(&pair);
            }
        }
    }

    /// Returns what passed the wire of each host.
    pub(super) fn host_traffic(&self) -> Vec<Traffic> {
        self.hosts.iter().map(Wire::traffic).collect()
    }

    /// Returns what passed the uplink of each site.
    pub(super) fn uplink_traffic(&self) -> Vec<Traffic> {
        self.uplinks.iter().map(Wire::traffic).collect()
    }

    /// Returns how long a host has to wait until its wire takes more; zero when it does now.
    pub(super) fn full_for(&self, host: HostIndex, now: Duration) -> Duration {
        let backlog = self.hosts.get(host).map_or(Duration::ZERO, |wire| wire.up.backlog(now));
        backlog.saturating_sub(RING_TIME)
    }

    /// Takes a frame that a host sends at `now`. Moments do not go backwards.
    pub(super) fn enter(&mut self, now: Duration, from: HostIndex, frame: &mut [u8]) {
        self.enter_since(now, from, frame);
    }

    /// Takes a frame that has waited since the host's wire was full: it follows the one before as if the
    /// relay had come at once, so that its lateness does not make the wire slower.
    pub(super) fn enter_late(&mut self, now: Duration, from: HostIndex, frame: &mut [u8]) {
        self.enter_since(now.saturating_sub(CATCH_UP_TIME), from, frame);
    }

    fn enter_since(&mut self, since: Duration, from: HostIndex, frame: &mut [u8]) {
        let target = self.target_of(from, frame);
        let wire_bytes = frame::wire_bytes(frame);
        // It takes its time on the wire even when it is for nobody: the host cannot know.
        let out = self.hosts.get_mut(from).and_then(|wire| wire.up.send(since, wire_bytes));
        let Some(at) = out else { return };
        let full = self.held_bytes + frame.len() > HELD_BYTES_MAX;
        match target.filter(|target| !full && !self.is_cut(from, *target)) {
            Some(target) => {
                let (frame, stage, number) = (Arc::from(&*frame), Stage::Switch(target), 0);
                self.push(Passage { at, number, from, stage, frame, wire_bytes });
            }
            None => self.dropped_frames += 1,
        }
    }

    /// Returns the next frame that has arrived by `now`.
    pub(super) fn arrival(&mut self, now: Duration) -> Option<Arrival> {
        while self.passages.peek().is_some_and(|Reverse(next)| next.at <= now) {
            let Reverse(passage) = self.passages.pop()?;
            self.held_bytes = self.held_bytes.saturating_sub(passage.frame.len());
            match passage.stage {
                Stage::Switch(Target::Site) => self.flood(&passage),
                Stage::Switch(Target::Host(to)) => self.leave_site(passage, to),
                Stage::Internet(to) => self.enter_site(passage, to),
                Stage::Port(to) => self.enter_host(passage, to),
                // A cut takes what is under way, too.
                Stage::Host(to) if self.is_cut(passage.from, Target::Host(to)) => {
                    self.dropped_frames += 1;
                }
                Stage::Host(to) => {
                    return Some(Arrival { to, at: passage.at, frame: passage.frame });
                }
            }
        }
        None
    }

    /// Returns when something is to be done next.
    pub(super) fn next_at(&self) -> Option<Duration> {
        self.passages.peek().map(|Reverse(next)| next.at)
    }

    /// Finds whom a frame is for, and readdresses it where that takes a router.
    fn target_of(&self, from: HostIndex, frame: &mut [u8]) -> Option<Target> {
        let own = *self.addresses.get(from)?;
        let to = frame::destination(frame)?;
        if to.is_group() {
            return (site_of(own) != INTERNET).then_some(Target::Site);
        }
        let address = to.ipv4()?;
        if address != gateway_of(own) {
            let host = self.find(address)?;
            return (site_of(address) == site_of(own)).then_some(Target::Host(host));
        }
        let address = frame::ipv4_destination(frame)?;
        let host = self.find(address)?;
        frame::readdress(frame, Mac::of(address), Mac::of(gateway_of(address)));
        Some(Target::Host(host))
    }

    fn is_cut(&self, from: HostIndex, target: Target) -> bool {
        matches!(target, Target::Host(to) if self.cuts.contains(&(from, to)))
    }

    /// Gives a frame to everybody else in its sender's site.
    fn flood(&mut self, passage: &Passage) {
        let Some(site) = self.site_of(passage.from) else { return };
        let others: Vec<HostIndex> = self.hosts_of(site).filter(|to| *to != passage.from).collect();
        for to in others {
            let frame = Arc::clone(&passage.frame);
            self.enter_host(Passage { frame, ..*passage }, to);
        }
    }

    /// Sends a frame on: to its receiver's port, or out of the site.
    fn leave_site(&mut self, mut passage: Passage, to: HostIndex) {
        let site = self.site_of(passage.from);
        if site == self.site_of(to) {
            return self.enter_host(passage, to);
        }
        passage.stage = Stage::Internet(to);
        match site.and_then(|site| self.uplink(site)) {
            Some(uplink) => {
                let out = uplink.up.send(passage.at, passage.wire_bytes);
                self.push_at(passage, out);
            }
            None => self.enter_site(passage, to),
        }
    }

    fn enter_site(&mut self, mut passage: Passage, to: HostIndex) {
        passage.stage = Stage::Port(to);
        match self.site_of(to).and_then(|site| self.uplink(site)) {
            Some(uplink) => {
                let out = uplink.down.send(passage.at, passage.wire_bytes);
                self.push_at(passage, out);
            }
            None => self.enter_host(passage, to),
        }
    }

    fn enter_host(&mut self, mut passage: Passage, to: HostIndex) {
        passage.stage = Stage::Host(to);
        let Some(wire) = self.hosts.get_mut(to) else { return };
        let out = wire.down.send(passage.at, passage.wire_bytes);
        self.push_at(passage, out);
    }

    /// Keeps a frame until it comes out of a pipe, unless it never does.
    fn push_at(&mut self, mut passage: Passage, out: Option<Duration>) {
        if let Some(at) = out {
            passage.at = at;
            self.push(passage);
        }
    }

    fn push(&mut self, mut passage: Passage) {
        self.passages_ever += 1;
        passage.number = self.passages_ever;
        self.held_bytes += passage.frame.len();
        self.passages.push(Reverse(passage));
    }

    fn site_of(&self, host: HostIndex) -> Option<u8> {
        self.addresses.get(host).map(|address| site_of(*address))
    }

    fn uplink(&mut self, site: u8) -> Option<&mut Wire> {
        // The internet has none.
        self.uplinks.get_mut(usize::from(site.checked_sub(1)?))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            frame::tests::ipv4,
            layout::{Rate, Site},
        },
        *,
    };

    const MS: Duration = Duration::from_millis(1);
    const FRAME_BYTES: usize = 1_250;

    /// Makes two sites of two hosts with 1 ms each, uplinks of 10 ms and 10 Mbit/s, and an edge.
    fn switch() -> Switch {
        let uplink = Link::new(Rate::mbit(10), 10 * MS);
        let site = Site { hosts: vec![Link::slow(MS); 2], uplink };
        Switch::new(&Layout {
            sites: vec![site.clone(), site],
            internet: vec![Link::slow(MS)],
            seed: 1,
        })
    }

    const EDGE: HostIndex = 4;

    fn frame(switch: &Switch, from: HostIndex, to: HostIndex) -> Vec<u8> {
        let (from, to) = (switch.addresses[from], switch.addresses[to]);
        let next = if site_of(from) == site_of(to) { to } else { gateway_of(from) };
        ipv4(from, to, Mac::of(next), FRAME_BYTES)
    }

    /// Sends a frame at 0 and returns who gets it when.
    fn send(
        switch: &mut Switch,
        from: HostIndex,
        mut frame: Vec<u8>,
    ) -> Vec<(HostIndex, Duration)> {
        switch.enter(Duration::ZERO, from, &mut frame);
        std::iter::from_fn(|| switch.arrival(Duration::MAX)).map(|got| (got.to, got.at)).collect()
    }

    fn unicast(switch: &mut Switch, from: HostIndex, to: HostIndex) -> Vec<(HostIndex, Duration)> {
        let frame = frame(switch, from, to);
        send(switch, from, frame)
    }

    #[test]
    fn frame_within_a_site_takes_two_wires_and_no_uplink() {
        let mut switch = switch();
        assert_eq!(unicast(&mut switch, 0, 1), [(1, 2 * MS)]);
        assert!(switch.uplink_traffic().iter().all(|uplink| *uplink == Traffic::default()));
        assert_eq!(switch.host_traffic()[0].up.bytes, 1_250);
        assert_eq!(switch.host_traffic()[1].down.bytes, 1_250);
    }

    #[test]
    fn frame_between_sites_takes_both_uplinks() {
        let mut switch = switch();
        // 1,250 bytes take 1 ms on each uplink.
        assert_eq!(unicast(&mut switch, 0, 2), [(2, 24 * MS)]);
        let [one, two] = switch.uplink_traffic()[..] else { panic!("two uplinks") };
        assert_eq!((one.up.bytes, one.down.bytes), (1_250, 0));
        assert_eq!((two.up.bytes, two.down.bytes), (0, 1_250));
    }

    #[test]
    fn edge_is_behind_one_uplink() {
        let mut switch = switch();
        assert_eq!(unicast(&mut switch, 3, EDGE), [(EDGE, 13 * MS)]);
        let mut switch = self::switch();
        assert_eq!(unicast(&mut switch, EDGE, 3), [(3, 13 * MS)]);
    }

    #[test]
    fn routed_frame_carries_the_addresses_of_its_last_hop() {
        let mut switch = switch();
        let mut frame = frame(&switch, 0, EDGE);
        switch.enter(Duration::ZERO, 0, &mut frame);
        let arrival = switch.arrival(Duration::MAX).unwrap();
        assert_eq!(frame::destination(&arrival.frame), Some(Mac::of(switch.addresses[EDGE])));
        assert!(switch.held_bytes == 0 && switch.next_at().is_none());
    }

    #[test]
    fn hosts_of_a_site_share_its_uplink() {
        let mut switch = switch();
        for from in [0, 1] {
            let mut frame = frame(&switch, from, EDGE);
            switch.enter(Duration::ZERO, from, &mut frame);
        }
        let at: Vec<Duration> =
            std::iter::from_fn(|| switch.arrival(Duration::MAX)).map(|got| got.at).collect();
        assert_eq!(at, [13 * MS, 14 * MS]);
    }

    #[test]
    fn nothing_arrives_before_its_time() {
        let mut switch = switch();
        let mut frame = frame(&switch, 0, 1);
        switch.enter(Duration::ZERO, 0, &mut frame);
        assert_eq!(switch.next_at(), Some(MS));
        assert!(switch.arrival(MS).is_none());
        assert_eq!(switch.next_at(), Some(2 * MS));
        assert!(switch.arrival(2 * MS - Duration::from_nanos(1)).is_none());
        assert!(switch.arrival(2 * MS).is_some());
    }

    #[test]
    fn multicast_reaches_the_own_site_only() {
        let mut switch = switch();
        let multicast = |switch: &Switch, from| {
            let mut frame = frame(switch, from, from);
            frame[10] |= 1;
            frame
        };
        let sent = multicast(&switch, 0);
        assert_eq!(send(&mut switch, 0, sent), [(1, 2 * MS)]);
        let sent = multicast(&switch, EDGE);
        assert_eq!(send(&mut switch, EDGE, sent), []);
    }

    #[test]
    fn cut_hosts_are_apart_in_both_directions_until_they_are_healed() {
        let mut switch = switch();
        switch.cut(0, 2, true);
        assert_eq!(unicast(&mut switch, 0, 2), []);
        assert_eq!(unicast(&mut switch, 2, 0), []);
        assert_eq!(unicast(&mut switch, 0, 1).len(), 1);
        assert_eq!(unicast(&mut switch, 0, 3).len(), 1);
        // The uplink of the cut sender was not used for what cannot arrive.
        assert_eq!(switch.uplink_traffic()[1].up.frames, 0);
        switch.cut(2, 0, false);
        assert_eq!(unicast(&mut switch, 0, 2).len(), 1);
        assert_eq!(switch.dropped_frames, 2);
    }

    #[test]
    fn cut_takes_multicast_and_what_is_under_way() {
        let mut switch = switch();
        let mut sent = frame(&switch, 0, 1);
        sent[10] |= 1;
        switch.enter(Duration::ZERO, 0, &mut sent);
        switch.cut(0, 1, true);
        assert!(switch.arrival(Duration::MAX).is_none());
        assert_eq!(switch.dropped_frames, 1);
    }

    #[test]
    fn frame_for_nobody_is_dropped() {
        let mut switch = switch();
        let stranger = Ipv4Addr::new(10, 77, 9, 9);
        let gateway = gateway_of(switch.addresses[0]);
        for via in [stranger, gateway, switch.addresses[2]] {
            let sent = ipv4(switch.addresses[0], stranger, Mac::of(via), 60);
            assert_eq!(send(&mut switch, 0, sent), []);
        }
        assert_eq!(send(&mut switch, 0, vec![0; 12]), []);
        assert_eq!(switch.dropped_frames, 4);
    }

    #[test]
    fn host_waits_while_its_own_wire_is_full() {
        let link = Link::new(Rate::mbit(10), Duration::ZERO);
        let mut switch = Switch::new(&Layout::lan(2, link));
        for _ in 0..5 {
            let mut frame = frame(&switch, 0, 1);
            switch.enter(Duration::ZERO, 0, &mut frame);
        }
        assert_eq!(switch.full_for(0, Duration::ZERO), 3 * MS);
        assert_eq!(switch.full_for(0, 3 * MS), Duration::ZERO);
        assert_eq!(switch.full_for(1, Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn late_relay_does_not_make_a_wire_slower() {
        let link = Link::new(Rate::mbit(10), Duration::ZERO);
        let next = |now, late| {
            let mut switch = Switch::new(&Layout::lan(2, link));
            let mut frame = frame(&switch, 0, 1);
            (0..5).for_each(|_| switch.enter(Duration::ZERO, 0, &mut frame));
            let enter = if late { Switch::enter_late } else { Switch::enter };
            enter(&mut switch, now, 0, &mut frame);
            // It leaves its own wire then; the receiver's takes as long again.
            std::iter::from_fn(|| switch.arrival(Duration::MAX)).last().unwrap().at - MS
        };
        assert_eq!(next(25 * MS, true), 6 * MS);
        assert_eq!(next(25 * MS, false), 26 * MS);
        // What is made up for is bounded.
        assert_eq!(next(200 * MS, true), 151 * MS);
        // A frame that waited is no reason to begin before the wire is free.
        assert_eq!(next(MS, true), 6 * MS);
    }

    #[test]
    fn what_is_under_way_is_bounded() {
        let mut switch = Switch::new(&Layout::lan(2, Link::slow(1_000 * MS)));
        let mut frame = frame(&switch, 0, 1);
        frame.resize(60_000, 0);
        let most = HELD_BYTES_MAX / frame.len();
        for _ in 0..most + 3 {
            switch.enter(Duration::ZERO, 0, &mut frame);
        }
        assert_eq!(switch.dropped_frames, 3);
        assert_eq!(switch.passages.len(), most);
    }
}
