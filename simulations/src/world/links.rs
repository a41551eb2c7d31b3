//! The network between nodes: sites, what a packet needs from here to there, links between neighbours.
//!
//! Messages of a link keep their order. What is under way when a link ends is lost with it; what is
//! under way across a partition waits for nothing and is lost, too.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::engine::Input;
use blobmesh_protocol::wire::frame::FrameReader;
use blobmesh_protocol::wire::message::{self, Message};
use blobmesh_protocol::{PeerId, Time};

use super::flows::{Flows, PipeId};
use super::{Calibration, Event, NodeIndex, World, host};
use crate::plan::{Behaviour, Distribution, Least, Site, SiteId};
use crate::random::Random;

/// The payload of one TCP segment on Ethernet.
const SEGMENT_LEN: f64 = 1_448.0;

/// Names a link between two neighbours; a number is never used for two links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkId(u64);

/// Is one end of a link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    open: bool,
    /// When the last message to this end arrives.
    arrives: Time,
}

/// Is the sites and what is between them.
#[derive(Debug)]
pub(super) struct Sites {
    sites: Vec<SiteState>,
    random: Random,
    outlook: Outlook,
}

/// Draws from a stream ahead of it, to know what its next draws are not below.
#[derive(Debug)]
struct Outlook {
    ahead: Random,
    spans: VecDeque<Span>,
    /// The unit that was drawn last.
    last: f64,
}

/// Is a number of draws in a row.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// How many were drawn at its end, since the stream began.
    end: u64,
    least: Least,
}

/// How many draws a span has, and of how many spans the bounds are known, that of the next draw included. What happens
/// in the time that can be seen ahead draws some hundreds of times.
const SPAN_LEN: u64 = 512;
const SPANS: usize = 8;

impl Outlook {
    fn new(random: &Random) -> Self {
        Self { ahead: random.clone(), spans: VecDeque::new(), last: 0.0 }
    }

    /// Returns what none of the thousands of draws is below that come after so many.
    fn least(&mut self, drawn: u64) -> Least {
        while self.spans.front().is_some_and(|span| span.end <= drawn) {
            self.spans.pop_front();
        }
        while self.spans.len() < SPANS {
            let span = self.next_span();
            if span.end > drawn {
                self.spans.push_back(span);
            }
        }
        self.spans.iter().fold(Least::NONE, |least, span| least.and(span.least))
    }

    fn next_span(&mut self) -> Span {
        let mut least = Least::NONE;
        for _ in 0..SPAN_LEN {
            let unit = self.ahead.unit();
            least.take_in(std::mem::replace(&mut self.last, unit), unit);
        }
        Span { end: self.ahead.drawn(), least }
    }
}

#[derive(Debug)]
struct SiteState {
    latency: Distribution,
    loss: f64,
    discovery: Option<Distribution>,
    uplink: Option<UplinkState>,
    /// Whether the way out is cut.
    cut: bool,
    members: Vec<NodeIndex>,
}

#[derive(Debug)]
struct UplinkState {
    up: Option<PipeId>,
    down: Option<PipeId>,
    latency: Distribution,
    loss: f64,
}

/// Says how bytes get from one place to another.
#[derive(Clone, Debug)]
pub(super) struct Route {
    /// The pipes they cross.
    pub(super) path: Vec<PipeId>,
    /// One way.
    pub(super) delay: Duration,
    /// The share of packets that are lost.
    pub(super) loss: f64,
}

impl Route {
    /// Returns the bytes a second that TCP gets out of a lossy way: 1.22 segments over the round trip
    /// and the root of the loss (Mathis et al., *The macroscopic behavior of the TCP congestion
    /// avoidance algorithm*, 1997).
    pub(super) fn loss_limit(&self) -> f64 {
        if self.loss <= 0.0 {
            return f64::INFINITY;
        }
        1.22 * SEGMENT_LEN / (2.0 * self.delay.as_secs_f64().max(1e-6) * self.loss.sqrt())
    }
}

impl Sites {
    pub(super) fn new(random: &Random) -> Self {
        let random = random.fork("links", 0);
        Self { sites: Vec::new(), outlook: Outlook::new(&random), random }
    }

    pub(super) fn add(&mut self, site: &Site, model: &Calibration, flows: &mut Flows) -> SiteId {
        let mut pipe = |rate: Option<u64>| rate.map(|rate| flows.add_pipe(goodput(rate, model)));
        let uplink = site.uplink.as_ref().map(|uplink| UplinkState {
            up: pipe(uplink.up),
            down: pipe(uplink.down),
            latency: uplink.latency.clone(),
            loss: uplink.loss,
        });
        self.sites.push(SiteState {
            latency: site.latency.clone(),
            loss: site.loss,
            discovery: site.discovery.clone(),
            uplink,
            cut: false,
            members: Vec::new(),
        });
        SiteId(self.sites.len() - 1)
    }

    /// Returns how often something was drawn.
    pub(super) fn drawn(&self) -> u64 {
        self.random.drawn()
    }

    /// Draws how long a node of a site takes to see the others; none where there is no multicast.
    pub(super) fn discovery(&mut self, site: SiteId) -> Option<Duration> {
        let discovery = self.sites.get(site.0)?.discovery.as_ref()?;
        Some(Duration::from_nanos(discovery.draw(&mut self.random)))
    }

    pub(super) fn set_cut(&mut self, site: SiteId, cut: bool) {
        if let Some(site) = self.sites.get_mut(site.0) {
            site.cut = cut;
        }
    }

    pub(super) fn is_cut(&self, site: SiteId) -> bool {
        self.sites.get(site.0).is_some_and(|site| site.cut)
    }

    /// Returns the pipes of all ways out and of all ways in.
    pub(super) fn uplinks(&self) -> [Vec<PipeId>; 2] {
        let uplinks = || self.sites.iter().filter_map(|site| site.uplink.as_ref());
        [
            uplinks().filter_map(|uplink| uplink.up).collect(),
            uplinks().filter_map(|uplink| uplink.down).collect(),
        ]
    }

    /// Adds a node to a site.
    pub(super) fn settle_in(&mut self, site: SiteId, node: NodeIndex) {
        if let Some(site) = self.sites.get_mut(site.0) {
            site.members.push(node);
        }
    }

    /// Returns the nodes of a site, up or not.
    pub(super) fn members(&self, site: SiteId) -> &[NodeIndex] {
        self.sites.get(site.0).map_or(&[], |site| &site.members)
    }

    /// Draws some nodes of a site, in a drawn order.
    pub(super) fn draw_members(&mut self, site: SiteId, count: usize) -> Vec<NodeIndex> {
        let Some(members) = self.sites.get(site.0).map(|site| &site.members) else {
            return Vec::new();
        };
        let chosen = self.random.choose(count, members.len());
        let mut drawn: Vec<_> = chosen.iter().filter_map(|at| members.get(*at).copied()).collect();
        self.random.shuffle(&mut drawn);
        drawn
    }

    /// Returns how long it takes at least until anything that befalls a node befalls another one because of that:
    /// the shortest way that is drawn the next thousands of times. Also returns after how many draws it is to be asked
    /// for again; until then it holds for thousands of draws to come.
    pub(super) fn foresight(&mut self) -> (Duration, u64) {
        let drawn = self.random.drawn();
        let bounds = self.outlook.least(drawn);
        let least = |state: &SiteState| {
            let discovery = state.discovery.as_ref().map_or(u64::MAX, |of| of.least_of(bounds));
            state.latency.least_of(bounds).min(discovery)
        };
        let least = self.sites.iter().map(least).min().unwrap_or(0);
        (Duration::from_nanos(least), drawn + SPAN_LEN)
    }

    fn latency(&mut self, site: SiteId) -> (Duration, f64) {
        let Some(state) = self.sites.get(site.0) else { return (Duration::ZERO, 0.0) };
        (Duration::from_nanos(state.latency.draw(&mut self.random)), state.loss)
    }

    fn uplink_latency(&mut self, site: SiteId) -> (Duration, f64) {
        let state = self.sites.get(site.0);
        let Some(uplink) = state.and_then(|site| site.uplink.as_ref()) else {
            return (Duration::ZERO, 0.0);
        };
        (Duration::from_nanos(uplink.latency.draw(&mut self.random)), uplink.loss)
    }

    fn outward(&self, site: SiteId) -> Option<PipeId> {
        self.sites.get(site.0)?.uplink.as_ref()?.up
    }

    fn inward(&self, site: SiteId) -> Option<PipeId> {
        self.sites.get(site.0)?.uplink.as_ref()?.down
    }

    /// Returns the way between two sites, without the nodes' own links.
    fn between(&mut self, from: SiteId, to: SiteId) -> Route {
        let (delay, loss) = self.draw_between(from, to);
        let path = self.uplinks_between(from, to).into_iter().flatten().collect();
        Route { path, delay, loss }
    }

    /// Draws how long a packet takes between two sites, and returns what share of packets is lost.
    fn draw_between(&mut self, from: SiteId, to: SiteId) -> (Duration, f64) {
        let (delay, loss) = self.latency(from);
        if from == to {
            return (delay, loss);
        }
        let ((out_delay, out_loss), (in_delay, in_loss)) =
            (self.uplink_latency(from), self.uplink_latency(to));
        (delay + out_delay + in_delay, loss + out_loss + in_loss)
    }

    fn uplinks_between(&self, from: SiteId, to: SiteId) -> [Option<PipeId>; 2] {
        if from == to { [None, None] } else { [self.outward(from), self.inward(to)] }
    }

    /// Returns the way from the world outside into a site.
    pub(super) fn inbound(&mut self, to: SiteId) -> Route {
        let ((delay, loss), (in_delay, in_loss)) = (self.latency(to), self.uplink_latency(to));
        let path = self.inward(to).into_iter().collect();
        Route { path, delay: delay + in_delay, loss: loss + in_loss }
    }
}

/// Returns the bytes of blobs a second that a link of this rate carries.
#[expect(clippy::cast_precision_loss, reason = "rates far below 2^52")]
pub(super) fn goodput(rate: u64, model: &Calibration) -> f64 {
    rate as f64 * model.goodput
}

impl World {
    /// Returns the way from one node to another, their own links included.
    pub(super) fn route(&mut self, from: NodeIndex, to: NodeIndex) -> Route {
        let (sites, pipes) = self.ends(from, to);
        let mut route = self.sites.between(sites.0, sites.1);
        route.path.extend(pipes.into_iter().flatten());
        route
    }

    /// Draws how long a packet takes from one node to another.
    pub(super) fn delay(&mut self, from: NodeIndex, to: NodeIndex) -> Duration {
        let ((from, to), _) = self.ends(from, to);
        self.sites.draw_between(from, to).0
    }

    /// Returns the sites of two nodes, and the pipes out of one and into the other.
    fn ends(&self, from: NodeIndex, to: NodeIndex) -> ((SiteId, SiteId), [Option<PipeId>; 2]) {
        let (sender, receiver) = (self.hosts.get(from), self.hosts.get(to));
        let sites = sender.zip(receiver).map(|(a, b)| (a.spec.site, b.spec.site));
        let pipes = [sender.and_then(|host| host.up), receiver.and_then(|host| host.down)];
        (sites.unwrap_or((SiteId(0), SiteId(0))), pipes)
    }

    /// Returns whether no packet passes between two nodes.
    pub(super) fn are_apart(&self, a: NodeIndex, b: NodeIndex) -> bool {
        let site = |node: NodeIndex| self.hosts.get(node).map(|host| host.spec.site);
        let (Some(site_a), Some(site_b)) = (site(a), site(b)) else { return true };
        let cut = site_a != site_b && (self.sites.is_cut(site_a) || self.sites.is_cut(site_b));
        cut || self.faults.part(a, b)
    }

    /// Opens a link after `after`; does nothing if there is one.
    pub(super) fn open_link(&mut self, a: NodeIndex, b: NodeIndex, after: Duration) {
        let linked = self.hosts.get(a).is_none_or(|host| host.links.contains_key(&b));
        if a == b || linked {
            return;
        }
        let id = LinkId(self.next_serial());
        for (node, peer) in [(a, b), (b, a)] {
            if let Some(host) = self.hosts.get_mut(node) {
                host.links.insert(peer, Link { id, open: false, arrives: Time::ZERO });
            }
            self.schedule(after, node, Event::Linked { peer, link: id });
        }
    }

    /// Ends a link; each end hears of it after its own time.
    pub(super) fn close_link(
        &mut self,
        a: NodeIndex,
        b: NodeIndex,
        heard_by_a: Duration,
        heard_by_b: Duration,
    ) {
        for (node, peer, after) in [(a, b, heard_by_a), (b, a, heard_by_b)] {
            let Some(host) = self.hosts.get(node) else { continue };
            let Some(link) = host.links.get(&peer).map(|link| link.id) else { continue };
            self.schedule(after, node, Event::Unlinked { peer, link });
        }
    }

    /// Ends one end of a link whose silence was noticed, if there is still nothing to hear.
    pub(super) fn silent(&mut self, node: NodeIndex, peer: NodeIndex, id: LinkId) {
        if self.are_apart(node, peer) {
            self.unlinked(node, peer, id);
        }
    }

    pub(super) fn linked(&mut self, node: NodeIndex, peer: NodeIndex, id: LinkId) {
        let Some(host) = self.hosts.get_mut(node) else { return };
        let Some(link) = host.links.get_mut(&peer).filter(|link| link.id == id) else { return };
        link.open = true;
        self.tell(node, Input::Connected { peer: host::peer_of(peer) });
    }

    pub(super) fn unlinked(&mut self, node: NodeIndex, peer: NodeIndex, id: LinkId) {
        let Some(host) = self.hosts.get_mut(node) else { return };
        let Some(link) = host.links.get(&peer).filter(|link| link.id == id) else { return };
        let open = link.open;
        host.links.remove(&peer);
        if open {
            self.tell(node, Input::Disconnected { peer: host::peer_of(peer) });
        }
        self.look_for_others(node);
    }

    /// Sends a message over a link, as its real bytes.
    pub(super) fn send(&mut self, node: NodeIndex, peer: PeerId, message: &Message) {
        let Some(other) = host::node_of(peer) else { return };
        let Some(message) = self.twist(node, message) else { return };
        let Some(frame) = self.frame_of(&message) else { return };
        self.probe_told(node, &message);
        let open = self.hosts.get(node).and_then(|host| host.links.get(&other));
        let Some(id) = open.filter(|link| link.open).map(|link| link.id) else { return };
        let len = frame.len;
        let arrives = self.message_arrival(node, other, len);
        let lost = self.are_apart(node, other);
        let told = (!lost).then_some(arrives);
        self.tally.count_message(node, other, &message, len, (self.now, told));
        // The other end's clock of arrivals keeps the order; an end that is gone hears nothing.
        let Some(end) = self.hosts.get_mut(other).and_then(|host| host.links.get_mut(&node)) else {
            return;
        };
        if lost || end.id != id {
            return;
        }
        end.arrives = end.arrives.max(arrives);
        let at = end.arrives;
        self.schedule_at(at, other, Event::Frames { from: node, link: id, frame });
    }

    /// Draws when a message that is sent now arrives: after the way, its own length on the narrowest
    /// pipe, and what a lost packet costs.
    fn message_arrival(&mut self, from: NodeIndex, to: NodeIndex, len: usize) -> Time {
        let (sites, ends) = self.ends(from, to);
        let (way, loss) = self.sites.draw_between(sites.0, sites.1);
        let pipes = self.sites.uplinks_between(sites.0, sites.1).into_iter().chain(ends).flatten();
        let rate = pipes.map(|pipe| self.flows.pipe_rate(pipe)).fold(f64::INFINITY, f64::min);
        let len = u32::try_from(len).map_or(f64::INFINITY, f64::from);
        let mut delay = self.model.step + way;
        delay += Duration::try_from_secs_f64(len / rate.max(1.0)).unwrap_or(Duration::MAX);
        if loss > 0.0 {
            let packets = (len / SEGMENT_LEN).ceil().max(1.0);
            if self.sites.random.chance(loss * packets) {
                delay += self.model.retransmission + way * 2;
            }
        }
        self.now + delay
    }

    /// Returns a message as it travels.
    fn frame_of(&mut self, message: &Message) -> Option<Arc<Frame>> {
        if let Some((_, frame)) = self.last_sent.iter().flatten().find(|(last, _)| last == message)
        {
            return Some(Arc::clone(frame));
        }
        let frame = Arc::new(Frame::new(&message.encode().ok()?));
        self.last_sent.rotate_right(1);
        if let Some(oldest) = self.last_sent.first_mut() {
            *oldest = Some((message.clone(), Arc::clone(&frame)));
        }
        Some(frame)
    }

    /// Returns whether a link stands over which a frame comes.
    pub(super) fn gets_through(&self, node: NodeIndex, from: NodeIndex, id: LinkId) -> bool {
        let link = self.hosts.get(node).and_then(|host| host.links.get(&from));
        link.is_some_and(|link| link.id == id && link.open)
    }

    pub(super) fn frame_arrived(
        &mut self,
        node: NodeIndex,
        from: NodeIndex,
        id: LinkId,
        frame: &Frame,
    ) {
        if self.is_ahead(node) {
            // It was seen that the frame gets through.
            self.was_told(node);
            return self.follow(node);
        }
        if !self.gets_through(node, from, id) {
            return;
        }
        let Some(message) = frame.message.clone() else { return };
        if self.misbehaves(node, Behaviour::FalseHave)
            && let Message::Ask { id, .. } = message
        {
            return self.claim_to_have(node, from, id);
        }
        self.tell(node, Input::Message { peer: host::peer_of(from), message });
    }
}

/// Is a control frame as it travels, and what every receiver makes of its bytes.
#[derive(Debug)]
pub(super) struct Frame {
    /// How many bytes.
    pub(super) len: usize,
    /// The first eight bytes of the hash of the bytes, for the log.
    pub(super) sum: u64,
    pub(super) message: Option<Message>,
}

impl Frame {
    fn new(bytes: &[u8]) -> Self {
        let hash = blake3::hash(bytes);
        let sum = hash.as_bytes().iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let mut reader = FrameReader::new(message::body_len_max);
        let frame = reader.poll_frame(&mut &bytes[..]);
        let message = frame
            .ok()
            .flatten()
            .and_then(|frame| Message::decode(frame.kind, &frame.body).ok().flatten());
        Self { len: bytes.len(), sum, message }
    }
}
